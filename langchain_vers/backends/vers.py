"""A Vers VM as a backend: sessions over SSH inside TLS, or over the platform's API (`vers_http`); versions over the API.

Where the VM's key comes from and what a failed connection means is decided here; making and deleting VMs is the platform client's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import ssl
from typing import Literal, Self, cast, get_args
from weakref import WeakKeyDictionary

from langchain_vers import idle
from langchain_vers._io import io
from langchain_vers.backends import sessions
from langchain_vers.backends.base import ExecResult, Snapshots
from langchain_vers.backends.environment import Environment, checked
from langchain_vers.backends.http_process import HttpProcess
from langchain_vers.backends.pool import SessionPool
from langchain_vers.backends.sessions import End, RemoteProcess, Running, Session, Source
from langchain_vers.backends.shell import ShellBackend
from langchain_vers.backends.vers_http import HttpSessions
from langchain_vers.errors import BadInput, Conflict, DeadlineExceeded, Denied, Gone, Unreachable, VersError
from langchain_vers.platform.client import VersClient
from langchain_vers.platform.models import VmSshKeyResponse
from langchain_vers.platform.tunnel import SSHConnection

CONNECT_SECONDS = 30.0
SILENT_SECONDS = 2.0
"""A call that has had no sign of life for so long is reason to look whether the machine was paused under it."""
DOMAIN = "vm.vers.sh"
PORT = 443

Transport = Literal["ssh", "http"]
"""What commands and files of a VM go over."""

_contexts: WeakKeyDictionary[VersClient, ssl.SSLContext] = WeakKeyDictionary()
"""One TLS configuration for all VMs of a client: each holds all of the system's certificate authorities, about half a megabyte."""


def check_transport(transport: Transport) -> Transport:
    """The transport, if it is one.

    Raises:
        BadInput: it is none.
    """
    if transport not in get_args(Transport):
        raise BadInput(f"transport must be 'ssh' or 'http', not {transport!r}")
    return transport


class VersBackend(ShellBackend, Snapshots):
    """Works on one VM over connections that are opened on first use and kept.

    Args:
        client: the platform that the VM is on; it is used on the I/O thread, and so by nobody on another event loop.
        vm_id: the VM's whole id.
        host_key: the SSH host key's fingerprint ("SHA256:...") that the VM must show; None pins whichever it shows first, and the attribute
            `host_key` tells it afterwards.
        transport: "ssh", or "http" to make do with the platform's API, whose certificate vouches for the machine then.
        env: variables for every command.

    Raises:
        BadInput: another transport, or a variable that no environment can hold.
    """

    name = "vers"
    username = "root"
    """Who logs in on the VM."""
    silence = "it may be paused: see vers_vms, and resume it with vers_vm_state"

    def __init__(
        self, client: VersClient, vm_id: str, *, host_key: str | None = None, transport: Transport = "ssh", env: Environment | None = None
    ) -> None:
        self.machine_id: str = vm_id
        self.environment = checked(env or {})
        self.host_key = host_key
        self._client = client
        self._key: VmSshKeyResponse | None = None
        self.transport = check_transport(transport)
        self._http = HttpSessions(client, vm_id, self._diagnosed) if transport == "http" else None
        self._pool: Source = self._http or SessionPool(self._connect, self._ready)
        self._looks: set[asyncio.Task[None]] = set()
        self.rest: idle.Rest | None = None
        """What pauses the machine when it is idle, if anything does."""

    def unwatched(self) -> Self:
        """The same machine over the same connections, for calls that do not count as use of it."""
        view = copy.copy(self)
        view.rest = None
        return view

    def __repr__(self) -> str:
        return f"VersBackend({self.machine_id!r})"

    async def _session(self) -> Session:
        return await (self._take() if self.rest is None else self.rest.session(self._take))

    async def _take(self) -> Session:
        try:
            session = await self._pool.take()
        except (Unreachable, DeadlineExceeded) as error:
            if (reason := await self._diagnosed(error)) is not None:
                raise reason from error
            session = await self._pool.take()
        process = cast("RemoteProcess", session.process)
        asyncio.get_running_loop().call_later(SILENT_SECONDS, self._suspect, process, process.received)
        return session

    def _suspect(self, process: RemoteProcess, received: int) -> None:
        """A session was taken a while ago: if nothing has come since, another process may have paused the machine meanwhile."""
        if process.received == received and process.open:
            task = asyncio.get_running_loop().create_task(self._look_after())
            self._looks.add(task)
            task.add_done_callback(self._looks.discard)

    async def _look_after(self) -> None:
        with contextlib.suppress(VersError):  # the call itself meets the reason, and reports it
            await idle.wake(self._client, await self._client.get_vm(self.machine_id, deadline=10.0))

    @property
    def losses(self) -> int:
        """Connections to the VM that broke by themselves so far."""
        return self._pool.losses

    async def _connect(self) -> SSHConnection:
        try:
            if self._key is None:
                self._key = await self._client.get_ssh_key(self.machine_id)
            try:
                connection = await self._open(self._key)
            except Denied:
                # The key may have been changed on the platform since it was fetched.
                self._key = await self._client.get_ssh_key(self.machine_id)
                connection = await self._open(self._key)
        except Gone as error:
            raise self._gone() from error
        self.host_key = self.host_key or connection.fingerprint
        return connection

    async def _open(self, key: VmSshKeyResponse) -> SSHConnection:
        context = _contexts.get(self._client)
        if context is None:
            context = _contexts[self._client] = await io.blocking(self._client.endpoints.ssl_context)
        name = f"{self.machine_id}.{DOMAIN}"
        host, port = self._client.endpoints.ssh_endpoint or (name, PORT)
        return await SSHConnection.open(
            host,
            port,
            server_name=name,
            context=context,
            private_key=key.ssh_private_key,
            username=self.username,
            pinned=self.host_key,
            timeout=CONNECT_SECONDS,
        )

    # --- what differs over the API ---

    @property
    def orphans(self) -> str:  # type: ignore[override]  # read only
        """See `ShellBackend.orphans`."""
        if self._http is None:
            return ShellBackend.orphans
        return f"and runs on, until {sessions.BACKSTOP_SECONDS:.0f} s after its time limit if it has one"

    def _worded(self, line: bytes) -> bytes:
        return super()._worded(line) if self._http is None else line

    async def _answer(self, path: str, line: bytes, payload: bytes | None) -> bytes:
        if self._http is None or payload is None:
            return await super()._answer(path, line, payload)
        async with self._http.fed(line, payload) as whole:
            return await super()._answer(path, whole, None)

    def _result(self, running: Running, end: End, cwd: str | None, reconnects: int) -> ExecResult:
        process = running.session.process
        return super()._result(running, end, cwd, reconnects + (process.reattached if isinstance(process, HttpProcess) else 0))

    def _gone(self) -> Gone:
        return Gone(
            f"VM {self.machine_id} does not exist any more; attach to another with vers_vm_use, restore it from a commit with "
            "vers_vm_restore, or make a new one with vers_vm_create",
            machine_id=self.machine_id,
        )

    async def _diagnosed(self, error: VersError) -> VersError | None:
        """What a failed connection means, after a look at the VM's state; None if the VM was idle, and has been resumed."""
        try:
            vm = await self._client.get_vm(self.machine_id, deadline=10.0)
        except Gone:
            return self._gone()
        except VersError:
            return error
        if vm.state in {"paused", "sleeping"}:
            if await idle.wake(self._client, vm):
                return None
            return Conflict(f"VM {self.machine_id} is {vm.state}; resume it with vers_vm_state (state running)", machine_id=self.machine_id)
        if vm.state in {"dead", "stopped", "not_started"}:
            return Gone(
                f"VM {self.machine_id} is {vm.state}; restore it from a commit with vers_vm_restore, or attach to another with vers_vm_use",
                machine_id=self.machine_id,
            )
        error.machine_id = self.machine_id
        return error

    async def snapshot(self, *, name: str | None = None) -> str:
        """See `Snapshots.snapshot`."""
        return await self._client.commit_vm(self.machine_id, name=name)

    async def restore(self, ref: str) -> str:
        """See `Snapshots.restore`."""
        return await self._client.restore_vm(commit_id=ref)

    async def branch(self, count: int = 1) -> list[str]:
        """See `Snapshots.branch`."""
        return await self._client.branch_vm(self.machine_id, count=count)

    def at(self, machine_id: str) -> VersBackend:
        """See `Snapshots.at`."""
        return VersBackend(self._client, machine_id, transport=self.transport, env=self.environment)

    async def retire(self) -> None:
        """As `close`, but calls that are under way may end first. The backend must not be used for further ones."""
        await self._stop_looking()
        await self._pool.retire()

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._stop_looking()
        await self.hang_up()

    async def hang_up(self) -> None:
        """Give the connections back. The next call opens them again."""
        await self._pool.close()

    async def _stop_looking(self) -> None:
        if self.rest is not None:
            await self.rest.close()
        for task in self._looks:
            task.cancel()
        await asyncio.gather(*self._looks, return_exceptions=True)
