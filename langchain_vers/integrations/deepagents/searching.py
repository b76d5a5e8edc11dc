"""Listings and searches for Deep Agents, on the machine of a call; see `operations.py`."""

from __future__ import annotations

import asyncio
import posixpath
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import replace

from deepagents.backends.protocol import FileInfo, GlobResult, GrepMatch, GrepResult, LsResult

from langchain_vers.backends.base import Backend, Entry
from langchain_vers.errors import BadInput, DeadlineExceeded, Denied, Missing, VersError
from langchain_vers.integrations.deepagents.operations import RESULT, located, shown
from langchain_vers.integrations.deepagents.pages import absolute, below, listed, matcher
from langchain_vers.permission import hidden
from langchain_vers.route import Route
from langchain_vers.tools.base import Answer, Call
from langchain_vers.tools.files import display
from langchain_vers.tools.matches import Search
from langchain_vers.tools.search import find_matches

MAX_ENTRIES = 200_000
"""Entries that a listing may have, and files that a glob is tried on."""
MAX_MATCHES = 10_000
"""Files that a glob gives back, as Deep Agents' own."""
GLOB_SECONDS = 30.0
"""How long a glob may take, as with Deep Agents' own."""
_PSEUDO = {"proc", "sys", "dev"}
_UNLIMITED = 1_000_000


async def ls(call: Call, *, path: str) -> Answer:
    """The entries of a directory."""
    route, where, cwd = await located(call, path)
    scan = await route.backend.scan(where, cwd=cwd, limit=MAX_ENTRIES)
    call.context.note(call.place, route)
    if scan.truncated:
        raise BadInput(f"{path} has more than {MAX_ENTRIES} entries; look for some of them with glob")
    entries = [_info(absolute(path), entry) for entry in scan.entries]
    return Answer("", {RESULT: LsResult(entries=entries), "path": path, "entries": len(entries)})


def _info(folder: str, entry: Entry) -> FileInfo:
    found = FileInfo(path=listed(folder, display(entry.path)), is_dir=entry.kind == "directory")
    if entry.kind == "file":
        found["size"] = entry.size
    return found


async def glob(call: Call, *, pattern: str, path: str | None = None) -> Answer:
    """The regular files below a directory (default: the working directory) that match; `.git` is not looked into."""
    picks = matcher(pattern)
    route, where, cwd, folder = await _searched(call, path)
    try:
        async with asyncio.timeout(GLOB_SECONDS):
            entries, cut = await _below(route.backend, where, cwd)
            chosen = [entry for entry in entries if entry.kind in {"file", "symlink"} and picks(entry.path)]
            chosen = await _files_only(route.backend, where, cwd, chosen)
    except DeadlineExceeded:
        raise
    except TimeoutError:
        raise BadInput(f"the search took longer than {GLOB_SECONDS:.0f} s and was stopped; narrow the path") from None
    cut = cut or len(chosen) > MAX_MATCHES
    found = [_info(folder, entry) for entry in chosen[:MAX_MATCHES]]
    result = GlobResult(matches=found, truncated=cut)
    if cut and hasattr(result, "truncation_reason"):
        result.truncation_reason = "budget"
    return Answer("", {RESULT: result, "path": folder, "results": len(found), "truncated": cut})


async def _below(backend: Backend, where: str, cwd: str | None) -> tuple[list[Entry], bool]:
    """All that is below a directory, and whether there is more. What only looks like files is left out where the whole machine is meant."""
    if where != "/":
        scan = await backend.scan(where, cwd=cwd, recursive=True, limit=MAX_ENTRIES)
        return scan.entries, scan.truncated
    top = await backend.scan("/", limit=MAX_ENTRIES)
    folders = [entry.path for entry in top.entries if entry.kind == "directory" and entry.path not in _PSEUDO]
    scans = await asyncio.gather(*(backend.scan(f"/{name}", recursive=True, limit=MAX_ENTRIES) for name in folders), return_exceptions=True)
    entries, cut = list(top.entries), top.truncated
    for name, found in zip(folders, scans, strict=True):
        if isinstance(found, Denied | Missing):
            continue
        if isinstance(found, BaseException):
            raise found
        entries += [replace(entry, path=f"{name}/{entry.path}") for entry in found.entries]
        cut = cut or found.truncated
    entries.sort(key=lambda entry: entry.path.encode("utf-8", "surrogateescape"))
    return entries, cut


async def _files_only(backend: Backend, where: str, cwd: str | None, entries: list[Entry]) -> list[Entry]:
    """Without symlinks that lead to no regular file, or out of the directory."""
    links = [entry.path for entry in entries if entry.kind == "symlink" and "\n" not in entry.path][:MAX_MATCHES]
    if not links:
        return [entry for entry in entries if entry.kind == "file"]
    script = (
        f"cd -P -- {shlex.quote(where)} || exit; d=$(pwd); while IFS= read -r f; do "
        't=$(readlink -f -- "./$f") && [ -f "$t" ] || { echo; continue; }; case $t in "${d%/}"/*) echo y;; *) echo;; esac; done'
    )
    listing = b"".join(link.encode("utf-8", "surrogateescape") + b"\n" for link in links)
    result = await backend.exec(script, cwd=cwd, stdin=listing, timeout=GLOB_SECONDS)
    good = {link for link, word in zip(links, result.tail.split(b"\n"), strict=False) if word == b"y"}
    return [entry for entry in entries if entry.kind == "file" or entry.path in good]


def grepping(excluded: tuple[str, ...]) -> Callable[..., Awaitable[Answer]]:
    """The operation `grep`, which leaves out directories of these names."""

    async def grep(
        call: Call, *, pattern: str, path: str | None = None, glob: str | None = None, output_mode: str = "", max_count: int | None = None
    ) -> Answer:
        if not pattern:
            raise BadInput("the pattern is empty; give the text to look for")
        limit = _UNLIMITED if max_count is None else max_count
        if limit < 1:
            return Answer("", {RESULT: GrepResult(matches=[], truncated=True)})
        picks = None if glob is None else matcher(glob)
        route, where, cwd, folder = await _searched(call, path)
        sieve = None if glob is None or glob.startswith("/") else glob
        wanted = Search(pattern, literal=True, glob=sieve, limit=limit, ignored=True)
        found = await find_matches(route.backend, wanted, where, cwd)
        if found.error:
            raise BadInput(f"the text {pattern!r} could not be looked for: {found.error}")
        secret = await hidden(call.context, route, where, cwd, [match.path for match in found.matches], premises=call.premises)
        names = set(excluded) - {posixpath.basename(folder)}
        base = posixpath.dirname(folder) if found.one_file else folder
        matches = [
            GrepMatch(path=listed(base, display(match.path)), line=match.line_number, text=shown(call, match.text))
            for match in found.matches
            if match.path not in secret and not below(match.path, tuple(names)) and (picks is None or found.one_file or picks(match.path))
        ]
        cut = len(matches) > limit or not found.complete
        result = GrepResult(matches=matches[:limit], truncated=cut)
        return Answer("", {RESULT: result, "path": folder, "matches": len(matches[:limit]), "truncated": cut})

    return grep


async def _searched(call: Call, path: str | None) -> tuple[Route, str, str | None, str]:
    """Where to search: for the backend, and in its absolute form."""
    if path is not None:
        folder = absolute(path)
        return *await located(call, folder), folder
    route = await call.route()
    start = route.cwd
    if start is None:
        start = (await route.backend.exec("pwd", timeout=GLOB_SECONDS)).cwd
        if start is None:
            raise VersError("the machine does not tell its working directory; give the directory to search in as path")
    call.context.note(call.place, route, cwd=start)
    return route, ".", start, start
