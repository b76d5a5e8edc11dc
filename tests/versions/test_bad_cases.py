"""What cannot be had is said, and why, and nothing else is put in its place: lost commits, lost machines, formats, arguments."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from rigs.savers import Database, Databases

from langchain_vers import BackendContext, VersSaver
from langchain_vers._io import run
from langchain_vers.embedded import launcher
from langchain_vers.errors import BadInput, Conflict, Gone, Unsupported, VersError
from versions.worlds import GO, World, after, answers, append, at, create, head, thread

THREE = ([*create(), append("one")], [append("two")], [append("three")], "done")
"""A turn of three supersteps that change the machine; after the first of them three tools have answered."""


def last_answer(state: Any) -> str:
    return str(answers(state)[-1].content)


# --- commits that are not there ---


def test_a_commit_that_was_deleted_on_the_platform_is_missed_with_a_word(world: World) -> None:
    with world.process() as process:
        graph = process.agent(*THREE)
        graph.invoke(GO, thread())
        back = at(graph, thread(), after(3))
        commit = graph.get_state(back).metadata["vers_commit"]
        machine, vms = head(graph, thread())["vers_machine"], world.vms()
        run(world.client.delete_commit(commit))

        state = graph.invoke(None, back)
        assert last_answer(state) == (
            f"VM {machine} has moved on since this point of the conversation, and this checkpoint has no commit to restore "
            f"(its commit {commit} does not exist any more); nothing was run: start from a checkpoint that has one "
            "(langchain-vers history lists them), or attach the thread to another VM"
        )
        assert answers(state)[-1].status == "error"
        assert world.vms() == vms
        assert world.log(machine) == ["one", "two", "three"]
        with pytest.raises(Conflict, match=f"its commit {commit} does not exist any more"):
            process.saver.machine_at(back)


def test_the_commit_before_one_that_was_deleted_is_named_and_taken_if_it_is_wanted(world: World) -> None:
    with world.process() as process:
        graph = process.agent(*THREE)
        graph.invoke(GO, thread())
        back = at(graph, thread(), after(4))
        commit = graph.get_state(back).metadata["vers_commit"]
        before = graph.get_state(at(graph, thread(), after(3))).metadata["vers_commit"]
        run(world.client.delete_commit(commit))

        assert f"the nearest earlier one is {before}" in last_answer(graph.invoke(None, back))
        graph.invoke(None, {"configurable": {**back["configurable"], "vers_nearest": True}})
        facts = head(graph, thread())
        assert world.log(facts["vers_machine"]) == ["one", "three"]  # as it was allowed: without what the lost commit had


def test_in_the_middle_of_a_turn_the_nearest_commit_is_named_and_taken_if_it_is_wanted(world: World) -> None:
    with world.process(commit="turn") as process:
        graph = process.agent([*create(), append("one")], "done", [append("two")], [append("three")], "done")
        graph.invoke(GO, thread())
        nearest = head(graph, thread())["vers_commit"]
        graph.invoke(GO, thread())
        back = at(graph, thread(), after(4))
        metadata = graph.get_state(back).metadata
        assert "vers_commit" not in metadata
        assert metadata["vers_nearest"] == nearest
        assert metadata["vers_no_commit"] == 'commits are made when a turn ends (commit="turn")'

        vms = world.vms()
        state = graph.invoke(None, back)
        assert 'has no commit to restore (commits are made when a turn ends (commit="turn")); nothing was run: ' in last_answer(state)
        assert f'the nearest earlier one is {nearest}: accept it with config={{"configurable": {{"vers_nearest": True}}}}' in last_answer(
            state
        )
        assert world.vms() == vms

        accepted = {"configurable": {**back["configurable"], "vers_nearest": True}}
        state = graph.invoke(None, accepted)
        assert f"restored from commit {nearest}" in last_answer(state)
        assert world.log(head(graph, thread())["vers_machine"]) == ["one", "three"]
        with pytest.raises(Conflict, match=f"the nearest earlier one is {nearest}"):
            process.saver.machine_at(back)


def test_without_any_commit_there_is_nothing_near(world: World) -> None:
    with world.process(commit="manual") as process:
        graph = process.agent(*THREE)
        graph.invoke(GO, thread())
        back = at(graph, thread(), after(3))
        vms = world.vms()
        state = graph.invoke(None, {"configurable": {**back["configurable"], "vers_nearest": True}})
        assert 'has no commit to restore (commits are made on request (commit="manual")); nothing was run: start from a' in last_answer(
            state
        )
        assert world.vms() == vms
        with pytest.raises(Conflict, match="has moved on since checkpoint"):
            process.saver.commit(back)


def test_a_commit_that_was_asked_for_is_what_one_comes_back_to(world: World) -> None:
    with world.process(commit="manual") as process:
        graph = process.agent([*create(), append("one")], "done", [append("two")], "done")
        graph.invoke(GO, thread())
        back = graph.get_state(thread()).config
        commit = process.saver.commit(thread())
        assert process.saver.commit(thread()) == commit
        graph.invoke(GO, thread())
        assert world.log_at(process, back) == ["one"]
        state = graph.invoke(GO, back)
        assert f"restored from commit {commit}" in last_answer(state)
        assert world.log(head(graph, thread())["vers_machine"]) == ["one", "two"]


# --- machines that are not there ---


def set_state(world: World, vm_id: str, state: str) -> None:
    run(world.client.set_vm_state(vm_id, state))


@pytest.fixture
def nobody() -> Iterator[str]:
    """Where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def elsewhere(world: World, ssh_endpoint: str) -> dict[str, Any]:
    """The arguments of a context that looks for the server's machines somewhere else."""
    server = launcher.find_running(world.data_dir)
    assert server is not None
    return {"base_url": server.base_url, "api_key": server.api_key, "ca_file": server.ca_file, "ssh_endpoint": ssh_endpoint}


@pytest.mark.parametrize("policy", ["step", "turn", "manual"])
@pytest.mark.parametrize("same_process", [True, False], ids=["same", "another"])
def test_paused_deleted_and_unreachable_machines_are_told_apart(world: World, nobody: str, policy: Any, same_process: bool) -> None:
    said = ([*create(), append("one")], "done", [append("two")], "done", [append("three")], "done", [append("four")], "done")
    with world.process(commit=policy) as first:
        graph = first.agent(*said)
        graph.invoke(GO, thread())
        machine, vms = head(graph, thread())["vers_machine"], world.vms()

        with world.process(commit=policy, context=elsewhere(world, nobody)) as cut_off:
            answer = answers(cut_off.agent(*said).invoke(GO, thread()))[-1]
        assert answer.status == "error"
        assert answer.content.startswith(f"the SSH connection to {machine}.vm.vers.sh")
        assert answer.artifact["error"] == "Unreachable"

        with world.process(commit=policy) as second:
            graph = (first if same_process else second).agent(*said)
            if not same_process:  # one that is connected notices it when the machine has been silent for half a minute
                set_state(world, machine, "paused")
                answer = answers(graph.invoke(GO, thread()))[-1]
                assert answer.content == f"VM {machine} is paused; resume it with vers_vm_state (state running)"
                assert world.vms() == vms
                set_state(world, machine, "running")

            world.delete(machine)
            answer = answers(graph.invoke(GO, thread()))[-1]
            if policy == "manual":
                assert answer.status == "error"
                assert f"VM {machine} does not exist any more" in answer.content or "has no commit to restore" in answer.content
                assert world.vms() == vms - {machine}
                return
            assert answer.status == "success", answer.content
            commit, new = answer.artifact["restored_from"], head(graph, thread())["vers_machine"]
            notice = f"[VM {machine} does not exist any more; this ran on VM {new}, restored from commit {commit}]"
            assert answer.content.splitlines()[0] == notice
            assert world.log(new) == ["one", "three" if same_process else "four"]
            ended = graph.get_state(at(graph, thread(), lambda state: "vers_restored_from" in state.metadata)).metadata
            assert ended["vers_restored_from"] == commit
            assert ended["vers_restore_ms"] == answer.artifact["restore_ms"] > 0


@pytest.mark.full
def test_a_server_that_is_down_is_no_reason_for_another_machine(world: World, nobody: str) -> None:
    with world.process() as process:
        said = ([append("one")], [append("two")], "done", [append("three")], "done")
        graph = process.agent(*said)
        vm = world.vm()
        process.context.attach(vm, thread())
        graph.invoke(GO, thread())
    down = {**elsewhere(world, nobody), "base_url": f"http://{nobody}"}
    with world.process(context=down) as process:
        answer = answers(process.agent(*said).invoke(GO, thread()))[-1]
    assert answer.status == "error"
    assert answer.artifact["error"] == "Unreachable"
    assert world.log(vm) == ["one", "two"]


# --- other formats, other savers, other contexts ---


@pytest.mark.parametrize(
    ("written", "remedy"), [(2, "upgrade langchain-vers"), (0, "open it with the version of langchain-vers that wrote it")]
)
@pytest.mark.parametrize("where", ["metadata", "rows"])
def test_another_format_is_refused(world: World, written: int, remedy: str, where: str) -> None:
    with world.process() as process:
        graph = process.agent([*create(), append("one")], "done", [append("two")], "done")
        graph.invoke(GO, thread())
        inner = process.saver.inner
        found = inner.get_tuple(thread())
        assert found is not None
        if where == "metadata":
            inner.put(found.parent_config, found.checkpoint, {**found.metadata, "vers_format": written}, {})
        else:
            inner.put_writes(found.config, [("__vers__", {"format": written, "calls": []})], "task", "")
    vms = world.vms()
    with world.process() as process:
        graph = process.agent([*create(), append("one")], "done", [append("two")], "done")
        with pytest.raises(Unsupported, match=f"in format {written}, and this version of langchain-vers knows format 1; {remedy}"):
            graph.invoke(GO, thread())
    assert world.vms() == vms


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_saver_without_async_methods_says_so(kind: Any, databases: Databases, clean: Path, isolated_vers_data: Path) -> None:
    with databases.new(kind).open() as inner, BackendContext(data_dir=isolated_vers_data, local=False) as context:
        saver = VersSaver(inner, context)

        async def use() -> None:
            await saver.aget_tuple(thread())

        with pytest.raises(NotImplementedError, match=r"(?i)async"):
            asyncio.run(use())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_durability_exit_is_refused(world: World, asynchronous: bool) -> None:
    world.database = Database("memory", "")
    with world.process() as process:
        graph = process.agent([("bash", {"command": "echo ran"})], "done")
        vm = world.vm()
        process.context.attach(vm, thread())
        if asynchronous:
            state = asyncio.run(graph.ainvoke(GO, thread(), durability="exit"))
        else:
            state = graph.invoke(GO, thread(), durability="exit")
    assert last_answer(state) == (
        'a run with durability="exit" stores no checkpoint before it ends, so that no version of the machine could be kept; nothing was '
        'run: use "async" or "sync"'
    )


def test_a_saver_of_another_context_is_refused(world: World) -> None:
    with world.process() as one, world.process() as other:
        state = one.agent(create(), "done", checkpointer=other.saver).invoke(GO, thread())
        first = answers(state)[0]
        assert first.content == (
            "the tools and the VersSaver of this graph have different contexts; make both with the same BackendContext"
        )
        assert not other.context.attached(thread()).machine_id


# --- wrong arguments ---


@pytest.mark.parametrize(
    "wrong",
    [
        {"commit": "always"},
        {"commit": None},
        {"keep_commits": 0},
        {"keep_commits": -3},
        {"keep_commits": 1.5},
        {"keep_commits": "3"},
        {"keep_commits": True},
        {"lease": 0},
        {"lease": -1},
        {"lease": math.nan},
        {"lease": 1e9},
        {"lease": "60"},
        {"lease": None},
    ],
    ids=str,
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with BackendContext(local=False) as context, pytest.raises(BadInput, match=next(iter(wrong))):
        VersSaver(InMemorySaver(), context, **wrong)


def test_only_a_saver_and_a_context_are_taken() -> None:
    with BackendContext(local=False) as context:
        saver = VersSaver(InMemorySaver(), context)
        wraps: Any
        for wraps in (saver, "sqlite", InMemorySaver, None):
            with pytest.raises((BadInput, TypeError)):
                VersSaver(wraps, context)
        no_context: Any
        for no_context in (None, "context", {}):
            with pytest.raises(BadInput, match="BackendContext"):
                VersSaver(InMemorySaver(), no_context)


@pytest.mark.parametrize("method", ["commit", "machine_at", "fork"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_configs_that_mean_nothing_are_refused(world: World, method: str, asynchronous: bool) -> None:
    world.database = Database("memory", "")
    with world.process() as process:
        process.agent("done").invoke(GO, thread("talk"))
        vms = world.vms()

        def ask(config: Any) -> Any:
            if asynchronous:
                return asyncio.run(getattr(process.saver, f"a{method}")(config))
            return getattr(process.saver, method)(config)

        nothing: Any
        for nothing in ({}, {"configurable": {}}, {"configurable": {"thread_id": None}}, {"configurable": None}):
            with pytest.raises(BadInput, match="thread_id"):
                ask(nothing)
        with pytest.raises(Gone, match="thread nobody has no checkpoint yet; langchain-vers history lists those that there are"):
            ask(thread("nobody"))
        with pytest.raises(Gone, match="thread talk has no checkpoint 1ef4f797-8335-6428-8001-8a1503f9b875; langchain-vers history"):
            ask(thread("talk", checkpoint_id="1ef4f797-8335-6428-8001-8a1503f9b875"))
        if method != "fork":
            with pytest.raises(BadInput, match="of thread talk has no VM; langchain-vers history shows those that have one"):
                ask(thread("talk"))
        assert world.vms() == vms


def test_a_commit_of_a_machine_that_is_gone_says_so(world: World) -> None:
    with world.process(commit="manual") as process:
        graph = process.agent([*create(), append("one")], "done")
        graph.invoke(GO, thread())
        machine = head(graph, thread())["vers_machine"]
        world.delete(machine)
        with pytest.raises(VersError, match=f"VM {machine} does not exist any more"):
            process.saver.commit(thread())
        with pytest.raises(Conflict, match="has no commit to restore"):
            process.saver.machine_at(thread())
