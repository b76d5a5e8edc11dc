"""Processes that the HTTP API runs in a machine: one-shot runs, and sessions that outlive the client which started them.

A process's output reaches a `Sink` chunk by chunk; a slow sink slows the process down. SSH sessions have a bridge of their own (`bridge`).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import time
from asyncio.subprocess import Process
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from langchain_vers.embedded.store import now
from langchain_vers.errors import DiskFull

Spawn = Callable[..., Awaitable[Process]]
"""`Fleet.spawn` with the machine already given."""
Stream = Literal["stdout", "stderr"]
Sink = Callable[[Stream, bytes], Awaitable[None]]

MARK = "VERS_EXEC_ID"
"""Every process of a run inherits this variable: that is how its tree is found again, whatever sessions and groups it made."""
TIMEOUT_EXIT_CODE = 124
"""What coreutils' `timeout` answers."""
_CHUNK = 64 * 1024
_ENTRY_BYTES = 300
"""About what a kept chunk costs besides its data: a command may print a byte at a time."""
_QUIET_AFTER_EXIT = 0.5
"""Seconds without output after which a finished command's leftover background processes are not listened to any longer."""

# Twice in a row nothing found: a process may have forked between the look and the kill.
_KILL_TREE = """
quiet=0
while [ "$quiet" -lt 2 ]; do
  found=
  for f in $(grep -lF -e "$1" /proc/[0-9]*/environ 2>/dev/null); do
    pid=${f#/proc/}; pid=${pid%/environ}
    kill -9 "$pid" 2>/dev/null && found=1
  done
  if [ -n "$found" ]; then quiet=0; else quiet=$((quiet + 1)); fi
done
"""


def exit_code_of(returncode: int) -> int:
    """The shell's view of how a process ended: its exit code, or 128 plus the signal's number."""
    return 128 - returncode if returncode < 0 else returncode


async def kill_tree(spawn: Spawn, exec_id: str) -> None:
    """Kill every process in the machine that carries the mark of this run."""
    killer = await spawn(
        ["/bin/sh", "-c", _KILL_TREE, "sh", f"{MARK}={exec_id}"],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await killer.wait()


class _Intake:
    """Our end of a process's output pipe."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "rb", 0)
        self._reader = asyncio.StreamReader(limit=_CHUNK)
        self._transport: asyncio.ReadTransport | None = None
        self.waiting_since: float | None = None
        """When the wait for the next chunk began; None while a chunk is being delivered."""

    async def pump(self, stream: Stream, sink: Sink) -> None:
        """Hand everything to the sink until end of file."""
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(self._reader), self._file)
            while True:
                self.waiting_since = time.monotonic()
                data = await self._reader.read(_CHUNK)
                self.waiting_since = None
                if not data:
                    return
                await sink(stream, data)
        finally:
            self.close()

    def close(self) -> None:
        """Close our end."""
        if self._transport is not None:
            self._transport.close()
        else:
            self._file.close()


class _Feeder(asyncio.BaseProtocol):
    """Our end of a process's input pipe."""

    def __init__(self) -> None:
        self.done = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set()


async def _feed(descriptor: int, data: bytes) -> None:
    file = os.fdopen(descriptor, "wb", 0)
    if not data:
        file.close()
        return
    loop = asyncio.get_running_loop()
    transport, feeder = await loop.connect_write_pipe(_Feeder, file)
    try:
        transport.write(data)
        transport.write_eof()
        await feeder.done.wait()
    finally:
        transport.abort()


async def run(
    spawn: Spawn,
    argv: Sequence[str],
    sink: Sink,
    *,
    exec_id: str,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: bytes = b"",
    timeout: float | None = None,
    started: Callable[[], None] | None = None,
) -> int:
    """Run a process to its end and return its exit code (128+n after signal n, `TIMEOUT_EXIT_CODE` after a time-out).

    `timeout` is in seconds; when it runs out the whole tree is killed in the machine and a line on stderr says so. `started` is called as
    soon as the process exists. Raises what `Fleet.spawn` raises.
    """
    ends: list[int] = []
    try:
        for _ in range(3):
            ends.extend(os.pipe())
        stdin_r, stdin_w, stdout_r, stdout_w, stderr_r, stderr_w = ends
        process = await spawn(argv, env={**(env or {}), MARK: exec_id}, cwd=cwd, stdin=stdin_r, stdout=stdout_w, stderr=stderr_w)
    except BaseException:
        for end in ends:
            os.close(end)
        raise
    for end in (stdin_r, stdout_w, stderr_w):
        os.close(end)
    if started is not None:
        started()
    intakes: dict[Stream, _Intake] = {"stdout": _Intake(stdout_r), "stderr": _Intake(stderr_r)}
    feeding = asyncio.create_task(_feed(stdin_w, stdin))
    pumps = {asyncio.create_task(intake.pump(stream, sink)): intake for stream, intake in intakes.items()}
    waiting = asyncio.create_task(process.wait())
    tasks = [feeding, waiting, *pumps]
    try:
        done, _ = await asyncio.wait({waiting}, timeout=timeout or None)
        timed_out = not done
        if timed_out:
            await kill_tree(spawn, exec_id)
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        code = exit_code_of(await waiting)
        await _drain(pumps)
        if timed_out:
            await sink("stderr", f"The command was killed: it ran longer than {timeout:g} s.\n".encode())
            code = TIMEOUT_EXIT_CODE
        return code
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drain(pumps: Mapping[asyncio.Task[None], _Intake]) -> None:
    """Wait for the rest of the output; give up on a pipe that a background process keeps open in silence."""
    pending = set(pumps)
    while pending:
        done, pending = await asyncio.wait(pending, timeout=_QUIET_AFTER_EXIT / 5)
        for pump in done:
            pump.result()
        for pump in list(pending):
            since = pumps[pump].waiting_since
            if since is not None and time.monotonic() - since > _QUIET_AFTER_EXIT:
                pending.discard(pump)


@dataclass(frozen=True)
class Finished:
    """What a one-shot run left."""

    exit_code: int
    stdout: bytes
    stderr: bytes


async def collect(
    spawn: Spawn,
    argv: Sequence[str],
    *,
    exec_id: str,
    limit: int,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: bytes = b"",
    timeout: float | None = None,
    log: Sink | None = None,
) -> Finished:
    """Run a process and keep the first `limit` bytes of each of its streams; what is left out is named on stderr."""
    kept: dict[Stream, list[bytes]] = {"stdout": [], "stderr": []}
    sizes: dict[Stream, int] = {"stdout": 0, "stderr": 0}

    async def sink(stream: Stream, data: bytes) -> None:
        room = limit - sizes[stream]
        sizes[stream] += len(data)
        if room > 0:
            kept[stream].append(data[:room])
        if log is not None:
            await log(stream, data)

    code = await run(spawn, argv, sink, exec_id=exec_id, env=env, cwd=cwd, stdin=stdin, timeout=timeout)
    stderr = b"".join(kept["stderr"])
    for stream, size in sizes.items():
        if size > limit:
            stderr += f"\n[{stream}: {size - limit} bytes after the first {limit} are left out]\n".encode()
    return Finished(code, b"".join(kept["stdout"]), stderr)


async def output_of(spawn: Spawn, argv: Sequence[str], *, stdin: bytes = b"", limit: int = 64 * 1024 * 1024) -> Finished:
    """Run a helper command of the server's own; raises `DiskFull` rather than cut its output."""
    finished = await collect(spawn, argv, exec_id=str(uuid4()), limit=limit + 1, stdin=stdin)
    if len(finished.stdout) > limit:
        raise DiskFull(f"The answer is larger than {limit} bytes; fetch it over SSH.")
    return finished


class Session:
    """One process that clients may leave and come back to, with a bounded backlog of what it printed.

    While a client is attached nothing is dropped: a slow one slows the process down. Without one the oldest chunks make room.
    """

    def __init__(self, exec_id: str, *, retain: int = 4 * 1024 * 1024) -> None:
        self.exec_id = exec_id
        self.finished = False
        self._retain = retain
        self._size = 0
        self._cursor = 0
        self._chunks: deque[tuple[int, int, bytes]] = deque()  # cursor, bytes that it costs, line
        self._readers: dict[object, int] = {}
        self._changed = asyncio.Condition()

    async def chunk(self, stream: Stream, data: bytes) -> None:
        """Append a chunk of output (the session's `Sink`)."""
        event: dict[str, object] = {"type": "chunk", "stream": stream, "data_b64": base64.b64encode(data).decode()}
        async with self._changed:
            while self._size + len(data) > self._retain and self._chunks:
                oldest = self._chunks[0][0]
                if any(position < oldest for position in self._readers.values()):
                    await self._changed.wait()
                else:
                    self._size -= self._chunks.popleft()[1]
            self._append(event)
            self._changed.notify_all()

    async def exit(self, exit_code: int) -> None:
        """Append the last event."""
        async with self._changed:
            self._append({"type": "exit", "exit_code": exit_code})
            self.finished = True
            self._changed.notify_all()

    def _append(self, event: dict[str, object]) -> None:
        self._cursor += 1
        line = json.dumps({**event, "exec_id": self.exec_id, "cursor": self._cursor}).encode() + b"\n"
        self._chunks.append((self._cursor, len(line) + _ENTRY_BYTES, line))
        self._size += len(line) + _ENTRY_BYTES

    async def attach(self, cursor: int = 0, *, from_latest: bool = False) -> AsyncIterator[bytes]:
        """NDJSON lines after `cursor` (the exit event always, if the process has ended), until the exit event."""
        reader = object()
        position = self._cursor if from_latest else min(cursor, self._cursor)
        if self.finished:
            position = min(position, self._cursor - 1)
        self._readers[reader] = position
        try:
            while True:
                async with self._changed:
                    while self._cursor <= position:
                        await self._changed.wait()
                    lines = [(number, line) for number, _, line in self._chunks if number > position][:64]
                for number, line in lines:
                    yield line
                    position = number
                    self._readers[reader] = number
                async with self._changed:
                    self._changed.notify_all()
                if self.finished and position == self._cursor:
                    return
        finally:
            self._readers.pop(reader, None)
            async with self._changed:
                self._changed.notify_all()


@dataclass(frozen=True)
class LogEntry:
    """A chunk in a machine's log; `offset` counts the bytes that came before it."""

    offset: int
    timestamp: str
    stream: Stream
    data: bytes
    exec_id: str


class Log:
    """The last few megabytes that the API's processes printed in one machine."""

    def __init__(self, *, retain: int = 4 * 1024 * 1024) -> None:
        self._retain = retain
        self._entries: deque[LogEntry] = deque()
        self._end = 0
        self._size = 0

    def append(self, stream: Stream, data: bytes, exec_id: str) -> None:
        """Add a chunk; the oldest ones make room."""
        self._entries.append(LogEntry(self._end, now(), stream, data, exec_id))
        self._end += len(data)
        self._size += len(data) + _ENTRY_BYTES
        while self._size > self._retain and len(self._entries) > 1:
            self._size -= len(self._entries.popleft().data) + _ENTRY_BYTES

    def page(self, offset: int, max_entries: int, stream: Stream | None) -> tuple[list[LogEntry], int, bool]:
        """Entries from byte `offset` on, the offset after the last one looked at, and whether the end was reached."""
        page: list[LogEntry] = []
        position = min(offset, self._end)
        for entry in self._entries:
            if entry.offset < offset:
                continue
            if len(page) == max_entries:
                return page, position, False
            position = entry.offset + len(entry.data)
            if stream is None or entry.stream == stream:
                page.append(entry)
        return page, max(position, self._end), True
