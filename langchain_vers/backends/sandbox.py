"""One running bubblewrap sandbox: started with its limits, watched, asked for sessions, and ended for certain.

The sandbox is a pid namespace: when its first process ends, the kernel ends all others in it, whatever they have done to get away.
That happens when it is killed from here, when its zygote's input ends, and when this process dies, however it dies (bwrap's
`--die-with-parent`). What it is made of is said in `jail`; who uses it, in `bubblewrap`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import resource
import shutil
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from langchain_vers._io import io
from langchain_vers.backends import jail, seccomp, strays, zygote
from langchain_vers.backends.cgroups import Group
from langchain_vers.backends.disk_watch import Watch
from langchain_vers.backends.gate import Gate
from langchain_vers.backends.local import LocalProcess
from langchain_vers.backends.sessions import Process, Session
from langchain_vers.errors import Conflict, Unreachable, Unsupported, VersError

T = TypeVar("T")

SPARES = 2
"""Sessions that wait ahead of need."""
REFILL_SECONDS = 0.05
"""How long after one was taken the next is started: not at once, as that would compete with the call itself for the processors."""
KILL_SECONDS = 5.0
"""How long it may take to find and kill the processes of a command one by one; then the whole sandbox ends."""
END_SECONDS = 10.0
"""How long the kernel may take to end a sandbox."""
NO_ANSWER = "it did not answer any more"
"""As `Sandbox.ended_for`: nobody here has ended it."""
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"}

Ready = Callable[[Process, str], Awaitable[Session]]


@dataclass(frozen=True)
class Limits:
    """What the commands of a sandbox may take together. None: no limit of ours.

    Attributes:
        processes: processes and threads.
        memory: bytes, /tmp and the like included; where this user may make no control group: bytes of data of each single process.
        disk: bytes by which the workspace, and each mount of mode "rw", may grow; also the size of the largest file.
        scratch: bytes in each of /tmp, /dev/shm, and the home.
    """

    processes: int | None = 1024
    memory: int | None = 4 << 30
    disk: int | None = 8 << 30
    scratch: int = 1 << 30


class Sandbox:
    """See the module. Coroutines of the I/O thread; made by `start`."""

    def __init__(self, folder: str, group: Group, process: LocalProcess, init: int, ready: Ready) -> None:
        self._folder = folder
        self._group = group
        self._init = init
        self._pidfd = os.pidfd_open(init)
        self.namespace = str(Path(f"/proc/{init}/ns/pid").readlink())
        """The pid namespace that its processes are in."""
        self._apart = frozenset((init,))
        self._ready = ready
        self._zygote = zygote.Zygote(process)
        self._gate = Gate()
        self._spares: deque[tuple[zygote.SessionPipes, Session]] = deque()
        self._coming = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._block = -1
        self._ending: asyncio.Task[None] | None = None
        self.ended_for: str | None = None
        """Why it was ended from here, for a person."""
        self.overgrown: str | None = None
        """The folder whose growth it was ended for."""

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self.ended_for is None and not self._zygote.ended.is_set()

    @classmethod
    async def start(
        cls,
        made_of: jail.Jail,
        limits: Limits,
        environment: dict[str, str],
        ready: Ready,
        *,
        watch: Watch | None = None,
        before: Sequence[str] = (),
    ) -> Sandbox:
        """Start a sandbox.

        Args:
            made_of: what it is made of.
            limits: what it may take.
            environment: the environment of all commands in it.
            ready: waits for a shell that was just started.
            watch: what ends it when a folder has grown too far.
            before: a command that is given bwrap's own as its last arguments.

        Raises:
            Unsupported: something that it needs is not to be had on this machine.
            Unreachable: it did not start.
        """
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise Unsupported("bubblewrap is not installed on this machine; install its package, `bubblewrap`")
        group = await io.blocking(_group, limits)
        try:
            self = await cls._begin([*before, bwrap], made_of, group, ready)
        except BaseException:
            await io.blocking(group.remove)
            raise
        try:
            _limit(self._init, limits, group)
            os.write(self._block, b"1")
            await self._zygote.ask(b"ready", send=zygote.opening(environment))
            self._apart |= set(await io.blocking(strays.look, self.namespace, self._apart))
        except (VersError, OSError) as error:
            await self.end("it did not start")
            detail = self._zygote.errors.decode(errors="replace").strip() or str(error)
            raise Unreachable(f"the sandbox could not be started: {detail}") from error
        except BaseException:
            await self.end("its start was given up")
            raise
        finally:
            os.close(self._block)
        if watch is not None:
            self._watching = self._task(self._watch(watch))
        return self

    @classmethod
    async def _begin(cls, bwrap: Sequence[str], made_of: jail.Jail, group: Group, ready: Ready) -> Sandbox:
        """A sandbox that waits for its limits, and for a byte in `_block`."""
        mine = contextlib.ExitStack()
        with contextlib.ExitStack() as theirs:
            status_read, status_write = os.pipe()
            theirs.callback(os.close, status_write)
            mine.callback(os.close, status_read)
            block_read, block_write = os.pipe()
            theirs.callback(os.close, block_read)
            rules = _file(_rules())
            theirs.callback(os.close, rules)
            options = jail.arguments(made_of, status_fd=status_write, block_fd=block_read, seccomp_fd=rules)
            arguments = _file(b"".join(os.fsencode(option) + b"\0" for option in options))
            theirs.callback(os.close, arguments)
            command = [*bwrap, "--args", str(arguments), "--", *zygote.command(jail.SESSIONS)]
            try:
                passed = (status_write, block_read, rules, arguments)
                process = await LocalProcess.start(command, cwd="/", env=_ENVIRONMENT, pass_fds=passed)
            except BaseException:
                os.close(block_write)
                mine.close()
                raise
        with mine:
            try:
                said = await io.blocking(_line, status_read)
                self = cls(f"{made_of.own}/io", group, process, json.loads(said)["child-pid"], ready)
            except (ValueError, KeyError, OSError):
                os.close(block_write)
                raise Unreachable(f"the sandbox could not be started: {await _complaint(process)}") from None
        self._block = block_write
        return self

    async def _watch(self, watch: Watch) -> None:
        self.overgrown = await watch.until_exceeded()
        await self.end(f"{self.overgrown} had grown too far")

    # --- sessions ---

    async def session(self) -> Session:
        """A session that waits for its call; from the spares if there is one.

        Raises:
            Unreachable: the sandbox gives none; it has been ended.
        """
        asyncio.get_running_loop().call_later(REFILL_SECONDS, self._refill)
        while self._spares:
            pipes, session = self._spares.popleft()
            if not pipes.gone:
                return session
            pipes.close()
        # Also when nobody waits for it any more, what was begun with the zygote is brought to its end.
        _, session = await asyncio.shield(self._task(self._needed()))
        return session

    async def _needed(self) -> tuple[zygote.SessionPipes, Session]:
        try:
            return await self._open()
        except VersError:
            # Its zygote is stopped, or cannot fork: nothing more is to be had of it.
            await self.end("it gave no more sessions")
            raise

    async def _open(self) -> tuple[zygote.SessionPipes, Session]:
        async with self._gate.call():
            mark = Session.new_mark()
            pipes = zygote.SessionPipes(self._folder, mark, self.answers)
            try:
                await self._zygote.ask(mark.encode())
                pipes.settle()
                return pipes, await self._ready(pipes, mark)
            except VersError:
                pipes.close()
                raise

    def _refill(self) -> None:
        while self.alive and len(self._spares) + self._coming < SPARES:
            self._coming += 1
            self._task(self._add_spare())

    async def _add_spare(self) -> None:
        try:
            spare = await self._open()
        except VersError:
            return  # a command may have taken all that is there for now; the next call meets the reason itself
        finally:
            self._coming -= 1
        if self.alive:
            self._spares.append(spare)
        else:
            spare[0].close()

    def _task(self, coro: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coro)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def answers(self) -> bool:
        """Whether it is there; one that does not answer is ended."""
        if self.alive and await self._zygote.answers():
            return True
        await self.end(NO_ANSWER)
        return False

    # --- processes ---

    async def kill_command(self, mark: str, since: float) -> bool:
        """Kill all processes of a command that began at `since` (in `time.monotonic`); whether that could be done in time."""
        async with self._gate.commit():  # a session that is just being started has no traces yet
            return await io.blocking(self._kill_command, mark, since)

    def _kill_command(self, mark: str, since: float) -> bool:
        began = int((time.clock_gettime(time.CLOCK_BOOTTIME) - (time.monotonic() - since)) * strays.TICKS) - 1
        deadline = time.monotonic() + KILL_SECONDS
        held: set[int] = set()
        while time.monotonic() < deadline:
            found = strays.belonging(strays.look(self.namespace, self._apart), mark, began)
            if not found:
                return True
            # Stopped first, so that none forks while the others are being found.
            number = signal.SIGKILL if found <= held else signal.SIGSTOP
            for pid in found if found <= held else found - held:
                strays.send(self.namespace, pid, number)
            held |= found
        return False

    async def frozen(self, work: Callable[[], T]) -> T:
        """The result of `work`, which is called while all processes are stopped.

        Raises:
            Conflict: they could not be stopped.
        """
        async with self._gate.commit():
            return await io.blocking(self._frozen, work)

    def _frozen(self, work: Callable[[], T]) -> T:
        deadline = time.monotonic() + KILL_SECONDS
        stopped: set[int] = set()
        before: set[int] | None = None
        try:
            while True:
                table = strays.look(self.namespace, self._apart)
                if before is None:
                    before = {pid for pid, seen in table.items() if seen.state == "T"}
                running = {pid for pid, seen in table.items() if seen.state not in "Tt"}
                if not running:
                    return work()
                if time.monotonic() > deadline:
                    raise Conflict("the processes in the sandbox could not be stopped for a snapshot; try again")
                for pid in running - stopped:
                    strays.send(self.namespace, pid, signal.SIGSTOP)
                stopped |= running
        finally:
            for pid in sorted(stopped - (before or set()), reverse=True):  # mostly children first: no shell is to see a job stopped
                strays.send(self.namespace, pid, signal.SIGCONT)

    async def end(self, reason: str) -> None:
        """End it with all that is in it, and give everything back. May be called twice, and at the same time."""
        if self._ending is None:
            self.ended_for = reason
            self._ending = asyncio.get_running_loop().create_task(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        loop, dead = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._pidfd, dead.set)
        try:
            async with asyncio.timeout(END_SECONDS):
                await dead.wait()
        except TimeoutError:  # the kernel holds one of its processes; it ends as soon as it lets go
            pass
        finally:
            loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        if self._watching is not None and self.overgrown is None:
            self._watching.cancel()
        await self._zygote.close()
        while self._spares:
            self._spares.pop()[0].close()
        await io.blocking(self._group.remove)


def _group(limits: Limits) -> Group:
    """A control group for these limits, as far as it can be had.

    Raises:
        Unsupported: the number of processes cannot be limited.
    """
    wanted = {"pids": limits.processes, "memory": limits.memory}
    group = Group.make({name: value for name, value in wanted.items() if value is not None})
    if limits.processes is not None and "pids" not in group.controllers and os.geteuid() == 0:
        group.remove()
        raise Unsupported(
            "root's processes can only be limited by a control group, and none can be made here; run as an ordinary user, or give "
            "Limits(processes=None) to run without that limit"
        )
    return group


def _limit(init: int, limits: Limits, group: Group) -> None:
    """Limit a sandbox by its first process, before there is any other."""
    group.take(init)
    own = {resource.RLIMIT_CORE: 0}
    if limits.disk is not None:
        own[resource.RLIMIT_FSIZE] = limits.disk
    if limits.processes is not None and "pids" not in group.controllers:
        own[resource.RLIMIT_NPROC] = limits.processes  # counted per user namespace, so only what runs in this one
    if limits.memory is not None and "memory" not in group.controllers:
        own[resource.RLIMIT_DATA] = limits.memory
    for kind, value in own.items():
        resource.prlimit(init, kind, (value, value))


def _rules() -> bytes:
    """The seccomp program for this machine."""
    program = seccomp.program(platform.machine())
    if program is None:
        raise Unsupported(f"which system calls to keep from a sandbox is not known for {platform.machine()}; use another backend")
    return program


def _file(content: bytes) -> int:
    """A file in memory, to be read from its begin."""
    descriptor = os.memfd_create("bwrap")
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _line(descriptor: int) -> bytes:
    """The first line that comes, or what there was of it when the other side went away."""
    said = b""
    while not said.endswith(b"\n") and (more := os.read(descriptor, 4096)):
        said += more
    return said.partition(b"\n")[0]


async def _complaint(process: LocalProcess) -> str:
    """What a process that is about to end has to say about it."""
    said = b""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            while (news := await process.receive())[0] != 0:
                said += news[1]
    process.close()
    return said.decode(errors="replace").strip()[-500:] or "it ended without a message"
