"""Folders that are copied to a host behind a real OpenSSH server: what arrives, what comes home, and that nothing comes home elsewhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Runner
from rigs.openssh import Sshd

from langchain_vers import BackendContext, VersToolkit
from langchain_vers.backends.paths import Mount
from langchain_vers.backends.ssh import SSHBackend
from langchain_vers.errors import Conflict, Denied, Gone, Unreachable

pytestmark = pytest.mark.peer
direct = Runner("direct", asynchronous=False)


class Ground:
    """A folder here, and a host behind SSH whose threads get a copy of it."""

    def __init__(self, clean: Path, folder: Path) -> None:
        folder.mkdir()
        self.sshd = Sshd(folder)
        self.sshd.start()
        self.remote_home = folder / "home"
        self.guest = folder / "work"
        self.project = clean / "project"
        (self.project / "src").mkdir(parents=True)
        (self.project / "src/a.py").write_text("a\n")
        (self.project / "run.sh").write_text("#!/bin/sh\necho ran\n")
        (self.project / "run.sh").chmod(0o755)
        (self.project / "link").symlink_to("src/a.py")
        (self.project / "whole").symlink_to(self.project / "src")
        (self.project / "ünï \n'\"$x").write_bytes(bytes(range(256)))
        (self.project / "big").write_bytes(os.urandom(3 << 20))
        self.context = self.new_context()
        self.toolkit = VersToolkit(context=self.context)

    def new_context(self) -> BackendContext:
        context = BackendContext(local=False, mounts=[Mount(str(self.project), str(self.guest), "copy")])
        key, known = self.sshd.folder / "user", self.sshd.known_hosts
        context.register("host", SSHBackend(self.sshd.target, key=key, known_hosts=known, config=False))
        context.use("host")
        return context

    def call(self, tool: str, /, **arguments: Any) -> Any:
        return direct(self.toolkit.get_tools(), (tool, arguments))[0]

    def do(self, command: str) -> str:
        answer = self.call("bash", command=f"cd {self.guest}; {command}")
        assert answer.status == "success", answer.content
        return str(answer.content)

    def changes(self) -> dict[str, tuple[str, str | None]]:
        return {os.path.relpath(change.path, self.guest): (change.what, change.obstacle) for change in self.context.changes()}

    def close(self) -> None:
        self.context.close()
        self.sshd.stop()


@pytest.fixture
def ground(clean: Path, tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(clean, tmp_path / "sshd")
    yield ground
    ground.close()
    assert not list(tmp_path.rglob(".vers-*"))


def tree_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        found[str(path.relative_to(root))] = (
            os.readlink(path) if path.is_symlink() else (mode, None if path.is_dir() else path.read_bytes())
        )
    return found


def test_there_and_back(ground: Ground) -> None:
    assert not ground.guest.exists()
    assert ground.do("./run.sh") == "ran"  # its mode came along
    there = tree_of(ground.guest)
    assert there.pop("whole") == str(ground.guest / "src")
    here = tree_of(ground.project)
    assert here.pop("whole") == str(ground.project / "src")
    assert there == here and ground.changes() == {}
    ground.do(
        "echo b >>src/a.py; mkdir -p d/e; head -c 3000000 /dev/urandom >d/e/f; ln -s ../src d/up; chmod 700 run.sh; rm big; mv ünï* new"
    )
    assert tree_of(ground.project) == {**here, "whole": str(ground.project / "src")}  # nothing comes home by itself
    assert {path: what for path, (what, _) in ground.changes().items()} == {
        "src/a.py": "modified",
        "d": "added",
        "d/e": "added",
        "d/e/f": "added",
        "d/up": "added",
        "run.sh": "mode",
        "big": "deleted",
        "new": "added",
        "ünï \n'\"$x": "deleted",
    }
    # One folder, by its name here; then what was reviewed; then nothing is left.
    assert len(ground.context.pull(None, [str(ground.project / "d")])) == 4
    ground.context.pull(None, ground.context.changes())
    home, there = tree_of(ground.project), tree_of(ground.guest)
    assert {name: each for name, each in home.items() if name != "whole"} == {name: each for name, each in there.items() if name != "whole"}
    assert ground.changes() == {} and ground.context.pull() == []
    ground.do("echo c >>src/a.py")
    assert [change.what for change in ground.context.pull()] == ["modified"]
    assert (ground.project / "src/a.py").read_text().endswith("b\nc\n")


def test_both_have_changed(ground: Ground) -> None:
    ground.do("echo guest >src/a.py; echo fine >fine; rm run.sh")
    (ground.project / "src/a.py").write_text("host")
    (ground.project / "run.sh").write_text("kept")
    before = tree_of(ground.project)
    why = "changed on this machine meanwhile"
    assert ground.changes() == {"src/a.py": ("modified", why), "run.sh": ("deleted", why), "fine": ("added", None)}
    with pytest.raises(Conflict, match=r"run\.sh \(changed on this machine meanwhile\)"):
        ground.context.pull()
    assert tree_of(ground.project) == before
    reviewed = ground.context.changes()
    ground.do("echo evil >fine")
    with pytest.raises(Conflict, match="reviewed"):
        ground.context.pull(None, [change for change in reviewed if not change.obstacle])
    assert tree_of(ground.project) == before
    ground.context.pull(None, [str(ground.guest / "fine")])
    assert (ground.project / "fine").read_text() == "evil\n"


@pytest.mark.parametrize("plant", ["ln -s ../../outside out", "ln -s {outside} out", "rm -r src; ln -s {outside} src"])
def test_a_link_that_leads_out_does_not_come_home(ground: Ground, tmp_path: Path, plant: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    ground.do(f"{plant.format(outside=outside)}; echo n >new")
    before = tree_of(ground.project)
    with pytest.raises(Denied, match="leads out"):
        ground.context.pull()
    assert tree_of(ground.project) == before
    ground.context.pull(None, [str(ground.guest / "new")])
    assert list(outside.iterdir()) == [] and (ground.project / "new").exists()


def test_the_model_may_say_what_a_folder_is_called_here(ground: Ground) -> None:
    ground.do("echo there >src/a.py")
    answer = ground.call("read", path=f"{ground.project}/src/a.py")
    assert (answer.content, answer.artifact["backend"]) == ("there\n", "host")
    ground.call("write", path=f"{ground.project}/src/b.py", content="b")
    assert (ground.guest / "src/b.py").read_text() == "b" and not (ground.project / "src/b.py").exists()


def test_another_process_and_a_new_home_on_the_host(ground: Ground) -> None:
    ground.do("echo b >>src/a.py")
    second = ground.new_context()
    assert [change.what for change in second.changes()] == ["modified"]
    second.close()
    # The host has forgotten what the copy began from.
    (token,) = (ground.remote_home / ".local/state/langchain-vers/mounts").iterdir()
    token.unlink()
    before = tree_of(ground.project)
    for look in (ground.context.changes, ground.context.pull):
        with pytest.raises(Gone, match="has lost which copy"):
            look()
    with ground.new_context() as third, pytest.raises((Gone, Conflict)):
        third.pull()
    assert tree_of(ground.project) == before


def test_a_host_that_is_lost_is_an_error(ground: Ground) -> None:
    ground.do("echo b >>src/a.py")
    ground.sshd.stop()
    ground.context.close()
    before = tree_of(ground.project)
    with pytest.raises(Unreachable):
        ground.context.changes()
    with pytest.raises(Unreachable):
        ground.context.pull()
    assert tree_of(ground.project) == before


def test_a_place_that_is_taken(ground: Ground) -> None:
    ground.guest.mkdir()
    (ground.guest / "own").write_text("x")
    answer = ground.call("bash", command="touch ~/ran")
    assert (answer.status, answer.artifact["error"]) == ("error", "Conflict") and "holds something else" in answer.content
    assert not (ground.remote_home / "ran").exists() and os.listdir(ground.guest) == ["own"]
