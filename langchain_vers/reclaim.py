"""What of machines and commits nobody needs any more, once checkpoints are gone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import CheckpointTuple

from langchain_vers._io import io
from langchain_vers.errors import Gone, VersError
from langchain_vers.records import CHANNEL, read_record

if TYPE_CHECKING:
    from langchain_vers.checkpoint import VersSaver


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


async def delete_unreferenced(saver: VersSaver, candidates: References, *, within: str | None = None) -> None:
    """Delete the machines that were made for the candidates' threads, and the commits, to which no checkpoint refers any more.

    What cannot be deleted now is left for `langchain-vers gc`. `within` is a thread whose own checkpoints do not count.
    """
    if not candidates.machines and not candidates.commits:
        return

    def in_use(name: str, value: str) -> bool:
        found = saver.inner.list(None, filter={name: value}, limit=None if within else 1)
        return any(str(each.config["configurable"]["thread_id"]) != within for each in found)

    def inside() -> frozenset[str]:
        """Commits that only rows refer to cannot be searched for by name."""
        return references(each for each in saver.inner.list(None) if snapshots(each)).commits if within is None else frozenset()

    client = await saver.context.client()
    for machine_id in candidates.machines:
        if await io.blocking(in_use, "vers_machine", machine_id):
            continue
        with contextlib.suppress(VersError):
            labels = (await client.get_vm(machine_id)).labels or {}
            ours = labels.get("langchain-vers-thread") in candidates.threads
            if ours and labels.get("langchain-vers-database") == await io.blocking(saver.identity):
                await client.delete_vm(machine_id)
                saver.context.forget_vm(machine_id)
                saver.ledger.dropped(machine_id)
    rows = await io.blocking(inside)
    for commit in candidates.commits - rows:
        if not await io.blocking(in_use, "vers_commit", commit) and not (
            within is None and await io.blocking(in_use, "vers_version", commit)
        ):
            with contextlib.suppress(Gone, VersError):
                await client.delete_commit(commit)
