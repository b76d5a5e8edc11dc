"""A Gondolin micro-VM as a backend: sessions over its SDK's socket, versions by disk checkpoints.

Gondolin (npm `@earendil-works/gondolin`) runs a small Linux in QEMU, with a network and mounted folders that the host's side serves: the
guest reaches only what was named, and sees secrets only as placeholders. `gondolin_options.py` has what can be chosen,
`gondolin_machine.py` starts and ends VMs, `gondolin_socket.py` speaks with one.

A VM belongs to this process and ends with it. `close` only detaches: the VM goes on and `at(machine_id)` finds it again; `delete` ends it.
A VM that has died is `Gone`, and no other takes its place. Snapshots are files, and outlive the process. They hold the guest's disk, but
neither its memory nor what it keeps there (/tmp, /root, /run), nor the mounted folders; so HOME and the workspace are on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from langchain_vers._io import io
from langchain_vers.backends import sessions
from langchain_vers.backends.base import FileRead, FileStat, Scan, Snapshots
from langchain_vers.backends.environment import Environment, checked, guest_environment
from langchain_vers.backends.gondolin_machine import Machine, find_programs, machines
from langchain_vers.backends.gondolin_options import (
    HOME,
    WORKSPACE,
    Egress,
    Hardware,
    HeldSecret,
    SSHEgress,
    SSHKey,
    bridge_config,
    checked_growth,
    checked_mounts,
    secret_names,
)
from langchain_vers.backends.gondolin_socket import GondolinConnection, GondolinProcess
from langchain_vers.backends.paths import Mount, PathMap
from langchain_vers.backends.pool import SessionPool
from langchain_vers.backends.sessions import Running, Session
from langchain_vers.backends.shell import ShellBackend
from langchain_vers.errors import BadInput, Gone, Missing, Unreachable, Unsupported

__all__ = ["Egress", "GondolinBackend", "Hardware", "HeldSecret", "SSHEgress", "SSHKey"]

_FATE_SECONDS = 3.0
"""How long a VM that does not answer is watched for its end: the bridge looks twice a second."""
_REFERENCE = re.compile(r"[0-9a-f]{32}")


@dataclass
class _Hold:
    """Which VM a backend works on: one for all views of the backend."""

    machine_id: str | None
    starting: asyncio.Task[Machine] | None = None
    deleted: bool = False


class GondolinBackend(ShellBackend, Snapshots):
    """Works on a micro-VM that is started on first use.

    Args:
        workspace: a folder of this machine that the guest sees as /workspace, for reading and writing; None: that is on the guest's disk.
        image: folder of a guest image (`gondolin build` makes them), or a name of Gondolin's registry; None is `VERS_GONDOLIN_IMAGE`, else
            the default image of the SDK, which it downloads.
        mounts: further folders of this machine. "copy" is copied to the guest's disk when the VM starts.
        growth: by how many bytes the guest may make each folder that it may write to larger, file names counting a little; None: no limit.
            A command that wants more is told that no space is left, as on its own disk, whose size is `Hardware.disk_bytes`.
        hidden: names of files and folders (such as ".env") that are not there for the guest in any mounted folder, and cannot be written.
        env: variables of every command. A `Secret` among them is sent into the guest; `Egress.secrets` stay outside.
        egress: what the guest reaches; None: no network.
        hardware: the virtual machine.
        node: the Node program; None: see `find_programs`.
        sdk: the folder of the npm package; None likewise.
        snapshots: folder for snapshots; None is `$XDG_STATE_HOME/langchain-vers/gondolin` (by default in `~/.local/state`).

    Raises:
        BadInput: for an option that makes no sense. Whether files and programs are there is looked at on first use.
    """

    name = "gondolin"
    quiet_seconds = 1.0
    """Seconds, more than elsewhere: the guest's agent looks only ten times a second whether a process has ended, and a guest on an emulated
    processor is slow.
    """

    def __init__(
        self,
        workspace: str | os.PathLike[str] | None = None,
        *,
        image: str | os.PathLike[str] | None = None,
        mounts: Sequence[Mount] = (),
        growth: int | None = 8 << 30,
        hidden: Sequence[str] = (),
        env: Environment | None = None,
        egress: Egress | None = None,
        hardware: Hardware | None = None,
        node: str | os.PathLike[str] | None = None,
        sdk: str | os.PathLike[str] | None = None,
        snapshots: str | os.PathLike[str] | None = None,
    ) -> None:
        self._mounts = checked_mounts(None if workspace is None else str(Path(workspace).absolute()), mounts)
        self.paths = PathMap(self._mounts, resolve=os.path.realpath)
        if isinstance(hidden, str) or any(not name or "/" in name or "\0" in name or name in (".", "..") for name in hidden):
            raise BadInput('hidden must be names of files or folders without "/", such as [".env"]')
        for kind, value in ((Egress, egress), (Hardware, hardware)):
            if value is not None and not isinstance(value, kind):
                raise BadInput(f"{kind.__name__.lower()} must be a {kind.__name__} object")
        self._hidden = tuple(hidden)
        self._growth = checked_growth(growth)
        self.environment = checked(env or {})
        self._egress = egress
        self._hardware = hardware or Hardware()
        self._image = None if image is None else os.fspath(image)
        self._programs = (None if node is None else os.fspath(node), None if sdk is None else os.fspath(sdk))
        self._snapshots = None if snapshots is None else Path(snapshots).absolute()
        self._attach(None)

    def _attach(self, machine_id: str | None) -> None:
        self._hold = _Hold(machine_id)
        # A session that waits is work for Gondolin, so that a VM with one never pauses.
        spares = 0 if self._hardware.idle_pause is not None else 1
        self._pool = SessionPool(self._connect, self._ready, spares=spares)

    def __repr__(self) -> str:
        return f"GondolinBackend({self.machine_id!r})"

    @property
    def home(self) -> str:
        """Where commands start and relative paths begin."""
        written = self._hardware.disk != "readonly" or any(mount.guest == WORKSPACE for mount in self._mounts)
        return WORKSPACE if written else self.user_home

    @property
    def user_home(self) -> str:
        """What `~` means to its commands."""
        return HOME if self._hardware.disk != "readonly" else "/root"

    @property
    def machine_id(self) -> str | None:  # type: ignore[override]  # nobody but this class sets it
        """The VM's id, None before it has been started."""
        return self._hold.machine_id

    # --- the machine ---

    async def _machine(self) -> Machine:
        hold = self._hold
        if hold.machine_id is not None:
            return self._found(hold.machine_id)
        if hold.deleted:
            raise Gone("this Gondolin micro-VM was deleted before it had started; make a new one")
        if hold.starting is None or (hold.starting.done() and (hold.starting.cancelled() or hold.starting.exception() is not None)):
            hold.starting = asyncio.get_running_loop().create_task(self._start())
        # One that gives up does not end the start for the others that wait for it.
        machine = await asyncio.shield(hold.starting)
        hold.machine_id = machine.id
        return machine

    def _found(self, machine_id: str) -> Machine:
        machine = machines.get(machine_id)
        if machine is None:
            raise Gone(
                f"the Gondolin micro-VM {machine_id} does not exist any more: it has died, or was deleted, or its process has ended; "
                "restore a snapshot, or make a new one",
                machine_id=machine_id,
            )
        return machine

    async def _start(self, checkpoint: Path | None = None) -> Machine:
        programs = await io.blocking(lambda: find_programs(*self._programs, os.environ, Path.cwd()))
        await io.blocking(self._check_folders)
        config = bridge_config(
            image=self._image or os.environ.get("VERS_GONDOLIN_IMAGE"),
            mounts=self._mounts,
            hidden=self._hidden,
            hardware=self._hardware,
            egress=self._egress,
            secrets={name: _secret(name) for name in secret_names(self._egress)},
            growth=self._growth,
        )
        return await Machine.start(programs, config, seconds=self._hardware.start_seconds, checkpoint=checkpoint)

    def _check_folders(self) -> None:
        for mount in self._mounts:
            if not Path(mount.host).is_dir():
                raise Missing(f"the folder {mount.host}, which was to be mounted as {mount.guest}, does not exist on this machine")

    async def _connect(self) -> GondolinConnection:
        machine = await self._machine()
        return await machine.connect({**guest_environment({}, home=self.user_home), **machine.placeholders})

    async def _session(self) -> Session:
        if self.machine_id is not None:
            self._found(self.machine_id)
        try:
            return await self._pool.take()
        except Unreachable:
            # A VM that has died refuses sessions a little before it is known to have.
            if self.machine_id is not None:
                await self._found(self.machine_id).settled(_FATE_SECONDS)
            raise

    async def _kill(self, running: Running) -> None:
        process = running.session.process
        assert isinstance(process, GondolinProcess)
        with contextlib.suppress(TimeoutError, Unreachable):
            async with asyncio.timeout(sessions.KILL_SECONDS):
                if await process.kill(f"{running.session.log_path}.cwd"):
                    await running.rest()
                    return
        await super()._kill(running)

    async def close(self) -> None:
        """Detach. The VM goes on, as does what runs on it."""
        await self._pool.close()

    async def delete(self) -> None:
        """End the VM, whatever runs on it. Its snapshots stay. May be called twice."""
        await self.close()
        hold = self._hold
        hold.deleted = True
        if hold.starting is not None and hold.machine_id is None:
            hold.starting.cancel()
            (made,) = await asyncio.gather(hold.starting, return_exceptions=True)
            if isinstance(made, Machine):
                hold.machine_id = made.id
        machine = machines.get(hold.machine_id) if hold.machine_id is not None else None
        if machine is not None:
            await machine.end()

    # --- files; paths without a directory begin where commands start ---

    async def read(self, path: str, *, cwd: str | None = None, offset: int = 0, length: int | None = None) -> FileRead:
        """See `Backend.read`."""
        return await super().read(path, cwd=cwd or self.home, offset=offset, length=length)

    async def write(
        self, path: str, data: bytes, *, cwd: str | None = None, mode: int | None = None, expect: str | None = None
    ) -> FileStat:
        """See `Backend.write`."""
        return await super().write(path, data, cwd=cwd or self.home, mode=mode, expect=expect)

    async def stat(self, path: str, *, cwd: str | None = None) -> FileStat:
        """See `Backend.stat`."""
        return await super().stat(path, cwd=cwd or self.home)

    async def scan(
        self,
        path: str,
        *,
        cwd: str | None = None,
        pattern: str | None = None,
        recursive: bool = False,
        ignored: bool = True,
        limit: int = 1000,
    ) -> Scan:
        """See `Backend.scan`."""
        return await super().scan(path, cwd=cwd or self.home, pattern=pattern, recursive=recursive, ignored=ignored, limit=limit)

    # --- versions ---

    async def snapshot(self, *, name: str | None = None) -> str:
        """See `Snapshots.snapshot`. The guest stands still while its disk is copied.

        Raises:
            Unsupported: the disk keeps nothing (`Hardware.disk`).
            Conflict: it could not be done; an image without a build id in its manifest cannot be snapshotted.
        """
        if self._hardware.disk != "cow":
            raise Unsupported(f'a VM with disk="{self._hardware.disk}" has no disk to snapshot; give it disk="cow"')
        machine = await self._machine()
        reference = secrets.token_hex(16)
        folder = self._snapshot_folder()
        await io.blocking(lambda: folder.mkdir(mode=0o700, parents=True, exist_ok=True))
        await machine.snapshot(folder / f"{reference}.qcow2", name or reference)
        return reference

    async def restore(self, ref: str) -> str:
        """See `Snapshots.restore`. The new VM starts afresh from the disk, with the settings of this backend."""
        machine = await self._start(self._snapshot_file(ref))
        return machine.id

    async def branch(self, count: int = 1) -> list[str]:
        """See `Snapshots.branch`. The new VMs start afresh from a copy of the disk."""
        if count < 1:
            raise BadInput(f"count must be at least 1, not {count}")
        reference = await self.snapshot()
        made: list[str] = []
        try:
            for _ in range(count):
                made.append(await self.restore(reference))
        except BaseException:
            for machine_id in made:
                await self.at(machine_id).delete()
            raise
        finally:
            await self.discard(reference)
        return made

    async def discard(self, ref: str) -> None:
        """Remove a snapshot. VMs that were restored from it go on, and can be snapshotted themselves."""
        await io.blocking(lambda: self._snapshot_file(ref).unlink(missing_ok=True))

    def at(self, machine_id: str) -> Self:
        """See `Snapshots.at`. Only VMs of this process can be found."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._attach(machine_id)
        return other

    def _snapshot_folder(self) -> Path:
        if self._snapshots is not None:
            return self._snapshots
        state_home = Path(os.environ.get("XDG_STATE_HOME", ""))
        return (state_home if state_home.is_absolute() else Path.home() / ".local/state") / "langchain-vers/gondolin"

    def _snapshot_file(self, ref: str) -> Path:
        if not _REFERENCE.fullmatch(ref):
            raise BadInput(f"{ref!r} is no snapshot of Gondolin; it must be what `snapshot` has given")
        return self._snapshot_folder() / f"{ref}.qcow2"


def _secret(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise BadInput(f"the secret {name} is not set: put it into this process's environment")
    return value
