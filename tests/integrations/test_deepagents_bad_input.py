"""What nonsense can arrive at each entry point of `VersSandbox`: a result says so, nothing is raised, and nothing is done.

On this machine, but for what hangs on a machine's file system: `BadInput` and the like are found out before a backend is asked, and the
backends' own suites have the rest.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vers.errors import BadInput
from langchain_vers.integrations.deepagents import VersSandbox
from langchain_vers.integrations.deepagents.pages import absolute, matcher

PATHS = ["", ".", "f", "relative/f", "../f", "~/f", "~root/f", "/a/../f", "/..", "/nul\0f", "vm:x:/f", "here:/f", " /f", "\n"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    (folder / "f").write_text("content\n")
    (folder / "directory").mkdir()
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture(scope="module")
def sandbox(folder: Path) -> Iterator[VersSandbox]:
    with VersSandbox(local=folder) as made:
        yield made


@pytest.fixture(autouse=True)
def _untouched(folder: Path) -> Iterator[None]:
    before = sorted(str(path) for path in folder.rglob("*"))
    yield
    assert sorted(str(path) for path in folder.rglob("*")) == before
    assert (folder / "f").read_text() == "content\n"


@pytest.mark.parametrize("path", PATHS)
def test_paths(sandbox: VersSandbox, path: str) -> None:
    assert [one.error for one in sandbox.upload_files([(path, b"x")])] == ["invalid_path"]
    assert [(one.path, one.content, one.error) for one in sandbox.download_files([path])] == [(path, None, "invalid_path")]
    for result in (
        sandbox.read(path),
        sandbox.write(path, "x"),
        sandbox.edit(path, "content", "x"),
        sandbox.delete(path),
        sandbox.ls(path),
        sandbox.glob("*", path),
        sandbox.grep("content", path),
    ):
        assert result.error is not None
        assert "is not absolute" in result.error or "NUL" in result.error or "leads upwards" in result.error
        assert all(value is None or value is False for name, value in vars(result).items() if name not in {"error"})


async def test_paths_async(sandbox: VersSandbox) -> None:
    results = [await sandbox.aread("f"), await sandbox.awrite("f", ""), await sandbox.aedit("f", "a", "b"), await sandbox.adelete("f")]
    results += [await sandbox.als("f"), await sandbox.aglob("*", "f"), await sandbox.agrep("a", "f")]
    assert all("is not absolute" in str(result.error) for result in results)


@given(st.text(st.sampled_from("/.a\0~ ")))
def test_a_path_is_taken_as_it_is_meant_or_not_at_all(path: str) -> None:
    try:
        taken = absolute(path)
    except BadInput:
        assert not path.startswith("/") or "\0" in path or ".." in path.split("/")
        return
    assert taken == os.path.normpath("/" + path.lstrip("/"))
    assert absolute(taken) == taken


@pytest.mark.parametrize("path", ["/", "//", "/.", "/./"])
def test_the_whole_machine_is_not_deleted(sandbox: VersSandbox, path: str) -> None:
    assert "not deleted" in str(sandbox.delete(path).error)


def test_what_is_there_is_of_another_kind(sandbox: VersSandbox, folder: Path) -> None:
    for name in ("directory", "directory/"):
        path = f"{folder}/{name}"
        assert "is a directory" in str(sandbox.read(path).error)
        assert sandbox.write(path, "x").error is not None
        assert sandbox.edit(path, "a", "b").error is not None
        assert sandbox.download_files([path])[0].error == "is_directory"
        assert sandbox.upload_files([(path, b"x")])[0].error == "is_directory"
    for operation in (sandbox.read, sandbox.ls):
        assert operation(f"{folder}/pipe").error is not None
    assert sandbox.download_files([f"{folder}/pipe"])[0].error == "invalid_path"
    assert sandbox.write(f"{folder}/f/below", "x").error is not None
    assert sandbox.ls(f"{folder}/f").error is not None
    assert sandbox.glob("*", f"{folder}/f").error is not None
    assert sandbox.grep("x", f"{folder}/nowhere").error == f"Path '{folder}/nowhere': file_not_found"
    assert sandbox.glob("x", f"{folder}/nowhere").error == f"Path '{folder}/nowhere': file_not_found"
    assert "too long" in str(sandbox.write(f"{folder}/{'x' * 300}", "").error)


@pytest.mark.parametrize("text", ["half of a pair: \ud800", "\udfff"])
def test_texts_that_are_none(sandbox: VersSandbox, folder: Path, text: str) -> None:
    assert "surrogate" in str(sandbox.write(f"{folder}/new", text).error)
    assert "surrogate" in str(sandbox.edit(f"{folder}/f", "content", text).error)
    assert "not found" in str(sandbox.edit(f"{folder}/f", text, "x").error)
    assert "surrogate" in sandbox.execute(f"echo {text}").output
    assert "surrogate" in str(sandbox.grep(text, str(folder)).error)
    assert sandbox.glob(text, str(folder)).matches == []
    path = f"{folder}/{text}"
    results = [sandbox.read(path), sandbox.write(path, ""), sandbox.delete(path), sandbox.ls(path), sandbox.glob("*", path)]
    assert all(result.error is not None for result in results)
    assert sandbox.download_files([path])[0].error is not None


@pytest.mark.parametrize(("old", "new"), [("", "x"), ("content", "content"), ("CONTENT", "x"), ("content\n\n", "x")])
def test_edits_that_cannot_be_made(sandbox: VersSandbox, folder: Path, old: str, new: str) -> None:
    result = sandbox.edit(f"{folder}/f", old, new)
    assert str(result.error).startswith("Error: ")
    assert (result.path, result.occurrences) == (None, None)


@pytest.mark.parametrize("timeout", [-1, -0.5, math.nan, math.inf, 10**9])
def test_timeouts(sandbox: VersSandbox, timeout: Any) -> None:
    result = sandbox.execute("touch canary", timeout=timeout)
    assert (result.exit_code, result.output.startswith("Error: timeout must be")) == (1, True)


def test_commands(sandbox: VersSandbox) -> None:
    assert sandbox.execute("echo a\0b").exit_code == 1
    assert sandbox.execute("").output == "Error: the command is empty; give a shell command"
    assert sandbox.execute("if").exit_code not in {0, None}
    assert sandbox.execute(f": {'x' * 3_000_000}; echo done").output == "done\n"
    assert sandbox.execute("echo begun; sleep 100", timeout=1).output.splitlines()[0] == "begun"
    assert sandbox.execute("sleep 100", timeout=1).exit_code == 124
    assert sandbox.execute("echo on", timeout=0).output == "on\n"
    assert sandbox.execute("sh -c 'kill -9 $$'").exit_code == 137


def test_a_directory_that_is_gone(sandbox: VersSandbox, folder: Path) -> None:
    config: Any = {"configurable": {"thread_id": "gone"}}
    bound = sandbox.bound(config)
    assert bound.execute("mkdir lost; cd lost").exit_code == 0
    (folder / "lost").rmdir()
    assert "does not exist any more" in bound.execute("pwd").output
    assert bound.execute("pwd").output == f"{folder}\n"
    assert bound.execute("mkdir lost; cd lost").exit_code == 0
    (folder / "lost").rmdir()
    assert bound.read(f"{folder}/f").file_data == {"content": "content", "encoding": "utf-8"}
    assert bound.glob("*").error is not None
    assert bound.glob("f").matches == [{"path": f"{folder}/f", "is_dir": False, "size": 8}]


@pytest.mark.parametrize("pattern", ["", "two\nlines", "nul\0"])
def test_texts_to_look_for(sandbox: VersSandbox, folder: Path, pattern: str) -> None:
    result = sandbox.grep(pattern, str(folder))
    assert result.error is not None
    assert result.matches is None


@pytest.mark.parametrize("count", [0, -1])
def test_counts(sandbox: VersSandbox, folder: Path, count: int) -> None:
    result = sandbox.grep("content", str(folder), max_count=count)
    assert (result.error, result.matches, result.truncated) == (None, [], True)


@pytest.mark.parametrize("pattern", ["..", "../*", "a/../b", "{1..100000}{1..100000}", "{a,b}" * 30])
def test_globs_that_are_refused(sandbox: VersSandbox, folder: Path, pattern: str) -> None:
    for result in (sandbox.glob(pattern, str(folder)), sandbox.grep("content", str(folder), pattern)):
        assert result.error is not None
        assert result.matches is None


@pytest.mark.parametrize("pattern", ["", "[", "[a-", "{a,b", "\\", "!", "#", "nul\0", "*" * 1000, "**/" * 200, "\n", "/"])
def test_globs_that_match_nothing(sandbox: VersSandbox, folder: Path, pattern: str) -> None:
    result = sandbox.glob(pattern, f"{folder}/directory")
    assert result.error is not None or result.matches == []


@given(st.text(st.sampled_from("ab*?[]{},!^/.\\-"), max_size=12), st.text(st.sampled_from("ab./-"), max_size=8))
def test_any_glob_is_a_glob_or_bad_input(pattern: str, path: str) -> None:
    try:
        matcher(pattern)(path)
    except BadInput:
        assert ".." in pattern or "{" in pattern


@pytest.mark.parametrize(("offset", "limit"), [(-5, -5), (0, 10**12), (10**12, 1), (True, True), ("0", "1"), (0.0, 1.9)])
def test_windows(sandbox: VersSandbox, folder: Path, offset: Any, limit: Any) -> None:
    result = sandbox.read(f"{folder}/f", offset, limit)
    assert (result.error is None) == (result.file_data is not None)


def test_many_files_some_of_which_are_nonsense(sandbox: VersSandbox, folder: Path) -> None:
    assert sandbox.upload_files([]) == []
    assert sandbox.download_files([]) == []
    names = [f"{folder}/up/{number}" if number % 3 else "bad" for number in range(30)]
    errors = [one.error for one in sandbox.upload_files([(name, name.encode()) for name in names])]
    assert errors == [None if number % 3 else "invalid_path" for number in range(30)]
    found = sandbox.download_files(names)
    assert [one.path for one in found] == names
    assert [one.content for one in found] == [name.encode() if number % 3 else None for number, name in enumerate(names)]
    assert sandbox.delete(f"{folder}/up").error is None


def test_huge_files(sandbox: VersSandbox, folder: Path) -> None:
    huge = folder / "huge"
    with huge.open("wb") as file:
        file.write(b"first\nsecond\n")
        file.truncate(4 * 1024**3)  # a hole: it takes no room
    path = str(huge)
    beginning = sandbox.read(path, 0, 2)
    assert beginning.file_data is not None
    assert (beginning.file_data["content"], beginning.total_lines, beginning.next_offset) == ("first\nsecond", None, 2)
    assert "too large" in str(sandbox.read(path, 3, 1).error)
    assert "too large" in str(sandbox.edit(path, "first", "1").error)
    assert sandbox.ls(str(folder)).error is None
    huge.unlink()
    binary = folder / "huge.bin"
    binary.write_bytes(b"\xff" * 600_000)
    assert sandbox.read(str(binary)).error == f"File '{binary}': Binary file exceeds maximum preview size of 512000 bytes"
    binary.unlink()


def test_a_flood_of_output(sandbox: VersSandbox) -> None:
    result = sandbox.execute("yes | head -c 30000000")
    assert (result.exit_code, result.truncated) == (0, True)
    assert len(result.output) < 300_000
    first, _, _ = result.output.partition("\n")
    assert "bytes are left out; the whole output is in " in first
    sandbox.execute(f"rm {first.split(' is in ')[1].split(' ')[0]}")
    whole = sandbox.execute("seq 1000000")
    assert (whole.truncated, whole.output) == (False, "".join(f"{n}\n" for n in range(1, 1_000_001)))


def test_no_result_has_anything_unknown(sandbox: VersSandbox, folder: Path) -> None:
    """They are Deep Agents' own classes, of whatever version is installed."""
    for result in (sandbox.read(f"{folder}/f"), sandbox.ls(str(folder)), sandbox.glob("*", str(folder)), sandbox.execute("true")):
        assert dataclasses.is_dataclass(result)
        assert type(result).__module__ == "deepagents.backends.protocol"
