"""What `Backend.read`, `write` and `stat` owe, as tests: every byte and every name, modes, links, errors, compare-and-swap."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import ABSENT, Backend, FileStat, version_of
from langchain_vers.errors import BadInput, Conflict, Denied, Missing, VersError, WrongKind
from langchain_vers.testing.harness import Caller, Conformance, shell

_BYTES = st.binary(min_size=1, max_size=60).filter(lambda name: b"\0" not in name and b"/" not in name and name not in (b".", b".."))
_NAMES = _BYTES.map(lambda name: name.decode("utf-8", "surrogateescape"))
_quick = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
ODD_NAMES = [
    "-n",
    "--help",
    " lead and trail ",
    "new\nline",
    "end\n",
    "q'u\"o`t$e\\s",
    "*?[a]{b,c}",
    "é\u0301\U0001f600",
    "\udcff\udc80",
    "~",
    "#x",
    "a=b",
    "!",
]
"""File names that careless quoting loses."""


class FileConformance(Conformance):
    """Tests of `read`, `write` and `stat`."""

    # --- contents ---

    @_quick
    @given(data=st.binary(max_size=3000))
    @example(data=b"")
    @example(data=b"\n")
    @example(data=b"no line break at the end")
    @example(data=bytes(range(256)) * 20)
    @example(data=b"\r\n\x04\x1a\0")
    def test_contents_come_back(self, backend: Backend, place: str, data: bytes) -> None:
        """What was written is read again byte for byte, and the machine's own tools see the same."""
        written = run(backend.write(f"{place}/f", data))
        found = run(backend.read(f"{place}/f"))
        assert found.data == data
        assert (written.kind, written.size, found.stat.size) == ("file", len(data), len(data))
        assert run(shell(backend, f"sha256sum <{place}/f")).split()[0] == version_of(data)

    @_quick
    @given(name=_NAMES)
    def test_any_name(self, backend: Backend, place: str, name: str) -> None:
        """Any file name that a POSIX system takes works for all calls; bytes that are not UTF-8 are surrogates, as `os.fsdecode` has
        them.
        """
        run(self._use_name(backend, place, name))

    @pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
    async def test_odd_name(self, backend: Backend, call: Caller, place: str, name: str) -> None:
        """The same for names that careless quoting loses, absolute and relative to `cwd`, for files and directories."""
        await call(self._use_name(backend, place, name))
        await call(backend.write(f"{name} dir/{name}", b"deep", cwd=place))
        assert (await call(backend.read(f"{place}/{name} dir/{name}"))).data == b"deep"
        assert [entry.path for entry in (await call(backend.scan(f"{name} dir", cwd=place))).entries] == [name]

    async def _use_name(self, backend: Backend, place: str, name: str) -> None:
        await backend.write(name, b"content", cwd=place)
        assert (await backend.read(f"{place}/{name}")).data == b"content"
        assert (await backend.read(name, cwd=place, offset=3, length=2)).data == b"te"
        assert (await backend.stat(name, cwd=place)).size == 7
        assert [entry.path for entry in (await backend.scan(place)).entries] == [name]
        await shell(backend, f"rm -- {shlex.quote(name)}", cwd=place)
        with pytest.raises(Missing):
            await backend.read(name, cwd=place)

    async def test_ranges(self, backend: Backend, call: Caller, place: str) -> None:
        """`offset` and `length` are bytes; what lies behind the end is empty, and a range reaches at most to the end."""
        data = bytes(range(256)) * 1024
        await call(backend.write("f", data, cwd=place))
        size = len(data)
        for offset, length in [
            (0, 0),
            (0, 1),
            (1, 3),
            (65535, 2),
            (size - 1, None),
            (size - 1, 5),
            (size, None),
            (size + 9, 4),
            (300, None),
            (0, size),
        ]:
            found = await call(backend.read("f", cwd=place, offset=offset, length=length))
            assert found.data == data[offset : None if length is None else offset + length], (offset, length)
            assert found.stat.size == size

    @pytest.mark.parametrize(("offset", "length"), [(-1, None), (0, -1), (-5, -5)])
    async def test_impossible_range(self, backend: Backend, call: Caller, place: str, offset: int, length: int | None) -> None:
        """A negative offset or length is refused."""
        await call(backend.write("f", b"abc", cwd=place))
        with pytest.raises(BadInput):
            await call(backend.read("f", cwd=place, offset=offset, length=length))

    async def test_64_mib(self, backend: Backend, place: str) -> None:
        """64 MiB go there and come back: no limit from argument lists, windows or buffers."""
        data = hashlib.shake_128(b"conformance").digest(1 << 20) * 64
        await on_io(backend.write(f"{place}/big", data))
        assert (await on_io(shell(backend, f"sha256sum <{place}/big"))).split()[0] == version_of(data)
        assert (await on_io(backend.read(f"{place}/big"))).data == data
        assert (await on_io(backend.read(f"{place}/big", offset=(50 << 20) + 7, length=1000))).data == data[(50 << 20) + 7 :][:1000]

    async def test_many_files_at_once(self, backend: Backend, call: Caller, place: str) -> None:
        """Writes and reads side by side do not mix."""
        contents = {f"f{i}": hashlib.sha256(bytes([i])).digest() * (1 + i * 500) for i in range(20)}

        async def one(name: str, data: bytes) -> bool:
            await backend.write(name, data, cwd=place)
            return (await backend.read(name, cwd=place)).data == data

        async def all_of_them() -> list[bool]:
            return await asyncio.gather(*(one(name, data) for name, data in contents.items()))

        assert all(await call(all_of_them()))

    # --- modes, directories, links ---

    async def test_mode_of_existing_file_is_kept(self, backend: Backend, call: Caller, place: str) -> None:
        """A file that is replaced keeps its permission bits."""
        for mode in ("755", "600", "664", "4755"):
            await call(shell(backend, f"rm -f f; echo old >f; chmod {mode} f", cwd=place))
            assert (await call(backend.write("f", b"new", cwd=place))).mode == int(mode, 8)
            assert (await call(backend.stat("f", cwd=place))).mode == int(mode, 8)

    async def test_mode_of_new_file(self, backend: Backend, call: Caller, place: str) -> None:
        """A new file has what the umask leaves of 0o666."""
        umask = int(await call(shell(backend, "umask")), 8)
        assert (await call(backend.write("f", b"", cwd=place))).mode == 0o666 & ~umask

    @pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o400])
    async def test_given_mode(self, backend: Backend, call: Caller, place: str, mode: int) -> None:
        """`mode` is set as it is given, for a new file and for one that exists."""
        assert (await call(backend.write("f", b"1", cwd=place, mode=mode))).mode == mode
        await call(backend.write("g", b"1", cwd=place))
        assert (await call(backend.write("g", b"2", cwd=place, mode=mode))).mode == mode

    async def test_parents_are_made(self, backend: Backend, call: Caller, place: str) -> None:
        """Directories that are missing above a file are made."""
        await call(backend.write("a/b c/-d/f", b"deep", cwd=place))
        assert (await call(backend.read(f"{place}/a/b c/-d/f"))).data == b"deep"

    async def test_symlink_is_followed(self, backend: Backend, call: Caller, place: str) -> None:
        """Reading, writing and `stat` go through a symlink, which stays one; also a dangling one is written through."""
        await call(shell(backend, "mkdir d && echo old >d/target && ln -s d/target link && ln -s d/new dangling && ln -s d dir", cwd=place))
        await call(backend.write("link", b"new", cwd=place))
        await call(backend.write("dangling", b"made", cwd=place))
        await call(backend.write("dir/inside", b"inside", cwd=place))
        assert (
            await call(shell(backend, "readlink link dangling; cat d/target d/new d/inside", cwd=place)) == "d/target\nd/new\nnewmadeinside"
        )
        assert (await call(backend.read("link", cwd=place))).data == b"new"
        assert (await call(backend.stat("link", cwd=place))).kind == "file"

    async def test_stat(self, backend: Backend, call: Caller, place: str) -> None:
        """Kind, size, mode and time of each kind of path."""
        await call(
            shell(backend, "printf 12345 >f; chmod 640 f; touch -d '2021-02-03 04:05:06 UTC' f; mkdir d; chmod 1750 d; mkfifo p", cwd=place)
        )
        await call(shell(backend, "ln -s nowhere dangling; ln -s d link", cwd=place))
        found = await call(backend.stat("f", cwd=place))
        assert (found.kind, found.size, found.mode, int(found.mtime)) == ("file", 5, 0o640, 1612325106)
        found = await call(backend.stat("d", cwd=place))
        assert (found.kind, found.mode) == ("directory", 0o1750)
        kinds = {name: (await call(backend.stat(name, cwd=place))).kind for name in ("p", "dangling", "link", "/dev/null", "/", ".")}
        assert kinds == {"p": "other", "dangling": "symlink", "link": "directory", "/dev/null": "other", "/": "directory", ".": "directory"}

    # --- errors ---

    def _all_calls(self, backend: Backend, path: str, cwd: str) -> list[Coroutine[Any, Any, object]]:
        return [backend.read(path, cwd=cwd), backend.write(path, b"x", cwd=cwd), backend.stat(path, cwd=cwd), backend.scan(path, cwd=cwd)]

    @pytest.mark.parametrize("path", ["", "a\0b", "\0"])
    async def test_impossible_path(self, backend: Backend, call: Caller, place: str, path: str) -> None:
        """An empty path, or one with a NUL, is `BadInput` for every call."""
        for each in self._all_calls(backend, path, place):
            with pytest.raises(BadInput):
                await call(each)

    async def test_name_too_long(self, backend: Backend, call: Caller, place: str) -> None:
        """A name of 256 bytes is `BadInput` to write, and cannot be read."""
        with pytest.raises(BadInput):
            await call(backend.write("x" * 256, b"", cwd=place))
        for each in (backend.read("x" * 256, cwd=place), backend.stat("x" * 256, cwd=place)):
            with pytest.raises((BadInput, Missing)):
                await call(each)
        await call(backend.write("x" * 255, b"fits", cwd=place))
        assert (await call(backend.read("x" * 255, cwd=place))).data == b"fits"

    async def test_missing(self, backend: Backend, call: Caller, place: str) -> None:
        """What does not exist is `Missing` to read, to look at and to list, also behind a dangling symlink."""
        await call(shell(backend, "ln -s nowhere dangling", cwd=place))
        calls = [backend.read("no/thing", cwd=place), backend.stat("no/thing", cwd=place), backend.scan("no/thing", cwd=place)]
        for each in [*calls, backend.read("nothing", cwd=place), backend.read("dangling", cwd=place), backend.scan("dangling", cwd=place)]:
            with pytest.raises(Missing):
                await call(each)

    async def test_directory_is_no_file(self, backend: Backend, call: Caller, place: str) -> None:
        """A directory can be neither read nor written, also through a symlink and with a slash at its end."""
        await call(shell(backend, "mkdir d && ln -s d link", cwd=place))
        for path in ("d", "d/", "link", ".", "/"):
            for each in (backend.read(path, cwd=place), backend.write(path, b"x", cwd=place)):
                with pytest.raises(WrongKind):
                    await call(each)
        with pytest.raises(WrongKind):
            await call(backend.write("new/", b"x", cwd=place))
        assert await call(shell(backend, "ls -A d", cwd=place)) == ""

    async def test_file_is_no_directory(self, backend: Backend, call: Caller, place: str) -> None:
        """A path that leads through a file is `WrongKind`, as is listing a file."""
        await call(backend.write("f", b"x", cwd=place))
        for each in [*self._all_calls(backend, "f/below", place), backend.scan("f", cwd=place)]:
            with pytest.raises((WrongKind, Missing)) as caught:
                await call(each)
            assert isinstance(caught.value, WrongKind), caught.value

    @pytest.mark.parametrize("path", ["fifo", "/dev/null", "/dev/zero"])
    async def test_other_kinds(self, backend: Backend, call: Caller, place: str, path: str) -> None:
        """FIFOs and devices are `WrongKind` at once: reading a FIFO must not wait for a writer, nor a write replace a device."""
        await call(shell(backend, "mkfifo fifo", cwd=place))
        for each in (backend.read(path, cwd=place), backend.write(path, b"x", cwd=place)):
            with pytest.raises(WrongKind):
                await asyncio.wait_for(call(each), 20)
        assert (await call(backend.stat(path, cwd=place))).kind == "other"

    async def test_denied(self, backend: Backend, call: Caller, place: str) -> None:
        """What file modes forbid is `Denied` (root may do everything, so this needs another user)."""
        if await call(shell(backend, "id -u")) == "0":
            pytest.skip("the machine's user is root, whom file modes do not stop")
        await call(shell(backend, "echo s >secret; chmod 0 secret; echo r >readonly; chmod 444 readonly", cwd=place))
        await call(shell(backend, "mkdir shut open; echo x >shut/f; echo x >open/f; chmod 0 shut; chmod 555 open", cwd=place))
        calls: list[Coroutine[Any, Any, object]] = [
            backend.read("secret", cwd=place),
            backend.write("readonly", b"x", cwd=place),
            backend.write("open/new", b"x", cwd=place),
            backend.write("open/f", b"x", cwd=place),
            backend.write("open/sub/new", b"x", cwd=place),
            *self._all_calls(backend, "shut/f", place),
            backend.scan("shut", cwd=place),
        ]
        for each in calls:
            with pytest.raises(Denied):
                await call(each)
        assert await call(shell(backend, "cat readonly open/f", cwd=place)) == "r\nx"

    async def test_a_missing_cwd_is_missing(self, backend: Backend, call: Caller, place: str) -> None:
        """A relative path below a `cwd` that does not exist is `Missing` to look at."""
        for each in (backend.read("f", cwd=f"{place}/no"), backend.stat("f", cwd=f"{place}/no"), backend.scan(".", cwd=f"{place}/no")):
            with pytest.raises(Missing):
                await call(each)

    async def test_nothing_is_left_behind(self, backend: Backend, call: Caller, place: str) -> None:
        """Neither a write that succeeds nor one that is refused leaves any other file."""
        await call(backend.write("f", b"1", cwd=place))
        await call(backend.write("f", b"2" * 100000, cwd=place))
        with pytest.raises(Conflict):
            await call(backend.write("f", b"3", cwd=place, expect=version_of(b"other")))
        with pytest.raises(Conflict):
            await call(backend.write("f", b"4", cwd=place, expect=ABSENT))
        with pytest.raises(VersError):
            await call(backend.write("f/g", b"5", cwd=place))
        assert await call(shell(backend, "ls -A", cwd=place)) == "f"

    # --- compare and swap ---

    async def test_expected_version(self, backend: Backend, call: Caller, place: str) -> None:
        """A write with `expect` succeeds if the file is as expected, and changes nothing otherwise."""
        await call(backend.write("f", b"one", cwd=place, expect=ABSENT))
        await call(backend.write("f", b"two", cwd=place, expect=version_of(b"one")))
        for expect in (ABSENT, version_of(b"one"), version_of(b"")):
            with pytest.raises(Conflict):
                await call(backend.write("f", b"three", cwd=place, expect=expect))
        assert (await call(backend.read("f", cwd=place))).data == b"two"

    async def test_expected_file_is_gone(self, backend: Backend, call: Caller, place: str) -> None:
        """A file that was removed in between is a `Conflict`, not made anew."""
        with pytest.raises(Conflict):
            await call(backend.write("f", b"x", cwd=place, expect=version_of(b"old")))
        assert await call(shell(backend, "ls -A", cwd=place)) == ""

    @pytest.mark.parametrize("expect", ["", "x", "A" * 64, "0" * 63])
    async def test_impossible_version(self, backend: Backend, call: Caller, place: str, expect: str) -> None:
        """What cannot be a version is refused and not compared."""
        with pytest.raises(BadInput):
            await call(backend.write("f", b"x", cwd=place, expect=expect))

    @pytest.mark.parametrize("old", [None, b"old"])
    async def test_of_racing_writers_one_wins(self, backend: Backend, call: Caller, place: str, old: bytes | None) -> None:
        """Of writers that expect the same version exactly one succeeds, and the file is what that one wrote."""
        if old is not None:
            await call(backend.write("f", old, cwd=place))
        contents = [bytes([65 + number]) * 5000 for number in range(12)]

        async def one(data: bytes) -> FileStat | Conflict:
            try:
                return await backend.write("f", data, cwd=place, expect=ABSENT if old is None else version_of(old))
            except Conflict as conflict:
                return conflict

        async def all_of_them() -> list[FileStat | Conflict]:
            return await asyncio.gather(*(one(data) for data in contents))

        results = await call(all_of_them())
        winners = [data for data, result in zip(contents, results, strict=True) if isinstance(result, FileStat)]
        assert len(winners) == 1
        assert (await call(backend.read("f", cwd=place))).data == winners[0]
        assert await call(shell(backend, "ls -A", cwd=place)) == "f"

    async def test_readers_see_old_or_new(self, backend: Backend, call: Caller, place: str) -> None:
        """A reader that comes in the middle of a write sees all of the old content or all of the new one."""
        old, new = b"o" * 400000, b"n" * 500000
        await call(backend.write("f", old, cwd=place))

        async def race() -> list[bytes]:
            writer = asyncio.create_task(backend.write("f", new, cwd=place))
            seen = []
            while not writer.done():
                seen.append((await backend.read("f", cwd=place)).data)
            await writer
            return seen

        assert set(await call(race())) <= {old, new}
