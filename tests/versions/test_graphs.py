"""`VersSaver` under flat graphs of every kind: agents, graphs written by hand, nodes that call tools; interrupts, updates, replays."""

from __future__ import annotations

from typing import Any

import pytest
from agents import ScriptedModel
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import Command, interrupt

from versions.worlds import GO, Process, World, after, append, at, check, create, head, request, script, thread, tokens

THREE = (create(), [append("a")], [append("b")], [append("c")], "done", [append("d")], "done", [append("e")], "done")


def tool_graph(process: Process, *messages: Any, **options: Any) -> Any:
    """A model and a `ToolNode`, wired by hand."""
    model = ScriptedModel(script=script(*messages))
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_node("tools", ToolNode(process.tools))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=process.saver, **options)


def own_calls(process: Process, *messages: Any, **options: Any) -> Any:
    """The same with a node that calls the tools itself, one after the other."""
    model = ScriptedModel(script=script(*messages))

    def work(state: MessagesState) -> dict[str, Any]:
        return {"messages": [process.tool(call["name"]).invoke(call) for call in state["messages"][-1].tool_calls]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_node("tools", work)
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=process.saver, **options)


GRAPHS = {"create_agent": Process.agent, "ToolNode": tool_graph, "own calls": own_calls}


@pytest.fixture(params=GRAPHS.values(), ids=GRAPHS.keys())
def build(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_thread_goes_on_in_a_new_process(world: World, build: Any) -> None:
    with world.process() as process:
        graph = build(process, *THREE)
        assert tokens(graph.invoke(GO, thread())) == ["a", "b", "c"]
        machine = head(graph, thread())["vers_machine"]
    with world.process() as process:
        graph = build(process, *THREE)
        assert tokens(graph.invoke(GO, thread())) == ["a", "b", "c", "d"]
        assert head(graph, thread())["vers_machine"] == machine
        assert world.log(machine) == ["a", "b", "c", "d"]
        check(process, graph, thread())


def test_time_travel_finds_the_machine_as_it_was(world: World, build: Any) -> None:
    with world.process() as process:
        graph = build(process, *THREE)
        graph.invoke(GO, thread())
        machine, there = head(graph, thread())["vers_machine"], at(graph, thread(), after(3))
    for _ in range(2):  # in a new process, and in one that has been there before
        with world.process() as process:
            graph = build(process, *THREE)
            state = graph.invoke(None, there)
            assert tokens(state) == ["a", "b", "c"]
            other = head(graph, thread())["vers_machine"]
            assert other != machine
            assert world.log(other) == world.log(machine) == ["a", "b", "c"]
            check(process, graph, thread())


def test_the_new_branch_of_a_conversation_works_on_its_own_machine(world: World, build: Any) -> None:
    with world.process() as process:
        graph = build(process, *THREE)
        graph.invoke(GO, thread())
        machine, there = head(graph, thread())["vers_machine"], at(graph, thread(), after(3))
        other = build(process, create(), [append("a")], [append("x")], "done")
        assert tokens(other.invoke(None, there)) == ["a", "x"]
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "x"]
        assert world.log(machine) == ["a", "b", "c"]
        check(process, graph, thread())


def test_a_result_says_that_the_machine_was_restored(world: World) -> None:
    with world.process() as process:
        graph = process.agent(*THREE)
        graph.invoke(GO, thread())
        there = at(graph, thread(), after(3))
        commit = graph.get_state(there).metadata["vers_commit"]
        state = graph.invoke(None, there)
        said = next(one for one in state["messages"] if getattr(one, "tool_call_id", None) == "call-3")
        assert "has moved on" in said.content and f"restored from commit {commit}" in said.content
        assert said.artifact["restored_from"] == commit
        assert said.artifact["machine_id"] == head(graph, thread())["vers_machine"]
        made = next(one for one in graph.get_state_history(thread()) if one.metadata.get("vers_restored_from"))
        assert made.metadata["vers_restored_from"] == commit and made.metadata["vers_restore_ms"] > 0


def test_a_machine_that_is_gone_comes_back(world: World) -> None:
    with world.process() as process:
        graph = process.agent(*THREE)
        graph.invoke(GO, thread())
        machine = head(graph, thread())["vers_machine"]
    world.delete(machine)
    with world.process() as process:
        graph = process.agent(*THREE)
        state = graph.invoke(GO, thread())
        assert tokens(state) == ["a", "b", "c", "d"]
        assert f"VM {machine} does not exist any more" in state["messages"][-2].content
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b", "c", "d"]


def test_the_directory_and_the_host_key_come_back(world: World) -> None:
    pwd = ("bash", {"command": "pwd"})
    says = (create(), [("bash", {"command": "cd /var/tmp"})], [("bash", {"command": "cd /etc"})], "done", [pwd], "done")
    with world.process() as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        key = head(graph, thread())["vers_host_key"]
        assert key.startswith("SHA256:") and head(graph, thread())["vers_cwd"] == "/etc"
        there = at(graph, thread(), after(3))
    with world.process() as process:
        graph = process.agent(*says)
        assert graph.invoke(GO, thread())["messages"][-2].content.strip() == "/etc"
        assert process.context.attached(thread()).host_key == key
    with world.process() as process:
        graph = process.agent(create(), [("bash", {"command": "cd /var/tmp"})], [pwd], "done")
        assert "/var/tmp" in graph.invoke(None, there)["messages"][-2].content


# --- updates ---


def test_a_fork_by_update_state(world: World, build: Any) -> None:
    with world.process() as process:
        graph = build(process, *THREE)
        graph.invoke(GO, thread())
        machine = head(graph, thread())["vers_machine"]
        there = at(graph, thread(), after(3))
        made = graph.update_state(there, {"messages": [HumanMessage("a note")]}, as_node="tools")
        assert graph.get_state(made).metadata["vers_commit"] == graph.get_state(there).metadata["vers_commit"]
        assert world.log_at(process, made) == ["a"]
        assert tokens(graph.invoke(None, made)) == ["a", "b", "c"]
        assert world.log(machine) == ["a", "b", "c"]
        check(process, graph, thread())


def test_an_update_of_the_head_stays_on_the_machine(world: World) -> None:
    with world.process() as process:
        graph = process.agent(*THREE)
        graph.invoke(GO, thread())
        machine = head(graph, thread())["vers_machine"]
        graph.update_state(thread(), {"messages": [HumanMessage("a note")]})
        assert tokens(graph.invoke(GO, thread())) == ["a", "b", "c", "d"]
        assert head(graph, thread())["vers_machine"] == machine
        check(process, graph, thread())


@pytest.mark.parametrize("again", [False, True], ids=["the process", "a new process"])
def test_a_copy_stands_where_its_original_does(world: World, again: bool) -> None:
    with world.process() as process:
        graph = process.agent(*THREE)
        graph.invoke(GO, thread())
        there = at(graph, thread(), after(3, "tools"))
        if not again:
            made = graph.update_state(there, None, as_node="__copy__")
            assert world.log_at(process, made) == ["a"]
            assert tokens(graph.invoke(None, made)) == ["a", "b", "c"]
            check(process, graph, thread())
            return
    with world.process() as process:
        graph = process.agent(*THREE)
        made = graph.update_state(there, None, as_node="__copy__")
        assert world.log_at(process, made) == ["a"]
        assert tokens(graph.invoke(None, made)) == ["a", "b", "c"]
        check(process, graph, thread())


def test_a_fork_by_the_saver(world: World) -> None:
    with world.process() as process:
        graph = process.agent(*THREE)
        graph.invoke(GO, thread())
        made = process.saver.fork(at(graph, thread(), after(3)))
        assert graph.get_state(made).next == ("model",)
        assert world.log_at(process, made) == ["a"]
        assert tokens(graph.invoke(None, thread())) == ["a", "b", "c"]
        check(process, graph, thread())


# --- interrupts ---


@pytest.mark.parametrize("when", ["interrupt_before", "interrupt_after"])
def test_static_interrupts(world: World, build: Any, when: str) -> None:
    with world.process() as process:
        graph = build(process, *THREE[:5], **{when: ["tools"]})
        graph.invoke(GO, thread())
    for _ in range(5):
        with world.process() as process:
            graph = build(process, *THREE[:5], **{when: ["tools"]})
            if not graph.get_state(thread()).next:
                break
            graph.invoke(None, thread())
    with world.process() as process:
        graph = build(process, *THREE[:5])
        assert tokens(graph.get_state(thread()).values) == ["a", "b", "c"]
        check(process, graph, thread())
        assert len(world.vms()) == 1


def asking(process: Process) -> Any:
    """A tool that works, asks, and works again."""

    @tool
    def deploy(before: str, after: str, config: RunnableConfig) -> str:
        """Deploy."""
        bash = process.tool("bash")
        if before:
            bash.invoke(request("bash", command=f"echo {before} >> ~/log"), config)
        answer = interrupt("really?")
        bash.invoke(request("bash", command=f"echo {after}-{answer} >> ~/log"), config)
        return f"did {after}"

    return deploy


@pytest.mark.parametrize("before", ["", "early"], ids=["asks first", "works first"])
@pytest.mark.parametrize("again", [False, True], ids=["the process", "a new process"])
def test_a_tool_that_asks(world: World, before: str, again: bool) -> None:
    says = script(create(), [append("a")], [("deploy", {"before": before, "after": "late"})], [append("b")], "done")

    def build(process: Process) -> Any:
        return create_agent(ScriptedModel(script=says), [*process.tools, asking(process)], checkpointer=process.saver)

    expected = ["a", *([before] if before else []), "late-yes", "b"]
    with world.process() as process:
        graph = build(process)
        assert "__interrupt__" in graph.invoke(GO, thread())
        if not again:
            graph.invoke(Command(resume="yes"), thread())
            assert world.log(head(graph, thread())["vers_machine"]) == expected
    if again:
        with world.process() as process:
            graph = build(process)
            graph.invoke(Command(resume="yes"), thread())
            assert world.log(head(graph, thread())["vers_machine"]) == expected


@pytest.mark.parametrize("again", [False, True], ids=["the process", "a new process"])
@pytest.mark.parametrize("build", GRAPHS.values(), ids=GRAPHS.keys())
def test_calls_beside_one_that_asks_are_not_repeated(world: World, build: Any, again: bool) -> None:
    says = (create(), [append("a"), ("ask", {"question": "q"}), append("b")], [append("c")], "done")
    with world.process() as process:
        graph = build(process, *says)
        graph.invoke(GO, thread())
        if not again:
            state = graph.invoke(Command(resume="yes"), thread())
    with world.process() as process:
        graph = build(process, *says)
        if again:
            state = graph.invoke(Command(resume="yes"), thread())
        assert tokens(state) == ["a", "b", "c"]
        log = world.log(head(graph, thread())["vers_machine"])
        assert sorted(log[:2]) == ["a", "b"] and log[2:] == ["c"]
        check(process, graph, thread())


@pytest.mark.parametrize("decision", ["approve", "edit", "reject"])
def test_a_person_in_the_loop(world: World, decision: str) -> None:
    says = script(create(), [("read", {"path": "/etc/passwd"}), append("a")], [append("b")], "done")

    def build(process: Process) -> Any:
        middleware = HumanInTheLoopMiddleware(interrupt_on={"bash": True})
        return create_agent(ScriptedModel(script=says), process.tools, middleware=[middleware], checkpointer=process.saver)

    edited = {"name": "bash", "args": append("x")[1]}
    decisions = {"approve": {"type": "approve"}, "edit": {"type": "edit", "edited_action": edited}, "reject": {"type": "reject"}}
    with world.process() as process:
        build(process).invoke(GO, thread())
    for one in ["approve", decision, "approve"]:
        with world.process() as process:
            graph = build(process)
            state = graph.invoke(Command(resume={"decisions": [decisions[one]]}), thread())
    with world.process() as process:
        graph = build(process)
        assert not graph.get_state(thread()).next
        middle = {"approve": ["a"], "edit": ["x"], "reject": []}[decision]
        assert tokens(state) == [*middle, "b"]
        assert world.log(head(graph, thread())["vers_machine"]) == [*middle, "b"]


def test_going_back_to_before_an_answer(world: World) -> None:
    says = (create(), [append("a")], [("ask", {"question": "q"})], [append("b")], "done")
    with world.process() as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        graph.invoke(Command(resume="yes"), thread())
        there = at(graph, thread(), after(3, "tools"))
        assert "__interrupt__" in graph.invoke(None, there)
        state = graph.invoke(Command(resume="no"), thread())
        assert "q is no" in str(state["messages"])
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b"]
        check(process, graph, thread())


# --- streaming, looking ---


@pytest.mark.parametrize(
    "mode", ["values", "updates", "messages", "custom", "debug", "checkpoints", "tasks", ["custom", "updates", "tools"]], ids=str
)
def test_streams(world: World, mode: Any) -> None:
    with world.process() as process:
        graph = process.agent(*THREE[:5])
        assert list(graph.stream(GO, thread(), stream_mode=mode))
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b", "c"]
        check(process, graph, thread())


def test_looking_in_the_middle_moves_nothing(world: World, build: Any) -> None:
    with world.process() as process:
        graph = build(process, *THREE)
        for _ in graph.stream(GO, thread(), stream_mode="values"):
            look(world, graph)
        for _ in graph.stream(None, at(graph, thread(), after(3)), stream_mode="updates"):
            look(world, graph)
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b", "c"]
        check(process, graph, thread())


def look(world: World, graph: Any) -> None:
    vms = world.vms()
    graph.get_state(thread())
    graph.get_state(thread(), subgraphs=True)
    for state in list(graph.get_state_history(thread())):
        graph.get_state(state.config, subgraphs=True)
    assert world.vms() == vms


def test_a_stream_that_nobody_reads_to_its_end(world: World) -> None:
    with world.process() as process:
        graph = process.agent(*THREE)
        stream = graph.stream(GO, thread(), stream_mode="updates")
        for update in stream:
            if "tools" in update and "a" in str(update):
                break
        stream.close()
    with world.process() as process:
        graph = process.agent(*THREE)
        state = graph.invoke(None, thread()) if graph.get_state(thread()).next else graph.get_state(thread()).values
        assert tokens(state) == ["a", "b", "c"]
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b", "c"]
        check(process, graph, thread())


async def test_an_async_thread_goes_on_and_back(world: World) -> None:
    async with world.aprocess() as process:
        graph = process.agent(*THREE)
        assert tokens(await graph.ainvoke(GO, thread())) == ["a", "b", "c"]
    async with world.aprocess() as process:
        graph = process.agent(*THREE)
        assert tokens(await graph.ainvoke(GO, thread())) == ["a", "b", "c", "d"]
        there = [one.config async for one in graph.aget_state_history(thread()) if after(3)(one)][-1]
        state = await graph.ainvoke(None, there)
        assert tokens(state) == ["a", "b", "c"]
        now = await graph.aget_state(thread())
    assert END not in now.next and world.log(now.metadata["vers_machine"]) == ["a", "b", "c"]
