"""A network connection of the I/O thread, TLS or plain, shown to paramiko as a blocking socket.

paramiko reads in one thread and writes from others, which one `ssl.SSLSocket` does not survive (`DECRYPTION_FAILED_OR_BAD_RECORD_MAC` under
load). So asyncio alone owns the TLS state, and the two sides meet in a buffer with back-pressure both ways: no socket pair, no pump, no
second copy through the kernel. SSH itself is `tunnel.py`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections import deque

_READ_HIGH = 4 * 1024 * 1024
"""Bytes that may wait for paramiko before reading from the network pauses."""
_WRITE_HIGH = 1024 * 1024
"""Bytes that may wait for the network before paramiko's threads have to wait."""
_GOODBYE_SECONDS = 1.0
_POLL_SECONDS = 5.0
"""How often an idle `recv` lets paramiko look at its keepalive timer. paramiko asks for 0.1 s: 2,000 wake-ups a second for 200
connections.
"""


class LoopSocket(asyncio.Protocol):
    """What `paramiko.Transport` needs of a socket, over an asyncio transport. `send` and `recv` must not be called on the I/O thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._lock = threading.Lock()
        self._readable = threading.Condition(self._lock)
        self._writable = threading.Event()
        self._chunks: deque[memoryview] = deque()
        self._buffered = 0
        self._reading_paused = False
        self._unsent = 0
        self._ended = False
        self._closed = False  # paramiko looks at this name
        self._lost = asyncio.Event()
        self.error: BaseException | None = None

    @classmethod
    async def connect(cls, host: str, port: int, *, server_name: str | None = None, context: ssl.SSLContext | None = None) -> LoopSocket:
        """Open a plain connection, or with `context` a verified TLS one with `server_name` as SNI and as the name of the certificate.

        Raises:
            OSError, ssl.SSLError: as asyncio raises them.

        """
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(
            cls,
            host,
            port,
            ssl=context,
            server_hostname=None if context is None else server_name,
            ssl_shutdown_timeout=None if context is None else _GOODBYE_SECONDS,
        )
        return protocol

    # --- the asyncio side, on the I/O thread ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_HIGH)
        self._writable.set()
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                # A keepalive that nobody acknowledges ends the connection: a network that vanished is noticed within half a minute.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        with self._lock:
            self._chunks.append(memoryview(data))
            self._buffered += len(data)
            if self._buffered > _READ_HIGH and not self._reading_paused and self._transport is not None:
                self._reading_paused = True
                self._transport.pause_reading()
            self._readable.notify()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`."""
        self._end(None)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._end(exc)
        self._lost.set()

    async def wait_closed(self) -> None:
        """Wait until the network side is closed as well; a peer that does not say goodbye in time, or as long as it is waited for, is left
        without.
        """
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._lost.wait()
        except TimeoutError:
            self._abort()
            await self._lost.wait()
        except asyncio.CancelledError:
            self._abort()
            raise

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._writable.set()

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            self._ended = True
            self.error = self.error or error
            self._readable.notify_all()
        self._writable.set()

    def _resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _close_transport(self) -> None:
        # A second close() would make a later abort() fail on early releases of Python 3.11.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def ended(self) -> bool:
        """Whether the connection is over, whoever ended it."""
        return self._ended

    # --- the socket side, on paramiko's threads ---

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end. Raises `TimeoutError` now and then while idle, so that paramiko can send its keepalives."""
        with self._lock:
            if not self._chunks and not self._ended and not self._readable.wait_for(lambda: self._chunks or self._ended, _POLL_SECONDS):
                raise TimeoutError
            if not self._chunks:
                return b""
            chunk = self._chunks[0]
            if len(chunk) <= size:
                self._chunks.popleft()
            else:
                self._chunks[0] = chunk[size:]
                chunk = chunk[:size]
            self._buffered -= len(chunk)
            resume = self._reading_paused and self._buffered < _READ_HIGH // 2
            if resume:
                self._reading_paused = False
        if resume:
            with contextlib.suppress(RuntimeError):  # the loop is gone: interpreter exit
                self._loop.call_soon_threadsafe(self._resume_reading)
        return bytes(chunk)

    def send(self, data: bytes) -> int:
        """Hand all of `data` to the I/O thread; waits while the network is behind."""
        self._writable.wait()
        if self._ended:
            raise ConnectionResetError("the connection is closed")
        try:
            self._loop.call_soon_threadsafe(self._write, bytes(data))
        except RuntimeError as error:
            raise ConnectionResetError("the I/O thread has ended") from error
        return len(data)

    def settimeout(self, seconds: float | None) -> None:
        """Ignored: see `_POLL_SECONDS`."""

    def close(self) -> None:
        """Close both sides; waiting `recv` and `send` calls return at once. Safe on any thread."""
        self._closed = True
        self._end(None)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._close_transport)

    def getpeername(self) -> tuple[str, int]:
        """The peer's address, which paramiko logs."""
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return (str(peer[0]), int(peer[1])) if peer else ("unknown", 0)
