"""LangSmith's evaluations, where each example has a machine of its own.

    results = evaluate_on_branches(agent, "my dataset", [tests_pass], context=context, base="golden", concurrency=10)
    print(results)
    results.plot()

Every example runs on its own branch of one golden machine, in a thread of its own that is attached to it, so that nothing that one agent
does is seen by another. Evaluators are LangSmith's, and may take `machine` besides, to look at files and run commands where the agent has
worked. Then the machine is deleted. The experiment itself (runs, feedback, upload) is LangSmith's own `aevaluate`.

The parts are in `langchain_vers.evals`: who is called how, how branches are made ahead of need, when machines go, how the outcome looks.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import langsmith
from langsmith.run_helpers import traceable

from langchain_vers._loops import home_of, run_on_a_loop
from langchain_vers.branches import Branches
from langchain_vers.context import BackendContext
from langchain_vers.evals.agents import Agent, name_of
from langchain_vers.evals.ahead import Ahead
from langchain_vers.evals.course import Course
from langchain_vers.evals.evaluators import Evaluator, Last, prepared, takes_attachments
from langchain_vers.evals.examples import Data, examples_of
from langchain_vers.evals.offline import Offline
from langchain_vers.evals.options import Keep, Options
from langchain_vers.evals.progress import Tally
from langchain_vers.evals.results import BranchResults, Row
from langchain_vers.machine import Machine
from langchain_vers.progress import progress_bar

if TYPE_CHECKING:
    from langsmith.evaluation import AsyncExperimentResults

LABEL = "langchain-vers-evaluation"
"""On the machines of an evaluation, with its name: to find those that a killed process has left."""
MAX_SPARES = 8
"""How many branches wait ahead of need, at most."""


def evaluate_on_branches(
    agent: Agent,
    data: Data,
    evaluators: Iterable[Evaluator] | Evaluator = (),
    *,
    context: BackendContext,
    base: str | Machine,
    concurrency: int = 10,
    keep: Keep = "never",
    timeout: float | None = None,
    upload_results: bool = True,
    client: langsmith.Client | None = None,
    experiment_prefix: str | None = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    repetitions: int = 1,
    progress: bool = True,
) -> BranchResults:
    """Evaluate an agent on examples, each on its own branch of one machine.

    Args:
        agent: a runnable whose tools are of `context`; or a function, sync or async, of the inputs and, if it has parameters of these
            names, `config` (with the thread that is attached to the example's machine) and `machine`. A runnable is invoked here, and
            awaited by `aevaluate_on_branches`.
        data: a dataset's name or id, or examples: mappings with `inputs`, and `outputs` for what is right.
        evaluators: functions of any of `run`, `example`, `inputs`, `outputs`, `reference_outputs`, `attachments` (as LangSmith's) and
            `machine` (a `langchain_vers.Machine`, to look at what the agent left); or evaluators of LangSmith's own.
        context: routes the agent's tools; must be made with `local=False`.
        base: what the branches begin as: a commit's id, a tag, or a VM (as it is when each branch is made).
        concurrency: how many examples are worked on at once. As many machines, and at most 8 more, exist at a time.
        keep: "failures" keeps the machines of examples that did not pass (see `Row`), "always" all; `BranchResults.kept` names them.
        timeout: seconds that the agent may work on an example; None: for ever. A sync agent cannot be stopped: it is left alone, and
            its machine is taken away from it. Evaluators have no limit; `machine.run` has one.
        upload_results: whether LangSmith gets to know of it; False: nothing leaves this process.
        client: LangSmith's; default: its own.
        experiment_prefix: what the experiment's name begins with; default: the agent's name.
        description: of the experiment.
        metadata: of the experiment.
        repetitions: how often each example is run.
        progress: show a progress bar, on a terminal or in a notebook.

    Returns:
        Rows in the order of the data. An agent or evaluator that fails is an error of its row, and ends nothing else.

    Raises:
        BadInput: one of the arguments makes no sense, or this would block the event loop that the agent's checkpointer works on; nothing
            was run.
        Gone: there is no such base.
        VersError: machines could not be deleted; the message names them.

    No machine is left when it raises, or is interrupted with Ctrl-C.
    """
    options = Options(
        agent,
        data,
        evaluators,
        context,
        base,
        concurrency,
        keep,
        timeout,
        upload_results,
        client,
        experiment_prefix,
        description,
        metadata,
        repetitions,
        progress,
        sync=True,
    )
    home_of(agent, "aevaluate_on_branches")
    return run_on_a_loop(_evaluate(options))


async def aevaluate_on_branches(
    agent: Agent,
    data: Data,
    evaluators: Iterable[Evaluator] | Evaluator = (),
    *,
    context: BackendContext,
    base: str | Machine,
    concurrency: int = 10,
    keep: Keep = "never",
    timeout: float | None = None,
    upload_results: bool = True,
    client: langsmith.Client | None = None,
    experiment_prefix: str | None = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    repetitions: int = 1,
    progress: bool = True,
) -> BranchResults:
    """See `evaluate_on_branches`; when it is cancelled, so are the agents, and no machine is left."""
    options = Options(
        agent,
        data,
        evaluators,
        context,
        base,
        concurrency,
        keep,
        timeout,
        upload_results,
        client,
        experiment_prefix,
        description,
        metadata,
        repetitions,
        progress,
        sync=False,
    )
    return await _evaluate(options)


async def _evaluate(options: Options) -> BranchResults:
    attachments = takes_attachments(options.judges)
    examples = await asyncio.to_thread(examples_of, options.data, options.client, upload=options.upload, attachments=attachments)
    client = options.client if options.upload else Offline()
    total = len(examples) * options.repetitions
    concurrency = min(options.concurrency, total)
    prefix = options.prefix or name_of(options.agent)
    started = time.monotonic()
    async with Branches(options.context, options.source, labels={LABEL: prefix[:60]}) as branches:
        ahead = Ahead(branches, total, spares=min(concurrency, MAX_SPARES))
        with progress_bar(prefix, total, shown=options.progress) as bar:
            course = Course(options, branches, ahead, Tally(bar))
            judges = [*prepared(options.judges, course.find), Last(course.looked_at)]
            broken_off = True
            try:
                await ahead.start(concurrency)
                experiment = await _begun(
                    langsmith.aevaluate(
                        traceable(name=name_of(options.agent), process_inputs=_only_inputs)(course.target),
                        data=examples,
                        evaluators=judges,
                        max_concurrency=concurrency,
                        num_repetitions=options.repetitions,
                        client=client,
                        experiment_prefix=prefix,
                        description=options.description,
                        metadata={**(options.metadata or {}), "vers_base": options.source},
                        upload_results=options.upload,
                    )
                )
                broken_off = False
            finally:
                await course.close(broken_off=broken_off)
    return await _results(course, experiment, time.monotonic() - started)


async def _begun(evaluation: Coroutine[Any, Any, AsyncExperimentResults]) -> AsyncExperimentResults:
    """LangSmith's evaluation, without its word that evaluating offline is new: it says that before anything else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'upload_(runs|results)' parameter is in beta")
        task = asyncio.ensure_future(evaluation)
        await asyncio.sleep(0)
    return await task


async def _results(course: Course, experiment: AsyncExperimentResults, seconds: float) -> BranchResults:
    rows = []
    async for found in experiment:
        slot = course.slots[found["run"].id]
        rows.append(
            Row(
                number=slot.number,
                example=found["example"],
                run=found["run"],
                passed=slot.passed(course.measured),
                error=slot.error,
                feedback=slot.feedback,
                evaluator_errors=slot.evaluator_errors,
                seconds=slot.seconds,
                machine_id=None if slot.machine is None else slot.machine.vm_id,
                thread_id=slot.thread,
                kept=slot.keep,
                waited=slot.waited,
                judged=slot.judged,
            )
        )
    rows.sort(key=lambda row: row.number)
    keys = list(dict.fromkeys(key for row in rows for key in (*row.feedback, *row.evaluator_errors)))
    return BranchResults(rows, experiment, seconds, keys, frozenset(course.measured))


def _only_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    return cast("dict[str, Any]", inputs.get("inputs", inputs))


__all__ = ["BranchResults", "Keep", "Row", "aevaluate_on_branches", "evaluate_on_branches"]
