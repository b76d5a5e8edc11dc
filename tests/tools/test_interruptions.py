"""Ctrl-C, and streams that are closed early: the command ends on its machine, and whoever left is let go at once."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from agents import START_INPUT, agent, message, tool_graph
from langgraph.graph import END, START, MessagesState, StateGraph
from rigs.waiting import wait_for

KINDS = pytest.mark.parametrize("kind", ["node", "agent", "nested"])
PLACES = pytest.mark.parametrize("place", ["here", "there"])


def endless(pid: Path) -> Any:
    """A command that tells its number, and does not end."""
    return message(("bash", {"command": f"echo shown; sh -c 'echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 1000'; true"}))


def graph(kind: str, tools: Any, pid: Path) -> Any:
    if kind == "node":
        return tool_graph(tools, endless(pid))
    made = agent(tools, endless(pid))
    if kind == "agent":
        return made
    builder = StateGraph(MessagesState)
    builder.add_node("inner", made)
    builder.add_edge(START, "inner")
    builder.add_edge("inner", END)
    return builder.compile()


def runs(pid: Path) -> bool:
    try:
        return psutil.Process(int(pid.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def options(place: str) -> dict[str, Any]:
    return {} if place == "here" else {"provision": True, "local": False}


@KINDS
@PLACES
@pytest.mark.parametrize("modes", [["custom"], ["updates", "custom", "tools"]], ids=len)
def test_a_sync_stream_that_is_closed(kind: str, place: str, modes: list[str], make_toolkit: Any, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    stream = graph(kind, make_toolkit(**options(place)).get_tools(), pid).stream(START_INPUT, stream_mode=modes, subgraphs=True)
    for item in stream:
        if "shown" in str(item[-1]) and item[-2] == "custom":
            break
    wait_for(pid.exists)
    stream.close()
    wait_for(lambda: not runs(pid))


@PLACES
async def test_an_async_stream_that_is_closed(place: str, make_toolkit: Any, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    stream = graph("agent", make_toolkit(**options(place)).get_tools(), pid).astream(START_INPUT, stream_mode="custom")
    assert (await anext(stream))["delta"] == "shown\n"
    await asyncio.to_thread(wait_for, pid.exists)
    await stream.aclose()
    await asyncio.to_thread(wait_for, lambda: not runs(pid))


def test_one_run_is_left_and_another_goes_on(make_toolkit: Any, tmp_path: Path) -> None:
    """Of two runs at once, on the same tools, without a thread that would tell them apart."""
    tools = make_toolkit().get_tools()
    left, gate = tmp_path / "left", tmp_path / "gate"
    other = tool_graph(tools, message(("bash", {"command": f"until [ -e {gate} ]; do sleep 0.05; done; echo went on"})))
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(other.invoke(START_INPUT)))
    thread.start()
    stream = graph("node", tools, left).stream(START_INPUT, stream_mode="custom")
    next(stream)
    wait_for(left.exists)
    stream.close()
    wait_for(lambda: not runs(left))
    gate.touch()
    thread.join(60)
    assert results[0]["messages"][-1].content == "went on"


PROGRAM = """
import sys
sys.path[:0] = {path!r}
from agents import START_INPUT
from tools.test_interruptions import graph
from pathlib import Path
from langchain_vers import VersToolkit

toolkit = VersToolkit(**{options!r})
try:
    graph({kind!r}, toolkit.get_tools(), Path({pid!r})).invoke(START_INPUT)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    toolkit.close()
"""


@KINDS
@PLACES
def test_ctrl_c_of_a_sync_program(kind: str, place: str, clean: Path, vers_data: Path, tmp_path: Path) -> None:
    """A process of its own, whose main thread waits in `invoke`. The command is gone, and the program goes on behind its `except`."""
    pid = tmp_path / "pid"
    given = {"data_dir": str(vers_data), **options(place)}
    program = textwrap.dedent(PROGRAM).format(path=[path for path in sys.path if path], options=given, kind=kind, pid=str(pid))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        wait_for(pid.exists)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
        assert said == "interrupted\n" and process.returncode == 0
        wait_for(lambda: not runs(pid))
    finally:
        process.kill()
        process.wait()
