"""SSH to one machine: a connection that many calls share, and processes on its channels.

What carries its bytes is a `Wire`: a network connection, inside TLS or not, or a channel of a connection to a jump host. Whom to trust and
how to log in is the `Peer`'s business. A connection stays open; it knows nothing of commands, files or pools: `backends/` decides what to
run and how many connections to hold.
"""

from __future__ import annotations

import asyncio
import contextlib
import io as stdio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import paramiko
from paramiko.transport import ChannelMap
from pydantic import SecretStr

from langchain_vers._io import io, to_thread
from langchain_vers.errors import BadInput, Unreachable
from langchain_vers.platform.loop_socket import LoopSocket
from langchain_vers.platform.peers import Peer, fingerprint, translated
from langchain_vers.platform.wires import ChannelWire, Wire

WINDOW = 8 * 1024 * 1024
"""Receive window of a channel in bytes: what may be under way towards us, and so also the most that one channel can hold in memory."""
KEEPALIVE_SECONDS = 15
OPEN_SECONDS = 30.0
"""How long a machine may take to start a process on a connection that stands."""
_OPENINGS = 4
"""Channels of one connection that are being opened at once. Each takes a thread of the shared pool, which one silent machine must not use
up.
"""
_BULK = 256 * 1024
"""Bytes from which a send does not keep others of its connection waiting: less than any server's first window, so that smaller ones
do not wait for the machine.
"""
_LINGER_SECONDS = 5.0
"""How long a shell that has ended its output may take to tidy up before its channel is closed over its head."""
_SMALL = 4096
_PACKET = 32 * 1024
_REKEY_BYTES = 1 << 36
"""After so many bytes keys are renewed, as OpenSSH does with AES (2**32 blocks); paramiko's own 512 MB only stalls long transfers."""
_REKEY_PACKETS = 1 << 31
"""The same in packets: the most that RFC 4344 allows."""


def load_private_key(text: SecretStr) -> paramiko.PKey:
    """Read an OpenSSH or PEM private key; it stays in memory.

    Raises:
        BadInput: it is not a private key (the message does not quote it).

    """
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        with contextlib.suppress(Exception):  # each class raises its own errors for another class's keys, and they may quote the key
            return kind.from_private_key(stdio.StringIO(text.get_secret_value()))
    raise BadInput("the platform's SSH key is not a private key that paramiko can read; ask for the machine's key again")


class SSHConnection:
    """One SSH connection to one machine. Coroutines of the I/O thread."""

    def __init__(self, sock: Wire, transport: paramiko.Transport, peer: Peer) -> None:
        self._sock = sock
        self._transport = transport
        self.peer = peer
        self.below: SSHConnection | None = None
        """The connection to the jump host whose channel carries this one, and which ends with it."""
        self.fingerprint = fingerprint(transport.get_remote_server_key())
        self._openings = asyncio.Semaphore(_OPENINGS)
        self.sending = asyncio.Lock()
        """Held while a thread of the shared pool sends for this connection: one that is stuck must not use up the pool."""
        io.at_close(self, self.close)

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        *,
        server_name: str,
        context: ssl.SSLContext,
        private_key: SecretStr,
        username: str = "root",
        pinned: str | None = None,
        timeout: float = 30.0,
    ) -> SSHConnection:
        """Connect inside TLS, check the host key against `pinned` (a `fingerprint`; None accepts any), log in.

        `timeout` in seconds bounds it all. Raises what `over` raises; `Unreachable` also for a certificate that is not the expected one.
        """
        key = load_private_key(private_key)

        def check(found: paramiko.PKey) -> None:
            if pinned is not None and fingerprint(found) != pinned:
                raise Unreachable(
                    f"{server_name} answered with SSH host key {fingerprint(found)}, but {pinned} was pinned when the thread was attached; "
                    "if the machine was rebuilt on purpose, attach to it again with vers_vm_use"
                )

        def log_in(transport: paramiko.Transport) -> None:
            transport.auth_publickey(username, key)

        peer = Peer(server_name, check, log_in, f"{host}:{port}")
        return await cls.over(partial(LoopSocket.connect, host, port, server_name=server_name, context=context), peer, timeout=timeout)

    @classmethod
    async def over(cls, connect: Callable[[], Awaitable[Wire]], peer: Peer, *, timeout: float = 30.0) -> SSHConnection:
        """Have the wire laid, check the host key, log in. `timeout` in seconds bounds it all.

        Raises:
            Unreachable: nobody answers, or not the machine that was meant.
            Denied: the machine refuses the login.
            DeadlineExceeded: it took longer than `timeout`.

        """
        sock: Wire | None = None
        transport: paramiko.Transport | None = None
        try:
            async with translated(peer, opening=True), asyncio.timeout(timeout):
                sock = await connect()
                transport = await io.blocking(_handshake, sock, peer.key_types, timeout)
                await io.blocking(peer.check, transport.get_remote_server_key())
                await io.blocking(peer.log_in, transport)
                transport.set_keepalive(KEEPALIVE_SECONDS)
                return cls(sock, transport, peer)
        except BaseException:
            if sock is not None:
                sock.close()
            if transport is not None:
                io.in_background(transport.close)  # which waits for paramiko's thread
            if sock is not None:
                await sock.wait_closed()
            raise

    @property
    def alive(self) -> bool:
        """Whether the connection stands, as far as this side knows."""
        return self._transport.is_active() and not self._sock.ended

    async def start(self, command: str, *, timeout: float | None = None) -> SSHProcess:
        """Run a command on a channel of its own. `timeout` is in seconds (None: `OPEN_SECONDS`).

        Raises:
            Unreachable: the connection is broken, or the machine refuses a further channel.
            DeadlineExceeded: no answer within `timeout` seconds.

        """
        timeout = OPEN_SECONDS if timeout is None else timeout
        async with translated(self.peer), asyncio.timeout(timeout), self._openings:
            opening = asyncio.ensure_future(io.blocking(self._open_channel, command, timeout))
            try:
                channel = await asyncio.shield(opening)
            except BaseException:
                opening.add_done_callback(_close_late)
                raise
        return SSHProcess(self, channel)

    async def wire_to(self, host: str, port: int, *, timeout: float) -> ChannelWire:
        """A connection to another machine, which this one makes on its side. `timeout` is in seconds.

        Raises:
            Unreachable: this connection is broken, or the machine does not reach the other one, or must not.
            DeadlineExceeded: no answer within `timeout` seconds.

        """
        async with translated(self.peer), asyncio.timeout(timeout):
            opening = asyncio.ensure_future(io.blocking(self._open_way, host, port, timeout))
            try:
                return ChannelWire(await asyncio.shield(opening))
            except BaseException:
                opening.add_done_callback(_close_late)
                raise

    def _open_way(self, host: str, port: int, timeout: float) -> paramiko.Channel:
        try:
            return self._transport.open_channel("direct-tcpip", (host, port), ("127.0.0.1", 0), window_size=WINDOW, timeout=timeout)
        except paramiko.ChannelException as error:
            raise Unreachable(
                f"the jump host {self.peer.name} did not connect to {host}:{port} ({error.text}); check the name, and that the jump host "
                "may forward connections"
            ) from error

    def _open_channel(self, command: str, timeout: float) -> paramiko.Channel:
        channel = self._transport.open_session(window_size=WINDOW, timeout=timeout)
        try:
            channel.settimeout(timeout)
            channel.exec_command(command)
            channel.settimeout(None)
        except BaseException:
            channel.close()
            raise
        return channel

    async def close(self) -> None:
        """Close the connection; processes on it see their input end."""
        io.forget(self)
        self._sock.close()  # wakes paramiko's thread, whose end its own close() waits for
        try:
            await to_thread(self._transport.close)
        finally:
            await self._sock.wait_closed()
            if self.below is not None:
                await self.below.close()


class SSHProcess:
    """A process on the other side: bytes to its input, bytes from its two outputs. Coroutines of the I/O thread."""

    def __init__(self, connection: SSHConnection, channel: paramiko.Channel) -> None:
        self._connection = connection
        self._channel = channel
        self._wake = asyncio.Event()
        self._released = False
        self._broken = False
        self._taking: tuple[int, asyncio.Future[bytes]] | None = None
        self.received = 0
        """Pieces of output so far."""
        self.on_close: Callable[[], None] = lambda: None
        """Called once, when the channel has been closed."""
        signal = _ThreadsafeEvent(asyncio.get_running_loop(), self._wake)
        # paramiko only ever calls set() and clear() of what its types say is a threading.Event.
        channel.in_buffer.set_event(signal)  # type: ignore[arg-type]  # see above
        channel.in_stderr_buffer.set_event(signal)  # type: ignore[arg-type]  # see above

    @property
    def open(self) -> bool:
        """Whether it was not given back yet, and the other side has not closed it."""
        return not self._released and not self._broken and not self._channel.closed

    @property
    def ended_cleanly(self) -> bool:
        """Whether the other side said that all output has been sent, as opposed to a connection that broke."""
        # Not every server says EOF before it closes a channel; an exit status comes from a process that has ended, either way.
        return not self._broken and (bool(self._channel.eof_received) or self._channel.exit_status != -1)

    async def send(self, data: bytes) -> None:
        """Send to the process's standard input; waits while its window is full.

        Raises:
            Unreachable: the channel or the connection is closed.

        """
        async with translated(self._connection.peer):
            if len(data) > _BULK:
                await asyncio.to_thread(_send_all, self._channel, data)
            else:
                async with self._connection.sending:
                    await io.blocking(_send_all, self._channel, data)

    async def send_eof(self) -> None:
        """End the process's standard input."""
        async with translated(self._connection.peer), self._connection.sending:
            await io.blocking(self._channel.shutdown_write)

    async def receive(self) -> tuple[int, bytes]:
        """The next bytes of output: (1, data) from stdout, (2, data) from stderr, (0, b"") when both have ended. Cancelling loses
        nothing.
        """
        while self._taking is None:
            if self._broken:
                return 0, b""
            channel = self._channel
            # Asked for first: paramiko's thread goes on between these questions, and what came before the end must not be lost.
            ended = channel.eof_received or channel.closed
            if channel.recv_stderr_ready():
                kind, recv = 2, channel.recv_stderr
            elif channel.recv_ready():
                kind, recv = 1, channel.recv
            elif ended:
                return 0, b""
            else:
                await self.arrival()
                continue
            # recv() sends a window adjustment once a tenth of the window has been read; that can wait for a key exchange, and so must not
            # happen on the I/O thread. Below that threshold it is a copy from memory, done here.
            room = channel.in_window_threshold - channel.in_window_sofar
            self.received += 1
            if room > _SMALL:
                return kind, recv(room)
            self._taking = kind, asyncio.ensure_future(io.blocking(recv, WINDOW))
        kind, taking = self._taking
        try:
            data = await asyncio.shield(taking)
        except (EOFError, OSError, paramiko.SSHException):
            # The connection broke under the window adjustment, and what was taken is lost with it: what lies behind it must not follow.
            self._taking, self._broken = None, True
            return 0, b""
        self._taking = None
        return kind, data

    async def arrival(self) -> None:
        """Wait until `receive` has something to give."""
        while self._taking is None and not self._broken:
            self._wake.clear()
            channel = self._channel
            if channel.recv_stderr_ready() or channel.recv_ready() or channel.eof_received or channel.closed:
                return
            await self._wake.wait()

    def close(self) -> None:
        """Give the channel back: the process sees the end of its input. Does not wait."""
        if not self._released:
            self._released = True
            task = asyncio.get_running_loop().create_task(self._finish())
            _finishing.add(task)
            task.add_done_callback(_finishing.discard)

    async def _finish(self) -> None:
        """Close the channel, and report it as free when the server no longer counts it: when the process has ended, as far as that is
        near.
        """
        if self._channel.eof_received:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_SECONDS):
                    while not self._channel.closed:
                        self._wake.clear()
                        if not self._channel.closed:
                            await self._wake.wait()
        with contextlib.suppress(RuntimeError):  # interpreter exit: the pool takes no more calls, and the connection goes with the process
            await io.blocking(_close_channel, self._channel)
        self.on_close()


_finishing: set[asyncio.Task[None]] = set()
"""Channels that are being closed; the event loop itself keeps no strong reference to its tasks."""


def _send_all(channel: paramiko.Channel, data: bytes) -> None:
    # Channel.sendall copies the whole rest for each packet, which is quadratic for large data.
    view = memoryview(data)
    while view:
        view = view[channel.send(bytes(view[:_PACKET])) :]


def _close_channel(channel: paramiko.Channel) -> None:
    with contextlib.suppress(Exception):  # the connection may be gone, which closes it as well
        channel.close()


def _close_late(opening: asyncio.Future[paramiko.Channel]) -> None:
    """A channel that opened after its caller had given up is closed."""
    if not opening.cancelled() and opening.exception() is None:
        io.in_background(_close_channel, opening.result())


class _ThreadsafeEvent:
    """What paramiko sets when bytes have arrived, forwarded to an asyncio event."""

    def __init__(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        self._loop = loop
        self._event = event

    def set(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._event.set)

    def clear(self) -> None:
        """Clearing is the reader's business."""


class _Channels(ChannelMap):
    """The channels of a connection, each of which knows it as soon as it is among them.

    paramiko (5.1) tells a channel of its connection after that. When the connection ends at that very moment, paramiko's thread fails over
    such a channel, with a traceback, and wakes nobody who waits.
    """

    def __init__(self, transport: paramiko.Transport) -> None:
        super().__init__()
        self._transport = transport

    def put(self, chanid: int, chan: paramiko.Channel) -> None:
        """See `ChannelMap.put`."""
        chan._set_transport(self._transport)  # type: ignore[attr-defined]  # what Transport.open_channel does next
        super().put(chanid, chan)


def _handshake(sock: Wire, key_types: Sequence[str], timeout: float) -> paramiko.Transport:
    transport = paramiko.Transport(sock)  # type: ignore[arg-type]  # it has what paramiko needs of a socket
    transport._channels = _Channels(transport)  # type: ignore[attr-defined]  # no other way leads there
    transport.packetizer.REKEY_BYTES = _REKEY_BYTES
    transport.packetizer.REKEY_PACKETS = _REKEY_PACKETS
    options = transport.get_security_options()
    preferred = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
    options.ciphers = [*preferred, *(cipher for cipher in options.ciphers if cipher not in preferred)]
    wanted = [kind for kind in key_types if kind in options.key_types]
    options.key_types = [*wanted, *(kind for kind in options.key_types if kind not in wanted)]
    try:
        transport.start_client(timeout=timeout)
    except BaseException:
        transport.close()
        raise
    return transport
