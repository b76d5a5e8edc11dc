"""A real HTTP server on the loopback that gives the answers it was told to, in order, and remembers what it was asked."""

from __future__ import annotations

import json
import ssl
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "test-key-0123456789"


@dataclass
class Answer:
    """A response; `body` is sent as JSON unless it is bytes."""

    status: int = 200
    body: Any = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # send only so many bytes of the body, then break the connection


@dataclass
class Drop:
    """Read the request, then close the connection without an answer."""


@dataclass
class Hang:
    """Read the request, then stay silent until the server closes; `after` is sent first."""

    after: bytes = b""


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedApi(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.tls = tls
        self.steps: deque[Answer | Drop | Hang] = deque()
        self.requests: list[Request] = []
        self.faults: list[BaseException] = []
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def port(self) -> int:
        return self.server_address[1]

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def script(self, *steps: Answer | Drop | Hang) -> None:
        self.steps.extend(steps)

    def get_request(self):
        sock, address = super().get_request()
        if self.tls:  # the handshake happens with the first read, in the handler's own thread
            sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return sock, address

    def handle_error(self, request, client_address) -> None:
        import sys

        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError | ssl.SSLError | TimeoutError):
            self.faults.append(error)

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.thread.join()
        self.server_close()
        assert not self.faults, self.faults
        assert not self.steps, f"answers that nobody asked for: {self.steps}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    server: ScriptedApi

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.requests.append(Request(self.command, url.path, parse_qs(url.query), headers, body))
        step = self.server.steps.popleft() if self.server.steps else Answer(418, b"no answer was scripted")
        if isinstance(step, Drop):
            self.close_connection = True
            return
        if isinstance(step, Hang):
            if step.after:
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(f"{len(step.after):x}\r\n".encode() + step.after + b"\r\n")
                self.wfile.flush()
            self.server.closing.wait(30)
            self.close_connection = True
            return
        data = step.body if isinstance(step.body, bytes) else json.dumps(step.body).encode()
        self.send_response(step.status)
        for name, value in step.headers.items():
            self.send_header(name, value)
        if step.status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if step.cut_after is None else data[: step.cut_after])
        if step.cut_after is not None:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer
