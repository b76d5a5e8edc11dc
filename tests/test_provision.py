"""A machine of its own for each thread: made once, by the first call that needs it, and by nothing else."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from agents import RUNNERS, START_INPUT, Runner, ScriptedModel, agent, message
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_config
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send
from rigs.waiting import wait_for

from langchain_vers import BackendContext, Mount, Policy, VersMiddleware, VersToolkit, on_branch
from langchain_vers._io import run
from langchain_vers.attachment import HERE, PROMISED
from langchain_vers.context import THREAD_LABEL
from langchain_vers.errors import BadInput, Unreachable
from langchain_vers.platform import VersClient
from langchain_vers.policy import Deny, Rule

direct = Runner("direct", asynchronous=False)
BASH = ("bash", {"command": "echo $$ >>~/calls; cat ~/calls | wc -l"})
MakeToolkit = Callable[..., VersToolkit]


def thread(name: str = "t") -> Any:
    return {"configurable": {"thread_id": name}}


class Platform:
    """The VMs of the server, seen from outside."""

    def __init__(self, context: BackendContext) -> None:
        self._context = context
        self._before = self._all()

    def _all(self) -> dict[str, Any]:
        async def listed() -> dict[str, Any]:
            return {vm.vm_id: vm for vm in await (await self._context.client()).list_vms()}

        return run(listed())

    @property
    def made(self) -> dict[str, Any]:
        return {vm_id: vm for vm_id, vm in self._all().items() if vm_id not in self._before}

    def do(self, method: str, /, *arguments: Any, **options: Any) -> Any:
        async def act() -> Any:
            return await getattr(await self._context.client(), method)(*arguments, **options)

        return run(act())


@pytest.fixture
def platform(make_toolkit: MakeToolkit) -> Platform:
    return Platform(make_toolkit().context)  # type: ignore[arg-type]


# --- when it is made, and how often ---


@pytest.mark.parametrize("runner", RUNNERS, ids=repr)
def test_a_thread_begins_on_a_machine_of_its_own(runner: Runner, make_toolkit: MakeToolkit, platform: Platform) -> None:
    toolkit = make_toolkit(provision=True)
    first, second = runner(toolkit.get_tools(), BASH, BASH, thread="one")
    (other,) = runner(toolkit.get_tools(), BASH, thread="two")
    assert first.status == "success", first.content
    machines = [answer.artifact["machine_id"] for answer in (first, second, other)]
    assert machines[0] == machines[1] != machines[2]
    assert set(machines) == set(platform.made)
    assert {platform.made[vm].labels[THREAD_LABEL] for vm in machines} == {"one", "two"}
    assert first.artifact["backend"] == "vers" and first.artifact["attachment"]["machine_id"] == machines[0]
    assert toolkit.context.attached(thread("one")).machine_id == machines[0]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", ["agent", "functional"])
def test_twelve_calls_side_by_side_make_one(kind: str, asynchronous: bool, make_toolkit: MakeToolkit, platform: Platform) -> None:
    answers = Runner(kind, asynchronous)(make_toolkit(provision=True).get_tools(), *[BASH] * 12, thread="t")
    assert [answer.status for answer in answers] == ["success"] * 12
    assert {answer.artifact["machine_id"] for answer in answers} == set(platform.made)
    assert len(platform.made) == 1


def test_what_needs_no_machine_makes_none(make_toolkit: MakeToolkit, platform: Platform) -> None:
    toolkit = make_toolkit(provision=True)
    context: Any = toolkit.context
    listed, gone, elsewhere = direct(
        toolkit.get_tools(),
        ("vers_vms", {}),
        ("vers_vm_use", {"vm_id": "nothing-of-that-name"}),
        ("bash_output", {"job_id": 7}),
        thread="t",
    )
    assert listed.status == "success" and listed.artifact["active"] is None and "attachment" not in listed.artifact
    assert gone.status == elsewhere.status == "error"
    assert context.attached(thread()) == PROMISED
    assert context.status(thread()).endswith("VM(s)")
    assert context.changes(thread()) == []
    with pytest.raises(BadInput):
        context.pull(thread())
    assert platform.made == {}


def test_going_elsewhere_first_makes_none(make_toolkit: MakeToolkit, platform: Platform) -> None:
    toolkit = make_toolkit(provision=True)
    created, work = direct(toolkit.get_tools(), ("vers_vm_create", {}), BASH, thread="created")
    assert work.artifact["machine_id"] == created.artifact["machine_id"]
    (used, work) = direct(toolkit.get_tools(), ("vers_vm_use", {"vm_id": created.artifact["machine_id"]}), BASH, thread="used")
    assert used.status == "success" and work.artifact["machine_id"] == created.artifact["machine_id"]
    toolkit.context.attach(created.artifact["machine_id"], thread("told"))  # type: ignore[union-attr]
    assert direct(toolkit.get_tools(), BASH, thread="told")[0].artifact["machine_id"] == created.artifact["machine_id"]
    assert len(platform.made) == 1


def test_it_never_works_here_by_itself_and_goes_here_when_it_is_told(make_toolkit: MakeToolkit, platform: Platform, here: Path) -> None:
    toolkit = make_toolkit(provision=True)
    local, work = direct(toolkit.get_tools(), ("vers_vm_local", {}), ("bash", {"command": "touch made"}), thread="t")
    assert "now run on the user's machine" in local.content
    assert work.artifact["backend"] == "local" and (here / "made").exists() and platform.made == {}
    assert toolkit.context.attached(thread()).backend == HERE.backend  # type: ignore[union-attr]
    (away,) = direct(toolkit.get_tools(), ("bash", {"command": "touch not-here"}), thread="other")
    assert away.artifact["backend"] == "vers" and not (here / "not-here").exists()
    refused = direct(make_toolkit(provision=True, local=False).get_tools(), ("vers_vm_local", {}), thread="t")[0]
    assert refused.artifact["error"] == "Denied"


def test_the_order_of_one_message_holds(make_toolkit: MakeToolkit, platform: Platform) -> None:
    """What stands before a move works on the thread's own machine, also when it comes to begin after the move."""
    tools = make_toolkit(provision=True).get_tools()
    for runner in (Runner("agent", asynchronous=False), Runner("agent", asynchronous=True)):
        before = set(platform.made)
        one, two, created, three = runner(tools, BASH, BASH, ("vers_vm_create", {}), BASH, thread=f"{runner!r}")
        own = {answer.artifact["machine_id"] for answer in (one, two)}
        assert len(own) == 1 and three.artifact["machine_id"] == created.artifact["machine_id"] not in own
        assert set(platform.made) - before == {*own, created.artifact["machine_id"]}


def test_the_own_machine_is_meant_where_no_other_is_named(make_toolkit: MakeToolkit, platform: Platform) -> None:
    tools = make_toolkit(provision=True).get_tools()
    branched, work = Runner("agent", asynchronous=False)(tools, ("vers_vm_branch", {}), BASH, thread="t")
    assert branched.status == "success", branched.content
    assert work.artifact["machine_id"] == branched.artifact["source"]
    assert set(platform.made) == {branched.artifact["source"], branched.artifact["machine_id"]}


def test_a_machine_that_was_deleted_is_not_replaced(make_toolkit: MakeToolkit, platform: Platform) -> None:
    tools = make_toolkit(provision=True).get_tools()
    own = direct(tools, BASH, thread="t")[0].artifact["machine_id"]
    _, after = direct(tools, ("vers_vm_delete", {"vm_id": own}), BASH, thread="t")
    assert after.artifact["error"] == "Gone" and platform.made == {}


@pytest.mark.parametrize("branches", [False, True], ids=["shared", "branches"])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_workers_side_by_side(branches: bool, asynchronous: bool, make_toolkit: MakeToolkit, platform: Platform) -> None:
    """Of one thread, which has no machine when they begin: they share it, or have a branch each."""
    worker: Any = agent(make_toolkit(provision=True).get_tools(), message(BASH, BASH))
    builder = StateGraph(MessagesState)
    builder.add_node("worker", on_branch(worker) if branches else worker)
    builder.add_conditional_edges(START, lambda state: [Send("worker", {"messages": [HumanMessage(name)]}) for name in "abc"], ["worker"])
    graph = builder.compile()
    state = asyncio.run(graph.ainvoke(START_INPUT, thread())) if asynchronous else graph.invoke(START_INPUT, thread())  # type: ignore[arg-type]
    machines = [answer.artifact["machine_id"] for answer in state["messages"] if isinstance(answer, ToolMessage)]
    assert len(machines) == 6 and len(set(machines)) == (3 if branches else 1)
    assert len(platform.made) == (4 if branches else 1)


# --- failures and cancellation ---


class Held:
    """Stops a method of the platform's client, before or after the server has carried it out."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        self.calls = 0
        original = getattr(VersClient, name)
        held = self

        async def method(client: VersClient, *arguments: Any, **options: Any) -> Any:
            held.calls += 1
            result = await original(client, *arguments, **options)
            held.reached.set()
            while not held.go.is_set():
                await asyncio.sleep(0.01)
            return result

        patch.setattr(VersClient, name, method)


@pytest.mark.parametrize("stage", ["create_vm", "wait_until_running"])
async def test_a_cancelled_first_call_leaves_nothing(
    stage: str, make_toolkit: MakeToolkit, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the request is under way whose answer is the only one to say which machine was made."""
    tools = make_toolkit(provision=True).get_tools()
    bash = next(tool for tool in tools if tool.name == "bash")
    call = {"type": "tool_call", "id": "1", "name": "bash", "args": BASH[1]}
    with monkeypatch.context() as patch:
        held = Held(patch, stage)
        first = asyncio.create_task(bash.ainvoke(call, thread()))
        await asyncio.to_thread(held.reached.wait)
        assert len(await asyncio.to_thread(lambda: platform.made)) == 1
        second = asyncio.create_task(bash.ainvoke({**call, "id": "2"}, thread()))
        first.cancel()
        held.go.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        answer = await second
    assert answer.artifact["exit_code"] == 0
    assert list(await asyncio.to_thread(lambda: platform.made)) == [answer.artifact["machine_id"]]


async def test_cancelled_twice_it_is_taken_back_all_the_same(
    make_toolkit: MakeToolkit, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    toolkit = make_toolkit(provision=True)
    held = Held(monkeypatch, "create_vm")
    graph = agent(toolkit.get_tools(), message(BASH))
    work = asyncio.create_task(graph.ainvoke(START_INPUT, thread()))
    await asyncio.to_thread(held.reached.wait)
    work.cancel()
    await asyncio.sleep(0)
    work.cancel()
    held.go.set()
    with pytest.raises(asyncio.CancelledError):
        await work
    await toolkit.aclose()  # sees through what is still being taken back
    assert await asyncio.to_thread(lambda: platform.made) == {}


@pytest.mark.parametrize("stage", ["wait_until_running", "label_vm"])
def test_a_failure_is_an_error_that_leaves_nothing(
    stage: str, make_toolkit: MakeToolkit, platform: Platform, monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    source = platform.do("create_vm", wait_boot=True)
    commit = platform.do("commit_vm", source)
    tools = make_toolkit(provision=commit).get_tools()

    async def fails(*_: Any, **__: Any) -> None:
        raise Unreachable("The cable is cut; plug it in.")

    with monkeypatch.context() as patch:
        patch.setattr(VersClient, stage, fails)
        first, second = direct(tools, ("bash", {"command": "touch made"}), ("read", {"path": "made"}), thread="t")
    for answer in (first, second):
        assert answer.status == "error" and answer.artifact["error"] == "Unreachable"
        assert "The cable is cut" in answer.content and "nothing was run" in answer.content and "vers_vm_create" in answer.content
    assert not (here / "made").exists() and set(platform.made) == {source}
    assert direct(tools, BASH, thread="t")[0].artifact["exit_code"] == 0


# --- what it is made from ---


def test_from_a_commit_a_tag_a_name_and_a_repository(make_toolkit: MakeToolkit, platform: Platform) -> None:
    source = platform.do("create_vm", wait_boot=True)
    platform.do("wait_until_running", source)
    direct(make_toolkit(vm=source).get_tools(), ("bash", {"command": "echo golden >~/mark"}))
    commit = platform.do("commit_vm", source, name="a-name-of-a-commit")
    platform.do("create_tag", "provision-tag", commit)
    platform.do("create_repository", "provision-repo")
    platform.do("create_repository_tag", "provision-repo", "latest", commit)
    try:
        for reference in (commit, commit[:10], "a-name-of-a-commit", " provision-tag\n", "provision-repo:latest"):
            tools = make_toolkit(provision=reference).get_tools()
            answer = direct(tools, ("bash", {"command": "cat ~/mark"}), thread=reference)[0]
            assert answer.content.split()[0] == "golden", (reference, answer.content)
            assert platform.made[answer.artifact["machine_id"]].labels[THREAD_LABEL] == reference
    finally:
        platform.do("delete_tag", "provision-tag")
        platform.do("delete_repository", "provision-repo")


UNKNOWN = ["0f9c1f6e-0000-4000-8000-000000000000", "no-such-tag", "no-repo:latest", "../../vms", "a b\nc", "x" * 5000]


def test_an_unknown_reference(make_toolkit: MakeToolkit, platform: Platform, here: Path) -> None:
    for reference in UNKNOWN:
        tools = make_toolkit(provision=reference).get_tools()
        answer = direct(tools, ("bash", {"command": "touch made"}), thread="t")[0]
        assert answer.artifact["error"] in {"Gone", "BadInput"}
        assert "nothing was run" in answer.content and repr(reference)[:20] in answer.content
    assert platform.made == {} and not (here / "made").exists()


class Chooser:
    """An object that may be called."""

    def __init__(self, vm_id: str) -> None:
        self.vm_id = vm_id
        self.asked: list[Any] = []

    async def __call__(self, thread_id: str | None) -> str:
        await asyncio.sleep(0)
        self.asked.append((thread_id, get_config()["configurable"].get("user")))
        return self.vm_id


@pytest.mark.parametrize("kind", ["sync", "async", "object", "partial", "lambda"])
def test_a_function_gives_it(kind: str, make_toolkit: MakeToolkit, platform: Platform) -> None:
    vm_id = platform.do("create_vm", wait_boot=True)
    platform.do("wait_until_running", vm_id)
    platform.do("set_vm_state", vm_id, "paused")
    chooser = Chooser(vm_id)

    def sync(thread_id: str | None) -> str:
        asyncio.run(asyncio.sleep(0))  # it may block
        chooser.asked.append((thread_id, get_config()["configurable"].get("user")))
        return f" {vm_id[:13]} "

    async def asynchronous(thread_id: str | None) -> str:
        return await chooser(thread_id)

    functions: dict[str, Any] = {
        "sync": sync,
        "async": asynchronous,
        "object": chooser,
        "partial": partial(asynchronous),
        "lambda": lambda thread_id: chooser(thread_id),
    }
    tools = make_toolkit(provision=functions[kind]).get_tools()
    config = {"configurable": {"thread_id": "t", "user": "ann"}}
    graph = agent(tools, message(BASH, BASH))
    for _ in range(2):
        answers = [one for one in graph.invoke(START_INPUT, config)["messages"] if isinstance(one, ToolMessage)]
        assert {answer.artifact["machine_id"] for answer in answers} == {vm_id}
    assert chooser.asked == [("t", "ann")]
    assert set(platform.made) == {vm_id} and THREAD_LABEL not in platform.made[vm_id].labels


def test_none_of_a_function_is_a_new_machine(make_toolkit: MakeToolkit, platform: Platform, here: Path) -> None:
    answer = direct(make_toolkit(provision=lambda thread_id: None).get_tools(), ("bash", {"command": "touch made"}), thread="t")[0]
    assert list(platform.made) == [answer.artifact["machine_id"]] and not (here / "made").exists()


def _raises(thread_id: str | None) -> str:
    raise RuntimeError("the password is hunter2")


async def _raises_later(thread_id: str | None) -> str:
    raise KeyError("the password is hunter2")


NONSENSE: dict[str, Any] = {
    "raises": _raises,
    "raises later": _raises_later,
    "a number": lambda thread_id: 7,
    "true": lambda thread_id: True,
    "bytes": lambda thread_id: b"vm",
    "a list": lambda thread_id: ["vm"],
    "blanks": lambda thread_id: "  ",
    "no such VM": lambda thread_id: "no-such-vm",
    "a dead id": lambda thread_id: "0f9c1f6e-0000-4000-8000-000000000000",
    "no argument": lambda: "vm",
}


def test_a_function_that_fails_or_says_nonsense(make_toolkit: MakeToolkit, platform: Platform, here: Path) -> None:
    for kind, runner in itertools.product(NONSENSE, (direct, Runner("agent", asynchronous=True))):
        answer = runner(make_toolkit(provision=NONSENSE[kind]).get_tools(), ("bash", {"command": "touch made"}), thread="t")[0]
        assert answer.status == "error" and answer.artifact["error"] in {"BadInput", "Gone"}, kind
        assert "nothing was run" in answer.content and "hunter2" not in answer.content
    assert platform.made == {} and not (here / "made").exists()


async def test_a_sync_function_whose_call_was_cancelled_is_not_asked_again(make_toolkit: MakeToolkit, platform: Platform) -> None:
    vm_id = await asyncio.to_thread(platform.do, "create_vm", wait_boot=True)
    begun, go, asked = threading.Event(), threading.Event(), []

    def choose(thread_id: str | None) -> str:
        asked.append(thread_id)
        begun.set()
        go.wait()
        return vm_id

    bash = next(tool for tool in make_toolkit(provision=choose).get_tools() if tool.name == "bash")
    call = {"type": "tool_call", "id": "1", "name": "bash", "args": BASH[1]}
    first = asyncio.create_task(bash.ainvoke(call, thread()))
    await asyncio.to_thread(begun.wait)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    second = asyncio.create_task(bash.ainvoke(call, thread()))
    go.set()
    assert (await second).artifact["machine_id"] == vm_id
    assert asked == ["t"]


@pytest.mark.parametrize("given", [1, 0, 2.5, "", "  ", "a\0b", b"tag", ["tag"], {"tag": "x"}, object()])
def test_what_names_no_machine_is_refused_at_once(given: Any, clean: Path) -> None:
    for make in (VersToolkit, BackendContext):
        with pytest.raises(BadInput, match="provision="):
            make(provision=given)


def test_together_with_vm_or_beside_a_context(clean: Path) -> None:
    for make in (VersToolkit, BackendContext):
        with pytest.raises(BadInput, match="only one of them"):
            make(provision=True, vm="vm")
        make(provision=False, vm="vm").close()
    with BackendContext() as context, pytest.raises(BadInput, match="to the context, not beside it: provision"):
        VersToolkit(context=context, provision=True)


# --- together with the rest ---


def test_a_restart_finds_it_by_the_conversation(make_toolkit: MakeToolkit, platform: Platform) -> None:
    saver, config = InMemorySaver(), thread()
    first = agent(make_toolkit(provision=True).get_tools(), message(BASH), AIMessage("done"), message(BASH), checkpointer=saver)
    first.invoke(START_INPUT, config)
    again = agent(make_toolkit(provision=True).get_tools(), message(BASH), AIMessage("done"), message(BASH), checkpointer=saver)
    state = again.invoke(START_INPUT, config)
    answers = [one for one in state["messages"] if isinstance(one, ToolMessage)]
    assert [answer.content.split()[0] for answer in answers] == ["1", "2"]
    assert {answer.artifact["machine_id"] for answer in answers} == set(platform.made)


def test_two_contexts(make_toolkit: MakeToolkit, platform: Platform) -> None:
    """Two contexts know nothing of each other's threads, but by what stands in a conversation."""
    one, other, plain = make_toolkit(provision=True), make_toolkit(provision=True), make_toolkit(local=False)
    machines = {direct(each.get_tools(), BASH, thread="t")[0].artifact["machine_id"] for each in (one, other)}
    assert len(machines) == 2 == len(platform.made)
    assert direct(plain.get_tools(), BASH, thread="t")[0].artifact["error"] == "Denied"
    saver = InMemorySaver()
    agent(one.get_tools(), message(BASH), checkpointer=saver).invoke(START_INPUT, thread("talk"))
    state = agent(plain.get_tools(), AIMessage(""), AIMessage("done"), message(BASH), checkpointer=saver).invoke(
        START_INPUT, thread("talk")
    )
    answers = [one for one in state["messages"] if isinstance(one, ToolMessage)]
    assert len({answer.artifact["machine_id"] for answer in answers}) == 1 and len(answers) == 2


def test_the_policy_gates_tools_and_not_what_the_program_provides(make_toolkit: MakeToolkit, platform: Platform) -> None:
    policy = Policy(Rule(Deny("no further machines"), tools=["vers_vm_create"]))
    created, work = direct(make_toolkit(provision=True, policy=policy).get_tools(), ("vers_vm_create", {}), BASH, thread="t")
    assert created.artifact["error"] == "Denied" and "no further machines" in created.content
    assert list(platform.made) == [work.artifact["machine_id"]]


def test_a_rule_about_places_knows_where_it_will_be(make_toolkit: MakeToolkit, platform: Platform) -> None:
    policy = Policy(Rule(Deny("not here"), backends=["local"]))
    assert direct(make_toolkit(provision=True, policy=policy).get_tools(), BASH, thread="t")[0].artifact["exit_code"] == 0
    policy = Policy(Rule(Deny("not there"), backends=["vers"]))
    before = set(platform.made)
    assert direct(make_toolkit(provision=True, policy=policy).get_tools(), BASH, thread="t")[0].artifact["error"] == "Denied"
    assert set(platform.made) == before  # nobody had to look


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_question_about_a_path_has_one_machine(asynchronous: bool, make_toolkit: MakeToolkit, platform: Platform) -> None:
    toolkit = make_toolkit(provision=True, policy=Policy.careful())
    asked = message(("bash", {"command": "rm -rf /tmp/x-$$"}), ("bash", {"command": "true"}))
    graph = agent(toolkit.get_tools(), asked, checkpointer=InMemorySaver())
    state = asyncio.run(graph.ainvoke(START_INPUT, thread())) if asynchronous else graph.invoke(START_INPUT, thread())
    assert state["__interrupt__"], state
    resume: Any = Command(resume=True)
    state = asyncio.run(graph.ainvoke(resume, thread())) if asynchronous else graph.invoke(resume, thread())
    answers = [one for one in state["messages"] if isinstance(one, ToolMessage)]
    assert {answer.artifact["machine_id"] for answer in answers} == set(platform.made) and len(platform.made) == 1


def test_the_prompt_says_so_and_makes_none(make_toolkit: MakeToolkit, platform: Platform) -> None:
    seen: list[str] = []

    class Listening(ScriptedModel):
        def _generate(self, messages: Any, *arguments: Any, **options: Any) -> Any:
            seen.append(str(messages[0].content))
            return super()._generate(messages, *arguments, **options)

    toolkit = make_toolkit(provision=True)
    graph: Any = create_agent(Listening(script=[AIMessage("hello")]), toolkit.get_tools(), middleware=[VersMiddleware(toolkit)])
    graph.invoke(START_INPUT, thread())
    assert "a machine of your own, which is made for your first call" in seen[0] and platform.made == {}
    state = graph.invoke({"messages": [("user", "!echo on $((40 + 2))")]}, thread())
    assert "on 42" in state["messages"][-1].content and len(platform.made) == 1


def test_it_gets_its_copies_of_mounted_folders(make_isolated_toolkit: MakeToolkit, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "file").write_text("content")
    toolkit = make_isolated_toolkit(provision=True, local=False, mounts=[Mount(folder, "/project", "copy")])
    assert toolkit.context.changes(thread()) == []  # type: ignore[union-attr]
    first, second = Runner("agent", asynchronous=True)(
        toolkit.get_tools(), ("read", {"path": "/project/file"}), ("bash", {"command": "echo more >/project/new"}), thread="t"
    )
    assert "content" in first.content and second.status == "success"
    assert [change.path for change in toolkit.context.changes(thread())] == ["/project/new"]  # type: ignore[union-attr]


def test_idle_machines_are_paused_and_resumed(make_isolated_toolkit: MakeToolkit) -> None:
    toolkit = make_isolated_toolkit(provision=True, idle_pause=0.2, local=False)
    platform = Platform(toolkit.context)  # type: ignore[arg-type]
    first = direct(toolkit.get_tools(), BASH, thread="t")[0].artifact["machine_id"]
    wait_for(lambda: platform.made[first].state == "paused")
    again = direct(toolkit.get_tools(), BASH, thread="t")[0]
    assert again.artifact["machine_id"] == first and again.content.split()[0] == "2"
    toolkit.close()
    if platform.made[first].state != "running":
        platform.do("set_vm_state", first, "running")
