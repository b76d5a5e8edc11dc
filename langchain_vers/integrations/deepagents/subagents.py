"""The machines that sub-agents of deep agents worked on by themselves: found by their labels, and deleted. Coroutines of the I/O thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.runnables import RunnableConfig

from langchain_vers.context import LANE_LABEL, THREAD_LABEL, BackendContext
from langchain_vers.errors import Gone
from langchain_vers.turns import holder
from langchain_vers.workers import NAME_LABEL


@dataclass(frozen=True)
class SubAgentMachine:
    """The machine of a sub-agent that worked on a branch of its own.

    Attributes:
        name: the sub-agent's name.
        vm_id: the VM, for `context.attach`, `vers_vm_use` and `vers_vm_copy`.
        thread: the thread that it worked for; "" if calls without one made it.
        run: another one for each run of the sub-agent.
        state: as the platform says it, such as "running".
    """

    name: str
    vm_id: str
    thread: str
    run: str
    state: str


async def subagent_machines(context: BackendContext, config: RunnableConfig | None) -> list[SubAgentMachine]:
    """Those of a thread that are still there, the oldest first."""
    thread = str(((config or {}).get("configurable") or {}).get("thread_id") or "")
    vms = sorted(await (await context.client()).list_vms(), key=lambda vm: (vm.created_at, vm.vm_id))
    found = [(vm, vm.labels or {}) for vm in vms]
    return [
        SubAgentMachine(labels[NAME_LABEL], vm.vm_id, labels.get(THREAD_LABEL, ""), labels[LANE_LABEL], str(vm.state))
        for vm, labels in found
        if NAME_LABEL in labels and LANE_LABEL in labels and labels.get(THREAD_LABEL, "") == thread
    ]


async def delete_subagent_machines(
    context: BackendContext, config: RunnableConfig | None, names: Sequence[str] | None
) -> list[SubAgentMachine]:
    """Delete them, but for those that a thread has gone to; what was deleted."""
    client = await context.client()
    deleted = []
    for machine in await subagent_machines(context, config):
        others = set(context.attached_threads(machine.vm_id)) - {holder(machine.thread or None, machine.run)}
        if others or (names is not None and machine.name not in names):
            continue
        try:
            await client.delete_vm(machine.vm_id)
        except Gone:
            continue
        context.forget_vm(machine.vm_id)
        deleted.append(machine)
    return deleted
