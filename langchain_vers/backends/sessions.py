"""Sessions and the commands that they run: following the output, the control records and the end of one command.

A session is a shell that waits on the machine (`guest.py` says what it does there). Where sessions come from is the transports' business,
and what the end of a command means for the caller that of `shell.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
import secrets
import time
from collections.abc import Callable
from typing import Protocol

from langchain_vers._process import keep_classes
from langchain_vers.backends import guest
from langchain_vers.backends.base import OutputCallback
from langchain_vers.errors import Unreachable, VersError

ANSWER_SECONDS = 30.0
"""How long a machine may take to begin a command, or to go on with a file, before it counts as unreachable."""
KILL_SECONDS = 10.0
"""How long the machine may take to confirm that a command's processes are dead."""
QUIET_SECONDS = 0.1
"""How long the output must be silent after a command's end when a background process of it still holds it open."""
BACKSTOP_SECONDS = 60.0
"""How long after its time limit a machine ends a command by itself, where its transport does not tell it that nobody waits any more."""
_LONGEST_QUIET_SECONDS = 5.0
"""The same on the slowest machines, where it grows with the time that a command takes to begin: its last words take as long to come."""
_SLACK = 2
"""`Tail` drops its head when it holds this many times what it must keep, so that each byte is moved at most once on average."""


class Process(Protocol):
    """A process on the machine as a transport offers it.

    `receive` gives (1, data) from stdout, (2, data) from stderr, (0, b"") when both have ended, and loses nothing when it is cancelled;
    `arrival` waits until it would not have to wait. `close` ends the process's input and gives everything back, without waiting.
    """

    @property
    def ended_cleanly(self) -> bool:
        """Whether the other side said that all output has been sent."""

    async def send(self, data: bytes) -> None:
        """Send to its standard input; waits while that is full."""

    async def send_eof(self) -> None:
        """End its standard input."""

    async def arrival(self) -> None:
        """Wait until `receive` has something to give."""

    async def receive(self) -> tuple[int, bytes]:
        """The next bytes of output."""

    def close(self) -> None:
        """End its input and give everything back, without waiting."""


class RemoteProcess(Process, Protocol):
    """A process on another machine, whose silence may mean something."""

    received: int
    """Pieces of output so far."""
    on_close: Callable[[], None]
    """Called once, when it has been given back."""

    @property
    def open(self) -> bool:
        """Whether it was not given back yet, and the other side has not ended it."""


class Source(Protocol):
    """Where the sessions on one machine come from. Coroutines of the I/O thread."""

    losses: int
    """Connections that broke by themselves."""

    async def take(self) -> Session:
        """A session that waits for its call."""

    async def retire(self) -> None:
        """As `close`, but calls that are under way end first."""

    async def close(self) -> None:
        """Give everything back. It can be used again afterwards."""


class Session:
    """A shell that waits on the machine for the one call that it will serve."""

    def __init__(self, process: Process, mark: str) -> None:
        self.process = process
        self.mark = mark
        self.log_path = ""
        """Where a command's whole output goes on the machine."""

    @staticmethod
    def new_mark() -> str:
        """A mark that no other session has."""
        return secrets.token_hex(12)

    async def prepare(self) -> None:
        """Send the functions and wait until the shell is there; what login scripts print before is thrown away.

        Raises:
            Unreachable: it ended instead.
        """
        await self.process.send(guest.preamble())
        seen = errors = b""
        while (folder := guest.parse_ready(seen, self.mark)) is None:
            kind, data = await self.process.receive()
            if kind == 0:
                detail = (errors or seen).decode(errors="replace").strip()[-300:]
                raise Unreachable(f"the machine did not start a shell ({detail or 'no message'}); it needs a POSIX sh and coreutils")
            if kind == 1:
                seen = (seen + data)[-16384:]
            else:
                errors = (errors + data)[-1024:]
        self.log_path = f"{folder}/{self.mark}.log"


class Tail:
    """The last bytes of a stream, and how much of it there was."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self.total = 0
        self.newlines = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        self.total += len(data)
        self.newlines += data.count(b"\n")
        self._data += data
        if len(self._data) > self._limit * _SLACK:
            del self._data[: len(self._data) - self._limit]

    def bytes(self) -> bytes:
        """The last bytes, at most the limit."""
        return bytes(self._data[-self._limit :])


class Control:
    """The control records of a command, as they arrive on its standard error."""

    def __init__(self) -> None:
        self._partial = b""
        self.begun = self.done = self.killed = self.released = False
        self.refused: str | None = None
        self.status: int | None = None
        self.cwd: str | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes of standard error; records may be cut anywhere."""
        *records, self._partial = (self._partial + data).split(b"\0")
        for record in records:
            kind, value = record[:1], record[1:].decode("utf-8", "surrogateescape")
            if kind == b"b":
                self.begun = True
            elif kind == b"c":
                self.cwd = value
            elif kind == b"d" and value.isdigit():
                self.status, self.done = int(value), True
            elif kind == b"k":
                self.killed = True
            elif kind == b"r":
                self.released = True
            elif kind == b"x":
                self.refused = value


class End(enum.Enum):
    """Why following a command stopped."""

    FINISHED = "its output ended"
    RELEASED = "it ended, and background processes of it live on"
    TIMED_OUT = "its time ran out"
    REFUSED = "it was not started"
    SILENT = "the machine did not answer"
    LOST = "the connection broke"


keep_classes(globals(), "End")  # compared in other modules, which may be reloaded before or after this one


class Running:
    """A command that a session is running, and what is known of it so far."""

    def __init__(self, session: Session, tail_limit: int, timeout: float | None, quiet: float) -> None:
        self.session = session
        self.control = Control()
        self.tail = Tail(tail_limit)
        self.started = time.monotonic()
        self._quiet = quiet
        self._timeout = math.inf if timeout is None else timeout
        self._limit = math.inf

    async def follow(self, on_output: OutputCallback | None) -> End:
        """Collect output until the command's end, its time limit, or the loss of its connection."""
        process, control = self.session.process, self.control
        releasing = False
        while True:
            try:
                async with asyncio.timeout(self._patience(releasing)):
                    kind, data = await process.receive()
            except TimeoutError:
                if releasing:
                    return End.RELEASED
                if control.done:
                    # A background process holds the output open. Let it live, and take what still comes until the watcher has let go.
                    releasing = True
                    with contextlib.suppress(VersError):
                        await process.send(guest.RELEASE)
                    continue
                return End.TIMED_OUT if control.begun else End.SILENT
            if kind == 1:
                self.tail.add(data)
                if on_output is not None and (awaitable := on_output(data)) is not None:
                    await awaitable
            elif kind == 2:
                begun = control.begun
                control.feed(data)
                if control.begun and not begun:
                    # The command's time begins with it: a machine that is slow to take a call has not used any of it up.
                    now = time.monotonic()
                    self._limit = now + self._timeout
                    self._quiet = min(max(self._quiet, 5 * (now - self.started)), _LONGEST_QUIET_SECONDS)
                if control.refused is not None:
                    return End.REFUSED
                if control.released:
                    await self.rest()
                    return End.RELEASED
            else:
                # A session that ends before it has begun its command has not run it, however cleanly its transport says that it ended.
                return End.FINISHED if control.done or (control.begun and process.ended_cleanly) else End.LOST

    def _patience(self, releasing: bool) -> float | None:
        """Seconds to wait for the next piece of news; None for ever."""
        if releasing:
            return KILL_SECONDS
        if self.control.done:
            return self._quiet
        now = time.monotonic()
        if not self.control.begun:
            return self.started + ANSWER_SECONDS - now
        return None if self._limit == math.inf else self._limit - now

    async def killed_by_watcher(self) -> bool:
        """End the command's input and wait until its watcher says that everything is dead; False if it does not say so in time."""
        process, control = self.session.process, self.control
        with contextlib.suppress(VersError, TimeoutError):
            async with asyncio.timeout(KILL_SECONDS):
                await process.send_eof()
                while not control.killed:
                    if not await self._take():
                        break
        if control.killed:
            await self.rest()
        return control.killed

    async def rest(self) -> None:
        """Take what the command had still printed when it was killed or let go of: it may come after the word that it is."""
        with contextlib.suppress(VersError, TimeoutError):
            async with asyncio.timeout(self._quiet):
                while await self._take():
                    pass

    async def _take(self) -> bool:
        kind, data = await self.session.process.receive()
        if kind == 1:
            self.tail.add(data)
        elif kind == 2:
            self.control.feed(data)
        return kind != 0
