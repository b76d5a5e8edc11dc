"""What the measurements share: an embedded Vers of their own, OpenSSH as the peer, statistics."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from langchain_vers._io import io
from langchain_vers.backends.vers import VersBackend
from langchain_vers.context import BackendContext
from langchain_vers.embedded import launcher
from langchain_vers.toolkit import VersToolkit


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    target: str
    measured: str
    reached: bool | None
    """None if it could not be measured here."""


def median_ms(function: Callable[[], object], runs: int, warmup: int = 5) -> float:
    """Median time of a call in milliseconds."""
    for _ in range(warmup):
        function()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        function()
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


def interleaved_ms(functions: dict[str, Callable[[], object]], runs: int, warmup: int = 3, rest: float = 0.1) -> dict[str, float]:
    """Medians of several calls that take turns, so that a busy moment of the machine hits all of them.

    `rest` is a pause before each call in seconds, as between the calls of an agent: what a call leaves to be done after it (the next
    session is opened, a connection is closed) is not charged to the next one.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            time.sleep(rest)
            started = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def series_ms(functions: dict[str, Callable[[], object]], series: int = 5, runs: int = 20) -> dict[str, list[float]]:
    """Medians of several calls that take turns, one for each series: how far they are apart says how much to trust them."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(series):
        for name, median in interleaved_ms(functions, runs, warmup=1).items():
            found[name].append(median)
    return found


def spread(medians: list[float]) -> str:
    """The median of a call's series, and the least and greatest of them."""
    return f"{statistics.median(medians):.1f} ms ({min(medians):.1f} to {max(medians):.1f})"


def added_ms(
    without: Callable[[], object], with_it: Callable[[], object], *, pairs: int, rest: float, series: int = 5
) -> tuple[list[float], float]:
    """What a call takes longer than another, for each series the median over pairs of them; and the median time of that other.

    The two of a pair follow each other at once, each of them first in every second pair: what else the machine does hits both alike.
    """
    calls = (without, with_it)
    medians: list[float] = []
    whole: list[float] = []
    for function in calls * 3:
        function()
    for _ in range(series):
        differences = []
        for number in range(pairs):
            times = [0.0, 0.0]
            for each in (0, 1) if number % 2 else (1, 0):
                time.sleep(rest)
                started = time.perf_counter()
                calls[each]()
                times[each] = (time.perf_counter() - started) * 1000
            differences.append(times[1] - times[0])
            whole.append(times[0])
        medians.append(statistics.median(differences))
    return medians, statistics.median(whole)


class Rig:
    """An embedded Vers in a folder of its own, a context on it, and one VM."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = launcher.ensure_running(folder / "vers")
        self.toolkit = VersToolkit(local=False, data_dir=folder / "vers")
        assert self.toolkit.context is not None
        self.context: BackendContext = self.toolkit.context
        self.client = io.run(self.context.client())
        self.vm_id = io.run(self.client.create_vm(wait_boot=True))
        self.backend: VersBackend = io.run(self.context.machine(self.vm_id))
        self.context.attach(self.vm_id)
        self.tools = {tool.name: tool for tool in self.toolkit.get_tools()}

    def ssh_options(self) -> list[str]:
        """Options that make OpenSSH's clients reach the VM through TLS, with `openssl s_client` as their ProxyCommand."""
        key = self.folder / "id"
        if not key.exists():
            secret = io.run(self.client.get_ssh_key(self.vm_id)).ssh_private_key.get_secret_value()
            key.touch(0o600)
            key.write_text(secret)
        host, port = self.server.ssh_endpoint
        name = f"{self.vm_id}.vm.vers.sh"
        proxy = f"openssl s_client -quiet -verify_quiet -connect {host}:{port} -servername {name} -CAfile {self.server.ca_file}"
        return [
            *("-i", str(key), "-o", f"ProxyCommand={proxy}", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-F", "none"),
        ]

    @property
    def target(self) -> str:
        """The VM as OpenSSH's clients name it."""
        return f"root@{self.vm_id}.vm.vers.sh"

    def close(self) -> None:
        self.toolkit.close()
        launcher.stop(self.folder / "vers")


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """A rig that leaves nothing behind."""
    for name in [name for name in os.environ if name.startswith("VERS_")]:
        del os.environ[name]
    folder = Path(tempfile.mkdtemp(prefix="langchain-vers-bench-"))
    made = None
    try:
        made = Rig(folder)
        yield made
    finally:
        if made is not None:
            made.close()
        shutil.rmtree(folder, ignore_errors=True)


def quiet(*command: str) -> None:
    """Run a peer's command and throw its output away; an error ends the measurement."""
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rss_mb() -> float:
    """Resident memory of this process in MB."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024
