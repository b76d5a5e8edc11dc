"""A chat model that plays a fixed list of tool calls, and looks at each result before it goes on.

It stands in for a real one where a run must need no key and come out the same each time: in the demo, the cookbook, and tests of
agents. It keeps nothing between calls: where it is in its script follows from the conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field

Results = Mapping[str, ToolMessage]
"""The results so far, by the names of their steps."""


class Unexpected(Exception):
    """A result is not what it must be. The message says what was found, in one phrase."""


@dataclass(frozen=True)
class Step:
    """One tool call of a script."""

    name: str
    """Unique in its script."""
    tool: str
    arguments: Mapping[str, Any] | Callable[[Results], Mapping[str, Any]] = field(default_factory=dict)
    """The call's arguments, or how they follow from earlier results."""
    check: Callable[[ToolMessage, Results], str] = lambda message, results: succeeded(message)
    """What was seen, in a phrase; raises `Unexpected`. The results include the step's own."""
    scene: str = ""
    """The part of the story that it belongs to, for display."""
    say: str = ""
    """What the model says when it makes the call."""


def succeeded(message: ToolMessage) -> str:
    """A check that asks for nothing but success."""
    if message.status == "error":
        raise Unexpected(f"the tool failed: {message.text.strip()[:300]}")
    return "done"


def judge(steps: Sequence[Step], messages: Sequence[ToolMessage]) -> str:
    """What the last of these results, which answer the first steps of a script in order, shows.

    Raises:
        Unexpected: it is not what it must be.
    """
    results = by_step(steps, messages)
    step = steps[len(messages) - 1]
    return step.check(messages[-1], results)


def by_step(steps: Sequence[Step], messages: Sequence[ToolMessage]) -> dict[str, ToolMessage]:
    """Results by the names of the steps that they answer."""
    return {step.name: message for step, message in zip(steps, messages, strict=False)}


class ScriptedModel(BaseChatModel):
    """Plays `steps`, one call a turn, from the start for each human message; stops with an explanation at a result that does not fit.

    The last message has no calls; its `response_metadata["completed"]` tells whether the script was played to its end.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    steps: Sequence[Step] = Field(repr=False)
    farewell: str = "Done."

    @property
    def _llm_type(self) -> str:
        return "langchain-vers-scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,  # noqa: ANN401  # as the parent
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """The model with these tools.

        Raises:
            ValueError: the script uses a tool that is not among them.
        """
        specs = [convert_to_openai_tool(tool) for tool in tools]
        unknown = {step.tool for step in self.steps} - {spec["function"]["name"] for spec in specs}
        if unknown:
            raise ValueError(f"the script uses tools that are not bound: {', '.join(sorted(unknown))}")
        return self.bind(tools=specs, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401  # as the parent
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    def _answer(self, messages: Sequence[BaseMessage]) -> AIMessage:
        human = [position for position, message in enumerate(messages) if isinstance(message, HumanMessage)]
        turn = messages[human[-1] if human else 0 :]
        found = [message for message in turn if isinstance(message, ToolMessage)]
        if found:
            try:
                judge(self.steps, found)
            except Unexpected as problem:
                text = f"Stopped at {self.steps[len(found) - 1].name!r}: {problem}"
                return AIMessage(text, response_metadata={"completed": False})
        if len(found) == len(self.steps):
            return AIMessage(self.farewell, response_metadata={"completed": True})
        step = self.steps[len(found)]
        given = step.arguments(by_step(self.steps, found)) if callable(step.arguments) else step.arguments
        call = {"name": step.tool, "args": dict(given), "id": f"{step.name}-{len(human)}", "type": "tool_call"}
        return AIMessage(step.say, tool_calls=[call])
