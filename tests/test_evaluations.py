"""Evaluations on branches: real branches of a real server, LangSmith's own evaluation, and what can go wrong with agents and evaluators."""

from __future__ import annotations

import asyncio
import io
import os
import queue
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import ScriptedModel, message
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tracers.langchain import wait_for_all_tracers
from langgraph.checkpoint.memory import InMemorySaver
from langsmith import Client
from langsmith.evaluation import EvaluationResult, run_evaluator
from rigs.langsmith import LangSmith
from rigs.waiting import wait_for

from langchain_vers import BackendContext, VersSaver, VersToolkit
from langchain_vers._io import run
from langchain_vers.errors import BadInput, Gone
from langchain_vers.integrations.langsmith import BranchResults, aevaluate_on_branches, evaluate_on_branches
from langchain_vers.machine import Machine

pytestmark = pytest.mark.filterwarnings("error")
DATA = [{"inputs": {"name": name}, "outputs": {"said": f"hello {name}\n"}} for name in ("ann", "bob", "eve")]


@pytest.fixture
def context(clean: Path, vers_data: Path) -> Iterator[BackendContext]:
    with BackendContext(data_dir=vers_data, local=False) as made:
        before = ids(made)
        yield made
        for vm_id in ids(made) - before:
            Machine(made, vm_id).delete()


@pytest.fixture
def golden(context: BackendContext) -> str:
    """A commit with a file in it."""
    machine = Machine(context, run(created(context)))
    machine.write("greeting", "hello ")
    commit = machine.save()
    machine.delete()
    return commit


async def created(context: BackendContext) -> str:
    return await (await context.client()).create_vm(wait_boot=True)


def ids(context: BackendContext) -> set[str]:
    async def listed() -> set[str]:
        return {vm.vm_id for vm in await (await context.client()).list_vms()}

    return run(listed())


class Tools:
    """The tools of a context, called as an agent does."""

    def __init__(self, context: BackendContext) -> None:
        self._by_name = {tool.name: tool for tool in VersToolkit(context=context).get_tools()}

    def call(self, name: str, config: RunnableConfig, **arguments: Any) -> Any:
        answer = self._by_name[name].invoke({"type": "tool_call", "id": "1", "name": name, "args": arguments}, config)
        assert answer.status == "success", answer.content
        return answer

    async def acall(self, name: str, config: RunnableConfig, **arguments: Any) -> Any:
        answer = await self._by_name[name].ainvoke({"type": "tool_call", "id": "1", "name": name, "args": arguments}, config)
        assert answer.status == "success", answer.content
        return answer


GREET = "echo {} >>greeting; cat greeting"


def evaluate(asynchronous: bool, *args: Any, **kwargs: Any) -> BranchResults:
    kwargs = {"upload_results": False, "progress": False, **kwargs}
    if asynchronous:
        return asyncio.run(aevaluate_on_branches(*args, **kwargs))
    return evaluate_on_branches(*args, **kwargs)


@pytest.fixture(params=[pytest.param(False, id="sync", marks=pytest.mark.full), pytest.param(True, id="async")])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def right(outputs: dict[str, Any], reference_outputs: dict[str, Any]) -> bool:
    return bool(outputs["said"].strip() == reference_outputs["said"].strip())


async def on_disk(machine: Machine, inputs: dict[str, Any]) -> bool:
    return await machine.aread_text("greeting") == f"hello {inputs['name']}\n"


def size(run: Any, machine: Machine) -> dict[str, Any]:
    assert run.outputs["said"]
    return {"key": "bytes", "score": len(machine.read("greeting"))}


# --- what it is for ---


@pytest.mark.parametrize(
    ("kind", "asynchronous"),
    [
        pytest.param(kind, asynchronous, marks=() if (kind == "coroutine") is asynchronous else pytest.mark.full)
        for kind in ("function", "coroutine", "runnable")
        for asynchronous in (False, True)
    ],
)
def test_each_example_has_a_machine_of_its_own(context: BackendContext, golden: str, asynchronous: bool, kind: str) -> None:
    tools, before = Tools(context), ids(context)

    def function(inputs: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return {"said": tools.call("bash", config, command=GREET.format(inputs["name"])).content}

    async def coroutine(inputs: dict[str, Any], machine: Machine, config: RunnableConfig) -> dict[str, Any]:
        answer = await tools.acall("bash", config, command=GREET.format(inputs["name"]))
        assert answer.artifact["machine_id"] == machine.vm_id and answer.artifact["commit"] == golden
        return {"said": answer.content}

    async def later(inputs: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        return {"said": (await tools.acall("bash", config, command=GREET.format(inputs["name"]))).content}

    agent = {"function": function, "coroutine": coroutine, "runnable": RunnableLambda(function, later)}[kind]
    results = evaluate(asynchronous, agent, DATA, [right, on_disk, size], context=context, base=golden, concurrency=2)
    assert [row.example.inputs for row in results] == [each["inputs"] for each in DATA]
    assert len({row.machine_id for row in results} - {None}) == 3 and results.keys == ["right", "on_disk", "bytes"]
    assert [results.pass_rate(key) for key in (None, *results.keys)] == [1.0, 1.0, 1.0, None]
    assert results.scores("bytes") == [10, 10, 10]
    assert all(row.passed and row.error is None and row.seconds > 0 for row in results)
    assert ids(context) == before and results.kept == {}


def test_an_agent_of_create_agent(context: BackendContext, golden: str, asynchronous: bool) -> None:
    script = [message(("write", {"path": "answer", "content": "42"})), AIMessage("done")]
    agent = create_agent(ScriptedModel(script=script), VersToolkit(context=context).get_tools())
    data = [{"inputs": {"messages": [{"role": "user", "content": f"go {n}"}]}} for n in range(2)]

    def answered(machine: Machine) -> bool:
        return machine.read("answer") == b"42"

    results = evaluate(asynchronous, agent, data, answered, context=context, base=golden, experiment_prefix="answers")
    assert results.pass_rate() == 1.0 and results.name.startswith("answers-")
    assert results.rows[0].outputs is not None and results.rows[0].outputs["messages"][-1].content == "done"


def test_an_agent_whose_machines_are_versioned(context: BackendContext, golden: str, asynchronous: bool) -> None:
    script = [message(("bash", {"command": "echo ann >>greeting"})), message(("read", {"path": "greeting"}), first=1), AIMessage("done")]
    saver = VersSaver(InMemorySaver(), context)
    agent = create_agent(ScriptedModel(script=script), VersToolkit(context=context).get_tools(), checkpointer=saver)
    before = ids(context)
    data = [{"inputs": {"messages": [{"role": "user", "content": f"go {n}"}]}} for n in range(2)]
    results = evaluate(
        asynchronous, agent, data, lambda machine: machine.read_text("greeting") == "hello ann\n", context=context, base=golden
    )
    assert [row.passed for row in results] == [True, True] and ids(context) == before


def test_a_base_that_is_a_machine(context: BackendContext) -> None:
    machine = Machine(context, run(created(context)))
    machine.write("greeting", "hello ")

    def look(inputs: dict[str, Any], machine: Machine) -> str:
        return machine.read_text("greeting")

    results = evaluate(False, look, DATA[:1], context=context, base=machine, repetitions=3)
    assert [row.outputs for row in results] == [{"output": "hello "}] * 3 and [row.number for row in results] == [0, 1, 2]
    assert results.pass_rate() is None and results.rows[0].passed is None
    machine.delete()


def test_evaluators_of_all_kinds(context: BackendContext, golden: str) -> None:
    class Whole:
        def __call__(self, inputs: Any, outputs: Any, reference_outputs: Any, example: Any, run: Any, *, machine: Machine) -> Any:
            assert (inputs, outputs, reference_outputs) == (example.inputs, run.outputs, example.outputs)
            return [{"key": "one", "score": True}, {"key": "two", "value": machine.vm_id}]

    @run_evaluator
    def own(run: Any, example: Any) -> EvaluationResult:
        return EvaluationResult(key="own", score=0.5)

    def old(r: Any, e: Any) -> Any:
        return {"score": r.outputs is not None and e.inputs is not None}

    def quiet(run: Any, threshold: float = 0.5, **others: Any) -> bool:
        return threshold == 0.5 and not others

    results = evaluate(False, lambda inputs: {"x": 1}, DATA[:1], [Whole(), own, old, quiet], context=context, base=golden)
    [row] = results
    assert {key: found.score for key, found in row.feedback.items()} == {"one": True, "two": None, "own": 0.5, "old": True, "quiet": True}
    assert row.feedback["two"].value == row.machine_id


def test_within_a_running_loop(context: BackendContext, golden: str) -> None:
    """As in a notebook."""

    async def cell() -> BranchResults:
        return evaluate(False, lambda inputs: {"x": 1}, DATA, lambda outputs: True, context=context, base=golden)

    assert len(asyncio.run(cell())) == 3


# --- failures of agents and evaluators ---


def test_a_failure_ends_nothing_else_and_keeps_its_machine(context: BackendContext, golden: str, asynchronous: bool) -> None:
    before = ids(context)

    async def agent(inputs: dict[str, Any], machine: Machine) -> dict[str, Any]:
        await machine.awrite("trace", inputs["name"])
        if inputs["name"] == "bob":
            raise ValueError("not bob")
        return {"said": f"hello {inputs['name']}\n"}

    results = evaluate(asynchronous, agent, DATA, [right], context=context, base=golden, keep="failures")
    assert [row.error for row in results] == [None, "ValueError: not bob", None]
    assert results.rows[1].evaluator_errors["right"].startswith("KeyError") and results.pass_rate() == pytest.approx(2 / 3)
    assert list(results.kept) == [1] and ids(context) - before == set(results.kept.values())
    assert Machine(context, results.kept[1]).read("trace") == b"bob"
    assert context.attached({"configurable": {"thread_id": results.rows[1].thread_id}}).machine_id == results.kept[1]


def test_keeping_all(context: BackendContext, golden: str) -> None:
    before = ids(context)
    results = evaluate(False, lambda inputs: None, DATA, context=context, base=golden, keep="always")
    assert ids(context) - before == {row.machine_id for row in results} == set(results.kept.values())


ENDINGS = [asyncio.CancelledError(), SystemExit(3), StopIteration(), KeyError()]


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        pytest.param(ending, kind, marks=pytest.mark.full if (number + (kind == "function")) % 2 else (), id=f"{ending!r}-{kind}")
        for number, ending in enumerate(ENDINGS)
        for kind in ("function", "coroutine")
    ],
)
def test_agents_that_end_oddly(context: BackendContext, golden: str, ending: BaseException, kind: str) -> None:
    def function(inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["name"] == "bob":
            raise ending
        return {"said": "x"}

    async def coroutine(inputs: dict[str, Any]) -> dict[str, Any]:
        return function(inputs)

    results = evaluate(True, function if kind == "function" else coroutine, DATA, lambda outputs: True, context=context, base=golden)
    assert [row.error is None for row in results] == [True, False, True], [row.error for row in results]


@pytest.mark.parametrize("kind", ["function", "coroutine", pytest.param("runnable", marks=pytest.mark.full)])
def test_an_agent_that_hangs(context: BackendContext, golden: str, kind: str) -> None:
    tools, before, released = Tools(context), ids(context), threading.Event()

    async def coroutine(inputs: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        if inputs["name"] == "bob":
            await tools.acall("bash", config, command="echo $$ >pid; exec sleep 1000")
        return {"said": "x"}

    def function(inputs: dict[str, Any]) -> dict[str, Any]:
        if inputs["name"] == "bob":
            released.wait(60)
        return {"said": "x"}

    agents = {"function": function, "coroutine": coroutine, "runnable": RunnableLambda(function, coroutine)}

    async def stopped(machine: Machine, inputs: dict[str, Any]) -> bool:
        """The command was ended on the machine, too."""
        if kind == "function" or inputs["name"] != "bob":
            return True
        return not (await machine.arun("kill -0 $(cat pid)")).ok

    results = evaluate(True, agents[kind], DATA, [stopped], context=context, base=golden, timeout=1)
    released.set()
    assert [row.error for row in results] == [None, "the agent did not end within 1 s and was stopped", None]
    assert results.pass_rate("stopped") == 1.0 and ids(context) == before


def test_what_a_late_agent_still_does_has_no_machine(clean: Path, vers_data: Path, golden: str) -> None:
    """Also where threads are given machines of their own."""
    released, answers = threading.Event(), queue.Queue[Any]()
    with BackendContext(data_dir=vers_data, local=False, provision=True) as context:
        bash = next(tool for tool in VersToolkit(context=context).get_tools() if tool.name == "bash")

        def agent(inputs: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
            released.wait(60)
            answers.put(bash.invoke({"type": "tool_call", "id": "1", "name": "bash", "args": {"command": "hostname"}}, config))
            return {}

        before = ids(context)
        evaluate(True, agent, DATA[:1], lambda machine: True, context=context, base=golden, timeout=1)
        released.set()
        answer = answers.get(timeout=60)
        assert answer.status == "error" and "does not exist" in answer.content
        assert ids(context) == before


def test_an_evaluator_that_fails(context: BackendContext, golden: str) -> None:
    def bad(machine: Machine, inputs: dict[str, Any]) -> bool:
        machine.run("exit 3", check=inputs["name"] == "bob")
        return True

    def strange(inputs: dict[str, Any]) -> Any:
        return None if inputs["name"] == "eve" else True

    before = ids(context)
    results = evaluate(False, lambda inputs: {"x": 1}, DATA, [bad, strange], context=context, base=golden, keep="failures")
    assert "ended with exit code 3" in results.rows[1].evaluator_errors["bad"]
    assert "non-empty" in results.rows[2].evaluator_errors["strange"]
    assert [row.passed for row in results] == [True, False, False] and list(results.kept) == [1, 2]
    assert len(ids(context) - before) == 2
    assert "bad: the command 'exit 3'" in str(results)


def test_a_measure_of_nothing_is_no_failure(context: BackendContext, golden: str) -> None:
    def lines(inputs: dict[str, Any]) -> int:
        return {"ann": 0, "bob": 7, "eve": 1}[inputs["name"]]

    before = ids(context)
    judges = [lines, lambda inputs: {"key": "fine", "score": int(inputs["name"] != "eve")}]
    results = evaluate(False, lambda inputs: {"x": 1}, DATA, judges, context=context, base=golden, keep="failures")
    assert results.measured == {"lines"} and results.pass_rate("lines") is None and results.scores("lines") == [0, 7, 1]
    assert [row.passed for row in results] == [True, True, False] and list(results.kept) == [2]
    assert ids(context) - before == {results.kept[2]}


def test_agents_that_leave_their_machine(context: BackendContext, golden: str) -> None:
    tools, before = Tools(context), ids(context)
    own: list[str] = []

    def agent(inputs: dict[str, Any], config: RunnableConfig, machine: Machine) -> dict[str, Any]:
        own.append(machine.vm_id)
        if inputs["name"] == "ann":  # goes to one that it has made
            made = tools.call("vers_vm_create", config).artifact["machine_id"]
            tools.call("vers_vm_branch", config, count=2)
            tools.call("bash", config, command="echo elsewhere >greeting")
            return {"made": made}
        if inputs["name"] == "bob":  # deletes its own
            tools.call("vers_vm_delete", config, vm_id=machine.vm_id)
        return {}

    def untouched(machine: Machine) -> bool:
        return machine.read_text("greeting") == "hello "

    results = evaluate(False, agent, DATA, [untouched], context=context, base=golden)
    assert [row.passed for row in results] == [True, False, True]
    assert "does not exist any more" in results.rows[1].evaluator_errors["untouched"]
    assert ids(context) == before


def test_work_without_the_thread_does_not_land_here(context: BackendContext, golden: str) -> None:
    bash = next(tool for tool in VersToolkit(context=context).get_tools() if tool.name == "bash")

    def agent(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"said": bash.invoke({"command": "touch /tmp/never"})}

    results = evaluate(False, agent, DATA[:1], context=context, base=golden)
    assert results.rows[0].outputs is not None and "no machine is attached" in results.rows[0].outputs["said"]


# --- being broken off ---


def test_cancelled(context: BackendContext, golden: str) -> None:
    before, tools, running = ids(context), Tools(context), asyncio.Event()
    begun: list[str] = []
    ended: list[str] = []

    async def agent(inputs: dict[str, Any], config: RunnableConfig) -> None:
        try:
            begun.append(inputs["name"])
            if len(begun) == len(DATA):
                running.set()
            await tools.acall("bash", config, command="sleep 1000")
        finally:
            ended.append(inputs["name"])

    async def main() -> None:
        work = aevaluate_on_branches(
            agent, DATA, context=context, base=golden, concurrency=3, keep="always", upload_results=False, progress=False
        )
        task = asyncio.create_task(work)
        await asyncio.wait_for(running.wait(), 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert sorted(ended) == ["ann", "bob", "eve"]
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    assert ids(context) == before


def test_an_exception_of_ours(context: BackendContext, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ids(context)
    monkeypatch.setattr("langsmith.evaluation._arunner._AsyncExperimentManager._aend", raising)
    with pytest.raises(RuntimeError, match="LangSmith is gone"):
        evaluate(False, lambda inputs: {"x": 1}, DATA, context=context, base=golden, keep="always")
    assert ids(context) == before


async def raising(*_: Any) -> None:
    raise RuntimeError("LangSmith is gone")


PROGRAM = """
import asyncio, sys, threading
from pathlib import Path
from langchain_vers import BackendContext, VersToolkit
from langchain_vers.integrations.langsmith import evaluate_on_branches

data, base, kind, inside = sys.argv[1:]
context = BackendContext(data_dir=data, local=False)
bash = next(tool for tool in VersToolkit(context=context).get_tools() if tool.name == "bash")
begun = threading.Barrier(3, action=lambda: print("working", flush=True))

def function(inputs, config):
    begun.wait(60)
    bash.invoke({"command": "sleep 1000"}, config)

async def coroutine(inputs, config):
    await asyncio.to_thread(begun.wait, 60)
    await bash.ainvoke({"command": "sleep 1000"}, config)

def main():
    agent = {"function": function, "coroutine": coroutine}[kind]
    evaluate_on_branches(
        agent, [{"inputs": {"n": n}} for n in range(5)], context=context, base=base, concurrency=3, upload_results=False, keep="always"
    )

async def cell():
    main()

try:
    asyncio.run(cell()) if inside == "inside" else main()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize(
    ("kind", "inside"),
    [
        pytest.param("function", "-", marks=pytest.mark.full),
        ("coroutine", "-"),
        pytest.param("coroutine", "inside", marks=pytest.mark.full),
    ],
)
def test_ctrl_c(context: BackendContext, golden: str, vers_data: Path, kind: str, inside: str) -> None:
    before = ids(context)
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(vers_data), golden, kind, inside]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        while "working" not in (line := process.stdout.readline()):
            assert line, process.communicate()[1]
        assert len(ids(context) - before) >= 3
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "interrupted" in output, errors
    assert "Traceback" not in errors, errors
    assert ids(context) == before


# --- bad input ---


def agent(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"x": 1}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": []}, "no examples"),
        ({"data": {}}, "several examples"),
        ({"data": None}, "several examples, not NoneType"),
        ({"data": " "}, "name of the dataset is empty"),
        ({"data": [{"x": 1}]}, "example 0 has no inputs"),
        ({"data": [{"inputs": {}, "expected": 1}]}, "'expected', which no example has"),
        ({"data": [{"inputs": "text"}]}, "inputs of example 0 must be a mapping"),
        ({"data": [{"inputs": {}, "id": "7"}]}, "must be a UUID"),
        ({"data": [{"inputs": {}, "id": "1" * 32}] * 2}, "same id"),
        ({"upload_results": True}, "these examples are in none"),
        ({"evaluators": [lambda outputs, machin: True]}, "wants 'machin', which nobody gives it"),
        ({"evaluators": [lambda outputs, reference, machine: True]}, "wants 'reference'"),
        ({"evaluators": [lambda: True]}, "takes nothing to look at"),
        ({"evaluators": ["tests"]}, "must be a function"),
        ({"evaluators": "tests"}, "must be functions"),
        ({"evaluators": 3}, "must be functions"),
        ({"evaluators": [max]}, "evaluator max does not say what it takes"),
        ({"evaluators": [dict]}, "must be a function"),
        ({"agent": max}, "agent max does not say what it takes"),
        ({"concurrency": 0}, "at least 1, not 0"),
        ({"concurrency": -1}, "at least 1, not -1"),
        ({"concurrency": None}, "at least 1, not None"),
        ({"concurrency": True}, "at least 1, not True"),
        ({"concurrency": 2.5}, "at least 1, not 2.5"),
        ({"repetitions": 0}, "repetitions must be"),
        ({"keep": "sometimes"}, "keep must be one of"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"timeout": "5"}, "timeout must be"),
        ({"base": ""}, "must be the name"),
        ({"base": None}, "base must be"),
        ({"agent": None}, "must be a runnable"),
        ({"agent": dict}, "must be a runnable"),
        ({"agent": lambda: None}, "does not take the inputs first"),
        ({"agent": lambda machine: None}, "does not take the inputs first"),
        ({"agent": lambda inputs, mashine: None}, "wants 'mashine'"),
        ({"context": None}, "must be a BackendContext"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_nonsense_is_refused_before_anything_runs(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with BackendContext(data_dir=tmp_path / "none", local=False) as context:
        arguments = {"agent": agent, "data": DATA, "evaluators": [right], "context": context, "base": "golden", **changes}
        with pytest.raises(BadInput, match=said):
            evaluate(False, arguments.pop("agent"), arguments.pop("data"), arguments.pop("evaluators"), **arguments)
    assert not (tmp_path / "none").exists()  # no server was started, or asked


def test_a_context_that_allows_work_on_this_machine(clean: Path, vers_data: Path) -> None:
    with BackendContext(data_dir=vers_data) as context, pytest.raises(BadInput, match="make it with BackendContext\\(local=False\\)"):
        evaluate(False, agent, DATA, context=context, base="golden")


def test_an_agent_whose_tools_are_of_another_context(context: BackendContext, golden: str, vers_data: Path) -> None:
    with BackendContext(data_dir=vers_data, local=False) as other:
        foreign = create_agent(ScriptedModel(script=[]), VersToolkit(context=other).get_tools())
        with pytest.raises(BadInput, match="tool bash is of another context"):
            evaluate(False, foreign, DATA, context=context, base=golden)


@pytest.mark.parametrize(
    "base", ["no-such-thing", "3f2a91c0-7b1e-4c1a-9c55-6f6f3a1d2b4c", pytest.param("repo:none", marks=pytest.mark.full)]
)
def test_a_base_that_is_not_there(context: BackendContext, base: str, asynchronous: bool) -> None:
    before = ids(context)
    with pytest.raises(Gone):
        evaluate(asynchronous, agent, DATA, context=context, base=base)
    assert ids(context) == before


# --- how it looks ---


def test_as_a_table_and_as_a_picture(context: BackendContext, golden: str) -> None:
    def quick(inputs: dict[str, Any]) -> bool:
        return bool(inputs["name"] != "bob")

    results = evaluate(False, agent, DATA, [quick, lambda outputs: 0.25], context=context, base=golden, experiment_prefix="looks <b>")
    text = str(results)
    assert "ann" in text and "✗" in text and "67%" in text and "⌀ 0.25" in text and results.name in text
    from rich.console import Console

    console = Console(width=120, record=True, file=io.StringIO())
    console.print(results)
    assert "✓" in console.export_text() and "67%" in results._repr_html_() and "<b>" not in results._repr_html_()
    assert repr(results).startswith("<BranchResults looks <b>-") and "3 examples, 67% passed" in repr(results)
    figure: Any = results.plot()
    assert figure._repr_png_().startswith(b"\x89PNG") and len(figure.axes) == 2
    with pytest.raises(KeyError):
        results.scores("none")


def test_a_bar_is_shown_while_it_runs(context: BackendContext, golden: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    evaluate(False, agent, DATA, lambda inputs: inputs["name"] != "bob", context=context, base=golden, progress=True)
    shown = capsys.readouterr().err
    assert "3/3" in shown and "passed" in shown and "failed" in shown
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.delenv("TTY_COMPATIBLE")
    evaluate(False, agent, DATA, context=context, base=golden, progress=True)
    assert capsys.readouterr().err == ""


# --- what LangSmith gets to know ---


def test_what_is_uploaded(context: BackendContext, golden: str, asynchronous: bool) -> None:
    tools = Tools(context)

    async def greet(inputs: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        if inputs["name"] == "bob":
            raise ValueError("not bob")
        return {"said": (await tools.acall("bash", config, command=GREET.format(inputs["name"]))).content}

    with LangSmith() as server:
        server.add_dataset("greetings", *DATA)
        client = Client(api_url=server.url, api_key="anything")
        results = evaluate(
            asynchronous,
            greet,
            "greetings",
            [right, on_disk],
            context=context,
            base=golden,
            upload_results=True,
            client=client,
            experiment_prefix="upload",
            metadata={"why": "test"},
        )
        client.flush()
        wait_for(lambda: len(server.verdicts()) == 6)
        client.cleanup()
        runs, verdicts = server.runs(), server.verdicts()
        [experiment] = server.experiments.values()
    assert experiment["name"] == results.name and experiment["extra"]["metadata"]["why"] == "test"
    assert experiment["extra"]["metadata"]["vers_base"] == golden
    assert sorted(str(each.get("score")) for each in verdicts if each["key"] == "on_disk") == ["False", "True", "True"]
    roots = {str(run["reference_example_id"]): run for run in runs.values() if run.get("reference_example_id")}
    for row in results:
        run = roots[str(row.example.id)]
        facts = run["extra"]["metadata"]
        assert (facts["vers_machine_id"], facts["vers_commit"], facts["vers_thread"]) == (row.machine_id, golden, row.thread_id)
        assert run["inputs"] == row.example.inputs and (run.get("error") is None) == (row.error is None)
        below = [each for each in runs.values() if each["trace_id"] == run["id"] and each["run_type"] == "tool"]
        assert [each["extra"]["metadata"]["vers_machine_id"] for each in below] == ([] if row.error else [row.machine_id])
    judged = [run for run in runs.values() if run["name"] == "on_disk"]
    assert {run["extra"]["metadata"]["vers_machine_id"] for run in judged} == {row.machine_id for row in results}


def test_nothing_is_sent_offline(context: BackendContext, golden: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also not by LangChain's tracer, which LangSmith's own `upload_results=False` leaves as it is."""
    script = [message(("bash", {"command": "true"})), AIMessage("done")]
    graph = create_agent(ScriptedModel(script=script), VersToolkit(context=context).get_tools())
    with LangSmith() as server:
        monkeypatch.setenv("LANGSMITH_TRACING", "true")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", server.url)
        monkeypatch.setenv("LANGSMITH_API_KEY", "anything")
        client = Client(api_url=server.url, api_key="anything")
        data = [{"inputs": {"messages": [{"role": "user", "content": "go"}]}}]
        for asynchronous in (False, True):
            results = evaluate(asynchronous, graph, data, lambda machine: True, context=context, base=golden, client=client)
            assert results.pass_rate() == 1.0
        wait_for_all_tracers()
        client.flush()
        client.cleanup()
        assert [path for path, _, _ in server.received if not path.endswith("/info")] == []


def test_a_dataset_that_is_not_there_or_empty(context: BackendContext, golden: str) -> None:
    with LangSmith() as server:
        server.add_dataset("empty")
        client = Client(api_url=server.url, api_key="anything")
        with pytest.raises(BadInput, match="dataset empty has no examples"):
            evaluate(False, agent, "empty", context=context, base=golden, client=client, upload_results=True)
        with pytest.raises(BadInput, match="there is no dataset 'none'"):
            evaluate(False, agent, "none", context=context, base=golden, client=client, upload_results=True)
        client.cleanup()
