"""What all tools have in common: one coroutine each, and the adapter that gives it a sync and an async face for LangChain.

A tool's coroutine runs on the I/O thread and gets a `Call`: the context to route by, its place in the conversation, and a way to show output while
it runs. Expected failures are errors of `langchain_vers.errors`; the adapter turns them into error messages for the model. Nothing here knows what a
tool does.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool, ToolException
from langgraph.prebuilt import ToolRuntime
from pydantic import BaseModel, ValidationError

from langchain_vers._io import io
from langchain_vers.attachment import Attachment
from langchain_vers.context import BackendContext, Route
from langchain_vers.errors import VersError
from langchain_vers.tools.tracing import annotate
from langchain_vers.turns import Place, place_of

Content = str | list[dict[str, Any]]


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
    taken: Route | None = None

    async def route(self) -> Route:
        """Where this call goes; remembered for the artifact."""
        self.taken = await self.context.route(self.place)
        return self.taken

    def where(self) -> dict[str, Any]:
        """Where it went, for the artifact."""
        attachment = self.taken.attachment if self.taken else None
        return {} if attachment is None else {"backend": attachment.backend, "machine_id": attachment.machine_id, "cwd": attachment.cwd}


@dataclass(frozen=True)
class ToolSpec:
    """A tool before it is tied to a context. Name, description and schema never change."""

    name: str
    description: str
    arguments: type[BaseModel]
    run: Callable[..., Awaitable[Answer]]
    """`await run(call, **arguments)`."""
    moves: Callable[[Mapping[str, Any]], bool] = lambda arguments: False
    """Whether a call with these arguments may move its thread to another machine."""


_call_id: ContextVar[str | None] = ContextVar("langchain_vers_tool_call_id", default=None)
"""The id of the tool call being run; LangChain hands it to a tool's `run` and to nothing below it."""


class VersTool(StructuredTool):
    """A tool of this package as LangChain sees it."""

    def run(self, tool_input: str | dict[str, Any], *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:  # noqa: ANN401  # as the parent
        token = _call_id.set(tool_call_id)
        try:
            return super().run(tool_input, *args, tool_call_id=tool_call_id, **kwargs)
        finally:
            _call_id.reset(token)

    async def arun(self, tool_input: str | dict[str, Any], *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:  # noqa: ANN401  # as the parent
        token = _call_id.set(tool_call_id)
        try:
            return await super().arun(tool_input, *args, tool_call_id=tool_call_id, **kwargs)
        finally:
            _call_id.reset(token)


def build(spec: ToolSpec, context: BackendContext, moves: Callable[[str, Mapping[str, Any]], bool]) -> VersTool:
    """The LangChain tool for a spec, routed by `context`. `moves` knows which calls of all tools may move a thread."""

    def prepare(config: RunnableConfig, runtime: ToolRuntime | None, arguments: dict[str, Any]) -> Callable[..., Any]:
        place = place_of(config or {}, runtime, _call_id.get(), moves)

        def start(emit: Callable[[str], None]) -> Any:  # noqa: ANN401  # a coroutine of Answer
            return _carry_out(spec, Call(context, place, emit), arguments)

        return start

    def func(
        *,
        config: RunnableConfig,
        runtime: ToolRuntime = None,
        callbacks: BaseCallbackManager | None = None,
        **arguments: Any,  # type: ignore[assignment]  # LangChain injects by the bare type; direct calls have none
    ) -> tuple[Any, Any]:
        answer = io.run_relayed(prepare(config, runtime, arguments), _shower(spec.name, runtime))
        return _finish(spec, answer, callbacks)

    async def coroutine(
        *,
        config: RunnableConfig,
        runtime: ToolRuntime = None,
        callbacks: BaseCallbackManager | None = None,
        **arguments: Any,  # type: ignore[assignment]  # as above
    ) -> tuple[Any, Any]:
        answer = await io.on_io_relayed(prepare(config, runtime, arguments), _shower(spec.name, runtime))
        return _finish(spec, answer, callbacks)

    return VersTool(
        name=spec.name,
        description=spec.description,
        args_schema=spec.arguments,
        func=func,
        coroutine=coroutine,
        response_format="content_and_artifact",
        handle_tool_error=str,
        handle_validation_error=_explain_arguments,
    )


async def _carry_out(spec: ToolSpec, call: Call, arguments: dict[str, Any]) -> Answer:
    started = time.monotonic()
    try:
        answer = await spec.run(call, **arguments)
    except VersError as error:
        text = str(error)
        output = getattr(error, "output", b"")
        if output:
            text = f"{output.decode(errors='replace')[-4000:]}\n\n{text}"
        answer = Answer(text, {"error": type(error).__name__, **({"machine_id": error.machine_id} if error.machine_id else {})}, error=True)
    artifact = {**call.where(), "duration_ms": round((time.monotonic() - started) * 1000, 1), **answer.artifact}
    return Answer(answer.content, artifact, answer.error)


def _finish(spec: ToolSpec, answer: Answer, callbacks: BaseCallbackManager | None) -> tuple[Any, Any]:
    annotate(callbacks, answer.artifact)
    call_id = _call_id.get()
    if not answer.error:
        return answer.content, answer.artifact
    if call_id is None:
        raise ToolException(answer.content)
    message = ToolMessage(answer.content, artifact=answer.artifact, tool_call_id=call_id, name=spec.name, status="error")
    return message, answer.artifact


def _shower(name: str, runtime: ToolRuntime | None) -> Callable[[str], None]:
    """Shows output on the stream modes "tools" and "custom"; called in the caller's own thread and context."""
    if runtime is None:
        return lambda delta: None

    def show(delta: str) -> None:
        runtime.emit_output_delta(delta)
        runtime.stream_writer({"type": "tool_output", "tool": name, "tool_call_id": runtime.tool_call_id, "delta": delta})

    return show


def _explain_arguments(error: ValidationError | Any) -> str:  # noqa: ANN401  # LangChain also passes errors of pydantic's version 1
    parts = [f"{'.'.join(str(part) for part in item['loc']) or 'arguments'}: {item['msg']}" for item in error.errors()]
    return f"The arguments do not fit, nothing was done: {'; '.join(parts)}."


__all__ = ["Answer", "Attachment", "Call", "ToolSpec", "VersTool", "build"]
