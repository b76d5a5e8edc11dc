"""The bridge to the I/O thread: callers of every kind, cancellation both ways, forks, reloads, and what is left at the end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import importlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from blockbuster import blockbuster_ctx
from rigs.embedded import EmbeddedVers

import langchain_vers._io
from langchain_vers._io import IOThread, io, on_io, run

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture
def own() -> Iterator[IOThread]:
    """An I/O thread that a test may close."""
    thread = IOThread()
    yield thread
    thread.close()


async def add(left: int, right: int) -> int:
    await asyncio.sleep(0)
    return left + right


async def fail() -> None:
    await asyncio.sleep(0)
    raise ValueError("on purpose")


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def script(text: str, *options: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a program of its own with all warnings as errors."""
    command = [sys.executable, "-X", "dev", "-W", "error", *options, "-c", textwrap.dedent(text)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=Path(__file__).parents[1])


def assert_quiet(done: subprocess.CompletedProcess[str], output: str) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


# --- callers ---


def test_run_from_many_threads() -> None:
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda number: run(add(number, 1)), range(500))) == list(range(1, 501))


async def test_run_in_a_running_loop() -> None:
    """As in a notebook's cell."""
    assert run(add(1, 2)) == 3


def test_run_after_a_loop_has_ended() -> None:
    async def use() -> int:
        return await on_io(add(1, 2))

    for _ in range(3):
        assert asyncio.run(use()) == 3
        assert run(add(3, 4)) == 7


async def test_on_io_from_several_loops_at_once() -> None:
    def other_loop(number: int) -> int:
        async def use() -> int:
            return sum(await asyncio.gather(*(on_io(add(number, i)) for i in range(20))))

        return asyncio.run(use())

    expected = [number * 20 + 190 for number in range(4)]
    assert await asyncio.gather(*(asyncio.to_thread(other_loop, number) for number in range(4))) == expected


def test_errors_come_through() -> None:
    with pytest.raises(ValueError, match="on purpose"):
        run(fail())


async def test_errors_come_through_on_io() -> None:
    with pytest.raises(ValueError, match="on purpose"):
        await on_io(fail())


def test_run_on_the_io_thread_is_refused() -> None:
    async def inner() -> int:
        assert io.is_current()
        with pytest.raises(RuntimeError, match="I/O thread"):
            run(add(1, 2))
        with pytest.raises(RuntimeError, match="I/O thread"):
            io.run_relayed(lambda _: add(1, 2), print)
        return await on_io(add(1, 2))

    assert run(inner()) == 3
    gc.collect()  # a coroutine that was never awaited would warn now


def test_context_variables_are_carried_in_and_not_out() -> None:
    async def look() -> str:
        seen = variable.get()
        variable.set("inside")
        return seen

    token = variable.set("outside")
    try:
        assert run(look()) == "outside"
        assert asyncio.run(on_io(look())) == "outside"
        assert variable.get() == "outside"
    finally:
        variable.reset(token)


# --- cancellation ---


class Work:
    """A coroutine that says when it has begun and whether its clean-up, which takes a while, was completed."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.cleaned = False

    async def __call__(self) -> None:
        try:
            self.begun.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            self.cleaned = True


async def test_cancelling_the_caller_waits_for_the_clean_up() -> None:
    work = Work()
    task = asyncio.create_task(on_io(work()))
    await asyncio.to_thread(work.begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.cleaned


async def test_cancelling_twice_still_waits_for_the_clean_up() -> None:
    begun, let_go, cleaned = threading.Event(), threading.Event(), []

    async def stubborn() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.to_thread(let_go.wait, 10)
                cleaned.append(True)
            raise

    task = asyncio.create_task(on_io(stubborn()))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.sleep(0.02)
    assert not task.done()
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned


async def test_cancelling_the_caller_at_once() -> None:
    work = Work()
    task = asyncio.create_task(on_io(work()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.cleaned or not work.begun.is_set()


async def test_timeout_of_the_caller() -> None:
    work = Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await on_io(work())
    assert work.cleaned


async def test_cancellation_on_the_io_side_reaches_the_caller() -> None:
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        await on_io(cancels_itself())
    with pytest.raises(asyncio.CancelledError):
        run(cancels_itself())


async def test_an_error_in_the_clean_up_does_not_hide_the_cancellation() -> None:
    begun = threading.Event()

    async def fails_late() -> None:
        try:
            begun.set()
            await asyncio.sleep(60)
        finally:
            raise ValueError("late")

    task = asyncio.create_task(on_io(fails_late()))
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_keyboard_interrupt_cancels_and_waits() -> None:
    done = script(
        """
        import asyncio, os, signal, sys, threading
        from langchain_vers._io import run

        def waits():
            frame = sys._current_frames()[threading.main_thread().ident]
            return frame.f_code.co_name == "wait"

        async def work():
            try:
                while not waits():
                    await asyncio.sleep(0.001)
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.05)
                print("cleaned", flush=True)

        try:
            run(work())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    assert_quiet(done, "cleaned\ninterrupted\n")


@pytest.mark.parametrize("way", ["run(work())", "io.run_relayed(lambda put: work(), print)", "run_on_a_loop(on_io(work()))"])
def test_ctrl_c_is_heard_that_the_system_tells_another_thread(way: str) -> None:
    """As it may, and as if it came just before the main thread begins to wait; nothing else wakes that."""
    done = script(
        f"""
        import asyncio, signal, sys, threading
        from langchain_vers._io import io, on_io, run
        from langchain_vers._loops import run_on_a_loop

        def waits():
            return sys._current_frames()[threading.main_thread().ident].f_code.co_name in {{"wait", "select", "_next"}}

        async def work():
            try:
                while not waits():
                    await asyncio.sleep(0.001)
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
                await asyncio.sleep(1000)
            finally:
                print("cleaned", flush=True)

        try:
            {way}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    assert_quiet(done, "cleaned\ninterrupted\n")


# --- relays ---


def test_relayed_items_arrive_in_order_in_the_callers_thread() -> None:
    here, seen = threading.get_ident(), []

    def deliver(item: int) -> None:
        seen.append((item, threading.get_ident(), variable.get()))

    async def work(put: Callable[[int], None]) -> str:
        for number in range(100):
            put(number)
            if number % 10 == 0:
                await asyncio.sleep(0)
        return "done"

    token = variable.set("caller")
    try:
        assert io.run_relayed(work, deliver) == "done"
    finally:
        variable.reset(token)
    assert seen == [(number, here, "caller") for number in range(100)]


def test_relay_whose_receiver_fails() -> None:
    work = Work()

    async def start(put: Callable[[int], None]) -> None:
        put(1)
        await work()

    def deliver(_: int) -> None:
        raise ValueError("no thanks")

    with pytest.raises(ValueError, match="no thanks"):
        io.run_relayed(start, deliver)
    assert work.cleaned or not work.begun.is_set()


def test_relay_that_fails_delivers_what_came_before() -> None:
    seen: list[int] = []

    async def work(put: Callable[[int], None]) -> None:
        put(1)
        put(2)
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        io.run_relayed(work, seen.append)
    assert seen == [1, 2]


async def test_relay_to_a_loop() -> None:
    here, seen = threading.get_ident(), []

    async def work(put: Callable[[int], None]) -> str:
        for number in range(100):
            put(number)
        return "done"

    assert await io.on_io_relayed(work, lambda item: seen.append((item, threading.get_ident()))) == "done"
    assert seen == [(number, here) for number in range(100)]


# --- life and death ---


def test_closing_leaves_no_thread_and_no_descriptor(own: IOThread) -> None:
    own.run(add(1, 2))
    own.run(own.blocking(time.sleep, 0))
    assert own._pool is not None
    workers = list(own._pool._threads)
    own.close()

    def state() -> tuple[int, int]:
        return psutil.Process().num_fds(), threading.active_count()

    wait_for(lambda: not any(thread.is_alive() for thread in workers))
    before = state()
    for _ in range(3):
        assert own.run(add(1, 2)) == 3
        own.run(own.blocking(time.sleep, 0))
        own.close()
        own.close()
    wait_for(lambda: state() <= before)


def test_the_collector_may_submit_in_the_middle_of_submitting(own: IOThread) -> None:
    """What ends with a context is submitted by its finalizer, which runs wherever the collector happens to: also in here."""
    loop, submitted, collecting = own.loop, [], [True]

    class Collecting:
        """A loop that collects while it is handed something."""

        def call_soon_threadsafe(self, callback: Callable[[], object]) -> None:
            if collecting:
                collecting.pop()
                submitted.append(own.submit(add(3, 4)))
            loop.call_soon_threadsafe(callback)

    own._loop = Collecting()  # type: ignore[assignment]
    worker = threading.Thread(target=lambda: submitted.append(own.submit(add(1, 2))), daemon=True)
    worker.start()
    worker.join(30)
    own._loop = loop
    assert not worker.is_alive()
    assert [done.result(30) for done in submitted] == [7, 3]


def test_closing_awaits_closers_and_cancels_the_rest(own: IOThread) -> None:
    done: list[str] = []
    work = Work()

    async def closer() -> None:
        await asyncio.sleep(0.02)
        done.append("closed")

    async def forgotten() -> None:
        done.append("forgotten")

    own.run(add(1, 2))
    own.at_close("kept", closer)
    own.at_close("dropped", forgotten)
    own.forget("dropped")
    future = own.submit(work())
    work.begun.wait(60)
    own.close()
    assert done == ["closed"]
    assert work.cleaned
    with pytest.raises(asyncio.CancelledError):
        future.result(5)


def test_reload_keeps_the_thread() -> None:
    run(add(1, 2))
    before, thread = langchain_vers._io.io, langchain_vers._io.io._thread
    reloaded = importlib.reload(langchain_vers._io)
    assert reloaded.io is before
    assert reloaded.io._thread is thread
    assert reloaded.run(add(1, 2)) == 3


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_fork_gets_a_loop_of_its_own() -> None:
    parent = run(ident())
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, b"%d %d" % (run(ident()) != 0, run(add(20, 22))))
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        assert answer.read() == b"1 42"
    os.waitpid(child, 0)
    assert run(ident()) == parent


async def ident() -> int:
    return threading.get_ident()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_fork_while_a_thread_is_waiting() -> None:
    """A lock that another thread held at the moment of the fork must not hold up the child."""
    work = Work()
    future = io.submit(work())
    work.begun.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        os._exit(0 if run(add(1, 1)) == 2 else 1)
    assert os.waitpid(child, 0)[1] == 0
    io._cancel(future)
    with pytest.raises(asyncio.CancelledError):
        future.result(10)


def test_exit_with_nothing_done() -> None:
    assert_quiet(script("import langchain_vers._io"), "")


def test_exit_with_work_under_way() -> None:
    done = script(
        """
        import asyncio
        from langchain_vers._io import io

        async def work():
            try:
                await asyncio.sleep(60)
            finally:
                print("cleaned", flush=True)

        io.submit(work())
        io.run(asyncio.sleep(0.05))
        """
    )
    assert_quiet(done, "cleaned\n")


def test_what_is_begun_after_the_end() -> None:
    """A thread that is left over is refused, as nothing that it opened would be closed; an exit handler may still tidy up."""
    done = script(
        """
        import asyncio, atexit, threading

        @atexit.register  # handlers run last in, first out
        def after() -> None:
            def late() -> None:
                for begin in (run, lambda coro: asyncio.run(on_io(coro))):
                    try:
                        begin(asyncio.sleep(0))
                    except RuntimeError as error:
                        print(error)

            thread = threading.Thread(target=late, daemon=True)
            thread.start()
            thread.join()
            run(asyncio.sleep(0))
            print("tidied", threading.active_count())
            io.close()

        from langchain_vers._io import io, on_io, run

        run(asyncio.sleep(0))
        """
    )
    assert_quiet(done, "this process is ending: nothing new can be begun\n" * 2 + "tidied 2\n")


def test_exit_with_local_processes(tmp_path: Path) -> None:
    done = script(
        f"""
        from langchain_vers._io import io, run
        from langchain_vers.backends.local import LocalBackend

        backend = LocalBackend({str(tmp_path)!r})
        print(run(backend.exec("echo $$")).exit_code)
        io.submit(backend.exec("echo $$ >pid; sleep 300"))
        while not run(backend.exec("test -s pid")).exit_code == 0:
            pass
        """
    )
    assert_quiet(done, "0\n")
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedVers]:
    server = EmbeddedVers(tmp_path_factory.mktemp("io") / "data", "process")
    yield server
    server.close()


CONNECT = """
    import asyncio, logging
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # development mode tells of each slow step, and machines of tests are slow
    from langchain_vers._io import io, on_io, run
    from langchain_vers.backends.vers import VersBackend
    from langchain_vers.platform import Credentials, Endpoints, VersClient

    client = VersClient(Credentials({key!r}), Endpoints.resolve({url!r}, {ssh!r}, {ca!r}, environ={{}}))
    vm = run(client.create_vm(wait_boot=True))
    backends = [VersBackend(client, vm) for _ in range(3)]
    for backend in backends:
        assert run(backend.exec("echo up")).tail == b"up\\n"
"""


def connect(server: EmbeddedVers, rest: str) -> str:
    host, port = server.info.ssh_endpoint
    head = CONNECT.format(key=server.info.api_key, url=server.info.base_url, ssh=f"{host}:{port}", ca=server.info.ca_file)
    return textwrap.dedent(head) + textwrap.dedent(rest)


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "raise SystemExit(0)",
        "io.submit(backend.exec('sleep 300'))",
        "io.submit(backend.write('never-whole', bytes(64 << 20)))",
        "del backend, backends",
        "run(backends[0].close())",
        "asyncio.run(on_io(backend.exec('true')))",
    ],
)
def test_exit_with_live_connections(server: EmbeddedVers, ending: str) -> None:
    """Nothing is printed, nothing hangs, nothing is left; also with calls under way."""
    done = script(connect(server, ending))
    assert_quiet(done, "")


def test_nothing_blocks_the_io_thread(server: EmbeddedVers, tmp_path: Path) -> None:
    """Every call of both backends, first and later ones, with calls that block turned into errors on threads with a loop."""
    done = script(
        connect(
            server,
            f"""
            from blockbuster import BlockBuster
            from langchain_vers.backends.local import LocalBackend

            blocker = BlockBuster()
            blocker.activate()
            # paramiko guards its buffers with locks that are held for a copy in memory.
            blocker.functions["threading.Lock.acquire"].deactivate()
            fresh = VersBackend(client, vm)
            for backend, place in ((LocalBackend({str(tmp_path)!r}), {str(tmp_path)!r}), (fresh, {str(tmp_path)!r})):
                for _ in range(2):
                    run(backend.exec("echo hi; seq 1 100000; cd /", cwd=place, env={{"A": "b"}}, stdin=b"x"))
                    run(backend.exec("sleep 30", timeout=0.2))
                    run(backend.write(place + "/nothing-blocks", bytes(3 << 20)))
                    run(backend.read(place + "/nothing-blocks"))
                    run(backend.stat(place))
                    run(backend.scan(place, ignored=False))
                run(backend.close())
            blocker.deactivate()
            print("fine")
            """,
        )
    )
    assert_quiet(done, "fine\n")


def test_blocking_calls_on_the_io_thread_are_found() -> None:
    """That the test above can fail."""

    async def block() -> None:
        time.sleep(0.001)

    with blockbuster_ctx(), pytest.raises(Exception, match="Blocking call"):
        run(block())


def test_local_backend_closes_what_it_opens(tmp_path: Path) -> None:
    done = script(
        f"""
        import os, pathlib, psutil, signal
        from langchain_vers._io import run
        from langchain_vers.backends.local import LocalBackend
        from tests.rigs.waiting import wait_for

        backend = LocalBackend({str(tmp_path)!r})
        run(backend.exec("true"))
        me = psutil.Process()
        before = me.num_fds()

        def zombies():
            try:
                return os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            except ChildProcessError:
                return False

        for _ in range(10):
            run(backend.exec("true"))
            run(backend.exec("sleep 60 >/dev/null 2>&1 & echo $! >pid"))
            os.kill(int(pathlib.Path({str(tmp_path)!r}, "pid").read_text()), signal.SIGKILL)
        wait_for(lambda: me.num_fds() <= before)
        wait_for(lambda: not zombies())
        """
    )
    assert_quiet(done, "")


def test_closers_can_find_hosts_and_call_what_blocks() -> None:
    """At interpreter exit threads take no more calls."""
    done = script(
        """
        import asyncio
        from langchain_vers._io import io, run, to_thread

        async def closer():
            found = await asyncio.get_running_loop().getaddrinfo("localhost", 80)
            print(bool(found), await to_thread(len, "four"))

        async def begin():
            io.at_close("it", closer)

        run(begin())
        """
    )
    assert_quiet(done, "True 4\n")


@pytest.mark.parametrize("rounds", range(1, 9))
def test_what_begins_in_the_last_rounds_is_ended_too(own: IOThread, rounds: int) -> None:
    begun: list[asyncio.Task[None]] = []

    def hop(left: int) -> None:
        loop = asyncio.get_running_loop()
        if left:
            loop.call_soon(hop, left - 1)
        else:
            begun.append(loop.create_task(asyncio.sleep(1000)))

    async def closer() -> None:
        hop(rounds)

    async def begin() -> None:
        own.at_close("it", closer)

    own.run(begin())
    own.close()
    assert all(task.done() for task in begun)
