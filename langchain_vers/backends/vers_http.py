"""Sessions over the platform's HTTP API, for places where only HTTPS leaves the network.

A call is one `exec/stream`: what a waiting session is told line by line goes along as standard input, which the API takes only whole and at
the start. So nothing waits on the machine ahead of need, and what a running command has to be told (that it is to be killed, or that it is
let go) is brought by a second `exec`. Content that is too long for standard input is put into place by `files` first.

A command outlives the connection by which its output comes. When that breaks, the stream is taken up again where it was; what the platform
does not keep of the output meanwhile is read from the log on the machine. A caller who is gone cannot tell the machine so: a command with a
time limit is then killed by the machine itself a while after it, one without runs to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langchain_vers.backends import guest
from langchain_vers.backends.http_process import Diagnose, HttpProcess
from langchain_vers.backends.sessions import Session
from langchain_vers.errors import BadInput, Conflict, Gone, VersError
from langchain_vers.platform.client import VersClient

INLINE_BYTES = 64 * 1024
"""Content up to this size goes along with the call that writes it."""
PART_BYTES = 16 * 1024 * 1024
"""Longer content goes in pieces of this size."""


class HttpSessions:
    """Where the sessions on a VM come from; see `sessions.Source`."""

    def __init__(self, client: VersClient, vm_id: str, diagnose: Diagnose) -> None:
        self._client = client
        self._vm_id = vm_id
        self._diagnose = diagnose
        self._live: set[HttpProcess] = set()
        self._freed = asyncio.Event()
        self._removing: set[asyncio.Task[None]] = set()
        self.losses = 0

    async def take(self) -> Session:
        """A session that begins when it is told what to do."""
        mark = Session.new_mark()
        process = HttpProcess(self._client, self._vm_id, mark, self._diagnose)
        session = Session(process, mark)

        def ready(folder: str) -> None:
            session.log_path = f"{folder}/{mark}.log"

        def closed() -> None:
            self.losses += process.reattached
            self._live.discard(process)
            self._freed.set()

        process.on_ready, process.on_close = ready, closed
        self._live.add(process)
        return session

    @asynccontextmanager
    async def fed(self, line: bytes, payload: bytes) -> AsyncIterator[bytes]:
        """A call with what it reads from its standard input."""
        if len(payload) <= INLINE_BYTES:
            yield guest.fed(line, payload)
            return
        files: list[str] = []
        mark = Session.new_mark()
        done = False
        try:
            for start in range(0, len(payload), PART_BYTES):
                files.append(f"/tmp/.vers-part-{mark}-{len(files)}")  # noqa: S108  # on the machine, with a name that cannot be guessed, 0600
                await self._put(files[-1], payload[start : start + PART_BYTES])
            yield guest.fed_by(line, files)
            done = True
        finally:
            if not done:
                task = asyncio.get_running_loop().create_task(self._remove(files))
                self._removing.add(task)
                task.add_done_callback(self._removing.discard)

    async def _put(self, file: str, part: bytes) -> None:
        try:
            await self._client.write_file(self._vm_id, file, part, mode=0o600)
        except (Gone, Conflict, BadInput) as error:  # the last is what a server of this API may say of a machine that is paused
            reason = await self._diagnose(error)
            if reason is not None:
                raise reason from error
            await self._client.write_file(self._vm_id, file, part, mode=0o600)

    async def _remove(self, files: list[str]) -> None:
        with contextlib.suppress(VersError):
            await self._client.exec(self._vm_id, ["rm", "-f", "--", *files])

    async def retire(self) -> None:
        """See `sessions.Source`."""
        while self._live:
            self._freed.clear()
            await self._freed.wait()

    async def close(self) -> None:
        """See `sessions.Source`."""
        await asyncio.gather(*(process.hang_up() for process in list(self._live)), *self._removing, return_exceptions=True)
