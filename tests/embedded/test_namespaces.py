"""The engine `namespaces`, with real machines: what they can do, what they cannot reach, and that nothing of them is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from rigs.users import NOBODY, ROOT, folder_of_ordinary_user

from langchain_vers.embedded.engine import EngineError, MachineSpec
from langchain_vers.embedded.layers import DEPTH
from langchain_vers.embedded.namespaces import NamespacesEngine
from langchain_vers.errors import BadInput, DiskFull

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="namespaces are a feature of Linux"),
]

PIPE, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
PROJECT = Path(__file__).parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[NamespacesEngine]:
    """One engine for all tests that do not break it; each makes machines of its own."""
    engine = NamespacesEngine(tmp_path_factory.mktemp("engine") / "data")
    problems = await engine.check()
    assert problems == []
    yield engine
    for vm_id in await engine.stored():
        await engine.delete(vm_id)
    await engine.close()
    assert mounts_of(engine.data_dir) == []


@pytest_asyncio.fixture(loop_scope="module")
async def vm(engine: NamespacesEngine) -> AsyncIterator[str]:
    """A running machine."""
    vm_id = uuid.uuid4().hex
    await engine.create(vm_id, MachineSpec())
    yield vm_id
    await engine.delete(vm_id)


async def sh(engine: NamespacesEngine, vm_id: str, command: str, **options: object) -> tuple[int | None, str]:
    """Exit code and merged output of a shell command."""
    process = await engine.spawn(
        vm_id,
        ["/bin/sh", "-c", command],
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=asyncio.subprocess.STDOUT,
        **options,  # type: ignore[arg-type]  # by name
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def ok(engine: NamespacesEngine, vm_id: str, command: str, **options: object) -> str:
    code, output = await sh(engine, vm_id, command, **options)
    assert code == 0, output
    return output.strip()


async def until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


def mounts_of(path: Path) -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(path) in line]


def running(mark: str) -> list[int]:
    """Pids on the host with this word in their command line."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
    return found


def upper_of(engine: NamespacesEngine, vm_id: str) -> Path:
    return engine.data_dir / "vms" / vm_id / "upper" / "root"


# Processes


async def test_exit_codes_signals_and_sessions(engine: NamespacesEngine, vm: str) -> None:
    assert (await sh(engine, vm, "exit 0"))[0] == 0
    assert (await sh(engine, vm, "exit 37"))[0] == 37
    assert (await sh(engine, vm, "kill -TERM $$"))[0] == -signal.SIGTERM
    assert (await sh(engine, vm, "kill -KILL $$"))[0] == -signal.SIGKILL
    pid, session, group, parent = (await ok(engine, vm, "cut -d' ' -f1,6,5,4 /proc/self/stat; echo; echo $$")).split()[:4]
    assert await ok(engine, vm, "ps -o pid=,sid=,pgid= -p $$ | awk '$1 == $2 && $2 == $3 {print \"own\"}'") == "own", (
        pid,
        session,
        group,
        parent,
    )


async def test_streams_carry_any_byte(engine: NamespacesEngine, vm: str) -> None:
    data = random.Random(1).randbytes(1_500_000)
    process = await engine.spawn(vm, ["/bin/cat"], stdin=PIPE, stdout=PIPE, stderr=PIPE)
    out, err = await process.communicate(data)
    assert (out, err, process.returncode) == (data, b"", 0)


async def test_output_goes_to_a_file_descriptor_and_streams_stay_apart(engine: NamespacesEngine, vm: str) -> None:
    read, write = os.pipe()
    process = await engine.spawn(vm, ["/bin/sh", "-c", "echo out; echo err >&2"], stdin=DEVNULL, stdout=write, stderr=PIPE)
    os.close(write)
    assert process.stderr is not None
    assert await process.stderr.read() == b"err\n"
    assert await process.wait() == 0
    assert os.read(read, 100) == b"out\n"
    os.close(read)


async def test_send_signal_and_kill(engine: NamespacesEngine, vm: str) -> None:
    process = await engine.spawn(vm, ["/bin/sleep", "600"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert process.returncode is None
    assert process.pid in running("sleep")
    process.send_signal(signal.SIGINT)
    assert await process.wait() == -signal.SIGINT
    with pytest.raises(ProcessLookupError):
        process.kill()


async def test_many_processes_at_once(engine: NamespacesEngine, vm: str) -> None:
    results = await asyncio.gather(*(sh(engine, vm, f"echo {n}; exit {n}") for n in range(50)))
    assert results == [(n, f"{n}\n") for n in range(50)]


async def test_environment_and_folder(engine: NamespacesEngine, vm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERS_API_KEY", "canary")
    lines = dict(line.split("=", 1) for line in (await ok(engine, vm, "env", env={"A": "b c", "U": "ü"})).splitlines())
    assert set(lines) <= {"PATH", "HOME", "LANG", "USER", "LOGNAME", "SHELL", "A", "U", "PWD", "OLDPWD", "SHLVL", "_"}
    assert (lines["HOME"], lines["USER"], lines["A"], lines["U"]) == ("/root", "root", "b c", "ü")
    assert await ok(engine, vm, "pwd") == "/root"
    assert await ok(engine, vm, "pwd", cwd="/usr") == "/usr"


@pytest.mark.parametrize("argv", [["/no/such/program"], ["no-such-program"], ["/etc/passwd"], ["with\0zero"]])
async def test_a_program_that_cannot_start_is_an_error(engine: NamespacesEngine, vm: str, argv: list[str]) -> None:
    with pytest.raises(EngineError, match="cannot be started"):
        await engine.spawn(vm, argv, stdin=PIPE, stdout=PIPE, stderr=PIPE)


async def test_a_folder_that_does_not_exist_is_an_error(engine: NamespacesEngine, vm: str) -> None:
    with pytest.raises(EngineError, match="/no/such/folder"):
        await engine.spawn(vm, ["/bin/true"], cwd="/no/such/folder", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)


async def test_long_arguments_and_output_arrive_whole(engine: NamespacesEngine, vm: str) -> None:
    argv = ["/bin/sh", "-c", 'for a; do echo "${#a}"; done', "x", *["y" * 100_000] * 6]
    process = await engine.spawn(vm, argv, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    assert (await process.communicate())[0].split() == [b"100000"] * 6


async def test_orphans_are_reaped(engine: NamespacesEngine, vm: str) -> None:
    await ok(engine, vm, "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done; sleep 0.1")
    assert await ok(engine, vm, "ps -eo stat= | grep -c '^Z' || true") == "0"


async def test_a_terminal_becomes_the_controlling_one(engine: NamespacesEngine, vm: str) -> None:
    ours, theirs = os.openpty()
    process = await engine.spawn(vm, ["/bin/sh", "-c", "echo yes > /dev/tty"], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    assert await process.wait() == 0
    assert os.read(ours, 100).strip() == b"yes"
    os.close(ours)


# Isolation


async def test_the_host_is_out_of_reach(engine: NamespacesEngine, vm: str, tmp_path: Path) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    places = [Path(folder) for folder in ("/tmp", "/var/tmp", "/root", str(Path.home()), "/home", "/dev/shm", "/run")]
    files = []
    process = subprocess.Popen(["/bin/sh", "-c", f"sleep 600; : {canary}"], start_new_session=True)
    try:
        for place in places:
            with contextlib.suppress(OSError):
                (place / canary).write_text(canary)
                files.append(place / canary)
        assert files
        assert (
            await ok(
                engine,
                vm,
                f"find / -xdev -name '{canary}' 2>/dev/null; ls -d {' '.join(f'{place}/{canary}' for place in places)} 2>/dev/null || true",
            )
            == ""
        )
        assert canary not in await ok(engine, vm, "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | sed 's/cat .*//'")
        assert int(await ok(engine, vm, "ls -d /proc/[0-9]* | wc -l")) < 10
        assert (await sh(engine, vm, f"kill -0 {process.pid}"))[0] != 0
    finally:
        for file in files:
            file.unlink(missing_ok=True)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    known = {
        "bin",
        "boot",
        "dev",
        "etc",
        "home",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "media",
        "mnt",
        "opt",
        "proc",
        "root",
        "run",
        "sbin",
        "srv",
        "sys",
    }
    assert set((await ok(engine, vm, "ls -A /")).split()) <= known | {"tmp", "usr", "var"}
    assert await ok(engine, vm, "ls -A /home /tmp /var/tmp /mnt /media /sys | grep -v ':$' | grep . || true") == ""
    assert str(tmp_path) not in await ok(engine, vm, "cat /proc/self/mountinfo")


async def test_listeners_of_the_host_are_out_of_reach(engine: NamespacesEngine, vm: str) -> None:
    connect = "import socket,sys; s=socket.socket(); s.settimeout(3); sys.exit(s.connect_ex(('127.0.0.1', int(sys.argv[1]))))"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        for address in (connect, connect.replace("127.0.0.1", "localhost")):
            process = await engine.spawn(vm, ["/usr/bin/python3", "-c", address, port], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
            assert await process.wait() == errno.ECONNREFUSED  # its own loopback is up, and nobody listens there
    assert (await ok(engine, vm, "cut -d: -f1 -s /proc/net/dev | tr -d ' '")).split() == ["lo"]


async def test_secrets_of_the_system_are_masked(engine: NamespacesEngine, vm: str) -> None:
    shadow = await ok(engine, vm, "cat /etc/shadow")
    assert all(line.split(":")[1] == "*" for line in shadow.splitlines())
    assert (
        await ok(
            engine,
            vm,
            "ls -d /etc/ssl/private /etc/shadow- /etc/gshadow- /etc/krb5.keytab /etc/ssh/ssh_host_*_key "
            "/var/lib/docker /var/lib/postgresql /var/run/docker.sock 2>/dev/null || true",
        )
        == ""
    )
    # What others on the host may not read, in the folders that come straight from it.
    hidden = subprocess.run(
        ["find", "/etc", "/opt", "/usr", "/var/lib/dpkg", "-xdev", "!", "-type", "l", "!", "-perm", "-004"], capture_output=True, text=True
    )
    for path in hidden.stdout.splitlines():
        if path not in ("/etc/shadow", "/etc/gshadow", "/etc/sudoers"):
            assert (await sh(engine, vm, f"test -e '{path}'"))[0] == 1, path


async def test_names_in_the_machine(engine: NamespacesEngine, vm: str) -> None:
    assert await ok(engine, vm, "hostname") == f"vers-{vm[:12]}"
    assert await ok(engine, vm, "cat /etc/hostname") == f"vers-{vm[:12]}"
    assert (await ok(engine, vm, "getent hosts localhost")).split()[0] in ("::1", "127.0.0.1")
    assert await ok(engine, vm, "stat -c '%a %U' /root /tmp") == "700 root\n1777 root"
    assert await ok(engine, vm, "id -u") == "0"


async def test_writes_do_not_reach_the_host(engine: NamespacesEngine, vm: str) -> None:
    name = f"canary-{uuid.uuid4().hex}"
    places = ["/usr/local/bin", "/etc", "/opt", "/var/lib", "/usr/share", "/data", "/root", "/tmp", "/workspace", ""]
    await ok(
        engine,
        vm,
        "; ".join(f"mkdir -p {place or '/'} && echo x > {place}/{name} || exit 1" for place in places)
        + "; rm -f /usr/bin/awk; ls /usr/bin | wc -l",
    )
    assert not any(os.path.exists(f"{place}/{name}") for place in places)
    assert Path("/usr/bin/awk").exists()


async def test_the_host_s_kernel_cannot_be_changed(engine: NamespacesEngine, vm: str) -> None:
    for command in (
        "echo x > /proc/sys/kernel/core_pattern",
        "echo h > /proc/sysrq-trigger",
        "mount -t tmpfs none /mnt",
        "mknod /tmp/sda b 8 0",
        "umount /proc/sys",
    ):
        assert (await sh(engine, vm, command))[0] != 0, command
    assert (await sh(engine, vm, "unshare -Ur sh -c 'umount /proc/sys || mount -o remount,rw /proc/sys'"))[0] != 0


async def test_machines_do_not_see_each_other(engine: NamespacesEngine, vm: str) -> None:
    other = uuid.uuid4().hex
    await engine.create(other, MachineSpec())
    await ok(engine, vm, "echo x > /data")
    assert (await sh(engine, other, "test -e /data"))[0] == 1
    process = await engine.spawn(vm, ["/bin/sleep", "600"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert "600" not in await ok(engine, other, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    process.kill()
    await process.wait()
    await engine.delete(other)


# Pause


async def test_pause_freezes_and_resume_goes_on(engine: NamespacesEngine, vm: str) -> None:
    counter = upper_of(engine, vm) / "root" / "counter"
    loop = "i=0; while :; do i=$((i+1)); echo $i > /root/counter.new; mv /root/counter.new /root/counter; done"
    process = await engine.spawn(vm, ["/bin/sh", "-c", f"sh -c '{loop}' & {loop}"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    stopped = await engine.spawn(vm, ["/bin/sleep", "600"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    await until(lambda: counter.exists(), "the counter runs")
    stopped.send_signal(signal.SIGSTOP)
    await until(lambda: state_of(stopped.pid) == "T", "one process is stopped")
    await engine.pause(vm)
    await engine.pause(vm)
    before = counter.stat().st_mtime_ns
    states = [state_of(pid) for pid in running("counter.new")]
    assert states
    assert set(states) <= {"T", "D"}  # D: a shell that waits for its stopped child to leave vfork
    with pytest.raises(EngineError, match="paused"):
        await engine.spawn(vm, ["/bin/true"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert counter.stat().st_mtime_ns == before
    await engine.resume(vm)
    await engine.resume(vm)
    await until(lambda: counter.exists() and counter.stat().st_mtime_ns > before, "the counter goes on")
    assert state_of(stopped.pid) == "T"
    for each in (process, stopped):
        each.kill()
        await each.wait()


async def test_pause_holds_against_forks(engine: NamespacesEngine, vm: str) -> None:
    bomb = "while :; do (true; (true &)) & wait; done"
    processes = [await engine.spawn(vm, ["/bin/sh", "-c", bomb], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL) for _ in range(4)]
    for _ in range(10):
        await engine.pause(vm)
        states = {state_of(pid) for pid in running(bomb)}
        assert states <= {"T", "D", "Z", None}
        await engine.resume(vm)
    for process in processes:
        process.kill()
        await process.wait()


def state_of(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


async def test_a_paused_machine_can_be_stored_stopped_and_deleted(engine: NamespacesEngine) -> None:
    vm_id, name = uuid.uuid4().hex, uuid.uuid4().hex
    await engine.create(vm_id, MachineSpec())
    process = await engine.spawn(vm_id, ["/bin/sleep", "600"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    await engine.pause(vm_id)
    await engine.snapshot(vm_id, name)
    assert state_of(process.pid) == "T"
    await engine.stop(vm_id)
    assert await process.wait() == -signal.SIGKILL
    await engine.start(vm_id)
    assert await ok(engine, vm_id, "echo up") == "up"
    await engine.pause(vm_id)
    await engine.delete(vm_id)
    await engine.delete_snapshot(name)


# Life


async def test_stop_keeps_the_disk_and_ends_everything(engine: NamespacesEngine, vm: str) -> None:
    await ok(engine, vm, "echo kept > /data; echo gone > /run/x; (sleep 601 > /dev/null 2>&1 &)")
    process = await engine.spawn(vm, ["/bin/sleep", "602"], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    await engine.stop(vm)
    await engine.stop(vm)
    assert await process.wait() == -signal.SIGKILL
    assert state_of(process.pid) is None
    with pytest.raises(EngineError, match="does not run"):
        await engine.spawn(vm, ["/bin/true"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    await engine.start(vm)
    await engine.start(vm)
    assert await ok(engine, vm, "cat /data; ls /run") == "kept\nlock"
    assert process.stdout is not None
    await process.stdout.read()


async def test_delete_leaves_nothing(engine: NamespacesEngine) -> None:
    before = sorted(str(path) for path in engine.data_dir.glob("*/*"))
    vm_id = uuid.uuid4().hex
    await engine.create(vm_id, MachineSpec())
    await ok(engine, vm_id, "mkdir -p /d/e && chmod 000 /d && rm -rf /opt/* /usr/share/doc; mkfifo /d/p; (sleep 603 > /dev/null 2>&1 &)")
    await engine.snapshot(vm_id, vm_id)
    await engine.delete(vm_id)
    await engine.delete(vm_id)
    await engine.delete_snapshot(vm_id)
    assert sorted(str(path) for path in engine.data_dir.glob("*/*")) == before
    assert vm_id not in await engine.stored()
    assert running(f"{vm_id}") == []
    assert mounts_of(engine.data_dir) == []


@pytest.mark.parametrize("name", ["../x", "", "a/b", ".", "..", "-x", "a\0b", "x" * 200, "a:b", "a,b"])
async def test_names_that_are_paths_are_refused(engine: NamespacesEngine, vm: str, name: str) -> None:
    calls = (
        lambda: engine.create(name, MachineSpec()),
        lambda: engine.create("fresh", MachineSpec(), snapshot=name),
        lambda: engine.start(name),
        lambda: engine.stop(name),
        lambda: engine.pause(name),
        lambda: engine.resume(name),
        lambda: engine.delete(name),
        lambda: engine.snapshot(vm, name),
        lambda: engine.snapshot(name, "fresh"),
        lambda: engine.delete_snapshot(name),
        lambda: engine.spawn(name, ["/bin/true"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL),
    )
    for call in calls:
        with pytest.raises(BadInput):
            await call()


async def test_what_does_not_exist_or_exists_already(engine: NamespacesEngine, vm: str) -> None:
    for call in (engine.start("nobody"), engine.pause("nobody"), engine.resume("nobody"), engine.snapshot("nobody", "fresh")):
        with pytest.raises(EngineError):
            await call
    with pytest.raises(BadInput, match="already"):
        await engine.create(vm, MachineSpec())
    with pytest.raises(EngineError, match="no snapshot"):
        await engine.create("fresh", MachineSpec(), snapshot="nothing")
    assert "fresh" not in await engine.stored()


async def test_a_cancelled_create_leaves_nothing(engine: NamespacesEngine) -> None:
    before = sorted(str(path) for path in engine.data_dir.glob("*/*"))
    for turns in range(0, 40, 3):
        task = asyncio.create_task(engine.create(f"cancelled-{turns}", MachineSpec()))
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            await engine.delete(f"cancelled-{turns}")
    assert sorted(str(path) for path in engine.data_dir.glob("*/*")) == before


# Snapshots


async def test_branches_are_independent_both_ways(engine: NamespacesEngine, vm: str) -> None:
    await ok(
        engine,
        vm,
        "mkdir /d && echo one > /d/a && echo two > /d/b && ln /d/a /d/hard && ln -s a /d/soft && mkdir -m 2750 /d/modes && "
        "rm -rf /opt/* && echo o > /opt/x",
    )
    await engine.snapshot(vm, "both")
    await ok(engine, vm, "echo later > /d/a; rm /d/b")
    await engine.create("left", MachineSpec(), snapshot="both")
    await engine.create("right", MachineSpec(), snapshot="both")
    await engine.delete_snapshot("both")
    look = "cat /d/a /d/b /d/soft /opt/x; ls /opt; stat -c '%a' /d/modes; test /d/a -ef /d/hard && echo same; hostname"
    expected = "one\ntwo\none\no\nx\n2750\nsame\nvers-"
    assert await ok(engine, "left", look) == expected + "left"
    await ok(engine, "left", "rm -rf /d; echo mine > /x")
    assert await ok(engine, "right", look) == expected + "right"
    assert await ok(engine, vm, "cat /d/a; ls /x 2>/dev/null || true") == "later"
    await engine.delete("left")
    assert await ok(engine, "right", look) == expected + "right"
    await engine.delete("right")


async def test_a_snapshot_does_not_disturb_what_runs(engine: NamespacesEngine, vm: str) -> None:
    process = await engine.spawn(vm, ["/bin/sh", "-c", "read a; echo got $a"], stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    await engine.snapshot(vm, "running")
    out, _ = await process.communicate(b"it\n")
    assert out == b"got it\n"
    await engine.delete_snapshot("running")


OPS = ("write", "write", "append", "remove", "mkdir", "rmdir", "move", "link", "chmod", "swap")


def random_script(rng: random.Random, count: int) -> str:
    """Shell commands on a few names below the current folder; one that makes no sense there fails in the same way everywhere."""

    def name() -> str:
        return "/".join(rng.choice("abc") for _ in range(rng.randint(1, 3)))

    lines = []
    for _ in range(count):
        a, b, text = name(), name(), rng.randrange(10**6)
        lines.append(
            {
                "write": f"rm -f {a}; echo {text} > {a}",
                "append": f"test -f {a} && test ! -L {a} && echo {text} >> {a}",
                "remove": f"rm -f {a}",
                "mkdir": f"mkdir -p {a}",
                "rmdir": f"rm -rf {a}",
                "move": f"mv -T {a} {b}",
                "link": f"rm -f {a}; ln -sn {b} {a}",
                "chmod": f"test ! -L {a} && chmod {rng.choice(['700', '755', '750'])} {a}",
                "swap": f"rm -rf {a} && mkdir {a} && echo {text} > {a}/{rng.choice('abc')}",
            }[rng.choice(OPS)]
        )
    return "cd $W || exit 9\n" + "\n".join(f"({line}) 2>/dev/null" for line in lines) + "\ntrue"


LIST = "cd $W && find . -mindepth 1 -printf '%P %y %m %l\\n' | sort && find . -type f -printf '%P\\n' | sort | xargs -r sha256sum"


@pytest.mark.parametrize(("seed", "generations"), [pytest.param(1, 40, marks=pytest.mark.full), (2, DEPTH + 4)])
async def test_layers_agree_with_a_plain_folder(engine: NamespacesEngine, tmp_path: Path, seed: int, generations: int) -> None:
    rng = random.Random(seed)
    places = {"/w": tmp_path / "w", "/opt/w": tmp_path / "opt-w"}
    for model in places.values():
        model.mkdir()
    current = f"gen-{seed}-0"
    await engine.create(current, MachineSpec())
    await ok(engine, current, "mkdir /w /opt/w")
    for generation in range(1, generations + 1):
        for place, model in places.items():
            script = random_script(rng, 8)
            await ok(engine, current, script, env={"W": place})
            subprocess.run(["/bin/sh", "-c", script], env={"W": str(model), "PATH": os.environ["PATH"]}, check=True)
        name, branch = f"snap-{seed}-{generation}", f"gen-{seed}-{generation}"
        await engine.snapshot(current, name)
        await engine.create(branch, MachineSpec(), snapshot=name)
        await engine.delete_snapshot(name)
        await engine.delete(current)
        current = branch
        for place, model in places.items():
            wanted = subprocess.run(
                ["/bin/sh", "-c", LIST], env={"W": str(model), "PATH": os.environ["PATH"]}, capture_output=True, text=True
            )
            assert await ok(engine, current, LIST, env={"W": place}) == wanted.stdout.strip(), f"generation {generation}"
    assert len(engine._disks.layers("vms", current)) <= DEPTH + 1
    await engine.delete(current)
    assert len(list((engine.data_dir / "layers").iterdir())) == 1


# Engines of their own


async def test_a_restart_of_the_server_keeps_machines_and_snapshots(tmp_path: Path) -> None:
    first = NamespacesEngine(tmp_path / "data")
    await first.create("a", MachineSpec())
    await ok(first, "a", "echo kept > /data")
    await first.snapshot("a", "s")
    other = NamespacesEngine(tmp_path / "data")
    with pytest.raises(EngineError, match="Another server"):
        await other.create("b", MachineSpec())
    await first.close()
    assert (tmp_path / "data" / "trash").exists()
    half_made = tmp_path / "data" / "trash" / "half"
    (half_made / "x").mkdir(parents=True)
    second = NamespacesEngine(tmp_path / "data")
    assert await second.stored() == ["a"]
    await second.start("a")
    assert await ok(second, "a", "cat /data") == "kept"
    await second.create("b", MachineSpec(), snapshot="s")
    assert await ok(second, "b", "cat /data") == "kept"
    assert not half_made.exists()
    await second.close()
    assert oct((tmp_path / "data").stat().st_mode)[-3:] == "700"


async def test_the_helper_s_death_stops_machines_which_start_again(tmp_path: Path) -> None:
    engine = NamespacesEngine(tmp_path / "data")
    await engine.create("a", MachineSpec())
    mark = f"77{uuid.uuid4().int % 10**12}"
    process = await engine.spawn("a", ["/bin/sleep", mark], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    assert engine._link is not None
    assert engine._link._process is not None
    engine._link._process.kill()
    assert await process.wait() == -signal.SIGKILL
    await until(lambda: not running(mark), "the machine's processes end")
    with pytest.raises(EngineError, match="does not run"):
        await engine.pause("a")
    await engine.start("a")
    assert await ok(engine, "a", "echo up") == "up"
    await engine.close()


SERVER = """
import asyncio, pathlib, sys
from langchain_vers.embedded.engine import MachineSpec
from langchain_vers.embedded.namespaces import NamespacesEngine
async def main():
    engine = NamespacesEngine(pathlib.Path(sys.argv[1]))
    null = asyncio.subprocess.DEVNULL
    for vm_id in ("a", "b"):
        await engine.create(vm_id, MachineSpec())
        command = f"(setsid sleep {sys.argv[2]} &); sleep {sys.argv[2]}"
        await engine.spawn(vm_id, ["/bin/sh", "-c", command], stdin=null, stdout=null, stderr=null)
    await engine.pause("b")
    print("up", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_no_process_survives_a_killed_server(tmp_path: Path) -> None:
    mark = f"88{uuid.uuid4().int % 10**12}"
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, str(tmp_path / "data"), mark, stdout=PIPE, cwd=PROJECT)
    assert server.stdout is not None
    assert await server.stdout.readline() == b"up\n"
    await until(lambda: len([pid for pid in running(mark) if pid != server.pid]) >= 4, "the machines' processes run")
    server.kill()
    await server.wait()
    await server.stdout.read()
    await until(lambda: not running(mark), "the machines' processes end")
    await until(lambda: not running(str(tmp_path)), "the helper ends")
    engine = NamespacesEngine(tmp_path / "data")
    await engine.start("b")
    assert await ok(engine, "b", "echo up") == "up"
    await engine.close()


@pytest.mark.skipif(not ROOT, reason="only root can mount a small disk")
async def test_a_full_disk_leaves_nothing_of_a_snapshot(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(small)], check=True)
    engine = NamespacesEngine(small / "data")
    try:
        await engine.create("a", MachineSpec())
        await ok(engine, "a", "head -c 20000000 /dev/zero | tr '\\0' x > /data")
        before = sorted(str(path) for path in (small / "data").glob("*/*"))
        with pytest.raises(DiskFull):
            await engine.snapshot("a", "s")
        assert sorted(str(path) for path in (small / "data").glob("*/*")) == before
        with pytest.raises(EngineError, match="no snapshot"):
            await engine.create("b", MachineSpec(), snapshot="s")
        assert await ok(engine, "a", "rm /data; echo goes on") == "goes on"
        await engine.snapshot("a", "s")
    finally:
        await engine.close()
        subprocess.run(["umount", str(small)], check=True)


ORDINARY_USER = """
import asyncio, pathlib, sys
sys.path.insert(0, sys.argv[2])
from langchain_vers.embedded.engine import MachineSpec
from langchain_vers.embedded.namespaces import NamespacesEngine
PIPE, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
async def sh(engine, vm_id, command):
    process = await engine.spawn(vm_id, ["/bin/sh", "-c", command], stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL)
    out, _ = await process.communicate()
    return process.returncode, out.decode().strip()
async def main():
    engine = NamespacesEngine(pathlib.Path(sys.argv[1]))
    problems = await engine.check()
    assert problems == [], problems
    await engine.create("a", MachineSpec())
    make = "mkdir -p /data/d && echo x > /data/d/f && chmod 000 /data/d && touch /usr/local/bin/x /opt/x /etc/x"
    code, out = await sh(engine, "a", f"id -u; {make}; cat /etc/shadow | grep -c root; exit 5")
    assert (code, out) == (5, "0\\n1"), (code, out)
    await engine.pause("a"); await engine.resume("a")
    await engine.snapshot("a", "s")
    await sh(engine, "a", "rm -rf /data")
    name = "s"
    for n in range(12):
        await engine.create(f"b{n}", MachineSpec(), snapshot=name)
        assert await sh(engine, f"b{n}", f"cat /data/d/f; ls /usr/local/bin/x; echo {n} > /n; rm -rf /opt/x") == (0, "x\\n/usr/local/bin/x")
        name = f"s{n}"
        await engine.snapshot(f"b{n}", name)
    await engine.stop("a"); await engine.start("a")
    assert (await sh(engine, "a", "test -e /data"))[0] == 1
    for vm_id in await engine.stored():
        await engine.delete(vm_id)
    for name in ("s", *(f"s{n}" for n in range(12))):
        await engine.delete_snapshot(name)
    assert len(list(engine.data_dir.glob("*/*"))) == 2, list(engine.data_dir.glob("*/*"))
    await engine.close()
    print("fine")
asyncio.run(main())
"""


@pytest.fixture
def ordinary_folder() -> Iterator[Path]:
    with folder_of_ordinary_user() as folder:
        yield folder


async def test_an_ordinary_user_needs_no_rights(ordinary_folder: Path) -> None:
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if ROOT else []
    for python in (sys.executable, "/usr/bin/python3"):
        # It must be able to start itself: setpriv's own rights may reach where those of what it starts do not.
        probe = "import os, sys; sys.version_info < (3, 11) and sys.exit(1); os.execv(sys.executable, [sys.executable, '-c', ''])"
        if subprocess.run([*prefix, python, "-c", probe], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("no Python 3.11 or newer that an ordinary user can run")
    if ROOT and subprocess.run([*prefix, "test", "-r", str(PROJECT / "langchain_vers")]).returncode:
        pytest.skip("the project's folder is not readable for an ordinary user")
    process = await asyncio.create_subprocess_exec(
        *prefix, python, "-B", "-c", ORDINARY_USER, str(ordinary_folder / "data"), str(PROJECT),
        stdout=PIPE, stderr=PIPE, env={"PATH": os.environ["PATH"]}, cwd="/",
    )  # fmt: skip
    out, err = await process.communicate()
    assert (out, process.returncode) == (b"fine\n", 0), err.decode()
