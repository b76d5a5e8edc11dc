"""Several agents of one thread on its machine, in turn and side by side, and each on a branch of it; several threads on one VM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt

from langchain_vers import VersSaver, on_branch
from versions.worlds import GO, Process, World, after, answers, append, at, check, create, head, request, thread, tokens

AGAIN = pytest.mark.parametrize("again", [False, True], ids=["the process", "a new process"])
NAMES = ("a", "b", "c")
STEPS = 2


class Worker(BaseChatModel):
    """Appends its name and a number, so many times, one with each answer."""

    before: Callable[[str, int], None] = lambda name, number: None
    """Called with its name and how often it has answered, before each answer."""

    @property
    def _llm_type(self) -> str:
        return "worker"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        name = str(messages[0].content)
        said = sum(isinstance(message, AIMessage) for message in messages)
        self.before(name, said)
        tool, arguments = append(f"{name}{said}")
        calls = [{"name": tool, "args": arguments, "id": f"{name}-{said}", "type": "tool_call"}] if said < STEPS else []
        return ChatResult(generations=[ChatGeneration(message=AIMessage("" if calls else f"{name} is done", tool_calls=calls))])


class BreaksOnce:
    """Raises when a worker answers for a certain time, once."""

    def __init__(self, name: str, number: int) -> None:
        self.left = {(name, number)}

    def __call__(self, name: str, number: int) -> None:
        if (name, number) in self.left:
            self.left.remove((name, number))
            raise RuntimeError("broken off")


def team(process: Process, before: Callable[[str, int], None] | None = None, *, branches: bool = False, asks: str = "") -> Any:
    """A graph that makes a machine, has all workers work side by side, and goes on alone."""
    worker: Any = create_agent(Worker(before=before or (lambda name, number: None)), process.tools, name="worker")
    if asks:
        inner = worker

        def worker(state: MessagesState) -> Any:
            if str(state["messages"][0].content) == asks:
                interrupt("may I?")
            return inner.invoke(state)

    def own(token: str, *calls: Any) -> Callable[[Any], Any]:
        def node(state: MessagesState) -> dict[str, Any]:
            made = [*calls, request("bash", **append(token)[1])]
            return {"messages": [AIMessage("", tool_calls=made), *(process.tool(call["name"]).invoke(call) for call in made)]}

        return node

    builder = StateGraph(MessagesState)
    builder.add_node("make", own("base", request("vers_vm_create")))
    builder.add_node("worker", on_branch(worker) if branches else worker)
    builder.add_node("end", own("end"))
    builder.add_edge(START, "make")
    builder.add_conditional_edges("make", lambda state: [Send("worker", {"messages": [HumanMessage(name)]}) for name in NAMES], ["worker"])
    builder.add_edge("worker", "end")
    return builder.compile(checkpointer=process.saver)


def everything_once(log: list[str]) -> bool:
    """Whether all workers have done all of their work once, each in its order, between the base and the end."""
    middle = log[1:-1]
    in_order = all([token for token in middle if token[0] == name] == [f"{name}{n}" for n in range(STEPS)] for name in NAMES)
    return log[0] == "base" and log[-1] == "end" and in_order and len(middle) == len(NAMES) * STEPS


# --- on the thread's machine ---


@AGAIN
def test_a_supervisor_and_its_workers_in_turn(world: World, again: bool) -> None:
    says = (
        create(),
        "done",
        [append("a")],
        [append("b")],
        "done",
        [append("c"), ("ask", {"question": "q"})],
        "done",
        [append("d")],
        "done",
    )

    def build(process: Process) -> Any:
        builder = StateGraph(MessagesState)
        for name in ("supervisor", "first", "second", "reviewer"):
            builder.add_node(name, process.agent(*says, checkpointer=None))
        builder.add_edge(START, "supervisor")
        builder.add_edge("supervisor", "first")
        builder.add_edge("first", "second")
        builder.add_edge("second", "reviewer")
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
        machine = head(graph, thread())["vers_machine"]
        assert world.log(machine) == ["a", "b", "c", "d"] and world.vms() == {machine}
        check(process, graph, thread())
        graph.invoke(None, at(graph, thread(), lambda state: state.next == ("second",)))
        state = graph.invoke(Command(resume="yes"), thread())
        other = head(graph, thread())["vers_machine"]
        assert tokens(state) == world.log(other) == ["a", "b", "c", "d"] and other != machine
        assert world.log(machine) == ["a", "b", "c", "d"]


def test_workers_side_by_side_share_the_machine(world: World) -> None:
    with world.process() as process:
        graph = team(process)
        graph.invoke(GO, thread())
        machine = head(graph, thread())["vers_machine"]
        assert everything_once(world.log(machine)) and world.vms() == {machine}
        assert world.log_at(process, graph.get_state(thread()).config) == world.log(machine)
        before = at(graph, thread(), lambda state: state.next == ("worker",) * len(NAMES))
        assert world.log_at(process, before) == ["base"]
        end = at(graph, thread(), lambda state: state.next == ("end",))
        assert world.log_at(process, end) == world.log(machine)[:-1]


@AGAIN
@pytest.mark.parametrize("number", [0, 1, 2])
def test_workers_that_were_broken_off(world: World, number: int, again: bool) -> None:
    breaks = BreaksOnce("b", number)
    with world.process() as process:
        graph = team(process, breaks)
        with pytest.raises(RuntimeError, match="broken off"):
            graph.invoke(GO, thread())
        if not again:
            graph.invoke(None, thread())
    with world.process() as process:
        graph = team(process, breaks)
        if again:
            graph.invoke(None, thread())
        machine = head(graph, thread())["vers_machine"]
        assert everything_once(world.log(machine)), world.log(machine)
        assert world.log_at(process, graph.get_state(thread()).config) == world.log(machine)


@AGAIN
@pytest.mark.parametrize("branches", [False, True], ids=["shared", "on branches"])
def test_a_worker_that_asks(world: World, branches: bool, again: bool) -> None:
    with world.process() as process:
        graph = team(process, asks="b", branches=branches)
        graph.invoke(GO, thread())
        if not again:
            graph.invoke(Command(resume="yes"), thread())
    with world.process() as process:
        graph = team(process, asks="b", branches=branches)
        if again:
            graph.invoke(Command(resume="yes"), thread())
        log = world.log(head(graph, thread())["vers_machine"])
        assert log == ["base", "end"] if branches else everything_once(log), log


def test_going_back_to_before_the_workers(world: World) -> None:
    with world.process() as process:
        graph = team(process)
        graph.invoke(GO, thread())
        machine, before = head(graph, thread())["vers_machine"], at(graph, thread(), lambda state: "worker" in state.next)
        log = world.log(machine)
        graph.invoke(None, before)
        second = head(graph, thread())["vers_machine"]
        assert everything_once(world.log(second)) and second != machine
    with world.process() as process:
        graph = team(process)
        graph.invoke(None, before)
        third = head(graph, thread())["vers_machine"]
        assert everything_once(world.log(third)) and third not in {machine, second}
        assert world.log(machine) == log


# --- on branches ---


def machines(state: Any) -> dict[str, set[str]]:
    """The machines that each worker worked on."""
    found: dict[str, set[str]] = {}
    for answer in answers(state):
        if answer.tool_call_id.partition("-")[0] in NAMES:
            found.setdefault(answer.tool_call_id[0], set()).add(answer.artifact["machine_id"])
    return found


def on_their_own(world: World, state: Any, own: str) -> None:
    """Each worker has one machine, on which it did all of its work; the thread's own has none of it."""
    found = machines(state)
    for name in NAMES:
        (machine,) = found[name]
        assert world.log(machine) == ["base", *(f"{name}{n}" for n in range(STEPS))]
    assert len(set().union(*found.values()) | {own}) == len(NAMES) + 1
    assert world.log(own) == ["base", "end"]


def test_workers_on_branches(world: World) -> None:
    with world.process() as process:
        graph = team(process, branches=True)
        state = graph.invoke(GO, thread())
        on_their_own(world, state, head(graph, thread())["vers_machine"])
        assert world.log_at(process, graph.get_state(thread()).config) == ["base", "end"]


@AGAIN
@pytest.mark.parametrize("number", [0, 1, 2])
def test_workers_on_branches_that_were_broken_off(world: World, number: int, again: bool) -> None:
    breaks = BreaksOnce("b", number)
    with world.process() as process:
        graph = team(process, breaks, branches=True)
        with pytest.raises(RuntimeError, match="broken off"):
            graph.invoke(GO, thread())
        if not again:
            state = graph.invoke(None, thread())
    with world.process() as process:
        graph = team(process, breaks, branches=True)
        if again:
            state = graph.invoke(None, thread())
        on_their_own(world, state, head(graph, thread())["vers_machine"])


@pytest.mark.parametrize("saver", ["none", "memory", "sqlite"])
def test_branches_without_a_vers_saver(world: World, saver: str) -> None:
    with world.process(wrap=None) as process:
        process.saver = {"none": None, "memory": InMemorySaver(), "sqlite": process.saver}[saver]
        state = team(process, branches=True).invoke(GO, thread())
        on_their_own(world, state, process.context.attached(thread()).machine_id)


def test_a_branch_needs_a_machine(world: World) -> None:
    with world.process() as process:
        builder = StateGraph(MessagesState)
        builder.add_node("worker", on_branch(create_agent(Worker(), process.tools)))
        builder.add_edge(START, "worker")
        state = builder.compile(checkpointer=process.saver).invoke({"messages": [("user", "a")]}, thread())
        assert "the thread has no VM" in answers(state)[0].content
        assert world.vms() == set()


# --- several threads on one VM ---


def test_threads_that_share_a_vm_see_what_the_others_do(world: World) -> None:
    vm = world.vm()
    world.sh(vm, "touch ~/log")
    says = ([append("x")], [("read", {"path": "~/log"})], "done")
    with world.process() as process:
        graph = process.agent(*says, *says)
        before = world.commits()
        for name in ("one", "two"):
            process.context.attach(vm, thread(name), shared=True)
            state = graph.invoke(GO, thread(name))
        assert answers(state)[-1].content.split() == ["x", "x"]
        assert head(graph, thread("two"))["vers_machine"] == vm
    with world.process() as process:
        graph = process.agent(*says, *says)
        graph.invoke(GO, thread("one"))
        state = graph.invoke(None, at(graph, thread("two"), after(1, "tools")))
        assert answers(state)[-1].content.split() == ["x"] * 3
        assert world.commits() == before and world.vms() == {vm}


@AGAIN
def test_threads_on_one_vm_that_do_not_share_it_do_not_see_each_other(world: World, again: bool) -> None:
    vm = world.vm()
    says = ([append("x1")], "done", [append("x2")], "done")
    other = ([append("y1")], "done", [append("y2")], "done")
    for turn in (1, 2):
        with world.process() as process:
            one, two = process.agent(*says), process.agent(*other)
            if turn == 1:
                process.context.attach(vm, thread("one"))
                process.context.attach(vm, thread("two"))
            one.invoke(GO, thread("one"))
            if not again:
                two.invoke(GO, thread("two"))
        if again:
            with world.process() as process:
                two = process.agent(*other)
                if turn == 1:
                    process.context.attach(vm, thread("two"))
                two.invoke(GO, thread("two"))
    with world.process() as process:
        logs = {name: world.log(head(process.agent(), thread(name))["vers_machine"]) for name in ("one", "two")}
        assert [token for token in logs["one"] if token[0] == "x"] == ["x1", "x2"] and "y2" not in logs["one"]
        assert [token for token in logs["two"] if token[0] == "y"] == ["y1", "y2"] and "x2" not in logs["two"]
        for name in ("one", "two"):
            state = process.agent().get_state(thread(name))
            assert world.log_at(process, state.config) == logs[name]


def test_a_saver_of_another_context_is_refused(world: World) -> None:
    with world.process() as process, world.process() as other:
        graph = process.agent(create(), "done", checkpointer=VersSaver(InMemorySaver(), other.context))
        state = graph.invoke(GO, thread())
        assert "different contexts" in answers(state)[0].content
