"""`langchain-vers checkout`: a thread goes on from an old checkpoint, in another process, on a machine as it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import agent, message
from click.testing import Result
from langchain_core.messages import ToolMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from rigs.savers import Database, Databases
from typer.testing import CliRunner

from langchain_vers import VersSaver, VersToolkit
from langchain_vers._io import run
from langchain_vers.cli import app

THREAD: Any = {"configurable": {"thread_id": "42"}}


def call(database: Database, *arguments: str, data: Path, thread: str = "42") -> Result:
    given = ["checkout", "--db", database.url, "--thread", thread, *arguments, "--data-dir", str(data)]
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, given)


def scripted(toolkit: VersToolkit, saver: VersSaver) -> Any:
    """An agent that makes a VM, writes 1, then 2, and then looks, if it is let."""
    script = [
        message(("vers_vm_create", {})),
        message(("bash", {"command": "echo 1 >> ~/notes"}), first=1),
        message(("bash", {"command": "echo 2 >> ~/notes"}), first=2),
        message(("bash", {"command": "cat ~/notes"}), first=3),
    ]
    return agent(toolkit.get_tools(), *script, checkpointer=saver)


def history_of(database: Database) -> list[dict[str, Any]]:
    shown = CliRunner().invoke(app, ["history", "--db", database.url, "--thread", "42", "--json"])
    assert shown.exit_code == 0, shown.stderr
    return json.loads(shown.stdout)["checkpoints"]


def after(checkpoints: list[dict[str, Any]], words: str) -> dict[str, Any]:
    """The checkpoint at which the model has just said this, and its tool has not yet run."""
    return next(each for each in checkpoints if each["kind"] == "model" and words in each["text"])


@pytest.fixture(params=["sqlite", "postgres"])
def worked(request: pytest.FixtureRequest, databases: Databases, make_toolkit: Callable[..., VersToolkit]) -> Iterator[Database]:
    """A database with a thread that has written twice; its process has let go of everything."""
    made = databases.new(request.param)
    toolkit = make_toolkit(local=False)
    with made.open() as inner:
        scripted(toolkit, VersSaver(inner, toolkit.context)).invoke({"messages": [("user", "go")]}, THREAD)
    toolkit.close()
    yield made


def vms_of(toolkit: VersToolkit) -> set[str]:
    async def listed() -> set[str]:
        return {vm.vm_id for vm in await (await toolkit.context.client()).list_vms()}

    return run(listed())


def test_another_process_goes_on_where_it_was(worked: Database, make_toolkit: Callable[..., VersToolkit], vers_data: Path) -> None:
    before = history_of(worked)
    start = after(before, "echo 2")
    toolkit = make_toolkit(local=False)
    there = vms_of(toolkit)
    command = ["checkout", "--db", worked.url, "--thread", "42", start["short"], "--data-dir", str(vers_data)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "langchain_vers.cli", *command],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ},
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = re.fullmatch(
        rf"Going on from checkpoint {start['id']} \(.*\)\.\nNew head of the thread: (\S+)\nVM: (\S+)\n"
        r'Go on with: graph\.invoke\(\.\.\., \{"configurable": \{"thread_id": "42"\}\}\)\n',
        done.stdout,
    )
    assert said is not None, done.stdout
    head, vm = said.groups()
    assert vms_of(toolkit) - there == {vm}
    forked = history_of(worked)
    assert [each["id"] for each in forked if each["head"]] == [head]
    new = next(each for each in forked if each["head"])
    assert (new["parent"], new["source"]) == (start["parent"], "fork")
    assert new["machine"]["machine"] == vm != start["machine"]["machine"]
    assert new["machine"]["version"] == start["machine"]["version"]
    assert [each for each in forked if each["id"] in {one["id"] for one in before}] == [
        {**each, "head": False, "children": [*each["children"], *([head] if each["id"] == start["parent"] else [])]} for each in before
    ]

    with worked.open() as inner:
        graph = scripted(toolkit, VersSaver(inner, toolkit.context))
        state = graph.invoke(None, THREAD)
    shown = [one.content for one in state["messages"] if isinstance(one, ToolMessage)]
    assert shown[-1].split() == ["1", "2"]
    assert vms_of(toolkit) - there == {vm}
    assert {each["machine"]["machine"] for each in history_of(worked) if each["id"] > head} == {vm}


def test_nothing_is_done_when_only_asked(worked: Database, make_toolkit: Callable[..., VersToolkit], vers_data: Path) -> None:
    before = history_of(worked)
    toolkit = make_toolkit(local=False)
    there = vms_of(toolkit)
    start = after(before, "echo 2")
    done = call(worked, start["short"], "--dry-run", data=vers_data)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"Would go on from checkpoint {start['id']} (")
    assert f"restored from commit {start['machine']['commit']}. Nothing was done." in done.stdout
    for prefix, told in ((start["id"][:4], "give more of the id"), ("ffff", "has no checkpoint ffff")):
        wrong = call(worked, prefix, data=vers_data)
        assert wrong.exit_code == 1
        assert told in wrong.stderr
    assert call(worked, start["short"], data=vers_data, thread="4").exit_code == 1
    assert history_of(worked) == before
    assert vms_of(toolkit) == there


def test_a_checkpoint_without_a_machine(worked: Database, make_toolkit: Callable[..., VersToolkit], vers_data: Path) -> None:
    start = after(history_of(worked), "vers_vm_create")
    there = vms_of(toolkit := make_toolkit(local=False))
    done = call(worked, start["id"], data=vers_data)
    assert done.exit_code == 0, done.stderr
    assert "The thread has no machine there." in done.stdout
    assert vms_of(toolkit) == there
    assert next(each for each in history_of(worked) if each["head"])["machine"] is None


def test_a_checkpoint_whose_machine_was_not_committed(
    databases: Databases, make_toolkit: Callable[..., VersToolkit], vers_data: Path
) -> None:
    made = databases.new("sqlite")
    toolkit = make_toolkit(local=False)
    with made.open() as inner:
        scripted(toolkit, VersSaver(inner, toolkit.context, commit="turn")).invoke({"messages": [("user", "go")]}, THREAD)
    before = history_of(made)
    start = after(before, "cat ~/notes")
    assert "commit" not in start["machine"]
    there = vms_of(toolkit)
    done = call(made, start["id"], data=vers_data)
    assert done.exit_code == 1
    assert re.search(rf"the nearest checkpoint before {start['short']} with a commit is 1f|none before it has one", done.stderr), (
        done.stderr
    )
    assert done.stderr.count("\n") == 1
    assert vms_of(toolkit) == there
    assert [each["id"] for each in history_of(made)] == [each["id"] for each in before]


def test_a_nested_checkpoint(databases: Databases, vers_data: Path, clean: Path) -> None:
    made = databases.new("sqlite")
    builder = StateGraph(MessagesState)
    builder.add_node("inner", agent([]))
    builder.add_edge(START, "inner")
    builder.add_edge("inner", END)
    with SqliteSaver.from_conn_string(made.url) as saver:
        builder.compile(checkpointer=saver).invoke({"messages": [("user", "go")]}, THREAD)
    nested = next(each for each in history_of(made) if each["namespace"])
    host = next(each for each in history_of(made) if each["id"] == nested["host"])
    done = call(made, nested["id"], data=vers_data)
    assert done.exit_code == 1
    assert f"check out {host['short']}" in done.stderr
