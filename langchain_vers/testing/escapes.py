"""The escape suite: what a backend that calls itself a sandbox must withstand, to be run over every one of them on its real engine.

A backend joins as it joins the conformance suite, with the fixture `backend`, and says in `bounds` how much it lets a command have:

    class TestEscapes(EscapeConformance):
        @pytest.fixture
        def backend(self):
            backend = MySandbox(processes=128, disk=64 * MiB)
            yield backend
            run(backend.close())

        @pytest.fixture
        def bounds(self):
            return Bounds(processes=128, disk=64 * MiB)

The sandbox runs on this machine: the tests put secrets, a listener and a bystander here, let a command in the sandbox go for them, and then
look here whether it got anywhere. Commands say nothing of success by themselves, and each test proves first that it would notice. An escape
that a backend cannot stop is overridden with `pytest.mark.xfail(strict=True, reason=...)`, so that a stale excuse fails.

The backend must be made in the test's own time (a fixture of function or class scope): only then has it seen the secret in the environment.
What floods this machine's processes or disk is capped at three times what the backend lets a command have.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from langchain_vers._io import on_io
from langchain_vers.backends.base import Backend, ExecResult
from langchain_vers.errors import Missing, VersError
from langchain_vers.testing import host
from langchain_vers.testing.harness import Caller, Conformance, kill_survivors, shell, survivors, until

MiB = 1024 * 1024
"""Bytes."""
_CHUNK = 4 * MiB
_NOTHING = hashlib.sha256().hexdigest()
_SLACK = 4
"""How many times its bound a place may hold in the end: one that is watched takes more until it is looked at."""

_STUBBORN = b"trap '' TERM INT HUP QUIT\necho $$ >$0.new; mv $0.new $0.pid\nwhile :; do sleep 1; done\n"
_WAYS = {
    "background": "sh $S.background &",
    "nohup": "nohup sh $S.nohup &",
    "session": "setsid sh $S.session &",
    "orphan": "( ( sh $S.orphan & ) )",
    "bare": 'env -i PATH="$PATH" sh $S.bare &',
    "apart": 'env -i PATH="$PATH" setsid sh $S.apart &',
    "daemon": "setsid sh -c '(sh $S.daemon &) &'",
}
PLACES = (".", "$HOME", "/tmp", "/var/tmp", "/dev/shm", "/run", "/")  # noqa: S108  # in the sandbox
"""Folders of the sandbox that a command may try to fill."""


@dataclass(frozen=True)
class Bounds:
    """What the backend under test lets its commands have together. Small ones make for quick tests."""

    processes: int = 512
    """Processes and threads that they may have at a time."""
    disk: int = 512 * MiB
    """Bytes that commands may put into any one place."""


_PRIVATE = re.compile(rb":[$!]*[$]\w|:[\w./]{13}:|PRIVATE KEY")
"""What there is in a file of password hashes (crypt(5)), and in one of a key."""


class EscapeConformance(Conformance):
    """Escapes, none of which may succeed. A subclass overrides `backend` and `bounds`."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def secret_variable(cls) -> Iterator[str]:
        """The value of a variable in this process's environment."""
        mark = host.new_mark()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ESCAPE_API_KEY", mark)
            yield mark

    @pytest.fixture
    def call(self) -> Caller:
        """From async code only: isolation does not depend on who asks."""
        return on_io

    @pytest.fixture
    def bounds(self) -> Bounds:
        """What the backend lets its commands have."""
        return Bounds()

    # --- what is on this machine's disk ---

    async def test_files_of_this_machine_cannot_be_read(self, backend: Backend) -> None:
        """Files in this machine's home, temporary and current folders are not to be read, neither by commands nor by the file calls."""
        secret = host.new_mark()
        with host.secret_files(secret) as files:
            assert files
            for path in files:
                quoted, folder = shlex.quote(str(path)), shlex.quote(str(path.parent))
                found = await on_io(
                    backend.exec(f"cat {quoted}; cat /proc/1/root{quoted}; cat /proc/self/root{quoted}; ls -a {folder}; true")
                )
                assert secret.encode() not in found.tail
                assert path.name.encode() + b"\n" not in found.tail
                with pytest.raises(VersError):
                    await on_io(backend.read(str(path)))
                with pytest.raises(VersError):
                    await on_io(backend.stat(str(path)))
                with pytest.raises(VersError):
                    await on_io(backend.scan(str(path.parent)))

    async def test_private_files_of_the_system_cannot_be_read(self, backend: Backend) -> None:
        """Password hashes and host keys of this machine are not to be read, also when root runs the sandbox."""
        for path in host.private_system_files():
            content = path.read_bytes() if os.access(path, os.R_OK) else None
            found = await on_io(backend.exec(f"cat {shlex.quote(str(path))} 2>/dev/null"))
            # A machine may have a file of its own there, which for want of the other to compare with is told by what is not in it.
            assert found.exit_code != 0 or (found.tail != content and not _PRIVATE.search(found.tail)), path

    async def test_nothing_is_written_outside(self, backend: Backend) -> None:
        """What commands and the file calls write into this machine's folders, programs and settings does not get there."""
        mark = host.new_mark()
        with host.secret_files(host.new_mark()) as files:
            before = {path: path.read_bytes() for path in files}
            folders = [
                *dict.fromkeys(str(path.parent) for path in files),
                "/",
                "/etc",
                "/usr/bin",
                "/usr/local/bin",
                "/opt",
                "/var",
                "/root",
                "/boot",
            ]
            for folder in folders:
                await on_io(backend.exec(f"mkdir -p {folder}; echo {mark} >{folder}/{mark}; ln -s /etc/passwd {folder}/{mark}-link"))
                with contextlib.suppress(VersError):
                    await on_io(backend.write(f"{folder}/{mark}-api", mark.encode()))
            for path in files:
                await on_io(backend.exec(f"echo {mark} >{shlex.quote(str(path))}; rm -f {shlex.quote(str(path))}"))
                with contextlib.suppress(VersError):
                    await on_io(backend.write(str(path), mark.encode()))
            assert _removed(folders, mark) == []
            assert {path: path.read_bytes() for path in files} == before

    async def test_symlinks_do_not_lead_out(self, backend: Backend, place: str) -> None:
        """A symlink to a file of this machine leads nowhere, for commands and for the file calls, to read and to write."""
        secret = host.new_mark()
        with host.secret_files(secret) as files:
            for number, path in enumerate(files):
                await on_io(
                    shell(backend, f"ln -s {shlex.quote(str(path))} l{number}; ln -s {shlex.quote(str(path.parent))} d{number}", cwd=place)
                )
                for name in (f"l{number}", f"d{number}/{path.name}", f"d{number}/../{path.parent.name}/{path.name}"):
                    assert secret.encode() not in (await on_io(backend.exec(f"cat {name}; echo overwritten >{name}", cwd=place))).tail
                    with contextlib.suppress(VersError):
                        assert secret.encode() not in (await on_io(backend.read(name, cwd=place))).data
                    with contextlib.suppress(VersError):
                        await on_io(backend.write(name, b"overwritten\n", cwd=place))
                with contextlib.suppress(VersError):
                    await on_io(backend.write(f"d{number}/new", b"new\n", cwd=place))
                assert path.read_text() == f"{secret}\n"
                assert not (path.parent / "new").exists()

    async def test_no_raw_devices(self, backend: Backend) -> None:
        """Disks and memory of this machine are no devices in the sandbox, and it cannot make them."""
        disks, devices = _devices()
        for name, device in devices.items():
            kind = "b" if name in disks else "c"
            node = f"/tmp/{host.new_mark()}"  # noqa: S108  # in the sandbox
            command = f"mknod {node} {kind} {os.major(device)} {os.minor(device)}; head -c 512 {node} || head -c 512 {name}"
            found = await on_io(backend.exec(f"({command}) 2>/dev/null | wc -c; rm -f {node}", timeout=20))
            if found.tail.split() != [b"0"]:
                # A machine with a kernel of its own has devices of its own: then a disk must be another disk.
                identity = _identity(name if name in disks else None)
                theirs = (await on_io(backend.exec(identity, timeout=20))).tail.decode().split()
                mine = await asyncio.to_thread(_here, identity)
                assert len(theirs) == len(mine) and theirs[0] != mine[0], name
                # Not everybody may read a disk of this machine: then its size has to tell.
                assert name not in disks or theirs[1] != mine[1] or mine[2] not in (theirs[2], _NOTHING), name

    async def test_settings_of_the_kernel_stay(self, backend: Backend) -> None:
        """What a command writes to the kernel's settings does not change this machine's."""
        knobs = [Path("/proc/sys", name) for name in ("kernel/core_pattern", "kernel/modprobe", "vm/swappiness", "kernel/hostname")]
        before = {knob: knob.read_text() for knob in knobs if knob.exists()}
        commands = [f"echo {'61' if knob.name == 'swappiness' else 'escaped'} >{knob}" for knob in before]
        await on_io(backend.exec(f"({'; '.join([*commands, 'hostname escaped'])}) 2>/dev/null; true"))
        after = {knob: knob.read_text() for knob in before}
        for knob, value in before.items():
            if after[knob] != value:
                knob.write_text(value)
        assert after == before

    # --- what runs on this machine ---

    async def test_processes_of_this_machine_are_out_of_sight(self, backend: Backend) -> None:
        """A process of this machine is neither to be seen nor signalled, and its environment is not to be read."""
        mark = host.new_mark()
        with host.bystander(mark) as child:
            assert host.processes_with(mark) == [child.pid]
            own = f"cat /proc/{child.pid}/environ /proc/{child.pid}/cmdline"
            seen = await _printed(backend, f"({own} /proc/[0-9]*/environ /proc/[0-9]*/cmdline; ps -A -o args; ps axeww) 2>/dev/null; true")
            assert mark.encode() not in seen
            with contextlib.suppress(VersError):  # it ends its own shell, and perhaps its machine
                await on_io(backend.exec(f"kill -9 {child.pid}; kill -9 -- -1; echo", timeout=20))
            assert child.poll() is None
            assert await self._works(backend)

    async def test_environment_of_this_process_is_not_to_be_read(self, backend: Backend, secret_variable: str) -> None:
        """No variable of this process is in a command's environment, or in that of any process that a command can see."""
        own = f"/proc/self/environ /proc/1/environ /proc/{os.getpid()}/environ"
        seen = await _printed(backend, f"(env; cat {own} /proc/[0-9]*/environ; ps axeww) 2>/dev/null; true")
        assert b"PATH=" in seen
        assert secret_variable.encode() not in seen
        assert b"ESCAPE_API_KEY" not in seen

    async def test_listeners_of_this_machine_are_out_of_reach(self, backend: Backend) -> None:
        """With the network off nothing of a command reaches this machine: by TCP, UDP, or unix sockets with and without a path."""
        listener = host.Listener()
        try:
            word = host.new_mark()
            script = host.reaching(listener, host.own_addresses(), word)
            await asyncio.to_thread(subprocess.run, ["sh", "-c", script], check=True, stdout=subprocess.DEVNULL)
            assert any(word in said for said in listener.visits()), "nobody would be noticed"
            listener.forget()
            word = host.new_mark()
            tried = await on_io(backend.exec(host.reaching(listener, host.own_addresses(), word), timeout=90))
            assert tried.tail == b"tried\n"
            assert listener.visits() == []
        finally:
            listener.close()

    # --- how much it takes ---

    async def test_fork_bomb_is_contained(self, backend: Backend, bounds: Bounds) -> None:
        """Neither many processes nor ever more of them take this machine: it stays usable, the command ends, and so do all of them."""
        mark = f"86400.{int(host.new_mark()[6:], 16) % 10**9:09d}"
        count = 3 * bounds.processes
        flood = f"i=0; while [ $i -lt {count} ]; do sleep {mark} & i=$((i+1)); done; echo all of them"
        ended, longest = await _watched(backend, flood, timeout=10)
        assert ended is None or b"all of them" not in ended.tail
        assert longest < host.ANSWER_SECONDS
        assert await self._works(backend)
        await _gone(mark)
        # Only now, as it is known to be contained.
        mark = host.new_mark()
        ended, longest = await _watched(backend, f"exec sh -c 'bomb() {{ bomb | bomb & }}; bomb; sleep 600' {mark}", timeout=3)
        assert ended is None or ended.timed_out or ended.exit_code != 0
        assert longest < host.ANSWER_SECONDS
        assert await self._works(backend)
        await _gone(mark)

    @pytest.fixture(params=PLACES)
    def where(self, request: pytest.FixtureRequest) -> str:
        """A folder of the sandbox that a command may try to fill."""
        place: str = request.param
        return place

    async def test_disk_cannot_be_filled(self, backend: Backend, bounds: Bounds, where: str) -> None:
        """Many files, one large file, and space that is only reserved: no place takes more than the bound."""
        mark, count = host.new_mark(), 8 * bounds.disk // _CHUNK
        many = f"i=0; while [ $i -lt {count} ] && head -c {_CHUNK} /dev/zero >f$i; do i=$((i+1)); done"
        one = f"head -c {8 * bounds.disk} /dev/zero >one"
        reserve = f"i=0; while [ $i -lt 16 ] && fallocate -l {bounds.disk // 2} r$i; do i=$((i+1)); done"
        for fill in (many, one, reserve):
            with contextlib.suppress(VersError):
                await on_io(backend.exec(f'd={where}/{mark}; mkdir "$d" && cd "$d" || exit 0; {fill}', timeout=120))
            measure = f"if [ -d {where}/{mark} ]; then du -sk {where}/{mark}; else echo 0; fi; rm -rf {where}/{mark}"
            kib = int((await on_io(shell(backend, measure))).split()[0])
            assert kib * 1024 <= bounds.disk * _SLACK, fill
        assert await self._works(backend)

    # --- how long it lives ---

    async def test_nothing_outlives_the_time_limit(self, backend: Backend, place: str) -> None:
        """Processes that are deaf to signals and have left parent, session or environment are dead when the time-out is told."""
        await self._outlive(backend, place, _WAYS)

    async def test_no_daemon_without_traces_outlives_the_time_limit(self, backend: Backend, place: str) -> None:
        """The same for one that has left its parent, its session and its environment: nothing in it tells whose it is."""
        await self._outlive(backend, place, {"traceless": 'env -i PATH="$PATH" setsid sh -c "(sh $S.traceless &)"'})

    async def _outlive(self, backend: Backend, place: str, ways: Mapping[str, str]) -> None:
        mark = host.new_mark()
        script = f"{place}/{mark}"
        for name in ways:
            await on_io(backend.write(f"{script}.{name}", _STUBBORN))
        wait = f"while [ $(ls {script}.*.pid 2>/dev/null | wc -l) -lt {len(ways)} ]; do sleep 0.05; done"
        command = "\n".join([f"export S={script}", *ways.values(), wait, "echo up; sleep 600"])
        try:
            result = await on_io(backend.exec(command, cwd=place, timeout=self.patience))
            assert (result.timed_out, result.tail.endswith(b"up\n")) == (True, True)
            with contextlib.suppress(Missing):  # the machine may have had to go as a whole
                assert await on_io(survivors(backend, place)) == []
            assert host.processes_with(mark) == []
        finally:
            with contextlib.suppress(VersError):
                await on_io(kill_survivors(backend, place))

    async def _works(self, backend: Backend) -> bool:
        """Whether the backend is to be worked with; a machine that had to be ended may take a second call to come back."""

        async def works() -> bool:
            try:
                return (await on_io(backend.exec("echo works", timeout=20))).tail == b"works\n"
            except VersError:
                return False

        await until(works)
        return True


async def _watched(backend: Backend, command: str, timeout: float) -> tuple[ExecResult | None, float]:
    """How a command ended (None: with its machine), and how long this machine needed at most to start a program meanwhile, in seconds."""
    running = asyncio.ensure_future(on_io(backend.exec(command, timeout=timeout)))
    longest = 0.0
    while not running.done():
        started = time.monotonic()
        await asyncio.to_thread(subprocess.run, ["true"], check=True)
        longest = max(longest, time.monotonic() - started)
        await asyncio.wait({running}, timeout=0.2)
    try:
        return running.result(), longest
    except VersError:
        return None, longest


async def _gone(mark: str) -> None:
    """Wait until no process of this machine has the mark."""

    async def gone() -> bool:
        return not await asyncio.to_thread(host.processes_with, mark)

    await until(gone)


def _identity(disk: str | None) -> str:
    """A shell command that prints which start of which kernel this is, and of a disk the sectors and the hash of its beginning."""
    kernel = "cat /proc/sys/kernel/random/boot_id"
    if disk is None:
        return kernel
    size = f"cat /sys/class/block/{Path(disk).name}/size 2>/dev/null || echo 0"
    return f"{kernel}; {size}; head -c 65536 {disk} 2>/dev/null | sha256sum"


def _here(command: str) -> list[str]:
    """The words that a shell command prints on this machine."""
    return subprocess.run(["sh", "-c", command], capture_output=True, check=True, text=True).stdout.split()


def _removed(folders: Iterable[str], mark: str) -> list[str]:
    """What lies in these folders of this machine under names that begin with the mark; it is removed."""
    made = [path for folder in folders for path in Path(folder).glob(f"{mark}*")]
    for path in made:
        path.unlink()
    return [str(path) for path in made]


def _devices() -> tuple[list[str], dict[str, int]]:
    """The disks of this machine, and the numbers of these and of its memory, as far as they are devices here."""
    disks = [f"/dev/{path.name}" for path in sorted(Path("/sys/block").glob("*"))]
    return disks, {name: Path(name).stat().st_rdev for name in [*disks, "/dev/mem", "/dev/kmsg", "/dev/fuse"] if Path(name).exists()}


async def _printed(backend: Backend, command: str) -> bytes:
    """All that a command prints."""
    seen: list[bytes] = []
    await on_io(backend.exec(command, on_output=seen.append, timeout=60))
    return b"".join(seen)
