"""LangChain's tools: each spec gets a sync and an async face, in the task and thread of whoever calls it, where a person can be asked."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool, ToolException
from langgraph.prebuilt import ToolRuntime
from pydantic import PrivateAttr, ValidationError

from langchain_vers._io import io
from langchain_vers.asking import Ruling, Rulings, Verdict, rule
from langchain_vers.context import BackendContext
from langchain_vers.errors import VersError
from langchain_vers.permission import By
from langchain_vers.tools.abandoning import leaving
from langchain_vers.tools.base import NOWHERE, Answer, Call, Moves, ToolSpec
from langchain_vers.tools.carrying import carry_out, judged
from langchain_vers.tools.showing import Shower
from langchain_vers.tools.tracing import annotate
from langchain_vers.turns import Place, place_of

_REFUSED = {**NOWHERE, "duration_ms": 0.0, "error": "BadInput"}
"""The facts of a call whose arguments did not fit."""

_call_id: ContextVar[str | None] = ContextVar("langchain_vers_tool_call_id", default=None)
"""The id of the tool call being run; LangChain hands it to a tool's `run` and to nothing below it."""


class VersTool(StructuredTool):
    """A tool of this package as LangChain sees it."""

    _context: BackendContext = PrivateAttr()
    _moves: Moves = PrivateAttr()

    def run(self, tool_input: str | dict[str, Any], *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:  # noqa: ANN401  # as the parent
        """Run the tool; see the parent class."""
        token = _call_id.set(tool_call_id)
        try:
            output = super().run(tool_input, *args, tool_call_id=tool_call_id, **kwargs)
        finally:
            _call_id.reset(token)
        if (place := self._refused(output, tool_input, kwargs.get("config"))) is not None:
            io.run(self._context.refuse_move(place))
        return output

    async def arun(self, tool_input: str | dict[str, Any], *args: Any, tool_call_id: str | None = None, **kwargs: Any) -> Any:  # noqa: ANN401  # as the parent
        """Run the tool; see the parent class."""
        token = _call_id.set(tool_call_id)
        try:
            output = await super().arun(tool_input, *args, tool_call_id=tool_call_id, **kwargs)
        finally:
            _call_id.reset(token)
        if (place := self._refused(output, tool_input, kwargs.get("config"))) is not None:
            await io.on_io(self._context.refuse_move(place))
        return output

    def _to_args_and_kwargs(self, tool_input: str | dict[str, Any], tool_call_id: str | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # LangChain drops all of the input of a tool without arguments, the injected runtime with it.
        try:
            args, kwargs = super()._to_args_and_kwargs(tool_input, tool_call_id)
        except ValidationError as error:
            return (), {"unfit": error}  # raised below, where the run is known; it has ended when `_refused` sees the answer
        runtime = tool_input.get("runtime") if isinstance(tool_input, dict) else None
        return args, kwargs if runtime is None else {**kwargs, "runtime": runtime}

    def _refused(self, output: Any, tool_input: str | dict[str, Any], config: RunnableConfig | None) -> Place | None:  # noqa: ANN401  # what a tool gives
        """Complete the answer to a call whose arguments did not fit; the call's place, if others of its message wait for it."""
        if not isinstance(output, ToolMessage) or output.status != "error" or output.artifact is not None:
            return None
        output.artifact = dict(_REFUSED)
        arguments = tool_input if isinstance(tool_input, dict) else {}
        if not self._moves(self.name, arguments):
            return None
        place = place_of(config or {}, arguments.get("runtime"), output.tool_call_id, self._moves)
        return place if place.message is not None else None


class Work:
    """One call on the caller's side: through the gate, then to the I/O thread."""

    def __init__(
        self, spec: ToolSpec, context: BackendContext, place: Place, arguments: dict[str, Any], specs: Mapping[str, ToolSpec], *, by: By
    ) -> None:
        self._spec, self._context, self._place, self._arguments, self._specs = spec, context, place, arguments, specs
        self._by: By = by
        self._late = place.together is None
        """Whether it is too late to ask a person: other calls of the same task may have done something already."""
        self._call: Call | None = None

    def carry_out(self, show: Callable[[str], None], given_up: Callable[[], bool] | None = None) -> Answer:
        """Carry the call out, for sync callers; `show` gets its output while it runs, in the caller's thread. `given_up`: see `leaving`.

        Raises:
            GraphInterrupt: a person is being asked.
        """
        answer = io.run_relayed(self.start(self.ruling()), show, given_up)
        if isinstance(answer, Verdict):
            answer = io.run_relayed(self.start(self.asked(answer)), show, given_up)
        assert isinstance(answer, Answer)  # it has a ruling
        return answer

    async def acarry_out(self, show: Callable[[str], None]) -> Answer:
        """See `carry_out`."""
        answer = await io.on_io_relayed(self.start(await self.aruling()), show)
        if isinstance(answer, Verdict):
            answer = await io.on_io_relayed(self.start(self.asked(answer)), show)
        assert isinstance(answer, Answer)  # it has a ruling
        return answer

    def start(self, ruling: Ruling | None) -> Callable[[Callable[[str], None]], Coroutine[Any, Any, Answer | Verdict]]:
        """What is to run on the I/O thread, given a way to show output. Without a ruling the policy is asked there, and the outcome may be
        that a person has to be.
        """
        call = self._call = Call(self._context, self._place, lambda delta: None, by=self._by)
        return lambda emit: carry_out(self._spec, replace(call, emit=emit), self._arguments, ruling, late=self._late)

    @contextlib.contextmanager
    def traced(self, callbacks: BaseCallbackManager | None) -> Iterator[None]:
        """Around the whole of it: what ends without an answer (broken off, or a person is to be asked) has its facts in the trace, too."""
        try:
            yield
        except BaseException as error:
            facts = {} if self._call is None else self._call.facts
            annotate(callbacks, {**NOWHERE, **facts, "error": type(error).__name__})
            raise

    def group(self) -> tuple[concurrent.futures.Future[Rulings], bool] | None:
        """The outcome for all calls that the same task carries out, and whether it is up to this one to find it; None if it is alone."""
        if self._context.policy.trivial or not self._place.together or self._place.execution is None:
            return None
        self._late = True
        return self._context.rounds.join(self._place.execution)

    def asked(self, verdict: Verdict) -> Ruling:
        """What holds for the call once a person has been asked."""
        return rule(self._place, verdict)

    def asks(self, outcome: concurrent.futures.Future[Rulings], verdicts: list[tuple[Place, Verdict]]) -> None:
        """Find the outcome for all calls of the task."""
        outcome.set_result({str(place.call_id): rule(place, verdict) for place, verdict in verdicts})

    async def judged(self) -> list[tuple[Place, Verdict]]:
        """What the policy says of the calls of the task. Those that stand behind a move, or make no sense, are not judged here."""
        found: list[tuple[Place, Verdict]] = []
        for index, call in enumerate(self._place.together or ()):
            spec = self._specs.get(call["name"])
            if spec is None:
                continue
            place = replace(self._place, call_id=call["id"], index=index, movers=(), refused=False)
            with contextlib.suppress(VersError, ValidationError):
                arguments = spec.arguments.model_validate(call["args"])
                given = {name: getattr(arguments, name) for name in arguments.model_fields_set}
                found.append((place, await judged(Call(self._context, place, lambda delta: None, by=self._by), spec, given)))
                if spec.moves(given):
                    break
        return found

    def ruling(self) -> Ruling | None:
        """For sync callers: what holds for the call, where that is decided for several at once."""
        group = self.group()
        if group is None:
            return None
        outcome, first = group
        if first:
            with _told(outcome):
                self.asks(outcome, io.run(self.judged()))
        return outcome.result().get(str(self._place.call_id))

    async def aruling(self) -> Ruling | None:
        """See `ruling`."""
        group = self.group()
        if group is None:
            return None
        outcome, first = group
        if first:
            with _told(outcome):
                self.asks(outcome, await io.on_io(self.judged()))
        return (await asyncio.wrap_future(outcome)).get(str(self._place.call_id))


@contextlib.contextmanager
def _told(outcome: concurrent.futures.Future[Rulings]) -> Iterator[None]:
    """The others get what goes wrong, too: also that a person is being asked."""
    try:
        yield
    except BaseException as error:
        outcome.set_exception(error)
        raise


def build(
    spec: ToolSpec, context: BackendContext, moves: Moves, specs: Mapping[str, ToolSpec] | None = None, *, by: By = "model"
) -> VersTool:
    """The LangChain tool for a spec, routed by `context`. `moves` knows the calls of all tools, and `specs` the tools by name. `by`: whose
    calls they are, for the policy.
    """

    def prepare(
        config: RunnableConfig, runtime: ToolRuntime | None, callbacks: BaseCallbackManager | None, arguments: dict[str, Any]
    ) -> tuple[Work, Shower]:
        """The work, and what shows its output on the caller's side."""
        call_id = _call_id.get()
        place = place_of(config or {}, runtime, call_id, moves)
        return Work(spec, context, place, arguments, specs or {spec.name: spec}, by=by), Shower(spec.name, runtime, call_id, callbacks)

    # LangChain injects a runtime by the bare type of the parameter; a direct call has none.
    def func(
        *,
        config: RunnableConfig,
        runtime: ToolRuntime = None,  # type: ignore[assignment]  # see above
        callbacks: BaseCallbackManager | None = None,
        unfit: ValidationError | None = None,
        **arguments: Any,  # noqa: ANN401  # those of the tool
    ) -> tuple[Any, Any]:
        _check_fit(unfit, callbacks)
        work, show = prepare(config, runtime, callbacks, arguments)
        with work.traced(callbacks):
            answer = work.carry_out(show, leaving(config))
        return _finish(spec, answer, callbacks)

    async def coroutine(
        *,
        config: RunnableConfig,
        runtime: ToolRuntime = None,  # type: ignore[assignment]  # see above
        callbacks: BaseCallbackManager | None = None,
        unfit: ValidationError | None = None,
        **arguments: Any,  # noqa: ANN401  # those of the tool
    ) -> tuple[Any, Any]:
        _check_fit(unfit, callbacks)
        work, show = prepare(config, runtime, callbacks, arguments)
        with work.traced(callbacks):
            answer = await work.acarry_out(show)
        await show.told()
        return _finish(spec, answer, callbacks)

    tool = VersTool(
        name=spec.name,
        description=spec.description,
        args_schema=spec.arguments,
        func=func,
        coroutine=coroutine,
        response_format="content_and_artifact",
        handle_tool_error=str,
        handle_validation_error=_explain_arguments,
    )
    tool._context, tool._moves = context, moves  # private attributes cannot be given to a pydantic model
    return tool


def _check_fit(unfit: ValidationError | None, callbacks: BaseCallbackManager | None) -> None:
    """Refuse a call whose arguments did not fit."""
    if unfit is not None:
        annotate(callbacks, _REFUSED)
        raise unfit


def _finish(spec: ToolSpec, answer: Answer, callbacks: BaseCallbackManager | None) -> tuple[Any, Any]:
    annotate(callbacks, answer.artifact)
    call_id = _call_id.get()
    if not answer.error:
        return answer.content, answer.artifact
    if call_id is None:
        raise ToolException(answer.content)
    message = ToolMessage(answer.content, artifact=answer.artifact, tool_call_id=call_id, name=spec.name, status="error")
    return message, answer.artifact


def _explain_arguments(error: ValidationError | Any) -> str:  # noqa: ANN401  # LangChain also passes errors of pydantic's version 1
    parts = [f"{'.'.join(str(part) for part in item['loc']) or 'arguments'}: {item['msg']}" for item in error.errors()]
    return f"The arguments do not fit, nothing was done: {'; '.join(parts)}."
