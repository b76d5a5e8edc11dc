"""What a process knows of versioned threads: which checkpoint stands for which machine, and what has been done to each machine since.

A *step* is what follows a checkpoint: the superstep whose calls change the machine. A *version* names the content of a machine; it gets its
name (a UUID) when the first call of a step begins to change it, and the commit that is made of it has the same one. `Ledger` is pure
bookkeeping under one lock, for any thread; `versions.py` acts on machines and `checkpoint.py` on the database by what it says.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from langchain_vers.attachment import Attachment
from langchain_vers.closings import Closings
from langchain_vers.records import Accepted, Record, Snapshot
from langchain_vers.steps import Call, Closing, Key, Live, Position, Run, Step, left_over

_REMEMBERED = 8192
"""Steps that are kept in memory; an older one is read from the database again."""


class Ledger(Closings):
    """The books. Every method may be called from any thread and takes microseconds."""

    def __init__(self) -> None:
        super().__init__()
        self._heads: dict[tuple[str, str], Key] = {}
        """The namespaces that have a saver, and what was last seen of each."""
        self._waiters: dict[Key, list[Callable[[], None]]] = {}
        self._failed_early: dict[Key, set[str]] = {}
        """Tasks that failed before the checkpoint of their step was stored: that may be waiting for its commit."""
        self._broken: set[str] = set()
        """Threads of which a checkpoint could not be stored: those after it will not come."""

    # --- steps ---

    def step(self, key: Key) -> Step | None:
        """What is known of a checkpoint, None if it has not passed here yet."""
        with self.lock:
            return self._steps.get(key)

    def saved(self, thread: str, namespace: str) -> bool:
        """Whether checkpoints of this namespace pass here at all; those of a graph that is compiled without a saver do not."""
        return (thread, namespace) in self._heads

    def notify(self, key: Key, waiter: Callable[[], None]) -> None:
        """Call `waiter` when a checkpoint has become known; at once if it is."""
        with self.lock:
            if key not in self._steps:
                self._waiters.setdefault(key, []).append(waiter)
                return
        waiter()

    def break_off(self, thread: str) -> None:
        """A checkpoint of a thread could not be stored. Nobody need wait for those after it, until the thread is read again."""
        with self.lock:
            self._broken.add(thread)
            waiters = [waiter for key in list(self._waiters) if key.thread == thread for waiter in self._waiters.pop(key)]
        for waiter in waiters:
            waiter()

    def is_broken(self, thread: str) -> bool:
        """Whether no further checkpoints of a thread are to be expected from its run."""
        return thread in self._broken

    def forget_waiter(self, key: Key, waiter: Callable[[], None]) -> None:
        """Take a `notify` back."""
        with self.lock:
            waiters = self._waiters.get(key, [])
            if waiter in waiters:
                waiters.remove(waiter)
            if not waiters:
                self._waiters.pop(key, None)

    def enter(self, key: Key, record: Record | None, lane: str = "", parent: Key | None = None, run: Run | None = None) -> Step:
        """A checkpoint has become known, by being stored in a run."""
        with self.lock:
            step = self._steps[key] = Step(record, record, lane, parent, run=run)
            self._steps.move_to_end(key)
            if (early := self._failed_early.pop(key, None)) is not None:
                step.failed, step.failed_tasks = True, early
            self._heads[key.thread, key.namespace] = key
            while len(self._steps) > _REMEMBERED:
                self._steps.popitem(last=False)
            waiters = self._waiters.pop(key, ())
        for waiter in waiters:
            waiter()
        return step

    def load(self, key: Key, own: Record | None, accepted: Accepted, around: Key | None, *, lane: str = "", run: Run | None = None) -> None:
        """A checkpoint was read, by a `run` that goes on from it, or to be looked at.

        Looking changes nothing: a step that is under way stays as it is, one that failed or ended begins anew.

        `own` is what the checkpoint itself says, `accepted` what of its pending results a run may build on.
        """
        record = own if accepted.snapshot is None else accepted.snapshot.record
        with self.lock:
            self._broken.discard(key.thread)
            step = self._steps.get(key)
            if step is None or step.failed or step.closed:
                before, step = step, self.enter(key, record, lane)
                step.own, step.shared, step.placed = own, accepted.shared, accepted.placed
                if before is not None:
                    step.again, step.dead, step.shared = before.failed, before.dead, accepted.shared or before.shared
                    step.run, step.past = before.run, before.past
                if accepted.snapshot is not None:  # its calls are part of the step also if this process has not seen them
                    calls = accepted.snapshot.calls
                    step.calls, step.stored, step.snapshots = dict.fromkeys(calls, ""), set(calls), [calls]
                for live in self.machines.values():
                    if live.root == key:  # what its machine went through is no state that this execution may find
                        live.root, live.touched = None, set()
            if run is not None:
                if step.run is not None and step.run() is not run():
                    step.past = [past for past in (*step.past, step.run) if past() is not None]
                step.run = run
            self._heads[key.thread, key.namespace] = key
            if not lane and around is not None and (outer := self._steps.get(around)) is not None and step.record is not None:
                outer.result = step.record

    def repeats(self, key: Key, around: Key) -> bool:
        """Whether a nested checkpoint is read for a run that must not go on from it, because it repeats the step around it."""
        with self.lock:
            outer = self._steps.get(around)
            return outer is not None and outer.shared and (key not in self._steps or outer.again)

    def end(self, key: Key) -> None:
        """All tasks of a step have ended, and the checkpoint after it is known: the next run that begins at it is another one."""
        with self.lock:
            if (step := self._steps.get(key)) is not None:
                step.closed = True

    def mark_namespace(self, thread: str, namespace: str) -> None:
        """A graph with a saver has begun in this namespace, and has no checkpoint yet."""
        with self.lock:
            self._heads.setdefault((thread, namespace), Key(thread, namespace, ""))

    # --- calls ---

    def meet(self, position: Position) -> bool:
        """A call has come to its step; whether its task's execution still counts. One that was broken off does not.

        When one of several calls of a task interrupts the run, the others may still be on their way.
        """
        with self.lock:
            step, task = self._steps.get(position.path[-1]), position.tasks[-1]
            if step is None or position.execution is None:
                return True
            if position.run is not None and any(past() is position.run for past in step.past):
                return False
            if any(dead is position.execution for dead in step.dead):
                return False
            if task in step.failed_tasks:
                step.dead.append(position.execution)
                return False
            step.executions[task] = position.execution
            return True

    def place(self, position: Position) -> Attachment | None:
        """Where a call of this position is sent, None if nothing is known."""
        with self.lock:
            for key in reversed(position.path):
                step = self._steps.get(key)
                if step is not None and (place := step.place(position.lane)) is not None:
                    return self._instead(position, place)
            return None

    def _instead(self, position: Position, place: Attachment) -> Attachment:
        """The place, or the machine that another branch of the outermost step has restored instead of it."""
        root, found = self._steps.get(position.path[0]), place
        while root is not None and (instead := root.replaced.get(found.machine_id or "")) is not None:
            found = instead
        if found is not place:
            self.note(position, found)
        return found

    def note(self, position: Position, attachment: Attachment) -> None:
        """More is known of where the calls of a position are sent: the working directory, the host key."""
        with self.lock:
            for key in position.path:
                if (step := self._steps.get(key)) is not None:
                    step.places[position.lane] = attachment

    def move(self, position: Position, attachment: Attachment) -> None:
        """The thread was moved by a call. A machine that is in no commit yet will be committed when the step ends."""
        with self.lock:
            self.note(position, attachment)
            if (root := self._steps.get(position.path[0])) is not None:
                root.replaced.pop(attachment.machine_id or "", None)
            if position.lane and (root is None or root.lane != position.lane):
                return  # a worker's machine is none of the thread's; but a run may be in a lane as a whole
            for key in position.path:
                if (step := self._steps.get(key)) is not None:
                    step.moved = True
            machine_id = attachment.machine_id
            if machine_id is not None and not attachment.shared:
                live = self.machines.setdefault(machine_id, Live(None, taken=False))
                self.use(position, machine_id, None)
                if not live.committed:
                    call, _ = self.begin(position, machine_id)
                    live.calls[call].ended = True
                    return
                live.touched.update(position.path)
            self._count(position, uuid.uuid4().hex[:12])

    def begin_at(self, position: Position, attachment: Attachment) -> list[tuple[Key, Snapshot]]:
        """A program has moved the thread before the call of a position: its step begins there. What is to be stored of that, by checkpoint.

        It outlives the execution of the step, which did not do it. The machine is taken as it is.
        """
        with self.lock:
            root = self._steps.get(position.path[0])
            if position.lane and (root is None or root.lane != position.lane):
                self.note(position, attachment)  # a worker's machine is none of the thread's
                return []
            record, machine_id = Record(attachment), attachment.machine_id
            if machine_id is not None and not attachment.shared:
                live = self.machines.get(machine_id)
                if live is None or live.tainted:
                    live = self.machines[machine_id] = Live(None, taken=False)
                if not live.calls:
                    record = Record(attachment.moved(commit=live.version if live.committed else None), live.version)
            if root is not None:
                root.replaced.pop(machine_id or "", None)
            found = []
            for key in position.path:
                if (step := self._steps.get(key)) is not None:
                    step.record = step.own = record
                    step.places.pop(position.lane, None)
                    step.moved, step.result, step.placed = False, None, step.placed + 1
                    step.snapshots = [frozenset(step.stored)] if step.stored else []
                    found.append((key, step.snapshot(record, frozenset(step.stored), own=True)))
            return found

    def lose(self, position: Position, attachment: Attachment) -> None:
        """A call has deleted its thread's machine: the thread stands on one that does not exist, and that no commit stands for."""
        with self.lock:
            self.note(position, attachment)
            for key in position.path:
                if (step := self._steps.get(key)) is not None:
                    step.moved = True
            self.machines.pop(attachment.machine_id or "", None)

    def _count(self, position: Position, call: str) -> None:
        for key, task in zip(position.path, position.tasks, strict=True):
            if (step := self._steps.get(key)) is not None:
                step.calls[call] = task
                step.deep = step.deep or key != position.path[-1]

    def newly_shared(self, position: Position) -> list[Key]:
        """The steps of which a second branch begins to change the machine with this call, if nested graphs are among the branches."""
        with self.lock:
            found = []
            for key in position.path:
                step = self._steps.get(key)
                if step is None or step.shared or not step.deep or position.lane:
                    continue
                secured = frozenset().union(*(calls for calls in step.snapshots if calls <= step.stored))
                if len({task for call, task in step.calls.items() if call not in secured}) > 1:
                    step.shared = True
                    found.append(key)
            return found

    def wanted(self, position: Position, machine_id: str) -> Record | None:
        """The recorded state in which a call must find its machine; None if it has no recorded state there."""
        with self.lock:
            for key in reversed(position.path):
                step = self._steps.get(key)
                if step is not None and step.record is not None and step.lane == position.lane:
                    moved = step.moved and position.lane in step.places and step.places[position.lane].machine_id == machine_id
                    return None if moved else step.record
            return None

    def fits(self, position: Position, machine_id: str, wanted: Record | None) -> bool:
        """Whether the machine is, as far as this process knows, in the state that a call must find.

        It is if it has that version, or if what was done to it since was done in the same outermost step, by this call's own earlier ones
        or by branches of the step that share the machine.
        """
        with self.lock:
            live = self.machines.get(machine_id)
            if live is None or live.tainted:
                return False
            root, version = position.path[0], None if wanted is None else wanted.version
            if any(left_over(call.position, position) for call in live.calls.values()):
                live.tainted = True
                return False
            if live.root == root:
                return version is None or version in live.lineage or version == live.version
            return not live.calls and version == live.version

    def use(self, position: Position, machine_id: str, wanted: Record | None) -> None:
        """A call is about to work on a machine that fits."""
        with self.lock:
            live = self.machines[machine_id]
            if live.root != position.path[0]:
                live.root, live.touched = position.path[0], set()
                live.lineage = set() if live.version is None else {live.version}
            for key in position.path:
                if (step := self._steps.get(key)) is not None and step.version is not None and not position.lane:
                    live.lineage.add(step.version)
            if wanted is not None and wanted.version is not None:
                live.lineage.add(wanted.version)

    def begin(self, position: Position, machine_id: str) -> tuple[str, str]:
        """A call is about to change a machine: its own name, and that of the version that it helps to make."""
        with self.lock:
            live = self.machines[machine_id]
            live.build = live.build or str(uuid.uuid4())
            live.run, live.held = position.run, True
            call = uuid.uuid4().hex[:12]
            live.calls[call] = Call(position)
            live.touched.update(position.path)
            if not position.lane:
                self._count(position, call)
            return call, live.build

    def sent(self, machine_id: str, call: str) -> None:
        """A call has been sent to the machine, which carries the new version's name from now on."""
        with self.lock:
            if machine_id in self.machines and call in self.machines[machine_id].calls:
                self.machines[machine_id].calls[call].sent = self.machines[machine_id].calls[call].ended = True

    def withdraw(self, position: Position, machine_id: str, call: str) -> None:
        """A call turned out to change nothing: it was refused before it began."""
        with self.lock:
            live = self.machines.get(machine_id)
            if live is not None:
                live.calls.pop(call, None)
                if not live.calls:
                    live.build = None
            for key in position.path:
                if (step := self._steps.get(key)) is not None:
                    step.calls.pop(call, None)

    def taint(self, machine_id: str) -> None:
        """Nobody can tell any more what the machine holds."""
        with self.lock:
            if machine_id in self.machines:
                self.machines[machine_id].tainted = True

    def used(self, position: Position, tool: str) -> None:
        """A tool ran, for the history."""
        with self.lock:
            for key in position.path:
                if (step := self._steps.get(key)) is not None:
                    step.tools.add(tool)

    def brought_back(self, position: Position, old: str, attachment: Attachment, milliseconds: float, commit: str) -> None:
        """A machine was restored for a call's step: the step's calls are sent there, and what was done to the `old` one is undone."""
        with self.lock:
            undone = self.machines[old].calls if old in self.machines else {}
            if (root := self._steps.get(position.path[0])) is not None:
                root.replaced[old] = attachment
            for key in position.path:
                if (step := self._steps.get(key)) is not None:
                    step.places[position.lane] = attachment
                    step.restored = (milliseconds + (step.restored[0] if step.restored else 0.0), commit)
                    for call in undone:
                        step.calls.pop(call, None)

    def give_up(self, position: Position) -> None:
        """A task is repeated that had come to a machine in this step, from none before: if nobody else has used that, it has none again."""
        with self.lock:
            steps = [step for key in position.path if (step := self._steps.get(key)) is not None]
            place = next((step.places[position.lane] for step in reversed(steps) if position.lane in step.places), None)
            live = None if place is None or place.machine_id is None else self.machines.get(place.machine_id)
            if live is None or live.version is not None or any(step.record is not None for step in steps):
                return
            if live.owners() <= {position.tasks[0]} and any(left_over(call.position, position) for call in live.calls.values()):
                for step in steps:
                    step.places.pop(position.lane, None)
                    for call in live.calls:
                        step.calls.pop(call, None)

    def settle_for(self, position: Position, record: Record) -> None:
        """The calls of a position have to make do with another state than the recorded one, as their run has allowed."""
        with self.lock:
            for key in position.path:
                if (step := self._steps.get(key)) is not None and step.lane == position.lane:
                    step.record = record

    def adopted(self, machine_id: str, live: Live) -> None:
        """A machine was looked at, or made: this is what it holds."""
        with self.lock:
            self.machines[machine_id] = live

    def dropped(self, machine_id: str) -> None:
        """Nothing is known of a machine any more."""
        with self.lock:
            self.machines.pop(machine_id, None)

    # --- results of tasks ---

    def acknowledge(self, key: Key, *names: str) -> tuple[set[str], Snapshot | None]:
        """The calls of a task whose result is about to be stored, and the version that already holds all of the step's, if one does.

        `names` are the task's id and its node: a nested graph that keeps a history of its own knows no more of what is around it.
        """
        with self.lock:
            step = self._steps.get(key)
            if step is None or not step.calls:
                return set(), None
            mine = {call for call, owner in step.calls.items() if owner in names}
            if not mine:
                return mine, None
            step.stored |= mine
            for live in self._of(step):
                for name, call in live.calls.items():
                    if name in mine and call.position.path[-1] == key:
                        call.done = True
            return mine, self._snapshot(key, step)

    def fail(self, key: Key, task: str) -> None:
        """A task was interrupted or raised: what it did itself will be done again."""
        with self.lock:
            step = self._steps.get(key)
            if step is None:
                self._failed_early.setdefault(key, set()).add(task)
                return
            step.failed = True
            step.failed_tasks.add(task)
            if (execution := step.executions.pop(task, None)) is not None:
                step.dead.append(execution)
            for live in self.machines.values():
                if any(call.position.path[-1] == key and call.position.tasks[-1] == task for call in live.calls.values()):
                    live.tainted = True

    def settled(self, key: Key) -> Closing | None:
        """The machine of a step that holds only stored results, to be made a version in the middle of the step; None if it cannot be."""
        with self.lock:
            step = self._steps.get(key)
            place = None if step is None else step.place("")
            if step is None or place is None or place.machine_id is None or place.shared:
                return None
            live = self.machines.get(place.machine_id)
            if live is None or live.tainted or not all(call.done for call in live.calls.values()):
                return None
            version = live.build or live.version
            if version is None or (live.committed and not live.calls) or not live.stands_for(key, step):
                return None
            return Closing(key, Record(place, version), place.machine_id, live)

    def between_tasks(self, position: Position, machine_id: str) -> Closing | None:
        """The machine before a task's first call, if it holds what other tasks of the functional API did before and nothing under way."""
        with self.lock:
            live = self.machines.get(machine_id)
            if live is None or live.tainted or live.build is None or not position.started or position.lane:
                return None
            if not live.calls or not all(call.ended and call.position.path == position.path for call in live.calls.values()):
                return None
            place = self.place(position)
            if place is None or any(call.position.tasks[-1] == position.tasks[-1] for call in live.calls.values()):
                return None
            return Closing(position.path[-1], Record(place, live.build), machine_id, live)

    def snapshot(self, key: Key) -> Snapshot | None:
        """The version that holds all calls of a step so far, None if there is none."""
        with self.lock:
            step = self._steps.get(key)
            return None if step is None else self._snapshot(key, step)

    def _snapshot(self, key: Key, step: Step) -> Snapshot | None:
        place = step.place("")
        live = self.machines.get(place.machine_id or "") if place is not None else None
        if place is None or live is None or live.tainted or live.calls or live.version is None or not live.stands_for(key, step):
            return None
        record, calls = Record(place.moved(commit=live.version if live.committed else None), live.version), frozenset(step.calls)
        if calls:
            step.snapshots.append(calls)
            return step.snapshot(record, calls)
        # Graphs nested in the step may hold results from before this process, of whose calls nothing is known here.
        return step.snapshot(record, own=True) if step.own is not None and step.own.version == live.version else None

    def _of(self, step: Step) -> Sequence[Live]:
        ids = {place.machine_id for place in step.places.values()}
        if step.record is not None:
            ids.add(step.record.attachment.machine_id)
        return [self.machines[machine_id] for machine_id in ids if machine_id in self.machines]

    def forget(self, thread: str) -> None:
        """A thread's checkpoints were deleted."""
        with self.lock:
            for key in [key for key in self._steps if key.thread == thread]:
                del self._steps[key]
            for head in [head for head in self._heads if head[0] == thread]:
                del self._heads[head]

    def sealed(self, live: Live, version: str, *, committed: bool) -> None:
        """All calls on a machine are part of this version now."""
        with self.lock:
            live.version, live.committed, live.build = version, committed, None
            live.calls.clear()
            live.lineage.add(version)
