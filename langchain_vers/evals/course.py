"""One evaluation while it runs: which example is on which machine, what was said of it, and when its machine may go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langsmith.evaluation.evaluator import EvaluationResult
from langsmith.run_helpers import get_current_run_tree

from langchain_vers._io import on_io
from langchain_vers.context import THREAD_LABEL, BackendContext
from langchain_vers.errors import DeadlineExceeded, Gone, VersError
from langchain_vers.evals.agents import see_through
from langchain_vers.evals.evaluators import say_of_run
from langchain_vers.evals.results import measures, verdict
from langchain_vers.machine import Machine

if TYPE_CHECKING:
    from langchain_vers.branches import Branches
    from langchain_vers.evals.ahead import Ahead
    from langchain_vers.evals.options import Options
    from langchain_vers.evals.progress import Tally

SWEEP_SECONDS = 5.0
"""How often it is looked, at most, whether agents have left machines that they made themselves."""
logger = logging.getLogger(__name__)


@dataclass
class Slot:
    """An example that is being worked on; its times in seconds, as `Row` has them."""

    number: int
    thread: str
    machine: Machine | None = None
    error: str | None = None
    waited: float = 0.0
    seconds: float = 0.0
    judged: float = 0.0
    ended: float = 0.0
    """When the agent was done, by the monotonic clock."""
    keep: bool = False
    late: bool = False
    """Whether the agent had not ended in time; one that blocks a thread goes on by itself."""
    feedback: dict[str, EvaluationResult] = field(default_factory=dict)
    evaluator_errors: dict[str, str] = field(default_factory=dict)

    def heard(self, name: str, found: Sequence[EvaluationResult], error: Exception | None) -> None:
        """See `evaluators.Judged`."""
        self.feedback.update({each.key: each for each in found})
        if error is not None:
            self.evaluator_errors[name] = _said(error)

    def passed(self, measured: Collection[str]) -> bool | None:
        """See `results.verdict`."""
        return verdict(self.error, self.evaluator_errors, self.feedback, measured)


class Course:
    """Coroutines of the event loop that the evaluation was called on."""

    def __init__(self, options: Options, branches: Branches, ahead: Ahead, tally: Tally) -> None:
        self._options = options
        self._branches = branches
        self._ahead = ahead
        self._tally = tally
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._swept = time.monotonic()
        self._over: set[str] = set()
        """The threads whose examples have been evaluated."""
        self._name = uuid.uuid4().hex[:8]
        self.slots: dict[uuid.UUID, Slot] = {}
        """By the id of the run."""
        self.measured: set[str] = set()
        """The keys by which something is measured, as far as the evaluators have shown it."""

    async def target(self, inputs: dict[str, Any]) -> Any:  # noqa: ANN401  # what the agent gives
        """What LangSmith takes for the agent: it is given a machine first."""
        self._track()
        run = get_current_run_tree()
        assert run is not None  # LangSmith traces it, at least for its own use
        number = len(self.slots)
        slot = self.slots[run.id] = Slot(number, f"evaluation-{self._name}-{number}")
        self._tally.began()
        context = self._options.context
        config: RunnableConfig = {"configurable": {"thread_id": slot.thread}}
        began = time.monotonic()
        try:
            machine = slot.machine = await self._ahead.take()
            if machine.commit is not None:
                context.commits[machine.vm_id] = machine.commit
            say_of_run(machine, vers_thread=slot.thread)
            await context.aattach(machine.vm_id, config)
            slot.waited = time.monotonic() - began
            began = time.monotonic()
            return await see_through(self._options.work(inputs, config, machine), self._options.timeout)
        except Exception as error:
            slot.error = _said(error)
            slot.late = isinstance(error, DeadlineExceeded)
            raise
        finally:
            slot.ended = time.monotonic()
            slot.seconds = slot.ended - began

    def find(self, run_id: uuid.UUID) -> Slot:
        """The example of a run that an evaluator is about to look at."""
        self._track()
        return self.slots[run_id]

    def looked_at(self, run_id: uuid.UUID) -> None:
        """All evaluators have had their look: the machine goes, unless it is to be kept."""
        slot = self.slots[run_id]
        slot.judged = time.monotonic() - slot.ended
        self.measured |= measures(slot.feedback.values())
        passed = slot.passed(self.measured)
        self._tally.ended(passed)
        slot.keep = self._options.keep == "always" or (self._options.keep == "failures" and passed is False)
        if slot.machine is not None and not slot.keep:
            self._spawn(self._tidy(slot, slot.machine))

    async def _tidy(self, slot: Slot, machine: Machine) -> None:
        """Delete an example's machine, and those that its agent has made."""
        context = self._options.context
        try:
            await self._branches.delete(machine)
            self._over.add(slot.thread)
            if time.monotonic() - self._swept > SWEEP_SECONDS:
                self._swept = time.monotonic()
                await _delete_made_by(context, self._over)
        except VersError as error:
            logger.warning("a machine of example %d could not be deleted yet: %s", slot.number + 1, error)
        context.commits.pop(machine.vm_id, None)
        if not slot.late:  # such an agent is to find its machine gone, and not to begin on another one
            context.whereabouts.forget(slot.thread)

    def _track(self) -> None:
        """Remember the task that works for this evaluation, to end it with it."""
        if self._closed:
            raise asyncio.CancelledError
        if (task := asyncio.current_task()) is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, *, broken_off: bool) -> None:
        """Wait for what is being tidied up; if the evaluation was broken off, end the agents first, and keep no machine."""
        self._closed = broken_off
        me = asyncio.current_task()
        while tasks := [task for task in self._tasks if task is not me]:
            if broken_off:
                for task in tasks:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._ahead.close()
        for slot in self.slots.values():  # what seemed to be a failure may have been a measure of 0
            slot.keep = slot.keep and not broken_off and (self._options.keep == "always" or slot.passed(self.measured) is False)
        kept = {slot.thread for slot in self.slots.values() if slot.keep}
        for slot in self.slots.values():
            if slot.thread in kept and slot.machine is not None:
                self._branches.keep(slot.machine)
        if left := {slot.thread for slot in self.slots.values()} - kept:
            with contextlib.suppress(VersError):
                await _delete_made_by(self._options.context, left)


async def _delete_made_by(context: BackendContext, threads: set[str]) -> None:
    """Delete the VMs that agents made in these threads."""

    async def delete() -> None:
        client = await context.client()
        for vm in await client.list_vms():
            if vm.labels.get(THREAD_LABEL) in threads:
                with contextlib.suppress(Gone):
                    await client.delete_vm(vm.vm_id)
                context.forget_vm(vm.vm_id)

    await on_io(delete())


def _said(error: BaseException) -> str:
    """An error in one line; those of this package are sentences already."""
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, VersError) else f"{type(error).__name__}: {text}"
