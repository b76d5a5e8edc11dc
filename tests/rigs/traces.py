"""A real HTTP server in LangSmith's place: it takes what the SDK sends, whatever the batches and their compression, and keeps it."""

from __future__ import annotations

import gzip
import io
import json
import threading
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import zstandard

_INFO = {
    "version": "0.13.0",
    "batch_ingest_config": {
        "use_multipart_endpoint": True,
        "size_limit": 100,
        "size_limit_bytes": 20_971_520,
        "scale_up_nthreads_limit": 16,
        "scale_up_qsize_trigger": 1000,
        "scale_down_nempty_trigger": 4,
    },
}


class Collector(ThreadingHTTPServer):
    """`compressed`, `multipart`: what it says that it takes."""

    daemon_threads = False
    block_on_close = True

    def __init__(self, *, compressed: bool = True, multipart: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.info = {**_INFO, "instance_flags": {"zstd_compression_enabled": compressed}}
        self.info["batch_ingest_config"] = {**_INFO["batch_ingest_config"], "use_multipart_endpoint": multipart}  # type: ignore[dict-item]
        self.received: list[tuple[str, dict[str, str], bytes]] = []
        """Of each request the path, the headers, and the body without its compression."""
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def encodings(self) -> set[str]:
        """How the bodies were compressed; "" for those that were not."""
        return {headers.get("content-encoding", "") for _, headers, body in self.received if body}

    def everything(self) -> bytes:
        """All that was received, the request lines and the headers too."""
        return b"\n".join(f"{path}\n{json.dumps(headers)}\n".encode() + body for path, headers, body in self.received)

    def runs(self) -> dict[str, dict[str, Any]]:
        """The runs by id, put together from all that was sent about each: when it began, and when it ended."""
        runs: dict[str, dict[str, Any]] = {}
        for path, headers, body in self.received:
            if path.endswith("/runs/multipart"):
                for about, content in _parts(headers["content-type"], body):
                    if about[0] in {"post", "patch"}:
                        _merge(runs.setdefault(about[1], {}), content if len(about) == 2 else {about[2]: content})
            elif path.endswith("/runs/batch"):
                batch = json.loads(body)
                for run in [*batch.get("post", ()), *batch.get("patch", ())]:
                    _merge(runs.setdefault(run["id"], {}), run)
        return runs

    def verdicts(self) -> list[dict[str, Any]]:
        """The feedback that was given."""
        found: list[dict[str, Any]] = []
        for path, headers, body in self.received:
            if path.endswith("/runs/multipart"):
                found += [content for about, content in _parts(headers["content-type"], body) if about[0] == "feedback"]
            elif path.endswith("/feedback") and body:
                found.append(json.loads(body))
        return found

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and content of the answer to a request; whoever plays more of LangSmith overrides it."""
        if method == "GET":
            return 200, self.info if path.endswith("/info") else {}
        return 202, {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def _parts(content_type: str, body: bytes) -> Iterator[tuple[list[str], Any]]:
    """What a body is made of: the parts' names, split at the dots, and their contents."""
    message = BytesParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    for part in message.get_payload():
        assert isinstance(part, Message)
        about = str(part.get_param("name", header="content-disposition")).split(".")
        yield about, json.loads(part.get_payload(decode=True))  # type: ignore[arg-type]


def _merge(run: dict[str, Any], news: dict[str, Any]) -> None:
    run.update({name: value for name, value in news.items() if value is not None})


class _Handler(BaseHTTPRequestHandler):
    # One request for each connection: none is left open when the collector is closed.
    protocol_version = "HTTP/1.0"
    server: Collector

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self._body()
        self._take(body)
        status, content = self.server.reply(self.command, self.path, self.server.received[-1][2])
        self._answer(content, status)

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces: list[bytes] = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _take(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        encoding = headers.get("content-encoding", "")
        if encoding == "zstd":
            body = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(body), read_across_frames=True).read()
        elif encoding == "gzip":
            body = gzip.decompress(body)
        self.server.received.append((self.path, headers, body))

    def _answer(self, content: Any, status: int) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
