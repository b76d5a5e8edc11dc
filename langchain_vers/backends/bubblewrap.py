"""A sandbox of this machine's own programs, by bubblewrap: one that works in a folder, and one that keeps what it changes apart, by layers.

Commands see this machine's programs read-only, their workspace, a /tmp and a home of their own, and nothing else of this machine: no home,
no other process, no network unless it is asked for. All commands of a backend share one sandbox, so background processes live on from
call to call; it begins with the first call and ends with `close`, or when this process ends. What it is made of is said in `jail`, how it
is started and ended in `sandbox`; file calls are made in the sandbox like commands, so that no symlink leads out of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from langchain_vers._io import io
from langchain_vers.backends import jail
from langchain_vers.backends.base import ExecResult, OutputCallback
from langchain_vers.backends.disk_watch import Folder, Watch
from langchain_vers.backends.environment import Environment, checked, guest_environment
from langchain_vers.backends.open_files import in_namespace, nameless
from langchain_vers.backends.own_folder import Own
from langchain_vers.backends.paths import Mount, PathMap
from langchain_vers.backends.sandbox import NO_ANSWER, Limits, Sandbox
from langchain_vers.backends.sessions import End, Running, Session
from langchain_vers.backends.shell import ShellBackend
from langchain_vers.errors import DiskFull, Interrupted, Missing, Unreachable, Unsupported, VersError


class BubblewrapBackend(ShellBackend):
    """Works in a sandbox on this machine whose workspace is a folder of it.

    Args:
        workspace: the folder of this machine that commands find as /workspace, and may change; None: one of its own, gone with `close`.
        mounts: further folders. A copy ("copy") is made with the first call and goes with `close`.
        env: variables of all commands.
        inherit: names of variables of this process that are passed on to commands.
        network: whether commands have this machine's network, its loopback included.
        limits: what commands may take.

    Raises:
        BadInput: for mounts that make no sense.
        Unsupported: with the first call, where there is no bubblewrap, or no way to limit what was to be limited.
        DiskFull: by `exec`, when commands made a folder grow too far; all that ran in the sandbox was ended.
    """

    name = "bubblewrap"

    def __init__(
        self,
        workspace: str | os.PathLike[str] | None = None,
        *,
        mounts: Sequence[Mount] = (),
        env: Environment | None = None,
        inherit: Sequence[str] = (),
        network: bool = False,
        limits: Limits | None = None,
    ) -> None:
        self._workspace = None if workspace is None else str(Path(workspace).absolute())
        self._mounts = jail.checked_mounts(mounts)
        own = [] if self._workspace is None else [Mount(self._workspace, jail.WORKSPACE)]
        self.paths = PathMap([*own, *self._mounts], resolve=os.path.realpath)
        self.environment = checked(env or {})
        self._inherit = tuple(inherit)
        self._network = network
        self._limits = limits or Limits()
        self._own: Own | None = None
        self._watch: Watch | None = None
        self._sandbox: Sandbox | None = None
        self._starting = asyncio.Lock()
        self._tasks: set[asyncio.Task[Sandbox]] = set()
        self._homes: WeakKeyDictionary[Session, Sandbox] = WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._workspace!r})"

    @property
    def home(self) -> str:
        """Where commands start: the workspace."""
        return jail.WORKSPACE

    # --- the sandbox ---

    async def _running(self) -> Sandbox:
        # A start is brought to its end also when nobody waits for it any more: half of one could not be taken back.
        task = asyncio.get_running_loop().create_task(self._ensured())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _ensured(self) -> Sandbox:
        async with self._starting:
            if self._sandbox is not None and not self._sandbox.alive:
                await self._sandbox.end("it had ended")
                self._sandbox = None
            if self._sandbox is None:
                self._sandbox = await self._start()
                io.at_close(self, self.close)
            return self._sandbox

    async def _start(self) -> Sandbox:
        if sys.platform != "linux":
            raise Unsupported(f"bubblewrap is for Linux, and this is {sys.platform}; use SeatbeltBackend on macOS")
        if self._own is None:
            self._own = await io.blocking(Own)
        made_of = await io.blocking(self._made_of, self._own.path)
        if self._watch is None and self._limits.disk is not None:
            self._watch = Watch({name: Folder(path, self._nameless) for name, path in self._grows(made_of).items()}, self._limits.disk)
        environment = guest_environment(os.environ, home=jail.HOME, inherit=self._inherit)
        return await Sandbox.start(made_of, self._limits, environment, self._ready, watch=self._watch, before=self._before())

    def _made_of(self, own: str) -> jail.Jail:
        """What the sandbox is made of; makes what is still to be made. Blocks."""
        workspace = self._workspace or f"{own}/workspace"
        if self._workspace is None:
            Path(workspace).mkdir(exist_ok=True)
        return jail.Jail(
            workspace=_folder(workspace, "the workspace"),
            own=own,
            system=jail.system_folders(),
            hidden=jail.hidden_files(),
            binds=self._binds(self._copies(own)),
            scratch=self._limits.scratch,
            network=self._network,
        )

    def _copies(self, own: str) -> str:
        """Where copies of mounts are kept."""
        return f"{own}/copies"

    def _binds(self, copies: str) -> list[Mount]:
        binds = []
        for number, mount in enumerate(self._mounts):
            host = _existing(mount.host, "a mount")
            if mount.mode == "copy":
                copy = Path(copies, str(number))
                if not copy.exists():
                    Path(copies).mkdir(exist_ok=True)
                    run_tool("cp", "-a", "--reflink=auto", "--", host, str(copy))
                binds.append(Mount(str(copy), mount.guest, "rw"))
            else:
                binds.append(Mount(host, mount.guest, mount.mode))
        return binds

    def _grows(self, made_of: jail.Jail) -> dict[str, str]:
        """The folders of this machine that commands can make grow, by the names that commands have for them."""
        return {jail.WORKSPACE: made_of.workspace, **{bind.guest: bind.host for bind in made_of.binds if bind.mode == "rw"}}

    def _nameless(self) -> int:
        """Bytes of files that were deleted and are still open in the sandbox."""
        return 0 if self._sandbox is None else nameless(in_namespace(self._sandbox.namespace))

    def _before(self) -> Sequence[str]:
        return ()

    async def _session(self) -> Session:
        sandbox = await self._running()
        try:
            session = await sandbox.session()
        except Unreachable:
            if sandbox.alive:
                raise
            sandbox = await self._running()  # it had died unnoticed, and nothing of this call has run in it yet
            session = await sandbox.session()
        self._homes[session] = sandbox
        return session

    async def close(self) -> None:
        """End the sandbox with all that runs in it. The next call begins another."""
        async with self._starting:
            if self._sandbox is not None:
                await self._sandbox.end("it was closed")
                self._sandbox = None
            own, self._own, self._watch = self._own, None, None
            if own is not None:
                await io.blocking(own.remove)
            io.forget(self)

    # --- calls ---

    def _result(self, running: Running, end: End, cwd: str | None, reconnects: int) -> ExecResult:
        sandbox = self._homes.get(running.session)
        if end is End.LOST and sandbox is not None:
            output = running.tail.bytes()
            if sandbox.overgrown is not None:
                raise DiskFull(
                    f"{sandbox.overgrown} grew by more than it may (limits.disk, {self._limits.disk} bytes), and all commands in the "
                    "sandbox were ended; delete what is not needed, a few files at a time"
                )
            reason = sandbox.ended_for if sandbox.ended_for != NO_ANSWER else "its first processes were killed"
            raise Interrupted(f"the sandbox ended while the command ran, as {reason}; it may have run in part", output=output)
        return super()._result(running, end, cwd, reconnects)

    async def _follow(self, session: Session, timeout: float | None, on_output: OutputCallback | None) -> tuple[Running, End]:
        running, end = await super()._follow(session, timeout, on_output)
        if end is End.SILENT and (sandbox := self._homes.get(session)) is not None:
            await sandbox.end("it did not begin a command")
        return running, end

    async def _withdrawn(self, session: Session) -> bool:
        # A pipe loses nothing: without the word that the command has begun, it has not.
        return True

    async def _kill(self, running: Running) -> None:
        """Kill a command's processes from outside, where nothing that it does to the sandbox is in the way; else, end the sandbox."""
        sandbox = self._homes.get(running.session)
        if sandbox is None:
            return
        if not await sandbox.kill_command(running.session.mark, running.started):
            await sandbox.end("a command that was to be stopped could not be ended otherwise")
        with contextlib.suppress(TimeoutError, VersError):
            async with asyncio.timeout(1):
                while (news := await running.session.process.receive())[0] != 0:
                    if news[0] == 1:
                        running.tail.add(news[1])


def _existing(path: str, what: str) -> str:
    """A path without symlinks, so that none can be put in its place later.

    Raises:
        Missing: there is nothing.
    """
    try:
        return str(Path(path).resolve(strict=True))
    except OSError as error:
        raise Missing(f"{what} of the sandbox, {path}, is not there ({error.strerror or error}); make it, or name another") from None


def _folder(path: str, what: str) -> str:
    found = _existing(path, what)
    if not Path(found).is_dir():
        raise Missing(f"{what} of the sandbox, {path}, is no folder; name one")
    return found


def run_tool(*command: str) -> None:
    """Run a program of this machine on its files. Blocks.

    Raises:
        DiskFull: no room.
        Unreachable: it failed.
    """
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        if os.strerror(errno.ENOSPC) in said:
            raise DiskFull(f"no room is left on this machine's disk for a copy: {said}")
        raise Unreachable(f"`{shlex.join(command[:5])} ...` failed on this machine: {said}")
