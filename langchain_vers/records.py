"""What a checkpoint says of its machine, as it is stored: flat facts in the checkpoint's metadata, and rows among its pending writes.

The metadata tells the state that the checkpoint begins with. The rows tell what the tasks of the superstep that follows have done to the
machine so far, and which of that is in a commit; from them a resumed run learns which finished tasks it may keep. Pure; nothing here knows
of savers or machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_vers.attachment import HERE, Attachment
from langchain_vers.errors import Unsupported

FORMAT = 1
"""The version of what is stored. Another one is refused: guessing would mean running on the wrong machine."""
CHANNEL = "__vers__"
"""The channel of rows among a checkpoint's pending writes. They never show."""
_ATTACHMENT = {
    "backend": "vers_backend",
    "machine_id": "vers_machine",
    "commit": "vers_commit",
    "cwd": "vers_cwd",
    "host_key": "vers_host_key",
}
_FACTS = {name: f"vers_{name}" for name in ("version", "tools", "commit_ms", "restore_ms", "restored_from", "no_commit", "nearest")}


@dataclass(frozen=True, slots=True)
class Record:
    """The machine of a checkpoint."""

    attachment: Attachment
    """Which machine, in which directory, and the commit that holds it as it was."""
    version: str | None = None
    """The name (a UUID) of the machine's content at this checkpoint; its commit, if it has one, has the same id. None: not known."""
    tools: str | None = None
    """What ran in the superstep that made the checkpoint, by the alphabet, such as "bash, write"."""
    commit_ms: float | None = None
    """Milliseconds that the commit took, None if none was made."""
    restore_ms: float | None = None
    """Milliseconds that it took to have the machine where the conversation was, None if it was there."""
    restored_from: str | None = None
    """The commit that the machine was restored from for that, None if it was not."""
    no_commit: str | None = None
    """Why there is no commit of its own, a sentence."""
    nearest: str | None = None
    """The nearest ancestor's commit, where there is none of its own."""
    repeats: bool = False
    """Whether this nested checkpoint lies inside a superstep whose branches share the machine: all are repeated, or none."""

    @property
    def commit(self) -> str | None:
        """The commit that restores this state, None if there is none."""
        return self.attachment.commit

    def inherited(self) -> Record:
        """The same for a checkpoint that was made without touching the machine: nothing was spent on it."""
        return replace(self, tools=None, commit_ms=None, restore_ms=None, restored_from=None)

    def metadata(self) -> dict[str, Any]:
        """What is added to the checkpoint's metadata."""
        facts: dict[str, Any] = {"vers_format": FORMAT}
        for source, names in ((self.attachment, _ATTACHMENT), (self, _FACTS)):
            for name, key in names.items():
                if (value := getattr(source, name)) is not None:
                    facts[key] = value
        if self.attachment.shared:
            facts["vers_shared"] = True
        if self.repeats:
            facts["vers_repeats"] = True
        return facts


def read_record(metadata: Mapping[str, Any]) -> Record | None:
    """The record of a checkpoint with this metadata, None if it has none.

    Raises:
        Unsupported: it was written in another format.
    """
    written = metadata.get("vers_format")
    if written is None:
        return None
    check_format(written)
    attachment = Attachment(**{name: metadata.get(key) for name, key in _ATTACHMENT.items()}, shared=bool(metadata.get("vers_shared")))
    return Record(attachment, **{name: metadata.get(key) for name, key in _FACTS.items()}, repeats=bool(metadata.get("vers_repeats")))


def check_format(written: object) -> None:
    """Refuse what another version of this package has written.

    Raises:
        Unsupported: the format is not the one that is known.
    """
    if written != FORMAT:
        newer = isinstance(written, int) and written > FORMAT
        raise Unsupported(
            f"the checkpoint's machine was recorded in format {written!r}, and this version of langchain-vers knows format {FORMAT}; "
            + ("upgrade langchain-vers" if newer else "open it with the version of langchain-vers that wrote it")
        )


@dataclass(frozen=True)
class Snapshot:
    """A version of the machine in the middle of a superstep, and the calls of that superstep that are in it."""

    record: Record
    calls: frozenset[str] = frozenset()
    own: bool = False
    """Whether the checkpoint itself stands for it: no call of the superstep is in it, or a program has moved the thread there since."""
    placed: int = 0
    """How often a program had moved the thread at this checkpoint: what was so before the last time is not so any more."""

    def row(self) -> dict[str, Any]:
        """As it is stored."""
        row: dict[str, Any] = {"format": FORMAT, "snapshot": self.record.metadata(), "calls": sorted(self.calls)}
        return row | ({"own": True} if self.own else {}) | ({"placed": self.placed} if self.placed else {})


def acknowledgement(calls: Iterable[str], snapshot: Snapshot | None = None) -> dict[str, Any]:
    """The row that is stored with a finished task's writes: the calls by which it changed the machine."""
    row: dict[str, Any] = {"format": FORMAT, "calls": sorted(calls)}
    return row if snapshot is None else {**row, "also": snapshot.row()}


def sharing() -> dict[str, Any]:
    """The row that is stored before a second branch of a step changes the machine."""
    return {"format": FORMAT, "calls": [], "shared": True}


@dataclass(frozen=True)
class Accepted:
    """What a resumed run may build on."""

    snapshot: Snapshot | None = None
    """Where the machine stands; None: where the checkpoint's own record says."""
    before: Snapshot | None = None
    """The version that was made before any call of the step: what the checkpoint itself stands for."""
    shared: bool = False
    """Whether branches of the step share the machine, so that graphs nested in it cannot go on from where they were."""
    placed: int = 0
    """How often a program has moved the thread at this checkpoint."""
    hidden: frozenset[str] = field(default_factory=frozenset)
    """Tasks whose results must not be kept, because no version of the machine has exactly their effects: they run again."""


def accept(writes: Sequence[tuple[str, str, Any]]) -> Accepted:
    """What of a checkpoint's pending writes (task, channel, value) a resumed run may keep.

    Of the snapshots whose calls all belong to finished tasks, the one with the most calls is built on; tasks with a call that is not in it
    are repeated. Tasks that did not change the machine are always kept. Where a program has moved the thread, only what came after counts.
    """
    done: dict[str, set[str]] = {}
    shared = False
    snapshots: list[Snapshot] = []
    for task, channel, value in writes:
        if channel != CHANNEL:
            continue
        check_format(value["format"])
        shared = shared or bool(value.get("shared"))
        taken = value if "snapshot" in value else value.get("also")
        if taken is not None:
            record = read_record(taken["snapshot"])
            snapshots.append(Snapshot(record or Record(HERE), frozenset(taken["calls"]), bool(taken.get("own")), taken.get("placed", 0)))
        if "snapshot" not in value:
            done.setdefault(task, set()).update(value["calls"])
    if not done and not snapshots:
        return Accepted()
    finished = set().union(*done.values()) if done else set()
    placed = max((snapshot.placed for snapshot in snapshots), default=0)
    snapshots = [snapshot for snapshot in snapshots if snapshot.placed == placed]
    fitting = [snapshot for snapshot in snapshots if snapshot.calls <= finished]
    best = max(fitting, key=lambda snapshot: (len(snapshot.calls), snapshot.record.commit is not None), default=None)
    covered = best.calls if best is not None else frozenset()
    before = max((snapshot for snapshot in snapshots if snapshot.own), key=lambda own: own.record.commit is not None, default=None)
    return Accepted(best, before, shared, placed, frozenset(task for task, calls in done.items() if not calls <= covered))


def visible(writes: Sequence[tuple[str, str, Any]], accepted: Accepted) -> list[tuple[str, str, Any]]:
    """The pending writes as a graph may see them."""
    return [write for write in writes if write[1] != CHANNEL and write[0] not in accepted.hidden]
