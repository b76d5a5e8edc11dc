"""How commands show things: ages in words, and text of others without control characters."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from rich.console import Console

from langchain_vers.previews import clean

PIPE_COLUMNS = 1000
"""How wide lines may be that no terminal shows: programs read them line by line."""


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in the largest unit that fits; "" if that is not known."""
    if moment is None:
        return ""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def console() -> Console:
    """The console of this process's standard output. What is piped is not wrapped, unless $COLUMNS asks for it."""
    shown = Console(highlight=False, markup=False, emoji=False)
    if not shown.is_terminal and not os.environ.get("COLUMNS"):
        shown.width = PIPE_COLUMNS
    return shown


def fitting(text: str, shown: Console) -> str:
    """Text of others as a console can show it: one line, without control characters, and in the console's encoding."""
    return clean(text).encode(shown.encoding, "replace").decode(shown.encoding)
