"""Sync faces of what runs users' coroutines, where event loops run already: in an endpoint's thread, beside the loop of a saver."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import ScriptedModel, message
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from langchain_vers import BackendContext, VersSaver, VersToolkit
from langchain_vers._loops import run_on_a_loop
from langchain_vers.branches import Branches
from langchain_vers.errors import BadInput
from langchain_vers.exploration import explore
from langchain_vers.integrations.langsmith import evaluate_on_branches

THREAD: RunnableConfig = {"configurable": {"thread_id": "42"}}
TOLD = {"messages": [("user", "go")]}
SCRIPT = [message(("bash", {"command": "echo done > f"})), AIMessage("done")]

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def context(clean: Path, vers_data: Path) -> Iterator[BackendContext]:
    with BackendContext(data_dir=vers_data, local=False) as made:
        yield made


def agent(inner: Any, context: BackendContext) -> Any:
    return create_agent(ScriptedModel(script=SCRIPT), VersToolkit(context=context).get_tools(), checkpointer=VersSaver(inner, context))


def blocking(kind: str, inner: Any, context: BackendContext, base: str) -> bool:
    if kind == "explore":
        found = explore(agent(inner, context), TOLD, 2, lambda trial: trial.number, context=context, config=THREAD, base=base)
        assert [trial.outcome for trial in found.trials] == ["scored"] * 2, str(found)
        context.attach(base, THREAD)
        assert found.winner is not None and found.winner.machine is not None
        found.winner.machine.delete()
        return True
    results = evaluate_on_branches(
        agent(inner, context), [{"inputs": TOLD}], context=context, base=base, upload_results=False, progress=False
    )
    return all(row.error is None for row in results)


@pytest.mark.parametrize("kind", ["explore", "evaluate"])
async def test_in_a_thread_beside_the_loop_of_an_async_saver(kind: str, context: BackendContext, tmp_path: Path) -> None:
    """As sync endpoints of an async server are."""
    async with Branches(context, None) as branches, AsyncSqliteSaver.from_conn_string(str(tmp_path / "db")) as inner:
        (machine,) = await branches.make()
        assert await asyncio.to_thread(blocking, kind, inner, context, machine.vm_id)


@pytest.mark.parametrize("kind", ["explore", "evaluate"])
async def test_on_the_loop_of_an_async_saver_it_is_refused(kind: str, context: BackendContext, tmp_path: Path) -> None:
    """It would wait for what waits for it."""
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "db")) as inner:
        with pytest.raises(BadInput, match=rf"would block; await a{kind}\w*\(\.\.\.\) instead"):
            blocking(kind, inner, context, "base")


@pytest.fixture
def elsewhere() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in another thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_at_home(elsewhere: asyncio.AbstractEventLoop) -> None:
    """Values, errors and context variables go there and back, a time-out of its own among them."""

    async def here() -> tuple[bool, str]:
        return asyncio.get_running_loop() is elsewhere, variable.get()

    async def failing() -> None:
        raise TimeoutError("its own")

    variable.set("set")
    assert run_on_a_loop(here(), elsewhere) == (True, "set")
    with pytest.raises(TimeoutError, match="its own"):
        run_on_a_loop(failing(), elsewhere)


def test_at_home_a_cancelled_caller_waits_for_the_clean_up(elsewhere: asyncio.AbstractEventLoop) -> None:
    begun, cleaned = threading.Event(), threading.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    async def cell() -> None:
        task = asyncio.current_task()
        assert task is not None

        # What `asyncio.run` does at the first Ctrl-C; from another thread, as this one stands still.
        def cancel() -> None:
            begun.wait(60)
            task.cancel()

        canceller = threading.Thread(target=cancel)
        canceller.start()
        try:
            run_on_a_loop(work(), elsewhere)
        finally:
            canceller.join()
            ended.append(cleaned.is_set())

    ended: list[bool] = []
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cell())
    assert ended == [True]
