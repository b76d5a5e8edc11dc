"""The words of the books about versioned threads: where a call stands, what follows a checkpoint, what a machine holds. Pure data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from langchain_vers.attachment import Attachment
from langchain_vers.records import Record, Snapshot


class Key(NamedTuple):
    """Which checkpoint of which graph of a thread."""

    thread: str
    namespace: str
    checkpoint: str


def depth(namespace: str) -> int:
    """How deep a nested graph lies. Its namespace need not begin with that of the graph around it: histories of their own have no tasks."""
    return namespace.count("|") + 1 if namespace else 0


def task_below(namespace: str, child: str) -> str:
    """The task of `namespace`'s superstep in which the nested graph `child` runs ("a:1" and "a:1|b:2" give "2").

    Of tasks that were started by tasks it is the innermost; a number behind it counts the graphs that one task runs. Where the task is
    not told, because the nested graph has a history of its own, it is the name of its node.
    """
    segments = child.removeprefix(namespace).lstrip("|").split("|")
    names = [segment for segment in segments if not segment.isdigit()]
    return next((name.rpartition(":")[2] for name in reversed(names) if ":" in name), names[-1])


Run = Callable[[], object]
"""A weak reference to an object that is another one in each run of a graph."""


def run_of(configurable: Mapping[str, Any]) -> Run | None:
    """The run of a config that a graph gives to its saver; None if nothing runs, as when somebody looks at a state."""
    writer = getattr(configurable.get("__pregel_runtime"), "stream_writer", None)
    return None if writer is None else weakref.ref(writer)


@dataclass(frozen=True)
class Position:
    """Where a call stands among the checkpoints: the nested steps that it is part of, outermost first, and its task in each."""

    path: tuple[Key, ...]
    tasks: tuple[str, ...]
    lane: str = ""
    """Which of several machines of the thread: "" is the thread's own, others belong to workers on branches of it."""
    run: object = None
    """Another object in another run of the innermost graph: what `run_of` refers to there."""
    execution: object = None
    """Another object in another execution of the task: in a resumed run, or one that replays."""
    attempt: int = 1
    uncertain: bool = True
    """Whether something else than calls of this package is part of the task, which may interrupt it after they have changed the machine."""
    started: bool = False
    """Whether the task was started by another one, as those of the functional API: they come one after the other, unless told otherwise."""

    @property
    def retried(self) -> bool:
        """Whether it is a retry within one run: the other tasks of the step will not be repeated."""
        return self.attempt > 1


@dataclass(slots=True)
class Call:
    """A call that has begun to change a machine."""

    position: Position
    done: bool = False
    """Whether the result of its task has been stored."""
    ended: bool = False
    sent: bool = False
    """Whether something was sent to the machine that changes it, which then carries the name of the version that is being made."""


@dataclass(slots=True)
class Step:
    """What follows a checkpoint."""

    record: Record | None
    """The state that it starts from; None if that is unknown (a thread without a machine, or from before)."""
    own: Record | None = None
    """What the checkpoint itself says, where results of tasks that finished before are in `record`."""
    lane: str = ""
    """The lane that the record is of."""
    parent: Key | None = None
    """The checkpoint before, where this one was stored by this process: it may still be on its way."""
    places: dict[str, Attachment] = field(default_factory=dict)
    """By lane, where its calls are sent now; what is not there is where the record says."""
    calls: dict[str, str] = field(default_factory=dict)
    """All calls of it that changed a machine of the main lane, nested ones too, and the task of this step that each belongs to."""
    stored: set[str] = field(default_factory=set)
    """Those of the calls whose tasks have stored their results."""
    snapshots: list[frozenset[str]] = field(default_factory=list)
    """Those that each version holds which was made in the middle of the step."""
    deep: bool = False
    """Whether some were made by nested graphs."""
    shared: bool = False
    """Whether several branches of the step change the machine, one of them a nested graph: they are repeated together, or not at all."""
    tools: set[str] = field(default_factory=set)
    moved: bool = False
    failed: bool = False
    """Whether a task of it was interrupted or raised."""
    failed_tasks: set[str] = field(default_factory=set)
    executions: dict[str, object] = field(default_factory=dict)
    """By task, the execution of which a call was seen last."""
    dead: list[object] = field(default_factory=list)
    """Executions that were broken off: what is left of them must do nothing more."""
    run: Run | None = None
    """The run that goes on from it."""
    past: list[Run] = field(default_factory=list)
    """Earlier runs that went on from it, and were broken off: what is left of them must do nothing more."""
    again: bool = False
    """Whether it had failed, and was begun anew."""
    closed: bool = False
    """Whether all of its tasks have ended: the next run that begins here is another one."""
    placed: int = 0
    """How often a program has moved the thread here."""
    restored: tuple[float, str] | None = None
    """What bringing back its machine has cost (ms), and from which commit."""
    replaced: dict[str, Attachment] = field(default_factory=dict)
    """By VM, the one that was restored in its place. Of outermost steps: graphs nested in it may still think of the old one."""
    result: Record | None = None
    """The last state known of a graph nested in it."""

    def snapshot(self, record: Record, calls: frozenset[str] = frozenset(), *, own: bool = False) -> Snapshot:
        """A version of the machine here, as it is stored."""
        return Snapshot(record, calls, own, self.placed)

    @property
    def version(self) -> str | None:
        """The version of the machine that it starts from."""
        return None if self.record is None else self.record.version

    def place(self, lane: str) -> Attachment | None:
        """Where the calls of a lane are sent; None if nothing is known."""
        if lane in self.places or lane != self.lane:
            return self.places.get(lane)
        return None if self.record is None else self.record.attachment


@dataclass(slots=True)
class Live:
    """A machine as this process knows it."""

    version: str | None
    """Its content was this when none of `calls` had begun."""
    committed: bool = False
    """Whether `version` is in a commit."""
    build: str | None = None
    """The name of the content that the calls are making."""
    root: Key | None = None
    """The outermost step that it is used in."""
    lineage: set[str] = field(default_factory=set)
    """Versions that it went through in that step."""
    calls: dict[str, Call] = field(default_factory=dict)
    touched: set[Key] = field(default_factory=set)
    """The steps, nested ones and those around them, in which it has been changed."""
    run: object = None
    """The run of whose calls it holds the effects."""
    taken: bool = True
    """Whether the machine says that it is this process's; one that a thread has just moved to does not yet."""
    held: bool = True
    """Whether other processes are kept away from it."""
    tainted: bool = False
    """Whether it holds effects of a call whose task will be repeated."""

    def owners(self) -> set[str]:
        """The tasks of the outermost step that have calls on it."""
        return {call.position.tasks[0] for call in self.calls.values()}

    def stands_for(self, key: Key, step: Step) -> bool:
        """Whether the machine is at the state of a step, and not at that of another point of the conversation."""
        return key in self.touched or (self.version == step.version and not self.calls)


def left_over(old: Position, new: Position) -> bool:
    """Whether a call belongs to a run, or to an execution of the very task, that was broken off before this one."""
    if old.path[-1] == new.path[-1] and old.run is not new.run:
        return True
    return old.tasks == new.tasks and (old.execution is not new.execution or old.attempt != new.attempt)


@dataclass(slots=True)
class Closing:
    """What a checkpoint that is being put will say, and the machine that may have to be committed for it first."""

    key: Key
    record: Record | None
    machine_id: str | None = None
    live: Live | None = None
    """To be committed as `record.version` before the checkpoint is stored, if it is set."""
