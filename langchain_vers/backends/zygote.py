"""The first process of a sandbox, which starts the sessions in it, and the pipes by which they are talked to.

Nothing ever enters a sandbox from outside: what runs there was started there, with the rights that are left there. A session is asked for
by one line on the zygote's standard input, the mark of the session; it is answered by the same line when the session has its pipes. These
lie in a folder that the sandbox cannot write, and are gone from it by then. An empty line only asks whether anybody is there. The end of
the input ends the sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
from collections.abc import Awaitable, Callable
from pathlib import Path

from langchain_vers.backends import guest
from langchain_vers.backends.pipes import Pipes
from langchain_vers.backends.sessions import Process
from langchain_vers.errors import Unreachable

ANSWER_SECONDS = 10.0
"""How long a zygote may take to answer; it has nothing else to do."""

# $1: the folder of pipes, $2: what starts a session, $3: the loop below. What sessions are to have in their environment comes first on
# standard input: a length, and so many bytes of shell text.
SCRIPT = r"""
IFS= read -r n
eval "$(head -c "$n")"
echo ready
exec /bin/sh -c "$3" sh "$@"
"""

# `setsid --fork` and not `&`, with which a session would not hear SIGINT, and the zygote would have to bury it. A shell ends when it cannot
# fork, as when a command has just taken all processes that there may be; the zygote must not, as all would end with it. So it begins anew,
# which takes no fork: there is no session then, which shows by its pipes.
LOOP = r"""
trap 'echo "$n"; exec /bin/sh -c "$3" sh "$@"' EXIT
while IFS= read -r n; do
  [ -z "$n" ] || VERS_CALL=$n setsid --fork sh -c "$2" <"$1/$n.in" >"$1/$n.out" 2>"$1/$n.err"
  echo "$n"
done
trap - EXIT
"""


def command(folder: str) -> list[str]:
    """The zygote's argument list; `folder` is where it finds the pipes."""
    return ["/bin/sh", "-c", SCRIPT, "sh", folder, guest.boot("$VERS_CALL"), LOOP]


def opening(environment: dict[str, str]) -> bytes:
    """What a zygote is sent first: the environment of all sessions, which thus stands in no argument list."""
    text = guest.exports(environment).encode("utf-8", "surrogateescape")
    return b"%d\n%s" % (len(text), text)


class Zygote:
    """Talks to a zygote. Coroutines of the I/O thread."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._asked: list[tuple[bytes, asyncio.Future[None]]] = []
        self.ended = asyncio.Event()
        """Set when it has ended, and the sandbox with it or soon."""
        self.errors = b""
        """The last that it wrote to its standard error."""
        self._listening = asyncio.get_running_loop().create_task(self._listen())

    async def _listen(self) -> None:
        partial = b""
        while (news := await self._process.receive())[0] != 0:
            if news[0] == 2:
                self.errors = (self.errors + news[1])[-2000:]
                continue
            *lines, partial = (partial + news[1]).split(b"\n")
            for line in lines:
                waiting = next((answer for asked, answer in self._asked if asked == line and not answer.done()), None)
                if waiting is not None:  # else nobody waits any more
                    waiting.set_result(None)
        self.ended.set()
        for _, answer in self._asked:
            if not answer.done():
                answer.set_exception(Unreachable("the sandbox has ended"))

    async def ask(self, line: bytes, *, send: bytes | None = None) -> None:
        """Send a line (or `send`) and wait until it comes back.

        Raises:
            Unreachable: the zygote has ended, or does not answer.
        """
        if self.ended.is_set():
            raise Unreachable("the sandbox has ended")
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked.append(asked := (line, answer))
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._process.send(line + b"\n" if send is None else send)
                await answer
        except TimeoutError:
            raise Unreachable(f"the sandbox did not answer within {ANSWER_SECONDS:.0f} s") from None
        finally:
            self._asked.remove(asked)
            answer.cancel()

    async def answers(self) -> bool:
        """Whether it is there."""
        try:
            await self.ask(b"")
        except Unreachable:
            return False
        return True

    async def close(self) -> None:
        """Stop listening, and let go of its pipes: it ends."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self.ended.set()
        self._process.close()


class SessionPipes(Pipes):
    """The pipes of one session, named ones until both sides have them open.

    Until then this side holds both ends of each: nobody waits for the other side in `open`, and no end is taken for the end of the session.
    """

    def __init__(self, folder: str, mark: str, alive: Callable[[], Awaitable[bool]]) -> None:
        self._names = [Path(folder, f"{mark}.{name}") for name in ("in", "out", "err")]
        self._alive = alive
        self._lost = False
        self._held: list[int] = []
        for name in self._names:
            os.mkfifo(name, 0o600)
        stdin, stdout, stderr = self._names
        self._held.append(_open(stdin, os.O_RDWR))
        writing, *reading = _open(stdin, os.O_WRONLY), _open(stdout, os.O_RDONLY), _open(stderr, os.O_RDONLY)
        self._held += [_open(stdout, os.O_WRONLY), _open(stderr, os.O_WRONLY)]
        super().__init__(writing, *reading)

    def settle(self) -> None:
        """The session has its ends: from now on they end with it, and nobody else can have them."""
        while self._held:
            os.close(self._held.pop())
        while self._names:
            self._names.pop().unlink(missing_ok=True)

    @property
    def ended_cleanly(self) -> bool:  # type: ignore[override]  # read-only here as in the protocol
        """Whether the sandbox lived on when the session ended."""
        return not self._lost

    async def receive(self) -> tuple[int, bytes]:
        """As `Pipes.receive`; at the end the sandbox is asked whether it is there."""
        news = await super().receive()
        if news[0] == 0 and not self._lost:
            self._lost = not await self._alive()
        return news

    @property
    def gone(self) -> bool:
        """Whether the session has ended although it still waits for its call."""
        news = select.poll()
        for descriptor in self._outputs.values():
            news.register(descriptor, select.POLLIN)
        return bool(news.poll(0))

    def close(self) -> None:
        """See `Pipes.close`."""
        with contextlib.suppress(OSError):
            self.settle()
        super().close()


def _open(name: Path, how: int) -> int:
    return os.open(name, how | os.O_NONBLOCK | os.O_CLOEXEC)
