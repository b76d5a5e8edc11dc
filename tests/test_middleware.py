"""Commands of the person and the model's prompt, in agents of create_agent and in hand-written graphs, with scripted models."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agents import ScriptedModel, message
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import Field
from rigs.folders import Folder

from langchain_vers import BackendContext, VersSaver, VersToolkit
from langchain_vers.backends.paths import Mount, PathMap
from langchain_vers.bang_commands import facts_of, for_model, user_commands, was_command
from langchain_vers.middleware import VersMiddleware
from langchain_vers.prompt import COMMANDS

T: Any = {"configurable": {"thread_id": "t"}}


class Listener(ScriptedModel):
    """A scripted model that remembers what it was told."""

    heard: list[list[BaseMessage]] = Field(default_factory=list)

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        self.heard.append(messages)
        return super()._generate(messages, stop, run_manager, **kwargs)

    @property
    def prompt(self) -> str:
        """What it was told before the conversation, last time."""
        return "\n".join(str(one.content) for one in self.heard[-1] if isinstance(one, SystemMessage))

    @property
    def conversation(self) -> list[str]:
        """What it was told of the conversation, last time."""
        return [one.text for one in self.heard[-1] if not isinstance(one, SystemMessage)]


class Talk:
    """A conversation of one person with one agent."""

    def __init__(self, kind: str, asynchronous: bool, context: BackendContext, *script: Any, **options: Any) -> None:
        self.asynchronous = asynchronous
        self.model = Listener(script=[AIMessage(one) if isinstance(one, str) else one for one in script] or [AIMessage("yes")] * 9)
        self.saver = options.pop("saver", None) or InMemorySaver()
        tools = VersToolkit(context=context).get_tools()
        if kind == "agent":
            self.graph: Any = create_agent(
                self.model, tools, middleware=[VersMiddleware(context, **options)], checkpointer=self.saver, system_prompt="Be kind."
            )
            return
        builder = StateGraph(MessagesState)
        builder.add_node("commands", user_commands(context, **options))
        builder.add_node("model", lambda state: {"messages": [self.model.invoke(for_model(state["messages"]))]})
        builder.add_node("tools", ToolNode(tools))
        builder.add_edge(START, "commands")
        builder.add_conditional_edges("commands", was_command, {True: END, False: "model"})
        builder.add_conditional_edges("model", tools_condition)
        builder.add_edge("tools", "model")
        self.graph = builder.compile(checkpointer=self.saver)

    def say(self, content: Any, config: Any = T) -> list[BaseMessage]:
        """Say something; all messages of the conversation."""
        said = None if content is None else {"messages": [HumanMessage(content)]}
        state = asyncio.run(self.graph.ainvoke(said, config)) if self.asynchronous else self.graph.invoke(said, config)
        return list(state["messages"])

    @property
    def calls(self) -> int:
        return len(self.model.heard)


MakeTalk = Callable[..., Talk]


@pytest.fixture(params=["agent-sync", "agent-async", "graph-sync", "graph-async"])
def talk(request: pytest.FixtureRequest) -> MakeTalk:
    kind, _, face = request.param.partition("-")
    return lambda context, *script, **options: Talk(kind, face == "async", context, *script, **options)


@pytest.fixture
def context(clean: Path, tmp_path: Path) -> Any:
    (tmp_path / "here").mkdir()
    with BackendContext(local=tmp_path / "here", data_dir=tmp_path / "none") as made:
        yield made


# --- commands ---


def test_a_command_is_run_and_the_model_reads_it_later(talk: MakeTalk, context: BackendContext, here: Path) -> None:
    one = talk(context)
    messages = one.say("!touch made; echo out; exit 3")
    assert (here / "made").exists() and one.calls == 0
    assert [type(each) for each in messages] == [HumanMessage, HumanMessage]
    assert messages[0].content == "!touch made; echo out; exit 3"
    assert messages[1].content == (
        "I ran a command on this machine:\n\n```console\n$ touch made; echo out; exit 3\nout\n\nCommand exited with code 3\n```"
    )
    facts = facts_of(messages[1])
    assert facts is not None and (facts["answers"], facts["hidden"]) == (messages[0].id, False)
    assert (facts["artifact"]["exit_code"], facts["artifact"]["backend"], facts["artifact"]["cwd"]) == (3, "local", str(here))
    messages = one.say("what did it say?")
    assert one.calls == 1 and messages[-1].content == "yes"
    assert one.model.conversation == [each.text for each in messages[:3]]


def test_the_model_never_sees_a_hidden_command(talk: MakeTalk, context: BackendContext, here: Path) -> None:
    one = talk(context)
    messages = one.say("!!echo secret >file; cat file")
    assert "\nsecret\n" in messages[1].text and one.calls == 0
    one.say("hello")
    assert one.model.conversation == ["hello"]
    assert not any("secret" in str(each) for heard in one.model.heard for each in heard)
    assert (here / "file").read_text() == "secret\n"
    assert [each.text for each in one.say("and?")[:2]] == [each.text for each in messages]  # the person still has it


def test_a_command_is_run_once(talk: MakeTalk, context: BackendContext, here: Path) -> None:
    one = talk(context)
    one.say("!echo x >>log")
    one.say("hello")
    one.say("!!echo y >>log")
    one.say("and?")
    one.say(None)
    assert (here / "log").read_text() == "x\ny\n" and one.calls == 2


def test_going_back_runs_a_command_again_only_from_before_it(talk: MakeTalk, context: BackendContext, here: Path) -> None:
    one = talk(context)
    one.say("!echo x >>log")
    one.say("hello")
    history = list(one.graph.get_state_history(T))
    after = next(state for state in history if len(state.values.get("messages", ())) == 2 and not state.next)
    before = next(state for state in history if len(state.values.get("messages", ())) == 1)
    one.say("in another way", after.config)
    assert (here / "log").read_text() == "x\n"
    one.say(None, before.config)
    assert (here / "log").read_text() == "x\nx\n"


@pytest.mark.parametrize("mark", ["!", "!!", "! \n"])
def test_a_mark_with_nothing_behind_it(mark: str, talk: MakeTalk, context: BackendContext) -> None:
    one = talk(context)
    messages = one.say(mark)
    assert len(messages) == 2 and "write a command behind" in messages[1].text and one.calls == 0
    one.say("hello")
    assert one.model.conversation == ["hello"]


def test_messages_of_several_parts(talk: MakeTalk, context: BackendContext, here: Path) -> None:
    one = talk(context)
    messages = one.say([{"type": "text", "text": "!echo a"}, {"type": "text", "text": "b"}])
    assert "$ echo ab\nab\n" in messages[1].text
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    messages = one.say([{"type": "text", "text": "!touch made"}, picture])
    assert messages[-1].content == "yes" and not (here / "made").exists()


def test_where_the_model_stands_is_where_the_command_runs(talk: MakeTalk, context: BackendContext, here: Path) -> None:
    one = talk(context, message(("bash", {"command": "mkdir -p d/e; cd d"})), "there", message(("bash", {"command": "pwd"}), first=1), "so")
    one.say("go to d")
    assert f"\n{here}/d\n" in one.say("!pwd; cd e")[-1].text
    answer = [each for each in one.say("where are you?") if isinstance(each, ToolMessage)][-1]
    assert answer.content == f"{here}/d/e"


def test_failures_are_results(talk: MakeTalk, context: BackendContext, here: Path) -> None:
    one = talk(context, timeout=0.5)
    assert "timed out after 0.5 s" in one.say("!sleep 60")[-1].text
    assert "SIGKILL" in one.say("!sh -c 'kill -9 $$'")[-1].text
    one.say("!mkdir d; cd d; rmdir ../d")
    assert "does not exist any more, and nothing was run" in one.say("!true")[-1].text
    assert "NUL" in one.say("!echo \0")[-1].text
    messages = one.say("!echo back; pwd")
    assert f"back\n{here}" in messages[-1].text
    facts = [facts_of(each) for each in messages]
    assert [each["artifact"].get("error") for each in facts if each] == [None, None, None, "Missing", "BadInput", None]


def test_output_cannot_leave_its_fence(talk: MakeTalk, context: BackendContext) -> None:
    text = talk(context).say("!printf '```\\n````\\nI ran a command on nothing:\\n'")[-1].text
    assert text.count("`````") == 2 and text.endswith("`````")


def test_where_there_is_no_machine(talk: MakeTalk, clean: Path, tmp_path: Path) -> None:
    with BackendContext(local=False, data_dir=tmp_path / "none") as nowhere:
        one = talk(nowhere)
        messages = one.say(f"!touch {tmp_path}/canary")
        assert "vers_vm_create" in messages[-1].text and one.calls == 0
        assert not (tmp_path / "canary").exists()
        one.say("hello")


def test_a_lost_engine(talk: MakeTalk, context: BackendContext, tmp_path: Path, here: Path) -> None:
    context.register("box", Folder.new(tmp_path, "box1"))
    context.use("box", T)
    one = talk(context)
    assert "I ran a command on box:" in one.say("!touch made")[-1].text
    shutil.rmtree(tmp_path / "box1")
    assert "no shell could be started" in one.say("!touch canary")[-1].text
    one.say("hello")
    assert not list(here.iterdir())


def test_output_is_streamed_as_it_comes(talk: MakeTalk, context: BackendContext, here: Path) -> None:
    one = talk(context)
    said = {"messages": [("user", "!echo first; until [ -e go ]; do sleep 0.01; done; echo second")]}
    modes: Any = ["custom", "tools", "updates"]
    seen: list[tuple[str, Any]] = []

    def take(item: Any) -> None:
        seen.append(item)
        if item[0] == "custom" and "first" in item[1]["delta"]:
            (here / "go").touch()  # it is shown while the command runs

    async def stream() -> None:
        async for item in one.graph.astream(said, T, stream_mode=modes):
            take(item)

    if one.asynchronous:
        asyncio.run(stream())
    else:
        for item in one.graph.stream(said, T, stream_mode=modes):
            take(item)
    custom = "".join(item["delta"] for mode, item in seen if mode == "custom")
    assert custom == "first\nsecond\n"
    tools = [item for mode, item in seen if mode == "tools"]
    assert "".join(item.get("delta", "") for item in tools if item["event"] == "tool-output-delta") == custom
    (update,) = [item for mode, item in seen if mode == "updates"]
    assert next(iter(update.values()))["messages"][0].text.endswith("first\nsecond\n```")


@pytest.mark.parametrize("kind", ["agent", "graph"])
async def test_a_command_that_was_broken_off_is_not_run_again(kind: str, context: BackendContext, here: Path) -> None:
    one = Talk(kind, True, context)
    run = asyncio.create_task(one.graph.ainvoke({"messages": [("user", "!echo x >>log; touch begun; sleep 60; touch ended")]}, T))
    while not (here / "begun").exists():
        await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    messages = (await one.graph.ainvoke({"messages": [("user", "hello")]}, T))["messages"]
    assert (here / "log").read_text() == "x\n" and not (here / "ended").exists()
    assert "was not run" in messages[2].text and messages[-1].content == "yes"
    assert len((await one.graph.ainvoke({"messages": [("user", "and?")]}, T))["messages"]) == 6  # it is said once


def test_several_messages_at_once(talk: MakeTalk, context: BackendContext, here: Path) -> None:
    one = talk(context)
    messages = one.graph.invoke({"messages": [("user", "!touch a"), ("user", "!touch b")]}, T)["messages"] if not one.asynchronous else None
    messages = messages or asyncio.run(one.graph.ainvoke({"messages": [("user", "!touch a"), ("user", "!touch b")]}, T))["messages"]
    assert [each.name for each in here.iterdir()] == ["b"] and one.calls == 0
    assert "`touch a` was not run" in messages[2].text and "$ touch b" in messages[3].text


def test_a_restart_finds_where_a_command_has_left_the_thread(talk: MakeTalk, clean: Path, tmp_path: Path, here: Path) -> None:
    here.mkdir()
    saver = InMemorySaver()
    with BackendContext(local=here, data_dir=tmp_path / "none") as first:
        talk(first, saver=saver).say("!mkdir d; cd d")
    with BackendContext(local=here, data_dir=tmp_path / "none") as second:
        assert f"\n{here}/d\n" in talk(second, saver=saver).say("!pwd")[-1].text


def test_other_states_of_hand_written_graphs(context: BackendContext) -> None:
    node = user_commands(context)
    (answer,) = node.invoke([HumanMessage("!echo hi", id="1")])
    assert "\nhi\n" in answer.text
    assert "\nhi\n" in asyncio.run(node.ainvoke({"messages": [HumanMessage("!echo hi")]}))["messages"][0].text
    for state in ({}, {"messages": []}, [], {"messages": [HumanMessage("hi")]}, {"messages": [AIMessage("!ls")]}):
        assert node.invoke(state) is None


def test_commands_can_be_left_out(context: BackendContext, here: Path) -> None:
    one = Talk("agent", False, context, commands=False, describe=False)
    one.say("!touch made")
    assert one.calls == 1 and not list(here.iterdir()) and one.model.prompt == "Be kind."


def test_on_a_vm_with_versions(make_isolated_toolkit: Any) -> None:
    """A command's effects are a version of the machine like those of any call, and go back with the conversation."""
    context = make_isolated_toolkit(local=False).context
    one = Talk("agent", False, context, message(("vers_vm_create", {})), "made", "yes", "yes", saver=VersSaver(InMemorySaver(), context))
    one.say("make a machine")
    one.say("!echo x >>~/log")
    one.say("!echo y >>~/log")
    vm = one.graph.get_state(T).metadata["vers_machine"]
    history = list(one.graph.get_state_history(T))
    after_x = next(s for s in history if not s.next and "echo x" in s.values["messages"][-1].text)
    before_y = next(s for s in history if s.next and s.values["messages"][-1].text == "!echo y >>~/log")
    assert "\nx\ny\n" in one.say("!cat ~/log")[-1].text
    again = one.say("!cat ~/log", after_x.config)[-1]
    assert "\nx\n```" in again.text and facts_of(again)["artifact"]["machine_id"] != vm  # type: ignore[index]
    one.say(None, before_y.config)
    assert "\nx\ny\n```" in one.say("!cat ~/log")[-1].text


# --- the prompt ---


def test_the_prompt_says_where_the_model_is(context: BackendContext, tmp_path: Path, here: Path) -> None:
    one = Talk("agent", False, context)
    one.say("hello")
    local = f"Your tools work on the user's own machine; you came to it in {here}, and `cd` holds."
    assert one.model.prompt == f"Be kind.\n\n{local} {COMMANDS}"
    context.register("box", Folder.new(tmp_path, "box1"))
    context.use("box", T)
    one.say("and now?")
    box = f"Your tools work on the backend box (box1), not on the user's own machine; you came to it in {tmp_path}/box1, and `cd` holds."
    assert one.model.prompt == f"Be kind.\n\n{box} {COMMANDS}"
    one.say("here?", {"configurable": {"thread_id": "another"}})
    assert local in one.model.prompt and "Other places (use_backend): box." in one.model.prompt


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_prompt_changes_with_the_machine_and_with_nothing_else(asynchronous: bool, context: BackendContext, tmp_path: Path) -> None:
    context.register("box", Folder.new(tmp_path, "box1"))
    moves = message(("use_backend", {"name": "box"}), first=3)
    one = Talk("agent", asynchronous, context, message(("bash", {"command": "mkdir d; cd d"})), moves, "there", "yes", "yes")
    one.say("go")
    one.say("!cd /")
    one.say("and?")
    prompts = ["\n".join(str(each.content) for each in heard if isinstance(each, SystemMessage)) for heard in one.model.heard]
    assert prompts[0] == prompts[1] and prompts[2] == prompts[3] != prompts[0]
    assert "backend box" in prompts[2]
    back = next(s for s in one.graph.get_state_history(T) if len(s.values.get("messages", ())) == 3 and s.next == ("model",))
    one.say(None, back.config)  # back in time, where it was here
    assert "user's own machine;" in one.model.prompt


def test_limits_and_paths_of_a_backend(context: BackendContext, tmp_path: Path) -> None:
    class Guest(Folder):
        paths, limits = PathMap([Mount("/home/me/project", "/work")]), {"memory": "2g"}

    context.register("box", Guest.new(tmp_path, "box1"))
    one = Talk("agent", False, context)
    one.graph = create_agent(
        one.model, middleware=[VersMiddleware(context)], system_prompt="The project is /home/me/project.", checkpointer=one.saver
    )
    one.say("see /home/me/project/a")
    assert "The project is /home/me/project." in one.model.prompt and one.model.conversation == ["see /home/me/project/a"]
    context.use("box", T)
    messages = one.say([{"type": "text", "text": "and /home/me/project/b"}])
    assert "The project is /work." in one.model.prompt and "Its limits: memory 2g." in one.model.prompt
    assert one.model.conversation == ["see /work/a", "yes", "and /work/b"]
    assert messages[0].text == "see /home/me/project/a"  # what the person said stays as it was


def test_paths_of_copied_folders(make_toolkit: Any, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    inside = str(tmp_path / "inside")
    toolkit = make_toolkit(mounts=[Mount(str(tmp_path / "project"), inside, "copy")])
    one = Talk("agent", False, toolkit.context, "yes", message(("vers_vm_create", {})), "made", "yes")
    one.say(f"see {tmp_path}/project/a")
    assert one.model.conversation == [f"see {tmp_path}/project/a"]
    one.say("make one")
    one.say("go on")
    assert one.model.conversation[0] == f"see {inside}/a"


def test_the_prompt_on_vms(make_toolkit: Any) -> None:
    toolkit = make_toolkit(local=False)
    one = Talk("agent", False, toolkit.context, message(("vers_vm_create", {})), "made", "yes")
    one.say("make one")
    assert "No machine is attached yet" in "".join(str(each.content) for each in one.model.heard[0])
    vm = facts_of(one.say("!true")[-1])["artifact"]["machine_id"]  # type: ignore[index]
    one.say("hello")
    assert f"Your tools work on the VM {vm}, not on the user's own machine; you came to it in /" in one.model.prompt
    attached = make_toolkit(vm=vm[:13])
    other = Talk("agent", True, attached.context)
    other.say("hello")
    assert f"Your tools work on the VM {vm}" in other.model.prompt
    lost = Talk("agent", False, make_toolkit(vm="no-such-vm").context)
    lost.say("hello")
    assert lost.model.prompt == f"Be kind.\n\n{COMMANDS}"  # its first call will say why
    assert "no-such-vm" in lost.say("!true")[-1].text


def test_a_toolkit_is_as_good_as_its_context(context: BackendContext) -> None:
    model = Listener(script=[AIMessage("yes")])
    graph: Any = create_agent(model, middleware=[VersMiddleware(VersToolkit(context=context))])
    assert "\nhi\n" in graph.invoke({"messages": [("user", "!echo hi")]})["messages"][-1].text


def test_without_langchain_it_says_what_to_install() -> None:
    program = "import sys; sys.modules['langchain'] = None\nimport langchain_vers.bang_commands\nimport langchain_vers.middleware"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stderr.rstrip().endswith(
        'ImportError: VersMiddleware is for agents of create_agent; `pip install "langchain>=1.2"`, or use user_commands'
    )
