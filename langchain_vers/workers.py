"""Workers on branches: several agents of one thread, each on a machine of its own that begins as the thread's.

By default all agents of a thread share its machine. `on_branch` gives one that runs as a node (or behind `Send`) its own: a *lane* of the
thread, named in the run's config, so that every call below it is routed to a branch that is made when the first one needs it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.base import coerce_to_runnable

from langchain_vers.attachment import PROMISED, Attachment
from langchain_vers.beginnings import made
from langchain_vers.errors import Conflict

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext
    from langchain_vers.turns import Place
    from langchain_vers.versions import Versions

LANE = "vers_branch"
"""The entry of a run's `configurable` that names the lane."""
NAME = "vers_branch_name"
"""The entry that says what the worker of a lane is called; its machine then has that name as its label."""
NAME_LABEL = "subagent"
"""The label that tells which worker a machine was made for; other than by the package's own labels, a VM may be called by it."""


def on_branch(worker: Runnable[Any, Any] | Any) -> Runnable[Any, Any]:  # noqa: ANN401  # whatever a node may be
    """A node that runs `worker` (a graph, another runnable or a function) on a branch of the thread's machine.

    Each execution of the node has a branch of its own, made at its first tool call from the thread's machine as it is then. The thread
    itself stays where it is; the artifacts of the worker's tool messages tell which machine it was. The branch is not deleted. If the
    thread has no VM when the first tool is called, that call is refused (`Conflict`).
    """
    runnable = coerce_to_runnable(worker)

    def configured(config: RunnableConfig) -> RunnableConfig:
        configurable = dict(config.get("configurable") or {})
        lane = str(configurable.get("checkpoint_ns") or "").rpartition(":")[2]
        return cast("RunnableConfig", {**config, "configurable": {**configurable, LANE: lane}})

    def run(state: Any, config: RunnableConfig) -> Any:  # noqa: ANN401  # the graph's state
        return runnable.invoke(state, configured(config))

    async def arun(state: Any, config: RunnableConfig) -> Any:  # noqa: ANN401  # the graph's state
        return await runnable.ainvoke(state, configured(config))

    return RunnableLambda(run, arun, name=getattr(worker, "name", None) or getattr(worker, "__name__", "worker"))


async def owed(context: BackendContext, place: Place, versions: Versions | None) -> Attachment | None:
    """The machine of a lane, made now; None if it has one. The calls of its first message come side by side, and get the same."""
    if _has_one(context, place, versions):
        return None
    async with context.provisions.making(place.holder):
        return None if _has_one(context, place, versions) else await branch(context, place, versions)


def _has_one(context: BackendContext, place: Place, versions: Versions | None) -> bool:
    if context.whereabouts.remembered(place.holder) is not None:
        return True
    return versions is not None and place.position is not None and versions.ledger.place(place.position) is not None


async def branch(context: BackendContext, place: Place, versions: Versions | None) -> Attachment:
    """Make the machine of a lane, a branch of the thread's machine as it is now, and attach the lane to it.

    Raises:
        Conflict: the thread has no VM.
    """
    own = replace(place, lane="", position=None if place.position is None else replace(place.position, lane=""))
    source = await context.whereabouts.at(own, versions)
    if source == PROMISED:
        source = await context.provisions.settle(context, own)
    if source.backend != "vers" or source.machine_id is None:
        raise Conflict(
            "this worker is to run on a branch of the thread's machine, and the thread has no VM; make one before the worker starts"
        )
    client = await context.client()
    if versions is not None and own.position is not None and not source.shared:
        source = (await versions.arrive(own.position, source)).attachment
    assert source.machine_id is not None
    name = place.settings.get(NAME)
    labels = {} if name is None else {**await context.labels(place), NAME_LABEL: str(name)}
    gate = contextlib.nullcontext() if versions is None else versions.gate(source.machine_id).commit()
    async with contextlib.AsyncExitStack() as stack:
        async with gate:
            machine_id, *_ = await stack.enter_async_context(made(context, client, client.branch_vm(source.machine_id)))
        if labels:
            await client.label_vm(machine_id, labels)
    attachment = source.moved(machine_id=machine_id, commit=None)
    context.whereabouts.enter(place, versions, attachment)
    return attachment


def lane_of(configurable: Mapping[str, Any]) -> str:
    """The lane that a run's config names; "" for the thread itself."""
    return str(configurable.get(LANE) or "")
