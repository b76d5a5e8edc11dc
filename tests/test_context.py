"""The life of a context: its status line, closing, servers that come back elsewhere, reloads, loops and garbage."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from agents import Runner

from langchain_vers import _io, trunk
from langchain_vers.embedded import launcher
from langchain_vers.errors import BadInput
from langchain_vers.toolkit import VersToolkit

direct = Runner("direct", asynchronous=False)


def one(toolkit: VersToolkit, name: str, /, **arguments: Any) -> Any:
    answer = direct(toolkit.get_tools(), (name, arguments))[0]
    assert answer.status == "success", answer.content
    return answer


def sockets() -> set[str]:
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def test_status(make_toolkit: Any, clean: Path, tmp_path: Path) -> None:
    assert VersToolkit(data_dir=tmp_path / "none").context.status() == "vers: offline"  # type: ignore[union-attr]
    assert not (tmp_path / "none").exists()
    broken = VersToolkit(base_url="http://127.0.0.1:9", api_key="k")
    assert broken.context.status() == "vers: offline"  # type: ignore[union-attr]
    assert VersToolkit(base_url="nonsense").context.status() == "vers: offline"  # type: ignore[union-attr]
    toolkit = make_toolkit()
    assert toolkit.context.status().startswith("vers: ")
    assert toolkit.context.status().endswith(" VM(s)")
    vm_id = one(toolkit, "vers_vm_create").artifact["machine_id"]
    one(toolkit, "bash", command="cd /usr")
    assert toolkit.context.status() == f"vers: {vm_id.replace('-', '')[:12]} running, /usr"
    assert asyncio.run(toolkit.context.astatus()) == toolkit.context.status()
    one(toolkit, "vers_vm_delete", vm_id=vm_id)
    assert toolkit.context.status() == f"vers: {vm_id.replace('-', '')[:12]} deleted, /usr"


def test_arguments(make_toolkit: Any, clean: Path) -> None:
    for wrong in ({"tools": ["nope"]}, {"tools": "bash"}, {"vm": 7}):
        with pytest.raises(BadInput):
            VersToolkit(**wrong)  # type: ignore[arg-type]
    context = make_toolkit().context
    with pytest.raises(BadInput, match="vm"):
        VersToolkit(context=context, vm="x")
    assert [tool.name for tool in VersToolkit(tools=["read", "bash"]).get_tools()] == ["bash", "read"]
    secret = VersToolkit(api_key="s3cret")
    assert "s3cret" not in f"{secret!r} {secret} {secret.model_dump()} {vars(secret.context)}"


def test_two_toolkits_share_a_context(make_toolkit: Any) -> None:
    first = make_toolkit()
    second = make_toolkit(context=first.context)
    vm_id = one(first, "vers_vm_create").artifact["machine_id"]
    assert one(second, "bash", command="true").artifact["machine_id"] == vm_id


def test_closing_leaves_nothing_and_the_context_works_again(make_toolkit: Any) -> None:
    toolkit = make_toolkit()
    before, threads = sockets(), set(threading.enumerate())
    vm_id = one(toolkit, "vers_vm_create").artifact["machine_id"]
    assert sockets() - before
    toolkit.close()
    assert sockets() <= before
    # paramiko's thread notices the end of its connection by itself, a moment after close() has returned.
    for thread in set(threading.enumerate()) - threads:
        if not thread.name.startswith("langchain-vers-"):
            thread.join(60)
            assert not thread.is_alive(), thread
    assert one(toolkit, "bash", command="true").artifact["machine_id"] == vm_id
    toolkit.close()
    toolkit.close()


@pytest.mark.parametrize("last", [True, False], ids=["the last one", "others are there"])
def test_a_context_that_nobody_holds_gives_its_connections_back(
    last: bool, make_toolkit: Any, vers_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not last:
        monkeypatch.setattr(trunk, "LEFT_SECONDS", 0.1)
    before = sockets()
    toolkit = VersToolkit(data_dir=vers_data, idle_pause=3600 if last else None)  # an account of its own, or that of the fixture
    one(toolkit, "vers_vm_create")
    del toolkit
    gc.collect()

    async def settled() -> None:
        while sockets() - before:
            await asyncio.sleep(0.01)

    _io.io.run(asyncio.wait_for(settled(), 60))


def test_concurrent_first_calls(make_toolkit: Any) -> None:
    tools = make_toolkit().get_tools()

    async def all_at_once() -> None:
        listing = next(tool for tool in tools if tool.name == "vers_vms")
        call = {"type": "tool_call", "id": "1", "name": "vers_vms", "args": {}}
        answers = await asyncio.gather(*(listing.ainvoke(call) for _ in range(20)))
        assert {answer.status for answer in answers} == {"success"}

    asyncio.run(all_at_once())
    asyncio.run(all_at_once())


async def test_in_a_running_loop(make_toolkit: Any) -> None:
    toolkit = make_toolkit()
    assert one(toolkit, "bash", command="echo in the loop").content == "in the loop"
    assert (await asyncio.to_thread(one, toolkit, "bash", command="echo beside it")).content == "beside it"
    await toolkit.aclose()


def test_reload(make_toolkit: Any) -> None:
    toolkit = make_toolkit()
    one(toolkit, "vers_vm_create")
    loop = _io.io.loop
    importlib.reload(_io)
    assert _io.io.loop is loop
    assert one(toolkit, "bash", command="echo still").content == "still"


def test_a_server_that_was_restarted_is_found_again(clean: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    first = launcher.ensure_running(data, engine="process")
    try:
        toolkit = VersToolkit(data_dir=data)
        vm_id = one(toolkit, "vers_vm_create").artifact["machine_id"]
        launcher.stop(data)
        assert " offline" in toolkit.context.status()  # type: ignore[union-attr]
        second = launcher.ensure_running(data, engine="process")
        assert second.pid != first.pid
        assert one(toolkit, "vers_vms").artifact["active"] == vm_id
        answer = direct(toolkit.get_tools(), ("bash", {"command": "echo back"}))[0]
        if answer.status == "error":  # it does not run any more after a restart; the remedy is named
            assert "vers_vm_" in answer.content
            one(toolkit, "vers_vm_use", vm_id=vm_id)
            answer = direct(toolkit.get_tools(), ("bash", {"command": "echo back"}))[0]
        assert answer.content == "back"
        toolkit.close()
    finally:
        launcher.stop(data)


def test_pausing_does_not_break_a_call_that_runs(make_isolated_toolkit: Any, tmp_path: Path) -> None:
    toolkit = make_isolated_toolkit()
    vm_id = one(toolkit, "vers_vm_create").artifact["machine_id"]
    result: list[Any] = []
    running = threading.Thread(target=lambda: result.append(one(toolkit, "bash", command="touch /root/begun; sleep 1; echo whole")))
    running.start()
    one(toolkit, "vers_vm_exec", vm_id=vm_id, command="until [ -e /root/begun ]; do sleep 0.02; done")
    one(toolkit, "vers_vm_state", vm_id=vm_id, state="paused")
    answer = direct(toolkit.get_tools(), ("bash", {"command": "true"}))[0]
    assert "vers_vm_state" in answer.content
    one(toolkit, "vers_vm_state", vm_id=vm_id, state="running")
    running.join(60)
    assert result[0].content == "whole"


PROGRAM = """
import os, sys
from langchain_vers.toolkit import VersToolkit
toolkit = VersToolkit(data_dir=sys.argv[1])
tools = {tool.name: tool for tool in toolkit.get_tools()}
def call(name, **arguments):
    answer = tools[name].invoke({"type": "tool_call", "id": "1", "name": name, "args": arguments})
    assert answer.status == "success", answer
    return answer
job = call("bash", command="echo begun; exec sleep 1000", background=True).artifact["job_id"]
vm = call("vers_vm_create").artifact["machine_id"]
pid = os.fork()
if pid == 0:
    assert call("bash", command="echo child").content == "child"
    toolkit.close()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert call("bash", command="echo parent").content == "parent"
print(job, vm)
"""


def test_another_process_forks_exits_and_leaves_only_its_jobs(make_toolkit: Any, vers_data: Path) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", PROGRAM, str(vers_data)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    job, _ = done.stdout.split()
    toolkit = make_toolkit()
    report = one(toolkit, "bash_output", job_id=job)
    assert report.artifact["running"] is True
    assert "begun" in report.content
    assert one(toolkit, "bash_kill", job_id=job).artifact["killed"] is True
    assert one(toolkit, "bash_output", job_id=job).artifact["running"] is False
