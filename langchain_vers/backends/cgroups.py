"""A control group around a sandbox: how many processes it has and how much memory they have together, where this user may make one.

Root may nearly everywhere, an ordinary user where systemd has delegated a part of the tree (a login session with systemd 244 or later).
Both versions of the file system are known. Groups are removed with their sandbox; those of processes that were killed, by the next one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

_PREFIX = "langchain-vers-"
_LIMITS = {2: {"pids": "pids.max", "memory": "memory.max"}, 1: {"pids": "pids.max", "memory": "memory.limit_in_bytes"}}
_TIGHT = {2: {"memory": {"memory.swap.max": "0", "memory.oom.group": "0"}}, 1: {}}


def homes(mounts: str, membership: str) -> dict[str, tuple[int, list[Path]]]:
    """Where a group with the controllers "pids" and "memory" might be made: per controller the version and the folders, best first. Pure.

    Args:
        mounts: /proc/self/mountinfo.
        membership: /proc/self/cgroup.
    """
    places: dict[str, tuple[int, list[Path]]] = {}
    own: dict[str, str] = {}
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)  # version 2 is the line with no names
    for line in mounts.splitlines():
        fields = line.split()
        root, target = fields[3], fields[4]
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        for controller in ("pids", "memory"):
            if kind == "cgroup" and controller in options and controller in own:
                places[controller] = (1, [_below(target, root, own[controller])])
            elif kind == "cgroup2" and "" in own and controller not in places:
                # Version 2 keeps processes in leaves: the group goes beside our own, or further up.
                here = _below(target, root, own[""])
                above = [path for path in here.parents if path.is_relative_to(target)]
                places[controller] = (2, [*above, here] if above else [here])
    return places


def _below(target: str, root: str, path: str) -> Path:
    """Where a group lies, when the mount on `target` shows the tree from `root` on."""
    inner = path.removeprefix(root) if root != "/" and path.startswith(root) else path
    return Path(target, inner.lstrip("/"))


class Group:
    """The folders of one sandbox's group: one with version 2, one per controller with version 1. All methods block for a few files."""

    def __init__(self, folders: Sequence[Path], controllers: frozenset[str]) -> None:
        self._folders = folders
        self.controllers = controllers
        """What it limits: "pids", "memory", both, or nothing."""

    @classmethod
    def make(cls, limits: Mapping[str, int]) -> Group:
        """A group with as many of these limits ("pids": a number, "memory": bytes) as this user may set."""
        try:
            places = homes(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())
        except OSError:
            return cls((), frozenset())
        name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(6)}"
        folders: list[Path] = []
        done = set()
        for controller, limit in limits.items():
            version, parents = places.get(controller, (0, []))
            for parent in parents:
                with contextlib.suppress(OSError):
                    _sweep(parent)
                    folder = parent / name
                    if version == 2 and controller not in (parent / "cgroup.subtree_control").read_text().split():
                        continue
                    folder.mkdir(exist_ok=folder in folders)
                    if folder not in folders:
                        folders.append(folder)
                    (folder / _LIMITS[version][controller]).write_text(str(limit))
                    for file, value in _TIGHT[version].get(controller, {}).items():
                        with contextlib.suppress(OSError):
                            (folder / file).write_text(value)
                    done.add(controller)
                    break
        return cls(folders, frozenset(done))

    def take(self, pid: int) -> None:
        """Put a process, and all that it will start, into the group.

        Raises:
            OSError: it may not be moved there.
        """
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Remove the group; its processes have ended. One that cannot be removed yet is left to `make` of a later process."""
        for folder in self._folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _sweep(parent: Path) -> None:
    """Remove the groups of processes that are gone."""
    for folder in parent.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()
