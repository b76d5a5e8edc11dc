"""Folders of this machine that guests have a copy of: copied in when a guest is first used, and home again only when somebody says so.

A copy is a `Mount` of mode "copy", for machines that cannot be given a folder itself: a VM, a host behind SSH. What was copied is recorded
on this machine, under a token that is written on the guest: so the guest cannot forge it, and snapshots, branches and restored machines
carry along which state of the folder they began from. Against that record it is told what a guest has changed, and whether this machine
has meanwhile changed the same.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import posixpath
import re
import secrets
import shlex
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from langchain_vers import mount_records
from langchain_vers._io import io
from langchain_vers.attachment import HERE
from langchain_vers.backends.base import Backend
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.local_paths import display_path
from langchain_vers.backends.paths import UNMAPPED, Mount, PathMap
from langchain_vers.errors import BadInput, Conflict, Denied, Gone, VersError
from langchain_vers.looks import Look
from langchain_vers.mount_changes import Change, Difference, What, chosen
from langchain_vers.mount_trees import LIST, Folder, Item, parse_listing
from langchain_vers.tools import transfer

T = TypeVar("T")
_TOKEN = re.compile(r"[0-9a-f]{32}")
_STATE = '"${XDG_STATE_HOME:-$HOME/.local/state}/langchain-vers/mounts"'


class CopiedMounts:
    """The copies of one context's mounts.

    Raises:
        BadInput: a mount's mode is another one than "copy", or it is not clear what a path means (see `PathMap`).
    """

    def __init__(self, mounts: Iterable[Mount] = ()) -> None:
        given = tuple(mounts)
        for mount in given:
            if not isinstance(mount, Mount):
                raise BadInput(f"a mount must be a Mount, not {type(mount).__name__}")
            if mount.mode != "copy":
                raise BadInput(
                    f'{mount.host} cannot be mounted with mode "{mount.mode}" on whatever machine a thread is on; use mode="copy", or give '
                    "the mount to a backend that binds folders"
                )
        real = {mount.host: os.path.realpath(mount.host) for mount in given}
        self._resolve: Callable[[str], str] = lambda path: real.get(path, path)
        self._map = PathMap(given, resolve=self._resolve)
        self._vers_map = PathMap(given, resolve=self._resolve, private=[str(Path.home())], own=["/root"]) if given else self._map
        self._there: set[tuple[str, str | None]] = set()
        self._locks: dict[tuple[str, str | None], asyncio.Lock] = {}

    def __bool__(self) -> bool:
        return bool(self._map)

    def paths(self, name: str, backend: Backend | None) -> PathMap:
        """What a backend calls this machine's folders, those that it binds itself included; None: one that is not open binds none."""
        own = UNMAPPED if backend is None else backend.paths
        if not self or name == HERE.backend:
            return own
        if not own:
            # On a VM of Vers everything runs as root; where another machine's home is, is not known.
            return self._vers_map if name == "vers" else self._map
        return PathMap([*own.mounts, *self._map.mounts], resolve=self._resolve)

    # --- to the guest ---

    def missing(self, name: str, backend: Backend) -> bool:
        """Whether it is not known that a machine has its copies; `name` is what the context calls its backend."""
        return bool(self) and name != HERE.backend and (name, backend.machine_id) not in self._there

    async def bring(self, name: str, backend: Backend) -> None:
        """Give a machine the copies that it does not have. Coroutine of the I/O thread.

        Raises:
            Missing, WrongKind, Denied: of a folder on this machine.
            Conflict: the guest has something else at that place.
        """
        async with self._locks.setdefault((name, backend.machine_id), asyncio.Lock()):
            if not self.missing(name, backend):
                return
            tokens = await self._tokens(backend)
            for mount in self._outermost():
                if mount.guest not in tokens:
                    await self._copy_in(backend, mount)
            self._there.add((name, backend.machine_id))

    def _outermost(self) -> list[Mount]:
        """Without those that lie in another, which come along with it."""
        return [
            mount
            for mount in self._map.mounts
            if not any(other is not mount and (mount.guest + "/").startswith(other.guest.rstrip("/") + "/") for other in self._map.mounts)
        ]

    async def _copy_in(self, backend: Backend, mount: Mount) -> None:
        folder = self._folder(mount)
        with tempfile.TemporaryDirectory(prefix="vers-mount-") as scratch:
            archive = Path(scratch, "a.tar")
            items = await _in_thread(lambda: folder.pack(archive))
            end = transfer.End(backend, mount.guest)
            async with transfer.scratch(end) as there:
                await transfer.copy(
                    transfer.End(LocalBackend("/"), str(archive)),
                    transfer.End(backend, f"{there}/a.tar"),
                    recursive=False,
                    progress=lambda done, total: None,
                )
                token = await self._store(mount, items)
                # In one step: a copy of which the machine does not know which it is, is of no use to anybody.
                answer = await transfer.shell(end, f"{_unpack(there, mount.guest)}\n{_note(mount, token)}")
        if answer.strip() == "taken":
            raise Conflict(
                f"{mount.guest} on machine {backend.machine_id or backend.name} holds something else than a folder's copy; move it away, "
                "or choose another guest folder",
                machine_id=backend.machine_id,
            )

    async def _store(self, mount: Mount, items: dict[str, Item], copy: str | None = None) -> str:
        """Keep a state of a copy here, and of which copy it is; its token."""
        token = secrets.token_hex(16)
        states = {path: asdict(item) for path, item in items.items()}
        text = json.dumps({"host": mount.host, "guest": mount.guest, "copy": copy or token, "items": states})
        await _in_thread(lambda: mount_records.store(token, text))
        return token

    async def _tokens(self, backend: Backend) -> dict[str, str]:
        """The tokens of the copies that a machine has, by guest folder."""
        wanted = {_name(mount): mount.guest for mount in self._outermost()}
        script = f'd={_STATE}; for n in {" ".join(wanted)}; do [ ! -f "$d/$n" ] || echo "$n $(cat "$d/$n")"; done'
        found: dict[str, str] = {}
        for line in (await transfer.shell(transfer.End(backend, "/"), script)).splitlines():
            name, _, token = line.partition(" ")
            if name in wanted and _TOKEN.fullmatch(token):
                found[wanted[name]] = token
        return found

    # --- and home ---

    async def changes(self, backend: Backend) -> list[Change]:
        """What a machine has changed in its copies and this machine does not have, by path. Coroutine of the I/O thread.

        Raises:
            Gone: what was copied is not known on this machine.
        """
        return [each.change for each in await self._differences(backend)]

    async def pull(self, look: Look, wanted: Sequence[str | Change] | None) -> list[Change]:
        """Bring changes home: all, or those at or below the paths that are given. Coroutine of the I/O thread.

        Raises:
            BadInput: nothing was changed at one of the paths.
            Conflict: this machine has changed the same meanwhile, or the guest has since the change was reviewed.
            Denied: a symlink would lead out of the folder.
        """
        backend = look.backend
        found = chosen(await self._differences(backend), wanted)
        obstacles = [each.change for each in found if each.change.obstacle]
        if obstacles:
            kind = Denied if any(not (change.obstacle or "").startswith("changed") for change in obstacles) else Conflict
            listed = ", ".join(f"{display_path(change.path)} ({change.obstacle})" for change in obstacles[:5])
            more = f" and {len(obstacles) - 5} more" if len(obstacles) > 5 else ""
            raise kind(f"nothing was brought home, because of {listed}{more}; name the paths that are to be, without these")
        with tempfile.TemporaryDirectory(prefix="vers-pull-") as scratch:
            staged: dict[str, Path] = {}
            for number, each in enumerate(found):
                if each.now is not None and each.now.kind == "file" and each.change.what != "mode":
                    staged[each.path] = Path(scratch, str(number))
                    await self._fetch(backend, each, staged[each.path])
            await _in_thread(lambda: self._apply(found, staged))
        await self._remember(look, found)
        return [each.change for each in found]

    async def _fetch(self, backend: Backend, each: Difference, to: Path) -> None:
        assert each.now is not None
        await transfer.copy(
            transfer.End(backend, each.change.path),
            transfer.End(LocalBackend("/"), str(to), guarded=True),
            recursive=False,
            progress=lambda done, total: None,
        )
        if await _in_thread(lambda: _hash(to)) != each.now.content:
            raise Conflict(
                f"{display_path(each.change.path)} changed while it was brought home; nothing was changed on this machine: try again"
            )

    def _apply(self, found: Sequence[Difference], staged: dict[str, Path]) -> None:
        folders = {each.mount: self._folder(each.mount) for each in found}
        for each in sorted(found, key=lambda each: each.path, reverse=True):  # what is inside goes before what holds it
            if each.now is None:
                folders[each.mount].remove(each.path, each.home)
        ranks = {"directory": 0, "file": 1, "symlink": 2}
        coming = sorted((each for each in found if each.now is not None), key=lambda each: (ranks[each.change.kind], each.path))
        for each in coming:
            assert each.now is not None
            target = self._home_target(each.mount, each.now.content) if each.now.kind == "symlink" else ""
            folders[each.mount].put(each.path, each.now, each.home, staged=staged.get(each.path), target=target)
        for each in reversed(coming):
            if each.now is not None and each.now.kind == "directory":
                folders[each.mount].set_mode(each.path, each.now.mode)

    async def _remember(self, look: Look, found: Sequence[Difference]) -> None:
        """What was brought home is what both sides have now; and what other branches of the machine find here, is none of our own doing."""
        tokens = await self._tokens(look.backend)
        for mount in dict.fromkeys(each.mount for each in found):
            base = await self._base(mount, tokens[mount.guest])
            mine = [each for each in found if each.mount is mount]
            states = {each.path: None if each.now is None else asdict(each.now) for each in mine}
            await _in_thread(functools.partial(mount_records.add_brought, base.copy, states))
            if look.passing:
                continue
            for each in mine:
                if each.now is not None:
                    base.items[each.path] = each.now
                else:
                    base.items.pop(each.path, None)
            token = await self._store(mount, base.items, base.copy)
            async with look.changing() as backend:
                await transfer.shell(transfer.End(backend, "/"), _note(mount, token))

    async def _differences(self, backend: Backend) -> list[Difference]:
        tokens = await self._tokens(backend)
        found: list[Difference] = []
        for mount in self._outermost():
            if mount.guest not in tokens:
                if await self._is_empty(backend, mount):
                    continue  # nothing was copied there yet, at this point of a conversation
                raise Gone(
                    f"machine {backend.machine_id or backend.name} has lost which copy {mount.guest} is, or it is none; "
                    "copy what you need home with vers_vm_copy"
                )
            base = await self._base(mount, tokens[mount.guest])
            there = await self._listed(backend, mount)
            here = await _in_thread(self._folder(mount).items)
            for path in sorted(base.items.keys() | there.keys(), key=os.fsencode):
                before, now, home = base.items.get(path), there.get(path), here.get(path)
                if now not in (before, home):
                    found.append(self._difference(mount, path, before, now, home, own=home not in (before, *base.brought.get(path, ()))))
        return found

    async def _is_empty(self, backend: Backend, mount: Mount) -> bool:
        place = shlex.quote(mount.guest)
        seen = f'if [ -e {place} ] || [ -L {place} ]; then [ -d {place} ] && [ -z "$(ls -A {place} | head -n 1)" ] || echo taken; fi'
        return not (await transfer.shell(transfer.End(backend, "/"), seen)).strip()

    def _difference(self, mount: Mount, path: str, before: Item | None, now: Item | None, home: Item | None, *, own: bool) -> Difference:
        """`own`: what this machine has there is its own doing."""
        what: What = "modified"
        if now is None or before is None:
            what = "deleted" if now is None else "added"
        elif (before.kind, before.content) == (now.kind, now.content):
            what = "mode"
        obstacle = None
        if own:
            obstacle = "changed on this machine meanwhile"
        elif now is not None and now.kind == "symlink" and not self._stays_inside(mount, path, now.content):
            obstacle = "a link that leads out of the folder"
        about = now or before
        assert about is not None
        change = Change(
            posixpath.join(mount.guest, path),
            posixpath.join(mount.host, path),
            what,
            about.kind,
            size=0 if now is None else now.size,
            size_before=0 if before is None else before.size,
            mode=about.mode,
            obstacle=obstacle,
            version="" if now is None else now.content,
        )
        return Difference(mount, path, home, now, change)

    def _stays_inside(self, mount: Mount, path: str, target: str) -> bool:
        if target.startswith("/"):
            try:
                inside = self._map.to_host(target)
            except VersError:  # not in a mounted folder, or with `..`
                return False
            return (inside + "/").startswith(mount.host.rstrip("/") + "/")
        parts = [part for part in target.split("/") if part not in {"", "."}]
        ups = 0
        while ups < len(parts) and parts[ups] == "..":
            ups += 1
        # Behind a name, which may be a link itself, nobody knows where `..` leads.
        return bool(parts) and ".." not in parts[ups:] and ups <= path.count("/")

    def _home_target(self, mount: Mount, target: str) -> str:
        return self._map.to_host(target) if target.startswith("/") else target

    def _folder(self, mount: Mount) -> Folder:
        home = str(Path.home())

        def translate(target: str) -> str | None:
            if not target.startswith("/"):
                return target
            try:
                return self._map.to_guest(target)
            except VersError:
                # The system's own are there under the same name; those of the user are not, and say where the user's home is.
                return None if (posixpath.normpath(target) + "/").startswith(home.rstrip("/") + "/") else target

        return Folder(mount.host, translate)

    async def _listed(self, backend: Backend, mount: Mount) -> dict[str, Item]:
        end = transfer.End(backend, mount.guest)
        async with transfer.scratch(end, near=False) as there:
            listing = f"{there}/list"
            place = shlex.quote(mount.guest)
            gone = f"[ ! -e {place} ] && [ ! -L {place} ]"
            await transfer.shell(end, f"if {gone}; then printf '\\0'; else cd -P -- {place} && {{ {LIST}\n}}; fi >{shlex.quote(listing)}")
            return parse_listing((await backend.read(listing)).data)

    async def _base(self, mount: Mount, token: str) -> _Base:
        record = await _in_thread(lambda: mount_records.load(token))
        if record is None or record["host"] != mount.host or record["guest"] != mount.guest:
            raise Gone(
                f"what was copied to {mount.guest} is not known on this machine; copy it home with vers_vm_copy, and compare it yourself"
            )
        copy = str(record["copy"])
        brought = await _in_thread(lambda: mount_records.brought(copy))
        return _Base(
            copy,
            {path: Item(**item) for path, item in record["items"].items()},
            {path: [None if state is None else Item(**state) for state in states] for path, states in brought.items()},
        )


@dataclass(frozen=True)
class _Base:
    """What a machine's copy began from."""

    copy: str
    """Which copy it is; branches of the machine have the same."""
    items: dict[str, Item]
    brought: dict[str, list[Item | None]]
    """What paths have become on this machine by bringing them home from it or its branches; None: they were removed."""


def _name(mount: Mount) -> str:
    """The file on a guest that holds the token of its copy."""
    return hashlib.sha256(os.fsencode(mount.guest)).hexdigest()[:32]


def _note(mount: Mount, token: str) -> str:
    """Has the guest know which copy it has."""
    name = _name(mount)
    return f'umask 077; d={_STATE}; mkdir -p "$d" && printf %s {token} >"$d/{name}.new" && mv "$d/{name}.new" "$d/{name}"'


def _unpack(scratch: str, goal: str) -> str:
    """The archive to its place, which must be empty or not be there."""
    tree, archive, place = (shlex.quote(path) for path in (f"{scratch}/tree", f"{scratch}/a.tar", goal))
    return (
        f"p={place}\n"
        'if [ -L "$p" ] || { [ -e "$p" ] && [ ! -d "$p" ]; } || [ -n "$(ls -A "$p" 2>/dev/null | head -n 1)" ]; then echo taken; exit; fi\n'
        f"if [ -d {place} ]; then tar -xpof {archive} -C {place}\n"
        f"else mkdir -- {tree} && tar -xpof {archive} -C {tree} && "
        f"mkdir -p -- {shlex.quote(posixpath.dirname(goal))} && mv -- {tree} {place}\n"
        "fi || exit"
    )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _in_thread(function: Callable[[], T]) -> T:
    return await io.blocking(functools.partial(function))
