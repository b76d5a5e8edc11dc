"""LayeredBubblewrapBackend: machines out of layers, their versions, and who may use them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rigs.programs import require
from rigs.users import ROOT, folder_of_ordinary_user, ordinary_user

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import Backend, Snapshots
from langchain_vers.backends.bubblewrap import BubblewrapBackend, Limits
from langchain_vers.backends.layered import LayeredBubblewrapBackend
from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput, Conflict, DiskFull, Gone
from langchain_vers.testing.backends import BackendConformance
from langchain_vers.testing.harness import Caller, run_sync, shell

Make = Callable[..., LayeredBubblewrapBackend]


@pytest.fixture(autouse=True)
def _installed() -> None:
    require("bwrap", "bubblewrap")


@pytest.fixture(params=[pytest.param("root", marks=pytest.mark.skipif(not ROOT, reason="these tests are not run by root")), "user"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of whoever runs the sandboxes: root, and an ordinary user."""
    with contextlib.ExitStack() as stack:
        found = tmp_path
        if request.param == "user":
            found = stack.enter_context(folder_of_ordinary_user())
            stack.enter_context(ordinary_user())
            monkeypatch.setattr("tempfile.tempdir", str(found))
        workspace = found / "workspace"
        (workspace / "dir/sub").mkdir(parents=True)
        (workspace / "kept").write_text("kept\n")
        (workspace / "changed").write_text("below\n")
        (workspace / "dir/file").write_text("below\n")
        yield found


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    """Makes backends on the same workspace and state, and deletes their machines afterwards."""
    made: list[LayeredBubblewrapBackend] = []

    def make(**options: Any) -> LayeredBubblewrapBackend:
        made.append(LayeredBubblewrapBackend(folder / "workspace", state=folder / "state", **options))
        return made[-1]

    yield make
    for backend in made:
        run(backend.close())
    for backend in made:
        with contextlib.suppress(Gone):
            run(backend.delete())
    assert not (folder / "state/machines").exists() or [path.name for path in (folder / "state/machines").iterdir()] == []


def tree(folder: Path) -> dict[str, str | None]:
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in sorted(folder.rglob("*"))}


CHANGE = "echo mine >changed; rm kept; rm -r dir; mkdir dir; echo new >dir/new; mkdir shut; echo s >shut/s; chmod 0 shut; echo h >~/h"
LOOK = "cat changed; ls; chmod 755 shut; cat shut/s; ls dir; cat ~/h"
CHANGED = "mine\nchanged\ndir\nshut\ns\nnew\nh"


def test_the_workspace_stays_as_it_is(make: Make, folder: Path) -> None:
    before = tree(folder / "workspace")
    backend = make()
    run(shell(backend, CHANGE))
    assert run(shell(backend, LOOK)) == CHANGED
    assert tree(folder / "workspace") == before
    assert isinstance(backend, Snapshots) and not isinstance(BubblewrapBackend(), Snapshots)


def test_a_machine_outlives_its_sandbox(make: Make) -> None:
    backend = make()
    run(shell(backend, f"{CHANGE}; echo t >/tmp/t"))
    run(backend.close())
    assert run(shell(backend, f"{LOOK}; ls /tmp/t 2>/dev/null | wc -l")) == f"{CHANGED}\n0"
    run(backend.close())
    other = make(machine_id=backend.machine_id)
    assert run(shell(other, LOOK)) == CHANGED


def test_versions(make: Make, folder: Path) -> None:
    """What was there at a snapshot is there again, deletions and unreadable folders included, whatever was done since."""
    backend = make()
    start = run(backend.snapshot())
    run(shell(backend, CHANGE))
    ref = run(backend.snapshot(name="changed"))
    assert ref == "changed"
    run(shell(backend, "rm -rf changed dir ~/h; echo back >kept"))
    for reference, look, expected in ((start, "cat kept changed dir/file; ls ~", "kept\nbelow\nbelow"), (ref, LOOK, CHANGED)):
        restored = backend.at(run(backend.restore(reference)))
        assert restored.machine_id != backend.machine_id
        assert run(shell(restored, look)) == expected
        run(restored.delete())
    assert run(shell(backend, "cat kept; ls changed 2>/dev/null | wc -l")) == "back\n0"
    run(backend.delete_snapshot(ref))
    with pytest.raises(Gone, match="changed"):
        run(backend.restore(ref))


def test_branches(make: Make) -> None:
    backend = make(env={"SETTING": "kept"})
    run(shell(backend, CHANGE))
    branches = [backend.at(name) for name in run(backend.branch(2))]
    run(shell(backend, "echo other >changed"))
    for number, branch in enumerate(branches):
        assert run(shell(branch, f"{LOOK}; echo $SETTING; echo {number} >changed")) == f"{CHANGED}\nkept"
    assert [run(shell(branch, "cat changed")) for branch in (backend, *branches)] == ["other", "0", "1"]
    for branch in branches:
        run(branch.delete())


async def test_processes_are_stopped_while_a_snapshot_is_made(make: Make) -> None:
    """Two files that a process always writes in the same order are found as they were at one moment, and the process goes on."""
    backend = make()
    await on_io(shell(backend, "(while :; do echo >>first; echo >>second; done) & while [ ! -s second ]; do :; done"))
    for _ in range(3):
        restored = backend.at(await on_io(backend.restore(await on_io(backend.snapshot()))))
        first, second = [int(await on_io(shell(restored, f"wc -l <{name}"))) for name in ("first", "second")]
        await on_io(restored.delete())
        assert first - second in (0, 1)
        assert await on_io(shell(backend, f"while [ $(wc -l <first) -le {first} ]; do :; done; echo moved")) == "moved"


def test_a_stopped_process_stays_stopped(make: Make) -> None:
    backend = make()
    run(shell(backend, "sleep 1000 & echo $! >pid; kill -STOP $!"))
    run(backend.snapshot())
    assert run(shell(backend, "sed 's/.*) //; s/ .*//' /proc/$(cat pid)/stat")) == "T"


def test_copies_of_mounts_are_versioned(make: Make, folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data/f").write_text("of the host\n")
    backend = make(mounts=[Mount(str(folder / "data"), "/mnt/data", "copy")])
    ref = run(backend.snapshot())
    run(shell(backend, "echo changed >/mnt/data/f"))
    run(backend.close())
    assert run(shell(backend, "cat /mnt/data/f")) == "changed"
    restored = backend.at(run(backend.restore(ref)))
    assert run(shell(restored, "cat /mnt/data/f")) == "of the host"
    assert (folder / "data/f").read_text() == "of the host\n"
    run(restored.delete())


def test_one_backend_at_a_time(make: Make) -> None:
    backend = make()
    run(backend.exec("true"))
    other = backend.at(backend.machine_id)
    for call in (other.exec("true"), other.snapshot(), other.delete()):
        with pytest.raises(Conflict, match="in use"):
            run(call)
    run(backend.close())
    assert run(other.exec("true")).exit_code == 0
    run(other.close())


def test_what_is_not_there(make: Make) -> None:
    backend = make()
    run(backend.exec("true"))
    missing = backend.at("no-such-machine")
    for call in (missing.exec("true"), missing.snapshot(), missing.delete(), backend.restore("no-such-snapshot")):
        with pytest.raises(Gone, match="no-such"):
            run(call)
    run(backend.delete())
    with pytest.raises(Gone, match=backend.machine_id):
        run(backend.exec("true"))


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "a b", "-x", "x" * 101, "a\0", "a\n"])
def test_impossible_names(make: Make, name: str) -> None:
    backend = make()
    if name:
        for call in (backend.snapshot(name=name), backend.restore(name), backend.delete_snapshot(name)):
            with pytest.raises(BadInput):
                run(call)
        with pytest.raises(BadInput):
            backend.at(name)
    for count in (0, -1):
        with pytest.raises(BadInput):
            run(backend.branch(count))


def test_a_name_that_is_taken(make: Make) -> None:
    backend = make()
    run(backend.snapshot(name="one"))
    with pytest.raises(BadInput, match="one"):
        run(backend.snapshot(name="one"))


@pytest.mark.parametrize("where", ["/workspace", "/home/agent"])
def test_machines_cannot_fill_the_disk(make: Make, where: str) -> None:
    backend = make(limits=Limits(disk=16 << 20))
    with pytest.raises(DiskFull):
        run(backend.exec(f"cd {where}; i=0; while :; do head -c 1000000 /dev/zero >f$i; i=$((i+1)); done", timeout=60))
    assert run(shell(backend, f"rm {where}/f*; echo on")) == "on"


async def test_many_snapshots_side_by_side(make: Make) -> None:
    backend = make()
    await on_io(shell(backend, "echo x >f"))
    refs = await asyncio.gather(*(on_io(backend.snapshot()) for _ in range(4)))
    assert len(set(refs)) == 4


@pytest.mark.full
class TestConformance(BackendConformance):
    @pytest.fixture(params=["sync", "async"])
    def call(self, request: pytest.FixtureRequest) -> Caller:
        return run_sync if request.param == "sync" else on_io

    @pytest.fixture
    def backend(self, machine: LayeredBubblewrapBackend) -> Backend:
        return machine


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LayeredBubblewrapBackend]:
    backend = LayeredBubblewrapBackend(tmp_path_factory.mktemp("workspace"), state=tmp_path_factory.mktemp("state"))
    yield backend
    run(backend.delete())
