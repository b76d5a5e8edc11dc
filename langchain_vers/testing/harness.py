"""What all conformance tests stand on: the fixtures of `Conformance`, and small helpers to look at the machine through the backend itself.

Nothing here knows what a backend owes; that is in `commands`, `files` and `listings`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar

import pytest

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import Backend, ExecResult

T = TypeVar("T")

POLL_SECONDS = 0.02
"""Seconds between two looks of a test at a machine."""
PATIENCE_SECONDS = 60.0
"""Seconds that a test waits for something that must come to pass."""

# For a shell on the machine: does the process $1 still run? A zombie, which only waits for its parent to look, does not; nor does one whose
# parent looks between the two questions.
_ALIVE = 'alive() { kill -0 "$1" 2>/dev/null && ! grep -qs \'^[0-9]* (.*) Z\' "/proc/$1/stat" && kill -0 "$1" 2>/dev/null; }'


class Caller(Protocol):
    """How a test calls a backend; see the fixture `call`."""

    def __call__(self, coro: Coroutine[Any, Any, T], /) -> Coroutine[Any, Any, T]:
        """Run the coroutine on the I/O thread and give its result."""


async def run_sync(coro: Coroutine[Any, Any, T]) -> T:
    """Call from sync code as a notebook does it: a call that blocks, in a thread whose own loop is running."""
    return run(coro)


class Conformance:
    """Fixtures. A subclass overrides `backend`; tests get it together with `place`, an empty directory of their own on the machine."""

    patience = 3.0
    """Seconds that a machine needs at most to start a handful of processes."""

    @pytest.fixture
    async def backend(self) -> AsyncIterator[Backend]:
        """The backend under test. The override may be sync or async and of any scope; it closes what it opens."""
        raise NotImplementedError("override the fixture `backend` so that it yields the backend to be tested")
        yield

    @pytest.fixture(params=["sync", "async"])
    def call(self, request: pytest.FixtureRequest) -> Caller:
        """Runs a coroutine of the backend, once by `run` and once by `on_io`."""
        caller: Caller = run_sync if request.param == "sync" else on_io
        return caller

    @pytest.fixture
    def place(self, backend: Backend) -> Iterator[str]:
        """An empty directory on the machine, removed afterwards."""
        made = run(backend.exec(f'p=${{TMPDIR:-/tmp}}/conformance-{secrets.token_hex(8)}; mkdir -m 755 "$p" && cd "$p" && pwd -P'))
        assert made.exit_code == 0, made
        path = made.tail.decode().strip()
        yield path
        run(backend.exec(f"chmod -R u+rwx {path} 2>/dev/null; rm -rf {path}", cwd="/"))


async def shell(backend: Backend, command: str, *, cwd: str | None = None) -> str:
    """The output of a command that must succeed, without its last line break."""
    result = await backend.exec(command, cwd=cwd)
    assert result.exit_code == 0, f"{command!r} ended with {result.exit_code}: {result.tail[-500:]!r}"
    return result.tail.decode("utf-8", "surrogateescape").removesuffix("\n")


async def survivors(backend: Backend, place: str) -> list[str]:
    """Which of the processes run whose numbers stand in the files `*.pid` of `place`, by the names of these files."""
    return (
        await shell(backend, f'{_ALIVE}; for f in *.pid; do read -r p <"$f"; if alive "$p"; then echo "$f"; fi; done', cwd=place)
    ).split()


async def kill_survivors(backend: Backend, place: str) -> None:
    """End the processes that a test started on purpose."""
    await backend.exec('for f in *.pid; do read -r p <"$f"; kill -9 "$p" 2>/dev/null; done; true', cwd=place)


async def until(condition: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Ask again and again until the condition holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await condition():  # noqa: ASYNC110 - a machine has no event to wait for
            await asyncio.sleep(POLL_SECONDS)


def is_text(result: ExecResult, text: str) -> bool:
    """Whether this is all that the command printed."""
    return result.tail == text.encode("utf-8", "surrogateescape") and result.total_bytes == len(result.tail)
