"""One process in a container over the connection that its engine has handed over: read and written by the I/O loop, with no thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from langchain_vers.backends.frames import EndMark, Frames
from langchain_vers.errors import Unreachable

_CHUNK = 256 * 1024
_ENOUGH = 1024 * 1024
"""Bytes that are taken off the connection before the caller takes them, so that a slow caller slows the command down."""
HELD_SECONDS = 0.05
"""How long bytes that may be the end mark's beginning wait for the rest of it, which was written in one piece."""


class Connection(Protocol):
    """A connection over which an engine passes a process's streams on."""

    sock: socket.socket
    """Plain or TLS; does not block."""
    early: bytes
    """What had arrived together with the answer to the request."""

    def close(self) -> None:
        """Close it, without waiting."""


class DockerProcess:
    """A `sessions.Process`. `ended` is asked when the streams end without the end marks: did the process end by itself, or was it lost?"""

    def __init__(self, connection: Connection, mark: str, ended: Callable[[], Awaitable[bool]]) -> None:
        self._connection = connection
        self._sock = connection.sock
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        # The engine copies the two streams side by side, so that either may be ahead of the other.
        self._ends = {1: EndMark(mark), 2: EndMark(mark)}
        self._ended = ended
        self._received: deque[tuple[int, bytes]] = deque()
        self._over = False
        self._asking: asyncio.Future[bool] | None = None
        self._closed = False
        self.ended_cleanly = False
        self.on_close: Callable[[], None] = lambda: None
        self._take(connection.early)

    # --- input ---

    async def send(self, data: bytes) -> None:
        """Write to the process's input; waits while the engine takes no more."""
        view = memoryview(data)
        while view:
            if self._closed:
                raise Unreachable("the session was closed")
            try:
                view = view[self._sock.send(view) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await self._wait(self._loop.add_writer, self._loop.remove_writer)
            except ssl.SSLWantReadError:
                await self._wait(self._loop.add_reader, self._loop.remove_reader)
            except OSError as error:
                raise Unreachable(f"the connection to the container engine broke: {error.strerror or error}") from error

    async def send_eof(self) -> None:
        """End the process's input. Its output goes on."""
        if self._closed:
            return
        with contextlib.suppress(OSError):  # it is broken: then the engine ends the input itself
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.unwrap()  # says that nothing more comes, and does not wait for the same from the other side
            else:
                self._sock.shutdown(socket.SHUT_WR)

    # --- output ---

    @property
    def waiting(self) -> bool:
        """Whether the other end is still there and has nothing to say, as is right for a session that waits for its call."""
        return self._pull() is None and not self._over and not self._received

    async def receive(self) -> tuple[int, bytes]:
        """As `Process.receive`."""
        while not self._received:
            if self._over:
                await self._settle()
                return 0, b""
            if not self._pull():
                await self._readable()
        return self._received.popleft()

    async def arrival(self) -> None:
        """As `Process.arrival`."""
        while not self._received and not self._over:
            if not self._pull():
                await self._readable()

    def _pull(self) -> bool | None:
        """Take what has arrived; None if nothing has."""
        if self._closed:
            self._over = True
            return True
        taken = 0
        while taken < _ENOUGH and not self._over:
            try:
                data = self._sock.recv(_CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError:
                data = b""
            if not data:
                self._over = True
                self._release()
                return True
            taken += len(data)
            self._take(data)
        return True if taken else None

    def _take(self, data: bytes) -> None:
        for kind, part in self._frames.feed(data):
            if output := self._ends[kind].feed(part):
                self._received.append((kind, output))
        if all(end.found for end in self._ends.values()):
            self._over = self.ended_cleanly = True

    def _release(self) -> None:
        for kind, end in self._ends.items():
            if held := end.release():
                self._received.append((kind, held))

    async def _readable(self) -> None:
        if not any(end.held for end in self._ends.values()):
            await self._wait(self._loop.add_reader, self._loop.remove_reader)
            return
        try:
            async with asyncio.timeout(HELD_SECONDS):
                await self._wait(self._loop.add_reader, self._loop.remove_reader)
        except TimeoutError:
            self._release()

    async def _wait(self, add: Callable[..., None], remove: Callable[[int], object]) -> None:
        ready = asyncio.Event()
        descriptor = self._sock.fileno()
        if descriptor < 0:
            return
        add(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            if self._sock.fileno() == descriptor:
                remove(descriptor)

    async def _settle(self) -> None:
        """Find out what the end of the stream means, once."""
        if self.ended_cleanly or self._closed:
            return
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ended())
        answer = await asyncio.shield(self._asking)
        self.ended_cleanly = answer and self._frames.whole

    def close(self) -> None:
        """Give the connection back; the end of its input makes a command's watcher kill it."""
        if self._closed:
            return
        self._closed = True
        descriptor = self._sock.fileno()
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
        self._connection.close()
        self.on_close()
