"""Processes in a Gondolin micro-VM, over the socket that its SDK opens for each session.

The protocol, from the SDK's `session-registry` and `control-protocol` (0.12): to the server, a length (u32, big-endian) and JSON; from it,
a type (u8), a length (u32) and either JSON (type 0) or output (type 1: u8 1 stdout or 2 stderr, u32 id of the exec, bytes). An exec may
print as many bytes as it has credit for, and gets more as they are consumed. Its standard input is sent as base64. There is no message that
kills one. Where the guest has a room (`gondolin_room.py`), a second exec does; elsewhere the end of its input makes a session kill what it
runs (`guest.py`).

An exec that was given back may have left processes behind that still print: what they print is thrown away, and they never wait for credit.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from langchain_vers.backends.gondolin_room import DEAD, Room
from langchain_vers.errors import Unreachable

WINDOW = 1024 * 1024
"""Bytes that each output of an exec may be ahead of its reader."""
_INPUT = 96 * 1024
"""Bytes of input in one message."""
_LIMIT = 64 * 1024 * 1024
"""A longer frame is no frame: the other side speaks something else."""
_ADVISORY = ("stdin_backpressure", "stdin_chunk_too_large")
"""Errors after which an exec goes on."""


class GondolinProcess:
    """One exec: bytes to its input, bytes from its two outputs. Coroutines of the I/O thread."""

    def __init__(self, connection: GondolinConnection, number: int, group: str | None = None) -> None:
        self._connection = connection
        self._number = number
        self._group = group
        self._arrived: deque[tuple[int, bytes]] = deque()
        self._owed = {1: 0, 2: 0}
        self._wake = asyncio.Event()
        self._over = False
        self._input_open = True
        self._given_back = False
        self.received = 0
        """Pieces of output so far."""
        self.ended_cleanly = False
        """Whether the other side said that it has ended, and so that all output has been sent."""
        self.reason = ""
        """Why it ended, if the other side said so."""
        self.on_close: Callable[[], None] = lambda: None
        """Called once, when it was given back."""

    @property
    def open(self) -> bool:
        """Whether it was not given back yet, and has not ended."""
        return not self._given_back and not self._over

    async def send(self, data: bytes) -> None:
        """Send to its standard input.

        Raises:
            Unreachable: it has ended, or the connection has.
        """
        for start in range(0, len(data), _INPUT):
            if self._over or not self._input_open:
                raise Unreachable(self.reason or "the process has ended")
            self._connection.put({"type": "stdin", "id": self._number, "data": base64.b64encode(data[start : start + _INPUT]).decode()})
            await self._connection.drained()

    async def send_eof(self) -> None:
        """End its standard input."""
        self._end_input()
        await self._connection.drained()

    def _end_input(self) -> None:
        if self._input_open and not self._over:
            self._connection.put({"type": "stdin", "id": self._number, "eof": True})
        self._input_open = False

    async def receive(self) -> tuple[int, bytes]:
        """The next bytes of output: (1, data) from stdout, (2, data) from stderr, (0, b"") when both have ended. Cancelling loses
        nothing.
        """
        await self.arrival()
        if not self._arrived:
            return 0, b""
        kind, data = self._arrived.popleft()
        self._consumed(kind, len(data))
        return kind, data

    async def arrival(self) -> None:
        """Wait until `receive` has something to give."""
        while not self._arrived and not self._over:
            self._wake.clear()
            await self._wake.wait()

    async def kill(self, left: str) -> bool:
        """Have the guest's kernel end it and all that it has started, and remove the file `left`; False if it cannot.

        Raises:
            Unreachable: the connection has ended.
        """
        return self._group is not None and await self._connection.kill(self._group, left)

    def close(self) -> None:
        """Give it back: it sees the end of its input. Does not wait."""
        if self._given_back:
            return
        self._given_back = True
        self._end_input()
        while self._arrived:
            kind, data = self._arrived.popleft()
            self._consumed(kind, len(data))
        self.on_close()

    def _consumed(self, kind: int, count: int) -> None:
        self._owed[kind] += count
        if self._owed[kind] >= WINDOW // 2 and not self._over:
            self._connection.put({"type": "exec_window", "id": self._number, "stdout" if kind == 1 else "stderr": self._owed[kind]})
            self._owed[kind] = 0

    def arrived(self, kind: int, data: bytes) -> None:
        """Output has come."""
        if self._given_back:
            self._consumed(kind, len(data))
            return
        self.received += 1
        self._arrived.append((kind, data))
        self._wake.set()

    def over(self, reason: str = "", *, cleanly: bool = False) -> None:
        """Nothing more will come."""
        self._over, self.ended_cleanly, self.reason = True, cleanly, reason
        self._wake.set()


class GondolinConnection:
    """One connection to a session's socket, and the execs on it. Coroutines of the I/O thread."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        environment: Callable[[], Mapping[str, str]],
        room: Room | None = None,
    ) -> None:
        self._reader, self._writer = reader, writer
        self._environment = environment
        self._room = room
        self._name = secrets.token_hex(6)
        self._entered = 0
        self._execs: dict[int, GondolinProcess] = {}
        self._next = 1
        self._closing = False
        self.alive = True
        """Whether further execs can be started."""
        self.ended = asyncio.get_running_loop().create_task(self._read())
        """Done when nothing more will come of it."""

    @classmethod
    async def open(cls, path: str, environment: Callable[[], Mapping[str, str]], room: Room | None = None) -> GondolinConnection:
        """Connect. `environment` gives the variables of each exec, which runs in the guest's `room`, if it has one.

        Raises:
            Unreachable: nobody listens there.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except OSError as error:
            raise Unreachable(f"the session's socket of the micro-VM does not answer: {error.strerror or error}") from error
        return cls(reader, writer, environment, room)

    async def start(self, command: str) -> GondolinProcess:
        """Run a shell command in the guest; it inherits nothing but `environment` and what the guest's own system sets.

        Raises:
            Unreachable: the connection has ended.
        """
        if self._room is None:
            return await self._start(_shell(command), None)
        self._entered += 1
        return await self._start(*self._room.command(command, self._name, self._entered))

    async def kill(self, group: str, left: str) -> bool:
        """End all of a group; see `GondolinProcess.kill`."""
        if self._room is None:
            return False
        process = await self._start(_shell(self._room.kill(group, left)), None)
        try:
            said = b""
            while (received := await process.receive())[0] != 0:
                said += received[1]
        finally:
            process.close()
        return said.split() == [DEAD.encode()]

    async def _start(self, argv: list[str], group: str | None) -> GondolinProcess:
        if not self.alive:
            raise Unreachable("the connection to the micro-VM has ended")
        number, self._next = self._next, self._next + 1
        process = self._execs[number] = GondolinProcess(self, number, group)
        variables = [f"{name}={value}" for name, value in self._environment().items()]
        try:
            self.put(
                {
                    "type": "exec",
                    "id": number,
                    "cmd": argv[0],
                    "argv": argv[1:],
                    "env": variables,
                    "cwd": "/",
                    "stdin": True,
                    "stdout_window": WINDOW,
                    "stderr_window": WINDOW,
                }
            )
            await self.drained()
        except BaseException:
            process.close()
            raise
        return process

    def put(self, message: Mapping[str, Any]) -> None:
        """Send a message, as soon as that is possible."""
        if self._writer.is_closing():
            return
        data = json.dumps(message).encode()
        self._writer.write(struct.pack(">I", len(data)) + data)

    async def drained(self) -> None:
        """Wait while too much is waiting to be sent.

        Raises:
            Unreachable: the connection has ended.
        """
        try:
            await self._writer.drain()
        except OSError as error:
            raise Unreachable("the connection to the micro-VM has ended") from error
        if self._writer.is_closing():
            raise Unreachable("the connection to the micro-VM has ended")

    async def _read(self) -> None:
        reason = "the connection to the micro-VM broke"
        try:
            while True:
                kind, length = struct.unpack(">BI", await self._reader.readexactly(5))
                if kind > 1 or length > _LIMIT:
                    reason = "the micro-VM's session speaks a protocol that is not Gondolin's"
                    return
                payload = await self._reader.readexactly(length)
                if kind == 1:
                    self._output(payload)
                elif (stopped := self._message(json.loads(payload))) is not None:
                    reason = stopped
                    return
                if self._closing and not self._execs:
                    return
        except (OSError, EOFError, ValueError, struct.error):
            pass
        finally:
            self.alive = False
            for process in self._execs.values():
                process.over(reason)
            self._execs.clear()
            self._writer.close()

    def _output(self, payload: bytes) -> None:
        stream, number = struct.unpack_from(">BI", payload)
        process = self._execs.get(number)
        if process is not None and stream in (1, 2):
            process.arrived(stream, payload[5:])

    def _message(self, message: Any) -> str | None:  # noqa: ANN401  # JSON of the other side
        """Take a message; the reason if there will be no further one."""
        if not isinstance(message, dict) or not isinstance(message.get("id", 0), int | None):
            raise ValueError("no message")
        kind = message.get("type")
        if kind == "exec_response":
            if (process := self._execs.pop(message.get("id", 0), None)) is not None:
                process.over(cleanly=True)
        elif kind == "error":
            detail = f"{message.get('message')} ({message.get('code')})"
            if message.get("id") is None:
                return f"the micro-VM answers no more: {detail}"
            if message.get("code") not in _ADVISORY and (process := self._execs.pop(message["id"], None)) is not None:
                process.over(detail)
        elif kind == "status" and message.get("state") == "stopped":
            return "the micro-VM has stopped"
        return None

    async def close(self) -> None:
        """Take no further execs. Those that run are given back, and the connection ends with the last of them."""
        self.alive, self._closing = False, True
        for process in list(self._execs.values()):
            process.close()
        if not self._execs:
            await self.abort()

    async def abort(self) -> None:
        """Close the connection at once."""
        self.alive = False
        self.ended.cancel()
        await asyncio.gather(self.ended, return_exceptions=True)
        self._writer.close()  # which `_read` does, if it had begun
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


def _shell(command: str) -> list[str]:
    return ["/bin/sh", "-c", command]
