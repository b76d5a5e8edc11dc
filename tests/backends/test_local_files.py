"""This machine's file primitives on real files."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat as modes
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rigs.users import ROOT, folder_of_ordinary_user, ordinary_user

from langchain_vers.backends import local_files
from langchain_vers.backends.base import ABSENT, Scan, version_of
from langchain_vers.errors import BadInput, Conflict, Denied, DiskFull, Missing, VersError, WrongKind


@pytest.fixture
def cwd(tmp_path: Path) -> str:
    return str(tmp_path)


def test_write_then_read(cwd: str, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    written = local_files.write("a/b/c.bin", data, cwd=cwd)
    assert written.size == len(data) and written.kind == "file"
    found = local_files.read("a/b/c.bin", cwd=cwd)
    assert found.data == data
    assert found.stat == written == local_files.stat("a/b/c.bin", cwd=cwd)
    assert local_files.read(str(tmp_path / "a/b/c.bin"), cwd="/", offset=255, length=3).data == b"\xff\x00\x01"
    assert local_files.read("a/b/c.bin", cwd=cwd, offset=10**9).data == b""
    assert local_files.read("a/b/c.bin", cwd=cwd, length=0).data == b""
    assert sorted(os.listdir(tmp_path / "a/b")) == ["c.bin"]


def test_home_is_the_default_directory(monkeypatch: pytest.MonkeyPatch, cwd: str) -> None:
    monkeypatch.setenv("HOME", cwd)
    local_files.write("x", b"1")
    assert (Path(cwd) / "x").read_bytes() == b"1"


def test_files_that_claim_no_size_are_read_whole() -> None:
    if not os.path.exists("/proc/self/status"):
        pytest.skip("this system has no /proc")
    assert b"Name:" in local_files.read("/proc/self/status").data


def test_modes(cwd: str, tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        assert local_files.write("new", b"", cwd=cwd).mode == 0o640
        (tmp_path / "new").chmod(0o751)
        assert local_files.write("new", b"x", cwd=cwd).mode == 0o751
        assert local_files.write("new", b"x", cwd=cwd, mode=0o600).mode == 0o600
        assert local_files.write("other", b"x", cwd=cwd, mode=0o4755).mode == 0o4755
    finally:
        os.umask(old)


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_owner_is_kept(cwd: str, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    os.chown(tmp_path / "f", 1234, 4321)
    (tmp_path / "f").chmod(0o4750)
    local_files.write("f", b"x", cwd=cwd)
    found = (tmp_path / "f").stat()
    assert (found.st_uid, found.st_gid, modes.S_IMODE(found.st_mode)) == (1234, 4321, 0o4750)


def test_symlinks_are_followed(cwd: str, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("d/real")
    (tmp_path / "dangling").symlink_to("d/later")
    (tmp_path / "loop").symlink_to("loop")
    local_files.write("link", b"new", cwd=cwd)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "d/real").read_bytes() == b"new"
    assert local_files.stat("link", cwd=cwd).kind == "file"
    assert local_files.stat("dangling", cwd=cwd).kind == "symlink"
    local_files.write("dangling", b"x", cwd=cwd)
    assert (tmp_path / "d/later").read_bytes() == b"x" and (tmp_path / "dangling").is_symlink()
    for call in (lambda: local_files.write("loop", b"", cwd=cwd), lambda: local_files.read("loop", cwd=cwd)):
        with pytest.raises(BadInput, match="symbolic links"):
            call()


def test_what_is_no_file_is_refused_at_once(cwd: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "sock"))
        for name in ("fifo", "dir", "sock", "/dev/null", "/dev/zero"):
            with pytest.raises(WrongKind):
                local_files.read(name, cwd=cwd)
            with pytest.raises(WrongKind):
                local_files.write(name, b"", cwd=cwd)
        assert local_files.stat("fifo", cwd=cwd).kind == "other"
    for wrong in ("file/x", "file/x/y"):
        with pytest.raises(WrongKind):
            local_files.read(wrong, cwd=cwd)
        with pytest.raises(WrongKind):
            local_files.write(wrong, b"", cwd=cwd)
    with pytest.raises(WrongKind):
        local_files.write("new/", b"", cwd=cwd)
    with pytest.raises(WrongKind):
        local_files.scan("file", cwd=cwd)
    assert modes.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("path", ["", "a\0b", "x" * 300, "d/" + "x" * 300, "\ud800"])
def test_impossible_paths(cwd: str, path: str) -> None:
    for call in (
        lambda: local_files.read(path, cwd=cwd),
        lambda: local_files.write(path, b"", cwd=cwd),
        lambda: local_files.stat(path, cwd=cwd),
        lambda: local_files.scan(path, cwd=cwd),
    ):
        # A part that is missing may be noticed before one that is too long.
        with pytest.raises((BadInput, Missing)) as caught:
            call()
        str(caught.value).encode()
    assert os.listdir(cwd) == []


def test_missing(cwd: str) -> None:
    for call in (local_files.read, local_files.stat, local_files.scan):
        with pytest.raises(Missing, match="nowhere"):
            call("nowhere", cwd=cwd)


def test_denied() -> None:
    with folder_of_ordinary_user() as root, ordinary_user():
        deny(str(root), root)


def deny(cwd: str, root: Path) -> None:
    (root / "secret").write_bytes(b"x")
    (root / "secret").chmod(0)
    (root / "readonly").write_bytes(b"x")
    (root / "readonly").chmod(0o444)
    (root / "closed").mkdir()
    (root / "closed/in").write_bytes(b"")
    (root / "closed").chmod(0)
    try:
        for call in (
            lambda: local_files.read("secret", cwd=cwd),
            lambda: local_files.write("readonly", b"y", cwd=cwd),
            lambda: local_files.write("closed/new", b"y", cwd=cwd),
            lambda: local_files.stat("closed/in", cwd=cwd),
            lambda: local_files.scan("closed", cwd=cwd),
        ):
            with pytest.raises(Denied):
                call()
        assert (root / "readonly").read_bytes() == b"x"
        found = [entry.path for entry in local_files.scan(".", cwd=cwd, recursive=True).entries]
        assert "closed" in found and "closed/in" not in found
    finally:
        (root / "closed").chmod(0o700)


def test_expect(cwd: str, tmp_path: Path) -> None:
    local_files.write("f", b"1", cwd=cwd, expect=ABSENT)
    with pytest.raises(Conflict, match="exists already"):
        local_files.write("f", b"2", cwd=cwd, expect=ABSENT)
    local_files.write("f", b"2", cwd=cwd, expect=version_of(b"1"))
    with pytest.raises(Conflict, match="changed"):
        local_files.write("f", b"3", cwd=cwd, expect=version_of(b"1"))
    with pytest.raises(Conflict, match="any more"):
        local_files.write("d/g", b"3", cwd=cwd, expect=version_of(b"1"))
    assert os.listdir(tmp_path) == ["f"] and (tmp_path / "f").read_bytes() == b"2"


COUNTER = """
import sys
from langchain_vers.backends import local_files
from langchain_vers.backends.base import version_of
from langchain_vers.errors import Conflict
for _ in range(25):
    while True:
        old = local_files.read("counter", cwd=sys.argv[1]).data
        try:
            local_files.write("counter", b"%d" % (int(old) + 1), cwd=sys.argv[1], expect=version_of(old))
        except Conflict:
            continue
        break
"""


def test_no_update_is_lost_between_processes(cwd: str, tmp_path: Path) -> None:
    (tmp_path / "counter").write_bytes(b"0")
    children = [subprocess.Popen([sys.executable, "-c", COUNTER, cwd]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    assert (tmp_path / "counter").read_bytes() == b"75"


def test_only_one_thread_makes_a_file(cwd: str) -> None:
    barrier = threading.Barrier(8)
    made: list[bool] = []

    def make(number: int) -> None:
        barrier.wait(60)
        try:
            local_files.write("f", b"%d" % number, cwd=cwd, expect=ABSENT)
            made.append(True)
        except Conflict:
            made.append(False)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == [False] * 7 + [True]
    assert os.listdir(cwd) == ["f"]


def test_a_lock_that_is_never_released(cwd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_files, "LOCK_PATIENCE", 0.05)
    fd = os.open(cwd, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="lock"):
            local_files.write("d", b"", cwd=cwd)
    finally:
        os.close(fd)
    assert os.listdir(cwd) == []


def test_a_full_disk_leaves_the_old_content(cwd: str, tmp_path: Path) -> None:
    # A limit on file size is the full disk that needs no rights: the write fails in the middle.
    code = (
        "import resource, signal, sys\n"
        "from langchain_vers.backends import local_files\n"
        "from langchain_vers.errors import DiskFull\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for path in ('f', 'new/deep/g'):\n"
        "    try:\n"
        "        local_files.write(path, b'x' * 5000, cwd=sys.argv[1])\n"
        "    except DiskFull:\n"
        "        continue\n"
        "    sys.exit(1)\n"
    )
    (tmp_path / "f").write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", code, cwd], check=False).returncode == 0
    assert os.listdir(tmp_path) == ["f"] and (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, Denied), (errno.EBUSY, Conflict), (errno.EIO, VersError)],
)
def test_errors_are_translated(number: int, kind: type[VersError]) -> None:
    with pytest.raises(kind) as caught, local_files.translated("/some/\udce9where"):
        raise OSError(number, os.strerror(number))
    assert "/some/�where" in str(caught.value)


def test_names_that_are_not_utf8(cwd: str, tmp_path: Path) -> None:
    raw = os.fsencode(cwd) + b"/caf\xe9"
    with open(raw, "wb") as file:
        file.write(b"x")
    (entry,) = local_files.scan(".", cwd=cwd).entries
    assert local_files.read(entry.path, cwd=cwd).data == b"x"
    local_files.write(entry.path, b"y", cwd=cwd)
    assert os.listdir(os.fsencode(cwd)) == [b"caf\xe9"]
    assert local_files.display_path(entry.path) == "caf�"
    with pytest.raises(Missing, match="caf�2"):
        local_files.read(entry.path + "2", cwd=cwd)


@pytest.fixture
def tree(tmp_path: Path) -> str:
    for name in ("a/b/c.py", "a-b", "a.x", "a0", ".git/config", "sub/.git/x", ".hidden/y.py", "build/out.o", "é.py", "\U0001f600.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / ".gitignore").write_bytes(b"*.o\nbuild/\n")
    (tmp_path / "a/.gitignore").write_bytes(b"c.py\n")
    return str(tmp_path)


def paths(found: Scan) -> list[str]:
    return [entry.path for entry in found.entries]


def test_scan(tree: str) -> None:
    flat = local_files.scan(".", cwd=tree)
    assert paths(flat) == sorted(os.listdir(tree), key=os.fsencode)
    kinds = {entry.path: (entry.kind, entry.size) for entry in flat.entries}
    assert kinds["a"] == ("directory", 0) and kinds["a0"] == ("file", 5) and kinds["link"] == ("symlink", 0)
    whole = local_files.scan(tree, recursive=True)
    assert paths(whole) == sorted(paths(whole), key=os.fsencode)
    assert {"a/b/c.py", ".git", "sub/.git", ".hidden/y.py", "a/up", "build/out.o"} <= set(paths(whole))
    assert not {".git/config", "sub/.git/x", "a/up/a"} & set(paths(whole))
    for limit in range(1, len(whole.entries) + 2):
        cut = local_files.scan(tree, recursive=True, limit=limit)
        assert paths(cut) == paths(whole)[:limit] and cut.truncated == (limit < len(whole.entries))
    assert paths(local_files.scan(tree, recursive=True, pattern="*.py")) == [".hidden/y.py", "a/b/c.py", "é.py", "\U0001f600.py"]
    assert paths(local_files.scan(tree, recursive=True, pattern="a/**/*.py")) == ["a/b/c.py"]
    tidy = paths(local_files.scan(tree, recursive=True, ignored=False))
    assert "a/b" in tidy and not {"a/b/c.py", "build", "build/out.o"} & set(tidy)
    assert paths(local_files.scan("link", cwd=tree)) == [".gitignore", "b", "up"]
    with pytest.raises(BadInput):
        local_files.scan(tree, limit=0)
    with pytest.raises(BadInput):
        local_files.scan(tree, pattern="[")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.text(alphabet="a-./0é\U0001f600".replace("/", ""), min_size=1, max_size=2), min_size=1, max_size=3), max_size=8)
)
def test_scan_is_in_byte_order(tmp_path_factory: pytest.TempPathFactory, names: list[list[str]]) -> None:
    root = tmp_path_factory.mktemp("scan")
    for parts in names:
        if not {".", ".."} & set(parts):
            target = root.joinpath(*parts)
            if not any(parent.is_file() for parent in target.parents) and not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(b"")
    found = paths(local_files.scan(str(root), recursive=True, limit=10**6))
    assert found == sorted((os.path.relpath(p, root) for p in root.rglob("*")), key=os.fsencode)
