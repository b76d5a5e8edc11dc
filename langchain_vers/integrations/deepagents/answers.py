"""What operations have given, in the shapes and words of Deep Agents. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from deepagents.backends.protocol import (
    FILE_NOT_FOUND,
    INVALID_PATH,
    IS_DIRECTORY,
    PERMISSION_DENIED,
    DeleteResult,
    EditResult,
    ExecuteOffloadResult,
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
    GlobResult,
    GrepResult,
    LsResult,
    ReadResult,
    WriteResult,
)

from langchain_vers.integrations.deepagents.operations import RESULT
from langchain_vers.tools.base import Answer

_CODES = {"Missing": FILE_NOT_FOUND, "WrongKind": IS_DIRECTORY, "Denied": PERMISSION_DENIED, "BadInput": INVALID_PATH}
"""What Deep Agents calls our errors of files."""


def _value(answer: Answer) -> Any:  # noqa: ANN401  # what the operation gives
    return answer.artifact.get(RESULT)


def _why(answer: Answer) -> str:
    """What went wrong: a code where Deep Agents has one and it says all, else our sentence."""
    text = str(answer.content)
    if answer.artifact.get("error") == "Missing" and not text.startswith("the working directory"):
        return FILE_NOT_FOUND
    return text


def _code(answer: Answer) -> str:
    """The same, as short as Deep Agents wants it for transfers."""
    kind = str(answer.artifact.get("error"))
    if kind == "WrongKind" and "is a directory" not in str(answer.content):
        return INVALID_PATH
    return _CODES.get(kind, str(answer.content))


def executed(answer: Answer) -> ExecuteOffloadResult:
    """Of `execute`. A command that broke off, and may have run in part, has no exit code."""
    if not answer.error:
        done = cast("ExecuteOffloadResult", _value(answer))
        return replace(done, response=replace(done.response, output=str(answer.content)))
    code = None if answer.artifact.get("error") == "Interrupted" else 1
    return ExecuteOffloadResult(offloaded=False, response=ExecuteResponse(output=f"Error: {answer.content}", exit_code=code))


def listed(path: str, answer: Answer) -> LsResult:
    """Of `ls`."""
    if answer.error:
        what = "path_not_found" if _why(answer) == FILE_NOT_FOUND else _why(answer)
        return LsResult(error=f"Path '{path}': {what}")
    return cast("LsResult", _value(answer))


def read(path: str, answer: Answer) -> ReadResult:
    """Of `read`."""
    return ReadResult(error=f"File '{path}': {_why(answer)}") if answer.error else cast("ReadResult", _value(answer))


def written(path: str, answer: Answer) -> WriteResult:
    """Of `write`."""
    return WriteResult(error=f"Failed to write file '{path}': {_why(answer)}") if answer.error else WriteResult(path=path)


def edited(path: str, answer: Answer) -> EditResult:
    """Of `edit`."""
    if not answer.error:
        return cast("EditResult", _value(answer))
    if _why(answer) == FILE_NOT_FOUND:
        return EditResult(error=f"Error: File '{path}' not found")
    return EditResult(error=f"Error editing file '{path}': {_why(answer)}")


def deleted(path: str, answer: Answer) -> DeleteResult:
    """Of `delete`."""
    if not answer.error:
        return DeleteResult(path=path)
    if _why(answer) == FILE_NOT_FOUND:
        return DeleteResult(error=f"Error: '{path}' not found")
    return DeleteResult(error=f"Error deleting file '{path}': {_why(answer)}")


def found(path: str | None, answer: Answer) -> GrepResult:
    """Of `grep`."""
    return GrepResult(error=f"Path '{path or '.'}': {_why(answer)}") if answer.error else cast("GrepResult", _value(answer))


def globbed(path: str | None, answer: Answer) -> GlobResult:
    """Of `glob`."""
    return GlobResult(error=f"Path '{path or '.'}': {_why(answer)}") if answer.error else cast("GlobResult", _value(answer))


def uploaded(files: Sequence[tuple[str, bytes]], found: Sequence[Answer]) -> list[FileUploadResponse]:
    """Of `upload_files`."""
    return [FileUploadResponse(path, _code(answer) if answer.error else None) for (path, _), answer in zip(files, found, strict=True)]


def downloaded(paths: Sequence[str], found: Sequence[Answer]) -> list[FileDownloadResponse]:
    """Of `download_files`."""
    return [
        FileDownloadResponse(path, error=_code(answer)) if answer.error else FileDownloadResponse(path, _value(answer).data)
        for path, answer in zip(paths, found, strict=True)
    ]
