"""What came out of an evaluation: one row for each example, and all of them as a table and as a picture."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langsmith.evaluation.evaluator import EvaluationResult
from langsmith.schemas import Example, Run

from langchain_vers.evals import pictures
from langchain_vers.naming import short_id

if TYPE_CHECKING:
    from langsmith.evaluation import AsyncExperimentResults
    from matplotlib.figure import Figure
    from rich.table import Table


def passes(score: object) -> bool | None:
    """Whether a score says that something passed: True and 1 do, False and 0 do not; other numbers only measure, and None says nothing."""
    return bool(score) if isinstance(score, bool | int | float) and score in {0, 1} else None


def measures(found: Iterable[EvaluationResult]) -> set[str]:
    """The keys by which something is measured: what else than True, False, 0 and 1 has been given under them. Their 0 is no failure."""
    return {each.key for each in found if each.score is not None and passes(each.score) is None}


def verdict(
    error: object, evaluator_errors: Mapping[str, object], feedback: Mapping[str, EvaluationResult], measured: Collection[str]
) -> bool | None:
    """Whether an example passed. It has not if its agent or an evaluator failed, or an evaluator gave False or 0; None: nothing was said
    about that. `measured`: the keys by which something is measured.
    """
    said = [passes(each.score) for key, each in feedback.items() if key not in measured]
    if error is not None or evaluator_errors or False in said:
        return False
    return True if True in said else None


@dataclass(frozen=True)
class Row:
    """One example, evaluated.

    Attributes:
        number: its place in the data, from 0; with repetitions it goes on counting.
        example: as LangSmith has it.
        run: as LangSmith has it.
        passed: False if the agent or an evaluator failed, or an evaluator gave False or 0; None if nothing was said about that.
        error: why the agent failed, a sentence; None if it did not.
        feedback: what the evaluators said, by key.
        evaluator_errors: the evaluators that failed, and why.
        seconds: how long the agent worked.
        waited: seconds until its machine was there.
        judged: seconds of the evaluators, after it.
        machine_id: the VM that it worked on, None if none could be made; `kept` tells whether it still exists.
        thread_id: the `configurable.thread_id` of its run.
        kept: whether its machine was kept.
    """

    number: int
    example: Example
    run: Run
    passed: bool | None
    error: str | None
    feedback: Mapping[str, EvaluationResult]
    evaluator_errors: Mapping[str, str]
    seconds: float
    machine_id: str | None
    thread_id: str
    kept: bool = False
    waited: float = 0.0
    judged: float = 0.0

    @property
    def outputs(self) -> Mapping[str, Any] | None:
        """What the agent gave; None if it failed."""
        return self.run.outputs


@dataclass(frozen=True)
class BranchResults:
    """What came out of `evaluate_on_branches`: rows in the order of the data. Iterable, with a length; prints itself as a table.

    Attributes:
        rows: one for each example (and repetition).
        experiment: LangSmith's own results: `to_pandas()`, `experiment_name`, `url` and the rest.
        seconds: how long all of it took.
    """

    rows: Sequence[Row]
    experiment: AsyncExperimentResults
    seconds: float
    keys: Sequence[str] = ()
    """The keys of the feedback, in the order of the evaluators."""
    measured: Collection[str] = ()
    """Those by which something is measured, such as bytes or lines; the others say whether something passed."""

    @property
    def name(self) -> str:
        """The experiment's name."""
        return str(self.experiment.experiment_name)

    @property
    def kept(self) -> dict[int, str]:
        """The VMs that were kept, by the number of their row; delete them when you have looked at them."""
        return {row.number: row.machine_id for row in self.rows if row.kept and row.machine_id is not None}

    def scores(self, key: str) -> list[float | bool | None]:
        """What an evaluator gave, for each row; None where it failed or said nothing.

        Raises:
            KeyError: no evaluator has given feedback of that name.
        """
        if key not in self.keys:
            raise KeyError(key)
        return [row.feedback[key].score if key in row.feedback else None for row in self.rows]

    def pass_rate(self, key: str | None = None) -> float | None:
        """The part of the rows, 0 to 1, to which an evaluator gave True or 1 (None: that passed altogether). Rows of which nothing can be
        said for sure have not passed; None if no row was said to pass or fail.
        """
        verdicts = [row.passed for row in self.rows] if key is None else [passes(score) for score in self.scores(key)]
        if key in self.measured:
            return None
        if all(verdict is None for verdict in verdicts):
            return None
        return sum(verdict is True for verdict in verdicts) / len(verdicts)

    def table(self) -> Table:
        """As a table of `rich`."""
        return pictures.table(self._lines(), self.keys, self._totals(), title=self.name)

    def plot(self) -> Figure:
        """As a picture: the pass rate of each evaluator, and how long each example took. Needs matplotlib (extra `evals`)."""
        rates = {key: rate for key in self.keys if (rate := self.pass_rate(key)) is not None}
        return pictures.plot(self._lines(), rates, title=self.name)

    def to_pandas(self) -> Any:  # noqa: ANN401  # a DataFrame, where pandas is installed
        """As LangSmith's own DataFrame; needs pandas."""
        return self.experiment.to_pandas()

    def _lines(self) -> list[pictures.Line]:
        return [
            pictures.Line(
                number=row.number,
                name=pictures.name_of(row.example.inputs, row.example.metadata),
                scores={key: row.feedback[key].score if key in row.feedback else None for key in self.keys},
                seconds=row.seconds,
                passed=row.passed,
                note=_note(row),
            )
            for row in self.rows
        ]

    def _totals(self) -> pictures.Totals:
        return pictures.Totals(
            rates={key: self.pass_rate(key) for key in self.keys},
            means={key: _mean(self.scores(key)) for key in self.keys},
            agent_seconds=sum(row.seconds for row in self.rows) / len(self.rows) if self.rows else 0.0,
            seconds=self.seconds,
            measured=self.measured,
        )

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"<BranchResults {self.name}: {pictures.summary(len(self.rows), self.pass_rate(), self.seconds)}>"

    def __rich__(self) -> Table:
        return self.table()

    def __str__(self) -> str:
        return pictures.text(self._lines(), self.keys, self._totals(), title=self.name)

    def _repr_html_(self) -> str:
        return pictures.html(self._lines(), self.keys, self._totals(), title=self.name)


def _note(row: Row) -> str:
    """What there is to say of a row beside its scores."""
    parts = [f"VM {short_id(row.machine_id)} is kept"] if row.kept and row.machine_id is not None else []
    parts += [row.error] if row.error else []
    parts += [f"{name}: {error}" for name, error in row.evaluator_errors.items()]
    return "; ".join(parts)


def _mean(scores: Sequence[float | bool | None]) -> float | None:
    numbers = [float(score) for score in scores if score is not None]
    return sum(numbers) / len(numbers) if numbers else None
