"""What is stored in a saver's database beside the conversations: its own name, and rows among the pending writes of checkpoints.

Only the common methods of savers are used, so that any will do. The methods block; `Versions` calls them from other threads.
"""

from __future__ import annotations

import uuid
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, CheckpointMetadata

from langchain_vers.records import CHANNEL, FORMAT, Record, accept, check_format, read_record
from langchain_vers.steps import Key

RESERVED_THREAD = "langchain-vers"
"""The thread under which the database's own name is stored."""
_ANCESTORS = 20
"""How many earlier commits are looked for when a checkpoint's own is missing."""
_IDENTITY = "00000000-0000-6000-8000-000000000001"


class Database:
    """The part of a saver's database that is ours."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        self._saver = saver
        self._identity: str | None = None

    def identity(self) -> str:
        """The database's own name, a UUID that is stored in it when it is first asked for.

        Raises:
            Unsupported: it was stored in another format.
        """
        if self._identity is None:
            found = database_identity(self._saver)
            if found is None:
                at = Key(RESERVED_THREAD, "", _IDENTITY)
                base = {"configurable": {**config_of(at)["configurable"], "checkpoint_id": None}}
                stub = {"v": 1, "id": _IDENTITY, "ts": "", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}
                self._saver.put(cast("RunnableConfig", base), cast("Checkpoint", stub), cast("CheckpointMetadata", {"step": -2}), {})
                # Of several processes that do this at once the first one's row stays: savers keep the first write of a task.
                row = {"format": FORMAT, "identity": str(uuid.uuid4())}
                self._saver.put_writes(config_of(at), [(CHANNEL, row)], _IDENTITY, "")
                found = database_identity(self._saver)
            self._identity = found
        assert self._identity is not None
        return self._identity

    def write(self, key: Key, row: dict[str, Any]) -> None:
        """Store a row with a checkpoint."""
        self._saver.put_writes(config_of(key), [(CHANNEL, row)], str(uuid.uuid4()), "")

    def baseline(self, thread: str, machine_id: str) -> Record | None:
        """The first version that a thread has recorded of a machine, None if there is none."""
        first: Record | None = None
        for found in self._saver.list(thread_config(thread)):  # newest first
            inside = [snapshot for write in found.pending_writes or () if (snapshot := accept([write]).snapshot) is not None]
            for record in (read_record(found.metadata), *(snapshot.record for snapshot in inside if snapshot.own)):
                if record is not None and record.version is not None and record.attachment.machine_id == machine_id:
                    first = record
        return first

    def earlier(self, key: Key, missing: str | None) -> list[str]:
        """The commits of a checkpoint and its ancestors, the nearest first, without one that is known to be missing."""
        commits: dict[str, None] = {}
        config: RunnableConfig | None = config_of(key)
        while config is not None and len(commits) < _ANCESTORS:
            found = self._saver.get_tuple(config)
            record = None if found is None else read_record(found.metadata)
            if record is not None and record.commit not in {None, missing}:
                commits[str(record.commit)] = None
            config = None if found is None else found.parent_config
        return list(commits)


def database_identity(saver: BaseCheckpointSaver[Any]) -> str | None:
    """The name of a saver's database, None if no `VersSaver` has given it one yet.

    Raises:
        Unsupported: it was stored in another format.
    """
    found = saver.get_tuple(config_of(Key(RESERVED_THREAD, "", _IDENTITY)))
    for _, channel, row in (found.pending_writes or ()) if found is not None else ():
        if channel == CHANNEL:
            check_format(row["format"])
            return str(row["identity"])
    return None


def config_of(key: Key) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {"configurable": {"thread_id": key.thread, "checkpoint_ns": key.namespace, "checkpoint_id": key.checkpoint}}


def thread_config(thread: str) -> RunnableConfig:
    """The config that names a thread, with all its namespaces."""
    return {"configurable": {"thread_id": thread}}
