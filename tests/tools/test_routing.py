"""Which machine a call goes to: threads apart, the order inside one message, and never anywhere else."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from agents import GRAPHS, START_INPUT, Runner, agent, message, tool_graph
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.prebuilt.tool_node import ToolCallWithContext
from langgraph.types import Send

direct = Runner("direct", asynchronous=False)
WHO = ("bash", {"command": "cat id 2>/dev/null || echo here"})


class Machines:
    """Two VMs, each with its own name in a file at home, and tools."""

    def __init__(self, toolkit: Any) -> None:
        self.toolkit = toolkit
        self.tools = toolkit.get_tools()
        self.a, self.b = self.make("A"), self.make("B")

    def make(self, name: str) -> str:
        vm_id: str = self.one("vers_vm_create", attach=False).artifact["machine_id"]
        self.one("vers_vm_exec", vm_id=vm_id, command=f"echo {name} >id")
        return vm_id

    def one(self, tool: str, /, thread: str | None = None, **arguments: Any) -> ToolMessage:
        return direct(self.tools, (tool, arguments), thread=thread)[0]

    def use(self, name: str) -> tuple[str, dict[str, Any]]:
        return "vers_vm_use", {"vm_id": getattr(self, name)}


@pytest.fixture
def two(make_toolkit: Any) -> Machines:
    return Machines(make_toolkit())


@pytest.mark.parametrize("one_at_a_time", [False, True], ids=["parallel", "one-at-a-time"])
@pytest.mark.parametrize("runner", GRAPHS, ids=repr)
def test_one_message(runner: Runner, one_at_a_time: bool, two: Machines) -> None:
    config = {"max_concurrency": 1} if one_at_a_time else {}

    def contents(thread: str, *requests: Any) -> list[Any]:
        return [answer.content for answer in runner(two.tools, *requests, thread=thread, **config)]

    first = contents("t1", two.use("a"), WHO, two.use("b"), WHO, ("vers_vm_local", {}), WHO)
    assert first[1::2] == ["A", "B", "here"]
    assert contents("t2", WHO, two.use("a"), WHO)[::2] == ["here", "A"]
    assert contents("t2", WHO, ("vers_vm_local", {}), WHO)[::2] == ["A", "here"]
    answers = runner(two.tools, ("vers_vm_create", {}), ("bash", {"command": "pwd"}), thread="t3", **config)
    assert answers[0].artifact["machine_id"] == answers[1].artifact["machine_id"]
    assert answers[1].artifact["backend"] == "vers"
    answers = runner(two.tools, ("vers_vm_branch", {"vm_id": two.a, "attach": True}), WHO, thread="t4", **config)
    assert answers[1].content == "A"
    assert answers[1].artifact["machine_id"] == answers[0].artifact["branches"][0]


@pytest.mark.parametrize("runner", GRAPHS, ids=repr)
def test_calls_behind_a_failed_mover_are_refused(runner: Runner, two: Machines, here: Path) -> None:
    canary = ("bash", {"command": "touch canary"})
    lost = ("vers_vm_use", {"vm_id": "no-such-vm"})
    answers = runner(two.tools, WHO, lost, canary, two.use("a"), canary, thread="t")
    assert [answer.status for answer in answers] == ["success", "error", "error", "error", "error"]
    assert {answer.artifact["error"] for answer in answers[2:]} == {"Conflict"}
    assert not (here / "canary").exists()
    assert runner(two.tools, WHO, thread="t")[0].content == "here"


@pytest.mark.parametrize("kind", ["node", "agent"])
def test_replay_of_a_message_routes_from_where_the_thread_is(kind: str, two: Machines) -> None:
    asked = message(WHO, two.use("a"), WHO, message_id="same")
    saver = InMemorySaver()
    graph = (tool_graph if kind == "node" else agent)(two.tools, asked, checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "t"}}

    def contents(state: Any) -> list[Any]:
        return [answer.content for answer in state["messages"] if isinstance(answer, ToolMessage)][::2]

    assert contents(graph.invoke(START_INPUT, config)) == ["here", "A"]
    before = next(state for state in graph.get_state_history(config) if state.next and set(state.next) == {"tools"})
    assert contents(graph.invoke(None, before.config)) == ["A", "A"]


def test_threads_never_mix(two: Machines) -> None:
    two.one("vers_vm_use", thread="on A", vm_id=two.a)
    two.one("vers_vm_use", thread="on B", vm_id=two.b)
    threads = ["on A", "on B", "elsewhere"] * 10
    start = threading.Barrier(len(threads))

    def work(thread: str) -> list[str]:
        start.wait()
        said = [str(two.one("bash", thread=thread, command=WHO[1]["command"]).content) for _ in range(4)]
        two.one("write", thread=thread, path="mine", content=thread)
        return [*said, str(two.one("read", thread=thread, path="mine").content)]

    with ThreadPoolExecutor(len(threads)) as pool:
        results = list(pool.map(work, threads))
    for thread, result in zip(threads, results, strict=True):
        name = {"on A": "A", "on B": "B", "elsewhere": "here"}[thread]
        assert result == [name] * 4 + [thread]
    assert two.one(*WHO[:1], **WHO[1]).content == "here"  # direct calls without a thread have an attachment of their own


async def test_threads_never_mix_async(two: Machines) -> None:
    async def work(thread: str, name: str) -> None:
        graph = agent(two.tools, message(two.use(name)), *(message(WHO, WHO, first=10 * n) for n in range(1, 4)))
        state = await graph.ainvoke(START_INPUT, {"configurable": {"thread_id": thread}})
        said = [answer.content for answer in state["messages"] if isinstance(answer, ToolMessage)][1:]
        assert said == [name.upper()] * 6

    await asyncio.gather(*(work(f"t{number}", "ab"[number % 2]) for number in range(8)))


def test_vm_of_the_toolkit_attaches_every_thread(two: Machines, make_toolkit: Any) -> None:
    for name in (two.a, two.a[:14]):
        toolkit = make_toolkit(vm=name)
        tools = toolkit.get_tools()
        assert toolkit.context.status({"configurable": {"thread_id": "new"}}) == f"vers: {two.a.replace('-', '')[:12]} running"
        for thread in (None, "x", "y"):
            assert direct(tools, WHO, thread=thread)[0].content == "A"
    gone = make_toolkit(vm="no-such-vm")
    assert direct(gone.get_tools(), WHO)[0].artifact["error"] == "Gone"
    assert gone.context.status() == "vers: no VM no-such-vm"


def test_no_local_work(two: Machines, make_toolkit: Any, here: Path) -> None:
    tools = make_toolkit(local=False).get_tools()
    for request in (("bash", {"command": f"touch {here}/canary"}), ("write", {"path": f"{here}/canary", "content": ""}), ("ls", {})):
        answer = direct(tools, request)[0]
        assert answer.status == "error"
        assert "vers_vm_create" in answer.content
    assert direct(tools, ("vers_vm_local", {}))[0].artifact["error"] == "Denied"
    assert direct(tools, two.use("a"), WHO)[1].content == "A"
    assert direct(tools, ("vers_vm_local", {}))[0].artifact["error"] == "Denied"
    assert not (here / "canary").exists()


@pytest.mark.parametrize("fate", ["deleted", "paused"])
def test_an_attached_thread_never_falls_back(fate: str, two: Machines, make_toolkit: Any, here: Path) -> None:
    two.one("vers_vm_use", thread="t", vm_id=two.a)
    assert two.one(WHO[0], thread="t", **WHO[1]).content == "A"
    other = make_toolkit().get_tools()  # knows nothing of the first one's threads
    if fate == "deleted":
        direct(other, ("vers_vm_delete", {"vm_id": two.a}))
    else:
        two.one("vers_vm_state", vm_id=two.a, state="paused")
    canary = str(here / "canary")
    for tool, arguments in (("bash", {"command": f"touch {canary}"}), ("write", {"path": canary, "content": ""}), ("read", {"path": "id"})):
        answer = two.one(tool, thread="t", **arguments)
        assert answer.status == "error"
        assert answer.artifact["machine_id"] == two.a
        assert ("does not exist any more" if fate == "deleted" else "vers_vm_state") in answer.content
    assert not Path(canary).exists()
    assert ("deleted" if fate == "deleted" else "paused") in two.toolkit.context.status({"configurable": {"thread_id": "t"}})
    if fate == "paused":
        two.one("vers_vm_state", vm_id=two.a, state="running")
        assert two.one(WHO[0], thread="t", **WHO[1]).content == "A"
    else:
        two.one("vers_vm_local", thread="t")
        assert two.one(WHO[0], thread="t", **WHO[1]).content == "here"


def test_a_rejected_mover_is_not_waited_for(two: Machines, here: Path) -> None:
    asked = message(two.use("a"), ("bash", {"command": "touch canary"}))
    rejected = ToolMessage("the user said no", tool_call_id=asked.tool_calls[0]["id"], status="error")
    only = AIMessage("", id=asked.id, tool_calls=asked.tool_calls)

    def pending(state: Any) -> list[Send]:
        call = ToolCallWithContext(__type="tool_call_with_context", tool_call=asked.tool_calls[1], state=state)
        return [Send("tools", call)]

    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [only, rejected]})
    builder.add_node("tools", ToolNode(two.tools))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", pending, ["tools"])
    builder.add_edge("tools", END)
    answer = builder.compile().invoke(START_INPUT, {"configurable": {"thread_id": "t"}})["messages"][-1]
    assert answer.artifact["error"] == "Conflict"
    assert answer.artifact["duration_ms"] < 5000
    assert not (here / "canary").exists()
