"""SSH over TLS: the front behind which every machine of the embedded Vers has an address of its own.

A client opens TLS with the server name `<vm_id>.vm.vers.sh` and speaks SSH inside; the name picks the machine, the machine's own keys
guard it. One asyncio transport carries both: once TLS stands, its protocol is an asyncssh connection. Sessions connect a channel to a
process's pipes with back-pressure both ways and behave as OpenSSH's do; terminals and forwarding are refused.

asyncssh has no public way to answer a session request later, to send an exit status without closing the channel, or to tell a session
that its peer closed a channel whose data is held back; `_Channel` is the only place that reaches into it for these.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import ssl
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import asyncssh
from asyncssh.constants import EXTENDED_DATA_STDERR, MSG_CHANNEL_CLOSE, MSG_CHANNEL_EOF, OPEN_CONNECT_FAILED, OPEN_RESOURCE_SHORTAGE
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from langchain_vers.errors import VersError

from .engine import EngineError
from .fleet import Fleet
from .keys import DOMAIN

MAX_SESSIONS = 64
"""Sessions on one connection (OpenSSH allows 10)."""
_WINDOW = 2 * 1024 * 1024
_MAX_PACKET = 64 * 1024
_CHUNK = 64 * 1024
_REKEY_BYTES = 64 * 1024**3
_LOGIN_SECONDS = 30
_EXIT_SECONDS = 5.0
"""How long a process that has closed its outputs may take to end before its client's close is answered without an exit status."""
_SFTP_SERVER = "/usr/lib/openssh/sftp-server"
_LOGIN_SHELL = ("/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi")
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-ctr")
_log = logging.getLogger(__name__)


class _Channel(asyncssh.SSHServerChannel[bytes]):
    """A session channel whose requests are answered when the process exists."""

    bridge: _Bridge
    complete = False
    """Whether all output of the process has been passed on."""
    _eof_sent = False

    def send_packet(self, pkttype: int, *args: bytes, **options: Any) -> None:  # noqa: ANN401 - asyncssh's own parameters
        # asyncssh closes a channel without saying EOF before, from which a client cannot tell that it has all the output. OpenSSH says it.
        if pkttype == MSG_CHANNEL_CLOSE and self.complete and not self._eof_sent:
            super().send_packet(MSG_CHANNEL_EOF)
        self._eof_sent = self._eof_sent or pkttype == MSG_CHANNEL_EOF
        super().send_packet(pkttype, *args, **options)

    def _start_session(self, command: str | None = None, subsystem: str | None = None) -> bool:
        if self._session_started:
            return False
        self._session_started = True
        self.bridge.start(command, subsystem)
        # None: no answer yet. `answer` gives it.
        return cast("bool", None)

    def answer(self, accepted: bool) -> None:
        """Answer the session request."""
        if self._session is not None:
            self._report_response(accepted)

    def send_exit_status(self, status: int) -> None:
        """Tell the client how the process ended; the channel stays open."""
        self._send_request(b"exit-status", UInt32(status))

    def send_exit_signal(self, name: str) -> None:
        """Tell the client which signal ended the process; the channel stays open."""
        self._send_request(b"exit-signal", String(name), Boolean(False), String(""), String(""))

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
        if pkttype == MSG_CHANNEL_CLOSE and self.complete and self.bridge.awaits_exit:
            # All output is there and the client is content, but the process's end has not been noticed yet. As OpenSSH does, answer the close when
            # the exit status has been sent, without which a client reports a failure.
            self.bridge.hold(partial(self._pass_on, pkttype, pktid, packet))
            return True
        return self._pass_on(pkttype, pktid, packet)

    def _pass_on(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
        result = super().process_packet(pkttype, pktid, packet)
        if pkttype == MSG_CHANNEL_CLOSE:
            self.bridge.disconnect()
        return result


class _Bridge(asyncssh.SSHServerSession[bytes]):
    """One session: a channel on this side, a process's three pipes on the other."""

    def __init__(self, front: SshFront, connection: _Connection) -> None:
        self._front = front
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._channel: _Channel
        self._process: Process | None = None
        self._held: Callable[[], object] | None = None
        self._closed = False
        self._congested = False
        self._exited = False
        self._stdin: int | None = None
        self._stdin_ended = False
        self._backlog = memoryview(b"")
        self._writer_watched = False
        self._outputs: dict[int, int | None] = {}  # descriptor to extended data type
        self._watched: set[int] = set()

    # -- the channel's side

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = cast("_Channel", chan)

    def connection_lost(self, exc: Exception | None) -> None:
        self.disconnect()
        self._connection.bridges.discard(self)

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if self._stdin is None:
            return  # the process closed its input, or never started: what comes is dropped, as by OpenSSH
        if self._backlog:
            self._backlog = memoryview(bytes(self._backlog) + data)
            return
        self._backlog = memoryview(data)
        self._write_stdin()

    def eof_received(self) -> bool:
        self._stdin_ended = True
        if not self._backlog:
            self._close_stdin()
        return True

    def pause_writing(self) -> None:
        self._congested = True
        self.watch_outputs()

    def resume_writing(self) -> None:
        self._congested = False
        self.watch_outputs()

    def signal_received(self, signal: str) -> None:
        number = getattr(_SIGNALS, f"SIG{signal}", None)
        if number is not None and self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def start(self, command: str | None, subsystem: str | None) -> None:
        """Start what the client asked for; the request is answered when that is done."""
        self._front.keep(self._start(command, subsystem))

    async def _start(self, command: str | None, subsystem: str | None) -> None:
        try:
            accepted = await self._spawn(command, subsystem)
        except (VersError, EngineError, OSError, ValueError) as error:
            _log.info("a session of VM %s was refused: %s", self._connection.vm_id, error)
            accepted = False
        if self._closed:
            self._close_pipes()
        else:
            if accepted:
                self.watch_outputs()
            self._channel.answer(accepted)
        if self._process is not None:
            await self._reap(self._process)

    async def _spawn(self, command: str | None, subsystem: str | None) -> bool:
        argv: Sequence[str]
        if subsystem is not None:
            if subsystem != "sftp" or not await self._has_sftp():
                return False
            argv = (_SFTP_SERVER,)
        elif command is not None:
            argv = ("/bin/sh", "-c", command)
        else:
            argv = _LOGIN_SHELL
        ends: list[int] = []
        try:
            for _ in range(3):
                ends.extend(os.pipe())
            stdin_r, stdin_w, stdout_r, stdout_w, stderr_r, stderr_w = ends
            self._process = await self._front.fleet.spawn(
                self._connection.vm_id,
                argv,
                env=dict(self._channel.get_environment()),
                stdin=stdin_r,
                stdout=stdout_w,
                stderr=stderr_w,
            )
        except BaseException:
            for end in ends:
                os.close(end)
            raise
        for end in (stdin_r, stdout_w, stderr_w):
            os.close(end)
        for end in (stdin_w, stdout_r, stderr_r):
            os.set_blocking(end, False)
        self._stdin = stdin_w
        self._outputs = {stdout_r: None, stderr_r: EXTENDED_DATA_STDERR}
        return True

    async def _has_sftp(self) -> bool:
        probe = await self._front.fleet.spawn(
            self._connection.vm_id, ("/bin/sh", "-c", f"test -x {_SFTP_SERVER}"), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
        )
        return await probe.wait() == 0

    async def _reap(self, process: Process) -> None:
        """Pass on how the process ended, at once, whoever still holds its output."""
        returncode = await process.wait()
        self._exited = True
        if self._closed:
            return
        if returncode < 0:
            name = signal.Signals(-returncode).name.removeprefix("SIG") if -returncode in _SIGNAL_NUMBERS else "KILL"
            self._channel.send_exit_signal(name)
        else:
            self._channel.send_exit_status(returncode)
        self._close_stdin()
        self._finish()
        self._let_go()

    @property
    def awaits_exit(self) -> bool:
        """Whether the process runs, as far as is known."""
        return self._process is not None and not self._exited and not self._closed

    def hold(self, close: Callable[[], object]) -> None:
        """Keep the client's close until the process has ended, which is near: it has closed its outputs."""
        self._close_stdin()
        self._held = close
        self._loop.call_later(_EXIT_SECONDS, self._let_go)

    def _let_go(self) -> None:
        close, self._held = self._held, None
        if close is not None:
            close()

    # -- the process's side

    def _write_stdin(self) -> None:
        if self._stdin is None:
            return
        try:
            while self._backlog:
                self._backlog = self._backlog[os.write(self._stdin, self._backlog) :]
        except BlockingIOError:
            if not self._writer_watched:
                self._writer_watched = True
                self._channel.pause_reading()
                self._loop.add_writer(self._stdin, self._write_stdin)
            return
        except OSError:
            # It closed its input. The rest of what the client sends is read and dropped, so that the client is not stuck.
            self._close_stdin()
            return
        if self._writer_watched:
            self._writer_watched = False
            self._loop.remove_writer(self._stdin)
            if self._stdin_ended:
                self._close_stdin()
            else:
                self._channel.resume_reading()
        elif self._stdin_ended:
            self._close_stdin()

    def _close_stdin(self) -> None:
        descriptor, self._stdin = self._stdin, None
        self._backlog = memoryview(b"")
        if descriptor is None:
            return
        if self._writer_watched:
            self._writer_watched = False
            self._loop.remove_writer(descriptor)
            if not self._closed:
                self._loop.call_soon(self._discard_input)
        os.close(descriptor)

    def _discard_input(self) -> None:
        if not self._closed:
            self._channel.resume_reading()

    def watch_outputs(self) -> None:
        """Read the process's output if the channel and the connection take more, else leave it in the pipe."""
        wanted = set() if self._congested or self._connection.congested or self._closed else set(self._outputs)
        for descriptor in self._watched - wanted:
            self._loop.remove_reader(descriptor)
        for descriptor in wanted - self._watched:
            self._loop.add_reader(descriptor, self._read_output, descriptor)
        self._watched = wanted

    def _read_output(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._channel.write(data, self._outputs[descriptor])
            return
        self._close_output(descriptor)
        self._finish()

    def _close_output(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.discard(descriptor)
            self._loop.remove_reader(descriptor)
        del self._outputs[descriptor]
        os.close(descriptor)

    def _finish(self) -> None:
        """Close the channel once the process has ended and all of its output has been passed on."""
        if self._outputs or self._closed:
            return
        self._channel.complete = True
        if self._exited:
            self._channel.close()
        else:
            self._channel.write_eof()

    def disconnect(self) -> None:
        """The client closed the channel or is gone: close the pipes now, and leave the process to draw its conclusions."""
        if not self._closed:
            self._closed = True
            self._close_pipes()

    def _close_pipes(self) -> None:
        self._close_stdin()
        for descriptor in list(self._outputs):
            self._close_output(descriptor)


_SIGNALS = signal.Signals
_SIGNAL_NUMBERS = {number.value for number in signal.Signals}


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
        self.bridges: set[_Bridge] = set()
        self._front = front

    def open_session(self) -> tuple[_Channel, _Bridge]:
        """Make a channel with its bridge; raises `ChannelOpenError` when the machine or the limit does not allow it."""
        if len(self.bridges) >= MAX_SESSIONS:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, f"This connection has {MAX_SESSIONS} sessions open, which is the limit")
        try:
            self._front.fleet.require_running(self.vm_id)
        except VersError as error:
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, str(error)) from error
        channel = _Channel(
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
        bridge = _Bridge(self._front, self)
        channel.bridge = bridge
        self.bridges.add(bridge)
        return channel, bridge

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

    async def listen(self, host: str, port: int) -> int:
        """Start to listen; the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Doorkeeper(self),
            host,
            port,
            ssl=self._context,
            backlog=512,
            ssl_handshake_timeout=_LOGIN_SECONDS,
            ssl_shutdown_timeout=1,
        )
        return int(self._server.sockets[0].getsockname()[1])

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
