"""What DockerBackend does when the engine, the container or the connection fails: its own sentence for each, and the next call works.

The engine is a real one of the tests' own, reached over its socket, or by TLS through a network that can break.
"""

from __future__ import annotations

import asyncio
import gc
import io as text_io
import os
import tarfile
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from rigs.docker import IMAGE, ContainerEngine, Dockerd
from rigs.network import NetworkThread, Relay
from rigs.users import ordinary_user

from langchain_vers._io import on_io, run
from langchain_vers.backends import sessions
from langchain_vers.backends.base import ExecResult
from langchain_vers.backends.docker import DockerBackend
from langchain_vers.errors import BadInput, Denied, Gone, Interrupted, Unreachable

pytestmark = pytest.mark.full

ENDLESS = "echo $$ >/tmp/it.pid; echo up; sleep 300"


@pytest.fixture
def backend(dockerd: ContainerEngine) -> Iterator[DockerBackend]:
    backend = dockerd.backend()
    run(backend.exec("true"))
    yield backend
    run(backend.close())
    dockerd.clear()


@pytest.fixture
def relay(dockerd: Dockerd, network: NetworkThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The network between this side and the engine's TLS port."""
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(dockerd.certificates))
    relay = Relay(network, ("127.0.0.1", dockerd.port))
    yield relay
    relay.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


async def at_rest(backend: DockerBackend) -> None:
    """Wait until no process is being started: one that is paused then may hang in the engine for ever."""

    async def rests() -> bool:
        return not backend._container._starting

    await until(rests)


async def broken(backend: DockerBackend, breaking: Callable[[], object], **options: Any) -> ExecResult:
    """A command that is running when something happens."""
    loop, up = asyncio.get_running_loop(), asyncio.Event()

    def on_output(_: bytes) -> None:
        loop.call_soon_threadsafe(up.set)

    task = asyncio.create_task(on_io(backend.exec(ENDLESS, on_output=on_output, **options)))
    await asyncio.wait_for(up.wait(), 60)
    await at_rest(backend)
    await asyncio.to_thread(breaking)
    return await task


# --- the engine ---


def test_a_user_who_may_not(dockerd: ContainerEngine) -> None:
    dockerd.folder.chmod(0o755)
    with ordinary_user(), pytest.raises(Denied, match="may not use the container engine"):
        run(dockerd.backend().exec("true"))


def test_no_such_image(dockerd: ContainerEngine) -> None:
    with pytest.raises(Gone, match=r"no image no-such:1; fetch it with `docker pull no-such:1`"):
        run(dockerd.backend("no-such:1").exec("true"))


def test_no_such_container(dockerd: ContainerEngine) -> None:
    backend = dockerd.backend(None, container="nobody")
    for call in (backend.exec("true"), backend.read("/f"), backend.snapshot(), backend.branch()):
        with pytest.raises(Gone, match="container nobody does not exist any more"):
            run(call)


def test_an_image_without_a_shell(dockerd: ContainerEngine) -> None:
    archive = text_io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    dockerd.api.import_image_from_data(archive.getvalue(), repository="tests-empty", tag="latest")
    try:
        with pytest.raises(BadInput, match="no POSIX shell"):
            run(dockerd.backend("tests-empty").exec("true"))
        assert dockerd.containers() == set()
    finally:
        dockerd.api.remove_image("tests-empty")


# The SDK does not close a socket that it could not connect; collected at the end, so that no other test is blamed.
@pytest.mark.filterwarnings("ignore:.*socket.socket.*:pytest.PytestUnraisableExceptionWarning")
async def test_an_engine_that_ends_and_is_started_again() -> None:
    engine = await asyncio.to_thread(Dockerd)
    backend = engine.backend()
    try:
        with pytest.raises(Interrupted, match=r"no container engine answers|does not run") as error:
            await broken(backend, engine.stop)
        assert error.value.output == b"up\n"
        for call in (backend.exec("true"), backend.write("/f", b"")):
            with pytest.raises(Unreachable, match="no container engine answers"):
                await on_io(call)
        await asyncio.to_thread(engine.start)
        with pytest.raises(Unreachable, match="docker start"):
            await on_io(backend.exec("true"))
        await asyncio.to_thread(engine.api.start, backend.machine_id)
        assert (await on_io(backend.exec("echo on"))).tail == b"on\n"
    finally:
        await on_io(backend.close())
        await asyncio.to_thread(engine.close)
        gc.collect()


# --- the container ---


async def test_a_container_that_is_stopped_while_a_command_runs(dockerd: ContainerEngine, backend: DockerBackend) -> None:
    with pytest.raises(Interrupted, match=r"does not run: it is exited.*has run in part") as error:
        await broken(backend, lambda: dockerd.api.kill(backend.machine_id))
    assert (error.value.output, error.value.machine_id) == (b"up\n", backend.machine_id)
    for call in (backend.exec("true"), backend.read("/etc/passwd"), backend.exec("cat", stdin=b"1")):
        with pytest.raises(Unreachable, match="docker start"):
            await on_io(call)
    await asyncio.to_thread(dockerd.api.start, backend.machine_id)
    assert (await on_io(backend.exec("echo on"))).tail == b"on\n"


async def test_a_container_that_is_removed_while_a_command_runs(dockerd: ContainerEngine, backend: DockerBackend) -> None:
    with pytest.raises(Interrupted, match=r"does not exist any more.*has run in part"):
        await broken(backend, lambda: dockerd.api.remove_container(backend.machine_id, force=True))
    for call in (backend.snapshot, backend.branch, lambda: backend.exec("true"), lambda: backend.stat("/")):
        with pytest.raises(Gone, match="does not exist any more"):
            await on_io(call())
    assert await asyncio.to_thread(dockerd.containers) == set()


async def test_a_paused_container(dockerd: ContainerEngine, backend: DockerBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ANSWER_SECONDS", 1.0)
    await at_rest(backend)
    await asyncio.to_thread(dockerd.api.pause, backend.machine_id)
    for call in (backend.exec("true"), backend.stat("/"), backend.write("/f", b"1")):
        with pytest.raises(Unreachable, match="docker unpause"):
            await on_io(call)
    await asyncio.to_thread(dockerd.api.unpause, backend.machine_id)
    monkeypatch.undo()
    assert (await on_io(backend.exec("test -e /f; echo $?"))).tail in (b"1\n", b"0\n")


async def test_a_command_that_cannot_be_stopped_in_a_paused_container(
    dockerd: ContainerEngine, backend: DockerBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not reported as stopped."""
    monkeypatch.setattr(sessions, "KILL_SECONDS", 1.0)
    with pytest.raises(Unreachable, match="docker unpause"):
        await broken(backend, lambda: dockerd.api.pause(backend.machine_id), timeout=1)
    await asyncio.to_thread(dockerd.api.unpause, backend.machine_id)


async def test_deleting_while_a_command_runs(backend: DockerBackend) -> None:
    with pytest.raises(Interrupted, match="does not exist any more"):
        await broken(backend, lambda: run(backend.delete()))


# --- the connection ---


async def test_over_tls(dockerd: Dockerd, relay: Relay) -> None:
    backend = DockerBackend(IMAGE, url=f"tcp://localhost:{dockerd.port}")
    try:
        data = os.urandom(2_000_000)
        await on_io(backend.write("/root/f", data))
        assert (await on_io(backend.read("/root/f"))).data == data
        assert (await on_io(backend.exec("cat; exit 3", stdin=b"in"))).exit_code == 3
        result = await on_io(backend.exec("sleep 300 & echo up; sleep 300", timeout=1))
        assert (result.timed_out, result.tail) == (True, b"up\n")
        assert (await on_io(backend.exec("ps -e | grep -c 'sleep$'"))).tail == b"1\n"
    finally:
        await on_io(backend.delete())
        await on_io(backend.close())


async def test_a_connection_that_breaks_while_a_command_runs(relay: Relay) -> None:
    backend = DockerBackend(IMAGE, url=f"tcp://localhost:{relay.address[1]}")
    try:
        with pytest.raises(Interrupted, match="broke while the command ran") as error:
            await broken(backend, relay.drop)
        assert error.value.output == b"up\n"

        async def dead() -> bool:
            return (await on_io(backend.exec("kill -0 $(cat /tmp/it.pid)"))).exit_code != 0

        await until(dead)
    finally:
        await on_io(backend.delete())
        await on_io(backend.close())


async def test_connections_that_died_while_idle(relay: Relay) -> None:
    backend = DockerBackend(IMAGE, url=f"tcp://localhost:{relay.address[1]}")
    try:
        for _ in range(3):
            assert (await on_io(backend.exec("echo on"))).tail == b"on\n"
            await on_io(backend.write("/f", b"1", expect=None))
            await asyncio.to_thread(relay.drop)
    finally:
        await on_io(backend.delete())
        await on_io(backend.close())


async def test_a_commit_waits_for_processes_that_are_being_started(backend: DockerBackend) -> None:
    """An engine that pauses a container while it starts a process in it may never get out of that again."""

    async def busy() -> list[str]:
        calls = [asyncio.create_task(backend.exec(f"echo {number}")) for number in range(6)]
        commits = [asyncio.create_task(backend.snapshot()) for _ in range(2)]
        more = [asyncio.create_task(backend.exec(f"echo {number}")) for number in range(4)]
        await asyncio.gather(*calls, *more)
        return await asyncio.gather(*commits)

    first, second = await on_io(busy())
    assert first != second
    for ref in (first, second):
        await on_io(backend.delete_snapshot(ref))
    with pytest.raises(Gone):
        await on_io(backend.delete_snapshot(first))
