"""The protocol of a session's socket, against a peer that follows it, and against peers that do not. The SDK itself is in other tests."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vers.backends.gondolin_room import Room
from langchain_vers.backends.gondolin_socket import WINDOW, GondolinConnection
from langchain_vers.errors import Unreachable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def message(value: Any) -> bytes:
    data = json.dumps(value).encode()
    return struct.pack(">BI", 0, len(data)) + data


def output(number: int, stream: int, data: bytes) -> bytes:
    payload = struct.pack(">BI", stream, number) + data
    return struct.pack(">BI", 1, len(payload)) + payload


async def taken(reader: asyncio.StreamReader) -> Any:
    (length,) = struct.unpack(">I", await reader.readexactly(4))
    return json.loads(await reader.readexactly(length))


@contextlib.asynccontextmanager
async def peer(folder: Path, serve: Serve, room: Room | None = None) -> AsyncIterator[GondolinConnection]:
    answered = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await serve(reader, writer)
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        answered.set()

    server = await asyncio.start_unix_server(answer, folder / "s")
    connection = await GondolinConnection.open(str(folder / "s"), lambda: {"NAME": "value"}, room)
    try:
        async with asyncio.timeout(20):
            yield connection
    finally:
        await connection.abort()
        await answered.wait()
        server.close()
        await server.wait_closed()


async def rest(process: Any) -> tuple[bytes, bytes]:
    found = {1: b"", 2: b""}
    while (received := await process.receive())[0] != 0:
        found[received[0]] += received[1]
    return found[1], found[2]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Gives the input of each exec back on standard output, and `err` on the other, and ends with its input."""
    while True:
        said = await taken(reader)
        if said["type"] == "stdin" and "data" in said:
            writer.write(output(said["id"], 1, base64.b64decode(said["data"])))
        elif said["type"] == "stdin":
            writer.write(output(said["id"], 2, b"err") + message({"type": "exec_response", "id": said["id"], "exit_code": 0}))


async def test_bytes_arrive_as_they_were_sent(tmp_path: Path) -> None:
    data = bytes(range(256)) * 2000
    async with peer(tmp_path, echo) as connection:
        first, second = await connection.start("a"), await connection.start("b")
        await first.send(data)
        await second.send(b"")
        await second.send_eof()
        await first.send_eof()
        assert await rest(first) == (data, b"err")
        assert await rest(second) == (b"", b"err")
        assert first.ended_cleanly and second.ended_cleanly
        with pytest.raises(Unreachable):
            await first.send(b"more")


async def test_what_an_exec_is_told(tmp_path: Path) -> None:
    said: asyncio.Queue[Any] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await said.put(await taken(reader))

    async with peer(tmp_path, serve) as connection:
        process = await connection.start("echo 'hi'")
        exec_ = await said.get()
        assert exec_["cmd"] == "/bin/sh" and exec_["argv"] == ["-c", "echo 'hi'"] and exec_["env"] == ["NAME=value"] and exec_["stdin"]
        closed: list[bool] = []
        process.on_close = lambda: closed.append(True)
        process.close()
        process.close()
        assert await said.get() == {"type": "stdin", "id": exec_["id"], "eof": True}
        assert closed == [True]


@pytest.mark.parametrize("said", [b"dead\n", b"sh: cd: no such directory\n", b""])
async def test_in_a_room_a_second_exec_kills(tmp_path: Path, said: bytes) -> None:
    """It names the group of the first, runs outside the room, and is believed only if it says that all of it is dead."""
    asked: asyncio.Queue[Any] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked.put(await taken(reader))
        exec_ = await taken(reader)
        await asked.put(exec_)
        writer.write(output(exec_["id"], 1, said) + message({"type": "exec_response", "id": exec_["id"], "exit_code": 0}))
        await taken(reader)

    async with peer(tmp_path, serve, Room(7)) as connection:
        process = await connection.start("echo 'hi'")
        assert process.open
        assert await process.kill("/tmp/le ft") == (said == b"dead\n")
        started, killed = await asked.get(), await asked.get()
        assert started["cmd"] == "nsenter" and started["argv"][:2] == ["-t", "7"] and started["argv"][-1].endswith("; echo 'hi'")
        (group,) = re.findall(r">/sys/fs/cgroup/vers/([0-9a-f]+-[0-9]+)/cgroup.procs", started["argv"][-1])
        assert killed["cmd"] == "/bin/sh"
        assert f"/{group} " in killed["argv"][1] and "cgroup.kill" in killed["argv"][1] and "'/tmp/le ft'" in killed["argv"][1]


async def test_without_a_room_nothing_is_killed(tmp_path: Path) -> None:
    async with peer(tmp_path, echo) as connection:
        assert not await (await connection.start("true")).kill("left")


@pytest.mark.parametrize("given_back", [False, True])
async def test_a_printer_gets_credit_for_what_was_taken_and_no_more(tmp_path: Path, given_back: bool) -> None:
    """Also when nobody reads any more, as background processes must not stop for that."""
    credit: asyncio.Queue[int] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exec_ = await taken(reader)
        assert exec_["stdout_window"] == WINDOW
        writer.write(output(exec_["id"], 1, b"x" * WINDOW))
        while True:
            said = await taken(reader)
            if said["type"] == "exec_window":
                await credit.put(said["stdout"])

    async with peer(tmp_path, serve) as connection:
        process = await connection.start("yes")
        await process.arrival()
        assert credit.empty()
        if given_back:
            process.close()
        else:
            await process.receive()
        assert await credit.get() == WINDOW


async def test_a_given_back_exec_ends_with_its_connection(tmp_path: Path) -> None:
    """The connection stays for what still prints, and ends with the last of it."""
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exec_ = await taken(reader)
        await release.wait()
        writer.write(output(exec_["id"], 1, b"late") + message({"type": "exec_response", "id": exec_["id"], "exit_code": 0}))
        await taken(reader)
        await taken(reader)

    async with peer(tmp_path, serve) as connection:
        await connection.start("server &")
        await connection.close()
        assert not connection.alive and not connection.ended.done()
        with pytest.raises(Unreachable):
            await connection.start("more")
        release.set()
        await connection.ended


ENDINGS: dict[str, Callable[[int], bytes]] = {
    "closed": lambda number: b"",
    "stopped": lambda number: message({"type": "status", "state": "stopped"}),
    "failed": lambda number: message({"type": "error", "code": "ipc_unavailable", "message": "no sandbox"}),
    "refused": lambda number: message({"type": "error", "id": number, "code": "queue_full", "message": "too many"}),
    "not JSON": lambda number: struct.pack(">BI", 0, 3) + b"{{{",
    "no object": lambda number: message([1, 2]),
    "too long": lambda number: struct.pack(">BI", 0, 2**32 - 1),
    "no such type": lambda number: struct.pack(">BI", 7, 1) + b"x",
    "short output": lambda number: struct.pack(">BI", 1, 2) + b"xx",
    "cut off": lambda number: output(number, 1, b"partial")[:-3],
    "another protocol": lambda number: b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_an_exec_whose_end_was_not_said_has_not_ended_cleanly(tmp_path: Path, ending: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exec_ = await taken(reader)
        writer.write(output(exec_["id"], 1, b"before") + ENDINGS[ending](exec_["id"]))

    async with peer(tmp_path, serve) as connection:
        process = await connection.start("work")
        assert await rest(process) == (b"before", b"")
        assert not process.ended_cleanly and process.reason
        process.close()
        await connection.ended
        with pytest.raises(Unreachable):
            await connection.start("more")


async def test_what_concerns_nobody_is_passed_over(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exec_ = await taken(reader)
        number = exec_["id"]
        writer.write(output(999, 1, b"?") + output(number, 9, b"?") + message({"type": "exec_response", "id": 999}))
        writer.write(message({"type": "error", "id": number, "code": "stdin_backpressure", "message": ""}) + message({"type": "new"}))
        writer.write(output(number, 1, b"ok") + message({"type": "exec_response", "id": number, "exit_code": 0}))
        await taken(reader)

    async with peer(tmp_path, serve) as connection:
        process = await connection.start("work")
        assert await rest(process) == (b"ok", b"")
        assert process.ended_cleanly


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(Unreachable):
        await GondolinConnection.open(str(tmp_path / "none"), dict)


@given(noise=st.binary(max_size=200))
def test_any_bytes_of_a_peer_end_the_connection_or_mean_nothing(noise: bytes) -> None:
    async def check() -> None:
        here, there = socket.socketpair()
        with here, there:
            reader, writer = await asyncio.open_unix_connection(sock=here)
            connection = GondolinConnection(reader, writer, dict)
            there.sendall(noise)
            there.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(20):
                await connection.ended
            assert not connection.alive
            await connection.abort()

    asyncio.run(check())
