"""An agent that does what it is told: "new" makes a VM, anything else is a command."""

from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from machines import context

from langchain_vers import VersToolkit


class Obedient(BaseChatModel):
    """A model without a model."""

    @property
    def _llm_type(self) -> str:
        return "obedient"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        told = messages[-1]
        calls = []
        if isinstance(told, HumanMessage):
            name, args = ("vers_vm_create", {}) if told.content == "new" else ("bash", {"command": told.content})
            calls = [{"name": name, "args": args, "id": f"call-{len(messages)}", "type": "tool_call"}]
        return ChatResult(generations=[ChatGeneration(message=AIMessage("" if calls else "done", tool_calls=calls))])


graph = create_agent(Obedient(), VersToolkit(context=context).get_tools())
