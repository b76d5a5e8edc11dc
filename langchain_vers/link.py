"""A context's share of what its process holds open for its account.

All contexts of an account share one `Trunk`: a second toolkit, a cell of a notebook that is run again or a module that is reloaded finds
the connections of the first. A context that is closed gives back what no other one uses. One that is dropped without being closed, as a
reload does with it, leaves its connections for a while to the others that are there, if there are any; the last one takes everything along.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Hashable, MutableMapping
from weakref import WeakValueDictionary

from langchain_vers import trunk
from langchain_vers._io import io
from langchain_vers._process import kept
from langchain_vers.backends.gate import Gate
from langchain_vers.backends.vers import VersBackend
from langchain_vers.platform import VersClient
from langchain_vers.trunk import Account, Trunk

AFTERWARDS_SECONDS = 5.0
"""How long `close` waits for what was left to be done after a turn."""


class Exchange:
    """Where the links of one account meet."""

    def __init__(self) -> None:
        self.links: set[Link] = set()
        """Those of contexts that are there, whether they have used anything yet or not, and are not closed."""
        self.trunk: Trunk | None = None
        self.lost: list[Trunk] = []
        """Of loops from before a fork: not ours to close, and not for the collector either, which would."""


def _exchange(account: Account) -> Exchange:
    exchanges: WeakValueDictionary[tuple[Hashable, ...], Exchange] = kept("exchanges", WeakValueDictionary)
    # Two threads that are here at the same moment may each get one of their own: nothing is shared then, and nothing is wrong.
    return exchanges.setdefault(account.identity(), Exchange())


class Link:
    """Made anywhere, used on the I/O thread."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._exchange = _exchange(account)
        self._exchange.links.add(self)
        self._afterwards: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> bool:
        """Whether its context was not closed, or is used again."""
        return self in self._exchange.links

    @property
    def trunk(self) -> Trunk:
        """What is held open, on the I/O loop that is running now."""
        exchange, loop = self._exchange, asyncio.get_running_loop()
        found = exchange.trunk
        if found is None or found.loop is not loop:
            if found is not None:
                exchange.lost.append(found)
            found = exchange.trunk = Trunk(self._account)
        exchange.links.add(self)
        found.users.add(self)
        io.at_close(self, self.close)
        return found

    async def client(self, *, start: bool = True) -> VersClient:
        """See `Trunk.client`."""
        return await self.trunk.client(start=start)

    async def machine(self, vm_id: str, host_key: str | None = None) -> VersBackend:
        """The backend of one VM, shared by all contexts, threads and calls."""
        return await self.trunk.machine(vm_id, host_key, self)

    def open_machine(self, vm_id: str) -> VersBackend | None:
        """The backend of a VM, if it is open."""
        found = self._exchange.trunk
        return found.open_machine(vm_id) if found is not None and found.loop is asyncio.get_running_loop() else None

    @property
    def gates(self) -> MutableMapping[str, Gate]:
        """See `trunk.gates`."""
        return trunk.gates()

    @property
    def bringing(self) -> MutableMapping[str, asyncio.Lock]:
        """See `trunk.bringing`."""
        return trunk.bringing()

    @property
    def copying(self) -> asyncio.Lock:
        """Held by copies into or out of a folder of this machine that must not be left."""
        return self.trunk.copying

    def doubt(self) -> None:
        """Something could not be reached: look at the embedded Vers more closely before the next call."""
        self.trunk.doubt()

    def forget(self, vm_id: str, *, running: bool) -> None:
        """Give back the connections to a VM: at once, or with `running` those first that no call is using and the others after it."""
        self.trunk.forget(vm_id, running=running)

    def afterwards(self, coro: Coroutine[None, None, None]) -> None:
        """Run what nobody waits for; `close` sees it through, for a while."""
        task = asyncio.ensure_future(coro)
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)
        io.at_close(self, self.close)

    async def close(self) -> None:
        """Give back what no other context uses. May be called twice; further use takes a new share."""
        await self._see_through()
        io.forget(self)
        self._exchange.links.discard(self)
        found = self._trunk_here()
        if found is not None:
            if not found.users - {self}:
                self._exchange.trunk = None
            await found.leave(self)

    def abandon_soon(self) -> None:
        """As `close`, for a context that nobody holds any more: without waiting, for any thread. Other contexts inherit what it had."""
        self._exchange.links.discard(self)
        found = self._exchange.trunk
        if (found is not None and io.runs(found.loop)) or self._afterwards:
            io.submit(self._abandon())

    async def _abandon(self) -> None:
        if not self._exchange.links:
            await self.close()
            return
        await self._see_through()
        io.forget(self)
        if (found := self._trunk_here()) is not None:
            found.pass_on(self)
            io.at_close(found, found.close)

    def _trunk_here(self) -> Trunk | None:
        found = self._exchange.trunk
        return found if found is not None and found.loop is asyncio.get_running_loop() else None

    async def _see_through(self) -> None:
        here = {task for task in self._afterwards if task.get_loop() is asyncio.get_running_loop()}
        if here:
            await asyncio.wait(here, timeout=AFTERWARDS_SECONDS)
        for task in here:
            task.cancel()
