"""`langchain-vers checkout`: lets a thread go on from one of its checkpoints, on a machine as it was then."""

from __future__ import annotations

import contextlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from langchain_core.runnables import RunnableConfig
from rich.console import Console

from langchain_vers._io import run
from langchain_vers.attachment import Attachment
from langchain_vers.checkpoint import VersSaver
from langchain_vers.commands import database
from langchain_vers.commands.showing import age, console, fitting
from langchain_vers.commands.target import find_target
from langchain_vers.context import BackendContext
from langchain_vers.errors import BadInput, Conflict, Gone, VersError
from langchain_vers.history import History, Node, build


@dataclass(frozen=True)
class CheckedOut:
    """Where the thread goes on: its new head, and the machine that was brought up for it (None: the checkpoint has none)."""

    config: RunnableConfig
    machine: Attachment | None


def checkout(db: str, thread: str, checkpoint: str, data_dir: Path | None, *, embedded: bool, dry_run: bool) -> None:
    """Fork a thread at a checkpoint (the beginning of its id) and say how to go on. Raises `VersError`."""
    history = build(database.read(db, lambda saver: database.checkpoints(saver, thread, db)))
    node = history.find(checkpoint)
    commit = _commit_of(node, history)
    target = find_target(data_dir, embedded=embedded) if commit is not None else None
    screen = console()
    screen.print(f"{'Would go on' if dry_run else 'Going on'} from {_named(node, screen)}.", soft_wrap=True)
    if dry_run:
        what = "It has no machine." if commit is None else f"Its machine would be restored from commit {fitting(commit, screen)}."
        if node.machine is not None and node.machine.commit is None and commit is not None:
            what = f"Its machine's version {fitting(commit, screen)} is not known to be committed, and could perhaps not be restored."
        screen.print(f"{what} Nothing was done.", soft_wrap=True)
        return
    with ExitStack() as stack:
        inner = stack.enter_context(database.writable(db))
        context = BackendContext(local=False) if target is None else target.context()
        stack.callback(context.close)
        saver, config = VersSaver(inner, context), _config(thread, node.id)
        # The machine first: if it cannot be had, the thread stays where it is.
        machine = None if commit is None else _machine_at(saver, config, node, history)
        done = CheckedOut(fork_onto(saver, config, machine), machine)
    _say(done, thread, screen)


def _machine_at(saver: VersSaver, config: RunnableConfig, node: Node, history: History) -> Attachment:
    try:
        return saver.machine_at(config)
    except (Conflict, Gone) as error:
        raise _with_nearest(error, node, history) from error


def fork_onto(saver: VersSaver, config: RunnableConfig, machine: Attachment | None) -> RunnableConfig:
    """A new head that continues from a checkpoint, and refers to a machine that is as it was then; deletes the machine if that fails."""
    try:
        head = saver.fork(config, machine)
        if machine is not None and machine.machine_id is not None:
            run(saver.versions.release(machine.machine_id))  # the thread goes on in another process than this one, and at once
    except BaseException:
        if machine is not None and machine.machine_id is not None:
            with contextlib.suppress(VersError):
                run(_delete(saver.context, machine.machine_id))
        raise
    return head


async def _delete(context: BackendContext, vm_id: str) -> None:
    context.forget_vm(vm_id)
    await (await context.client()).delete_vm(vm_id)


def _commit_of(node: Node, history: History) -> str | None:
    """The commit, or what would be its id, that a checkpoint's machine is restored from; None if the thread had none.

    Raises:
        BadInput: the checkpoint is that of a nested graph.
        Conflict: its machine was not committed; the message names what was.
    """
    if node.namespace:
        host = next((each for each in history if each.id == node.host and not each.namespace), None)
        remedy = f"; check out {host.short}, where it started" if host is not None else ""
        raise BadInput(f"Checkpoint {node.short} is one of a nested graph, and a thread goes on from its own checkpoints only{remedy}.")
    if node.machine is None or node.machine.attachment.machine_id is None:
        return None
    # What was committed later, on request, has the version's own id.
    commit = node.machine.commit or node.machine.version
    if commit is None:
        why = f" ({node.machine.no_commit})" if node.machine.no_commit else ""
        raise _with_nearest(Conflict(f"The machine of checkpoint {node.short} was not committed{why}."), node, history)
    return commit


def _with_nearest(error: VersError, node: Node, history: History) -> VersError:
    """The error, with the checkpoint to go on from instead."""
    near = _nearest(node, history)
    remedy = f"the nearest checkpoint before {node.short} with a commit is {near.short}" if near is not None else "none before it has one"
    return type(error)(f"{str(error).rstrip('.')}; {remedy}.")


def _nearest(node: Node, history: History) -> Node | None:
    own = {each.id: each for each in history if not each.namespace}
    seen: set[str] = set()
    found = own.get(node.parent or "")
    while found is not None and found.id not in seen:
        if found.machine is not None and found.machine.commit is not None:
            return found
        seen.add(found.id)
        found = own.get(found.parent or "")
    return None


def _config(thread: str, checkpoint: str | None = None) -> RunnableConfig:
    place = {"thread_id": thread, "checkpoint_ns": ""} | ({} if checkpoint is None else {"checkpoint_id": checkpoint})
    return {"configurable": place}


def _named(node: Node, screen: Console) -> str:
    said = f"{node.event.kind}: {node.event.text}" if node.event.text else node.event.kind
    facts = [f"step {node.step}" if node.step is not None else "", f"{age(node.time)} ago" if node.time else "", said]
    return fitting(f"checkpoint {node.id} ({', '.join(fact for fact in facts if fact)})", screen)


def _say(done: CheckedOut, thread: str, screen: Console) -> None:
    screen.print(f"New head of the thread: {done.config['configurable']['checkpoint_id']}", soft_wrap=True)
    if done.machine is None:
        screen.print("The thread has no machine there.", soft_wrap=True)
    else:
        screen.print(f"VM: {fitting(str(done.machine.machine_id), screen)}", soft_wrap=True)
    config = json.dumps({"configurable": {"thread_id": thread}})
    screen.print(f"Go on with: graph.invoke(..., {config})", soft_wrap=True)
