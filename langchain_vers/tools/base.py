"""What all tools have in common: one coroutine each, and the adapter that gives it a sync and an async face for LangChain.

A tool's coroutine runs on the I/O thread and gets a `Call`: the context to route by, its place in the conversation, and a way to show
output while it runs. Expected failures are errors of `langchain_vers.errors`; the adapter turns them into error messages for the model.
Nothing here knows what a tool does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool, ToolException
from langgraph.config import get_stream_writer
from langgraph.prebuilt import ToolRuntime
from pydantic import BaseModel, PrivateAttr, ValidationError, model_validator
from pydantic_core import to_jsonable_python

from langchain_vers._io import io
from langchain_vers.asking import Ruling, Rulings, Verdict, rule, too_late
from langchain_vers.attachment import Attachment
from langchain_vers.backends.premises import Misplaced, Premises
from langchain_vers.backends.shell import ShellBackend
from langchain_vers.context import BackendContext
from langchain_vers.errors import Denied, Gone, Missing, TakenOver, Unreachable, VersError
from langchain_vers.permission import By, judge
from langchain_vers.redaction import RedactedStream, Redactor
from langchain_vers.request import Ask, Reach
from langchain_vers.route import Route
from langchain_vers.tools.tracing import annotate
from langchain_vers.turns import Place, place_of

Content = str | list[str | dict[Any, Any]]
ERROR_OUTPUT_CHARACTERS = 4000
"""How much of the output of a command whose connection broke goes into the error."""
_NOWHERE: dict[str, Any] = {"backend": None, "machine_id": None, "cwd": None, "exit_code": None, "truncated": False}
"""What every artifact has, whatever the tool."""


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

    async def route(self) -> Route:
        """Where this call goes; remembered for the artifact."""
        self.attachment = await self.context.attachment_at(self.place)
        self.taken = await self.context.route(self.place, self.attachment)
        self.attachment = self.taken.attachment
        return self._expecting(self.taken)

    def _expecting(self, route: Route) -> Route:
        if self.premises is None:
            return route
        assert isinstance(route.backend, ShellBackend)
        return replace(route, backend=route.backend.expecting(self.premises))

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
        return {} if at is None else {"backend": at.backend, "machine_id": at.machine_id, "cwd": at.cwd}


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


_call_id: ContextVar[str | None] = ContextVar("langchain_vers_tool_call_id", default=None)
"""The id of the tool call being run; LangChain hands it to a tool's `run` and to nothing below it."""


Moves = Callable[[str, Mapping[str, Any]], bool | None]
"""`moves(tool_name, arguments)`: whether a call may move its thread to another machine; None for tools of somebody else."""


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
        args, kwargs = super()._to_args_and_kwargs(tool_input, tool_call_id)
        runtime = tool_input.get("runtime") if isinstance(tool_input, dict) else None
        return args, kwargs if runtime is None else {**kwargs, "runtime": runtime}

    def _refused(self, output: Any, tool_input: str | dict[str, Any], config: RunnableConfig | None) -> Place | None:  # noqa: ANN401  # what a tool gives
        """Complete the answer to a call whose arguments did not fit; the call's place, if others of its message wait for it."""
        if not isinstance(output, ToolMessage) or output.status != "error" or output.artifact is not None:
            return None
        output.artifact = {**_NOWHERE, "duration_ms": 0.0, "error": "BadInput"}
        arguments = tool_input if isinstance(tool_input, dict) else {}
        if not self._moves(self.name, arguments):
            return None
        place = place_of(config or {}, arguments.get("runtime"), output.tool_call_id, self._moves)
        return place if place.message is not None else None


class _Work:
    """One call on the caller's side: through the gate, then to the I/O thread."""

    def __init__(
        self, spec: ToolSpec, context: BackendContext, place: Place, arguments: dict[str, Any], specs: Mapping[str, ToolSpec], *, by: By
    ) -> None:
        self._spec, self._context, self._place, self._arguments, self._specs = spec, context, place, arguments, specs
        self._by: By = by
        self._late = place.together is None
        """Whether it is too late to ask a person: other calls of the same task may have done something already."""

    def start(self, ruling: Ruling | None) -> Callable[[Callable[[str], None]], Coroutine[Any, Any, Answer | Verdict]]:
        """What is to run on the I/O thread, given a way to show output. Without a ruling the policy is asked there, and the outcome may be
        that a person has to be.
        """
        call = Call(self._context, self._place, lambda delta: None, by=self._by)
        return lambda emit: _carry_out(self._spec, replace(call, emit=emit), self._arguments, ruling, late=self._late)

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
                found.append((place, await _judge(Call(self._context, place, lambda delta: None, by=self._by), spec, given)))
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

    def prepare(config: RunnableConfig, runtime: ToolRuntime | None, arguments: dict[str, Any]) -> tuple[_Work, Callable[[str], None]]:
        """The work, and what shows its output on the caller's side."""
        call_id = _call_id.get()
        place = place_of(config or {}, runtime, call_id, moves)
        return _Work(spec, context, place, arguments, specs or {spec.name: spec}, by=by), _shower(spec.name, runtime, call_id)

    # LangChain injects a runtime by the bare type of the parameter; a direct call has none.
    def func(
        *,
        config: RunnableConfig,
        runtime: ToolRuntime = None,  # type: ignore[assignment]  # see above
        callbacks: BaseCallbackManager | None = None,
        **arguments: Any,  # noqa: ANN401  # those of the tool
    ) -> tuple[Any, Any]:
        work, show = prepare(config, runtime, arguments)
        answer = io.run_relayed(work.start(work.ruling()), show)
        if isinstance(answer, Verdict):
            answer = io.run_relayed(work.start(work.asked(answer)), show)
        assert isinstance(answer, Answer)  # it has a ruling
        return _finish(spec, answer, callbacks)

    async def coroutine(
        *,
        config: RunnableConfig,
        runtime: ToolRuntime = None,  # type: ignore[assignment]  # see above
        callbacks: BaseCallbackManager | None = None,
        **arguments: Any,  # noqa: ANN401  # those of the tool
    ) -> tuple[Any, Any]:
        work, show = prepare(config, runtime, arguments)
        answer = await io.on_io_relayed(work.start(await work.aruling()), show)
        if isinstance(answer, Verdict):
            answer = await io.on_io_relayed(work.start(work.asked(answer)), show)
        assert isinstance(answer, Answer)  # it has a ruling
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


async def _carry_out(
    spec: ToolSpec, call: Call, arguments: dict[str, Any], ruling: Ruling | None = None, *, late: bool = False
) -> Answer | Verdict:
    """Carry out a call that the policy allows: the one gate that all tools go through.

    All that leaves a tool passes here, too: what is streamed, what the model reads, and the facts for programs and traces.
    """
    started = time.monotonic()
    streamed = _Streamed(call)
    call.emit = streamed.emit

    async def attempt(look: bool = False) -> Answer | Verdict:
        settled = ruling
        if look or (settled is None and not call.context.policy.trivial):
            verdict = await _judge(call, spec, arguments, look=look)
            if isinstance(verdict.decision, Ask) and not late and ruling is None:
                return verdict
            settled = Ruling(too_late(verdict.decision)) if isinstance(verdict.decision, Ask) else rule(call.place, verdict)
        if settled is not None and settled.refusal is not None:
            raise Denied(settled.refusal)
        call.premises = None if settled is None else settled.premises
        return await spec.run(call, **arguments)

    try:
        try:
            answer = await attempt()
        except Misplaced:  # nothing was done; a symlink is where none was thought of
            answer = await attempt(look=True)
        except (TakenOver, Gone) as error:  # nothing was done; what is known of the machine is out of date
            await call.context.retake(call.place, error)
            answer = await attempt()
    except VersError as error:
        answer = await _failure(call, error)
    finally:
        call.context.settle_move(call.place)
    if (isinstance(answer, Verdict) or answer.error) and spec.moves(arguments):
        await call.context.refuse_move(call.place)  # it may not have come to begin: those behind it need not wait
    if isinstance(answer, Verdict):
        return answer
    streamed.close()
    call.context.used(call.place, spec.name)
    took = round((time.monotonic() - started) * 1000, 1)
    artifact = {**_NOWHERE, **call.where(), "duration_ms": took, **answer.artifact, **_left(call)}
    redactor = call.redactor()
    return Answer(_fit_to_show(call, redactor, _noticed(call, answer.content)), redactor.value(artifact), answer.error)


class _Streamed:
    """What a call shows while it runs, without secrets: also without one whose halves are shown one after the other."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._show = call.emit
        self._stream: RedactedStream | None = None

    def emit(self, text: str) -> None:
        if self._stream is None:
            self._stream = self._call.redactor().stream()
        self._give(self._stream.feed(text.encode("utf-8", "replace")))

    def close(self) -> None:
        if self._stream is not None:
            self._give(self._stream.close())
            self._stream = None

    def _give(self, data: bytes) -> None:
        if data:
            self._show(data.decode("utf-8", "replace"))


def _fit_to_show(call: Call, redactor: Redactor, content: Content) -> Content:
    """What the model reads, without secrets and without private paths of the host. Images are left as they are."""
    paths = call.taken.paths if call.taken is not None else None

    def fit(text: str) -> str:
        return redactor.text(paths.text_from_guest(text) if paths else text)

    if isinstance(content, str):
        return fit(content)
    blocks: list[str | dict[Any, Any]] = []
    for block in content:
        if isinstance(block, str):
            blocks.append(fit(block))
        else:
            blocks.append({**block, "text": fit(str(block["text"]))} if block.get("type") == "text" else block)
    return blocks


async def _judge(call: Call, spec: ToolSpec, arguments: Mapping[str, Any], *, look: bool = False) -> Verdict:
    fields = spec.arguments.model_fields
    given = {name: value for name, value in arguments.items() if name not in fields or value != fields[name].default}
    return await judge(call.context, call.place, spec.name, to_jsonable_python(given), spec.reach(arguments), by=call.by, look=look)


def _left(call: Call) -> dict[str, Any]:
    """Where the thread is after a call: what a restarted process, or one that goes back in the conversation, goes on from."""
    left = call.context.whereabouts.known(call.place.holder)
    facts: dict[str, Any] = {} if left is None else {"attachment": left.model_dump(exclude_none=True, exclude_defaults=True)}
    arrival = call.taken.arrival if call.taken is not None else None
    if arrival is not None and arrival.notice is not None:
        facts |= {"restored_from": arrival.restored_from, "restore_ms": arrival.milliseconds}
    return facts


def _noticed(call: Call, content: Content) -> Content:
    """What the model reads, after a word about the machine if it was not simply there."""
    arrival = call.taken.arrival if call.taken is not None else None
    if arrival is None or arrival.notice is None:
        return content
    notice = f"[{arrival.notice}]"
    return f"{notice}\n{content}" if isinstance(content, str) else [{"type": "text", "text": notice}, *content]


async def _failure(call: Call, error: VersError) -> Answer:
    text = str(error)
    if isinstance(error, Unreachable):
        call.context.link.doubt()
    elif isinstance(error, Missing) and (cwd := await _lost_cwd(call)) is not None:
        text = f"the working directory {cwd} does not exist any more, and nothing was run; the next call starts in the default one"
    if call.taken is not None and call.taken.paths:
        text = call.taken.paths.text_for_guest(text)
    output: bytes = call.redactor().data(getattr(error, "output", b""), cut=True)
    if output:
        text = f"{output.decode(errors='replace')[-ERROR_OUTPUT_CHARACTERS:]}\n\n{text}"
    artifact: dict[str, Any] = {"error": type(error).__name__}
    if error.machine_id:
        artifact["machine_id"] = error.machine_id
    return Answer(text, artifact, error=True)


async def _lost_cwd(call: Call) -> str | None:
    """The thread's working directory, if it is gone: no call could begin in it, not even one that leads elsewhere, so it is forgotten."""
    route = call.taken
    if route is None or route.cwd is None:
        return None
    try:
        await route.backend.stat(route.cwd)
    except Missing:
        call.context.forget_cwd(call.place, route)
        return route.cwd
    except VersError:
        pass  # what became of the directory cannot be told; the error that brought us here stands
    return None


def _finish(spec: ToolSpec, answer: Answer, callbacks: BaseCallbackManager | None) -> tuple[Any, Any]:
    annotate(callbacks, answer.artifact)
    call_id = _call_id.get()
    if not answer.error:
        return answer.content, answer.artifact
    if call_id is None:
        raise ToolException(answer.content)
    message = ToolMessage(answer.content, artifact=answer.artifact, tool_call_id=call_id, name=spec.name, status="error")
    return message, answer.artifact


def _shower(name: str, runtime: ToolRuntime | None, call_id: str | None) -> Callable[[str], None]:
    """Shows output on the stream modes "tools" and "custom"; called in the caller's own thread and context."""

    def show(delta: str) -> None:
        if runtime is not None:
            runtime.emit_output_delta(delta)
            write = runtime.stream_writer
        else:
            try:
                write = get_stream_writer()  # a task of the functional API, or a node that calls the tool itself
            except (RuntimeError, KeyError):
                return  # outside of any graph nobody watches
        write({"type": "tool_output", "tool": name, "tool_call_id": call_id, "delta": delta})

    return show


def _explain_arguments(error: ValidationError | Any) -> str:  # noqa: ANN401  # LangChain also passes errors of pydantic's version 1
    parts = [f"{'.'.join(str(part) for part in item['loc']) or 'arguments'}: {item['msg']}" for item in error.errors()]
    return f"The arguments do not fit, nothing was done: {'; '.join(parts)}."
