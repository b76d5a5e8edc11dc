"""One call on a machine over the platform's HTTP API: a program, its output as a stream, and the stream taken up again when it breaks.

`vers_http` says what goes along with a call, and what this transport can and cannot do.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from langchain_vers.backends import guest, reconnects, sessions
from langchain_vers.backends.sessions import Session
from langchain_vers.errors import BadInput, Conflict, DeadlineExceeded, Gone, Interrupted, RateLimited, ServerFault, Unreachable, VersError
from langchain_vers.platform.client import VersClient
from langchain_vers.platform.models import VmExecStreamChunk, VmExecStreamEvent

REATTACH_SECONDS = 60.0
"""How long a lost stream is asked for again before its command counts as lost."""
BEGIN_SECONDS = 10.0
"""The same for a call that the platform has not said anything of yet."""
SILENT_SECONDS = 30.0
"""A stream that says nothing for so long is taken up anew: a network that has vanished does not say so."""
_PAUSES = (0.1, 0.5, 2.0)
_ROOM = 4 * 1024 * 1024
"""Bytes of output that may wait for their reader before the stream has to."""
_CATCH_UP_SECONDS = 1.0
_PASSING = (Unreachable, DeadlineExceeded, RateLimited, ServerFault)
"""Errors after which it is worth asking again."""

Diagnose = Callable[[VersError], Awaitable[VersError | None]]
"""What a refusal means, after a look at the machine; None if it was asleep, and has been woken."""
Events = AsyncGenerator[VmExecStreamEvent, None]


class _Final(Exception):
    """An error that asking again would not help."""

    def __init__(self, error: VersError) -> None:
        self.error = error


class _Run:
    """What is known of a call while its stream is followed."""

    begun = False
    """Whether the platform has ever said anything of it."""
    attached = False
    """Whether it is asked for its stream again, or to begin."""
    refusal: VersError | None = None
    """What came first instead of a stream."""
    lost: float | None = None
    """Since when it is without a stream."""
    attempts = 0


class HttpProcess:
    """One call on the machine. What is sent first begins it; see `sessions.Process`."""

    def __init__(self, client: VersClient, vm_id: str, mark: str, diagnose: Diagnose) -> None:
        self._client = client
        self._vm_id = vm_id
        self._mark = mark
        self._diagnose = diagnose
        self.exec_id = str(uuid.uuid4())
        self.received = 0
        """Pieces of output so far."""
        self.reattached = 0
        """How many times its stream was lost and taken up again."""
        self.on_close: Callable[[], None] = lambda: None
        self.on_ready: Callable[[str], None] = lambda _: None
        """Called with the folder of logs, when the machine has named it."""
        self.ended_cleanly = False
        self._task: asyncio.Task[None] | None = None
        self._command = False
        self._told = self._over = self._closed = False
        self._error: VersError | None = None
        self._output: deque[tuple[int, bytes]] = deque()
        self._waiting = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._answered = asyncio.Event()
        self._head: bytes | None = b""
        self._complaints = b""
        self._folder = ""
        self._printed = 0
        self._cursor: int | None = None
        self._behind = False
        self._caught_up = 0.0

    @property
    def open(self) -> bool:
        """See `RemoteProcess`."""
        return not self._closed and not self._over

    # --- what the caller does ---

    async def send(self, data: bytes) -> None:
        """Begin the call; later: tell its watcher something. Raises what the platform answers, if it refuses to begin it."""
        if self._task is not None:
            self._told = True
            await self._tell(data.decode().strip())
            return
        self._command = b"__vers_exec " in data
        self._task = asyncio.get_running_loop().create_task(self._run(data))
        await self._answered.wait()
        if self._error is not None and not self.received:
            raise self._error

    async def send_eof(self) -> None:
        """Have the command killed."""
        self._told = True
        await self._tell("k")

    async def receive(self) -> tuple[int, bytes]:
        """See `sessions.Process`. Raises what ended the stream, if the platform has said it."""
        await self.arrival()
        if self._output:
            kind, data = self._output.popleft()
            self._waiting -= len(data)
            self._room.set()
            return kind, data
        if self._error is not None:
            raise self._error
        return 0, b""

    async def arrival(self) -> None:
        """See `sessions.Process`."""
        while not self._output and not self._over:
            self._news.clear()
            await self._news.wait()

    def close(self) -> None:
        """See `sessions.Process`. A command that may be running is killed."""
        if not self._closed:
            self._closed = True
            task = asyncio.get_running_loop().create_task(self._finish())
            _finishing.add(task)
            task.add_done_callback(_finishing.discard)

    async def hang_up(self) -> None:
        """End it at once; who reads it learns that the connection is lost."""
        if self._task is not None and not self._over:
            self._end()
            await self._kill()

    async def _finish(self) -> None:
        try:
            if self._task is not None:
                if not self._over:
                    await self._kill()
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)
        finally:
            self.on_close()

    async def _kill(self) -> None:
        """Have the machine kill it, if it is a command that nobody has let go, as far as the machine can be reached."""
        if self._command and not self._told:
            self._told = True
            with contextlib.suppress(VersError):
                await self._tell("k")

    async def _tell(self, word: str) -> None:
        argv, text = guest.program(guest.call("tell", self._mark, word))
        await self._client.exec(
            self._vm_id, argv, env={"VERS_CALL": Session.new_mark()}, stdin=text, deadline=sessions.KILL_SECONDS, exec_id=str(uuid.uuid4())
        )

    # --- the stream ---

    async def _run(self, line: bytes) -> None:
        try:
            await self._follow(line)
        except _Final as final:
            self._error = final.error
        except VersError as error:
            self._error = error
        finally:
            self._end()

    def _end(self) -> None:
        self._over = True
        self._answered.set()
        self._news.set()
        self._room.set()

    async def _follow(self, line: bytes) -> None:
        """See the stream through to its exit, over any number of connections. Returns without an exit when it is lost."""
        run = _Run()
        while True:
            attach = self._client.attach_exec_stream
            events = attach(self._vm_id, self.exec_id, cursor=self._cursor) if run.attached else self._begin(line)
            before = self.received
            silent = False
            try:
                async with aclosing(events):
                    if await self._take_all(events):
                        return
                silent = True
            except Gone as error:
                if not await self._woken(run, error):
                    return
                run = _Run()
                continue
            except VersError as error:
                self._weigh(run, error)
            run.attached = True
            if self.received > before:
                run.begun, run.lost, run.attempts = True, None, 0
            if silent:
                continue
            if self.received > before:
                self.reattached += 1
                reconnects.again()
            run.lost = run.lost or time.monotonic()
            if time.monotonic() - run.lost > (REATTACH_SECONDS if run.begun else BEGIN_SECONDS):
                return
            await asyncio.sleep(_PAUSES[min(run.attempts, len(_PAUSES) - 1)])
            run.attempts += 1

    async def _woken(self, run: _Run, error: Gone) -> bool:
        """The platform knows nothing of the run. True if that is because the machine was asleep, and is not any more.

        False: nothing has begun, as far as the platform knows; who asked will make sure of that, and then ask again.

        Raises:
            VersError: what else it means.
        """
        reason = await self._diagnose(run.refusal or error)
        if reason is None:
            return True
        if reason is error and run.attached:
            raise Interrupted(
                f"the platform does not know the command on VM {self._vm_id} any more; it may have run in part: look at its effects before "
                "you run it again",
                machine_id=self._vm_id,
            ) from None
        if isinstance(reason, Unreachable | DeadlineExceeded):
            return False
        raise reason from None

    @staticmethod
    def _weigh(run: _Run, error: VersError) -> None:
        """Return if the stream should be asked for again, as the run may be there; else raise."""
        if isinstance(error, Unreachable) and error.unsent and not run.attached:
            raise error
        # A repetition that the platform does not recognise as one is refused because the run is there already.
        perhaps = not run.attached and isinstance(error, Conflict | BadInput)
        if not perhaps and not isinstance(error, _PASSING):
            raise run.refusal or error
        if not isinstance(error, Interrupted):
            run.refusal = run.refusal or error

    def _begin(self, line: bytes) -> Events:
        argv, text = guest.program(line)
        return self._client.exec_stream(self._vm_id, argv, env={"VERS_CALL": self._mark}, stdin=text, exec_id=self.exec_id)

    async def _take_all(self, events: Events) -> bool:
        """Take what a stream says; whether it has come to its end. False if it has been silent for long."""
        while True:
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    event = await anext(events)
            except VersError:  # some are TimeoutErrors
                raise
            except TimeoutError:
                self._answered.set()
                return False
            if await self._take(event):
                return True

    async def _take(self, event: VmExecStreamEvent) -> bool:
        """Take one event; whether it is the last."""
        gap = self._cursor is not None and event.cursor > self._cursor + 1
        self._cursor = event.cursor
        self.received += 1
        self._answered.set()
        if gap and not self._behind:
            if not self._command or not self._folder:
                raise _Final(Unreachable(f"output from VM {self._vm_id} was lost with the connection; try again", machine_id=self._vm_id))
            self._behind = True
            await self._push(2, b"b\0")  # a command that has printed has begun
        chunk = event if isinstance(event, VmExecStreamChunk) else None
        printed = chunk is not None and chunk.stream == "stdout"
        if self._behind and (not printed or time.monotonic() > self._caught_up + _CATCH_UP_SECONDS):
            await self._catch_up()
        if chunk is None:
            if self._head is not None:
                raise _Final(self._no_shell())
            self.ended_cleanly = True
        elif not printed:
            self._complaints = (self._complaints + chunk.data)[-1024:] if self._head is not None else b""
            await self._push(2, chunk.data)
        elif not self._behind:
            await self._print(chunk.data)
        return chunk is None

    def _no_shell(self) -> Unreachable:
        detail = (self._complaints or self._head or b"").decode(errors="replace").strip()[-300:] or "no message"
        text = f"VM {self._vm_id} did not start a shell ({detail}); it needs a POSIX sh and coreutils"
        return Unreachable(text, machine_id=self._vm_id)

    async def _print(self, data: bytes) -> None:
        """Pass on what the call prints; before that its session names its folder."""
        if self._head is not None:
            self._head += data
            folder = guest.parse_ready(self._head, self._mark)
            if folder is None:
                return
            data = self._head.partition(f"ready {self._mark} ".encode())[2].partition(b"\n")[2]
            self._head, self._folder = None, folder
            self.on_ready(folder)
        self._printed += len(data)
        await self._push(1, data)

    async def _push(self, kind: int, data: bytes) -> None:
        while self._waiting > _ROOM and not self._over:
            self._room.clear()
            await self._room.wait()
        if data and not self._over:
            self._output.append((kind, data))
            self._waiting += len(data)
            self._news.set()

    async def _catch_up(self) -> None:
        """Read what has come into the log since; the platform does not keep all that is printed while nobody listens."""
        log = f"{self._folder}/{self._mark}.log"
        end = time.monotonic() + REATTACH_SECONDS
        while True:
            argv = ["/bin/sh", "-c", 'exec tail -c "+$1" -- "$2"', "sh", str(self._printed + 1), log]
            complaints = b""
            try:
                async with aclosing(self._client.exec_stream(self._vm_id, argv)) as events:
                    async for event in events:
                        if not isinstance(event, VmExecStreamChunk):
                            if event.exit_code == 0:
                                self._caught_up = time.monotonic()
                                return
                        elif event.stream == "stdout":
                            await self._print(event.data)
                        else:
                            complaints += event.data
                break
            except _PASSING as error:
                if time.monotonic() > end:
                    raise self._log_lost(str(error)) from error
            await asyncio.sleep(_PAUSES[-1])
        raise self._log_lost(complaints.decode(errors="replace").strip()[:300])

    def _log_lost(self, reason: str) -> _Final:
        return _Final(
            Interrupted(
                f"output of the command on VM {self._vm_id} was lost with the connection, and its log {self._mark}.log cannot be read "
                f"({reason}); look at the command's effects before you run it again",
                machine_id=self._vm_id,
            )
        )


_finishing: set[asyncio.Task[None]] = set()
"""Calls that are being given back; the event loop itself keeps no strong reference to its tasks."""
