"""The tree of a thread's checkpoints, from real graphs and from trees that no graph would make."""

from __future__ import annotations

import io
import json
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agents import agent, message
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt
from rich.console import Console

from langchain_vers.commands.history import facts, print_history
from langchain_vers.errors import BadInput, Gone, Unsupported
from langchain_vers.history import History, Node, build, time_of
from langchain_vers.previews import clean, event_of

START_TIME = datetime(2026, 1, 1, tzinfo=UTC)
THREAD = {"configurable": {"thread_id": "42"}}
VM = "3f2a91c0-7b1e-4bbb-8000-000000000001"
VERSION = "9acf12ab-34cd-4bbb-8000-000000000002"


@tool
def bash(command: str) -> str:
    """Run a command."""
    return f"ran {command}"


def outer_graph(checkpointer: Any) -> Any:
    """A graph with an agent nested in it."""
    builder = StateGraph(MessagesState)
    builder.add_node("research", agent([bash], message(("bash", {"command": "pytest -q"}))))
    builder.add_node("end", lambda state: {"messages": [AIMessage("bye")]})
    builder.add_edge(START, "research")
    builder.add_edge("research", "end")
    builder.add_edge("end", END)
    return builder.compile(checkpointer=checkpointer)


def drawn(history: History, width: int = 300, encoding: str = "utf-8", colour: bool = False) -> str:
    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    options: dict[str, Any] = {"force_terminal": True, "color_system": "truecolor"} if colour else {"force_terminal": False}
    print_history(history, Console(file=buffer, width=width, highlight=False, markup=False, emoji=False, **options), START_TIME)
    buffer.flush()
    return buffer.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


def depth_of(line: str) -> int:
    return (len(line) - len(line.lstrip(" │├└─"))) // 4


# --- real graphs ---


def test_what_happened_is_told_in_a_few_words() -> None:
    saver = InMemorySaver()
    graph = agent([bash], message(("bash", {"command": "pytest -q"})), checkpointer=saver)
    graph.invoke({"messages": [("user", "go and look")]}, THREAD)
    history = build(saver.list(THREAD))
    assert [(node.step, node.source, node.event.kind, node.event.text) for node in history] == [
        (-1, "input", "user", "go and look"),
        (0, "loop", "user", "go and look"),
        (1, "loop", "model", "calls bash(pytest -q)"),
        (2, "loop", "tool", "bash: ran pytest -q"),
        (3, "loop", "model", "done"),
    ]
    assert [node.head for node in history] == [False, False, False, False, True]
    assert all(node.time is not None and abs(node.time - (time_of(node.id) or START_TIME)) < timedelta(seconds=5) for node in history)
    assert {depth_of(line) for line in drawn(history).splitlines()[1:]} == {1}


def test_forks_are_siblings_and_the_way_to_the_head_is_straight() -> None:
    saver = InMemorySaver()
    graph = outer_graph(saver)
    graph.invoke({"messages": [("user", "one")]}, THREAD)
    first = list(graph.get_state_history(THREAD))
    graph.invoke(None, first[1].config)
    graph.update_state(first[1].config, {"messages": [("user", "elsewhere")]})
    graph.invoke({"messages": [("user", "two")]}, THREAD)
    history = build(saver.list(THREAD))
    forked = history.find(first[1].config["configurable"]["checkpoint_id"])
    assert [child.source for child in forked.children] == ["loop", "fork", "update"]
    assert forked.next is forked.children[2]
    assert history.head is not None
    assert history.head.id == graph.get_state(THREAD).config["configurable"]["checkpoint_id"]
    lines = drawn(history).splitlines()
    assert sum("HEAD" in line for line in lines) == 1
    own_depths = [depth_of(line) for line in lines if any(node.short in line for node in way_to(history, history.head))]
    assert set(own_depths) == {1}
    assert [line for line in lines if depth_of(line) == 2 and "fork " in line.split("─ ")[1][:5]]


def way_to(history: History, node: Node) -> list[Node]:
    own = {each.id: each for each in history if not each.namespace}
    way = [node]
    while way[-1].parent is not None:
        way.append(own[way[-1].parent])
    return way


def test_nested_graphs_are_subtrees_of_the_superstep_that_they_ran_in() -> None:
    saver = InMemorySaver()
    graph = outer_graph(saver)
    graph.invoke({"messages": [("user", "one")]}, THREAD)
    graph.invoke({"messages": [("user", "two")]}, THREAD)
    history = build(saver.list(THREAD))
    assert len(history.roots) == 1
    hosts = [node for node in history if node.nested]
    assert [(host.namespace, [nested.step for nested in host.nested]) for host in hosts] == [("", [-1]), ("", [-1])]
    for host in hosts:
        assert host.nested[0].namespace.startswith("research:")
        assert host.nested[0].host == host.id
    assert drawn(history).count("within research") == 2


def test_a_nested_graph_with_a_memory_of_its_own_is_shown_where_it_ran() -> None:
    inner = StateGraph(MessagesState)
    inner.add_node("say", lambda state: {"messages": [AIMessage(f"{len(state['messages'])}")]})
    inner.add_edge(START, "say")
    inner.add_edge("say", END)
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner.compile(checkpointer=True))
    builder.add_edge(START, "inner")
    builder.add_edge("inner", END)
    saver = InMemorySaver()
    graph = builder.compile(checkpointer=saver)
    for words in ("one", "two"):
        graph.invoke({"messages": [("user", words)]}, THREAD)
    history = build(saver.list(THREAD))
    assert {node.namespace for node in history} == {"", "inner"}
    hosts = [node for node in history if node.nested]
    assert len(hosts) == 2
    assert [len(host.nested) for host in hosts] == [1, 1]
    assert all(nested.host == host.id for host in hosts for nested in host.nested)
    # The second time it goes on from its first, which is drawn above, with the superstep that it ran in.
    assert hosts[1].nested[0].parent in {node.id for node in history if node.host == hosts[0].id}
    assert not hosts[1].nested[0].parent_lost
    assert len(history) == len(list(saver.list(THREAD)))


def test_interrupts_failures_and_other_kinds_of_state() -> None:
    class State(MessagesState):
        count: int

    def ask(state: State) -> dict[str, Any]:
        return {"count": len(interrupt("sure?"))}

    def fail(state: State) -> dict[str, Any]:
        raise ValueError("no")

    builder = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_node("fail", fail)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", "fail")
    saver = InMemorySaver()
    graph = builder.compile(checkpointer=saver)
    graph.invoke({"count": 1}, THREAD)
    waiting = build(saver.list(THREAD))
    assert [node.interrupted for node in waiting] == [False, True]
    assert [(node.event.kind, node.event.text) for node in waiting] == [("input", "count"), ("state", "count")]
    with pytest.raises(ValueError, match="no"):
        graph.invoke(Command(resume="yes"), THREAD)
    history = build(saver.list(THREAD))
    assert [(node.interrupted, node.failed) for node in history] == [(False, False), (True, False), (False, True)]
    text = drawn(history)
    assert text.count("interrupted") == 1
    assert text.count("failed") == 1


def test_the_functional_api() -> None:
    saver = InMemorySaver()

    @entrypoint(checkpointer=saver)
    def flow(words: str) -> str:
        return words.upper()

    flow.invoke("hello there", THREAD)
    history = build(saver.list(THREAD))
    assert next((node.event.kind, node.event.text) for node in history) == ("input", "hello there")
    assert history.head is not None


def test_machines_are_told_where_they_change_and_what_was_spent() -> None:
    saver = InMemorySaver()
    graph = outer_graph(saver)
    facts_of_vm = {"vers_format": 1, "vers_backend": "vers", "vers_machine": VM, "vers_version": VERSION, "vers_commit": VERSION}
    spent = {"vers_tools": "bash, write", "vers_commit_ms": 12.3, "vers_restore_ms": 81.0, "vers_restored_from": VERSION}
    graph.invoke({"messages": [("user", "one")]}, {**THREAD, "metadata": {**facts_of_vm, **spent}})
    graph.invoke({"messages": [("user", "two")]}, {**THREAD, "metadata": {"vers_format": 1, "vers_backend": "vers", "vers_machine": VM}})
    history = build(saver.list(THREAD))
    machines = [node.machine for node in history if not node.namespace]
    assert all(machine is not None and machine.attachment.machine_id == VM for machine in machines)
    assert (machines[0].tools, machines[0].commit_ms, machines[0].restore_ms) == ("bash, write", 12.3, 81.0)
    own = [line for line in drawn(history).splitlines()[1:] if depth_of(line) == 1]
    assert "on 3f2a91c07b1e  @9acf12ab34cd  ran bash, write, commit 12 ms, restored 81 ms" in own[0]
    assert all("on 3f2a91c07b1e" not in line for line in own[1:])
    told = json.loads(json.dumps(facts(history)))
    assert told["checkpoints"][0]["machine"]["commit_ms"] == 12.3
    assert told["head"] == next(each["id"] for each in told["checkpoints"] if each["head"])


def test_another_format_is_refused_and_named() -> None:
    saver = InMemorySaver()
    outer_graph(saver).invoke({"messages": [("user", "one")]}, {**THREAD, "metadata": {"vers_format": 2}})
    with pytest.raises(Unsupported, match=r"checkpoint 1f.* format 2.* upgrade"):
        build(saver.list(THREAD))
    broken = made(1, {}, metadata={"vers_format": 1, "vers_machine": 7})
    with pytest.raises(BadInput, match="makes no sense"):
        build([broken])


@pytest.mark.parametrize(
    ("last", "kind", "text"),
    [
        (HumanMessage([{"type": "text", "text": "look"}, {"type": "image", "url": "x"}]), "user", "look [image]"),
        (ToolMessage("boom", tool_call_id="1", name="edit", status="error"), "tool", "edit: failed: boom"),
        ({"role": "assistant", "content": "hi"}, "model", "hi"),
        (AIMessage("a\x1b[31mred\x1b]0;title\x07\r\n\tb \u202eevil"), "model", "ared b evil"),
        (AIMessage("word " * 10_000), "model", ("word " * 10_000)[:57].rstrip() + "..."),
        (AIMessage(""), "model", ""),
    ],
)
def test_messages_of_every_kind(last: Any, kind: str, text: str) -> None:
    event = event_of({"channel_values": {"messages": [last], "branch:to:x": None}})
    assert (event.kind, event.text) == (kind, text)


@pytest.mark.parametrize("values", [None, 7, {}, {"messages": []}, {"messages": [None]}, {"messages": 3}, {"__start__": None}])
def test_values_that_tell_nothing_are_no_error(values: Any) -> None:
    assert not event_of({"channel_values": values}).text


# --- any tree ---


def identity(tick: int) -> str:
    """A UUID of version 6 that sorts by its number."""
    digits = f"{0x1F0000000000000 + tick:015x}"
    return str(uuid.UUID(f"{digits[:12]}6{digits[12:]}8000{tick:012x}"))


def made(tick: int, parents: dict[str, str], parent: str | None = None, namespace: str = "", metadata: Any = None) -> CheckpointTuple:
    place = {"thread_id": "42", "checkpoint_ns": namespace}
    checkpoint = {"v": 4, "id": identity(tick), "ts": START_TIME.isoformat(), "channel_values": {}}
    described = {"source": "loop", "step": tick, "parents": parents, **(metadata or {})}
    from_parent = None if parent is None else {"configurable": {**place, "checkpoint_id": parent}}
    config: Any = {"configurable": {**place, "checkpoint_id": identity(tick)}}
    return CheckpointTuple(config, checkpoint, described, from_parent, [])  # type: ignore[arg-type]


@st.composite
def trees(draw: st.DrawFn) -> list[CheckpointTuple]:
    """Checkpoints as a thread has them after forks, nested runs and pruning, in any order."""
    ticks = sorted(draw(st.sets(st.integers(0, 2**20), min_size=1, max_size=25)))
    placed: dict[str, list[int]] = {}
    found = []
    for tick in ticks:
        own = placed.get("", [])
        namespace = draw(st.sampled_from(["", "", *(f"a:{host}" for host in own[-2:]), *(f"a:{host}|b:1" for host in own[-1:])]))
        outer = namespace.rpartition("|")[0]
        hosts = placed.get(outer, [])
        parents = {}
        if namespace:
            parents = {outer: identity(int(namespace[2:]) if not outer else hosts[-1] if hosts else 2**21)}
        before = placed.setdefault(namespace, [])
        parent = draw(st.sampled_from([None, identity(2**22), *map(identity, before)])) if before else None
        found.append(made(tick, parents, parent, namespace))
        before.append(tick)
    kept = [each for each in found if draw(st.integers(0, 9)) > 0] or found
    return draw(st.permutations(kept))


@given(trees())
def test_every_checkpoint_is_shown_once_and_parents_above_children(checkpoints: list[CheckpointTuple]) -> None:
    history = build(checkpoints)
    nodes = list(history)
    places = {(node.namespace, node.id): number for number, node in enumerate(nodes)}
    assert len(nodes) == len(places) == len(checkpoints)
    for each in checkpoints:
        namespace, found = each.config["configurable"]["checkpoint_ns"], each.config["configurable"]["checkpoint_id"]
        parent = each.parent_config["configurable"]["checkpoint_id"] if each.parent_config else None
        node = nodes[places[namespace, found]]
        assert node.parent == parent
        assert node.parent_lost == (parent is not None and (namespace, parent) not in places)
        outer = namespace.rpartition("|")[0]
        host = each.metadata["parents"].get(outer) if namespace else None
        assert node.host == host
        above = None if parent is None or node.parent_lost else nodes[places[namespace, parent]]
        if above is not None and above.host == host:
            assert node in above.children
            assert places[namespace, parent] < places[namespace, found]
        elif (outer, host) in places:
            assert node in nodes[places[outer, host]].nested
            assert places[outer, host] < places[namespace, found]
        elif above is not None:
            assert node in above.children
        elif parent is None or node.parent_lost:
            assert node in history.roots
    own = [node.id for node in nodes if not node.namespace]
    assert [node.id for node in nodes if node.head] == ([max(own)] if own else [])
    assert (history.head.id if history.head else None) == max(own, default=None)
    shorts = {node.id: node.short for node in nodes}
    assert len(set(shorts.values())) == len(shorts)
    for node in nodes:
        assert history.find(node.short) is node
    text = drawn(history)
    assert all(text.count(f"{short} ") == 1 for short in shorts.values())


@given(trees(), st.randoms())
def test_even_circles_of_parents_are_shown_once(checkpoints: list[CheckpointTuple], chance: random.Random) -> None:
    identities = [each.config["configurable"]["checkpoint_id"] for each in checkpoints]
    tangled = [
        each._replace(parent_config={"configurable": {**each.config["configurable"], "checkpoint_id": chance.choice(identities)}})
        for each in checkpoints
    ]
    history = build(tangled)
    assert sorted(node.id for node in history) == sorted(identities)
    assert history.find(identities[0]).id == identities[0]
    drawn(history)


@given(trees(), st.integers(20, 120), st.sampled_from(["utf-8", "ascii", "latin-1"]), st.booleans())
def test_drawing_loses_nothing_on_any_terminal(checkpoints: list[CheckpointTuple], width: int, encoding: str, colour: bool) -> None:
    history = build(checkpoints)
    lines = drawn(history, width, encoding, colour).splitlines()
    assert ("\x1b" in "".join(lines)) == colour
    if not colour:
        deepest = max(depth_of(line) for line in drawn(history).splitlines())
        assert all(len(line) <= max(width, 4 * deepest + 20) for line in lines)
        letters = "".join("".join(line.split()) for line in lines)
        for drawing in "│├└─|`+":
            letters = letters.replace(drawing, "")
        # Beside its own guides, a line that is wrapped loses its blanks only.
        bare = letters.replace("--", "").replace("-", "")
        assert all(node.short.replace("-", "") in bare for node in history)


def test_long_runs_and_deep_forks_are_no_problem() -> None:
    line = [made(tick, {}, identity(tick - 1) if tick else None) for tick in range(3000)]
    straight = build(line)
    assert {depth_of(text) for text in drawn(straight).splitlines()[1:]} == {1}
    comb = [made(tick, {}, identity((tick - 1) // 2) if tick else None) for tick in range(600)]
    assert len(build(comb)) == len(drawn(build(comb)).splitlines()) - 1 == 600
    deep = [made(tick, {}, identity(max(0, tick - 2)) if tick else None) for tick in range(100)]
    assert drawn(build(deep), width=10)


def test_finding_a_checkpoint() -> None:
    history = build([made(1, {}), made(2, {}, identity(1)), made(2**19, {}, identity(1))])
    assert history.find(identity(2).upper()).id == identity(2)
    with pytest.raises(BadInput, match="begins 3 checkpoints of thread 42"):
        history.find("1f")
    for nothing in ("", "  ", "ffff"):
        with pytest.raises(Gone, match="has no checkpoint"):
            history.find(nothing)
    with pytest.raises(BadInput, match="one thread"):
        build([])


def test_when_a_checkpoint_was_made_is_in_its_id() -> None:
    before = datetime.now(UTC)
    found = time_of(str(uuid6(clock_seq=-2)))
    assert found is not None
    assert abs(found - before) < timedelta(seconds=5)
    assert time_of("abc") is None
    assert time_of(str(uuid.uuid4())) is None


def test_cleaning() -> None:
    assert clean("a\x00\x1b[2J\nb\u200b\u2066c\x9b") == "a bc"
