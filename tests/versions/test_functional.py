"""`VersSaver` under the functional API: finished tasks are kept with what they did to the machine, and are not run again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from langgraph.func import entrypoint, task
from langgraph.types import Command, interrupt

from versions.worlds import Process, World, head, request, thread

AGAIN = pytest.mark.parametrize("again", [False, True], ids=["the process", "a new process"])


def flow(process: Process, ran: Counter[str], *, beside: bool = False, break_at: str | None = None) -> Any:
    """A workflow that makes a machine, appends a and b, asks, and appends c; `beside`: a and b side by side."""

    @task
    def make() -> str:
        ran["make"] += 1
        return process.tool("vers_vm_create").invoke(request("vers_vm_create")).artifact["machine_id"]

    @task
    def work(token: str) -> str:
        ran[token] += 1
        answer = process.tool("bash").invoke(request("bash", command=f"echo {token} >> ~/log; wc -l < ~/log"))
        if token == break_at and ran[token] == 1:
            raise RuntimeError("broken off")
        return str(answer.content)

    @entrypoint(checkpointer=process.saver)
    def whole(given: str, *, previous: Any = None) -> Any:
        made = previous or make().result()
        if beside:
            futures = [work("a"), work("b")]
            [future.result() for future in futures]
        else:
            work("a").result()
            work("b").result()
        answer = interrupt("go on?") if given == "ask" else "yes"
        work(f"c-{answer}").result()
        return entrypoint.final(value=made, save=made)

    return whole


@AGAIN
@pytest.mark.parametrize("beside", [False, True], ids=["in turn", "side by side"])
def test_finished_tasks_are_not_run_again(world: World, beside: bool, again: bool) -> None:
    ran: Counter[str] = Counter()
    with world.process() as process:
        graph = flow(process, ran, beside=beside)
        assert "__interrupt__" in graph.invoke("ask", thread())
        if not again:
            made = graph.invoke(Command(resume="yes"), thread())
    if again:
        with world.process() as process:
            made = flow(process, ran, beside=beside).invoke(Command(resume="yes"), thread())
    assert set(ran.values()) == {1}
    log = world.log(made)
    assert sorted(log[:2]) == ["a", "b"] and log[2:] == ["c-yes"]
    assert world.vms() == {made}


@AGAIN
def test_a_task_that_was_broken_off_is_repeated_alone(world: World, again: bool) -> None:
    ran: Counter[str] = Counter()
    with world.process() as process:
        graph = flow(process, ran, break_at="b")
        with pytest.raises(RuntimeError):
            graph.invoke("go", thread())
        if not again:
            graph.invoke(None, thread())
            machine = head(graph, thread())["vers_machine"]
    if again:
        with world.process() as process:
            graph = flow(process, ran, break_at="b")
            graph.invoke(None, thread())
            machine = head(graph, thread())["vers_machine"]
    assert ran == {"make": 1, "a": 1, "b": 2, "c-yes": 1}
    assert world.log(machine) == ["a", "b", "c-yes"]


def test_runs_of_a_workflow_go_on_on_one_machine(world: World) -> None:
    ran: Counter[str] = Counter()
    for _ in range(3):
        with world.process() as process:
            graph = flow(process, ran)
            made = graph.invoke("go", thread())
    assert ran["make"] == 1
    assert world.log(made) == ["a", "b", "c-yes"] * 3
    with world.process() as process:
        graph = flow(process, ran)
        first = [one for one in graph.get_state_history(thread()) if one.metadata["source"] == "loop"][-1]
        assert world.log_at(process, first.config) == ["a", "b", "c-yes"]
        graph.invoke("go", first.config)
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b", "c-yes"] * 2
        assert world.log(made) == ["a", "b", "c-yes"] * 3


@AGAIN
async def test_an_async_workflow(world: World, again: bool) -> None:
    ran: Counter[str] = Counter()

    def build(process: Process) -> Any:
        @task
        async def make() -> str:
            ran["make"] += 1
            return (await process.tool("vers_vm_create").ainvoke(request("vers_vm_create"))).artifact["machine_id"]

        @task
        async def work(token: str) -> str:
            ran[token] += 1
            return str((await process.tool("bash").ainvoke(request("bash", command=f"echo {token} >> ~/log"))).content)

        @entrypoint(checkpointer=process.saver)
        async def whole(_: str) -> str:
            made = await make()
            await asyncio.gather(work("a"), work("b"))
            answer = interrupt("go on?")
            await work(f"c-{answer}")
            return made

        return whole

    async with world.aprocess() as process:
        graph = build(process)
        await graph.ainvoke("go", thread())
        if not again:
            made = await graph.ainvoke(Command(resume="yes"), thread())
    if again:
        async with world.aprocess() as process:
            made = await build(process).ainvoke(Command(resume="yes"), thread())
    assert set(ran.values()) == {1}
    log = await asyncio.to_thread(world.log, made)
    assert sorted(log[:2]) == ["a", "b"] and log[2:] == ["c-yes"]


@AGAIN
def test_work_in_the_entrypoint_itself_is_repeated_on_the_machine_of_before(world: World, again: bool) -> None:
    """What the entrypoint does outside of tasks runs again when it is resumed; its effects are there once all the same."""

    def build(process: Process) -> Any:
        @entrypoint(checkpointer=process.saver)
        def whole(_: str, *, previous: Any = None) -> Any:
            bash = process.tool("bash")
            made = previous or process.tool("vers_vm_create").invoke(request("vers_vm_create")).artifact["machine_id"]
            bash.invoke(request("bash", command="echo own >> ~/log"))
            answer = interrupt("go on?")
            bash.invoke(request("bash", command=f"echo {answer} >> ~/log"))
            return entrypoint.final(value=None, save=made)

        return whole

    with world.process() as process:  # a first run, so that there is a machine
        graph = build(process)
        graph.invoke("go", thread())
        graph.invoke(Command(resume="one"), thread())
        graph.invoke("go", thread())
        if not again:
            graph.invoke(Command(resume="two"), thread())
            assert world.log(head(graph, thread())["vers_machine"]) == ["own", "one", "own", "two"]
    if again:
        with world.process() as process:
            graph = build(process)
            graph.invoke(Command(resume="two"), thread())
            assert world.log(head(graph, thread())["vers_machine"]) == ["own", "one", "own", "two"]
