"""Who says how good an agent's work is: evaluators of LangSmith, which may look at the machine besides."""

from __future__ import annotations

import functools
import inspect
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from langsmith.evaluation.evaluator import EvaluationResult, EvaluationResults, RunEvaluator, run_evaluator
from langsmith.run_helpers import get_current_run_tree
from langsmith.schemas import Example, Run

from langchain_vers._loops import called
from langchain_vers.errors import BadInput, Gone
from langchain_vers.evals.agents import signature_of

if TYPE_CHECKING:
    from langchain_vers.machine import Machine

Evaluator = RunEvaluator | Callable[..., Any]
"""A function, sync or async, of any of `run`, `example`, `inputs`, `outputs`, `reference_outputs`, `attachments` (as LangSmith's) and
`machine`; or an evaluator object of LangSmith's own.
"""
MACHINE = "machine"
_LANGSMITH = ("run", "example", "inputs", "outputs", "reference_outputs", "attachments")

machine_now: ContextVar[Machine | None] = ContextVar("langchain_vers_evaluated_machine", default=None)
"""The machine that the evaluator which is running is to look at."""


class Judged(Protocol):
    """An example while it is evaluated."""

    machine: Machine | None
    """None if none could be made for it."""

    def heard(self, name: str, found: Sequence[EvaluationResult], error: Exception | None) -> None:
        """What an evaluator has said."""


Find = Callable[[uuid.UUID], Judged]
"""The example that a run belongs to."""


def listed(evaluators: Iterable[Evaluator] | Evaluator) -> list[Evaluator]:
    """The evaluators, of which there may be just one.

    Raises:
        BadInput: one of them is none.
    """
    if isinstance(evaluators, RunEvaluator) or callable(evaluators):
        return [evaluators]
    if isinstance(evaluators, str) or not isinstance(evaluators, Iterable):
        raise BadInput(f"evaluators must be functions, not {evaluators!r}")
    several = list(evaluators)
    for each in several:
        if not isinstance(each, RunEvaluator) and (isinstance(each, type) or not callable(each)):
            kind = each.__name__ if isinstance(each, type) else type(each).__name__
            raise BadInput(f"an evaluator must be a function or an evaluator of LangSmith, not {kind}")
    return several


def prepared(evaluators: Iterable[Evaluator], find: Find) -> list[RunEvaluator]:
    """The evaluators as LangSmith takes them.

    Raises:
        BadInput: one of them cannot be called with what there is.
    """
    return [_OnMachine(each if isinstance(each, RunEvaluator) else _adapted(each), find) for each in evaluators]


def takes_attachments(evaluators: Iterable[Evaluator]) -> bool:
    """Whether one of them asks for the files of the examples."""
    functions = (each for each in evaluators if not isinstance(each, RunEvaluator))
    return any("attachments" in signature_of(each, "the evaluator").parameters for each in functions)


def _adapted(function: Callable[..., Any]) -> RunEvaluator:
    """A function as an evaluator: `machine` is filled in here, and a sync one does not hold up the others."""
    name = str(getattr(function, "__name__", None) or type(function).__name__)
    signature = signature_of(function, "the evaluator")
    _check(name, signature)
    parameters = [parameter for parameter in signature.parameters.values() if parameter.name != MACHINE]
    wants_machine = len(parameters) < len(signature.parameters)
    nothing_else = not [each for each in parameters if each.kind is not each.VAR_KEYWORD]
    if nothing_else:  # LangSmith wants an evaluator to take something
        parameters = [inspect.Parameter("run", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    others = signature.replace(parameters=parameters)

    @functools.wraps(function)
    async def evaluate(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  # whatever evaluators take and give
        given = {} if nothing_else else dict(others.bind(*args, **kwargs).arguments)
        if wants_machine:
            given[MACHINE] = _at_hand()
        call = signature.bind_partial()
        call.arguments.update((name, given[name]) for name in signature.parameters if name in given)
        return await called(function, *call.args, **call.kwargs)

    evaluate.__name__ = name
    evaluate.__signature__ = others  # type: ignore[attr-defined]  # what inspect looks for
    made: RunEvaluator = run_evaluator(evaluate)
    return made


def _at_hand() -> Machine:
    machine = machine_now.get()
    if machine is None:
        raise Gone("no machine was made for this example, so there is none to look at")
    say_of_run(machine)
    return machine


def _check(name: str, signature: inspect.Signature) -> None:
    required = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.default is parameter.empty and parameter.name != MACHINE
    ]
    unknown = [each for each in required if each not in _LANGSMITH]
    # Two parameters of any name are a run and an example to LangSmith; two of which it knows one are a slip of the pen.
    if unknown and (len(required) != 2 or len(unknown) != 2):
        raise BadInput(
            f"the evaluator {name} wants {', '.join(map(repr, unknown))}, which nobody gives it; an evaluator may take "
            f"{', '.join([*_LANGSMITH, MACHINE])}"
        )
    if not required and not any(each in signature.parameters for each in (*_LANGSMITH, MACHINE)):
        raise BadInput(f"the evaluator {name} takes nothing to look at; give it some of {', '.join([*_LANGSMITH, MACHINE])}")


class _Watching(RunEvaluator):
    """What is called by `aevaluate` only."""

    def evaluate_run(self, run: Run, example: Example | None = None, evaluator_run_id: uuid.UUID | None = None) -> EvaluationResult:
        """See the parent class."""
        raise NotImplementedError

    @property
    def feedback_keys(self) -> list[str]:
        """See the parent class."""
        return []


class _OnMachine(_Watching):
    """An evaluator that has the machine at hand, and whose verdict is heard here, too."""

    def __init__(self, inner: RunEvaluator, find: Find) -> None:
        self._inner = inner
        self._find = find
        self.name = str(getattr(inner, "_name", None) or type(inner).__name__)

    @property
    def feedback_keys(self) -> list[str]:
        """See the parent class."""
        return list(getattr(self._inner, "feedback_keys", None) or [self.name])

    async def aevaluate_run(
        self, run: Run, example: Example | None = None, evaluator_run_id: uuid.UUID | None = None
    ) -> EvaluationResult | EvaluationResults:
        """See the parent class."""
        judged = self._find(run.id)
        token = machine_now.set(judged.machine)
        try:
            found = await self._inner.aevaluate_run(run, example, evaluator_run_id)
        except Exception as error:
            judged.heard(self.name, (), error)
            raise
        finally:
            machine_now.reset(token)
        judged.heard(self.name, found["results"] if isinstance(found, dict) else [found], None)
        return found


class Last(_Watching):
    """Comes behind all others, and says that the machine has been looked at."""

    def __init__(self, done: Callable[[uuid.UUID], object]) -> None:
        self._done = done

    async def aevaluate_run(self, run: Run, example: Example | None = None, evaluator_run_id: uuid.UUID | None = None) -> EvaluationResults:
        """See the parent class."""
        self._done(run.id)
        return EvaluationResults(results=[])


def say_of_run(machine: Machine, **facts: str) -> None:
    """Put into the metadata of the run that is under way which machine it is about, as the runs of the tools say it."""
    if (run := get_current_run_tree()) is not None:
        run.add_metadata({"vers_machine_id": machine.vm_id, "vers_commit": machine.commit, **facts})
