"""Copies between two machines, this one included: a file in pieces, a directory as a tar archive, always complete or not at all at the
other end.

Derived from the backend protocol alone. Which copies are allowed is decided by others; an `End` carries their check along, because only
here is it known which path a copy ends up on.
"""

from __future__ import annotations

import contextlib
import posixpath
import secrets
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from langchain_vers.backends.base import Backend, FileStat
from langchain_vers.errors import BadInput, Conflict, Denied, DiskFull, Missing, ServerFault, VersError, WrongKind

PIECE_BYTES = 32 * 1024 * 1024
"""How much of a file is held in memory at once."""
_SECONDS = 3600.0
_SCRATCH = ".vers-copy-"

Progress = Callable[[int, int], None]
"""Told the bytes that are done and those that there are."""


@dataclass(frozen=True)
class End:
    """One end of a copy.

    `check` is called with the path that is going to be read or written before anything is, and raises if that must not be. `guarded`
    means that what arrives here comes from a machine that is trusted less: it may hold no devices, and gives nobody another user's rights.
    """

    backend: Backend
    path: str
    guarded: bool = False
    check: Callable[[str], None] = lambda path: None

    def __str__(self) -> str:
        return f"vm:{self.backend.machine_id}:{self.path}" if self.backend.machine_id else self.path


@dataclass(frozen=True)
class Copied:
    """What was copied where."""

    destination: str
    bytes: int
    """Size of the file, or of the archive that the directory travelled in."""


async def copy(source: End, destination: End, *, recursive: bool, progress: Progress) -> Copied:
    """Copy a file, or with `recursive` a directory. As with `cp`, an existing directory as destination means: into it, under the same name.

    Modes and symlinks are kept, owners are not: a number on one machine is another person on the other.

    Raises:
        WrongKind: the source is a directory and `recursive` is not given.
        BadInput: a directory would be copied into itself.
        VersError: of the paths at either end; a file at the destination is whole then, the old one or the new one.
    """
    source.check(source.path)
    kind = await source.backend.stat(source.path)
    if kind.kind == "directory" and not recursive:
        raise WrongKind(f"{source} is a directory; give recursive=true to copy it with all that is in it")
    if kind.kind not in {"file", "directory"}:
        raise WrongKind(f"{source} is neither a regular file nor a directory; it cannot be copied")
    destination.check(destination.path)
    target = await _target(source, destination)
    target.check(target.path)
    if source.backend is target.backend and _within(target.path, source.path):
        raise BadInput(f"{source} cannot be copied onto or into itself; choose another destination")
    if kind.kind == "file":
        size = await _copy_file(source, target, kind, progress)
    else:
        size = await _copy_tree(source, target, progress)
    return Copied(str(target), size)


async def _target(source: End, destination: End) -> End:
    into = destination.path.endswith("/")
    with contextlib.suppress(Missing):
        into = (await destination.backend.stat(destination.path)).kind == "directory" or into
    if not into:
        return destination
    name = posixpath.basename(source.path.rstrip("/"))
    if name in {"", ".", ".."}:
        raise BadInput(f"the source {source} has no name of its own to be copied under; give the full destination path")
    return replace(destination, path=posixpath.join(destination.path, name))


def _within(path: str, folder: str) -> bool:
    path, folder = posixpath.normpath(path), posixpath.normpath(folder)
    return path == folder or path.startswith(folder.rstrip("/") + "/")


async def _copy_file(source: End, target: End, stat: FileStat, progress: Progress) -> int:
    mode = stat.mode & 0o777 if target.guarded else stat.mode
    if stat.size <= PIECE_BYTES:
        found = await source.backend.read(source.path)
        await target.backend.write(target.path, found.data, mode=mode)
        progress(len(found.data), len(found.data))
        return len(found.data)
    with contextlib.suppress(Missing):
        if (await target.backend.stat(target.path)).kind == "directory":
            raise WrongKind(f"{target} is a directory; give the path of a file")
    async with scratch(target) as folder:
        done = 0
        while done < stat.size:
            data = (await source.backend.read(source.path, offset=done, length=PIECE_BYTES)).data
            if not data:
                raise Conflict(f"{source} became shorter while it was copied; nothing was changed at the destination: copy it again")
            await target.backend.write(f"{folder}/piece", data, mode=0o600)
            await shell(target, f"cd {shlex.quote(folder)} && cat piece >>whole && rm -f piece")
            done += len(data)
            progress(done, stat.size)
        whole = f"{folder}/whole"
        await shell(target, f"chmod {mode:o} {shlex.quote(whole)} && {_move(whole, target.path)}")
    return done


async def _copy_tree(source: End, target: End, progress: Progress) -> int:
    async with scratch(source, near=False) as out, scratch(target) as folder:
        archive, arrived, tree = f"{out}/a.tar", f"{folder}/a.tar", f"{folder}/tree"
        await shell(source, f"tar -cf {shlex.quote(archive)} --exclude='{_SCRATCH}*' -C {shlex.quote(source.path)} .")
        stat = await source.backend.stat(archive)
        size = await _copy_file(replace(source, path=archive), replace(target, path=arrived), stat, progress)
        # tar refuses members that lead out of the folder, by their name or by a symlink before them.
        packed, unpacked = shlex.quote(arrived), shlex.quote(tree)
        await shell(target, f"mkdir {unpacked} && tar -xpof {packed} -C {unpacked} && rm -f {packed}")
        if target.guarded:
            await shell(target, _harmless(tree))
        await shell(target, _merge(folder, target.path))
    return size


def _harmless(tree: str) -> str:
    """Refuses devices, pipes and sockets, and takes set-user-id and set-group-id away."""
    quoted = shlex.quote(tree)
    odd = f"find {quoted} ! -type f ! -type d ! -type l | head -n 1"
    return (
        f'x=$({odd}); [ -z "$x" ] || {{ echo "it holds a device, a pipe or a socket: $x"; exit 1; }}\n'
        f"find {quoted} ! -type l \\( -perm -4000 -o -perm -2000 \\) -exec chmod ug-s {{}} +"
    )


def _merge(folder: str, goal: str) -> str:
    """The tree to its place: by a rename, or into the directory that is there already, whose symlinks are replaced and never followed."""
    tree, again, goal_ = f"{folder}/tree", shlex.quote(f"{folder}/b.tar"), shlex.quote(goal)
    into = f"tar -cf {again} -C {shlex.quote(tree)} . && tar -xpof {again} -C {goal_}"
    return f"if [ -d {goal_} ]; then {into}; else {_move(tree, goal)}; fi"


def _move(what: str, to: str) -> str:
    return f"mkdir -p -- {shlex.quote(posixpath.dirname(to) or '.')} && mv -f -- {shlex.quote(what)} {shlex.quote(to)}"


@asynccontextmanager
async def scratch(end: End, *, near: bool = True) -> AsyncIterator[str]:
    """A folder at one end that is gone afterwards; next to the path itself (so that a move is a rename), or among the temporary files."""
    parent = posixpath.dirname(end.path.rstrip("/")) or "/"
    name = f"{_SCRATCH}{secrets.token_hex(6)}"
    where = shlex.quote(parent) if near else '"${TMPDIR:-/tmp}"'
    output = await shell(end, f"mkdir -p -- {where} && cd -- {where} && umask 077 && mkdir {name} && pwd -P")
    folder = f"{output.removesuffix(chr(10))}/{name}"
    remove = f"rm -rf -- {shlex.quote(folder)}"
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(VersError):  # what went wrong is the error to report; a machine that is gone has nothing to tidy
            await shell(end, remove)
        raise
    await shell(end, remove)


async def shell(end: End, script: str) -> str:
    """The output of a script that must succeed at one end, else the error that fits what it said."""
    backend = end.backend
    result = await backend.exec(script, timeout=_SECONDS)
    output = result.tail.decode("utf-8", "surrogateescape")
    if result.exit_code == 0:
        return output
    detail = output.strip().encode("utf-8", "replace").decode()[-300:] or f"exit code {result.exit_code}"
    lowered = detail.lower()
    kind: type[VersError] = ServerFault
    if "no space left" in lowered or "quota exceeded" in lowered:
        kind = DiskFull
    elif "permission denied" in lowered or "read-only file system" in lowered:
        kind = Denied
    elif "not a directory" in lowered or "non-directory" in lowered:
        kind = WrongKind
    raise kind(f"the copy failed on {backend.machine_id or 'this machine'}: {detail}", machine_id=backend.machine_id)
