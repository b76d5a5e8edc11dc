"""Calls that go wrong in the middle: side by side with a restore, cancelled, retried, and commands that wipe out what the machine knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from agents import START_INPUT
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import RetryPolicy
from rigs.savers import Database

from langchain_vers._io import run
from langchain_vers.errors import Unreachable
from versions.worlds import GO, World, answers, append, check, create, head, request, script, thread

SLOWLY = ("bash", {"command": "echo begun >> ~/log; touch ~/begun; sleep 1000"})


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("same_process", [True, False], ids=["same", "another"])
def test_calls_side_by_side_find_one_restored_machine(world: World, asynchronous: bool, same_process: bool) -> None:
    world.database = Database("memory", "") if same_process else world.database
    said = ([*create(), append("one")], "done", [append(f"t{number}") for number in range(5)], "done")
    with world.process() as first:
        graph = first.agent(*said)
        graph.invoke(GO, thread())
        lost = head(graph, thread())["vers_machine"]
        if same_process:
            go_on(world, first, graph, lost, asynchronous)
            return
    if asynchronous:

        async def act() -> None:
            async with world.aprocess() as second:
                await ago_on(world, second, second.agent(*said), lost)

        asyncio.run(act())
        return
    with world.process() as second:
        go_on(world, second, second.agent(*said), lost, asynchronous=False)


def go_on(world: World, process: Any, graph: Any, lost: str, asynchronous: bool) -> None:
    vms = world.vms()
    world.delete(lost)
    state = asyncio.run(graph.ainvoke(GO, thread())) if asynchronous else graph.invoke(GO, thread())
    compare(world, state, vms, lost)
    check(process, graph, thread())


async def ago_on(world: World, process: Any, graph: Any, lost: str) -> None:
    vms = await asyncio.to_thread(world.vms)
    await asyncio.to_thread(world.delete, lost)
    state = await graph.ainvoke(GO, thread())
    await asyncio.to_thread(compare, world, state, vms, lost)


def compare(world: World, state: Any, vms: set[str], lost: str) -> None:
    results = answers(state)[-5:]
    assert [one.status for one in results] == ["success"] * 5, [one.content for one in results]
    made = world.vms() - vms
    assert len(made) == 1
    (machine,) = made
    assert {one.artifact["machine_id"] for one in results} == made
    assert any(f"VM {lost} does not exist any more; this ran on VM {machine}, restored from commit" in one.content for one in results)
    log = world.log(machine)
    assert log[0] == "one"
    assert sorted(log[1:]) == [f"t{number}" for number in range(5)]


def test_a_machine_that_is_lost_when_a_call_of_the_step_has_changed_it_is_not_replaced(world: World) -> None:
    """What one call of the step did is gone with the machine, and its result is there: another machine would not have it."""
    with world.process() as process:
        first, second = process.tool("bash"), process.tool("bash")

        def work(state: MessagesState) -> dict[str, Any]:
            one = first.invoke(request("bash", command="echo one >> ~/log"))
            world.delete(one.artifact["machine_id"])
            return {"messages": [AIMessage("", tool_calls=[]), second.invoke(request("bash", command="echo two >> ~/log"))]}

        builder = StateGraph(MessagesState)
        builder.add_node("work", work)
        builder.add_edge(START, "work")
        builder.add_edge("work", END)
        graph = builder.compile(checkpointer=process.saver)
        vm = world.vm()
        process.context.attach(vm, thread())
        answer = answers(graph.invoke(START_INPUT, thread()))[-1]
        assert answer.status == "error"
        assert f"VM {vm} does not exist any more" in answer.content
        assert "vers_no_commit" in head(graph, thread())


def test_a_call_that_is_cancelled_is_undone_before_the_thread_goes_on(world: World) -> None:
    async def act() -> None:
        async with world.aprocess() as process:
            graph = process.agent([*create(), append("one")], "done", [append("two")], [SLOWLY], "done")
            await graph.ainvoke(GO, thread())
            machine = process.context.whereabouts.remembered("thread").machine_id
            turn = asyncio.create_task(graph.ainvoke(GO, thread()))
            async with asyncio.timeout(60):
                while "there" not in await asyncio.to_thread(world.sh, machine, "[ -e ~/begun ] && echo there"):
                    assert not turn.done()
            turn.cancel()
            with pytest.raises(asyncio.CancelledError):
                await turn
            assert "sleep 1000" not in await asyncio.to_thread(world.sh, machine, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
            again = process.agent([*create(), append("one")], "done", [append("two")], "-", [append("three")], "done")
            state = await again.ainvoke(GO, thread())
            assert answers(state)[-1].content.splitlines()[-1] == "did three"
            now = (await again.aget_state(thread())).metadata["vers_machine"]
            assert await asyncio.to_thread(world.log, now) == ["one", "two", "three"]

    asyncio.run(act())


def test_a_connection_that_is_given_back_while_it_opens_is_an_error_and_no_cancellation(world: World) -> None:
    vm = world.vm()
    with world.process() as process:

        async def act() -> None:
            backend = await process.context.machine(vm)
            call = asyncio.create_task(backend.exec("true"))
            while not backend._pool._lines:
                await asyncio.sleep(0)
            process.context.forget_vm(vm)
            with pytest.raises(Unreachable, match="given back while it was being opened; try again"):
                await call

        run(act())


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_node_that_is_retried_has_changed_the_machine_once(world: World, asynchronous: bool) -> None:
    world.database = Database("memory", "")
    attempts = []
    with world.process() as process:
        bash = process.tool("bash")

        def work(state: MessagesState) -> dict[str, Any]:
            attempts.append(len(attempts))
            answer = bash.invoke(request("bash", command="echo work >> ~/log; echo did work"))
            if len(attempts) < 3:
                raise ConnectionError("try again")
            return {"messages": [answer]}

        async def awork(state: MessagesState) -> dict[str, Any]:
            attempts.append(len(attempts))
            answer = await bash.ainvoke(request("bash", command="echo work >> ~/log; echo did work"))
            if len(attempts) < 3:
                raise ConnectionError("try again")
            return {"messages": [answer]}

        builder = StateGraph(MessagesState)
        builder.add_node("begin", lambda state: {"messages": script([*create(), append("one")])})
        builder.add_node("tools", ToolNode(process.tools))
        policy = RetryPolicy(initial_interval=0.01, max_interval=0.01, jitter=False, max_attempts=3)
        builder.add_node("work", awork if asynchronous else work, retry_policy=policy)
        for edge in ((START, "begin"), ("begin", "tools"), ("tools", "work"), ("work", END)):
            builder.add_edge(*edge)
        graph = builder.compile(checkpointer=process.saver)
        state = asyncio.run(graph.ainvoke(GO, thread())) if asynchronous else graph.invoke(GO, thread())
        assert attempts == [0, 1, 2]
        assert answers(state)[-1].status == "success"
        assert world.log(head(graph, thread())["vers_machine"]) == ["one", "work"]


WIPES = [
    "rm -rf ~/.local",
    "rm -rf ~/* ~/.[!.]*",
    "rm -rf ~; mkdir -p ~; cd /",
    "export HOME=/tmp XDG_STATE_HOME=/nowhere; rm -rf /root/.local",
]


@pytest.mark.parametrize("command", WIPES)
@pytest.mark.parametrize("policy", ["step", "turn"])
def test_a_command_that_wipes_out_the_machine_s_own_line_stops_nothing(world: World, command: str, policy: Any) -> None:
    wipe = ("bash", {"command": f"{command}; echo wiped"})
    said = ([*create(), append("one")], [wipe], [append("two")], [("read", {"path": "~/log"})], "done", [append("three")], "done")
    with world.process(commit=policy) as process:
        graph = process.agent(*said)
        state = graph.invoke(GO, thread())
        assert [one.status for one in answers(state)[1:]] == ["success"] * (len(answers(state)) - 1), [
            one.content for one in answers(state)
        ]
        machine = head(graph, thread())["vers_machine"]
        kept = ["one"] if ".local" in command else []
        assert world.log(machine) == [*kept, "two"]
        assert world.log_at(process, thread()) == [*kept, "two"]
    vms = world.vms()
    with world.process(commit=policy) as process:
        graph = process.agent(*said)
        assert answers(graph.invoke(GO, thread()))[-1].status == "success"
        assert world.log(head(graph, thread())["vers_machine"]) == [*kept, "two", "three"]
        assert world.vms() == vms


def test_a_turn_that_ends_with_such_a_command(world: World) -> None:
    said = ([*create(), append("one")], [("bash", {"command": "rm -rf ~/.local; echo wiped"})], "done", [append("two")], "done")
    with world.process() as process:
        process.agent(*said).invoke(GO, thread())
    with world.process() as process:
        graph = process.agent(*said)
        answer = answers(graph.invoke(GO, thread()))[-1]
        assert answer.status == "success", answer.content
        assert world.log(head(graph, thread())["vers_machine"]) == ["one", "two"]


@pytest.mark.parametrize("gone", [True, False])
def test_another_call_finds_the_machine_lost_while_this_one_is_about_to_begin(world: World, gone: bool, monkeypatch: Any) -> None:
    """It is repeated on the restored machine, or on the same one if that is there."""
    with world.process() as process:
        graph = process.agent(create(), [append("a")], "done", [append("b")], "done")
        graph.invoke(GO, thread())
        machine, versions = head(graph, thread())["vers_machine"], process.saver.versions
        between, lost = versions._between_tasks, []

        async def losing(position: Any, machine_id: str) -> None:
            await between(position, machine_id)
            if not lost:
                lost.append(machine_id)
                if gone:
                    await (await process.context.client()).delete_vm(machine_id)
                versions.ledger.dropped(machine_id)

        monkeypatch.setattr(versions, "_between_tasks", losing)
        state = graph.invoke(GO, thread())
        assert answers(state)[-1].status == "success", answers(state)[-1].content
        now = head(graph, thread())["vers_machine"]
        assert lost == [machine] and (now != machine) is gone and world.log(now) == ["a", "b"]
        check(process, graph, thread())
