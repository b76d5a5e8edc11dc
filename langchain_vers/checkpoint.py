"""`VersSaver`: a LangGraph checkpointer that versions the machine with the conversation.

It wraps any other saver and adds two things to what passes through: to each checkpoint's metadata, which machine in which version belongs
to it, and to each finished task's writes, what the task did to the machine. A checkpoint that ends a superstep which changed the machine is
stored when the commit of the machine is made, so that no stored checkpoint promises a machine that cannot be had. What happens to machines
is decided in `ledger.py` and done by `versions.py`.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)

from langchain_vers._io import io
from langchain_vers.context import BackendContext
from langchain_vers.database import RESERVED_THREAD, Database, config_of
from langchain_vers.errors import BadInput
from langchain_vers.ledger import Ledger
from langchain_vers.points import Points
from langchain_vers.reads import Reads, ends, step_around
from langchain_vers.reclaim import ThreadEnds
from langchain_vers.records import CHANNEL, Record, accept, acknowledgement, read_record, visible
from langchain_vers.steps import Closing, Key, run_of
from langchain_vers.versions import Policy, Versions
from langchain_vers.workers import lane_of

_NO_TASK = "00000000-0000-0000-0000-000000000000"
_FAILED = {"__interrupt__", "__error__"}
_CONTROL = {*_FAILED, "__resume__", "__error_source_node__", "__scheduled__"}
_RETURNED = "__return__"
"""What a finished task of the functional API writes: each is a step of its own."""
_OPTIONAL = ("copy_thread", "delete_for_runs", "prune")
_ASYNC = ("aget_tuple", "aput", "aput_writes", "alist", "adelete_thread")

_types: dict[tuple[type, type], type] = {}


def _fitted(cls: type[VersSaver], inner: type) -> type[VersSaver]:
    """`VersSaver` with the capabilities of the inner saver, which callers detect on the type."""
    if (cls, inner) not in _types:
        absent: dict[str, Any] = {}
        for name in (name for optional in _OPTIONAL for name in (optional, f"a{optional}")):
            if getattr(inner, name, None) in {None, getattr(BaseCheckpointSaver, name)}:
                absent[name] = getattr(BaseCheckpointSaver, name)
        _types[cls, inner] = type(cls.__name__, (cls,), {**absent, "__module__": cls.__module__, "__doc__": cls.__doc__})
    return _types[cls, inner]


class VersSaver(Points, ThreadEnds, BaseCheckpointSaver[Any]):
    """Wraps a checkpointer, so that a thread's machine is restored, rewound and forked with its conversation.

    Args:
        inner: the saver that stores: in memory, SQLite, Postgres, or any other. It must be set up; the wrapper can do what it can.
        context: the one that the graph's tools were made with.
        commit: when versions are committed. "step": after each superstep that changed the machine. "turn": when a run ends or is
            interrupted; going back to a checkpoint in between is refused, naming the nearest commit. "manual": when `commit` is called.
        keep_commits: how many of a thread's newest commits are kept; None keeps all. Those of interrupts and heads are always kept.
        lease: seconds for which a machine stays this process's when the process falls silent in the middle of a run.

    Raises:
        BadInput: an argument that makes no sense.
    """

    def __new__(cls, inner: BaseCheckpointSaver[Any] | None = None, *_: object, **__: object) -> Self:
        """An instance of a subclass that has exactly the inner saver's capabilities; without arguments, an empty one to copy into."""
        return cast("Self", super().__new__(cls if inner is None else _fitted(cls, type(inner))))

    def __init__(
        self,
        inner: BaseCheckpointSaver[Any],
        context: BackendContext,
        commit: Policy = "step",
        *,
        keep_commits: int | None = None,
        lease: float = 60.0,
    ) -> None:
        if not isinstance(inner, BaseCheckpointSaver) or isinstance(inner, VersSaver):
            raise BadInput(f"VersSaver wraps a LangGraph checkpointer, not a {type(inner).__name__}")
        if commit not in {"step", "turn", "manual"}:
            raise BadInput(f'commit must be "step", "turn" or "manual", not {commit!r}')
        if not isinstance(context, BackendContext):
            raise BadInput(f"VersSaver needs the BackendContext of the graph's tools, not a {type(context).__name__}")
        if keep_commits is not None and (isinstance(keep_commits, bool) or not isinstance(keep_commits, int) or keep_commits < 1):
            raise BadInput(f"keep_commits must be a whole number of at least 1, or None to keep all, not {keep_commits!r}")
        if isinstance(lease, bool) or not isinstance(lease, int | float) or not 1 <= lease <= 86_400:
            raise BadInput(f"lease must be a number of seconds from 1 to 86400, not {lease!r}")
        self.inner = inner
        self.context = context
        self.keep_commits = keep_commits
        self.database = Database(inner)
        self.ledger = Ledger()
        self.versions = Versions(context, self.ledger, self.database, policy=commit, lease=lease)
        self._read = Reads()
        context.savers.add(self)

    # --- what is the inner saver's ---

    @property
    def serde(self) -> Any:  # noqa: ANN401  # the inner saver's serializer
        """The inner saver's serializer."""
        return self.inner.serde

    @serde.setter
    def serde(self, value: Any) -> None:  # noqa: ANN401  # as above
        self.inner.serde = value

    @property
    def config_specs(self) -> list[Any]:
        """See the inner saver."""
        return self.inner.config_specs

    def get_next_version(self, current: Any, channel: None) -> Any:  # noqa: ANN401  # the inner saver's versions
        """See the inner saver."""
        return self.inner.get_next_version(current, channel)

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> BaseCheckpointSaver[Any]:
        """See the inner saver. What is known of machines is shared with the copy."""
        inner = self.inner.with_allowlist(extra_allowlist)
        if inner is self.inner:
            return self
        clone = copy.copy(self)
        clone.inner = inner
        self.context.savers.add(clone)
        return clone

    def get_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        """See the inner saver."""
        return self.inner.get_delta_channel_history(config=config, channels=channels)

    async def aget_delta_channel_history(self, *, config: RunnableConfig, channels: Sequence[str]) -> Mapping[str, DeltaChannelHistory]:
        """See the inner saver."""
        return await self.inner.aget_delta_channel_history(config=config, channels=channels)

    # --- reading ---

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `BaseCheckpointSaver.get_tuple`. Results of tasks that no version of the machine has are left out: these tasks run again."""
        return self._seen(config, self.inner.get_tuple(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """See `get_tuple`."""
        self.needs_async("aget_tuple")
        return self._seen(config, await self.inner.aget_tuple(config))

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # as the parent
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """See `BaseCheckpointSaver.list`. The machine's facts can be filtered by, such as `{"vers_commit": ...}`."""
        replayed = self._replayed(config)
        for found in self.inner.list(config, filter=filter, before=before, limit=limit):
            shown = _shown(found) if replayed is None else self._seen(replayed, found)
            if shown is not None:
                yield shown

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # as the parent
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """See `list`."""
        self.needs_async("alist")
        replayed = self._replayed(config)
        async for found in self.inner.alist(config, filter=filter, before=before, limit=limit):
            shown = _shown(found) if replayed is None else self._seen(replayed, found)
            if shown is not None:
                yield shown

    def _replayed(self, config: RunnableConfig | None) -> RunnableConfig | None:
        """The config by which a nested graph looks for its checkpoint when the graph around it goes back in time; None for mere looking."""
        configurable = (config or {}).get("configurable") or {}
        if config is None or configurable.get("__pregel_replay_state") is None or not configurable.get("checkpoint_ns"):
            return None
        self.ledger.mark_namespace(str(configurable["thread_id"]), str(configurable["checkpoint_ns"]))
        return config

    def _seen(self, config: RunnableConfig, found: CheckpointTuple | None) -> CheckpointTuple | None:
        configurable = config["configurable"]
        thread, namespace = str(configurable["thread_id"]), str(configurable.get("checkpoint_ns") or "")
        self.ledger.mark_namespace(thread, namespace)
        if found is None:
            return None
        run = run_of(configurable)
        if self._read.compares(thread, namespace, run, named=bool(configurable.get("checkpoint_id"))):
            return _shown(found)
        key = Key(thread, namespace, found.checkpoint["id"])
        record = read_record(found.metadata)
        around = step_around(thread, namespace, configurable.get("checkpoint_map"))
        if (
            around is not None
            and not configurable.get("checkpoint_id")
            and self.ledger.repeats(key, around)
            and (found.metadata.get("parents") or {}).get(around.namespace) == around.checkpoint
        ):
            # Branches of the step around it shared the machine, and were broken off: they are repeated together.
            return None
        accepted = accept(found.pending_writes or ())
        own = accepted.before.record if accepted.before is not None else record
        self.ledger.load(key, own, accepted, around, lane=lane_of(configurable), run=run)
        shown = visible(found.pending_writes or (), accepted)
        self._read.remember(key, found.checkpoint, own, [value for _, _, value in shown])
        return found._replace(pending_writes=shown) if found.pending_writes else found

    # --- checkpoints ---

    def put(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """See `BaseCheckpointSaver.put`. Waits for the commit that the checkpoint needs."""
        if (outer := self._outer(config, metadata)) is not None:
            io.run(self.versions.passed(outer))
        parent = self._parent(config)
        with self._breaking_off(config):
            found = None if parent is None else self.inner.get_tuple(parent)
            known = None if found is None else read_record(found.metadata)
            closing, plan = self._closing(config, checkpoint, metadata, known)
            if closing.live is not None and closing.machine_id is not None:
                closing = io.run(self.versions.seal(closing.machine_id, plan, always=self._ends_turn(checkpoint, metadata)))
            stored = self.inner.put(config, checkpoint, self._noted(config, closing, metadata), new_versions)
        self._stored(config, checkpoint, closing)
        return stored

    async def aput(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, new_versions: ChannelVersions
    ) -> RunnableConfig:
        """See `put`."""
        self.needs_async("aput")
        if (outer := self._outer(config, metadata)) is not None:
            await io.on_io(self.versions.passed(outer))
        parent = self._parent(config)
        with self._breaking_off(config):
            known = (
                read_record(found.metadata) if parent is not None and (found := await self.inner.aget_tuple(parent)) is not None else None
            )
            closing, plan = self._closing(config, checkpoint, metadata, known)
            if closing.live is not None and closing.machine_id is not None:
                closing = await io.on_io(self.versions.seal(closing.machine_id, plan, always=self._ends_turn(checkpoint, metadata)))
            stored = await self.inner.aput(config, checkpoint, self._noted(config, closing, metadata), new_versions)
        self._stored(config, checkpoint, closing)
        return stored

    @contextmanager
    def _breaking_off(self, config: RunnableConfig) -> Iterator[None]:
        """Around the storing of a checkpoint: if it fails, calls that wait for the checkpoints after it are told."""
        try:
            yield
        except BaseException:
            self.ledger.break_off(str(config["configurable"]["thread_id"]))
            raise

    def _ends_turn(self, checkpoint: Checkpoint, metadata: CheckpointMetadata) -> bool:
        """Whether a turn ends with a checkpoint, or has ended before it, and its last version is therefore to be committed."""
        return self.versions.policy == "turn" and (metadata.get("source") == "input" or ends(checkpoint))

    def _parent(self, config: RunnableConfig) -> RunnableConfig | None:
        """The config of a checkpoint's parent if it has to be read, because nothing is known of it."""
        configurable = config["configurable"]
        parent = configurable.get("checkpoint_id")
        if parent is None:
            return None
        thread, namespace = str(configurable["thread_id"]), str(configurable.get("checkpoint_ns") or "")
        if self.ledger.step(Key(thread, namespace, parent)) is not None:
            return None
        return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": parent}}

    def _outer(self, config: RunnableConfig, metadata: CheckpointMetadata) -> Key | None:
        """The step around a nested graph that begins. Its checkpoint may still be waiting for a commit; with "exit" it never comes."""
        configurable = config["configurable"]
        begins = metadata.get("source") == "input" or configurable.get("checkpoint_id") is None
        if not begins or configurable.get("__pregel_durability") == "exit":
            return None
        around = step_around(str(configurable["thread_id"]), str(configurable.get("checkpoint_ns") or ""), metadata.get("parents"))
        return None if around is None or self.ledger.step(around) is not None else around

    def _closing(
        self, config: RunnableConfig, checkpoint: Checkpoint, metadata: CheckpointMetadata, known: Record | None
    ) -> tuple[Closing, Callable[[], Closing]]:
        """What a checkpoint will say, and the function that says it again when its machine is at rest."""
        configurable = config["configurable"]
        thread, namespace = str(configurable["thread_id"]), str(configurable.get("checkpoint_ns") or "")
        key, lane = Key(thread, namespace, checkpoint["id"]), lane_of(configurable)
        parent = None if (before := configurable.get("checkpoint_id")) is None else Key(thread, namespace, before)
        source = metadata.get("source")
        if source == "loop" and run_of(configurable) is None and (as_it_says := read_record(metadata)) is not None:
            # Nothing runs: a thread is being copied, checkpoint by checkpoint, as LangGraph Server does where a saver has no `copy_thread`.
            taken = Closing(key, as_it_says)
            return taken, lambda: taken
        around = step_around(thread, namespace, metadata.get("parents")) if source == "input" or parent is None else None
        copied = self._read.copied(key, checkpoint) if source == "fork" else None
        results = source == "update" and parent is not None and self._read.takes_results(parent, checkpoint)

        def plan() -> Closing:
            if source == "loop" and parent is not None:
                closing = self.ledger.close(key, parent, lane, known)
            else:
                closing = self.ledger.inherit(key, parent, around, lane, copied=copied, known=known, results=results)
            return self.ledger.uncommitted(closing) if self._ends_turn(checkpoint, metadata) else closing

        return plan(), plan

    def _noted(self, config: RunnableConfig, closing: Closing, metadata: CheckpointMetadata) -> CheckpointMetadata:
        """The metadata that is stored. The machine is known to be at this checkpoint from here on, while the database is still writing."""
        configurable = config["configurable"]
        parent = closing.key._replace(checkpoint=before) if (before := configurable.get("checkpoint_id")) else None
        run = run_of(configurable)
        self._read.goes_on(closing.key.thread, closing.key.namespace, run)
        self.ledger.enter(closing.key, closing.record, lane_of(configurable), parent, run)
        if metadata.get("source") == "loop" and parent is not None:
            self.ledger.end(parent)
        if closing.record is None:
            return metadata
        kept = {name: value for name, value in metadata.items() if not name.startswith("vers_")}
        return cast("CheckpointMetadata", {**kept, **closing.record.metadata()})

    def _stored(self, config: RunnableConfig, checkpoint: Checkpoint, closing: Closing) -> None:
        record = closing.record
        if record is None or record.attachment.machine_id is None or closing.key.namespace:
            return
        if ends(checkpoint):
            io.submit(self._end_turn(record.attachment.machine_id, closing.key.thread))

    async def _end_turn(self, machine_id: str, thread: str) -> None:
        """What is done when a turn has ended, without anybody waiting for it."""
        link = self.context.link
        link.afterwards(self.versions.release(machine_id))
        if self.keep_commits is not None:
            link.afterwards(self.retain(thread))

    # --- results of tasks ---

    def put_writes(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        """See `BaseCheckpointSaver.put_writes`. What the task did to the machine is stored with its result, or not at all."""
        key, noted, settles = self._task(config, writes, task_id, task_path)
        self.inner.put_writes(config, noted, task_id, task_path)
        if settles and (row := io.run(self._settle(key))) is not None:
            self.database.write(key, row)

    async def aput_writes(self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = "") -> None:
        """See `put_writes`."""
        self.needs_async("aput_writes")
        key, noted, settles = self._task(config, writes, task_id, task_path)
        await self.inner.aput_writes(config, noted, task_id, task_path)
        if settles and (row := await io.on_io(self._settle(key))) is not None:
            await self.inner.aput_writes(config_of(key), [(CHANNEL, row)], str(uuid.uuid4()), "")

    def _task(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task: str, path: str
    ) -> tuple[Key, Sequence[tuple[str, Any]], bool]:
        """The step, the writes as they are stored, and whether the machine may have a version now."""
        configurable = config["configurable"]
        key = Key(str(configurable["thread_id"]), str(configurable.get("checkpoint_ns") or ""), str(configurable["checkpoint_id"]))
        channels = {channel for channel, _ in writes}
        self._read.goes_on(key.thread, key.namespace, run_of(configurable))
        step = self.ledger.step(key)
        if channels & _FAILED and task != _NO_TASK:
            self.ledger.fail(key, task)
            return key, writes, step is not None
        if step is None or task == _NO_TASK:
            return key, writes, False
        if channels <= _CONTROL:
            return key, writes, False
        calls, snapshot = self.ledger.acknowledge(key, task, path.rpartition(", ")[2])
        if calls:
            writes = [*writes, (CHANNEL, acknowledgement(calls, snapshot))]
        returned = _RETURNED in channels and self.versions.policy == "step"
        return key, writes, step.failed or (bool(calls) and returned)

    async def _settle(self, key: Key) -> dict[str, Any] | None:
        """Make a version in the middle of a step, if the machine holds nothing but stored results; the row that tells of it."""
        closing = self.ledger.settled(key)
        if closing is not None and closing.machine_id is not None:
            always = self.versions.policy == "turn"
            await self.versions.seal(closing.machine_id, lambda: self.ledger.settled(key) or Closing(key, None), always=always)
        snapshot = self.ledger.snapshot(key)
        return None if snapshot is None else snapshot.row()

    def identity(self) -> str:
        """The database's own name, a UUID that is stored in it when it is first asked for. VMs and commits carry it."""
        return self.database.identity()

    def needs_async(self, name: str) -> None:
        """Refuse an async method of an inner saver that has none."""
        if getattr(type(self.inner), name) is getattr(BaseCheckpointSaver, name):
            kind = type(self.inner).__name__
            raise NotImplementedError(
                f"{kind} cannot be used by async code; wrap Async{kind} in VersSaver instead, or call the graph's sync methods"
            )


def _shown(found: CheckpointTuple) -> CheckpointTuple | None:
    if found.config["configurable"]["thread_id"] == RESERVED_THREAD:
        return None
    if not found.pending_writes:
        return found
    return found._replace(pending_writes=visible(found.pending_writes, accept(found.pending_writes)))
