"""The one background event loop that owns every connection, and the bridge to it from sync and async callers.

`run(coro)` serves sync callers, `await on_io(coro)` serves coroutines of any other loop; both carry the caller's context variables in
and pass cancellation through, waiting for the clean-up. The loop runs in a daemon thread, is started on first use, made anew after a
fork, and closed at interpreter exit after everything that asked for it by `at_close`. It knows nothing of machines.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import contextvars
import functools
import os
import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from langchain_vers._process import kept
from langchain_vers._signals import look_up_seconds, result_of

T = TypeVar("T")
Item = TypeVar("Item")
_END = object()

CLOSE_SECONDS = 5.0
"""How long interpreter exit waits for connections to be closed in good order."""


GIVEN_UP_SECONDS = 0.2
"""How often a caller that waits is asked whether it is still wanted."""


async def to_thread(function: Callable[..., T], *args: Any) -> T:  # noqa: ANN401  # those of the function
    """As `asyncio.to_thread`, also at interpreter exit, when threads take no more calls: it is called right here then, where it holds up
    nothing else. Not for what waits for this loop.
    """
    work = functools.partial(contextvars.copy_context().run, function, *args)
    try:
        waiting = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:
        return work()
    return await waiting


class _Loop(asyncio.SelectorEventLoop):
    """Finds hosts at interpreter exit, too: what a program has left on a platform is deleted then, perhaps over a new connection."""

    async def getaddrinfo(self, host: Any, port: Any, **how: Any) -> Any:  # noqa: ANN401  # as the parent
        return await to_thread(functools.partial(socket.getaddrinfo, host, port, **how))


class IOThread:
    """An event loop in a thread of its own, with a small pool for calls that block."""

    def __init__(self) -> None:
        self._start_lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._closers: dict[object, Callable[[], Awaitable[None]]] = {}
        self._end_lock = threading.RLock()  # the collector may end a context in the middle of `submit`, which submits its closing
        self.ending = False
        """The interpreter exits. What its daemon threads begin now nobody would close, nor wait for."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop; starts it if need be."""
        loop = self._loop
        if loop is not None and self._thread is not None and self._thread.is_alive():
            return loop
        with self._start_lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._start()
            assert self._loop is not None
            return self._loop

    def _start(self) -> None:
        loop = _Loop()
        ready = threading.Event()

        def main() -> None:
            asyncio.set_event_loop(loop)
            loop.call_soon(ready.set)
            loop.run_forever()
            rounds = 0
            # Timers and callbacks of the last rounds may have begun more, and connections close their sockets in the round after the next.
            while rounds < 2 or asyncio.all_tasks(loop):
                rounds += 1
                loop.run_until_complete(_ended(asyncio.all_tasks(loop)))

        thread = threading.Thread(target=main, name="langchain-vers-io", daemon=True)
        thread.start()
        ready.wait()
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=32, thread_name_prefix="langchain-vers-blocking")
        loop.set_default_executor(self._pool)
        self._loop, self._thread = loop, thread

    def is_current(self) -> bool:
        """Whether the caller runs on the I/O thread."""
        return self._thread is not None and threading.get_ident() == self._thread.ident

    def runs(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether this is the loop that is running now."""
        return loop is self._loop and self._thread is not None and self._thread.is_alive()

    def submit(self, coro: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start a coroutine on the I/O thread in a copy of the caller's context. The future cannot be cancelled; `run` and `on_io` can.

        Raises:
            RuntimeError: the interpreter is exiting, and this is a thread that is left over.
        """
        context = contextvars.copy_context()
        done: concurrent.futures.Future[T] = concurrent.futures.Future()
        done.set_running_or_notify_cancel()
        handle = _Handle(done)

        def start() -> None:
            handle.attach(asyncio.get_running_loop().create_task(coro, context=context))

        done.handle = handle  # type: ignore[attr-defined]  # the future is ours: `_cancel` finds its task here
        with self._end_lock:
            if not self.ending or threading.current_thread() is threading.main_thread():  # which runs the other exit handlers
                self.loop.call_soon_threadsafe(start)
                return done
        coro.close()
        raise RuntimeError("this process is ending: nothing new can be begun")

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the I/O thread and wait for it.

        If the wait is broken off (KeyboardInterrupt), the task is cancelled and its clean-up waited for.

        Raises:
            RuntimeError: when called on the I/O thread itself, which would wait for ever.
        """
        if self.is_current():
            coro.close()
            raise RuntimeError("run() was called on the I/O thread; await the coroutine instead")
        done = self.submit(coro)
        try:
            return result_of(done)
        except BaseException:
            if not done.done():
                self._cancel(done)
                concurrent.futures.wait([done], timeout=CLOSE_SECONDS)
            raise

    async def on_io(self, coro: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine that runs on the I/O thread; from the I/O thread itself this is a plain await.

        When the awaiting task is cancelled, the coroutine is cancelled too, and its clean-up is waited for before the cancellation goes on.
        """
        if self.is_current():
            return await coro
        done = self.submit(coro)
        waiter = asyncio.wrap_future(done)
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                result = await asyncio.shield(waiter)
            except asyncio.CancelledError as error:
                if waiter.done():
                    raise
                cancelled = error
                self._cancel(done)
                continue
            except BaseException:
                if cancelled is not None:
                    raise cancelled from None
                raise
            if cancelled is not None:
                raise cancelled
            return result

    def run_relayed(
        self,
        start: Callable[[Callable[[Item], None]], Coroutine[Any, Any, T]],
        deliver: Callable[[Item], object],
        given_up: Callable[[], bool] | None = None,
    ) -> T:
        """As `run(start(put))`, where each item that the coroutine `put`s is handed to `deliver` in the caller's own thread and context.

        `given_up` is asked from time to time whether somebody who waits for the caller does not want it any more; then the wait is broken
        off as by Ctrl-C.
        """
        if self.is_current():
            raise RuntimeError("run_relayed() was called on the I/O thread; await the coroutine instead")
        items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        done = self.submit(start(items.put))
        done.add_done_callback(lambda _: items.put(_END))
        try:
            while (item := _next(items, given_up)) is not _END:
                deliver(item)
            return done.result()
        except BaseException:
            if not done.done():
                self._cancel(done)
                concurrent.futures.wait([done], timeout=CLOSE_SECONDS)
            raise

    async def on_io_relayed(
        self, start: Callable[[Callable[[Item], None]], Coroutine[Any, Any, T]], deliver: Callable[[Item], object]
    ) -> T:
        """As `on_io(start(put))`, where each item that the coroutine `put`s is handed to `deliver` on the caller's loop, in its context.

        What `deliver` raises goes to that loop's exception handler.
        """
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        here = self.is_current()

        def put(item: Item) -> None:
            if here:
                deliver(item)
                return
            # The result travels the same way, behind the items, so nothing is delivered after it.
            with contextlib.suppress(RuntimeError):  # the caller's loop was closed without waiting: there is nobody left to deliver to
                loop.call_soon_threadsafe(deliver, item, context=context)

        return await self.on_io(start(put))

    def _cancel(self, done: concurrent.futures.Future[Any]) -> None:
        self.loop.call_soon_threadsafe(done.handle.cancel)  # type: ignore[attr-defined]  # set in submit

    async def blocking(self, function: Callable[..., T], *args: Any) -> T:  # noqa: ANN401  # those of the function
        """Run a call that blocks in the small pool, on behalf of a coroutine of the I/O thread."""
        assert self._pool is not None
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    def in_background(self, function: Callable[..., object], *args: Any) -> None:  # noqa: ANN401  # those of the function
        """Start a short call that may block, without waiting for it; dropped if the pool has been shut down."""
        if self._pool is not None:
            with contextlib.suppress(RuntimeError):  # interpreter exit: what it would have tidied ends with the process
                self._pool.submit(function, *args)

    def at_close(self, key: object, closer: Callable[[], Awaitable[None]]) -> None:
        """Have `closer` awaited at interpreter exit, until `forget(key)`."""
        self._closers[key] = closer

    def forget(self, key: object) -> None:
        """Take an `at_close` back."""
        self._closers.pop(key, None)

    def close(self) -> None:
        """Await all closers, then end the thread. A later call starts a new one."""
        with self._start_lock:
            loop, thread, pool = self._loop, self._thread, self._pool
            if loop is None or thread is None or not thread.is_alive():
                return

            async def close_all() -> None:
                while True:
                    closers = list(self._closers.values())
                    self._closers.clear()
                    await asyncio.gather(*(closer() for closer in closers), return_exceptions=True)
                    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                    if not self._closers and len(asyncio.all_tasks()) == 1:
                        break  # otherwise a connection was just being opened, or a child told to end, and wants to be seen through as well
                await loop.shutdown_asyncgens()
                await asyncio.sleep(0)  # connections that were given up while they were being opened close their sockets in the next round

            done = asyncio.run_coroutine_threadsafe(close_all(), loop)
            concurrent.futures.wait([done], timeout=CLOSE_SECONDS)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(CLOSE_SECONDS)
            if not thread.is_alive():
                loop.close()
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)
            self._loop = self._thread = self._pool = None

    def end(self) -> None:
        """At interpreter exit: `close`, and refuse what threads that are left over would begin."""
        with self._end_lock:
            self.ending = True
        self.close()

    def after_fork(self) -> None:
        """In a forked child: forget the parent's loop, whose thread does not exist here."""
        self._start_lock = threading.Lock()
        self._end_lock = threading.RLock()
        self._loop = self._thread = self._pool = None
        self._closers = {}
        self.ending = False


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(asyncio.sleep(0), *tasks, return_exceptions=True)


def _next(items: queue.SimpleQueue[Any], given_up: Callable[[], bool] | None) -> Any:  # noqa: ANN401  # an item, or the end
    """The next item, as soon as there is one."""
    pause = look_up_seconds() if given_up is None else GIVEN_UP_SECONDS
    while True:
        with contextlib.suppress(queue.Empty):
            return items.get(timeout=pause)
        if given_up is not None and given_up():
            raise KeyboardInterrupt


class _Handle:
    """Ties a task on the loop to the future that the caller holds; cancellable before and after the task has started."""

    def __init__(self, done: concurrent.futures.Future[Any]) -> None:
        self._done = done
        self._task: asyncio.Task[Any] | None = None

    def attach(self, task: asyncio.Task[Any]) -> None:
        self._task = task
        task.add_done_callback(self._finish)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _finish(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self._done.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self._done.set_exception(error)
        else:
            self._done.set_result(task.result())


def _start_of_process() -> IOThread:
    made = IOThread()
    atexit.register(made.end)
    os.register_at_fork(after_in_child=made.after_fork)
    return made


# A reload of this module, as notebooks and hot reloaders do, must find the live connections again.
io: IOThread = kept("io", _start_of_process)


def run(coro: Coroutine[Any, Any, T]) -> T:
    """See `IOThread.run`."""
    return io.run(coro)


async def on_io(coro: Coroutine[Any, Any, T]) -> T:
    """See `IOThread.on_io`."""
    return await io.on_io(coro)
