"""The order between calls that change a machine and commits of it. For coroutines of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary, WeakValueDictionary


class Gate:
    """Calls that change a machine pass side by side, a commit passes alone; those that come after a waiting commit wait for it."""

    def __init__(self) -> None:
        self._inside = 0
        self._closed = False
        self._changed = asyncio.Condition()

    @property
    def busy(self) -> bool:
        """Whether anybody is inside, or waits to be there alone."""
        return self._closed or self._inside > 0

    @asynccontextmanager
    async def call(self) -> AsyncIterator[None]:
        """Around a call that changes the machine."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            async with self._changed:
                self._changed.notify_all()

    @asynccontextmanager
    async def commit(self) -> AsyncIterator[None]:
        """Around what must see the machine at rest."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._closed)
            self._closed = True
        try:
            async with self._changed:
                await self._changed.wait_for(lambda: self._inside == 0)
            yield
        finally:
            self._closed = False
            async with self._changed:
                self._changed.notify_all()


_gates: WeakKeyDictionary[asyncio.AbstractEventLoop, WeakValueDictionary[str, Gate]] = WeakKeyDictionary()


def gate_of(container: str) -> Gate:
    """What keeps starts of processes in a container and its commits apart, for all that use it in this loop.

    An engine pauses a container for a commit. When a process is being started in it then, the pause may never end: Docker 20.10 with runc
    1.1 waits for a process that has come into the frozen group, and thaws the group when it has come.
    """
    return _gates.setdefault(asyncio.get_running_loop(), WeakValueDictionary()).setdefault(container, Gate())
