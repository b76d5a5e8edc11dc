"""Gondolin micro-VMs: what their guests see, how they are versioned, and that nothing of them is left behind, however they end.

On the real SDK and a real guest, which QEMU runs by itself; each start takes seconds of processor time, so that tests share machines.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from rigs.gondolin import Gondolin

from langchain_vers._io import on_io, run
from langchain_vers.backends.environment import Secret
from langchain_vers.backends.gondolin import Egress, GondolinBackend, HeldSecret
from langchain_vers.backends.gondolin_machine import machines
from langchain_vers.backends.paths import Mount
from langchain_vers.errors import Denied, Gone, Interrupted, Unreachable
from langchain_vers.testing.harness import PATIENCE_SECONDS, shell, until

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]
NAME = socket.gethostname()
"""A name of this machine that its guests have no other meaning for, as they have for `localhost`."""


@pytest.fixture(scope="module", autouse=True)
def own_folder() -> Iterator[None]:
    """What others leave in the folder for temporary files is not ours. Its name is short, as there are sockets in it."""
    with tempfile.TemporaryDirectory(prefix="v") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("vers-gondolin-*"))


def program_of(process: psutil.Process) -> str:
    """Node calls itself otherwise for the kernel. Empty for one that has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return Path((process.cmdline() or [""])[0]).name
    return ""


def started_by_us(program: str) -> set[psutil.Process]:
    return {child for child in psutil.Process().children(recursive=True) if program_of(child).startswith(program)}


def traces() -> tuple[object, ...]:
    """What there is of machines on this one."""
    return folders(), started_by_us("qemu"), started_by_us("node")


def test_a_start_that_fails_says_why_and_leaves_nothing(gondolin: Gondolin, tmp_path: Path) -> None:
    before = traces()
    with pytest.raises(Unreachable, match=r"could not be started: .*qemu"):
        run(gondolin.backend(hardware=gondolin.hardware(qemu="/nowhere/qemu-system-x86_64")).exec("true"))
    (tmp_path / "image").mkdir()
    with pytest.raises(Unreachable, match=r"could not be started: .*image"):
        run(gondolin.backend(image=tmp_path / "image").exec("true"))
    with pytest.raises(Unreachable, match="could not be started"):
        run(gondolin.backend(hardware=gondolin.hardware(start_seconds=0.5)).exec("true"))
    old = tmp_path / "node"
    old.write_text("#!/bin/sh\necho 'SyntaxError: too old' >&2; exit 1\n")
    old.chmod(0o755)
    with pytest.raises(Unreachable, match="too old"):
        run(gondolin.backend(node=old).exec("true"))
    assert traces() == before


async def test_one_that_gives_up_waiting_does_not_stop_the_start(gondolin: Gondolin) -> None:
    before = traces()
    backend = gondolin.backend()
    first = asyncio.create_task(on_io(backend.exec("true")))
    await until(lambda: _true(folders() != before[0]))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await on_io(backend.delete())
    assert traces() == before


async def _true(value: bool) -> bool:
    return value


class _Server(BaseHTTPRequestHandler):
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.headers.get("X-Token", ""))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"answer")

    def log_message(self, *args: Any) -> None:
        pass


def asks(host: str, port: int) -> str:
    """A request with the guest's token, for bash."""
    words = f"GET / HTTP/1.1\\r\\nHost: {host}:{port}\\r\\nX-Token: $TOKEN\\r\\nConnection: close\\r\\n\\r\\n"
    return f'exec 3<>/dev/tcp/{host}/{port} && printf "{words}" >&3 && cat <&3'


@pytest.fixture(scope="module")
def seen() -> list[str]:
    """The tokens that the web server was sent."""
    return []


@pytest.fixture(scope="module")
def port(seen: list[str]) -> Iterator[int]:
    server = ThreadingHTTPServer((socket.gethostbyname(NAME), 0), type("Server", (_Server,), {"seen": seen}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    for name in ("work", "ro", "copy"):
        (folder / name).mkdir()
        (folder / name / "file").write_text(f"{name} of the host")
        (folder / name / ".env").write_text("TOP=secret")
    (folder / "outside").write_text("not for guests")
    (folder / "work/link").symlink_to(folder / "outside")
    return folder


@pytest.fixture(scope="class")
def machine(gondolin: Gondolin, shared: Path, port: int) -> Iterator[GondolinBackend]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOST_TOKEN", "the-real-token")
        patch.setenv("PLAIN_SECRET", "sent-into-the-guest")
        patch.setenv("HTTP_PROXY", "http://proxy.of.the.host")
        backend = gondolin.backend(
            shared / "work",
            mounts=[Mount(str(shared / "ro"), "/ro", "ro"), Mount(str(shared / "copy"), "/home/copy", "copy")],
            hidden=[".env"],
            env={"PLAIN": "value", "SENT": Secret("PLAIN_SECRET")},
            egress=Egress(
                hosts=[NAME],
                internal_hosts=[NAME],
                secrets={"TOKEN": HeldSecret(Secret("HOST_TOKEN"), [NAME])},
                tcp={"mapped.test:80": f"{NAME}:{port}"},
            ),
        )
        yield backend
        run(backend.delete())


@pytest.mark.full
class TestWhatTheGuestSees:
    def test_the_workspace_both_ways(self, machine: GondolinBackend, shared: Path) -> None:
        assert run(shell(machine, "pwd; cat file")) == "/workspace\nwork of the host"
        run(machine.write("made", b"by the guest"))
        assert (shared / "work/made").read_bytes() == b"by the guest"
        (shared / "work/later").write_text("by the host")
        assert run(machine.read("later")).data == b"by the host"

    def test_read_only(self, machine: GondolinBackend, shared: Path) -> None:
        assert run(machine.read("/ro/file")).data == b"ro of the host"
        with pytest.raises(Denied):
            run(machine.write("/ro/file", b"changed"))
        assert run(machine.exec("echo x >/ro/new")).exit_code != 0
        assert (shared / "ro/file").read_text() == "ro of the host" and not (shared / "ro/new").exists()

    def test_a_copy_is_the_guests_own(self, machine: GondolinBackend, shared: Path) -> None:
        assert run(machine.read("/home/copy/file")).data == b"copy of the host"
        run(machine.write("/home/copy/file", b"changed"))
        assert (shared / "copy/file").read_text() == "copy of the host"
        (shared / "copy/later").write_text("not for the guest any more")
        found = run(machine.exec("find / -xdev -name later 2>/dev/null; find /data /mnt -name later 2>/dev/null; ls /home/copy")).tail
        assert found.split() == [b"/data/workspace/later", b"file"] or found.split() == [b"file"]

    def test_hidden_files_are_not_there(self, machine: GondolinBackend, shared: Path) -> None:
        for folder in ("/workspace", "/ro", "/home/copy"):
            assert run(machine.exec(f"cat {folder}/.env")).exit_code != 0
        assert run(machine.exec("echo TOP=other >.env; ln -s .env other && cat other")).exit_code != 0
        assert (shared / "work/.env").read_text() == "TOP=secret"

    def test_links_out_of_a_mounted_folder_lead_nowhere(self, machine: GondolinBackend) -> None:
        assert run(machine.exec("cat link")).exit_code != 0

    def test_the_environment_is_what_was_named(self, machine: GondolinBackend) -> None:
        found = dict(line.split("=", 1) for line in run(shell(machine, "env")).splitlines() if "=" in line)
        assert found["PLAIN"] == "value" and found["SENT"] == "sent-into-the-guest"
        assert found["HOME"] == "/home/agent" and found["PATH"]
        assert "HTTP_PROXY" not in found and "HOST_TOKEN" not in found
        assert found["TOKEN"] and "the-real-token" not in str(found)

    def test_a_secret_goes_to_its_host_and_stays_out_of_the_guest(self, machine: GondolinBackend, port: int, seen: list[str]) -> None:
        assert run(shell(machine, asks(NAME, port))).count("answer") == 1
        assert seen[-1] == "the-real-token"

    def test_mapped_hosts_are_reached_and_no_others(self, machine: GondolinBackend, port: int, seen: list[str]) -> None:
        assert run(shell(machine, asks("mapped.test", 80))).count("answer") == 1
        assert seen[-1] and seen[-1] != "the-real-token", "nobody looks into mapped connections"
        asked = len(seen)
        assert b"answer" not in run(machine.exec(asks("other.test", port), timeout=60)).tail
        assert len(seen) == asked


@pytest.mark.full
async def test_snapshots_restores_and_branches(gondolin: Gondolin) -> None:
    before = traces()
    backend = gondolin.backend()
    made: list[GondolinBackend] = [backend]
    try:
        await on_io(backend.write("f", b"one"))
        assert await on_io(shell(backend, "sleep 1000 >/dev/null 2>&1 & echo $! >/tmp/pid; echo at home >~/g; echo started")) == "started"
        first = await on_io(backend.snapshot(name="first"))
        assert (await on_io(backend.exec("kill -0 $(cat /tmp/pid)"))).exit_code == 0, "the machine goes on"
        await on_io(backend.write("f", b"two"))
        restored = backend.at(await on_io(backend.restore(first)))
        made.append(restored)
        assert (await on_io(restored.read("f"))).data == b"one"
        assert await on_io(shell(restored, "cat ~/g; pwd")) == "at home\n/workspace"
        await on_io(restored.write("f", b"three"))
        second = await on_io(restored.snapshot())
        await on_io(backend.discard(first))
        with pytest.raises(Gone):
            await on_io(backend.restore(first))
        (branch,) = await on_io(restored.branch())
        made.append(backend.at(branch))
        assert (await on_io(made[-1].read("f"))).data == b"three"
        again = backend.at(await on_io(made[-1].restore(second)))
        made.append(again)
        assert (await on_io(again.read("f"))).data == b"three", "also when the snapshot that it came from has gone"
        assert (await on_io(backend.read("f"))).data == b"two"
        assert len({one.machine_id for one in made}) == 4
        left = [path.name for path in gondolin.folder.iterdir()]
        assert left == [f"{second}.qcow2"]
    finally:
        for one in made:
            await on_io(one.delete())
    assert traces() == before


class TestEnds:
    @pytest.mark.full
    async def test_close_detaches_and_delete_ends(self, gondolin: Gondolin) -> None:
        before = traces()
        backend = gondolin.backend()
        await on_io(backend.exec("echo kept >/tmp/kept"))
        assert backend.machine_id in machines
        await on_io(backend.close())
        await on_io(backend.close())
        assert backend.machine_id is not None
        other = gondolin.backend().at(backend.machine_id)
        assert await on_io(shell(other, "cat /tmp/kept")) == "kept"
        await on_io(other.delete())
        await on_io(other.delete())
        for one in (backend, other):
            with pytest.raises(Gone, match="does not exist any more"):
                await on_io(one.exec("true"))
        assert traces() == before

    @pytest.mark.parametrize("victim", ["qemu", "node"])
    @pytest.mark.full
    async def test_one_that_dies_in_the_middle(self, gondolin: Gondolin, victim: str) -> None:
        before, others = traces(), started_by_us(victim)
        backend = gondolin.backend()
        killed = False

        def kill(_: bytes) -> None:
            nonlocal killed
            if not killed:
                killed = True
                (process,) = started_by_us(victim) - others
                process.send_signal(signal.SIGKILL)

        with pytest.raises(Interrupted) as error:
            await on_io(backend.exec("echo begun; sleep 1000", on_output=kill))
        assert error.value.output == b"begun\n"
        with pytest.raises(Gone):
            await on_io(backend.exec("true"))
        with pytest.raises(Gone):
            await on_io(backend.write("/tmp/x", b""))
        await until(lambda: _true(traces() == before))

    @pytest.mark.parametrize("end", ["killed", pytest.param("exit", marks=pytest.mark.full)])
    def test_nothing_outlives_the_process(self, gondolin: Gondolin, end: str) -> None:
        before = traces()
        options = {name: str(value) for name, value in gondolin.options().items() if name != "hardware"}
        script = (
            "from langchain_vers._io import run\n"
            "from langchain_vers.backends.gondolin import GondolinBackend, Hardware\n"
            f"backend = GondolinBackend(hardware={gondolin.hardware()!r}, **{options!r})\n"
            "run(backend.exec('sleep 1000 >/dev/null 2>&1 &'))\n"
            "print('up', flush=True)\n"
            "input()\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ) as host:
            assert host.stdout is not None and host.stdin is not None
            assert host.stdout.readline() == b"up\n"
            theirs = psutil.Process(host.pid).children(recursive=True)
            assert {"node", "qemu"} <= {program_of(one).partition("-")[0] for one in theirs}
            if end == "killed":
                host.kill()
            else:
                host.stdin.write(b"\n")
                host.stdin.flush()
            host.wait()
        _, alive = psutil.wait_procs(theirs, timeout=PATIENCE_SECONDS)
        assert not alive
        run(until(lambda: _true(traces() == before)))
