"""A program moves a thread, and the step that follows does not end at once: where it was moved to is where it goes on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langchain_vers.policy import Ask, Policy, Rule
from versions.worlds import GO, Process, World, answers, append, check, create, head, request, thread

AGAIN = pytest.mark.parametrize("again", [False, True], ids=["the process", "a new process"])


def asks_after(process: Process, *commands: str) -> Any:
    """A graph of one node that runs each command and asks a person after it."""
    bash = process.tool("bash")

    def node(state: MessagesState, config: RunnableConfig) -> Any:
        said = []
        for command in commands:
            said.append(bash.invoke(request("bash", command=command), config))
            interrupt(command)
        return {"messages": said}

    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(process.saver)


@AGAIN
@pytest.mark.parametrize("commit", ["step", "turn"])
def test_a_call_and_then_a_question(world: World, again: bool, commit: Any) -> None:
    vm = world.vm()
    world.sh(vm, "echo before > ~/log")
    with world.process(commit=commit) as process:
        process.context.attach(vm, thread())
        graph = asks_after(process, "echo a >> ~/log")
        graph.invoke(GO, thread())
        if not again:
            graph.invoke(Command(resume=True), thread())
    with world.process(commit=commit) as process:
        graph = asks_after(process, "echo a >> ~/log")
        if again:
            graph.invoke(Command(resume=True), thread())
        assert world.log(head(graph, thread())["vers_machine"]) == ["before", "a"]


@AGAIN
def test_async(world: World, again: bool) -> None:
    vm = world.vm()

    async def act() -> Any:
        async with world.aprocess() as process:
            await process.context.aattach(vm, thread())
            graph = asks_after(process, "echo a >> ~/log")
            await graph.ainvoke(GO, thread())
            if not again:
                await graph.ainvoke(Command(resume=True), thread())
        async with world.aprocess() as process:
            graph = asks_after(process, "echo a >> ~/log")
            if again:
                await graph.ainvoke(Command(resume=True), thread())
            return (await graph.aget_state(thread())).metadata["vers_machine"]

    assert world.log(asyncio.run(act())) == ["a"]


@AGAIN
def test_a_question_before_the_call(world: World, again: bool) -> None:
    vm = world.vm()
    policy: dict[str, Any] = {"policy": Policy.open().after(Rule(Ask("This writes."), commands=["tee *"]))}
    says = ([("bash", {"command": "echo a | tee -a ~/log"})], "done")
    with world.process(context=policy) as process:
        process.context.attach(vm, thread())
        graph = process.agent(*says)
        assert graph.invoke(GO, thread())["__interrupt__"][0].value["machine_id"] == vm
        if not again:
            graph.invoke(Command(resume=True), thread())
    with world.process(context=policy) as process:
        graph = process.agent(*says)
        if again:
            graph.invoke(Command(resume=True), thread())
        assert head(graph, thread())["vers_machine"] == vm and world.log(vm) == ["a"]


@AGAIN
def test_what_is_said_last_holds(world: World, again: bool) -> None:
    first, second = world.vm(), world.vm()
    world.sh(second, "echo second > ~/log")
    commands = ("echo a >> ~/log", "echo b >> ~/log")
    with world.process() as process:
        graph = asks_after(process, *commands)
        process.context.attach(first, thread())
        graph.invoke(GO, thread())
        process.context.attach(second, thread())
        graph.invoke(Command(resume=True), thread())
        if not again:
            graph.invoke(Command(resume=True), thread())
    with world.process() as process:
        graph = asks_after(process, *commands)
        if again:
            graph.invoke(Command(resume=True), thread())
        assert world.log(head(graph, thread())["vers_machine"]) == ["second", "a", "b"]
        assert world.log(first) == ["a"]


@AGAIN
def test_a_finished_task_is_kept_when_the_thread_is_moved_before_the_others_go_on(world: World, again: bool) -> None:
    first, second = world.vm(), world.vm()

    def graph_of(process: Process) -> Any:
        bash = process.tool("bash")

        def done(state: MessagesState, config: RunnableConfig) -> Any:
            return {"messages": [bash.invoke(request("bash", command="echo done >> ~/log"), config)]}

        def waits(state: MessagesState, config: RunnableConfig) -> Any:
            interrupt("go on?")
            return {"messages": [bash.invoke(request("bash", command="echo waited >> ~/log"), config)]}

        builder = StateGraph(MessagesState)
        for node in (done, waits):
            builder.add_node(node)
            builder.add_edge(START, node.__name__)
        return builder.compile(process.saver)

    with world.process() as process:
        graph = graph_of(process)
        process.context.attach(first, thread())
        graph.invoke(GO, thread())
        process.context.attach(second, thread())
        if not again:
            graph.invoke(Command(resume=True), thread())
    with world.process() as process:
        graph = graph_of(process)
        if again:
            process.context.attach(second, thread())
            graph.invoke(Command(resume=True), thread())
        assert world.log(first) == ["done"] and world.log(head(graph, thread())["vers_machine"]) == ["waited"]
        assert len(answers(graph.get_state(thread()).values)) == 2


@AGAIN
def test_back_to_a_machine_is_to_it_as_it_is_now(world: World, again: bool) -> None:
    """Also if the thread has known it in several states before."""
    with world.process() as process:
        graph = process.agent(create(), [append("a")], [append("b")], "done", [append("c")], "done", [append("d")], "done")
        graph.invoke(GO, thread())
        first = head(graph, thread())["vers_machine"]
        second = world.vm()
        process.context.attach(second, thread())
        graph.invoke(GO, thread())
        assert world.log(second) == ["c"]
        if not again:
            process.context.attach(first, thread())
            graph.invoke(GO, thread())
    with world.process() as process:
        graph = process.agent(create(), [append("a")], [append("b")], "done", [append("c")], "done", [append("d")], "done")
        if again:
            process.context.attach(first, thread())
            graph.invoke(GO, thread())
        assert head(graph, thread())["vers_machine"] == first and world.log(first) == ["a", "b", "d"]
        assert world.log(second) == ["c"]


@AGAIN
def test_back_to_this_machine(world: World, again: bool, tmp_path: Path) -> None:
    """What was meant for it goes there, and not to the VM that the thread was on before."""
    here = tmp_path / "here"
    here.mkdir()
    with world.process(context={"local": here}) as process:
        process.agent(create(), [append("a")], "done").invoke(GO, thread())
        graph = asks_after(process, "echo x >> x")
        process.context.detach(thread())
        graph.invoke(GO, thread())
        if not again:
            graph.invoke(Command(resume=True), thread())
    with world.process(context={"local": here}) as process:
        graph = asks_after(process, "echo x >> x")
        if again:
            graph.invoke(Command(resume=True), thread())
        assert head(graph, thread())["vers_backend"] == "local"
    assert (here / "x").read_text() == "x\nx\n"


def test_a_machine_that_is_only_looked_at_can_be_gone_back_to(world: World) -> None:
    vm = world.vm()
    before = world.commits()
    with world.process() as process:
        graph = process.agent([("read", {"path": "/etc/hostname"})], "done", [append("a")], "done")
        process.context.attach(vm, thread())
        graph.invoke(GO, thread())
        assert len(world.commits() - before) == 1 and head(graph, thread())["vers_machine"] == vm
        graph.invoke(GO, thread())
        assert len(world.commits() - before) == 2
        check(process, graph, thread())


def test_what_could_not_be_stored_holds_all_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run fails with the database, and the next one does not begin anywhere else."""
    vm = world.vm()
    with world.process() as process:
        graph = process.agent([append("a")], "done")
        database, write = process.saver.database, process.saver.database.write

        def failing(*_: Any) -> None:
            monkeypatch.setattr(database, "write", write)
            raise OSError("the disk is full")

        monkeypatch.setattr(database, "write", failing)
        process.context.attach(vm, thread())
        with pytest.raises(OSError, match="disk is full"):
            graph.invoke(GO, thread())
        graph.invoke(None, thread())
        assert head(graph, thread())["vers_machine"] == vm and world.log(vm) == ["a"]
        check(process, graph, thread())


def test_a_run_from_an_earlier_point_breaks_no_other_run_off(world: World) -> None:
    """LangGraph reads the newest checkpoint as well, at which the other one is at work."""
    with world.process() as process:
        bash = process.tool("bash")

        def node(state: MessagesState, config: RunnableConfig) -> Any:
            if str(state["messages"][-1].content) != "work":
                return {}
            old = next(each.config for each in graph.get_state_history(thread()) if not each.next)
            elsewhere = threading.Thread(target=graph.invoke, args=({"messages": [("user", "nothing")]}, old))
            elsewhere.start()
            elsewhere.join()
            return {"messages": [bash.invoke(request("bash", command="echo a >> ~/log"), config)]}

        builder = StateGraph(MessagesState)
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        graph = builder.compile(process.saver)
        vm = world.vm()
        process.context.attach(vm, thread())
        graph.invoke(GO, thread())
        state = graph.invoke({"messages": [HumanMessage("work")]}, thread())
        assert answers(state)[-1].status == "success", answers(state)[-1].content
        assert world.log(vm) == ["a"]
