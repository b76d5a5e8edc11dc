"""The server's end of the socket to the warden: requests and answers, file descriptors, and processes that look like asyncio's own.

What to ask for is the engine's business (`namespaces`); what happens then is the warden's (`warden`).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from langchain_vers.embedded import warden
from langchain_vers.embedded.rights import Rights

_START_TIMEOUT = 20.0


class WardenError(OSError):
    """The warden could not do what it was asked to; `errno` and `strerror` as for the system call that failed."""


class GuestProcess(Process):
    """A process in a machine. Like the asyncio class in all that is public; what differs is who waits for it (the warden)."""

    def __init__(  # no super().__init__(): there is no transport, and every public member is defined here
        self,
        pid: int,
        exit_code: asyncio.Future[int],
        signaller: Callable[[int, int], None],
        *,
        stdin: asyncio.StreamWriter | None,
        stdout: asyncio.StreamReader | None,
        stderr: asyncio.StreamReader | None,
    ) -> None:
        self.pid = pid
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr
        self._exit_code = exit_code
        self._signaller = signaller
        if stdin is not None:
            exit_code.add_done_callback(lambda _: stdin.close())

    def __repr__(self) -> str:
        return f"<GuestProcess {self.pid} returncode={self.returncode}>"

    @property
    def returncode(self) -> int | None:
        """The exit code, -n after signal n, None while it runs."""
        return self._exit_code.result() if self._exit_code.done() else None

    async def wait(self) -> int:
        """Wait for the end of the process; its exit code."""
        return await asyncio.shield(self._exit_code)

    def send_signal(self, signal: int) -> None:
        """Send a signal to the process itself.

        Raises:
            ProcessLookupError: it has ended.
        """
        if self.returncode is not None:
            raise ProcessLookupError
        self._signaller(self.pid, signal)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    async def communicate(self, input: bytes | bytearray | memoryview | None = None) -> tuple[bytes, bytes]:
        """Write `input`, close stdin, read all output, and wait. What is no pipe gives b""."""

        async def feed() -> None:
            if self.stdin is not None:
                with suppress(BrokenPipeError, ConnectionResetError):
                    if input is not None:
                        self.stdin.write(input)
                        await self.stdin.drain()
                    self.stdin.close()

        async def drain(stream: asyncio.StreamReader | None) -> bytes:
            return await stream.read() if stream is not None else b""

        _, out, err = await asyncio.gather(feed(), drain(self.stdout), drain(self.stderr))
        await self.wait()
        return out, err


class WardenLink:
    """A running warden. `lost` is called when it is gone, with all its machines; `ended` when a machine has ended."""

    def __init__(self, ended: Callable[[str], None], lost: Callable[[], None]) -> None:
        self.rights: Rights = "user"
        self._ended, self._lost = ended, lost
        self._process: Process | None = None
        self._socket: socket.socket | None = None
        self._inbox = bytearray()
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._sending = asyncio.Lock()
        self._null = -1

    async def open(self, data_dir: Path, trees: Sequence[str]) -> None:
        """Start the warden.

        Raises:
            WardenError: it may not make namespaces here.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            self._socket = ours
            self._null = os.open(os.devnull, os.O_RDWR)
            ready = self._answers[0] = loop.create_future()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *warden.command(data_dir, trees, theirs.fileno()),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
                    start_new_session=True,  # Ctrl-C at the server's terminal is for the server, which then stops us in order
                )
            except BaseException:
                await self.close()
                raise
        loop.add_reader(ours, self._receive)
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                self.rights = (await ready)["rights"]
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the warden, and so all machines; return when they have ended."""
        self._hang_up()
        if self._process is not None:
            await self._process.wait()

    def _hang_up(self) -> None:
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        os.close(self._null)
        lost = WardenError(0, "the process that holds the machines has ended")
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(lost)
                answer.exception()  # its requester may be gone
        self._answers.clear()
        for code in self._exits.values():
            code.set_result(-signal.SIGKILL)
        self._exits.clear()
        self._lost()

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._hang_up()
            return
        self._inbox += data
        while len(self._inbox) >= 4:
            (size,) = struct.unpack(">I", self._inbox[:4])
            if len(self._inbox) < 4 + size:
                return
            message = json.loads(self._inbox[4 : 4 + size])
            del self._inbox[: 4 + size]
            self._handle(message)

    def _handle(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        if event == "exit":
            code = self._exits.pop(message["pid"])
            code.set_result(message["code"])
            return
        if event == "ended":
            self._ended(message["vm"])
            return
        if "pid" in message:
            # Here and not by whoever waits for the answer: the end of the process may be the next message.
            self._exits[message["pid"]] = asyncio.get_running_loop().create_future()
            message["exit"] = self._exits[message["pid"]]
        answer = self._answers.pop(message.get("id", 0), None)
        if answer is None or answer.done():
            if "pid" in message:  # whoever asked for it has been cancelled and will never see it
                self._signal(message["pid"], signal.SIGKILL)
            return
        if "error" in message:
            answer.set_exception(WardenError(message.get("errno") or 0, message["error"]))
        else:
            answer.set_result(message)

    async def request(self, op: str, *, fds: Sequence[int] = (), **fields: object) -> dict[str, Any]:
        """Ask for something and wait for the answer; `fds` stay the caller's.

        Raises:
            WardenError: it did not work, or the warden has ended.
        """
        self._number += 1
        number = self._number
        data = json.dumps({"id": number, "op": op, "fds": len(fds), **fields}).encode()
        data = struct.pack(">I", len(data)) + data
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        async with self._sending:
            if self._socket is None:
                raise WardenError(0, "the process that holds the machines has ended")
            self._answers[number] = answer
            # The socket's buffer is empty but for other requests, which are small: the first piece, with the descriptors, always fits.
            sent = socket.send_fds(self._socket, [data], list(fds)) if fds else self._socket.send(data)
            if sent < len(data):
                await asyncio.shield(asyncio.get_running_loop().sock_sendall(self._socket, data[sent:]))
        return await answer

    async def spawn(self, op: str, *, stdin: int, stdout: int, stderr: int, **fields: object) -> GuestProcess:
        """Start a process (op `spawn` in a machine, `run` beside the warden); streams as for `asyncio.create_subprocess_exec`.

        Raises:
            WardenError: the program or folder does not exist, or the machine does not run.
        """
        ours: list[int | None] = []
        theirs: list[int] = []
        mine: list[int] = []
        try:
            for number, wanted in enumerate((stdin, stdout, stderr)):
                if wanted == PIPE:
                    read, write = os.pipe()
                    ours.append(write if number == 0 else read)
                    theirs.append(read if number == 0 else write)
                    mine.append(theirs[-1])
                else:
                    ours.append(None)
                    theirs.append(self._null if wanted == asyncio.subprocess.DEVNULL else theirs[1] if wanted == STDOUT else wanted)
            answer = await self.request(op, fds=theirs, **fields)
        except BaseException:
            for fd in ours:
                if fd is not None:
                    os.close(fd)
            raise
        finally:
            for fd in mine:
                os.close(fd)
        return GuestProcess(
            answer["pid"],
            answer["exit"],
            self._signal,
            stdin=await _writer(ours[0]),
            stdout=await _reader(ours[1]),
            stderr=await _reader(ours[2]),
        )

    def _signal(self, pid: int, number: int) -> None:
        if self._socket is None:
            return
        self._number += 1
        data = json.dumps({"id": self._number, "op": "signal", "pid": pid, "signal": int(number)}).encode()
        self._socket.send(struct.pack(">I", len(data)) + data)

    async def run(self, argv: Sequence[str], cwd: Path) -> None:
        """Run a tool of the host with the warden's rights, to its end.

        Raises:
            WardenError: it failed; `strerror` is the first line that it printed to stderr.
        """
        process = await self.spawn(
            "run",
            argv=list(argv),
            cwd=str(cwd),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=PIPE,
        )
        _, printed = await process.communicate()
        if process.returncode:
            lines = printed.decode(errors="replace").strip().splitlines() or [f"{argv[0]} ended with {process.returncode}"]
            full = any("No space left" in line for line in lines)
            raise WardenError(28 if full else 5, lines[-1] if not full else "No space left on device")


async def _reader(fd: int | None) -> asyncio.StreamReader | None:
    if fd is None:
        return None
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "rb", 0))
    return reader


async def _writer(fd: int | None) -> asyncio.StreamWriter | None:
    if fd is None:
        return None
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, protocol = await loop.connect_write_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(fd, "wb", 0))
    return asyncio.StreamWriter(transport, protocol, None, loop)
