"""How often a connection had to be made anew, counted for whoever asks: one call of a tool may be several calls of its backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class Tally:
    """Connections that were made anew so far."""

    count: int = 0


_tally: ContextVar[Tally | None] = ContextVar("langchain_vers_reconnects", default=None)


@contextmanager
def counted() -> Iterator[Tally]:
    """Around a call: what it and the tasks that it starts have to make anew."""
    tally = Tally()
    token = _tally.set(tally)
    try:
        yield tally
    finally:
        _tally.reset(token)


def again() -> None:
    """A connection that was lost is made anew, or its output taken up again, for the call that is under way."""
    if (tally := _tally.get()) is not None:
        tally.count += 1
