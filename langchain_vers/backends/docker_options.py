"""What a container of `DockerBackend` is made like: its options, checked, and what is refused. Pure, but that links are followed."""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput

LABEL = "langchain-vers-docker"
"""On every container and image that this package makes: "container", "snapshot", or "branch" for an image that only branches stand on.
`docker ps -a --filter label=langchain-vers-docker` finds containers that a killed process has left.
"""
REPOSITORY = "langchain-vers-snapshot"
"""The repository of snapshots. An image with a tag survives `docker image prune`."""
WORKDIR = "/workspace"
DISK = "8g"
MIN_SIZE = 16 * 1024 * 1024
MIN_PIDS = 64
"""A waiting session is two or three processes, a running command six and its own."""

# As root in a container expects to be: owner of all files, any user at will. Not: raw sockets, device files, other name spaces.
CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID", "SYS_CHROOT")

# Process 1 of a container: it waits, and reaps what commands leave behind. No trap: it cannot be ended from within.
KEEP_RUNNING = ("sh", "-c", "while :; do sleep 86400 & wait; done")

_UNITS = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_SIZE = re.compile(r"([0-9]+)([bkmgt]?)b?", re.IGNORECASE)
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?")
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:@-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Shape:
    """What containers are made like. See `DockerBackend` for the meaning of each; sizes are in bytes."""

    mounts: tuple[Mount, ...] = ()
    workdir: str | None = None
    memory: int | None = None
    disk: int | None = None
    cpus: float | None = None
    pids: int = 1024
    network: str = "none"
    user: str | None = None
    given: frozenset[str] = field(default=frozenset(), compare=False)
    """Which of these were asked for: an existing container cannot be given any."""

    @property
    def binds(self) -> tuple[Mount, ...]:
        """The folders of the host that containers see."""
        return tuple(mount for mount in self.mounts if mount.mode != "copy")

    @property
    def copies(self) -> tuple[Mount, ...]:
        """The folders of the host that a container is made with a copy of."""
        return tuple(mount for mount in self.mounts if mount.mode == "copy")


def shape(
    *,
    workspace: str | os.PathLike[str] | None,
    workdir: str | None,
    mounts: Sequence[Mount],
    memory: int | str | None,
    disk: int | str | None,
    cpus: float | None,
    pids: int | None,
    network: str | None,
    user: str | None,
) -> Shape:
    """Check the options.

    Raises:
        BadInput: one makes no sense; the message names it.
    """
    given: dict[str, object] = {"workspace": workspace, "mounts": mounts or None, "network": network}
    given |= {"memory": memory, "disk": None if disk == DISK else disk, "cpus": cpus, "pids": pids}
    if workdir is not None:
        workdir = guest_path(workdir, "workdir")
    all_mounts = list(mounts)
    if workspace is not None:
        workdir = workdir or WORKDIR
        all_mounts.insert(0, Mount(str(Path(workspace).absolute()), workdir))
    return Shape(
        mounts=_checked_mounts(all_mounts),
        workdir=workdir,
        memory=None if memory is None else size(memory, "memory"),
        disk=None if disk is None else size(disk, "disk"),
        cpus=_checked_cpus(cpus),
        pids=_checked_pids(pids),
        network=_checked_network(network),
        user=_checked_user(user),
        given=frozenset(name for name, value in given.items() if value is not None),
    )


def size(given: int | str, what: str) -> int:
    """Bytes of a size such as 536870912, "512m" or "2g" (1024s). `what` has it.

    Raises:
        BadInput: it is none, or less than an agent's shells need.
    """
    found = _SIZE.fullmatch(given.strip()) if isinstance(given, str) else None
    count = int(found[1]) * _UNITS[found[2].lower()] if found else given
    if not isinstance(count, int) or isinstance(count, bool):
        raise BadInput(f'{what} must be a number of bytes or a size such as "512m", not {given!r}')
    if not MIN_SIZE <= count < 2**63:
        raise BadInput(f'{what} must be at least {MIN_SIZE} bytes ("16m"), for the shells need as much, and less than 2**63; not {given!r}')
    return count


def _checked_cpus(cpus: float | None) -> float | None:
    if cpus is None:
        return None
    if isinstance(cpus, bool) or not isinstance(cpus, (int, float)) or not math.isfinite(cpus) or not 0.01 <= cpus <= 4096:
        raise BadInput(f"cpus must be a number from 0.01 to what the machine has, not {cpus!r}")
    return float(cpus)


def _checked_pids(pids: int | None) -> int:
    if pids is None:
        return Shape.pids
    if isinstance(pids, bool) or not isinstance(pids, int) or not MIN_PIDS <= pids <= 2**22:
        raise BadInput(f"pids must be a whole number of at least {MIN_PIDS}, for the shells need some themselves; not {pids!r}")
    return pids


def _checked_network(network: str | None) -> str:
    if network is None:
        return Shape.network
    if not isinstance(network, str) or not _NETWORK.fullmatch(network):
        raise BadInput(f'network must be "none" or the name of a network of the engine, not {network!r}')
    if network == "host":
        raise BadInput('network "host" would give the container this machine\'s own network with all its local services; use "bridge"')
    return network


def _checked_user(user: str | None) -> str | None:
    if user is not None and (not isinstance(user, str) or not _USER.fullmatch(user)):
        raise BadInput(f'user must be a name or a number, perhaps with a group, such as "agent" or "1000:1000", not {user!r}')
    return user


def guest_path(path: str, what: str) -> str:
    """A path on the guest in its normal form.

    Raises:
        BadInput: it is not absolute, or cannot be a path.
    """
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise BadInput(f"{what} must be an absolute path in the container without '..', not {path!r}")
    return "/" + posixpath.normpath(path).lstrip("/")


def _checked_mounts(mounts: Sequence[Mount]) -> tuple[Mount, ...]:
    checked: list[Mount] = []
    for mount in mounts:
        if not isinstance(mount, Mount) or mount.mode not in ("ro", "rw", "copy"):
            raise BadInput(f'mounts must be Mount(host, guest, mode) with a mode of "ro", "rw" or "copy", not {mount!r}')
        guest = guest_path(mount.guest, "the guest path of a mount")
        if guest == "/" or guest.split("/")[1] in {"proc", "sys", "dev"}:
            raise BadInput(f"nothing can be mounted at {guest} of a container; choose a folder such as {WORKDIR}")
        if not Path(mount.host).is_absolute() or "\0" in mount.host:
            raise BadInput(f"the host path of a mount must be absolute, not {mount.host!r}")
        if guest in {each.guest for each in checked}:
            raise BadInput(f"two folders cannot both be mounted at {guest} of a container")
        checked.append(Mount(mount.host, guest, mount.mode))
    return tuple(checked)


def refuse_socket(mounts: Sequence[Mount], socket: str | None) -> None:
    """Refuse folders in which the engine's own socket lies: whoever reaches that is root on this machine.

    Raises:
        BadInput: one holds it.
    """
    if socket is None:
        return
    real = os.path.realpath(socket)
    for mount in mounts:
        host = os.path.realpath(mount.host)
        if mount.mode != "copy" and os.path.commonpath([real, host]) == host:
            raise BadInput(
                f"{mount.host} cannot be mounted: the container engine's socket lies in it, and gives all rights on this machine"
            )


def reference(name: str, what: str) -> str:
    """An image's or container's name or id.

    Raises:
        BadInput: it can be none.
    """
    if not isinstance(name, str) or not _REFERENCE.fullmatch(name) or len(name) > 512:
        raise BadInput(f"{what} must be a name or an id as the engine lists them, not {name!r}")
    return name
