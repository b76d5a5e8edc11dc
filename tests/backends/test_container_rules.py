"""What is decided about a container's disk and processes without an engine: what is watched and how often, and what a command has left."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rigs.users import ROOT, folder_of_ordinary_user, ordinary_user

from langchain_vers.backends import disk_watch, docker_disk, docker_seccomp, docker_strays, seccomp
from langchain_vers.backends.disk_watch import Folder, Growth, Place
from langchain_vers.backends.docker_disk import Layer
from langchain_vers.backends.open_files import nameless
from langchain_vers.backends.paths import Mount

# --- the disk ---

HERE = {"Id": "abc", "State": {"Pid": 7}, "HostConfig": {}, "GraphDriver": {"Data": {"UpperDir": "/var/lib/docker/overlay2/x/diff"}}}
MOUNTS = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 254:1 / /var/lib rw - xfs /dev/vdb rw
24 22 254:2 / /var/lib/doc rw - xfs /dev/vdc rw
25 22 254:3 / /with\\040space rw - xfs /dev/vdd rw
"""


def places(
    found: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *mounts: Mount, root: bool = True, here: bool = True
) -> dict[str, Place]:
    monkeypatch.setattr(docker_disk, "is_here", lambda _: here)
    return docker_disk.places({**HERE, **found}, mounts, lambda: 5, root=root)


def test_what_of_a_container_is_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "hosts").touch()
    storage = {"GraphDriver": {"Data": {"UpperDir": str(tmp_path)}}, "HostsPath": str(tmp_path / "hosts")}
    volumes = [
        {"Type": "volume", "RW": True, "Source": str(tmp_path), "Destination": "/data"},
        {"Type": "volume", "RW": False, "Source": str(tmp_path), "Destination": "/fixed"},
        {"Type": "bind", "RW": True, "Source": "/b", "Destination": "/x"},
        {"Type": "volume", "RW": True, "Destination": "/elsewhere"},
    ]
    mounts = [Mount("/a", "/ro", "ro"), Mount("/b", "/rw"), Mount("/c", "/copy", "copy")]
    found = places({**storage, "Mounts": volumes}, monkeypatch, *mounts)
    assert set(found) == {docker_disk.OWN, docker_disk.SETTINGS, "/rw", "/data"}
    assert all(isinstance(place, Folder) for place in found.values())
    for_others = places({**storage, "Mounts": volumes}, monkeypatch, *mounts, root=False)
    assert set(for_others) == {docker_disk.OWN, "/rw"}
    assert isinstance(layer := for_others[docker_disk.OWN], Layer)
    assert (layer.usage(), layer.free() is not None) == (5, True)
    elsewhere = places(storage, monkeypatch, *mounts, here=False)
    assert set(elsewhere) == {docker_disk.OWN}
    assert elsewhere[docker_disk.OWN].free() is None
    assert set(places({**storage, "HostConfig": {"StorageOpt": {"size": "1"}}}, monkeypatch)) == {docker_disk.SETTINGS}


@pytest.mark.parametrize("found", [{}, {"Id": "x"}, {"Id": "x", "State": None}, {"Id": "x", "State": {"Pid": 0}}, {"State": {"Pid": "n"}}])
def test_containers_that_are_not_on_this_machine(found: dict[str, Any]) -> None:
    assert not docker_disk.is_here(found)


def test_this_process_is_no_container() -> None:
    assert not docker_disk.is_here({"Id": "f" * 64, "State": {"Pid": os.getpid()}})


@pytest.mark.parametrize(
    ("path", "point"),
    [("/var/lib/docker/x", "/var/lib"), ("/var/lib/doc/x", "/var/lib/doc"), ("/else", "/"), ("/with space/x", "/with space")],
)
def test_where_a_file_system_is_mounted(path: str, point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(docker_disk, "free", asked.append)
    assert docker_disk.seen_near(path, MOUNTS) == point
    assert asked == [point]


def test_a_file_system_out_of_sight(tmp_path: Path) -> None:
    assert docker_disk.seen_near(str(tmp_path), f"1 1 1:1 / {tmp_path}/. rw - x x x") is None
    assert docker_disk.seen_near("/a", "") is None


@pytest.mark.parametrize(
    ("info", "may"),
    [
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "xfs"]]}, True),
        ({"Driver": "overlay", "DriverStatus": [["Backing Filesystem", "xfs"]]}, True),
        ({"Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]]}, False),
        ({"Driver": "btrfs", "DriverStatus": None}, True),
        ({"Driver": "vfs", "DriverStatus": [["Backing Filesystem", "xfs"]]}, False),
        ({}, False),
    ],
)
def test_engines_that_may_have_quotas(info: dict[str, Any], may: bool) -> None:
    assert docker_disk.may_have_quotas(info) == may


@pytest.mark.parametrize(
    ("options", "architecture", "fits"),
    [
        (["name=apparmor", "name=seccomp,profile=default"], "amd64", True),
        (["name=seccomp,profile=builtin", "name=cgroupns"], "arm64", True),
        (["name=seccomp,profile=unconfined"], "amd64", True),
        (["name=seccomp,profile=/etc/docker/ours.json"], "amd64", False),
        (["name=seccomp,profile=default"], "386", False),
        (["name=apparmor"], "amd64", False),
        (None, "amd64", False),
    ],
)
def test_whose_seccomp_profile_is_used(options: list[str] | None, architecture: str, fits: bool) -> None:
    assert docker_seccomp.fits({"SecurityOptions": options}, architecture) == fits


def test_the_profile_names_each_call_once() -> None:
    rules = docker_seccomp.profile()["syscalls"]
    plain = [name for rule in rules if not rule["args"] for name in rule["names"]]
    assert len(plain) == len(set(plain))
    assert not set(plain) & {name for rule in rules if rule["args"] for name in rule["names"]}
    assert not {name for rule in rules for name in rule["names"] if rule["action"] == "SCMP_ACT_ALLOW"} & set(seccomp.DENIED)


class Counted:
    """A place out of sight, that takes what it is told to."""

    taken = 0
    counts = 0

    def free(self) -> None:
        return None

    def usage(self, enough: float = 0) -> int:
        self.counts += 1
        return self.taken


def test_a_place_out_of_sight_is_counted_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr(disk_watch, "time", SimpleNamespace(monotonic=lambda: clock))
    place = Counted()
    growth = Growth(place, 100 << 20, whole=True)
    counted = []
    for _ in range(40):
        clock += 0.5
        if growth.room() < 0:
            growth.count()
            counted.append(clock)
    gaps = [after - before for before, after in itertools.pairwise(counted)]
    assert gaps == sorted(gaps) and gaps[-1] == disk_watch.CALM
    place.taken = 101 << 20
    clock += disk_watch.CALM
    assert growth.room() < 0
    growth.count()
    assert growth.left < 0


def test_nothing_is_counted_further_than_it_has_to_be(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(1 << 20))
    asked: list[int] = []

    def nameless() -> int:
        asked.append(1)
        return 5

    place = Folder(str(tmp_path), nameless)
    all_of_it = place.usage()
    assert all_of_it > (1 << 20) + 2 * disk_watch.PER_FILE
    assert asked == [1]
    assert 1 << 20 < place.usage(enough=1 << 20) < all_of_it
    assert asked == [1]


def test_what_is_there_counts_where_the_whole_is_bounded() -> None:
    place = Counted()
    place.taken = 70 << 20
    assert Growth(place, 100 << 20, whole=True).left == 30 << 20
    assert Growth(place, 100 << 20).left == 100 << 20
    assert Growth(place, 50 << 20, whole=True).left == disk_watch.LEEWAY


# --- what stopped commands leave ---


def stat(pid: int, parent: int, started: int, name: str = "sh", state: str = "S") -> bytes:
    return f"{pid} ({name}) {state} {parent} {pid} {pid} {' '.join(['0'] * 15)} {started} 0\n".encode()


def looked(*processes: bytes) -> bytes:
    return b"\0".join([b"123.45 6.7\n", *itertools.chain.from_iterable((each, b"") for each in processes), b""])


def test_what_a_command_has_left_is_known_by_who_has_adopted_it() -> None:
    text = looked(
        stat(1, 0, 10),
        stat(5, 1, 20, "sleep"),  # before the command
        stat(20, 0, 500),  # by the engine, as the session's loop and this look are
        stat(21, 20, 501),
        stat(30, 1, 502, "a) S 9 (b"),
        stat(31, 30, 503),
        stat(32, 1, 504, state="Z"),
        b"",  # it has ended meanwhile
    )
    now, table = docker_strays.parse(text)
    assert now == 12345
    assert docker_strays.adopted(table, 400) == {30, 31}
    marked = docker_strays.parse(text.replace(b"(b) S 1 30 30", b"x").replace(stat(31, 30, 503) + b"\0", stat(31, 30, 503) + b"\0other\n"))[
        1
    ]
    assert 31 not in docker_strays.adopted(marked, 400)


@given(st.binary(max_size=200))
def test_what_is_no_look(text: bytes) -> None:
    with contextlib.suppress(ValueError, IndexError):
        docker_strays.parse(text)


# --- files without a name ---


def test_files_that_are_open_and_deleted_count_once(tmp_path: Path) -> None:
    before = nameless([os.getpid()])
    path = tmp_path / "f"
    path.write_bytes(bytes(1 << 20))
    with path.open("rb") as first, path.open("rb"), open(os.memfd_create("memory"), "wb") as memory:
        memory.write(bytes(1 << 20))
        assert nameless([os.getpid()]) == before
        path.unlink()
        assert nameless([os.getpid(), os.getpid()]) - before == 1 << 20
        mapped = mmap.mmap(first.fileno(), 0, prot=mmap.PROT_READ)
    if ROOT:
        assert nameless([os.getpid()]) - before == 1 << 20
    mapped.close()
    assert nameless([os.getpid()]) == before
    assert nameless([2**22 + 1]) == 0


@pytest.mark.skipif(not ROOT, reason="an ordinary user has run these tests already")
def test_an_ordinary_users_folders_are_counted_whatever_their_mode() -> None:
    with folder_of_ordinary_user() as folder, ordinary_user():
        hidden = folder / "hidden"
        hidden.mkdir()
        (hidden / "f").write_bytes(bytes(1 << 20))
        hidden.chmod(0o300)
        assert disk_watch.usage(str(folder)) > 1 << 20
