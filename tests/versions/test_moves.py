"""`VersSaver` and threads that are moved: given a VM from the start, moved by the agent, brought back by a restart or by time travel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from versions import machine_claims
from versions.worlds import GO, World, after, answers, append, at, check, create, head, thread, tokens

AGAIN = pytest.mark.parametrize("again", [False, True], ids=["the process", "a new process"])


def look(path: str = "~/log") -> Any:
    return "bash", {"command": f"cat {path}"}


@AGAIN
def test_a_vm_that_is_given_is_committed_before_its_first_change(world: World, again: bool) -> None:
    vm = world.vm()
    world.sh(vm, "echo before > ~/log")
    before = world.commits()
    says = ([("read", {"path": "~/log"})], [append("a")], [append("b")], "done")
    with world.process(context={"vm": vm}) as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        assert len(world.commits() - before) == 3
        there = at(graph, thread(), after(0, "tools"))
        if not again:
            graph.invoke(None, there)
    with world.process(context={"vm": vm}) as process:
        graph = process.agent(*says)
        if again:
            graph.invoke(None, there)
        other = head(graph, thread())["vers_machine"]
        assert other != vm
        assert world.log(other) == world.log(vm) == ["before", "a", "b"]
        assert "before" in answers(graph.get_state(thread()).values)[0].content


@AGAIN
def test_what_is_copied_into_the_machine_is_a_change_of_it(world: World, again: bool) -> None:
    vm, other = world.vm(), world.vm()
    world.sh(other, "echo copied > ~/log")
    log = world.sh(vm, "echo ~/log").strip()
    before = world.commits()
    copy = ("vers_vm_copy", {"source": f"vm:{other}:{log}", "destination": f"vm:{vm}:{log}"})
    with world.process(context={"vm": vm}) as process:
        graph = process.agent([append("a")], [copy], [append("b")], "done")
        graph.invoke(GO, thread())
        assert world.log(vm) == ["copied", "b"] and len(world.commits() - before) == 4
        if not again:
            assert [world.log_at(process, at(graph, thread(), after(count))) for count in (1, 2, 3)] == [["a"], ["copied"], ["copied", "b"]]
    if again:
        with world.process(context={"vm": vm}) as process:
            graph = process.agent("done")
            assert [world.log_at(process, at(graph, thread(), after(count))) for count in (1, 2, 3)] == [["a"], ["copied"], ["copied", "b"]]


def test_each_thread_has_its_own_history(world: World) -> None:
    with world.process() as process:
        graph = process.agent(create(), [append("a")], [append("b")], "done", [append("c")], "done")
        for name in ("one", "two"):
            graph.invoke(GO, thread(name))
        one, two = (head(graph, thread(name))["vers_machine"] for name in ("one", "two"))
        graph.invoke(GO, thread("two"))
        assert one != two and world.log(one) == ["a", "b"] and world.log(two) == ["a", "b", "c"]
        labels = {vm.vm_id: vm.labels for vm in _list(world)}
        assert labels[one]["langchain-vers-thread"] == "one"
        assert labels[one]["langchain-vers-database"] == process.saver.identity()


def _list(world: World) -> Any:
    from langchain_vers._io import run

    return run(world.client.list_vms())


def _moves(vm: str) -> dict[str, tuple[Any, list[str]]]:
    """What moves a thread that has written a, and what the machine then holds."""
    return {
        "use": ([("vers_vm_use", {"vm_id": vm})], ["given"]),
        "create": ([("vers_vm_create", {})], []),
        "branch": ([("vers_vm_branch", {"attach": True})], ["a"]),
        "restore": ([("vers_vm_restore", {"commit_id": "mark"})], ["a"]),
    }


@pytest.mark.parametrize("move", ["use", "create", "branch", "restore"])
def test_moves_hold_and_are_undone(world: World, move: str) -> None:
    vm = world.vm()
    world.sh(vm, "echo given > ~/log")
    moves, held = _moves(vm)[move]
    says = (
        create(),
        [append("a"), ("vers_vms", {})],
        [("vers_vm_commit", {"name": "mark"})],
        moves,
        [append("b")],
        "done",
        [append("c")],
        "done",
    )
    with world.process() as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        second = head(graph, thread())["vers_machine"]
        assert world.log(second) == [*held, "b"]
    with world.process() as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        assert head(graph, thread())["vers_machine"] == second
        assert world.log(second) == [*held, "b", "c"]
        first = graph.get_state(at(graph, thread(), after(4))).metadata["vers_machine"]
        assert first != second and world.log(first) == ["a"]
        moved = at(graph, thread(), after(6))
        assert world.log_at(process, moved) == held
    with world.process() as process:  # from behind the move
        graph = process.agent(*says)
        last = graph.get_state(thread()).config
        graph.invoke(None, moved)
        third = head(graph, thread())["vers_machine"]
        assert third not in {first, second} and world.log(third) == [*held, "b"]
        assert world.log(second) == [*held, "b", "c"]
    with world.process() as process:  # from before it: the agent moves again, to a VM that is named as that one is now
        graph = process.agent(*says)
        graph.invoke(None, at(graph, thread(), after(5)))
        fourth = head(graph, thread())["vers_machine"]
        assert fourth != first
        assert world.log(fourth) == ([*held, "b", "c", "b"] if move == "use" else [*held, "b"])
        assert (fourth == second) == (move == "use")
        # The conversation that was there before has its machine all the same.
        other = process.agent(*says, [append("d")], "done")
        graph.update_state(last, {"messages": [("user", "more")]}, as_node="__start__")
        other.invoke(None, thread())
        assert world.log(head(other, thread())["vers_machine"]) == [*held, "b", "c", "d"]


@AGAIN
def test_leaving_for_this_machine(world: World, tmp_path: Path, again: bool) -> None:
    here = tmp_path / "here"
    here.mkdir()
    says = (
        create(),
        [append("a")],
        [("vers_vm_local", {})],
        [("bash", {"command": "echo b >> log; cat log"})],
        "done",
        [look("log")],
        "done",
    )
    local: dict[str, Any] = {"local": str(here)}
    with world.process(context=local) as process:
        graph = process.agent(*says)
        state = graph.invoke(GO, thread())
        machine = answers(state)[0].artifact["machine_id"]
        assert (here / "log").read_text() == "b\n"
        if not again:
            assert answers(graph.invoke(GO, thread()))[-1].content == "b"
        assert head(graph, thread())["vers_backend"] == "local"
    with world.process(context=local) as process:
        graph = process.agent(*says)
        if again:
            assert answers(graph.invoke(GO, thread()))[-1].content == "b"
        there = at(graph, thread(), after(3))
        other = process.agent(create(), [append("a")], [append("x")], "done")
        assert tokens(other.invoke(None, there)) == ["a", "x"]
        assert world.log(machine) == ["a", "x"]  # it was exactly as it had been left


@AGAIN
def test_deleting_the_own_vm(world: World, again: bool) -> None:
    vm = world.vm()
    says = (
        [("vers_vm_use", {"vm_id": vm})],
        [append("a")],
        [("vers_vm_delete", {"vm_id": vm})],
        [append("b")],
        "done",
        [append("c")],
        "done",
    )

    def refused(state: Any) -> bool:
        last = answers(state)[-1]
        return last.status == "error" and vm in str(last.content)

    with world.process() as process:
        graph = process.agent(*says)
        assert refused(graph.invoke(GO, thread()))
        if not again:
            assert refused(graph.invoke(GO, thread()))
    with world.process() as process:
        graph = process.agent(*says)
        if again:
            assert refused(graph.invoke(GO, thread()))
        there = at(graph, thread(), after(2))
        other = process.agent(*says[:2], [append("x")], "done")
        state = other.invoke(None, there)
        assert tokens(state) == ["a", "x"], answers(state)[-1].content
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "x"]


def test_what_a_program_says_holds_from_the_next_call_on(world: World) -> None:
    vm = world.vm()
    says = (create(), [append("a")], "done", [append("b")], "done", [append("c")], "done")
    with world.process() as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        first = head(graph, thread())["vers_machine"]
        process.context.attach(vm, thread())
        graph.invoke(GO, thread())
        assert head(graph, thread())["vers_machine"] == vm
    with world.process() as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        assert world.log(vm) == ["b", "c"] and world.log(first) == ["a"]


# --- what it costs ---


def test_supersteps_that_only_read_make_no_commit(world: World) -> None:
    reads = [
        ("read", {"path": "~/notes"}),
        ("ls", {"path": "~"}),
        ("grep", {"pattern": "x", "path": "~"}),
        ("find", {"pattern": "*", "path": "~"}),
    ]
    with world.process() as process:
        graph = process.agent(create(), reads, reads[:1], "done", reads, "done")
        graph.invoke(GO, thread())
        made = world.commits()
        assert len(made) == 1
        graph.invoke(GO, thread())
        assert world.commits() == made
        assert {state.metadata.get("vers_commit") for state in graph.get_state_history(thread())} == {None, *made}


def test_one_commit_for_each_superstep_that_changes_the_machine(world: World) -> None:
    several = [machine_claims.write("x"), append("b"), append("c")]  # which may begin in any order
    with world.process() as process:
        graph = process.agent(create(), [append("a")], several, [append("d")], "done")
        graph.invoke(GO, thread())
        assert len(world.commits()) == 4
        with_tools = [state.metadata for state in graph.get_state_history(thread()) if state.metadata.get("vers_tools")]
        assert [one["vers_tools"] for one in reversed(with_tools)][1:] == ["bash", "bash, write", "bash"]
        assert all(one["vers_commit"] == one["vers_version"] and one["vers_commit_ms"] > 0 for one in with_tools)
        check(process, graph, thread())


def test_facts_of_the_machine_can_be_filtered_by(world: World) -> None:
    with world.process() as process:
        graph = process.agent(create(), [append("a")], [append("b")], "done")
        graph.invoke(GO, thread())
        there = graph.get_state(at(graph, thread(), after(3)))
        found = list(graph.get_state_history(thread(), filter={"vers_commit": there.metadata["vers_commit"]}))
        assert {len(answers(state.values)) for state in found} == {3}


def test_the_durability_exit_is_refused(world: World) -> None:
    with world.process() as process:
        graph = process.agent(create(), [append("a")], "done", [append("b")], "done")
        graph.invoke(GO, thread())
        state = graph.invoke(GO, thread(), durability="exit")
        last = answers(state)[-1]
        assert last.status == "error" and 'durability="exit"' in str(last.content) and "nothing was run" in str(last.content)
        assert world.log(head(graph, thread())["vers_machine"]) == ["a"]


def test_looking_at_a_machine_of_before_moves_nobody(world: World) -> None:
    with world.process() as process:
        graph = process.agent(create(), [append("a")], [append("b")], "done", [append("c")], "done")
        graph.invoke(GO, thread())
        machine = head(graph, thread())["vers_machine"]
        assert world.log_at(process, at(graph, thread(), after(3))) == ["a"]
        assert process.context.attached(thread()).machine_id == machine
        graph.invoke(GO, thread())
        assert world.log(machine) == ["a", "b", "c"]


def test_on_request(world: World) -> None:
    says = (create(), [append("a")], "done", [append("b")], "done", [append("c")], "done")
    with world.process(commit="manual") as process:
        graph = process.agent(*says)
        graph.invoke(GO, thread())
        assert world.commits() == set()
        there = graph.get_state(thread()).config
        commit = process.saver.commit(thread())
        assert world.commits() == {commit}
        graph.invoke(GO, thread())
        assert world.commits() == {commit}
    with world.process(commit="manual") as process:
        graph = process.agent(*says)
        assert world.log_at(process, there) == ["a"]
        graph.update_state(there, None, as_node="__copy__")
        assert tokens(graph.invoke(GO, thread())) == ["a", "b"]
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b"]
