"""Files for Deep Agents, on the machine of a call; see `operations.py`."""

from __future__ import annotations

import shlex
from collections import OrderedDict
from dataclasses import dataclass

from deepagents.backends.protocol import EditResult, ReadResult
from deepagents.backends.sandbox import MAX_BINARY_BYTES
from deepagents.backends.utils import normalize_read_bounds

from langchain_vers.backends.base import version_of
from langchain_vers.errors import BadInput, Conflict, Denied, Misplaced, Missing, TakenOver
from langchain_vers.integrations.deepagents.operations import RESULT, located, shown
from langchain_vers.integrations.deepagents.pages import EMPTY_OLD_STRING, absolute, page, whole_or_none
from langchain_vers.route import Route
from langchain_vers.tools import edits as editing
from langchain_vers.tools.base import Answer, Call
from langchain_vers.tools.files import FIRST_BYTES, encoded
from langchain_vers.tools.files import MAX_BYTES as MAX_FILE
from langchain_vers.tools.reading import too_large

RECENT_BYTES = 8 * 1024 * 1024
"""Of files that were just read or written are kept, for each sandbox."""


class Recent:
    """The contents of files that were just read or written, by machine and path: at most `RECENT_BYTES` of them in all.

    What is known here may be out of date. It is good for what the machine itself compares with what it has.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str | None, str], bytes] = OrderedDict()
        self._size = 0

    def get(self, route: Route, path: str) -> bytes | None:
        """What the file had in it last, None if that is not known."""
        return self._known.get(self._key(route, path))

    def put(self, route: Route, path: str, data: bytes) -> None:
        """The file has this in it."""
        self.forget(route, path)
        if len(data) <= RECENT_BYTES // 8:
            self._known[self._key(route, path)] = data
            self._size += len(data)
            while self._size > RECENT_BYTES:
                self._size -= len(self._known.popitem(last=False)[1])

    def forget(self, route: Route, path: str) -> None:
        """What was known of the file is not so any more."""
        self._size -= len(self._known.pop(self._key(route, path), b""))

    @staticmethod
    def _key(route: Route, path: str) -> tuple[str, str | None, str]:
        return route.attachment.backend, route.backend.machine_id, path


class Files:
    """The operations on files of a sandbox, on the I/O thread.

    A file that was just read or written is edited in one round trip: what is known of it is edited, and the machine takes the outcome if it
    still has what that was made of.
    """

    def __init__(self) -> None:
        self._recent = Recent()

    async def read_file(self, call: Call, *, file_path: str, offset: int = 0, limit: int = 2000) -> Answer:
        """A page of a text file, or the whole of another."""
        offset, limit = normalize_read_bounds(offset, limit)
        route, where, cwd = await located(call, file_path)
        found = await route.backend.read(where, cwd=cwd, length=FIRST_BYTES)
        size = found.stat.size
        call.context.note(call.place, route)
        if size <= len(found.data):
            self._recent.put(route, where, found.data)
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

    async def write_file(self, call: Call, *, file_path: str, content: str | bytes) -> Answer:
        """Replace a file, or make it with the directories that it needs."""
        data = encoded(content, "content") if isinstance(content, str) else content
        async with call.changing() as route:
            where, cwd = route.locate(absolute(file_path))
            self._recent.forget(route, where)
            await route.backend.write(where, data, cwd=cwd)
            self._recent.put(route, where, data)
            call.context.note(call.place, route)
        return Answer("", {"path": file_path, "bytes": len(data)})

    async def edit_file(self, call: Call, *, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> Answer:
        """Replace a passage exactly as it stands, line endings aside, with compare and swap."""
        if not old_string:
            return Answer("", {RESULT: EditResult(error=EMPTY_OLD_STRING)})
        edit = editing.Edit(old_string, new_string, replace_all)
        async with call.changing() as route:
            where, cwd = route.locate(absolute(file_path))
            edited = await self._edited_as_known(route, where, cwd, edit)
            if edited is None:
                found = await route.backend.read(where, cwd=cwd, length=MAX_FILE + 1)
                if len(found.data) > MAX_FILE:
                    raise BadInput(f"{file_path} is too large to be edited; change it with execute (sed)")
                try:
                    edited = editing.apply_edits(found.data, [edit], path=file_path)
                except editing.EditError as error:
                    return Answer("", {RESULT: EditResult(error=shown(call, _refusal(error, file_path, old_string)))})
                if edited.tolerant:
                    near = f"something like it, with other blanks, quotes or dashes, is at line {edited.first_changed_line}"
                    return Answer("", {RESULT: EditResult(error=f"Error: String not found in file: '{old_string}' ({near})")})
                await route.backend.write(where, edited.data, cwd=cwd, expect=version_of(found.data))
            self._recent.put(route, where, edited.data)
            call.context.note(call.place, route)
        result = EditResult(path=file_path, occurrences=edited.replacements)
        facts = {"first_changed_line": edited.first_changed_line, "replacements": edited.replacements}
        return Answer("", {RESULT: result, "path": file_path, "diff": shown(call, edited.diff), **facts})

    async def _edited_as_known(self, route: Route, where: str, cwd: str | None, edit: editing.Edit) -> editing.Edited | None:
        """Edit what is known of a file; None if that is nothing, does not bear the edit, or is not what the machine has."""
        known = self._recent.get(route, where)
        if known is None:
            return None
        self._recent.forget(route, where)
        try:
            edited = editing.apply_edits(known, [edit], path=where)
            if edited.tolerant:
                return None
            await route.backend.write(where, edited.data, cwd=cwd, expect=version_of(known))
        except (Misplaced, TakenOver):
            raise
        except (editing.EditError, Conflict):
            return None
        return edited


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
