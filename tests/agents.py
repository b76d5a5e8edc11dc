"""Ways to carry out tool calls, as programs do: directly, under ToolNode, under create_agent, in the functional API; sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode

Request = tuple[str, dict[str, Any]]


class ScriptedModel(BaseChatModel):
    """A chat model that says what it was told to say: message n of the script after n answers of its own."""

    script: list[AIMessage]

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        said = sum(isinstance(message, AIMessage) for message in messages)
        message = self.script[said] if said < len(self.script) else AIMessage("done")
        return ChatResult(generations=[ChatGeneration(message=message.model_copy())])


def message(*requests: Request, message_id: str | None = None, first: int = 0) -> AIMessage:
    """A message of a model that asks for calls."""
    calls = [{"name": name, "args": args, "id": f"call-{first + n}", "type": "tool_call"} for n, (name, args) in enumerate(requests)]
    return AIMessage("", tool_calls=calls, id=message_id)


def tool_graph(tools: Sequence[BaseTool], asked: AIMessage, checkpointer: Any = None) -> Any:
    """A hand-written graph whose model asks once."""
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [asked]})
    builder.add_node("tools", ToolNode(list(tools)))
    builder.add_edge(START, "model")
    builder.add_edge("model", "tools")
    builder.add_edge("tools", END)
    return builder.compile(checkpointer=checkpointer)


def agent(tools: Sequence[BaseTool], *script: AIMessage, checkpointer: Any = None) -> Any:
    """An agent of `create_agent` with a scripted model."""
    return create_agent(ScriptedModel(script=list(script)), list(tools), checkpointer=checkpointer)


def functional(tools: Sequence[BaseTool], asked: AIMessage, asynchronous: bool, checkpointer: Any = None) -> Any:
    """A workflow of the functional API that starts all calls as tasks and then waits for them."""
    by_name = {tool.name: tool for tool in tools}
    if asynchronous:

        @task
        async def acarry(call: Any) -> ToolMessage:
            return await by_name[call["name"]].ainvoke(call)

        @entrypoint(checkpointer=checkpointer)
        async def aflow(_: Any) -> list[ToolMessage]:
            return list(await asyncio.gather(*(acarry(call) for call in asked.tool_calls)))

        return aflow

    @task
    def carry(call: Any) -> ToolMessage:
        return by_name[call["name"]].invoke(call)

    @entrypoint(checkpointer=checkpointer)
    def flow(_: Any) -> list[ToolMessage]:
        return [future.result() for future in [carry(call) for call in asked.tool_calls]]

    return flow


KINDS = ["direct", "node", "agent", "functional"]
START_INPUT = {"messages": [("user", "go")]}


class Runner:
    """Carries out the calls of one message in one of the ways."""

    def __init__(self, kind: str, asynchronous: bool) -> None:
        self.kind = kind
        self.asynchronous = asynchronous

    def __repr__(self) -> str:
        return f"{self.kind}-{'async' if self.asynchronous else 'sync'}"

    def __call__(
        self, tools: Sequence[BaseTool], *requests: Request, thread: str | None = None, checkpointer: bool = False, **config: Any
    ) -> list[ToolMessage]:
        asked = message(*requests)
        options: RunnableConfig = {"configurable": {} if thread is None else {"thread_id": thread}, **config}  # type: ignore[typeddict-item]
        saver = InMemorySaver() if checkpointer else None
        if self.kind == "direct":
            return self._direct(tools, asked, options)
        if self.kind == "functional":
            flow = functional(tools, asked, self.asynchronous, saver)
            return asyncio.run(flow.ainvoke("go", options)) if self.asynchronous else flow.invoke("go", options)
        make = tool_graph if self.kind == "node" else agent
        graph = make(tools, asked, checkpointer=saver)
        state = asyncio.run(graph.ainvoke(START_INPUT, options)) if self.asynchronous else graph.invoke(START_INPUT, options)
        answers = {answer.tool_call_id: answer for answer in state["messages"] if isinstance(answer, ToolMessage)}
        return [answers[call["id"]] for call in asked.tool_calls]

    def _direct(self, tools: Sequence[BaseTool], asked: AIMessage, options: RunnableConfig) -> list[ToolMessage]:
        by_name = {tool.name: tool for tool in tools}

        async def all_of_them() -> list[ToolMessage]:
            return [await by_name[call["name"]].ainvoke(call, options) for call in asked.tool_calls]

        if self.asynchronous:
            return asyncio.run(all_of_them())
        return [by_name[call["name"]].invoke(call, options) for call in asked.tool_calls]


RUNNERS = [Runner(kind, asynchronous) for kind in KINDS for asynchronous in (False, True)]
GRAPHS = [runner for runner in RUNNERS if runner.kind in {"node", "agent"}]
