"""How many network round trips a warm call takes: its time over a delaying proxy, at two delays; the slope is the count."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.rig import Rig, Row
from langchain_vers._io import io
from langchain_vers.backends.vers import VersBackend
from langchain_vers.context import BackendContext
from langchain_vers.platform import Credentials, Endpoints, VersClient
from langchain_vers.toolkit import VersToolkit

DELAYS = (0.05, 0.2)
"""Round-trip times in seconds that the proxy adds."""
RUNS = 7

Step = Callable[[], Coroutine[Any, Any, object]]


class DelayingProxy:
    """Forwards TCP connections; each byte arrives half a round trip later, in both directions, however many are under way."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self.round_trip = 0.0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.ensure_future(self._forward(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while data := await source.read(1 << 18):
            loop.call_later(self.round_trip / 2, sink.write, data)
        loop.call_later(self.round_trip / 2, sink.close)

    async def close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _slope(
    proxy: DelayingProxy, prepare: Callable[[], Coroutine[Any, Any, object]], call: Callable[[], Coroutine[Any, Any, object]]
) -> float:
    medians = []
    for delay in DELAYS:
        proxy.round_trip = delay
        times = []
        for _ in range(RUNS):
            await prepare()
            started = time.perf_counter()
            await call()
            times.append(time.perf_counter() - started)
        medians.append(statistics.median(times))
    return (medians[1] - medians[0]) / (DELAYS[1] - DELAYS[0])


def measure(rig: Rig) -> list[Row]:
    host, port = rig.server.ssh_endpoint
    proxy = DelayingProxy(host, port)
    proxied = io.run(proxy.start())
    endpoints = Endpoints.resolve(rig.server.base_url, f"127.0.0.1:{proxied}", rig.server.ca_file)
    client = VersClient(Credentials(lambda: rig.server.api_key), endpoints)
    backend = VersBackend(client, rig.vm_id)
    data = b"0123456789abcdef" * 4096
    target = max(DELAYS) * 5  # time for the pool to open the next sessions, which is not the call's own

    async def rest() -> None:
        await asyncio.sleep(target)

    async def run() -> dict[str, float]:
        await asyncio.gather(*(backend.exec("true") for _ in range(3)))
        await backend.write("/root/bench", data)
        found = {
            "bash": await _slope(proxy, rest, lambda: backend.exec("true")),
            "write": await _slope(proxy, rest, lambda: backend.write("/root/bench", data)),
            "read": await _slope(proxy, rest, lambda: backend.read("/root/bench")),
        }
        found["edit"] = await _edits(proxy, backend, rest)
        return found

    try:
        found = io.run(run())
    finally:
        io.run(backend.close())
        io.run(client.aclose())
        io.run(proxy.close())
    wanted = {"bash": 1, "read": 1, "write": 1, "edit": 2}
    return [
        Row(
            "round trips of a warm call (slope over two delays)",
            "`bash` 1, `read` and `write` (64 KB) 1, `edit` 2, each within 0.2",
            ", ".join(f"`{name}` {found[name]:.2f}" for name in wanted),
            all(abs(found[name] - count) <= 0.2 for name, count in wanted.items()),
        )
    ]


async def _edits(proxy: DelayingProxy, backend: VersBackend, rest: Step) -> float:
    """The edit tool itself, on a context whose only machine is the proxied one."""
    context = BackendContext(local=False)
    context.register("bench", backend)
    toolkit = VersToolkit(context=context)
    tools = {tool.name: tool for tool in toolkit.get_tools()}
    await tools["use_backend"].ainvoke({"name": "bench"})
    await backend.write("/root/edited", b"count 0\n")
    count = 0

    async def edit() -> None:
        nonlocal count
        await tools["edit"].ainvoke({"path": "/root/edited", "old_text": f"count {count}\n", "new_text": f"count {count + 1}\n"})
        count += 1

    return await _slope(proxy, rest, edit)
