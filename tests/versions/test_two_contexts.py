"""Two contexts of one account in one process, each with a saver of its own.

They share connections, and know no more of each other's threads than two processes do.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from langchain_vers.backends import stamps
from langchain_vers.backends.stamps import NOBODY, Stamp
from langchain_vers.owners import Owner
from versions.test_two_processes import BEGUN, FIRST, SLOW, agent_of, last, let_it_end, machine_with, results, until
from versions.worlds import GO, World, answers, append, check, head, thread, tokens


@pytest.fixture(autouse=True)
def _contexts_are_processes() -> None:
    """Not here: they share what contexts of a process share."""


def test_after_each_turn_the_other_goes_on_with_the_same_machine(world: World) -> None:
    with world.process() as first, world.process() as second:
        results(agent_of(first, FIRST))
        assert first.context.link._exchange is second.context.link._exchange
        vms = world.vms()
        for number in range(1, 5):
            assert last((first, second)[number % 2], [append(f"t{number}")]) == ["success", f"did t{number}"]
        assert world.vms() == vms
        assert world.log(head(second.agent(), thread())["vers_machine"]) == ["one", "t1", "t2", "t3", "t4"]
        check(second, second.agent(), thread())


def test_one_goes_back_to_where_it_was_while_the_other_has_gone_on(world: World) -> None:
    """What the first knows of the machine is out of date, and the machine itself tells."""
    with world.process() as first, world.process() as second:
        graph = agent_of(first, FIRST)
        graph.invoke(GO, thread())
        end = graph.get_state(thread()).config
        assert last(second, [append("two")]) == ["success", "did two"]
        before = head(graph, thread())["vers_machine"]
        state = agent_of(first, [[append("three")]]).invoke(GO, end)
        assert answers(state)[-1].content.endswith("did three")
        now = head(graph, thread())["vers_machine"]
        assert now != before
        assert world.log(now) == ["one", "three"] and world.log(before) == ["one", "two"]
        check(second, second.agent(), thread())


def test_the_second_is_told_while_the_first_is_in_a_call(world: World) -> None:
    with world.process() as first, world.process() as second, ThreadPoolExecutor(1) as pool:
        results(agent_of(first, FIRST))
        slow = pool.submit(last, first, [SLOW])
        machine = machine_with(world, BEGUN)
        vms = world.vms()
        status, text = last(second, [append("two")])
        assert status == "error" and f"another saver of this process works on VM {machine} for this conversation; nothing was run" in text
        assert world.vms() == vms
        let_it_end(world, machine)
        assert slow.result() == ["success", "did slow"]
        assert world.log(machine) == ["one", "slow"]


def test_the_second_takes_over_between_two_calls_of_the_first(world: World, tmp_path: Path) -> None:
    """As a cell of a notebook that is run again: nobody waits for what was replaced, and what was replaced harms nobody."""
    go = tmp_path / "go"
    with world.process(lease=3600) as first, world.process() as second, ThreadPoolExecutor(1) as pool:
        results(agent_of(first, FIRST))
        late = pool.submit(lambda: results(agent_of(first, [[append("early")], [append("late")]], str(go)))[-1])
        until(lambda: "early" in tokens(second.agent().get_state(thread()).values))  # it is stored while the model thinks
        until(Path(f"{go}.waiting").exists)
        assert last(second, [append("two")]) == ["success", "did two"]
        current = head(second.agent(), thread())["vers_machine"]
        before = world.log(current)
        assert before[-2:] == ["early", "two"]
        go.touch()
        status, text = late.result()
        assert status == "success" and text.endswith("did late")
        assert world.log(current) == before
        assert head(second.agent(), thread())["vers_machine"] != current
        check(second, second.agent(), thread(), lenient=True)


def test_threads_of_both_on_one_machine_at_once(world: World) -> None:
    """Each is always where its own conversation is, and nothing waits for ever."""
    vm = world.vm()
    turns = 3
    with world.process(context={"vm": vm}) as first, world.process(context={"vm": vm}) as second, ThreadPoolExecutor(2) as pool:
        start = threading.Barrier(2)

        def talk(name: str, process: Any) -> list[str]:
            start.wait(60)
            said = []
            for number in range(turns):
                config = thread(name)
                while True:  # told that the other is in the middle of something, it tries again
                    status, text = answered(agent_of(process, [[append(f"{name}{number}")]]), config)
                    said.append(status)
                    if status == "success":
                        break
                    assert "another saver of this process works on VM" in text
            return [token for token in world.log(head(process.agent(), config)["vers_machine"]) if token.startswith(name)]

        both = [pool.submit(talk, name, process) for name, process in (("a", first), ("b", second))]
        for name, logs in zip("ab", both, strict=True):
            assert logs.result(150) == [f"{name}{number}" for number in range(turns)]


def answered(graph: Any, config: Any) -> tuple[str, str]:
    answer = answers(graph.invoke(GO, config))[-1]
    return answer.status, str(answer.content)


@pytest.mark.full
def test_one_that_is_gone_holds_nothing(world: World) -> None:
    with world.process() as second:
        with world.process(lease=3600) as first:
            results(agent_of(first, FIRST))
        assert last(second, [append("two")]) == ["success", "did two"]


# --- names of owners ---


class Works:
    """One that works on everything."""

    def works_on(self, machine_id: str) -> bool:
        return True


def test_owners_of_one_process() -> None:
    one, other = Works(), Works()
    first, second = Owner(one), Owner(other)
    stamp = Stamp("v", first.name, 60)
    assert len(first.name) == len(NOBODY) and first.name != second.name
    assert first.owns(stamp) and not second.owns(stamp) and second.is_neighbour(stamp) and not first.is_neighbour(stamp)
    assert (first.waits("vm", stamp), second.waits("vm", stamp), second.waits("vm", None)) == (0, 60, 0)
    del one
    assert second.waits("vm", stamp) == 0  # nobody holds it any more
    assert not first.is_neighbour(Stamp("v", NOBODY, 60)) and first.waits("vm", Stamp("v", NOBODY, 60)) == 0


@pytest.mark.parametrize("owner", ["x" * 32, stamps.this_process()[:10] + "z" * 22, stamps.this_process()[:10] + "f" * 22, "é" * 32])
def test_nonsense_that_a_guest_has_written_as_an_owner(owner: str) -> None:
    """It keeps others away for no longer than a silent owner would."""
    works = Works()
    assert Owner(works).waits("vm", Stamp("v", owner, 60, age=10)) == 50
    assert Owner(works).waits("vm", Stamp("v", stamps.this_process()[:26] + "?" * 6, 60)) == 0
