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

T = TypeVar("T")
POLL_SECONDS = 0.1
"""How soon a sync call notices that the task around it was cancelled."""


def run_on_a_loop(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop of its own and wait for it; where one runs already, as in notebooks, in a thread of its own.

    Ctrl-C cancels it, and its clean-up is waited for.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coro)
    return _in_a_thread(coro)


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
    around, told = asyncio.current_task(), False
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                return outcome.result(timeout=None if told or around is None else POLL_SECONDS)
            if outcome.done():
                return outcome.result()  # the coroutine's own TimeoutError
            # Under `asyncio.run` the first Ctrl-C only cancels the task that stands still here.
            if around is not None and around.cancelling() and cancel is not None:
                told = True
                cancel()
    except BaseException:
        if not outcome.done() and cancel is not None:
            cancel()
        thread.join()
        raise


async def called(function: Callable[..., T | Awaitable[T]], *args: Any, **named: Any) -> T:  # noqa: ANN401  # those of the function
    """What a function of the user gives, sync or async; a sync one runs in a thread, as it may wait for machines."""
    if inspect.iscoroutinefunction(function):
        return cast("T", await function(*args, **named))
    found = await asyncio.to_thread(function, *args, **named)
    return cast("T", await found) if inspect.isawaitable(found) else found
