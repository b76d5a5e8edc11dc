"""The machine of a conversation for a program that looks at it, or takes something from it, outside of any call.

It is the machine where the conversation is now, or at the checkpoint that is named: not the one where its last call happened to be, which
may stand on another branch by now. If no machine is in that state any more, one is restored for the look, and deleted afterwards; no
thread is moved, and no checkpoint is made.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_core.runnables import RunnableConfig

from langchain_vers.attachment import HERE, PROMISED, Attachment
from langchain_vers.backends.base import Backend
from langchain_vers.backends.stamps import Stamp
from langchain_vers.errors import BadInput, Gone, VersError
from langchain_vers.steps import Key, Step
from langchain_vers.turns import is_running, place_of, thread_of

if TYPE_CHECKING:
    from langchain_vers.checkpoint import VersSaver
    from langchain_vers.context import BackendContext
    from langchain_vers.versions import Versions


@dataclass(frozen=True)
class Look:
    """A machine to look at."""

    attachment: Attachment
    backend: Backend
    changing: Callable[[], AbstractAsyncContextManager[Backend]]
    """Around what is to be noted on the machine: the backend to do it with."""
    passing: bool = False
    """Whether the machine was made for this look, so that there is no use in noting anything on it."""


Recorded = tuple["VersSaver", Key, Step]
"""The saver that knows a thread, and the checkpoint that is meant."""


def recorded(context: BackendContext, config: RunnableConfig | None, savers: Iterable[VersSaver] | None = None) -> Recorded | None:
    """What is recorded of a thread now, or of the checkpoint that `config` names; None if no saver knows the thread, or its run asks.

    `savers`: those that may know it; by default all of the context, among them perhaps some whose database somebody has closed.

    It reads the database, so it is called by whoever asks, as are other methods of savers; not on the I/O thread.

    Raises:
        Gone: there is no such checkpoint.
        BadInput: several savers of the context know the thread.
    """
    configurable = (config or {}).get("configurable") or {}
    if configurable.get("thread_id") is None or is_running(config):
        return None
    thread, checkpoint = str(configurable["thread_id"]), configurable.get("checkpoint_id")
    named = {} if checkpoint is None else {"checkpoint_id": str(checkpoint)}
    there: RunnableConfig = {"configurable": {"thread_id": thread, "checkpoint_ns": "", **named}}
    found: dict[int, Recorded] = {}
    for saver in list(context.savers if savers is None else savers):
        known = saver.get_tuple(there)
        key = None if known is None else Key(thread, "", known.checkpoint["id"])
        if key is not None and (step := saver.ledger.step(key)) is not None:
            found[id(saver.ledger)] = saver, key, step  # copies of a saver share its books
    if len(found) > 1:
        raise BadInput(f"several VersSavers of one context know a thread {thread}; give each database a context of its own")
    if not found and checkpoint is not None:
        raise Gone(f"no VersSaver of this context has a checkpoint {checkpoint} of thread {thread}; langchain-vers history lists them")
    return next(iter(found.values()), None)


async def attachment_of(context: BackendContext, config: RunnableConfig | None, found: Recorded | None) -> tuple[Attachment, bool]:
    """Where a conversation is now, or was at the checkpoint that `config` names, and whether that stands in its record.

    Coroutine of the I/O thread. `found` is what `recorded` has said.
    """
    configurable, thread = (config or {}).get("configurable") or {}, thread_of(config)
    if found is None or (configurable.get("checkpoint_id") is None and context.whereabouts.is_told(thread)):
        return await context.attachment(thread), False
    record = found[2].record
    return (await context.beginning(), False) if record is None else (record.attachment, True)


@asynccontextmanager
async def machine_of(context: BackendContext, config: RunnableConfig | None, found: Recorded | None) -> AsyncIterator[Look | None]:
    """The machine of a thread now, or at the checkpoint that `config` names; None if that is this one, or not made yet.

    Coroutine of the I/O thread. `found` is what `recorded` has said.

    Raises:
        Gone: the machine does not exist any more, and was in no commit.
        Conflict: it has moved on, and there is no commit.
    """
    if is_running(config):
        place = place_of(config or {}, None, None, lambda name, arguments: False)
        if (attachment := await context.attachment_at(place)) == PROMISED:
            yield None
            return
        route = await context.way(place, attachment)

        @asynccontextmanager
        async def changing() -> AsyncIterator[Backend]:
            async with context.changing(place, route) as changed:
                yield changed.backend

        yield None if route.attachment.backend == HERE.backend else Look(route.attachment, route.backend, changing)
        return
    attachment, follows = await attachment_of(context, config, found)
    if follows and found is not None and _goes_along(attachment):
        saver, key, step = found
        if not await _is_there(saver.versions, key, step):
            async with _restored(context, saver.versions, key, step) as (made, backend):
                yield Look(made, backend, _as_it_is(backend), passing=True)
            return
    if attachment.backend == HERE.backend or attachment == PROMISED:
        yield None
        return
    backend = await context.backend_of(attachment)
    yield Look(attachment, backend, _as_it_is(backend))


def _goes_along(attachment: Attachment) -> bool:
    return attachment.backend == "vers" and attachment.machine_id is not None and not attachment.shared


async def _is_there(versions: Versions, key: Key, step: Step) -> bool:
    """Whether the machine of a checkpoint is still in its state, or in the middle of the step that follows."""
    record = step.record
    assert record is not None and record.attachment.machine_id is not None
    machine_id = record.attachment.machine_id
    try:
        stamp: Stamp | None = await (await versions.context.machine(machine_id, record.attachment.host_key)).look()
    except Gone:
        if (record.commit or record.version) is None:
            raise
        return False
    live = versions.ledger.machines.get(machine_id)
    if live is not None and live.root == key and live.calls and not live.tainted:
        return True
    return stamp is None or record.version in {None, stamp.version}


@asynccontextmanager
async def _restored(context: BackendContext, versions: Versions, key: Key, step: Step) -> AsyncIterator[tuple[Attachment, Backend]]:
    """A machine in the state of a checkpoint, for as long as this lasts."""
    made = await versions.machine_at(key, step)
    assert made.machine_id is not None
    try:
        yield made, await context.machine(made.machine_id, made.host_key)
    finally:
        context.forget_vm(made.machine_id)
        with contextlib.suppress(VersError):
            await (await context.client()).delete_vm(made.machine_id)


def _as_it_is(backend: Backend) -> Callable[[], AbstractAsyncContextManager[Backend]]:
    return lambda: contextlib.nullcontext(backend)
