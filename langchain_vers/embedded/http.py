"""The HTTP manners that all routes of the embedded Vers share: authentication, errors, bodies, and replays of repeated requests.

Routes are coroutines that take a `Call` and return a response or raise one of the package's errors; what they do is in `api.py`.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from langchain_vers.embedded.engine import EngineError
from langchain_vers.embedded.fleet import StateConflict, as_uuid
from langchain_vers.embedded.requests import Body, parse_body
from langchain_vers.errors import BadInput, Conflict, Denied, DiskFull, Gone, Missing, Unsupported, VersError, WrongKind

MAX_BODY = 128 * 1024 * 1024
"""Bytes of a request body; a file of 64 MiB in base64 is 86."""
_log = logging.getLogger(__name__)
_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (Gone, 404),
    (Missing, 404),
    (StateConflict, 400),  # the schema has no 409 for machines
    (Conflict, 409),
    (Denied, 403),
    (Unsupported, 501),
    (BadInput, 400),
    (WrongKind, 400),
    (DiskFull, 400),
)
Model = TypeVar("Model", bound=Body)


class Answer(Response):
    """JSON in ASCII: text that is not valid Unicode cannot break it."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """The body."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def failure(status: int, sentence: str) -> Answer:
    """The schema's error envelope."""
    return Answer({"error": sentence, "success": False}, status_code=status)


def failure_of(error: Exception) -> Answer:
    """The answer for an exception; one that nobody foresaw is logged and told without its details."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return failure(status, str(error))
    if isinstance(error, EngineError | VersError):
        _log.warning("the engine failed: %s", error)
        return failure(500, str(error))
    _log.error("a request failed", exc_info=error)
    return failure(500, f"The server failed with {type(error).__name__}; its log says more.")


@dataclass(frozen=True)
class Call:
    """One request to a route."""

    request: Request
    raw: bytes

    def text(self, name: str) -> str:
        """A part of the path."""
        return str(self.request.path_params[name])

    def uuid(self, name: str, what: str) -> str:
        """A part of the path that must be a UUID."""
        return as_uuid(self.text(name), what)

    def body(self, model: type[Model]) -> Model:
        """The body as that model."""
        return parse_body(self.raw, model)

    @property
    def query(self) -> dict[str, str]:
        """The query; of repeated names the last."""
        return dict(self.request.query_params)


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class _Stored:
    status: int
    body: bytes
    media_type: str | None


class Replays:
    """Answers to mutations that carried an `X-Idempotency-Key`: a repetition gets the stored answer, also while the first one runs.

    Holds at most `entries` answers and `size` bytes of them (the newest always), the oldest go first. Server failures are not kept: a retry
    may succeed.
    """

    def __init__(self, *, entries: int = 4096, size: int = 64 * 1024 * 1024) -> None:
        self._entries = entries
        self._size = size
        self._used = 0
        self._answers: OrderedDict[tuple[str, ...], asyncio.Task[_Stored]] = OrderedDict()

    async def answer(self, key: tuple[str, ...], act: Callable[[], Awaitable[Response]]) -> Response:
        """The answer under that key, made by `act` if there is none yet."""
        task = self._answers.get(key)
        if task is None:
            task = asyncio.create_task(self._act(act))
            self._answers[key] = task
            task.add_done_callback(lambda done: self._settle(key, done))
        # The work belongs to every client that asked for it: one that hangs up does not end it.
        stored = await asyncio.shield(task)
        return Response(stored.body, stored.status, media_type=stored.media_type)

    async def _act(self, act: Callable[[], Awaitable[Response]]) -> _Stored:
        response = await act()
        return _Stored(response.status_code, bytes(response.body), response.media_type)

    def _settle(self, key: tuple[str, ...], task: asyncio.Task[_Stored]) -> None:
        """Keep the answer of a task that has just ended, and make room for it."""
        if task.cancelled() or task.exception() is not None or task.result().status >= 500:
            del self._answers[key]
            return
        self._answers.move_to_end(key)
        self._used += len(task.result().body)
        for old, other in list(self._answers.items()):
            if old == key or (len(self._answers) <= self._entries and self._used <= self._size):
                break
            if other.done():
                del self._answers[old]
                self._used -= len(other.result().body)


async def read_body(request: Request) -> bytes:
    """The whole body; raises `BadInput` when it is too large."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise BadInput(f"The request body is larger than {MAX_BODY} bytes; send large data over SSH.", status=400)
        parts.append(part)
    return b"".join(parts)


def endpoint(handler: Handler, replays: Replays, *, replayable: bool = True) -> Callable[[Request], Awaitable[Response]]:
    """A Starlette endpoint around a handler: reads the body, replays repetitions, turns errors into answers."""
    running: set[asyncio.Task[Response]] = set()

    async def serve(request: Request) -> Response:
        try:
            call = Call(request, await read_body(request))
        except ClientDisconnect:
            return failure(400, "The client hung up before its request was complete.")
        except BadInput as error:
            return failure_of(error)

        async def act() -> Response:
            try:
                return await handler(call)
            except Exception as error:
                return failure_of(error)

        key = request.headers.get("x-idempotency-key")
        if key is None or request.method == "GET" or not replayable:
            if request.method == "GET":
                return await act()
            # A change that was begun is carried through even if the client hangs up.
            task = asyncio.create_task(act())
            running.add(task)
            task.add_done_callback(running.discard)
            return await asyncio.shield(task)
        return await replays.answer((request.method, str(request.url.path), str(request.url.query), key), act)

    return serve


class Guard:
    """Lets requests with the right bearer key through; `GET /api/v1/system/version` needs none."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or (scope["path"] == "/api/v1/system/version" and scope["method"] == "GET"):
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(key.strip(), self._key):
            await self._app(scope, receive, send)
            return
        refused = failure(401, "The API key is missing or wrong; send it as 'Authorization: Bearer <key>'.")
        refused.headers["www-authenticate"] = "Bearer"
        await refused(scope, receive, send)
