"""What was asked of an evaluation, looked at before anything is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import langsmith

from langchain_vers.context import BackendContext
from langchain_vers.errors import BadInput
from langchain_vers.evals.agents import Agent, Work, work_of
from langchain_vers.evals.evaluators import Evaluator, listed
from langchain_vers.evals.examples import Data
from langchain_vers.machine import Machine
from langchain_vers.tools.belonging import check_tools

Keep = Literal["never", "failures", "always"]
"""Whose machines outlive the evaluation."""


@dataclass
class Options:
    """The arguments of `evaluate_on_branches`, and `sync`: whether it is called from sync code.

    Raises:
        BadInput: one of them makes no sense.
    """

    agent: Agent
    data: Data
    evaluators: Iterable[Evaluator] | Evaluator
    context: BackendContext
    base: str | Machine
    concurrency: int
    keep: Keep
    timeout: float | None
    upload: bool
    client: langsmith.Client | None
    prefix: str | None
    description: str | None
    metadata: Mapping[str, Any] | None
    repetitions: int
    progress: bool
    sync: bool
    work: Work = field(init=False)
    """How the agent is put to work."""
    judges: list[Evaluator] = field(init=False)
    """The evaluators, as a list."""
    source: str = field(init=False)
    """What is branched."""

    def __post_init__(self) -> None:
        if not isinstance(self.context, BackendContext):
            raise BadInput(f"context must be a BackendContext, not {type(self.context).__name__}")
        if self.context.local_allowed:
            raise BadInput(
                "the context allows work on this machine, where an agent that loses its thread would end up; make it with "
                "BackendContext(local=False)"
            )
        for name, value in {"concurrency": self.concurrency, "repetitions": self.repetitions}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInput(f"{name} must be a whole number of at least 1, not {value!r}")
        if self.keep not in get_args(Keep):
            raise BadInput(f"keep must be one of {', '.join(map(repr, get_args(Keep)))}, not {self.keep!r}")
        seconds = self.timeout
        if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf):
            raise BadInput(f"timeout must be a number of seconds above 0, or None, not {seconds!r}")
        self.judges = listed(self.evaluators)
        if not isinstance(self.base, str | Machine):
            raise BadInput(f"base must be a commit, a tag or a VM by its name, not {self.base!r}")
        self.source = self.base.vm_id if isinstance(self.base, Machine) else self.base
        self.work = work_of(self.agent, sync=self.sync)
        check_tools(self.agent, self.context)
