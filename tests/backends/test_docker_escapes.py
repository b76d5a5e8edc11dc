"""The escape suite over DockerBackend, in containers of Docker's own engine and of Podman's, and what of it only containers have."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rigs.docker import IMAGE, ContainerEngine, DockerdOnBtrfs, DockerdOnXfs, engine
from rigs.users import ROOT, ordinary_user

from langchain_vers._io import on_io, run
from langchain_vers.backends import docker_disk
from langchain_vers.backends.base import Backend, ExecResult
from langchain_vers.backends.docker import DockerBackend
from langchain_vers.backends.docker_disk import OWN, SETTINGS
from langchain_vers.errors import DiskFull
from langchain_vers.testing.escapes import Bounds, EscapeConformance, MiB
from langchain_vers.testing.harness import Caller, Conformance, shell

DISK = 128 * MiB
PROCESSES = 64


def _container(engine: ContainerEngine) -> Iterator[DockerBackend]:
    backend = engine.backend(pids=PROCESSES, memory="512m", disk=DISK)
    yield backend
    run(backend.delete())
    run(backend.close())


class ContainerEscapes(EscapeConformance):
    @pytest.fixture
    def bounds(self) -> Bounds:
        return Bounds(processes=PROCESSES, disk=DISK)


class TestSampleOnDocker(Conformance):
    """What hangs on how a container is made, and on this package; the rest in the full run."""

    test_files_of_this_machine_cannot_be_read = EscapeConformance.test_files_of_this_machine_cannot_be_read
    test_environment_of_this_process_is_not_to_be_read = EscapeConformance.test_environment_of_this_process_is_not_to_be_read
    test_disk_cannot_be_filled = EscapeConformance.test_disk_cannot_be_filled
    test_no_daemon_without_traces_outlives_the_time_limit = EscapeConformance.test_no_daemon_without_traces_outlives_the_time_limit
    secret_variable = EscapeConformance.secret_variable
    _outlive = EscapeConformance._outlive
    _works = EscapeConformance._works

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, dockerd: ContainerEngine) -> Iterator[DockerBackend]:
        yield from _container(dockerd)

    @pytest.fixture(params=["async"])
    def call(self) -> Caller:
        return on_io

    @pytest.fixture
    def bounds(self) -> Bounds:
        return Bounds(disk=DISK)

    @pytest.fixture(params=["/tmp"])
    def where(self, request: pytest.FixtureRequest) -> str:
        place: str = request.param
        return place


@pytest.mark.full
class TestOnDocker(ContainerEscapes):
    @pytest.fixture
    def backend(self, dockerd: ContainerEngine) -> Iterator[Backend]:
        yield from _container(dockerd)


@pytest.mark.full
class TestOnPodman(ContainerEscapes):
    @pytest.fixture
    def backend(self, podman: ContainerEngine) -> Iterator[Backend]:
        yield from _container(podman)


@pytest.mark.full
class TestWithQuotas(Conformance):
    """Where the engine bounds a container's own files, nothing has to be ended for them."""

    test_disk_cannot_be_filled = EscapeConformance.test_disk_cannot_be_filled
    _works = EscapeConformance._works

    @pytest.fixture(scope="class")
    @classmethod
    def with_quotas(cls) -> Iterator[ContainerEngine]:
        yield from engine(DockerdOnBtrfs)

    @pytest.fixture
    def backend(self, with_quotas: ContainerEngine) -> Iterator[DockerBackend]:
        for backend in _container(with_quotas):
            yield backend
            settings = with_quotas.api.inspect_container(backend.machine_id)["HostConfig"]
            assert settings["StorageOpt"] == {"size": str(DISK)}
            assert (backend._container.guard.overgrown, settings["SecurityOpt"]) == ([], ["no-new-privileges"])

    @pytest.fixture
    def bounds(self) -> Bounds:
        return Bounds(disk=DISK)

    @pytest.fixture(params=["/tmp", "/"])
    def where(self, request: pytest.FixtureRequest) -> str:
        place: str = request.param
        return place

    async def test_a_full_disk_is_an_error_of_the_call_that_finds_it_full(self, backend: DockerBackend) -> None:
        filled = await on_io(backend.exec("i=0; while head -c 4194304 /dev/urandom >/var/tmp/f$i; do i=$((i+1)); done", timeout=60))
        assert filled.exit_code == 0 and b"quota" in filled.tail.lower()
        with pytest.raises(DiskFull, match="/var/tmp/more"):
            await on_io(backend.write("/var/tmp/more", bytes(8 * MiB)))
        await on_io(shell(backend, "rm /var/tmp/f*; sync"))
        await on_io(backend.write("/var/tmp/more", bytes(8 * MiB)))


@pytest.mark.full
def test_an_engine_whose_quotas_are_switched_off() -> None:
    for without_quotas in engine(DockerdOnXfs):
        for backend in _container(without_quotas):
            fills(backend, FILL, OWN, cwd="/var/tmp")


# --- what only containers have ---


@pytest.fixture
def backend(dockerd: ContainerEngine) -> Iterator[DockerBackend]:
    yield from _container(dockerd)


FILL = "i=0; while head -c 4194304 /dev/zero >>f$i; do i=$((i+1)); done"


def fills(backend: DockerBackend, command: str, what: str, **options: Any) -> None:
    """A command that fills a disk is ended for that, and the container goes on afterwards."""
    with pytest.raises(DiskFull, match=rf"^{what} in container .*disk, {DISK} bytes") as error:
        run(backend.exec(command, timeout=120, **options))
    assert error.value.machine_id == backend.machine_id
    assert run(shell(backend, "ps -e | grep -c 'sleep$'")) == "1"  # that of process 1


def test_all_that_runs_is_ended_and_work_goes_on(backend: DockerBackend) -> None:
    run(shell(backend, "setsid sleep 600 >/dev/null 2>&1 &"))
    place = "/var/tmp"

    async def both() -> list[BaseException | ExecResult]:
        other = asyncio.create_task(backend.exec("echo up; sleep 600"))
        return await asyncio.gather(backend.exec(FILL, cwd=place), other, return_exceptions=True)

    assert [type(each) for each in run(both())] == [DiskFull, DiskFull]
    assert run(shell(backend, "ps -e | grep -c 'sleep$'")) == "1"
    taken = int(run(shell(backend, "du -sk .", cwd=place)).split()[0]) * 1024
    assert DISK * 0.9 < taken < DISK * 2
    assert run(shell(backend, "ls | wc -l", cwd=place)) != "0"  # a disk that is full is no reason to end what adds nothing
    fills(backend, "head -c 60000000 /dev/zero >more", OWN, cwd=place)
    run(shell(backend, "rm f* more; head -c 60000000 /dev/zero >enough", cwd=place))


@pytest.mark.full
def test_what_a_background_process_writes_counts(backend: DockerBackend) -> None:
    run(backend.exec(f"cd /var/tmp; ({FILL}) >/dev/null 2>&1 &"))
    fills(backend, "sleep 600", OWN)


def test_files_without_a_name_count(backend: DockerBackend) -> None:
    """They are in no folder, and stay until the last process lets go of them."""
    hold = "for i in 1 2 3 4; do ( exec 3>f$i; rm f$i; head -c 60000000 /dev/zero >&3; exec sleep 600 ) & done; wait"
    fills(backend, hold, OWN, cwd="/var/tmp")
    assert int(run(shell(backend, "du -sk /var/tmp")).split()[0]) < 1024


def test_a_file_cannot_be_larger_than_the_disk(backend: DockerBackend) -> None:
    run(shell(backend, f"truncate -s {DISK} sparse", cwd="/var/tmp"))
    assert run(backend.exec(f"truncate -s {DISK + 1} sparse", cwd="/var/tmp")).exit_code != 0
    with pytest.raises(DiskFull):
        run(backend.write("/var/tmp/large", bytes(DISK + 1)))
    assert run(shell(backend, "ls /var/tmp")) == "sparse"


def test_the_engines_files_in_etc_are_no_way_round(backend: DockerBackend) -> None:
    """They lie outside of the container's own files."""
    many = "for f in hosts resolv.conf hostname; do head -c 60000000 /dev/zero >>/etc/$f; done; sleep 600"
    fills(backend, many, SETTINGS)


def test_the_engines_log_is_no_way_round(dockerd: ContainerEngine, backend: DockerBackend) -> None:
    """What process 1 prints an engine keeps for ever, and root may write to where it prints."""
    run(shell(backend, "head -c 1000000 /dev/zero | tr '\\0' '\\n' >/proc/1/fd/1"))
    kept = sum(path.stat().st_size for path in (dockerd.folder / "data" / "containers" / str(backend.machine_id)).rglob("*"))
    assert kept < 100_000


@pytest.mark.full
def test_folders_of_this_machine_count(dockerd: ContainerEngine, tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(bytes(2 * DISK))
    backend = dockerd.backend(workspace=tmp_path, disk=DISK)
    try:
        run(shell(backend, "head -c 60000000 /dev/zero >small"))
        fills(backend, FILL, "/workspace")
        run(shell(backend, "rm f* small; head -c 60000000 /dev/zero >small"))
    finally:
        run(backend.delete())
        run(backend.close())


@pytest.mark.full
def test_volumes_of_the_image_count(dockerd: ContainerEngine) -> None:
    made = dockerd.api.create_container(IMAGE, ["true"])["Id"]
    image = dockerd.api.commit(made, changes=["VOLUME /data"])["Id"]
    dockerd.api.remove_container(made)
    backend = dockerd.backend(image, disk=DISK)
    try:
        fills(backend, FILL, "/data", cwd="/data")
    finally:
        run(backend.delete())
        run(backend.close())
        dockerd.api.remove_image(image)


@pytest.mark.full
def test_branches_are_bounded_too(dockerd: ContainerEngine, backend: DockerBackend) -> None:
    [machine] = run(backend.branch())
    branch = backend.at(machine)
    try:
        fills(branch, FILL, OWN, cwd="/var/tmp")
    finally:
        run(branch.delete())
        run(branch.close())


@pytest.mark.full
@pytest.mark.skipif(not ROOT, reason="an ordinary user has run these tests already")
def test_an_ordinary_user_has_the_engine_count(dockerd: ContainerEngine) -> None:
    """Who may use the engine, but not look into its folders."""
    dockerd.folder.chmod(0o755)
    dockerd.socket.chmod(0o666)
    with ordinary_user():
        backend = dockerd.backend(disk=DISK)
        try:
            fills(backend, FILL, OWN, cwd="/var/tmp")
            run(shell(backend, "rm /var/tmp/f*; head -c 60000000 /dev/zero >/var/tmp/enough"))
        finally:
            run(backend.delete())
            run(backend.close())


@pytest.mark.full
@pytest.mark.parametrize("of", ["docker", "podman"])
def test_an_engine_elsewhere_counts_by_itself(of: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere: ContainerEngine = request.getfixturevalue("dockerd" if of == "docker" else "podman")
    monkeypatch.setattr(docker_disk, "is_here", lambda _: False)
    backend = elsewhere.backend(disk=DISK)
    try:
        fills(backend, f"{FILL} & sleep 600", OWN, cwd="/var/tmp")
        run(shell(backend, "rm /var/tmp/f*; head -c 60000000 /dev/zero >/var/tmp/enough"))
    finally:
        run(backend.delete())
        run(backend.close())


def test_containers_of_others_are_left_alone(dockerd: ContainerEngine) -> None:
    theirs = dockerd.api.create_container(IMAGE, ["sleep", "86400"])["Id"]
    dockerd.api.start(theirs)
    try:
        for backend in (dockerd.backend(None, container=theirs), dockerd.backend(disk=DISK).at(theirs)):
            run(shell(backend, "head -c 200000000 /dev/zero >/var/tmp/large && rm /var/tmp/large"))
            assert not backend._container.guard.watching
            run(backend.close())
    finally:
        dockerd.api.remove_container(theirs, force=True)
