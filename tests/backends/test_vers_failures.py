"""What VersBackend does when the network, the server or the VM fails: the right error, nothing half-done, and the next call works.

The peer is a real OpenSSH server behind TLS, with a network in between that can break. It runs on this machine as this user, so the tests
look at its processes and files directly.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from rigs.certificates import Authority
from rigs.network import NetworkThread, Relay, TlsFront
from rigs.openssh import Platform, UserBackend, fingerprint_of, make_key
from rigs.waiting import alive, wait_for

from langchain_vers._io import io, on_io, run
from langchain_vers.backends import pool, sessions, vers
from langchain_vers.backends.base import ExecResult, version_of
from langchain_vers.backends.vers import VersBackend
from langchain_vers.errors import BadInput, Conflict, DeadlineExceeded, Denied, Gone, Interrupted, Unreachable
from langchain_vers.platform import VersClient, tunnel

pytestmark = pytest.mark.peer

SLEEPER = """
echo $$ >{0}/shell.pid
setsid sh -c 'echo $$ >{0}/away.pid; exec sleep 300' &
while [ ! -s {0}/away.pid ]; do :; done
echo up
sleep 300
"""
"""A command with a process in another session; it says "up" when all of it runs."""


@contextmanager
def started(backend: VersBackend, folder: Path, timeout: float | None = None) -> Iterator[Callable[[], ExecResult]]:
    """The sleeping command, begun in a thread; what is yielded waits for its end."""
    up = threading.Event()
    outcome: list[ExecResult | BaseException] = []

    def on_output(data: bytes) -> None:
        if b"up" in data:
            up.set()

    def call() -> None:
        try:
            outcome.append(run(backend.exec(SLEEPER.format(folder), timeout=timeout, on_output=on_output)))
        except BaseException as error:
            outcome.append(error)

    def result() -> ExecResult:
        thread.join(60)
        assert outcome, "the command has not ended"
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]

    thread = threading.Thread(target=call)
    thread.start()
    try:
        assert up.wait(60)
        yield result
    finally:
        for file in folder.glob("*.pid"):
            try:
                os.kill(int(file.read_text()), 9)
            except ProcessLookupError:
                continue
        thread.join(60)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time limits that a test can wait for."""
    monkeypatch.setattr(sessions, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(sessions, "KILL_SECONDS", 1.0)
    monkeypatch.setattr(vers, "CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(tunnel, "OPEN_SECONDS", 1.0)


# --- a connection that breaks ---


def test_broken_in_the_middle_of_a_command(remote: VersBackend, relay: Relay, tmp_path: Path) -> None:
    with started(remote, tmp_path) as result:
        relay.drop()
        with pytest.raises(Interrupted, match="may have run in part") as caught:
            result()
        assert caught.value.output == b"up\n"
        assert caught.value.machine_id == remote.machine_id
        wait_for(lambda: not alive(tmp_path))
    assert run(remote.exec("echo again")).tail == b"again\n"
    assert remote.losses == 1


def test_broken_between_two_calls(remote: VersBackend, relay: Relay, tmp_path: Path) -> None:
    run(remote.exec("true"))
    for number in range(3):
        relay.drop()
        assert run(remote.exec(f"echo {number} >>{tmp_path}/f; echo {number}")).tail == b"%d\n" % number
        relay.drop()
        run(remote.write(f"{tmp_path}/g", b"%d" % number))
        relay.drop()
        assert run(remote.read(f"{tmp_path}/g")).data == b"%d" % number
    assert (tmp_path / "f").read_text() == "0\n1\n2\n"  # each ran once


def test_broken_in_the_middle_of_a_write(remote: VersBackend, relay: Relay, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"old")
    run(remote.exec("true"))
    new = os.urandom(8 << 20)
    relay.drop_after(upstream=2 << 20)
    with pytest.raises(Unreachable, match="nothing is half-written"):
        run(remote.write(str(target), new, expect=version_of(b"old")))
    wait_for(lambda: os.listdir(tmp_path) == ["f"])
    assert target.read_bytes() == b"old"

    # Without an expected version it can be repeated, and is, once.
    relay.drop_after(upstream=2 << 20, then_refuse=True)
    with pytest.raises(Unreachable):
        run(remote.write(str(target), new))
    relay.refusing = False
    wait_for(lambda: os.listdir(tmp_path) == ["f"])
    assert target.read_bytes() == b"old"
    relay.drop_after(upstream=2 << 20)
    run(remote.write(str(target), new))
    assert target.read_bytes() == new


def test_broken_in_the_middle_of_a_read(remote: VersBackend, relay: Relay, tmp_path: Path) -> None:
    data = os.urandom(4 << 20)
    (tmp_path / "f").write_bytes(data)
    run(remote.exec("true"))
    connections = relay.accepted
    relay.drop_after(downstream=1 << 20)
    assert run(remote.read(f"{tmp_path}/f")).data == data
    assert relay.accepted == connections + 1


def test_broken_while_connecting(remote: VersBackend, relay: Relay) -> None:
    relay.drop_after(downstream=2000)
    with pytest.raises(Unreachable):
        run(remote.exec("true"))
    relay.drop_after()
    assert run(remote.exec("echo ok")).tail == b"ok\n"


def test_nobody_listens(remote: VersBackend, relay: Relay) -> None:
    relay.refusing = True
    with pytest.raises(Unreachable, match=str(remote.machine_id)):
        run(remote.exec("true"))
    relay.refusing = False
    assert run(remote.exec("echo ok")).tail == b"ok\n"


async def test_cancelled_in_the_middle_of_a_write(remote: VersBackend, relay: Relay, tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"old")
    await on_io(remote.exec("true"))
    relay.delay = 0.05
    task = asyncio.create_task(on_io(remote.write(str(target), os.urandom(16 << 20))))
    await asyncio.to_thread(wait_for, lambda: len(os.listdir(tmp_path)) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    relay.delay = 0
    await asyncio.to_thread(wait_for, lambda: os.listdir(tmp_path) == ["f"])
    assert target.read_bytes() == b"old"
    assert (await on_io(remote.exec("echo on"))).tail == b"on\n"


async def test_cancelled_while_connecting(remote: VersBackend, relay: Relay) -> None:
    relay.stall()
    task = asyncio.create_task(on_io(remote.exec("true")))
    await asyncio.to_thread(wait_for, lambda: relay.open)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    relay.resume()
    assert (await on_io(remote.exec("echo on"))).tail == b"on\n"


def test_closed_in_the_middle_of_a_command(remote: VersBackend, tmp_path: Path) -> None:
    with started(remote, tmp_path) as result:
        run(remote.close())
        with pytest.raises(Interrupted):
            result()
        wait_for(lambda: not alive(tmp_path))


# --- a network that stands still ---


@pytest.mark.usefixtures("impatient")
def test_stalled_before_a_call(remote: VersBackend, relay: Relay, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    path = str(tmp_path / "f")
    run(remote.exec("true"))
    relay.stall()
    for call in (
        lambda: remote.exec(f"echo ran >>{path}"),
        lambda: remote.read(path),
        lambda: remote.write(path, b"x" * (4 << 20)),
        lambda: remote.stat(path),
        lambda: remote.scan(str(tmp_path)),
    ):
        with pytest.raises((DeadlineExceeded, Unreachable), match=r"did not (answer|begin|start)"):
            run(call())
    relay.resume()
    relay.drop()
    assert run(remote.exec("echo ok")).tail == b"ok\n"


@pytest.mark.usefixtures("impatient")
def test_stalled_when_the_time_is_up(remote: VersBackend, relay: Relay, tmp_path: Path) -> None:
    with started(remote, tmp_path, timeout=2) as result:
        relay.stall()
        with pytest.raises(Unreachable, match="did not confirm"):
            result()
        relay.resume()
        wait_for(lambda: not alive(tmp_path))


@pytest.mark.usefixtures("impatient")
def test_stalled_while_connecting(remote: VersBackend, relay: Relay) -> None:
    relay.stall()
    with pytest.raises(DeadlineExceeded, match="did not answer in time"):
        run(remote.exec("true"))
    relay.resume()
    assert run(remote.exec("echo ok")).tail == b"ok\n"


def test_many_stalled_writes_hold_up_no_other_machine(remote: VersBackend, relay: Relay, openssh: Platform, tmp_path: Path) -> None:
    """Sends that are stuck for one machine must not use up what all machines share."""
    client = openssh.client()
    other = UserBackend(client, openssh.new_vm())
    run(other.exec("true"))
    run(remote.exec("true"))

    async def race() -> ExecResult:
        writes = [asyncio.create_task(remote.write(f"{tmp_path}/f{number}", bytes(4 << 20))) for number in range(40)]
        try:
            await asyncio.sleep(1.0)  # until the windows are full
            async with asyncio.timeout(60):
                return await other.exec("echo free")
        finally:
            for write in writes:
                write.cancel()
            await asyncio.gather(*writes, return_exceptions=True)

    run(remote.exec("true"))
    relay.stall()
    try:
        assert run(race()).tail == b"free\n"
    finally:
        relay.resume()
        run(other.close())
        run(client.aclose())


def test_slow_network_costs_one_round_trip_a_call(remote: VersBackend, relay: Relay) -> None:
    run(remote.exec("true"))
    wait_for(lambda: remote._pool._spares)
    relay.delay = 0.2
    times = []
    # A second round trip would make every call slower; other work on this machine does not slow down all of them.
    while not times or (min(times) >= 0.75 and len(times) < 20):
        begun = time.monotonic()
        assert run(remote.exec("echo far")).tail == b"far\n"
        times.append(time.monotonic() - begun)
    assert 0.4 <= min(times) < 0.75
    relay.delay = 0


# --- a server that is not the right one, or not there ---


def test_server_restarted(own_openssh: Platform) -> None:
    client = own_openssh.client()
    backend = UserBackend(client, own_openssh.new_vm())
    run(backend.exec("true"))
    known = backend.host_key
    assert known == own_openssh.sshd.fingerprint
    own_openssh.sshd.stop()
    run(backend.close())
    with pytest.raises(Unreachable, match=str(backend.machine_id)):
        run(backend.exec("true"))
    own_openssh.sshd.start()
    assert run(backend.exec("echo ok")).tail == b"ok\n"
    assert backend.host_key == known
    run(backend.close())
    run(client.aclose())


def test_another_host_key(own_openssh: Platform) -> None:
    client = own_openssh.client()
    backend = UserBackend(client, own_openssh.new_vm())
    run(backend.exec("true"))
    old = own_openssh.sshd.fingerprint
    own_openssh.sshd.new_host_key()
    run(backend.close())
    for _ in range(2):
        with pytest.raises(Unreachable, match="vers_vm_use") as caught:
            run(backend.exec("true"))
        assert old in str(caught.value)
        assert own_openssh.sshd.fingerprint in str(caught.value)
    pinned = UserBackend(client, str(backend.machine_id), host_key=own_openssh.sshd.fingerprint)
    assert run(pinned.exec("echo ok")).tail == b"ok\n"
    run(pinned.close())
    run(client.aclose())


@contextmanager
def front_with(openssh: Platform, network: NetworkThread, authority: Authority, name: str) -> Iterator[VersBackend]:
    """A backend whose way leads through a front with another certificate."""
    front = TlsFront(network, authority.server_context(name), openssh.front.targets)
    client = openssh.client(front.endpoint)
    try:
        yield UserBackend(client, openssh.new_vm())
    finally:
        front.close()
        run(client.aclose())


def test_certificate_of_another_authority(openssh: Platform, network: NetworkThread, tmp_path: Path) -> None:
    with (
        front_with(openssh, network, Authority(tmp_path, "stranger"), "*.vm.vers.sh") as backend,
        pytest.raises(Unreachable, match=r"certificate .* was refused .* VERS_CA_FILE"),
    ):
        run(backend.exec("true"))


def test_certificate_of_another_name(openssh: Platform, network: NetworkThread) -> None:
    with front_with(openssh, network, openssh.authority, "*.example.org") as backend, pytest.raises(Unreachable, match="certificate"):
        run(backend.exec("true"))


def test_name_that_the_front_does_not_know(openssh: Platform) -> None:
    client = openssh.client()
    backend = UserBackend(client, openssh.new_vm())
    del openssh.front.targets[f"{backend.machine_id}.vm.vers.sh"]
    with pytest.raises(Unreachable, match="check that the machine"):
        run(backend.exec("true"))
    run(client.aclose())


def test_certificate_file_that_is_not_there(openssh: Platform, tmp_path: Path) -> None:
    client = openssh.client(ca_file=tmp_path / "nothing.pem")
    backend = UserBackend(client, openssh.new_vm())
    with pytest.raises(BadInput, match=r"nothing\.pem"):
        run(backend.exec("true"))
    run(client.aclose())


# --- keys and states ---


def test_refused_key_is_fetched_anew(own_openssh: Platform, tmp_path: Path) -> None:
    client = own_openssh.client()
    vm_id = own_openssh.new_vm()
    backend = UserBackend(client, vm_id)
    own_openssh.api.machines[vm_id]["key"] = make_key(tmp_path / "stranger")
    with pytest.raises(Denied, match="refused the machine's SSH key"):
        run(backend.exec("true"))
    own_openssh.api.machines[vm_id]["key"] = own_openssh.sshd.private_key
    assert run(backend.exec("echo in")).tail == b"in\n"

    # The key is changed while the backend holds the old one.
    own_openssh.api.machines[vm_id]["key"] = make_key(tmp_path / "next")
    own_openssh.sshd.authorized.write_bytes((tmp_path / "next.pub").read_bytes())
    run(backend.close())
    assert run(backend.exec("echo again")).tail == b"again\n"
    run(backend.close())
    run(client.aclose())


def test_key_that_is_none(openssh: Platform) -> None:
    client = openssh.client()
    vm_id = openssh.new_vm()
    openssh.api.machines[vm_id]["key"] = "-----BEGIN SECRET-----\nzzz\n"
    with pytest.raises(BadInput, match="not a private key") as caught:
        run(UserBackend(client, vm_id).exec("true"))
    assert "zzz" not in str(caught.value)
    run(client.aclose())


def test_machine_deleted_behind_our_back(remote: VersBackend, relay: Relay, openssh: Platform) -> None:
    run(remote.exec("true"))
    assert remote.machine_id is not None
    del openssh.api.machines[remote.machine_id]
    relay.refusing = True
    relay.drop()
    for call in (lambda: remote.exec("true"), lambda: remote.read("/f"), lambda: remote.write("/tmp/f", b"")):
        with pytest.raises(Gone, match=f"{remote.machine_id} does not exist any more"):
            run(call())


@pytest.mark.parametrize(
    ("state", "error"), [("paused", Conflict), ("sleeping", Conflict), ("stopped", Gone), ("dead", Gone), ("booting", Unreachable)]
)
def test_state_of_a_machine_that_does_not_answer(
    remote: VersBackend, relay: Relay, openssh: Platform, state: str, error: type[Exception]
) -> None:
    assert remote.machine_id is not None
    openssh.api.machines[remote.machine_id]["state"] = state
    relay.refusing = True
    with pytest.raises(error, match=remote.machine_id):
        run(remote.exec("true"))


# --- many at once, and what is left ---


def test_fifty_at_once_over_few_connections(remote: VersBackend, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSH allows 10 sessions on a connection; further ones are opened as needed and given back when idle."""

    async def all_of_them() -> list[ExecResult]:
        return await asyncio.gather(*(remote.exec(f"sleep 0.5; echo {number}") for number in range(50)))

    assert [result.tail for result in run(all_of_them())] == [b"%d\n" % number for number in range(50)]
    assert 50 / 10 <= relay.accepted <= 12
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.3)
    run(remote.exec("true"))
    wait_for(lambda: relay.open == 1)
    assert run(remote.exec("echo ok")).tail == b"ok\n"


def test_server_that_allows_fewer_sessions(tmp_path: Path, network: NetworkThread) -> None:
    platform = Platform(tmp_path / "strict", network, "MaxSessions 2")
    client = platform.client()
    backend = UserBackend(client, platform.new_vm())

    async def all_of_them() -> list[ExecResult]:
        return await asyncio.gather(*(backend.exec(f"sleep 0.2; echo {number}") for number in range(6)))

    try:
        assert [result.tail for result in run(all_of_them())] == [b"%d\n" % number for number in range(6)]
    finally:
        run(backend.close())
        run(client.aclose())
        platform.close()


def test_closing_leaves_nothing(openssh: Platform) -> None:
    def mine() -> tuple[int, set[str]]:
        me = psutil.Process()
        connections = [each for each in me.net_connections() if each.raddr and each.raddr.port == openssh.front.address[1]]
        return len(connections), {thread.name for thread in threading.enumerate() if "Thread-" in thread.name}

    before = mine()
    client = openssh.client()
    backend = UserBackend(client, openssh.new_vm())
    run(backend.exec("true"))
    assert mine()[0] > before[0]
    run(backend.close())
    run(client.aclose())
    wait_for(lambda: mine() == before)


# --- secrets ---


@contextmanager
def files_written() -> Iterator[list[str]]:
    """The files that this process opens for writing."""
    written: list[str] = []
    active = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if active and event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(str(arguments[0]))

    sys.addaudithook(hook)
    try:
        yield written
    finally:
        active = False


def test_the_key_is_nowhere_to_be_seen(own_openssh: Platform, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Not in logs at their most talkative, not in representations, not in errors, not in files."""
    caplog.set_level(logging.DEBUG)
    for name in ("paramiko", "paramiko.transport", "httpx", "httpcore", "asyncio", "langchain_vers"):
        caplog.set_level(logging.DEBUG, logger=name)
    client: VersClient = own_openssh.client()
    backend = UserBackend(client, own_openssh.new_vm())
    with files_written() as written:
        run(backend.exec("true"))
        run(backend.read("/etc/hostname"))
    assert not [name for name in written if not name.startswith("/dev/")]
    own_openssh.sshd.authorized.write_bytes(b"")
    run(backend.close())
    with pytest.raises(Denied) as caught:
        run(backend.exec("true"))
    shown = "\n".join([caplog.text, repr(backend), repr(vars(backend)), repr(client), repr(caught.value), str(caught.value)])
    body = "".join(own_openssh.sshd.private_key.splitlines()[1:-1])
    assert caplog.records
    pieces = [body[start : start + 24] for start in range(60, len(body) - 24, 8)]
    assert not [piece for piece in pieces if piece in shown]
    assert "rig-api-key" not in shown
    run(client.aclose())
    assert fingerprint_of(own_openssh.sshd.folder / "host.pub") == backend.host_key
    assert hashlib.sha256(body.encode()).hexdigest() not in shown
    assert io.is_current() is False
