"""Finding and deleting what no checkpoint needs any more: VMs and commits that were made for the threads of a database.

Machines outlive the checkpoints that refer to them: threads are deleted, histories pruned, processes killed between making a machine and
storing the checkpoint for it. What belongs to a database is told by its identity, in a VM's label and in a commit's name; nothing else is
ever touched.

    found = await find_orphans(client, saver)
    failures = await delete_orphans(client, found.orphans)

A copy of a database has the same identity. What only the original refers to is an orphan for the copy: collect from one of them only.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_vers.checkpoint import VersSaver
from langchain_vers.database import RESERVED_THREAD, database_identity
from langchain_vers.errors import BadInput, Gone, VersError
from langchain_vers.platform.client import VersClient
from langchain_vers.platform.models import CommitInfo
from langchain_vers.records import CHANNEL

Saver = BaseCheckpointSaver[Any]
"""Any checkpointer of LangGraph."""

GRACE_SECONDS = 3600.0
"""Seconds. What is younger may be about to be referred to, by the checkpoint of a run that is under way."""
THREAD_LABEL = "langchain-vers-thread"
"""The label of a VM that says for which thread it was made."""
DATABASE_LABEL = "langchain-vers-database"
"""The label of a VM that says to which database its thread belongs, by the database's identity."""
COMMIT_PREFIX = "langchain-vers/"
"""What the names of commits begin with that a `VersSaver` made; the database's identity and the thread follow."""

_PAGE = 100
_REFERRING = ("vers_machine", "vers_commit", "vers_version", "vers_nearest")
_UUID = re.compile(r"(?<![0-9a-f])[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}(?![0-9a-f])")


@dataclass(frozen=True)
class Orphan:
    """A VM or commit that belongs to a database and that none of its checkpoints refers to.

    Attributes:
        kind: which of the two.
        id: its id.
        thread: the thread that it was made for.
        created_at: when it was made, None if that is not known.
    """

    kind: Literal["vm", "commit"]
    id: str
    thread: str
    created_at: datetime | None


@dataclass(frozen=True)
class Findings:
    """What was found.

    Attributes:
        identity: the database's; None if it has none, and nothing can belong to it.
        orphans: what can be deleted, VMs first, each kind with the oldest first.
        spared: orphans that are too young to be sure.
    """

    identity: str | None
    orphans: tuple[Orphan, ...] = ()
    spared: tuple[Orphan, ...] = ()


@dataclass(frozen=True)
class Failure:
    """An orphan that could not be deleted.

    Attributes:
        orphan: which.
        error: why.
    """

    orphan: Orphan
    error: VersError


async def find_orphans(client: VersClient, saver: Saver, *, grace: float = GRACE_SECONDS) -> Findings:
    """The VMs and commits that belong to a saver's database and that none of its checkpoints refers to. Changes nothing.

    Args:
        client: the platform that the machines are on.
        saver: a `VersSaver` or the saver within it, sync or async; every checkpoint of every thread is read.
        grace: how many seconds ago something must have been made to count. A run refers to what it makes when its superstep ends, so this
            must be longer than any superstep takes; 0 is safe only where no run is under way.

    Raises:
        BadInput: `grace` is negative, or not a number.
        VersError: the platform does not answer.
    """
    if not grace >= 0:
        raise BadInput(f"The grace period cannot be {grace} s; give 0 or more.")
    inner = saver.inner if isinstance(saver, VersSaver) else saver
    identity = await asyncio.to_thread(database_identity, inner)
    if identity is None:
        return Findings(None)
    # The platform is asked first: what is made, or referred to again, while the database is read is then never taken for an orphan.
    owned = [*await _owned_vms(client, identity), *await _owned_commits(client, identity)]
    if not owned:
        return Findings(identity)
    referred = await _references(inner)
    now = datetime.now(UTC)
    orphans = [each for each in owned if _plain(each.id) not in referred]
    old = [each for each in orphans if not grace or (each.created_at is not None and (now - each.created_at).total_seconds() >= grace)]
    young = [each for each in orphans if each not in old]
    return Findings(identity, tuple(sorted(old, key=_order)), tuple(sorted(young, key=_order)))


async def delete_orphans(client: VersClient, orphans: Iterable[Orphan]) -> list[Failure]:
    """Delete VMs, then commits; what cannot be deleted is reported, and the rest goes on. What is gone already counts as deleted."""
    failures = []
    for orphan in sorted(orphans, key=_order):
        try:
            await (client.delete_vm(orphan.id) if orphan.kind == "vm" else client.delete_commit(orphan.id))
        except Gone:
            continue
        except VersError as error:
            failures.append(Failure(orphan, error))
    return failures


# --- what the platform has ---


async def _owned_vms(client: VersClient, identity: str) -> list[Orphan]:
    return [
        Orphan("vm", vm.vm_id, vm.labels.get(THREAD_LABEL, ""), vm.created_at)
        for vm in await client.list_vms()
        if vm.labels.get(DATABASE_LABEL) == identity
    ]


async def _owned_commits(client: VersClient, identity: str) -> list[Orphan]:
    """Page by page; commits that are made meanwhile shift the pages, so that one may be seen twice, and are too young to matter."""
    prefix = f"{COMMIT_PREFIX}{identity}/"
    found: dict[str, Orphan] = {}
    offset = 0
    while True:
        page = await client.list_commits(limit=_PAGE, offset=offset)
        for commit in page.commits:
            if commit.name.startswith(prefix):
                found[commit.commit_id] = Orphan("commit", commit.commit_id, commit.name.removeprefix(prefix), _made(commit))
        offset += len(page.commits)
        if not page.commits or offset >= page.total:
            return list(found.values())


def _made(commit: CommitInfo) -> datetime | None:
    try:
        moment = datetime.fromisoformat(commit.created_at)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _order(orphan: Orphan) -> tuple[bool, datetime, str]:
    return orphan.kind != "vm", orphan.created_at or datetime.min.replace(tzinfo=UTC), orphan.id


# --- what the database refers to ---


async def _references(saver: Saver) -> set[str]:
    """The ids, without hyphens, that any checkpoint of any thread refers to."""
    found: set[str] = set()
    try:
        async for each in saver.alist(None):
            found |= _references_of(each)
    except NotImplementedError:  # a saver with sync methods only
        return await asyncio.to_thread(lambda: set().union(*map(_references_of, saver.list(None))))
    return found


def _references_of(each: CheckpointTuple) -> set[str]:
    metadata: Mapping[str, Any] = each.metadata or {}
    found = {_plain(value) for name in _REFERRING if isinstance(value := metadata.get(name), str)}
    own = str(each.config["configurable"]["thread_id"]) == RESERVED_THREAD
    for _, channel, value, *_ in each.pending_writes or ():
        if own or channel == CHANNEL:
            found |= _uuids(value)
    return found | _uuids([metadata, each.checkpoint.get("channel_values")]) if own else found


def _uuids(value: object) -> set[str]:
    """Every UUID anywhere in a value: a row that was written by a later version of this package refers to machines as well."""
    stored = JsonPlusSerializer().dumps_typed(value)[1].decode("latin-1")
    return {_plain(one) for text in (stored, repr(value)) for one in _UUID.findall(text.lower())}


def _plain(identity: str) -> str:
    return identity.lower().replace("-", "")
