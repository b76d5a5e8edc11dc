"""`VersMiddleware` for `create_agent`: commands of the person, and what the model is told of where it is.

What a command is and what becomes of it stands in `bang_commands.py`; the words for the model are made in `prompt.py`. Needs `langchain`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, cast

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.runtime import Runtime

from langchain_vers._io import io
from langchain_vers.attachment import Attachment
from langchain_vers.backends.paths import UNMAPPED
from langchain_vers.bang_commands import Commands, for_model, runtime_of, was_command
from langchain_vers.context import BackendContext
from langchain_vers.errors import VersError
from langchain_vers.prompt import COMMANDS, describe, extended, translated
from langchain_vers.toolkit import VersToolkit
from langchain_vers.turns import Place, place_of

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse, hook_config
except ImportError as error:
    raise ImportError('VersMiddleware is for agents of create_agent; `pip install "langchain>=1.2"`, or use user_commands') from error

Translate = Callable[[str], str]
_REMEMBERED = 4096
"""Threads whose first directory is remembered."""


class VersMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Runs the commands of the person, and tells the model where its tools work.

    Put it on the agent that a person talks to: a message of another model could begin with `!` as well.

    A command ends the run without a call of the model, whatever else the agent would do; the model reads it with the next message. Output
    is streamed as that of a tool. The result is a user message whose `additional_kwargs["vers_command"]` has the facts for programs.
    Middleware that reads the conversation by itself, such as a summary of it, sees `!!` commands too.

    Args:
        context: the context of the agent's tools, or the toolkit that they are from.
        commands: whether messages that begin with `!` are commands.
        describe: whether the model is told where its tools work.
        timeout: seconds that a command of the person may take; default as for the tool `bash`.
    """

    def __init__(
        self, context: BackendContext | VersToolkit, *, commands: bool = True, describe: bool = True, timeout: float | None = None
    ) -> None:
        super().__init__()
        self.tools = []
        made = context.context if isinstance(context, VersToolkit) else context
        self._context = cast("BackendContext", made)
        self._commands = Commands(self._context, timeout) if commands else None
        self._describe = describe
        self._starts: OrderedDict[str | None, tuple[Attachment, str | None]] = OrderedDict()

    # --- commands ---

    @hook_config(can_jump_to=["end"])
    def before_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Run the last message, if it is a command."""
        return None if self._commands is None else _ended(state, self._commands.run(state, get_config()))

    @hook_config(can_jump_to=["end"])
    async def abefore_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> dict[str, Any] | None:
        """See `before_agent`."""
        return None if self._commands is None else _ended(state, await self._commands.arun(state, get_config()))

    # --- what the model sees ---

    def wrap_model_call(self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]) -> ModelResponse[Any]:
        """Have the model see what it is to see."""
        return handler(self._prepared(request, *io.run(self._look(self._place(request)))))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """See `wrap_model_call`."""
        return await handler(self._prepared(request, *await io.on_io(self._look(self._place(request)))))

    def _place(self, request: ModelRequest[Any]) -> Place:
        try:
            config = get_config()
        except RuntimeError:  # the request was not made by a graph
            config = RunnableConfig()
        return place_of(config, runtime_of(request.state, config), None, lambda name, arguments: False)

    async def _look(self, place: Place) -> tuple[str | None, Translate | None]:
        """What to say of where the thread is, and what turns paths of this machine into those that hold there."""
        try:
            at = await self._context.glance(place)
            backend = None if at is None or self._is_nowhere(at) else await self._context.opened(at)
        except VersError:
            return None, None  # the first call meets the reason, and reports it
        paths = UNMAPPED if at is None or self._is_nowhere(at) else self._context.mounts.paths(at.backend, backend)
        said = describe(
            at,
            start=None if at is None else self._start(place.holder, at),
            local_allowed=self._context.local_allowed,
            limits=getattr(backend, "limits", None),
            others=self._context.registered,
        )
        return said, paths.text_for_guest if paths else None

    def _is_nowhere(self, at: Attachment) -> bool:
        return at.backend == "local" and not self._context.local_allowed

    def _start(self, holder: str | None, at: Attachment) -> str | None:
        """The directory where the thread was when it was first seen on this machine: a `cd` must not change the prompt."""
        known = self._starts.get(holder)
        if known is None or not known[0].same_machine(at):
            known = at, at.cwd or (self._context.local.home if at.backend == "local" else None)
        self._starts[holder] = known
        self._starts.move_to_end(holder)
        while len(self._starts) > _REMEMBERED:
            self._starts.popitem(last=False)
        return known[1]

    def _prepared(self, request: ModelRequest[Any], said: str | None, translate: Translate | None) -> ModelRequest[Any]:
        messages: list[AnyMessage] = for_model(request.messages)
        system: SystemMessage | None = request.system_message
        if translate is not None:
            messages = [translated(one, translate) if isinstance(one, HumanMessage) else one for one in messages]
            system = None if system is None else translated(system, translate)
        parts = [said] if self._describe and said is not None else []
        if self._commands is not None:
            parts.append(COMMANDS)
        if parts:
            system = extended(system, " ".join(parts))
        return request.override(messages=messages, system_message=system)


def _ended(state: AgentState[Any], answers: list[HumanMessage]) -> dict[str, Any] | None:
    """The update that ends the run if its last message was a command."""
    if not answers:
        return None
    return {"messages": answers, "jump_to": "end"} if was_command(state) else {"messages": answers}
