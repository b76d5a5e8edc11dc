"""Machines that nobody uses are paused, and resumed when they are used again; never behind anybody's back."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from agents import agent, message
from langgraph.checkpoint.memory import InMemorySaver

from langchain_vers import BackendContext, VersSaver, VersToolkit
from langchain_vers._io import on_io, run
from langchain_vers.errors import BadInput
from langchain_vers.idle import IDLE_LABEL

MakeToolkit = Callable[..., VersToolkit]

IDLE = 0.3
LONG = 3600.0
DEADLINE = 60.0
START = {"messages": [("user", "go")]}


class Machine:
    """A VM as the platform sees it, and a program's calls on it."""

    def __init__(self, toolkit: VersToolkit) -> None:
        self.toolkit = toolkit
        self.context = toolkit.context
        self.vm_id = self("vers_vm_create").artifact["machine_id"]

    def __call__(self, name: str, toolkit: VersToolkit | None = None, **arguments: Any) -> Any:
        tool = next(tool for tool in (toolkit or self.toolkit).get_tools() if tool.name == name)
        return tool.invoke({"type": "tool_call", "id": f"call-{name}", "name": name, "args": arguments})

    def bash(self, command: str, toolkit: VersToolkit | None = None, **arguments: Any) -> Any:
        return self("bash", toolkit, command=command, **arguments)

    def seen(self) -> Any:
        return run(self._seen())

    async def _seen(self) -> Any:
        return await (await self.context.client()).get_vm(self.vm_id)

    def until(self, condition: Callable[[Any], bool]) -> Any:
        """Wait until the platform says so of the VM."""
        deadline = time.monotonic() + DEADLINE
        while not condition(vm := self.seen()):
            assert time.monotonic() < deadline, vm
            time.sleep(0.02)
        return vm

    def set_state(self, state: str) -> None:
        async def act() -> None:
            await (await self.context.client()).set_vm_state(self.vm_id, state)

        run(act())


def asleep(vm: Any) -> bool:
    return vm.state == "paused" and vm.labels.get(IDLE_LABEL) == "1"


def awake(vm: Any) -> bool:
    return vm.state == "running" and IDLE_LABEL not in (vm.labels or {})


Make = Callable[..., Machine]


@pytest.fixture
def make(make_isolated_toolkit: MakeToolkit) -> Iterator[Make]:
    """Makes a machine whose thread is on it; it is awake in the end, so that it can be deleted."""
    yield lambda idle=IDLE, **options: Machine(make_isolated_toolkit(idle_pause=idle, local=False, **options))


def rest_of(machine: Machine) -> Any:
    """What watches the machine in its context, to be asked to look now."""

    async def find() -> Any:
        return (await machine.context.machine(machine.vm_id)).rest

    return run(find())


def look_now(machine: Machine, calls: int = 0) -> None:
    """Let the idle time be over now, with so many calls under way, and wait until what follows from that is done."""
    rest = rest_of(machine)

    async def act() -> None:
        async with asyncio.timeout(DEADLINE):
            while rest._calls > calls or rest._timer is None:  # a call has ended when its channel is closed
                await asyncio.sleep(0.01)
        rest._used = -math.inf
        rest._timer.cancel()
        rest._look()
        if rest._task is not None:
            await rest._task

    run(act())


@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, True, "5"])
def test_what_is_no_time_is_refused(wrong: Any) -> None:
    with pytest.raises(BadInput, match="idle_pause"):
        BackendContext(idle_pause=wrong)


def test_the_toolkit_passes_it_on() -> None:
    with pytest.raises(BadInput, match="idle_pause"):
        VersToolkit(idle_pause=-1)


def test_an_idle_machine_is_paused_and_its_next_call_resumes_it(make: Make) -> None:
    machine = make()
    machine.bash("cd /tmp && echo kept > note")
    before = machine.until(asleep)
    answer = machine.bash("cat note; pwd")
    assert answer.content.splitlines() == ["kept", "/tmp"]
    machine.until(lambda vm: awake(vm) or asleep(vm))
    machine.until(asleep)
    assert machine("read", path="note").content.strip().endswith("kept")
    assert before.vm_id == machine.vm_id


def test_its_connections_are_given_back_and_the_machine_is_the_same(make: Make) -> None:
    machine = make(LONG)
    look_now(machine)
    assert asleep(machine.seen())
    backend = run(machine.context.machine(machine.vm_id))
    assert backend._pool._lines == []
    assert machine.bash("echo here").content.strip() == "here"
    assert awake(machine.seen())


def test_a_machine_without_the_option_is_never_paused(make_isolated_toolkit: MakeToolkit) -> None:
    machine = Machine(make_isolated_toolkit(local=False))
    assert rest_of(machine) is None


def test_its_other_labels_stay(make: Make) -> None:
    machine = make(LONG)

    async def label() -> None:
        await (await machine.context.client()).label_vm(machine.vm_id, {"role": "test"})

    run(label())
    look_now(machine)
    assert machine.seen().labels == {"role": "test", IDLE_LABEL: "1"}
    machine.bash("true")
    assert machine.seen().labels == {"role": "test"}


def command(name: str) -> str:
    """One that tells that it has begun, and waits until it may end."""
    return f"touch /tmp/{name}-began; while [ ! -e /tmp/{name}-may-end ]; do sleep 0.02; done; echo ended"


@contextmanager
def running(machine: Machine, toolkit: VersToolkit | None = None) -> Iterator[None]:
    """A call that is under way inside, and comes to a good end."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(machine.bash, command("call"), toolkit)
        machine.bash("while [ ! -e /tmp/call-began ]; do sleep 0.02; done")
        yield
        machine.bash("touch /tmp/call-may-end")
        assert answer.result().content.strip() == "ended"


def test_a_machine_with_a_call_is_not_paused(make: Make) -> None:
    machine = make(LONG)
    with running(machine):
        look_now(machine, calls=1)
        assert awake(machine.seen())


@pytest.mark.parametrize("start", ["job", "left behind"])
def test_a_machine_with_something_running_is_not_paused(make: Make, start: str) -> None:
    machine = make(LONG)
    if start == "job":
        job = machine.bash("sleep 1000", background=True).artifact["job_id"]
    else:
        machine.bash("sleep 1000 > /dev/null & echo $! > /tmp/pid")
    look_now(machine)
    assert awake(machine.seen())
    if start == "job":
        assert machine("bash_kill", job_id=job).status == "success"
    else:
        machine.bash("kill $(cat /tmp/pid); rm -f /tmp/vers-0/*.log")
    look_now(machine)
    assert asleep(machine.seen())


def test_another_process_s_command_keeps_the_machine_awake(make: Make, make_isolated_toolkit: MakeToolkit) -> None:
    machine = make(LONG)
    other = make_isolated_toolkit(local=False)
    other.context.attach(machine.vm_id)

    with running(machine, other):
        look_now(machine)
        assert awake(machine.seen())


@pytest.mark.parametrize("option", [{}, {"idle_pause": LONG}], ids=["without", "with"])
@pytest.mark.parametrize("connected", [False, True], ids=["new", "connected"])
def test_another_process_resumes_it(make: Make, make_isolated_toolkit: MakeToolkit, option: dict[str, Any], connected: bool) -> None:
    machine = make(LONG)
    other = make_isolated_toolkit(local=False, **option)
    other.context.attach(machine.vm_id)
    if connected:
        machine.bash("true", other)
    look_now(machine)
    assert asleep(machine.seen())
    answer = machine.bash("echo resumed", other)
    assert answer.content.strip() == "resumed"
    machine.until(awake)  # a call that was frozen with the machine may end before its label is off
    assert machine.bash("echo me too").content.strip() == "me too"


def test_a_machine_that_a_person_has_paused_stays_paused(make: Make) -> None:
    machine = make(LONG)
    machine.set_state("paused")
    look_now(machine)
    assert machine.seen().labels in ({}, None)
    answer = machine.bash("true")
    assert answer.status == "error"
    assert answer.content == f"VM {machine.vm_id} is paused; resume it with vers_vm_state (state running)"
    assert machine.seen().state == "paused"
    machine("vers_vm_state", state="running")
    assert machine.bash("echo again").content.strip() == "again"


def test_one_that_is_idle_and_paused_by_the_tool_as_well_stays_paused(make: Make) -> None:
    machine = make(LONG)
    look_now(machine)
    assert machine("vers_vm_state", state="paused").status == "success"
    assert machine.bash("true").content.startswith(f"VM {machine.vm_id} is paused; resume it with")
    assert machine("vers_vm_state", state="running").status == "success"
    assert machine.bash("echo again").content.strip() == "again"


def test_going_to_an_idle_machine_resumes_it_for_good(make: Make, make_isolated_toolkit: MakeToolkit) -> None:
    machine = make(LONG)
    look_now(machine)
    answer = machine("vers_vm_use", make_isolated_toolkit(local=False), vm_id=machine.vm_id)
    assert answer.content == f"Attached to VM {machine.vm_id}, which was resumed"
    assert awake(machine.seen())


def test_a_deleted_machine_is_reported_as_ever(make: Make) -> None:
    machine = make(LONG)
    look_now(machine)

    async def delete() -> None:
        await (await machine.context.client()).delete_vm(machine.vm_id)

    run(delete())
    assert "does not exist any more; attach to another with vers_vm_use" in machine.bash("true").content


def test_nothing_is_paused_after_close(make: Make) -> None:
    machine = make(LONG)
    rest = rest_of(machine)
    machine.context.close()
    deadline = time.monotonic() + DEADLINE
    while rest._calls:  # a channel that is being closed is not waited for
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert rest._timer is None or rest._timer.cancelled()
    assert awake(machine.seen())


@pytest.mark.parametrize("policy", ["step", "turn", "manual"])
def test_versions_and_commits_of_an_idle_machine(make_isolated_toolkit: MakeToolkit, policy: Any) -> None:
    toolkit = make_isolated_toolkit(local=False, idle_pause=LONG)
    context = toolkit.context
    saver = VersSaver(InMemorySaver(), context, policy)
    script = [
        message(("vers_vm_create", {}), first=0),
        message(("bash", {"command": "echo one > ~/note"}), first=1),
        message(first=2),
        message(("bash", {"command": "cat ~/note"}), first=3),
    ]
    graph = agent(toolkit.get_tools(), *script, checkpointer=saver)
    config: Any = {"configurable": {"thread_id": "t"}}
    graph.invoke(START, config)
    vm_id = context.attached(config).machine_id

    machine = object.__new__(Machine)
    machine.toolkit, machine.context, machine.vm_id = toolkit, context, vm_id
    look_now(machine)
    assert asleep(machine.seen())
    commit = saver.commit(config)
    assert commit
    looked = saver.machine_at(config)
    assert looked.machine_id != vm_id
    if awake(machine.seen()):  # the commit was not made before
        look_now(machine)
    assert asleep(machine.seen())
    out = graph.invoke(START, config)
    assert [m.content.strip() for m in out["messages"] if m.type == "tool"][-1] == "one"
    assert context.attached(config).machine_id == vm_id


def test_a_commit_under_way_is_waited_for(make: Make) -> None:
    machine = make(LONG)
    gate = run(_gate(machine))
    rest = rest_of(machine)

    async def act() -> None:
        async with gate.commit():
            await asyncio.wait_for(asyncio.to_thread(look_now, machine), DEADLINE)
            assert rest._task is None

    asyncio.run(on_io(act()))
    assert awake(machine.seen())


async def _gate(machine: Machine) -> Any:
    return machine.context.link.gates[machine.vm_id]
