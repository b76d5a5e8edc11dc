"""SSH over TLS to the machines of the embedded Vers: real sockets, real TLS, asyncssh and OpenSSH as clients."""

from __future__ import annotations

import asyncio
import hashlib
import os
import ssl
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncssh
import psutil
import pytest
from rigs.programs import require
from serving import Api, Server, ssh

MIB = 1024 * 1024


@dataclass
class Machine:
    """A VM and how to get into it."""

    server: Server
    api: Api
    vm_id: str
    key: str

    def connect(self, **options: Any) -> Any:
        return ssh(self.server.info, self.vm_id, self.key, **options)


@pytest.fixture
async def machine(vers_server: Server, api: Api) -> AsyncIterator[Machine]:
    vm_id = api.new_vm()
    yield Machine(vers_server, api, vm_id, api("GET", f"/vm/{vm_id}/ssh_key", 200)["ssh_private_key"])


async def until(condition: Any, seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


# -- who gets in


async def test_the_server_name_picks_the_machine_and_nothing_else_does(machine: Machine) -> None:
    context = ssl.create_default_context(cafile=machine.server.info.ca_file)
    context.check_hostname = False
    for name in (f"{uuid4()}.vm.vers.sh", f"{machine.vm_id}.vm.vers.sh.evil", machine.vm_id, "localhost", "vm.vers.sh", None):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            reader, _ = await asyncio.open_connection(*machine.server.info.ssh_endpoint, ssl=context, server_hostname=name or "")
            assert await reader.read(1) == b""
            raise ConnectionError
    upper = f"{machine.vm_id.upper()}.vm.vers.sh"
    async with machine.connect(server_name=upper) as connection:
        assert (await connection.run("echo in")).stdout == "in\n"


async def test_the_certificate_is_of_its_own_authority(machine: Machine) -> None:
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection(*machine.server.info.ssh_endpoint, ssl=context, server_hostname=f"{machine.vm_id}.vm.vers.sh")


async def test_only_root_with_the_machines_own_key_gets_in(machine: Machine) -> None:
    other = machine.api("GET", f"/vm/{machine.api.new_vm()}/ssh_key", 200)["ssh_private_key"]
    assert other != machine.key
    fresh = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    for key, user in ((other, "root"), (machine.key, "admin"), (fresh, "root")):
        with pytest.raises(asyncssh.PermissionDenied):
            async with ssh(machine.server.info, machine.vm_id, key, username=user):
                pass


async def test_a_copy_of_a_machine_has_its_host_key_and_another_machine_has_not(machine: Machine) -> None:
    async with machine.connect() as connection:
        host_key = connection.get_server_host_key().export_public_key()
    commit = machine.api("POST", f"/vm/{machine.vm_id}/commit", 201)["commit_id"]
    restored = machine.api("POST", "/vm/from_commit", 201, json={"commit_id": commit})["vm_id"]
    branch = machine.api("POST", f"/vm/{restored}/branch", 201)["vms"][0]["vm_id"]
    for vm_id in (restored, branch):
        async with ssh(machine.server.info, vm_id, machine.key) as connection:
            assert connection.get_server_host_key().export_public_key() == host_key
    stranger = machine.api.new_vm()
    async with ssh(machine.server.info, stranger, machine.api("GET", f"/vm/{stranger}/ssh_key")["ssh_private_key"]) as connection:
        assert connection.get_server_host_key().export_public_key() != host_key


# -- commands


async def test_output_errors_and_exit_status(machine: Machine) -> None:
    async with machine.connect() as connection:
        done = await connection.run("cat; echo err >&2; echo $LC_TEST; exit 7", input="in\n", env={"LC_TEST": "v"})
        assert (done.stdout, done.stderr, done.exit_status) == ("in\nv\n", "err\n", 7)
        assert (await connection.run("exit 0")).exit_status == 0
        killed = await connection.run("kill -TERM $$")
        assert killed.exit_signal is not None
        assert killed.exit_signal[0] == "TERM"
        shell = await connection.create_process(None)
        shell.stdin.write("echo login $0\nexit 5\n")
        done = await shell.wait()
        assert done.stdout.startswith("login ")
        assert done.exit_status == 5


async def test_terminals_forwarding_and_unknown_subsystems_are_refused(machine: Machine) -> None:
    async with machine.connect() as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.run("true", term_type="xterm")
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", 22)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("127.0.0.1", 0, "127.0.0.1", 22)
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.create_process(subsystem="netconf")
        if not Path("/usr/lib/openssh/sftp-server").exists():
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.start_sftp_client()
        assert (await connection.run("echo fine")).stdout == "fine\n"


async def test_sessions_are_limited_per_connection(machine: Machine) -> None:
    async with machine.connect() as connection:
        sessions = [await connection.create_process("cat") for _ in range(64)]
        with pytest.raises(asyncssh.ChannelOpenError, match="limit"):
            await connection.create_process("cat")
        for session in sessions:
            session.stdin.write_eof()
        await asyncio.gather(*(session.wait() for session in sessions))
        assert (await connection.run("echo again")).stdout == "again\n"


async def test_a_paused_or_deleted_machine(machine: Machine) -> None:
    async with machine.connect() as connection:
        process = await connection.create_process("cat")
        machine.api("PATCH", f"/vm/{machine.vm_id}/state", 200, json={"state": "Paused"})
        with pytest.raises(asyncssh.ChannelOpenError, match="paused"):
            await connection.run("true")
        machine.api("PATCH", f"/vm/{machine.vm_id}/state", 200, json={"state": "Running"})
        process.stdin.write("still there\n")
        assert await process.stdout.readline() == "still there\n"
        machine.api("DELETE", f"/vm/{machine.vm_id}", 200)
        await asyncio.wait_for(connection.wait_closed(), 30)


# -- streams


async def test_64_mib_each_way_arrive_whole(machine: Machine) -> None:
    data = os.urandom(MIB) * 64
    server = psutil.Process(machine.server.info.pid)
    async with machine.connect() as connection:
        await connection.run("true")
        before = server.memory_info().rss
        done = await connection.run("cat", input=data, encoding=None)
        assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()
        # Less than the data: what the allocator keeps of many small buffers varies with the load.
        assert server.memory_info().rss - before < 60 * MIB


async def test_what_is_not_taken_stays_in_the_pipe(machine: Machine) -> None:
    """Neither a process that does not read nor a client that does not read makes the server hold more than its buffers."""
    server = psutil.Process(machine.server.info.pid)
    async with machine.connect() as connection:
        await connection.run("true")
        before = server.memory_info().rss
        # A window larger than all that is sent: only the transport's own back-pressure holds the server back.
        flood = await connection.create_process("head -c 120000000 /dev/zero", encoding=None, window=1024 * MIB)
        flood.channel.get_connection()._transport.pause_reading()
        peak = 0
        for _ in range(20):
            await asyncio.sleep(0.025)
            peak = max(peak, server.memory_info().rss - before)
        assert peak < 24 * MIB
        flood.channel.get_connection()._transport.resume_reading()
        assert len((await flood.wait()).stdout) == 120_000_000

        before = server.memory_info().rss
        stuck = await connection.create_process("exec sleep 60", encoding=None)
        stuck.stdin.write(bytes(32 * MIB))
        await asyncio.sleep(0.3)
        assert server.memory_info().rss - before < 24 * MIB
        assert (await connection.run("echo other sessions go on")).exit_status == 0
        stuck.channel.abort()


async def test_input_sent_at_once_is_kept_for_the_process(machine: Machine) -> None:
    async with machine.connect() as connection:
        process = await connection.create_process("sleep 0.2; wc -c", encoding=None)
        process.stdin.write(bytes(3 * MIB))
        process.stdin.write_eof()
        assert int((await process.wait()).stdout) == 3 * MIB


async def test_a_process_that_closes_its_input_does_not_stop_the_client(machine: Machine) -> None:
    async with machine.connect() as connection:
        done = await connection.run("exec <&-; echo closed; sleep 0.1; exit 4", input=bytes(8 * MIB), encoding=None)
        assert (done.stdout, done.exit_status) == (b"closed\n", 4)


async def test_a_background_child_keeps_the_channel_but_not_the_exit_status(machine: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    async with machine.connect() as connection:
        process = await connection.create_process(f"(until [ -e {gate} ]; do sleep 0.02; done; echo late) & echo early; exit 3")
        assert await process.stdout.readline() == "early\n"
        await until(lambda: process.exit_status == 3)
        assert not process.channel.is_closing()
        gate.touch()
        assert await process.stdout.readline() == "late\n"
        await asyncio.wait_for(process.wait_closed(), 30)


@pytest.mark.parametrize("how", ["channel", "connection", "blocked"])
async def test_a_process_learns_at_once_that_its_client_is_gone_and_lives_on(machine: Machine, tmp_path: Path, how: str) -> None:
    gate, end = tmp_path / "gate", tmp_path / "end"
    async with machine.connect() as connection:
        script = f"until [ -e {gate} ]; do sleep 0.02; done; cat > /dev/null; echo $? > {end}"
        process = await connection.create_process(script, encoding=None)
        if how == "blocked":
            process.stdin.write(bytes(2 * MIB))
            await asyncio.sleep(0.1)
        if how == "connection":
            connection.abort()
        else:
            process.channel.abort()
            assert (await connection.run("echo ok")).stdout == "ok\n"
        gate.touch()
        await until(lambda: end.exists() and end.read_text() == "0\n")


async def test_200_connections_at_once(machine: Machine) -> None:
    server = psutil.Process(machine.server.info.pid)
    before = server.memory_info().rss
    together = asyncio.Barrier(201)

    async def one(number: int) -> str:
        async with machine.connect() as connection:
            await together.wait()
            return str((await connection.run(f"echo {number}")).stdout)

    tasks = [asyncio.create_task(one(number)) for number in range(200)]
    async with asyncio.timeout(60):
        await together.wait()
        grown = server.memory_info().rss - before
        assert await asyncio.gather(*tasks) == [f"{number}\n" for number in range(200)]
    assert grown < 200 * 0.75 * MIB


async def test_a_warm_command_is_quick(machine: Machine) -> None:
    """Nagle or a poll somewhere on the way would cost 40 ms each time; other work on this machine does not slow down all of them."""
    async with machine.connect() as connection:
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(15):
            start = loop.time()
            await connection.run("true")
            times.append(loop.time() - start)
    assert min(times) < 0.035


# -- OpenSSH


@pytest.mark.peer
async def test_openssh_over_openssl(machine: Machine, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.touch(0o600)
    key.write_text(machine.key)
    name = f"{machine.vm_id}.vm.vers.sh"
    host, port = machine.server.info.ssh_endpoint
    openssl, ca_file = require("openssl", "openssl"), machine.server.info.ca_file
    proxy = f"{openssl} s_client -quiet -verify_return_error -CAfile {ca_file} -servername {name} -connect {host}:{port}"
    command = [require("ssh", "openssh-client"), "-F", "none", "-i", str(key), "-o", f"ProxyCommand={proxy} 2>/dev/null"]
    command += [
        "-o",
        "StrictHostKeyChecking=accept-new",
        "-o",
        f"UserKnownHostsFile={tmp_path}/known",
        "-o",
        "BatchMode=yes",
        "-o",
        "LogLevel=ERROR",
        f"root@{name}",
    ]
    data = os.urandom(8 * MIB)

    def run(script: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*command, script], input=data, capture_output=True, timeout=60)

    done = await asyncio.to_thread(run, "cat; echo err >&2; exit 7", data)
    assert done.returncode == 7, done.stderr
    assert done.stdout == data
    assert done.stderr == b"err\n"
    assert (await asyncio.to_thread(run, "kill -9 $$")).returncode == 255
