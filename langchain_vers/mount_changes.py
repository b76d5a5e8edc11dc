"""What guests have made of their copies of mounted folders: changes as people review them, and those that are meant. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from langchain_vers.backends.local_paths import display_path
from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput, Conflict
from langchain_vers.mount_trees import Item
from langchain_vers.tools.output import format_size

What = Literal["added", "modified", "deleted", "mode"]
_SIGNS = {"added": "A", "modified": "M", "deleted": "D", "mode": "m"}


@dataclass(frozen=True)
class Change:
    """What a guest has made of one path of a folder that was copied to it."""

    path: str
    """On the guest, absolute."""
    host: str
    """What it is on this machine, absolute."""
    what: What
    """"mode": only its permission bits differ."""
    kind: str
    """"file", "directory" or "symlink"; of what was deleted, what it was."""
    size: int
    """Bytes of the file on the guest; 0 for anything else."""
    size_before: int
    """Bytes of the file that was copied in; 0 if there was none."""
    mode: int
    """Permission bits on the guest; of what was deleted, those that it had."""
    obstacle: str | None = None
    """Why it cannot be brought home as it is, in words; None if it can."""
    version: str = field(default="", repr=False)
    """A file's SHA-256 in hex or a symlink's target on the guest: what was reviewed is what is brought home, or nothing."""

    def __str__(self) -> str:
        sizes = format_size(self.size) if self.what == "added" else f"{format_size(self.size_before)} -> {format_size(self.size)}"
        about = {"file": "" if self.what in {"deleted", "mode"} else f" ({sizes})", "symlink": f" -> {display_path(self.version)}"}
        about["directory"] = "/"
        extra = f" (mode {self.mode:o})" if self.what == "mode" else ""
        warning = f" [{self.obstacle}]" if self.obstacle else ""
        return f"{_SIGNS[self.what]} {display_path(self.path)}{about[self.kind]}{extra}{warning}"


@dataclass(frozen=True)
class Difference:
    """A change, and what it takes to bring it home."""

    mount: Mount
    path: str
    """Relative to the folder."""
    home: Item | None
    """What this machine had when it was looked at."""
    now: Item | None
    """What the guest has."""
    change: Change


def chosen(found: list[Difference], wanted: Sequence[str | Change] | None) -> list[Difference]:
    """Those that are at or below these paths, or are these very changes; all, if None are named.

    Raises:
        BadInput: nothing was changed at one of the paths.
        Conflict: a change is not the one that was reviewed any more.
    """
    if wanted is None:
        return found
    if isinstance(wanted, str):
        raise BadInput(f"{wanted!r} is one path; give a list of paths")
    chosen: dict[str, Difference] = {}
    for one in wanted:
        path = (one.path if isinstance(one, Change) else one).rstrip("/")
        here = [each for each in found if any((name + "/").startswith(path + "/") for name in (each.change.path, each.change.host))]
        if isinstance(one, Change):
            here = [each for each in here if each.change.path == one.path]
            if not here or replace(here[0].change, obstacle=one.obstacle) != one:
                raise Conflict(
                    f"{display_path(one.path)} is not as it was when its change was reviewed; nothing was brought home: look again"
                )
        if not here:
            raise BadInput(
                f"nothing was changed at {display_path(path) or '/'}; give paths that changes() lists, or folders that hold them"
            )
        chosen |= {each.change.path: each for each in here}
    return [each for each in found if each.change.path in chosen]
