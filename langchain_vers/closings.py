"""What a checkpoint will say of its machine when it is stored, as the books of the steps and machines have it. Pure."""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from dataclasses import replace

from langchain_vers.attachment import HERE, Attachment
from langchain_vers.records import Record
from langchain_vers.steps import Closing, Key, Live, Step, depth


class Closings:
    """The part of the `Ledger` that closes a step, or begins one without a superstep before it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.machines: dict[str, Live] = {}
        self._steps: OrderedDict[Key, Step] = OrderedDict()

    def inherit(
        self, key: Key, parent: Key | None, around: Key | None, lane: str, *, copied: Record | None, known: Record | None, results: bool
    ) -> Closing:
        """A checkpoint that is put without a superstep before it: an input, an update, a fork. It has its parent's state.

        `around` is the step around a nested graph; such a graph begins with the machine as it is there. `copied` is the record of the
        checkpoint that it is a copy of, `known` that of the parent, from the database. `results`: whether it takes in the results of the
        parent's tasks that had finished.
        """
        with self.lock:
            outer = self._steps.get(around) if around is not None else None
            if copied is not None:
                return Closing(key, copied.inherited())
            if outer is not None:
                return Closing(key, self._now(outer, around, lane))
            step = self._steps.get(parent) if parent is not None else None
            if step is None:
                record = known
            else:
                record = step.record if results else step.own
                record = record if record is not None else known
            return Closing(key, None if record is None else record.inherited())

    def _now(self, step: Step, key: Key | None, lane: str) -> Record | None:
        """The state of a step's machine at this moment, as far as it has a name."""
        place = step.place(lane)
        if place is None:
            return None
        live = self.machines.get(place.machine_id or "")
        its = live is not None and (live.version == step.version or key in live.touched)
        if live is not None and its and not live.calls and not live.tainted and live.version is not None:
            return Record(place.moved(commit=live.version if live.committed else None), live.version)
        if step.record is None or not place.same_machine(step.record.attachment):
            return Record(place)
        return replace(step.record.inherited(), attachment=place.moved(commit=step.record.commit))

    def close(self, key: Key, parent: Key, lane: str, known: Record | None) -> Closing:
        """The checkpoint that a superstep ends with. `known` is the parent's record from the database, where the ledger has none."""
        with self.lock:
            step = self._steps.get(parent)
            if step is None:
                return Closing(key, None if known is None else known.inherited())
            place = step.place(lane)
            before, inside = step.record, step.result
            if place is None or (before is None and not step.moved and place == HERE):
                return Closing(key, inside if place is None else None)
            tools = ", ".join(sorted(step.tools)) or None  # calls of one message run side by side: any order would be by chance
            restore_ms, restored_from = step.restored if step.restored is not None else (None, None)
            nearest = None if before is None else before.commit or before.nearest
            live = self.machines.get(place.machine_id or "")

            def record(
                version: str | None, commit: str | None, why: str | None = None, *, repeats: bool = False, at: Attachment = place
            ) -> Record:
                at = at if at.commit == commit else at.moved(commit=commit)
                near = nearest if commit is None and (version is not None or repeats) else None
                return Record(at, version, tools, None, restore_ms, restored_from, why, near, repeats)

            # A machine that a program has moved the thread to is in no commit yet, also if the step has only looked at it.
            new = step.moved or (step.placed > 0 and live is not None and live.version is None)
            touched = live is not None and not place.shared and (new or parent in live.touched)
            if live is None or not touched:
                if inside is not None and not place.shared and not step.moved:
                    # A graph nested in this step has gone on from where it was, and has done nothing more.
                    at = place if lane in step.places else inside.attachment.moved(cwd=place.cwd)
                    repeats = inside.repeats and bool(key.namespace)
                    return Closing(key, record(inside.version, inside.commit, inside.no_commit, repeats=repeats, at=at))
                if before is not None and not step.moved:
                    return Closing(key, record(before.version, before.commit, before.no_commit, repeats=before.repeats))
                known_version = live.version if live is not None and not live.calls else None
                return Closing(key, record(known_version, known_version if live is not None and live.committed else None))
            if not lane and self._branches_share(live, parent):
                why = "branches of one step share the machine, so that it has a version only when all of them have ended"
                return Closing(key, record(None, None, why, repeats=True))
            if not live.calls and live.version is not None:
                return Closing(key, record(live.version, live.version if live.committed else None))
            # Without a build, the thread has moved to a machine that nothing was done on yet.
            live.build = live.build or str(uuid.uuid4())
            return Closing(key, record(live.build, None), place.machine_id, live)

    def _branches_share(self, live: Live, parent: Key) -> bool:
        """Whether the machine is changed by several branches of a step around this one."""
        outer = (self._steps.get(key) for key in live.touched if depth(key.namespace) < depth(parent.namespace))
        return any(step is not None and step.shared for step in outer)

    def uncommitted(self, closing: Closing) -> Closing:
        """The same; its machine is to be committed also if nothing was done in this step, but earlier."""
        with self.lock:
            record = closing.record
            live = None if record is None else self.machines.get(record.attachment.machine_id or "")
            if closing.live is not None or record is None or live is None or record.attachment.shared or record.version is None:
                return closing
            if live.calls or live.tainted or live.committed or live.version != record.version:
                return closing
            return replace(closing, machine_id=record.attachment.machine_id, live=live)
