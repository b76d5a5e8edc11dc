"""What Deep Agents' file tools are given of a file, of an output and of a list of matches. Pure.

The shapes, the words and the bounds are those of `deepagents.backends.sandbox`, whose scripts do the same on the machine: lines are counted
from 0 in a request and from 1 in an answer, line endings become line feeds, and what is no text is given as Base64.
"""

from __future__ import annotations

import base64
import codecs
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from deepagents.backends.protocol import ExecuteOffloadResult, ExecuteResponse, FileData, ReadResult
from deepagents.backends.sandbox import MAX_BINARY_BYTES, MAX_OUTPUT_BYTES, TRUNCATION_MSG
from deepagents.backends.utils import (  # the middleware decides by this table what kind of block a file becomes
    EMPTY_CONTENT_WARNING,
    _get_backend_read_file_type,
    compile_grep_include_glob,
)

from langchain_vers.errors import BadInput

SNIFFED = 8192
"""Bytes by which text is told from what is not."""
EMPTY_OLD_STRING = "Error: old_string cannot be empty. Provide the exact text to replace."
PREVIEW_LINES = 5
PREVIEW_BYTES = 2000
"""Of the beginning, and of the end, of an output that stays on the machine."""
_BOM = b"\xef\xbb\xbf"
_ROOM = MAX_OUTPUT_BYTES - len(TRUNCATION_MSG)

Shown = Callable[[str], str]
"""What a text is when it is shown: without secrets, and without private paths of the host."""


def absolute(path: object) -> str:
    """A path as the machine takes it: absolute, without `.`, `..` and doubled slashes.

    Raises:
        BadInput: it is not absolute, has a NUL, or leads upwards.
    """
    if not isinstance(path, str) or not path.startswith("/"):
        raise BadInput(f"the path {path!r} is not absolute; give one that begins with /")
    if "\0" in path:
        raise BadInput(f"the path {path!r} contains a NUL character, which no file name can; remove it")
    if ".." in path.split("/"):
        raise BadInput(f"the path {path} leads upwards with '..'; give the directory that it means")
    return posixpath.normpath("/" + path.lstrip("/"))


def is_text(path: str) -> bool:
    """Whether Deep Agents takes a file of this name for text."""
    return bool(_get_backend_read_file_type(path) == "text")


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a relative path fits a glob, as Deep Agents means globs.

    Raises:
        BadInput: it leads upwards, or stands for too many globs.
    """
    if ".." in pattern.replace("\\", "/").split("/"):
        raise BadInput(f"the pattern {pattern!r} leads upwards with '..'; name a path to search in instead")
    try:
        return compile_grep_include_glob(pattern)
    except Exception as error:  # those of the library behind it are private, and come as they are from older versions
        raise BadInput(f"the pattern {pattern!r} is no glob that can be used: {error}") from None


def file_error(path: str, what: str) -> ReadResult:
    """The answer to a read that failed."""
    return ReadResult(error=f"File '{path}': {what}")


def whole_or_none(path: str, head: bytes, size: int, limit: int) -> ReadResult | None:
    """The answer that the first bytes of a file and its size decide, None if its lines are to be paged through.

    `head` is the whole file if it has at most `MAX_BINARY_BYTES`.
    """
    if size == 0:
        return ReadResult(file_data=FileData(content=EMPTY_CONTENT_WARNING, encoding="utf-8"))
    if not is_text(path) or not _decodes(head[:SNIFFED]):
        if size > MAX_BINARY_BYTES:
            return file_error(path, f"Binary file exceeds maximum preview size of {MAX_BINARY_BYTES} bytes")
        return ReadResult(file_data=FileData(content=base64.b64encode(head).decode("ascii"), encoding="base64"))
    if limit <= 0:
        return ReadResult(file_data=FileData(content="", encoding="utf-8"), no_lines_requested=True)
    return None


def _decodes(data: bytes) -> bool:
    """Whether the beginning of a file is UTF-8; its last character may be cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=False)
    except UnicodeDecodeError:
        return False
    return True


def page(path: str, data: bytes, *, offset: int, limit: int, whole: bool, shown: Shown = str) -> ReadResult | None:
    """Lines `offset` to `offset + limit` (from 0) of a text file that begins with `data`; None if more of it is needed to tell.

    `whole`: whether `data` is all of it; then the number of lines is told as well. Bytes that are not UTF-8 become U+FFFD.
    """
    text = data.removeprefix(_BOM).decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    rest = lines.pop()  # what stands behind the last line break: a last line without one, or one that goes on
    if whole and rest:
        lines.append(rest)
    if offset >= len(lines):
        if whole:
            return file_error(path, f"Line offset {offset} exceeds file length ({len(lines)} lines)")
        return _cut_line(offset, rest, shown) if offset == len(lines) and len(rest.encode()) > _ROOM else None
    wanted = lines[offset : offset + limit]
    room, count = _ROOM, 0
    for line in wanted:
        room -= len(line.encode()) + 1
        if room < -1:  # the first of them has no line feed before it
            break
        count += 1
    cut = count < len(wanted)
    if not cut and not whole and len(wanted) < limit:
        return None
    if cut and count == 0:
        return _cut_line(offset, wanted[0], shown, len(lines) if whole else None)
    content = shown("\n".join(wanted[:count])) + (TRUNCATION_MSG if cut else "")
    end = offset + count
    more = not whole or end < len(lines)
    return ReadResult(
        file_data=FileData(content=content, encoding="utf-8"),
        total_lines=len(lines) if whole else None,
        start_line=offset + 1,
        end_line=end,
        next_offset=end if more else None,
    )


def _cut_line(offset: int, line: str, shown: Shown, total: int | None = None) -> ReadResult:
    """The answer if not even the first line fits: as much of it as does. The next page begins behind it."""
    # What is not to be shown may stand where the line is cut.
    text = shown(line[: 2 * _ROOM]).encode()[:_ROOM].decode("utf-8", "ignore")
    end = offset + 1
    return ReadResult(
        file_data=FileData(content=text + TRUNCATION_MSG, encoding="utf-8"),
        total_lines=total,
        start_line=end,
        end_line=end,
        next_offset=None if total is not None and end >= total else end,
    )


def listed(folder: str, name: str) -> str:
    """The absolute path of something that was found below a folder."""
    return f"{folder.rstrip('/')}/{name}"


def below(name: str, folders: Sequence[str]) -> bool:
    """Whether a found file lies in a folder of one of these names, at any depth."""
    return not set(folders).isdisjoint(name.split("/")[:-1])


def preview(head: bytes, tail: bytes, *, total_bytes: int, total_newlines: int) -> tuple[str, bool]:
    """What stands for an output that stays on the machine, and whether lines were left out of its middle.

    `head` and `tail` are its first and last bytes, without secrets.
    """
    omitted = total_newlines - 2 * PREVIEW_LINES
    if omitted > 0:
        first = b"\n".join(head[:PREVIEW_BYTES].split(b"\n")[:PREVIEW_LINES])
        last = b"\n".join(tail[-PREVIEW_BYTES:].removesuffix(b"\n").split(b"\n")[-PREVIEW_LINES:])
        return f"{_decoded(first)}\n... [{omitted} lines truncated] ...\n{_decoded(last)}\n", True
    first = head[: 2 * PREVIEW_BYTES]
    return f"{_decoded(first)}\n... [output clipped here; {total_bytes} bytes total, full output at the path above] ...\n", False


def _decoded(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def offloaded(response: ExecuteResponse, *, marker: bool) -> ExecuteOffloadResult:
    """The answer to a command whose output stays on the machine; Deep Agents 0.7.6 does not know of the marker yet."""
    more: dict[str, Any] = {"preview_has_truncation_marker": marker}
    known = {field.name for field in fields(ExecuteOffloadResult)}
    return ExecuteOffloadResult(offloaded=True, response=response, **{name: value for name, value in more.items() if name in known})
