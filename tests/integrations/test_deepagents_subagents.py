"""Sub-agents of deep agents: on the thread's machine, or each on a branch of its own that is labelled, listed and deleted."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from agents import START_INPUT
from casts import cast, said, subagents, task
from deepagents import create_deep_agent
from deepagents.middleware import FilesystemMiddleware
from langchain.agents import create_agent
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from rigs.waiting import wait_for

from langchain_vers import VersSaver
from langchain_vers._io import run
from langchain_vers.context import THREAD_LABEL
from langchain_vers.errors import BadInput
from langchain_vers.integrations.deepagents import VersSandbox
from langchain_vers.machine import Machine
from langchain_vers.platform import VersClient

CREATE = ("vers_vm_create", {})
T: RunnableConfig = {"configurable": {"thread_id": "t"}}
SYNC = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
SAVED = pytest.mark.parametrize("saved", ["nothing", "memory", "versions"])


def execute(command: str) -> Any:
    return "execute", {"command": command}


def append(token: str) -> Any:
    return execute(f"echo {token} >>/root/log; cat /root/log")


TEAM = {
    "go": [
        [CREATE],
        [append("base")],
        [task("alice", "one"), task("bob", "two")],
        [execute("cat /root/log")],
        [task("alice", "three")],
        [append("end")],
    ],
    "one": [[append("a1"), ("ls", {"path": "/root"})], [append("a2")]],
    "two": [[append("b1")], [execute("cat /root/log")]],
    "three": [[append("a3")]],
}


def team(sandbox: VersSandbox, toolkit: Any, saved: str = "nothing", parts: Any = None, members: Any = None) -> Any:
    tools = [tool for tool in toolkit.get_tools() if tool.name.startswith("vers_")]
    savers = {"nothing": lambda: None, "memory": InMemorySaver, "versions": lambda: VersSaver(InMemorySaver(), toolkit.context)}
    model = cast(**(parts or TEAM))
    return create_deep_agent(
        model=model, backend=sandbox, tools=tools, subagents=members or subagents("alice", "bob"), checkpointer=savers[saved]()
    )


def log_of(toolkit: Any, vm_id: str) -> list[str]:
    return Machine(toolkit.context, vm_id).read_text("/root/log").split()


def vms(toolkit: Any) -> dict[str, dict[str, str]]:
    async def all_of_them() -> Any:
        return await (await toolkit.context.client()).list_vms()

    return {vm.vm_id: dict(vm.labels or {}) for vm in run(all_of_them())}


@SAVED
def test_they_share_the_machine_of_the_thread(make_sandbox: Any, saved: str) -> None:
    sandbox, toolkit = make_sandbox()
    before = set(vms(toolkit))
    team(sandbox, toolkit, saved).invoke(START_INPUT, T)
    log = log_of(toolkit, toolkit.context.attached(T).machine_id)
    assert (log[0], sorted(log[1:4]), log[4:]) == ("base", ["a1", "a2", "b1"], ["a3", "end"])
    assert sandbox.subagent_machines(T) == []
    assert len(set(vms(toolkit)) - before) == 1


@SYNC
@SAVED
def test_each_on_a_branch(make_sandbox: Any, saved: str, asynchronous: bool) -> None:
    sandbox, toolkit = make_sandbox("branch")
    agent = team(sandbox, toolkit, saved)
    state = asyncio.run(agent.ainvoke(START_INPUT, T)) if asynchronous else agent.invoke(START_INPUT, T)
    answers = said(state)
    assert answers["go-3-0"].startswith("base\n\n")
    assert answers["go-5-0"].startswith("base\nend\n")
    machines = sandbox.subagent_machines(T)
    assert sorted(machine.name for machine in machines) == ["alice", "alice", "bob"]
    logs = {(machine.name, *log_of(toolkit, machine.vm_id)) for machine in machines}
    # The calls of the first message of alice come side by side, and make one branch.
    assert logs == {("alice", "base", "a1", "a2"), ("alice", "base", "a3"), ("bob", "base", "b1")}
    labels = vms(toolkit)
    assert all(labels[machine.vm_id][THREAD_LABEL] == "t" == machine.thread for machine in machines)
    assert sandbox.subagent_machines({"configurable": {"thread_id": "another"}}) == []
    bobs = [machine for machine in machines if machine.name == "bob"]
    assert toolkit.context.attach("bob", {"configurable": {"thread_id": "reader"}}).machine_id == bobs[0].vm_id
    # What a thread has gone to is its own, and stays.
    assert sandbox.delete_subagent_machines(T, names=["bob"]) == []
    toolkit.context.detach({"configurable": {"thread_id": "reader"}})
    assert sandbox.delete_subagent_machines(T, names=["bob"]) == bobs
    assert len(sandbox.delete_subagent_machines(T)) == 2
    assert sandbox.subagent_machines(T) == []
    assert sandbox.bound(T).execute("cat /root/log").output == "base\nend\n"


def test_some_on_a_branch(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox(["bob"])
    team(sandbox, toolkit).invoke(START_INPUT, T)
    assert [machine.name for machine in sandbox.subagent_machines(T)] == ["bob"]
    assert log_of(toolkit, toolkit.context.attached(T).machine_id) == ["base", "a1", "a2", "a3", "end"]


def test_a_compiled_one_with_a_graph_inside(make_sandbox: Any) -> None:
    """All of it works on one branch, however its graph is built; and by the tools of this package as by those of Deep Agents."""
    sandbox, toolkit = make_sandbox("branch")
    inner = create_agent(cast(one=[[append("a1")], [append("a2")]]), middleware=[FilesystemMiddleware(backend=sandbox)])
    outer = StateGraph(MessagesState)
    outer.add_node("inner", inner)
    outer.add_node("again", inner)
    outer.add_edge(START, "inner")
    member = {"name": "alice", "description": "alice", "runnable": outer.compile()}
    parts = {"go": [[CREATE], [append("base")], [task("alice", "one")]]}
    team(sandbox, toolkit, parts=parts, members=[member]).invoke(START_INPUT, T)
    [machine] = sandbox.subagent_machines(T)
    assert machine.name == "alice"
    assert log_of(toolkit, machine.vm_id) == ["base", "a1", "a2"]


def test_there_is_nothing_to_branch(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox("branch")
    parts = {"go": [[task("alice", "one")]], "one": [[execute("true"), ("read_file", {"file_path": "/etc/hostname"})]]}
    seen = [str(item) for item in team(sandbox, toolkit, parts=parts).stream(START_INPUT, T, subgraphs=True)]
    assert sum("the thread has no VM; make one before the worker starts" in item for item in seen) >= 2
    assert sandbox.subagent_machines(T) == []


async def test_one_that_is_cancelled(make_sandbox: Any) -> None:
    """Its command is killed; its machine is there, labelled, until it is deleted."""
    sandbox, toolkit = make_sandbox("branch")
    parts = {
        "go": [[CREATE], [append("base")], [task("alice", "one")]],
        "one": [[execute("touch /root/begun; sleep 1000; touch /root/ended")]],
    }
    running = asyncio.create_task(team(sandbox, toolkit, parts=parts).ainvoke(START_INPUT, T))

    def begun() -> bool:
        machines = sandbox.subagent_machines(T)
        return bool(machines) and Machine(toolkit.context, machines[0].vm_id).exists("/root/begun")

    await asyncio.to_thread(wait_for, begun)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    [machine] = await sandbox.asubagent_machines(T)
    left = await Machine(toolkit.context, machine.vm_id).arun("pgrep -x sleep; ls /root")
    assert left.output.split() == ["begun", "log"]
    assert await sandbox.adelete_subagent_machines(T) == [machine]


async def test_one_that_is_cancelled_while_its_machine_is_made(make_sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox, toolkit = make_sandbox("branch")
    asked, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    branch_vm = VersClient.branch_vm

    async def slowly(self: Any, *args: Any, **options: Any) -> Any:
        made = await branch_vm(self, *args, **options)
        loop.call_soon_threadsafe(asked.set)
        await asyncio.to_thread(go.wait)
        return made

    monkeypatch.setattr(VersClient, "branch_vm", slowly)
    before = await asyncio.to_thread(lambda: set(vms(toolkit)))
    parts = {"go": [[CREATE], [append("base")], [task("alice", "one")]], "one": [[execute("true")]]}
    running = asyncio.create_task(team(sandbox, toolkit, parts=parts).ainvoke(START_INPUT, T))
    await asked.wait()
    running.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    left = await asyncio.to_thread(lambda: set(vms(toolkit)) - before)
    assert await sandbox.asubagent_machines(T) == []
    assert len(left) == 1  # that of the thread


@pytest.mark.parametrize("again", [False, True], ids=["rewind", "a new process"])
def test_going_back_to_before_the_branches(make_sandbox: Any, make_isolated_toolkit: Any, again: bool) -> None:
    """With a `VersSaver`, a fork of the conversation has sub-agents of its own, on branches of the machine as it was."""
    sandbox, toolkit = make_sandbox("branch")
    store = InMemorySaver()
    parts = {"go": [[CREATE], [append("base")], [task("alice", "one")], [append("end")]], "one": [[append("a1")]]}

    def build(sandbox: VersSandbox, toolkit: Any) -> Any:
        tools = [tool for tool in toolkit.get_tools() if tool.name.startswith("vers_")]
        saver = VersSaver(store, toolkit.context)
        return create_deep_agent(model=cast(**parts), backend=sandbox, tools=tools, subagents=subagents("alice"), checkpointer=saver)

    agent = build(sandbox, toolkit)
    agent.invoke(START_INPUT, T)
    before = next(one for one in agent.get_state_history(T) if one.next and "task" in _asked(one))
    if again:
        toolkit.close()
        toolkit = make_isolated_toolkit(local=False)
        sandbox = VersSandbox(toolkit, subagents="branch")
        agent = build(sandbox, toolkit)
    assert said(agent.invoke(None, before.config))["go-3-0"].startswith("base\nend\n")
    assert [log_of(toolkit, machine.vm_id) for machine in sandbox.subagent_machines(T)] == [["base", "a1"], ["base", "a1"]]


def _asked(snapshot: Any) -> list[str]:
    messages = snapshot.values.get("messages")
    return [call["name"] for call in getattr(messages[-1], "tool_calls", [])] if messages else []


@pytest.mark.parametrize("nonsense", ["shared", "", "alice"])
def test_nonsense(make_sandbox: Any, nonsense: str) -> None:
    with pytest.raises(BadInput, match="subagents must be"):
        make_sandbox(nonsense)
    with pytest.raises(BadInput, match="give these to the context"):
        VersSandbox(make_sandbox()[0].context, local=False)
