"""What VersBackend over HTTP does when the network, the server or the machine fails.

The peer is an embedded Vers, with a network before its API that can break. Its machines are processes of this machine, so the tests look at
them and at their files directly.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from rigs.embedded import EmbeddedVers
from rigs.network import NetworkThread, Relay
from rigs.waiting import alive, wait_for

from langchain_vers import idle
from langchain_vers._io import on_io, run
from langchain_vers.backends import http_process, sessions, vers_http
from langchain_vers.backends.base import ExecResult, version_of
from langchain_vers.backends.stamps import Guard, Stamp, this_process
from langchain_vers.backends.vers import VersBackend
from langchain_vers.context import BackendContext
from langchain_vers.errors import BadInput, Conflict, Denied, Gone, Interrupted, TakenOver, Unreachable
from langchain_vers.platform import Credentials, Endpoints, VersClient
from langchain_vers.toolkit import VersToolkit

SLEEPER = """
echo $$ >{0}/shell.pid
setsid sh -c 'echo $$ >{0}/away.pid; exec sleep 300' &
while [ ! -s {0}/away.pid ]; do :; done
echo up
while [ ! -e {0}/go ]; do sleep 0.02; done
{1}
"""
"""A command with a process in another session; it says "up" when all of it runs, and goes on when it may."""


@pytest.fixture
def way(processes: EmbeddedVers, network: NetworkThread) -> Iterator[Relay]:
    """The network before the API."""
    host, _, port = processes.info.base_url.split("/")[2].partition(":")
    relay = Relay(network, (host, int(port)))
    yield relay
    relay.close()


@pytest.fixture
def client(processes: EmbeddedVers, way: Relay) -> Iterator[VersClient]:
    """A client that knows the API by way of `way`, and soon gives up asking again by itself."""
    endpoints = Endpoints.resolve(f"http://{way.endpoint}", "127.0.0.1:1", None, environ={})
    client = VersClient(Credentials(processes.info.api_key), endpoints, backoff=0.01, retries=1)
    yield client
    run(client.aclose())


@pytest.fixture
def remote(client: VersClient) -> Iterator[VersBackend]:
    backend = VersBackend(client, run(client.create_vm(wait_boot=True)), transport="http")
    yield backend
    run(backend.close())


@contextmanager
def started(
    backend: VersBackend,
    folder: Path,
    then: str = "echo down",
    timeout: float | None = None,
    on_output: Callable[[bytes], None] | None = None,
) -> Iterator[Callable[[], ExecResult]]:
    """The sleeping command, begun in a thread; what is yielded waits for its end."""
    up = threading.Event()
    outcome: list[ExecResult | BaseException] = []

    def heard(data: bytes) -> None:
        if on_output is not None:
            on_output(data)
        if b"up" in data:
            up.set()

    def call() -> None:
        try:
            outcome.append(run(backend.exec(SLEEPER.format(folder, then), timeout=timeout, on_output=heard)))
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
        assert up.wait(60), outcome
        yield result
    finally:
        for file in folder.glob("*.pid"):
            try:
                os.kill(int(file.read_text()), 9)
            except ProcessLookupError:
                continue
        thread.join(60)


# --- a connection that breaks ---


def test_stream_is_taken_up_again(remote: VersBackend, way: Relay, tmp_path: Path) -> None:
    with started(remote, tmp_path) as result:
        accepted = way.accepted
        for number in range(1, 4):
            way.drop()
            wait_for(lambda number=number: way.accepted >= accepted + number and way.open)
        (tmp_path / "go").touch()
        ended = result()
    assert (ended.tail, ended.exit_code) == (b"up\ndown\n", 0)
    assert ended.reconnects >= 1
    wait_for(lambda: remote.losses)


def test_long_output_over_a_network_that_breaks(remote: VersBackend, way: Relay, tmp_path: Path) -> None:
    heard = hashlib.sha256()
    whole = b"".join(b"%d\n" % i for i in range(1, 200_001))
    with started(remote, tmp_path, "seq 1 200000", on_output=heard.update) as result:
        way.drop_after(downstream=300_000)
        (tmp_path / "go").touch()
        wait_for(lambda: way._downstream_left is None)
        way.drop_after(downstream=500_000)
        ended = result()
    assert heard.hexdigest() == hashlib.sha256(b"up\n" + whole).hexdigest()
    assert (ended.total_bytes, ended.exit_code) == (len(whole) + 3, 0)
    assert ended.log_path is not None


def test_more_is_printed_than_the_platform_keeps(remote: VersBackend, way: Relay, tmp_path: Path) -> None:
    """What was printed while there was no network is read from the machine's log: not a byte is missing or comes twice."""
    heard = hashlib.sha256()
    count = 2_000_000
    then = f"seq 1 {count}; touch {tmp_path}/printed; while [ ! -e {tmp_path}/end ]; do sleep 0.02; done; echo end; exit 3"
    with started(remote, tmp_path, then, on_output=heard.update) as result:
        way.refusing = True
        way.drop()
        (tmp_path / "go").touch()
        wait_for((tmp_path / "printed").exists)
        way.refusing = False
        wait_for(lambda: way.open)
        (tmp_path / "end").touch()
        ended = result()
    whole = b"up\n" + b"".join(b"%d\n" % i for i in range(1, count + 1)) + b"end\n"
    assert heard.hexdigest() == hashlib.sha256(whole).hexdigest()
    assert (ended.total_bytes, ended.total_newlines, ended.exit_code) == (len(whole), count + 2, 3)
    assert ended.tail == whole[-remote.tail_limit :]


def test_broken_while_a_call_is_begun(remote: VersBackend, way: Relay, tmp_path: Path) -> None:
    """Wherever the connection breaks, the command has run once, or not at all and says so."""
    for number, upstream in enumerate(range(100, 16_000, 1500)):
        way.drop()
        way.drop_after(upstream=upstream)
        assert run(remote.exec(f"echo {number} >>{tmp_path}/f; echo {number}")).tail == b"%d\n" % number
    for number in range(20, 25):
        way.drop()
        way.drop_after(downstream=number * 4)
        assert run(remote.exec(f"echo {number} >>{tmp_path}/f; echo {number}")).tail == b"%d\n" % number
    lines = (tmp_path / "f").read_text().split()
    assert lines == [*map(str, range(11)), *map(str, range(20, 25))]


def test_broken_while_files_are_written_and_read(remote: VersBackend, way: Relay, tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    path = str(tmp_path / "f")
    for _ in range(2):
        way.drop_after(upstream=3 << 20)
        run(remote.write(path, data))
        way.drop_after(downstream=3 << 20)
        assert run(remote.read(path)).data == data
    assert os.listdir(tmp_path) == ["f"]
    assert not list(Path("/tmp").glob(".vers-part-*"))


def test_written_in_parts(remote: VersBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vers_http, "PART_BYTES", 100_000)
    data = os.urandom(250_001)
    run(remote.write(f"{tmp_path}/f", data, mode=0o640))
    assert (tmp_path / "f").read_bytes() == data
    with pytest.raises(Conflict):
        run(remote.write(f"{tmp_path}/f", data[::-1], expect=version_of(b"other")))
    assert (tmp_path / "f").read_bytes() == data
    assert not list(Path("/tmp").glob(".vers-part-*"))


def test_nobody_listens(remote: VersBackend, way: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_process, "BEGIN_SECONDS", 0.5)
    calls: list[Callable[[], Any]] = [
        lambda: remote.exec("true"),
        lambda: remote.read("/etc/hostname"),
        lambda: remote.write(f"{tmp_path}/f", b""),
        lambda: remote.write(f"{tmp_path}/f", bytes(100_000)),
    ]
    way.refusing = True
    way.drop()
    for call in calls:
        with pytest.raises(Unreachable) as caught:
            run(call())
        assert caught.value.machine_id == remote.machine_id
    way.refusing = False
    assert run(remote.exec("echo ok")).tail == b"ok\n"
    way.close()
    for call in calls:  # nothing can have been sent: there is nothing to ask for again
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1 could not be reached"):
            run(call())


def test_network_that_does_not_come_back(remote: VersBackend, way: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call ends with what is known, and the machine kills the command when its time is long up."""
    monkeypatch.setattr(http_process, "REATTACH_SECONDS", 1.0)
    monkeypatch.setattr(sessions, "BACKSTOP_SECONDS", 1.0)
    with started(remote, tmp_path, timeout=5) as result:
        way.refusing = True
        way.drop()
        with pytest.raises(Interrupted, match="may have run in part, and runs on") as caught:
            result()
        assert caught.value.output == b"up\n"
        wait_for(lambda: not alive(tmp_path))
    way.refusing = False
    assert run(remote.exec("echo again")).tail == b"again\n"


def test_network_that_stands_still(remote: VersBackend, way: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is noticed, and what came meanwhile is there when the network moves again."""
    monkeypatch.setattr(http_process, "SILENT_SECONDS", 0.3)
    with started(remote, tmp_path) as result:
        accepted = way.accepted
        way.stall()
        (tmp_path / "go").touch()
        wait_for(lambda: way.accepted > accepted)
        way.resume()
        ended = result()
    assert (ended.tail, ended.exit_code) == (b"up\ndown\n", 0)


def test_killed_although_the_stream_is_lost(remote: VersBackend, way: Relay, tmp_path: Path) -> None:
    with started(remote, tmp_path, timeout=2) as result:
        way.drop()
        ended = result()
        assert (ended.timed_out, ended.exit_code, ended.tail) == (True, None, b"up\n")
        assert not alive(tmp_path)


def test_stopped_without_a_network(remote: VersBackend, way: Relay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "KILL_SECONDS", 1.0)
    with started(remote, tmp_path, timeout=2) as result:
        way.refusing = True
        way.drop()
        with pytest.raises(Unreachable, match="did not confirm"):
            result()


def test_closed_in_the_middle_of_a_command(remote: VersBackend, tmp_path: Path) -> None:
    with started(remote, tmp_path) as result:
        run(remote.close())
        with pytest.raises(Interrupted):
            result()
        wait_for(lambda: not alive(tmp_path))


async def test_callback_that_raises(remote: VersBackend, tmp_path: Path) -> None:
    def on_output(_: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await on_io(remote.exec(f"echo $$ >{tmp_path}/it.pid; echo up; sleep 300", on_output=on_output))
    await asyncio.to_thread(wait_for, lambda: not alive(tmp_path))


# --- a machine or a server that is not there ---


def test_server_that_was_restarted(tmp_path: Path) -> None:
    server = EmbeddedVers(tmp_path / "data", "process")
    try:
        backend = server.new_backend(transport="http")
        with started(backend, tmp_path) as result:
            server.kill()
            server.start()
            with pytest.raises((Interrupted, Unreachable)):
                result()
        run(backend.close())
    finally:
        server.close()


def test_states_of_a_machine(remote: VersBackend, client: VersClient) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: remote.exec("echo ran"),
        lambda: remote.read("/etc/hostname"),
        lambda: remote.write("f", bytes(100_000)),
    ]
    run(client.set_vm_state(remote.machine_id, "paused"))
    for call in calls:
        with pytest.raises(Conflict, match="resume it with vers_vm_state"):
            run(call())
    run(client.label_vm(remote.machine_id, {idle.IDLE_LABEL: "1"}))  # as if it had been idle
    assert run(remote.exec("echo awake")).tail == b"awake\n"
    run(client.delete_vm(remote.machine_id))
    for call in calls:
        with pytest.raises(Gone, match=f"{remote.machine_id} does not exist any more"):
            run(call())


def test_deleted_in_the_middle_of_a_command(remote: VersBackend, client: VersClient, tmp_path: Path) -> None:
    with started(remote, tmp_path) as result:
        run(client.delete_vm(remote.machine_id))
        with suppress(Gone, Unreachable):
            assert result().exit_code == 137


def test_wrong_key(processes: EmbeddedVers, remote: VersBackend) -> None:
    endpoints = Endpoints.resolve(processes.info.base_url, "127.0.0.1:1", None, environ={})
    stranger = VersClient(Credentials("vers_wrong"), endpoints)
    with pytest.raises(Denied):
        run(VersBackend(stranger, remote.machine_id, transport="http").exec("true"))
    run(stranger.aclose())


# --- whose the machine is ---


def test_guarded_calls(remote: VersBackend) -> None:
    version = "0" * 35 + "1"
    assert run(remote.look()) is None
    run(remote.take(Stamp(version, this_process(), 60)))
    mine = remote.guarded(Guard(this_process(), 60.0, version="0" * 35 + "2"))
    assert run(mine.exec("echo mine")).tail == b"mine\n"
    run(mine.write("f", bytes(100_000)))
    found = run(remote.look())
    assert found is not None and found.version == "0" * 35 + "2"
    other = remote.guarded(Guard("f" * 32, 60.0, version=version))
    with pytest.raises(TakenOver):
        run(other.exec("touch ran"))
    for data in (b"short", bytes(100_000)):
        with pytest.raises(TakenOver):
            run(other.write("g", data))
    assert run(remote.exec("ls")).tail == b"f\n"
    assert not list(Path("/tmp").glob(".vers-part-*"))


# --- what can be seen, and what is left ---


def test_what_is_told_is_in_no_argument_list(remote: VersBackend) -> None:
    look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'hidden[-]word'"
    assert run(remote.exec(look, env={"TOKEN": "hid" + "den-word"}, stdin=b"hid" + b"den-word")).tail == b"0\n"


def test_nothing_is_left_on_the_machine(namespaces: EmbeddedVers) -> None:
    backend = namespaces.new_backend(transport="http")
    client = backend._client

    def left() -> list[str]:
        """Files of ours, and processes that wait for a time limit that no longer matters, by way of the platform itself."""
        look = "cd /tmp; ls -d .vers* vers-*/*; cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -x '2147[4]83647\\|8[0]'"
        return run(client.exec(backend.machine_id, ["bash", "-c", look])).stdout.split()

    run(backend.exec("echo one", stdin=b"two"))
    run(backend.write("f", bytes(100_000)))
    run(backend.exec("sleep 300", timeout=0.5))
    found = run(backend.exec("sh -c 'echo $$ >it.pid; exec sleep 300' & while [ ! -s it.pid ]; do :; done; echo up", timeout=20))
    assert (found.tail, found.exit_code) == (b"up\n", 0)
    assert "80" in left()
    run(client.exec(backend.machine_id, ["sh", "-c", "kill -9 $(cat /root/it.pid)"]))
    assert found.log_path is not None
    run(client.exec(backend.machine_id, ["rm", found.log_path]))
    wait_for(lambda: all(name.endswith(".log") for name in left()))  # of the command that was killed
    assert len(left()) == 1
    run(backend.close())


@pytest.mark.parametrize("transport", ["", "HTTP", "ftp", None, 1])
def test_transports_that_are_none(remote: VersBackend, transport: Any) -> None:
    with pytest.raises(BadInput, match="transport"):
        BackendContext(transport=transport)
    with pytest.raises(BadInput, match="transport"):
        VersBackend(remote._client, remote.machine_id, transport=transport)
    if transport is not None:
        with pytest.raises(BadInput, match="transport"):
            VersToolkit(transport=transport)


def test_another_machine_goes_over_the_same(remote: VersBackend) -> None:
    other = remote.at(run(remote.branch())[0])
    assert other.transport == "http"
    assert run(other.exec("echo there")).tail == b"there\n"
    run(other.close())
