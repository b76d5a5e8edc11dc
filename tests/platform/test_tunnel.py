"""What arrives from an SSH channel while its reader looks: paramiko's own thread does not wait for us."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_DATA, cMSG_CHANNEL_EXTENDED_DATA
from rigs.waiting import wait_for

from langchain_vers import BackendContext
from langchain_vers._io import on_io
from langchain_vers.errors import Unreachable
from langchain_vers.platform.tunnel import SSHProcess


class LateChannel(paramiko.Channel):
    """A real channel to which its last output and its end arrive right after it was asked whether there is output."""

    def __init__(self, late: str) -> None:
        super().__init__(1)
        self._set_window(1 << 20, 1 << 15)
        self.transport = SimpleNamespace(_send_user_message=lambda message: None)
        self._late = late

    def _arrive(self, question: str) -> None:
        if question == self._late:
            self._late = ""
            for kind, text in ((cMSG_CHANNEL_DATA, b"out"), (cMSG_CHANNEL_EXTENDED_DATA, b"err")):
                message = paramiko.Message()
                if kind == cMSG_CHANNEL_EXTENDED_DATA:
                    message.add_int(1)
                message.add_string(text)
                message.rewind()
                (self._feed if kind == cMSG_CHANNEL_DATA else self._feed_extended)(message)
            self._handle_eof(paramiko.Message())

    def recv_ready(self) -> bool:
        ready = super().recv_ready()
        self._arrive("stdout")
        return ready

    def recv_stderr_ready(self) -> bool:
        ready = super().recv_stderr_ready()
        self._arrive("stderr")
        return ready


@pytest.mark.parametrize("late", ["stdout", "stderr"])
async def test_output_that_arrives_together_with_the_end_is_not_lost(late: str) -> None:
    async def everything() -> dict[int, bytes]:
        connection: Any = SimpleNamespace(peer=SimpleNamespace(name="machine"))
        process = SSHProcess(connection, LateChannel(late))
        found: dict[int, bytes] = {1: b"", 2: b""}
        while (piece := await process.receive())[0] != 0:
            found[piece[0]] += piece[1]
        return found

    assert await on_io(everything()) == {1: b"out", 2: b"err"}


async def test_a_connection_that_breaks_under_a_window_adjustment() -> None:
    """Reading much has paramiko write; that the connection is gone shows there before its own thread has noticed."""

    def gone(message: paramiko.Message) -> None:
        raise EOFError

    channel = paramiko.Channel(1)
    channel._set_window(1 << 20, 1 << 15)
    channel.active = True
    channel.transport = SimpleNamespace(_send_user_message=gone)
    for _ in range(4):
        message = paramiko.Message()
        message.add_string(bytes(200_000))
        message.rewind()
        channel._feed(message)

    async def everything() -> tuple[int, SSHProcess]:
        connection: Any = SimpleNamespace(peer=SimpleNamespace(name="machine"))
        process, found = SSHProcess(connection, channel), 0
        while (piece := await process.receive())[0] != 0:
            found += len(piece[1])
        await process.arrival()
        assert await process.receive() == (0, b"")
        return found, process

    found, process = await on_io(everything())
    assert 0 < found < 800_000
    assert not process.ended_cleanly and not process.open


async def test_a_connection_that_ends_while_a_channel_is_made(vers_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The channel is known to paramiko's thread already, which has to end it; an error in that thread would fail this test."""
    set_transport = paramiko.Channel._set_transport

    def ending(channel: paramiko.Channel, transport: paramiko.Transport) -> None:
        if transport._channels.get(channel.get_id()) is channel:
            transport.sock.close()
            wait_for(lambda: not (transport.active and transport.is_alive()))
        set_transport(channel, transport)

    async with BackendContext(data_dir=vers_data, local=False) as context:
        client = await on_io(context.client())
        vm_id = await on_io(client.create_vm(wait_boot=True))
        try:
            connection = await on_io((await on_io(context.machine(vm_id)))._connect())
            monkeypatch.setattr(paramiko.Channel, "_set_transport", ending)
            with pytest.raises(Unreachable):
                await on_io(connection.start("true"))
            await on_io(connection.close())
        finally:
            await on_io(client.delete_vm(vm_id))
