"""What all tools are made of: arguments, a coroutine that carries out a call, and what it gives back.

A tool's coroutine runs on the I/O thread and gets a `Call`: the context to route by, its place in the conversation, and a way to show
output while it runs. Expected failures are errors of `langchain_vers.errors`. `carrying.py` carries calls out, and `adapter.py` makes
LangChain's tools of it. Nothing here knows what a tool does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, model_validator

from langchain_vers.attachment import Attachment
from langchain_vers.backends.premises import Premises
from langchain_vers.context import BackendContext
from langchain_vers.permission import By
from langchain_vers.redaction import Redactor
from langchain_vers.request import Reach
from langchain_vers.route import Route
from langchain_vers.turns import Place

if TYPE_CHECKING:
    from langchain_vers.backends.shell import ShellBackend

Content = str | list[str | dict[Any, Any]]
ERROR_OUTPUT_CHARACTERS = 4000
"""How much of the output of a command whose connection broke goes into the error."""
NOWHERE: dict[str, Any] = {
    "backend": None,
    "machine_id": None,
    "commit": None,
    "cwd": None,
    "exit_code": None,
    "bytes": 0,
    "truncated": False,
    "reconnects": 0,
}
"""What every artifact has, whatever the tool. `commit` is the last one that the machine was made from or saved as before the call, as far
as this process knows. `bytes` are those that a command printed, or of the file that was read, written or copied; else those of the answer.
"""


class Arguments(BaseModel):
    """A tool's arguments as the model gives them; a name that the tool does not have is an error and not ignored."""

    @model_validator(mode="before")
    @classmethod
    def _only_known(cls, data: Any) -> Any:  # noqa: ANN401  # whatever the model sends
        unknown = set(data) - set(cls.model_fields) - {"runtime"} if isinstance(data, dict) else set()
        if unknown:
            known = ", ".join(cls.model_fields) or "none"
            raise ValueError(f"there is no argument {', '.join(sorted(map(repr, unknown)))}; the arguments are: {known}")
        return data


@dataclass(frozen=True)
class Answer:
    """What a tool gives back: content for the model, facts for programs, and whether it is a failure."""

    content: Content
    artifact: dict[str, Any] = field(default_factory=dict)
    error: bool = False


@dataclass
class Call:
    """One call of a tool, on the I/O thread."""

    context: BackendContext
    place: Place
    emit: Callable[[str], None]
    """Shows a piece of output to whoever streams the run."""
    attachment: Attachment | None = None
    """Where the call was sent, once it asked for its route; also when that failed."""
    taken: Route | None = None
    premises: Premises | None = None
    """What must hold on the machine when the call begins there."""
    by: By = "model"
    """Who asks for it."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known of it for traces, when it ended without an answer."""

    async def route(self) -> Route:
        """Where this call goes; remembered for the artifact."""
        self.attachment = await self.context.attachment_at(self.place)
        self.taken = await self.context.route(self.place, self.attachment)
        if self.taken.arrival is not None and (versions := self.context.versions_of(self.place)) is not None:
            self.taken = replace(self.taken, arrival=versions.told(self.taken.arrival))
        self.attachment = self.taken.attachment
        self.context.provisions.taken(self.place)
        return self._expecting(self.taken)

    def _expecting(self, route: Route) -> Route:
        if self.premises is None:
            return route
        return replace(route, backend=cast("ShellBackend", route.backend).expecting(self.premises))

    @asynccontextmanager
    async def changing(self) -> AsyncIterator[Route]:
        """Around a call that may change the machine: where it goes."""
        async with self.context.changing(self.place, await self.route()) as route:
            yield self._expecting(route)

    def variables(self) -> dict[str, str]:
        """What a command of this call is given, beside what its backend gives to all."""
        return self.context.variables.now(self.place.thread)

    def redactor(self) -> Redactor:
        """What takes secrets out of all that this call shows."""
        return self.context.redactor(self.taken.backend if self.taken is not None else None)

    def where(self) -> dict[str, Any]:
        """Where it went, for the artifact."""
        at = self.attachment
        if at is None:
            return {}
        commit = at.commit or self.context.commits.get(at.machine_id)
        return {"backend": at.backend, "machine_id": at.machine_id, "commit": commit, "cwd": at.cwd or self._home()}

    def _home(self) -> str | None:
        """Where it begins on a machine that has a directory for that; None is the login directory."""
        return getattr(self.taken.backend, "home", None) if self.taken is not None else None


@dataclass(frozen=True)
class ToolSpec:
    """A tool before it is tied to a context. Name, description and schema never change."""

    name: str
    description: str
    arguments: type[Arguments]
    run: Callable[..., Awaitable[Answer]]
    """`await run(call, **arguments)`."""
    moves: Callable[[Mapping[str, Any]], bool] = lambda arguments: False
    """Whether a call with these arguments may move its thread to another machine."""
    reach: Callable[[Mapping[str, Any]], Reach] = lambda arguments: Reach()
    """What a call with these arguments reaches for, for the policy to judge."""


Moves = Callable[[str, Mapping[str, Any]], bool | None]
"""`moves(tool_name, arguments)`: whether a call may move its thread to another machine; None for tools of somebody else."""
