"""What a command costs in the other places than a VM, next to the nearest thing that people would use without this package.

The servers are those of the tests: a `dockerd` and an `sshd` of their own. Where one cannot be started, its row says "not run".
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.rig import Rig, Row, interleaved_ms, median_ms, quiet, series_ms, spread
from langchain_vers._io import io
from langchain_vers.backends.base import Backend
from langchain_vers.backends.bubblewrap import BubblewrapBackend
from langchain_vers.backends.docker import DockerBackend
from langchain_vers.backends.layered import LayeredBubblewrapBackend
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.ssh import SSHBackend
from langchain_vers.errors import VersError

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

STARTS = 5
"""How often a place is made from nothing."""
CHANGES = "for i in $(seq 100); do head -c 100000 /dev/urandom >f$i; done"
"""10 MB."""


def _measured(what: str, limit: float | None, measure: Callable[[], tuple[list[float], str]]) -> list[Row]:
    """The row of a place; `measure` gives the medians of its warm command in milliseconds, and what to say."""
    target = "" if limit is None else f"at most {limit:.0f} ms"
    try:
        import pytest

        missing: tuple[type[BaseException], ...] = (pytest.skip.Exception, pytest.fail.Exception)
    except ImportError:
        missing = ()
    try:
        ours, said = measure()
    except (VersError, ImportError, AssertionError, OSError, *missing) as error:
        return [Row(what, target, f"not run: {(str(error).splitlines() or [type(error).__name__])[-1]}", None)]
    return [Row(what, target, f"{spread(ours)}{said}", limit is None or statistics.median(ours) <= limit)]


def bubblewrap(_: Rig) -> list[Row]:
    def measure() -> tuple[list[float], str]:
        backend = BubblewrapBackend()
        first = _first_ms(lambda: backend)
        bare = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
        try:
            found = series_ms({"ours": _true(backend), "bwrap": lambda: quiet(*bare, "bash", "-c", "true")})
            busy = _busy_ms(backend)
        finally:
            io.run(backend.close())
        said = f", {busy:.1f} ms back to back; a `bwrap` started for each command {_compared(found, 'bwrap')}"
        said += f"; a sandbox with its first command {first:.0f} ms; by layers, with 10 MB of changes: snapshot {_layers_ms():.0f} ms"
        return found["ours"], said

    return _measured("warm command in a bubblewrap sandbox", 15, measure)


def _layers_ms() -> float:
    with tempfile.TemporaryDirectory() as state:
        backend = LayeredBubblewrapBackend(state=state)
        io.run(backend.exec(CHANGES))
        taken = median_ms(lambda: io.run(backend.snapshot()), runs=STARTS, warmup=1)
        io.run(backend.delete())
        return taken


def docker(_: Rig) -> list[Row]:
    def measure() -> tuple[list[float], str]:
        from rigs.docker import Dockerd

        engine = Dockerd()
        try:
            first = _first_ms(lambda: engine.backend(remove=True))
            backend: DockerBackend = engine.backend(remove=True)
            io.run(backend.exec("true"))
            container = str(backend.machine_id)
            names = {"api": "the API's own exec", "docker": "`docker exec`"}
            peers: dict[str, Callable[[], object]] = {
                "api": lambda: engine.api.exec_start(engine.api.exec_create(container, ["bash", "-c", "true"])["Id"])
            }
            if (program := shutil.which("docker")) is not None:
                peers["docker"] = lambda: quiet(program, "-H", engine.url, "exec", container, "bash", "-c", "true")
            found = series_ms({"ours": _true(backend), **peers})
            busy = _busy_ms(backend)
            io.run(backend.exec(f"cd /root; {CHANGES}"))
            snapshot = median_ms(lambda: io.run(backend.snapshot()), runs=STARTS, warmup=1)
            io.run(backend.close())
        finally:
            engine.close()
        said = "; ".join(f"{names[peer]} {_compared(found, peer)}" for peer in peers)
        said = f", {busy:.1f} ms back to back; {said}; a container with its first command {first:.0f} ms"
        return found["ours"], f"{said}; with 10 MB of changes: snapshot {snapshot:.0f} ms"

    return _measured("warm command in a Docker container", 60, measure)


def ssh(_: Rig) -> list[Row]:
    def measure() -> tuple[list[float], str]:
        from rigs.openssh import Sshd

        with tempfile.TemporaryDirectory() as folder:
            server = Sshd(Path(folder))
            server.start()
            try:
                return _by_ssh(server.target, server.folder / "user", server.known_hosts)
            finally:
                server.stop()

    return _measured("warm command on a host behind SSH, on the loopback", None, measure)


def _by_ssh(target: str, key: Path, known_hosts: Path) -> tuple[list[float], str]:
    def new() -> SSHBackend:
        return SSHBackend(target, key=key, known_hosts=known_hosts, agent=False, config=False)

    first = _first_ms(new)
    backend = new()
    host, _, port = target.rpartition(":")
    command = ["ssh", "-F", "none", "-i", str(key), "-o", f"UserKnownHostsFile={known_hosts}", "-o", "BatchMode=yes", "-p", port]
    master = ["-o", f"ControlPath={key.parent / 'c'}"]
    quiet(*command, *master, "-M", "-f", "-N", host)
    try:
        found = series_ms(
            {
                "ours": _true(backend),
                "ssh": lambda: quiet(*command, host, "true"),
                "master": lambda: quiet(*command, *master, host, "true"),
            }
        )
        busy = _busy_ms(backend)
    finally:
        quiet(*command, *master, "-O", "exit", host)
        io.run(backend.close())
    return found["ours"], (
        f", {busy:.1f} ms back to back; `ssh` {_compared(found, 'ssh')}, with a ControlMaster {_compared(found, 'master')}; "
        f"a connection with its first command {first:.0f} ms"
    )


def here(_: Rig) -> list[Row]:
    def measure() -> tuple[list[float], str]:
        backend = LocalBackend()
        found = series_ms({"ours": _true(backend), "bash": lambda: quiet("bash", "-c", "true")})
        return found["ours"], f"; a bare `bash -c true` {_compared(found, 'bash')}"

    return _measured("command on this machine", None, measure)


def _true(backend: Backend) -> Callable[[], object]:
    return lambda: io.run(backend.exec("true"))


def _busy_ms(backend: Backend) -> float:
    return interleaved_ms({"ours": _true(backend)}, runs=100, rest=0)["ours"]


def _first_ms(new: Callable[[], Backend]) -> float:
    """Median time of a place's first command, the making of the place included."""
    times = []
    for _ in range(STARTS):
        backend = new()
        started = time.perf_counter()
        try:
            io.run(backend.exec("true"))
            times.append((time.perf_counter() - started) * 1000)
        finally:
            io.run(backend.close())
    return statistics.median(times)


def _compared(found: dict[str, list[float]], peer: str) -> str:
    """A peer's medians, and how many times ours it takes, side by side in each series."""
    ratio = statistics.median(theirs / ours for ours, theirs in zip(found["ours"], found[peer], strict=True))
    return f"{spread(found[peer])}, {ratio:.1f} times ours"
