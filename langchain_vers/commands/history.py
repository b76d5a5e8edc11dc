"""`langchain-vers history`: a thread's checkpoints as a tree, or all threads of a database.

A straight run of checkpoints is drawn as a straight line, the way to the newest one all the way down; only forks and nested graphs are
indented, below the checkpoint that they start from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from langchain_vers.commands import database
from langchain_vers.commands.showing import age, console, fitting
from langchain_vers.history import History, Node, ThreadSummary, build
from langchain_vers.records import Record

_SHORT = 12
_GUIDE = 4
"""Columns that each level of the tree takes."""
_NARROWEST = 20
"""Columns that are left to a checkpoint at least."""
_KIND_STYLES = {"user": "green", "model": "cyan", "tool": "magenta"}


def show(db: str, thread: str | None, *, as_json: bool) -> None:
    """Print a thread's tree, or without a thread the list of threads. Raises `VersError`."""
    if thread is None:
        found = database.read(db, database.threads)
        if as_json:
            _print_json({"threads": [_thread_facts(each) for each in found]})
        else:
            print_threads(found, console(), datetime.now(UTC), db)
        return
    history = build(database.read(db, lambda saver: database.checkpoints(saver, thread, db)))
    if as_json:
        _print_json(facts(history))
    else:
        print_history(history, console(), datetime.now(UTC))


# --- for people ---


def print_history(history: History, screen: Console, now: datetime) -> None:
    """Draw the tree. Lines that are too long for the terminal go on below themselves."""
    count = len(history)
    title = Text(f"thread {fitting(history.thread, screen)}", style="bold")
    title.append(f"  {count} checkpoint{'' if count == 1 else 's'}", style="dim")
    tree = Tree(title, guide_style="dim", highlight=False)
    waiting = [(tree, 1, root, "again" if number else "") for number, root in reversed(list(enumerate(history.roots)))]
    deepest = 1
    while waiting:
        place, depth, start, why = waiting.pop()
        deepest = max(deepest, depth)
        below: list[tuple[Tree, int, Node, str]] = []
        node: Node | None = start
        before: Node | None = None
        while node is not None:
            here = place.add(_line(node, why if node is start else "", before, screen, now))
            spaces: dict[str, Tree] = {}
            for nested in node.nested:
                name = nested.namespace.rpartition("|")[2].partition(":")[0]
                inside = spaces.get(nested.namespace)
                if inside is None:
                    inside = spaces[nested.namespace] = here.add(Text(f"within {fitting(name, screen) or 'a nested graph'}", style="dim"))
                below.append((inside, depth + 2, nested, ""))
            below += [(here, depth + 1, fork, "fork") for fork in node.forks]
            before, node = node, node.next
        waiting += reversed(below)
    # Where the guides alone fill a narrow terminal, it is the terminal that has to wrap.
    screen.width = max(screen.width, _GUIDE * deepest + _NARROWEST)
    screen.print(tree, overflow="fold")


def print_threads(found: Iterable[ThreadSummary], screen: Console, now: datetime, db: str) -> None:
    """One line for each thread: its name, size, age and machine."""
    lines = []
    for each in found:
        line = Text(fitting(each.thread, screen), style="bold")
        line.append(f"  {each.checkpoints} checkpoint{'' if each.checkpoints == 1 else 's'}", style="")
        line.append(_ago(each.time, now), style="dim")
        line.append_text(_machine(each.machine, None, screen))
        if each.problem:
            line.append(f"  {fitting(each.problem, screen)}", style="red")
        lines.append(line)
    if not lines:
        lines = [Text(f"No threads in {fitting(database.shown(db), screen)}.")]
    for line in lines:
        screen.print(line, overflow="fold")


def _line(node: Node, why: str, before: Node | None, screen: Console, now: datetime) -> Text:
    line = Text(style="")
    line.append(f"{why} " if why else "", style="bold yellow")
    line.append(node.short, style="yellow")
    if node.head:
        line.append(" HEAD", style="bold green")
    line.append("" if node.step is None else f"  {node.step}")
    line.append("" if node.source in {None, "loop"} else f" {fitting(str(node.source), screen)}", style="dim")
    if node.event.kind:
        line.append(f"  {fitting(node.event.kind, screen)}", style=_KIND_STYLES.get(node.event.kind, "blue"))
        line.append(f" {fitting(node.event.text, screen)}" if node.event.text else "")
    if node.interrupted:
        line.append("  interrupted", style="dim" if node.children else "bold red")  # it is answered, or it waits
    if node.failed:
        line.append("  failed", style="bold red")
    if node.parent_lost:
        line.append("  (what was before is gone)", style="dim")
    line.append_text(_machine(node.machine, None if before is None else before.machine, screen))
    line.append(_ago(node.time, now), style="dim")
    return line


def _machine(machine: Record | None, before: Record | None, screen: Console) -> Text:
    """Where the thread was: the VM where it changes, the version always, and what was spent here."""
    text = Text()
    if machine is None:
        return text.append("  left its machine", style="dim") if before is not None else text
    place = machine.attachment
    if before is None or not place.same_machine(before.attachment):
        name = place.machine_id or place.backend
        text.append(f"  on {fitting(_short(name), screen)}{' (shared)' if place.shared else ''}", style="blue")
    if machine.version:
        text.append(f"  @{fitting(_short(machine.version), screen)}", style="blue" if machine.commit else "dim")
    told = [f"ran {machine.tools}"] if machine.tools else []
    if machine.commit_ms is not None:
        told.append(f"commit {_ms(machine.commit_ms)}")
    elif not machine.commit and machine.version:
        told.append("no commit")
    if machine.restore_ms is not None:
        told.append(f"restored {_ms(machine.restore_ms)}")
    return text.append(f"  {fitting(', '.join(told), screen)}", style="dim") if told else text


def _short(identity: str) -> str:
    return identity.replace("-", "")[:_SHORT]


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 10_000 else f"{milliseconds / 1000:.0f} s"


def _ago(moment: datetime | None, now: datetime) -> str:
    return f"  {age(moment, now)} ago" if moment is not None else ""


# --- for programs ---


def facts(history: History) -> dict[str, Any]:
    """The history as JSON: its checkpoints in the order in which they hang below one another."""
    return {
        "thread": history.thread,
        "head": history.head.id if history.head is not None else None,
        "checkpoints": [_node_facts(node) for node in history],
    }


def _node_facts(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "short": node.short,
        "namespace": node.namespace,
        "parent": node.parent,
        "parent_lost": node.parent_lost,
        "host": node.host,
        "step": node.step,
        "source": node.source,
        "time": None if node.time is None else node.time.isoformat(),
        "kind": node.event.kind,
        "text": node.event.text,
        "interrupted": node.interrupted,
        "failed": node.failed,
        "head": node.head,
        "children": [child.id for child in node.children],
        "machine": _machine_facts(node.machine),
    }


def _machine_facts(machine: Record | None) -> dict[str, Any] | None:
    """What the checkpoint's metadata says, named as there but for the prefix."""
    if machine is None:
        return None
    return {name.removeprefix("vers_"): value for name, value in machine.metadata().items() if name != "vers_format"}


def _thread_facts(each: ThreadSummary) -> dict[str, Any]:
    return {
        "thread": each.thread,
        "head": each.head,
        "checkpoints": each.checkpoints,
        "step": each.step,
        "time": None if each.time is None else each.time.isoformat(),
        "machine": _machine_facts(each.machine),
        "problem": each.problem,
    }


def _print_json(value: object) -> None:
    console().print(json.dumps(value, indent=2), soft_wrap=True)
