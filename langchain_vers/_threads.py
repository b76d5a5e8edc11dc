"""Sync code beside an event loop, in threads that nobody has to wait for.

The threads are daemons: Python waits for those of `asyncio.to_thread` when it exits, and an agent that hangs would hold it up for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
_numbers = itertools.count(1)


class EndedOddly(RuntimeError):
    """A function ended in a way that is no answer and no error, such as `sys.exit()`; what it raised is the cause."""


def in_words(error: BaseException) -> BaseException:
    """The error as it may leave a task: what would end the event loop, or pass for the end of another task, becomes an ordinary one."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    ordinary = EndedOddly(f"it ended with {type(error).__name__}")
    ordinary.__cause__ = error
    return ordinary


async def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:  # noqa: ANN401  # those of the function
    """Call a function that blocks in a thread of its own, with the caller's context variables.

    A cancelled call is no longer waited for; the thread runs on, and what comes of it is dropped.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(how: Callable[[Any], None], what: object) -> None:
        if not outcome.done():
            how(what)

    def work() -> None:
        how: Callable[[Any], None] = outcome.set_result
        try:
            what: object = context.run(function, *args, **kwargs)
        except BaseException as error:
            how, what = outcome.set_exception, in_words(error)
        with contextlib.suppress(RuntimeError):  # the loop was closed without waiting
            loop.call_soon_threadsafe(settle, how, what)

    threading.Thread(target=work, name=f"langchain-vers-agent-{next(_numbers)}", daemon=True).start()
    return await outcome
