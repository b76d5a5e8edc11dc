"""The second act: an agent's process is killed in the middle of a command, another goes on, and the conversation goes back in time.

The agent works in processes of its own (`agent_process`), whose script is in `bookkeeping`; conversation and machine are kept by a
`VersSaver` in a sqlite file. Here they are started, killed, and shown; the machines are looked at directly.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import messages_from_dict

from langchain_vers._io import on_io
from langchain_vers.commands import database
from langchain_vers.commands.history import print_history
from langchain_vers.demo import bookkeeping as books
from langchain_vers.demo.course import Course, rows_of
from langchain_vers.demo.ground import Ground
from langchain_vers.demo.screen import Row, Screen
from langchain_vers.demo.scripted import judge
from langchain_vers.history import build
from langchain_vers.naming import short_id

_LINE_BYTES = 2**22
_END_SECONDS = 10.0
_LOOK_SECONDS = 30.0


@dataclass(frozen=True)
class Place:
    """Where a conversation is: its machine and that machine's commit."""

    machine: str
    commit: str


class Agent:
    """A process in which the agent works. It ends with its standard input, or is killed."""

    def __init__(self, process: asyncio.subprocess.Process, ground: Ground) -> None:
        self._process = process
        self._ground = ground
        self.pid = process.pid

    @classmethod
    @asynccontextmanager
    async def started(cls, ground: Ground) -> AsyncIterator[Agent]:
        """A new process that works on the ground's conversation; it has ended afterwards."""
        with ground.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "langchain_vers.demo.agent_process"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LINE_BYTES,
                start_new_session=True,  # the terminal's Ctrl-C is for this process, which then ends that one
            )
        agent = cls(process, ground)
        try:
            agent._send(reach=ground.reach, database=str(ground.database), thread=ground.versioned)
            yield agent
        except BaseException:
            agent._signal(signal.SIGINT)  # so that it takes back what it has begun
            raise
        finally:
            await agent._end()

    async def work(self, course: Course, **order: Any) -> Place | None:  # noqa: ANN401  # JSON
        """Have something done, and show it; where the conversation is then. None if the process was told to hold, and does.

        Raises:
            ChildProcessError: the process has ended.
        """
        self._send(**order)
        assert self._process.stdout is not None
        printed = ""
        async for line in self._process.stdout:
            told = json.loads(line)
            if "message" in told:
                course.take(messages_from_dict([told["message"]])[0])
            elif "output" in told:
                course.screen.output(told["output"])
                printed += told["output"]
                if order.get("hold") and order["hold"] in printed:
                    return None
            else:
                return Place(str(told["machine"]), str(told["commit"]))
        code = await self._process.wait()
        said = self._ground.log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise ChildProcessError(f"The agent's process ended with status {code} ({said[0]}); run the demo again.")

    async def kill(self) -> bool:
        """Kill the process with SIGKILL; whether that is what it died of."""
        self._signal(signal.SIGKILL)
        return await self._process.wait() == -signal.SIGKILL

    def _send(self, **facts: Any) -> None:  # noqa: ANN401  # JSON
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps(facts) + "\n").encode())

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def _end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await self._process.communicate()  # what it still says must not hold it up
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.communicate()


async def play(ground: Ground, screen: Screen) -> list[Row]:
    """Play the act; one row for each of its scenes.

    Raises:
        VersError: Vers does not answer. ChildProcessError: an agent's process ended that should not.
    """
    scenes = [step.scene for step in books.WORK]
    work = Course(screen, lambda index: books.BEGIN if scenes[index] == books.BEGIN else books.KILL, lambda r: judge(books.WORK, r))
    again = Course(screen, lambda index: books.AGAIN[index].scene, lambda results: judge(books.AGAIN, results))
    screen.scene(books.BEGIN)
    screen.say("A month's books. Every step of the conversation is a checkpoint, and holds a commit of the machine.")
    async with Agent.started(ground) as first:
        held = await first.work(work, script="work", hold=books.HALFWAY) is None
        killed = await _kill(first, ground, work) if held else Row(f"{books.KILL}: not reached", False, 0.0)
    forked = compared = None
    if killed.ok:
        work.scene = scenes.__getitem__
        screen.scene(books.RESUME)
        async with Agent.started(ground) as second:
            screen.say(f"Process {second.pid} knows the thread's id and the file. The command has no result, so it is run again.")
            work.show_calls()
            original = await second.work(work, script="work", resume=True)
            if work.ok and original is not None:
                screen.scene(books.REWIND)
                screen.say(f"The user goes back to before the payment, and says: {books.OTHER_REQUEST}")
                forked = await second.work(again, script="again", back=books.STEPS_BACK)
        if again.ok and original is not None and forked is not None:
            compared = await _compare(ground, screen, original, forked)
    await _show_tree(ground, screen)
    begun, resumed = rows_of(books.WORK, work.verdicts)
    rewound = rows_of(books.AGAIN, again.verdicts)
    return [begun, killed, resumed, *rewound, compared or Row(f"{books.COMPARE}: not reached", False, 0.0)]


async def _kill(agent: Agent, ground: Ground, course: Course) -> Row:
    """Kill the process that works, and look at what it leaves."""
    screen, began = course.screen, time.monotonic()
    screen.call("kill", f"-9 {agent.pid}")
    died = await agent.kill()
    vm_id = str((course.results[0].artifact or {}).get("machine_id"))
    left = books.lines_in(await _look(ground, vm_id, "ledger"))
    screen.block("\n".join(left))
    ok = died and left[: len(books.HALF)] == books.HALF
    seen = "the process is gone, and the machine is left half way" if ok else "the process was not killed half way"
    seconds = time.monotonic() - began
    screen.result(ok, seen, seconds)
    return Row(books.KILL, ok, seconds)


async def _compare(ground: Ground, screen: Screen, original: Place, forked: Place) -> Row:
    """Look at both machines, and show them."""
    began = time.monotonic()
    screen.scene(books.COMPARE)
    places, names = (original, forked), ("ledger", "total")
    contents = [[(await _look(ground, place.machine, name)).rstrip("\n") for name in names] for place in places]
    rows = [
        ("VM", [short_id(place.machine) for place in places]),
        ("commit", [short_id(place.commit) for place in places]),
        ("files", [", ".join((await _look(ground, place.machine, None)).split()) for place in places]),
        *((f"{books.FOLDER}/{name}", [each[index] for each in contents]) for index, name in enumerate(names)),
    ]
    screen.side_by_side(("the original", "the fork"), rows)
    expected = [("\n".join(books.LEDGER), books.TOTAL), ("\n".join(books.OTHER_LEDGER), books.OTHER_TOTAL)]
    ok = [tuple(each) for each in contents] == expected and original.machine != forked.machine
    seconds = time.monotonic() - began
    screen.result(ok, "each machine is as its own conversation says" if ok else "the machines are not as their conversations say", seconds)
    return Row(books.COMPARE, ok, seconds)


async def _look(ground: Ground, vm_id: str, name: str | None) -> str:
    """What is in a file of a machine's books, or which files there are. No conversation learns of it."""

    async def run() -> str:
        backend = await ground.context.machine(vm_id)
        command = f"cd {books.FOLDER} && {'ls' if name is None else f'cat {shlex.quote(name)}'}"
        result = await backend.exec(command, timeout=_LOOK_SECONDS)
        return result.tail.decode(errors="replace")

    return await on_io(run())


async def _show_tree(ground: Ground, screen: Screen) -> None:
    """The conversation's checkpoints, as `langchain-vers history` shows them."""
    if not ground.database.exists():
        return
    path = str(ground.database)
    found = await asyncio.to_thread(database.read, path, lambda saver: database.checkpoints(saver, ground.versioned, path))
    screen.scene("The checkpoints, as `langchain-vers history` shows them")
    print_history(build(found), screen.console, datetime.now(UTC))
