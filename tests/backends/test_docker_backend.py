"""What DockerBackend does beside the conformance suite, on Docker's own engine: its containers' life, limits, mounts, secrets, versions."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import ImageNotFound
from rigs.docker import AGENT, IMAGE, ContainerEngine
from rigs.users import ROOT

from langchain_vers._io import on_io, run
from langchain_vers.backends import sessions
from langchain_vers.backends.base import Snapshots
from langchain_vers.backends.docker import DockerBackend
from langchain_vers.backends.docker_options import CAPABILITIES, LABEL
from langchain_vers.backends.environment import Secret
from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput, Conflict, Denied, Gone

Make = Callable[..., DockerBackend]


@pytest.fixture
def make(dockerd: ContainerEngine) -> Iterator[Make]:
    """Makes backends; afterwards no container and no image is left that was not there before."""
    made: list[DockerBackend] = []
    images = dockerd.images()

    def make(*arguments: Any, **options: Any) -> DockerBackend:
        made.append(dockerd.backend(*arguments, **options))
        return made[-1]

    yield make
    for backend in made:
        run(backend.close())
    dockerd.clear()
    assert dockerd.images() == images


@pytest.fixture
def existing(dockerd: ContainerEngine) -> Iterator[str]:
    """A container that somebody else has made; its id."""
    container = dockerd.api.create_container(IMAGE, ["sleep", "86400"], name="theirs", labels={LABEL: "snapshot"})["Id"]
    dockerd.api.start(container)
    yield container
    dockerd.api.remove_container(container, force=True)


def text(backend: DockerBackend, command: str, **options: Any) -> str:
    result = run(backend.exec(command, **options))
    assert result.exit_code == 0, result
    return result.tail.decode().removesuffix("\n")


# --- life ---


def test_a_container_lives_from_first_use_until_it_is_deleted(dockerd: ContainerEngine, make: Make) -> None:
    before = dockerd.containers()
    backend = make()
    run(backend.close())
    assert dockerd.containers() == before
    run(backend.write("/root/kept", b"1"))
    assert dockerd.containers(label=f"{LABEL}=container") - before == {backend.machine_id}
    run(backend.close())
    assert dockerd.api.inspect_container(backend.machine_id)["State"]["Running"]
    assert text(backend, "cat /root/kept") == "1"
    machine = backend.machine_id
    run(backend.delete())
    run(backend.delete())
    assert dockerd.containers() == before
    with pytest.raises(Gone, match="does not exist any more") as error:
        run(backend.exec("true"))
    assert error.value.machine_id == machine == backend.machine_id


def test_many_first_calls_make_one_container(dockerd: ContainerEngine, make: Make) -> None:
    backend = make()

    async def all_of_them() -> set[bytes]:
        return {(await call).tail for call in asyncio.as_completed([backend.exec("cat /proc/sys/kernel/hostname") for _ in range(6)])}

    assert len(run(all_of_them())) == 1
    assert dockerd.containers() == {backend.machine_id}


async def test_a_first_call_that_is_cancelled_loses_no_container(dockerd: ContainerEngine, make: Make) -> None:
    backend = make(remove=True)
    task = asyncio.create_task(on_io(backend.exec("true")))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await on_io(backend.close())
    assert await asyncio.to_thread(dockerd.containers) == set()


def test_one_to_be_removed_goes_when_it_is_closed(dockerd: ContainerEngine, make: Make) -> None:
    backend = make(remove=True)
    run(backend.write("/root/f", b""))
    first = backend.machine_id
    run(backend.close())
    assert dockerd.containers() == set()
    assert text(backend, "ls /root") == ""
    assert dockerd.containers() == {backend.machine_id} != {first}


def test_one_to_be_removed_goes_at_the_interpreters_exit_with_its_branches(dockerd: ContainerEngine, make: Make) -> None:
    program = f"""
        from langchain_vers._io import run
        from langchain_vers.backends.docker import DockerBackend
        backend = DockerBackend({IMAGE!r}, url={dockerd.url!r}, remove=True)
        run(backend.exec("true"))
        print(backend.machine_id, *run(backend.branch(2)))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=False)
    assert (len(done.stdout.split()), done.stderr, done.returncode) == (3, "", 0)
    assert dockerd.containers() == set()


def test_a_container_that_exists_is_used_and_never_removed(dockerd: ContainerEngine, make: Make, existing: str) -> None:
    backend = make(None, container="theirs", workdir="/tmp", user="agent")
    assert text(backend, "pwd; id -un") == "/tmp\nagent"
    assert backend.machine_id == existing
    dockerd.api.rename(existing, "renamed")
    assert text(backend, "echo on") == "on"
    for each in (backend, make().at(existing)):
        with pytest.raises(Denied, match="docker rm"):
            run(each.delete())
    run(backend.close())
    assert dockerd.api.inspect_container(existing)["State"]["Running"]
    own = make()
    run(own.exec("true"))
    with pytest.raises(Denied):
        run(make(None, container=own.machine_id).delete())


def test_no_connection_is_left_open(make: Make) -> None:
    backend = make()

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def many() -> None:
        await asyncio.gather(*(backend.exec("echo 1") for _ in range(8)), *(backend.write(f"/tmp/{i}", b"1") for i in range(4)))

    run(backend.exec("true"))
    run(backend.close())
    before = open_files()
    for _ in range(3):
        run(many())
    run(backend.close())
    assert open_files() <= before


def test_a_running_command_takes_no_thread(make: Make) -> None:
    backend = make()
    run(backend.exec("true"))

    async def threads() -> int:
        started = asyncio.Semaphore(0)
        waiting = [asyncio.create_task(backend.exec("echo; sleep 30", on_output=lambda _: started.release())) for _ in range(10)]
        for _ in waiting:
            await started.acquire()
        # Those of the pool that started them are idle, and would be taken by others.
        await asyncio.gather(*(asyncio.to_thread(int) for _ in range(32)))
        names = [thread.name for thread in threading.enumerate()]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        return sum("blocking" not in name for name in names)

    before = sum("blocking" not in thread.name for thread in threading.enumerate())
    assert run(threads()) == before


# --- what a container may ---


def test_a_container_has_no_rights_that_it_does_not_need(dockerd: ContainerEngine, make: Make) -> None:
    backend = make()
    status = text(backend, "grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/self/status")
    settings = dockerd.api.inspect_container(backend.machine_id)["HostConfig"]
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    capabilities = int(next(line.split()[1] for line in status.splitlines() if "CapBnd" in line), 16)
    assert capabilities.bit_count() == len(CAPABILITIES)
    assert not capabilities & (1 << 21 | 1 << 13 | 1 << 27 | 1 << 19)  # SYS_ADMIN, NET_RAW, MKNOD, SYS_PTRACE
    assert (settings["Privileged"], settings["NetworkMode"], settings["Binds"]) == (False, "none", None)
    assert text(backend, "ls /sys/class/net") == "lo"
    assert run(backend.exec("mknod /tmp/disk b 254 0 || mount -t tmpfs x /mnt || echo 1 >/proc/sys/kernel/sysrq")).exit_code


def test_root_can_work_as_usual(make: Make) -> None:
    command = "touch f; chown agent f; setpriv --reuid=agent --regid=1000 --clear-groups sh -c 'id -un; chmod 600 f && echo mine'"
    assert text(make(), command, cwd="/tmp") == "agent\nmine"


def test_proxies_of_this_users_settings_do_not_reach_it(make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": {"httpProxy": "http://user:password@proxy"}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy")
    backend = make()
    names = text(backend, "env | cut -d= -f1; tr '\\0' '\\n' </proc/1/environ | cut -d= -f1").split()
    assert (
        {"PATH", "HOME", "LANG", "TERM"}
        <= set(names)
        <= {"PATH", "HOME", "LANG", "TERM", "HOSTNAME", "VERS_CALL", "PWD", "SHLVL", "_", "m", "OLDPWD"}
    )


def test_memory(make: Make) -> None:
    backend = make(memory="64m")
    result = run(backend.exec("head -c 200000000 /dev/zero | tail", timeout=60))
    assert result.exit_code in (0, 1, 137) and not result.timed_out
    assert b"Killed" in result.tail or result.exit_code == 137
    assert text(backend, "echo on") == "on"


def test_processes(dockerd: ContainerEngine, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork bomb fills what the container may have, and is gone when its time is up."""
    monkeypatch.setattr(sessions, "KILL_SECONDS", 2.0)
    backend = make(pids=64)
    run(backend.exec("true"))
    result = run(backend.exec("bomb() { bomb | bomb & }; bomb; sleep 30", timeout=1))
    assert result.timed_out
    assert len(dockerd.api.top(backend.machine_id)["Processes"]) < 32
    assert text(backend, "echo on") == "on"
    assert dockerd.api.inspect_container(backend.machine_id)["HostConfig"]["PidsLimit"] == 64


def test_processors(dockerd: ContainerEngine, make: Make) -> None:
    backend = make(cpus=0.5)
    run(backend.exec("true"))
    assert dockerd.api.inspect_container(backend.machine_id)["HostConfig"]["NanoCpus"] == 500_000_000


def test_an_option_that_the_engine_cannot_do_leaves_nothing_behind(dockerd: ContainerEngine, make: Make, tmp_path: Path) -> None:
    for options, word in [
        ({"network": "no-such-network"}, "docker network ls"),
        ({"cpus": 4000}, "CPUs"),
        ({"user": "nobody-knows"}, "nobody-knows"),
        ({"workspace": tmp_path / "none"}, "none"),
        ({"mounts": [Mount(str(tmp_path / "none"), "/x", "copy")]}, "none"),
        ({"mounts": [Mount(str(dockerd.folder), "/x")]}, "socket"),
    ]:
        with pytest.raises((BadInput, Conflict, Exception), match=word) as error:
            run(make(**options).exec("true"))
        assert type(error.value).__module__ == "langchain_vers.errors", options
    assert dockerd.containers() == set()


def test_a_named_network(dockerd: ContainerEngine, make: Make) -> None:
    network = dockerd.api.create_network("tests", driver="bridge")["Id"]
    try:
        backend = make(network="tests")
        assert text(backend, "ls /sys/class/net").split() == ["eth0", "lo"]
        run(backend.delete())
    finally:
        dockerd.api.remove_network(network)


# --- mounts ---


def test_workspace_and_mounts(make: Make, tmp_path: Path) -> None:
    for name in ("work", "docs", "seed"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "f").write_text(name)
    (tmp_path / "seed" / "link").symlink_to("/etc/shadow")
    (tmp_path / "seed" / "é b").write_bytes(b"\0")
    mounts = [Mount(str(tmp_path / "docs"), "/docs", "ro"), Mount(str(tmp_path / "seed"), "/var/deep/seed", "copy")]
    backend = make(workspace=tmp_path / "work", mounts=mounts, user=AGENT)
    assert [(mount.guest, mount.mode) for mount in backend.mounts] == [("/workspace", "rw"), ("/docs", "ro"), ("/var/deep/seed", "copy")]
    (tmp_path / "work").chmod(0o777)
    assert text(backend, "pwd; cat sub/f; echo there >new") == "/workspace\nwork"
    assert (tmp_path / "work/new").read_text() == "there\n"
    run(backend.write("relative", b"1"))
    assert (tmp_path / "work/relative").exists()
    assert text(backend, "cat /docs/sub/f") == "docs"
    with pytest.raises(Denied):
        run(backend.write("/docs/new", b""))
    assert text(backend, "cat sub/f; echo; readlink link; stat -c %U . sub/f; echo changed >sub/f; ls", cwd="/var/deep/seed").split() == [
        *("seed", "/etc/shadow", "agent", "agent"),
        *("link", "sub", "é", "b"),
    ]
    assert (tmp_path / "seed/sub/f").read_text() == "seed"
    other = backend.at(run(backend.restore(run(backend.snapshot()))))
    assert text(other, "pwd; cat sub/f /var/deep/seed/sub/f") == "/workspace\nworkchanged"
    run(other.close())


@pytest.mark.skipif(not ROOT, reason="only root may make a device")
def test_a_copy_leaves_out_what_is_no_file(make: Make, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "f").write_text("1")
    os.link(tmp_path / "f", tmp_path / "g")
    backend = make(mounts=[Mount(str(tmp_path), "/copy", "copy"), Mount(str(tmp_path / "f"), "/single/file", "copy")])
    assert text(backend, "cat /copy/g /single/file; echo; ls /copy").split() == ["11", "f", "g"]


# --- variables ---


def test_variables_and_secrets(dockerd: ContainerEngine, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make(env={"PLAIN": "a b", "TOKEN": Secret("THE_TOKEN")})
    with pytest.raises(BadInput, match="THE_TOKEN"):
        run(backend.exec("true"))
    monkeypatch.setenv("THE_TOKEN", "hidden-value")
    assert text(backend, 'echo "$PLAIN $TOKEN $OWN"; env | grep -c THE_TOKEN || true', env={"OWN": "1"}) == "a b hidden-value 1\n0"
    assert text(backend, "echo $PLAIN", env={"PLAIN": "own"}) == "own"
    known = [dockerd.api.inspect_container(backend.machine_id), dockerd.api.top(backend.machine_id)]
    assert "hidden-value" not in json.dumps(known) + repr(backend) + (dockerd.folder / "log").read_text()
    assert "hidden-value" not in text(backend, "ps -eo args")


# --- versions ---


def test_snapshots_restore_files_and_not_processes(dockerd: ContainerEngine, make: Make) -> None:
    backend = make(memory="256m")
    assert isinstance(backend, Snapshots)
    text(backend, "echo one >/root/f; sleep 300 >/dev/null 2>&1 &")
    first = run(backend.snapshot(name="of 'the' \"first\"\nday"))
    text(backend, "echo two >/root/f")
    dockerd.api.prune_images({"dangling": True})
    machine = run(backend.restore(first))
    other = backend.at(machine)
    assert (other.machine_id, other.name) == (machine, "docker")
    assert text(other, "cat /root/f; ps -e | grep -c sleep || true") == "one\n1"  # that of process 1
    assert text(backend, "cat /root/f; ps -e | grep -c sleep || true") == "two\n2"
    assert dockerd.api.inspect_container(machine)["HostConfig"]["Memory"] == 256 * 1024 * 1024
    assert "'the'" in dockerd.api.inspect_image(first)["Comment"]
    with pytest.raises(Conflict):
        run(backend.delete_snapshot(first))
    run(other.delete())
    run(other.close())
    run(backend.delete_snapshot(first))
    with pytest.raises(Gone):
        run(backend.restore(first))


def test_branches_go_their_own_ways(dockerd: ContainerEngine, make: Make) -> None:
    backend = make()
    text(backend, "echo 0 >/root/f")
    images = dockerd.images()
    machines = run(backend.branch(3))
    branches = [backend.at(machine) for machine in machines]
    for number, branch in enumerate(branches):
        text(branch, f"echo {number} >>/root/f")
    assert [text(branch, "cat /root/f").split() for branch in branches] == [["0", "0"], ["0", "1"], ["0", "2"]]
    assert text(backend, "cat /root/f") == "0"
    for branch in branches:
        assert dockerd.images() > images
        run(branch.delete())
        run(branch.close())
    assert dockerd.images() == images
    assert text(backend, "echo on") == "on"


@pytest.mark.parametrize("count", [0, -1, 101, True, 1.5, "2"])
def test_counts_that_make_no_sense(dockerd: ContainerEngine, make: Make, count: Any) -> None:
    with pytest.raises(BadInput, match="count"):
        run(make().branch(count))
    assert dockerd.containers() == set()


@pytest.mark.parametrize("ref", ["", "-f", "a b", "../x"])
def test_references_that_make_no_sense(make: Make, ref: str) -> None:
    backend = make()
    for call in (backend.restore, backend.delete_snapshot):
        with pytest.raises(BadInput):
            run(call(ref))
    with pytest.raises(BadInput):
        backend.at(ref)


def test_only_snapshots_are_deleted_as_such(dockerd: ContainerEngine, make: Make) -> None:
    backend = make()
    with pytest.raises(Denied, match="docker rmi"):
        run(backend.delete_snapshot(IMAGE))
    with pytest.raises(Gone):
        run(backend.delete_snapshot("no-such-image"))
    with pytest.raises(ImageNotFound):
        dockerd.api.inspect_image("no-such-image")
