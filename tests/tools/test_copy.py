"""`vers_vm_copy`: between here and a VM and between two, complete or not at all, and never out of a folder that must not be left."""

from __future__ import annotations

import io
import os
import shlex
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from agents import START_INPUT, Runner, message, tool_graph
from langchain_core.messages import ToolMessage

from langchain_vers.tools import transfer

direct = Runner("direct", asynchronous=False)


class Hands:
    """Tools, and a VM with its home."""

    def __init__(self, toolkit: Any) -> None:
        self.tools = toolkit.get_tools()
        self.vm = self.one("vers_vm_create", attach=False).artifact["machine_id"]
        self.home = self.sh("pwd")

    def one(self, tool: str, /, **arguments: Any) -> ToolMessage:
        return direct(self.tools, (tool, arguments))[0]

    def sh(self, command: str, vm: str | None = None) -> str:
        answer = self.one("vers_vm_exec", vm_id=vm or self.vm, command=command)
        assert answer.status == "success", answer.content
        return str(answer.content)

    def on_vm(self, path: str) -> str:
        return f"vm:{self.vm}:{self.home}/{path}"

    def copy(self, source: str, destination: str, recursive: bool = False) -> ToolMessage:
        return self.one("vers_vm_copy", source=source, destination=destination, recursive=recursive)


@pytest.fixture
def hands(make_toolkit: Any) -> Hands:
    return Hands(make_toolkit())


def make_tree(root: Path) -> None:
    (root / "empty").mkdir(parents=True)
    (root / "sub").mkdir()
    (root / "sub/run.sh").write_text("#!/bin/sh\n")
    (root / "sub/run.sh").chmod(0o751)
    (root / "ünï \n'\"$x").write_bytes(bytes(range(256)))
    (root / "-dash").write_text("-")
    (root / "link").symlink_to("sub/run.sh")
    (root / "dangling").symlink_to("/no/where")
    (root / ".hidden").write_text("h")


def tree_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir():
            found[name] = "directory"
        else:
            found[name] = (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
    return found


def test_files(hands: Hands, here: Path) -> None:
    (here / "a").write_bytes(b"\0\xff\n" * 1000)
    (here / "a").chmod(0o640)
    assert hands.copy("a", hands.on_vm("new/dir/b")).status == "success"
    assert hands.sh("stat -c %a new/dir/b") == "640"
    assert hands.copy(hands.on_vm("new/dir/b"), "back/").status == "success"
    assert (here / "back/b").read_bytes() == (here / "a").read_bytes()
    second = hands.one("vers_vm_create", attach=False).artifact["machine_id"]
    home = hands.sh("pwd", vm=second)
    answer = hands.copy(hands.on_vm("new/dir/b"), f"vm:{second}:{home}")
    assert answer.artifact["destination"] == f"vm:{second}:{home}/b"
    assert hands.sh("wc -c <b", vm=second) == "3000"
    assert {answer.artifact["backend"], answer.artifact["machine_id"]} == {"vers", second}


def test_trees(hands: Hands, here: Path) -> None:
    make_tree(here / "tree")
    wanted = tree_of(here / "tree")
    assert hands.copy("tree", hands.on_vm("t1"), recursive=True).status == "success"
    assert hands.copy(hands.on_vm("t1"), "back", recursive=True).status == "success"
    assert tree_of(here / "back") == wanted
    (here / "into/t1").mkdir(parents=True)
    (here / "into/t1/kept").write_text("k")
    (here / "into/t1/link").write_text("in the way")
    assert hands.copy(hands.on_vm("t1"), "into", recursive=True).artifact["destination"] == str(here / "into/t1")
    assert tree_of(here / "into/t1") == {**wanted, "kept": (stat.S_IMODE((here / "into/t1/kept").stat().st_mode), b"k")}
    assert not list(here.rglob(".vers-copy-*"))
    assert hands.sh(f"find {hands.home} /tmp -maxdepth 2 -name '.vers-copy-*' 2>/dev/null; true") == "(no output)"


@pytest.mark.parametrize("recursive", [False, True])
def test_pieces_and_progress(recursive: bool, hands: Hands, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PIECE_BYTES", 64 * 1024)
    data = os.urandom(300_001)
    (here / "d").mkdir()
    (here / "d/big").write_bytes(data)
    source, destination = ("d", hands.on_vm("d")) if recursive else ("d/big", hands.on_vm("d/big"))
    graph = tool_graph(hands.tools, message(("vers_vm_copy", {"source": source, "destination": destination, "recursive": recursive})))
    shown = [item["delta"] for item in graph.stream(START_INPUT, stream_mode="custom")]
    assert len(shown) >= 5
    assert shown[0].startswith("copied 64.0KB of ")
    assert hands.copy(hands.on_vm("d/big"), "again").status == "success"
    assert (here / "again").read_bytes() == data


@pytest.mark.parametrize(
    ("source", "destination", "recursive", "kind"),
    [
        ("none", "VM/x", False, "Missing"),
        ("dir", "VM/x", False, "WrongKind"),
        ("file", "file/x", False, "WrongKind"),
        ("dir", "file", True, "WrongKind"),
        ("dir", "dir/inside", True, "BadInput"),
        ("file", "file", False, "BadInput"),
        ("VM/none", "x", True, "Missing"),
        ("file", "vm:nothing-like-it:/x", False, "Gone"),
        ("", "VM/x", False, "BadInput"),
        ("/dev/null", "VM/x", False, "WrongKind"),
    ],
)
def test_refusals_change_nothing(source: str, destination: str, recursive: bool, kind: str, hands: Hands, here: Path) -> None:
    (here / "file").write_text("old")
    (here / "dir").mkdir()
    before = tree_of(here)
    answer = hands.copy(source.replace("VM", hands.on_vm("")), destination.replace("VM", hands.on_vm("")), recursive)
    assert (answer.status, answer.artifact["error"]) == ("error", kind), answer.content
    assert tree_of(here) == before
    assert hands.sh(f"ls -A {hands.home} | grep -c -e vers-copy -e '^x$' || true") == "0"


def test_a_file_that_shrinks_or_fails_leaves_the_old_one(hands: Hands, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PIECE_BYTES", 1000)
    (here / "big").write_bytes(b"x" * 10_000)
    hands.sh("echo old >target")
    seen = []

    def shrink(done: int, total: int) -> None:
        seen.append(done)
        (here / "big").write_bytes(b"x" * 1500)

    original = transfer.copy

    async def copy(*args: Any, **options: Any) -> Any:
        return await original(*args, **{**options, "progress": shrink})

    monkeypatch.setattr(transfer, "copy", copy)
    answer = hands.copy("big", hands.on_vm("target"))
    assert (answer.status, answer.artifact["error"]) == ("error", "Conflict")
    assert seen
    assert hands.sh("cat target; ls -A | grep -c vers-copy || true") == "old\n0"


# --- where local work is forbidden ---


@pytest.fixture
def fenced(make_toolkit: Any, tmp_path: Path) -> tuple[Hands, Path]:
    """Tools without local work, and the one folder that they may use; beside it lies a secret."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("secret")
    return Hands(make_toolkit(local=False, shared_folder=shared)), shared


def test_only_the_shared_folder(fenced: tuple[Hands, Path], make_toolkit: Any) -> None:
    hands, shared = fenced
    secret = shared.parent / "secret/key"
    (shared / "out").symlink_to(shared.parent / "secret")
    (shared / "key").symlink_to(secret)
    hands.sh("echo new >f; mkdir -p d; echo new >d/key")
    for path in (str(secret), "../secret/key", "out/key", "key", f"{shared}/../secret/key", "out/"):
        assert hands.copy(path, hands.on_vm("stolen"), recursive=True).artifact.get("error") == "Denied", path
        assert hands.copy(hands.on_vm("f"), path).artifact.get("error") == "Denied", path
    assert hands.copy(hands.on_vm("d/key"), str(shared)).artifact.get("error") == "Denied"  # shared/key leads out
    assert hands.copy(hands.on_vm("d/key"), ".").artifact.get("error") == "Denied"
    assert secret.read_text() == "secret"
    assert hands.sh("ls stolen 2>/dev/null || echo none") == "none"
    assert hands.copy(hands.on_vm("f"), "sub/f").status == "success"
    assert (shared / "sub/f").read_text() == "new\n"
    assert hands.copy("sub/f", hands.on_vm("g")).status == "success"
    nothing = Hands(make_toolkit(local=False))
    assert nothing.copy("/etc/hostname", nothing.on_vm("x")).artifact["error"] == "Denied"


def test_symlinks_that_a_copy_brings_along_lead_nowhere(fenced: tuple[Hands, Path]) -> None:
    hands, shared = fenced
    secret = shared.parent / "secret"
    hands.sh(f"mkdir -p t u/dir; ln -s {shlex.quote(str(secret))} t/dir; ln -s {shlex.quote(str(secret / 'key'))} t/file")
    hands.sh("echo evil >u/dir/key; echo evil >u/file")
    assert hands.copy(hands.on_vm("t"), "t", recursive=True).status == "success"
    assert (shared / "t/dir").is_symlink()
    hands.sh("rm -r t; mv u t")
    assert hands.copy(hands.on_vm("t"), ".", recursive=True).status == "success"
    assert (secret / "key").read_text() == "secret"
    assert (shared / "t/file").read_text() == "evil\n"
    assert (shared / "t/dir/key").read_text() == "evil\n"
    assert not (shared / "t/dir").is_symlink()


@pytest.mark.parametrize("member", ["../secret/evil", "ABSOLUTE", "link/evil"])
def test_an_archive_made_to_break_out_does_not(member: str, fenced: tuple[Hands, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    hands, shared = fenced
    secret = shared.parent / "secret"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
        evil = tarfile.TarInfo(str(secret / "evil") if member == "ABSOLUTE" else member)
        evil.size = 4
        archive.addfile(evil, io.BytesIO(b"evil"))
    arrive = transfer._copy_file

    async def instead(source: Any, target: Any, *others: Any) -> int:
        # What a machine sends as its archive is not to be believed.
        size = await arrive(source, target, *others)
        await target.backend.write(target.path, buffer.getvalue())
        return size

    monkeypatch.setattr(transfer, "_copy_file", instead)
    hands.sh("mkdir d")
    hands.copy(hands.on_vm("d"), "d", recursive=True)
    assert [path.name for path in secret.iterdir()] == ["key"]


def test_rights_and_devices_are_not_brought_here(fenced: tuple[Hands, Path]) -> None:
    hands, shared = fenced
    hands.sh("mkdir d; echo x >d/s; chmod 6755 d/s; cp -p d/s one")
    assert hands.copy(hands.on_vm("d"), "d", recursive=True).status == "success"
    assert stat.S_IMODE((shared / "d/s").stat().st_mode) == 0o755
    assert hands.copy(hands.on_vm("one"), "one").status == "success"
    assert stat.S_IMODE((shared / "one").stat().st_mode) == 0o755
    hands.sh("mkfifo d/pipe")
    answer = hands.copy(hands.on_vm("d"), "e", recursive=True)
    assert answer.status == "error"
    assert "pipe" in answer.content
    assert sorted(path.name for path in shared.iterdir()) == ["d", "one"]
