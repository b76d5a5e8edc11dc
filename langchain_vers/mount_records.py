"""What was copied to guests, kept on this machine for its user alone. Blocking functions.

A JSON file for each state of a copy, named by its token; and for each copy a file of what was brought home from it, a line for each time.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any


def _records() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "langchain-vers" / "mounts"


def store(token: str, text: str) -> None:
    """Keep what was copied under a token."""
    folder = _records()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f"{token}.new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123  # no Path: its mode at birth
        file.write(text)
    temporary.rename(folder / f"{token}.json")


def load(token: str) -> dict[str, Any] | None:
    """What was copied under a token; None if this machine does not know."""
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((_records() / f"{token}.json").read_text())
        if isinstance(record, dict):
            return record
    return None


def add_brought(copy: str, states: dict[str, Any]) -> None:
    """Keep what paths have become on this machine by bringing them home from a copy, or from a branch of a machine that has it."""
    folder = _records()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(folder / f"{copy}.home", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "w") as file:  # noqa: PTH123  # as above
        file.write(json.dumps(states) + "\n")


def brought(copy: str) -> dict[str, list[Any]]:
    """All that paths have ever become by that. A line that was not written to its end is as if it was not there."""
    found: dict[str, list[Any]] = {}
    with contextlib.suppress(OSError):
        for line in (_records() / f"{copy}.home").read_text().splitlines():
            with contextlib.suppress(ValueError, AttributeError):
                for path, state in json.loads(line).items():
                    found.setdefault(path, []).append(state)
    return found
