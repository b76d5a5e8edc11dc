"""BubblewrapBackend beyond the suites: what is in a sandbox, what limits it, how it ends, and what it is when something goes wrong."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rigs.programs import require

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import ExecResult
from langchain_vers.backends.bubblewrap import BubblewrapBackend, Limits
from langchain_vers.backends.cgroups import Group
from langchain_vers.backends.environment import Secret
from langchain_vers.backends.own_folder import sweep
from langchain_vers.backends.paths import Mount
from langchain_vers.backends.sandbox import Sandbox
from langchain_vers.errors import DiskFull, Interrupted, Missing, Unreachable, Unsupported, VersError
from langchain_vers.testing import host
from langchain_vers.testing.harness import shell, until

MiB = 1024 * 1024


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path) -> Iterator[None]:
    """What others leave in the folder for temporary files is not ours."""
    require("bwrap", "bubblewrap")
    with tempfile.TemporaryDirectory(prefix="v") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[BubblewrapBackend]:
    backend = BubblewrapBackend(tmp_path)
    yield backend
    run(backend.close())


def running(backend: BubblewrapBackend) -> Sandbox:
    assert backend._sandbox is not None
    return backend._sandbox


def groups() -> set[Path]:
    """The control groups of sandboxes that this process has made."""
    roots = [Path(root) for root in ("/sys/fs/cgroup",) if Path(root).is_dir()]
    return {path for root in roots for path in root.rglob(f"langchain-vers-{os.getpid()}-*")}


def folders() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("vers-bwrap-*")}


# --- what is in it ---


def test_nothing_is_started_before_the_first_call(tmp_path: Path) -> None:
    before = folders()
    backend = BubblewrapBackend(tmp_path / "not-there")
    assert folders() == before
    with pytest.raises(Missing, match="not-there"):
        run(backend.exec("true"))
    run(backend.close())
    assert folders() == before


def test_the_workspace_is_the_folder_that_was_named(backend: BubblewrapBackend, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("here")
    assert run(shell(backend, "pwd; cat mine; echo theirs >made")) == "/workspace\nhere"
    assert (tmp_path / "made").read_text() == "theirs\n"
    run(backend.write("by/call", b"x"))
    assert (tmp_path / "by/call").read_bytes() == b"x"
    assert (tmp_path / "made").stat().st_uid == os.getuid()


def test_a_workspace_of_its_own_goes_with_close() -> None:
    backend = BubblewrapBackend()
    run(backend.write("f", b"x"))
    assert run(backend.read("/workspace/f")).data == b"x"
    run(backend.close())
    assert [entry.path for entry in run(backend.scan(".")).entries] == []
    run(backend.close())


def test_commands_can_write_nothing_else(backend: BubblewrapBackend) -> None:
    """By asking everywhere; root outside has rights over its own files that no capability is needed for."""
    prune = "-path '/proc/[0-9]*' -prune -o -path /proc/thread-self -prune -o -path /workspace -prune"
    # Asked of each path once more, as find believes folders, in which a device is the file that it was mounted on.
    look = '[ -c "$p" ] || [ -p "$p" ] || echo "$p"'
    found = run(backend.exec(f"find / {prune} -o ! -type l -writable -print 2>/dev/null | while read -r p; do {look}; done", timeout=60))
    places = {path for path in found.tail.decode().split() if not path.startswith(("/tmp/", "/home/agent/"))}
    assert places == {"/tmp", "/home/agent", "/dev/shm", "/dev/pts"}
    for path in ("/dev/pts/x", "/dev/x", "/run/sessions/x", "/x", "/home/x", "/var/x"):
        assert run(backend.exec(f"echo >{path}")).exit_code != 0, path


def test_no_privilege_is_left(backend: BubblewrapBackend) -> None:
    status = run(shell(backend, "cat /proc/self/status"))
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {fields[name].strip() for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    for command in ("unshare -r true", "mount -t tmpfs none /tmp", "chroot / true", "mknod /tmp/null c 1 3", "chown 0 /tmp"):
        assert run(backend.exec(command)).exit_code != 0, command


def test_system_calls_that_lead_past_it_fail(backend: BubblewrapBackend) -> None:
    program = """
import ctypes, errno, os, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
numbers = {'x86_64': (250, 425, 285), 'aarch64': (219, 425, 47)}[platform.machine()]
for number in numbers:
    print(libc.syscall(number, 0, 0, 0, 4096), errno.errorcode[ctypes.get_errno()])
for family in (40, 38, 17):
    try:
        socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        print(family, errno.errorcode[error.errno])
os.posix_fallocate(os.open('reserved', os.O_RDWR | os.O_CREAT), 0, 100000)
print(os.stat('reserved').st_size)
"""
    run(backend.write("p.py", program.encode()))
    said = run(shell(backend, "/usr/bin/python3 p.py")).split("\n")
    assert said == [
        "-1 EPERM",
        "-1 ENOSYS",
        f"-1 {errno.errorcode[errno.EOPNOTSUPP]}",
        "40 EAFNOSUPPORT",
        "38 EAFNOSUPPORT",
        "17 EAFNOSUPPORT",
        "100000",
    ]


def test_it_has_its_own_name_and_user(backend: BubblewrapBackend) -> None:
    assert (
        run(shell(backend, "whoami; id -u; hostname; echo $HOME; cd; touch f; ls; getent passwd | wc -l"))
        == "agent\n1000\nsandbox\n/home/agent\nf\n3"
    )


def test_arguments_tell_nothing_of_this_machine(tmp_path: Path) -> None:
    """`ps` shows arguments to everybody here, and shows them in the sandbox."""
    backend = BubblewrapBackend(tmp_path, env={"TOKEN": "value-of-the-token"})
    try:
        inside = run(shell(backend, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /proc/1/environ | tr '\\0' ' '"))
        outside = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, check=True, text=True).stdout
        assert "bwrap" in inside and "bwrap" in outside
        assert str(tmp_path) not in inside
        assert "value-of-the-token" not in inside + outside
        assert not [line for line in outside.splitlines() if "bwrap" in line and str(tmp_path) in line]
    finally:
        run(backend.close())


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "by reference\n'\"")
    monkeypatch.setenv("PASSED_ON", "é $x")
    monkeypatch.setenv("NOT_PASSED_ON", "no")
    backend = BubblewrapBackend(env={"PLAIN": "a b", "KEY": Secret("SECRET_OF_MINE")}, inherit=["PASSED_ON", "NOT_SET"])
    try:
        names = set(run(shell(backend, "env | sed -n 's/=.*//p'")).split())
        assert {"PLAIN", "KEY", "PASSED_ON", "PATH", "HOME", "LANG", "TERM"} <= names
        assert not {"NOT_PASSED_ON", "SECRET_OF_MINE", "NOT_SET"} & names
        assert run(shell(backend, 'printf "%s|" "$PLAIN" "$KEY" "$PASSED_ON"')) == "a b|by reference\n'\"|é $x|"
        assert run(backend.exec("echo $PLAIN", env={"PLAIN": "of the call"})).tail == b"of the call\n"
    finally:
        run(backend.close())


def test_mounts(tmp_path: Path) -> None:
    for name in ("ro", "rw", "copy"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "f").write_text(name)
    (tmp_path / "file").write_text("a file")
    mounts = [Mount(str(tmp_path / name), f"/mnt/{name}", name) for name in ("ro", "rw", "copy")]  # type: ignore[arg-type]
    backend = BubblewrapBackend(mounts=[*mounts, Mount(str(tmp_path / "file"), "/data/file", "ro")])
    try:
        assert run(shell(backend, "cat /mnt/*/f /data/file")) == "copyrorwa file"
        assert run(backend.exec("echo x >/mnt/ro/f || echo x >/data/file || rm -r /mnt/ro/sub")).exit_code != 0
        run(shell(backend, "echo x >/mnt/rw/f; echo x >/mnt/copy/f"))
        assert [(tmp_path / name / "f").read_text() for name in ("ro", "rw", "copy")] == ["ro", "x\n", "copy"]
        run(running(backend).end("a test wants it"))
        assert run(shell(backend, "cat /mnt/copy/f")) == "x"
    finally:
        run(backend.close())


def test_a_mount_that_is_not_there(tmp_path: Path) -> None:
    backend = BubblewrapBackend(tmp_path, mounts=[Mount(str(tmp_path / "gone"), "/mnt/gone", "ro")])
    with pytest.raises(Missing, match="gone"):
        run(backend.exec("true"))
    (tmp_path / "gone").mkdir()
    assert run(backend.exec("ls -d /mnt/gone")).exit_code == 0
    run(backend.close())


def test_the_network_when_it_is_asked_for(tmp_path: Path) -> None:
    listener = host.Listener()
    try:
        for network in (False, True):
            backend = BubblewrapBackend(tmp_path, network=network)
            run(backend.exec(f"echo visitor >/dev/tcp/127.0.0.1/{listener.port}"))
            run(backend.close())
            assert listener.visits() == (["visitor"] if network else [])
    finally:
        listener.close()


# --- limits ---


def test_memory_is_limited(tmp_path: Path) -> None:
    backend = BubblewrapBackend(tmp_path, limits=Limits(memory=128 * MiB))
    try:
        result = run(backend.exec("/usr/bin/python3 -c 'x = bytearray(512 << 20); print(len(x))'", timeout=60))
        assert result.exit_code != 0
        assert b"536870912" not in result.tail
        assert run(shell(backend, "/usr/bin/python3 -c 'print(len(bytearray(20 << 20)))'")) == "20971520"
    finally:
        run(backend.close())


def test_a_workspace_that_has_grown_too_far(tmp_path: Path) -> None:
    """The command ends with an error that says why; what it wrote is there to be deleted, and work goes on."""
    (tmp_path / "before").write_bytes(bytes(20 * MiB))
    backend = BubblewrapBackend(tmp_path, limits=Limits(disk=16 * MiB))
    try:
        run(shell(backend, "head -c 8000000 /dev/zero >small"))
        with pytest.raises(DiskFull, match="/workspace"):
            run(backend.exec("i=0; while :; do head -c 1000000 /dev/zero >f$i; i=$((i+1)); done", timeout=60))
        taken = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert taken < (20 + 16 * 8) * MiB  # it is looked at now and then, and writes on until it is stopped
        run(shell(backend, "rm f* small; head -c 8000000 /dev/zero >small"))
        with pytest.raises(DiskFull):
            run(backend.exec("i=0; while :; do echo >n$i; i=$((i+1)); done", timeout=120))
        assert len(list(tmp_path.iterdir())) < 150_000
    finally:
        run(backend.close())


def test_files_without_a_name_count(tmp_path: Path) -> None:
    """They are in no folder, and stay until the last process lets go of them."""
    backend = BubblewrapBackend(tmp_path, limits=Limits(disk=16 * MiB))
    hold = "for i in 1 2 3; do ( exec 3>f$i; rm f$i; head -c 8000000 /dev/zero >&3; exec sleep 600 ) & done; wait"
    try:
        with pytest.raises(DiskFull, match="/workspace"):
            run(backend.exec(hold, timeout=60))
        assert list(tmp_path.iterdir()) == []
    finally:
        run(backend.close())


def test_root_without_control_groups_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Group, "make", classmethod(lambda cls, limits: cls((), frozenset())))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    backend = BubblewrapBackend(tmp_path)
    with pytest.raises(Unsupported, match="processes=None"):
        run(backend.exec("true"))
    run(backend.close())


# --- how it ends ---


def test_close_leaves_nothing(tmp_path: Path) -> None:
    before, made = folders(), groups()
    descriptors = len(os.listdir("/proc/self/fd"))
    mark = host.new_mark()
    backend = BubblewrapBackend(tmp_path)
    for _ in range(2):
        run(
            backend.exec(
                f"sh -c 'while :; do sleep 1; done' {mark} & env -i setsid sh -c '(exec sh -c \"while :; do sleep 1; done\" {mark} &)'"
            )
        )
        assert len(host.processes_with(mark)) >= 2
        run(backend.close())
        assert host.processes_with(mark) == []
        assert folders() == before
        assert groups() == made
    for _ in range(100):  # the I/O thread closes its last ends in its next rounds
        if len(os.listdir("/proc/self/fd")) <= descriptors + 2:
            break
        run(asyncio.sleep(0.01))
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


_HOST = """
import sys, tempfile
from langchain_vers._io import run
from langchain_vers.backends.bubblewrap import BubblewrapBackend
backend = BubblewrapBackend(sys.argv[1])
run(backend.exec(f"env -i setsid sh -c '(exec sh -c \\"while :; do sleep 1; done\\" {sys.argv[2]} &)'"))
print("up", flush=True)
run(backend.exec(f"sh -c 'while :; do sleep 1; done' {sys.argv[2]}"))
"""


def test_nothing_outlives_this_process_when_it_is_killed(tmp_path: Path) -> None:
    """Neither a daemon of an earlier command, nor the command that runs; and the next process tidies up."""
    mark = host.new_mark()
    (tmp_path / "workspace").mkdir()
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    child = subprocess.Popen([sys.executable, "-c", _HOST, str(tmp_path / "workspace"), mark], stdout=subprocess.PIPE, env=environment)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"up\n"
        run(until(lambda: _count(mark, 3)))  # with this child itself
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    run(until(lambda: _count(mark, 0)))
    assert len(list((tmp_path / "temporary").glob("vers-bwrap-*"))) == 1
    sweep(tmp_path / "temporary")
    assert list((tmp_path / "temporary").glob("vers-bwrap-*")) == []


async def _count(mark: str, number: int) -> bool:
    return len(await asyncio.to_thread(host.processes_with, mark)) == number


def test_a_sandbox_that_is_killed_under_a_call(backend: BubblewrapBackend, tmp_path: Path) -> None:
    async def both() -> None:
        begun = asyncio.Event()
        call = asyncio.ensure_future(backend.exec("touch ran; echo begun; sleep 100", on_output=lambda _: begun.set()))
        await begun.wait()
        os.kill(running(backend)._init, signal.SIGKILL)
        with pytest.raises(Interrupted) as caught:
            await call
        assert caught.value.output == b"begun\n"

    run(both())
    assert (tmp_path / "ran").exists()
    assert run(shell(backend, "echo again")) == "again"


@pytest.mark.parametrize("call", ["exec", "read", "write", "stat", "scan"])
def test_a_sandbox_that_died_between_calls(backend: BubblewrapBackend, call: str) -> None:
    run(backend.write("f", b"x"))
    old = running(backend)
    watched = os.pidfd_open(old._init)
    os.kill(old._init, signal.SIGKILL)
    select.select([watched], [], [])  # the signal may still be on its way when kill() returns
    os.close(watched)
    calls: dict[str, Any] = {
        "exec": lambda: backend.exec("true"),
        "read": lambda: backend.read("f"),
        "write": lambda: backend.write("f", b"y"),
        "stat": lambda: backend.stat("f"),
        "scan": lambda: backend.scan("."),
    }
    run(calls[call]())
    assert running(backend) is not old


@pytest.mark.parametrize("deed", ["kill -9 -- -1", "kill -9 2", "kill -STOP 2", "pkill -9 bash; pkill -9 sh", "rm -rf /tmp/* 2>/dev/null"])
def test_commands_that_harm_their_own_sandbox(backend: BubblewrapBackend, deed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a command does to what runs it, the backend works again at the next call but one at the latest."""
    monkeypatch.setattr("langchain_vers.backends.zygote.ANSWER_SECONDS", 1.0)

    async def works() -> bool:
        try:
            return (await backend.exec("echo works")).tail == b"works\n"
        except VersError:
            return False

    try:
        run(backend.exec(deed, timeout=20))
    except VersError as error:
        assert isinstance(error, (Interrupted, Unreachable)), error
    for _ in range(5):  # as many as there are spares, and some
        works_now = run(works()) or run(works())
        assert works_now


FULL = """exec python3 - <<'PROGRAM'
import os, pathlib, signal, time

children = []
while not pathlib.Path("go").exists():
    try:
        if (pid := os.fork()) == 0:
            signal.pause()
        children.append(pid)
    except BlockingIOError:
        pathlib.Path("full").touch()
        time.sleep(0.005)
for pid in children:
    os.kill(pid, signal.SIGKILL)
print("done")
PROGRAM"""


def test_a_command_that_takes_all_processes_is_not_ended_for_it(tmp_path: Path) -> None:
    """Its sandbox lives on, although no shell can be started for later calls meanwhile."""
    backend = BubblewrapBackend(tmp_path, limits=Limits(processes=24))

    async def full() -> bool:
        return (tmp_path / "full").exists()

    async def both() -> ExecResult:
        call = asyncio.ensure_future(backend.exec(FULL))
        await until(full)
        sandbox = running(backend)
        while sandbox._spares:
            sandbox._spares.popleft()[0].close()
            (tmp_path / "full").unlink(missing_ok=True)
            await until(full)  # also without what these have left free
            sandbox._refill()
            await asyncio.gather(*(task for task in sandbox._tasks if task is not sandbox._watching))
        assert sandbox.alive
        (tmp_path / "go").touch()
        return await call

    try:
        assert run(both()).tail == b"done\n"
        assert run(shell(backend, "echo again")) == "again"
    finally:
        run(backend.close())


def test_a_mark_does_not_help_to_outlive_a_command_that_was_not_stopped(backend: BubblewrapBackend) -> None:
    """Background processes of other commands live on when one is stopped, whenever they came."""
    run(backend.exec("sleep 1000 & echo $! >early.pid"))
    late = "while [ ! -e go ]; do sleep 0.02; done; setsid sleep 1001 & echo $! >late.pid"

    async def both() -> None:
        stopped = asyncio.ensure_future(backend.exec("touch go; sleep 1002 & echo $! >own.pid; sleep 1003", timeout=1.5))
        await backend.exec(late)
        assert (await stopped).timed_out

    run(both())
    alive = run(shell(backend, 'for f in early late own; do kill -0 "$(cat $f.pid)" 2>/dev/null && echo $f; done; true'))
    assert alive.split() == ["early", "late"]


async def test_first_calls_at_once_share_one_sandbox(backend: BubblewrapBackend) -> None:
    async def init() -> bytes:
        return (await backend.exec("readlink /proc/self/ns/pid")).tail

    async def all_of_them() -> set[bytes]:
        return set(await asyncio.gather(*(init() for _ in range(8))))

    assert len(await on_io(all_of_them())) == 1


async def test_cancelling_the_first_call(backend: BubblewrapBackend) -> None:
    """A start that is given up leaves nothing half-made."""
    for delay in (0, 0.01, 0.03, 0.06, 0.1):
        task = asyncio.ensure_future(on_io(backend.exec("true")))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await on_io(backend.exec("echo on"))).tail == b"on\n"


# --- where it cannot work ---


def test_without_bubblewrap(backend: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="install"):
        run(backend.exec("true"))


def test_where_bubblewrap_fails(backend: BubblewrapBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own words are in the error; nothing runs anywhere else."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/bwrap"
    program.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for _ in range(2):
        with pytest.raises(Unreachable, match="No permissions to create new namespace"):
            run(backend.exec(f"touch {shlex.quote(str(tmp_path))}/ran"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.full
def test_a_command_starts_within_15_ms(backend: BubblewrapBackend) -> None:
    """The median until the first output; on a machine that is busy with other things it takes as much longer as everything does."""
    run(backend.exec("true"))
    times = []
    for _ in range(40):
        began = time.perf_counter()
        seen: list[float] = []
        run(backend.exec("echo x", on_output=lambda _, seen=seen: seen.append(time.perf_counter())))
        times.append(seen[0] - began)
        run(asyncio.sleep(0.1))
    assert statistics.median(times) < 0.015 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
