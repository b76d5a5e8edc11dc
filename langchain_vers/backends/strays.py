"""Which processes belong to a command, by what can be seen of them from outside of their sandbox. Decided purely; `look` reads /proc.

A command's processes carry its session's mark in their environment, descend from one that does, or are in a session that one of those
leads. What has none of these traces, descends from nobody, and came after the command began is taken to be the command's too: in a sandbox
of one's own there is nobody else whose it could be, but another command that runs at the same time and has hidden it as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_MARK = b"VERS_CALL="
TICKS = os.sysconf("SC_CLK_TCK")
"""Ticks in a second of `Seen.started`."""


@dataclass(frozen=True)
class Seen:
    """A process of the sandbox, its numbers being those of this machine."""

    parent: int
    session: int
    started: int
    """Ticks since this machine started."""
    state: str
    """As a letter of proc(5): T is stopped."""
    mark: str | None
    """The session of `guest` that it comes from, by its environment."""


def belonging(table: Mapping[int, Seen], mark: str, since: int) -> set[int]:
    """The processes of the command whose session has this mark and that began at `since`, in ticks.

    `table` holds all processes of the sandbox but those that it is made of (its pid 1, and what starts sessions).
    """
    own = {pid for pid, seen in table.items() if seen.mark == mark}
    own |= {pid for pid in table if is_stray(table, pid, since)}
    while more := {pid for pid, seen in table.items() if pid not in own and {seen.parent, seen.session} & own}:
        own |= more
    return own


def is_stray(table: Mapping[int, Seen], pid: int, since: int) -> bool:
    """Whether this process and all above it have come since then, and have no traces of anybody."""
    above: set[int] = set()
    while pid in table and pid not in above:
        seen = table[pid]
        leader = table.get(seen.session)
        if seen.mark is not None or seen.started < since or (leader is not None and (leader.mark is not None or leader.started < since)):
            return False
        above.add(pid)
        pid = seen.parent
    return True


def look(namespace: str, apart: frozenset[int]) -> dict[int, Seen]:
    """All live processes of a pid namespace ("pid:[...]") but those `apart`. Blocks for a few file operations per process."""
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) in apart:
            continue
        with contextlib.suppress(OSError, ValueError):  # it has ended, or is somebody else's
            if str(Path(entry.path, "ns/pid").readlink()) != namespace:
                continue
            # The name in between may hold spaces and brackets. Fields: proc(5), from the third on.
            fields = Path(entry.path, "stat").read_bytes().rpartition(b")")[2].split()
            if fields[0] not in (b"Z", b"X"):
                variables = Path(entry.path, "environ").read_bytes().split(b"\0")
                mark = next((variable[len(_MARK) :].decode(errors="replace") for variable in variables if variable.startswith(_MARK)), None)
                found[int(entry.name)] = Seen(int(fields[1]), int(fields[3]), int(fields[19]), fields[0].decode(), mark)
    return found


def send(namespace: str, pid: int, number: signal.Signals) -> None:
    """Send a signal to a process of a pid namespace; to nobody, if it has ended and another has its number."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            if str(Path(f"/proc/{pid}/ns/pid").readlink()) == namespace:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
