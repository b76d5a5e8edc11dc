"""Branches that are made ahead of who needs them, so that nobody waits while theirs is being made."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from langchain_vers.errors import VersError

if TYPE_CHECKING:
    from langchain_vers.branches import Branches
    from langchain_vers.machine import Machine


class Ahead:
    """Hands out `total` branches, one by one, and has at most `spares` of them wait. Coroutines of one event loop.

    A branch that could not be made is the error of whoever takes it.
    """

    def __init__(self, branches: Branches, total: int, spares: int) -> None:
        self._branches = branches
        self._unmade = total
        self._spares = spares
        self._making: deque[asyncio.Task[Machine]] = deque()

    async def start(self, count: int) -> None:
        """Begin with the first `count`, and see whether there is anything to branch.

        Raises:
            VersError: the first one could not be made.
        """
        self._begin(count)
        await asyncio.shield(self._making[0])

    async def take(self) -> Machine:
        """The next one; further ones are begun in its place.

        Raises:
            VersError: it could not be made.
        """
        if not self._making:
            self._begin(1)
        task = self._making.popleft()
        self._begin(self._spares - len(self._making))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._making.append(task)  # for `close`
            raise

    async def close(self) -> None:
        """Begin no further ones, and wait for those that are under way: they are in the hands of `Branches`."""
        self._unmade = 0
        await asyncio.gather(*self._making, return_exceptions=True)

    def _begin(self, count: int) -> None:
        for _ in range(min(count, self._unmade)):
            self._unmade -= 1
            self._making.append(asyncio.ensure_future(self._one()))

    async def _one(self) -> Machine:
        made = await self._branches.make(1)
        if not made:
            raise VersError("the platform made no branch; try again")
        return made[0]
