"""Two processes on one thread: one at a time works on its machine, and who is dead, or silent for too long, loses it for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import message
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from rigs.savers import Database

from versions.worlds import GO, Process, World, after, answers, append, at, check, create, head, thread

TESTS = Path(__file__).parent.parent
DEADLINE = 60.0
BEGUN, MAY_END = "~/begun", "~/may-end"
SLOW = ("bash", {"command": f"touch {BEGUN}; while [ ! -e {MAY_END} ]; do sleep 0.02; done; echo slow >> ~/log; echo did slow"})
"""A call that ends when it is told to."""


class TurnModel(BaseChatModel):
    """Says in each turn the same: a message with the calls of each of these supersteps, then that it is done."""

    supersteps: list[Any]
    wait_for: str | None = None
    """The file that must be there before it says the last of them; beside it is one that tells that it waits."""

    @property
    def _llm_type(self) -> str:
        return "turn"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        asked = max(n for n, one in enumerate(messages) if isinstance(one, HumanMessage))
        said = sum(isinstance(one, AIMessage) for one in messages[asked:])
        if self.wait_for is not None and said == len(self.supersteps) - 1:
            Path(f"{self.wait_for}.waiting").touch()
            until(Path(self.wait_for).exists)
        calls = self.supersteps[said] if said < len(self.supersteps) else []
        answer = message(*((name, arguments) for name, arguments in calls), first=1000 * len(messages)) if calls else AIMessage("done")
        return ChatResult(generations=[ChatGeneration(message=answer)])


def agent_of(process: Process, supersteps: Any, wait_for: str | None = None) -> Any:
    return create_agent(TurnModel(supersteps=list(supersteps), wait_for=wait_for), process.tools, checkpointer=process.saver)


def results(agent: Any) -> list[list[str]]:
    """What a turn of the thread leads to: of each result the status and the text."""
    return [[one.status, str(one.content).strip()] for one in answers(agent.invoke(GO, thread()))]


class Other:
    """Another process that works on threads of the same world, told line by line what its agent does."""

    def __init__(self, world: World, **options: Any) -> None:
        job = {"data_dir": str(world.data_dir), "kind": world.database.kind, "url": world.database.url, "options": options}
        environment = {name: value for name, value in os.environ.items() if not name.startswith("VERS_")}
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
        )

    def begin(self, *supersteps: Any, wait_for: Path | None = None) -> None:
        """Let it begin a turn."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([supersteps, None if wait_for is None else str(wait_for)]) + "\n")
        self.process.stdin.flush()

    def end(self) -> list[list[str]]:
        """The thread's results, each its status and its text."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def turn(self, *supersteps: Any) -> list[list[str]]:
        self.begin(*supersteps)
        return self.end()

    def stop(self) -> None:
        """Let it fall silent."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)

    def close(self) -> None:
        if self.process.poll() is None:
            self.go_on()
        self.process.communicate(timeout=DEADLINE)


Start = Callable[..., Other]


@pytest.fixture
def start(world: World) -> Iterator[Start]:
    """Starts other processes, and ends them."""
    started: list[Other] = []

    def make(**options: Any) -> Other:
        started.append(Other(world, **options))
        return started[-1]

    yield make
    for other in started:
        other.close()


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def machine_with(world: World, path: str) -> str:
    found: list[str] = []

    def there() -> bool:
        found[:] = [vm for vm in world.vms() if world.sh(vm, f"[ -e {path} ] && echo there")]
        return bool(found)

    until(there)
    return found[0]


def let_it_end(world: World, machine: str) -> None:
    world.sh(machine, f"touch {MAY_END}")


def last(process: Process, *supersteps: Any) -> list[str]:
    """A turn of this process; its last result."""
    return results(agent_of(process, supersteps))[-1]


@contextmanager
def stopped(other: Other) -> Iterator[None]:
    other.stop()
    try:
        yield
    finally:
        other.go_on()


FIRST = [[*create()], [append("one")]]


def test_the_second_is_told_while_the_first_is_alive(world: World, start: Start) -> None:
    first = start()
    first.turn(*FIRST)
    with world.process() as second:
        first.begin([SLOW])
        machine = machine_with(world, BEGUN)
        vms = world.vms()
        status, text = last(second, [append("two")])
        assert status == "error"
        assert f"another process works on VM {machine} for this conversation; nothing was run: wait for it, or try again in " in text
        assert text.endswith("s, when its lease runs out if it has fallen silent")
        assert world.vms() == vms
        let_it_end(world, machine)
        assert first.end()[-1] == ["success", "did slow"]
        assert world.log(machine) == ["one", "slow"]


@pytest.mark.full
@pytest.mark.parametrize("where", ["between calls", "in a call"])
def test_one_that_has_fallen_silent_loses_the_machine_and_is_told(world: World, start: Start, tmp_path: Path, where: str) -> None:
    first = start(lease=1)
    first.turn(*FIRST)
    go = tmp_path / "go"
    with world.process(lease=1) as second:
        if where == "between calls":  # while its model thinks
            first.begin([("bash", {"command": f"touch {BEGUN}; echo quick >> ~/log; echo did quick"})], [append("late")], wait_for=go)
            until(Path(f"{go}.waiting").exists)
            machine = machine_with(world, BEGUN)
        else:
            first.begin([("bash", {"command": SLOW[1]["command"], "timeout": 1})], [append("late")])
            machine = machine_with(world, BEGUN)
        with stopped(first):
            seen: list[list[str]] = []

            def taken_over() -> bool:
                seen.append(last(second, [append("two")]))
                return seen[-1][0] == "success"

            until(taken_over)
            assert all("another process works on VM" in text for _, text in seen[:-1])
            current = head(second.agent(), thread())["vers_machine"]
            assert world.log(current)[-1] == "two"
            before = {vm: world.log(vm) for vm in world.vms()}
            assert machine in before
        go.touch()
        text = first.end()[-1][1]
        assert (
            "another process" in text or "has moved on since this point of the conversation; this ran on VM" in text or machine != current
        )
        assert world.log(current) == before[current]  # what the first one still does is no business of this machine's
        check(second, second.agent(), thread(), lenient=True)


def test_a_dead_process_has_no_lease(world: World, start: Start) -> None:
    first = start(lease=3600)
    first.turn(*FIRST)
    with world.process() as second:
        first.begin([SLOW])
        machine_with(world, BEGUN)
        first.kill()
        assert last(second, [append("two")])[0] == "success"
        assert world.log(head(second.agent(), thread())["vers_machine"]) == ["one", "two"]
        check(second, second.agent(), thread())


def test_after_each_turn_the_other_goes_on_with_the_same_machine(world: World, start: Start) -> None:
    first = start()
    first.turn(*FIRST)
    with world.process() as second:
        vms = world.vms()
        for number in range(1, 7):
            one = last(second, [append(f"t{number}")]) if number % 2 else first.turn([append(f"t{number}")])[-1]
            assert one == ["success", f"did t{number}"]
        assert world.vms() == vms
        assert world.log(head(second.agent(), thread())["vers_machine"]) == ["one", *(f"t{number}" for number in range(1, 7))]
        check(second, second.agent(), thread())


def test_going_back_in_one_process_while_the_other_is_at_rest(world: World, start: Start) -> None:
    first = start()
    first.turn(*FIRST, [append("two")])
    with world.process() as second:
        graph = agent_of(second, [*FIRST, [append("two")]])
        before = head(graph, thread())["vers_machine"]
        graph.invoke(None, at(graph, thread(), after(3)))
        now = head(graph, thread())["vers_machine"]
        assert now != before
        assert world.log(before) == world.log(now) == ["one", "two"]
        assert first.turn([append("three")])[-1] == ["success", "did three"]
        assert world.log(now) == ["one", "two", "three"]
        assert world.log(before) == ["one", "two"]


def serve() -> None:
    """The other process: for each line a turn of the thread."""
    job = json.loads(sys.argv[1])
    world = World(Path(job["data_dir"]), Database(job["kind"], job["url"]), None, set())  # type: ignore[arg-type]
    with world.process(**job["options"]) as process:
        for line in sys.stdin:
            supersteps, wait_for = json.loads(line)
            sys.stdout.write(json.dumps(results(agent_of(process, supersteps, wait_for))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    serve()
