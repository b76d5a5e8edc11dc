"""The order of routing inside one message.

A model may ask for several calls in one message, and they run side by side. As far as routing goes they must behave as if run one after
the other: a call after `vers_vm_use` works on that machine, one before it on the machine of before. Nothing here does I/O or knows of
machines.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langchain_vers.attachment import PROMISED, Attachment
from langchain_vers.errors import Conflict
from langchain_vers.steps import Key, Position, depth, task_below

START_SECONDS = 10.0
"""How long a call waits for an earlier one of its message that has not begun. All calls of a message are started together."""
USER_COMMAND = "vers_command"
"""In the `additional_kwargs` of a message that holds the output of a person's own command: its facts, see `bang_commands.facts_of`."""
_REMEMBERED = 4096
_FAILED = (
    "an earlier call of the same message was to change which machine is used, and it failed; nothing was run here: "
    "look at its error, then repeat this call"
)


@dataclass(frozen=True)
class Place:
    """Where a call stands: its thread, its message, and which calls of the message before it may move the thread to another machine."""

    thread: str | None = None
    """The thread's id; None for direct calls without one, which share an attachment of their own."""
    message: str | None = None
    """Names the message and the run in which its calls are carried out; None for a call outside any message."""
    index: int = 0
    """Position of the call in the message."""
    movers: tuple[int, ...] = ()
    """Positions of the earlier calls that may change the attachment."""
    call_id: str | None = None
    refused: bool = False
    """Whether an earlier call of the message that was to move the thread has been answered with an error, without being carried out."""
    position: Position | None = None
    """Where it stands among the thread's checkpoints; None outside of a graph with a checkpointer."""
    saver: object = None
    """The checkpointer of the graph."""
    lane: str = ""
    """The worker on a branch of the thread's machine that makes the call; "" for the thread itself."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The `vers_*` entries of the run's config."""
    recalled: tuple[str, Attachment] | None = None
    """The last earlier call in the conversation, and where it left the thread."""
    since: frozenset[str] = frozenset()
    """The ids of later calls whose answers do not say where they left the thread, such as those of tools that work by another package's
    interface: what one of them has taught is newer than `recalled`."""
    siblings: frozenset[str] = frozenset()
    """The ids of all calls of the message: what one of them has taught is newer than `recalled`."""
    execution: object = None
    """Another object in another execution of the task; None outside of a graph."""
    together: tuple[Mapping[str, Any], ...] | None = ()
    """The calls that the same task carries out, if there are several; None if that cannot be told."""

    @property
    def holder(self) -> str | None:
        """Who is attached: the thread, or a worker of it."""
        return holder(self.thread, self.lane)


def holder(thread: str | None, lane: str) -> str | None:
    """Who is attached: the thread, or a lane of it (a worker, an attempt)."""
    return thread if not lane else f"{thread}#{lane}"


def thread_of(config: Mapping[str, Any] | None) -> str | None:
    """The thread that a config names, None if it names none."""
    thread = ((config or {}).get("configurable") or {}).get("thread_id")
    return None if thread is None else str(thread)


def holder_of(config: Mapping[str, Any] | None) -> str | None:
    """Who is attached: the thread that a config names, or the lane of it."""
    return holder(thread_of(config), str(((config or {}).get("configurable") or {}).get("vers_branch") or ""))


def is_running(config: Mapping[str, Any] | None) -> bool:
    """Whether a config is that of a task of a run."""
    return ((config or {}).get("configurable") or {}).get("__pregel_scratchpad") is not None


def place_of(config: Mapping[str, Any], runtime: Any, call_id: str | None, moves: Callable[[str, Mapping[str, Any]], bool | None]) -> Place:  # noqa: ANN401  # LangGraph's ToolRuntime, or None
    """The place of a call, from the run's config and, inside a graph, from the tool's runtime.

    `moves(tool_name, arguments)` tells whether a call may change the attachment, and of tools that are not this package's nothing (None).
    """
    configurable = config.get("configurable") or {}
    thread = configurable.get("thread_id")
    thread = None if thread is None else str(thread)
    call_id = call_id or getattr(runtime, "tool_call_id", None)
    lane = str(configurable.get("vers_branch") or "")
    facts: dict[str, Any] = {"call_id": call_id, "lane": lane, "saver": configurable.get("__pregel_checkpointer")}
    facts["execution"] = configurable.get("__pregel_scratchpad")
    facts["settings"] = {key: value for key, value in configurable.items() if key.startswith(("vers_", "__pregel_durability"))}
    if thread is not None:
        facts["position"] = _position(thread, configurable, runtime, lane)
    messages = messages_of(getattr(runtime, "state", None))
    message = _message_with(call_id, messages)
    facts["recalled"], facts["since"] = _recalled(messages, message)
    if message is None:
        return Place(thread, **facts)
    calls = message.tool_calls
    facts["siblings"] = frozenset(str(call["id"]) for call in calls)
    index = next(position for position, call in enumerate(calls) if call["id"] == call_id)
    moving = [moves(call["name"], call["args"]) for call in calls]
    if facts.get("position") is not None and None not in moving:
        facts["position"] = replace(facts["position"], uncertain=False)
    movers = tuple(i for i, may_move in enumerate(moving[:index]) if may_move)
    # A call that has its answer already, such as one that a person rejected, will not be carried out in this run.
    answers = {getattr(answer, "tool_call_id", None): getattr(answer, "status", None) for answer in messages}
    settled = {i: answers[calls[i]["id"]] == "error" for i in movers if calls[i]["id"] in answers}
    facts["together"] = _together(config, [call for call in calls if call["id"] not in answers], calls, call_id)
    # The checkpoint is there without a checkpointer, too: the same for all calls of the message, and another one when they are replayed.
    info = getattr(runtime, "execution_info", None)
    name = f"{message.id or '/'.join(str(call['id']) for call in calls)}@{getattr(info, 'checkpoint_id', None)}"
    return Place(thread, name, index, tuple(i for i in movers if i not in settled), refused=any(settled.values()), **facts)


def _together(
    config: Mapping[str, Any], pending: Sequence[Mapping[str, Any]], calls: Sequence[Mapping[str, Any]], call_id: str | None
) -> tuple[Mapping[str, Any], ...] | None:
    """The calls of a message that one task carries out: all of them in a node, one where each is sent to a task of its own."""
    path: Sequence[Any] = (config.get("metadata") or {}).get("langgraph_path") or ("",)
    if path[0] != "__pregel_push":
        return tuple(calls) if len(calls) > 1 else ()
    if len(pending) <= 1:
        return ()
    # Sent one by one, they are numbered in the order of the message. A task that was sent several has one whose number is another.
    alone = len(path) > 1 and isinstance(path[1], int) and path[1] < len(pending) and pending[path[1]]["id"] == call_id
    return () if alone else None


def _position(thread: str, configurable: Mapping[str, Any], runtime: Any, lane: str) -> Position | None:  # noqa: ANN401  # as above
    """Where a call stands, by what LangGraph puts into a task's config: the checkpoints around it, and its namespace."""
    around = configurable.get("checkpoint_map")
    inner = configurable.get("checkpoint_ns")
    if not isinstance(around, Mapping) or not around or not isinstance(inner, str):
        return None
    namespaces = sorted(around, key=depth)
    # A task that the functional API starts within another one has a level of its own, which is the same checkpoint again.
    levels = [each for n, each in enumerate(namespaces) if n == 0 or around[each] != around[namespaces[n - 1]]]
    started, namespaces = namespaces[-1] != levels[-1], levels
    children = [*namespaces[1:], inner]
    runtime = runtime if runtime is not None else configurable.get("__pregel_runtime")
    attempt = getattr(getattr(runtime, "execution_info", None), "node_attempt", 1)
    return Position(
        tuple(Key(thread, namespace, str(around[namespace])) for namespace in namespaces),
        tuple(task_below(namespace, child) for namespace, child in zip(namespaces, children, strict=True)),
        lane,
        run=getattr(runtime, "stream_writer", None),
        execution=configurable.get("__pregel_scratchpad"),
        attempt=attempt,
        started=started,
    )


def _recalled(messages: Sequence[Any], message: Any) -> tuple[tuple[str, Attachment] | None, frozenset[str]]:  # noqa: ANN401  # messages of any kind
    """The last call before a message that says where it left the thread, and the ids of those behind it that do not."""
    silent: set[str] = set()
    before = messages if message is None else messages[: messages.index(message)]
    for answer in reversed(before):
        call_id, artifact = getattr(answer, "tool_call_id", ""), getattr(answer, "artifact", None)
        facts = getattr(answer, "additional_kwargs", {}).get(USER_COMMAND)
        if isinstance(facts, Mapping):
            call_id, artifact = facts.get("call_id"), facts.get("artifact")
        if isinstance(artifact, Mapping) and isinstance(artifact.get("attachment"), Mapping):
            try:
                return (str(call_id), Attachment.model_validate(artifact["attachment"])), frozenset(silent)
            except ValueError:
                continue
        if call_id:
            silent.add(str(call_id))
    return None, frozenset(silent)


def messages_of(state: object) -> Sequence[Any]:
    """The messages of a graph's state, whatever kind of state it is; empty if it has none."""
    found = state.get("messages") if isinstance(state, Mapping) else state if isinstance(state, list) else getattr(state, "messages", None)
    return found if isinstance(found, Sequence) else ()


def _message_with(call_id: str | None, messages: Sequence[Any]) -> Any | None:  # noqa: ANN401  # a message of any kind
    if call_id is None:
        return None
    for message in reversed(messages):
        if any(call.get("id") == call_id for call in getattr(message, "tool_calls", None) or ()):
            return message
    return None


@dataclass
class _Move:
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    result: Attachment | None = None
    """Where the thread is after it; None if it failed."""


@dataclass
class _Turn:
    base: Attachment | None = None
    """Where the thread was before the message; learnt from the first call that knows it, which is always before any move."""
    moves: dict[int, _Move] = field(default_factory=dict)
    kept: tuple[object, Attachment] | None = None
    """What the promise of a machine has become for the message's calls, and in which run, and attempt."""

    def move(self, index: int) -> _Move:
        return self.moves.setdefault(index, _Move())


def _execution(place: Place) -> tuple[object, int] | None:
    """Equal for the calls of a message that are carried out in one run, at the same attempt."""
    return None if place.position is None else (place.position.run, place.position.attempt)


class Turns:
    """The turns that are under way. Coroutines of one event loop."""

    def __init__(self) -> None:
        self._turns: OrderedDict[tuple[str | None, str], _Turn] = OrderedDict()

    async def attachment_at(self, place: Place, current: Attachment) -> Attachment:
        """The attachment that holds at a place: that of the last earlier move of its message, else the one from before the message.

        `current` is the thread's attachment now. A working directory that changed meanwhile on the same machine is taken along.

        Raises:
            Conflict: an earlier call of the message that would have moved the thread failed, or was not carried out.
        """
        if place.message is None:
            return current
        turn = self._turn(place)
        if place.refused:
            raise Conflict(_FAILED)
        found = turn.base = turn.base or current
        for index in place.movers:
            move = turn.move(index)
            try:
                async with asyncio.timeout(START_SECONDS):
                    await move.begun.wait()
            except TimeoutError:
                raise Conflict(
                    "an earlier call of the same message changes which machine is used, and it was not carried out; nothing was run: "
                    "repeat this call in a message of its own"
                ) from None
            await move.ended.wait()
            if move.result is None:
                raise Conflict(_FAILED)
            found = move.result
        if found == PROMISED:
            found = self._kept(turn, place, current)
        return current if found.same_machine(current) else found

    def _kept(self, turn: _Turn, place: Place, current: Attachment) -> Attachment:
        """The machine that calls work on which stand where the thread has only been promised one; the promise if it is not made yet."""
        if turn.kept is not None and turn.kept[0] == _execution(place):
            return turn.kept[1]
        if current == PROMISED or any(current.same_machine(move.result) for move in turn.moves.values()):
            return PROMISED
        turn.kept = _execution(place), current  # a call of another message was first
        return current

    def keep_promise(self, place: Place, attachment: Attachment) -> None:
        """A call has made the machine that the thread was promised."""
        if place.message is not None:
            self._turn(place).kept = _execution(place), attachment

    def begin_move(self, place: Place, current: Attachment) -> None:
        """A call that may move the thread has begun."""
        if place.message is not None:
            turn = self._turn(place)
            turn.base = turn.base or current
            if turn.move(place.index).ended.is_set():
                turn.moves[place.index] = _Move()  # the call is being repeated
            turn.move(place.index).begun.set()

    def end_move(self, place: Place, result: Attachment | None) -> None:
        """It has ended: the thread is on `result` now, or with None it failed. One that could not even begin may be ended, too."""
        if place.message is not None:
            move = self._turn(place).move(place.index)
            move.result = result
            move.begun.set()
            move.ended.set()

    def settle_move(self, place: Place) -> None:
        """A call is over: if it has begun a move that has not ended, that has failed."""
        turn = None if place.message is None else self._turns.get((place.holder, place.message))
        move = None if turn is None else turn.moves.get(place.index)
        if move is not None and move.begun.is_set() and not move.ended.is_set():
            self.end_move(place, None)

    def _turn(self, place: Place) -> _Turn:
        assert place.message is not None
        key = (place.holder, place.message)
        if key not in self._turns:
            self._turns[key] = _Turn()
            while len(self._turns) > _REMEMBERED:
                self._turns.popitem(last=False)
        return self._turns[key]
