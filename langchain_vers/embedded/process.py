"""The engine `process`: no isolation at all. A machine is a folder and the processes that were started in it; for trying things out
anywhere.

Works on any POSIX system. A machine's processes carry a mark in their environment, by which they are found again to freeze and to end
them; a program that wipes its environment escapes that. Machines that are kept apart are made by `namespaces`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from asyncio.subprocess import Process
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from langchain_vers.embedded.engine import Engine, EngineError, MachineSpec
from langchain_vers.embedded.freezer import held_by_vfork, parse_stat
from langchain_vers.embedded.layers import valid_name
from langchain_vers.errors import BadInput, DiskFull

MARK = "VERS_MACHINE"
"""Environment variable of every process of a machine."""

_PATIENCE = 5.0
_LINUX = sys.platform == "linux"
_COPY = ("cp", "-a", "--reflink=auto") if _LINUX else ("cp", "-a")


def _table(mark: str) -> dict[int, tuple[str, int]]:
    """State letter and parent of each live process that carries a mark."""
    wanted = f"{MARK}={mark}"
    found: dict[int, tuple[str, int]] = {}
    if not _LINUX:
        columns = ["ps", "-A", "-E", "-o", "pid=,ppid=,stat=,command="]
        listed = subprocess.run(columns, capture_output=True, text=True, errors="replace", check=True)
        for line in listed.stdout.splitlines():
            pid, parent, state, words = line.split(maxsplit=3)
            if wanted in words.split() and not state.startswith("Z"):
                found[int(pid)] = (state[0], int(parent))
        return found
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):  # it has just ended, or is another user's
                if wanted.encode() in (path / "environ").read_bytes().split(b"\0"):
                    pid_, state, parent_ = parse_stat((path / "stat").read_text(errors="replace"))
                    if state not in "ZXx":
                        found[pid_] = (state, parent_)
    return found


def processes_with(mark: str) -> dict[int, bool]:
    """The live processes that carry a mark, and for each whether it is stopped. Blocks; reads the process table."""
    return {pid: state == "T" for pid, (state, _) in _table(mark).items()}


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def freeze(mark: str) -> frozenset[int]:
    """Stop all processes with a mark, also those that are forked meanwhile; those that were stopped before. Blocks.

    Raises:
        EngineError: they do not come to rest; all have been continued.
    """
    deadline = time.monotonic() + _PATIENCE
    before = frozenset(pid for pid, stopped in processes_with(mark).items() if stopped)
    quiet = 0
    while quiet < 2:  # a process that is forking shows its child in the round after
        table = _table(mark)
        held = held_by_vfork(table)
        moving = [pid for pid, (state, _) in table.items() if state != "T" and not (state in "DU" and pid in held)]
        for pid in moving:
            _signal(pid, signal.SIGSTOP)
        quiet = 0 if moving else quiet + 1
        if time.monotonic() > deadline:
            thaw(mark, before)
            raise EngineError("The machine's processes do not stop: one of them may be waiting for a device; try again.")
        if moving:
            time.sleep(0.001)
    return before


def thaw(mark: str, before: frozenset[int]) -> None:
    """Continue all processes with a mark but those in `before`. Blocks."""
    for pid in processes_with(mark):
        if pid not in before:
            _signal(pid, signal.SIGCONT)


def end(mark: str) -> None:
    """End all processes with a mark. Blocks until they are gone.

    Raises:
        EngineError: one does not end.
    """
    deadline = time.monotonic() + _PATIENCE
    pause = 0.001
    while left := processes_with(mark):
        for pid in left:
            _signal(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise EngineError(f"Processes of the machine do not end: {sorted(left)}; end them by hand.")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


class ProcessEngine(Engine):
    """Machines that are folders. Their processes run as the server's own user, with all that this user can reach."""

    name = "process"
    keeps_memory = False
    isolation = "None: a machine's processes are ordinary processes of the server's user and can read and change all that this user can."
    limits = "CPU, memory and disk sizes are not enforced."

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._running: set[str] = set()
        self._frozen: dict[str, frozenset[int]] = {}

    def _home(self, vm_id: str) -> Path:
        return self.data_dir / "vms" / vm_id

    def _mark(self, vm_id: str) -> str:
        # Two servers on one machine may have a machine of the same name; their folders differ.
        return hashlib.sha256(os.fsencode(self._home(vm_id).absolute())).hexdigest()[:32]

    async def check(self) -> list[str]:
        """See `Engine.check`."""
        if os.name != "posix":
            return ["The engine `process` needs a POSIX system: run the server on Linux or macOS."]
        return [f"The tool `{tool}` is not on the PATH: install it." for tool in ("cp", "ps") if shutil.which(tool) is None and not _LINUX]

    # Life of a machine

    async def create(self, vm_id: str, spec: MachineSpec, *, snapshot: str | None = None) -> None:
        """See `Engine.create`.

        Raises:
            BadInput: a name that cannot name a folder, or is taken.
            EngineError: there is no such snapshot, or the folder cannot be made.
            DiskFull: no room.
        """
        _require_name(vm_id)
        async with self._locks[vm_id]:
            if await asyncio.to_thread(self._home(vm_id).exists):
                raise BadInput(f"There is a machine {vm_id} already.", machine_id=vm_id)
            source = None
            if snapshot is not None:
                _require_name(snapshot)
                source = self.data_dir / "snapshots" / snapshot
                if not await asyncio.to_thread(source.is_dir):
                    raise EngineError(f"There is no snapshot {snapshot}.")
            await asyncio.to_thread(self._store, source, self._home(vm_id))
            self._running.add(vm_id)

    def _store(self, source: Path | None, target: Path) -> None:
        """Make a folder, empty or as a copy, all at once."""
        for name in ("", "vms", "snapshots", "trash"):
            (self.data_dir / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.data_dir.chmod(0o700)
        made = self.data_dir / "trash" / uuid.uuid4().hex
        try:
            if source is None:
                made.mkdir(mode=0o700)
            else:
                copied = subprocess.run([*_COPY, "--", str(source), str(made)], capture_output=True, text=True, check=False)
                if copied.returncode:
                    if "No space left" in copied.stderr:
                        raise DiskFull("No room left on the disk of the engine; free some.")
                    raise EngineError(f"Copying {source.name} failed: {copied.stderr.strip()}.")
            made.rename(target)
        except BaseException:
            _remove(made)
            raise

    async def start(self, vm_id: str) -> None:
        """See `Engine.start`. What an earlier server left running of this machine is ended first."""
        _require_name(vm_id)
        async with self._locks[vm_id]:
            if vm_id in self._running:
                return
            if not await asyncio.to_thread(self._home(vm_id).is_dir):
                raise EngineError(f"There is no machine {vm_id}.")
            await asyncio.to_thread(end, self._mark(vm_id))
            self._running.add(vm_id)

    async def stop(self, vm_id: str) -> None:
        """See `Engine.stop`."""
        _require_name(vm_id)
        async with self._locks[vm_id]:
            await self._stop(vm_id)

    async def _stop(self, vm_id: str) -> None:
        self._running.discard(vm_id)
        self._frozen.pop(vm_id, None)
        await asyncio.to_thread(end, self._mark(vm_id))

    async def delete(self, vm_id: str) -> None:
        """See `Engine.delete`."""
        _require_name(vm_id)
        async with self._locks[vm_id]:
            await self._stop(vm_id)
            await asyncio.to_thread(self._discard, self._home(vm_id))
        self._locks.pop(vm_id, None)

    def _discard(self, path: Path) -> None:
        gone = self.data_dir / "trash" / uuid.uuid4().hex
        with suppress(FileNotFoundError):
            path.rename(gone)
            _remove(gone)

    async def stored(self) -> list[str]:
        """See `Engine.stored`."""

        def names() -> list[str]:
            folder = self.data_dir / "vms"
            return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

        return await asyncio.to_thread(names)

    async def close(self) -> None:
        """See `Engine.close`."""
        for vm_id in sorted(self._running):
            await self.stop(vm_id)

    def _require_running(self, vm_id: str) -> None:
        _require_name(vm_id)
        if vm_id not in self._running:
            raise EngineError(f"Machine {vm_id} does not run: start it first.")

    # Pause and snapshots

    async def pause(self, vm_id: str) -> None:
        """See `Engine.pause`."""
        async with self._locks[vm_id]:
            self._require_running(vm_id)
            if vm_id not in self._frozen:
                self._frozen[vm_id] = await asyncio.to_thread(freeze, self._mark(vm_id))

    async def resume(self, vm_id: str) -> None:
        """See `Engine.resume`."""
        async with self._locks[vm_id]:
            self._require_running(vm_id)
            before = self._frozen.pop(vm_id, None)
            if before is not None:
                await asyncio.to_thread(thaw, self._mark(vm_id), before)

    async def snapshot(self, vm_id: str, snapshot: str) -> None:
        """See `Engine.snapshot`: a copy of the folder.

        Raises:
            BadInput: a name that cannot name a folder, or is taken.
            EngineError: there is no such machine.
            DiskFull: no room; nothing was stored.
        """
        _require_name(vm_id)
        _require_name(snapshot)
        target = self.data_dir / "snapshots" / snapshot

        def copy(freeze_first: bool) -> None:
            if not self._home(vm_id).is_dir():
                raise EngineError(f"There is no machine {vm_id}.")
            if target.exists():
                raise BadInput(f"There is a snapshot {snapshot} already.")
            before = freeze(self._mark(vm_id)) if freeze_first else frozenset()
            try:
                self._store(self._home(vm_id), target)
            finally:
                if freeze_first:
                    thaw(self._mark(vm_id), before)

        async with self._locks[vm_id]:
            await asyncio.to_thread(copy, vm_id in self._running and vm_id not in self._frozen)

    async def delete_snapshot(self, snapshot: str) -> None:
        """See `Engine.delete_snapshot`."""
        _require_name(snapshot)
        await asyncio.to_thread(self._discard, self.data_dir / "snapshots" / snapshot)

    # Processes

    async def spawn(
        self,
        vm_id: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: int,
        stdout: int,
        stderr: int,
    ) -> Process:
        """See `Engine.spawn`. It runs as the server's user; HOME, and the folder it starts in, are the machine's folder."""
        self._require_running(vm_id)
        if vm_id in self._frozen:
            raise EngineError(f"Machine {vm_id} is paused: resume it first.")
        if not argv:
            raise BadInput("A command needs at least its program's name.")
        home = str(self._home(vm_id).absolute())
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            "LANG": "C.UTF-8",
            "USER": "root" if os.geteuid() == 0 else "user",
            "SHELL": "/bin/sh",
            **(env or {}),
            MARK: self._mark(vm_id),
        }
        try:
            return await asyncio.create_subprocess_exec(
                *argv, stdin=stdin, stdout=stdout, stderr=stderr, env=environment, cwd=cwd or home, start_new_session=True
            )
        except (OSError, ValueError) as error:
            raise EngineError(f"{argv[0]} cannot be started in machine {vm_id}: {error}.") from error


def _remove(path: Path) -> None:
    """Remove a folder whatever its modes are; what is not there is fine."""
    if not path.exists():
        return
    for folder, names, _ in os.walk(path):
        for name in ("", *names):
            inner = Path(folder, name)
            if not inner.is_symlink():
                inner.chmod(0o700)
    shutil.rmtree(path)


def _require_name(name: str) -> None:
    if not valid_name(name):
        raise BadInput(f"{name!r} cannot name a machine or snapshot: use up to 128 letters, digits, and any of _ . - after the first.")
