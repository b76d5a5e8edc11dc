"""The owners of machines in this process: one for each saver, as each has books of its own and knows nothing of what the others do.

What an owner is between its calls it may lose to another one of the same process: a cell of a notebook that is run again, or a reload, must
not wait for what it has replaced. It is told so by the machine, which is not its own any more, and goes on as one that was taken over by
another process does. What it is in the middle of, it keeps.
"""

from __future__ import annotations

import itertools
from typing import Protocol
from weakref import WeakValueDictionary

from langchain_vers._process import kept
from langchain_vers.backends import stamps
from langchain_vers.backends.stamps import Stamp


class Worker(Protocol):
    """Whose work it is."""

    def works_on(self, machine_id: str) -> bool:
        """Whether it has changed a machine, or is about to, and the change is in no version yet."""


def seats() -> WeakValueDictionary[int, Worker]:
    """The workers of this process, by the number in their owners' names."""
    found: WeakValueDictionary[int, Worker] = kept("owners", WeakValueDictionary)
    return found


class Owner:
    """The name that machines carry for a worker, as long as the worker is there."""

    def __init__(self, worker: Worker) -> None:
        numbers: itertools.count[int] = kept("seats", lambda: itertools.count(1))
        self._seat = next(numbers)
        seats()[self._seat] = worker

    @property
    def name(self) -> str:
        """In this process, which is another one after a fork."""
        return stamps.owner(self._seat)

    def owns(self, stamp: Stamp | None) -> bool:
        """Whether a machine with this stamp is its own."""
        return stamp is not None and stamp.owner == self.name

    def is_neighbour(self, stamp: Stamp | None) -> bool:
        """Whether it is another's in this process."""
        return stamp is not None and stamps.of_this_process(stamp.owner) and not self.owns(stamp)

    def waits(self, machine_id: str, stamp: Stamp | None) -> int:
        """Seconds for which it has to keep away from a machine with this stamp, at most."""
        if stamp is None or self.owns(stamp):
            return 0
        if self.is_neighbour(stamp):
            worker = seats().get(stamps.seat_of(stamp.owner))
            if worker is None or not worker.works_on(machine_id):
                return 0
        return stamp.left()
