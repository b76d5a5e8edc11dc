"""One request to the platform: the key, the time limits, the retries, and a typed error for whatever goes wrong.

`HttpCore` sends over one `httpx.AsyncClient` and acts on the decisions of `failures`. Which operations there are is left to `machines`,
`catalogue` and `client`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import time
import uuid
from collections.abc import AsyncIterator, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar, cast
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from langchain_vers._io import io, to_thread
from langchain_vers.errors import BadInput, DeadlineExceeded, ServerFault, Unreachable, VersError
from langchain_vers.platform.credentials import Credentials, Endpoints, ResolvedKey
from langchain_vers.platform.failures import (
    HIDDEN,
    MESSAGE_LIMIT,
    SAFE_METHODS,
    Failure,
    backoff_seconds,
    error_for_status,
    failure_of,
    may_repeat,
    parse_retry_after,
    server_message,
)

T = TypeVar("T")
Params = Mapping[str, str | int | bool | None]


def path_segment(value: str, what: str) -> str:
    """An id or a name as one segment of a URL path, percent-encoded.

    Raises:
        BadInput: it is empty, `.` or `..`, longer than 255 characters, or holds a slash, blank, control or other character that could
            make the URL address something else.

    """
    if not isinstance(value, str) or not 0 < len(value) <= 255 or value in {".", ".."} or not re.fullmatch(r"[^\s/\\%?#;]+", value):
        shown = repr(value[:60]) if isinstance(value, str) else type(value).__name__
        msg = f"{shown} is not a valid {what}; use it as the platform shows it."
        raise BadInput(msg)
    if not value.isprintable():  # control characters and lone surrogates
        msg = f"The {what} holds characters that cannot be printed; use it as the platform shows it."
        raise BadInput(msg)
    return quote(value, safe="")


@lru_cache(maxsize=128)
def _adapter(shape: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("Any", shape))  # hashable for the cache, a type for pydantic


def parse_body(body: bytes, shape: type[T], *, request: str, status: int) -> T:
    """A success's body as the given model.

    Raises:
        ServerFault: it is not JSON, or JSON of another shape. The message names the fields, not their content.

    """
    try:
        return cast("T", _adapter(cast("Hashable", shape)).validate_json(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        msg = f"The answer to {request} does not have the expected shape ({place}: {first['type']}); check VERS_BASE_URL or the versions."
        raise ServerFault(msg, status=status) from None


@dataclass(frozen=True)
class Call:
    """What to ask of the API.

    Attributes:
        method: HTTP method.
        path: path below the base URL, made with `path_segment`.
        params: query; values of None are left out.
        body: sent as JSON, fields that were not set left out.
        machine_id: goes into errors.
        timeout: seconds for one attempt (for a stream: until its first byte), or None for the client's.
        deadline: seconds for all attempts and pauses, or None for the client's.

    """

    method: str
    path: str
    params: Params | None = None
    body: BaseModel | None = None
    machine_id: str | None = None
    timeout: float | None = None
    deadline: float | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class HttpCore:
    """Sends requests with the key, the retries and the time limits of one client. Arguments as for `VersClient`."""

    def __init__(
        self,
        credentials: Credentials,
        endpoints: Endpoints,
        *,
        timeout: float = 30.0,
        deadline: float = 120.0,
        retries: int = 4,
        backoff: float = 0.25,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.credentials = credentials
        self.endpoints = endpoints
        self.timeout = timeout
        self.deadline = deadline
        self.retries = retries
        self.backoff = backoff
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.endpoints.base_url!r})"

    async def aclose(self) -> None:
        """Close every connection. The client cannot be used afterwards."""
        self._closed = True
        io.forget(self)
        async with self._opening:
            client, self._client = self._client, None
            if client is not None:
                await client.aclose()

    async def request(self, call: Call, shape: type[T]) -> T:
        """The answer to a call as `shape`. See `open` for errors."""
        async with self.open(call, whole=True) as response:
            try:
                return parse_body(response.content, shape, request=str(call), status=response.status_code)
            except VersError as error:
                error.machine_id = call.machine_id
                raise

    async def command(self, call: Call) -> None:
        """Make a call whose answer has no content worth reading. See `open` for errors."""
        async with self.open(call, whole=True):
            pass

    @asynccontextmanager
    async def open(self, call: Call, *, whole: bool = False) -> AsyncIterator[httpx.Response]:
        """Send until there is a successful answer; with `whole` its body has been read, else it can be streamed without a time limit.

        Raises:
            VersError: a subclass that says what can be done about it.

        """
        try:
            response = await self._send(call, whole)
        except VersError as error:
            error.machine_id = call.machine_id
            raise
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(self, call: Call, whole: bool) -> httpx.Response:
        timeout = self.timeout if call.timeout is None else call.timeout
        end = time.monotonic() + (self.deadline if call.deadline is None else call.deadline)
        client = await self._open_client()
        headers = {"Accept": "application/json", "User-Agent": "langchain-vers"}
        if call.method not in SAFE_METHODS:
            headers["X-Idempotency-Key"] = str(uuid.uuid4())  # the same one for every attempt of this call
        content = None
        if call.body is not None:
            content = call.body.model_dump_json(exclude_unset=True).encode()
            headers["Content-Type"] = "application/json"
        sent = False
        for attempt in itertools.count():
            key = await to_thread(self.credentials.resolve)
            request = client.build_request(
                call.method,
                self.endpoints.base_url + call.path,
                params=_query(call.params),
                content=content,
                headers={**headers, "Authorization": f"Bearer {key.value.get_secret_value()}"},
                timeout=httpx.Timeout(timeout, read=timeout if whole else None),
            )
            allowed = min(timeout, end - time.monotonic())
            outcome = await _attempt(client, request, allowed, whole)
            if isinstance(outcome, httpx.Response):
                if outcome.is_success:
                    return outcome
                error, asked = _refusal(outcome, call, key)
                repeatable = may_repeat(call.method, "X-Idempotency-Key" in headers, outcome.status_code)
            else:
                error, asked = _no_answer(outcome, request.url.host, call, key, allowed), None
                sent = sent or outcome.failure not in {Failure.NOT_SENT, Failure.UNTRUSTED}
                if isinstance(error, Unreachable):
                    error.unsent = not sent
                repeatable = may_repeat(call.method, "X-Idempotency-Key" in headers, outcome.failure)
            jitter = random.random()  # noqa: S311 - spreads load, guards nothing
            pause = backoff_seconds(attempt, self.backoff, jitter) if asked is None else asked
            if not repeatable or attempt >= self.retries or time.monotonic() + pause >= end:
                raise error
            await asyncio.sleep(pause)
        raise AssertionError  # the loop has no other end

    async def _open_client(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._closed:
                msg = "The Vers client is closed; make a new one."
                raise BadInput(msg)
            if self._client is None:
                tls = self.endpoints.base_url.startswith("https:") and self._transport is None
                self._client = httpx.AsyncClient(
                    verify=await to_thread(self.endpoints.ssl_context) if tls else False,
                    transport=self._transport,
                    # A proxy from the environment is for other hosts: it would carry the key of a plain-http loopback URL elsewhere.
                    trust_env=not self.endpoints.is_loopback,
                    follow_redirects=False,  # the key must not follow to wherever a redirect points
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=30.0),
                )
                if io.is_current():
                    io.at_close(self, self.aclose)
            return self._client


@dataclass(frozen=True)
class NoAnswer:
    """An attempt that got no answer: how it failed, and the words of the library below."""

    failure: Failure
    detail: str


async def _attempt(client: httpx.AsyncClient, request: httpx.Request, allowed: float, whole: bool) -> httpx.Response | NoAnswer:
    """Send once, in `allowed` seconds. The response's body has been read if it is an error or `whole`."""
    response: httpx.Response | None = None
    done = False
    try:
        async with asyncio.timeout(allowed):
            response = await client.send(request, stream=True)
            if whole or not response.is_success:
                await response.aread()
        done = True
        return response
    except TimeoutError:
        return NoAnswer(Failure.TIMEOUT, "")
    except httpx.HTTPError as error:
        return NoAnswer(failure_of(error), str(error) or type(error).__name__)
    finally:
        if response is not None and not done:
            await response.aclose()


def _query(params: Params | None) -> dict[str, str]:
    """Query parameters as the API spells them, without those that are None."""
    given = {name: value for name, value in (params or {}).items() if value is not None}
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in given.items()}


def _refusal(response: httpx.Response, call: Call, key: ResolvedKey) -> tuple[VersError, float | None]:
    """The error that an answer stands for, and the seconds to wait that it asked for, if it did."""
    retry_after = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
    message = server_message(response.content, key.value.get_secret_value())
    error = error_for_status(response.status_code, message, request=str(call), key_source=key.source, retry_after=retry_after)
    return error, retry_after


def _no_answer(outcome: NoAnswer, host: str, call: Call, key: ResolvedKey, allowed: float) -> VersError:
    detail = outcome.detail.replace(key.value.get_secret_value(), HIDDEN)[:MESSAGE_LIMIT]
    if outcome.failure is Failure.TIMEOUT:
        return DeadlineExceeded(f"{host} did not answer {call} within {max(allowed, 0):.3g} s; try again or allow more time.")
    if outcome.failure is Failure.UNTRUSTED:
        text = f"The certificate of {host} is not trusted ({detail}); name its authority's certificate in VERS_CA_FILE if it is your own."
        return Unreachable(text)
    return Unreachable(f"{host} could not be reached for {call}: {outcome.failure.value} ({detail}); check the network and VERS_BASE_URL.")
