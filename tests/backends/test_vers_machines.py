"""VersBackend on machines of the embedded Vers: what happens when a VM is paused, deleted, full, or its server is killed; two VMs side by
side.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.embedded import EmbeddedVers, SmallDiskVers
from rigs.network import NetworkThread, Relay

from langchain_vers._io import run
from langchain_vers.backends import sessions
from langchain_vers.backends.base import version_of
from langchain_vers.backends.vers import VersBackend
from langchain_vers.errors import Conflict, DeadlineExceeded, DiskFull, Gone, Interrupted, Unreachable
from langchain_vers.platform import tunnel


@pytest.fixture
def machine(processes: EmbeddedVers) -> Iterator[VersBackend]:
    backend = processes.new_backend()
    yield backend
    run(backend.close())


@pytest.mark.parametrize("connected", [True, False])
def test_deleted_behind_our_back(machine: VersBackend, processes: EmbeddedVers, connected: bool) -> None:
    if connected:
        run(machine.exec("true"))
    assert machine.machine_id is not None
    run(processes.client().delete_vm(machine.machine_id))
    for call in (lambda: machine.exec("true"), lambda: machine.read("/etc/hostname"), lambda: machine.write("f", b"")):
        with pytest.raises(Gone, match=f"{machine.machine_id} does not exist any more"):
            run(call())


def test_deleted_while_a_command_runs(machine: VersBackend, processes: EmbeddedVers) -> None:
    """The command ends at once, as killed or as interrupted, with its output; the next call says what has happened."""
    client = processes.client()
    deleting: list[asyncio.Task[str]] = []

    def delete(_: bytes) -> None:
        assert machine.machine_id is not None
        deleting.append(asyncio.get_running_loop().create_task(client.delete_vm(machine.machine_id)))

    async def command() -> bytes:
        try:
            result = await machine.exec("echo up; sleep 300", on_output=delete)
            assert result.exit_code == 137
            return result.tail
        except Interrupted as error:
            return error.output
        finally:
            await asyncio.gather(*deleting)

    assert run(command()) == b"up\n"
    with pytest.raises(Gone):
        run(machine.exec("true"))


def test_paused_behind_our_back(machine: VersBackend, processes: EmbeddedVers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(tunnel, "OPEN_SECONDS", 1.0)
    client = processes.client()
    run(machine.exec("true"))
    assert machine.machine_id is not None
    run(client.set_vm_state(machine.machine_id, "paused"))
    for call in (lambda: machine.exec("echo ran"), lambda: machine.read("/etc/hostname"), lambda: machine.stat("/")):
        with pytest.raises((Conflict, Unreachable, DeadlineExceeded), match=r"paused|vers_vms"):
            run(call())
    run(client.set_vm_state(machine.machine_id, "running"))
    monkeypatch.undo()
    assert run(machine.exec("echo awake")).tail == b"awake\n"


def test_server_killed_and_started_again(tmp_path: Path, network: NetworkThread) -> None:
    """The VM, its disk and its host key are the same afterwards; what ran is `Interrupted`; meanwhile it is `Unreachable`."""
    server = EmbeddedVers(tmp_path / "data", "process")
    relay = Relay(network, server.info.ssh_endpoint)
    try:
        backend = server.new_backend(relay.endpoint)
        run(backend.write("kept", b"kept"))
        known = backend.host_key
        assert known is not None

        def kill(_: bytes) -> None:
            server.kill()

        with pytest.raises(Interrupted) as caught:
            run(backend.exec("echo up; sleep 300", on_output=kill))
        assert caught.value.output == b"up\n"
        with pytest.raises(Unreachable, match=str(backend.machine_id)):
            run(backend.exec("true"))
        server.start()
        relay.target = server.info.ssh_endpoint
        again = VersBackend(server.client(relay.endpoint), str(backend.machine_id), host_key=known)
        assert run(again.read("kept")).data == b"kept"
        assert again.host_key == known
        run(again.close())
        run(backend.close())
    finally:
        relay.close()
        server.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallDiskVers]:
    server = SmallDiskVers(tmp_path_factory.mktemp("small"))
    yield server
    server.close()


def test_full_disk(small: SmallDiskVers) -> None:
    """`DiskFull`, the old file whole, nothing left; also when there is room for bytes but not for a further file."""
    backend = small.new_backend()
    old, place = b"old" * 1000, str(small.small)
    run(backend.write(f"{place}/f", old))
    for path in (f"{place}/f", f"{place}/new", f"{place}/sub/new"):
        with pytest.raises(DiskFull, match="old content is whole"):
            run(backend.write(path, bytes(4 << 20)))
    with pytest.raises(DiskFull):
        run(backend.write(f"{place}/f", bytes(1 << 20), expect=version_of(old)))
    assert run(backend.read(f"{place}/f")).data == old
    assert run(backend.exec(f"find {place} -type f")).tail.decode() == f"{place}/f\n"

    run(backend.exec(f"cd {place} && i=0; while true >n$i; do i=$((i + 1)); done 2>/dev/null"))
    with pytest.raises(DiskFull):
        run(backend.write(f"{place}/no-inode-left", b"x"))
    run(backend.close())


def test_no_room_for_a_log(small: SmallDiskVers) -> None:
    """Commands run and give their output and exit code also when there is no room for their log."""
    backend = small.new_backend()
    result = run(backend.exec("seq 1 20000; exit 3"))
    assert (result.total_newlines, result.exit_code) == (20000, 3)
    assert result.tail == b"".join(b"%d\n" % number for number in range(1, 20001))
    result = run(backend.exec("echo next; cd /"))
    assert (result.tail, result.exit_code) == (b"next\n", 0)
    run(backend.close())


def test_two_machines_never_mix(processes: EmbeddedVers) -> None:
    """Calls on two backends side by side: output, directories and files are each one's own."""
    client = processes.client()
    backends = [VersBackend(client, run(client.create_vm(wait_boot=True))) for _ in range(2)]

    async def use(index: int, number: int) -> None:
        backend = backends[index]
        data = hashlib.sha256(b"%d %d" % (index, number)).digest() * 2000
        await backend.write(f"f{number}", data)
        result = await backend.exec(f"sha256sum <f{number}; echo {index} {number}")
        assert result.tail.decode().split() == [version_of(data), "-", str(index), str(number)]
        assert (await backend.read(f"f{number}")).data == data

    async def all_of_them() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                for index in range(2):
                    group.create_task(use(index, number))

    run(all_of_them())
    for backend in backends:
        run(backend.close())
    assert len({backend.host_key for backend in backends}) == 2
