"""What to make of a request that failed: may it be repeated, how long to wait, which error is it.

Pure functions; `http` acts on them.
"""

from __future__ import annotations

import email.utils
import enum
import json
import re
import ssl
from datetime import UTC, datetime

import httpx

from langchain_vers import errors
from langchain_vers.errors import BadInput, DeadlineExceeded, Denied, RateLimited, ServerFault, VersError
from langchain_vers.platform.credentials import LOOKED_UP

HIDDEN = "<key hidden>"
MESSAGE_LIMIT = 300
"""Characters of a server's message that go into an error."""
MAX_BACKOFF_SECONDS = 8.0
SAFE_METHODS = frozenset({"GET", "HEAD"})
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_ERROR_OF_STATUS: dict[int, type[VersError]] = {
    401: Denied,
    402: Denied,
    403: Denied,
    404: errors.Gone,
    405: errors.Unsupported,
    408: DeadlineExceeded,
    409: errors.Conflict,
    410: errors.Gone,
    412: errors.Conflict,
    423: errors.Conflict,
    429: RateLimited,
    501: errors.Unsupported,
}


class Failure(enum.Enum):
    """How an attempt failed that got no answer."""

    NOT_SENT = "no connection"
    TIMEOUT = "no answer in time"
    BROKEN = "the connection broke"
    UNTRUSTED = "the certificate is not trusted"
    OTHER = "the request could not be made"


def may_repeat(method: str, has_idempotency_key: bool, outcome: Failure | int) -> bool:
    """Whether a request may be sent again after this outcome (a `Failure`, or an HTTP status).

    What never reached the server, or was turned away with 429, is safe to repeat. After a time-out, a broken connection or 502, 503, 504
    the server may or may not have done the work: then only a request without effects is repeated, or one with an idempotency key, which
    lets the server recognise the repetition and answer it without doing the work twice. Nothing else is: not 500, which tells of a
    mistake that would happen again, and not a certificate that is not trusted.
    """
    if outcome is Failure.NOT_SENT or outcome == 429:
        return True
    if outcome in {Failure.TIMEOUT, Failure.BROKEN} or outcome in _RETRIED_STATUSES:
        return method in SAFE_METHODS or has_idempotency_key
    return False


def backoff_seconds(attempt: int, base: float, jitter: float) -> float:
    """Pause after the given attempt (0 is the first): doubles each time up to a cap; `jitter` (0 to 1) takes up to half of it away."""
    return min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(attempt, 30)) * (1 - jitter / 2)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds to wait from a `Retry-After` header (seconds or an HTTP date); 0 for a date gone by, None for anything else."""
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", value):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def server_message(body: bytes, key: str = "") -> str:
    """What an error's body says: the `error` of the JSON envelope, or the text, or the text within HTML; one line, cut, without the key."""
    if key:  # hidden before each cut, which could otherwise leave half a key, and again where escapes were undone
        body = body.replace(key.encode(), HIDDEN.encode())
    text = body[:65536].decode("utf-8", "replace")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict):
        found = next((content[name] for name in ("error", "message", "detail") if isinstance(content.get(name), str)), None)
        text = text if found is None else found
    elif isinstance(content, str):
        text = content
    elif re.match(r"\s*<(!doctype|html|\?xml)", text, re.IGNORECASE):
        text = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>", " ", text)
    text = " ".join((text.replace(key, HIDDEN) if key else text).split())
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= MESSAGE_LIMIT else text[: MESSAGE_LIMIT - 1] + "…"


def error_for_status(status: int, message: str, *, request: str, key_source: str, retry_after: float | None = None) -> VersError:
    """The typed error for an HTTP status that is no success.

    Args:
        status: the HTTP status.
        message: what `server_message` found.
        request: method and path, for the message.
        key_source: where the API key came from, for 401.
        retry_after: seconds the server asked for, if it did.

    """
    said = f": {message}" if message else "."
    if status < 400:
        return ServerFault(f"{request} was answered with HTTP {status}, which is not followed; check VERS_BASE_URL.", status=status)
    if status == 401:
        text = f"The Vers API refused the key from {key_source} (HTTP 401; keys are looked up in {LOOKED_UP}){said}"
        return Denied(text, status=status)
    if status == 429:
        hint = "later" if retry_after is None else f"in {retry_after:g} s"
        return RateLimited(f"The Vers API wants fewer requests (HTTP 429, {request}); try again {hint}{said}", retry_after=retry_after)
    kind = _ERROR_OF_STATUS.get(status, BadInput if status < 500 else ServerFault)
    return kind(f"{request} failed with HTTP {status}{said}", status=status)


def failure_of(error: httpx.HTTPError) -> Failure:
    """Which kind of failure an httpx error is."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Failure.UNTRUSTED
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError | httpx.PoolTimeout | httpx.ProxyError):
        return Failure.NOT_SENT
    if isinstance(error, httpx.TimeoutException):
        return Failure.TIMEOUT
    return Failure.BROKEN if isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) else Failure.OTHER
