"""What a process holds open for one account: the platform's client and the machines that were worked on, all of one I/O loop.

The platform is the one that was configured, or the embedded Vers of this machine, which is found, started if need be, and found again
when it has been restarted somewhere else. Whose contexts share it, and when it ends, is the business of `link.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakValueDictionary

from langchain_vers._io import to_thread
from langchain_vers._process import kept
from langchain_vers.backends.gate import Gate
from langchain_vers.backends.vers import Transport, VersBackend
from langchain_vers.embedded import state
from langchain_vers.errors import Denied, Unreachable
from langchain_vers.idle import Rest
from langchain_vers.platform import Credentials, Endpoints, VersClient

if TYPE_CHECKING:
    from langchain_vers.embedded.launcher import ServerInfo

logger = logging.getLogger("langchain_vers")
LEFT_SECONDS = 300.0
"""How long what a dropped context has left open waits for others to use it: a reload, or a cell that is run again, comes sooner."""


@dataclass(frozen=True)
class Account:
    """Which platform is meant; arguments win over the environment, and the embedded Vers is what is left when neither names one."""

    credentials: Credentials
    base_url: str | None = None
    ssh_endpoint: str | None = None
    ca_file: Path | None = None
    data_dir: Path | None = None
    transport: Transport = "ssh"
    """What commands and files of machines go over."""
    idle_pause: float | None = None
    """Seconds without a call after which a machine is paused; None: never."""

    def identity(self) -> tuple[Hashable, ...]:
        """Equal for accounts that may share connections: those that lead to the same platform with the same rights. Shows no secret."""
        folder = self.data_dir or _or_none(state.default_data_dir)
        return (
            self.credentials.identity(),
            self.base_url or os.environ.get("VERS_BASE_URL"),
            self.ssh_endpoint or os.environ.get("VERS_SSH_ENDPOINT"),
            str(self.ca_file or os.environ.get("VERS_CA_FILE")),
            None if folder is None else str(folder.absolute()),
            self.transport,
            self.idle_pause,
        )


class Trunk:
    """Made and used on the I/O thread; of no use on any other loop than the one that it was made on (as after a fork).

    A *holder* is whoever has asked for a machine, and has not left since.
    """

    def __init__(self, account: Account) -> None:
        self.loop = asyncio.get_running_loop()
        self.copying = asyncio.Lock()
        """Held by copies into or out of a folder of this machine that must not be left."""
        self.users: set[object] = set()
        """Those for whom it is open."""
        self._account = account
        self._client: VersClient | None = None
        self._server: ServerInfo | None = None
        self._stamp: tuple[int, int] | None = None
        self._doubtful = False
        self._making = asyncio.Lock()
        self._machines: dict[str, VersBackend] = {}
        self._holders: dict[str, set[object]] = {}
        self._left: asyncio.TimerHandle | None = None
        self._retiring: set[VersBackend] = set()
        self._closing: set[asyncio.Future[None]] = set()

    async def client(self, *, start: bool = True) -> VersClient:
        """The platform's client. Without a key and a server, the embedded Vers is found, or started if `start`.

        Raises:
            Unreachable: the embedded Vers does not run and was not to be started, or cannot be.
        """
        if self._client is not None and not self._doubtful and self._server_stands():
            return self._client
        async with self._making:
            if self._client is not None and self._server is not None and await self._server_moved():
                logger.warning("the embedded Vers at %s has ended or was restarted; looking for it again", self._server.base_url)
                self._give_back()
            self._doubtful = False
            if self._client is None:
                await self._open(start)
            assert self._client is not None
            return self._client

    async def machine(self, vm_id: str, host_key: str | None, holder: object) -> VersBackend:
        """The backend of one VM, shared by all contexts, threads and calls."""
        client = await self.client()
        self._holders.setdefault(vm_id, set()).add(holder)
        backend = self._machines.get(vm_id)
        if backend is None:
            backend = self._machines[vm_id] = VersBackend(client, vm_id, host_key=host_key, transport=self._account.transport)
            if self._account.idle_pause is not None:
                backend.rest = Rest(backend, client, gates().setdefault(vm_id, Gate()), self._account.idle_pause)
        elif backend.host_key is None:
            backend.host_key = host_key
        return backend

    def open_machine(self, vm_id: str) -> VersBackend | None:
        """The backend of a VM, if it is open."""
        return self._machines.get(vm_id)

    def doubt(self) -> None:
        """Something could not be reached: look at the embedded Vers more closely before the next call."""
        self._doubtful = True

    def forget(self, vm_id: str, *, running: bool) -> None:
        """Give back the connections to a VM: at once, or with `running` those first that no call is using and the others after it."""
        self._holders.pop(vm_id, None)
        backend = self._machines.pop(vm_id, None)
        if backend is not None:
            self._later(self._retire(backend) if running else backend.close())

    async def _retire(self, backend: VersBackend) -> None:
        self._retiring.add(backend)
        try:
            await backend.retire()
        finally:
            self._retiring.discard(backend)

    def pass_on(self, holder: object) -> None:
        """A holder is gone, and others may look for what it had: its machines stay open for them, for a while."""
        self.users.discard(holder)
        for holders in self._holders.values():
            holders.discard(holder)
        if self._left is not None:
            self._left.cancel()
        self._left = self.loop.call_later(LEFT_SECONDS, self._give_back_left)

    def _give_back_left(self) -> None:
        """Nobody has come for what was left."""
        self._left = None
        for vm_id in [vm_id for vm_id, holders in self._holders.items() if not holders]:
            self.forget(vm_id, running=True)
        if not self.users:
            self._give_back()

    async def leave(self, holder: object) -> None:
        """Give back the machines that only this holder has used; everything, if nobody else uses the trunk. May be called twice."""
        self.users.discard(holder)
        if not self.users:
            self._give_back()
        for vm_id, holders in list(self._holders.items()):
            if holder in holders:
                holders.discard(holder)
                if not holders:
                    self.forget(vm_id, running=False)
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    async def close(self) -> None:
        """Give everything back, whoever uses it."""
        self.users.clear()
        await self.leave(None)

    def _give_back(self) -> None:
        machines, self._machines = self._machines, {}
        self._holders.clear()
        if self._left is not None:
            self._left.cancel()
            self._left = None
        client, self._client = self._client, None
        self._server = None
        self._later(_closed([*machines.values(), *self._retiring], client))

    def _later(self, closing: Awaitable[None]) -> None:
        task = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _open(self, start: bool) -> None:
        account = self._account
        if account.base_url is not None or os.environ.get("VERS_BASE_URL") or await to_thread(_has_key, account.credentials):
            self._client = VersClient(account.credentials, Endpoints.resolve(account.base_url, account.ssh_endpoint, account.ca_file))
            return
        server = await to_thread(_embedded, account.data_dir, start)
        key = server.api_key
        self._client = VersClient(Credentials(lambda: key), Endpoints.of_embedded(server.base_url, server.ssh_endpoint, server.ca_file))
        self._server, self._stamp = server, _stamp(account.data_dir)

    def _server_stands(self) -> bool:
        """A look that costs microseconds: the file that says where the embedded Vers is has not been touched, and its process is there."""
        if self._server is None:
            return True
        if self._stamp != _stamp(self._account.data_dir):
            return False
        try:
            os.kill(self._server.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    async def _server_moved(self) -> bool:
        from langchain_vers.embedded import launcher  # noqa: PLC0415  # as in `_embedded`

        stamp = _stamp(self._account.data_dir)
        if await to_thread(launcher.find_running, self._account.data_dir) != self._server:
            return True
        self._stamp = stamp
        return False


class _Orders:
    """The orders of one loop; an entry lives as long as somebody is in it, or waits, or watches."""

    def __init__(self) -> None:
        self.gates: WeakValueDictionary[str, Gate] = WeakValueDictionary()
        self.bringing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()


def _orders() -> _Orders:
    made = kept("orders", WeakKeyDictionary[asyncio.AbstractEventLoop, _Orders])
    return made.setdefault(asyncio.get_running_loop(), _Orders())


def gates() -> WeakValueDictionary[str, Gate]:
    """By VM, for the whole process: orders the calls that change it and its commits. On the I/O thread."""
    return _orders().gates


def bringing() -> WeakValueDictionary[str, asyncio.Lock]:
    """By VM, for the whole process: held while it is brought to the state that a conversation needs. On the I/O thread."""
    return _orders().bringing


def _or_none(find: Callable[[], Path]) -> Path | None:
    with contextlib.suppress(RuntimeError):  # a user without a home has no folder either
        return find()
    return None


async def _closed(backends: Sequence[VersBackend], client: VersClient | None) -> None:
    """Close them, the client last: by it a machine is told that nobody waits for a command any more."""
    await asyncio.gather(*(backend.close() for backend in backends), return_exceptions=True)
    if client is not None:
        await client.aclose()


def _has_key(credentials: Credentials) -> bool:
    with contextlib.suppress(Denied):
        credentials.resolve()
        return True
    return False


def _stamp(data_dir: Path | None) -> tuple[int, int] | None:
    try:
        stat = ((data_dir or state.default_data_dir()) / state.SERVER_FILE).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns


def _embedded(data_dir: Path | None, start: bool) -> ServerInfo:
    from langchain_vers.embedded import launcher  # noqa: PLC0415  # only here is the embedded Vers any business of the package's users

    server = launcher.find_running(data_dir)
    if server is not None:
        return server
    if not start:
        raise Unreachable("no Vers key is configured and the embedded Vers does not run; `langchain-vers serve` starts it")
    server = launcher.ensure_running(data_dir)
    logger.warning(
        "no Vers key and no VERS_BASE_URL: using the embedded Vers of this machine (%s, engine %s)", server.base_url, server.engine
    )
    return server
