"""Folders that are copied to machines: what arrives, what differs, what comes home, and that nothing comes home anywhere else."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Runner
from rigs.programs import require

from langchain_vers.attachment import Attachment
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.paths import Mount
from langchain_vers.context import BackendContext
from langchain_vers.errors import BadInput, Conflict, Denied, Gone, Missing, ServerFault, VersError, WrongKind
from langchain_vers.mount_trees import LIST, Folder, Item, parse_listing
from langchain_vers.toolkit import VersToolkit

direct = Runner("direct", asynchronous=False)


class Ground:
    """A folder here, and "another machine": a backend of its own whose home is elsewhere."""

    def __init__(self, tmp_path: Path) -> None:
        self.project = tmp_path / "project"
        self.guest = tmp_path / "machine/work"
        self.machine = tmp_path / "machine"
        self.machine.mkdir()
        (self.project / "src").mkdir(parents=True)
        (self.project / "src/a.py").write_text("a\n")
        (self.project / "run.sh").write_text("#!/bin/sh\n")
        (self.project / "run.sh").chmod(0o755)
        (self.project / "link").symlink_to("src/a.py")
        (self.project / "empty").mkdir()
        (self.project / "ünï \n'\"$x").write_bytes(bytes(range(256)))
        (self.project / "-dash").write_text("-")
        self.context = self.new_context()
        self.toolkit = VersToolkit(context=self.context)

    def new_context(self, **options: Any) -> BackendContext:
        context = BackendContext(**{"mounts": [Mount(str(self.project), str(self.guest), "copy")], **options})
        context.register("other", LocalBackend(self.machine, env={"HOME": str(self.machine)}))
        context.whereabouts.tell(None, Attachment(backend="other"))
        return context

    def do(self, command: str) -> str:
        answer = direct(self.toolkit.get_tools(), ("bash", {"command": command}))[0]
        assert answer.status == "success", answer.content
        return str(answer.content)

    def changes(self) -> dict[str, str]:
        return {os.path.relpath(change.path, self.guest): change.what for change in self.context.changes()}


@pytest.fixture
def ground(clean: Path, tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(tmp_path)
    yield ground
    ground.context.close()
    assert not list(tmp_path.rglob(".vers-*"))


def tree_of(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        mode = stat.S_IMODE(path.lstat().st_mode)
        found[name] = os.readlink(path) if path.is_symlink() else (mode, None if path.is_dir() else path.read_bytes())
    return found


def test_a_copy_arrives_with_the_first_call(ground: Ground) -> None:
    assert not ground.guest.exists()
    ground.do("true")
    assert tree_of(ground.guest) == tree_of(ground.project)
    assert ground.changes() == {}
    # Once: what the machine does with it afterwards is its own.
    ground.do("rm -rf work/src")
    ground.do("true")
    assert not (ground.guest / "src").exists()


def test_nothing_comes_home_by_itself(ground: Ground) -> None:
    before = tree_of(ground.project)
    ground.do(
        "cd work; echo b >>src/a.py; echo n >src/new; rm ./-dash; chmod 700 run.sh; mkdir d; ln -s src d/up; rm link; ln -s run.sh link"
    )
    assert tree_of(ground.project) == before
    assert ground.changes() == {
        "src/a.py": "modified",
        "src/new": "added",
        "-dash": "deleted",
        "run.sh": "mode",
        "d": "added",
        "d/up": "added",
        "link": "modified",
    }
    shown = [str(change) for change in ground.context.changes()]
    assert f"M {ground.guest}/src/a.py (2 bytes -> 4 bytes)" in shown
    assert f"m {ground.guest}/run.sh (mode 700)" in shown
    assert f"A {ground.guest}/d/" in shown
    assert f"D {ground.guest}/-dash" in shown
    assert f"A {ground.guest}/d/up -> src" in shown
    assert tree_of(ground.project) == before


def test_everything_comes_home_when_asked(ground: Ground) -> None:
    ground.do(
        "cd work; echo b >>src/a.py; rm -r empty ./-dash; chmod 700 run.sh; mkdir -p d/e; printf x >d/e/f; chmod 555 d/e; "
        "rm link; mkdir link; echo y >link/y; ln -s e d/s; mv ünï* plain; chmod 750 src"
    )
    pulled = ground.context.pull()
    assert {change.what for change in pulled} == {"added", "modified", "deleted", "mode"}
    assert tree_of(ground.project) == tree_of(ground.guest)
    assert ground.changes() == {}
    # What came home is what both have now: it can go on from there.
    ground.do("echo c >>src/a.py")
    assert [change.what for change in ground.context.pull()] == ["modified"]
    assert (ground.project / "src/a.py").read_text() == "a\nb\nc\n"
    assert ground.context.pull() == []


def test_some_of_it(ground: Ground) -> None:
    ground.do("cd work; echo b >>src/a.py; echo n >src/new; echo m >m")
    assert [os.path.basename(change.path) for change in ground.context.pull(None, [str(ground.guest / "m")])] == ["m"]
    # A folder, by its name on this machine.
    assert len(ground.context.pull(None, [str(ground.project / "src")])) == 2
    assert ground.changes() == {}
    for paths in ([str(ground.guest / "src/nothing")], ["/etc"], [str(ground.guest) + "2"]):
        with pytest.raises(BadInput, match="nothing was changed"):
            ground.context.pull(None, paths)
    with pytest.raises(BadInput, match="list"):
        ground.context.pull(None, str(ground.guest))


def test_what_was_reviewed_comes_home_or_nothing(ground: Ground) -> None:
    ground.do("echo b >>work/src/a.py; echo n >work/n")
    reviewed = ground.context.changes()
    ground.do("echo evil >>work/src/a.py")
    with pytest.raises(Conflict, match="reviewed"):
        ground.context.pull(None, reviewed)
    assert not (ground.project / "n").exists()
    ground.context.pull(None, ground.context.changes())
    assert (ground.project / "src/a.py").read_text() == "a\nb\nevil\n"


def test_both_have_changed(ground: Ground) -> None:
    ground.do("cd work; echo guest >src/a.py; echo same >run.sh; rm ./-dash; echo g >new; echo fine >fine; rm -r empty")
    (ground.project / "src/a.py").write_text("host")
    (ground.project / "run.sh").write_text("same\n")
    (ground.project / "-dash").write_text("kept")
    (ground.project / "new").write_text("h")
    (ground.project / "empty/more").write_text("h")
    before = tree_of(ground.project)
    obstacles = {os.path.basename(change.path) for change in ground.context.changes() if change.obstacle}
    assert obstacles == {"a.py", "-dash", "new"}
    with pytest.raises(Conflict, match=r"a\.py \(changed on this machine meanwhile\)"):
        ground.context.pull()
    assert tree_of(ground.project) == before
    ground.context.pull(None, [str(ground.guest / "fine")])
    assert (ground.project / "fine").read_text() == "fine\n"
    with pytest.raises(Conflict, match="not empty"):
        ground.context.pull(None, [str(ground.guest / "empty")])
    assert (ground.project / "empty/more").exists()


@pytest.mark.parametrize(
    "plant",
    [
        "ln -s ../../outside out",
        "ln -s {outside} out",
        "ln -s /etc out",
        "ln -s .. out",
        "ln -s src/../../outside out",
        "ln -s . here; ln -s here/../outside out",
        "mkdir d; ln -s ../.. d/out",
        "ln -s //etc out",
    ],
)
def test_a_link_that_leads_out_does_not_come_home(ground: Ground, tmp_path: Path, plant: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    ground.do(f"cd work; {plant.format(outside=outside)}")
    assert any(change.obstacle == "a link that leads out of the folder" for change in ground.context.changes())
    before = tree_of(ground.project)
    with pytest.raises(Denied, match="leads out"):
        ground.context.pull()
    assert tree_of(ground.project) == before


def test_a_link_in_the_way_is_never_followed(ground: Ground, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    ground.do("echo n >work/src/new; echo b >work/src/a.py; mkdir work/src/d; rm work/link; echo l >work/link")
    # Somebody on this machine puts a link where the directory was: also the user's own link is not gone through.
    (ground.project / "src").rename(ground.project / "gone")
    (ground.project / "src").symlink_to(outside)
    for paths in ([f"{ground.guest}/src/new"], [f"{ground.guest}/src/a.py"], [f"{ground.guest}/src/d"]):
        with pytest.raises(VersError):
            ground.context.pull(None, paths)
    assert list(outside.iterdir()) == []
    # A file that was a link is replaced, and what the link led to is left alone.
    (ground.project / "src").unlink()
    (ground.project / "gone").rename(ground.project / "src")
    ground.context.pull(None, [f"{ground.guest}/link"])
    assert not (ground.project / "link").is_symlink()
    assert (ground.project / "src/a.py").read_text() == "a\n"


def test_the_folder_itself_was_replaced_by_a_link(ground: Ground, tmp_path: Path) -> None:
    ground.do("echo n >work/new")
    outside = tmp_path / "outside"
    ground.project.rename(outside)
    ground.project.symlink_to(outside)
    with pytest.raises((WrongKind, BadInput)):
        ground.context.pull()
    assert not (outside / "new").exists()


def test_absolute_links_are_translated_both_ways(ground: Ground, clean: Path) -> None:
    (ground.project / "in").symlink_to(ground.project / "src")
    (ground.project / "system").symlink_to("/usr/bin/env")
    (ground.project / "private").symlink_to(clean / "notes")
    ground.do("true")
    assert os.readlink(ground.guest / "in") == str(ground.guest / "src")
    assert os.readlink(ground.guest / "system") == "/usr/bin/env"
    # What would tell where the user's home is, stays at home, and does not count as deleted.
    assert not (ground.guest / "private").is_symlink()
    assert ground.changes() == {}
    ground.do(f"ln -s {ground.guest}/run.sh work/new")
    ground.context.pull()
    assert os.readlink(ground.project / "new") == str(ground.project / "run.sh")


def test_what_is_not_copied(ground: Ground) -> None:
    os.mkfifo(ground.project / "pipe")
    ground.do("true; mkfifo work/other")
    assert not (ground.guest / "pipe").exists()
    assert ground.changes() == {}


def test_a_place_that_is_taken(ground: Ground) -> None:
    ground.guest.mkdir(parents=True)
    (ground.guest / "own").write_text("x")
    answer = direct(ground.toolkit.get_tools(), ("bash", {"command": "touch ran"}))[0]
    assert (answer.status, answer.artifact["error"]) == ("error", "Conflict")
    assert "holds something else" in answer.content
    assert not (ground.machine / "ran").exists()
    assert tree_of(ground.guest) == {"own": (0o644, b"x")}
    (ground.guest / "own").unlink()
    ground.do("true")
    assert (ground.guest / "run.sh").exists()


def test_a_folder_that_is_gone(ground: Ground) -> None:
    ground.project.rename(ground.project.with_name("elsewhere"))
    answer = direct(ground.toolkit.get_tools(), ("bash", {"command": "touch ran"}))[0]
    assert (answer.status, answer.artifact["error"]) == ("error", "Missing")
    assert not (ground.machine / "ran").exists()
    ground.project.with_name("elsewhere").rename(ground.project)
    ground.do("true")
    ground.project.rename(ground.project.with_name("elsewhere"))
    with pytest.raises(Missing):
        ground.context.changes()


def test_a_look_changes_nothing(ground: Ground) -> None:
    """Neither the machine nor the user's state: nothing was copied yet, so that nothing has changed."""
    assert ground.context.changes() == [] and ground.context.pull() == []
    assert list(ground.machine.iterdir()) == [] and not (Path.home() / ".local").exists()
    ground.guest.mkdir()
    assert ground.context.changes() == []
    (ground.guest / "own").write_text("x")
    with pytest.raises(Gone, match="or it is none"):
        ground.context.pull()
    assert not (ground.project / "own").exists()


def test_the_whole_copy_was_removed(ground: Ground) -> None:
    ground.do("rm -r work")
    assert set(ground.changes().values()) == {"deleted"} and len(ground.changes()) == len(tree_of(ground.project))
    ground.context.pull()
    assert tree_of(ground.project) == {} and ground.changes() == {}
    # What is there instead, and cannot be looked at, is no empty folder.
    ground.do("ln -s /nowhere work")
    with pytest.raises(VersError):
        ground.context.changes()


def test_another_process_knows_what_was_copied(ground: Ground) -> None:
    ground.do("echo b >>work/src/a.py")
    second = ground.new_context()
    assert [change.what for change in second.changes()] == ["modified"]
    second.close()
    # The record is here, and nobody else may read it; a guest that invents a token has none.
    records = list((Path.home() / ".local/state/langchain-vers/mounts").iterdir())
    assert [stat.S_IMODE(record.stat().st_mode) for record in records] == [0o600]
    assert json.loads(records[0].read_text())["host"] == str(ground.project)
    ground.do(f"for f in {ground.machine}/.local/state/langchain-vers/mounts/*; do echo {'0' * 32} >$f; done")
    with pytest.raises(Gone, match="not known on this machine"):
        ground.context.changes()


async def test_async_faces(ground: Ground) -> None:
    await asyncio.to_thread(ground.do, "true")
    assert await ground.context.achanges() == []
    (ground.guest / "new").write_text("n")
    (change,) = await ground.context.apull(None, await ground.context.achanges())
    assert (change.what, change.size, change.host) == ("added", 1, str(ground.project / "new"))


def test_where_there_is_nothing_to_bring(clean: Path, tmp_path: Path) -> None:
    with BackendContext(mounts=[Mount(str(tmp_path), "/work", "copy")]) as context:
        assert context.changes() == []
        with pytest.raises(BadInput, match="on this machine"):
            context.pull()


def test_bad_mounts(clean: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match='mode="copy"'):
        VersToolkit(mounts=[Mount(str(tmp_path), "/work")])
    with pytest.raises(BadInput):
        VersToolkit(mounts=["/work"])  # type: ignore[list-item]
    with pytest.raises(BadInput, match="inside of"):
        BackendContext(mounts=[Mount("/a", "/work", "copy"), Mount("/b", "/work/sub", "copy")])


def test_the_model_reads_guest_paths_only(ground: Ground) -> None:
    (ground.project / "log").write_text(f"error in {ground.project}/src/a.py\n")
    assert ground.do("cat work/log") == f"error in {ground.project}/src/a.py"  # no private folder: it may be the machine's own
    answer = direct(ground.toolkit.get_tools(), ("read", {"path": f"{ground.project}/src/a.py"}))[0]
    assert answer.content == "a\n"
    assert answer.artifact["backend"] == "other"
    ground.do("echo guest >work/src/a.py")
    assert direct(ground.toolkit.get_tools(), ("read", {"path": f"{ground.project}/src/a.py"}))[0].content == "guest\n"


def test_on_a_machine(make_isolated_toolkit: Any, tmp_path: Path) -> None:
    project = Path.home() / "project"
    (project / "src").mkdir(parents=True)
    (project / "src/a").write_text(f"{project}/src and {Path.home()}/notes\n")
    toolkit = make_isolated_toolkit(mounts=[Mount(str(project), "/work", "copy")])

    def do(command: str) -> str:
        answer = direct(toolkit.get_tools(), ("bash", {"command": command}))[0]
        assert answer.status == "success", answer.content
        return str(answer.content)

    direct(toolkit.get_tools(), ("vers_vm_create", {}))
    # What the machine says of this one's home is translated, or not shown.
    assert do("cat /work/src/a") == "/work/src and [host path]"
    error = direct(toolkit.get_tools(), ("read", {"path": f"{Path.home()}/notes"}))[0]
    assert (error.status, error.artifact["error"]) == ("error", "Denied")
    do("echo b >/work/src/b; rm /work/src/a")
    # A branch carries along what it began from.
    direct(toolkit.get_tools(), ("vers_vm_branch", {"attach": True}))
    do("echo c >/work/src/b")
    assert [str(change) for change in toolkit.context.changes()] == ["D /work/src/a", "A /work/src/b (2 bytes)"]
    toolkit.context.pull()
    assert tree_of(project) == {"src": (0o755, None), "src/b": (0o644, b"c\n")}


# --- listings of guests that are not trusted, and of small ones ---


def listed(folder: Path, *shell: str) -> dict[str, Item]:
    return parse_listing(subprocess.run([*shell, "-c", LIST], cwd=folder, check=True, capture_output=True).stdout)


def test_small_machines_list_the_same(ground: Ground) -> None:
    busybox = require("busybox", "busybox")
    (ground.project / "new\nline").symlink_to("x\ny")
    tools = ground.machine / "bin"
    tools.mkdir()
    for name in ("find", "sha256sum", "stat", "readlink", "sh"):
        (tools / name).symlink_to(busybox)
    wanted = Folder(str(ground.project), lambda target: target).items()
    assert listed(ground.project, "sh") == wanted
    assert listed(ground.project, "env", f"PATH={tools}", "sh") == wanted
    assert listed(ground.project / "empty", "sh") == listed(ground.project / "empty", "env", f"PATH={tools}", "sh") == {}


@pytest.mark.parametrize(
    "data",
    [
        b"f 644 1 - ../x\0\0" + b"0" * 64 + b"  ./../x\0",
        b"d 755 0 - a/../../x\0\0",
        b"d 755 0 - /etc\0\0",
        b"d 755 0 - \0\0",
        b"d 755 0 - a//b\0\0",
        b"d 999 0 - a\0\0",
        b"f 644 x - a\0\0",
        b"f 644 1 - a\0\0",
        b"l 0 0 - a",
        b"nonsense\0\0",
        b"d 755 0 - a\0",
        b"bash: find: not found\n",
    ],
)
def test_listings_that_make_no_sense(data: bytes) -> None:
    with pytest.raises(ServerFault):
        parse_listing(data)


def test_names(ground: Ground) -> None:
    """The whole way for names that are no text."""
    (ground.project / "b").mkdir()
    Path(os.fsdecode(os.fsencode(ground.project) + b"/b/\xff\xfe")).write_bytes(b"x")
    ground.do('cd work/b; for f in *; do echo y >"$f"; cp "$f" "$f.2"; done')
    assert [change.what for change in ground.context.pull()] == ["modified", "added"]
    assert sorted(os.listdir(os.fsencode(ground.project / "b"))) == [b"\xff\xfe", b"\xff\xfe.2"]
