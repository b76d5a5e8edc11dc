"""Sessions that wait ahead of need, for engines whose sessions share no connections that would have to be counted (SSH's do: `pool.py`).

A call takes a waiting session and so costs one round trip. The next one is started when the call has ended, or after a while.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from langchain_vers.backends.pool import IDLE_SECONDS, MAX_SPARES, MIN_SPARES, REFILL_SECONDS
from langchain_vers.backends.sessions import Session
from langchain_vers.errors import VersError


class Spares:
    """Coroutines of the I/O thread. `start` starts a session; `alive` says whether a waiting one still waits."""

    def __init__(self, start: Callable[[], Awaitable[Session]], alive: Callable[[Session], bool]) -> None:
        self._start = start
        self._alive = alive
        self._waiting: deque[Session] = deque()
        self._wanted = MIN_SPARES
        self._starting: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.TimerHandle] = set()
        self._idle: asyncio.TimerHandle | None = None
        self._used = False

    async def take(self) -> Session:
        """A session that waits for its call; from the spares if there is one.

        Raises:
            VersError: what `start` raises.
        """
        self._watch_idle()
        while self._waiting:
            session = self._waiting.popleft()
            if self._alive(session):
                break
            session.process.close()
        else:
            if self._used:
                self._wanted = min(self._wanted + 1, MAX_SPARES)
            session = await self._start()
        self._used = True
        # Starting the next one at once would compete with the call itself for the processors.
        self._later(REFILL_SECONDS, self.refill)
        return session

    def refill(self) -> None:
        """A call has ended, or has run for a while: start what is missing."""
        for _ in range(self._wanted - len(self._waiting) - len(self._starting) if self._used else 0):
            task = asyncio.get_running_loop().create_task(self._add())
            self._starting.add(task)
            task.add_done_callback(self._starting.discard)

    async def _add(self) -> None:
        try:
            session = await self._start()
        except (VersError, RuntimeError):
            # The next call meets the reason itself, and reports it. RuntimeError: interpreter exit, when threads take no more calls.
            return
        self._waiting.append(session)

    def _later(self, seconds: float, function: Callable[[], None]) -> asyncio.TimerHandle:
        def call() -> None:
            self._timers.discard(timer)
            function()

        timer = asyncio.get_running_loop().call_later(seconds, call)
        self._timers.add(timer)
        return timer

    def _watch_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._timers.discard(self._idle)
        self._idle = self._later(IDLE_SECONDS, self._shrink)

    def _shrink(self) -> None:
        self._wanted = MIN_SPARES
        while len(self._waiting) > MIN_SPARES:
            self._waiting.pop().process.close()

    async def close(self) -> None:
        """Give the waiting sessions back; those that were taken belong to their calls. More can be taken afterwards."""
        self._used = False
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        starting = list(self._starting)
        for task in starting:
            task.cancel()
        await asyncio.gather(*starting, return_exceptions=True)
        while self._waiting:
            self._waiting.pop().process.close()
