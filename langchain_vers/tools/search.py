"""`find` and `grep`: names and contents below a directory of whatever machine the thread is on, `.gitignore` respected."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from langchain_vers.backends.base import Backend, ExecResult
from langchain_vers.backends.globs import compile_glob
from langchain_vers.errors import BadInput, Missing
from langchain_vers.permission import hidden
from langchain_vers.request import Reach
from langchain_vers.tools.base import Answer, Arguments, Call, ToolSpec
from langchain_vers.tools.files import head, listing
from langchain_vers.tools.matches import Found, Search, format_matches, grep_command, grep_input, parse_grep, parse_rg, rg_command, select
from langchain_vers.tools.output import MAX_BYTES, format_size

SECONDS = 120.0
_MOST_FILES = 200_000
_NO_RG = b"\0norg\0"
_NO_PATH = b"\0nopath\0"
_ONE_FILE = b"\0file\0"


class Find(Arguments):
    pattern: str = Field(description="Glob; without '/' it matches names, ** crosses directories")
    path: str | None = Field(None, description="Default: the working directory")
    limit: int | None = Field(None, description="Default 1000")
    include_ignored: bool = Field(False, description="Also what .gitignore excludes")


class Grep(Arguments):
    pattern: str = Field(description="Regular expression")
    path: str | None = Field(None, description="Directory or file; default: the working directory")
    glob: str | None = Field(None, description="Only files that match, such as *.py")
    literal: bool = Field(False, description="The pattern is plain text")
    ignore_case: bool = False
    context: int | None = Field(None, description="Lines around each match")
    limit: int | None = Field(None, description="Default 100")


async def find(call: Call, *, pattern: str, path: str | None = None, limit: int | None = None, include_ignored: bool = False) -> Answer:
    if not pattern.strip():
        raise BadInput("the pattern is empty; give a glob such as *.py or src/**/test_*.py")
    route = await call.route()
    limit = 1000 if limit is None else limit
    where, cwd = route.locate(path or ".")
    scan = await route.backend.scan(where, cwd=cwd, pattern=pattern, recursive=True, ignored=include_ignored, limit=limit)
    call.context.note(call.place, route)
    return listing(scan, path or ".", "results", "Nothing found.", "Narrow the pattern or path, or give a larger limit.")


async def grep(
    call: Call,
    *,
    pattern: str,
    path: str | None = None,
    glob: str | None = None,
    literal: bool = False,
    ignore_case: bool = False,
    context: int | None = None,
    limit: int | None = None,
) -> Answer:
    if not pattern:
        raise BadInput("the pattern is empty; give a regular expression")
    search = Search(
        pattern,
        literal=literal,
        ignore_case=ignore_case,
        context=0 if context is None else context,
        glob=glob,
        limit=100 if limit is None else limit,
    )
    route = await call.route()
    where, cwd = route.locate(path or ".")
    found = await find_matches(route.backend, search, where, cwd)
    call.context.note(call.place, route)
    if found.error:
        raise BadInput(f"the pattern {pattern!r} was refused: {found.error}")
    secret = await hidden(call.context, route, where, cwd, [match.path for match in found.matches], premises=call.premises)
    matches = [match for match in found.matches if match.path not in secret]
    formatted = format_matches(select(matches, glob), limit=search.limit, context=search.context, complete=found.complete)
    lines = formatted.text.split("\n")
    shown = head(lines)
    notices = [formatted.notice] if formatted.notice else []
    if len(shown) < len(lines):
        notices = [
            f"[Showing the first {len(shown)} of {len(lines)} lines ({format_size(MAX_BYTES)} limit). Narrow the pattern, path or glob.]"
        ]
    if secret:
        notices.append(f"[Matches in {len(secret)} file(s) that the policy protects are left out.]")
    text = "\n\n".join(["\n".join(shown), *notices])
    return Answer(text, {"path": path or ".", "matches": formatted.shown, "truncated": formatted.truncated or len(shown) < len(lines)})


async def find_matches(backend: Backend, search: Search, path: str, cwd: str | None) -> Found:
    """What a search finds below a directory, or in one file: with ripgrep in one round trip where the machine has it, else with its grep on
    a list of files.

    Raises:
        BadInput: the path has a NUL, or the search took too long. Missing: there is no such path.
    """
    if "\0" in path:
        raise BadInput(f"the path {path!r} contains a NUL character, which no file name can; remove it")
    folder, name = posixpath.split(path.rstrip("/")) if path.rstrip("/") else ("/", "")
    script = (
        f"p={shlex.quote(path)}\n"
        "if ! command -v rg >/dev/null 2>&1; then printf '\\0norg\\0'\n"
        f'elif [ -d "$p" ]; then cd -- "$p" && {rg_command(search)}\n'
        f"elif [ -f \"$p\" ]; then cd -- {shlex.quote(folder or '.')} && printf '\\0file\\0' && {rg_command(search, name)}\n"
        "else printf '\\0nopath\\0'; fi"
    )
    result = await backend.exec(script, cwd=cwd, timeout=SECONDS)
    if result.tail == _NO_PATH:
        raise Missing(f"{path} does not exist; check the path with ls")
    if result.tail != _NO_RG:
        output = await _taken(backend, result)
        return replace(parse_rg(output.removeprefix(_ONE_FILE)), one_file=output.startswith(_ONE_FILE))
    one_file = (await backend.stat(path, cwd=cwd)).kind == "file"
    if one_file:
        files, start = [name], folder or "."
    else:
        scan = await backend.scan(path, cwd=cwd, recursive=True, ignored=search.ignored, limit=_MOST_FILES)
        files, start = [entry.path for entry in scan.entries if entry.kind == "file"], path
    if search.glob is not None:
        picks = compile_glob(search.glob)
        files = [file for file in files if picks(file)]
    command = f"cd -- {shlex.quote(start)} && {grep_command(search)}"
    output = await _taken(backend, await backend.exec(command, cwd=cwd, stdin=grep_input(files), timeout=SECONDS))
    return replace(parse_grep(output), one_file=one_file)


async def _taken(backend: Backend, result: ExecResult) -> bytes:
    """The output of a search; the log that the machine keeps of a long one is of no use to anybody and removed."""
    if result.timed_out:
        raise BadInput(f"the search took longer than {SECONDS:.0f} s and was stopped; narrow the path or glob")
    if result.log_path is not None:
        await backend.exec(f"rm -f -- {shlex.quote(result.log_path)}", timeout=SECONDS)
    return result.tail


def _within(arguments: Mapping[str, Any]) -> Reach:
    return Reach(paths=((arguments.get("path") or ".", "read", False),))


SPECS = [
    ToolSpec("find", "Find files and directories by name, without those that .gitignore excludes.", Find, find, reach=_within),
    ToolSpec(
        "grep", "Search file contents, without files that .gitignore excludes. Lines are cut at 500 characters.", Grep, grep, reach=_within
    ),
]
