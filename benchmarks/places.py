"""What a command costs in the other places than a VM, next to the nearest thing that people would use without this package."""

from __future__ import annotations

import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.rig import Rig, Row, interleaved_ms, quiet, series_ms, spread
from langchain_vers._io import io
from langchain_vers.backends.base import Backend
from langchain_vers.backends.bubblewrap import BubblewrapBackend
from langchain_vers.backends.docker import DockerBackend
from langchain_vers.errors import VersError

STARTS = 5
"""How often a place is made from nothing."""


def bubblewrap(_: Rig) -> list[Row]:
    what, target = "warm command in a bubblewrap sandbox", "at most 15 ms"
    backend = BubblewrapBackend()
    try:
        first = _first_ms(lambda: backend)
        bare = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
        found = series_ms(
            {
                "ours": lambda: io.run(backend.exec("true")),
                "bwrap": lambda: quiet(*bare, "bash", "-c", "true"),
                "bash": lambda: quiet("bash", "-c", "true"),
            }
        )
        busy = interleaved_ms({"ours": lambda: io.run(backend.exec("true"))}, runs=100, rest=0)["ours"]
    except VersError as error:
        return [Row(what, target, f"not run: {error}", None)]
    finally:
        io.run(backend.close())
    return [
        Row(
            what,
            target,
            f"{spread(found['ours'])}, {busy:.1f} ms back to back; a `bwrap` started for each command {spread(found['bwrap'])} "
            f"({_times(found['ours'], found['bwrap'])}), `bash -c true` without a sandbox {spread(found['bash'])}; "
            f"the sandbox with its first command {first:.0f} ms",
            statistics.median(found["ours"]) <= 15,
        )
    ]


def docker(_: Rig) -> list[Row]:
    """With an engine of its own, started as in the tests."""
    what, target = "warm command in a Docker container", "at most 60 ms"
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    try:
        import pytest
        from rigs.docker import Dockerd
    except ImportError as error:
        return [Row(what, target, f"not run: {error}", None)]
    try:
        engine = Dockerd()
    except (pytest.skip.Exception, pytest.fail.Exception, AssertionError, OSError) as error:
        return [Row(what, target, f"not run: {str(error).splitlines()[-1] if str(error) else 'dockerd did not start'}", None)]
    try:
        made: list[DockerBackend] = []

        def new() -> DockerBackend:
            made.append(engine.backend(remove=True))
            return made[-1]

        first = _first_ms(new)
        backend = made[-1]
        io.run(backend.exec("true"))
        container = backend.machine_id
        peers = {"api": lambda: engine.api.exec_start(engine.api.exec_create(container, ["bash", "-c", "true"])["Id"])}
        if (program := shutil.which("docker")) is not None:
            peers["docker"] = lambda: quiet(program, "-H", engine.url, "exec", str(container), "bash", "-c", "true")
        found = series_ms({"ours": lambda: io.run(backend.exec("true")), **peers})
        busy = interleaved_ms({"ours": lambda: io.run(backend.exec("true"))}, runs=50, rest=0)["ours"]
        commit = interleaved_ms({"commit": lambda: io.run(backend.snapshot())}, runs=5, warmup=1, rest=0)["commit"]
        version = engine.api.version()["Version"]
        io.run(backend.close())
    finally:
        engine.close()
    names = {"api": "the API's own exec", "docker": "`docker exec`"}
    compared = ", ".join(f"{names[peer]} {spread(found[peer])} ({_times(found['ours'], found[peer])})" for peer in peers)
    return [
        Row(
            what,
            target,
            f"{spread(found['ours'])}, {busy:.0f} ms back to back; {compared}; a container with its first command {first:.0f} ms, "
            f"a snapshot {commit:.0f} ms (engine {version})",
            statistics.median(found["ours"]) <= 60,
        )
    ]


def _first_ms(new: Callable[[], Backend]) -> float:
    """Median time of a place's first command, the making of the place included."""
    times = []
    for _ in range(STARTS):
        backend = new()
        started = time.perf_counter()
        io.run(backend.exec("true"))
        times.append((time.perf_counter() - started) * 1000)
        io.run(backend.close())
    return statistics.median(times)


def _times(ours: list[float], theirs: list[float]) -> str:
    """How many times as long they take, side by side in each series."""
    return f"{statistics.median(their / our for our, their in zip(ours, theirs, strict=True)):.1f} times ours"
