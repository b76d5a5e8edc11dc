"""Asking a person whether a call may be carried out, by LangGraph's `interrupt()`, in the task and thread that made the call.

LangGraph runs an interrupted node again from its beginning, and hands out the answers in the order of the questions. So all calls that one
task carries out are judged, and asked about in the order of their message, before any of them does anything: what was approved runs once,
what stood beside it too, and no answer is taken for another's.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langgraph.types import interrupt

from langchain_vers.backends.premises import Premises
from langchain_vers.request import Ask, Decision, Deny, Request
from langchain_vers.turns import Place

_REMEMBERED = 256


@dataclass(frozen=True)
class Verdict:
    """What the policy said about a call, what the call was, and what was taken for granted of its paths."""

    decision: Decision
    request: Request
    premises: Premises | None = None


@dataclass(frozen=True)
class Ruling:
    """What holds for a call in the end: the words to refuse it with, or None if it may be carried out where `premises` hold."""

    refusal: str | None = None
    premises: Premises | None = None


_YES = {"yes", "y", "true", "approve", "approved", "accept", "allow", "ok"}
_NO = {"no", "n", "false", "reject", "rejected", "deny", "denied", ""}


def question(verdict: Verdict, call_id: str | None) -> dict[str, Any]:
    """What an interrupt shows to whoever answers it. Plain JSON."""
    request = verdict.request
    assert isinstance(verdict.decision, Ask)
    return {
        "type": "vers_permission",
        "question": verdict.decision.question,
        "tool": request.tool,
        "arguments": dict(request.arguments),
        "backend": request.machine.backend,
        "machine_id": request.machine.machine_id,
        "tool_call_id": call_id,
        "by": request.by,
        "answers": 'true, false, or {"approve": true or false, "reason": "..."}',
    }


def rejection(answer: Any) -> str | None:  # noqa: ANN401  # whatever a program resumes with
    """The words to reject a call with, None if it is approved. What is not understood rejects."""
    reason = ""
    if isinstance(answer, Mapping):
        reason = str(answer.get("reason") or answer.get("message") or "")
        if "approve" not in answer:
            return reason or f"the answer {answer!r} says neither yes nor no"
        answer = answer["approve"]
    if answer is True or (isinstance(answer, str) and answer.strip().lower() in _YES):
        return None
    if reason or answer is False:
        return reason
    if isinstance(answer, str):
        return "" if answer.strip().lower() in _NO else answer.strip()
    return f"the answer {answer!r} says neither yes nor no"


def ask(place: Place, verdict: Verdict) -> str | None:
    """Ask a person about a call, in the task and thread that made it: what to refuse it with, None if it is approved.

    Interrupts the graph the first time; in the resumed run it returns. Outside of a graph, or without a checkpointer, nobody could answer,
    and it is refused.
    """
    decision = verdict.decision
    assert isinstance(decision, Ask)
    if place.saver is None or place.execution is None:
        return (
            f"{_asked(decision)}, and nobody can be asked: this run has no checkpointer to wait with. Nothing was done; "
            "choose another way, or have the graph compiled with a checkpointer"
        )
    words = rejection(interrupt(question(verdict, place.call_id)))
    if words is None:
        return None
    said = f": {words}" if words else ""
    if verdict.request.by == "user":
        return f"This command was rejected{said}. Nothing was done"
    return f"The user rejected this call{said}. Nothing was done; do not try the same again in other words"


def refusal(verdict: Verdict) -> str:
    """What whoever asked is told of a denial: the model, or the person."""
    assert isinstance(verdict.decision, Deny)
    said = f"The policy does not allow this: {verdict.decision.reason}. Nothing was done"
    return said if verdict.request.by == "user" else f"{said}; choose another way, or tell the user what you need"


def too_late(decision: Ask) -> str:
    """What the model is told when a call has to be asked about and cannot be any more."""
    return (
        f"{_asked(decision)}, and other calls of its message were under way already, or its files were moved since. Nothing was done; "
        "repeat this call in a message of its own, and the user will be asked"
    )


def _asked(decision: Ask) -> str:
    return f"A person has to agree to this first ({decision.question.removesuffix(' Go ahead?')})"


def rule(place: Place, verdict: Verdict) -> Ruling:
    """What holds for a call; asks if need be."""
    if isinstance(verdict.decision, Deny):
        return Ruling(refusal(verdict))
    return Ruling(ask(place, verdict) if isinstance(verdict.decision, Ask) else None, verdict.premises)


Rulings = Mapping[str, Ruling]


class Rounds:
    """Which of the calls that are carried out by one task asks for all of them: the first to come. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rounds: OrderedDict[int, tuple[object, concurrent.futures.Future[Rulings]]] = OrderedDict()

    def join(self, execution: object) -> tuple[concurrent.futures.Future[Rulings], bool]:
        """The outcome for all calls of an execution of a task, and whether the caller is the one to find it."""
        with self._lock:
            known = self._rounds.get(id(execution))
            if known is not None:
                return known[1], False
            future: concurrent.futures.Future[Rulings] = concurrent.futures.Future()
            self._rounds[id(execution)] = (execution, future)  # it is held, so that its id is not another's
            while len(self._rounds) > _REMEMBERED:
                self._rounds.popitem(last=False)
            return future, True
