"""The end of threads: when their checkpoints go, so do the machines that were made for them, and the commits that nobody needs any more."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

from langchain_vers._io import io
from langchain_vers.database import thread_config
from langchain_vers.errors import VersError
from langchain_vers.ledger import Ledger
from langchain_vers.records import CHANNEL, read_record

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext


@dataclass(frozen=True)
class References:
    """The machines and commits that checkpoints refer to."""

    machines: frozenset[str] = frozenset()
    commits: frozenset[str] = frozenset()
    threads: frozenset[str] = field(default_factory=frozenset)


def references(found: Iterable[CheckpointTuple]) -> References:
    """All that some checkpoints, and the rows stored with them, refer to."""
    machines: set[str] = set()
    commits: set[str] = set()
    threads: set[str] = set()
    for each in found:
        for metadata in (each.metadata, *snapshots(each)):
            machines |= {metadata[name] for name in ("vers_machine",) if name in metadata}
            commits |= {metadata[name] for name in ("vers_commit", "vers_version") if name in metadata}
        threads.add(str(each.config["configurable"]["thread_id"]))
    return References(frozenset(machines), frozenset(commits), frozenset(threads))


def snapshots(found: CheckpointTuple) -> list[dict[str, Any]]:
    """The facts of the versions that were made in the middle of a checkpoint's step."""
    rows = [value for _, channel, value in found.pending_writes or () if channel == CHANNEL]
    return [row[name]["snapshot"] if name == "also" else row[name] for row in rows for name in ("snapshot", "also") if name in row]


def expendable(found: Sequence[CheckpointTuple], keep: int) -> frozenset[str]:
    """The commits of a thread's checkpoints that need not be kept: all but the newest, and those of interrupts and heads."""
    parents = {each.parent_config["configurable"]["checkpoint_id"] for each in found if each.parent_config is not None}
    order: dict[str, None] = {}
    kept: set[str] = set()
    for each in sorted(found, key=lambda one: one.checkpoint["id"], reverse=True):
        record = read_record(each.metadata)
        inside = {metadata["vers_commit"] for metadata in snapshots(each) if "vers_commit" in metadata}
        if record is not None and record.commit is not None:
            order.setdefault(record.commit)
        interrupted = any(channel == "__interrupt__" for _, channel, _ in each.pending_writes or ())
        if interrupted or each.checkpoint["id"] not in parents:
            kept |= inside | ({record.commit} if record is not None and record.commit is not None else set())
        for commit in inside:
            order.setdefault(commit)
    return frozenset(list(order)[keep:]) - kept


async def _delete_unreferenced(saver: ThreadEnds, candidates: References, *, within: str | None = None) -> None:
    """Delete the machines that were made for the candidates' threads, and the commits, to which no checkpoint refers any more.

    What cannot be deleted now is left for `langchain-vers gc`. `within` is a thread whose own checkpoints do not count.
    """
    if not candidates.machines and not candidates.commits:
        return

    def in_use(name: str, value: str) -> bool:
        # To its end: what a saver reads by an event loop is not closed there when a listing is left half-read.
        found = list(saver.inner.list(None, filter={name: value}, limit=None if within else 1))
        return any(str(each.config["configurable"]["thread_id"]) != within for each in found)

    def inside() -> References:
        """What only rows refer to cannot be searched for by name."""
        return References() if within is not None else references(each for each in saver.inner.list(None) if snapshots(each))

    client = await saver.context.client()
    rows = await io.blocking(inside)
    for machine_id in candidates.machines - rows.machines:
        if await io.blocking(in_use, "vers_machine", machine_id):
            continue
        with contextlib.suppress(VersError):
            labels = (await client.get_vm(machine_id)).labels or {}
            ours = labels.get("langchain-vers-thread") in candidates.threads
            if ours and labels.get("langchain-vers-database") == await io.blocking(saver.identity):
                await client.delete_vm(machine_id)
                saver.context.forget_vm(machine_id)
                saver.ledger.dropped(machine_id)
    names = ("vers_commit",) if within is not None else ("vers_commit", "vers_version", "vers_nearest")
    for commit in candidates.commits - rows.commits:
        if any([await io.blocking(in_use, name, commit) for name in names]):
            continue
        with contextlib.suppress(VersError):
            await client.delete_commit(commit)


class ThreadEnds(ABC):
    """The part of `VersSaver` that deletes: each method passes on to the inner saver first, and then looks what is left over."""

    inner: BaseCheckpointSaver[Any]
    context: BackendContext
    ledger: Ledger
    keep_commits: int | None

    @abstractmethod
    def identity(self) -> str:
        """The database's own name."""

    @abstractmethod
    def needs_async(self, name: str) -> None:
        """Refuse an async method of an inner saver that has none."""

    def delete_thread(self, thread_id: str) -> None:
        """See `BaseCheckpointSaver.delete_thread`. The VMs that were made for the thread, and commits that nobody needs, go after it."""
        self._without(
            lambda: references(self.inner.list(thread_config(thread_id))), lambda: self.inner.delete_thread(thread_id), [thread_id]
        )

    async def adelete_thread(self, thread_id: str) -> None:
        """See `delete_thread`."""
        self.needs_async("adelete_thread")
        before = references([found async for found in self.inner.alist(thread_config(thread_id))])
        await self.inner.adelete_thread(thread_id)
        self.ledger.forget(thread_id)
        await io.on_io(_delete_unreferenced(self, before))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See `BaseCheckpointSaver.delete_for_runs`, and `delete_thread`."""
        found = [each for run in run_ids for each in self.inner.list(None, filter={"run_id": run})]
        self._without(lambda: references(found), lambda: self.inner.delete_for_runs(run_ids), _threads(found))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """See `delete_for_runs`."""
        found = [each for run in run_ids async for each in self.inner.alist(None, filter={"run_id": run})]
        await self.inner.adelete_for_runs(run_ids)
        for thread in _threads(found):
            self.ledger.forget(thread)
        await io.on_io(_delete_unreferenced(self, references(found)))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See `BaseCheckpointSaver.prune`, and `delete_thread`."""
        found = [each for thread in thread_ids for each in self.inner.list(thread_config(thread))]
        self._without(lambda: references(found), lambda: self.inner.prune(thread_ids, strategy=strategy), thread_ids)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """See `prune`."""
        found = [each for thread in thread_ids async for each in self.inner.alist(thread_config(thread))]
        await self.inner.aprune(thread_ids, strategy=strategy)
        for thread in thread_ids:
            self.ledger.forget(thread)
        await io.on_io(_delete_unreferenced(self, references(found)))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See `BaseCheckpointSaver.copy_thread`. Commits are shared; the first of both that works on gets the machine, the other a copy."""
        self.inner.copy_thread(source_thread_id, target_thread_id)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """See `copy_thread`."""
        await self.inner.acopy_thread(source_thread_id, target_thread_id)

    def _without(self, read: Callable[[], References], delete: Callable[[], None], threads: Sequence[str]) -> None:
        before = read()
        delete()
        for thread in threads:
            self.ledger.forget(thread)
        io.run(_delete_unreferenced(self, before))

    async def retain(self, thread: str) -> None:
        """Delete the commits of a thread that are more than are to be kept."""
        assert self.keep_commits is not None
        found = await io.blocking(lambda: list(self.inner.list(thread_config(thread))))
        await _delete_unreferenced(self, References(commits=expendable(found, self.keep_commits)), within=thread)


def _threads(found: Sequence[CheckpointTuple]) -> list[str]:
    return sorted({str(each.config["configurable"]["thread_id"]) for each in found})
