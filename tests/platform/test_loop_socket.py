"""The network side of an SSH connection, when it ends: nothing of it stays open, whoever does not wait for that."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rigs.certificates import Authority

from langchain_vers.platform.loop_socket import LoopSocket


class Mute:
    """A TLS server that answers the handshake and says nothing any more, not even goodbye."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.accepted: list[ssl.SSLSocket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            visitor, _ = self._listening.accept()
            if self.port == 0:
                visitor.close()
                return
            self.accepted.append(self._context.wrap_socket(visitor, server_side=True))

    def close(self) -> None:
        port, self.port = self.port, 0
        socket.create_connection(("127.0.0.1", port)).close()
        self._thread.join()
        for each in (*self.accepted, self._listening):
            each.close()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def mute(authority: Authority) -> Iterator[Mute]:
    server = Mute(authority.server_context("localhost"))
    yield server
    server.close()


def connections(port: int) -> list[object]:
    """This process's own connections to a port, on the client's side."""
    return [each for each in psutil.Process().net_connections("tcp") if each.raddr and each.raddr.port == port]


async def connect(mute: Mute, authority: Authority) -> LoopSocket:
    return await LoopSocket.connect(
        "127.0.0.1", mute.port, server_name="localhost", context=ssl.create_default_context(cafile=str(authority.file))
    )


async def test_a_peer_that_says_no_goodbye_is_left(mute: Mute, authority: Authority) -> None:
    wire = await connect(mute, authority)
    assert len(connections(mute.port)) == 1
    wire.close()
    await wire.wait_closed()
    assert wire.ended and not connections(mute.port)


async def test_nobody_waits_for_the_goodbye_any_more(mute: Mute, authority: Authority) -> None:
    """As at interpreter exit, when all that runs is cancelled."""
    wire = await connect(mute, authority)
    wire.close()
    waiting = asyncio.ensure_future(wire.wait_closed())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0)
    assert not connections(mute.port)
