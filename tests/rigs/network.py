"""A network on the loopback that can fail: a loop in a thread of its own, TCP relays that drop, stall and delay, and a TLS front."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")
_CHUNK = 64 * 1024


class NetworkThread:
    """An event loop in a thread, for servers that must go on while a test blocks. Not the package's own I/O thread, which is under test."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-network", daemon=True)
        self._thread.start()

    def do(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it."""
        return asyncio.run_coroutine_threadsafe(coro, self.loop).result(60)

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports that were aborted close their sockets in the loop's next rounds

    def close(self) -> None:
        self.do(self._end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(60)
        self.loop.close()


class Relay:
    """Passes bytes between its own port and another, as long as it is allowed to. Its methods may be called from any thread."""

    def __init__(self, network: NetworkThread, target: tuple[str, int]) -> None:
        self._network = network
        self.target = target
        self.delay = 0.0
        """Seconds that each piece of data waits, in each direction."""
        self.accepted = 0
        """Connections so far."""
        self._upstream_left: int | None = None
        self._downstream_left: int | None = None
        self._then_refuse = False
        self.refusing = False
        """Whether new connections are broken at once."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._server = network.do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]

    @property
    def endpoint(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    @property
    def open(self) -> int:
        """Connections that stand."""
        return len(self._pairs)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        pair = (writer, far_writer)
        self._pairs.add(pair)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, upstream=True))
                group.create_task(self._pump(far_reader, writer, upstream=False))
        except* OSError:
            pass
        finally:
            self._pairs.discard(pair)
            for each in pair:
                each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, upstream: bool) -> None:
        while data := await reader.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await self._flowing.wait()
            if self._used_up(len(data), upstream=upstream):
                self.refusing = self._then_refuse
                self._abort_all()
                return
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError  # either side's end is the connection's end

    def _used_up(self, count: int, *, upstream: bool) -> bool:
        name = "_upstream_left" if upstream else "_downstream_left"
        left: int | None = getattr(self, name)
        if left is None:
            return False
        setattr(self, name, left - count if left > count else None)
        return left <= count

    def drop_after(self, *, upstream: int | None = None, downstream: int | None = None, then_refuse: bool = False) -> None:
        """Break all connections once, when so many more bytes have come towards the target, or from it; perhaps refuse new ones then."""
        self._then_refuse = then_refuse
        self._upstream_left, self._downstream_left = upstream, downstream

    def _abort_all(self) -> None:
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    def _call(self, function: Callable[[], object]) -> None:
        async def act() -> None:
            function()

        self._network.do(act())

    def drop(self) -> None:
        """Break all connections (reset, not a clean end)."""
        self._call(self._abort_all)

    def stall(self) -> None:
        """Pass on nothing more, and break nothing."""
        self._call(self._flowing.clear)

    def resume(self) -> None:
        self._call(self._flowing.set)

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            self._flowing.set()
            self._abort_all()

        self._network.do(end())


class TlsFront:
    """Ends TLS and passes on to the server that the client named by SNI, as the platform's front does."""

    def __init__(self, network: NetworkThread, context: ssl.SSLContext, targets: dict[str, tuple[str, int]]) -> None:
        self._network = network
        self.targets = targets
        self._asked: WeakKeyDictionary[ssl.SSLObject | ssl.SSLSocket, str] = WeakKeyDictionary()
        context.sni_callback = self._on_name
        self._server = network.do(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context))
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()[:2]

    @property
    def endpoint(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def _on_name(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        if name is None or name not in self.targets:
            return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
        self._asked[connection] = name
        return None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            target = self.targets[self._asked[writer.get_extra_info("ssl_object")]]
            far_reader, far_writer = await asyncio.open_connection(*target)
        except (KeyError, OSError):
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pass_on(reader, far_writer))
                group.create_task(_pass_on(far_reader, writer))
        except* OSError:
            pass
        finally:
            # What the server said last still goes out; what the client says after its end goes nowhere.
            far_writer.transport.abort()
            writer.close()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()

        self._network.do(end())


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError  # either side's end is the connection's end
