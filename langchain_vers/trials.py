"""Several attempts at the same thing, each on a machine of its own: what is known of each, what they may cost, which is the best. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from langchain_vers.errors import BadInput
from langchain_vers.machine import Machine
from langchain_vers.naming import UUID, short_id

Outcome = Literal["waiting", "working", "scored", "failed", "interrupted", "out of time", "out of commands"]


@dataclass(frozen=True)
class Budget:
    """What an exploration may cost; None is no limit.

    Attributes:
        seconds: for all attempts together; those that still work then are ended.
        machines: how many machines there may be at the same time, the best one so far included; at least 2.
        commands: how many tool calls each attempt may make; with the next one it is ended.

    Raises:
        BadInput: a limit that makes no sense.
    """

    seconds: float | None = None
    machines: int | None = None
    commands: int | None = None

    def __post_init__(self) -> None:
        if self.seconds is not None and not (_is_number(self.seconds) and self.seconds > 0):
            raise BadInput(f"the seconds of a budget must be a number above 0, or None, not {self.seconds!r}")
        for name, least in (("machines", 2), ("commands", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise BadInput(f"the {name} of a budget must be a whole number of at least {least}, or None, not {value!r}")


@dataclass
class Trial:
    """One attempt.

    Attributes:
        number: from 1.
        machine: the branch that it worked on; deleted by the end, unless it has won.
        outcome: how it ended. Only "scored" ones can win: the agent has ended by itself, and `score` gave a number.
        output: what the agent gave back; None if it did not end.
        score: the greater the better; None if there is none.
        error: why it failed.
        seconds: how long it worked, without the scoring.
        commands: how many tool calls it made.
    """

    number: int
    machine: Machine | None = None
    outcome: Outcome = "waiting"
    output: Any = None
    score: float | None = None
    error: BaseException | None = None
    seconds: float = 0.0
    commands: int = 0


@dataclass(frozen=True)
class Exploration:
    """What came of an exploration; `str` shows it as a tree.

    Attributes:
        trials: all attempts, by number.
        winner: the best one, on whose machine the thread is now; None if there is none, and the thread is where it was.
        source: what the machines began as: a VM's id, or the name that was given.
        seconds: how long it took.
    """

    trials: Sequence[Trial]
    winner: Trial | None
    source: str
    seconds: float = 0.0

    @property
    def output(self) -> Any:  # noqa: ANN401  # whatever the agent gives back
        """What the winner gave back, None without one."""
        return None if self.winner is None else self.winner.output

    def __str__(self) -> str:
        last = len(self.trials)
        lines = [self._origin()]
        for trial in self.trials:
            lines.append(f"{'└─' if trial.number == last else '├─'} {trial.number:>{len(str(last))}}  {self._line(trial)}")
        return "\n".join(lines)

    def _origin(self) -> str:
        if any(trial.machine is not None and trial.machine.commit == self.source for trial in self.trials):
            return f"commit {short_id(self.source)}"
        return f"VM {short_id(self.source)}" if UUID.fullmatch(self.source) else self.source

    def _line(self, trial: Trial) -> str:
        parts = [] if trial.machine is None else [f"VM {short_id(trial.machine.vm_id)}"]
        if trial.score is not None:
            parts.append(f"score {trial.score:g}")
        else:
            parts.append(trial.outcome if trial.error is None else f"{trial.outcome}: {_first_line(trial.error)}")
        if trial.outcome != "waiting":
            parts.append(f"{trial.seconds:.1f} s, {trial.commands} {'command' if trial.commands == 1 else 'commands'}")
        if self.winner is trial:
            parts.append("<- the thread is here now")
        return "  ".join(parts)


def best(trials: Iterable[Trial]) -> Trial | None:
    """The scored attempt with the greatest score; of equal ones the first. None without any."""
    scored = [trial for trial in trials if trial.outcome == "scored" and trial.score is not None]
    return max(scored, key=lambda trial: (trial.score, -trial.number), default=None)


def checked_score(value: object) -> float | None:
    """What a score function gave, if it can be compared; None takes an attempt out of the race.

    Raises:
        BadInput: it is no number.
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return float(value)
    if not _is_number(value):
        raise BadInput(f"score must give a number, or None for an attempt that must not win, not {value!r}")
    return float(value)  # type: ignore[arg-type]  # it is a number


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:100]
