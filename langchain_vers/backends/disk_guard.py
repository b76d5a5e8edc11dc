"""What ends all that runs on a machine when a disk has filled, as often as that happens, and lets calls find out that it was so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from langchain_vers.backends.disk_watch import Watch
from langchain_vers.errors import VersError


class DiskGuard:
    """Coroutines of the I/O thread. `empty` ends all that runs on the machine, and makes it ready for more."""

    def __init__(self, empty: Callable[[], Awaitable[None]]) -> None:
        self._empty = empty
        self._watching: asyncio.Task[None] | None = None
        self._emptying: asyncio.Task[None] | None = None
        self.overgrown: list[str] = []
        """What had grown too far, each time that all was ended for it."""

    @property
    def count(self) -> int:
        """How often all was ended so far."""
        return len(self.overgrown)

    @property
    def watching(self) -> bool:
        """Whether anything is watched."""
        return self._watching is not None

    async def begin(self, watch: Watch) -> None:
        """Watch from now on.

        Raises:
            VersError, OSError: there is something that cannot be watched.
        """
        await watch.begin()
        self.stop()
        self._watching = asyncio.get_running_loop().create_task(self._watch(watch))

    async def _watch(self, watch: Watch) -> None:
        with contextlib.suppress(RuntimeError):  # interpreter exit, when threads take no more calls
            while True:
                name = await watch.until_exceeded()
                self.overgrown.append(name)
                self._emptying = asyncio.ensure_future(self._empty())
                with contextlib.suppress(VersError):  # who works there meets the reason
                    await asyncio.shield(self._emptying)

    async def at_rest(self) -> bool:
        """Wait while all is being ended; whether it was."""
        emptying = self._emptying
        if emptying is None or emptying.done():
            return False
        await asyncio.wait({emptying})
        return True

    def stop(self) -> None:
        """Watch no longer. What is being ended is."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
