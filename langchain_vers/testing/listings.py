"""What `Backend.scan` owes, as tests: order, kinds, limits, patterns, ignore files, and trees that are not kind."""

from __future__ import annotations

import pytest

from langchain_vers.backends.base import Backend
from langchain_vers.errors import BadInput
from langchain_vers.testing.harness import Caller, Conformance, shell


class ListingConformance(Conformance):
    """Tests of `scan`."""

    async def test_empty_directory(self, backend: Backend, call: Caller, place: str) -> None:
        """Nothing in it, nothing left out."""
        for recursive in (False, True):
            for ignored in (False, True):
                found = await call(backend.scan(place, recursive=recursive, ignored=ignored))
                assert (found.entries, found.truncated) == ([], False)

    async def test_kinds_and_sizes(self, backend: Backend, call: Caller, place: str) -> None:
        """Each entry with its kind; files with their size; symlinks as such, wherever they lead."""
        await call(shell(backend, "printf 123 >f; mkdir d; mkfifo p; ln -s f l; ln -s nowhere x; ln -s d y; : >empty", cwd=place))
        found = await call(backend.scan(".", cwd=place))
        assert [(entry.path, entry.kind) for entry in found.entries] == [
            ("d", "directory"),
            ("empty", "file"),
            ("f", "file"),
            ("l", "symlink"),
            ("p", "other"),
            ("x", "symlink"),
            ("y", "symlink"),
        ]
        assert {entry.path: entry.size for entry in found.entries if entry.kind == "file"} == {"empty": 0, "f": 3}

    async def test_order_is_that_of_bytes(self, backend: Backend, call: Caller, place: str) -> None:
        """Hidden entries are listed; all are sorted by the bytes of their paths, whatever the machine's language; also in a tree."""
        await call(
            shell(backend, "mkdir a .h; touch .x A B b 'a b' a-b a/z a/.q .h/y é Z 1 $'\\377' a.c 2>/dev/null; touch a.c", cwd=place)
        )
        flat = [entry.path for entry in (await call(backend.scan(place))).entries]
        assert {".h", ".x", "A", "B", "Z", "a", "a b", "a-b", "a.c", "b", "1", "é"} <= set(flat)
        tree = [entry.path for entry in (await call(backend.scan(place, recursive=True))).entries]
        assert {"a/z", "a/.q", ".h/y"} == set(tree) - set(flat)
        for paths in (flat, tree):
            assert paths == sorted(paths, key=lambda path: path.encode("utf-8", "surrogateescape"))

    async def test_limit(self, backend: Backend, call: Caller, place: str) -> None:
        """At most `limit` entries, the first in order, and `truncated` tells whether there were more."""
        await call(shell(backend, "touch 01 02 03 04 05", cwd=place))
        for limit, truncated in [(1, True), (4, True), (5, False), (6, False)]:
            found = await call(backend.scan(place, limit=limit))
            assert [entry.path for entry in found.entries] == ["01", "02", "03", "04", "05"][:limit]
            assert found.truncated is truncated
        assert not (await call(backend.scan(place, limit=2, pattern="0[45]"))).truncated

    @pytest.mark.parametrize("limit", [0, -1])
    async def test_impossible_limit(self, backend: Backend, call: Caller, place: str, limit: int) -> None:
        """A limit below 1 is refused."""
        with pytest.raises(BadInput):
            await call(backend.scan(place, limit=limit))

    @pytest.mark.parametrize(
        ("pattern", "paths"),
        [
            ("*.py", ["a.py", "src/b.py", "src/deep/.c.py"]),
            ("src/*.py", ["src/b.py"]),
            ("src/**/*.py", ["src/b.py", "src/deep/.c.py"]),
            ("**/deep", ["src/deep"]),
            ("*.{md,txt}", ["src/deep/x.md", "t.txt"]),
            ("[!a-s]*", [".hid", "t.txt", "src/deep/x.md", "src/deep/.c.py"]),
            ("nothing", []),
        ],
    )
    async def test_pattern(self, backend: Backend, call: Caller, place: str, pattern: str, paths: list[str]) -> None:
        """A glob without '/' picks names, one with '/' picks paths; hidden entries are picked like all others."""
        await call(shell(backend, "mkdir -p src/deep; touch a.py src/b.py src/deep/.c.py src/deep/x.md t.txt .hid", cwd=place))
        found = await call(backend.scan(place, recursive=True, pattern=pattern))
        assert sorted(entry.path for entry in found.entries) == sorted(paths)

    @pytest.mark.parametrize("pattern", ["", "a[", "/abs/*", "../x", "a\0"])
    async def test_impossible_pattern(self, backend: Backend, call: Caller, place: str, pattern: str) -> None:
        """What is no glob is refused, not matched against nothing."""
        with pytest.raises(BadInput):
            await call(backend.scan(place, pattern=pattern))

    async def test_ignore_files(self, backend: Backend, call: Caller, place: str) -> None:
        """With `ignored=False`, what `.gitignore` files exclude is left out, at every level and with exceptions; otherwise they mean
        nothing.
        """
        await call(backend.write(".gitignore", b"*.log\nbuild/\n!keep.log\n/top\n", cwd=place))
        await call(backend.write("sub/.gitignore", b"local\r\n", cwd=place))
        await call(
            shell(
                backend, "mkdir -p build sub/build; touch a.log keep.log top sub/top sub/local sub/x.log build/y sub/build/z s", cwd=place
            )
        )
        kept = [entry.path for entry in (await call(backend.scan(place, recursive=True, ignored=False))).entries]
        assert set(kept) >= {".gitignore", "keep.log", "s", "sub", "sub/.gitignore", "sub/top"}
        assert not set(kept) & {"a.log", "build", "build/y", "top", "sub/x.log", "sub/build", "sub/build/z"}
        everything = [entry.path for entry in (await call(backend.scan(place, recursive=True))).entries]
        assert len(everything) == 14

    async def test_repositories_are_not_entered(self, backend: Backend, call: Caller, place: str) -> None:
        """A `.git` is listed, at every level, and never entered, be it a directory or a file."""
        await call(shell(backend, "mkdir -p .git/objects sub/.git/refs other; touch .git/config sub/f other/.git", cwd=place))
        paths = [entry.path for entry in (await call(backend.scan(place, recursive=True))).entries]
        assert paths == [".git", "other", "other/.git", "sub", "sub/.git", "sub/f"]

    async def test_symlink_loops(self, backend: Backend, call: Caller, place: str) -> None:
        """Symlinks are listed and not followed, so that a loop ends; the scanned path itself may be one."""
        await call(shell(backend, "mkdir -p d/e; ln -s .. d/e/up; ln -s self self; ln -s d link; touch d/f", cwd=place))
        paths = [entry.path for entry in (await call(backend.scan(place, recursive=True))).entries]
        assert paths == ["d", "d/e", "d/e/up", "d/f", "link", "self"]
        assert [entry.path for entry in (await call(backend.scan("link", cwd=place, recursive=True))).entries] == ["e", "e/up", "f"]

    async def test_unreadable_directory_below(self, backend: Backend, call: Caller, place: str) -> None:
        """A directory below that cannot be read is listed and left out; the rest is there."""
        if await call(shell(backend, "id -u")) == "0":
            pytest.skip("the machine's user is root, whom file modes do not stop")
        await call(shell(backend, "mkdir -p open shut; touch open/f shut/g; chmod 0 shut", cwd=place))
        paths = [entry.path for entry in (await call(backend.scan(place, recursive=True))).entries]
        assert paths == ["open", "open/f", "shut"]

    async def test_odd_names_in_a_tree(self, backend: Backend, call: Caller, place: str) -> None:
        """Line breaks, blanks and leading dashes in names do not disturb a listing."""
        names = ["-x", "a\nb", "end\n", "\n", " ", "f 3 x", "\udcfe"]
        for name in names:
            await call(backend.write(f"{name}/{name}", b"12", cwd=place))
        paths = [entry.path for entry in (await call(backend.scan(place, recursive=True, ignored=False))).entries]
        assert sorted(paths) == sorted([*names, *(f"{name}/{name}" for name in names)])

    async def test_many_entries(self, backend: Backend, call: Caller, place: str) -> None:
        """A directory of some thousand entries is listed whole."""
        await call(shell(backend, "seq 1 5000 | sed 's/^/some-rather-long-file-name-/' | xargs touch", cwd=place))
        found = await call(backend.scan(place, limit=10000))
        assert len(found.entries) == 5000
        assert not found.truncated
