"""SSH over TLS: the front behind which every machine of the embedded Vers has an address of its own.

A client opens TLS with the server name `<vm_id>.vm.vers.sh` and speaks SSH inside; the name picks the machine, the machine's own keys
guard it. One asyncio transport carries both: once TLS stands, its protocol is an asyncssh connection. Terminals and forwarding are
refused; what a session does is left to its `bridge`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Coroutine
from typing import Any, cast
from weakref import WeakKeyDictionary

import asyncssh
from asyncssh.constants import OPEN_CONNECT_FAILED, OPEN_RESOURCE_SHORTAGE

from langchain_vers.embedded.bridge import Bridge, Channel
from langchain_vers.embedded.fleet import Fleet
from langchain_vers.embedded.keys import DOMAIN
from langchain_vers.errors import VersError

MAX_SESSIONS = 64
"""Sessions on one connection (OpenSSH allows 10)."""
_WINDOW = 2 * 1024 * 1024
_MAX_PACKET = 64 * 1024
_REKEY_BYTES = 64 * 1024**3
_LOGIN_SECONDS = 30
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-ctr")
_log = logging.getLogger(__name__)


class _Server(asyncssh.SSHServer):
    """Who may come in: root, with the machine's own key."""

    def __init__(self, client_key: asyncssh.SSHKey) -> None:
        self._client_key = client_key
        self._connection: _Connection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = cast("_Connection", conn)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == "root" and key.public_data == self._client_key.public_data

    def session_requested(self) -> tuple[asyncssh.SSHServerChannel[bytes], asyncssh.SSHServerSession[bytes]]:
        return self._connection.open_session()


class _Connection(asyncssh.SSHServerConnection):
    """An SSH connection to one machine; knows when its transport is full."""

    def __init__(self, front: SshFront, vm_id: str, options: asyncssh.SSHServerConnectionOptions) -> None:
        super().__init__(asyncio.get_running_loop(), options)
        self.vm_id = vm_id
        self.congested = False
        self.bridges: set[Bridge] = set()
        self._front = front

    def open_session(self) -> tuple[Channel, Bridge]:
        """Make a channel with its bridge; raises `ChannelOpenError` when the machine or the limit does not allow it."""
        if len(self.bridges) >= MAX_SESSIONS:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, f"This connection has {MAX_SESSIONS} sessions open, which is the limit")
        try:
            self._front.fleet.require_running(self.vm_id)
        except VersError as error:
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, str(error)) from error
        channel = Channel(
            self,
            asyncio.get_running_loop(),
            allow_pty=False,
            line_editor=False,
            line_echo=False,
            line_history=0,
            max_line_length=0,
            encoding=None,
            errors="strict",
            window=_WINDOW,
            max_pktsize=_MAX_PACKET,
        )
        bridge = Bridge(self, self._front.fleet.spawner(self.vm_id))
        channel.bridge = bridge
        self.bridges.add(bridge)
        return channel, bridge

    def keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a session's coroutine; it may outlive this connection."""
        self._front.keep(coroutine)

    def forget(self, bridge: Bridge) -> None:
        """A session has ended."""
        self.bridges.discard(bridge)

    def pause_writing(self) -> None:
        self.congested = True
        for bridge in self.bridges:
            bridge.watch_outputs()

    def resume_writing(self) -> None:
        self.congested = False
        for bridge in self.bridges:
            bridge.watch_outputs()

    def connection_lost(self, exc: Exception | None = None) -> None:
        self._front.forget(self)
        super().connection_lost(exc)


class _Doorkeeper(asyncio.Protocol):
    """Waits for the end of the TLS handshake and hands the transport to the SSH connection of the machine that it named."""

    def __init__(self, front: SshFront) -> None:
        self._front = front

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        connection = self._front.admit(transport.get_extra_info("ssl_object"))
        if connection is None:
            transport.abort()
            return
        transport.set_protocol(connection)
        connection.connection_made(transport)


class SshFront:
    """The listener for SSH over TLS of all machines of a fleet."""

    def __init__(self, fleet: Fleet, context: ssl.SSLContext) -> None:
        self.fleet = fleet
        self._context = context
        context.sni_callback = self._pick
        self._picked: WeakKeyDictionary[object, str] = WeakKeyDictionary()
        self._options: dict[str, asyncssh.SSHServerConnectionOptions] = {}
        self._connections: dict[str, set[_Connection]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        fleet.on_delete(self._vm_deleted)

    async def listen(self, listener: socket.socket) -> None:
        """Take connections from this socket; it is closed with the front."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Doorkeeper(self),
            sock=listener,
            ssl=self._context,
            backlog=512,
            ssl_handshake_timeout=_LOGIN_SECONDS,
            ssl_shutdown_timeout=1,
        )

    async def close(self) -> None:
        """Stop to listen and break all connections."""
        if self._server is not None:
            self._server.close()
        for connection in [each for group in self._connections.values() for each in group]:
            connection.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def keep(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a session's coroutine; it may outlive its connection."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            _log.error("an SSH session failed", exc_info=task.exception())

    def admit(self, tls: object) -> _Connection | None:
        """The SSH connection for a finished TLS handshake; None if its machine is gone meanwhile."""
        vm_id = self._picked.get(tls)
        if vm_id is None or vm_id not in self.fleet.store.vms:
            return None
        connection = _Connection(self, vm_id, self._options_of(vm_id))
        self._connections.setdefault(vm_id, set()).add(connection)
        return connection

    def forget(self, connection: _Connection) -> None:
        """The connection is closed."""
        group = self._connections.get(connection.vm_id, set())
        group.discard(connection)
        if not group:
            self._connections.pop(connection.vm_id, None)

    def _pick(self, tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        """The TLS server name picks the machine; any other name ends the handshake."""
        vm_id = (name or "").lower().removesuffix(f".{DOMAIN}")
        if vm_id == name or vm_id not in self.fleet.store.vms:
            return int(ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
        self._picked[tls] = vm_id
        return None

    def _options_of(self, vm_id: str) -> asyncssh.SSHServerConnectionOptions:
        options = self._options.get(vm_id)
        if options is None:
            identity = self.fleet.identity(vm_id)
            client_key = asyncssh.import_private_key(identity.client_key)

            def server() -> _Server:
                return _Server(client_key)

            options = asyncssh.SSHServerConnectionOptions(
                server_factory=server,
                server_host_keys=[asyncssh.import_private_key(identity.host_key)],
                encryption_algs=_CIPHERS,
                compression_algs=["none"],
                password_auth=False,
                kbdint_auth=False,
                host_based_auth=False,
                gss_host=None,
                allow_pty=False,
                allow_scp=False,
                agent_forwarding=False,
                x11_forwarding=False,
                line_editor=False,
                encoding=None,
                login_timeout=_LOGIN_SECONDS,
                rekey_bytes=_REKEY_BYTES,
                rekey_seconds=0,
                window=_WINDOW,
                max_pktsize=_MAX_PACKET,
            )
            self._options[vm_id] = options
        return options

    def _vm_deleted(self, vm_id: str) -> None:
        self._options.pop(vm_id, None)
        for connection in list(self._connections.get(vm_id, ())):
            connection.abort()
