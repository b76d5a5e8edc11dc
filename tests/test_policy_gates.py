"""The gate of the tools in real graphs: what is denied, what is asked, that an approved call runs once and nothing runs before."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from agents import RUNNERS, START_INPUT, Runner, agent, functional, message, tool_graph
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langchain_vers.checkpoint import VersSaver
from langchain_vers.errors import BadInput, Denied
from langchain_vers.permission import apermit, permit
from langchain_vers.policy import Allow, Ask, Decision, Deny, Policy, Reach, Request, Rule
from langchain_vers.toolkit import VersToolkit

direct = Runner("direct", asynchronous=False)
KINDS = ["node", "agent", "functional"]
THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}
ASKING = Policy(Rule(Ask("Really?"), commands=["touch *", "tee *"]), Rule(Deny("no removals"), commands=["rm *"]))


def asking_policy(request: Request) -> Decision | None:
    """Asks about every command that mentions `ask`, by its text."""
    text = str(request.arguments.get("command", ""))
    return Ask(f"run {text}?") if "ask" in text else None


@pytest.fixture
def make(clean: Path, tmp_path: Path) -> Any:
    here = tmp_path / "here"
    here.mkdir()
    made: list[VersToolkit] = []

    def make(policy: Policy | None) -> list[Any]:
        made.append(VersToolkit(local=str(here), policy=policy))
        return made[-1].get_tools()

    yield make
    for toolkit in made:
        toolkit.close()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    return tmp_path / "here"


class Graph:
    """A graph of one kind whose model asks once for these calls; run, and resumed, sync or async."""

    def __init__(self, kind: str, asynchronous: bool, tools: Any, *requests: Any, saver: Any = None, before: int = 0) -> None:
        asked = message(*requests, first=before)
        self.saver = InMemorySaver() if saver is None else saver
        self.calls = [call["id"] for call in asked.tool_calls]
        self.asynchronous = asynchronous
        self.kind = kind
        self.config: Any = {"configurable": {"thread_id": "t"}}
        if kind == "functional":
            self.graph = functional(tools, asked, asynchronous, self.saver)
        else:
            script = [AIMessage("before")] * before if kind == "agent" else []  # what the model has said in the thread already
            self.graph = (tool_graph if kind == "node" else agent)(tools, *script, asked, checkpointer=self.saver)

    def run(self, given: Any = None) -> Any:
        given = (START_INPUT if self.kind != "functional" else "go") if given is None else given
        return asyncio.run(self.graph.ainvoke(given, self.config)) if self.asynchronous else self.graph.invoke(given, self.config)

    def open(self, state: Any) -> list[Any]:
        """The questions that wait for an answer."""
        return list(state.get("__interrupt__", ())) if isinstance(state, dict) else []

    def answers(self, state: Any) -> list[ToolMessage]:
        found = state if isinstance(state, list) else state["messages"]
        by_id = {each.tool_call_id: each for each in found if isinstance(each, ToolMessage)}
        return [by_id[call] for call in self.calls]

    def until_done(self, answer: Any) -> tuple[list[dict[str, Any]], list[ToolMessage]]:
        """Run to the end, each question answered by `answer(payload)`; the questions and the answers of the tools."""
        state, seen = self.run(), []
        while waiting := self.open(state):
            seen += [each.value for each in waiting]
            values = {each.id: answer(each.value) for each in waiting}
            state = self.run(Command(resume=values))
        return seen, self.answers(state)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# --- denials ---


@pytest.mark.parametrize("runner", RUNNERS, ids=repr)
def test_a_denial_is_an_error_message_with_the_reason(runner: Runner, make: Any, here: Path) -> None:
    (here / "kept").write_text("x")
    (answer,) = runner(make(ASKING), ("bash", {"command": "rm kept"}), thread="t")
    assert answer.status == "error" and answer.artifact["error"] == "Denied"
    assert "no removals" in answer.content and "Nothing was done" in answer.content
    assert (here / "kept").exists()


@pytest.mark.parametrize("runner", RUNNERS, ids=repr)
def test_without_a_checkpointer_a_question_is_a_denial_that_says_why(runner: Runner, make: Any, here: Path) -> None:
    (answer,) = runner(make(ASKING), ("bash", {"command": "touch made"}), thread="t")
    assert answer.status == "error" and answer.artifact["error"] == "Denied"
    assert "checkpointer" in answer.content and "Really?" in answer.content
    assert not (here / "made").exists()


def test_an_open_policy_changes_nothing(make: Any, here: Path) -> None:
    for policy in (None, Policy.open()):
        assert direct(make(policy), ("bash", {"command": "rm -rf made; touch made; sudo -n true"}))[0].artifact["exit_code"] is not None
    assert Policy.open().trivial and not Policy.careful().trivial


TOOLS: list[tuple[str, dict[str, Any]]] = [
    ("bash", {"command": "echo hi"}),
    ("bash", {"command": "echo hi", "background": True}),
    ("bash_output", {"job_id": "0" * 12}),
    ("bash_kill", {"job_id": "0" * 12}),
    ("read", {"path": "f"}),
    ("write", {"path": "f", "content": "new"}),
    ("edit", {"path": "f", "old_text": "old", "new_text": "new"}),
    ("ls", {}),
    ("find", {"pattern": "*"}),
    ("grep", {"pattern": "old"}),
    ("vers_vms", {}),
    ("vers_vm_create", {}),
    ("vers_vm_use", {"vm_id": "x"}),
    ("vers_vm_local", {}),
    ("vers_vm_branch", {}),
    ("vers_vm_commit", {}),
    ("vers_vm_restore", {"commit_id": "x"}),
    ("vers_vm_state", {"state": "paused"}),
    ("vers_vm_copy", {"source": "f", "destination": "g"}),
]


@pytest.mark.parametrize(("tool", "arguments"), TOOLS, ids=[name for name, _ in TOOLS])
def test_every_tool_passes_the_gate(tool: str, arguments: dict[str, Any], make: Any, here: Path) -> None:
    (here / "f").write_text("old")
    seen: list[Request] = []

    def no(request: Request) -> Decision:
        seen.append(request)
        return Deny("nothing goes")

    (answer,) = direct(make(Policy(no)), (tool, arguments))
    assert answer.artifact["error"] == "Denied" and "nothing goes" in answer.content
    assert [request.tool for request in seen] == [tool] and dict(seen[0].arguments) == {**seen[0].arguments, **arguments}
    assert (here / "f").read_text() == "old" and not (here / "g").exists()


def test_machines_that_are_named_pass_the_gate(make_toolkit: Any) -> None:
    seen: list[Request] = []

    def look(request: Request) -> Decision | None:
        seen.append(request)
        return Deny("machines stay") if request.tool in {"vers_vm_delete", "vers_vm_exec"} else None

    tools = make_toolkit(policy=Policy(look)).get_tools()
    vm_id = direct(tools, ("vers_vm_create", {"attach": False}))[0].artifact["machine_id"]
    for tool, arguments in (("vers_vm_delete", {}), ("vers_vm_exec", {"command": "touch made"})):
        (answer,) = direct(tools, (tool, {"vm_id": vm_id[:13], **arguments}))
        assert answer.artifact["error"] == "Denied"
        assert (seen[-1].machine.backend, seen[-1].machine.machine_id) == ("vers", vm_id)
    assert vm_id in direct(tools, ("vers_vms", {}))[0].artifact["vms"]
    copied = direct(tools, ("vers_vm_copy", {"source": f"vm:{vm_id}:/etc/passwd", "destination": "taken/"}))[0]
    assert copied.status == "error" or copied.artifact["bytes"]
    by_machine = {(access.machine.backend, access.mode) for access in seen[-1].accesses}
    assert by_machine == {("vers", "read"), ("local", "write")}
    assert any(access.path.endswith("/here/taken/passwd") for access in seen[-1].accesses)


def test_a_denied_move_holds_up_nothing(make: Any, here: Path, kind: str, asynchronous: bool) -> None:
    policy = Policy(Rule(Deny("stay here"), tools=["vers_vm_local"]))
    graph = Graph(kind, asynchronous, make(policy), ("vers_vm_local", {}), ("bash", {"command": "touch behind"}))
    moved, behind = graph.answers(graph.run())
    assert "stay here" in moved.content
    if kind != "functional":  # there, calls are not of one message
        assert behind.artifact["error"] == "Conflict" and behind.artifact["duration_ms"] < 5000
        assert not (here / "behind").exists()


# --- questions ---


@pytest.mark.parametrize("answer", [True, "yes", " Y ", {"approve": True}, {"approve": "yes", "reason": "fine"}])
def test_an_approved_call_runs_once(answer: Any, make: Any, here: Path) -> None:
    graph = Graph("agent", False, make(ASKING), ("bash", {"command": "echo line | tee -a log"}))
    state = graph.run()
    (waiting,) = graph.open(state)
    assert not (here / "log").exists()
    assert waiting.value["type"] == "vers_permission" and waiting.value["question"] == "Really?"
    assert waiting.value["arguments"] == {"command": "echo line | tee -a log"} and waiting.value["tool"] == "bash"
    assert waiting.value["backend"] == "local" and waiting.value["tool_call_id"] == "call-0"
    (done,) = graph.answers(graph.run(Command(resume=answer)))
    assert done.status == "success" and done.content == "line"
    assert (here / "log").read_text() == "line\n"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (False, ""),
        ("no", ""),
        ("not before Monday", "not before Monday"),
        ({"approve": False, "reason": "use the other file"}, "use the other file"),
        ({"approve": "no"}, ""),
        ({"reason": "hm"}, "hm"),
        ({"approved": True}, "neither yes nor no"),
        (7, "neither yes nor no"),
        (["yes"], "neither yes nor no"),
        (1, "neither yes nor no"),
    ],
)
def test_a_rejected_call_does_nothing_and_the_model_gets_the_words(answer: Any, words: str, make: Any, here: Path) -> None:
    graph = Graph("agent", False, make(ASKING), ("bash", {"command": "touch made"}))
    graph.run()
    (done,) = graph.answers(graph.run(Command(resume=answer)))
    assert done.status == "error" and done.artifact["error"] == "Denied"
    assert "rejected" in done.content and words in done.content
    assert not (here / "made").exists()


def test_ways_to_ask(kind: str, asynchronous: bool, make: Any, here: Path) -> None:
    graph = Graph(kind, asynchronous, make(ASKING), ("bash", {"command": "echo line | tee -a log"}))
    seen, (done,) = graph.until_done(lambda payload: True)
    assert [each["question"] for each in seen] == ["Really?"]
    assert done.status == "success" and (here / "log").read_text() == "line\n"


def test_several_questions_in_one_message(kind: str, asynchronous: bool, make: Any, here: Path) -> None:
    """Each answer is for its own call; what is approved runs once, and so does what nobody is asked about."""
    tools = make(Policy(asking_policy))
    commands = ["echo free >>log-0", "echo ask-1 >>log-1", "echo free >>log-2", "echo ask-3 >>log-3", "echo ask-4 >>log-4"]
    graph = Graph(kind, asynchronous, tools, *(("bash", {"command": command}) for command in commands))
    seen, done = graph.until_done(lambda payload: "ask-3" not in payload["question"] or {"approve": False, "reason": "not that one"})
    assert sorted({each["question"] for each in seen}) == [f"run {command}?" for command in commands if "ask" in command]
    assert [each.status for each in done] == ["success", "success", "success", "error", "success"]
    assert "not that one" in done[3].content
    logs = {path.name: path.read_text() for path in here.iterdir()}
    assert logs == {"log-0": "free\n", "log-1": "ask-1\n", "log-2": "free\n", "log-4": "ask-4\n"}


@pytest.mark.parametrize("kind", ["node"])
def test_nothing_of_a_message_runs_before_its_questions_are_answered(kind: str, asynchronous: bool, make: Any, here: Path) -> None:
    graph = Graph(kind, asynchronous, make(Policy(asking_policy)), ("bash", {"command": "touch free"}), ("bash", {"command": "touch ask"}))
    graph.run()
    assert not list(here.iterdir())
    graph.run(Command(resume=True))
    assert {path.name for path in here.iterdir()} == {"free", "ask"}


def test_one_at_a_time(make: Any, here: Path) -> None:
    tools = make(Policy(asking_policy))
    graph = Graph("node", False, tools, *(("bash", {"command": f"echo ask >>log-{n}"}) for n in range(3)))
    graph.config["max_concurrency"] = 1
    seen, done = graph.until_done(lambda payload: True)
    assert len(seen) == 3 and {each.status for each in done} == {"success"}
    assert {path.read_text() for path in here.iterdir()} == {"ask\n"}


def test_calls_behind_a_move_are_asked_about_alone(make: Any, here: Path) -> None:
    tools = make(Policy(asking_policy))
    graph = Graph("node", False, tools, ("vers_vm_local", {}), ("bash", {"command": "touch ask"}))
    done = graph.answers(graph.run())
    assert done[0].status == "success"
    assert done[1].status == "error" and "in a message of its own" in done[1].content
    assert not (here / "ask").exists()


def test_a_node_that_is_sent_several_calls_asks_nothing_that_could_be_taken_for_another(make: Any, here: Path) -> None:
    from langgraph.prebuilt import ToolNode
    from langgraph.types import Send

    asked = message(*(("bash", {"command": f"touch ask-{n}"}) for n in range(3)))
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [asked]})
    builder.add_node("tools", ToolNode(make(Policy(asking_policy))))
    builder.add_edge(START, "model")
    builder.add_conditional_edges(
        "model", lambda state: [Send("tools", asked.tool_calls[:2]), Send("tools", asked.tool_calls[2:])], ["tools"]
    )
    builder.add_edge("tools", END)
    graph = builder.compile(checkpointer=InMemorySaver())
    state = graph.invoke(START_INPUT, THREAD)
    while waiting := state.get("__interrupt__"):
        state = graph.invoke(Command(resume={each.id: False for each in waiting}), THREAD)
    answers = [each for each in state["messages"] if isinstance(each, ToolMessage)]
    assert len(answers) == 3 and {each.status for each in answers} == {"error"}
    assert not list(here.iterdir())


def test_an_interrupted_thread_goes_on_in_a_new_toolkit(make: Any, here: Path) -> None:
    saver = InMemorySaver()
    command = ("bash", {"command": "echo line | tee -a log"})
    Graph("agent", False, make(ASKING), command, saver=saver).run()
    graph = Graph("agent", False, make(ASKING), command, saver=saver)
    (done,) = graph.answers(graph.run(Command(resume="yes")))
    assert done.status == "success" and (here / "log").read_text() == "line\n"


def test_a_policy_that_forbids_meanwhile_is_obeyed(make: Any, here: Path) -> None:
    saver = InMemorySaver()
    command = ("bash", {"command": "touch made"})
    Graph("agent", False, make(ASKING), command, saver=saver).run()
    graph = Graph("agent", False, make(Policy(Rule(Deny("no more"), tools=["bash"]))), command, saver=saver)
    (done,) = graph.answers(graph.run(Command(resume="yes")))
    assert "no more" in done.content and not (here / "made").exists()


# --- the user's own commands, and mistakes of a policy's author ---


def test_commands_of_the_user_pass_the_same_gate(make: Any, here: Path, asynchronous: bool) -> None:
    seen: list[str] = []

    def look(request: Request) -> Decision | None:
        seen.append(request.by)
        return asking_policy(request)

    toolkit = VersToolkit(local=str(here), policy=Policy(Rule(Deny("no removals"), commands=["rm *"]), look))
    context = toolkit.context
    assert context is not None
    permit(context, "bash", {"command": "true"}, Reach(command="true"), THREAD)
    with pytest.raises(Denied, match="no removals"):
        permit(context, "bash", {"command": "rm x"}, Reach(command="rm x"), THREAD)
    with pytest.raises(Denied, match="checkpointer"):
        permit(context, "bash", {"command": "ask"}, Reach(command="ask"), THREAD)

    def node(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        permit(context, "bash", {"command": "ask"}, Reach(command="ask"), config)
        return {"messages": [("ai", "permitted")]}

    async def anode(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        await apermit(context, "bash", {"command": "ask"}, Reach(command="ask"), config)
        return {"messages": [("ai", "permitted")]}

    builder = StateGraph(MessagesState)
    builder.add_node("node", anode if asynchronous else node)
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())

    def go(given: Any) -> Any:
        return asyncio.run(graph.ainvoke(given, THREAD)) if asynchronous else graph.invoke(given, THREAD)

    (waiting,) = go(START_INPUT)["__interrupt__"]
    assert waiting.value["by"] == "user"
    assert go(Command(resume="yes"))["messages"][-1].content == "permitted"
    assert set(seen) == {"user"}
    toolkit.close()


def test_a_rule_that_fails_denies(make: Any, here: Path) -> None:
    def broken(request: Request) -> Decision | None:
        raise KeyError("oops")

    def wrong(request: Request) -> Any:
        return "yes"

    for rule, words in ((broken, "KeyError"), (wrong, "no decision")):
        (answer,) = direct(make(Policy(rule)), ("bash", {"command": "touch made"}))
        assert answer.artifact["error"] == "Denied" and words in answer.content
    assert not (here / "made").exists()


def test_nonsense_is_refused_when_a_policy_is_made() -> None:
    with pytest.raises(TypeError):
        Policy("deny everything")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Policy(default=True)  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        VersToolkit(policy="careful")  # type: ignore[arg-type]


def test_an_interrupt_of_the_node_itself_is_not_disturbed(make: Any, here: Path) -> None:
    tools = {tool.name: tool for tool in make(Policy(asking_policy))}

    def node(state: MessagesState) -> dict[str, Any]:
        first = interrupt("mine")
        call = {"type": "tool_call", "id": "c", "name": "bash", "args": {"command": "echo ask >>log"}}
        return {"messages": [tools["bash"].invoke(call), ("ai", first)]}

    builder = StateGraph(MessagesState)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    graph = builder.compile(checkpointer=InMemorySaver())
    graph.invoke(START_INPUT, THREAD)
    state = graph.invoke(Command(resume="first"), THREAD)
    assert state["__interrupt__"][0].value["question"] == "run echo ask >>log?"
    state = graph.invoke(Command(resume=True), THREAD)
    assert state["messages"][-1].content == "first" and (here / "log").read_text() == "ask\n"


def test_a_default_decides_where_no_rule_does(make: Any, here: Path) -> None:
    policy = Policy(Rule(Allow(), commands=["echo *", "cat *"]), default=Deny("only what is listed"))
    tools = make(policy)
    assert direct(tools, ("bash", {"command": "echo hi | cat"}))[0].status == "success"
    for command in (
        "echo hi; touch made",
        "echo hi >made",
        "echo $(touch made)",
        "X=1 echo hi",
        "echo $x",
        "ec''ho 'unclosed",
        "env echo hi",
    ):
        assert direct(tools, ("bash", {"command": command}))[0].artifact["error"] == "Denied", command
    assert not (here / "made").exists()


# --- with versions ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("approve", [True, False])
def test_on_a_versioned_machine_an_interrupted_call_has_changed_nothing(kind: str, approve: bool, make_isolated_toolkit: Any) -> None:
    """What an earlier call of the message did stays, the question is asked before anything else happens, and each runs once."""
    toolkit = make_isolated_toolkit(policy=Policy(asking_policy))
    saver = VersSaver(InMemorySaver(), toolkit.context)
    tools = toolkit.get_tools()
    first = Graph(kind, False, tools, ("vers_vm_create", {}), saver=saver)
    (made,) = first.answers(first.run())
    machine = made.artifact["machine_id"]

    def log() -> str:
        peek = VersToolkit(data_dir=toolkit.data_dir, local=toolkit.local)
        answer = direct(peek.get_tools(), ("vers_vm_exec", {"vm_id": machine, "command": "cat log 2>/dev/null"}))[0]
        peek.close()
        return str(answer.content)

    graph = Graph(
        kind, False, tools, ("bash", {"command": "echo free >>log"}), ("bash", {"command": "echo ask >>log"}), saver=saver, before=2
    )
    waiting = graph.open(graph.run())
    assert [each.value["question"] for each in waiting] == ["run echo ask >>log?"]
    assert waiting[0].value["machine_id"] == machine
    assert "ask" not in log()
    state = graph.run(Command(resume=approve))
    done = graph.answers(state)
    assert [each.status for each in done] == ["success", "success" if approve else "error"]
    where = done[0].artifact["machine_id"]
    assert where == machine
    assert sorted(log().split()) == (["ask", "free"] if approve else ["free"])


def test_a_question_outlives_the_process_that_asked_it(make_isolated_toolkit: Any) -> None:
    inner = InMemorySaver()
    create, command = ("vers_vm_create", {}), ("bash", {"command": "echo ask >>log; cat log"})
    toolkit = make_isolated_toolkit(policy=Policy(asking_policy))
    Graph("agent", False, toolkit.get_tools(), create, saver=VersSaver(inner, toolkit.context)).run()
    Graph("agent", False, toolkit.get_tools(), command, saver=VersSaver(inner, toolkit.context), before=2).run()
    toolkit.close()
    again = make_isolated_toolkit(policy=Policy(asking_policy))
    graph = Graph("agent", False, again.get_tools(), command, saver=VersSaver(inner, again.context), before=2)
    (done,) = graph.answers(graph.run(Command(resume=True)))
    assert (done.status, done.content) == ("success", "ask")


# --- without the parser ---


def test_a_missing_parser_is_an_error_when_the_policy_is_made() -> None:
    """In an interpreter of its own, where the extra is as if not installed."""
    program = """
import sys
sys.modules["tree_sitter"] = sys.modules["tree_sitter_bash"] = None
from langchain_vers.errors import Unsupported
from langchain_vers.policy import Deny, Policy, Rule
Policy.open(), Policy(Rule(Deny("no"), tools=["vers_vm_delete"]))
for make in (Policy.careful, Policy.read_only, lambda: Policy(Rule(Deny("no"), commands=["rm *"])), lambda: Policy(lambda request: None)):
    try:
        make()
    except Unsupported as error:
        assert "langchain-vers[policy]" in str(error), error
    else:
        raise SystemExit("it was made")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
