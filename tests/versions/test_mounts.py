"""Copies of folders on machines that follow the conversation: a copy's state goes back, forks and is restored with its machine, and what a
program is told of changes, or brings home, is of the machine where the conversation is.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph

from langchain_vers import BackendContext, VersSaver
from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput, Conflict, Gone
from versions.test_two_processes import agent_of
from versions.worlds import GO, Process, World, after, answers, append, at, check, create, head, thread

KEPT = Path(".local/state/langchain-vers/mounts")


class Ground:
    """A folder of this machine, and processes whose VMs get a copy of it."""

    def __init__(self, world: World, home: Path) -> None:
        self.world = world
        self.project = home / "project"
        self.project.mkdir()
        for name in ("a", "b", "c"):
            (self.project / name).write_text(f"{name}\n")

    @property
    def options(self) -> dict[str, Any]:
        """Of contexts."""
        return {"mounts": [Mount(str(self.project), "/work", "copy")]}

    def process(self, **options: Any) -> Any:
        return self.world.process(context=self.options, **options)

    def do(self, process: Process, *commands: str, config: Any = None, token: str | None = None) -> Any:
        """A turn with a superstep for each command; the config of its end."""
        steps = [[("bash", {"command": command})] for command in commands]
        graph = agent_of(process, [*steps, *([[append(token)]] if token else [])])
        state = graph.invoke(GO, config or thread())
        assert [one.status for one in answers(state)[-len(steps) :]] == ["success"] * len(steps), answers(state)[-1]
        return graph.get_state(thread()).config

    def begin(self, process: Process) -> Any:
        agent_of(process, [[*create()]]).invoke(GO, thread())
        return process.saver.get_tuple(thread()).config

    def home(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.project.iterdir()}


@pytest.fixture
def ground(world: World, clean: Path) -> Iterator[Ground]:
    yield Ground(world, clean)


def said(process: Process | BackendContext, config: Any = None) -> list[str]:
    """The changes, such as "M a"."""
    context = process if isinstance(process, BackendContext) else process.context
    return [f"{str(change)[0]} {change.path.removeprefix('/work/')}" for change in context.changes(config or thread())]


def test_once_for_each_machine_and_its_state_goes_along(ground: Ground) -> None:
    with ground.process() as process:
        ground.begin(process)
        one = ground.do(process, "cat /work/*; echo x >>/work/a; rm /work/c", token="one")
        two = ground.do(process, "echo y >>/work/b; echo n >/work/new", token="two")
        machine = head(process.agent(), thread())["vers_machine"]
        (ground.project / "b").write_text("changed here meanwhile\n")
        assert said(process) == ["M a", "M b", "D c", "A new"]
        # Back, and on another branch: the machine is another one, with the copy as it was there, and no new one.
        assert said(process, one) == ["M a", "D c"]
        three = ground.do(process, "test ! -e /work/c; test ! -e /work/new; cat /work/b; echo z >>/work/a", config=one, token="three")
        assert head(process.agent(), thread())["vers_machine"] != machine
        assert ground.world.sh(head(process.agent(), thread())["vers_machine"], "cat /work/a /work/b; ls /work").split() == [
            *("a", "x", "z", "b"),
            *("a", "b"),
        ]
        assert said(process) == said(process, three) == ["M a", "D c"]
        # The other branch is as it was.
        assert said(process, two) == ["M a", "M b", "D c", "A new"]
        check(process, process.agent(), thread())
    assert len(list((Path.home() / KEPT).glob("*.json"))) == 1


def test_they_are_of_where_the_conversation_is_and_not_of_its_last_call(ground: Ground) -> None:
    with ground.process() as process:
        beginning = ground.begin(process)
        one = ground.do(process, "echo x >>/work/a")
        ground.do(process, "echo y >>/work/b", config=one)
        ground.do(process, "echo z >>/work/c", config=one)
        assert said(process) == ["M a", "M c"]
        vms = ground.world.vms()
        # The conversation goes back without a call of a tool.
        process.agent().update_state(one, {"messages": [("user", "hm")]}, as_node="model")
        assert said(process) == ["M a"]
        process.saver.fork(beginning)
        assert said(process) == []
        # A program moves the thread: then it is there.
        process.context.attach(head(process.agent(), one)["vers_machine"], thread())
        assert "M a" in said(process)
        assert ground.world.vms() == vms
    assert ground.home() == {"a": "a\n", "b": "b\n", "c": "c\n"}


def test_a_new_process_knows_what_was_copied(ground: Ground, clean: Path) -> None:
    with ground.process() as first:
        ground.begin(first)
        one = ground.do(first, "echo x >>/work/a")
        two = ground.do(first, "echo y >>/work/b")
    with ground.process() as second:
        assert said(second) == said(second, two) == ["M a", "M b"]  # before any call
        assert said(second, one) == ["M a"]
        ground.do(second, "rm /work/c")
        assert said(second) == ["M a", "M b", "D c"]
        second.context.pull(thread())
    assert ground.home() == {"a": "a\nx\n", "b": "b\ny\n"}
    # One that has not the records says so, and brings nothing.
    shutil.rmtree(clean / ".local")
    before = ground.home()
    with ground.process() as third:
        for look in (third.context.changes, third.context.pull):
            with pytest.raises(Gone, match="not known on this machine"):
                look(thread())
        ground.do(third, "cat /work/a")  # the thread itself goes on
    assert ground.home() == before


def test_a_machine_that_is_gone_is_restored_for_the_look(ground: Ground) -> None:
    with ground.process() as process:
        ground.begin(process)
        ground.do(process, "echo x >>/work/a; rm /work/b")
        ground.world.delete(head(process.agent(), thread())["vers_machine"])
        vms, context = ground.world.vms(), process.context
        assert len(context.pull(thread(), context.changes(thread()))) == 2
        assert ground.home() == {"a": "a\nx\n", "c": "c\n"}
        assert ground.world.vms() == vms
        assert context.changes(thread()) == []
        # And for the thread itself; what was brought home is no conflict when it goes on.
        ground.do(process, "echo y >>/work/a; rm /work/c")
        assert said(process) == ["M a", "D c"]
        context.pull(thread())
        assert ground.home() == {"a": "a\nx\ny\n"}


async def test_by_the_async_methods_of_an_async_saver(ground: Ground) -> None:
    async with ground.world.aprocess(context=ground.options) as process:
        await agent_of(process, [[*create()], [("bash", {"command": "echo x >>/work/a"})]]).ainvoke(GO, thread())
        one = (await process.saver.aget_tuple(thread())).config
        await agent_of(process, [[("bash", {"command": "rm /work/b"})]]).ainvoke(GO, thread())
        context = process.context
        assert [change.what for change in await context.achanges(one)] == ["modified"]
        assert [change.what for change in await context.apull(thread())] == ["modified", "deleted"]
        assert ground.home() == {"a": "a\nx\n", "c": "c\n"}


def test_nonsense(ground: Ground) -> None:
    with ground.process() as process, BackendContext(data_dir=ground.world.data_dir, **ground.options) as other:
        ground.begin(process)
        for look in (process.context.changes, process.context.pull):
            with pytest.raises(Gone, match="has a checkpoint 0123 of thread"):
                look(thread(checkpoint_id="0123"))
        assert said(process, thread("unknown")) == process.context.changes({}) == process.context.changes() == []
        # A second saver of the context that knows the thread, too.
        second = VersSaver(copied(process.saver), process.context)
        with pytest.raises(BadInput, match="several VersSavers"):
            process.context.changes(thread())
        del second
        with pytest.raises(Gone, match="no VersSaver of this context"):
            other.changes(process.saver.get_tuple(thread()).config)


def copied(saver: VersSaver) -> InMemorySaver:
    """A saver with the newest checkpoint of another one."""
    inner, found = InMemorySaver(), saver.inner.get_tuple(thread())
    assert found is not None
    inner.put(thread(checkpoint_ns=""), found.checkpoint, found.metadata, found.checkpoint["channel_versions"])
    return inner


@pytest.mark.full
def test_branches_that_both_come_home(ground: Ground) -> None:
    """The one replaces what the other has brought, and neither what was changed here."""
    with ground.process() as process:
        ground.begin(process)
        one = ground.do(process, "true")
        two = ground.do(process, "echo x >/work/a; echo x >/work/new")
        process.context.pull(thread())
        assert ground.home() == {"a": "x\n", "b": "b\n", "c": "c\n", "new": "x\n"}
        ground.do(process, "echo y >/work/a; echo y >/work/b", config=one)
        assert said(process) == ["M a", "M b"]
        (ground.project / "b").write_text("mine\n")
        with pytest.raises(Conflict, match=r"/work/b \(changed on this machine meanwhile\)"):
            process.context.pull(thread())
        process.context.pull(thread(), ["/work/a"])
        assert ground.home() == {"a": "y\n", "b": "mine\n", "c": "c\n", "new": "x\n"}
        assert said(process, two) == []  # what it had changed has come home before, and it has changed nothing since


@pytest.mark.full
@pytest.mark.parametrize("commit", ["turn", "manual"])
def test_a_point_without_a_commit_is_refused_when_its_machine_has_moved_on(ground: Ground, commit: Any) -> None:
    with ground.process(commit=commit) as process:
        ground.begin(process)
        ground.do(process, "echo x >>/work/a", "echo y >>/work/b")
        assert said(process) == ["M a", "M b"]
        early = at(process.agent(), thread(), after(3))
        for look in (process.context.changes, process.context.pull):
            with pytest.raises(Conflict, match="no commit"):
                look(early)
    assert ground.home() == {"a": "a\n", "b": "b\n", "c": "c\n"}


def test_in_the_middle_of_a_run(ground: Ground) -> None:
    """A node that asks is told of the machine of its run, also in a branch that begins before any call; and it can bring changes home."""
    seen: list[list[str]] = []
    with ground.process() as process:
        ground.begin(process)
        bash = process.tool("bash")

        def node(command: str, pull: bool = False) -> Any:
            def run(state: MessagesState, config: RunnableConfig) -> Any:
                seen.append(said(process, config))
                call = {"type": "tool_call", "id": f"own-{command}", "name": "bash", "args": {"command": command}}
                answer = bash.invoke(call, config)
                assert answer.status == "success", answer
                seen.append(said(process, config))
                if pull:
                    process.context.pull(config)
                return {"messages": [("ai", "so")]}

            return run

        builder = StateGraph(MessagesState)
        builder.add_node("first", node("echo x >>/work/a; rm /work/b"))
        builder.add_node("second", node("echo y >>/work/c", pull=True))
        builder.add_edge(START, "first")
        builder.add_edge("first", "second")
        builder.add_edge("second", END)
        graph = builder.compile(checkpointer=process.saver)
        graph.invoke(GO, thread())
        assert seen == [[], ["M a", "D b"], ["M a", "D b"], ["M a", "D b", "M c"]]
        assert ground.home() == {"a": "a\nx\n", "c": "c\ny\n"}
        assert said(process) == []
        seen.clear()
        before = next(state for state in graph.get_state_history(thread()) if state.next == ("second",))
        graph.invoke(None, before.config)
        assert seen[0] == [] and len(seen) == 2  # of the branch that begins there, and home has what it has
        check(process, process.agent(), thread())


@pytest.mark.full
def test_two_machines_of_one_thread(ground: Ground) -> None:
    with ground.process() as process:
        ground.begin(process)
        ground.do(process, "echo x >>/work/a")
        agent_of(process, [[("vers_vm_branch", {"attach": True})], [("bash", {"command": "echo y >>/work/b"})]]).invoke(GO, thread())
        assert said(process) == ["M a", "M b"]
        agent_of(process, [[("vers_vm_create", {})], [("bash", {"command": "rm /work/c"})]]).invoke(GO, thread())
        assert said(process) == ["D c"]  # a new machine has a copy of its own
    assert len(list((Path.home() / KEPT).glob("*.json"))) == 2
