"""The tree of a mounted folder, as it is on this machine and on a guest: how it is listed, packed, and changed without being led astray.

Everything on this machine goes through descriptors of directories that are opened one by one without following symlinks: a link that came
from a guest, or is put in the way meanwhile, makes a step fail and never leads out of the folder. Blocking functions, for worker threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import stat as modes
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from langchain_vers.backends.local_paths import display_path, translated
from langchain_vers.errors import Conflict, Denied, ServerFault

Kind = Literal["file", "directory", "symlink"]
Translate = Callable[[str], str | None]
"""What a link's target is called on the guest; None if it must not be known there."""

_CHUNK = 1 << 20
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True)
class Item:
    """What is at a path of a tree. Two that are equal need no copying."""

    kind: Kind
    mode: int
    """Permission bits without set-id and sticky ones; 0 for a symlink."""
    size: int
    """Bytes of a file, else 0."""
    content: str
    """A file's SHA-256 in hex, a symlink's target as the guest names it, "" for a directory."""


class Folder:
    """A mounted folder on this machine. Paths in it are relative, with '/' between names; "" is the folder itself."""

    def __init__(self, root: str, translate: Translate) -> None:
        self.root = root
        self._translate = translate

    def items(self) -> dict[str, Item]:
        """All that is in it; no sockets, pipes, devices, and links that the guest must not know.

        Raises:
            Missing, WrongKind, Denied: for a path in it.
        """
        return {path: item for path, item, _ in self._walk()}

    def pack(self, archive: Path) -> dict[str, Item]:
        """Write all of it into a tar archive; what was written."""
        packed: dict[str, Item] = {}
        with archive.open("xb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for path, item, place in self._walk(hashed=False):
                info = tarfile.TarInfo(f"./{path}")
                info.mode, info.mtime = item.mode, int(place.mtime)
                if item.kind == "file":
                    with os.fdopen(os.open(place.name, _OPEN, dir_fd=place.fd), "rb") as source:
                        info.size = os.fstat(source.fileno()).st_size
                        reader = _Hashing(source)
                        try:
                            tar.addfile(info, reader)  # type: ignore[arg-type]  # all that it needs of a file is `read`
                        except OSError as error:
                            raise Conflict(f"{self._full(path)} became shorter while it was copied; try again") from error
                        packed[path] = Item("file", item.mode, info.size, reader.digest.hexdigest())
                    continue
                info.type = tarfile.DIRTYPE if item.kind == "directory" else tarfile.SYMTYPE
                info.linkname = item.content
                tar.addfile(info)
                packed[path] = item
        return packed

    def item(self, path: str) -> Item | None:
        """What is at a path now; None if nothing is.

        Raises:
            Denied: the way there leads through a symlink.
        """
        with translated(self._full(path)), self._parent(path) as (fd, name):
            return self._item(fd, name)

    def put(self, path: str, wanted: Item, before: Item | None, *, staged: Path | None = None, target: str = "") -> None:
        """Make a path what a guest has there, if it still is what it was.

        `before` is what this machine had there when the guest was given its copy, `staged` a file with the new content, `target` what a
        symlink's is called here.

        Raises:
            Conflict: it is not as before.
            Denied: the way there leads through a symlink.
        """
        with translated(self._full(path)), self._parent(path) as (fd, name):
            now = self._expected(fd, name, path, wanted, before)
            if now == wanted:
                return
            if now is not None and now.kind != wanted.kind and "directory" in {now.kind, wanted.kind}:
                self._remove(fd, name, path, now)
                now = None
            if wanted.kind == "directory":
                if now is None:
                    os.mkdir(name, 0o700 | wanted.mode, dir_fd=fd)
                return
            if wanted.kind == "file" and now is not None and now.kind == "file" and now.content == wanted.content:
                self._chmod(fd, name, wanted.mode)
                return
            temporary = f".vers-{secrets.token_hex(8)}.tmp"
            try:
                if wanted.kind == "symlink":
                    os.symlink(target, temporary, dir_fd=fd)
                else:
                    assert staged is not None
                    _fill(fd, temporary, staged, wanted)
                self._expected(fd, name, path, wanted, before if now is not None else None)
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=fd)

    def remove(self, path: str, before: Item | None) -> None:
        """Remove what the guest has removed, if it still is what it was.

        Raises:
            Conflict: it is not as before, or a directory that is not empty.
            Denied: the way there leads through a symlink.
        """
        with translated(self._full(path)), self._parent(path) as (fd, name):
            now = self._expected(fd, name, path, None, before)
            if now is not None:
                self._remove(fd, name, path, now)

    def set_mode(self, path: str, mode: int) -> None:
        """Give a directory its mode, when nothing will be put into it any more."""
        with translated(self._full(path)), self._parent(path) as (fd, name):
            self._chmod(fd, name, mode, os.O_DIRECTORY)

    # --- one step at a time ---

    def _full(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open directory that holds a path, and its name there."""
        *way, name = path.split("/")
        fd = os.open(self.root, _OPEN | os.O_DIRECTORY)
        try:
            for part in way:
                try:
                    inner = os.open(part, _OPEN | os.O_DIRECTORY, dir_fd=fd)
                except NotADirectoryError as error:
                    raise Denied(
                        f"{display_path(self._full(path))} is reached by way of what is no directory there; nothing was changed"
                    ) from error
                os.close(fd)
                fd = inner
            yield fd, name
        finally:
            os.close(fd)

    def _item(self, fd: int, name: str) -> Item | None:
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return None
        mode = modes.S_IMODE(found.st_mode) & 0o777
        if modes.S_ISDIR(found.st_mode):
            return Item("directory", mode, 0, "")
        if modes.S_ISLNK(found.st_mode):
            target = os.readlink(name, dir_fd=fd)
            # One that the guest must not know is not what anybody expects here.
            return Item("symlink", 0, 0, self._translate(target) or "")
        if not modes.S_ISREG(found.st_mode):
            return Item("file", mode, -1, "")
        with os.fdopen(os.open(name, _OPEN | os.O_NONBLOCK, dir_fd=fd), "rb") as file:
            reader = _Hashing(file)
            while reader.read(_CHUNK):
                pass
            return Item("file", mode, reader.size, reader.digest.hexdigest())

    def _expected(self, fd: int, name: str, path: str, wanted: Item | None, before: Item | None) -> Item | None:
        now = self._item(fd, name)
        if now not in (before, wanted):
            raise Conflict(f"{display_path(self._full(path))} was changed on this machine meanwhile; it was left as it is")
        return now

    def _remove(self, fd: int, name: str, path: str, now: Item) -> None:
        if now.kind != "directory":
            os.unlink(name, dir_fd=fd)
            return
        try:
            os.rmdir(name, dir_fd=fd)
        except OSError as error:
            raise Conflict(f"{display_path(self._full(path))} is not empty on this machine; it was left as it is") from error

    def _chmod(self, fd: int, name: str, mode: int, flags: int = 0) -> None:
        inner = os.open(name, _OPEN | flags, dir_fd=fd)
        try:
            os.fchmod(inner, mode)
        finally:
            os.close(inner)

    def _walk(self, *, hashed: bool = True) -> Iterator[tuple[str, Item, _Place]]:
        with translated(self.root):
            root = os.open(self.root, _OPEN | os.O_DIRECTORY)
        try:
            yield from self._walk_below(root, "", hashed)
        finally:
            os.close(root)

    def _walk_below(self, fd: int, folder: str, hashed: bool) -> Iterator[tuple[str, Item, _Place]]:
        for name in sorted(os.listdir(fd)):
            path = f"{folder}/{name}" if folder else name
            with translated(self._full(path)):
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                place = _Place(fd, name, found.st_mtime)
                if modes.S_ISREG(found.st_mode):
                    item = self._item(fd, name) if hashed else Item("file", modes.S_IMODE(found.st_mode) & 0o777, found.st_size, "")
                    if item is not None:
                        yield path, item, place
                elif modes.S_ISLNK(found.st_mode):
                    if (target := self._translate(os.readlink(name, dir_fd=fd))) is not None:
                        yield path, Item("symlink", 0, 0, target), place
                elif modes.S_ISDIR(found.st_mode):
                    yield path, Item("directory", modes.S_IMODE(found.st_mode) & 0o777, 0, ""), place
                    inner = os.open(name, _OPEN | os.O_DIRECTORY, dir_fd=fd)
                    try:
                        yield from self._walk_below(inner, path, hashed)
                    finally:
                        os.close(inner)


@dataclass(frozen=True)
class _Place:
    fd: int
    name: str
    mtime: float


class _Hashing:
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def read(self, count: int) -> bytes:
        data = self._file.read(count)
        self.digest.update(data)
        self.size += len(data)
        return data


def _fill(fd: int, name: str, staged: Path, wanted: Item) -> None:
    new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=fd)
    with os.fdopen(new, "wb") as target, staged.open("rb") as source:
        shutil.copyfileobj(source, target, _CHUNK)
        target.flush()
        os.fchmod(new, wanted.mode)
        os.fsync(new)


# --- on a guest ---

# One record for each path, ended by a NUL: kind, mode, size, content, path. Names of files may hold anything else.
# GNU's programs list a tree at once; where they are not, each path costs a few programs.
LIST = r"""
if find . -maxdepth 0 -printf '' 2>/dev/null && sha256sum -z /dev/null >/dev/null 2>&1; then
  find . -mindepth 1 -type d -printf 'd %m 0 - %P\0' -o -mindepth 1 -type f -printf 'f %m %s - %P\0' \
    -o -mindepth 1 -type l -printf 'l 0 0 - %P\0%l\0'
  printf '\0'
  find . -mindepth 1 -type f -exec sha256sum -z -- {} +
else
  find . -exec sh -c '
    for f; do
      p=${f#./}
      if [ "$f" = . ]; then continue
      elif [ -L "$f" ]; then printf "l 0 0 - %s\0" "$p"; readlink -n -- "$f"; printf "\0"
      elif [ -d "$f" ]; then printf "d %s 0 - %s\0" "$(stat -c %a -- "$f")" "$p"
      elif [ -f "$f" ]; then s=$(sha256sum <"$f"); printf "f %s %s\0" "$(stat -c "%a %s" -- "$f") ${s%% *}" "$p"
      fi
    done' sh {} +
  printf '\0'
fi
"""


def parse_listing(data: bytes) -> dict[str, Item]:
    """What `LIST` printed. The guest is not trusted: a path that could lead out of the folder is an error.

    Raises:
        ServerFault: it makes no sense.
    """
    first, mark, rest = data.partition(b"\0\0") if not data.startswith(b"\0") else (b"", b"\0", data[1:])
    hashes: dict[bytes, str] = {}
    for record in rest.split(b"\0"):
        digest, _, name = record.partition(b"  ")
        hashes[name.removeprefix(b"./")] = digest.decode("ascii", "replace")
    items: dict[str, Item] = {}
    records = iter(first.split(b"\0") if first else [])
    try:
        for record in records:
            kind, mode, size, digest, name = record.split(b" ", 4)
            path = os.fsdecode(name)
            if not mark or any(part in {"", ".", ".."} for part in path.split("/")):
                raise ValueError(path)
            if kind == b"l":
                items[path] = Item("symlink", 0, 0, os.fsdecode(next(records)))
            elif kind == b"d":
                items[path] = Item("directory", int(mode, 8) & 0o777, 0, "")
            else:
                content = hashes[name] if digest == b"-" else digest.decode()
                items[path] = Item("file", int(mode, 8) & 0o777, int(size), content)
    except (ValueError, KeyError, StopIteration) as error:
        raise ServerFault("the machine's listing of a mounted folder makes no sense; nothing was changed") from error
    return items
