"""Without `VersSaver`, the conversation itself tells where its thread is: the artifacts of its tool messages outlive restarts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Request, agent, message
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver

from langchain_vers import VersToolkit

MakeToolkit = Callable[..., VersToolkit]

GO: Any = {"messages": [("user", "go")]}
PWD: Request = ("bash", {"command": "pwd"})


def thread(name: str = "thread") -> Any:
    return {"configurable": {"thread_id": name}}


def script(*messages: list[Request] | str) -> list[AIMessage]:
    made, number = [], 0
    for one in messages:
        made.append(AIMessage(one) if isinstance(one, str) else message(*one, first=number))
        number += 0 if isinstance(one, str) else len(one)
    return made


class Restarts:
    """Processes over one database, each with a context that knows nothing."""

    def __init__(self, make_toolkit: MakeToolkit, saver: Any) -> None:
        self.make_toolkit, self.saver = make_toolkit, saver

    def process(self, *messages: list[Request] | str, **options: Any) -> tuple[VersToolkit, Any]:
        toolkit = self.make_toolkit(**options)
        return toolkit, agent(toolkit.get_tools(), *script(*messages), checkpointer=self.saver)

    def vm(self) -> str:
        """A VM that no thread is on."""
        create = next(tool for tool in self.make_toolkit().get_tools() if tool.name == "vers_vm_create")
        return create.invoke({"type": "tool_call", "id": "make", "name": create.name, "args": {"attach": False}}).artifact["machine_id"]


@pytest.fixture(params=["memory", "sqlite"])
def restarts(request: pytest.FixtureRequest, make_toolkit: MakeToolkit, tmp_path: Path) -> Iterator[Restarts]:
    with contextlib.ExitStack() as stack:
        saver = (
            InMemorySaver()
            if request.param == "memory"
            else stack.enter_context(SqliteSaver.from_conn_string(str(tmp_path / "threads.sqlite")))
        )
        yield Restarts(make_toolkit, saver)


def last(state: Any) -> ToolMessage:
    return [one for one in state["messages"] if isinstance(one, ToolMessage)][-1]


def before(graph: Any, answered: int) -> Any:
    """The checkpoint at which so many tools have answered, and the model is next."""

    def count(state: Any) -> int:
        return sum(isinstance(one, ToolMessage) for one in state.values.get("messages", ()))

    return next(state.config for state in graph.get_state_history(thread()) if state.next == ("model",) and count(state) == answered)


MADE: list[list[Request] | str] = [[("vers_vm_create", {})], [("bash", {"command": "mkdir -p sub; cd sub"})], "done"]


def test_a_restart(restarts: Restarts) -> None:
    toolkit, graph = restarts.process(*MADE)
    there = last(graph.invoke(GO, thread())).artifact
    toolkit.close()
    toolkit, graph = restarts.process(*MADE, [PWD], "done")
    answer = last(graph.invoke(GO, thread()))
    assert answer.artifact["machine_id"] == there["machine_id"] and str(answer.content).strip() == there["cwd"]
    assert toolkit.context.attached(thread()).host_key == there["attachment"]["host_key"]
    assert "running" in toolkit.context.status(thread())


def test_time_travel(restarts: Restarts) -> None:
    moves: list[list[Request] | str] = [
        [("vers_vm_create", {})],
        [PWD],
        [("vers_vm_create", {})],
        [PWD],
        [("vers_vm_local", {})],
        [PWD],
        "done",
    ]
    toolkit, graph = restarts.process(*moves)
    state = graph.invoke(GO, thread())
    answers = [one.artifact["machine_id"] for one in state["messages"] if isinstance(one, ToolMessage) and one.name == "bash"]
    assert len(set(answers)) == 3 and answers[2] is None
    first, second = before(graph, 1), before(graph, 3)
    for again in (False, True):
        if again:
            toolkit.close()
            toolkit, graph = restarts.process(*moves)
        graph = agent(toolkit.get_tools(), *script(moves[0], [PWD], "done"), checkpointer=restarts.saver)
        assert last(graph.invoke(None, first)).artifact["machine_id"] == answers[0]
        graph = agent(toolkit.get_tools(), *script(*moves[:3], [PWD], "done"), checkpointer=restarts.saver)
        assert last(graph.invoke(None, second)).artifact["machine_id"] == answers[1]


def test_going_back_to_before_the_machine(restarts: Restarts) -> None:
    toolkit, graph = restarts.process([PWD], *MADE)
    graph.invoke(GO, thread())
    there = before(graph, 1)
    toolkit.close()
    _, graph = restarts.process([PWD], [PWD], "done", local=False)
    assert "no machine is attached" in last(graph.invoke(None, there)).content


def test_what_a_program_says_wins(restarts: Restarts) -> None:
    toolkit, graph = restarts.process(*MADE)
    graph.invoke(GO, thread())
    other = restarts.vm()
    toolkit.context.attach(other, thread())
    graph = agent(toolkit.get_tools(), *script(*MADE, [PWD], "done"), checkpointer=restarts.saver)
    assert last(graph.invoke(GO, thread())).artifact["machine_id"] == other
    toolkit.close()
    toolkit, graph = restarts.process(*MADE, [PWD], "done", [PWD], "done", [PWD], "done")
    assert last(graph.invoke(GO, thread())).artifact["machine_id"] == other
    toolkit.context.detach(thread())
    assert last(graph.invoke(GO, thread())).artifact["backend"] == "local"


def test_what_a_program_says_in_a_new_process_wins(restarts: Restarts) -> None:
    toolkit, graph = restarts.process(*MADE)
    graph.invoke(GO, thread())
    other = restarts.vm()
    toolkit.close()
    toolkit, graph = restarts.process(*MADE, [PWD], "done")
    toolkit.context.attach(other, thread())
    assert last(graph.invoke(GO, thread())).artifact["machine_id"] == other


BROKEN: list[Any] = [
    None,
    "text",
    3,
    [],
    {},
    {"attachment": None},
    {"attachment": "vm"},
    {"attachment": {}},
    {"attachment": {"backend": 7}},
]


@pytest.mark.parametrize("artifact", BROKEN, ids=str)
def test_messages_that_tell_nothing_are_passed_over(make_toolkit: MakeToolkit, artifact: Any) -> None:
    """Those of other tools, of older versions, and broken ones."""
    restarts = Restarts(make_toolkit, InMemorySaver())
    toolkit, graph = restarts.process(*MADE)
    there = last(graph.invoke(GO, thread())).artifact["machine_id"]
    called = AIMessage("", tool_calls=[{"name": "other", "args": {}, "id": "other-1", "type": "tool_call"}])
    said = ToolMessage("something", tool_call_id="other-1", artifact=artifact)
    graph.update_state(thread(), {"messages": [HumanMessage("more"), called, said]}, as_node="tools")
    toolkit.close()
    _, graph = restarts.process(*MADE, "-", [PWD], "done")
    assert last(graph.invoke(None, thread())).artifact["machine_id"] == there


def test_a_history_that_was_trimmed_begins_where_threads_begin(make_toolkit: MakeToolkit) -> None:
    """A process that was there remembers; one that starts anew has nothing to go by."""
    restarts = Restarts(make_toolkit, InMemorySaver())
    toolkit, graph = restarts.process(*MADE)
    state = graph.invoke(GO, thread())
    there = last(state).artifact["machine_id"]
    graph.update_state(thread(), {"messages": [RemoveMessage(one.id) for one in state["messages"]]}, as_node="model")
    graph = agent(toolkit.get_tools(), *script([PWD], "done"), checkpointer=restarts.saver)
    state = graph.invoke(GO, thread())
    assert last(state).artifact["machine_id"] == there
    graph.update_state(thread(), {"messages": [RemoveMessage(one.id) for one in state["messages"]]}, as_node="model")
    toolkit.close()
    _, graph = restarts.process([PWD], "done", local=False)
    assert "no machine is attached" in last(graph.invoke(GO, thread())).content


def test_a_history_that_kept_its_last_messages_is_enough(make_toolkit: MakeToolkit) -> None:
    restarts = Restarts(make_toolkit, InMemorySaver())
    toolkit, graph = restarts.process(*MADE)
    state = graph.invoke(GO, thread())
    graph.update_state(thread(), {"messages": [RemoveMessage(one.id) for one in state["messages"][:-3]]}, as_node="model")
    toolkit.close()
    _, graph = restarts.process("-", "-", [PWD], "done")
    assert last(graph.invoke(GO, thread())).artifact["machine_id"] == last(state).artifact["machine_id"]


def test_a_machine_that_is_gone_is_an_error(restarts: Restarts) -> None:
    toolkit, graph = restarts.process(*MADE)
    there = last(graph.invoke(GO, thread())).artifact["machine_id"]
    toolkit.close()
    delete = next(tool for tool in restarts.make_toolkit().get_tools() if tool.name == "vers_vm_delete")
    assert delete.invoke({"type": "tool_call", "id": "delete", "name": delete.name, "args": {"vm_id": there}}).status == "success"
    _, graph = restarts.process(*MADE, [PWD], "done")
    answer = last(graph.invoke(GO, thread()))
    assert answer.status == "error" and there in str(answer.content)


@pytest.mark.parametrize("back", [False, True], ids=["to the VM", "to this machine"])
def test_calls_one_after_the_other_do_not_bring_back_what_a_move_has_ended(make_toolkit: MakeToolkit, back: bool) -> None:
    toolkit = make_toolkit()
    tools = {one.name: one for one in toolkit.get_tools()}
    vm_id = tools["vers_vm_create"].invoke({"args": {"attach": False}, "id": "made", "type": "tool_call", "name": "vers_vm_create"})
    use: Request = ("vers_vm_use", {"vm_id": vm_id.artifact["machine_id"]})
    leave: Request = ("vers_vm_local", {})
    first, then = ([use, PWD], [leave, PWD]) if back else ([PWD], [use, PWD])
    graph = agent(toolkit.get_tools(), *script(first, then, [PWD], "done"), checkpointer=InMemorySaver())
    state = graph.invoke(GO, {**thread(), "max_concurrency": 1})
    told = [one.artifact["backend"] for one in state["messages"] if isinstance(one, ToolMessage)]
    assert told[-2:] == (["local", "local"] if back else ["vers", "vers"])


def test_where_a_program_has_sent_a_thread_holds_for_all_calls_of_the_next_message(make_toolkit: MakeToolkit) -> None:
    toolkit = make_toolkit()
    tools = {one.name: one for one in toolkit.get_tools()}
    made = tools["vers_vm_create"].invoke({"args": {"attach": False}, "id": "made", "type": "tool_call", "name": "vers_vm_create"})
    graph = agent(toolkit.get_tools(), *script([PWD], "here", [PWD, PWD, PWD], [PWD], "done"), checkpointer=InMemorySaver())
    graph.invoke(GO, thread())
    toolkit.context.attach(made.artifact["machine_id"], thread())
    state = graph.invoke(GO, thread())
    told = [one.artifact["backend"] for one in state["messages"] if isinstance(one, ToolMessage)]
    assert told == ["local", *["vers"] * 4]
