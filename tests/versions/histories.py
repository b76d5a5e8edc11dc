"""Histories that a generator of random numbers writes: turns, forks, replays, updates, interrupts, deaths. One seed, one history."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from rigs.savers import Database

from langchain_vers import BackendContext, VersSaver, owners
from langchain_vers._io import on_io
from langchain_vers.errors import VersError
from langchain_vers.platform import VersClient
from versions import mortality, scripts
from versions.machine_claims import Claim, Face, Report, acheck_machine_at, acheck_thread, claim_of, messages_of, tokens

DEADLY = (*mortality.SAVER_POINTS * 2, *mortality.MACHINE_POINTS * 2, *mortality.RESTORE_POINTS, *mortality.MOVE_POINTS, "model")
_WEIGHTS = {"turn": 6, "fork": 4, "replay": 3, "update": 2, "update_as": 2, "copy": 2, "look": 2, "die": 5, "lose": 1, "attach": 2}


@dataclass(frozen=True)
class Setting:
    """In which way a history is carried out."""

    graph: scripts.GraphKind = "agent"
    saver: str = "sqlite"
    policy: str = "step"
    durability: str = "async"

    @property
    def asynchronous(self) -> bool:
        return self.saver == "aiosqlite"


@dataclass
class Process:
    """What dies together: a context, a saver with its inner one, a graph, and the client of the platform."""

    life: mortality.Life
    context: BackendContext
    face: Face
    client: VersClient
    stack: contextlib.AsyncExitStack

    async def end(self) -> None:
        self.life.dead = True  # nothing of it must go on in the background
        await self.context.aclose()
        await self.stack.aclose()
        # It was one of several in this very process, where others would ask it what it is working on.
        for seat, worker in list(owners.seats().items()):
            if worker is self.face.saver.versions:
                del owners.seats()[seat]


@dataclass
class Outcome:
    """What came of a history."""

    operations: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    """Operations that were refused because a checkpoint has no commit of its own. With the policy "step" there are none."""
    report: Report = field(default_factory=Report)
    trace: list[str] = field(default_factory=list)


class Story:
    """One history on one thread. `play` carries it out and checks it."""

    def __init__(self, seed: int, setting: Setting, data_dir: Any, database: Database) -> None:
        self.random = random.Random(seed)
        self.setting, self.data_dir, self.database = setting, data_dir, database
        self.config: Any = {"configurable": {"thread_id": f"story-{seed}"}}
        self.outcome = Outcome()
        self._tokens = tokens()
        self._memory: InMemorySaver | None = None
        self._process: Process | None = None

    # --- processes ---

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @property
    def face(self) -> Face:
        return self.process.face

    async def start(self) -> None:
        """As a new process does."""
        life, stack = mortality.Life(), contextlib.AsyncExitStack()
        inner = await stack.enter_async_context(self._inner())
        context = BackendContext(data_dir=self.data_dir, local=False)
        client = await on_io(context.client())
        mortality.belongs(client, life)
        saver = VersSaver(mortality.mortal(inner, life), context, commit=self.setting.policy)
        model = scripts.PlannedModel(next_token=scripts.fresh(self._tokens), thinking=lambda: life.reach("model"))
        graph = scripts.build(self.setting.graph, model, scripts.toolbox(context), saver)
        self._process = Process(life, context, Face(graph, saver, self.setting.asynchronous), client, stack)

    @contextlib.asynccontextmanager
    async def _inner(self) -> AsyncIterator[Any]:
        if self.setting.saver == "memory":  # what a memory saver holds outlives it here, as a database would
            saver = InMemorySaver()
            if self._memory is not None:
                saver.storage, saver.writes, saver.blobs = self._memory.storage, self._memory.writes, self._memory.blobs
            self._memory = saver
            yield saver
        elif self.setting.asynchronous:
            async with self.database.aopen() as saver:
                yield saver
        else:
            with self.database.open() as saver:
                yield saver

    async def restart(self) -> None:
        await self.process.end()
        await self.start()

    # --- the play ---

    async def play(self, length: int) -> Outcome:
        """Carry out `length` operations, then check the whole thread."""
        await self.start()
        try:
            await self._turn(self.config, first=True)
            while sum(self.outcome.operations.values()) < length:
                await self._next()
            settled = await self._settle() and await self._last_word()
            lenient = self.setting.policy != "step"
            report = await acheck_thread(self.face, self.config, client=self.process.client, lenient=lenient, live=settled)
            self.outcome.report += report
            await self._check_machines()
        finally:
            await self.process.end()
        return self.outcome

    async def _check_machines(self) -> None:
        before = await self.face.tuples(self.config)
        committed = [one for one in before if one.metadata.get("vers_commit")]
        for one in self.random.sample(committed, min(2, len(committed))):
            self.outcome.report.wrong += await acheck_machine_at(self.face, one, self.process.client)
        if [one.config for one in await self.face.tuples(self.config)] != [one.config for one in before]:
            self.outcome.report.wrong.append("machine_at changed the thread's checkpoints")

    async def _settle(self) -> bool:
        """Bring the thread to where nothing is under way; whether that came about."""
        for _ in range(6):  # once at least: a state whose tasks have all been done, and not been put together, has no next ones
            state = await self.face(self.face.graph, "get_state", self.config)
            self._note("settle", self.config)
            if not await self._run(_answer(state), self.config):
                break
            if not (await self.face(self.face.graph, "get_state", self.config)).next:
                return True
        return False

    async def _last_word(self) -> bool:
        """One more call: a machine follows its thread to another checkpoint when it is called there. Whether the call was carried out."""
        self._note("last word", self.config)
        head = await self.face(self.face.saver, "get_tuple", self.config)
        said = scripts.plan(["append"]) if head is not None and _claim(head).machine else scripts.plan(["create"], ["append"])
        await self._run({"messages": [("user", said)]}, self.config)
        after = await self.face(self.face.saver, "get_tuple", self.config)
        return head is not None and len(_claim(after).log) > len(_claim(head).log)

    async def _next(self) -> None:
        names = list(_WEIGHTS)
        name = self.random.choices(names, [_WEIGHTS[name] for name in names])[0]
        state = await self.face(self.face.graph, "get_state", self.config)
        if any(task.interrupts for task in state.tasks) and self.random.random() < 0.7:
            name = "resume"
        elif state.next and self.random.random() < 0.4:
            name = "go on"
        self.outcome.operations[name] += 1
        await getattr(self, f"_{name.replace(' ', '_')}")()

    def _note(self, what: str, config: Any, result: object = "") -> None:
        place = config["configurable"].get("checkpoint_id", "head")
        self.outcome.trace.append(f"{what} at {place[:13] if place else 'head'} {result}".rstrip())

    async def _run(self, given: Any, config: Any) -> bool:
        """One run of the graph; False if it was refused for want of a commit."""
        try:
            await self.face(self.face.graph, "invoke", given, {**config, "recursion_limit": 100}, durability=self.setting.durability)
        except VersError as error:
            self.outcome.trace.append(f"  refused: {error}")
            if self.setting.policy == "step":
                raise
            self.outcome.refused += 1
            return False
        return True

    def _plan(self, *, create: bool = False) -> str:
        supersteps: list[list[str]] = [["create", *self._kinds(0, 1)]] if create else []
        for _ in range(self.random.randint(1, 3)):
            kinds = self._kinds(1, 3)
            luck = self.random.random()
            if luck < 0.12:
                kinds.insert(self.random.randint(0, len(kinds)), "ask")
            elif luck < 0.18:
                kinds = ["branch", *kinds]
            elif luck < 0.24:
                kinds.append(scripts.GATE)
            elif luck < 0.26:
                kinds = ["create", *kinds]
            supersteps.append(kinds)
        return scripts.plan(*supersteps)

    def _kinds(self, least: int, most: int) -> list[str]:
        count = self.random.randint(least, most)
        return [self.random.choice(scripts.CHANGES if self.random.random() < 0.75 else scripts.LOOKS) for _ in range(count)]

    async def _checkpoint(self) -> tuple[Any, Claim]:
        """Any checkpoint of the outer graph, the newer ones rather."""
        found = await self.face.tuples(self.config, namespace="", limit=1 + int(self.random.expovariate(0.15)))
        if not found:
            return self.config, Claim()
        one = found[-1]  # the newest come first
        return one.config, claim_of(messages_of(one))

    # --- operations ---

    async def _turn(self, config: Any = None, *, first: bool = False) -> None:
        if config is None:
            head = await self.face(self.face.saver, "get_tuple", self.config)
            config, first = self.config, head is None or not _claim(head).machine
        said = self._plan(create=first)
        self._note(f"turn ({said})", config)
        await self._run({"messages": [("user", said)]}, config)

    async def _fork(self) -> None:
        config, claim = await self._checkpoint()
        await self._turn(config, first=not claim.machine)

    async def _replay(self) -> None:
        config, _ = await self._checkpoint()
        self._note("replay", config)
        await self._run(None, config)

    async def _resume(self) -> None:
        state = await self.face(self.face.graph, "get_state", self.config)
        self._note("resume", self.config)
        await self._run(_answer(state), self.config)

    async def _go_on(self) -> None:
        self._note("go on", self.config)
        await self._run(None, self.config)

    async def _attach(self) -> None:
        """A program moves the thread to a copy of its machine, and has it go on; perhaps the process dies of that."""
        head = await self.face(self.face.saver, "get_tuple", self.config)
        state = await self.face(self.face.graph, "get_state", self.config)
        amid = any(task.result is not None for task in state.tasks) or (self.setting.graph == "nested" and state.next)
        if head is None or not head.metadata.get("vers_machine") or amid:
            return  # what a finished task, or a nested graph, has done since is not in the state of the checkpoint
        try:
            made = await self.face(self.face.saver, "machine_at", self.config)
        except VersError as error:
            self.outcome.trace.append(f"  refused: {error}")
            return
        await self.process.context.aattach(made.machine_id, self.config)
        self._note("attach", self.config, made.machine_id)
        if self.random.random() < 0.5:
            await self._dies_of(self._resume_or_turn)
        else:
            await self._resume_or_turn()
        if self.process.context.whereabouts.is_told(self.config["configurable"]["thread_id"]):
            await self.restart()  # no call has come there: it is not to be taken to another point of the conversation

    async def _update(self) -> None:
        config, _ = await self._checkpoint()
        last = "after" if self.setting.graph == "nested" else "model"
        await self._updated(config, {"messages": [HumanMessage("a note")]}, last)

    async def _update_as(self) -> None:
        config, claim = await self._checkpoint()
        nodes = {"agent": ["model", "tools"], "graph": ["model", "gate", "tools"], "nested": ["agent", "after"]}
        await self._updated(
            config, {"messages": [HumanMessage(self._plan(create=not claim.machine))]}, self.random.choice(nodes[self.setting.graph])
        )

    async def _copy(self) -> None:
        config, _ = await self._checkpoint()
        await self._updated(config, None, "__copy__")

    async def _updated(self, config: Any, values: Any, as_node: str) -> None:
        try:
            made = await self.face(self.face.graph, "update_state", config, values, as_node=as_node)
        except KeyError:  # `create_agent` has no edge for an update as its model where all calls of the last message are answered
            self._note(f"no update as {as_node}", config)
            return
        self._note(f"update as {as_node}", config, f"-> {made['configurable']['checkpoint_id'][:13]}")
        if self.random.random() < 0.5:
            self._note("go on from the update", made)
            await self._run(None, self.random.choice([made, self.config]))

    async def _look(self) -> None:
        """Looking changes nothing: no checkpoint, no VM, no commit."""
        before = await self._world()
        while before != (now := await self._world()):  # a call that was on its way when an interrupt ended its run
            before = now
        await self.face(self.face.graph, "get_state", self.config)
        config, _ = await self._checkpoint()
        await self.face(self.face.graph, "get_state", config)
        await self.face.history(self.config)
        after = await self._world()
        for what, old, new in zip(("VMs", "commits", "checkpoints"), before, after, strict=True):
            if old != new:
                self.outcome.report.wrong.append(f"looking changed {what}: {_differ(old, new)}")

    async def _world(self) -> tuple[list[str], ...]:
        client = self.process.client
        vms = sorted(vm.vm_id for vm in await on_io(client.list_vms()))
        commits = (await on_io(client.list_commits(limit=1))).total
        found = [str((one.config, one.metadata, one.pending_writes)) for one in await self.face.tuples(self.config)]
        return vms, [str(commits)], found

    async def _die(self) -> None:
        """Another operation is broken off; a new process goes on."""
        await self._dies_of(self.random.choice([self._turn, self._turn, self._fork, self._replay, self._go_on, self._resume_or_turn]))

    async def _dies_of(self, doing: Callable[[], Awaitable[None]]) -> None:
        point, nth = self.random.choice(DEADLY), self.random.choice((1, 1, 2, 3, 5))
        self.process.life.arm(point, nth)
        try:
            await doing()
        except BaseException:
            if not self.process.life.dead:
                raise
        if not self.process.life.dead:
            self.process.life.disarm()
            return
        self.outcome.deaths[point] += 1
        self.outcome.trace.append(f"  died {point}, time {nth}")
        await self.restart()
        if self.random.random() < 0.3:
            await self._lose()
        if self.random.random() < 0.7:
            self._note("go on after death", self.config)
            await self._run(None, self.config)

    async def _resume_or_turn(self) -> None:
        state = await self.face(self.face.graph, "get_state", self.config)
        await (self._resume() if any(task.interrupts for task in state.tasks) else self._turn())

    async def _lose(self) -> None:
        """The machine of the head is deleted behind the thread's back."""
        head = await self.face(self.face.saver, "get_tuple", self.config)
        machine = None if head is None else head.metadata.get("vers_machine")
        if machine is not None and any(vm.vm_id == machine for vm in await on_io(self.process.client.list_vms())):
            await on_io(self.process.client.delete_vm(machine))
            self.outcome.trace.append(f"  lost {machine}")


def _differ(old: list[str], new: list[str]) -> str:
    return f"{[each for each in old if each not in new]} became {[each for each in new if each not in old]}"[:2000]


def _answer(state: Any) -> Command[Any] | None:
    """What lets a thread in this state go on."""
    waiting = [one.id for task in state.tasks for one in task.interrupts]
    if not waiting:
        return None
    return Command(resume=dict.fromkeys(waiting, "yes") if len(waiting) > 1 else "yes")


def _claim(one: CheckpointTuple) -> Claim:
    return claim_of(messages_of(one))
