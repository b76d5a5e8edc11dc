"""Best of N: attempts side by side on real branches, with every kind of saver, and with all that can go wrong in the middle."""

from __future__ import annotations

import asyncio
import contextvars
import operator
import os
import queue
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from langchain_vers import BackendContext, VersSaver, VersToolkit, on_branch
from langchain_vers._io import run
from langchain_vers.errors import BadInput, Conflict, Gone
from langchain_vers.exploration import aexplore, explore
from langchain_vers.machine import Machine
from langchain_vers.policy import Ask, Policy, Rule
from langchain_vers.trials import Budget, Exploration, Trial, best, checked_score

THREAD: RunnableConfig = {"configurable": {"thread_id": "42"}}


class Obedient(BaseChatModel):
    """Runs what the last message says, `N` standing for the number of the attempt."""

    @property
    def _llm_type(self) -> str:
        return "obedient"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        lane = str(run_manager.metadata.get("explore_trial", ""))
        commands = [str(one.content) for one in messages if isinstance(one, HumanMessage)][-1].split("\n")
        done = 0
        for one in reversed(messages):
            if isinstance(one, HumanMessage):
                break
            done += isinstance(one, AIMessage)
        if done >= len(commands):
            return ChatResult(generations=[ChatGeneration(message=AIMessage("done"))])
        command = commands[done].replace("N", lane.rpartition("-")[2])
        call = {"name": "bash", "args": {"command": command}, "id": f"call-{len(messages)}-{lane}", "type": "tool_call"}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("", tool_calls=[call]))])


def told(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


@pytest.fixture
def context(clean: Path, isolated_vers_data: Path) -> Iterator[BackendContext]:
    with BackendContext(data_dir=isolated_vers_data, local=False) as made:
        before = ids(made)
        yield made
        for vm_id in ids(made) - before:
            Machine(made, vm_id).delete()


async def listed(context: BackendContext) -> dict[str, dict[str, str]]:
    return {vm.vm_id: vm.labels for vm in await (await context.client()).list_vms()}


def ids(context: BackendContext) -> set[str]:
    return set(run(listed(context)))


async def made(context: BackendContext) -> str:
    return await (await context.client()).create_vm(wait_boot=True)


@pytest.fixture
def machine(context: BackendContext) -> Machine:
    """The thread's own, which it is attached to."""
    found = Machine(context, run(made(context)))
    context.attach(found.vm_id, THREAD)
    return found


def by_number(trial: Trial) -> float:
    """The greater the number that stands in the file, the better."""
    assert trial.machine is not None
    return float(trial.machine.read_text("n"))


def texts(graph: Any, config: RunnableConfig = THREAD) -> list[str]:
    return [str(one.content) for one in graph.get_state(config).values["messages"]]


SAVERS = ["none", "memory", "sqlite", "versioned", "versioned-sqlite"]


@pytest.fixture(params=SAVERS)
def agent(request: pytest.FixtureRequest, context: BackendContext, tmp_path: Path) -> Iterator[Any]:
    """An agent with each kind of saver; those on SQLite have sync methods only."""
    tools = VersToolkit(context=context).get_tools()
    with SqliteSaver.from_conn_string(str(tmp_path / "db")) as sqlite:
        inner: Any = {"none": None, "memory": InMemorySaver(), "versioned": InMemorySaver()}.get(request.param, sqlite)
        saver = VersSaver(inner, context) if "versioned" in request.param else inner
        made = create_agent(Obedient(), tools, checkpointer=saver)
        yield made


def test_the_thread_goes_on_from_the_best(agent: Any, context: BackendContext, machine: Machine) -> None:
    if agent.checkpointer is not None:
        agent.invoke(told("echo begun > f"), THREAD)
    else:
        machine.write("f", "begun\n")
    before = ids(context)
    found = explore(agent, told("mkdir d; cd d; echo N > ../n; echo N $(cat ../f)"), 4, by_number, context=context, config=THREAD)
    assert [trial.outcome for trial in found.trials] == ["scored"] * 4, str(found)
    assert [trial.score for trial in found.trials] == [1, 2, 3, 4]
    assert found.winner is found.trials[3] and found.winner.machine is not None and found.source == machine.vm_id
    assert ids(context) - before == {found.winner.machine.vm_id} and machine.vm_id in ids(context)
    assert found.output["messages"][-1].content == "done"
    at = context.attached(THREAD)
    assert context.attached_threads(found.winner.machine.vm_id) == ["42"]
    assert at.machine_id == found.winner.machine.vm_id and str(at.cwd).endswith("/d")
    answer = agent.invoke(told("pwd; cat ../n ../f"), THREAD)["messages"][-2]
    assert answer.content.split()[1:] == ["4", "begun"] and answer.artifact["machine_id"] == found.winner.machine.vm_id
    if agent.checkpointer is not None:
        said = texts(agent)
        assert said[:2] == ["echo begun > f", ""] and "4 begun" in said and not {"1 begun", "2 begun", "3 begun"} & set(said)
        assert agent.get_state(THREAD).next == ()
    assert re.fullmatch(r"VM \w{12}\n(├─ \d  VM \w{12}  score \d  \d+\.\d s, 1 command\n){3}└─ 4 .*<- the thread is here now", str(found))


@pytest.mark.parametrize("agent", ["versioned", "versioned-sqlite"], indirect=True)
def test_time_travel_after_it(agent: Any, context: BackendContext, machine: Machine) -> None:
    """The winner's machine is versioned with the conversation, in a new process too; and what was before it can be had."""
    agent.invoke(told("echo begun > f"), THREAD)
    past = agent.get_state(THREAD).config
    found = explore(agent, told("echo N > n"), 3, by_number, context=context, config=THREAD)
    assert found.winner is not None and found.winner.machine is not None
    after = agent.get_state(THREAD)
    assert after.metadata["vers_machine"] == found.winner.machine.vm_id
    agent.invoke(told("echo more >> n"), THREAD)
    with BackendContext(data_dir=context.link._account.data_dir, local=False) as other:
        again = create_agent(Obedient(), VersToolkit(context=other).get_tools(), checkpointer=VersSaver(agent.checkpointer.inner, other))
        answer = again.invoke(told("cat f n"), THREAD)["messages"][-2]
        assert answer.content.split() == ["begun", "3", "more"] and answer.artifact["machine_id"] == found.winner.machine.vm_id
        answer = again.invoke(told("ls; cat f"), after.config)["messages"][-2]
        assert answer.content.split()[-3:] == ["f", "n", "begun"] and answer.artifact["machine_id"] != found.winner.machine.vm_id
        answer = again.invoke(told("ls"), past)["messages"][-2]
        assert "n" not in answer.content.split()


@pytest.mark.parametrize("agent", ["memory", "versioned"], indirect=True)
def test_a_new_thread_on_a_golden_machine(agent: Any, context: BackendContext, machine: Machine) -> None:
    machine.write("f", "golden\n")
    commit = machine.save()
    config: RunnableConfig = {"configurable": {"thread_id": "new"}}
    found = explore(agent, told("cp f n0; echo N > n"), 2, by_number, context=context, config=config, base=commit)
    assert [trial.outcome for trial in found.trials] == ["scored", "scored"], str(found)
    answer = agent.invoke(told("cat n0 n"), config)["messages"][-2]
    assert answer.content.split() == ["golden", "2"]
    found = explore(agent, told("cat f > n; rm f"), 1, lambda trial: trial.number, context=context, config=config, base=machine)
    assert found.source == machine.vm_id and machine.exists("f")
    # A thread that has a machine, and attempts on others.
    agent.invoke(told("echo mine > f"), THREAD)
    found = explore(agent, told("cp f n0; echo N > n"), 2, by_number, context=context, config=THREAD, base=commit)
    assert [trial.outcome for trial in found.trials] == ["scored", "scored"], str(found)
    answer = agent.invoke(told("cat n0 n"), THREAD)["messages"][-2]
    assert answer.content.split() == ["golden", "2"]


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("kind", ["new", "commit", "chosen"])
def test_a_thread_whose_machine_is_promised(
    kind: str, versioned: bool, context: BackendContext, machine: Machine, isolated_vers_data: Path
) -> None:
    """It needs none before: the attempts begin on what it would have begun on, and it has the winner's."""
    machine.write("f", "golden\n")
    provision: Any = {"new": True, "commit": machine.save() if kind == "commit" else "", "chosen": lambda thread: machine.vm_id}[kind]
    with BackendContext(data_dir=isolated_vers_data, local=False, provision=provision) as promising:
        saver = VersSaver(InMemorySaver(), promising) if versioned else InMemorySaver()
        agent = create_agent(Obedient(), VersToolkit(context=promising).get_tools(), checkpointer=saver)
        before = ids(context)
        found = explore(agent, told("cat f; echo N > n"), 2, lambda trial: None, context=promising, config=THREAD)
        assert [trial.outcome for trial in found.trials] == ["scored", "scored"] and ids(context) == before, str(found)
        found = explore(agent, told("cat f; echo N > n"), 3, by_number, context=promising, config=THREAD, budget=Budget(machines=2))
        assert found.winner is found.trials[2] and found.winner.machine is not None, str(found)
        assert ids(context) - before == {found.winner.machine.vm_id}
        assert found.source == {"new": "new VMs", "commit": provision, "chosen": machine.vm_id}[kind]
        answer = agent.invoke(told("cat n; cat f || echo new"), THREAD)["messages"][-2]
        assert answer.content.split()[0] == "3" and answer.content.split()[-1] == ("new" if kind == "new" else "golden")
        assert answer.artifact["machine_id"] == found.winner.machine.vm_id


@pytest.mark.parametrize("agent", ["memory", "versioned"], indirect=True)
def test_from_an_earlier_checkpoint(agent: Any, context: BackendContext, machine: Machine) -> None:
    agent.invoke(told("echo one > f"), THREAD)
    past = agent.get_state(THREAD).config
    agent.invoke(told("echo two > f"), THREAD)
    found = explore(agent, told("cat f; echo N > n"), 2, by_number, context=context, config=past)
    assert found.winner is not None
    assert texts(agent)[-2] == ("one" if isinstance(agent.checkpointer, VersSaver) else "two")
    assert "echo two > f" not in texts(agent)
    nowhere: RunnableConfig = {"configurable": {**THREAD["configurable"], "checkpoint_id": "1f000000-0000-6000-8000-000000000000"}}
    with pytest.raises((Gone, ValueError)):
        explore(agent, told("true"), 2, by_number, context=context, config=nowhere)


async def test_failures_of_some_are_theirs_alone(context: BackendContext, machine: Machine) -> None:
    tools = {tool.name: tool for tool in VersToolkit(context=context).get_tools()}

    async def attempt(number_of: dict[str, Any], config: RunnableConfig) -> str:
        lane = config["configurable"]["vers_branch"]
        number = int(lane.rpartition("-")[2])
        if number == 1:
            raise KeyError("no idea")
        if number == 2:
            await tools["vers_vm_create"].ainvoke({}, config)
        if number == 3:
            await tools["vers_vm_delete"].ainvoke({"vm_id": context_of(config)}, config)
        await tools["bash"].ainvoke({"command": f"echo {number} > n"}, config)
        return f"did {number}"

    def context_of(config: RunnableConfig) -> str:
        return str(asyncio.get_running_loop() and attached[config["configurable"]["vers_branch"]])

    attached: dict[str, str] = {}
    real = context.whereabouts.tell

    def tell(holder: str | None, attachment: Any) -> None:
        attached[str(holder).rpartition("#")[2]] = attachment.machine_id
        real(holder, attachment)

    context.whereabouts.tell = tell  # type: ignore[method-assign]  # to know the machines' ids

    async def score(trial: Trial) -> float | None:
        if trial.number == 4:
            raise ValueError("cannot judge this")
        if trial.number == 5:
            return None
        assert trial.machine is not None
        return 7 if trial.number == 6 else float(await trial.machine.aexists("n"))

    before = set(await asyncio.to_thread(ids, context))
    found = await aexplore(attempt, {}, 6, score, context=context, config=THREAD)
    outcomes = [trial.outcome for trial in found.trials]
    assert outcomes[0] == "failed" and outcomes[3:] == ["failed", "scored", "scored"]
    assert found.winner is found.trials[5] and found.output == "did 6" and found.winner.machine is not None
    assert set(await asyncio.to_thread(ids, context)) - before == {found.winner.machine.vm_id}
    assert "failed: 'no idea'" in str(found) and "failed: cannot judge this" in str(found)


@pytest.mark.parametrize("agent", ["memory", "versioned"], indirect=True)
def test_without_a_winner_the_thread_stays(agent: Any, context: BackendContext, machine: Machine) -> None:
    agent.invoke(told("echo begun > f"), THREAD)
    before, messages = ids(context), texts(agent)
    found = explore(agent, told("echo N > n"), 3, lambda trial: None, context=context, config=THREAD)
    assert found.winner is None and found.output is None and ids(context) == before and texts(agent) == messages
    assert context.attached(THREAD).machine_id == machine.vm_id
    assert agent.invoke(told("cat f; ls"), THREAD)["messages"][-2].content.split() == ["begun", "f"]


async def test_a_cancelled_exploration_leaves_nothing(context: BackendContext, machine: Machine) -> None:
    agent = create_agent(Obedient(), VersToolkit(context=context).get_tools(), checkpointer=VersSaver(InMemorySaver(), context))
    await agent.ainvoke(told("echo begun > f"), THREAD)
    messages = texts(agent)
    before = set(await asyncio.to_thread(ids, context))
    for moment in ("at once", "while they work"):
        task = asyncio.create_task(aexplore(agent, told("sleep 1000"), 3, by_number, context=context, config=THREAD))
        if moment == "at once":
            await asyncio.sleep(0)
        else:
            while len(set(await asyncio.to_thread(ids, context)) - before) < 3:
                pass
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert set(await asyncio.to_thread(ids, context)) == before and texts(agent) == messages
        assert (await context.attachment("42")).machine_id == machine.vm_id


@pytest.mark.parametrize("agent", ["memory", "sqlite"], indirect=True)
def test_a_budget_of_time(agent: Any, context: BackendContext, machine: Machine) -> None:
    command = "echo N > n; [ N != 2 ] || sleep 1000"
    found = explore(agent, told(command), 3, by_number, context=context, config=THREAD, budget=Budget(seconds=3))
    assert [trial.outcome for trial in found.trials] == ["scored", "out of time", "scored"]
    assert found.winner is found.trials[2]


@pytest.mark.parametrize("agent", ["memory"], indirect=True)
def test_a_budget_of_commands_and_machines(agent: Any, context: BackendContext, machine: Machine) -> None:
    most: list[int] = []
    before = ids(context)

    def score(trial: Trial) -> float:
        most.append(len(ids(context) - before))
        return -by_number(trial)

    budget = Budget(machines=2, commands=2)
    found = explore(agent, told("echo N > n\necho N >> m"), 5, score, context=context, config=THREAD, budget=budget)
    assert found.winner is found.trials[0] and max(most) <= 2 and [trial.commands for trial in found.trials] == [2] * 5
    found = explore(agent, told("echo N > n\necho 2\necho 3 > three"), 2, score, context=context, config=THREAD, budget=budget)
    assert [(trial.outcome, trial.commands) for trial in found.trials] == [("out of commands", 2)] * 2
    assert "out of commands" in str(found)


@pytest.mark.parametrize("versioned", [False, True])
def test_a_thread_that_waits_for_a_person(versioned: bool, context: BackendContext, machine: Machine) -> None:
    """Each attempt is what would come of the answer."""
    saver = VersSaver(InMemorySaver(), context) if versioned else InMemorySaver()
    asking = HumanInTheLoopMiddleware(interrupt_on={"bash": True})
    agent = create_agent(Obedient(), VersToolkit(context=context).get_tools(), checkpointer=saver, middleware=[asking])
    yes: Any = Command(resume={"decisions": [{"type": "approve"}]})
    assert agent.invoke(told("echo yes >> n"), THREAD)["__interrupt__"]
    found = explore(agent, yes, 2, lambda trial: None, context=context, config=THREAD)
    assert [trial.outcome for trial in found.trials] == ["scored", "scored"] and agent.get_state(THREAD).next, str(found)
    found = explore(agent, yes, 2, lambda trial: trial.number, context=context, config=THREAD)
    assert found.winner is found.trials[1] and not agent.get_state(THREAD).next, str(found)
    assert found.winner.machine is not None and found.winner.machine.read_text("n") == "yes\n"


@pytest.mark.parametrize("machines", [None, 2])
@pytest.mark.parametrize("versioned", [False, True])
def test_a_call_that_waits_for_a_person(versioned: bool, machines: int | None, isolated_vers_data: Path, clean: Path) -> None:
    """The question is a tool's own: all attempts go on at one checkpoint, in the middle of a call."""
    policy = Policy.open().after(Rule(Ask("This writes."), commands=["tee *"]))
    with BackendContext(data_dir=isolated_vers_data, local=False, policy=policy) as context:
        before = ids(context)
        saver = VersSaver(InMemorySaver(), context) if versioned else InMemorySaver()
        agent = create_agent(Obedient(), VersToolkit(context=context).get_tools(), checkpointer=saver)
        context.attach(Machine(context, run(made(context))).vm_id, THREAD)
        assert agent.invoke(told("hostname | tee -a n"), THREAD)["__interrupt__"]
        seen: list[str] = []

        def score(trial: Trial) -> float:
            assert trial.machine is not None
            seen.append(trial.machine.read_text("n"))
            return trial.number

        found = explore(agent, Command(resume=True), 3, score, context=context, config=THREAD, budget=Budget(machines=machines))
        assert found.winner is found.trials[2] and len(set(seen)) == 3, str(found)
        assert all(text.count("\n") == 1 for text in seen), seen
        assert found.winner.machine is not None
        assert texts(agent)[-2:] == [found.winner.machine.read_text("n").strip(), "done"]
        for vm_id in ids(context) - before:
            Machine(context, vm_id).delete()


def test_what_had_finished_beside_a_question_runs_again(context: BackendContext, machine: Machine) -> None:
    class Said(TypedDict):
        said: Annotated[list[str], operator.add]

    ran: list[str] = []

    def done(state: Said) -> Any:
        ran.append("done")
        return {"said": ["done"]}

    builder = StateGraph(Said)
    builder.add_node("done", done)
    builder.add_node("asks", lambda state: {"said": [interrupt("may I?")]})
    builder.add_edge(START, "done")
    builder.add_edge(START, "asks")
    graph: Any = builder.compile(InMemorySaver())
    graph.invoke({"said": []}, THREAD)
    assert len(ran) == 1
    found = explore(graph, Command(resume="yes"), 2, lambda trial: trial.number, context=context, config=THREAD)
    assert len(ran) == 3 and sorted(found.output["said"]) == sorted(graph.get_state(THREAD).values["said"]) == ["done", "yes"]


def test_an_attempt_that_asks_a_person_does_not_win(context: BackendContext, machine: Machine) -> None:
    builder = StateGraph(dict)
    builder.add_node("ask", lambda state: interrupt("may I?"))
    builder.add_edge(START, "ask")
    found = explore(builder.compile(InMemorySaver()), {"a": 1}, 2, by_number, context=context, config=THREAD)
    assert [trial.outcome for trial in found.trials] == ["interrupted"] * 2 and found.winner is None


def test_bad_input(context: BackendContext, machine: Machine) -> None:
    agent = create_agent(Obedient(), VersToolkit(context=context).get_tools())
    for n in (0, -1, True, 1.5, "3"):
        with pytest.raises(BadInput):
            explore(agent, told("true"), n, by_number, context=context, config=THREAD)  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        explore(agent, told("true"), 1, "best", context=context)  # type: ignore[arg-type]
    odd: list[tuple[dict[str, Any], str]] = [
        ({"agent": 5}, "the agent must be a graph, another runnable, or a function, not int"),
        ({"context": VersToolkit(context=context)}, "context must be the BackendContext of the agent's tools, not VersToolkit"),
        ({"config": "42"}, "config must be a thread's, as the agent takes it, not str"),
        ({"budget": 5}, "budget must be a Budget, not int"),
        ({"base": 7}, "what to branch must be the name of a commit, a tag or a VM, not 7"),
    ]
    for changes, said in odd:
        given = {"agent": agent, "input": told("true"), "n": 1, "score": by_number, "context": context, "config": THREAD, **changes}
        with pytest.raises(BadInput, match=re.escape(said)):
            explore(**given)
    with pytest.raises(Conflict, match="no VM"):
        explore(agent, told("true"), 1, by_number, context=context, config={"configurable": {"thread_id": "nowhere"}})
    with pytest.raises(Gone):
        explore(agent, told("true"), 1, by_number, context=context, base="no-such-thing")
    for wrong in ({"machines": 1}, {"seconds": 0}, {"seconds": "3"}, {"commands": 0}, {"commands": 1.5}, {"machines": True}):
        with pytest.raises(BadInput):
            Budget(**wrong)  # type: ignore[arg-type]
    found = explore(agent, told("true"), 1, lambda trial: "good", context=context, config=THREAD)  # type: ignore[arg-type,return-value]
    assert isinstance(found.trials[0].error, BadInput)


def test_tools_of_another_context(context: BackendContext, machine: Machine, isolated_vers_data: Path) -> None:
    """All attempts would work on one machine, or on this one."""
    with BackendContext(data_dir=isolated_vers_data, local=False) as other:
        stranger = create_agent(Obedient(), VersToolkit(context=other).get_tools())
        with pytest.raises(BadInput, match="the agent's tool bash is of another context"):
            explore(stranger, told("echo N > n"), 2, by_number, context=context, config=THREAD)


def test_a_saver_of_before_whose_database_is_closed(context: BackendContext, machine: Machine) -> None:
    """As when a notebook's cell that opens the database is run again."""
    tools = VersToolkit(context=context).get_tools()
    with SqliteSaver.from_conn_string(":memory:") as closed:
        before = VersSaver(closed, context)
    with SqliteSaver.from_conn_string(":memory:") as inner:
        for saver in (VersSaver(inner, context), InMemorySaver()):
            agent = create_agent(Obedient(), tools, checkpointer=saver)
            agent.invoke(told("true"), THREAD)
            found = explore(agent, told("echo N > n"), 2, by_number, context=context, config=THREAD)
            assert found.winner is found.trials[1], str(found)
    assert before in context.savers


@pytest.mark.parametrize("agent", ["sqlite", "versioned-sqlite"], indirect=True)
def test_what_ended_attempts_still_store_does_not_come_last(agent: Any, context: BackendContext, machine: Machine) -> None:
    """Sync savers are used in threads, which end when their machine is gone, and not before."""
    agent.invoke(told("echo begun"), THREAD)
    command = "echo N > n; [ N = 1 ] || sleep 1000"
    found = explore(agent, told(command), 3, by_number, context=context, config=THREAD, budget=Budget(seconds=2))
    assert found.winner is found.trials[0] and {trial.outcome for trial in found.trials[1:]} == {"out of time"}, str(found)
    assert texts(agent)[-3:] == ["", "(no output)", "done"]


@pytest.mark.parametrize("options", [{}, {"provision": True, "local": False}], ids=["here", "provision"])
async def test_what_a_late_attempt_still_does_has_no_machine(options: Any, machine: Machine, isolated_vers_data: Path) -> None:
    """A function goes on in its thread; its calls land neither here nor on a new machine."""
    released, answers = threading.Event(), queue.Queue[Any]()
    async with BackendContext(data_dir=isolated_vers_data, **options) as context:
        bash = next(tool for tool in VersToolkit(context=context).get_tools() if tool.name == "bash")

        def agent(given: Any, config: RunnableConfig) -> None:
            released.wait(60)
            call = {"type": "tool_call", "id": "1", "name": "bash", "args": {"command": "hostname"}}
            # As in a thread pool of the agent's own, out of reach of LangChain's callbacks.
            answers.put(contextvars.Context().run(bash.invoke, call, {"configurable": config["configurable"]}))

        before = await asyncio.to_thread(ids, context)
        found = await aexplore(agent, None, 1, lambda trial: 1, context=context, base=machine.vm_id, budget=Budget(seconds=1))
        assert found.trials[0].outcome == "out of time"
        released.set()
        answer = await asyncio.to_thread(answers.get, timeout=60)
        assert answer.status == "error" and "does not exist" in answer.content
        assert await asyncio.to_thread(ids, context) == before


def test_a_score_that_hangs_holds_up_no_exit(context: BackendContext, machine: Machine, isolated_vers_data: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(HANGING), str(isolated_vers_data), machine.vm_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "scoring\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert not any("langchain-vers-exploration" in labels for labels in run(listed(context)).values())


def test_scores_and_ties() -> None:
    assert [checked_score(value) for value in (1, True, 0.5, None)] == [1.0, 1.0, 0.5, None]
    for nonsense in ("1", float("nan"), [1]):
        with pytest.raises(BadInput):
            checked_score(nonsense)
    trials = [Trial(n, outcome="scored", score=score) for n, score in enumerate((1.0, 3.0, 3.0, 2.0), 1)]
    assert best(trials) is trials[1] and best([]) is None and best([Trial(1)]) is None
    assert str(Exploration([Trial(1), Trial(2, outcome="failed", error=KeyError())], None, "base")) == (
        "base\n├─ 1  waiting\n└─ 2  failed: KeyError  0.0 s, 0 commands"
    )


async def test_within_a_running_loop(context: BackendContext, machine: Machine) -> None:
    """As in a notebook: the sync face, where a loop runs already."""
    agent = create_agent(Obedient(), VersToolkit(context=context).get_tools())
    found = explore(agent, told("echo N > n"), 2, by_number, context=context, config=THREAD)
    assert found.winner is found.trials[1]


class State(TypedDict):
    number: int
    found: Annotated[list[dict[str, Any]], operator.add]


@pytest.mark.parametrize("versioned", [False, True])
def test_the_pattern_with_send(versioned: bool, context: BackendContext, machine: Machine) -> None:
    """In a graph of one's own: each worker says where it was, and a node takes the thread to the best."""
    tools = {tool.name: tool for tool in VersToolkit(context=context).get_tools()}

    def work(state: State, config: RunnableConfig) -> dict[str, Any]:
        tools["bash"].invoke({"command": f"echo {state['number']} > n"}, config)
        return {"found": [{"score": state["number"], "machine": context.attached(config).machine_id}]}

    def choose(state: State, config: RunnableConfig) -> dict[str, Any]:
        winner, *others = sorted(state["found"], key=lambda one: one["score"], reverse=True)
        context.attach(winner["machine"], config)
        for other in others:
            Machine(context, other["machine"]).delete()
        return {}

    def after(state: State, config: RunnableConfig) -> dict[str, Any]:
        said = tools["bash"].invoke({"command": "cat n"}, config)
        return {"found": [{"score": 0, "machine": said}]}

    builder = StateGraph(State)
    builder.add_node("begin", lambda state: {})
    builder.add_node("work", on_branch(work))
    builder.add_node("choose", choose)
    builder.add_node("after", after)
    builder.add_edge(START, "begin")
    builder.add_conditional_edges("begin", lambda state: [Send("work", {"number": n}) for n in (1, 3, 2)], ["work"])
    builder.add_edge("work", "choose")
    builder.add_edge("choose", "after")
    builder.add_edge("after", END)
    saver: Any = InMemorySaver()
    graph = builder.compile(VersSaver(saver, context) if versioned else saver)
    before = ids(context)
    ended = graph.invoke({"number": 0, "found": []}, THREAD)
    assert "3" in ended["found"][-1]["machine"]
    (left,) = ids(context) - before
    assert context.attached(THREAD).machine_id == left
    if versioned:
        assert graph.get_state(THREAD).metadata["vers_machine"] == left  # type: ignore[index]


INTERRUPTED = """
    import sys
    from langchain_vers import BackendContext, VersToolkit
    from langchain_vers.exploration import explore

    with BackendContext(data_dir=sys.argv[1], local=False) as context:
        (bash,) = VersToolkit(context=context, tools=["bash"]).get_tools()

        def attempt(given, config):
            sys.stdout.write("working\\n")
            sys.stdout.flush()
            return bash.invoke({"command": "sleep 1000"}, config)

        explore(attempt, None, 3, lambda trial: 1, context=context, base=sys.argv[2])
"""


def test_ctrl_c(context: BackendContext, machine: Machine, isolated_vers_data: Path) -> None:
    before = ids(context)
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), str(isolated_vers_data), machine.vm_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert ids(context) == before


HANGING = """
    import sys, time
    from langchain_vers import BackendContext, explore

    def score(trial):
        print("scoring", flush=True)
        time.sleep(1000)

    with BackendContext(data_dir=sys.argv[1], local=False) as context:
        explore(lambda given: given, "go", 1, score, context=context, base=sys.argv[2], progress=False)
"""
