"""`VersSaver` under graphs within graphs: they share the thread's machine, at any depth, with and without savers of their own."""

from __future__ import annotations

from typing import Any

import pytest
from agents import ScriptedModel
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from versions.worlds import GO, Process, World, append, at, check, create, head, request, script, thread, tokens

AGAIN = pytest.mark.parametrize("again", [False, True], ids=["the process", "a new process"])
ASK = ("ask", {"question": "q"})


def nested(process: Process, *messages: Any, levels: int = 1, checkpointer: Any = None) -> Any:
    """An agent as a node, `levels` graphs deep, each before a node that calls a tool itself."""
    inner: Any = create_agent(ScriptedModel(script=script(*messages)), process.tools, checkpointer=checkpointer, name="inner")

    def calls(name: str, **arguments: Any) -> Any:
        def node(state: MessagesState) -> dict[str, Any]:
            called = request(name, **arguments)
            return {"messages": [AIMessage("", tool_calls=[called]), process.tool(name).invoke(called)]}

        return node

    for level in range(levels):
        builder = StateGraph(MessagesState)
        builder.add_node("inner", inner)
        builder.add_node("after", calls("bash", command=f"echo after{level} >> ~/log && echo did after{level}"))
        builder.add_edge(START, "inner")
        builder.add_edge("inner", "after")
        inner = builder.compile(checkpointer=process.saver if level == levels - 1 else None)
    return inner


def outer_log(levels: int) -> list[str]:
    return [f"after{level}" for level in range(levels)]


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("checkpointer", [None, True, False], ids=["inherited", "its own namespace", "none"])
def test_a_nested_agent_works_on_the_threads_machine(world: World, levels: int, checkpointer: Any) -> None:
    says = (create(), [append("a")], [append("b")], "done", "-", [append("c")], "done")
    with world.process() as process:
        graph = nested(process, *says, levels=levels, checkpointer=checkpointer)
        graph.invoke(GO, thread())
        machine = head(graph, thread())["vers_machine"]
        assert world.log(machine) == ["a", "b", *outer_log(levels)]
        first = graph.get_state(thread()).config
    with world.process() as process:
        graph = nested(process, [append("x")], "done", levels=levels, checkpointer=checkpointer)
        graph.update_state(thread(), {"messages": [("user", "more")]}, as_node="__start__")
        assert world.log_at(process, first) == ["a", "b", *outer_log(levels)]
        assert head(graph, thread())["vers_machine"] == machine
        assert world.vms() == {machine}


@AGAIN
@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("checkpointer", [None, True], ids=["inherited", "its own namespace"])
def test_an_interrupt_within(world: World, levels: int, checkpointer: Any, again: bool) -> None:
    says = (create(), [append("a")], [append("b"), ASK], [append("c")], "done")
    with world.process() as process:
        graph = nested(process, *says, levels=levels, checkpointer=checkpointer)
        graph.invoke(GO, thread())
        if not again:
            graph.invoke(Command(resume="yes"), thread())
    with world.process() as process:
        graph = nested(process, *says, levels=levels, checkpointer=checkpointer)
        if again:
            graph.invoke(Command(resume="yes"), thread())
        machine = head(graph, thread())["vers_machine"]
        assert world.log(machine) == ["a", "b", "c", *outer_log(levels)]
        assert world.vms() == {machine}
        if levels == 1:
            check(process, graph, thread())


@AGAIN
def test_an_interrupt_within_a_graph_without_a_saver_repeats_the_whole(world: World, again: bool) -> None:
    """LangGraph runs such a graph from its beginning again, so that its machine is to be as it was at that beginning."""
    says = ([append("a")], [append("b"), ASK], [append("c")], "done")

    def build(process: Process) -> Any:
        inner = nested(process, *says, checkpointer=False)
        builder = StateGraph(MessagesState)
        builder.add_node("make", lambda state: {"messages": [process.tool("vers_vm_create").invoke(request("vers_vm_create"))]})
        builder.add_node("whole", inner)
        builder.add_edge(START, "make")
        builder.add_edge("make", "whole")
        return builder.compile(checkpointer=process.saver)

    with world.process() as process:
        graph = build(process)
        graph.invoke(GO, thread())
        if not again:
            graph.invoke(Command(resume="yes"), thread())
    with world.process() as process:
        graph = build(process)
        if again:
            graph.invoke(Command(resume="yes"), thread())
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b", "c", "after0"]


@AGAIN
@pytest.mark.parametrize("levels", [1, 2])
def test_going_back_to_before_a_nested_graph(world: World, levels: int, again: bool) -> None:
    """Also when it is waiting for an answer there."""

    def build(process: Process) -> Any:
        says = (create(), [append("a")], [append("b"), ASK], [append("c")], "done")
        inner = nested(process, *says, levels=levels)
        builder = StateGraph(MessagesState)
        builder.add_node("whole", inner)
        builder.add_node("end", lambda state: {})
        builder.add_edge(START, "whole")
        builder.add_edge("whole", "end")
        return builder.compile(checkpointer=process.saver)

    with world.process() as process:
        graph = build(process)
        graph.invoke(GO, thread())
        first = graph.get_state(thread(), subgraphs=True).tasks[0].state.values
        assert first
        before = at(graph, thread(), lambda state: state.next == ("whole",))
        if not again:
            graph.invoke(None, before)
            graph.invoke(Command(resume="yes"), thread())
            graph.invoke(None, before)
            graph.invoke(Command(resume="yes"), thread())
            assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b", "c", *outer_log(levels)]
    if again:
        for _ in range(2):
            with world.process() as process:
                build(process).invoke(None, before)
            with world.process() as process:
                graph = build(process)
                graph.invoke(Command(resume="yes"), thread())
                assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b", "c", *outer_log(levels)]


@AGAIN
def test_going_back_between_nested_graphs(world: World, again: bool) -> None:
    """Two agents in sequence; from the checkpoint between them the second one works on the machine that the first one left."""

    def build(process: Process) -> Any:
        says = (create(), [append("a")], [append("b")], "done", [append("c")], "done")
        builder = StateGraph(MessagesState)
        builder.add_node("first", process.agent(*says, checkpointer=None))
        builder.add_node("second", process.agent(*says, checkpointer=None))
        builder.add_edge(START, "first")
        builder.add_edge("first", "second")
        return builder.compile(checkpointer=process.saver)

    with world.process() as process:
        graph = build(process)
        assert tokens(graph.invoke(GO, thread())) == ["a", "b", "c"]
        machine = head(graph, thread())["vers_machine"]
        between = at(graph, thread(), lambda state: state.next == ("second",))
        if not again:
            graph.invoke(None, between)
    with world.process() as process:
        graph = build(process)
        if again:
            graph.invoke(None, between)
        other = head(graph, thread())["vers_machine"]
        assert other != machine and world.log(other) == world.log(machine) == ["a", "b", "c"]
        check(process, graph, thread())


@AGAIN
def test_going_back_into_a_nested_graph(world: World, again: bool) -> None:
    """A run from a checkpoint within the nested agent, as `get_state(subgraphs=True)` shows it."""
    says = (create(), [append("a")], [append("b"), ASK], [append("c")], "done")
    with world.process() as process:
        graph = nested(process, *says)
        graph.invoke(GO, thread())
        namespace = graph.get_state(thread()).tasks[0].state["configurable"]["checkpoint_ns"]
        history = graph.get_state_history(thread(checkpoint_ns=namespace))
        within = [one for one in history if len(_answers(one)) == 3 and one.next == ("model",)]
        there = within[-1].config
        assert world.log_at(process, there) == ["a"]
        if not again:
            graph.invoke(None, there)
            graph.invoke(Command(resume="yes"), thread())
    with world.process() as process:
        graph = nested(process, *says)
        if again:
            graph.invoke(None, there)
            graph.invoke(Command(resume="yes"), thread())
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b", "c", "after0"]
        check(process, graph, thread())


def _answers(state: Any) -> list[ToolMessage]:
    return [one for one in state.values.get("messages", ()) if isinstance(one, ToolMessage)]


async def test_an_async_interrupt_within(world: World) -> None:
    says = (create(), [append("a")], [append("b"), ASK], [append("c")], "done")
    async with world.aprocess() as process:
        await nested(process, *says).ainvoke(GO, thread())
    async with world.aprocess() as process:
        graph = nested(process, *says)
        await graph.ainvoke(Command(resume="yes"), thread())
        machine = (await graph.aget_state(thread())).metadata["vers_machine"]
    assert world.log(machine) == ["a", "b", "c", "after0"]


def test_looking_into_nested_graphs_in_the_middle_moves_nothing(world: World) -> None:
    says = (create(), [append("a")], [append("b")], "done")
    with world.process() as process:
        graph = nested(process, *says, levels=2)
        for _ in graph.stream(GO, thread(), stream_mode="updates", subgraphs=True):
            vms = world.vms()
            for state in [graph.get_state(thread(), subgraphs=True), *graph.get_state_history(thread())]:
                for task in state.tasks:
                    if task.state is not None:
                        config = getattr(task.state, "config", task.state)
                        list(graph.get_state_history(config))
            assert world.vms() == vms
        machine = head(graph, thread())["vers_machine"]
        assert world.log(machine) == ["a", "b", "after0", "after1"]
        assert world.vms() == {machine}
