"""The machines of an embedded Vers: what the API and the SSH front have in common.

Turns requests about machines and commits into calls of the engine and records of the store, one change per machine at a time, different
machines at once. Knows nothing of HTTP or SSH. Machines whose processes ended with an earlier server count as running: they are started
from their disk the first time that something is done with them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from uuid import UUID, uuid4

from langchain_vers.embedded.engine import Engine, EngineError, MachineSpec
from langchain_vers.embedded.execution import Spawn, output_of
from langchain_vers.embedded.keys import new_identity
from langchain_vers.embedded.store import Commit, Identity, Store, Vm, now
from langchain_vers.errors import BadInput, Conflict, Gone

MAX_BRANCHES = 100
_log = logging.getLogger(__name__)

# An engine without a root of its own would write the host's file: the guard compares the folder with the host's.
_WRITE_ENVIRONMENT = """
[ "$(stat -L -c %d:%i /etc)" != "$1" ] || exit 0
cat > /etc/environment.new && mv -f /etc/environment.new /etc/environment
"""


class StateConflict(Conflict):
    """The machine is in a state that does not allow it."""


class Gate:
    """A lock with two ways through: many at once (`shared`), or one alone (`exclusive`); those who wait to be alone go first."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._waiting = 0
        self._waiters: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def shared(self) -> AsyncIterator[None]:
        """Together with others."""
        await self._wait(lambda: not self._alone and not self._waiting)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._wake()

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Alone."""
        self._waiting += 1
        try:
            await self._wait(lambda: not self._alone and not self._inside)
            self._alone = True
        finally:
            self._waiting -= 1
            self._wake()
        try:
            yield
        finally:
            self._alone = False
            self._wake()

    async def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Fleet:
    """All machines and commits of one server."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self.engine = engine
        self.store = store
        self._gates: dict[str, Gate] = {}
        self._up: set[str] = set()
        self._paused: set[str] = set()
        self._dead: set[str] = set()
        self._watchers: list[Callable[[str], None]] = []

    async def open(self) -> None:
        """Bring records and disks together: a record without a disk is a dead machine, a disk without a record is left-over and removed."""
        stored = set(await self.engine.stored())
        self._dead = {vm.vm_id for vm in self.store.vms if vm.vm_id not in stored}
        for vm_id in stored:
            if vm_id not in self.store.vms:
                _log.info("removing machine %s, which was not finished when the server ended", vm_id)
                await self.engine.delete(vm_id)
            else:
                # A server that was killed may have left processes; nobody would ever look after them.
                await self.engine.stop(vm_id)

    def on_delete(self, watcher: Callable[[str], None]) -> None:
        """Have `watcher(vm_id)` called when a machine is gone."""
        self._watchers.append(watcher)

    # -- looking

    def vm(self, vm_id: str) -> Vm:
        """The machine of that id; raises `Gone`."""
        vm = self.store.vms.get(vm_id)
        if vm is None:
            raise Gone(f"There is no VM {vm_id}.", status=404, machine_id=vm_id)
        return vm

    def commit(self, commit_id: str) -> Commit:
        """The commit of that id; raises `Gone`."""
        commit = self.store.commits.get(commit_id)
        if commit is None:
            raise Gone(f"There is no commit {commit_id}.", status=404)
        return commit

    def state(self, vm_id: str) -> str:
        """`running`, `paused` or `dead`."""
        if vm_id in self._dead:
            return "dead"
        return "paused" if vm_id in self._paused else "running"

    def identity(self, vm_id: str) -> Identity:
        """The keys on a machine's disk."""
        vm = self.vm(vm_id)
        return Identity(vm.host_key, vm.client_key)

    def require_running(self, vm_id: str) -> Vm:
        """The machine, which is not paused and not dead; raises `Gone` or `StateConflict`."""
        vm = self.vm(vm_id)
        state = self.state(vm_id)
        if state == "paused":
            raise StateConflict(f"VM {vm_id} is paused; set its state to Running first.", machine_id=vm_id)
        if state == "dead":
            raise StateConflict(f"VM {vm_id} is dead: its disk is lost; delete it and restore a commit.", machine_id=vm_id)
        return vm

    # -- changing machines

    async def create(self, spec: MachineSpec, *, labels: dict[str, str] | None = None, commit_id: str | None = None) -> str:
        """Make and start a machine from the base system or from a commit; its id."""
        if commit_id is None:
            identity = await asyncio.to_thread(new_identity)
            vm = Vm(str(uuid4()), now(), identity.host_key, identity.client_key, labels, **asdict(spec))
            return await self._create(vm, None)
        self.commit(commit_id)
        async with self._gate(commit_id).shared():
            commit = self.commit(commit_id)
            return await self._create(self._descend(commit, labels), commit_id, had_environment=commit.has_environment)

    def _descend(self, commit: Commit, labels: dict[str, str] | None = None) -> Vm:
        return Vm(
            str(uuid4()),
            now(),
            commit.host_key,
            commit.client_key,
            labels,
            commit.vcpu_count,
            commit.mem_size_mib,
            commit.fs_size_mib,
            parent_commit_id=commit.commit_id,
            grandparent_vm_id=commit.parent_vm_id,
        )

    async def _create(self, vm: Vm, snapshot: str | None, *, had_environment: bool = False) -> str:
        environment = {key: setting.value for key, setting in self.store.environment.items()}
        vm = Vm(**{**asdict(vm), "environment": environment})
        spec = MachineSpec(vm.vcpu_count, vm.mem_size_mib, vm.fs_size_mib)
        await self.engine.create(vm.vm_id, spec, snapshot=snapshot)
        try:
            if environment or had_environment:
                await self._write_environment(vm.vm_id, environment)
            self.store.vms.put(vm.vm_id, vm)
        except BaseException:
            await self.engine.delete(vm.vm_id)
            raise
        self._up.add(vm.vm_id)
        return vm.vm_id

    async def _write_environment(self, vm_id: str, environment: Mapping[str, str]) -> None:
        """Put the account's variables where login programs of the machine look for them."""
        text = "".join(f"{key}={_quoted(value)}\n" for key, value in sorted(environment.items()))
        host = await asyncio.to_thread(lambda: Path("/etc").stat())
        spawn = functools.partial(self.engine.spawn, vm_id)
        script = ["/bin/sh", "-c", _WRITE_ENVIRONMENT, "sh", f"{host.st_dev}:{host.st_ino}"]
        finished = await output_of(spawn, script, stdin=text.encode())
        if finished.exit_code != 0:
            reason = finished.stderr.decode(errors="replace").strip()
            raise EngineError(f"The environment variables could not be written to /etc/environment of the new VM: {reason}")

    async def restore(self, commit_ids: Sequence[str]) -> list[str]:
        """New machines from these commits, made at the same time; all or none. Their ids."""
        return await self._all_or_none([self.create(MachineSpec(), commit_id=commit_id) for commit_id in commit_ids])

    async def branch(self, vm_id: str, count: int, *, keep_paused: bool = False) -> list[str]:
        """`count` new machines as this one is now; all or none. The snapshot behind them is not kept as a commit."""
        snapshot = str(uuid4())
        self.vm(vm_id)
        async with self._gate(vm_id).exclusive():
            vm = await self._started(vm_id)
            await self.engine.snapshot(vm_id, snapshot)
            if keep_paused:
                await self._pause(vm_id)
        try:
            copies = [
                Vm(
                    **{
                        **asdict(vm),
                        "vm_id": str(uuid4()),
                        "created_at": now(),
                        "labels": None,
                        "grandparent_vm_id": vm_id,
                    }
                )
                for _ in range(count)
            ]
            return await self._all_or_none([self._create(copy, snapshot, had_environment=bool(vm.environment)) for copy in copies])
        finally:
            await self.engine.delete_snapshot(snapshot)

    async def _all_or_none(self, creations: Sequence[Coroutine[object, object, str]]) -> list[str]:
        results = await asyncio.gather(*creations, return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if failures:
            for result in results:
                if isinstance(result, str):
                    await self.delete(result)
            raise failures[0]
        return [result for result in results if isinstance(result, str)]

    async def snapshot(
        self,
        vm_id: str,
        *,
        commit_id: str | None = None,
        name: str | None = None,
        description: str | None = None,
        keep_paused: bool = False,
    ) -> str:
        """Store the machine as it is now; the commit's id. Raises `BadInput` if the wished-for id is taken."""
        commit_id = commit_id or str(uuid4())
        self.vm(vm_id)
        async with self._gate(vm_id).exclusive(), self._gate(commit_id).exclusive():
            if commit_id in self.store.commits:
                raise BadInput(f"There is a commit {commit_id} already; leave commit_id out or choose another.")
            vm = await self._started(vm_id)
            await self.engine.snapshot(vm_id, commit_id)
            if keep_paused:
                await self._pause(vm_id)
            commit = Commit(
                commit_id,
                now(),
                name or f"commit-{commit_id[:8]}",
                vm.host_key,
                vm.client_key,
                description,
                parent_vm_id=vm_id,
                grandparent_commit_id=vm.parent_commit_id,
                vcpu_count=vm.vcpu_count,
                mem_size_mib=vm.mem_size_mib,
                fs_size_mib=vm.fs_size_mib,
                has_environment=bool(vm.environment),
            )
            self.store.commits.put(commit_id, commit)
        return commit_id

    async def delete_commit(self, commit_id: str) -> None:
        """Remove a commit; machines made from it stay. Raises `Conflict` while a tag refers to it."""
        self.commit(commit_id)
        async with self._gate(commit_id).exclusive():
            self.commit(commit_id)
            tags = [tag for tag in self.store.tags if tag.commit_id == commit_id]
            if tags:
                names = ", ".join(f"{tag.repository}:{tag.tag_name}" if tag.repository else tag.tag_name for tag in tags)
                raise Conflict(f"Commit {commit_id} is in use by the tags {names}; delete or move them first.", status=409)
            self.store.commits.remove(commit_id)
            await self.engine.delete_snapshot(commit_id)
        self._gates.pop(commit_id, None)

    async def set_paused(self, vm_id: str, *, paused: bool) -> None:
        """Freeze or thaw a machine; no-op if it is so already."""
        self.vm(vm_id)
        async with self._gate(vm_id).exclusive():
            await self._started(vm_id)
            if paused:
                await self._pause(vm_id)
            else:
                await self.engine.resume(vm_id)
                self._paused.discard(vm_id)

    async def delete(self, vm_id: str) -> None:
        """End a machine and remove its disk."""
        self.vm(vm_id)
        async with self._gate(vm_id).exclusive():
            self.vm(vm_id)
            await self.engine.delete(vm_id)
            self.store.vms.remove(vm_id)
            for group in (self._up, self._paused, self._dead):
                group.discard(vm_id)
        self._gates.pop(vm_id, None)
        for watcher in self._watchers:
            watcher(vm_id)

    def set_labels(self, vm_id: str, labels: dict[str, str] | None) -> None:
        """Replace a machine's labels."""
        self.store.vms.put(vm_id, Vm(**{**asdict(self.vm(vm_id)), "labels": labels}))

    # -- working in machines

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
        """Start a process in a running machine (see `Engine.spawn`); raises `Gone`, `StateConflict`, `EngineError`."""
        self.require_running(vm_id)
        if vm_id not in self._up:
            async with self._gate(vm_id).exclusive():
                await self._started(vm_id)
        async with self._gate(vm_id).shared():
            vm = self.require_running(vm_id)
            merged = {**vm.environment, **(env or {})}
            return await self.engine.spawn(vm_id, argv, env=merged, cwd=cwd, stdin=stdin, stdout=stdout, stderr=stderr)

    def spawner(self, vm_id: str) -> Spawn:
        """`spawn` for one machine."""
        return functools.partial(self.spawn, vm_id)

    async def _started(self, vm_id: str) -> Vm:
        """The machine, brought up if it is not; its gate is held by the caller."""
        vm = self.vm(vm_id)
        if vm_id in self._dead:
            self.require_running(vm_id)
        if vm_id not in self._up:
            await self.engine.start(vm_id)
            self._up.add(vm_id)
        return vm

    async def _pause(self, vm_id: str) -> None:
        await self.engine.pause(vm_id)
        self._paused.add(vm_id)

    def _gate(self, key: str) -> Gate:
        return self._gates.setdefault(key, Gate())


def _quoted(value: str) -> str:
    """A value as pam_env and shells that source the file read it."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
    return f'"{escaped}"'


def as_uuid(text: str, what: str) -> str:
    """The canonical form of a UUID; raises `BadInput`."""
    try:
        value = str(UUID(text))
    except ValueError:
        value = ""
    if value != text.lower():
        raise BadInput(f"{text[:80]!r} is not the id of a {what}: ids are UUIDs such as 123e4567-e89b-12d3-a456-426614174000.", status=400)
    return value
