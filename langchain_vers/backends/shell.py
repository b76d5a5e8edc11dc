"""A backend over any transport that can run one shell on a POSIX machine: the protocol's primitives, derived once from sessions.

`guest.py` says what the sessions do; a subclass says where they come from (an SSH channel, a local process, a container's exec). Time-outs,
cancellation, bounded output and error messages are decided here, the same for every such backend.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import math
import os
import re
import secrets
import shlex
import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Self

from langchain_vers.backends import guest, sessions
from langchain_vers.backends.base import ABSENT, Backend, ExecResult, FileRead, FileStat, OutputCallback, Scan
from langchain_vers.backends.environment import resolved
from langchain_vers.backends.listing import parse_scan, parse_stat, path_error, select
from langchain_vers.backends.premises import Premises
from langchain_vers.backends.sessions import End, Process, Running, Session
from langchain_vers.backends.stamps import Guard, Stamp, parse_stamp
from langchain_vers.errors import (
    BadInput,
    Conflict,
    DeadlineExceeded,
    DiskFull,
    Interrupted,
    Misplaced,
    Missing,
    TakenOver,
    Unreachable,
    VersError,
)

_SLICE = 1024 * 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ShellBackend(Backend):
    """The primitives over sessions. A subclass implements `_session` (and `close`)."""

    _guard: Guard | None = None
    _premises: Premises | None = None
    checks_premises = True
    quiet_seconds = sessions.QUIET_SECONDS
    """Seconds that the output must be silent after a command's end when a background process of it still holds it open."""
    silence = "look whether it runs"
    """What to do when the machine does not answer, for errors."""
    orphans = "and the machine kills what is left of it"
    """What becomes of a command whose connection is lost, for errors."""

    @abstractmethod
    async def _session(self) -> Session:
        """A session that is ready, or the error of the machine that has none to give."""

    @property
    def home(self) -> str | None:
        """The directory where commands start when no other is given; None is the login directory."""
        return None

    @property
    def scratch(self) -> str:
        """A folder on the machine for temporary files."""
        return "/tmp"  # noqa: S108  # of the machine

    @property
    def _where(self) -> str:
        return f"machine {self.machine_id}" if self.machine_id else f"backend {self.name}"

    async def exec(
        self,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout: float | None = None,
        on_output: OutputCallback | None = None,
    ) -> ExecResult:
        """See `Backend.exec`."""
        _check_command(command)
        _check_path(cwd, empty_ok=True)
        if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
            raise BadInput(f"timeout must be a finite number of seconds greater than 0, not {timeout!r}")
        variables = {**resolved(self.environment, os.environ), **_checked_env(env or {})}
        prelude = guest.exports(variables)
        if stdin:
            stored = await self.expecting(None)._store_stdin(stdin, cwd)
            prelude = f"{prelude}{'; ' if prelude else ''}exec <{stored}; rm -f {stored}"
        limit = None if timeout is None else math.ceil(timeout + sessions.BACKSTOP_SECONDS)
        line = guest.call("exec", command, cwd or self.home, prelude, guest.KEEP_LINES, guest.KEEP_BYTES, limit)
        if self._guard is not None:
            line = self._guard.around(line, command=True, seconds=timeout)
        line = self._worded(line if self._premises is None else self._premises.around(line, command=True))
        session, reconnects = await self._begin(line)
        running, end = await self._follow(session, timeout, on_output)
        if end is End.LOST and not running.control.begun and await self._withdrawn(session):
            session, _ = await self._begin(line)
            reconnects += 1
            running, end = await self._follow(session, timeout, on_output)
        if stdin and end is End.REFUSED:  # the command did not come to remove it
            await self.expecting(None).exec(f"rm -f {stored}", cwd="/")
        if self._premises is not None and end is not End.REFUSED:
            self._premises.met = True
        return self._result(running, end, cwd, reconnects)

    def _worded(self, line: bytes) -> bytes:
        """A call behind which nothing is sent before it answers, in the form that the transport takes in fastest."""
        return guest.shortened(line)

    async def _follow(self, session: Session, timeout: float | None, on_output: OutputCallback | None) -> tuple[Running, End]:
        """See a command through to its end, and to its death if it has to be stopped."""
        running = Running(session, self.tail_limit, timeout, self.quiet_seconds)
        try:
            end = await running.follow(on_output)
            if end is End.TIMED_OUT:
                await self._kill(running)
        except asyncio.CancelledError:
            with contextlib.suppress(VersError):
                await asyncio.shield(self._kill(running))
            raise
        finally:
            session.process.close()
        return running, end

    async def _withdrawn(self, session: Session) -> bool:
        """Whether a command that was sent into a broken connection has not begun; then it never will, and may be sent again.

        A connection that died while idle often shows it only after the next call has been sent.
        """
        try:
            header, _ = await self._call(session.log_path, guest.call("withdraw", session.log_path, session.mark))
        except VersError:
            return False
        return header == b""

    async def _store_stdin(self, stdin: bytes, cwd: str | None) -> str:
        """Put a command's standard input into a file, which the command removes when it has opened it; its path, quoted for a shell."""
        path = f"{self.scratch}/.vers-stdin-{secrets.token_hex(8)}"  # a name that cannot be guessed
        await self.write(path, stdin, cwd=cwd, mode=0o600)
        return shlex.quote(path)

    async def _begin(self, line: bytes) -> tuple[Session, int]:
        """Give a waiting session its line. A connection that had died while idle is noticed here, before anything ran, and made anew
        once.
        """
        for reconnects in (0, 1):
            session = await self._session()
            try:
                await session.process.send(line)
            except BaseException as error:
                session.process.close()
                if reconnects or not isinstance(error, Unreachable):
                    raise
            else:
                return session, reconnects
        raise AssertionError  # the loop has no other end

    def _result(self, running: Running, end: End, cwd: str | None, reconnects: int) -> ExecResult:
        control, tail = running.control, running.tail
        if end is End.REFUSED and control.refused == "pipe":
            raise DiskFull(f"{self._where} has no room for what a command needs in its folder for temporary files; nothing was run")
        if end is End.REFUSED and control.refused == "paths":
            raise self._misplaced()
        if end is End.REFUSED and control.refused == "owner":
            raise TakenOver(f"another process has taken over {self._where}; nothing was run", machine_id=self.machine_id)
        if end is End.REFUSED:
            raise Missing(
                f"the working directory {cwd or self.home or '~'} does not exist on {self._where}; change to one that does "
                "(`cd` to an absolute path)",
                machine_id=self.machine_id,
            )
        if end is End.SILENT:
            raise Unreachable(
                f"{self._where} did not begin the command within {sessions.ANSWER_SECONDS:.0f} s; {self.silence}",
                machine_id=self.machine_id,
            )
        if end is End.LOST:
            raise Interrupted(
                f"the connection to {self._where} broke while the command ran; it may have run in part, {self.orphans}: look at its "
                "effects before you run it again",
                output=tail.bytes(),
                machine_id=self.machine_id,
            )
        timed_out = end is End.TIMED_OUT
        # No status although the output ended: the shell itself was killed from within, as by `kill -9 -1`.
        status = None if timed_out else (137 if control.status is None else control.status)
        kept = timed_out or end is End.RELEASED or tail.newlines > guest.KEEP_LINES or tail.total > guest.KEEP_BYTES
        return ExecResult(
            exit_code=status,
            tail=tail.bytes(),
            total_bytes=tail.total,
            total_newlines=tail.newlines,
            duration=time.monotonic() - running.started,
            signal=status - 128 if status is not None and 128 < status <= 128 + 64 else None,
            timed_out=timed_out,
            cwd=control.cwd,
            log_path=running.session.log_path if kept else None,
            reconnects=reconnects,
        )

    async def _kill(self, running: Running) -> None:
        """End a command's input, which makes its watcher kill it, and wait for the word that all of it is dead.

        Raises:
            Unreachable: the machine did not confirm it, also not when asked by a second session.
        """
        if await running.killed_by_watcher():
            return
        try:  # the watcher itself may have been killed by the command: ask from outside
            async with asyncio.timeout(sessions.KILL_SECONDS):
                sweeper, _ = await self._begin(guest.call("sweep", running.session.mark))
                try:
                    while (await sweeper.process.receive())[0] != 0:
                        pass
                    if sweeper.process.ended_cleanly:
                        return
                finally:
                    sweeper.process.close()
        except (TimeoutError, Unreachable):
            pass
        raise Unreachable(
            f"the command was to be stopped, but {self._where} did not confirm that its processes are dead; look with `ps` when it "
            "answers again",
            machine_id=self.machine_id,
        )

    # --- what must hold on the machine ---

    def expecting(self, premises: Premises | None) -> Self:
        """The same machine, over the same connections, for the parts of one call, which raise `Misplaced` if these do not hold there."""
        view = copy.copy(self)
        view._premises = premises
        return view

    def _misplaced(self) -> Misplaced:
        return Misplaced(
            f"a path of the call was moved on {self._where} while the call was being checked; nothing was done: try again",
            machine_id=self.machine_id,
        )

    def guarded(self, guard: Guard) -> Self:
        """The same machine, over the same connections, for calls that may only be carried out while it is their process's."""
        view = copy.copy(self)
        view._guard = guard
        return view

    async def look(self) -> Stamp | None:
        """What the machine's content is called and whose it is; None on a machine that was never taken."""
        header, _ = await self._call("the machine's state", guest.call("look"))
        return parse_stamp(header)

    async def take(self, stamp: Stamp) -> None:
        """Write down whose the machine is and what its content is called."""
        await self._call("the machine's state", guest.call("take", *stamp.words()))

    # --- files ---

    async def read(self, path: str, *, cwd: str | None = None, offset: int = 0, length: int | None = None) -> FileRead:
        """See `Backend.read`."""
        _check_path(path)
        _check_path(cwd, empty_ok=True)
        if offset < 0 or (length is not None and length < 0):
            raise BadInput(f"offset and length must not be negative, not {offset} and {length}")
        if length == 0:
            return FileRead(b"", await self.stat(path, cwd=cwd))
        header, data = await self._call(path, guest.call("read", path, cwd or self.home, offset, length))
        stat = parse_stat(header)
        wanted = max(0, stat.size - offset) if length is None else min(length, max(0, stat.size - offset))
        if len(data) < wanted:
            raise Conflict(f"{path} became shorter while it was read; read it again")
        return FileRead(data if length is None else data[:length], stat)

    async def write(
        self, path: str, data: bytes, *, cwd: str | None = None, mode: int | None = None, expect: str | None = None
    ) -> FileStat:
        """See `Backend.write`."""
        _check_path(path)
        _check_path(cwd, empty_ok=True)
        check_version(expect)
        line = guest.call("write", path, cwd or self.home, len(data), None if mode is None else f"{mode:o}", expect)
        # Replacing a file twice with the same content is harmless; a comparison would fail the second time for what the first has done.
        header, _ = await self._call(path, line, data, repeat=expect is None, changes=True)
        return parse_stat(header)

    async def stat(self, path: str, *, cwd: str | None = None) -> FileStat:
        """See `Backend.stat`."""
        _check_path(path)
        _check_path(cwd, empty_ok=True)
        header, _ = await self._call(path, guest.call("stat", path, cwd or self.home))
        return parse_stat(header)

    async def scan(
        self,
        path: str,
        *,
        cwd: str | None = None,
        pattern: str | None = None,
        recursive: bool = False,
        ignored: bool = True,
        limit: int = 1000,
    ) -> Scan:
        """See `Backend.scan`."""
        _check_path(path)
        _check_path(cwd, empty_ok=True)
        line = guest.call("scan", path, cwd or self.home, 0 if recursive else 1, 0 if ignored else 1)
        header, data = await self._call(path, line)
        return select(parse_scan(header, data, with_rules=not ignored), pattern=pattern, limit=limit)

    async def _call(
        self, path: str, line: bytes, payload: bytes | None = None, *, repeat: bool = True, changes: bool = False
    ) -> tuple[bytes, bytes]:
        """One call of a session's function: its header line (without the "+") and what followed. Errors of the path are raised.

        `repeat`: whether it may be run once more when its connection broke; `changes`: whether it changes the machine.
        """
        if self._guard is not None:
            line = self._guard.around(line, command=False, changes=changes)
        if self._premises is not None:
            line = self._premises.around(line, command=False)
        try:
            answer = await self._answer(path, line, payload)
        except DeadlineExceeded:
            raise
        except Unreachable:
            if not repeat:
                raise
            answer = await self._answer(path, line, payload)
        header, _, rest = answer.partition(b"\n")
        if header == b"!paths":
            raise self._misplaced()
        if header[:1] != b"+":
            raise path_error(path, header[1:].decode(errors="replace"), self._where, self.machine_id)
        if self._premises is not None and changes:
            self._premises.met = True
        return header[1:], rest

    async def _answer(self, path: str, line: bytes, payload: bytes | None) -> bytes:
        session, _ = await self._begin(line)
        process = session.process
        chunks: list[bytes] = []
        sending = None if payload is None else asyncio.get_running_loop().create_task(_send_all(process, payload))
        try:
            while True:
                if sending is not None and not sending.done():
                    # Each slice of the payload has a deadline of its own; an early answer is a refusal.
                    await _first(process, sending)
                async with asyncio.timeout(sessions.ANSWER_SECONDS):
                    kind, data = await process.receive()
                if kind == 0:
                    break
                if kind == 1:
                    chunks.append(data)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{self._where} did not answer about {path} within {sessions.ANSWER_SECONDS:.0f} s; {self.silence}",
                machine_id=self.machine_id,
            ) from None
        finally:
            process.close()
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        # A session that was killed by another command has ended cleanly too, and has not answered.
        if not process.ended_cleanly or not any(b"\n" in chunk for chunk in chunks):
            raise Unreachable(
                f"the connection to {self._where} broke while {path} was transferred; nothing is half-written: try again",
                machine_id=self.machine_id,
            )
        return b"".join(chunks)

    async def _ready(self, process: Process, mark: str) -> Session:
        """Wait for a session that was just started; closes it if it does not come."""
        session = Session(process, mark)
        try:
            async with asyncio.timeout(sessions.ANSWER_SECONDS):
                await session.prepare()
        except TimeoutError:
            process.close()
            raise DeadlineExceeded(
                f"{self._where} did not start a shell within {sessions.ANSWER_SECONDS:.0f} s", machine_id=self.machine_id
            ) from None
        except BaseException:
            process.close()
            raise
        return session


async def _first(process: Process, sending: asyncio.Task[None]) -> None:
    """Wait until the payload is sent, or could not be, or there is something to receive."""
    arrival = asyncio.ensure_future(process.arrival())
    try:
        await asyncio.wait({arrival, sending}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        arrival.cancel()
        await asyncio.gather(arrival, return_exceptions=True)


async def _send_all(process: Process, payload: bytes) -> None:
    """The payload, then the end of input. A machine that takes nothing for `sessions.ANSWER_SECONDS` ends it."""
    view = memoryview(payload)
    for start in range(0, len(view), _SLICE):
        async with asyncio.timeout(sessions.ANSWER_SECONDS):
            await process.send(bytes(view[start : start + _SLICE]))
    await process.send_eof()


def _check_command(command: str) -> None:
    if not command.strip():
        raise BadInput("the command is empty; give a shell command")
    if "\0" in command:
        raise BadInput("the command contains a NUL character, which no shell can take; remove it")


def _check_path(path: str | None, *, empty_ok: bool = False) -> None:
    if not path and not (empty_ok and path is None):
        raise BadInput("the path is empty; give a path")
    if path is not None and "\0" in path:
        raise BadInput(f"the path {path!r} contains a NUL character, which no file name can; remove it")


def check_version(expect: str | None) -> None:
    """Refuse an `expect` of `Backend.write` that can be no version.

    Raises:
        BadInput: it is neither `ABSENT` nor what `version_of` gives.
    """
    if expect is not None and expect != ABSENT and (len(expect) != 64 or set(expect) - set("0123456789abcdef")):
        raise BadInput(f"expect must be ABSENT or what version_of() gives, not {expect!r}")


def _checked_env(env: Mapping[str, str]) -> dict[str, str]:
    for name, value in env.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise BadInput(
                f"{name!r} is not an environment variable that a shell can set; use letters, digits and '_', and no NUL in the value"
            )
    return dict(env)
