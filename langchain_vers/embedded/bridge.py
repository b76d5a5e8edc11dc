"""One SSH session of a machine: a channel on one side, a process's three pipes on the other, with back-pressure both ways.

Sessions behave as OpenSSH's do. Which connection a session comes by, who may open one and how many, is left to the front (`ssh`); starting
processes is left to the fleet.

asyncssh has no public way to answer a session request later, to send an exit status without closing the channel, or to tell a session
that its peer closed a channel whose data is held back; `Channel` is the only place that reaches into it for these.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol, cast

import asyncssh
from asyncssh.constants import EXTENDED_DATA_STDERR, MSG_CHANNEL_CLOSE, MSG_CHANNEL_EOF
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from langchain_vers.embedded.engine import EngineError
from langchain_vers.embedded.execution import Spawn
from langchain_vers.errors import VersError

_CHUNK = 64 * 1024
_EXIT_SECONDS = 5.0
"""How long a process that has closed its outputs may take to end before its client's close is answered without an exit status."""
_SFTP_SERVER = "/usr/lib/openssh/sftp-server"
_LOGIN_SHELL = ("/bin/sh", "-c", "if [ -x /bin/bash ]; then exec /bin/bash -l; else exec /bin/sh -l; fi")
_SIGNALS = signal.Signals
_SIGNAL_NUMBERS = {number.value for number in signal.Signals}
_log = logging.getLogger(__name__)


class Carrier(Protocol):
    """The connection that a session belongs to, as its bridge sees it."""

    vm_id: str
    congested: bool
    """Whether its transport is full."""

    def keep(self, coroutine: Coroutine[Any, Any, None], /) -> None:
        """Run a session's coroutine; it may outlive the connection."""

    def forget(self, bridge: Bridge, /) -> None:
        """The session has ended."""


class Channel(asyncssh.SSHServerChannel[bytes]):
    """A session channel whose requests are answered when the process exists."""

    bridge: Bridge
    complete = False
    """Whether all output of the process has been passed on."""
    _eof_sent = False

    def send_packet(self, pkttype: int, *args: bytes, **options: Any) -> None:  # noqa: ANN401 - asyncssh's own parameters
        """Send a packet, and EOF before the close of a channel whose output is complete."""
        # asyncssh closes a channel without saying EOF before, from which a client cannot tell that it has all the output. OpenSSH says it.
        if pkttype == MSG_CHANNEL_CLOSE and self.complete and not self._eof_sent:
            super().send_packet(MSG_CHANNEL_EOF)
        self._eof_sent = self._eof_sent or pkttype == MSG_CHANNEL_EOF
        super().send_packet(pkttype, *args, **options)

    def _start_session(self, command: str | None = None, subsystem: str | None = None) -> bool:
        if self._session_started:
            return False
        self._session_started = True
        self.bridge.start(command, subsystem)
        # None: no answer yet. `answer` gives it.
        return cast("bool", None)

    def answer(self, accepted: bool) -> None:
        """Answer the session request."""
        if self._session is not None:
            self._report_response(accepted)

    def send_exit_status(self, status: int) -> None:
        """Tell the client how the process ended; the channel stays open."""
        self._send_request(b"exit-status", UInt32(status))

    def send_exit_signal(self, name: str) -> None:
        """Tell the client which signal ended the process; the channel stays open."""
        self._send_request(b"exit-signal", String(name), Boolean(False), String(""), String(""))

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
        """Take a packet; a close is held back while the exit status is still to come."""
        if pkttype == MSG_CHANNEL_CLOSE and self.complete and self.bridge.awaits_exit:
            # All output is there and the client is content, but the process's end has not been noticed yet. As OpenSSH does, answer the
            # close when the exit status has been sent, without which a client reports a failure.
            self.bridge.hold(partial(self._pass_on, pkttype, pktid, packet))
            return True
        return self._pass_on(pkttype, pktid, packet)

    def _pass_on(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool | Awaitable[None]:
        result = super().process_packet(pkttype, pktid, packet)
        if pkttype == MSG_CHANNEL_CLOSE:
            self.bridge.disconnect()
        return result


class Bridge(asyncssh.SSHServerSession[bytes]):
    """One session: a channel on this side, a process's three pipes on the other."""

    def __init__(self, carrier: Carrier, spawn: Spawn) -> None:
        self._carrier = carrier
        self._spawn_inside = spawn
        self._loop = asyncio.get_running_loop()
        self._channel: Channel
        self._process: Process | None = None
        self._held: Callable[[], object] | None = None
        self._closed = False
        self._congested = False
        self._exited = False
        self._stdin: int | None = None
        self._stdin_ended = False
        self._backlog = memoryview(b"")
        self._writer_watched = False
        self._outputs: dict[int, int | None] = {}  # descriptor to extended data type
        self._watched: set[int] = set()

    # -- the channel's side

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        """The channel is open."""
        self._channel = cast("Channel", chan)

    def connection_lost(self, exc: Exception | None) -> None:
        """The channel is closed, or its connection is gone."""
        self.disconnect()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """The client sent input."""
        if self._stdin is None:
            return  # the process closed its input, or never started: what comes is dropped, as by OpenSSH
        if self._backlog:
            self._backlog = memoryview(bytes(self._backlog) + data)
            return
        self._backlog = memoryview(data)
        self._write_stdin()

    def eof_received(self) -> bool:
        """The client's input is at its end; True: the other direction stays open."""
        self._stdin_ended = True
        if not self._backlog:
            self._close_stdin()
        return True

    def pause_writing(self) -> None:
        """The channel is full."""
        self._congested = True
        self.watch_outputs()

    def resume_writing(self) -> None:
        """The channel takes data again."""
        self._congested = False
        self.watch_outputs()

    def signal_received(self, signal: str) -> None:
        """The client asks for a signal (a name without SIG) to the process; one that is not known is ignored."""
        number = getattr(_SIGNALS, f"SIG{signal}", None)
        if number is not None and self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def start(self, command: str | None, subsystem: str | None) -> None:
        """Start what the client asked for; the request is answered when that is done."""
        self._carrier.keep(self._start(command, subsystem))

    async def _start(self, command: str | None, subsystem: str | None) -> None:
        try:
            accepted = await self._spawn(command, subsystem)
        except (VersError, EngineError, OSError, ValueError) as error:
            _log.info("a session of VM %s was refused: %s", self._carrier.vm_id, error)
            accepted = False
        if self._closed:
            self._close_pipes()
        else:
            if accepted:
                self.watch_outputs()
            self._channel.answer(accepted)
        if self._process is not None:
            await self._reap(self._process)

    async def _spawn(self, command: str | None, subsystem: str | None) -> bool:
        argv: Sequence[str]
        if subsystem is not None:
            if subsystem != "sftp" or not await self._has_sftp():
                return False
            argv = (_SFTP_SERVER,)
        elif command is not None:
            argv = ("/bin/sh", "-c", command)
        else:
            argv = _LOGIN_SHELL
        ends: list[int] = []
        try:
            for _ in range(3):
                ends.extend(os.pipe())
            stdin_r, stdin_w, stdout_r, stdout_w, stderr_r, stderr_w = ends
            self._process = await self._spawn_inside(
                argv,
                env=dict(self._channel.get_environment()),
                stdin=stdin_r,
                stdout=stdout_w,
                stderr=stderr_w,
            )
        except BaseException:
            for end in ends:
                os.close(end)
            raise
        for end in (stdin_r, stdout_w, stderr_w):
            os.close(end)
        for end in (stdin_w, stdout_r, stderr_r):
            os.set_blocking(end, False)
        self._stdin = stdin_w
        self._outputs = {stdout_r: None, stderr_r: EXTENDED_DATA_STDERR}
        return True

    async def _has_sftp(self) -> bool:
        probe = await self._spawn_inside(("/bin/sh", "-c", f"test -x {_SFTP_SERVER}"), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
        return await probe.wait() == 0

    async def _reap(self, process: Process) -> None:
        """Pass on how the process ended, at once, whoever still holds its output."""
        returncode = await process.wait()
        self._exited = True
        if self._closed:
            return
        if returncode < 0:
            name = signal.Signals(-returncode).name.removeprefix("SIG") if -returncode in _SIGNAL_NUMBERS else "KILL"
            self._channel.send_exit_signal(name)
        else:
            self._channel.send_exit_status(returncode)
        self._close_stdin()
        self._finish()
        self._let_go()

    @property
    def awaits_exit(self) -> bool:
        """Whether the process runs, as far as is known."""
        return self._process is not None and not self._exited and not self._closed

    def hold(self, close: Callable[[], object]) -> None:
        """Keep the client's close until the process has ended, which is near: it has closed its outputs."""
        self._close_stdin()
        self._held = close
        self._loop.call_later(_EXIT_SECONDS, self._let_go)

    def _let_go(self) -> None:
        close, self._held = self._held, None
        if close is not None:
            close()

    # -- the process's side

    def _write_stdin(self) -> None:
        if self._stdin is None:
            return
        try:
            while self._backlog:
                self._backlog = self._backlog[os.write(self._stdin, self._backlog) :]
        except BlockingIOError:
            if not self._writer_watched:
                self._writer_watched = True
                self._channel.pause_reading()
                self._loop.add_writer(self._stdin, self._write_stdin)
            return
        except OSError:
            # It closed its input. The rest of what the client sends is read and dropped, so that the client is not stuck.
            self._close_stdin()
            return
        if self._writer_watched:
            self._writer_watched = False
            self._loop.remove_writer(self._stdin)
            if self._stdin_ended:
                self._close_stdin()
            else:
                self._channel.resume_reading()
        elif self._stdin_ended:
            self._close_stdin()

    def _close_stdin(self) -> None:
        descriptor, self._stdin = self._stdin, None
        self._backlog = memoryview(b"")
        if descriptor is None:
            return
        if self._writer_watched:
            self._writer_watched = False
            self._loop.remove_writer(descriptor)
            if not self._closed:
                self._loop.call_soon(self._discard_input)
        os.close(descriptor)

    def _discard_input(self) -> None:
        if not self._closed:
            self._channel.resume_reading()

    def watch_outputs(self) -> None:
        """Read the process's output if the channel and the connection take more, else leave it in the pipe."""
        wanted = set() if self._congested or self._carrier.congested or self._closed else set(self._outputs)
        for descriptor in self._watched - wanted:
            self._loop.remove_reader(descriptor)
        for descriptor in wanted - self._watched:
            self._loop.add_reader(descriptor, self._read_output, descriptor)
        self._watched = wanted

    def _read_output(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._channel.write(data, self._outputs[descriptor])
            return
        self._close_output(descriptor)
        self._finish()

    def _close_output(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.discard(descriptor)
            self._loop.remove_reader(descriptor)
        del self._outputs[descriptor]
        os.close(descriptor)

    def _finish(self) -> None:
        """Close the channel once the process has ended and all of its output has been passed on."""
        if self._outputs or self._closed:
            return
        self._channel.complete = True
        if self._exited:
            self._channel.close()
        else:
            self._channel.write_eof()

    def disconnect(self) -> None:
        """The client closed the channel or is gone: close the pipes now, and leave the process to draw its conclusions."""
        if not self._closed:
            self._closed = True
            self._close_pipes()
            # Now, and not when asyncssh has cleaned up: the client's next request may be for a session in the place of this one.
            self._carrier.forget(self)

    def _close_pipes(self) -> None:
        self._close_stdin()
        for descriptor in list(self._outputs):
            self._close_output(descriptor)
