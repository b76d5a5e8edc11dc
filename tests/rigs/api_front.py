"""A real HTTP server in front of the platform's API that passes everything on, but for what it is told to refuse or to hold back."""

from __future__ import annotations

import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import urlsplit


class Hold:
    """An answer of the platform that is there, and is passed on when it is released."""

    def __init__(self) -> None:
        self.reached, self.released = threading.Event(), threading.Event()


class ApiFront(ThreadingHTTPServer):
    """`refusals`: by method and end of the path, the status and the message of the answer. `holds`: by the same, the answers that wait."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target)
        self.refusals: dict[tuple[str, str], tuple[int, str]] = {}
        self.refused = 0
        self.holds: dict[tuple[str, str], Hold] = {}
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """As the platform's base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}{self.target.path}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    # One request for each connection: none is left open when the front is closed.
    protocol_version = "HTTP/1.0"
    server: ApiFront

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        for (method, end), (status, message) in self.server.refusals.items():
            if self.command == method and path.endswith(end):
                self.server.refused += 1
                self._send(status, "application/json", json.dumps({"error": message}).encode())
                return
        assert self.server.target.hostname is not None
        connection = http.client.HTTPConnection(self.server.target.hostname, self.server.target.port, timeout=120)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "connection"}}
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            data = response.read()
            for (method, end), hold in self.server.holds.items():
                if self.command == method and path.endswith(end):
                    hold.reached.set()
                    assert hold.released.wait(60)
            self._send(response.status, response.getheader("Content-Type", "application/json"), data)
        finally:
            connection.close()

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer
