"""What the machine's answers about paths mean: stat lines, directory scans, error words. Pure; `guest.py` prints them, `shell.py` carries
them.
"""

from __future__ import annotations

import stat as modes
from dataclasses import dataclass
from typing import Literal

from langchain_vers.backends.base import Entry, FileStat, Scan
from langchain_vers.backends.globs import IgnoreRules, compile_glob
from langchain_vers.errors import BadInput, Conflict, Denied, DiskFull, Missing, TakenOver, Unreachable, VersError, WrongKind

Kind = Literal["file", "directory", "symlink", "other"]

_KINDS: dict[str, Kind] = {"f": "file", "d": "directory", "l": "symlink"}
_LONG_KINDS: dict[str, Kind] = {
    "regular file": "file",
    "regular empty file": "file",
    "directory": "directory",
    "symbolic link": "symlink",
}


def parse_stat(line: bytes) -> FileStat:
    """Read `stat -c '%f %s %Y'`: raw mode in hex, size in bytes, modification time in seconds."""
    mode_hex, size, mtime = line.split()
    mode = int(mode_hex, 16)
    return FileStat(kind=kind_of(mode), size=int(size), mode=modes.S_IMODE(mode), mtime=float(mtime))


def kind_of(mode: int) -> Kind:
    """The kind of a path with this raw mode."""
    if modes.S_ISREG(mode):
        return "file"
    if modes.S_ISDIR(mode):
        return "directory"
    return "symlink" if modes.S_ISLNK(mode) else "other"


@dataclass(frozen=True)
class Listing:
    """What a scan's answer holds: the entries in no order, and the `.gitignore` rules that bear on them."""

    entries: list[Entry]
    rules: IgnoreRules | None = None


def parse_scan(header: bytes, data: bytes, *, with_rules: bool) -> Listing:
    """Read a scan's answer.

    `header` tells the two dialects apart: "z" is NUL-separated and exact (GNU find), "l" one entry a line (names with line breaks are
    damaged).
    """
    entries, rest = _parse_nul(data) if header == b"z" else _parse_lines(data)
    return Listing(entries, _parse_rules(rest)) if with_rules else Listing(entries)


def _parse_nul(data: bytes) -> tuple[list[Entry], bytes]:
    # A line break where an entry's kind should stand ends the list; names may contain line breaks, but an entry always begins with its
    # kind.
    body, _, rest = (b"", b"", data[1:]) if data.startswith(b"\n") else data.partition(b"\0\n")
    entries = []
    for record in body.split(b"\0") if body else []:
        kind, size, name = record.split(b" ", 2)
        entries.append(Entry(_text(name), _KINDS.get(kind.decode(), "other"), int(size)))
    return entries, rest


def _parse_lines(data: bytes) -> tuple[list[Entry], bytes]:
    body, _, rest = (b"", b"", data[1:]) if data.startswith(b"\n") else data.partition(b"\n\n")
    entries = []
    for line in body.split(b"\n"):
        kind, _, tail = line.partition(b"|")
        size, found, name = tail.partition(b"|")
        if found and size.isdigit():
            entries.append(Entry(_text(name.removeprefix(b"./")), _LONG_KINDS.get(kind.decode(errors="replace"), "other"), int(size)))
    return entries, rest


def _parse_rules(data: bytes) -> IgnoreRules:
    """For each rules file its path (which begins with "./"), its size, and its bytes."""
    rules = IgnoreRules()
    while data:
        path, _, data = data.partition(b"\n")
        size, _, data = data.partition(b"\n")
        if not size.strip().isdigit():
            break
        rules.add(_text(path).removesuffix("/.gitignore").removeprefix(".").removeprefix("/"), data[: int(size)])
        data = data[int(size) :]
    return rules


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def select(listing: Listing, *, pattern: str | None, limit: int) -> Scan:
    """The entries that a scan is asked for: not ignored, matching the pattern, sorted by the bytes of their paths, at most `limit`.

    Raises:
        BadInput: the pattern is no glob, or the limit is not positive.
    """
    if limit < 1:
        raise BadInput(f"limit must be at least 1, not {limit}")
    matches = compile_glob(pattern) if pattern is not None else None
    kept = [entry for entry in listing.entries if matches is None or matches(entry.path)]
    if (rules := listing.rules) is not None:
        kept = [entry for entry in kept if not rules.ignored(entry.path, is_dir=entry.kind == "directory")]
    kept.sort(key=lambda entry: entry.path.encode("utf-8", "surrogateescape"))
    return Scan(kept[:limit], truncated=len(kept) > limit)


def path_error(path: str, word: str, where: str, machine_id: str | None) -> VersError:
    """The error that a session's word about a path means; `word` may also be a tool's own message."""
    lowered = word.lower()
    error: type[VersError]
    if word == "missing" or "no such file" in lowered:
        error, text = Missing, f"{path} does not exist on {where}; check the path with ls"
    elif word == "cwd":
        error, text = (
            Missing,
            f"the working directory of this thread does not exist on {where} any more; `cd` to one that does, or use an absolute path",
        )
    elif word == "isdir":
        error, text = WrongKind, f"{path} is a directory; give the path of a file"
    elif word == "notdir" or "not a directory" in lowered:
        error, text = WrongKind, f"{path} is not a directory, or a part of it is a file; check the path with ls"
    elif word == "notfile":
        error, text = (
            WrongKind,
            f"{path} is not a regular file (it is a device, a socket or a pipe); only regular files can be read and written",
        )
    elif word == "changed":
        error, text = Conflict, f"{path} has changed since it was read; nothing was written: read it again"
    elif word == "owner":
        error, text = TakenOver, f"another process has taken over {where}; nothing was done"
    elif word == "short":
        error, text = Unreachable, f"not all of {path} arrived; the old content is whole: try again"
    elif word == "denied" or "permission denied" in lowered or "not permitted" in lowered or "read-only" in lowered:
        error, text = Denied, f"no permission for {path} on {where}; choose another path or change its mode"
    elif "no space left" in lowered or "quota" in lowered or "file too large" in lowered:
        error, text = DiskFull, f"no room left for {path} on {where}; the old content is whole: free some space and try again"
    elif "name too long" in lowered:
        error, text = BadInput, f"{path} has a name that is too long for the file system; choose a shorter one"
    else:
        error, text = VersError, f"{path} could not be used on {where}: {word.strip() or 'the machine gave no answer'}"
    return error(text, machine_id=machine_id)
