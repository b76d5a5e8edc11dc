"""How a run is going: messages and output shown as they come, each result judged, the verdicts kept for the closing table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, ToolMessage

from langchain_vers.demo.screen import Row, Screen
from langchain_vers.demo.scripted import Step, Unexpected
from langchain_vers.naming import short_id

_ESSENTIAL = ("command", "path", "pattern", "commit_id", "source", "vm_id", "name", "state")
_STREAMING = {"bash", "vers_vm_exec", "vers_vm_copy"}

Judge = Callable[[Sequence[ToolMessage]], str]
"""What the last result shows, in a phrase; raises `Unexpected`."""


@dataclass
class Course:
    """One run, on a screen. `scene` tells to which part of the story the call with this number belongs."""

    screen: Screen
    scene: Callable[[int], str]
    judge: Judge
    results: list[ToolMessage] = field(default_factory=list)
    verdicts: list[tuple[bool, float]] = field(default_factory=list)
    """For each result, whether it is right, and how many seconds it took."""
    last: AIMessage | None = None

    @property
    def ok(self) -> bool:
        """Whether all results so far are right."""
        return all(ok for ok, _ in self.verdicts)

    def take(self, message: object) -> None:
        """Show what the model asks for, or what came of it."""
        if isinstance(message, AIMessage):
            self.last = message
            self.show_calls()
        elif isinstance(message, ToolMessage):
            self.results.append(message)
            self._result(message)

    def show_calls(self) -> None:
        """Show the calls of the model's last message, as when they are about to be carried out."""
        message = self.last
        if message is None:
            return
        for position, call in enumerate(message.tool_calls):
            self.screen.scene(self.scene(len(self.results) + position))
            self.screen.call(call["name"], essential(call["args"]), message.text if position == 0 else "")

    def _result(self, message: ToolMessage) -> None:
        artifact: Mapping[str, Any] = message.artifact or {}
        seconds = float(artifact.get("duration_ms", 0)) / 1000
        if "diff" in artifact:
            changed = (line for line in artifact["diff"].splitlines() if not line.startswith(("---", "+++", "@@")))
            self.screen.block("\n".join(changed), diff=True)
        elif message.name not in _STREAMING or ("exit_code" not in artifact and message.status == "error"):
            self.screen.block(message.text)
        try:
            ok, seen = True, self.judge(self.results)
        except Unexpected as problem:
            ok, seen = False, str(problem)
        self.verdicts.append((ok, seconds))
        self.screen.result(ok, seen, seconds)


def rows_of(steps: Sequence[Step], verdicts: Sequence[tuple[bool, float]]) -> list[Row]:
    """One row for each scene of a script, of which the first steps have been carried out with these verdicts."""
    rows = []
    for scene in dict.fromkeys(step.scene for step in steps):
        mine = [verdict for step, verdict in zip(steps, verdicts, strict=False) if step.scene == scene]
        complete = len(mine) == sum(step.scene == scene for step in steps)
        what = scene if complete or not mine else f"{scene}: stopped here"
        rows.append(Row(what if mine else f"{scene}: not reached", complete and all(ok for ok, _ in mine), sum(taken for _, taken in mine)))
    return rows


def messages_in(update: object) -> list[object]:
    """The messages in an update of the agent's graph: `{node: {"messages": [...]}}`, or a list of such for calls that ran side by side."""
    if not isinstance(update, Mapping):
        return []
    found: list[object] = []
    for change in update.values():
        for part in change if isinstance(change, list) else [change]:
            if isinstance(part, Mapping):
                found.extend(part.get("messages", ()))
    return found


def output_in(piece: object) -> str:
    """The output in a piece of the "custom" stream, "" if it is something else."""
    return str(piece["delta"]) if isinstance(piece, Mapping) and piece.get("type") == "tool_output" else ""


def essential(arguments: Mapping[str, Any]) -> str:
    """The arguments of a call that tell most, in one piece of text. Pure."""
    parts = [str(arguments[name]) for name in _ESSENTIAL if arguments.get(name) is not None]
    if "vm_id" in arguments and "command" in arguments:
        return f"{short_id(str(arguments['vm_id']))}: {arguments['command']}"
    if parts:
        return parts[0]
    return json.dumps(arguments) if arguments else ""
