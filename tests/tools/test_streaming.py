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
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers import LangChainTracer
from langsmith import Client
from PIL import Image
from rigs.traces import Collector

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


def outputs(item: Any) -> dict[str, str]:
    """What an item of a stream of several modes shows of the output, by mode."""
    mode, content = item[-2:]
    if mode == "custom":
        return {mode: content["delta"]}
    if mode == "tools" and content["event"] == "tool-output-delta":
        return {mode: content["delta"]}
    return {}


Row = tuple[list[str], dict[str, Any]]
AT_ONCE: dict[str, Row] = {
    "custom": (["custom"], {}),
    "updates and custom": (["updates", "custom"], {}),
    "tools and custom": (["tools", "custom"], {}),
    "tools and messages": (["tools", "messages"], {}),
    "all": (["values", "updates", "messages", "tools", "custom", "tasks"], {}),
    "tools, of graphs within it too": (["tools"], {"subgraphs": True}),
    "tools and updates, of graphs within it too": (["tools", "updates"], {"subgraphs": True}),
}
"""Modes in which output is seen while the command runs: the table of `tools/showing.py`."""
TOO_LATE: dict[str, list[str]] = {"tools": ["tools"], "tools and updates": ["tools", "updates"], "tools and tasks": ["tools", "tasks"]}
"""In which LangGraph has it, and gives it out at the end of the step."""
NEVER: dict[str, list[str]] = {"updates": ["updates"], "values": ["values"], "both": ["updates", "values"]}
"""Which show states: the output is in the result."""


class Watch:
    """Runs a graph whose command ends well only if somebody has seen its output before."""

    def __init__(self, kind: str, asynchronous: bool, tools: Any, gate: Path) -> None:
        self._graph = (tool_graph if kind == "node" else agent)(tools, message(("bash", {"command": waiting_command(gate)})))
        self._asynchronous = asynchronous
        self._gate = gate
        self.seen: dict[str, str] = {}
        self.results: list[str] = []

    def __call__(self, modes: list[str], *, eager: bool = False, **options: Any) -> None:
        self._graph.stream_eager = eager

        async def watch() -> None:
            async for item in self._graph.astream(START_INPUT, stream_mode=modes, **options):
                self.take(item)

        if self._asynchronous:
            asyncio.run(watch())
        else:
            for item in self._graph.stream(START_INPUT, stream_mode=modes, **options):
                self.take(item)

    def take(self, item: Any) -> None:
        for mode, delta in outputs(item).items():
            self.seen[mode] = self.seen.get(mode, "") + delta
        if self.seen and all("second" in text for text in self.seen.values()):
            self._gate.touch()
        if item[-2] == "updates" and "tools" in item[-1]:
            self.results += [str(answer.content) for answer in item[-1]["tools"]["messages"]]


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("kind", ["node", "agent"])
def test_output_arrives_while_the_command_runs(kind: str, asynchronous: bool, make_toolkit: Any, tmp_path: Path) -> None:
    tools = make_toolkit().get_tools()
    for row, (modes, options) in AT_ONCE.items():
        gate = tmp_path / row.replace(" ", "-")
        watch = Watch(kind, asynchronous, tools, gate)
        watch(modes, **options)
        assert watch.seen == {mode: "firstsecond" for mode in modes if mode in {"tools", "custom"}}, row
        assert gate.exists(), row


@pytest.mark.parametrize("row", TOO_LATE)
def test_tools_alone_is_held_back_by_langgraph_unless_the_graph_is_eager(
    row: str, asynchronous: bool, make_toolkit: Any, tmp_path: Path
) -> None:
    """Should it not be any more, the table in `tools/showing.py` is out of date."""
    tools = make_toolkit().get_tools()
    eager = Watch("agent", asynchronous, tools, tmp_path / "gate")
    eager(TOO_LATE[row], eager=True)
    assert eager.seen == {"tools": "firstsecond"} and (tmp_path / "gate").exists()
    early = 0
    command = f"printf first; sleep 0.3; touch {tmp_path}/ended"
    graph = agent(tools, message(("bash", {"command": command})))

    async def watch() -> None:
        nonlocal early
        async for item in graph.astream(START_INPUT, stream_mode=TOO_LATE[row]):
            early += bool(outputs(item)) and not (tmp_path / "ended").exists()

    if asynchronous:
        asyncio.run(watch())
    else:
        for item in graph.stream(START_INPUT, stream_mode=TOO_LATE[row]):
            early += bool(outputs(item)) and not (tmp_path / "ended").exists()
    assert early == 0


def test_modes_of_states_show_the_result(asynchronous: bool, make_toolkit: Any) -> None:
    graph = agent(make_toolkit().get_tools(), message(("bash", {"command": "printf first; sleep 0.01; printf second"})))

    async def watched(modes: list[str]) -> list[Any]:
        return [item async for item in graph.astream(START_INPUT, stream_mode=modes)]

    for row, modes in NEVER.items():
        items = asyncio.run(watched(modes)) if asynchronous else list(graph.stream(START_INPUT, stream_mode=modes))
        assert not any(outputs(item) for item in items), row
        assert "firstsecond" in str(items), row


async def test_the_events_api_shows_it_as_an_event_of_its_own(make_toolkit: Any, tmp_path: Path) -> None:
    """Without any mode being asked for, in order, and before the end of the tool."""
    gate = tmp_path / "gate"
    graph = agent(make_toolkit().get_tools(), message(("bash", {"command": waiting_command(gate)})))
    seen, tool = "", ""
    async for event in graph.astream_events(START_INPUT, version="v2"):
        if event["event"] == "on_tool_start":
            tool = event["run_id"]
        if event["event"] == "on_custom_event":
            assert event["name"] == "tool_output" and event["run_id"] == tool
            assert event["data"]["tool"] == "bash" and event["data"]["tool_call_id"] == "call-0"
            seen += event["data"]["delta"]
            if seen == "firstsecond":
                gate.touch()
        if event["event"] == "on_tool_end":
            assert seen == "firstsecond" and event["data"]["output"].artifact["exit_code"] == 0
    assert gate.exists()


async def test_everything_has_been_told_when_the_tool_ends(make_toolkit: Any) -> None:
    graph = agent(make_toolkit().get_tools(), message(("bash", {"command": "for i in $(seq 300); do echo $i; done"})))
    events = [event async for event in graph.astream_events(START_INPUT, version="v2", include_names=["bash", "tool_output"])]
    assert [event["event"] for event in (events[0], events[-1])] == ["on_tool_start", "on_tool_end"]
    told = "".join(event["data"]["delta"] for event in events if event["event"] == "on_custom_event")
    assert told.split() == [str(number) for number in range(1, 301)]


@pytest.mark.filterwarnings("ignore:The v3 streaming protocol")
def test_the_typed_events_show_the_deltas_of_a_call(asynchronous: bool, make_toolkit: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    graph = agent(make_toolkit().get_tools(), message(("bash", {"command": waiting_command(gate)})))
    seen: list[str] = []

    def take(delta: str) -> None:
        seen.append(delta)
        if "".join(seen) == "firstsecond":
            gate.touch()

    async def watch() -> None:
        async for call in (await graph.astream_events(START_INPUT, version="v3")).tool_calls:
            async for delta in call.output_deltas:
                take(delta)

    if asynchronous:
        asyncio.run(watch())
    else:
        for call in graph.stream_events(START_INPUT, version="v3").tool_calls:
            for delta in call.output_deltas:
                take(delta)
    assert gate.exists()


@pytest.mark.parametrize(("kind", "asynchronous"), [("sync", False), ("sync", True), ("async", True)])
def test_a_handler_of_ones_own_hears_it(kind: str, asynchronous: bool, make_toolkit: Any) -> None:
    heard: list[Any] = []

    class Handler(BaseCallbackHandler):
        def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
            heard.append((name, data["delta"]))

    class AsyncHandler(AsyncCallbackHandler):
        async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
            heard.append((name, data["delta"]))

    options: Any = {"callbacks": [Handler() if kind == "sync" else AsyncHandler()]}
    Runner("direct", asynchronous)(make_toolkit().get_tools(), ("bash", {"command": "echo hi"}), **options)
    assert heard == [("tool_output", "hi\n")]


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


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_trace_says_where_a_call_ran(asynchronous: bool, make_toolkit: Any) -> None:
    toolkit = make_toolkit()
    vm_id = direct(toolkit.get_tools(), ("vers_vm_create", {}))[0].artifact["machine_id"]
    config: Any = {"configurable": {"thread_id": "t"}}
    toolkit.context.attach(vm_id, config)
    graph = agent(toolkit.get_tools(), message(("bash", {"command": "cd /; exit 3"})))
    with Collector() as collector:
        client = Client(api_url=collector.url, api_key="anything")
        options: Any = {**config, "callbacks": [LangChainTracer(client=client)]}
        if asynchronous:
            asyncio.run(graph.ainvoke(START_INPUT, options))
        else:
            graph.invoke(START_INPUT, options)
        client.flush()
        client.cleanup()
        (run,) = [run for run in collector.runs().values() if run["name"] == "bash"]
    metadata = run["extra"]["metadata"]
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
