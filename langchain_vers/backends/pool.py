"""Sessions over SSH connections: kept open, opened ahead of need, and spread over as many connections as the server's limits ask for.

A call takes a waiting session and so costs one round trip. The pool opens the next one in the meantime. A connection that has died is
replaced on the next call; nothing here repeats a command.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from langchain_vers.backends import guest, reconnects
from langchain_vers.backends.sessions import Process, RemoteProcess, Session
from langchain_vers.errors import Unreachable, VersError

MAX_SESSIONS = 8
"""Sessions on one connection. OpenSSH allows 10 (`MaxSessions`), and counts one until its shell has tidied up after its channel closed."""
MIN_SPARES = 2
"""Sessions that wait ahead of need: an edit takes two in quick succession."""
MAX_SPARES = 4
"""The same after calls have come side by side."""
REFILL_SECONDS = 2.0
"""How long after its begin a call that still runs has its session replaced; otherwise that is done when the call has ended."""
IDLE_SECONDS = 60.0
"""After this time without a call, further connections and further spares are given back."""


class Connection(Protocol):
    """A connection to a machine that carries several processes."""

    @property
    def alive(self) -> bool:
        """Whether further ones can be started."""

    async def start(self, command: str, /) -> RemoteProcess:
        """Run a shell command."""

    async def close(self) -> None:
        """Give everything back."""


Connect = Callable[[], Awaitable[Connection]]
Ready = Callable[[Process, str], Awaitable[Session]]


class _Line:
    """A connection, perhaps still being opened, and the sessions that it carries or is about to."""

    def __init__(self, opening: asyncio.Task[Connection]) -> None:
        self.opening = opening
        self.sessions = 0

    @property
    def usable(self) -> bool:
        """Whether it is being opened, or stands."""
        if not self.opening.done():
            return True
        return not self.opening.cancelled() and self.opening.exception() is None and self.opening.result().alive

    async def connection(self) -> Connection:
        """The connection, when it is open.

        Raises:
            Unreachable: it was given back while it was being opened.
        """
        try:
            return await asyncio.shield(self.opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.opening.cancelled() and not (task is not None and task.cancelling()):
                raise Unreachable("the connection was given back while it was being opened; try again") from None
            raise

    async def close(self) -> None:
        self.opening.cancel()
        with contextlib.suppress(VersError, asyncio.CancelledError):
            await (await self.opening).close()


class _Spare(NamedTuple):
    """A session that waits for its call, and what it is on this side."""

    line: _Line
    process: RemoteProcess
    session: Session


class SessionPool:
    """Sessions on one machine. Coroutines of the I/O thread.

    `connect` opens a connection to the machine; `ready` waits for a shell that was just started. `spares` is how many sessions wait ahead
    of need; 0: none ever does.
    """

    def __init__(self, connect: Connect, ready: Ready, *, spares: int = MIN_SPARES) -> None:
        self._least, self._most = spares, MAX_SPARES if spares else 0
        self._connect = connect
        self._ready = ready
        self._lines: list[_Line] = []
        self._spares: deque[_Spare] = deque()
        self._wanted = spares
        self._refilling: set[asyncio.Task[None]] = set()
        self._idle: asyncio.TimerHandle | None = None
        self._freed = asyncio.Event()
        self.losses = 0
        """Connections that broke by themselves."""
        self._mended = 0
        """How many of them a call has noticed, and had another one made for itself."""

    async def take(self) -> Session:
        """A session that waits for its call; from the spares if there is one.

        Raises:
            VersError: what `connect` raises, or `Unreachable` when the server refuses further sessions.
        """
        self._drop_dead()
        self._watch_idle()
        if self._spares:
            session = self._spares.popleft().session
        else:
            if self._lines:
                self._wanted = min(self._wanted + 1, self._most)
            session = await self._open()
        # Opening the next one at once would compete with the call itself for both machines' processors.
        asyncio.get_running_loop().call_later(REFILL_SECONDS, self._refill)
        return session

    async def _open(self) -> Session:
        refused: VersError | None = None
        for _ in range(3):
            line = self._line()
            held = line.opening.done()
            line.sessions += 1
            try:
                return (await self._start(line, await line.connection())).session
            except BaseException as error:
                line.sessions -= 1
                if not isinstance(error, Unreachable):
                    self._drop_dead()
                    raise
                refused = error
                if not line.usable:
                    self._drop_dead()
                    if not held:
                        raise
                    continue  # it had died unnoticed, and nothing has run on it yet: a new one may do
                # The connection stands and a further channel was refused: the server counts differently, so go round this line.
                line.sessions = max(line.sessions, MAX_SESSIONS)
                asyncio.get_running_loop().call_later(1.0, self._recount, line)
        assert refused is not None
        raise refused

    def _recount(self, line: _Line) -> None:
        line.sessions = min(line.sessions, MAX_SESSIONS - 1)

    def _line(self) -> _Line:
        for line in self._lines:
            if line.usable and line.sessions < MAX_SESSIONS:
                return line
        if self.losses > self._mended:
            self._mended = self.losses
            reconnects.again()
        line = _Line(asyncio.ensure_future(self._connect()))
        self._lines.append(line)
        return line

    async def _start(self, line: _Line, connection: Connection) -> _Spare:
        mark = Session.new_mark()
        process = await connection.start(guest.boot(mark))

        def release() -> None:
            line.sessions -= 1
            self._refill()
            self._freed.set()

        session = await self._ready(process, mark)
        process.on_close = release
        return _Spare(line, process, session)

    def _refill(self) -> None:
        missing = self._wanted - len(self._spares) - len(self._refilling)
        for _ in range(missing):
            task = asyncio.get_running_loop().create_task(self._add_spare())
            self._refilling.add(task)
            task.add_done_callback(self._refilling.discard)

    async def _add_spare(self) -> None:
        line = next((line for line in self._lines if line.usable and line.sessions < MAX_SESSIONS), None)
        if line is None:
            return  # all connections are full with running commands: the next call opens a further one itself
        line.sessions += 1
        try:
            spare = await self._start(line, await asyncio.shield(line.opening))
        except (VersError, asyncio.CancelledError, RuntimeError):
            # The next call meets the reason itself, and reports it. RuntimeError: interpreter exit, when threads take no more calls.
            line.sessions -= 1
            return
        self._spares.append(spare)

    def _drop_dead(self) -> None:
        # A session that waits dies alone when a command kills all that it may.
        for spare in [spare for spare in self._spares if not spare.process.open]:
            self._spares.remove(spare)
            spare.process.close()
        dead = [line for line in self._lines if not line.usable]
        for line in dead:
            self._lines.remove(line)
            if not line.opening.cancelled() and line.opening.exception() is None:
                self.losses += 1
                self._close_soon(line)
        if dead:
            self._spares = deque(spare for spare in self._spares if spare.line not in dead)

    def _watch_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._shrink)

    def _shrink(self) -> None:
        """Back to one connection and two spares, as far as nothing runs."""
        self._wanted = self._least
        kept = deque([spare for spare in self._spares if spare.line is self._lines[0]][: self._least])
        for spare in self._spares:
            if spare not in kept:
                spare.process.close()
        self._spares = kept
        for line in self._lines[1:]:
            if line.sessions == 0 and line.opening.done():
                self._lines.remove(line)
                self._close_soon(line)
        if self._lines:
            self._refill()
        if len(self._lines) > 1:
            self._watch_idle()  # its sessions run, or are being closed

    def _close_soon(self, line: _Line) -> None:
        task = asyncio.get_running_loop().create_task(line.close())
        self._refilling.add(task)
        task.add_done_callback(self._refilling.discard)

    async def retire(self) -> None:
        """As `close`, but calls that are under way keep their sessions until they end. No session must be taken meanwhile."""
        self._wanted = 0
        refilling = list(self._refilling)
        for task in refilling:
            task.cancel()
        await asyncio.gather(*refilling, return_exceptions=True)
        while self._spares:
            self._spares.pop().process.close()
        while any(line.usable and line.sessions > 0 for line in self._lines):
            self._freed.clear()
            await self._freed.wait()
        await self.close()

    async def close(self) -> None:
        """Close everything. The pool can be used again afterwards."""
        if self._idle is not None:
            self._idle.cancel()
        for task in list(self._refilling):
            task.cancel()
        await asyncio.gather(*self._refilling, return_exceptions=True)
        self._spares.clear()
        lines, self._lines = self._lines, []
        self._freed.set()
        await asyncio.gather(*(line.close() for line in lines), return_exceptions=True)
