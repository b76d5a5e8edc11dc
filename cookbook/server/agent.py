"""The agent that the server serves. `MODEL` names a model, such as "openai:gpt-5"; without it one does what it is told, word by word."""

import os
from typing import Any

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from machines import context

from langchain_vers import VersMiddleware, VersToolkit


class Obedient(BaseChatModel):
    """A model without a model: each line that it is told is a command for `bash`, all of them at once, and their output is its answer."""

    @property
    def _llm_type(self) -> str:
        return "obedient"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        told = messages[-1]
        if isinstance(told, HumanMessage):
            names = [(f"call-{len(messages)}-{number}", line) for number, line in enumerate(told.text.splitlines())]
            calls = [{"name": "bash", "args": {"command": line}, "id": call, "type": "tool_call"} for call, line in names]
            answer = AIMessage("", tool_calls=calls)
        else:
            answer = AIMessage(told.text.strip() if isinstance(told, ToolMessage) else "done")
        return ChatResult(generations=[ChatGeneration(message=answer)])


name = os.environ.get("MODEL")
toolkit = VersToolkit(context=context)
graph = create_agent(init_chat_model(name) if name else Obedient(), toolkit.get_tools(), middleware=[VersMiddleware(toolkit)])
