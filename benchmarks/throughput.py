"""Large transfers and large outputs, against `scp` through the same TLS tunnel."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

from benchmarks.rig import Rig, Row, quiet, rss_mb
from langchain_vers._io import io

SIZE = 64 * 1024 * 1024
RUNS = 5


def transfers(rig: Rig) -> list[Row]:
    data = os.urandom(SIZE)
    here, back = rig.folder / "data", rig.folder / "back"
    here.write_bytes(data)
    options = ["-q", *rig.ssh_options()]
    steps: dict[str, Callable[[], object]] = {
        "write": lambda: io.run(rig.backend.write("/root/large", data)),
        "scp up": lambda: quiet("scp", *options, str(here), f"{rig.target}:/root/large"),
        "read": lambda: io.run(rig.backend.read("/root/large")),
        "scp down": lambda: quiet("scp", *options, f"{rig.target}:/root/large", str(back)),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(RUNS + 1):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - started)
    rate = {name: SIZE / (1 << 20) / statistics.median(values) for name, values in times.items()}
    up, down = rate["write"] / rate["scp up"], rate["read"] / rate["scp down"]
    return [
        Row(
            "64 MiB through the backend, against `scp` over the same TLS tunnel",
            "at least the throughput of `scp`",
            f"write {rate['write']:.0f} MiB/s ({up:.2f} times `scp`'s {rate['scp up']:.0f}), "
            f"read {rate['read']:.0f} MiB/s ({down:.2f} times `scp`'s {rate['scp down']:.0f})",
            up >= 1 and down >= 1,
        )
    ]


def flood(rig: Rig) -> list[Row]:
    io.run(rig.backend.exec("head -c 50000000 /dev/zero"))
    before = rss_mb()
    peak = before
    last = 0.0

    def watch(_: bytes) -> None:
        nonlocal peak, last
        if time.monotonic() - last > 0.05:
            last = time.monotonic()
            peak = max(peak, rss_mb())

    started = time.perf_counter()
    result = io.run(rig.backend.exec("head -c 1000000000 /dev/zero | tr '\\0' a | fold -w 79", on_output=watch))
    took = time.perf_counter() - started
    size = io.run(rig.backend.stat(result.log_path or "/nowhere")).size
    grown = max(peak, rss_mb()) - before
    return [
        Row(
            "`bash` with 1 GB of output",
            "under 64 MB of growth in this process, whole log on the machine",
            f"{grown:.1f} MB of growth, log of {size} bytes on the machine ({result.total_bytes} printed), {took:.1f} s",
            grown < 64 and size == result.total_bytes,
        )
    ]
