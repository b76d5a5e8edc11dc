"""What an engine of the embedded Vers owes: the small interface between the server and the way in which it makes machines.

The server (API, SSH front, metadata, keys) knows nothing of namespaces or snapshots; an engine knows nothing of HTTP or SSH. Machines and
snapshots are named by the server. All coroutines run on the server's event loop and must not block it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class MachineSpec:
    """Resources asked for; an engine that cannot enforce one ignores it and says so in `Engine.limits`."""

    vcpu_count: int | None = None
    mem_size_mib: int | None = None
    fs_size_mib: int | None = None


class EngineError(RuntimeError):
    """The engine cannot do what was asked; the message says why and what to change."""


class Engine(ABC):
    """Makes machines out of a base or a snapshot, runs processes in them, freezes them, and copies their disks.

    `data_dir` is the engine's own folder (0700). Machines whose processes ended with the server are still listed by `stored()` afterwards,
    and `start` brings them up again from their disk.
    """

    name: str
    isolation: str
    """One sentence: what a machine of this engine is kept apart from, and what not."""
    limits: str
    """One sentence: which of the resources of a `MachineSpec` are enforced, and which not."""
    keeps_memory: bool
    """Whether a snapshot holds running processes (True) or the disk alone (False)."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    @abstractmethod
    async def check(self) -> list[str]:
        """What keeps this engine from working here, each with its remedy, as sentences; empty if all is well."""

    @abstractmethod
    async def create(self, vm_id: str, spec: MachineSpec, *, snapshot: str | None = None) -> None:
        """Make and start a machine, from the base system or from a snapshot. All or nothing."""

    @abstractmethod
    async def start(self, vm_id: str) -> None:
        """Start a stored machine that is not running (after a restart of the server). No-op if it runs."""

    @abstractmethod
    async def stop(self, vm_id: str) -> None:
        """End a machine's processes and keep its disk. No-op if it does not run."""

    @abstractmethod
    async def pause(self, vm_id: str) -> None:
        """Freeze every process of the machine. No-op if it is frozen."""

    @abstractmethod
    async def resume(self, vm_id: str) -> None:
        """Thaw it. No-op if it is not frozen."""

    @abstractmethod
    async def delete(self, vm_id: str) -> None:
        """End its processes and remove its disk (snapshots of it stay)."""

    @abstractmethod
    async def snapshot(self, vm_id: str, snapshot: str) -> None:
        """Store the machine as it is now under that name, consistently (processes are frozen for the moment, then go on as they were)."""

    @abstractmethod
    async def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot; machines made from it must not notice."""

    @abstractmethod
    async def stored(self) -> list[str]:
        """Ids of the machines that have a disk here."""

    @abstractmethod
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
        """Start a process in the machine, as its root user, in a session of its own (setsid).

        `stdin`, `stdout`, `stderr` are as for `asyncio.create_subprocess_exec` (PIPE, DEVNULL, or a file descriptor). `env` is added to the
        machine's own environment (PATH, HOME, LANG, USER, SHELL); nothing of the host's environment is passed. `Process.returncode` is the
        process's own exit code (128+n or -n after signal n). Killing the returned process must not be needed for the machine's processes to
        end when the machine is stopped.

        Raises:
            EngineError: the machine does not run, or `argv[0]` does not exist.
        """

    @abstractmethod
    async def close(self) -> None:
        """Stop all machines (disks stay)."""
