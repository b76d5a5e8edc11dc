"""Commands of the person: a message that starts with `!` goes to the thread's machine and not to the model.

`!make test` runs where a tool call of the model would run now, under the same policy and, with a `VersSaver`, as part of the same versions.
Rules of the policy can tell it from the model's calls: it is a call of `bash` by the user (`Rule(..., by="user")`).
Command and output are put into the conversation for the model to read with the person's next message; the model is not asked to answer
a command. `!!make test` does the same, and the model never sees either. This is what the coding agents do that people know.

A message is a command if it is text only and its very first character is `!`; a blank before it makes it an ordinary message. Only the
last message of the conversation is ever run, and only once: one that was overtaken, because its run was broken off, is answered with a word
that it was not run. `VersMiddleware` does all of this for `create_agent`; hand-written graphs take `user_commands`, `was_command` and
`for_model`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.prebuilt import ToolRuntime
from langgraph.runtime import Runtime

from langchain_vers.context import BackendContext
from langchain_vers.naming import short_id
from langchain_vers.tools import shell
from langchain_vers.tools.adapter import build
from langchain_vers.turns import USER_COMMAND, messages_of

Message = TypeVar("Message", bound=BaseMessage)
_EMPTY = "Nothing was run: write a command behind the `!`, as in `!ls`. With `!!ls` the model does not get to see it."
_OVERTAKEN = "My command `{}` was not run: its run was broken off, or another message came after it. Only a command that comes last is run."


@dataclass(frozen=True)
class UserCommand:
    """What a message asks for."""

    command: str
    """What to run; "" if nothing stands behind the mark."""
    hidden: bool
    """Whether the model is to see nothing of it."""
    message_id: str | None
    """The message's id, None if it has none."""


def parse(message: object) -> UserCommand | None:
    """The command that a message of the person is, None if it is something else."""
    if not isinstance(message, HumanMessage) or facts_of(message) is not None:
        return None
    text = _only_text(message.content)
    if text is None or not text.startswith("!"):
        return None
    hidden = text.startswith("!!")
    return UserCommand(text[2 if hidden else 1 :].strip(), hidden, message.id)


def _only_text(content: str | list[str | dict[Any, Any]]) -> str | None:
    """The text of a message's content, None if there is more in it than text."""
    if isinstance(content, str):
        return content
    parts = [part if isinstance(part, str) else part.get("text") if part.get("type") == "text" else None for part in content]
    return None if any(not isinstance(part, str) for part in parts) else "".join(map(str, parts))


def facts_of(message: object) -> Mapping[str, Any] | None:
    """What a result of a command says for programs: `command`, `hidden`, `answers` (the id of the message), `call_id` and the `artifact` of
    its tool call (None if nothing was run). None for other messages.
    """
    facts = getattr(message, "additional_kwargs", {}).get(USER_COMMAND)
    return facts if isinstance(facts, Mapping) else None


def pending(messages: Sequence[object]) -> tuple[list[UserCommand], UserCommand | None]:
    """The commands behind the last answer that have none of their own: those that were overtaken, and the one to run now."""
    overtaken: list[UserCommand] = []
    answered: set[object] = set()
    now: UserCommand | None = None
    for behind, message in enumerate(reversed(messages)):
        if not isinstance(message, HumanMessage):
            break
        if (facts := facts_of(message)) is not None:
            answered.add(facts.get("answers"))
        elif (command := parse(message)) is not None:
            if behind == 0:
                now = command
            elif command.command and command.message_id not in answered:
                overtaken.insert(0, command)
    return overtaken, now


def for_model(messages: Iterable[Message]) -> list[Message]:
    """The messages without what the model is not to see: `!!` commands, their output, and a `!` with nothing behind it."""
    return [message for message in messages if not _kept_back(message)]


def _kept_back(message: object) -> bool:
    if (facts := facts_of(message)) is not None:
        return bool(facts.get("hidden"))
    command = parse(message)
    return command is not None and (command.hidden or not command.command)


def was_command(state: object) -> bool:
    """Whether the person's last message in a state is a command, so that the model need not be called."""
    last = next((message for message in reversed(messages_of(state)) if facts_of(message) is None), None)
    return parse(last) is not None


def user_commands(context: BackendContext, *, timeout: float | None = None) -> Runnable[Any, Any]:
    """A node for hand-written graphs that runs the command of the last message, if it is one.

    Put it between START and the model, leave from it to END if `was_command(state)`, and give the model `for_model(messages)`. The state
    has its messages under `messages` (a mapping or an object), or is the list of them.

    Args:
        context: the context of the graph's tools.
        timeout: seconds that a command may take; default as for the tool `bash`.
    """
    commands = Commands(context, timeout)

    def shaped(state: object, answers: list[HumanMessage]) -> object:
        return (answers if isinstance(state, list) else {"messages": answers}) if answers else None

    def run(state: Any, config: RunnableConfig) -> Any:  # noqa: ANN401  # the graph's state
        return shaped(state, commands.run(state, config))

    async def arun(state: Any, config: RunnableConfig) -> Any:  # noqa: ANN401  # the graph's state
        return shaped(state, await commands.arun(state, config))

    return RunnableLambda(run, arun, name="user_commands")


class Commands:
    """Runs the command of a state's last message by the tool `bash`: whatever holds for the model's calls holds for it.

    A person who has to be asked is asked by an interrupt of the node, and the command runs once when the graph is resumed.

    Args:
        context: the context of the agent's tools.
        timeout: seconds that a command may take; default as for the tool `bash`.
    """

    def __init__(self, context: BackendContext, timeout: float | None = None) -> None:
        spec = next(spec for spec in shell.SPECS if spec.name == "bash")
        self._bash = build(spec, context, lambda name, arguments: False, by="user")
        self._limit = {} if timeout is None else {"timeout": timeout}

    def run(self, state: object, config: RunnableConfig) -> list[HumanMessage]:
        """The messages that answer what is pending; empty if nothing is."""
        answers, now = _without_running(messages_of(state))
        return answers if now is None else [*answers, _result(now, self._bash.invoke(self._call(now, state, config), config))]

    async def arun(self, state: object, config: RunnableConfig) -> list[HumanMessage]:
        """See `run`."""
        answers, now = _without_running(messages_of(state))
        return answers if now is None else [*answers, _result(now, await self._bash.ainvoke(self._call(now, state, config), config))]

    def _call(self, command: UserCommand, state: object, config: RunnableConfig) -> dict[str, Any]:
        call_id = f"user-{command.message_id or uuid.uuid4().hex}"
        arguments = {"command": command.command, **self._limit, "runtime": runtime_of(state, config, call_id)}
        return {"type": "tool_call", "name": self._bash.name, "id": call_id, "args": arguments}


def _without_running(messages: Sequence[object]) -> tuple[list[HumanMessage], UserCommand | None]:
    """What can be said without running anything, and the command to run."""
    overtaken, now = pending(messages)
    said = [_answer(command, _OVERTAKEN.format(command.command), command.hidden) for command in overtaken]
    if now is not None and not now.command:
        return [*said, _answer(now, _EMPTY, hidden=True)], None
    return said, now


def runtime_of(state: object, config: RunnableConfig, call_id: str | None = None) -> ToolRuntime[Any, Any]:
    """What LangGraph's `ToolNode` would give to a call in this node."""
    runtime = (config.get("configurable") or {}).get("__pregel_runtime") or Runtime()
    return ToolRuntime(
        state=state,
        context=runtime.context,
        config=config,
        stream_writer=runtime.stream_writer,
        tool_call_id=call_id,
        store=runtime.store,
        execution_info=runtime.execution_info,
        server_info=runtime.server_info,
    )


def _result(command: UserCommand, answer: ToolMessage) -> HumanMessage:
    artifact = answer.artifact if isinstance(answer.artifact, dict) else {}
    shown = f"$ {command.command}\n{answer.text}"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    what = "I gave a command, and it was not let through" if artifact.get("error") == "Denied" else f"I ran a command {_where(artifact)}"
    text = f"{what}:\n\n{fence}console\n{shown}\n{fence}"
    return _answer(command, text, command.hidden, call_id=answer.tool_call_id, artifact=artifact)


def _answer(command: UserCommand, text: str, hidden: bool, **of_the_call: object) -> HumanMessage:
    facts = {"command": command.command, "hidden": hidden, "answers": command.message_id, "call_id": None, "artifact": None, **of_the_call}
    return HumanMessage(text, additional_kwargs={USER_COMMAND: facts})


def _where(artifact: Mapping[str, Any]) -> str:
    backend, machine = artifact.get("backend"), artifact.get("machine_id")
    if backend == "local":
        return "on this machine"
    if backend == "vers" and machine:
        return f"on VM {short_id(machine)}"
    return f"on {backend}" if backend else "here"
