"""The history of a thread as a tree: which checkpoint came from which, what happened, and on which machine at which version.

Pure: made from what a saver lists, without asking anybody anything. The tree is drawn by `langchain_vers.commands.history`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from langchain_vers.errors import BadInput, Gone, Unsupported
from langchain_vers.previews import Event, clean, event_of
from langchain_vers.records import Record, read_record

if TYPE_CHECKING:
    from langgraph.checkpoint.base import CheckpointTuple

SHORTEST_PREFIX = 8
"""How many characters of a checkpoint's id are shown at least."""

_UUID6_EPOCH = datetime(1582, 10, 15, tzinfo=UTC)


@dataclass(eq=False)
class Node:
    """One checkpoint.

    Attributes:
        id: the checkpoint's whole id.
        short: the beginning of the id that no other checkpoint of the thread shares.
        namespace: "" for the thread's own graph, "node:task" and "node:task|node:task" for graphs nested in it.
        parent: the id of the checkpoint that it came from, None for a first one.
        parent_lost: whether the parent is not there any more.
        host: the id of the checkpoint of the outer graph whose superstep the nested graph ran in, None in the thread's own graph.
        step: the number of its superstep, as LangGraph counts them: -1 for a thread's input, 0 before the first.
        source: who made it: "input", "loop", "update" or "fork".
        time: when it was made, None if it does not tell.
        event: what happened last.
        machine: None if the thread had no machine of this package's.
        interrupted: the run stopped here to ask somebody.
        failed: a task that started from here raised an error.
        head: this is where the thread goes on when no checkpoint is named.
        children: the checkpoints that came from it in the same graph, the oldest first; more than one means forks.
        nested: the first checkpoints of nested graphs that ran in the superstep that started here.
        newest: the greatest id among itself and its descendants.
    """

    id: str
    short: str
    namespace: str = ""
    parent: str | None = None
    parent_lost: bool = False
    host: str | None = None
    step: int | None = None
    source: str | None = None
    time: datetime | None = None
    event: Event = field(default_factory=Event)
    machine: Record | None = None
    interrupted: bool = False
    failed: bool = False
    head: bool = False
    children: list[Node] = field(default_factory=list, repr=False)
    nested: list[Node] = field(default_factory=list, repr=False)
    newest: str = ""

    @property
    def next(self) -> Node | None:
        """The child on the way to the newest checkpoint below: where a straight line goes on. The others are its forks."""
        return max(self.children, key=lambda child: child.newest, default=None)

    @property
    def forks(self) -> list[Node]:
        """The children off the straight line."""
        main = self.next
        return [child for child in self.children if child is not main]


@dataclass(eq=False)
class History:
    """A thread's checkpoints.

    Attributes:
        thread: the thread's id.
        roots: those without a parent or host that is still there, the oldest first.
        head: where the thread goes on when no checkpoint is named; None if it has none of its own.
    """

    thread: str
    roots: list[Node]
    head: Node | None

    def __iter__(self) -> Iterator[Node]:
        """Every checkpoint once, none before the one that it hangs below."""
        waiting = list(reversed(self.roots))
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(reversed([*node.nested, *node.children]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def find(self, prefix: str) -> Node:
        """The checkpoint whose id begins so.

        Raises:
            Gone: there is none.
            BadInput: there are several.
        """
        wanted = prefix.strip().lower()
        found = [node for node in self if wanted and node.id.lower().startswith(wanted)]
        exact = [node for node in found if node.id.lower() == wanted]
        if exact or len(found) == 1:
            return min(exact or found, key=lambda node: node.namespace)
        if not found:
            raise Gone(f"Thread {clean(self.thread)} has no checkpoint {clean(prefix)}; langchain-vers history lists those that it has.")
        some = ", ".join(node.short for node in found[:5])
        raise BadInput(
            f"{clean(prefix)} begins {len(found)} checkpoints of thread {clean(self.thread)} "
            f"({some}{', ...' if len(found) > 5 else ''}); give more of the id."
        )


@dataclass(frozen=True)
class ThreadSummary:
    """One line of a list of threads.

    Attributes:
        thread: the thread's id.
        head: the id of the newest checkpoint of its own graph.
        checkpoints: how many there are.
        step: the number of the head's superstep, None if it does not tell.
        time: when the head was made, None if its id does not tell.
        machine: the head's, None if it has none.
        problem: why the machine is not told, a sentence; None if it is.
    """

    thread: str
    head: str
    checkpoints: int
    step: int | None = None
    time: datetime | None = None
    machine: Record | None = None
    problem: str | None = None


def build(checkpoints: Iterable[CheckpointTuple]) -> History:
    """The tree of one thread's checkpoints, given in any order, of all namespaces.

    Raises:
        Unsupported: a checkpoint's machine was recorded in another format.
        BadInput: there are none, or they are of several threads.
    """
    tuples: dict[tuple[str, str], CheckpointTuple] = {_key(each.config): each for each in checkpoints}
    threads = {str(each.config["configurable"]["thread_id"]) for each in tuples.values()}
    if len(threads) != 1:
        raise BadInput(f"A history is that of one thread, not of {len(threads)}; give the checkpoints of one thread.")
    length = _prefix_length({identity for _, identity in tuples})
    nodes = {key: _node(key, tuples[key], length) for key in sorted(tuples)}
    heads = [node for (namespace, _), node in nodes.items() if not namespace]
    head = max(heads, key=lambda node: node.id, default=None)
    if head is not None:
        head.head = True
    roots = _reachable(nodes, _linked(nodes))
    history = History(threads.pop(), roots, head)
    for node in reversed(list(history)):  # children before their parents
        node.newest = max([node.id, *(child.newest for child in node.children)])
    return history


def summary(thread: str, checkpoint_id: str, checkpoints: int, metadata: Mapping[str, Any]) -> ThreadSummary:
    """A thread's line in a list, from its newest checkpoint's id and metadata. Never raises: other threads are to be listed too."""
    machine, problem = None, None
    try:
        machine = machine_of(metadata, f"thread {clean(thread)}")
    except (BadInput, Unsupported) as error:
        problem = str(error)
    return ThreadSummary(thread, checkpoint_id, checkpoints, _number(metadata, "step", int), time_of(checkpoint_id), machine, problem)


def machine_of(metadata: Mapping[str, Any], whose: str) -> Record | None:
    """What a checkpoint's metadata says of the machine; None if it says nothing.

    Raises:
        Unsupported: it was written in a format that is not known here; the message says `whose` metadata it is.
        BadInput: it is no record at all.
    """
    try:
        return read_record(metadata)
    except Unsupported as error:
        raise Unsupported(f"{whose}: {error}") from error
    except (TypeError, ValueError) as error:  # metadata is JSON that others can write too
        raise BadInput(f"{whose}: what its metadata says of a machine makes no sense; was it written by another program?") from error


def time_of(checkpoint_id: str) -> datetime | None:
    """When a checkpoint was made, as its id tells (a UUID of version 6); None if the id is of another kind."""
    try:
        found = uuid.UUID(checkpoint_id)
    except ValueError:
        return None
    if found.version != 6:
        return None
    ticks = int(found.hex[:12] + found.hex[13:16], 16)  # of 100 ns
    return _UUID6_EPOCH + timedelta(microseconds=ticks // 10)


# --- the tree ---


def _key(config: Mapping[str, Any]) -> tuple[str, str]:
    configurable = config["configurable"]
    return str(configurable.get("checkpoint_ns") or ""), str(configurable["checkpoint_id"])


def _prefix_length(identities: set[str]) -> int:
    """How many characters tell all of them apart; at least a few, and not ending in a hyphen."""
    length = SHORTEST_PREFIX
    for one, other in pairwise(sorted(identities)):
        shared = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        length = max(length, shared + 1)
    return length + 1 if any(identity[length - 1 : length] == "-" for identity in identities) else length


def _node(key: tuple[str, str], each: CheckpointTuple, length: int) -> Node:
    namespace, identity = key
    metadata: Mapping[str, Any] = each.metadata or {}
    channels = {channel for _, channel, *_ in each.pending_writes or ()}
    parents = metadata.get("parents")
    outer = namespace.rpartition("|")[0]
    host = parents.get(outer) if namespace and isinstance(parents, dict) else None
    return Node(
        id=identity,
        short=identity[:length],
        namespace=namespace,
        parent=_key(each.parent_config)[1] if each.parent_config else None,
        host=host if isinstance(host, str) else None,
        step=_number(metadata, "step", int),
        source=_text(metadata, "source"),
        time=_time(each.checkpoint.get("ts")) or time_of(identity),
        event=event_of(each.checkpoint),
        machine=machine_of(metadata, f"checkpoint {identity}"),
        interrupted="__interrupt__" in channels,
        failed="__error__" in channels,
    )


def _linked(nodes: Mapping[tuple[str, str], Node]) -> list[Node]:
    """Hang every node, the oldest first, below its parent or its host; those that have neither any more."""
    roots = []
    for node in sorted(nodes.values(), key=lambda node: (node.id, node.namespace)):
        parent = nodes.get((node.namespace, node.parent)) if node.parent else None
        host = nodes.get((node.namespace.rpartition("|")[0], node.host)) if node.host else None
        node.parent_lost = node.parent is not None and parent is None
        # A nested graph that keeps its state from one superstep of the outer one to the next is shown where it ran.
        if parent is not None and (parent.host == node.host or host is None):
            parent.children.append(node)
        elif host is not None:
            host.nested.append(node)
        else:
            roots.append(node)
    return roots


def _reachable(nodes: Mapping[tuple[str, str], Node], roots: list[Node]) -> list[Node]:
    """The roots, and of each circle of parents (which no saver writes, but a database may hold) the oldest as a further one."""
    seen: set[int] = set()

    def walk(waiting: list[Node]) -> None:
        while waiting:
            node = waiting.pop()
            seen.add(id(node))
            waiting += [*node.nested, *node.children]

    walk(list(roots))
    for node in sorted(nodes.values(), key=lambda node: (node.id, node.namespace)):
        if id(node) in seen:
            continue
        for holder in nodes.values():
            holder.children = [child for child in holder.children if child is not node]
            holder.nested = [child for child in holder.nested if child is not node]
        roots.append(node)
        walk([node])
    return sorted(roots, key=lambda node: (node.id, node.namespace))


# --- metadata is JSON that others can write ---


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    return value if isinstance(value, str) and value else None


def _number(metadata: Mapping[str, Any], name: str, kind: type[Any]) -> Any:  # noqa: ANN401  # of that kind, or None
    value = metadata.get(name)
    return kind(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _time(moment: object) -> datetime | None:
    if not isinstance(moment, str):
        return None
    try:
        found = datetime.fromisoformat(moment)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
