"""What a context holds open: the platform's client and the machines that it has worked on, all of one I/O loop.

The platform is the one that was configured, or the embedded Vers of this machine, which is found, started if need be, and found again
when it has been restarted somewhere else. Which thread works on which machine is the context's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_vers._io import io
from langchain_vers.backends.gate import Gate
from langchain_vers.backends.vers import Transport, VersBackend
from langchain_vers.errors import Denied, Unreachable
from langchain_vers.idle import Rest
from langchain_vers.platform import Credentials, Endpoints, VersClient

if TYPE_CHECKING:
    from langchain_vers.embedded.launcher import ServerInfo

logger = logging.getLogger("langchain_vers")
AFTERWARDS_SECONDS = 5.0
"""How long `close` waits for what was left to be done after a turn."""


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


class Link:
    """Made and used on the I/O thread; of no use on any other loop than the one that it was made on (as after a fork)."""

    def __init__(self, account: Account) -> None:
        self.loop = asyncio.get_running_loop()
        self.copying = asyncio.Lock()
        """Held by copies into or out of a folder of this machine that must not be left."""
        self.gates: dict[str, Gate] = {}
        """By VM: orders the calls that change it and its commits."""
        self.bringing: dict[str, asyncio.Lock] = {}
        """By VM: held while it is brought to the state that a conversation needs."""
        self._account = account
        self._client: VersClient | None = None
        self._server: ServerInfo | None = None
        self._stamp: tuple[int, int] | None = None
        self._doubtful = False
        self._making = asyncio.Lock()
        self._machines: dict[str, VersBackend] = {}
        self._retiring: set[VersBackend] = set()
        self._closing: set[asyncio.Future[None]] = set()
        self._afterwards: set[asyncio.Task[None]] = set()
        io.at_close(self, self.close)

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

    async def machine(self, vm_id: str, host_key: str | None = None) -> VersBackend:
        """The backend of one VM, shared by all threads and calls."""
        client = await self.client()
        backend = self._machines.get(vm_id)
        if backend is None:
            backend = self._machines[vm_id] = VersBackend(client, vm_id, host_key=host_key, transport=self._account.transport)
            if self._account.idle_pause is not None:
                backend.rest = Rest(backend, client, self.gates.setdefault(vm_id, Gate()), self._account.idle_pause)
        elif backend.host_key is None:
            backend.host_key = host_key
        return backend

    def doubt(self) -> None:
        """Something could not be reached: look at the embedded Vers more closely before the next call."""
        self._doubtful = True

    def forget(self, vm_id: str, *, running: bool) -> None:
        """Give back the connections to a VM: at once, or with `running` those first that no call is using and the others after it."""
        backend = self._machines.pop(vm_id, None)
        if backend is not None:
            self._later(self._retire(backend) if running else backend.close())

    async def _retire(self, backend: VersBackend) -> None:
        self._retiring.add(backend)
        try:
            await backend.retire()
        finally:
            self._retiring.discard(backend)

    def afterwards(self, coro: Coroutine[None, None, None]) -> None:
        """Run what nobody waits for; `close` sees it through, for a while."""
        task = asyncio.ensure_future(coro)
        self._afterwards.add(task)
        task.add_done_callback(self._afterwards.discard)

    async def close(self) -> None:
        """Give everything back. May be called twice; a new link is made for further use."""
        io.forget(self)
        if self._afterwards:
            await asyncio.wait(self._afterwards, timeout=AFTERWARDS_SECONDS)
        for task in self._afterwards:
            task.cancel()
        self._give_back()
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    def _give_back(self) -> None:
        machines, self._machines = self._machines, {}
        client, self._client = self._client, None
        self._server = None
        self._later(_closed([*machines.values(), *self._retiring], client))

    def _later(self, closing: Awaitable[None]) -> None:
        task = asyncio.ensure_future(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _open(self, start: bool) -> None:
        account = self._account
        if account.base_url is not None or os.environ.get("VERS_BASE_URL") or await io.blocking(_has_key, account.credentials):
            self._client = VersClient(account.credentials, Endpoints.resolve(account.base_url, account.ssh_endpoint, account.ca_file))
            return
        server = await io.blocking(_embedded, account.data_dir, start)
        host, port = server.ssh_endpoint
        key = server.api_key
        self._client = VersClient(Credentials(lambda: key), Endpoints.resolve(server.base_url, f"{host}:{port}", server.ca_file))
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
        if await io.blocking(launcher.find_running, self._account.data_dir) != self._server:
            return True
        self._stamp = stamp
        return False


async def _closed(backends: Sequence[VersBackend], client: VersClient | None) -> None:
    """Close them, the client last: by it a machine is told that nobody waits for a command any more."""
    await asyncio.gather(*(backend.close() for backend in backends), return_exceptions=True)
    if client is not None:
        await client.aclose()


def abandon(link: Link) -> None:
    """Close the link of a context that nobody holds any more, without waiting. For any thread."""
    if io.runs(link.loop):
        io.submit(link.close())


def _has_key(credentials: Credentials) -> bool:
    with contextlib.suppress(Denied):
        credentials.resolve()
        return True
    return False


def _stamp(data_dir: Path | None) -> tuple[int, int] | None:
    from langchain_vers.embedded.state import SERVER_FILE, default_data_dir  # noqa: PLC0415  # as in `_embedded`

    try:
        stat = ((data_dir or default_data_dir()) / SERVER_FILE).stat()
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
