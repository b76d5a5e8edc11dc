"""Whose a machine is and what its content is called, written on the machine itself, so that it moves, branches and is rewound with it.

A versioned machine carries one line: the name of its content, its owner (the books of a process that works on it), and for how many seconds
that owner may fall silent. Every guarded call checks it, and one that changes the machine writes it, in the same round trip as its work and
before it. So after a crash the machine tells whether it has moved past a checkpoint, and an owner that was given up for dead, or was taken
over from, cannot act on it any more.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from langchain_vers.backends import guest

DEFAULT_COMMAND_SECONDS = 600.0
NOBODY = "0" * 32
NO_VERSION = "0" * 36


@dataclass(frozen=True)
class Stamp:
    """The line on the machine."""

    version: str | None
    """The name of its content; None if it has none yet."""
    owner: str = NOBODY
    seconds: int = 0
    """How long the owner may be silent."""
    age: int = 0
    """Seconds since it was written, by the machine's clock."""

    def words(self) -> tuple[str, str, str]:
        """As it is written, each word of fixed length."""
        return self.version or NO_VERSION, self.owner, f"{min(self.seconds, 999_999):06d}"

    def left(self) -> int:
        """Seconds for which others than its owner must keep away; 0 if they need not: it was released, or its owner is known to be dead."""
        return 0 if self.owner == NOBODY or _dead(self.owner) else max(0, self.seconds - self.age)


def parse_stamp(header: bytes) -> Stamp | None:
    """What the guest's `look` printed; None if there is no line, or not a whole one."""
    words = header.decode("ascii", "replace").split()
    if len(words) != 4 or len(words[0]) != 36 or len(words[1]) != 32 or not words[2].isdigit():
        return None
    age = int(words[3]) if words[3].lstrip("-").isdigit() else 0
    return Stamp(None if words[0] == NO_VERSION else words[0], words[1], int(words[2]), max(0, age))


@dataclass
class Guard:
    """Lets calls pass only while a machine is this process's."""

    owner: str
    seconds: float
    """How long the owner may be silent after a call."""
    version: str | None = None
    """What the content is called once one of the calls changes it; None for calls that only read."""
    used: bool = False
    """Whether a call that changes the machine has been sent."""

    def around(self, line: bytes, *, command: bool, changes: bool = True, seconds: float | None = None) -> bytes:
        """A session's line with the check before it. `command`: it is a command, which may take `seconds`."""
        changes = changes and self.version is not None
        self.used = self.used or changes
        allowance = self.seconds + ((seconds or DEFAULT_COMMAND_SECONDS) if command else 0.0)
        return guest.guarded(line, self.version if changes else None, self.owner, int(allowance), command=command, after=int(self.seconds))


def this_process() -> str:
    """What names this process: 32 characters that tell its host, its number and when it started; those at the end are free for `owner`."""
    return owner(0)


def owner(seat: int) -> str:
    """The name of one of several owners in this process: each knows only what it has done itself."""
    return f"{_name(os.getpid())}{seat & 0xFFFFFF:06x}"


def of_this_process(owner: str) -> bool:
    """Whether an owner is in this process."""
    return owner[:_SEAT] == _name(os.getpid())


def seat_of(owner: str) -> int:
    """Which of the owners in this process it is; 0 for what is none."""
    try:
        return int(owner[_SEAT:], 16)
    except ValueError:  # the guest can write anything there
        return 0


_HOST, _PID, _SEAT = 10, 18, 26
"""Where the parts of an owner's name end: the host, the number of the process, when it started; the rest is its seat."""
_LAYOUT = "2"
"""Names of another layout are as those of another host."""


@functools.lru_cache(maxsize=4)
def _name(pid: int) -> str:
    return f"{_host()}{pid & 0xFFFFFFFF:08x}{_started(pid) & 0xFFFFFFFF:08x}"


@functools.lru_cache(maxsize=1)
def _host() -> str:
    """10 hex digits for this host, its boot, and the process namespace: within them a process number means one process."""
    parts = [_LAYOUT, socket.gethostname(), f"{uuid.getnode():x}"]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_HOST]


def _started(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _dead(owner: str) -> bool:
    """Whether the process of an owner is known not to run any more; one of another host is not."""
    if owner[:_HOST] != _host():
        return False
    try:
        pid, started = int(owner[_HOST:_PID], 16), int(owner[_PID:_SEAT], 16)
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    except (ValueError, OverflowError):  # the line is the guest's to write, and this is nothing that we have written
        return False
    return _started(pid) & 0xFFFFFFFF != started


this_process()  # asked for now: later calls are made on an event loop, which must not read files
