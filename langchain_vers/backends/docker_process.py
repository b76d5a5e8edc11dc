"""Processes in a container over the connections that its engine hands over: read and written by the I/O loop, with no thread.

To start a process in a container takes an engine some 90 ms, most of it the processor's. So what is started is a loop (`serve`), which
starts one session's shell after the other on the same connection, in 5 ms each. A connection is used again only when everything that was
sent on it has been read, and the end marks say that everything that was to come has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import socket
import ssl
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from langchain_vers.backends import guest
from langchain_vers.backends.frames import EndMark, Frames, end_marks
from langchain_vers.errors import Unreachable

_CHUNK = 256 * 1024
_ENOUGH = 1024 * 1024
"""Bytes that are taken off the connection before the caller takes them, so that a slow caller slows the command down."""
_SENDS = 3
"""What is sent for a call that needs no input: the session's mark, its functions, the call."""
HELD_SECONDS = 0.05
"""How long bytes that may be the end mark's beginning wait for the rest of it, which was written in one piece."""


def serve(largest: int | None = None) -> str:
    """The shell program that a connection is for: for each line, a session's mark, it runs that session, then prints its end marks.
    No file can be made larger than `largest` bytes.

    Each session's shell leads a session of its own, so that all of its processes can be told from the loop's; where there is no `setsid`
    the loop itself becomes the one session. A shell that was killed ends the loop: its watcher may still have something to say.
    """
    mark = '"$m"'
    boot = guest.boot(mark)
    # In blocks of 512 bytes, by POSIX. Not by the engine: Podman's then sets all other limits of this kind to its own defaults.
    limit = "" if largest is None else f"ulimit -f {largest // 512} 2>/dev/null; "
    return (
        f"{limit}command -v setsid >/dev/null 2>&1 || {{ IFS= read -r m; {boot}; }}; "
        f"while IFS= read -r m; do m=$m setsid sh -c {shlex.quote(boot)} || [ $? -lt 128 ] || exit; {end_marks(mark)}; done"
    )


class Connection(Protocol):
    """A connection over which an engine passes a process's streams on."""

    sock: socket.socket
    """Plain or TLS; does not block."""
    early: bytes
    """What had arrived together with the answer to the request."""

    def close(self) -> None:
        """Close it, without waiting."""


Handed = Callable[[Connection | None], None]


class DockerProcess:
    """One session's shell, as a `sessions.Process`. `mark` is the session's.

    `ended` is asked when the streams end without the end marks: did the process end by itself, or was it lost? `on_close` is given the
    connection when it can be used again, else None.
    """

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
        self._sent = 0
        self._ended_input = self._broken = False
        self._surplus = False
        self.ended_cleanly = False
        self.on_close: Handed = lambda _: None
        early, connection.early = connection.early, b""
        self._take(early)

    # --- input ---

    async def begin(self, mark: str) -> None:
        """Have the loop at the other end start the session."""
        await self.send(f"{mark}\n".encode())

    async def send(self, data: bytes) -> None:
        """Write to the process's input; waits while the engine takes no more."""
        self._sent += 1
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
        self._ended_input = True
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
                self._broken = True
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
            self._surplus = self._surplus or self._ends[kind].found
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
        if self.ended_cleanly or self._closed or self._broken:
            return
        if self._asking is None:
            self._asking = asyncio.ensure_future(self._ended())
        answer = await asyncio.shield(self._asking)
        self.ended_cleanly = answer and self._frames.whole

    @property
    def _reusable(self) -> bool:
        # The loop has read the mark, the shell its functions and its call. Whether it has read more cannot be known.
        read = self._sent == _SENDS and not self._ended_input
        return read and all(end.found for end in self._ends.values()) and self._frames.whole and not self._surplus

    def close(self) -> None:
        """Give the connection back; the end of its input makes a command's watcher kill it."""
        if self._closed:
            return
        self._closed = True
        descriptor = self._sock.fileno()
        if descriptor >= 0:
            self._loop.remove_reader(descriptor)
            self._loop.remove_writer(descriptor)
        if self._reusable:
            self.on_close(self._connection)
            return
        self._connection.close()
        self.on_close(None)
