"""`VersSaver` is a LangGraph saver as the one that it wraps is: LangGraph's own suite for savers, and what LangGraph asks of a saver."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents import agent, message
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import BASE_CAPABILITIES
from langgraph.checkpoint.conformance.report import ProgressCallbacks
from langgraph.checkpoint.conformance.test_utils import generate_config, put_test_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import START, MessagesState, StateGraph
from rigs.savers import FACES, KINDS, SHARED_KINDS, Database, Databases, Face, Kind, Saver

from langchain_vers import BackendContext, VersSaver, VersToolkit

EXTENSIONS = ("copy_thread", "prune", "delete_for_runs")
METHODS = ("get_tuple", "put", "put_writes", "delete_thread", *EXTENSIONS)
Wrap = Callable[[Saver], Saver]


@dataclass
class Note:
    """Something in a checkpoint that a strict serializer knows only if it was told of it."""

    text: str


@pytest.fixture
def context(clean: Path, tmp_path: Path) -> Iterator[BackendContext]:
    """A context none of whose threads has a machine: no server is started for it."""
    made = BackendContext(data_dir=tmp_path / "vers", local=False)
    yield made
    made.close()
    assert not (tmp_path / "vers").exists()


def offers(saver: Saver | type[Saver], name: str) -> bool:
    """Whether LangGraph sees a method of this name: on the type, and other than the base class's, which only raises."""
    kind = saver if isinstance(saver, type) else type(saver)
    return getattr(kind, name) is not getattr(BaseCheckpointSaver, name)


class ThroughThreads(BaseCheckpointSaver[Any]):
    """The async face of a saver's sync methods, each call in a worker thread; `through_threads` makes one."""

    def __init__(self, saver: Saver) -> None:
        super().__init__(serde=saver.serde)
        self.saver = saver

    async def alist(self, config: RunnableConfig | None, **options: Any) -> AsyncIterator[CheckpointTuple]:
        for found in await asyncio.to_thread(lambda: list(self.saver.list(config, **options))):
            yield found


def through_threads(saver: Saver) -> Saver:
    """An adapter that offers what the saver's type offers, and nothing else."""

    def method(name: str) -> Callable[..., Any]:
        async def call(self: ThroughThreads, *args: Any, **kwargs: Any) -> Any:
            return await asyncio.to_thread(getattr(self.saver, name), *args, **kwargs)

        return call

    offered = {f"a{name}": method(name) for name in METHODS if offers(saver, name)}
    return type("ThroughThreads", (ThroughThreads,), offered)(saver)


def on_face(saver: Saver, face: Face) -> Saver:
    """A saver whose async methods lead to the sync or the async face of the given one."""
    return through_threads(saver) if face == "sync" else saver


async def conformance(database: Database, face: Face, wrap: Wrap) -> tuple[set[str], dict[tuple[str, str], str | None]]:
    """Run LangGraph's suite on the face of a saver. What capabilities were detected; for each test None, or how it failed."""
    detected: set[str] = set()
    results: dict[tuple[str, str], str | None] = {}

    @checkpointer_test(name="saver")
    async def savers() -> AsyncIterator[Saver]:
        async with database.aopen() as inner:
            yield on_face(wrap(inner), face)

    def on_start(capability: str, found: bool) -> None:
        if found:
            detected.add(capability)

    def on_result(capability: str, test: str, passed: bool, error: str | None) -> None:
        results[capability, test] = None if passed else error or "failed"

    await validate(savers, progress=ProgressCallbacks(on_capability_start=on_start, on_test_result=on_result))
    return detected, results


@pytest.mark.parametrize(("kind", "face"), FACES)
async def test_it_conforms_as_much_as_the_saver_that_it_wraps(
    databases: Databases, context: BackendContext, kind: Kind, face: Face
) -> None:
    bare, bare_results = await conformance(databases.new(kind), face, lambda inner: inner)
    wrapped, results = await conformance(databases.new(kind), face, lambda inner: VersSaver(inner, context))

    base = {capability.value for capability in BASE_CAPABILITIES}
    assert base <= wrapped
    assert wrapped == bare
    assert results.keys() == bare_results.keys()
    must = {test for test, error in bare_results.items() if error is None or test[0] in base}
    assert {test: error for test, error in results.items() if error is not None and test in must} == {}


@pytest.mark.parametrize("kind", KINDS)
async def test_its_type_has_the_extensions_that_its_inner_savers_type_has(
    databases: Databases, context: BackendContext, kind: Kind
) -> None:
    async with databases.new(kind).aopen() as inner:
        saver = VersSaver(inner, context)
        assert isinstance(saver, VersSaver)
        for name in EXTENSIONS:
            assert (name, offers(saver, name)) == (name, offers(inner, name))
            assert (name, offers(saver, f"a{name}")) == (name, offers(inner, f"a{name}"))


async def test_savers_with_different_extensions_side_by_side(context: BackendContext) -> None:
    class SyncPrune(InMemorySaver):
        def prune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
            for thread_id in thread_ids:
                self.delete_thread(thread_id)

    class AsyncCopy(InMemorySaver):
        async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
            self.storage[target_thread_id] = self.storage[source_thread_id]

    def offered(saver: Saver) -> list[str]:
        return [name for each in EXTENSIONS for name in (each, f"a{each}") if offers(saver, name)]

    pruning, copying, plain = (VersSaver(inner, context) for inner in (SyncPrune(), AsyncCopy(), InMemorySaver()))
    assert [offered(saver) for saver in (pruning, copying, plain)] == [["prune"], ["acopy_thread"], []]

    await put_test_checkpoint(pruning, thread_id="1")
    pruning.prune(["1"], strategy="delete")
    assert pruning.get_tuple(generate_config("1")) is None
    with pytest.raises(NotImplementedError):
        await pruning.aprune(["1"])
    await put_test_checkpoint(copying, thread_id="1")
    await copying.acopy_thread("1", "2")
    assert await copying.aget_tuple(generate_config("2")) is not None
    with pytest.raises(NotImplementedError):
        plain.copy_thread("1", "2")


@pytest.mark.parametrize(("kind", "face"), FACES)
async def test_the_path_of_a_task_reaches_the_inner_saver(databases: Databases, context: BackendContext, kind: Kind, face: Face) -> None:
    async with databases.new(kind).aopen() as inner:
        saver = VersSaver(inner, context)
        # LangGraph passes the path only to savers whose signature shows it.
        for method in (saver.put_writes, saver.aput_writes):
            assert inspect.signature(method).parameters["task_path"].default == ""

        faced = on_face(saver, face)
        config = await put_test_checkpoint(faced, thread_id="1")
        await faced.aput_writes(config, [("first", 1)], "task-b", "path-1")
        await faced.aput_writes(config, [("second", 2)], "task-a", task_path="path-2")
        found = await faced.aget_tuple(config)
        assert found is not None
        # The order of paths, which is not that of tasks.
        assert found.pending_writes == [("task-b", "first", 1), ("task-a", "second", 2)]


async def test_versions_of_channels_are_those_of_the_inner_saver(context: BackendContext) -> None:
    class Lettered(InMemorySaver):
        def get_next_version(self, current: str | None, channel: None) -> str:
            return f"{current or 'v'}+"

    saver = VersSaver(Lettered(), context)
    assert saver.get_next_version(None, None) == "v+"
    assert saver.get_next_version("v+", None) == "v++"
    graph = answering_graph(saver)
    await graph.ainvoke({"messages": [("user", "hello")]}, generate_config("1"))
    found = saver.get_tuple(generate_config("1"))
    assert found is not None
    versions = found.checkpoint["channel_versions"]
    assert versions and all(set(version) == {"v", "+"} for version in versions.values())


def answering_graph(saver: Saver) -> Any:
    """A graph without tools."""
    builder = StateGraph(MessagesState)
    builder.add_node("answer", lambda state: {"messages": [("ai", f"answer {len(state['messages'])}")]})
    builder.add_edge(START, "answer")
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize(("kind", "face"), FACES)
async def test_nothing_is_added_to_threads_without_a_machine(databases: Databases, context: BackendContext, kind: Kind, face: Face) -> None:
    async def history(saver: Saver) -> list[Any]:
        graph = answering_graph(saver)
        config: RunnableConfig = {"configurable": {"thread_id": "1"}}
        for text in ("one", "two"):
            given = {"messages": [("user", text)]}
            await (graph.ainvoke(given, config) if face == "async" else asyncio.to_thread(graph.invoke, given, config))
        # Without a thread, all that the saver shows of itself; the numbers of a run differ from those of any other.
        found = [found async for found in on_face(saver, face).alist(None)]
        return [
            (
                each.config["configurable"]["thread_id"],
                {name: value for name, value in each.metadata.items() if name != "run_id"},
                [message.content for message in each.checkpoint["channel_values"].get("messages", [])],
                sorted((channel, str(value)) for _, channel, value in each.pending_writes or [] if channel != "messages"),
                each.parent_config is None,
            )
            for each in found
        ]

    async with databases.new(kind).aopen() as bare:
        expected = await history(bare)
    async with databases.new(kind).aopen() as inner:
        assert await history(VersSaver(inner, context)) == expected


def strict(saver: Saver) -> Saver:
    """The saver, with a serializer that builds no object of a class that it was not told of."""
    saver.serde = JsonPlusSerializer(allowed_msgpack_modules=None)
    return saver


@pytest.mark.parametrize(("kind", "face"), FACES)
async def test_a_copy_with_an_allowlist_has_the_rows_of_the_original(
    databases: Databases, context: BackendContext, kind: Kind, face: Face
) -> None:
    async with databases.new(kind).aopen() as inner:
        saver = VersSaver(strict(inner), context)
        copied = saver.with_allowlist([(Note.__module__, Note.__name__)])
        assert copied is not saver
        assert type(copied) is type(saver)
        assert copied.context is saver.context

        stored = await put_test_checkpoint(on_face(copied, face), channel_values={"note": Note("kept")})
        seen, original = await on_face(copied, face).aget_tuple(stored), await on_face(saver, face).aget_tuple(stored)
        assert seen is not None
        assert original is not None
        assert seen.checkpoint["channel_values"]["note"] == Note("kept")
        assert original.checkpoint["id"] == seen.checkpoint["id"]
        assert not isinstance(original.checkpoint["channel_values"]["note"], Note)
        await on_face(copied, face).adelete_thread(stored["configurable"]["thread_id"])
        assert await on_face(saver, face).aget_tuple(stored) is None


def test_a_copy_with_an_allowlist_goes_on_with_the_machine_of_the_original(make_toolkit: Callable[..., VersToolkit]) -> None:
    toolkit = make_toolkit(local=False)
    saver = VersSaver(strict(InMemorySaver()), toolkit.context)
    copied = saver.with_allowlist([(Note.__module__, Note.__name__)])
    thread = generate_config("1")

    script = [
        message(("vers_vm_create", {})),
        message(("bash", {"command": "echo once >> log"}), first=1),
        AIMessage("done"),
        message(("bash", {"command": "echo again >> log; cat log"}), first=2),
    ]

    def run(checkpointer: Saver) -> ToolMessage:
        """Go on with the script up to the next "done"; the last answer of a tool."""
        state = agent(toolkit.get_tools(), *script, checkpointer=checkpointer).invoke({"messages": [("user", "go")]}, thread)
        return next(each for each in reversed(state["messages"]) if isinstance(each, ToolMessage))

    made = run(copied)
    assert made.status == "success", made.content
    answer = run(saver)
    assert answer.content.split() == ["once", "again"]
    assert answer.artifact["machine_id"] == made.artifact["machine_id"]
    for each in (saver, copied):
        found = each.get_tuple(thread)
        assert found is not None
        assert found.metadata["vers_machine"] == made.artifact["machine_id"]


OTHER_PROCESS = """
import asyncio, json, sys
from pathlib import Path
from langchain_vers import BackendContext, VersSaver
from rigs.savers import Database

context = BackendContext(data_dir=Path(sys.argv[1]), local=False)
thread = {"configurable": {"thread_id": "1", "checkpoint_ns": ""}}
for kind, url in json.loads(sys.argv[2]):
    with Database(kind, url).open() as inner:
        print(kind, VersSaver(inner, context).get_tuple(thread).checkpoint["channel_values"]["word"])
context.close()
"""


async def test_another_process_opens_the_same_database(databases: Databases, context: BackendContext, tmp_path: Path) -> None:
    made = [databases.new(kind) for kind in SHARED_KINDS]
    for database in made:
        with database.open() as inner:
            saver = through_threads(VersSaver(inner, context))
            await put_test_checkpoint(saver, thread_id="1", channel_values={"word": f"kept in {database.kind}"})
    places = json.dumps([[database.kind, database.url] for database in made])
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", OTHER_PROCESS, str(tmp_path / "vers"), places],
        cwd=Path(__file__).parent,  # from where the rigs are imported
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [f"{kind} kept in {kind}" for kind in SHARED_KINDS]
