"""Many connections held in one process, and a command on each of them at once. Run in a process of its own: memory is what it measures."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

from benchmarks.rig import Rig, Row, rss_mb
from langchain_vers._io import io
from langchain_vers.backends.vers import VersBackend

COUNT = 200
AT_A_TIME = 10


def measure(rig: Rig) -> list[Row]:
    io.run(rig.backend.exec("true"))
    gc.collect()
    before = rss_mb()
    threads_before = threading.active_count()
    backends = [VersBackend(rig.client, rig.vm_id) for _ in range(COUNT)]

    async def connect() -> None:
        gate = asyncio.Semaphore(AT_A_TIME)

        async def one(backend: VersBackend) -> None:
            async with gate:
                await backend.exec("true")

        await asyncio.gather(*(one(backend) for backend in backends))
        await asyncio.sleep(3)  # the next sessions are opened in the meantime

    async def sleep_on_all() -> float:
        started = time.perf_counter()
        results = await asyncio.gather(*(backend.exec("sleep 1") for backend in backends))
        assert all(result.exit_code == 0 for result in results)
        return time.perf_counter() - started

    io.run(connect())
    gc.collect()
    each = (rss_mb() - before) / COUNT
    took = io.run(sleep_on_all())
    threads = threading.active_count() - threads_before
    io.run(_close(backends))
    return [
        Row(
            f"{COUNT} connections held, `sleep 1` on each at once",
            "all done within 2.5 s; at most 0.5 MB each in this process; no thread per command",
            f"{took:.2f} s; {each:.2f} MB each; {threads / COUNT:.2f} threads per connection (paramiko's own reader)",
            took <= 2.5 and each <= 0.5 and threads <= COUNT + 40,
        )
    ]


async def _close(backends: list[VersBackend]) -> None:
    await asyncio.gather(*(backend.close() for backend in backends))
