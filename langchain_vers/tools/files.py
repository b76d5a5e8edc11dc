"""`read`, `write`, `edit` and `ls`: files of whatever machine the thread is on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from langchain_vers.backends.base import Backend, FileRead, Scan, version_of
from langchain_vers.errors import BadInput
from langchain_vers.request import Reach
from langchain_vers.tools import edits as editing
from langchain_vers.tools.base import Answer, Arguments, Call, ToolSpec
from langchain_vers.tools.output import MAX_BYTES as MAX_SHOWN
from langchain_vers.tools.output import format_size
from langchain_vers.tools.reading import describe_binary, image_block, page_text, sniff, too_large

FIRST_BYTES = 1024 * 1024
"""What `read` fetches first: all of most files, in one round trip."""
MAX_BYTES = 64 * 1024 * 1024
"""The largest file that `read` pages through and `edit` edits."""


class Read(Arguments):
    path: str
    offset: int | None = Field(None, description="First line, from 1")
    limit: int | None = Field(None, description="Most lines to show")


class Write(Arguments):
    path: str
    content: str


def _untitled(schema: dict[str, Any]) -> None:
    """Leave out the titles, which say nothing that the names do not; LangChain only does so where nothing is nested."""
    for part in (schema, *schema["properties"].values()):
        part.pop("title", None)


class EditPair(Arguments):
    model_config = ConfigDict(json_schema_extra=_untitled)

    old_text: str = Field(description="Exact text, unique in the file unless replace_all")
    new_text: str
    replace_all: bool = False


class EditArguments(Arguments):
    path: str
    edits: list[EditPair] | None = Field(None, description="All match the original file; no overlaps")
    old_text: str | None = Field(None, description="Instead of edits")
    new_text: str | None = None
    replace_all: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.edits is None) == (self.old_text is None):
            raise ValueError("give either edits, or old_text and new_text")
        if self.old_text is not None and self.new_text is None:
            raise ValueError("old_text is given without new_text")
        return self


class Ls(Arguments):
    path: str | None = Field(None, description="Default: the working directory")
    limit: int | None = Field(None, description="Default 500")


async def read(call: Call, *, path: str, offset: int | None = None, limit: int | None = None) -> Answer:
    route = await call.route()
    where, cwd = route.locate(path)
    found = await route.backend.read(where, cwd=cwd, length=FIRST_BYTES)
    kind = sniff(found.data)
    artifact: dict[str, Any] = {"path": path, "bytes": found.stat.size}
    call.context.note(call.place, route)
    if kind.family == "binary":
        return Answer(describe_binary(path, kind, found.stat.size), artifact)
    if found.stat.size > MAX_BYTES:
        return Answer(too_large(path, found.stat.size), artifact, error=True)
    data = await _whole(route.backend, where, cwd, found)
    if kind.family == "image":
        block = image_block(data, kind.name)
        if isinstance(block, str):
            return Answer(f"{path}: {block}", artifact, error=True)
        return Answer(
            [{"type": "text", "text": f"{path} ({kind.name}, {format_size(len(data))})"}, dict(block)], {**artifact, "mime_type": kind.name}
        )
    page = page_text(data, offset=1 if offset is None else offset, limit=limit, path=path)
    text = page.text if page.notice is None else f"{page.text.rstrip(chr(10))}\n\n{page.notice}" if page.text else page.notice
    return Answer(text, {**artifact, "truncated": page.truncated, "lines": page.total_lines})


async def _whole(backend: Backend, path: str, cwd: str | None, found: FileRead) -> bytes:
    if found.stat.size <= len(found.data):
        return found.data
    return (await backend.read(path, cwd=cwd)).data


async def write(call: Call, *, path: str, content: str) -> Answer:
    data = encoded(content, "content")
    async with call.changing() as route:
        where, cwd = route.locate(path)
        await route.backend.write(where, data, cwd=cwd)
        call.context.note(call.place, route)
    return Answer(f"Wrote {len(data)} bytes to {path}", {"path": path, "bytes": len(data)})


async def edit(
    call: Call,
    *,
    path: str,
    edits: list[EditPair] | None = None,
    old_text: str | None = None,
    new_text: str | None = None,
    replace_all: bool = False,
) -> Answer:
    wanted = edits if edits is not None else [EditPair(old_text=old_text or "", new_text=new_text or "", replace_all=replace_all)]
    async with call.changing() as route:
        where, cwd = route.locate(path)
        found = await route.backend.read(where, cwd=cwd, length=MAX_BYTES + 1)
        if len(found.data) > MAX_BYTES:
            raise BadInput(f"{path} is {format_size(found.stat.size)}, too large for edit; change it with bash (sed)")
        pairs = [editing.Edit(pair.old_text, pair.new_text, pair.replace_all) for pair in wanted]
        edited = editing.apply_edits(found.data, pairs, path=path)
        await route.backend.write(where, edited.data, cwd=cwd, expect=version_of(found.data))
        call.context.note(call.place, route)
    tolerant = " (matched after evening out blanks, quotes or dashes)" if edited.tolerant else ""
    passages = "1 passage" if edited.replacements == 1 else f"{edited.replacements} passages"
    return Answer(
        f"Replaced {passages} in {path}{tolerant}; first changed line {edited.first_changed_line}",
        {
            "path": path,
            "bytes": len(edited.data),
            "diff": edited.diff,
            "first_changed_line": edited.first_changed_line,
            "replacements": edited.replacements,
        },
    )


async def ls(call: Call, *, path: str | None = None, limit: int | None = None) -> Answer:
    route = await call.route()
    limit = 500 if limit is None else limit
    where, cwd = route.locate(path or ".")
    scan = await route.backend.scan(where, cwd=cwd, limit=limit)
    call.context.note(call.place, route)
    return listing(scan, path or ".", "entries", "(empty directory)", "Give a larger limit, or narrow it down with find.")


def listing(scan: Scan, path: str, what: str, nothing: str, remedy: str) -> Answer:
    """The answer that lists what a scan found: one line for each, as many as `MAX_SHOWN` has room for."""
    lines = [display(entry.path) + ("/" if entry.kind == "directory" else "") for entry in scan.entries]
    shown = head(lines)
    text = "\n".join(shown) or nothing
    truncated = scan.truncated or len(shown) < len(lines)
    if truncated:
        limited = f" ({format_size(MAX_SHOWN)} limit)" if len(shown) < len(lines) else ""
        text += f"\n\n[Showing the first {len(shown)} {what}{limited}. {remedy}]"
    return Answer(text, {"path": path, what: len(shown), "truncated": truncated})


def head(lines: list[str], room: int = MAX_SHOWN) -> list[str]:
    """The first lines, as many as fit into `room` bytes of UTF-8."""
    for count, line in enumerate(lines):
        room -= len(line.encode()) + 1
        if room < 0:
            return lines[:count]
    return lines


def display(path: str) -> str:
    """A path as text: bytes that are no UTF-8 are shown as U+FFFD, line breaks as their pictures."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace").replace("\n", "␊").replace("\r", "␍")


def encoded(text: str, what: str) -> bytes:
    """A text as UTF-8; `what` names it in the error.

    Raises:
        BadInput: it has half of a surrogate pair.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"{what} has a lone surrogate at position {error.start}, which is no character; nothing was written") from None


def _reads(arguments: Mapping[str, Any]) -> Reach:
    return Reach(paths=((arguments.get("path") or ".", "read", False),))


def _writes(arguments: Mapping[str, Any]) -> Reach:
    return Reach(paths=((arguments["path"], "write", False),))


def _edits(arguments: Mapping[str, Any]) -> Reach:
    return Reach(paths=((arguments["path"], "read", False), (arguments["path"], "write", False)))


SPECS = [
    ToolSpec("read", "Read a text file (up to 2000 lines or 50KB from offset on) or an image.", Read, read, reach=_reads),
    ToolSpec("write", "Create or overwrite a file; makes parent directories.", Write, write, reach=_writes),
    ToolSpec("edit", "Replace exact text in a file: old_text and new_text, or several edits at once.", EditArguments, edit, reach=_edits),
    ToolSpec("ls", "List a directory, hidden entries included; directories end with '/'.", Ls, ls, reach=_reads),
]
