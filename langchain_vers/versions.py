"""Machines that follow the conversation: each call finds its machine as its checkpoint says, and what it did becomes a version.

`Versions` acts on machines by what the `Ledger` knows: it looks whether a machine is where the conversation is, restores it from a commit
if it is gone or has moved on, holds calls back while a commit is made, and makes the commits. It runs on the I/O thread. What is stored in
the database is `checkpoint.py`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from langchain_vers._io import io
from langchain_vers.attachment import Attachment
from langchain_vers.backends.gate import Gate
from langchain_vers.backends.stamps import Guard, Stamp
from langchain_vers.backends.vers import VersBackend
from langchain_vers.database import Database
from langchain_vers.errors import Conflict, Gone, TakenOver, VersError
from langchain_vers.ledger import Ledger
from langchain_vers.owners import Owner
from langchain_vers.records import Record, sharing
from langchain_vers.steps import Closing, Key, Live, Position, Step

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext

Policy = Literal["step", "turn", "manual"]
KNOWN_SECONDS = 30.0
"""How long a call waits for its own checkpoint, which is stored while the graph goes on."""
BOOT_SECONDS = 120.0
GRACE_SECONDS = 2.0
"""How long a call waits for a machine that another process works on: the end of a turn takes a moment to be told to the machine."""
_POLL_SECONDS = 0.1


@dataclass
class Arrival:
    """A machine that is where the conversation is."""

    attachment: Attachment
    notice: str | None = None
    """What had to be done for that, a sentence; None if nothing."""
    milliseconds: float = 0.0
    """What that took."""
    restored_from: str | None = None


class Versions:
    """The machines of the threads of one saver."""

    def __init__(self, context: BackendContext, ledger: Ledger, database: Database, *, policy: Policy, lease: float) -> None:
        self.context = context
        self.ledger = ledger
        self.policy = policy
        self._database = database
        self._lease = lease
        self._owner = Owner(self)
        self._unsaid: dict[str, Arrival] = {}
        """By the machine, what had to be done for it when a call was judged; the call itself, to which it is simply there, tells of it."""

    # --- calls ---

    async def known(self, position: Position) -> None:
        """Wait until the checkpoints of a call have passed the saver: it is then known which machine they stand for, and committed.

        Raises:
            Conflict: they do not come.
        """
        for key in position.path:
            await self.passed(key)
        self._check_alive(position)

    def _check_alive(self, position: Position) -> None:
        if not self.ledger.meet(position):
            raise Conflict("the task that this call belongs to was broken off, and will be run again as a whole; nothing was run")

    async def passed(self, key: Key) -> None:
        """Wait until a checkpoint has passed the saver, if those of its graph do at all.

        Raises:
            Conflict: it does not come.
        """
        if self.ledger.step(key) is None and self.ledger.saved(key.thread, key.namespace):
            await self._passed(key)

    async def _passed(self, key: Key) -> None:
        loop = asyncio.get_running_loop()
        passed: asyncio.Future[None] = loop.create_future()

        def settle() -> None:
            if not passed.done():
                passed.set_result(None)

        def arrived() -> None:
            loop.call_soon_threadsafe(settle)

        self.ledger.notify(key, arrived)
        try:
            async with asyncio.timeout(KNOWN_SECONDS):
                if not self.ledger.is_broken(key.thread):
                    await passed
            if self.ledger.step(key) is None:
                raise Conflict(
                    f"the conversation's checkpoint {key.checkpoint} could not be stored, so it is not known which version of the machine "
                    "belongs to it; nothing was run: look at the error of the run"
                )
        except TimeoutError:
            raise Conflict(
                f"the conversation's checkpoint {key.checkpoint} was not stored within {KNOWN_SECONDS:.0f} s, so it is not known which "
                'version of the machine belongs to it; nothing was run (the durability "exit" stores none and cannot be used here)'
            ) from None
        finally:
            self.ledger.forget_waiter(key, arrived)

    async def begin_at(self, position: Position, attachment: Attachment) -> None:
        """A program has moved the thread: the step of a call begins there, also when it is begun again, and in another process."""
        for key, snapshot in self.ledger.begin_at(position, attachment):
            await io.blocking(self._database.write, key, snapshot.row())

    async def arrive(self, position: Position, attachment: Attachment, *, nearest: bool = False) -> Arrival:
        """Have the machine of a call in the state that the call must find.

        Raises:
            Conflict: another process works on it, or the state has no commit.
            Gone: it is gone, and so is its commit.
            Unreachable: it does not answer.
        """
        arrival = Arrival(attachment)
        while True:
            machine_id = arrival.attachment.machine_id
            assert machine_id is not None
            wanted = self.ledger.wanted(position, machine_id)
            if self.ledger.fits(position, machine_id, wanted):
                self.ledger.use(position, machine_id, wanted)
                if not self.ledger.machines[machine_id].taken:
                    await self._take_new(machine_id)
                return arrival
            async with self._bringing(machine_id):
                # Another call of the step may have done it meanwhile.
                now = self.ledger.place(position) or arrival.attachment
                if now.same_machine(arrival.attachment) and not self.ledger.fits(position, machine_id, wanted):
                    arrival = await self._bring(position, arrival.attachment, wanted, nearest)
                else:
                    arrival = replace(arrival, attachment=now)

    def judged_on(self, arrival: Arrival) -> None:
        """A policy has looked at a machine, whatever that took."""
        if arrival.notice is not None and arrival.attachment.machine_id is not None:
            self._unsaid[arrival.attachment.machine_id] = arrival

    def told(self, arrival: Arrival) -> Arrival:
        """What a call is to tell of its machine."""
        earlier = self._unsaid.pop(arrival.attachment.machine_id or "", None)
        return earlier if earlier is not None and arrival.notice is None else arrival

    async def _take_new(self, machine_id: str) -> None:
        """Make a machine that a thread has moved to this process's."""
        async with self._bringing(machine_id):
            live = self.ledger.machines.get(machine_id)
            if live is None or live.taken:
                return
            async with self._found(machine_id):
                await self._take(machine_id, live.build or live.version)
            live.taken = True

    def works_on(self, machine_id: str) -> bool:
        """See `owners.Worker`."""
        live = self.ledger.machines.get(machine_id)
        return self.context.link.open and live is not None and bool(live.calls) and not live.tainted

    def guard(self, version: str | None) -> Guard:
        """What lets calls pass while the machine is this process's, and its saver's."""
        return Guard(self._owner.name, self._lease, version)

    @asynccontextmanager
    async def changing(self, position: Position, machine_id: str, backend: VersBackend) -> AsyncIterator[VersBackend]:
        """Around a call that may change the machine: the backend to do it with.

        What the call did counts as done by its task once the task's result is stored; if it is broken off, its effects will be undone.
        """
        self._check_known(machine_id)
        await self._baseline(position, machine_id, backend)
        await self._between_tasks(position, machine_id)
        async with self.gate(machine_id).call():
            self._check_alive(position)
            self._check_known(machine_id)
            call, version = self.ledger.begin(position, machine_id)
            guard = self.guard(version)
            try:
                for key in self.ledger.newly_shared(position):
                    await io.blocking(self._database.write, key, sharing())
                yield backend.guarded(guard)
            except (TakenOver, Gone):  # nothing was done, or there is nothing left that it was done to
                guard.used = False
                raise
            except VersError:
                raise
            except BaseException:
                if guard.used:
                    self.ledger.taint(machine_id)
                raise
            finally:
                if guard.used:
                    self.ledger.sent(machine_id, call)
                else:
                    self.ledger.withdraw(position, machine_id, call)

    def _check_known(self, machine_id: str) -> None:
        """Have a call repeated whose machine another one has found gone, or another process's, since it arrived there."""
        if machine_id not in self.ledger.machines:
            raise Gone(f"VM {machine_id} was lost while this call was about to begin there; nothing was run", machine_id=machine_id)

    async def retake(self, machine_id: str, error: TakenOver | Gone) -> None:
        """A call was refused because the machine is not this process's, or gone: find out why, so that it can be repeated.

        Raises:
            Gone: other calls of the step have changed the machine, and what they did went with it.
        """
        live = self.ledger.machines.get(machine_id)
        if isinstance(error, Gone):
            async with self.gate(machine_id).commit():
                if live is not None and live.calls:
                    raise error
            self.context.forget_vm(machine_id, running=True)
            self.ledger.dropped(machine_id)
            return
        async with self._bringing(machine_id):
            stamp = await (await self.context.machine(machine_id)).look()
            if live is not None and not live.tainted and (stamp is None or self._owner.owns(stamp)):
                if stamp is None:  # a command has removed the line, or it is a new machine that has none yet
                    await self._take(machine_id, live.build or live.version)
            else:
                self.ledger.dropped(machine_id)

    def gate(self, machine_id: str) -> Gate:
        """Orders calls and commits on a machine."""
        return self.context.link.gates.setdefault(machine_id, Gate())

    def _bringing(self, machine_id: str) -> asyncio.Lock:
        return self.context.link.bringing.setdefault(machine_id, asyncio.Lock())

    # --- bringing a machine to a state ---

    async def _bring(self, position: Position, attachment: Attachment, wanted: Record | None, nearest: bool) -> Arrival:
        started = time.monotonic()
        machine_id = attachment.machine_id
        assert machine_id is not None
        thread = position.path[0].thread
        live = self.ledger.machines.get(machine_id)
        if live is not None and live.tainted and position.retried and len(live.owners() - {position.tasks[0]}) > 0:
            raise Conflict(
                "a retry cannot undo what the first attempt did to the machine without undoing what other tasks of the same step did; "
                "end the run and start it again from its last checkpoint, and the whole step will be repeated",
                machine_id=machine_id,
            )
        try:
            async with self._found(machine_id, attachment.host_key, patient=True) as stamp:
                held = None if stamp is None else stamp.version
                if held is not None and (wanted is None or wanted.version is None):
                    # Somebody versioned it before. If it was this thread, its first version is what a checkpoint without one means.
                    wanted = await io.blocking(self._database.baseline, thread, machine_id) or wanted
                version = None if wanted is None else wanted.version
                if version == held or (version is None and (live is None or not live.tainted)):
                    await self._take(machine_id, held)
                    committed = wanted is not None and version is not None and wanted.commit is not None
                    self.ledger.adopted(machine_id, Live(held, committed=committed, root=position.path[0]))
                    return Arrival(attachment)
                why = f"VM {machine_id} has moved on since this point of the conversation"
        except Gone:
            if wanted is None or (wanted.commit or wanted.version) is None:
                raise
            why = f"VM {machine_id} does not exist any more"
        restored = await self._restored(position.path[-1], attachment, wanted, nearest, why)
        took = _since(started)
        commit = restored.commit or ""
        if wanted is not None and commit != (wanted.commit or wanted.version):
            self.ledger.settle_for(position, Record(restored, commit))
        self.ledger.brought_back(position, machine_id, restored, took, commit)
        return Arrival(restored, f"{why}; this ran on VM {restored.machine_id}, restored from commit {commit}", took, commit)

    @asynccontextmanager
    async def _found(self, machine_id: str, host_key: str | None = None, *, patient: bool = False) -> AsyncIterator[Stamp | None]:
        """What a machine carries that may be taken, while no other saver of this process begins a call on it.

        Raises:
            Conflict: another process, or another saver of this one, works on it. `patient`: and did so for a while.
        """
        backend = await self.context.machine(machine_id, host_key)
        stamp = await backend.look()
        patience = time.monotonic() + (GRACE_SECONDS if patient else 0.0)
        while self._owner.waits(machine_id, stamp) > 0 and time.monotonic() < patience:
            await asyncio.sleep(_POLL_SECONDS)  # a turn of the other one may just have ended
            stamp = await backend.look()
        self._check_lease(machine_id, stamp)
        if not self._owner.is_neighbour(stamp):
            yield stamp
            return
        async with self.gate(machine_id).commit():
            stamp = await backend.look()
            self._check_lease(machine_id, stamp)
            yield stamp

    def _check_lease(self, machine_id: str, stamp: Stamp | None) -> None:
        left = self._owner.waits(machine_id, stamp)
        if left > 0:
            who = "another saver of this process" if self._owner.is_neighbour(stamp) else "another process"
            raise Conflict(
                f"{who} works on VM {machine_id} for this conversation; nothing was run: wait for it, or try again in {left} s, "
                "when its lease runs out if it has fallen silent",
                machine_id=machine_id,
            )

    async def _restored(self, key: Key, attachment: Attachment, wanted: Record | None, nearest: bool, why: str) -> Attachment:
        """A new machine in the wanted state of a checkpoint, and the books about it. `why`: what is wrong with the one that there was."""
        own = None if wanted is None else wanted.commit or wanted.version
        client = await self.context.client()
        commit, machine_id = own, None
        if own is not None:
            with contextlib.suppress(Gone):
                machine_id = await client.restore_vm(commit_id=own)
        near: list[str] = []
        if machine_id is None:
            step = self.ledger.step(key)
            near = await io.blocking(self._database.earlier, step.parent if step is not None and step.parent is not None else key, own)
            if not near and wanted is not None and wanted.nearest not in {None, own}:
                near = [str(wanted.nearest)]
        if nearest:
            for commit in near:
                with contextlib.suppress(Gone):
                    machine_id = await client.restore_vm(commit_id=commit)
                    break
        if machine_id is None or commit is None:
            raise _no_commit(attachment.machine_id, wanted, near[0] if near else None, why)
        version = commit if wanted is None or commit != own else wanted.version
        try:
            await client.label_vm(machine_id, await io.blocking(self.labels, key.thread))
            await client.wait_until_running(machine_id, deadline=BOOT_SECONDS)
            backend = await self.context.machine(machine_id, attachment.host_key)
            await backend.take(Stamp(version, self._owner.name, int(self._lease)))
        except BaseException:
            self.context.forget_vm(machine_id)
            with contextlib.suppress(VersError):
                await client.delete_vm(machine_id)
            raise
        self.ledger.adopted(machine_id, Live(version, committed=True))
        return attachment.moved(machine_id=machine_id, commit=commit, host_key=backend.host_key)

    async def machine_at(self, key: Key, step: Step) -> Attachment:
        """A new machine as a checkpoint says, without what tasks after it have done; no thread is moved to it."""
        record = step.own or step.record
        assert record is not None
        why = f"VM {record.attachment.machine_id} cannot be had as it was"
        return await self._restored(key, record.attachment, record, nearest=False, why=why)

    def labels(self, thread: str) -> dict[str, str]:
        """The labels of a VM that is made for a thread. For a thread that may wait for the database."""
        return {"langchain-vers-thread": thread, "langchain-vers-database": self._database.identity()}

    async def _take(self, machine_id: str, version: str | None, seconds: int | None = None) -> None:
        backend = await self.context.machine(machine_id)
        await backend.take(Stamp(version, self._owner.name, int(self._lease) if seconds is None else seconds))

    async def _baseline(self, position: Position, machine_id: str, backend: VersBackend) -> None:
        """Commit a machine before the first call that changes it, if it has no version yet: for a crash to go back to.

        With commits by turn, also what an earlier turn has left without one because it was not seen to end, the first version of a thread,
        and that before a task which may be interrupted.
        """
        live = self.ledger.machines[machine_id]
        if not self._lacks_baseline(live, position, machine_id):
            return
        async with self.gate(machine_id).commit():
            if not self._lacks_baseline(live, position, machine_id):
                return
            version = live.version
            if version is None:
                version = str(uuid.uuid4())
                await self._take(machine_id, version)
            error = await self._commit(position.path[0].thread, machine_id, version)
            self.ledger.sealed(live, version, committed=error is None)
            place = self.ledger.place(position)
            assert place is not None
            record = Record(place.moved(commit=version if error is None else None, host_key=backend.host_key), version, no_commit=error)
            for key in position.path:
                step = self.ledger.step(key)
                if step is not None and step.version in {None, version} and not step.moved:
                    step.record = step.own = record
                    live.lineage.add(version)
                    await io.blocking(self._database.write, key, step.snapshot(record, frozenset(step.stored), own=True).row())

    async def _between_tasks(self, position: Position, machine_id: str) -> None:
        """Make a version of what the tasks before this one did: broken off, this one is repeated alone."""
        if self.policy != "step" or self.ledger.between_tasks(position, machine_id) is None:
            return
        key = position.path[-1]
        await self.seal(machine_id, lambda: self.ledger.between_tasks(position, machine_id) or Closing(key, None))
        if (snapshot := self.ledger.snapshot(key)) is not None:
            await io.blocking(self._database.write, key, snapshot.row())

    def _lacks_baseline(self, live: Live, position: Position, machine_id: str) -> bool:
        if live.calls or live.committed or self.policy == "manual" or position.lane:
            return False
        if live.version is None or self.policy != "turn":
            return live.version is None
        ended = live.run is not None and live.run is not position.run and len(position.path) == 1
        before = self.ledger.wanted(position, machine_id)
        first = before is not None and before.commit is None and before.nearest is None
        # A task that is interrupted is repeated, from where its step began; and a thread needs one commit to go back to.
        return ended or first or position.uncertain

    # --- making versions ---

    async def commit_at(self, key: Key, step: Step) -> str:
        """Commit the machine of a checkpoint as it is there, with what finished tasks after it have done; the commit's id.

        One that exists already is enough.

        Raises:
            Conflict: the machine has moved on since.
        """
        record = step.record
        assert record is not None
        amid = step.own is not None and step.own.version != record.version
        machine_id, version = record.attachment.machine_id, record.version
        assert machine_id is not None
        if record.commit is not None:
            return record.commit
        async with self.gate(machine_id).commit():
            live = self.ledger.machines.get(machine_id)
            stamp = await (await self.context.machine(machine_id, record.attachment.host_key)).look()
            self._check_lease(machine_id, stamp)
            if (stamp is not None and stamp.version != version) or (live is not None and live.calls):
                raise Conflict(
                    f"VM {machine_id} has moved on since checkpoint {key.checkpoint}, which has no commit; commit a later one",
                    machine_id=machine_id,
                )
            new = version or str(uuid.uuid4())
            mine = stamp is not None and self._owner.owns(stamp)
            await self._take(machine_id, new, stamp.seconds if stamp is not None and mine else 0)  # no turn begins by this
            error = await self._commit(key.thread, machine_id, new)
            if error is not None:
                raise Conflict(f"the commit of VM {machine_id} could not be made: {error}", machine_id=machine_id)
            if live is None:
                self.ledger.adopted(machine_id, Live(new, committed=True))
            else:
                self.ledger.sealed(live, new, committed=True)
            made = replace(record, attachment=record.attachment.moved(commit=new), version=new, no_commit=None, nearest=None)
            step.record = made
            if not amid:
                step.own = made
            calls = step.snapshots[-1] if amid and step.snapshots else frozenset()
            await io.blocking(self._database.write, key, step.snapshot(made, calls, own=not amid).row())
            return new

    async def seal(self, machine_id: str, plan: Callable[[], Closing], *, always: bool = False) -> Closing:
        """Close a superstep: its machine, at rest, becomes a version, and is committed if the policy or the caller says so.

        `plan` says what is to be done, and is asked again when the machine is at rest. A commit that cannot be made is no error: the run
        goes on, and the record says why.
        """
        async with self.gate(machine_id).commit():
            closing = plan()
            live, record = closing.live, closing.record
            if live is None or record is None or record.version is None or closing.machine_id is None:
                return closing
            error = None if live.build is None else await self._named(closing.machine_id, live, record.version)
            if error is None and not always and self.policy != "step":
                why = f'commits are made {"when a turn ends" if self.policy == "turn" else "on request"} (commit="{self.policy}")'
                self.ledger.sealed(live, record.version, committed=False)
                return replace_record(closing, no_commit=why)
            started = time.monotonic()
            error = error or await self._commit(closing.key.thread, closing.machine_id, record.version)
            self.ledger.sealed(live, record.version, committed=error is None)
            if error is not None:
                return replace_record(closing, no_commit=f"the commit could not be made: {error}")
            attachment = record.attachment.moved(commit=record.version)
            return replace_record(closing, attachment=attachment, commit_ms=_since(started), nearest=None, no_commit=None)

    async def _named(self, machine_id: str, live: Live, version: str) -> str | None:
        """Make sure that the machine carries the name of the version that it is about to become; why it cannot be, if so."""
        if any(call.sent for call in live.calls.values()):
            return None
        try:
            backend = await self.context.machine(machine_id)
            stamp = await backend.look()
            if stamp is not None and stamp.version == version and self._owner.owns(stamp):
                return None
            if stamp is not None and not self._owner.owns(stamp) and stamp.left() > 0:
                return f"another process has taken over VM {machine_id}"
            await self._take(machine_id, version)
        except VersError as error:
            return str(error)
        return None

    async def _commit(self, thread: str, machine_id: str, version: str) -> str | None:
        """Commit a machine under the version's own id; why it could not be done, None if it was."""
        try:
            client = await self.context.client()
            name = f"langchain-vers/{await io.blocking(self._database.identity)}/{thread}"
            await client.commit_vm(machine_id, name=name[:200], commit_id=version)
        except VersError as error:
            return str(error)
        return None

    async def release(self, machine_id: str) -> None:
        """A turn has ended: other processes may work on the machine from now on."""
        live = self.ledger.machines.get(machine_id)
        if live is None or live.calls or live.version is None or not live.held:
            return
        # RuntimeError: interpreter exit, when threads take no more calls; that this process is no more, others see by themselves.
        with contextlib.suppress(VersError, RuntimeError):
            async with self.gate(machine_id).commit():
                if live.calls or live.version is None:
                    return
                live.held = False
                backend = await self.context.machine(machine_id)
                stamp = await backend.look()
                if stamp is not None and self._owner.owns(stamp) and stamp.version == live.version:
                    await backend.take(Stamp(live.version, self._owner.name, 0))


def replace_record(closing: Closing, **changes: Any) -> Closing:  # noqa: ANN401  # fields of a record
    """The same with other facts in its record, and nothing left to commit."""
    assert closing.record is not None
    return replace(closing, record=replace(closing.record, **changes), live=None)


def _no_commit(machine_id: str | None, wanted: Record | None, near: str | None, why: str) -> VersError:
    reason = (wanted.no_commit if wanted is not None else None) or "none was made, or it was deleted"
    if wanted is not None and wanted.commit is not None:
        reason = f"its commit {wanted.commit} does not exist any more"
    remedy = (
        f'the nearest earlier one is {near}: accept it with config={{"configurable": {{"vers_nearest": True}}}}'
        if near is not None
        else "start from a checkpoint that has one (langchain-vers history lists them), or attach the thread to another VM"
    )
    return Conflict(f"{why}, and this checkpoint has no commit to restore ({reason}); nothing was run: {remedy}", machine_id=machine_id)


def _since(started: float) -> float:
    return round((time.monotonic() - started) * 1000, 1)
