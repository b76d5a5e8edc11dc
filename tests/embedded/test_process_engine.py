"""The engine `process`: folders and processes of the server's own user, on any POSIX system."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from langchain_vers.embedded import process
from langchain_vers.embedded.engine import EngineError, MachineSpec
from langchain_vers.embedded.process import ProcessEngine, processes_with
from langchain_vers.errors import BadInput

PIPE, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL


@pytest_asyncio.fixture
async def engine(tmp_path: Path) -> AsyncIterator[ProcessEngine]:
    engine = ProcessEngine(tmp_path / "data")
    assert await engine.check() == []
    await engine.create("vm", MachineSpec())
    yield engine
    await engine.close()
    for vm_id in await engine.stored():
        assert processes_with(engine._mark(vm_id)) == {}


async def ok(engine: ProcessEngine, vm_id: str, command: str) -> str:
    process = await engine.spawn(vm_id, ["/bin/sh", "-c", command], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode().strip()


async def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


async def test_processes_run_in_the_folder_without_the_host_s_environment(engine: ProcessEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERS_API_KEY", "canary")
    home = str(engine.data_dir / "vms" / "vm")
    assert await ok(engine, "vm", "echo $HOME; pwd; env | grep -c canary || true") == f"{home}\n{home}\n0"
    process = await engine.spawn("vm", ["/bin/sh", "-c", "kill -TERM $$"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert await process.wait() == -signal.SIGTERM
    process = await engine.spawn("vm", ["/bin/sleep", "600"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert os.getsid(process.pid) == process.pid
    with pytest.raises(EngineError, match="cannot be started"):
        await engine.spawn("vm", ["no-such-program"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)


async def test_stop_ends_processes_that_left_their_session(engine: ProcessEngine) -> None:
    script = "import os, time; os.fork() and os._exit(0); os.setsid(); open('up', 'w').close(); time.sleep(600)"
    process = await engine.spawn("vm", [sys.executable, "-c", script], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    await process.wait()
    await until((engine.data_dir / "vms" / "vm" / "up").exists, "the daemon runs")
    assert processes_with(engine._mark("vm"))
    await engine.stop("vm")
    assert processes_with(engine._mark("vm")) == {}
    with pytest.raises(EngineError, match="does not run"):
        await engine.spawn("vm", ["/bin/true"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    await engine.start("vm")
    assert await ok(engine, "vm", "ls") == "up"


async def test_pause_and_resume(engine: ProcessEngine) -> None:
    counter = engine.data_dir / "vms" / "vm" / "counter"
    loop = "i=0; while :; do i=$((i+1)); echo $i > new; mv new counter; done"
    await engine.spawn("vm", ["/bin/sh", "-c", loop], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    stopped = await engine.spawn("vm", ["/bin/sleep", "600"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    stopped.send_signal(signal.SIGSTOP)
    await until(counter.exists, "the counter runs")
    await until(lambda: processes_with(engine._mark("vm")).get(stopped.pid), "one process is stopped")
    await engine.pause("vm")
    await engine.pause("vm")
    # A shell that has just forked waits in state D until its child, which is stopped, goes on.
    assert {state for state, _ in process._table(engine._mark("vm")).values()} <= {"T", "D"}
    before = counter.stat().st_mtime_ns
    with pytest.raises(EngineError, match="paused"):
        await engine.spawn("vm", ["/bin/true"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert counter.stat().st_mtime_ns == before
    await engine.resume("vm")
    await until(lambda: counter.exists() and counter.stat().st_mtime_ns > before, "the counter goes on")
    assert processes_with(engine._mark("vm"))[stopped.pid]


async def test_snapshots_are_copies(engine: ProcessEngine) -> None:
    await ok(engine, "vm", "echo one > a; mkdir -m 500 d; ln -s a b")
    await engine.snapshot("vm", "s")
    await ok(engine, "vm", "echo two > a")
    await engine.create("other", MachineSpec(), snapshot="s")
    await engine.delete_snapshot("s")
    assert await ok(engine, "other", "cat b; echo three > a") == "one"
    assert await ok(engine, "vm", "cat a") == "two"
    await engine.delete("other")
    assert await engine.stored() == ["vm"]
    assert [path.name for path in engine.data_dir.glob("*/*")] == ["vm"]
    with pytest.raises(EngineError, match="no snapshot"):
        await engine.create("other", MachineSpec(), snapshot="s")


async def test_a_later_server_finds_the_machines_and_ends_what_was_left(engine: ProcessEngine) -> None:
    process = await engine.spawn("vm", ["/bin/sleep", "600"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    later = ProcessEngine(engine.data_dir)
    assert await later.stored() == ["vm"]
    await later.start("vm")
    assert await process.wait() == -signal.SIGKILL
    assert await ok(later, "vm", "echo up") == "up"
    await later.close()


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".", ".."])
async def test_names_that_are_paths_are_refused(engine: ProcessEngine, name: str) -> None:
    for call in (
        engine.create(name, MachineSpec()),
        engine.delete(name),
        engine.snapshot("vm", name),
        engine.delete_snapshot(name),
        engine.start(name),
    ):
        with pytest.raises(BadInput):
            await call
