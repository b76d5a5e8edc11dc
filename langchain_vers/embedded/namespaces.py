"""The engine `namespaces`: machines out of Linux namespaces and overlays, over this machine's own system folders. Needs no image and no
root.

This module decides in which order things happen. How they are done is elsewhere: `warden` and `guest` (processes, mounts), `freezer`
(pause), `layers` (disks), `foundation` and `base_system` (what a machine is made of), `obstacles` (what is missing on this host).

In a machine, `rename(2)` of a folder that comes from an earlier layer answers EXDEV, as in other overlay-based containers; `mv` copies
then.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import sys
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from langchain_vers.embedded import base_system, foundation, layers
from langchain_vers.embedded.engine import Engine, EngineError, MachineSpec
from langchain_vers.embedded.foundation import Foundation
from langchain_vers.embedded.obstacles import known_obstacles
from langchain_vers.embedded.warden_link import GuestProcess, WardenError, WardenLink
from langchain_vers.errors import BadInput, DiskFull

T = TypeVar("T")

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh",
}
_RIGHTS = {
    "mapped": "Its root and other users are unprivileged ids on the host that own nothing there.",
    "same": "Its root has the uid of the host's root (this file system cannot map owners), without that user's privileges on the host.",
    "user": "Its root is the server's own user on the host, and its only user; the host's files can be replaced, not changed in place.",
}


class NamespacesEngine(Engine):
    """Machines of namespaces. All of them live in one helper process; if that dies, they are stopped, and `start` brings them up again."""

    name = "namespaces"
    keeps_memory = False
    isolation = (
        "Own processes, users, network (loopback only), host name and disk, by Linux namespaces on the host's kernel; the host's "
        "system folders are readable as far as everyone on the host may read them, its homes, keys, temporary files and services are out "
        "of reach."
    )
    limits = (
        "CPU, memory and disk sizes are not enforced; only memory-backed folders (/dev/shm, /run) keep within the memory size asked for."
    )

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._disks = layers.Disks(data_dir)
        self._link: WardenLink | None = None
        self._opening = asyncio.Lock()
        self._storing = asyncio.Lock()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._running: dict[str, asyncio.Future[None]] = {}
        self._paused: set[str] = set()
        self._foundation: Foundation | None = None
        self._trees: list[str] = []
        self._specs: dict[str, MachineSpec] = {}
        self._lock_file: int | None = None

    # Life of the engine

    async def check(self) -> list[str]:
        """See `Engine.check`. Makes a machine, runs a program in it, and deletes it again."""
        found = await asyncio.to_thread(known_obstacles)
        if found:
            return found
        trial = f"check-{uuid.uuid4().hex}"
        try:
            await self.create(trial, MachineSpec())
            try:
                null = asyncio.subprocess.DEVNULL
                process = await self.spawn(trial, ["/bin/true"], stdin=null, stdout=null, stderr=null)
                await process.wait()
            finally:
                await self.delete(trial)
        except (EngineError, DiskFull) as error:
            return [str(error)]
        return []

    async def _ready(self) -> WardenLink:
        async with self._opening:
            if self._link is None:
                await self._open()
            assert self._link is not None
            return self._link

    async def _open(self) -> None:
        obstacles = await asyncio.to_thread(known_obstacles)
        if obstacles:
            raise EngineError(" ".join(obstacles))
        link = WardenLink(self._machine_ended, self._link_lost)
        try:
            await asyncio.to_thread(self._disks.open)
            await asyncio.to_thread(self._claim)
            self._trees = await asyncio.to_thread(base_system.host_trees)
            await link.open(self.data_dir, self._trees)
        except OSError as error:
            raise EngineError(
                f"This machine does not let us make namespaces ({error.strerror or error}): a container or a security module forbids it;"
                " run the server outside of the container or allow user namespaces, or use another engine."
            ) from error
        self._link = link
        self.isolation = f"{type(self).isolation} {_RIGHTS[link.rights]}"
        try:
            # Whoever ran here before is gone, and with it every mount of these: a warden does not outlive its server.
            await self._remove(link, await asyncio.to_thread(foundation.garbage, self._disks, self._foundation))
            if self._foundation is None:
                own = link.rights == "user"
                self._foundation = await asyncio.to_thread(foundation.build, self._disks, self._trees, own_directories=own)
        except BaseException:
            await link.close()
            raise

    def _claim(self) -> None:
        """Make this folder ours: a second server's clean-up would take away what the first one is just making."""
        if self._lock_file is not None:
            return
        lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise EngineError(f"Another server uses {self.data_dir}: stop it, or give this one a folder of its own.") from None
        self._lock_file = lock

    async def close(self) -> None:
        """See `Engine.close`."""
        async with self._opening:
            if self._link is not None:
                await self._link.close()
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    def _link_lost(self) -> None:
        self._link = None
        for vm_id in list(self._running):
            self._machine_ended(vm_id)

    def _machine_ended(self, vm_id: str) -> None:
        self._paused.discard(vm_id)
        ended = self._running.pop(vm_id, None)
        if ended is not None and not ended.done():
            ended.set_result(None)

    # Life of a machine

    async def create(self, vm_id: str, spec: MachineSpec, *, snapshot: str | None = None) -> None:
        """See `Engine.create`.

        Raises:
            BadInput: a name that cannot name a folder, or is taken.
            EngineError: namespaces are not to be had, or the snapshot does not exist.
            DiskFull: no room.
        """
        _require_name(vm_id)
        link = await self._ready()
        async with self._locks[vm_id], _translated("create", vm_id):
            stored = False
            try:
                async with self._storing:
                    storing = asyncio.ensure_future(asyncio.to_thread(self._store_new, vm_id, snapshot))
                    try:
                        await _to_its_end(storing)
                    finally:
                        stored = storing.exception() is None
                self._specs[vm_id] = spec
                await self._start(link, vm_id)
            except BaseException:
                if stored:
                    await asyncio.shield(self._erase(link, "vms", vm_id))
                raise

    def _store_new(self, vm_id: str, snapshot: str | None) -> None:
        assert self._foundation is not None
        if snapshot is None:
            below = [self._foundation.base]
        else:
            _require_name(snapshot)
            try:
                below = self._disks.layers("snapshots", snapshot)
            except FileNotFoundError:
                raise EngineError(f"There is no snapshot {snapshot}.") from None
        if (self.data_dir / "vms" / vm_id).exists():
            raise BadInput(f"There is a machine {vm_id} already.", machine_id=vm_id)
        self._disks.publish("vms", vm_id, below)

    async def _start(self, link: WardenLink, vm_id: str) -> None:
        assert self._foundation is not None
        memory = self._specs.get(vm_id, MachineSpec()).mem_size_mib
        planning = asyncio.to_thread(foundation.plan, self._disks, self._foundation, self._trees, vm_id, memory)
        plan = await _to_its_end(asyncio.ensure_future(planning))
        self._running[vm_id] = asyncio.get_running_loop().create_future()
        starting = asyncio.ensure_future(link.request("start", vm=vm_id, plan=plan))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It comes up whether we are there to see it or not: wait for that, and end it.
            with suppress(WardenError):
                await starting
                await self._stop(vm_id)
            self._running.pop(vm_id, None)
            raise
        except WardenError:
            self._running.pop(vm_id, None)
            raise

    async def start(self, vm_id: str) -> None:
        """See `Engine.start`."""
        _require_name(vm_id)
        link = await self._ready()
        async with self._locks[vm_id], _translated("start", vm_id):
            if vm_id not in self._running:
                await self._start(link, vm_id)

    async def stop(self, vm_id: str) -> None:
        """See `Engine.stop`."""
        _require_name(vm_id)
        async with self._locks[vm_id], _translated("stop", vm_id):
            await self._stop(vm_id)

    async def _stop(self, vm_id: str) -> None:
        ended = self._running.get(vm_id)
        if ended is None or self._link is None:
            return
        try:
            await self._link.request("stop", vm=vm_id)
        except WardenError as error:
            if error.errno != errno.ESRCH:
                raise
        else:
            await ended

    async def delete(self, vm_id: str) -> None:
        """See `Engine.delete`."""
        _require_name(vm_id)
        link = await self._ready()
        async with self._locks[vm_id], _translated("delete", vm_id):
            await self._stop(vm_id)
            await self._erase(link, "vms", vm_id)
        self._specs.pop(vm_id, None)
        self._locks.pop(vm_id, None)

    async def _erase(self, link: WardenLink, kind: layers.Kind, name: str) -> None:
        async with self._storing:
            gone = await asyncio.to_thread(self._disks.discard, kind, name)
            unused = await asyncio.to_thread(self._disks.collect, [self._foundation.base] if self._foundation else [])
        await self._remove(link, [*([gone] if gone else []), *unused])

    async def _remove(self, link: WardenLink, paths: Sequence[Path]) -> None:
        if paths:
            await link.run(["rm", "-rf", "--one-file-system", "--", *map(str, paths)], self.data_dir)

    async def stored(self) -> list[str]:
        """See `Engine.stored`."""
        await asyncio.to_thread(self._disks.open)
        return await asyncio.to_thread(self._disks.names, "vms")

    # Pause

    async def pause(self, vm_id: str) -> None:
        """See `Engine.pause`."""
        async with self._locks[vm_id], _translated("pause", vm_id):
            await self._require_running(vm_id).request("freeze", vm=vm_id)
            self._paused.add(vm_id)

    async def resume(self, vm_id: str) -> None:
        """See `Engine.resume`. Processes that were stopped before the machine was paused stay stopped."""
        async with self._locks[vm_id], _translated("resume", vm_id):
            await self._require_running(vm_id).request("thaw", vm=vm_id)
            self._paused.discard(vm_id)

    def _require_running(self, vm_id: str) -> WardenLink:
        _require_name(vm_id)
        if vm_id not in self._running or self._link is None:
            raise EngineError(f"Machine {vm_id} does not run: start it first.")
        return self._link

    # Snapshots

    async def snapshot(self, vm_id: str, snapshot: str) -> None:
        """See `Engine.snapshot`. A machine that does not run can be stored as well.

        Raises:
            BadInput: a name that cannot name a folder, or is taken.
            EngineError: there is no such machine.
            DiskFull: no room; nothing was stored.
        """
        _require_name(vm_id)
        _require_name(snapshot)
        link = await self._ready()
        async with self._locks[vm_id], _translated("snapshot", vm_id), self._storing:
            await asyncio.to_thread(self._require_new_snapshot, vm_id, snapshot)
            made = await asyncio.to_thread(self._disks.scratch)
            scraps = [made]
            try:
                below = await asyncio.to_thread(self._disks.layers, "vms", vm_id)
                await self._copy_upper(link, vm_id, made)
                stack = [made.name, *below]
                if len(stack) > layers.DEPTH + 1:
                    merged = await asyncio.to_thread(self._disks.scratch)
                    scraps.append(merged)
                    sources = [made, *(self.data_dir / "layers" / layer for layer in below[:-1])]
                    script = [sys.executable, "-I", "-S", layers.__file__]
                    await link.run([*script, str(merged), *map(str, sources)], self.data_dir)
                    made, below = merged, below[-1:]
                top = await asyncio.to_thread(self._disks.adopt, made)
                scraps.remove(made)
                await asyncio.to_thread(self._disks.publish, "snapshots", snapshot, [top, *below])
            finally:
                await asyncio.shield(self._remove(link, scraps))

    def _require_new_snapshot(self, vm_id: str, snapshot: str) -> None:
        if not (self.data_dir / "vms" / vm_id / "manifest.json").exists():
            raise EngineError(f"There is no machine {vm_id}.")
        if (self.data_dir / "snapshots" / snapshot).exists():
            raise BadInput(f"There is a snapshot {snapshot} already.")

    async def _copy_upper(self, link: WardenLink, vm_id: str, target: Path) -> None:
        upper = self.data_dir / "vms" / vm_id / "upper"
        freeze = vm_id in self._running and vm_id not in self._paused
        if freeze:
            await link.request("freeze", vm=vm_id)
        try:
            await link.run(["cp", "-a", "--reflink=auto", "--", f"{upper}/.", str(target)], self.data_dir)
        finally:
            if freeze and vm_id in self._running:
                await asyncio.shield(link.request("thaw", vm=vm_id))

    async def delete_snapshot(self, snapshot: str) -> None:
        """See `Engine.delete_snapshot`."""
        _require_name(snapshot)
        link = await self._ready()
        async with _translated("delete snapshot of", snapshot):
            await self._erase(link, "snapshots", snapshot)

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
    ) -> GuestProcess:
        """See `Engine.spawn`. Without `cwd` it starts in /root, or in / if that is gone."""
        link = self._require_running(vm_id)
        if vm_id in self._paused:
            raise EngineError(f"Machine {vm_id} is paused: resume it first.")
        if not argv:
            raise BadInput("A command needs at least its program's name.")
        try:
            return await link.spawn(
                "spawn",
                vm=vm_id,
                argv=list(argv),
                env={**_ENVIRONMENT, **(env or {})},
                cwd=cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
            )
        except WardenError as error:
            raise EngineError(f"{argv[0]} cannot be started in machine {vm_id}: {error.strerror}.") from error


async def _to_its_end(work: asyncio.Future[T]) -> T:
    """Await what a thread does; cancelled, wait for the thread all the same, which goes on writing when nobody waits for it any more."""
    try:
        return await asyncio.shield(work)
    finally:
        await asyncio.wait([work])


def _require_name(name: str) -> None:
    if not layers.valid_name(name):
        raise BadInput(f"{name!r} cannot name a machine or snapshot: use up to 128 letters, digits, and any of _ . - after the first.")


@asynccontextmanager
async def _translated(what: str, name: str) -> AsyncIterator[None]:
    try:
        yield
    except (BadInput, DiskFull):
        raise
    except FileNotFoundError as error:
        raise EngineError(f"Cannot {what} {name}: there is no such machine or snapshot ({error.filename}).") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"Cannot {what} {name}: no room left on the disk of the engine; free some.", machine_id=name) from error
        raise EngineError(f"Cannot {what} {name}: {error.strerror or error}.") from error
