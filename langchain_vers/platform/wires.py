"""What carries the bytes of an SSH connection, and the one that is a channel of another SSH connection.

Network connections are `loop_socket`'s business. paramiko takes both for sockets.
"""

from __future__ import annotations

from typing import Protocol

import paramiko

from langchain_vers._io import io

_POLL_SECONDS = 5.0
"""How often an idle `recv` lets paramiko look at its keepalive timer, as in `loop_socket`."""


class Wire(Protocol):
    """A connection that has been made. Beside this it has what `paramiko.Transport` needs of a socket."""

    @property
    def ended(self) -> bool:
        """Whether it is over, whoever ended it."""

    def close(self) -> None:
        """Close both sides; waiting calls return at once. Safe on any thread."""

    async def wait_closed(self) -> None:
        """Wait until nothing of it is open any more."""


class ChannelWire:
    """A channel of the connection to a jump host, from where it goes on to another machine."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._closed = False  # paramiko looks at this name
        channel.settimeout(_POLL_SECONDS)

    @property
    def ended(self) -> bool:
        """See `Wire`."""
        return bool(self._channel.closed or self._channel.eof_received)

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; b"" at the end. Raises `TimeoutError` now and then while idle."""
        return self._channel.recv(size)

    def send(self, data: bytes) -> int:
        """Send some of `data`; how many bytes."""
        sent = self._channel.send(data)
        if sent == 0 and data:
            raise ConnectionResetError("the connection to the jump host is closed")
        return sent

    def settimeout(self, seconds: float | None) -> None:
        """Ignored: see `_POLL_SECONDS`."""

    def close(self) -> None:
        """See `Wire`."""
        self._closed = True
        # It tells the jump host, which may have to wait for the network and so for the I/O thread.
        io.in_background(self._channel.close)

    async def wait_closed(self) -> None:
        """See `Wire`: nothing is left of a channel that has been closed."""

    def getpeername(self) -> tuple[str, int]:
        """What paramiko logs of the peer."""
        return ("jump host", 0)
