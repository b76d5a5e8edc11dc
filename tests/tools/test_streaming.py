"""Output while a command runs, floods, cancellation, and what a trace learns."""

from __future__ import annotations

import asyncio
import base64
import io
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import START_INPUT, Runner, agent, functional, message, tool_graph
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers import LangChainTracer
from PIL import Image

direct = Runner("direct", asynchronous=False)
SECONDS = 20


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def waiting_command(gate: Path) -> str:
    """Prints, and ends only when somebody who saw it makes the file: a delta that came with the result would be too late."""
    return f"printf first; sleep 0.01; printf second; for i in $(seq {SECONDS * 20}); do [ -e {gate} ] && exit 0; sleep 0.05; done; exit 9"


def delta_of(item: Any) -> str:
    """The delta in an item of the stream modes "tools" and "custom", or in an event."""
    if isinstance(item, dict):
        if "delta" in item:
            return str(item["delta"])
        for value in item.values():
            if found := delta_of(value):
                return found
    if isinstance(item, (tuple, list)):
        for value in item:
            if found := delta_of(value):
                return found
    return ""


@pytest.mark.parametrize("kind", ["node", "agent"])
@pytest.mark.parametrize("mode", ["tools", "custom"])
def test_output_arrives_while_the_command_runs(kind: str, mode: str, make_toolkit: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    asked = message(("bash", {"command": waiting_command(gate)}))
    graph = (tool_graph if kind == "node" else agent)(make_toolkit().get_tools(), asked)
    seen = ""
    answers = []
    # Without "custom" LangGraph itself holds back the items of "tools" until the end of the step.
    for item in graph.stream(START_INPUT, stream_mode=list({mode, "custom", "updates"})):
        seen += delta_of(item) if item[0] == mode else ""
        if "second" in seen and not gate.exists():
            gate.touch()
        if "tools" in (item[1] if isinstance(item[1], dict) else {}):
            answers += item[1]["tools"]["messages"]
    assert "firstsecond" in seen
    assert [answer.artifact["exit_code"] for answer in answers] == [0]


@pytest.mark.parametrize("mode", ["tools", "custom", "events"])
async def test_output_arrives_while_the_command_runs_async(mode: str, make_toolkit: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    graph = agent(make_toolkit().get_tools(), message(("bash", {"command": waiting_command(gate)})))
    stream = (
        graph.astream_events(START_INPUT, version="v2", stream_mode=["tools", "custom"])
        if mode == "events"
        else graph.astream(START_INPUT, stream_mode=list({mode, "custom", "updates"}))
    )
    seen = ""
    answers: list[Any] = []
    async for item in stream:
        if mode == "events" or item[0] == mode:
            seen += delta_of(item)
        elif item[0] == "updates" and "tools" in item[1]:
            answers += item[1]["tools"]["messages"]
        if mode == "events" and item["event"] == "on_tool_end":
            answers.append(item["data"]["output"])
        if "second" in seen and not gate.exists():
            gate.touch()
    assert [answer.artifact["exit_code"] for answer in answers] == [0]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_functional_api_streams_too(asynchronous: bool, make_toolkit: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    flow = functional(make_toolkit().get_tools(), message(("bash", {"command": waiting_command(gate)})), asynchronous)

    async def watch() -> None:
        async for item in flow.astream("go", stream_mode="custom"):
            if "first" in delta_of(item):
                gate.touch()

    if asynchronous:
        asyncio.run(watch())
    else:
        for item in flow.stream("go", stream_mode="custom"):
            if "first" in delta_of(item):
                gate.touch()
    assert gate.exists()


def test_a_flood_is_bounded(make_toolkit: Any) -> None:
    graph = tool_graph(make_toolkit().get_tools(), message(("bash", {"command": "yes 0123456789 | head -c 200000000"})))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shown = 0
    for item in graph.stream(START_INPUT, stream_mode="custom"):
        shown += len(delta_of(item))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert 0 < shown < 100_000_000
    assert grown < 64


async def test_cancelling_the_run_kills_the_command(make_toolkit: Any, tmp_path: Path) -> None:
    tools = make_toolkit().get_tools()
    pid = tmp_path / "pid"
    answer = direct(tools, ("vers_vm_create", {}))[0]
    for thread, before in (("here", None), ("there", ("vers_vm_use", {"vm_id": answer.artifact["machine_id"]}))):
        pid.unlink(missing_ok=True)
        config: RunnableConfig = {"configurable": {"thread_id": thread}}
        if before is not None:
            await asyncio.to_thread(direct, tools, before, thread=thread)
        graph = agent(tools, message(("bash", {"command": f"sh -c 'echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000'; true"})))
        run = asyncio.create_task(graph.ainvoke(START_INPUT, config))
        await asyncio.to_thread(until, pid.exists)
        process = Path("/proc") / pid.read_text().strip()
        assert process.exists()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        await asyncio.to_thread(until, lambda process=process: not process.exists())


def collector() -> tuple[LangChainTracer, list[Any]]:
    """A tracer that keeps its runs instead of sending them, and the runs. Copies that LangChain makes of it keep them there, too."""
    runs: list[Any] = []

    class Collector(LangChainTracer):
        def _persist_run_single(self, run: Any) -> None:
            pass

        def _update_run_single(self, run: Any) -> None:
            runs.append(run)

    return Collector(project_name="test", client=_Nobody()), runs  # type: ignore[arg-type]


class _Nobody:
    """Stands where a client of LangSmith is wanted that sends nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_trace_says_where_a_call_ran(asynchronous: bool, make_toolkit: Any) -> None:
    toolkit = make_toolkit()
    vm_id = direct(toolkit.get_tools(), ("vers_vm_create", {}))[0].artifact["machine_id"]
    config: Any = {"configurable": {"thread_id": "t"}}
    toolkit.context.attach(vm_id, config)
    tracer, runs = collector()
    graph = agent(toolkit.get_tools(), message(("bash", {"command": "cd /; exit 3"})))
    options: Any = {**config, "callbacks": [tracer]}
    if asynchronous:
        asyncio.run(graph.ainvoke(START_INPUT, options))
    else:
        graph.invoke(START_INPUT, options)
    (run,) = [run for run in runs if run.name == "bash"]
    metadata = run.extra["metadata"]
    assert {name: metadata[f"vers_{name}"] for name in ("backend", "machine_id", "cwd", "exit_code")} == {
        "backend": "vers",
        "machine_id": vm_id,
        "cwd": "/",
        "exit_code": 3,
    }
    assert "vers_duration_ms" in metadata


def test_images_come_as_images(make_toolkit: Any, here: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (3000, 10), "red").save(buffer, "PNG")
    (here / "p.png").write_bytes(buffer.getvalue())
    answer: ToolMessage = direct(make_toolkit().get_tools(), ("read", {"path": "p.png"}))[0]
    text, picture = answer.content_blocks
    assert "p.png" in text["text"]  # type: ignore[typeddict-item]
    assert picture["type"] == "image"
    assert Image.open(io.BytesIO(base64.b64decode(picture["base64"]))).size[0] == 2000  # type: ignore[typeddict-item]
