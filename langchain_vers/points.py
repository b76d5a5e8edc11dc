"""Points of a conversation, for programs: the commit of a checkpoint, its machine to look at, and a new head that goes on from it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import replace
from datetime import UTC, datetime
from typing import cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.base.id import uuid6

from langchain_vers._io import io
from langchain_vers.attachment import Attachment
from langchain_vers.errors import BadInput, Gone
from langchain_vers.ledger import Ledger
from langchain_vers.reads import Reads
from langchain_vers.records import read_record
from langchain_vers.steps import Key, Step
from langchain_vers.versions import Versions


class Points(ABC):
    """The part of `VersSaver` that a program calls itself."""

    ledger: Ledger
    versions: Versions
    _read: Reads

    @abstractmethod
    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """As of `BaseCheckpointSaver`."""

    @abstractmethod
    def put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """As of `BaseCheckpointSaver`."""

    def commit(self, config: RunnableConfig) -> str:
        """Commit the machine of a thread as it is at its latest checkpoint, or at the one that `config` names; the commit's id.

        Raises:
            BadInput: there is no such checkpoint, or its thread has no VM.
            Conflict: the machine has moved on, and there is no commit.
        """
        return io.run(self.versions.commit_at(*self._recorded(config)))

    async def acommit(self, config: RunnableConfig) -> str:
        """See `commit`."""
        return await io.on_io(self.versions.commit_at(*await asyncio.to_thread(self._recorded, config)))

    def machine_at(self, config: RunnableConfig) -> Attachment:
        """A new VM as the machine was at a checkpoint, to look at. No thread is moved, and the caller deletes the VM.

        Raises:
            BadInput, Conflict, Gone: as `commit`.
        """
        key, step = self._recorded(config)
        return io.run(self.versions.machine_at(key, step))

    async def amachine_at(self, config: RunnableConfig) -> Attachment:
        """See `machine_at`."""
        key, step = await asyncio.to_thread(self._recorded, config)
        return await io.on_io(self.versions.machine_at(key, step))

    def fork(self, config: RunnableConfig, machine: Attachment | None = None) -> RunnableConfig:
        """A new head of the thread that continues from a checkpoint; its config.

        The machine follows with the first call, unless `machine` is given: one that `machine_at` made for this very checkpoint.

        Raises:
            BadInput: the config names no thread.
            Gone: there is no such checkpoint.
        """
        found = self.get_tuple(_naming_a_thread(config))
        if found is None:
            raise _no_checkpoint(config)
        record = read_record(found.metadata)
        if machine is not None and record is not None:
            key = Key(str(found.config["configurable"]["thread_id"]), str(config["configurable"].get("checkpoint_ns") or ""), "")
            here = record.attachment.moved(machine_id=machine.machine_id, host_key=machine.host_key)
            self._read.remember(key, found.checkpoint, replace(record, attachment=here))
        checkpoint = cast("Checkpoint", {**found.checkpoint, "id": str(uuid6(clock_seq=-2)), "ts": datetime.now(UTC).isoformat()})
        where = found.config["configurable"]
        parent = found.parent_config["configurable"].get("checkpoint_id") if found.parent_config is not None else None
        base: RunnableConfig = {
            "configurable": {"thread_id": where["thread_id"], "checkpoint_ns": where.get("checkpoint_ns", ""), "checkpoint_id": parent}
        }
        kept = {name: value for name, value in found.metadata.items() if name in {"parents", "counters_since_delta_snapshot"}}
        metadata = {**kept, "source": "fork", "step": found.metadata.get("step", -1) + 1}
        return self.put(base, checkpoint, cast("CheckpointMetadata", metadata), {})

    async def afork(self, config: RunnableConfig, machine: Attachment | None = None) -> RunnableConfig:
        """See `fork`."""
        return await asyncio.to_thread(self.fork, config, machine)

    def _recorded(self, config: RunnableConfig) -> tuple[Key, Step]:
        found = self.get_tuple(_naming_a_thread(config))
        if found is None:
            raise _no_checkpoint(config)
        thread, namespace = str(config["configurable"]["thread_id"]), str(config["configurable"].get("checkpoint_ns") or "")
        key = Key(thread, namespace, found.checkpoint["id"])
        step = self.ledger.step(key)
        if step is None or step.record is None or step.record.attachment.machine_id is None:
            raise BadInput(f"checkpoint {key.checkpoint} of thread {thread} has no VM; langchain-vers history shows those that have one")
        return key, step


def _naming_a_thread(config: RunnableConfig) -> RunnableConfig:
    if (config.get("configurable") or {}).get("thread_id") is None:
        raise BadInput('the config names no thread; give {"configurable": {"thread_id": ...}}, and a checkpoint_id for an earlier point')
    return config


def _no_checkpoint(config: RunnableConfig) -> Gone:
    configurable = config["configurable"]
    return Gone(
        f"thread {configurable.get('thread_id')} has no checkpoint {configurable.get('checkpoint_id') or 'yet'}; "
        "langchain-vers history lists those that there are"
    )
