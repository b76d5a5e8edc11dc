"""The scripted agent: a model that does what the last message of its user says, and the graphs that it works in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, get_args

from agents import Request
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.types import interrupt

from langchain_vers import VersToolkit
from versions import machine_claims

GraphKind = Literal["agent", "graph", "nested"]
GRAPHS: tuple[GraphKind, ...] = get_args(GraphKind)

_KINDS: dict[str, Callable[[str], Sequence[Request]]] = {
    "create": lambda token: machine_claims.create(),
    "append": lambda token: [machine_claims.append(token)],
    "fail": lambda token: [machine_claims.fail(token)],
    "move": lambda token: [machine_claims.move(token)],
    "write": lambda token: [machine_claims.write(token)],
    "edit": lambda token: [machine_claims.edit(token)],
    "read": lambda token: [("read", {"path": machine_claims.NOTES})],
    "ls": lambda token: [("ls", {"path": "~"})],
    "branch": lambda token: [("vers_vm_branch", {"attach": True})],
    "ask": lambda token: [("ask", {"question": token})],
}
CHANGES = ("append", "append", "append", "fail", "move", "write", "edit")
"""Kinds of calls that change the machine, as often as they are wanted."""
LOOKS = ("read", "ls")
GATE = "gate"
"""As a kind: the message is held up by a node that asks somebody, in graphs that have one."""


def plan(*supersteps: Sequence[str]) -> str:
    """What a user says to have these kinds of calls carried out, one message of the model after the other."""
    return "; ".join(" ".join(kinds) for kinds in supersteps)


class PlannedModel(BaseChatModel):
    """Carries out the plan in the last message of the user, one superstep with each answer, with new tokens."""

    next_token: Callable[[Sequence[BaseMessage]], str]
    """A token, given the messages so far."""
    thinking: Callable[[], None] = lambda: None
    """Called while it thinks."""

    @property
    def _llm_type(self) -> str:
        return "planned"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.thinking()
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])

    def _answer(self, messages: list[BaseMessage]) -> AIMessage:
        last = max((n for n, message in enumerate(messages) if isinstance(message, HumanMessage)), default=0)
        supersteps = str(messages[last].content).split("; ") if messages else []
        said = sum(isinstance(message, AIMessage) for message in messages[last:])
        kinds = supersteps[said].split() if said < len(supersteps) else []
        requests: list[Request] = []
        for kind in kinds:
            if kind in _KINDS:
                requests += _KINDS[kind](self.next_token([*messages, *[AIMessage("") for _ in requests]]))
        calls = [
            {"name": name, "args": args, "id": f"call-{len(messages)}-{n}-{self.next_token(messages)}", "type": "tool_call"}
            for n, (name, args) in enumerate(requests)
        ]
        return AIMessage(GATE if GATE in kinds else "" if calls else "done", tool_calls=calls)


def fresh(tokens: Iterator[str]) -> Callable[[Sequence[BaseMessage]], str]:
    """Tokens that are never the same, also when a call of the model is repeated."""
    return lambda messages: next(tokens)


def fixed(messages: Sequence[BaseMessage]) -> str:
    """The same token whenever the model is asked the same: repeating it must not do the work twice."""
    return f"m{len(messages)}"


@tool
def ask(question: str) -> str:
    """Ask a person."""
    return f"The answer to {question} is {interrupt(question)}."


TOOLS = ["bash", "read", "write", "edit", "ls", "vers_vm_create", "vers_vm_branch"]


def toolbox(context: Any) -> list[BaseTool]:
    """The tools of the agent."""
    return [*VersToolkit(context=context, tools=TOOLS).get_tools(), ask]


def build(kind: GraphKind, model: PlannedModel, tools: Sequence[BaseTool], saver: Any) -> Any:
    """The agent as `create_agent` makes it, written by hand with a `ToolNode`, or as a node of another graph."""
    if kind == "agent":
        return create_agent(model, list(tools), checkpointer=saver)
    builder = StateGraph(MessagesState)
    if kind == "nested":
        builder.add_node("agent", create_agent(model, list(tools)))
        builder.add_node("after", lambda state: {})
        builder.add_edge(START, "agent")
        builder.add_edge("agent", "after")
        builder.add_edge("after", END)
        return builder.compile(checkpointer=saver)

    def gate(state: MessagesState) -> dict[str, Any]:
        if state["messages"][-1].content == GATE:
            interrupt("may I?")
        return {}

    builder.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_node("gate", gate)
    builder.add_node("tools", ToolNode(list(tools)))
    builder.add_edge(START, "model")
    builder.add_edge("model", "gate")
    builder.add_conditional_edges("gate", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=saver)
