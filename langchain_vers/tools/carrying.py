"""One call of a tool on the I/O thread: through the gate, to the machine, and back with secrets and private paths taken out."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from langchain_vers.asking import Ruling, Verdict, rule, too_late
from langchain_vers.backends.reconnects import Tally, counted
from langchain_vers.errors import Denied, Gone, Misplaced, Missing, TakenOver, Unreachable, VersError
from langchain_vers.permission import judge
from langchain_vers.redaction import RedactedStream, Redactor
from langchain_vers.request import Ask
from langchain_vers.tools.base import ERROR_OUTPUT_CHARACTERS, NOWHERE, Answer, Call, Content, ToolSpec


async def carry_out(
    spec: ToolSpec, call: Call, arguments: dict[str, Any], ruling: Ruling | None = None, *, late: bool = False
) -> Answer | Verdict:
    """Carry out a call that the policy allows: the one gate that all tools go through.

    All that leaves a tool passes here, too: what is streamed, what the model reads, and the facts for programs and traces.
    """
    with counted() as tally:
        common = _Common(call, tally)
        try:
            return await _carried_out(spec, call, arguments, ruling, late=late, common=common)
        except BaseException as error:
            facts = {**common.facts(), "error": type(error).__name__}
            call.facts.update(call.redactor().value(facts))
            raise


class _Common:
    """What can be said of every call, however it ended."""

    def __init__(self, call: Call, tally: Tally) -> None:
        self._call = call
        self._tally = tally
        self._started = time.monotonic()

    def facts(self) -> dict[str, Any]:
        took = round((time.monotonic() - self._started) * 1000, 1)
        return {**NOWHERE, **self._call.where(), "duration_ms": took, "reconnects": self._tally.count}


async def _carried_out(
    spec: ToolSpec, call: Call, arguments: dict[str, Any], ruling: Ruling | None, *, late: bool, common: _Common
) -> Answer | Verdict:
    streamed = _Streamed(call)
    call.emit = streamed.emit

    async def attempt(look: bool = False) -> Answer | Verdict:
        settled = ruling
        if look or (settled is None and not call.context.policy.trivial):
            verdict = await judged(call, spec, arguments, look=look)
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
    redactor = call.redactor()
    content = _fit_to_show(call, redactor, _noticed(call, answer.content))
    facts = common.facts()
    artifact = {**facts, "bytes": _size(content), **answer.artifact, **_left(call)}
    artifact["reconnects"] = max(facts["reconnects"], artifact["reconnects"])
    return Answer(content, redactor.value(artifact), answer.error)


def _size(content: Content) -> int:
    """The bytes of an answer's text."""
    if isinstance(content, str):
        return len(content.encode(errors="replace"))
    return sum(_size(block if isinstance(block, str) else str(block.get("text", ""))) for block in content)


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


async def judged(call: Call, spec: ToolSpec, arguments: Mapping[str, Any], *, look: bool = False) -> Verdict:
    """What the policy says of a call; see `permission.judge`."""
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
    artifact: dict[str, Any] = {"error": type(error).__name__, "bytes": len(output)}
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
