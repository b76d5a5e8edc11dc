"""What checkpoints tell of each other: copies of those that were read, results that were taken in, the step around, the end of a run."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import Checkpoint

from langchain_vers.records import Record
from langchain_vers.steps import Key, Run, depth

_COPIES = 256
_NEXT = ("branch:to:", "join:", "__pregel_tasks")
"""Channels whose update means that there is more to do."""


class Reads:
    """The checkpoints that were read last."""

    def __init__(self) -> None:
        self._records: OrderedDict[tuple[str, str, int], Record | None] = OrderedDict()
        self._results: OrderedDict[Key, frozenset[str]] = OrderedDict()
        self._named: weakref.WeakKeyDictionary[Any, set[tuple[str, str]]] = weakref.WeakKeyDictionary()
        """By run, the graphs of which it has just read a checkpoint by its name."""

    def compares(self, thread: str, namespace: str, run: Run | None, *, named: bool) -> bool:
        """Whether a run reads a checkpoint without going on from it. To be asked once for each read.

        A run that is to go on from a checkpoint by its name reads the newest one right after it, to see whether the thread has moved past
        the named one (LangGraph from 1.2.13 on: `checkpoint_superseded`). That may be one where another run is at work.
        """
        if not named:
            return self.goes_on(thread, namespace, run)
        if run is not None and (this := run()) is not None:
            self._named.setdefault(this, set()).add((thread, namespace))
        return False

    def goes_on(self, thread: str, namespace: str, run: Run | None) -> bool:
        """A run does something with a graph: what it reads after that, it goes on from. Whether it had just read one by its name."""
        this = None if run is None else run()
        graphs = None if this is None else self._named.get(this)
        if graphs is None or (thread, namespace) not in graphs:
            return False
        graphs.discard((thread, namespace))
        return True

    def remember(self, key: Key, checkpoint: Checkpoint, record: Record | None, results: Sequence[Any] = ()) -> None:
        """Keep what a checkpoint that was read says, and the results with it: the next one may be a copy of it, or take them in."""
        self._records[_content(key, checkpoint)] = record
        if results:  # a nested graph gives back all messages, also those that it was given
            self._results[key] = frozenset(_messages(results)) - frozenset(_messages(checkpoint["channel_values"].values()))
        else:
            self._results.pop(key, None)
        for kept in (self._records, self._results):
            while len(kept) > _COPIES:
                kept.popitem(last=False)

    def takes_results(self, parent: Key, checkpoint: Checkpoint) -> bool:
        """Whether an update takes in results of its parent's finished tasks, as `update_state(None, as_node=END)` does."""
        results = self._results.get(parent, frozenset())
        return bool(results) and not results.isdisjoint(_messages(checkpoint["channel_values"].values()))

    def copied(self, key: Key, checkpoint: Checkpoint) -> Record | None:
        """The record of the checkpoint that was read with this very content: a copy is put beside its original, under the same parent."""
        return self._records.get(_content(key, checkpoint))


def _content(key: Key, checkpoint: Checkpoint) -> tuple[str, str, int]:
    return key.thread, key.namespace, hash(frozenset(checkpoint["channel_versions"].items()))


def _messages(values: Iterable[Any]) -> Iterator[str]:
    """The ids of the messages in a state, or among writes to it."""
    for value in values:
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, BaseMessage) and each.id is not None:
                yield each.id


def step_around(thread: str, namespace: str, parents: Mapping[str, str] | None) -> Key | None:
    """The step around a nested graph."""
    if not namespace or not parents:
        return None
    outer = [each for each in parents if depth(each) < depth(namespace)]
    if not outer:
        return None
    nearest = max(outer, key=depth)
    # Below a task that a task has started, the checkpoint of their graph is named twice.
    nearest = min((each for each in outer if parents[each] == parents[nearest]), key=depth)
    return Key(thread, nearest, parents[nearest])


def ends(checkpoint: Checkpoint) -> bool:
    """Whether a run ends with a checkpoint: no channel that starts another node was updated."""
    updated = checkpoint.get("updated_channels")
    return updated is not None and not any(channel.startswith(_NEXT) for channel in updated)
