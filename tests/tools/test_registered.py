"""Threads on registered backends: moved there by the model and by programs, found again after a restart, and never anywhere else."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Runner, agent, message
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from rigs.folders import Folder, PlainFolder

from langchain_vers import BackendContext, VersSaver, VersToolkit
from langchain_vers._io import run
from langchain_vers.attachment import HERE
from langchain_vers.backends.local import LocalBackend
from langchain_vers.errors import BadInput, Denied, Unreachable, VersError

direct = Runner("direct", asynchronous=False)
WHO = ("bash", {"command": "cat id"})
T: Any = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def context(clean: Path, tmp_path: Path) -> Iterator[BackendContext]:
    with make(tmp_path) as made:
        yield made


def make(tmp_path: Path, **options: Any) -> BackendContext:
    """A context with this machine and a folder, each with a file that says which it is. The folder that is there at first is "first"."""
    here = tmp_path / "here"
    here.mkdir(exist_ok=True)
    (here / "id").write_text("here")
    made = BackendContext(**{"local": here, "data_dir": tmp_path / "none", **options})
    made.register("box", lambda: folder(tmp_path / "boxes"))
    return made


def folder(parent: Path) -> Folder:
    name = "another" if parent.exists() else "first"
    if (parent / name).exists():
        return Folder(parent / name)
    made = Folder.new(parent, name)
    (made.folder / "id").write_text(name)
    return made


def one(context: BackendContext, tool: str, /, thread: str | None = "t", **arguments: Any) -> ToolMessage:
    return direct(VersToolkit(context=context).get_tools(), (tool, arguments), thread=thread)[0]


def who(context: BackendContext, thread: str | None = "t") -> Any:
    return one(context, WHO[0], thread=thread, **WHO[1]).content


def test_the_model_moves(context: BackendContext, tmp_path: Path) -> None:
    answers = direct(VersToolkit(context=context).get_tools(), WHO, ("use_backend", {"name": "box"}), WHO, thread="t")
    assert [answer.content for answer in answers] == ["here", "Commands now run on box", "first"]
    facts = answers[1].artifact
    assert (facts["backend"], facts["machine_id"], facts["cwd"]) == ("box", "first", f"{tmp_path}/boxes/first")
    assert facts["attachment"] == {"backend": "box", "machine_id": "first", "cwd": f"{tmp_path}/boxes/first", "shared": True}
    assert context.status(T) == f"box: first, {tmp_path}/boxes/first"
    assert who(context, thread="another") == "here"
    assert one(context, "use_backend", name="local").content == "Commands now run on local"
    assert who(context) == "here"


def test_a_program_moves_a_thread(context: BackendContext) -> None:
    assert context.use("box", T).machine_id == "first"
    assert who(context) == "first" and who(context, thread=None) == "here"
    assert context.use("local", T) == HERE
    assert who(context) == "here"
    context.use("box", T)
    context.detach(T)
    assert who(context) == "here"
    for name, why in {"vers": "context.attach", "nothing": "registered are: box", "docker:python:3.12": "registered are: box"}.items():
        with pytest.raises(BadInput, match=why):
            context.use(name, T)


async def test_a_program_moves_a_thread_async(context: BackendContext) -> None:
    assert (await context.ause("box", T)).machine_id == "first"
    async with context:
        answer = (
            await VersToolkit(context=context).get_tools()[0].ainvoke({"type": "tool_call", "id": "1", "name": "bash", "args": WHO[1]}, T)
        )
    assert answer.content == "first"


def test_a_spec_is_a_place_for_programs_that_register_it_only(clean: Path, tmp_path: Path) -> None:
    """A model, and a stored conversation, cannot send a thread to this machine by a spec where work on it is not allowed."""
    with make(tmp_path, local=False) as context:
        for name in ("local", f"local:{tmp_path}", "docker:x", "ssh:root@host"):
            answer = one(context, "use_backend", name=name)
            assert answer.status == "error" and answer.artifact["error"] == ("Denied" if name == "local" else "BadInput")
            assert one(context, "bash", command="touch canary").artifact["error"] == "Denied"
        with pytest.raises(Denied):
            context.use("local", T)
    assert not list(tmp_path.rglob("canary"))


def test_a_thread_stays_where_it_is_if_a_backend_does_not_answer(context: BackendContext, tmp_path: Path) -> None:
    context.register("lost", PlainFolder(tmp_path / "nowhere"))
    answer, then = Runner("node", False)(VersToolkit(context=context).get_tools(), ("use_backend", {"name": "lost"}), WHO, thread="t")
    assert (answer.status, answer.artifact["error"]) == ("error", "Unreachable")
    assert then.artifact["error"] == "Conflict"  # it stands behind a mover that failed
    assert who(context) == "here"
    with pytest.raises(Unreachable):
        context.use("lost", T)
    assert who(context) == "here"


def test_a_lost_engine_is_an_error_and_no_reason_to_go_elsewhere(context: BackendContext, tmp_path: Path) -> None:
    context.use("box", T)
    assert who(context) == "first"
    shutil.rmtree(tmp_path / "boxes/first")
    for tool, arguments in (("bash", {"command": "touch canary"}), ("read", {"path": "id"}), ("ls", {})):
        answer = one(context, tool, **arguments)
        assert answer.status == "error" and answer.artifact["backend"] == "box"
    assert who(context, thread="another") == "here"
    assert not (tmp_path / "here/canary").exists()
    one(context, "use_backend", name="local")
    assert who(context) == "here"


def test_a_restart_finds_the_very_machine(clean: Path, tmp_path: Path) -> None:
    saver = InMemorySaver()
    script = [message(("use_backend", {"name": "box"})), AIMessage("there"), message(WHO, first=1), AIMessage("so"), message(WHO, first=2)]

    def last_answer(context: BackendContext) -> ToolMessage:
        state = agent(VersToolkit(context=context).get_tools(), *script, checkpointer=saver).invoke({"messages": [("user", "go")]}, T)
        return next(answer for answer in reversed(state["messages"]) if isinstance(answer, ToolMessage))

    with make(tmp_path) as context:
        assert last_answer(context).artifact["machine_id"] == "first"
    with make(tmp_path) as context:
        answer = last_answer(context)
        assert (answer.content, answer.artifact["machine_id"]) == ("first", "first")
        assert who(context, thread="another") == "here"
        context.use("box", {"configurable": {"thread_id": "another"}})
        assert who(context, thread="another") == "another"  # what this process's factory has made
    shutil.rmtree(tmp_path / "boxes/first")
    with make(tmp_path) as context:
        answer = last_answer(context)
        assert answer.status == "error" and "first" in answer.content


def test_a_backend_that_cannot_go_back_says_so(clean: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "id").write_text(name)
    with make(tmp_path) as context:
        context.register("plain", PlainFolder(tmp_path / "one"))
        context.use("plain", T)
        assert who(context) == "one"
        context.register("plain", PlainFolder(tmp_path / "two"))
        answer = one(context, *WHO[:1], **WHO[1])
        assert (answer.artifact["error"], answer.artifact["machine_id"]) == ("Gone", "one")
        assert "use_backend" in answer.content
        context.use("plain", T)
        assert who(context) == "two"


def test_a_machine_that_shows_its_id_with_its_first_call(context: BackendContext, tmp_path: Path) -> None:
    class Late(LocalBackend):
        async def exec(self, *arguments: Any, **options: Any) -> Any:
            self.machine_id = "made-now"
            return await super().exec(*arguments, **options)

    context.register("late", Late(tmp_path))
    context.whereabouts.tell("t", HERE.moved(backend="late", shared=True))
    assert one(context, "bash", command="true").artifact["attachment"]["machine_id"] == "made-now"


def test_closing_and_dropping(clean: Path, tmp_path: Path) -> None:
    given, made = PlainFolder(tmp_path / "given"), []
    given.folder.mkdir()

    def factory() -> Folder:
        made.append(folder(tmp_path / "boxes"))
        return made[-1]

    context = make(tmp_path)
    context.register("box", factory)
    context.register("given", given)
    context.use("box", T)
    context.use("given")
    context.close()
    assert (given.closed, [one.closed for one in made]) == (1, [1])
    assert who(context) == "first"  # it can be used again, and finds its machine although the factory makes another one
    dropped = weakref.ref(context)
    del context
    gc.collect()
    assert dropped() is None
    run(settled())
    assert (given.closed, [one.closed for one in made]) == (1, [1, 1])  # others may still use what was given


async def settled() -> None:
    """What was begun on the I/O thread before has been done, as far as it waits for nothing."""


def test_with_versions(clean: Path, vers_data: Path, tmp_path: Path) -> None:
    """A `VersSaver` keeps where a thread is on a registered backend, and makes no versions of it."""
    inner = InMemorySaver()
    script = [message(("use_backend", {"name": "box"})), message(WHO, first=1), message(("use_backend", {"name": "local"}), first=2)]
    with make(tmp_path, data_dir=vers_data) as context:
        there = run(commits(context))
        graph = agent(VersToolkit(context=context).get_tools(), *script, checkpointer=VersSaver(inner, context))
        state = graph.invoke({"messages": [("user", "go")]}, T)
        assert [answer.content for answer in state["messages"] if isinstance(answer, ToolMessage)][1] == "first"
        before = next(state for state in graph.get_state_history(T) if state.next == ("tools",) and len(state.values["messages"]) == 4)
        assert run(commits(context)) == there
    with make(tmp_path, data_dir=vers_data) as context:  # another process, later
        graph = agent(VersToolkit(context=context).get_tools(), *script, checkpointer=VersSaver(inner, context))
        state = graph.invoke(None, before.config)
        assert [answer.content for answer in state["messages"] if isinstance(answer, ToolMessage)][1] == "first"
        shutil.rmtree(tmp_path / "boxes/first")
        state = graph.invoke(None, before.config)
        lost = [answer for answer in state["messages"] if isinstance(answer, ToolMessage)][1]
        assert lost.status == "error" and lost.artifact["backend"] == "box"


async def commits(context: BackendContext) -> int:
    try:
        return (await (await context.client()).list_commits(limit=1)).total
    except VersError:
        return 0
