"""The machine tools: VMs are listed, made, used, left, branched, committed, restored, paused, deleted and copied to by the model itself."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from langchain_vers import idle
from langchain_vers.attachment import HERE, PROMISED
from langchain_vers.beginnings import answering, made, restored
from langchain_vers.context import BackendContext
from langchain_vers.errors import BadInput, Conflict, Denied, VersError
from langchain_vers.naming import short_id
from langchain_vers.platform import VersClient, VmCreateVmConfig
from langchain_vers.request import Reach
from langchain_vers.route import Route
from langchain_vers.tools import transfer
from langchain_vers.tools.base import Answer, Arguments, Call, ToolSpec
from langchain_vers.tools.output import format_size
from langchain_vers.tools.shell import describe, run_command

LINEAGE_CALLS = 8
"""How many VMs are asked for their lineage at once."""


class NoArguments(Arguments):
    pass


class VmCreate(Arguments):
    vcpu_count: int | None = Field(None, ge=1)
    mem_size_mib: int | None = Field(None, ge=1)
    fs_size_mib: int | None = Field(None, ge=1)
    labels: dict[str, str] | None = None
    attach: bool = Field(True, description="Move there")


class VmUse(Arguments):
    vm_id: str = Field(description="Id, unique beginning of it, label, or alias")


class VmExec(Arguments):
    vm_id: str
    command: str
    timeout: float | None = Field(None, description="Seconds, default 600")


class VmBranch(Arguments):
    vm_id: str | None = Field(None, description="Default: the current VM")
    count: int = Field(1, ge=1, le=100)
    attach: bool = Field(False, description="Move to the (first) branch")


class VmCommit(Arguments):
    vm_id: str | None = Field(None, description="Default: the current VM")
    name: str | None = None
    keep_paused: bool = False


class VmRestore(Arguments):
    commit_id: str = Field(description="Commit id, tag, or repo:tag")
    attach: bool = Field(True, description="Move there")


class VmState(Arguments):
    vm_id: str | None = Field(None, description="Default: the current VM")
    state: Literal["running", "paused"]


class VmDelete(Arguments):
    vm_id: str


class VmCopy(Arguments):
    source: str = Field(description="vm:<id>:/path, or a path on the user's machine")
    destination: str = Field(description="As source")
    recursive: bool = False


class UseBackend(Arguments):
    name: str


async def vms(call: Call) -> Answer:
    client = await call.context.client()
    found = await client.list_vms()
    active = (await call.context.attachment_at(call.place)).machine_id
    found.sort(key=lambda vm: (vm.created_at, vm.vm_id))
    gate = asyncio.Semaphore(LINEAGE_CALLS)
    lineages = await asyncio.gather(*(_lineage(client, vm.vm_id, gate) for vm in found))
    lines = []
    for vm, lineage in zip(found, lineages, strict=True):
        labels = [f"{key}={value}" for key, value in sorted(vm.labels.items())]
        mark = "* " if vm.vm_id == active else "  "
        lines.append("  ".join([mark + vm.vm_id, str(vm.state), _age(vm.created_at), *labels, *lineage]))
    text = "\n".join(lines) or "There are no VMs; vers_vm_create makes one."
    return Answer(text, {"backend": "vers", "vms": [vm.vm_id for vm in found], "active": active})


async def _lineage(client: VersClient, vm_id: str, gate: asyncio.Semaphore) -> list[str]:
    try:
        async with gate:
            metadata = await client.get_vm_metadata(vm_id)
    except VersError:
        return []  # deleted since it was listed, or an older server: the line is true without it
    lineage = []
    if metadata.grandparent_vm_id is not None:
        lineage.append(f"from VM {short_id(metadata.grandparent_vm_id)}")
    if metadata.parent_commit_id is not None:
        lineage.append(f"commit {metadata.parent_commit_id}")
    return lineage


async def vm_create(
    call: Call,
    *,
    vcpu_count: int | None = None,
    mem_size_mib: int | None = None,
    fs_size_mib: int | None = None,
    labels: dict[str, str] | None = None,
    attach: bool = True,
) -> Answer:
    async with call.context.moving(call.place) as set_to:
        client = await call.context.client()
        wanted = {**await call.context.labels(call.place), **(labels or {})}
        config = VmCreateVmConfig(vcpu_count=vcpu_count, mem_size_mib=mem_size_mib, fs_size_mib=fs_size_mib, labels=wanted or None)
        async with made(call.context, client, client.create_vm(config, wait_boot=True)) as vm_id:
            attachment = await answering(call.context, client, vm_id)
        if attach:
            set_to(attachment)
    return Answer(f"Created VM {vm_id}" + (" and attached to it" if attach else ""), _facts(vm_id, attached=attach))


async def vm_use(call: Call, *, vm_id: str) -> Answer:
    async with call.context.moving(call.place) as set_to:
        client = await call.context.client()
        vm_id = await call.context.resolve_vm(vm_id)
        vm = await client.get_vm(vm_id)
        resumed = vm.state in {"paused", "sleeping"}
        if resumed:
            await idle.set_state(client, vm_id, "running")
        set_to(await answering(call.context, client, vm_id))
    return Answer(
        f"Attached to VM {vm_id}" + (", which was resumed" if resumed else ""), {**_facts(vm_id, attached=True), "resumed": resumed}
    )


async def vm_exec(call: Call, *, vm_id: str, command: str, timeout: float | None = None) -> Answer:
    vm_id = await call.context.resolve_vm(vm_id)
    if vm_id == (await call.context.attachment_at(call.place)).machine_id:
        async with call.changing() as route:
            result = await run_command(call, route.backend, None, command, timeout)
    else:
        result = await run_command(call, await call.context.machine(vm_id), None, command, timeout)
    answer = describe(result, timeout)
    facts = {"backend": "vers", "machine_id": vm_id, "commit": call.context.commits.get(vm_id)}
    return Answer(answer.content, {**facts, **answer.artifact}, answer.error)


async def vm_local(call: Call) -> Answer:
    async with call.context.moving(call.place) as set_to:
        if not call.context.local_allowed:
            raise Denied("work on this machine is not allowed here; stay on the VM, or attach to another with vers_vm_use")
        before = await call.context.attachment_at(call.place)
        left = before.machine_id
        set_to(HERE)
    if left:
        text = f"Detached from VM {left}, which goes on running; commands now run on the user's machine"
    else:
        text = f"Commands {'already' if before.backend == HERE.backend else 'now'} run on the user's machine"
    return Answer(text, {"backend": "local", "machine_id": None, "left": left})


async def vm_branch(call: Call, *, vm_id: str | None = None, count: int = 1, attach: bool = False) -> Answer:
    async with call.context.moving(call.place) as set_to:
        source = await _chosen(call, vm_id)
        client = await call.context.client()
        async with AsyncExitStack() as stack:
            async with call.context.resting(source):
                ids = await stack.enter_async_context(made(call.context, client, client.branch_vm(source, count=count)))
            if (commit := call.context.commits.get(source)) is not None:
                call.context.commits.update(dict.fromkeys(ids, commit))
            await _label(call, client, ids)
            if attach:
                attachment = await answering(call.context, client, ids[0])
        if attach:
            set_to(attachment)
    text = f"Branched VM {source} into {', '.join(ids)}" + (f"; attached to {ids[0]}" if attach else "")
    return Answer(text, {**_facts(ids[0], attached=attach), "branches": ids, "source": source})


async def vm_commit(call: Call, *, vm_id: str | None = None, name: str | None = None, keep_paused: bool = False) -> Answer:
    source = await _chosen(call, vm_id)
    client = await call.context.client()
    async with call.context.resting(source):
        commit = await client.commit_vm(source, name=name, keep_paused=keep_paused)
    call.context.commits[source] = commit
    text = f"Committed VM {source} as {commit}" + (" and left it paused" if keep_paused else "")
    return Answer(text, {**_facts(source), "commit": commit})


async def vm_restore(call: Call, *, commit_id: str, attach: bool = True) -> Answer:
    async with call.context.moving(call.place) as set_to:
        client = await call.context.client()
        async with made(call.context, client, restored(client, commit_id.strip())) as vm_id:
            call.context.commits[vm_id] = commit_id.strip()
            await _label(call, client, [vm_id])
            attachment = await answering(call.context, client, vm_id)
        if attach:
            set_to(attachment)
    text = f"Restored {commit_id} as VM {vm_id}" + (" and attached to it" if attach else "")
    return Answer(text, {**_facts(vm_id, attached=attach), "commit": commit_id})


async def vm_state(call: Call, *, state: str, vm_id: str | None = None) -> Answer:
    chosen = await _named(call, vm_id)
    client = await call.context.client()
    await idle.set_state(client, chosen, state)
    if state == "paused":
        call.context.forget_vm(chosen, running=True)  # a command that is frozen with the VM goes on with it, and so does its call
    return Answer(f"VM {chosen} is {state}", {**_facts(chosen), "state": state})


async def vm_delete(call: Call, *, vm_id: str) -> Answer:
    chosen = await call.context.resolve_vm(vm_id)
    others = [thread for thread in call.context.attached_threads(chosen) if thread != call.place.holder]
    if others:
        raise Conflict(
            f"VM {chosen} is in use by another thread; leave it there first (vers_vm_local or vers_vm_use), then delete it",
            machine_id=chosen,
        )
    client = await call.context.client()
    attachment = await call.context.attachment_at(call.place)  # known when the commits of before are made: some may be of this VM
    await client.delete_vm(chosen)
    call.context.forget_vm(chosen)
    call.context.commits.pop(chosen, None)
    mine = chosen == attachment.machine_id
    if mine:
        call.context.gone(call.place, attachment)
    text = f"Deleted VM {chosen}" + (
        "; this thread was attached to it: use vers_vm_use, vers_vm_create or vers_vm_local before the next command" if mine else ""
    )
    return Answer(text, _facts(chosen))


async def vm_copy(call: Call, *, source: str, destination: str, recursive: bool = False) -> Answer:
    start, end = await _end(call.context, source), await _end(call.context, destination)
    own = (await call.context.attachment_at(call.place)).machine_id
    if own is not None and own in {start.backend.machine_id, end.backend.machine_id}:
        # The thread's own machine is where the conversation is, and what arrives there is a change of it.
        async with call.changing() if end.backend.machine_id == own else _reading(call) as route:
            start, end = (replace(at, backend=route.backend) if at.backend.machine_id == own else at for at in (start, end))
            return await _copy(call, start, end, recursive)
    return await _copy(call, start, end, recursive)


@asynccontextmanager
async def _reading(call: Call) -> AsyncIterator[Route]:
    yield await call.route()


async def _copy(call: Call, start: transfer.End, end: transfer.End, recursive: bool) -> Answer:
    def progress(done: int, total: int) -> None:
        call.emit(f"copied {format_size(done)} of {format_size(total)}\n")

    # Where only one folder may be used, no second copy must change what its paths mean between the check and the use.
    guard = call.context.link.copying if start.guarded or end.guarded else nullcontext()
    async with guard:
        copied = await transfer.copy(start, end, recursive=recursive, progress=progress)
    text = f"Copied {start} to {copied.destination} ({format_size(copied.bytes)})"
    vm_ids = [at.backend.machine_id for at in (end, start) if at.backend.machine_id is not None]
    return Answer(
        text,
        {
            "backend": "vers" if vm_ids else "local",
            "machine_id": vm_ids[0] if vm_ids else None,
            "source": str(start),
            "destination": copied.destination,
            "bytes": copied.bytes,
        },
    )


async def use_backend(call: Call, *, name: str) -> Answer:
    async with call.context.moving(call.place) as set_to:
        attachment = await call.context.entrance(name)
        set_to(attachment)
    return Answer(f"Commands now run on {name}", {"backend": name, "machine_id": attachment.machine_id, "cwd": attachment.cwd})


async def _named(call: Call, vm_id: str | None) -> str:
    """The VM that a call means, by default the thread's own."""
    if vm_id is not None:
        return await call.context.resolve_vm(vm_id)
    own = await call.context.attachment_at(call.place)
    if own == PROMISED:
        own = (await call.route()).attachment
    if own.backend != "vers" or own.machine_id is None:
        raise BadInput("no VM is attached to this thread; give vm_id (vers_vms lists them)")
    return own.machine_id


async def _chosen(call: Call, vm_id: str | None) -> str:
    """As `_named`; the thread's own VM is first brought to where the conversation is."""
    chosen = await _named(call, vm_id)
    if chosen != (await call.context.attachment_at(call.place)).machine_id:
        return chosen
    return (await call.route()).attachment.machine_id or chosen


async def _label(call: Call, client: VersClient, vm_ids: Sequence[str]) -> None:
    """Say whose the machines are that were just made: those of a thread go with it."""
    if labels := await call.context.labels(call.place):
        await asyncio.gather(*(client.label_vm(vm_id, labels) for vm_id in vm_ids))


async def _end(context: BackendContext, text: str) -> transfer.End:
    if text.startswith("vm:"):
        name, colon, path = text[3:].partition(":")
        if not colon or not path.startswith("/"):
            raise BadInput(f"{text!r} is no place on a VM; write vm:<id>:/absolute/path")
        return transfer.End(await context.machine(await context.resolve_vm(name)), path)
    if not text or "\0" in text:
        raise BadInput("the path on this machine is empty or contains a NUL; give a path")
    path, _ = Route(context.local, HERE).locate(text)
    slash = "/" if text.endswith("/") else ""
    if context.local_allowed:
        return transfer.End(context.local, f"{Path(context.local.home, path)}{slash}")
    folder = context.shared_folder
    if folder is None:
        raise Denied(
            f"{text} is on this machine, where no folder of it may be used by this agent; copy between VMs (vm:<id>:/path) instead"
        )

    def check(path: str) -> None:
        # Symlinks may lead out, those that an earlier copy brought along too: what counts is where the path really is.
        if not Path(path).resolve().is_relative_to(folder):
            raise Denied(f"{text} is on this machine, where only {folder} may be used by this agent; choose a path in there")

    return transfer.End(context.local, f"{folder / path}{slash}", guarded=True, check=check)


def _vm_reach(arguments: Mapping[str, Any]) -> Reach:
    return Reach(vm=arguments.get("vm_id"))


def _exec_reach(arguments: Mapping[str, Any]) -> Reach:
    return Reach(command=arguments["command"], vm=arguments["vm_id"])


def _copy_reach(arguments: Mapping[str, Any]) -> Reach:
    source, destination = (_end_of(arguments[name]) for name in ("source", "destination"))
    recursive = bool(arguments.get("recursive"))
    # A destination that is a directory means: into it, under the same name.
    inside = f"{destination.rstrip('/')}/{posixpath.basename(source.rstrip('/'))}"
    return Reach(paths=((source, "read", recursive), (destination, "write", False), (inside, "write", False)))


def _end_of(text: str) -> str:
    return text if text.startswith("vm:") else f"here:{text}"


def _facts(vm_id: str, *, attached: bool = False) -> dict[str, Any]:
    return {"backend": "vers", "machine_id": vm_id, "attached": attached}


def _age(created: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - created).total_seconds()))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit} old"
    return f"{seconds}s old"


def _attaches(arguments: Mapping[str, Any], default: bool) -> bool:
    return bool(arguments.get("attach", default))


SPECS = [
    ToolSpec("vers_vms", "List VMs: id, state, age, labels, origin; * marks the current one.", NoArguments, vms),
    ToolSpec(
        "vers_vm_create",
        "Make a new VM and, with attach, move there: later calls work on it.",
        VmCreate,
        vm_create,
        moves=lambda arguments: _attaches(arguments, True),
    ),
    ToolSpec("vers_vm_use", "Move to a VM: later calls work on it. Resumes a paused one.", VmUse, vm_use, moves=lambda arguments: True),
    ToolSpec("vers_vm_exec", "Run one command on a given VM without moving there.", VmExec, vm_exec, reach=_exec_reach),
    ToolSpec(
        "vers_vm_local",
        "Leave the VM, which goes on running, and work on the user's machine.",
        NoArguments,
        vm_local,
        moves=lambda arguments: True,
    ),
    ToolSpec(
        "vers_vm_branch",
        "Fork a running VM into independent copies.",
        VmBranch,
        vm_branch,
        moves=lambda arguments: _attaches(arguments, False),
    ),
    ToolSpec("vers_vm_commit", "Save a VM as it is now; gives a commit id to restore.", VmCommit, vm_commit, reach=_vm_reach),
    ToolSpec(
        "vers_vm_restore",
        "Make a new VM from a commit; the old one stays.",
        VmRestore,
        vm_restore,
        moves=lambda arguments: _attaches(arguments, True),
    ),
    ToolSpec("vers_vm_state", "Pause or resume a VM.", VmState, vm_state, reach=_vm_reach),
    ToolSpec("vers_vm_delete", "Delete a VM for good; its commits stay.", VmDelete, vm_delete, reach=_vm_reach),
    ToolSpec("vers_vm_copy", "Copy a file or directory between the user's machine and VMs.", VmCopy, vm_copy, reach=_copy_reach),
]

USE_BACKEND = ToolSpec(
    "use_backend", "Move to another registered backend: later calls work on it.", UseBackend, use_backend, moves=lambda arguments: True
)
