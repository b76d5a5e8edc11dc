"""Where what runs in a container can make a disk grow, and how that is looked at. Which way is taken hangs on where the engine is:

- Its storage has quotas: the engine bounds the container's own files by itself, at once and for certain.
- It is on this machine, and this is root: the folder of the container's own files is watched like any other (`disk_watch`).
- It is on this machine, and this is an ordinary user, who may not look into that folder: its file system's free space is watched, and when
  that has fallen the engine is asked how much the container's files take.
- It is elsewhere, behind a forwarded socket or in a virtual machine: the engine is asked every one to five seconds. It tells the sizes of
  files, and not what their names take.

Folders of this machine that a container may write are watched too. Bounded by the engine or the kernel: /dev/shm and /dev, which are in
memory. Not seen: mounts and volumes of an engine elsewhere; and, where this is not root, volumes, folders of a mount that the container
hides by their mode, and files that have been deleted and are still open. Nothing is watched between `close` and the next call.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_vers.backends.disk_watch import Folder, Free, Place, free
from langchain_vers.backends.open_files import in_group, nameless
from langchain_vers.backends.paths import Mount

OWN = "its own files"
"""What the files of a container that lie in no mount are called."""
SETTINGS = "/etc/hosts and its like"
"""The files that an engine mounts into a container by itself."""


@dataclass(frozen=True)
class Layer:
    """A container's own files, as the engine counts them. `near` is a folder of the same file system; None: there is none here."""

    size: Callable[[], int]
    near: str | None

    def free(self) -> Free | None:
        """See `Place`."""
        return None if self.near is None else free(self.near)

    def usage(self, enough: float = math.inf) -> int:
        """See `Place`."""
        return self.size()


def places(found: Mapping[str, Any], mounts: tuple[Mount, ...], size: Callable[[], int], *, root: bool) -> dict[str, Place]:
    """What a container can make grow, by names for people.

    Args:
        found: the container, which runs, as the engine describes it.
        mounts: the folders of this machine that it sees.
        size: asks the engine for the bytes of its own files.
        root: whether this process may look into every folder of this machine.
    """
    here = is_here(found)
    found_places: dict[str, Place] = {}

    def held() -> int:
        return nameless(in_group(str(found["Id"]))) if root else 0

    upper = upper_folder(found) if here else None
    if not has_quota(found):
        if upper is not None and root and Path(upper).is_dir():
            found_places[OWN] = Folder(upper, held)
        else:
            found_places[OWN] = Layer(size, None if upper is None else seen_near(upper, _own_mounts()))
    if not here:
        return found_places
    for mount in mounts:
        if mount.mode == "rw":
            found_places[mount.guest] = Folder(os.path.realpath(mount.host), held)
    if root:
        for volume in found.get("Mounts") or ():
            source = volume.get("Source")
            if volume.get("Type") == "volume" and volume.get("RW") and source and Path(source).is_dir():
                found_places[str(volume.get("Destination"))] = Folder(source, held)
        if (settings := found.get("HostsPath")) and Path(settings).is_file():
            found_places[SETTINGS] = Folder(str(Path(settings).parent))
    return found_places


def has_quota(found: Mapping[str, Any]) -> bool:
    """Whether the engine itself bounds a container's own files."""
    return bool(((found.get("HostConfig") or {}).get("StorageOpt") or {}).get("size"))


def may_have_quotas(info: Mapping[str, Any]) -> bool:
    """Whether an engine's storage may be one that has quotas: only the attempt shows it, as XFS must be mounted with `pquota`."""
    driver = str(info.get("Driver"))
    return driver in {"btrfs", "zfs"} or (
        driver.startswith("overlay") and ["Backing Filesystem", "xfs"] in (info.get("DriverStatus") or [])
    )


def is_here(found: Mapping[str, Any]) -> bool:
    """Whether a container runs on this machine's kernel, and its processes are seen from here: engines name its control group after it."""
    try:
        groups = Path(f"/proc/{int(found['State']['Pid'])}/cgroup").read_text()
    except (OSError, KeyError, TypeError, ValueError):
        return False
    return str(found["Id"]) in groups


def upper_folder(found: Mapping[str, Any]) -> str | None:
    """The folder of this machine with a container's own files, if its engine tells or the kernel does: proc_pid_mountinfo(5)."""
    told = ((found.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
    if told:
        return str(told)
    try:
        lines = Path(f"/proc/{int(found['State']['Pid'])}/mountinfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[4] == "/":
            options = rest.split()[-1].split(",")
            return next((each.removeprefix("upperdir=") for each in options if each.startswith("upperdir=/")), None)
    return None


def _own_mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def seen_near(path: str, mounts: str) -> str | None:
    """The folder where the file system of `path` is mounted, by the text of /proc/self/mountinfo; None if this user does not see it."""
    points = (line.split()[4].encode().decode("unicode_escape") for line in mounts.splitlines())
    above = [point for point in points if os.path.commonpath([point, path]) == point]
    nearest = max(above, key=len, default=None)
    if nearest is None:
        return None
    try:
        free(nearest)
    except OSError:
        return None
    return nearest
