"""One shell's three pipes on this machine, read and written without blocking: what every session that runs here has in common.

Who the shell is, and what becomes of it when its pipes are closed, is the business of those that start it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from langchain_vers.errors import Unreachable

_CHUNK = 256 * 1024


class Pipes:
    """A `Process` (see `sessions`) out of three descriptors that do not block; it owns them. Coroutines of the I/O thread."""

    ended_cleanly = True

    def __init__(self, stdin: int, stdout: int, stderr: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._stdin: int | None = stdin
        self._outputs = {2: stderr, 1: stdout}
        for descriptor in (stdin, stdout, stderr):
            os.set_blocking(descriptor, False)

    async def send(self, data: bytes) -> None:
        """Write to the shell's input; waits while its pipe is full."""
        view = memoryview(data)
        while view:
            if self._stdin is None:
                raise Unreachable("the shell has ended")
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                await self._ready_for(self._stdin, self._loop.add_writer, self._loop.remove_writer)
            except OSError as error:
                raise Unreachable(f"the shell has ended: {error.strerror}") from error

    async def send_eof(self) -> None:
        """End the shell's input."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None

    async def receive(self) -> tuple[int, bytes]:
        """As `SSHProcess.receive`."""
        while self._outputs:
            for kind, descriptor in list(self._outputs.items()):
                try:
                    data = os.read(descriptor, _CHUNK)
                except BlockingIOError:
                    continue
                if data:
                    return kind, data
                os.close(self._outputs.pop(kind))
            await self.arrival()
        return 0, b""

    async def arrival(self) -> None:
        """As `SSHProcess.arrival`."""
        if not self._outputs:
            return
        arrived = asyncio.Event()
        descriptors = list(self._outputs.values())
        for descriptor in descriptors:
            self._loop.add_reader(descriptor, arrived.set)
        try:
            await arrived.wait()
        finally:
            for descriptor in descriptors:
                self._loop.remove_reader(descriptor)

    async def _ready_for(self, descriptor: int, add: Callable[..., None], remove: Callable[[int], object]) -> None:
        ready = asyncio.Event()
        add(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            remove(descriptor)

    def close(self) -> None:
        """Close the three pipes. May be called twice."""
        if self._stdin is not None:
            os.close(self._stdin)
            self._stdin = None
        while self._outputs:
            os.close(self._outputs.popitem()[1])
