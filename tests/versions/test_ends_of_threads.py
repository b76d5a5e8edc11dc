"""What becomes of VMs and commits when checkpoints go: what nobody refers to goes with them, everything else stays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command
from rigs.savers import Database

from langchain_vers import VersSaver
from langchain_vers._io import run
from versions.worlds import GO, Process, World, after, append, at, check, create, head, thread

TURNS = ([*create(), append("one")], [append("two")], "done", [append("three")], "done")


def settled(process: Process) -> None:
    """Wait for what a turn's end has set off."""
    link = run(_link(process))

    async def rest() -> None:
        while link._afterwards:
            await asyncio.wait(link._afterwards)

    run(rest())


async def _link(process: Process) -> Any:
    return process.context.link


def commits_of(graph: Any, config: Any) -> set[str]:
    """The commits that the checkpoints of a thread name."""
    return {state.metadata["vers_commit"] for state in graph.get_state_history(config) if "vers_commit" in state.metadata}


@pytest.fixture
def extended(world: World) -> World:
    """The world with a database that has all extensions of the protocol, and is gone with its saver."""
    world.database = Database("extended-memory", "")
    return world


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_thread_goes_with_its_machines_and_commits(extended: World, asynchronous: bool) -> None:
    kept_vm = extended.vm()
    with extended.process() as process:
        graph = process.agent(*TURNS)
        graph.invoke(GO, thread())
        graph.invoke(GO, thread("other"))
        back = at(graph, thread(), after(3))
        graph.invoke(None, back)  # a second machine of the thread
        before = head(graph, thread("other"))
        mine = {state.metadata["vers_machine"] for state in graph.get_state_history(thread()) if "vers_machine" in state.metadata}
        commits = commits_of(graph, thread())
        settled(process)
        assert len(mine) == 2
        assert commits <= extended.commits()

        if asynchronous:
            asyncio.run(process.saver.adelete_thread("thread"))
        else:
            process.saver.delete_thread("thread")

        assert extended.vms() & mine == set()
        assert extended.commits() & commits == set()
        assert {kept_vm, before["vers_machine"]} <= extended.vms()
        assert commits_of(graph, thread("other")) <= extended.commits()
        check(process, graph, thread("other"))
        assert graph.get_state(thread()).values == {}
        graph.invoke(GO, thread())
        check(process, graph, thread())


def test_a_machine_that_was_not_made_for_the_thread_stays(world: World) -> None:
    vm = world.vm()
    with world.process() as process:
        graph = process.agent([append("one")], "done")
        process.context.attach(vm, thread())
        graph.invoke(GO, thread())
        commits = commits_of(graph, thread())
        settled(process)
        process.saver.delete_thread("thread")
        assert vm in world.vms()
        assert world.commits() & commits == set()
        assert world.log(vm) == ["one"]


def test_what_another_thread_refers_to_stays_until_it_goes_too(extended: World) -> None:
    with extended.process() as process:
        graph = process.agent(*TURNS)
        graph.invoke(GO, thread())
        settled(process)
        commits, machine = commits_of(graph, thread()), head(graph, thread())["vers_machine"]
        process.saver.copy_thread("thread", "copy")
        assert commits_of(graph, thread("copy")) == commits
        process.saver.delete_thread("thread")
        assert commits <= extended.commits()
        assert machine in extended.vms()

        check(process, graph, thread("copy"))
        graph.invoke(GO, thread("copy"))
        assert head(graph, thread("copy"))["vers_machine"] == machine
        assert extended.log(machine) == ["one", "two", "three"]
        check(process, graph, thread("copy"))
        settled(process)
        all_commits = commits_of(graph, thread("copy"))
        process.saver.delete_thread("copy")
        assert extended.commits() & all_commits == set()


def test_both_copies_go_on_each_on_a_machine_of_its_own(extended: World) -> None:
    with extended.process() as process:
        graph = process.agent(*TURNS)
        graph.invoke(GO, thread())
        process.saver.copy_thread("thread", "copy")
        graph.invoke(GO, thread("copy"))
        graph.invoke(GO, thread())
        one, other = head(graph, thread())["vers_machine"], head(graph, thread("copy"))["vers_machine"]
        assert one != other
        assert extended.log(one) == extended.log(other) == ["one", "two", "three"]
        for name in ("thread", "copy"):
            check(process, graph, thread(name))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("strategy", ["keep_latest", "delete"])
def test_pruning(extended: World, strategy: str, asynchronous: bool) -> None:
    with extended.process() as process:
        graph = process.agent(*TURNS)
        graph.invoke(GO, thread())
        settled(process)
        commits, last = commits_of(graph, thread()), head(graph, thread())
        if asynchronous:
            asyncio.run(process.saver.aprune(["thread"], strategy=strategy))
        else:
            process.saver.prune(["thread"], strategy=strategy)
        if strategy == "delete":
            assert extended.commits() & commits == set()
            assert last["vers_machine"] not in extended.vms()
            return
        assert extended.commits() & commits == {last["vers_commit"]}
        assert last["vers_machine"] in extended.vms()
        graph.invoke(GO, thread())
        assert head(graph, thread())["vers_machine"] == last["vers_machine"]
        assert extended.log(last["vers_machine"]) == ["one", "two", "three"]
        check(process, graph, thread())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_checkpoints_of_a_run(extended: World, asynchronous: bool) -> None:
    with extended.process() as process:
        graph = process.agent(*TURNS)
        runs = ["0f8fad5b-d9cb-469f-a165-70867728950e", "7c9e6679-7425-40de-944b-e07fc1f90ae7"]
        for run_id in runs:
            graph.invoke(GO, {**thread(), "metadata": {"run_id": run_id}})
        settled(process)
        by_run = [
            {
                state.metadata["vers_commit"]
                for state in graph.get_state_history(thread(), filter={"run_id": run_id})
                if "vers_commit" in state.metadata
            }
            for run_id in runs
        ]
        only_second = by_run[1] - by_run[0]
        assert only_second
        if asynchronous:
            asyncio.run(process.saver.adelete_for_runs(runs[1:]))
        else:
            process.saver.delete_for_runs(runs[1:])
        assert extended.commits() & only_second == set()
        assert by_run[0] <= extended.commits()
        # The thread is where its first run had left it, and so is its machine when it goes on.
        graph.invoke(GO, thread())
        machine = head(graph, thread())["vers_machine"]
        assert extended.log(machine) == ["one", "two", "three"]
        check(process, graph, thread())


def test_extensions_that_the_inner_saver_lacks_are_not_there(world: World) -> None:
    with world.process() as process:
        for name in ("copy_thread", "prune", "delete_for_runs"):
            inner = type(process.saver.inner)
            has = getattr(inner, name) is not getattr(BaseCheckpointSaver, name)
            assert (getattr(type(process.saver), name) is not getattr(BaseCheckpointSaver, name)) is has
        assert isinstance(process.saver, VersSaver)


# --- keeping some only ---


def test_the_newest_commits_are_kept_and_those_of_heads_and_interrupts(world: World) -> None:
    with world.process(keep_commits=2) as process:
        ask = ("ask", {"question": "may I"})
        graph = process.agent(
            [*create(), append("a")], [append("b")], [ask, append("c")], "-", *[[append(token)] for token in "defg"], "done"
        )
        graph.invoke(GO, thread())
        interrupted = graph.get_state(thread())
        assert interrupted.tasks[0].interrupts or interrupted.tasks[1].interrupts
        settled(process)

        graph.invoke(Command(resume="yes"), thread())
        graph.invoke(GO, thread())
        settled(process)
        states = list(graph.get_state_history(thread()))
        named = [state.metadata["vers_commit"] for state in states if "vers_commit" in state.metadata]
        newest = list(dict.fromkeys(named))
        there = world.commits()
        assert set(newest[:2]) <= there
        assert interrupted.metadata["vers_commit"] in there
        # What was done beside the question has a commit of its own, which the answer's checkpoint shares.
        resumed = next(state for state in states if state.parent_config == interrupted.config and state.metadata["source"] == "loop")
        gone = set(newest[2:]) - {interrupted.metadata["vers_commit"], resumed.metadata["vers_commit"]}
        assert gone
        assert there & gone == set()
        pruned = next(state for state in states if state.metadata.get("vers_commit") in gone)
        answer = graph.invoke(None, pruned.config)["messages"][-2]
        assert answer.status == "error"
        assert f"its commit {pruned.metadata['vers_commit']} does not exist any more" in answer.content


def test_a_commit_that_a_head_of_another_branch_stands_on_is_kept(world: World) -> None:
    with world.process(keep_commits=3) as process:
        graph = process.agent([*create(), append("a")], "done", *[turn for token in "bcdef" for turn in ([append(token)], "done")])
        graph.invoke(GO, thread())
        end_of_first = graph.get_state(thread()).config
        graph.invoke(GO, thread())
        left = head(graph, thread())
        graph.invoke(GO, end_of_first)
        for _ in range(3):
            graph.invoke(GO, thread())
            settled(process)
        assert world.log_at(process, thread()) == ["a", "b", "c", "d", "e"]
        there = world.commits()
        assert {left["vers_commit"], head(graph, thread())["vers_commit"]} <= there
        assert graph.get_state(end_of_first).metadata["vers_commit"] not in there


def test_a_copy_that_is_made_checkpoint_by_checkpoint(world: World) -> None:
    """As LangGraph Server makes it where a saver has no method for it: the copy begins on the machine of the original, and leaves it."""
    with world.process() as process:
        graph = process.agent(*TURNS)
        graph.invoke(GO, thread())
        for found in sorted(process.saver.list(thread()), key=lambda one: one.checkpoint["id"]):
            configurable = {"thread_id": "copy", "checkpoint_ns": ""}
            if found.parent_config is not None:
                configurable["checkpoint_id"] = found.parent_config["configurable"]["checkpoint_id"]
            versions = found.checkpoint["channel_versions"]
            process.saver.put({"configurable": configurable}, found.checkpoint, {**found.metadata, "thread_id": "copy"}, versions)
        original = head(graph, thread())
        assert {name: value for name, value in head(graph, thread("copy")).items() if name.startswith("vers_")} == {
            name: value for name, value in original.items() if name.startswith("vers_")
        }
        check(process, graph, thread("copy"))
        graph.invoke(GO, thread("copy"))
        graph.invoke(GO, thread())
        check(process, graph, thread("copy"))
        check(process, graph, thread())
        assert head(graph, thread("copy"))["vers_machine"] != head(graph, thread())["vers_machine"]
