"""Waits of the main thread that hear of Ctrl-C, whenever it comes.

Python runs the handler of a signal when the main thread next runs Python code. A wait is ended by a signal only if that is delivered to the
main thread, and while it is in the wait: one that comes to another thread, or a moment before, is noticed when something else ends the
wait. `signal.set_wakeup_fd` is there for event loops, but `asyncio.run` does not use it (CPython 3.11). So these waits look up from time to
time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

SIGNAL_SECONDS = 0.2
"""How late a signal may be noticed."""


def look_up_seconds() -> float | None:
    """How long this thread may wait in one go; None: for ever, as signals are not its business."""
    return SIGNAL_SECONDS if threading.current_thread() is threading.main_thread() else None


def result_of(future: concurrent.futures.Future[T]) -> T:
    """As `future.result()`."""
    while not concurrent.futures.wait([future], look_up_seconds()).done:
        pass
    return future.result()


async def attentive(coro: Coroutine[Any, Any, T]) -> T:
    """As the coroutine, on a loop that looks up; for `asyncio.run`."""
    looking = asyncio.create_task(_look_up())
    try:
        return await coro
    finally:
        looking.cancel()


async def _look_up() -> None:
    while True:  # noqa: ASYNC110  # there is nothing to wait for: waking is the point
        await asyncio.sleep(SIGNAL_SECONDS)
