"""The order between calls that change a machine and commits of it. For coroutines of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


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
