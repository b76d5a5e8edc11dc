"""The policy and the person's own commands: the same gates as for the model's calls, told apart by rules that want to, asked about once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from agents import message
from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from test_middleware import T, Talk

from langchain_vers import BackendContext, VersSaver
from langchain_vers.bang_commands import facts_of, user_commands
from langchain_vers.policy import Allow, Ask, Decision, Deny, Policy, Request, Rule

WAYS = [("agent", False), ("agent", True), ("graph", False), ("graph", True)]
ASKING = Policy(Rule(Ask("Really?"), commands=["tee *"]), Rule(Deny("no removals"), commands=["rm *"]))


class Gated:
    """A conversation whose context has a policy."""

    def __init__(self, way: tuple[str, bool], folder: Path, policy: Policy, *script: Any, **options: Any) -> None:
        self.here = folder / "here"
        self.here.mkdir(exist_ok=True)
        self.context = BackendContext(local=self.here, data_dir=folder / "none", policy=policy)
        self.talk = Talk(*way, self.context, *script, **options)

    def send(self, given: Any) -> Any:
        """Run the graph on something; its state."""
        graph = self.talk.graph
        return asyncio.run(graph.ainvoke(given, T)) if self.talk.asynchronous else graph.invoke(given, T)

    def say(self, text: str) -> Any:
        return self.send({"messages": [("user", text)]})

    def close(self) -> None:
        self.context.close()


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{'async' if way[1] else 'sync'}")
def gated(request: pytest.FixtureRequest, clean: Path, tmp_path: Path) -> Any:
    made: list[Gated] = []

    def make(policy: Policy, *script: Any, **options: Any) -> Gated:
        made.append(Gated(request.param, tmp_path, policy, *script, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def last(state: Any) -> BaseMessage:
    found: BaseMessage = state["messages"][-1]
    return found


def artifact(said: BaseMessage) -> Any:
    facts = facts_of(said)
    assert facts is not None
    return facts["artifact"]


def test_a_denial_is_told_and_nothing_is_done(gated: Any) -> None:
    one = gated(ASKING)
    (one.here / "kept").write_text("x")
    for text in ("!rm kept", "!!rm kept", "!true; rm kept", "!sh -c 'rm kept'"):
        said = last(one.say(text))
        assert artifact(said)["error"] == "Denied"
        assert "The policy does not allow this: no removals. Nothing was done" in said.text
        assert said.text.startswith("I gave a command, and it was not let through:")
        assert "another way" not in said.text  # these are words for a model
    assert (one.here / "kept").exists() and one.talk.calls == 0
    assert artifact(last(one.say("!echo fine")))["exit_code"] == 0


@pytest.mark.parametrize("text", ["!echo line | tee -a log", "!!echo line | tee -a log"])
def test_a_question_is_asked_and_the_command_runs_once(gated: Any, text: str) -> None:
    one = gated(ASKING)
    (waiting,) = one.say(text)["__interrupt__"]
    assert not (one.here / "log").exists()
    payload = waiting.value
    assert (payload["type"], payload["question"], payload["by"]) == ("vers_permission", "Really?", "user")
    assert payload["arguments"] == {"command": "echo line | tee -a log"} and payload["tool"] == "bash"
    state = one.send(Command(resume=True))
    assert "\nline\n" in last(state).text and "__interrupt__" not in state
    assert (one.here / "log").read_text() == "line\n"
    one.say("hello")
    one.send(None)
    assert (one.here / "log").read_text() == "line\n" and one.talk.calls == 1
    assert len([each for each in one.send(None)["messages"] if facts_of(each)]) == 1


def test_a_rejected_command_is_not_run(gated: Any) -> None:
    one = gated(ASKING)
    one.say("!echo line | tee -a log")
    said = last(one.send(Command(resume={"approve": False, "reason": "not on Fridays"})))
    assert "This command was rejected: not on Fridays. Nothing was done" in said.text and artifact(said)["error"] == "Denied"
    one.say("hello")
    assert not (one.here / "log").exists()


def test_a_question_that_is_never_answered(gated: Any) -> None:
    one = gated(ASKING)
    one.say("!echo line | tee -a log")
    state = one.say("never mind")
    assert "__interrupt__" not in state and last(state).text == "yes"
    assert any("was not run" in each.text for each in state["messages"])
    assert not (one.here / "log").exists()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_without_a_checkpointer_a_question_is_a_denial_that_says_why(asynchronous: bool, clean: Path, tmp_path: Path) -> None:
    with BackendContext(local=tmp_path, data_dir=tmp_path / "none", policy=ASKING) as context:
        node = user_commands(context)
        state = {"messages": [HumanMessage("!echo x | tee log", id="m")]}
        said = last(asyncio.run(node.ainvoke(state)) if asynchronous else node.invoke(state))
    assert artifact(said)["error"] == "Denied" and "Really?" in said.text and "no checkpointer" in said.text
    assert not (tmp_path / "log").exists()


def test_protected_paths(gated: Any, tmp_path: Path) -> None:
    one = gated(Policy.careful(temporary=[str(tmp_path / "scratch")]))
    (one.here / ".env").write_text("KEY=1")
    (one.here / "innocent").symlink_to(".env")
    for text in ("!cat .env", "!cat innocent", "!echo x >.env", "!cp innocent copy"):
        (waiting,) = one.say(text)["__interrupt__"]
        assert waiting.value["question"].startswith("The user's command"), waiting.value
        said = last(one.send(Command(resume=False)))
        assert "This command was rejected. Nothing was done" in said.text and "KEY" not in said.text
    assert {each.name for each in one.here.iterdir()} == {".env", "innocent"} and (one.here / ".env").read_text() == "KEY=1"
    assert "no secret" in last(one.say("!echo no secret")).text


def test_what_is_ruinous_is_denied_to_the_person_as_well(gated: Any) -> None:
    one = gated(Policy.careful())
    said = last(one.say("!rm -rf /"))
    assert artifact(said)["error"] == "Denied" and "The policy does not allow this" in said.text
    one = gated(Policy.read_only())
    assert artifact(last(one.say("!touch made")))["error"] == "Denied"
    assert not list(one.here.iterdir())


def test_rules_tell_the_person_from_the_model(gated: Any) -> None:
    seen: list[tuple[str, str, Any]] = []

    def look(request: Request) -> Decision | None:
        seen.append((request.by, request.tool, request.arguments.get("command")))
        return None

    policy = Policy(look, Rule(Allow(), tools=["bash"], by="user"), Rule(Deny("only the person may"), by="model"))
    one = gated(policy, message(("bash", {"command": "touch model"})), "so")
    assert artifact(last(one.say("!touch person")))["exit_code"] == 0
    state = one.say("do it")
    (answer,) = [each for each in state["messages"] if isinstance(each, ToolMessage)]
    assert "only the person may" in answer.text and "choose another way" in answer.text
    assert {each.name for each in one.here.iterdir()} == {"person"}
    assert seen == [("user", "bash", "touch person"), ("model", "bash", "touch model")]


def test_a_rule_against_the_person_leaves_the_model_alone(gated: Any) -> None:
    one = gated(Policy(Rule(Deny("not by hand"), by="user")), message(("bash", {"command": "touch model"})), "so")
    assert "not by hand" in last(one.say("!touch person")).text
    one.say("do it")
    assert {each.name for each in one.here.iterdir()} == {"model"}


def test_a_question_about_a_command_on_a_versioned_machine(make_isolated_toolkit: Any) -> None:
    """It changes nothing before it is answered, runs once, is a version, and another process can be answered to."""
    inner = InMemorySaver()
    first = make_isolated_toolkit(local=False, policy=ASKING).context
    one = Talk("agent", False, first, message(("vers_vm_create", {})), "made", saver=VersSaver(inner, first))
    one.say("make a machine")
    state = one.graph.invoke({"messages": [("user", "!echo line | tee -a ~/log")]}, T)
    vm = one.graph.get_state(T).metadata["vers_machine"]
    assert state["__interrupt__"][0].value["machine_id"] == vm
    first.close()
    second = make_isolated_toolkit(local=False, policy=ASKING).context
    two = Talk("agent", True, second, saver=VersSaver(inner, second))
    said = last(asyncio.run(two.graph.ainvoke(Command(resume="yes"), T)))
    assert "\nline\n" in said.text and artifact(said)["machine_id"] == vm
    assert "\nline\n```" in two.say("!cat ~/log")[-1].text
    history = list(two.graph.get_state_history(T))
    before = next(s for s in history if s.next and s.values["messages"][-1].text.startswith("!echo line"))
    asked = asyncio.run(two.graph.ainvoke(None, before.config))
    assert [each.value["by"] for each in asked["__interrupt__"]] == ["user"]
    asyncio.run(two.graph.ainvoke(Command(resume="no"), T))
    assert "No such file" in two.say("!cat ~/log")[-1].text
