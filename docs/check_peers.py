"""What `comparison.md` says of the places that run on this machine, asked of the places themselves.

    python docs/check_peers.py here bubblewrap      # of this package
    python docs/check_peers.py deepagents langchain swerex swerex-session inspect   # where deepagents, swe-rex and inspect-ai are installed
    python docs/check_peers.py vers-sdk             # where it is installed, and this package with the extra `embedded`

Each place is given the same four commands. A process that lives on is ended here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

Run = Callable[[str, float | None], Coroutine[Any, Any, str]]
"""Runs a shell command in the place, with a limit in seconds; gives what it printed, or raises when the time is out."""
PATIENCE_SECONDS = 5.0
"""Seconds that a process has to die."""
LIMIT_SECONDS = 1.0
TOKEN = "peer-token-4711"


@asynccontextmanager
async def here(folder: Path) -> AsyncIterator[Run]:
    """This package's `LocalBackend`."""
    from langchain_vers import LocalBackend
    from langchain_vers._io import on_io

    backend = LocalBackend(folder)
    yield lambda command, limit: on_io(_output(backend.exec(command, timeout=limit)))
    await on_io(backend.close())


@asynccontextmanager
async def bubblewrap(folder: Path) -> AsyncIterator[Run]:
    """This package's `BubblewrapBackend`."""
    from langchain_vers import BubblewrapBackend
    from langchain_vers._io import on_io

    backend = BubblewrapBackend(folder)
    yield lambda command, limit: on_io(_output(backend.exec(command, timeout=limit)))
    await on_io(backend.close())


async def _output(result: Awaitable[object]) -> str:
    return (await result).tail.decode()  # type: ignore[attr-defined]  # an ExecResult


@asynccontextmanager
async def deepagents(folder: Path) -> AsyncIterator[Run]:
    """`LocalShellBackend` of Deep Agents."""
    from deepagents.backends import LocalShellBackend

    backend = LocalShellBackend(folder, env={"PATH": os.environ["PATH"]})

    async def run(command: str, limit: float | None) -> str:
        return (await backend.aexecute(command, timeout=None if limit is None else int(limit))).output

    yield run


@asynccontextmanager
async def langchain(folder: Path) -> AsyncIterator[Run]:
    """The session of LangChain's `ShellToolMiddleware` with its `HostExecutionPolicy`, called as agents do from async code: in a thread."""
    from langchain.agents.middleware import HostExecutionPolicy, ShellToolMiddleware
    from langchain.agents.middleware.shell_tool import ShellSession

    environment = ShellToolMiddleware(workspace_root=folder)._environment or {}  # as it does for its sessions
    session = ShellSession(folder, HostExecutionPolicy(), ("/bin/bash",), environment)
    session.start()

    async def run(command: str, limit: float | None) -> str:
        result = await asyncio.to_thread(session.execute, command, timeout=600.0 if limit is None else limit)
        if result.timed_out:
            raise TimeoutError
        return result.output

    yield run
    session.stop(PATIENCE_SECONDS)


@asynccontextmanager
async def swerex(folder: Path) -> AsyncIterator[Run]:
    """`LocalRuntime.execute` of SWE-ReX."""
    from swerex.runtime.abstract import Command
    from swerex.runtime.local import LocalRuntime

    runtime = LocalRuntime()

    async def run(command: str, limit: float | None) -> str:
        return (await runtime.execute(Command(command=command, shell=True, timeout=limit, cwd=str(folder)))).stdout

    yield run
    await runtime.close()


@asynccontextmanager
async def swerex_session(folder: Path) -> AsyncIterator[Run]:
    """`LocalRuntime.run_in_session` of SWE-ReX, with an interrupt after a time-out as its documentation has it."""
    from swerex.exceptions import CommandTimeoutError
    from swerex.runtime.abstract import BashAction, BashInterruptAction, CreateBashSessionRequest
    from swerex.runtime.local import LocalRuntime

    runtime = LocalRuntime()
    await runtime.create_session(CreateBashSessionRequest())
    await runtime.run_in_session(BashAction(command=f"cd {folder}"))

    async def run(command: str, limit: float | None) -> str:
        try:
            return (await runtime.run_in_session(BashAction(command=command, timeout=limit))).output
        except CommandTimeoutError:
            await runtime.run_in_session(BashInterruptAction())
            raise

    yield run
    await runtime.close()


@asynccontextmanager
async def inspect(folder: Path) -> AsyncIterator[Run]:
    """`LocalSandboxEnvironment` of Inspect."""
    from inspect_ai.util._sandbox.local import LocalSandboxEnvironment

    place = LocalSandboxEnvironment()

    async def run(command: str, limit: float | None) -> str:
        result = await place.exec(["bash", "-c", command], cwd=str(folder), timeout=None if limit is None else int(limit))
        return result.stdout

    yield run


def processes(mark: str) -> list[int]:
    """The processes of this machine that have this argument, also those in a namespace of their own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def wait_for(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether a condition has come to hold in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def runs_on(mark: str) -> str:
    """Whether a process with this argument still runs when it has had time to die; it is ended then."""
    if wait_for(lambda: not processes(mark)):
        return "no"
    for number in processes(mark):
        os.kill(number, signal.SIGKILL)
    return "yes"


def ask(name: str) -> Iterator[tuple[str, str]]:
    """What a place does with the four commands. It has an event loop of its own, which it may block."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    def soon(work: Coroutine[Any, Any, str]) -> Future[str]:
        return asyncio.run_coroutine_threadsafe(work, loop)

    with tempfile.TemporaryDirectory() as outer:
        folder, outside = Path(outer, "work"), Path(outer, "outside")
        folder.mkdir()
        outside.write_text(f"{TOKEN}\n")
        place = PLACES[name](folder)
        run = asyncio.run_coroutine_threadsafe(place.__aenter__(), loop).result(30)
        seen = soon(run('echo "[$PEER_TOKEN]"', None)).result(30)
        yield "a variable of the process is seen", "yes" if TOKEN in seen else "no"
        seen = soon(run(f"cat {outside} 2>&1; true", None)).result(30)
        yield "a file outside of the folder is seen", "yes" if TOKEN in seen else "no"

        mark = f"300.{secrets.randbelow(10**9):09}"  # seconds that nobody else sleeps
        begun = time.monotonic()
        call = soon(run(f"sleep {mark} & sleep 20", LIMIT_SECONDS))
        assert wait_for(lambda: bool(processes(mark)))
        wait_for(call.done, 30)
        end = "still waiting" if not call.done() else type(call.exception()).__name__ if call.exception() else "a result"
        took = f"{end} after {time.monotonic() - begun:.1f} s"
        yield f"after a time-out of {LIMIT_SECONDS:g} s a child of the command runs on", f"{runs_on(mark)} ({took})"

        mark = f"300.{secrets.randbelow(10**9):09}"
        call = soon(run(f"sleep {mark}; true", None))
        assert wait_for(lambda: bool(processes(mark)))
        free = threading.Event()
        loop.call_soon_threadsafe(free.set)
        yield "the event loop is free while a command runs", "yes" if free.wait(PATIENCE_SECONDS) else "no"
        call.cancel()
        yield "a program of a cancelled command runs on", runs_on(mark)
        with contextlib.suppress(Exception):
            asyncio.run_coroutine_threadsafe(place.__aexit__(None, None, None), loop).result(30)


async def vers_sdk(data: Path) -> AsyncIterator[tuple[str, str]]:
    """What Vers' own SDK does with the embedded server of this package."""
    from vers_sdk import VersSdkClient

    from langchain_vers.embedded import launcher

    server = await asyncio.to_thread(launcher.ensure_running, data, engine="process")
    try:
        async with VersSdkClient(base_url=server.base_url, api_key=server.api_key) as client:
            made = await client.create_new_root_vm({"vm_config": {}})
            said = await client.exec_vm(made["vm_id"], {"command": ["echo", "hello"]})
            yield "a command's output", repr(said["stdout"])
            yield "copies of a running machine", str(len((await client.branch_by_vm(made["vm_id"]))["vms"]))
            try:
                yield "a command's stream", repr(await client.exec_vm_stream(made["vm_id"], {"command": ["sh", "-c", "echo a; echo b"]}))
            except ValueError as error:
                yield "a command's stream", f"{type(error).__name__}: {error}"
    finally:
        await asyncio.to_thread(launcher.stop, data)


def ask_sdk() -> Iterator[tuple[str, str]]:
    """All that `vers_sdk` finds."""

    async def found() -> list[tuple[str, str]]:
        with tempfile.TemporaryDirectory() as folder:
            return [each async for each in vers_sdk(Path(folder, "data"))]

    yield from asyncio.run(found())


PLACES = {
    "here": here,
    "bubblewrap": bubblewrap,
    "deepagents": deepagents,
    "langchain": langchain,
    "swerex": swerex,
    "swerex-session": swerex_session,
    "inspect": inspect,
}

if __name__ == "__main__":
    os.environ["PEER_TOKEN"] = TOKEN
    for name in sys.argv[1:] or PLACES:
        print(name)
        for what, answer in ask_sdk() if name == "vers-sdk" else ask(name):
            print(f"  {what}: {answer}", flush=True)
