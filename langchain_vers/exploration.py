"""Best of N: the thread's machine is branched N times, N attempts work side by side, and the thread goes on from the best one.

    found = explore(agent, {"messages": [("user", "Make the tests pass.")]}, 8, score, context=context, config=thread)
    print(found)  # a tree: what each attempt came to, and where the thread is now

`score(trial)` looks at what an attempt has left: `trial.machine` for commands and files, `trial.output` for what the agent gave back. The
conversation goes with the machine: every attempt is a fork of the thread's conversation, and the winner's becomes the thread's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.base import coerce_to_runnable

from langchain_vers._io import io, on_io
from langchain_vers._loops import called, home_of, run_on_a_loop
from langchain_vers.attachment import PROMISED, Attachment
from langchain_vers.branches import Branches, Make, of_commit
from langchain_vers.context import LANE_LABEL, THREAD_LABEL, BackendContext
from langchain_vers.database import thread_config
from langchain_vers.errors import BadInput, Conflict, DeadlineExceeded, VersError
from langchain_vers.forks import Forks
from langchain_vers.looks import Recorded, attachment_of, machine_of, recorded
from langchain_vers.machine import Machine
from langchain_vers.progress import Progress, progress_bar
from langchain_vers.tools.belonging import check_tools
from langchain_vers.trials import Budget, Exploration, Trial, best, checked_score
from langchain_vers.turns import holder, thread_of

Score = Callable[[Trial], float | Awaitable[float | None] | None]
"""Tells how good an attempt is: the greater the better, None if it must not win. Sync or async."""
EXPLORATION_LABEL = "langchain-vers-exploration"
"""The label of the machines that are made for one exploration."""


def explore(
    agent: Runnable[Any, Any] | Callable[..., Any],
    input: Any,  # noqa: ANN401  # whatever the agent takes
    n: int,
    score: Score,
    *,
    context: BackendContext,
    config: RunnableConfig | None = None,
    base: str | Machine | None = None,
    budget: Budget | None = None,
    progress: bool = True,
) -> Exploration:
    """Let `n` attempts work side by side, each on a branch of the thread's machine, and have the thread go on from the best.

    If the thread is promised a machine (see `provision`) and has none yet, each attempt begins on one that is made like it.

    All branches but the winner's are deleted, and so are machines that other attempts have made by tools: also when some fail, when this is
    cancelled, and after Ctrl-C. The machine that the thread had stays. Without a winner the thread stays where it was.

    With a checkpointer each attempt is a fork of the thread's conversation, and the winner's end becomes the thread's newest checkpoint. If
    the thread waits for a person, `input=Command(resume=...)` resumes it once for each attempt; what else had finished of its step runs
    again then, as in LangGraph's time travel. Without a winner it can be resumed as before, but LangGraph's `get_state` does not list the
    question any more.

    Args:
        agent: a graph, another runnable, or a function; its tools route by `context` and by the config that it is given.
        input: what each attempt is given.
        n: how many attempts.
        score: see `Score`. An attempt whose score raises has failed, and the others go on.
        context: the one of the agent's tools.
        config: the thread's, as the agent takes it; a `checkpoint_id` in it is where the attempts begin.
        base: what to branch instead of the thread's machine: a commit, a tag, or a VM, by its name (see `Branches`) or as a `Machine`.
        budget: what the exploration may cost. If it allows fewer machines than attempts, the thread's machine is committed, and the commit
            stays.
        progress: whether a bar is shown on a terminal, or in a notebook, if rich is installed.

    Raises:
        BadInput: an argument that makes no sense, such as an agent whose tools are of another context; or this would block the event loop
            that the agent's checkpointer works on.
        Conflict: the thread has no VM, and there is no `base`.
        Gone: the machine, or the checkpoint, does not exist.
    """
    home = home_of(agent, "aexplore")
    work = aexplore(agent, input, n, score, context=context, config=config, base=base, budget=budget, progress=progress)
    return run_on_a_loop(work, home)


async def aexplore(
    agent: Runnable[Any, Any] | Callable[..., Any],
    input: Any,  # noqa: ANN401  # whatever the agent takes
    n: int,
    score: Score,
    *,
    context: BackendContext,
    config: RunnableConfig | None = None,
    base: str | Machine | None = None,
    budget: Budget | None = None,
    progress: bool = True,
) -> Exploration:
    """See `explore`."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise BadInput(f"n must be a whole number of at least 1, not {n!r}")
    if not callable(score):
        raise BadInput(f"score must be a function that is given a Trial, not {score!r}")
    if not isinstance(context, BackendContext):
        raise BadInput(f"context must be the BackendContext of the agent's tools, not {type(context).__name__}")
    if config is not None and not isinstance(config, Mapping):
        raise BadInput(f"config must be a thread's, as the agent takes it, not {type(config).__name__}")
    if budget is not None and not isinstance(budget, Budget):
        raise BadInput(f"budget must be a Budget, not {type(budget).__name__}")
    if not isinstance(agent, Runnable) and not callable(agent):
        raise BadInput(f"the agent must be a graph, another runnable, or a function, not {type(agent).__name__}")
    check_tools(agent, context)
    base = base.vm_id if isinstance(base, Machine) else base
    forks = Forks(coerce_to_runnable(agent), config)
    work = _Work(forks, input, n=n, score=score, context=context, config=config, budget=budget or Budget())
    try:
        with progress_bar("exploring", n, shown=progress) as bar:
            return await work.carry_out(base, bar)
    finally:
        await asyncio.to_thread(forks.close)


class _Work:
    """One exploration."""

    def __init__(
        self,
        forks: Forks,
        given: Any,  # noqa: ANN401  # whatever the agent takes
        *,
        n: int,
        score: Score,
        context: BackendContext,
        config: RunnableConfig | None,
        budget: Budget,
    ) -> None:
        self.forks = forks
        self.id = uuid.uuid4().hex[:8]
        self._given, self._score, self._context, self._config, self._budget = given, score, context, config, budget
        self._thread = thread_of(config)
        self._trials = [Trial(number) for number in range(1, n + 1)]
        self._began = self._ends = 0.0
        self._start = Attachment(backend="vers")
        self._source = ""
        self._places = asyncio.Semaphore(n)
        self._let_go_of: set[int] = set()

    async def carry_out(self, base: str | None, bar: Progress) -> Exploration:
        self._began = time.monotonic()
        self._ends = self._began + (self._budget.seconds or float("inf"))
        await self.forks.begin()
        # Of a checkpoint that is not a VersSaver's nothing is recorded, and its machine is where it is.
        there = self._config if self.forks.versioned or self._thread is None else thread_config(self._thread)
        found = await asyncio.to_thread(recorded, self._context, there, self.forks.savers)
        at_once = len(self._trials) if self._budget.machines is None else min(len(self._trials), self._budget.machines)
        self._source = base or ""
        async with Branches(self._context, self._way(found) if base is None else base, labels={EXPLORATION_LABEL: self.id}) as branches:
            ready = await branches.make(at_once)
            self._places = asyncio.Semaphore(at_once)
            try:
                async with asyncio.TaskGroup() as group:
                    for trial in self._trials:
                        group.create_task(self._attempt(trial, branches, ready, bar))
                if (winner := best(self._trials)) is not None:
                    await self._settle(winner, branches, found)
            finally:
                if not self.forks.adopted:
                    await asyncio.shield(self.forks.give_up())
                await on_io(self._sweep(best(self._trials) if self.forks.adopted else None))
        return Exploration(tuple(self._trials), winner, self._source, time.monotonic() - self._began)

    def _way(self, found: Recorded | None) -> Make:
        """How branches of the thread's machine are made, all of them in the state that it is in at the first call."""
        way: Make | None = None

        async def make(count: int) -> Sequence[str]:
            nonlocal way
            client = await self._context.client()
            if way is None and (await attachment_of(self._context, self._config, found))[0] == PROMISED:
                way, self._source = await self._context.provisions.likewise(self._context, client, self._thread)
            if way is not None:
                return await way(count)
            async with machine_of(self._context, self._config, found) as look:
                at = None if look is None else look.attachment
                if at is None or at.backend != "vers" or at.machine_id is None:
                    raise Conflict("the thread has no VM whose branches could be worked on; make one first, or give base=")
                self._source, self._start = at.machine_id, at
                async with self._context.resting(at.machine_id):
                    if count == len(self._trials):
                        return await client.branch_vm(at.machine_id, count=count)
                    # Later ones must begin as the first, and the machine itself may go on meanwhile.
                    commit = await client.commit_vm(at.machine_id, name=f"{EXPLORATION_LABEL}/{self.id}")
            way = of_commit(client, commit)
            return await way(count)

        return make

    # --- attempts ---

    def _lane(self, trial: Trial) -> str:
        return f"try-{self.id}-{trial.number}"

    async def _attempt(self, trial: Trial, branches: Branches, ready: list[Machine], bar: Progress) -> None:
        await self._places.acquire()  # given back when its machine is gone
        if time.monotonic() >= self._ends:
            trial.outcome = "out of time"
        else:
            try:
                trial.machine = ready.pop(0) if ready else (await branches.make())[0]
                attachment = self._start.moved(machine_id=trial.machine.vm_id, commit=None)
                await on_io(self._tell(holder(self._thread, self._lane(trial)), attachment))
                await self._work(trial, branches)
            except VersError as error:
                trial.outcome, trial.error = "failed", error
        if trial.machine is None:
            self._places.release()
        bar.advance(self._said())
        await self._let_go(branches)

    async def _tell(self, who: str | None, attachment: Attachment) -> None:
        self._context.whereabouts.tell(who, attachment)

    async def _work(self, trial: Trial, branches: Branches) -> None:
        trial.outcome = "working"
        meter = _Meter(trial, self._budget.commands)
        began = time.monotonic()
        callbacks = (self._config or {}).get("callbacks")
        more: RunnableConfig = {"callbacks": [*callbacks, meter] if isinstance(callbacks, list) else _with(callbacks, meter)}
        run = asyncio.ensure_future(self.forks.attempt(self._given, self._lane(trial), more))
        try:
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + self._ends - time.monotonic()) as limit:
                    trial.output = await asyncio.shield(run)
            except BaseException:
                trial.seconds = time.monotonic() - began
                meter.stopped = True
                await self._broken_off(run, trial, branches)
                raise
            trial.seconds = time.monotonic() - began
        except Exception as error:
            if limit.expired() or meter.spent:
                trial.outcome = "out of time" if limit.expired() else "out of commands"
            else:
                trial.outcome, trial.error = "failed", error
        else:
            if isinstance(trial.output, dict) and trial.output.get("__interrupt__"):
                trial.outcome = "interrupted"
                return
            try:
                trial.score = checked_score(await called(self._score, trial))
                trial.outcome = "scored"
            except Exception as error:
                trial.outcome, trial.error = "failed", error

    async def _broken_off(self, run: asyncio.Future[Any], trial: Trial, branches: Branches) -> None:
        """See an attempt to its end that must not go on."""
        if run.done():
            return
        run.cancel()
        if self.forks.in_threads and trial.machine is not None:
            # A thread cannot be cancelled, but it has nothing to wait for when its machine is gone.
            with contextlib.suppress(VersError):
                await asyncio.shield(branches.delete(trial.machine))
        await asyncio.wait([run])

    async def _let_go(self, branches: Branches) -> None:
        """Delete the machines of attempts that cannot win any more."""
        for trial in self._trials:
            # Which one leads may change with every deletion that is waited for.
            beaten = trial.outcome not in {"waiting", "working"} and trial is not best(self._trials)
            if beaten and trial.machine is not None and trial.number not in self._let_go_of:
                self._let_go_of.add(trial.number)
                with contextlib.suppress(VersError):  # tried again at the end, and reported then
                    await branches.delete(trial.machine)
                self._places.release()

    def _said(self) -> str:
        leader = best(self._trials)
        return "" if leader is None else f"best {leader.score:g} (attempt {leader.number})"

    # --- the end ---

    async def _settle(self, winner: Trial, branches: Branches, found: Recorded | None) -> None:
        """Have the thread go on where the winner has ended."""
        assert winner.machine is not None
        branches.keep(winner.machine)
        lane = self._lane(winner)
        try:
            await self.forks.adopt(lane)
            await on_io(self._moved(winner, lane, found))
        except BaseException:
            branches.unkeep(winner.machine)
            raise

    async def _moved(self, winner: Trial, lane: str, found: Recorded | None) -> None:
        context = self._context
        assert winner.machine is not None
        at = await context.attachment(holder(self._thread, lane))
        if self.forks.versioned:
            context.whereabouts.take_back(self._thread, at)
        else:
            context.whereabouts.tell(self._thread, at)
        if self._thread is not None:
            labels = {THREAD_LABEL: self._thread} if found is None else await io.blocking(found[0].versions.labels, self._thread)
            with contextlib.suppress(VersError):  # the labels are for people
                client = await context.client()
                await client.label_vm(winner.machine.vm_id, {**labels, EXPLORATION_LABEL: f"{self.id}/{winner.number}"})

    async def _sweep(self, winner: Trial | None) -> None:
        """Delete the machines that attempts have made by tools, but the winner's."""
        lanes = {self._lane(trial) for trial in self._trials if trial is not winner}
        client = await self._context.client()
        for vm in await client.list_vms():
            if (vm.labels or {}).get(LANE_LABEL) in lanes:
                with contextlib.suppress(VersError):
                    await client.delete_vm(vm.vm_id)
                self._context.forget_vm(vm.vm_id)
        for trial in self._trials:
            # One that was broken off may go on in a thread: it is to find its machine gone, and not to begin where threads do.
            if trial.outcome not in {"working", "out of time"}:
                self._context.whereabouts.forget(holder(self._thread, self._lane(trial)))


class _Meter(BaseCallbackHandler):
    """Counts the tool calls of an attempt, and ends it when there are too many, or when nobody wants its outcome any more."""

    raise_error = True
    run_inline = True

    def __init__(self, trial: Trial, limit: int | None) -> None:
        self._trial, self._limit = trial, limit
        self.spent = False
        self.stopped = False

    def on_tool_start(self, *_: Any, **__: Any) -> None:  # noqa: ANN401  # as the parent
        self._check()
        if self._limit is not None and self._trial.commands >= self._limit:
            self.spent = True
            self._check()
        self._trial.commands += 1

    def on_chat_model_start(self, *_: Any, **__: Any) -> None:  # noqa: ANN401  # as the parent
        self._check()

    def on_llm_start(self, *_: Any, **__: Any) -> None:  # noqa: ANN401  # as the parent
        self._check()

    def _check(self) -> None:
        if self.spent:
            raise DeadlineExceeded(f"attempt {self._trial.number} has made its {self._limit} calls, and was ended")
        if self.stopped:
            raise DeadlineExceeded(f"attempt {self._trial.number} was ended")


def _with(callbacks: BaseCallbackManager | None, meter: _Meter) -> Any:  # noqa: ANN401  # what a config takes as callbacks
    if callbacks is None:
        return [meter]
    manager = callbacks.copy()
    manager.add_handler(meter, inherit=True)
    return manager
