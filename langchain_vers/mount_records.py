"""What was copied to guests, kept on this machine for its user alone: a JSON file for each copy, named by its token. Blocking functions."""

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
