"""What Deep Agents asks of a sandbox, as tools like those of `langchain_vers.tools`: the same gate, the same routing, the same primitives.

To policies they have the names of those tools (`execute` is "bash", `glob` is "find"), and besides them `delete`. The operations are in
`operations.py`, `files.py` and `searching.py`; what they give back for Deep Agents is in the artifact
under `RESULT`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

from langchain_vers.integrations.deepagents import files, operations, searching
from langchain_vers.integrations.deepagents.operations import Capture
from langchain_vers.request import Reach
from langchain_vers.tools.base import Answer, Arguments, ToolSpec

# --- arguments, as Deep Agents' tools have them ---


class Execute(Arguments):
    """Of `execute`."""

    command: str
    timeout: float | None = None


class Path(Arguments):
    """Of `ls`."""

    path: str


class ReadFile(Arguments):
    """Of `read_file`."""

    file_path: str
    offset: int = 0
    limit: int = 2000


class WriteFile(Arguments):
    """Of `write_file`; bytes are those of an upload."""

    file_path: str
    content: str | bytes


class EditFile(Arguments):
    """Of `edit_file`."""

    file_path: str
    old_string: str
    new_string: str
    replace_all: bool = False


class FilePath(Arguments):
    """Of `delete`, and of a download."""

    file_path: str


class Glob(Arguments):
    """Of `glob`."""

    pattern: str
    path: str | None = None


class Grep(Arguments):
    """Of `grep`."""

    pattern: str
    path: str | None = None
    glob: str | None = None
    output_mode: Literal["files_with_matches", "content", "count"] = "files_with_matches"
    max_count: int | None = None


def _reach(*modes: Literal["read", "write", "remove"], name: str = "file_path") -> Callable[[Mapping[str, Any]], Reach]:
    def reach(arguments: Mapping[str, Any]) -> Reach:
        path = arguments.get(name)
        return Reach(paths=tuple((_lenient(path), mode, mode == "remove") for mode in modes))

    return reach


def _lenient(path: str | None) -> str:
    """A path for the policy to judge; the operation itself refuses what is not absolute."""
    return "." if path is None else posixpath.normpath("/" + path.lstrip("/"))


def _spec(
    name: str, arguments: type[Arguments], run: Callable[..., Awaitable[Answer]], reach: Callable[[Mapping[str, Any]], Reach]
) -> ToolSpec:
    return ToolSpec(name, "", arguments, run, reach=reach)


def execute_spec(capture: Capture | None = None) -> ToolSpec:
    """The operation `execute`; see `operations.executing`."""
    return _spec("bash", Execute, operations.executing(capture), lambda arguments: Reach(command=arguments["command"]))


def grep_spec(excluded: tuple[str, ...]) -> ToolSpec:
    """The operation `grep`; see `searching.grepping`."""
    return _spec("grep", Grep, searching.grepping(excluded), _reach("read", name="path"))


def made() -> dict[str, ToolSpec]:
    """The operations of one sandbox, by the names of Deep Agents' tools."""
    known = files.Files()
    return {
        "ls": _spec("ls", Path, searching.ls, _reach("read", name="path")),
        "read_file": _spec("read", ReadFile, known.read_file, _reach("read")),
        "write_file": _spec("write", WriteFile, known.write_file, _reach("write")),
        "edit_file": _spec("edit", EditFile, known.edit_file, _reach("read", "write")),
        "delete": _spec("delete", FilePath, files.delete, _reach("remove")),
        "glob": _spec("find", Glob, searching.glob, _reach("read", name="path")),
        "grep": grep_spec((".git",)),
        "execute": execute_spec(),
    }


DOWNLOAD = _spec("read", FilePath, files.download, _reach("read"))
"""The operation of `download_files`, for one file."""
