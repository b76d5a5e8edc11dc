"""`VersSandbox` answers as the sandbox that Deep Agents has of its own, over the same machine; and it needs no Python there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from casts import PlainSandbox
from deepagents.backends.utils import compile_grep_include_glob
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_vers._io import run
from langchain_vers.backends.local import LocalBackend
from langchain_vers.integrations.deepagents import VersSandbox
from langchain_vers.integrations.deepagents.pages import page

FILES = {
    "a.py": b"import os\nprint('needle')\nneedle again\n",
    "b.txt": b"no match here",
    "crlf.txt": b"one\r\ntwo needle\r\nthree\r\n",
    "cr.txt": b"one\rtwo\rthree",
    "empty.txt": b"",
    "blank.txt": b"\n\n\n",
    "sub/deep/c.py": "näedle äöü\nneedle\n".encode(),
    "sub/.hidden.py": b"needle\n",
    ".dot/d.py": b"needle\n",
    "sub/.gitignore": b"ignored.py\n",
    "sub/ignored.py": b"needle\n",
    "picture.png": bytes(range(256)),
    "latin.txt": b"caf\xe9 needle",
    "name with 'quote' and $dollar.txt": b"needle",
    "long.txt": b"x" * 600_000 + b"\nshort\n",
    "many.txt": b"".join(b"line %d\n" % number for number in range(200_000)),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[VersSandbox, PlainSandbox, str]]:
    """Ours, Deep Agents' own, and the folder with the files."""
    folder = tmp_path_factory.mktemp("peer")
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "link.py").symlink_to("a.py")
    (folder / "dangling.py").symlink_to("nowhere")
    (folder / "outside.py").symlink_to("/etc/passwd")
    (folder / "directory.py").mkdir()
    backend = LocalBackend(folder)
    with VersSandbox(local=folder) as ours:
        yield ours, PlainSandbox(backend), str(folder)
    run(backend.close())


WINDOWS = [(0, 2000), (1, 1), (0, 1), (2, 5), (0, 0), (0, -1), (-3, 2), (300_000, 1)]
WINDOWED = ("a.py", "crlf.txt", "blank.txt")
READS = [(name, 0, 2000) for name in [*FILES, "nowhere", "sub", "link.py", "sub/"]] + [
    (name, *window) for name in WINDOWED for window in WINDOWS
]
READS += [("long.txt", 1, 1), ("many.txt", 199_998, 10), ("many.txt", 100_000, 3), ("picture.png", 5, 0), ("empty.txt", 0, 0)]


def thinned(cases: Sequence[Any], keep: int) -> list[Any]:
    """Every so many-th of them is for the default run, and the others for the full one."""
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*each, marks=() if number % keep == 0 else pytest.mark.full) for number, each in enumerate(values)]


@pytest.mark.parametrize(("name", "offset", "limit"), thinned(READS, 3))
def test_read(both: Any, name: str, offset: int, limit: int) -> None:
    ours, plain, folder = both
    expected, found = (sandbox.read(f"{folder}/{name}", offset, limit) for sandbox in (plain, ours))
    if expected.error is not None and "not_a_file" in expected.error:
        assert found.error is not None
        assert "is a directory" in found.error
        return
    if expected.total_lines is None and found.total_lines is not None:
        found.total_lines = None  # of a large file we may know more
    assert found == expected


LINES = st.lists(st.text(st.sampled_from("aä\r\0 "), max_size=4) | st.just("x" * 200_000), max_size=6)


@given(LINES, st.integers(0, 7), st.integers(1, 7), st.booleans(), st.integers(0, 700_000))
@example(["x" * 600_000], 0, 1, True, 0)
@example(["a", "x" * 600_000, "b"], 1, 2, True, 0)
def test_a_page_of_a_part_is_the_page_of_the_whole(lines: list[str], offset: int, limit: int, ends: bool, cut: int) -> None:
    data = ("\n".join(lines) + ("\n" if ends else "")).encode()
    whole = page("/f", data, offset=offset, limit=limit, whole=True)
    assert whole is not None
    part = page("/f", data[:cut], offset=offset, limit=limit, whole=False)
    if part is not None:
        assert part.file_data == whole.file_data
        assert (part.start_line, part.end_line) == (whole.start_line, whole.end_line)


@pytest.mark.parametrize("name", ["", "sub", "sub/", ".dot", "nowhere", "a.py", "directory.py"])
def test_ls(both: Any, name: str) -> None:
    ours, plain, folder = both
    expected, found = (sandbox.ls(f"{folder}/{name}") for sandbox in (plain, ours))
    assert (found.error is None) == (expected.error is None)
    if expected.entries is not None:
        assert {entry["path"]: entry["is_dir"] for entry in found.entries} == {entry["path"]: entry["is_dir"] for entry in expected.entries}
    elif name == "nowhere":
        assert found.error == expected.error


PATTERNS = [
    "*.py",
    "**/*.py",
    "/*.py",
    "sub/**",
    "*",
    "**",
    ".*",
    "*.{py,txt}",
    "[!a]*.py",
    "[^a]*.py",
    "sub/*/c.py",
    "nothing",
    "sub/",
    "../*",
]


@pytest.mark.parametrize(("pattern", "name"), thinned([(pattern, name) for name in ("", "sub", ".dot") for pattern in PATTERNS], 4))
def test_glob(both: Any, pattern: str, name: str) -> None:
    ours, plain, folder = both
    expected, found = (sandbox.glob(pattern, f"{folder}/{name}".rstrip("/")) for sandbox in (plain, ours))
    assert (found.error is None) == (expected.error is None)
    if expected.matches is not None:
        assert sorted(match["path"] for match in found.matches) == sorted(match["path"] for match in expected.matches)
        assert not any(match["is_dir"] for match in found.matches)


@pytest.mark.parametrize(
    ("pattern", "name", "glob", "count"),
    [
        ("needle", "", None, None),
        ("needle", "", "*.py", None),
        ("needle", "sub", "*.py", None),
        ("needle", "sub", "deep/*.py", None),
        ("needle", "", "*.{py,txt}", None),
        ("needle", "a.py", None, None),
        ("needle", "", None, 2),
        ("needle", "a.py", None, 2),
        ("nothing of that", "", None, None),
        ("näedle äöü", "", None, None),
        ("print('", "", None, None),
        (".*", "", None, None),
        ("-e", "", None, None),
    ],
)
def test_grep(both: Any, pattern: str, name: str, glob: str | None, count: int | None) -> None:
    ours, plain, folder = both
    root = f"{folder}/{name}".rstrip("/")
    expected, found = plain.grep(pattern, root, max_count=count), ours.grep(pattern, root, glob, max_count=count)
    if glob is not None:
        # Its scripts take hidden names and braces otherwise than its contract, which this function is.
        picks = compile_grep_include_glob(glob)
        expected.matches = [match for match in expected.matches if picks(match["path"].removeprefix(f"{root}/"))]
    assert (found.error, found.truncated, len(found.matches)) == (expected.error, expected.truncated, len(expected.matches))
    if count is None:
        key = lambda match: (match["path"], match["line"])  # noqa: E731
        strip = [{**match, "text": match["text"].rstrip("\r")} for match in expected.matches]
        assert sorted(found.matches, key=key) == sorted(strip, key=key)


@pytest.mark.parametrize(
    ("content", "old", "new", "every"),
    [
        (b"one two one", "two", "2", False),
        (b"one two one", "one", "1", True),
        (b"one two one", "one", "1", False),
        (b"one", "none", "1", False),
        (b"a\r\nb\r\nc\r\n", "a\nb", "x\ny\nz", False),
        (b"one", "", "1", False),
        (b"caf\xe9", "caf", "tea", False),
        ("a “quoted” b".encode(), 'a "quoted" b', "c", False),
        (b"x" * 100_000 + b"y", "y", "z" * 60_000, False),
        (b"one", "one", "", False),
    ],
)
def test_edit(both: Any, content: bytes, old: str, new: str, every: bool) -> None:
    ours, plain, folder = both
    path, results, left = Path(folder, "edited.txt"), [], []
    for sandbox in (plain, ours):
        path.write_bytes(content)
        results.append(sandbox.edit(str(path), old, new, every))
        left.append(path.read_bytes())
    path.unlink()
    expected, found = results
    assert (found.path, found.occurrences, left[1]) == (expected.path, expected.occurrences, left[0])
    if expected.error is not None:
        assert found.error.startswith(expected.error.partition(" multiple times")[0])


def test_delete(both: Any) -> None:
    ours, plain, folder = both
    for sandbox in (plain, ours):
        target = Path(folder, "target")
        target.mkdir()
        (target / "kept").touch()
        there = Path(folder, "there")
        there.symlink_to(target)
        assert sandbox.delete(str(there)).error is None
        assert (target / "kept").exists()
        assert sandbox.delete(str(target)).path == str(target)
        assert not target.exists()
        assert sandbox.delete(str(target)).error == f"Error: '{target}' not found"


def test_no_python_is_run(tmp_path: Path) -> None:
    """One that is there would say so."""
    programs, work = tmp_path / "programs", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    for name in ("python", "python3", "perl"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/used\n")
        (programs / name).chmod(0o755)
    with VersSandbox(local=work, env={"PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin"}) as sandbox:
        path = f"{work}/sub/f.txt"
        assert sandbox.write(path, "one\ntwo\n").error is None
        assert sandbox.edit(path, "two", "2" * 60_000).error is None
        assert sandbox.read(path).total_lines == 2
        assert [entry["path"] for entry in sandbox.ls(str(work)).entries] == [f"{work}/sub"]
        assert sandbox.glob("*.txt", str(work)).matches == sandbox.glob("sub/**").matches != []
        assert sandbox.grep("one", str(work), "sub/*.txt").matches == [{"path": path, "line": 1, "text": "one"}]
        assert sandbox.upload_files([(path, b"\xff")])[0].error is None
        assert sandbox.download_files([path])[0].content == b"\xff"
        assert sandbox.delete(f"{work}/sub").error is None
        assert not (tmp_path / "used").exists()
        sandbox.execute("python3")
        assert (tmp_path / "used").read_text() == "python3\n"


def test_what_is_known_of_a_file_may_be_out_of_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was just read or written is edited in one round trip, and never as it was when something else has changed it."""
    reads: list[str] = []
    read = LocalBackend.read

    async def counted(self: LocalBackend, path: str, **options: Any) -> Any:
        reads.append(path)
        return await read(self, path, **options)

    monkeypatch.setattr(LocalBackend, "read", counted)
    file, path = tmp_path / "f", str(tmp_path / "f")
    file.write_text("one\ntwo\n")
    with VersSandbox(local=tmp_path) as sandbox:
        assert sandbox.edit(path, "one", "1").occurrences == 1
        assert len(reads) == 1
        assert sandbox.edit(path, "two", "2").occurrences == 1
        assert sandbox.write(path, "three\nthree\n").error is None
        assert sandbox.edit(path, "three", "3", replace_all=True).occurrences == 2
        assert len(reads) == 1
        sandbox.read(path)
        assert sandbox.edit(path, "3\n3", "four").occurrences == 1
        assert len(reads) == 2
        file.write_text("zero\nfour\n")  # behind its back
        assert sandbox.edit(path, "four", "4").occurrences == 1
        assert (len(reads), file.read_text()) == (3, "zero\n4\n")
        sandbox.execute("printf 'other\\n' >f")
        assert "not found" in str(sandbox.edit(path, "4", "5").error)
        assert sandbox.edit(path, "zero", "5").error is not None
        assert file.read_text() == "other\n"
        assert sandbox.edit(path, "other", "another").occurrences == 1
        file.unlink()
        assert sandbox.edit(path, "another", "x").error == f"Error: File '{path}' not found"
        file.mkdir()
        assert "is a directory" in str(sandbox.edit(path, "another", "x").error)
