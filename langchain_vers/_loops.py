"""Coroutines of users' code, for sync callers: agents, evaluators and recipes must not run on the I/O thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

from langchain_vers._signals import attentive
from langchain_vers._threads import in_thread
from langchain_vers.errors import BadInput

T = TypeVar("T")
POLL_SECONDS = 0.1
"""How soon a sync call notices a signal, or that the task around it was cancelled."""


def home_of(agent: object, instead: str) -> asyncio.AbstractEventLoop | None:
    """The event loop that an agent's checkpointer works on, if it is one of those that know only one, and that loop is running.

    Raises:
        BadInput: it is the caller's, who is about to block it; `instead` is to be awaited.
    """
    checkpointer = getattr(agent, "checkpointer", None)
    loop = getattr(getattr(checkpointer, "inner", checkpointer), "loop", None)
    if not isinstance(loop, asyncio.AbstractEventLoop) or not loop.is_running():
        return None
    if loop is _here():
        raise BadInput(f"the agent's checkpointer works on the event loop that this call would block; await {instead}(...) instead")
    return loop


def run_on_a_loop(coro: Coroutine[Any, Any, T], home: asyncio.AbstractEventLoop | None = None) -> T:
    """Run a coroutine on an event loop of its own and wait for it; where one runs already, as in notebooks, in a thread of its own.

    With `home` (see `home_of`) it runs there, in another thread. Ctrl-C cancels it, and its clean-up is waited for.
    """
    if home is not None:
        return _on(home, coro)
    return asyncio.run(attentive(coro)) if _here() is None else _in_a_thread(coro)


def _here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _on(home: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, T]) -> T:
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    context = contextvars.copy_context()

    async def main() -> None:
        try:
            outcome.set_result(await coro)
        except BaseException as error:
            outcome.set_exception(error)

    # A future of `run_coroutine_threadsafe` that is cancelled does not tell when the clean-up is done.
    task = asyncio.run_coroutine_threadsafe(_task_of(main(), context), home).result()
    return _waited_for(outcome, lambda: home.call_soon_threadsafe(task.cancel), lambda: concurrent.futures.wait([outcome]))


async def _task_of(coro: Coroutine[Any, Any, None], context: contextvars.Context) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(coro, context=context)


def _in_a_thread(coro: Coroutine[Any, Any, T]) -> T:
    outcome: concurrent.futures.Future[T] = concurrent.futures.Future()
    cancel: Callable[[], object] | None = None
    context = contextvars.copy_context()

    async def main() -> T:
        nonlocal cancel
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        cancel = lambda: loop.call_soon_threadsafe(task.cancel)  # noqa: E731  # set where the loop is known
        return await coro

    def work() -> None:
        try:
            outcome.set_result(asyncio.run(main()))
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=context.run, args=(work,), name="langchain-vers-agents")
    thread.start()
    return _waited_for(outcome, lambda: None if cancel is None else cancel(), thread.join)


def _waited_for(outcome: concurrent.futures.Future[T], cancel: Callable[[], object], ended: Callable[[], object]) -> T:
    """What comes of work elsewhere. If the wait for it is broken off, so is the work, and `ended` returns when it is over."""
    around, told = asyncio.current_task() if _here() is not None else None, False
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                return outcome.result(timeout=POLL_SECONDS)
            if outcome.done():
                return outcome.result()  # the coroutine's own TimeoutError
            # Under `asyncio.run` the first Ctrl-C only cancels the task that stands still here.
            if not told and around is not None and around.cancelling():
                told = True
                cancel()
    except BaseException:
        if not outcome.done():
            cancel()
        ended()
        raise


async def called(function: Callable[..., T | Awaitable[T]], *args: Any, **named: Any) -> T:  # noqa: ANN401  # those of the function
    """What a function of the user gives, sync or async; a sync one runs in a thread (see `in_thread`), as it may wait for machines."""
    call = getattr(function, "__call__", None)  # noqa: B004  # that of an object whose class has one
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        return await cast("Awaitable[T]", function(*args, **named))
    found = await in_thread(function, *args, **named)
    return cast("T", await found) if inspect.isawaitable(found) else found
