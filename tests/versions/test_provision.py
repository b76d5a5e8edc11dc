"""A thread's own machine goes with the conversation: none before its first use, the same after a restart, another one on a fork."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, RetryPolicy, Send
from rigs.waiting import wait_for

from langchain_vers import Policy, VersSaver, on_branch
from langchain_vers._io import run
from langchain_vers.context import THREAD_LABEL
from langchain_vers.gc import find_orphans
from versions.worlds import GO, Process, World, after, answers, append, at, head, request, thread, tokens

OWN: dict[str, Any] = {"provision": True}
CAREFUL: dict[str, Any] = {"provision": True, "policy": Policy.careful()}
CONFIG = thread()


def holds(world: World, process: Process, graph: Any, config: Any = CONFIG) -> int:
    """At every checkpoint the machine holds what the messages claim, and there is none before the first claim; how many had one."""
    checked = 0
    for state in graph.get_state_history(config):
        claimed = tokens(state.values)
        if "vers_machine" not in state.metadata:
            assert claimed == []
            continue
        assert world.log_at(process, state.config) == claimed
        checked += 1
    return checked


@pytest.mark.parametrize("commit", ["step", "turn"])
def test_a_fork_from_before_the_first_use_has_a_machine_of_its_own(world: World, commit: str) -> None:
    with world.process(context=OWN, commit=commit) as process:
        graph = process.agent([("vers_vms", {})], [append("a")], "done", [append("b")], "done")
        state = graph.invoke(GO, CONFIG)
        own = answers(state)[-1].artifact["machine_id"]
        assert world.vms() == {own} and world.log(own) == ["a"]
        before = at(graph, CONFIG, after(1))
        for config in (before, at(graph, CONFIG, lambda state: state.next == ("__start__",))):
            assert "vers_machine" not in graph.get_state(config).metadata
        assert head(graph, CONFIG)["vers_machine"] == own and world.vms() == {own}  # looking makes none
        forked = answers(graph.invoke(None, before))[-1].artifact["machine_id"]
        assert forked != own and world.vms() == {own, forked}
        assert world.log(own) == world.log(forked) == ["a"]
        assert tokens(graph.invoke(GO, CONFIG)) == ["a", "b"]
        assert head(graph, CONFIG)["vers_machine"] == forked and world.log(forked) == ["a", "b"] and world.log(own) == ["a"]
        if commit == "step":
            assert holds(world, process, graph) > 3


def test_a_restart_goes_on_there(world: World) -> None:
    with world.process(context=OWN) as process:
        own = answers(process.agent([append("a")], "done").invoke(GO, CONFIG))[-1].artifact["machine_id"]
    with world.process(context=OWN) as process:
        graph = process.agent([append("a")], "done", [append("b")], "done")
        assert answers(graph.invoke(GO, CONFIG))[-1].artifact["machine_id"] == own
        assert world.vms() == {own} and world.log(own) == ["a", "b"]
        assert holds(world, process, graph) == 7


async def test_calls_side_by_side_have_one(world: World) -> None:
    async with world.aprocess(context=OWN) as process:
        graph = process.agent([append(f"a{n}") for n in range(6)], "done", [append("b")], "done")
        await graph.ainvoke(GO, CONFIG)
        state = await graph.ainvoke(GO, CONFIG)
        machines = {answer.artifact["machine_id"] for answer in answers(state)}
        vms = await asyncio.to_thread(world.vms)
        log = await asyncio.to_thread(world.log, next(iter(vms)))
    assert machines == vms and len(vms) == 1
    assert sorted(log[:-1]) == [f"a{n}" for n in range(6)] and log[-1] == "b"


def test_going_here_is_remembered(world: World, tmp_path: Path) -> None:
    with world.process(context={**OWN, "local": str(tmp_path)}) as process:
        graph = process.agent([("vers_vm_local", {})], [("bash", {"command": "pwd"})], "done", [("bash", {"command": "pwd"})], "done")
        graph.invoke(GO, CONFIG)
    with world.process(context={**OWN, "local": str(tmp_path)}) as process:
        graph = process.agent([("vers_vm_local", {})], [("bash", {"command": "pwd"})], "done", [("bash", {"command": "pwd"})], "done")
        assert answers(graph.invoke(GO, CONFIG))[-1].artifact["backend"] == "local"
        before = at(graph, CONFIG, after(0))
        forked = process.agent([append("a")], "done").invoke(None, before)  # from where nothing had been chosen
        assert world.vms() == {answers(forked)[-1].artifact["machine_id"]}


@pytest.mark.parametrize("again", [False, True], ids=["the process", "a new process"])
def test_a_question_before_the_first_use(world: World, again: bool) -> None:
    """The policy has looked at the machine. The run that is resumed works on that one, if its process still knows of it."""
    says = [[("bash", {"command": "rm -rf /tmp/x-$$ && echo a >> ~/log && echo did a"})], "done", [append("b")], "done"]
    with world.process(context=CAREFUL) as process:
        graph = process.agent(*says)
        assert graph.invoke(GO, CONFIG)["__interrupt__"]
        looked = world.vms()
        assert len(looked) == 1
        if not again:
            graph.invoke(Command(resume=True), CONFIG)
            state = graph.invoke(GO, CONFIG)
    if again:
        with world.process(context=CAREFUL) as process:
            graph = process.agent(*says)
            graph.invoke(Command(resume=True), CONFIG)
            state = graph.invoke(GO, CONFIG)
    (own,) = {answer.artifact["machine_id"] for answer in answers(state)}
    assert world.log(own) == ["a", "b"] and [answer.status for answer in answers(state)] == ["success"] * 2
    assert world.vms() == {own} | looked and (own in looked) is not again
    with world.process(context=CAREFUL) as process:  # what a process has forgotten is found by its labels
        orphans = run(find_orphans(world.client, process.saver, grace=0.0)).orphans
    assert {orphan.id for orphan in orphans if orphan.kind == "vm"} == looked - {own}


def test_a_question_that_stands_behind_work_of_its_step(world: World) -> None:
    """Each call has a task of its own: what the allowed one has done stays done, on the machine where the asked one goes on."""
    with world.process(context=CAREFUL) as process:
        graph = process.agent([append("a")], [append("b"), ("bash", {"command": "rm -rf /tmp/x && echo did r"})], "done")
        graph.invoke(GO, CONFIG)
        state = graph.invoke(Command(resume=True), CONFIG)
        (own,) = {answer.artifact["machine_id"] for answer in answers(state)}
        assert world.vms() == {own} and world.log(own) == ["a", "b"]


def test_what_a_judgement_had_to_restore_is_told_by_the_call(world: World) -> None:
    with world.process(context=CAREFUL) as process:
        graph = process.agent([append("a")], [append("b"), append("c")], "done")
        graph.invoke(GO, CONFIG)
        said = [str(answer.content) for answer in answers(graph.invoke(None, at(graph, CONFIG, after(1))))]
        assert ["restored from commit" in text for text in said].count(True) == 1


async def test_a_cancelled_first_call_is_undone(world: World) -> None:
    """Its half-done work is not what the thread goes on with."""
    async with world.aprocess(context=OWN) as process:
        graph = process.agent([("bash", {"command": "echo half >> ~/log; sleep 1000"})], [append("whole")], "done")
        work = asyncio.create_task(graph.ainvoke(GO, CONFIG))

        def begun() -> bool:
            return any(world.log(vm) == ["half"] for vm in world.vms())

        await asyncio.to_thread(wait_for, begun)
        broken = await asyncio.to_thread(world.vms)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        state = await graph.ainvoke(GO, CONFIG)
        own = answers(state)[-1].artifact["machine_id"]
        log = await asyncio.to_thread(world.log, own)
        labels = {vm.labels[THREAD_LABEL] for vm in await asyncio.to_thread(lambda: run(world.client.list_vms())) if vm.vm_id in broken}
    assert log == ["whole"] and own not in broken and labels == {"thread"}


@pytest.mark.parametrize("failing", ["before", "after"])
def test_a_retry_of_the_task_that_made_it(world: World, failing: str) -> None:
    """What the first attempt did is not there in the second one."""
    attempts: list[int] = []

    with world.process(context=OWN) as process:
        bash = process.tool("bash")

        def node(state: MessagesState) -> dict[str, Any]:
            attempts.append(len(attempts))
            token = f"a{attempts[-1]}"
            calls = [request("bash", **append(token)[1])]
            if failing == "before":
                process.tool("ls").invoke(request("ls"))
            else:
                answer = bash.invoke(calls[0])
            if len(attempts) == 1:
                raise RuntimeError("once")
            if failing == "before":
                answer = bash.invoke(calls[0])
            return {"messages": [AIMessage("", tool_calls=calls), answer]}

        builder = StateGraph(MessagesState)
        builder.add_node("node", node, retry_policy=RetryPolicy(initial_interval=0.01, retry_on=RuntimeError))
        builder.add_edge(START, "node")
        builder.add_edge("node", END)
        state = builder.compile(checkpointer=process.saver).invoke(GO, CONFIG)
        (answer,) = answers(state)
        assert answer.status == "success", answer.content
        assert world.log(answer.artifact["machine_id"]) == ["a1"]


@pytest.mark.parametrize("branches", [False, True], ids=["shared", "branches"])
def test_workers_of_a_thread_that_has_none_yet(world: World, branches: bool) -> None:
    with world.process(context=OWN) as process:
        gate = threading.Barrier(3)

        def worker(state: MessagesState) -> Any:
            name = str(state["messages"][-1].content)
            gate.wait(60)
            calls = [request("bash", **append(name)[1])]
            return {"messages": [AIMessage("", tool_calls=calls), process.tool("bash").invoke(calls[0])]}

        def end(state: MessagesState) -> Any:
            calls = [request("bash", **append("end")[1])]
            return {"messages": [AIMessage("", tool_calls=calls), process.tool("bash").invoke(calls[0])]}

        builder = StateGraph(MessagesState)
        builder.add_node("worker", on_branch(worker) if branches else worker)
        builder.add_node("end", end)
        builder.add_conditional_edges(
            START, lambda state: [Send("worker", {"messages": [HumanMessage(name)]}) for name in "abc"], ["worker"]
        )
        builder.add_edge("worker", "end")
        state = builder.compile(checkpointer=process.saver).invoke(GO, CONFIG)
        machines = [one.artifact["machine_id"] for one in state["messages"] if isinstance(one, ToolMessage)]
        assert len(set(machines)) == (4 if branches else 1) and world.vms() == set(machines)
        assert sorted(world.log(machines[-1])) == (["end"] if branches else ["a", "b", "c", "end"])


def test_another_saver_of_another_context(world: World) -> None:
    """The other one, which provides nothing, goes on with the machine that the conversation has."""
    with world.process(context=OWN) as process:
        own = answers(process.agent([append("a")], "done").invoke(GO, CONFIG))[-1].artifact["machine_id"]
    with world.process(context={"idle_pause": 3600}, wrap=VersSaver) as process:
        state = process.agent([append("a")], "done", [append("b")], "done").invoke(GO, CONFIG)
        assert answers(state)[-1].artifact["machine_id"] == own and world.vms() == {own}
