"""Commands and files for Deep Agents, on the machine of a call: coroutines of the I/O thread, each the work of one tool.

They need nothing but a POSIX shell on the machine. Failures are errors of `langchain_vers.errors`, which `deepagents_answers.py` puts into
Deep Agents' words.
"""

from __future__ import annotations

import contextlib
import posixpath
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from deepagents.backends.protocol import (
    EditResult,
    ExecuteOffloadResult,
    ExecuteResponse,
    ReadResult,
)
from deepagents.backends.sandbox import MAX_BINARY_BYTES
from deepagents.backends.utils import normalize_read_bounds

from langchain_vers.backends.base import Backend, ExecResult, version_of
from langchain_vers.errors import BadInput, Denied, Missing, VersError
from langchain_vers.integrations.deepagents_pages import EMPTY_OLD_STRING, PREVIEW_BYTES, absolute, offloaded, page, preview, whole_or_none
from langchain_vers.route import Route
from langchain_vers.tools import edits as editing
from langchain_vers.tools.base import Answer, Call
from langchain_vers.tools.files import FIRST_BYTES, encoded
from langchain_vers.tools.files import MAX_BYTES as MAX_FILE
from langchain_vers.tools.reading import too_large
from langchain_vers.tools.shell import DEFAULT_TIMEOUT, MAX_TIMEOUT, run_command

RESULT = "result"
"""Where an operation's artifact has what it gives back."""
MAX_OUTPUT = 10 * 1024 * 1024
"""Bytes of a command's output that `execute` gives back; of a longer one only the end."""
TIMED_OUT = 124
"""The exit code of a command that was stopped by its time limit, as GNU timeout's and Deep Agents' own."""


# --- commands ---


@dataclass(frozen=True)
class Capture:
    """Where a long output is to stay, on the machine."""

    path: str
    inline: int
    """Bytes of output that are given back all the same."""
    limit: int
    """Bytes of output that are kept."""


def executing(capture: Capture | None = None) -> Callable[..., Awaitable[Answer]]:
    """The operation `execute`; with a `capture`, long output stays on the machine."""

    async def execute(call: Call, *, command: str, timeout: float | None = None) -> Answer:
        if timeout is not None and not 0 <= timeout <= MAX_TIMEOUT:
            raise BadInput(f"timeout must be a number of seconds from 0 (no limit) to {MAX_TIMEOUT:.0f}, not {timeout}; nothing was run")
        limit = DEFAULT_TIMEOUT if timeout is None else timeout or MAX_TIMEOUT
        async with call.changing() as route:
            result = await run_command(call, route.backend, route.cwd, command, limit)
            call.context.note(call.place, route, cwd=result.cwd)
            code = TIMED_OUT if result.timed_out else result.exit_code
            kept = await _kept(call, route, result, capture) if capture is not None else None
            if kept is not None:
                said, marker, cut = kept
            else:
                (said, cut), marker = await _output(call, route.backend, result), False
        if result.timed_out:
            said = f"{said}\nCommand timed out after {limit:g} s; it and its child processes were killed."
        response = ExecuteResponse(output=said, exit_code=code, truncated=cut)
        done = offloaded(response, marker=marker) if kept is not None else ExecuteOffloadResult(offloaded=False, response=response)
        facts = {"exit_code": code, "timed_out": result.timed_out, "truncated": cut, "bytes": result.total_bytes}
        return Answer(said, {RESULT: done, **facts, "reconnects": result.reconnects, "cwd": result.cwd or route.cwd})

    return execute


async def _output(call: Call, backend: Backend, result: ExecResult) -> tuple[str, bool]:
    """A command's whole output, if it is not too long; else its end, and word of where the rest is."""
    if not result.truncated:
        return result.tail.decode("utf-8", "replace"), False
    log = result.log_path
    if log is not None and result.total_bytes <= MAX_OUTPUT:
        with contextlib.suppress(VersError):  # the command has run: how it ended is told in any case
            whole = await backend.read(log, length=MAX_OUTPUT + 1)
            await backend.exec(f"rm -f -- {shlex.quote(log)}", cwd="/")
            return call.redactor().data(whole.data).decode("utf-8", "replace"), False
    where = f"; the whole output is in {log} on the machine" if log is not None else ""
    return f"[The first {result.total_bytes - len(result.tail)} bytes are left out{where}.]\n{result.tail.decode('utf-8', 'replace')}", True


async def _kept(call: Call, route: Route, result: ExecResult, capture: Capture) -> tuple[str, bool, bool] | None:
    """Have a long output stay on the machine: what stands for it, whether that has lines left out, and whether what is kept is cut.

    None if it is short enough, or cannot be put there.
    """
    if result.total_bytes <= capture.inline:
        return None
    backend, log = route.backend, result.log_path
    target, folder = shlex.quote(capture.path), shlex.quote(posixpath.dirname(capture.path))
    try:
        head = result.tail
        if result.truncated and log is not None:
            head = call.redactor().data((await backend.read(log, length=2 * PREVIEW_BYTES)).data, unfinished=True)
        if log is not None:
            source = shlex.quote(log)
            move = f"mv -f -- {source} {target}"
            if result.total_bytes > capture.limit:
                move = f"head -c {capture.limit} <{source} >{target} && rm -f -- {source}"
            if (await backend.exec(f"mkdir -p -- {folder} && {move}", cwd="/")).exit_code != 0:
                return None
        elif result.truncated:
            return None
        else:
            await backend.write(capture.path, result.tail)
    except VersError:  # the command has run: how it ended is told in any case
        return None
    shown, marker = preview(head, result.tail, total_bytes=result.total_bytes, total_newlines=result.total_newlines)
    return shown, marker, result.total_bytes > capture.limit


# --- files ---


async def read_file(call: Call, *, file_path: str, offset: int = 0, limit: int = 2000) -> Answer:
    """A page of a text file, or the whole of another."""
    offset, limit = normalize_read_bounds(offset, limit)
    route, where, cwd = await located(call, file_path)
    found = await route.backend.read(where, cwd=cwd, length=FIRST_BYTES)
    size = found.stat.size
    call.context.note(call.place, route)
    assert FIRST_BYTES >= MAX_BINARY_BYTES
    result = whole_or_none(file_path, found.data, size, limit)
    data, length = found.data, FIRST_BYTES
    while result is None:
        whole = size <= len(data)
        result = page(file_path, data, offset=offset, limit=limit, whole=whole, shown=lambda text: shown(call, text))
        if result is None and length >= MAX_FILE:
            result = ReadResult(error=f"File '{file_path}': {too_large(file_path, size)}")
        elif result is None:
            length *= 4
            again = await route.backend.read(where, cwd=cwd, length=length)
            data, size = again.data, again.stat.size
    return Answer("", {RESULT: result, "path": file_path, "bytes": size})


async def write_file(call: Call, *, file_path: str, content: str | bytes) -> Answer:
    """Replace a file, or make it with the directories that it needs."""
    data = encoded(content, "content") if isinstance(content, str) else content
    async with call.changing() as route:
        where, cwd = route.locate(absolute(file_path))
        await route.backend.write(where, data, cwd=cwd)
        call.context.note(call.place, route)
    return Answer("", {"path": file_path, "bytes": len(data)})


async def edit_file(call: Call, *, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> Answer:
    """Replace a passage exactly as it stands, line endings aside, with compare and swap."""
    if not old_string:
        return Answer("", {RESULT: EditResult(error=EMPTY_OLD_STRING)})
    async with call.changing() as route:
        where, cwd = route.locate(absolute(file_path))
        found = await route.backend.read(where, cwd=cwd, length=MAX_FILE + 1)
        if len(found.data) > MAX_FILE:
            raise BadInput(f"{file_path} is too large to be edited; change it with execute (sed)")
        call.context.note(call.place, route)
        try:
            edited = editing.apply_edits(found.data, [editing.Edit(old_string, new_string, replace_all)], path=file_path)
        except editing.EditError as error:
            return Answer("", {RESULT: EditResult(error=shown(call, _refusal(error, file_path, old_string)))})
        if edited.tolerant:
            near = f"something like it, with other blanks, quotes or dashes, is at line {edited.first_changed_line}"
            return Answer("", {RESULT: EditResult(error=f"Error: String not found in file: '{old_string}' ({near})")})
        await route.backend.write(where, edited.data, cwd=cwd, expect=version_of(found.data))
    result = EditResult(path=file_path, occurrences=edited.replacements)
    facts = {"first_changed_line": edited.first_changed_line, "replacements": edited.replacements}
    return Answer("", {RESULT: result, "path": file_path, "diff": shown(call, edited.diff), **facts})


def _refusal(error: editing.EditError, path: str, old: str) -> str:
    """Why an edit was not made, in the words of Deep Agents' own sandboxes where they have any."""
    text = str(error)
    if "places in" in text:
        lines = ", ".join(map(str, error.lines[:10]))
        return f"Error: String '{old}' appears multiple times (at lines {lines}). Use replace_all=True to replace all occurrences."
    if "not UTF-8" in text:
        return f"Error: File '{path}' is not a text file"
    if "nothing to change" in text or "surrogate" in text:
        return f"Error: {text}"
    return f"Error: String not found in file: '{old}' ({text})"


async def delete(call: Call, *, file_path: str) -> Answer:
    """Remove a file, or a directory with all that is in it."""
    path = absolute(file_path)
    if path == "/":
        raise BadInput("/ is the whole machine, which is not deleted; name a file or a directory")
    async with call.changing() as route:
        where, cwd = route.locate(path)
        word = shlex.quote(where)
        # Unlike a `test`, it tells a path that is not there from one that cannot be looked at.
        result = await route.backend.exec(f"ls -d -- {word} >/dev/null && rm -rf -- {word}", cwd=cwd)
        call.context.note(call.place, route)
    if result.exit_code == 0:
        return Answer("", {"path": file_path})
    said = result.tail.decode("utf-8", "replace").strip()
    if "no such file" in said.lower():
        raise Missing(f"{file_path} does not exist; check the path with ls")
    raise Denied(f"{file_path} could not be deleted, or not all of it: {said[:500] or 'the machine gave no reason'}")


async def download(call: Call, *, file_path: str) -> Answer:
    """A file's bytes, as they are: programs want them so. What the model reads goes by `read_file`, without secrets."""
    route, where, cwd = await located(call, file_path)
    found = await route.backend.read(where, cwd=cwd)
    call.context.note(call.place, route)
    return Answer("", {RESULT: _Bytes(found.data), "path": file_path, "bytes": len(found.data)})


@dataclass(frozen=True)
class _Bytes:
    """Bytes that redaction leaves alone."""

    data: bytes


# --- what they share ---


async def located(call: Call, path: str) -> tuple[Route, str, str | None]:
    """Where a call goes, and the path as its machine takes it."""
    wanted = absolute(path)
    route = await call.route()
    return route, *route.locate(wanted)


def shown(call: Call, text: str) -> str:
    """A text as the model may read it: without secrets, and without private paths of the host."""
    paths = call.taken.paths if call.taken is not None else None
    return call.redactor().text(paths.text_from_guest(text) if paths else text)
