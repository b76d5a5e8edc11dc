"""Space that files take which have no name any more: nobody finds them in a folder, and they stay until the last process lets go of them.

Blocks for a few file operations for each open file. Not seen: a file that is on its way from one process to another (unix(7), SCM_RIGHTS).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

_IN_MEMORY = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV", "/[aio]", "/run/user/")  # noqa: S108  # names, as the kernel shows them
_BLOCK = 512


def nameless(pids: Iterable[int]) -> int:
    """Bytes on disks of the files without a name that these processes have open or mapped, as far as this user may look."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        for kind in ("fd", "map_files"):
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                for entry in os.scandir(f"/proc/{pid}/{kind}"):
                    with contextlib.suppress(OSError):
                        name = os.readlink(entry.path)  # noqa: PTH115  # many of them
                        if name.endswith(" (deleted)") and not name.startswith(_IN_MEMORY):
                            seen = os.stat(entry.path)  # noqa: PTH116
                            if stat.S_ISREG(seen.st_mode) and seen.st_nlink == 0:
                                found[seen.st_dev, seen.st_ino] = seen.st_blocks * _BLOCK
    return sum(found.values())


def in_group(name: str) -> Iterator[int]:
    """The processes of this machine in a control group in whose path this name stands."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if name in Path(entry.path, "cgroup").read_text():
                    yield int(entry.name)


def in_namespace(name: str) -> Iterator[int]:
    """The processes of this machine in a pid namespace ("pid:[...]")."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"{entry.path}/ns/pid") == name:  # noqa: PTH115
                    yield int(entry.name)
