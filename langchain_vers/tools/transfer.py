"""Copies between two machines, this one included: a file in pieces, a directory as a tar archive, always complete or not at all at the other end.

Derived from the backend protocol alone. Nothing is decided here about which copies are allowed.
"""

from __future__ import annotations

import posixpath
import secrets
import shlex
from collections.abc import Callable
from contextlib import asynccontextmanager
from collections.abc import AsyncIterator
from dataclasses import dataclass

from langchain_vers.backends.base import Backend, FileStat
from langchain_vers.errors import BadInput, Missing, ServerFault, WrongKind

PIECE_BYTES = 32 * 1024 * 1024
_SECONDS = 3600.0


@dataclass(frozen=True)
class End:
    """One end of a copy."""

    backend: Backend
    path: str

    def __str__(self) -> str:
        return f"vm:{self.backend.machine_id}:{self.path}" if self.backend.machine_id else self.path


@dataclass(frozen=True)
class Copied:
    """What was copied where."""

    destination: str
    bytes: int
    """Size of the file, or of the archive that the directory travelled in."""


async def copy(source: End, destination: End, *, recursive: bool, progress: Callable[[int, int], None]) -> Copied:
    """Copy a file, or with `recursive` a directory. As with `cp`, an existing directory as destination means: into it, under the same name.

    Modes and symlinks are kept. `progress(done, total)` is told bytes.

    Raises:
        WrongKind: the source is a directory and `recursive` is not given.
        VersError: of the paths at either end; a file at the destination is whole then, the old one or the new one.
    """
    kind = await source.backend.stat(source.path)
    if kind.kind == "directory" and not recursive:
        raise WrongKind(f"{source} is a directory; give recursive=true to copy it with all that is in it")
    if kind.kind not in {"file", "directory"}:
        raise WrongKind(f"{source} is neither a regular file nor a directory; it cannot be copied")
    target = await _target(source, destination)
    if kind.kind == "file":
        size = await _copy_file(source, target, kind, progress)
    else:
        size = await _copy_tree(source, target, progress)
    return Copied(str(target), size)


async def _target(source: End, destination: End) -> End:
    into = destination.path.endswith("/")
    try:
        into = (await destination.backend.stat(destination.path)).kind == "directory" or into
    except Missing:
        pass
    if not into:
        return destination
    name = posixpath.basename(source.path.rstrip("/"))
    if name in {"", ".", ".."}:
        raise BadInput(f"the source {source} has no name of its own to be copied under; give the full destination path")
    return End(destination.backend, posixpath.join(destination.path, name))


async def _copy_file(source: End, target: End, stat: FileStat, progress: Callable[[int, int], None]) -> int:
    if stat.size <= PIECE_BYTES:
        found = await source.backend.read(source.path)
        await target.backend.write(target.path, found.data, mode=stat.mode)
        progress(len(found.data), len(found.data))
        return len(found.data)
    async with _scratch(target) as folder:
        pieces = []
        done = 0
        while done < stat.size:
            piece = f"{folder}/{len(pieces):06d}"
            data = (await source.backend.read(source.path, offset=done, length=PIECE_BYTES)).data
            if not data:
                break
            await target.backend.write(piece, data, mode=0o600)
            pieces.append(piece)
            done += len(data)
            progress(done, stat.size)
        whole = f"{folder}/whole"
        script = f'cd {shlex.quote(folder)} && for p in 0* [1-9]*; do [ -e "$p" ] || continue; cat "$p" && rm -f "$p"; done >whole'
        await _sh(target.backend, f"{script} && chmod {stat.mode:o} {shlex.quote(whole)} && {_move(whole, target.path)}")
    return done


async def _copy_tree(source: End, target: End, progress: Callable[[int, int], None]) -> int:
    async with _scratch(source, near=False) as out, _scratch(target) as folder:
        archive, arrived = f"{out}/a.tar", f"{folder}/a.tar"
        await _sh(source.backend, f"tar -cf {shlex.quote(archive)} -C {shlex.quote(source.path)} .")
        stat = await source.backend.stat(archive)
        size = await _copy_file(End(source.backend, archive), End(target.backend, arrived), stat, progress)
        # Owners are not kept: a number on one machine is another person on the other. tar itself refuses members that lead out of the folder.
        unpack = f"mkdir {shlex.quote(folder)}/tree && tar -xpof {shlex.quote(arrived)} -C {shlex.quote(folder)}/tree"
        goal = shlex.quote(target.path)
        merge = f"if [ -d {goal} ]; then cp -a {shlex.quote(folder)}/tree/. {goal}/; else {_move(folder + '/tree', target.path)}; fi"
        await _sh(target.backend, f"{unpack} && {merge}")
    return size


def _move(what: str, to: str) -> str:
    return f"mkdir -p {shlex.quote(posixpath.dirname(to) or '.')} && mv -f {shlex.quote(what)} {shlex.quote(to)}"


@asynccontextmanager
async def _scratch(end: End, *, near: bool = True) -> AsyncIterator[str]:
    """A folder at one end that is gone afterwards; next to the path itself (so that a move is a rename), or among the temporary files."""
    parent = posixpath.dirname(end.path.rstrip("/")) or "."
    name = f".vers-copy-{secrets.token_hex(6)}"
    where = shlex.quote(parent) if near else '"${TMPDIR:-/tmp}"'
    output = await _sh(end.backend, f"mkdir -p {where} && cd {where} && umask 077 && mkdir {name} && pwd -P")
    folder = f"{output.rstrip(chr(10))}/{name}"
    try:
        yield folder
    finally:
        await _sh(end.backend, f"rm -rf {shlex.quote(folder)}")


async def _sh(backend: Backend, script: str) -> str:
    result = await backend.exec(script, timeout=_SECONDS)
    output = result.tail.decode("utf-8", "surrogateescape")
    if result.exit_code != 0:
        detail = output.strip().encode("utf-8", "replace").decode()[-300:] or f"exit code {result.exit_code}"
        raise ServerFault(f"the copy failed on {backend.machine_id or 'this machine'}: {detail}", machine_id=backend.machine_id)
    return output
