"""What versions of the machine cost: the wrapper's own work, the way of a call to its machine, and whole turns of an agent."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.sqlite import SqliteSaver

from benchmarks.rig import Rig, Row
from langchain_vers import Attachment, BackendContext, VersSaver, VersToolkit
from langchain_vers._io import io
from langchain_vers.records import Record
from langchain_vers.steps import Key, Live, Position
from langchain_vers.turns import Place

SUPERSTEPS = 5000
ROUTES = 2000
THINKING = 1.0
"""Seconds that the simulated model thinks before each message."""
COMMANDS = 8
TURNS = 5


class Nothing(BaseCheckpointSaver[int]):
    """Stores nothing, and counts what it is asked to read."""

    reads = 0

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        self.reads += 1
        return None

    def list(self, *_: Any, **__: Any) -> Iterator[CheckpointTuple]:
        self.reads += 1
        return iter(())

    def put(self, config: RunnableConfig, checkpoint: Any, metadata: Any, new_versions: Any) -> RunnableConfig:
        where = config["configurable"]
        return {"configurable": {"thread_id": where["thread_id"], "checkpoint_ns": "", "checkpoint_id": checkpoint["id"]}}

    def put_writes(self, config: RunnableConfig, writes: Any, task_id: str, task_path: str = "") -> None: ...


class Thinking(BaseChatModel):
    """Thinks for a while, then asks for the next command."""

    seconds: float
    commands: int

    @property
    def _llm_type(self) -> str:
        return "thinking"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: Sequence[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        time.sleep(self.seconds)
        said = sum(isinstance(message, AIMessage) for message in messages)
        call = {"name": "bash", "args": {"command": f"echo {said} >>/root/log"}, "id": f"call-{said}", "type": "tool_call"}
        message = AIMessage("", tool_calls=[call]) if said < self.commands else AIMessage("done")
        return ChatResult(generations=[ChatGeneration(message=message)])


def bookkeeping(context: BackendContext) -> Row:
    inner = Nothing()
    saver = VersSaver(inner, context)
    first = Key("t", "", str(uuid6()))
    saver.ledger.enter(first, Record(Attachment(backend="vers", machine_id="m", cwd="/root", commit="c"), "c"))
    versions = {f"channel {n}": f"{n:032}.{n:016}" for n in range(8)}

    def superstep(target: BaseCheckpointSaver[Any], config: RunnableConfig, step: int) -> tuple[RunnableConfig, float]:
        checkpoint = {**empty_checkpoint(), "id": str(uuid6()), "channel_versions": versions}
        started = time.perf_counter()
        target.put_writes(config, [("messages", step), ("branch:to:model", None)], "task", "path")
        config = target.put(config, checkpoint, {"source": "loop", "step": step, "parents": {}}, {})
        return config, time.perf_counter() - started

    wrapped: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": first.checkpoint}}
    bare = wrapped
    times: tuple[list[float], list[float]] = ([], [])
    for step in range(SUPERSTEPS):
        wrapped, took = superstep(saver, wrapped, step)
        times[0].append(took)
        bare, took = superstep(inner, bare, step)
        times[1].append(took)
    cost = (statistics.median(times[0]) - statistics.median(times[1])) * 1e6
    return Row("wrapper's work per superstep, over a saver that does nothing", "50 µs", f"{cost:.0f} µs", cost <= 50)


def routing(rig: Rig, context: BackendContext) -> Row:
    inner = Nothing()
    saver = VersSaver(inner, context)
    key = Key("t", "", str(uuid6()))
    saver.ledger.enter(key, Record(Attachment(backend="vers", machine_id=rig.vm_id, cwd="/root", commit="c"), "c"))
    saver.ledger.adopted(rig.vm_id, Live("c", committed=True))
    place = Place("t", position=Position((key,), ("task",)), saver=saver)

    async def route() -> float:
        await context.route(place)
        times = []
        for _ in range(ROUTES):
            started = time.perf_counter()
            await context.route(place)
            times.append(time.perf_counter() - started)
        return statistics.median(times) * 1e6

    cost = io.run(route())
    measured = f"{cost:.0f} µs, {inner.reads} database reads, 0 round trips"
    return Row(
        "routing a call to a versioned machine, warm", "100 µs, no database read, no round trip", measured, cost <= 100 and not inner.reads
    )


def turns(context: BackendContext, folder: Path) -> Row:
    tools = VersToolkit(context=context).get_tools()
    vm = io.run(_new_vm(context))
    ratios = []
    times: dict[bool, list[float]] = {True: [], False: []}
    for turn in range(TURNS):
        for versioned in (True, False) if turn % 2 else (False, True):
            inner = SqliteSaver(sqlite3.connect(folder / f"{turn}-{versioned}.db", check_same_thread=False))
            inner.setup()
            saver = VersSaver(inner, context) if versioned else inner
            agent = create_agent(Thinking(seconds=THINKING, commands=COMMANDS), tools, checkpointer=saver)
            config: RunnableConfig = {"configurable": {"thread_id": f"{turn}-{versioned}"}, "recursion_limit": 100}
            context.attach(vm, config)
            started = time.perf_counter()
            agent.invoke({"messages": [("user", "go")]}, config)
            times[versioned].append(time.perf_counter() - started)
            inner.conn.close()
        ratios.append(times[True][-1] / times[False][-1])
    slower = (statistics.median(ratios) - 1) * 100
    measured = f"{slower:+.1f} % ({statistics.median(times[True]):.2f} s against {statistics.median(times[False]):.2f} s)"
    return Row(
        f"{COMMANDS} commands and {COMMANDS + 1} model calls of {THINKING:.0f} s, against no versions",
        "at most +2 %",
        measured,
        slower <= 2,
    )


async def _new_vm(context: BackendContext) -> str:
    return await (await context.client()).create_vm(wait_boot=True)


def measure(rig: Rig) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [bookkeeping(rig.context), routing(rig, rig.context), turns(rig.context, Path(folder))]
