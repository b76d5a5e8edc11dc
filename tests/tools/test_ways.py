"""Every tool in every way of calling it; artifacts; bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agents import GRAPHS, RUNNERS, Runner, message
from langchain_core.messages import ToolMessage
from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_vers.toolkit import VersToolkit

direct = Runner("direct", asynchronous=False)

NAMES = {
    "bash": ["command", "timeout", "background"],
    "bash_output": ["job_id"],
    "bash_kill": ["job_id"],
    "read": ["path", "offset", "limit"],
    "write": ["path", "content"],
    "edit": ["path", "edits", "old_text", "new_text", "replace_all"],
    "ls": ["path", "limit"],
    "find": ["pattern", "path", "limit", "include_ignored"],
    "grep": ["pattern", "path", "glob", "literal", "ignore_case", "context", "limit"],
    "vers_vms": [],
    "vers_vm_create": ["vcpu_count", "mem_size_mib", "fs_size_mib", "labels", "attach"],
    "vers_vm_use": ["vm_id"],
    "vers_vm_exec": ["vm_id", "command", "timeout"],
    "vers_vm_local": [],
    "vers_vm_branch": ["vm_id", "count", "attach"],
    "vers_vm_commit": ["vm_id", "name", "keep_paused"],
    "vers_vm_restore": ["commit_id", "attach"],
    "vers_vm_state": ["vm_id", "state"],
    "vers_vm_delete": ["vm_id"],
    "vers_vm_copy": ["source", "destination", "recursive"],
}


def checked(answer: ToolMessage, status: str = "success") -> ToolMessage:
    assert answer.status == status, (answer.content, answer.artifact)
    assert {"backend", "machine_id", "cwd", "exit_code", "duration_ms", "truncated"} <= set(answer.artifact)
    assert isinstance(answer.artifact["duration_ms"], float)
    json.dumps(answer.artifact)
    return answer


def test_names_and_arguments_are_the_public_contract(clean: Path) -> None:
    tools = VersToolkit().get_tools()
    assert {tool.name: list(tool.tool_call_schema.model_json_schema()["properties"]) for tool in tools} == NAMES  # type: ignore[union-attr]
    sent = [convert_to_openai_tool(tool) for tool in tools]
    assert len(json.dumps(sent)) < 9000
    assert all(tool["function"]["description"] for tool in sent)
    assert "runtime" not in json.dumps(sent)


@pytest.mark.parametrize("runner", RUNNERS, ids=repr)
def test_working_tools(runner: Runner, make_toolkit: Any, here: Path) -> None:
    tools = make_toolkit().get_tools()

    def one(name: str, /, **arguments: Any) -> ToolMessage:
        (answer,) = runner(tools, (name, arguments), thread="t")
        assert answer.name == name
        return checked(answer)

    assert one("bash", command="mkdir -p a/b && cd a && echo hi").content == "hi"
    assert one("bash", command="pwd").content == str(here / "a")
    one("write", path="b/x.txt", content="one\ntwo\n")
    assert (here / "a/b/x.txt").read_text() == "one\ntwo\n"
    assert one("edit", path="b/x.txt", old_text="two", new_text="2").artifact["diff"].endswith("-two\n+2\n")
    one("edit", path="b/x.txt", edits=[{"old_text": "one", "new_text": "1"}])
    assert one("read", path="b/x.txt").content == "1\n2\n"
    assert one("ls").content == "b/"
    assert one("find", pattern="*.txt").content == "b/x.txt"
    assert one("grep", pattern="^2").content == "b/x.txt:2:2"
    job = one("bash", command="echo started; exec sleep 1000", background=True).artifact["job_id"]
    assert one("bash_kill", job_id=job).artifact["killed"] is True
    assert "started" in one("bash_output", job_id=job).content


@pytest.mark.parametrize("runner", RUNNERS, ids=repr)
def test_machine_tools(runner: Runner, make_toolkit: Any, here: Path) -> None:
    tools = make_toolkit().get_tools()

    def one(name: str, /, **arguments: Any) -> ToolMessage:
        (answer,) = runner(tools, (name, arguments), thread="t", checkpointer=runner.kind != "direct")
        return checked(answer)

    vm = one("vers_vm_create", labels={"role": "web"}).artifact["machine_id"]
    ran = one("bash", command="pwd; echo on the vm >note")
    assert (ran.artifact["backend"], ran.artifact["machine_id"]) == ("vers", vm)
    assert not (here / "note").exists()
    line = next(line for line in str(one("vers_vms").content).splitlines() if vm in line)
    assert line.startswith(f"* {vm}  running  ")
    assert "role=web" in line
    commit = one("vers_vm_commit", name="kept").artifact["commit"]
    branch = one("vers_vm_branch").artifact["branches"][0]
    assert one("vers_vm_exec", vm_id=branch[:13], command="cat note").content == "on the vm"
    one("vers_vm_state", vm_id=branch, state="paused")
    assert one("vers_vm_use", vm_id=branch).artifact["resumed"] is True
    restored = one("vers_vm_restore", commit_id=commit).artifact["machine_id"]
    assert one("bash", command="cat note").artifact["machine_id"] == restored
    home = one("bash", command="pwd").content
    one("vers_vm_copy", source=f"vm:{restored}:{home}/note", destination="note")
    assert (here / "note").read_text() == "on the vm\n"
    one("vers_vm_local")
    assert one("bash", command="cat note").artifact["backend"] == "local"
    for vm_id in (vm, branch, restored):
        one("vers_vm_delete", vm_id=vm_id)


@pytest.mark.parametrize("runner", RUNNERS, ids=repr)
def test_failures_are_answers(runner: Runner, make_toolkit: Any) -> None:
    tools = make_toolkit().get_tools()
    cases: list[tuple[str, dict[str, Any], str, str]] = [
        ("bash", {"command": "echo out; exit 3"}, "Command exited with code 3", ""),
        ("bash", {"command": "kill -9 $BASHPID"}, "Command exited with code 137", ""),
        ("bash", {"command": ""}, "the command is empty", "BadInput"),
        ("bash", {"command": "a\0b"}, "NUL", "BadInput"),
        ("bash", {}, "command: Field required", "BadInput"),
        ("bash", {"command": "true", "timeout": 0}, "timeout must be", "BadInput"),
        ("bash", {"command": "true", "timeout": -1}, "timeout must be", "BadInput"),
        ("bash", {"command": "true", "timeout": float("nan")}, "timeout must be", "BadInput"),
        ("bash", {"command": "true", "timeout": float("inf")}, "timeout must be", "BadInput"),
        ("bash", {"command": "true", "timeout": 1e9}, "timeout must be", "BadInput"),
        ("bash", {"command": "true", "timeout": 5, "background": True}, "no time limit", "BadInput"),
        ("bash", {"command": " ", "background": True}, "empty", "BadInput"),
        ("bash", {"cmd": "true"}, "there is no argument 'cmd'", "BadInput"),
        ("bash_output", {"job_id": "0123456789ab"}, "no job", "Gone"),
        ("bash_kill", {"job_id": "../.."}, "no job id", "BadInput"),
        ("read", {"path": "none"}, "does not exist", "Missing"),
        ("read", {"path": "."}, "directory", "WrongKind"),
        ("read", {"path": "a\0b"}, "NUL", "BadInput"),
        ("write", {"path": ".", "content": ""}, "directory", "WrongKind"),
        ("write", {"path": "x", "content": "\ud800"}, "surrogate", "BadInput"),
        ("edit", {"path": "none", "old_text": "a", "new_text": "b"}, "does not exist", "Missing"),
        ("edit", {"path": "none"}, "give either edits", "BadInput"),
        ("ls", {"path": "none"}, "does not exist", "Missing"),
        ("ls", {"limit": 0}, "limit", "BadInput"),
        ("find", {"pattern": " "}, "empty", "BadInput"),
        ("grep", {"pattern": "("}, "", "BadInput"),
        ("grep", {"pattern": "a", "path": "none"}, "does not exist", "Missing"),
        ("vers_vm_use", {"vm_id": "nothing-like-it"}, "vers_vms", "Gone"),
        ("vers_vm_use", {"vm_id": " "}, "empty", "BadInput"),
        ("vers_vm_commit", {}, "no VM is attached", "BadInput"),
        ("vers_vm_restore", {"commit_id": "no-such-tag"}, "", "Gone"),
        ("vers_vm_state", {"state": "asleep"}, "state", "BadInput"),
        ("vers_vm_copy", {"source": "vm:x", "destination": "y"}, "no place on a VM", "BadInput"),
    ]
    # Those that would move the thread go last, one message each: what stands behind a failed one is refused.
    still = [case for case in cases if case[0] not in {"vers_vm_use", "vers_vm_restore"}]
    moving = [case for case in cases if case not in still]
    cases = still + moving
    answers = runner(tools, *((name, arguments) for name, arguments, _, _ in still))
    for name, arguments, _, _ in moving:
        answers += runner(tools, (name, arguments))
    for (name, arguments, text, kind), answer in zip(cases, answers, strict=True):
        checked(answer, "error")
        assert text in answer.content, (name, arguments, answer.content)
        assert answer.artifact.get("error", "") == kind, (name, arguments, answer.content, answer.artifact)


def test_without_a_call_id_there_is_only_the_content(make_toolkit: Any) -> None:
    tools = {tool.name: tool for tool in make_toolkit().get_tools()}
    assert tools["bash"].invoke({"command": "echo hi"}) == "hi"
    assert tools["bash"].invoke({"command": "exit 2"}) == "(no output)\n\nCommand exited with code 2"
    assert "Field required" in tools["bash"].invoke({})


@pytest.mark.parametrize("runner", GRAPHS, ids=repr)
def test_calls_behind_a_mover_with_bad_arguments_are_refused_at_once(runner: Runner, make_toolkit: Any, here: Path) -> None:
    tools = make_toolkit().get_tools()
    answers = runner(tools, ("vers_vm_use", {"vm": "x"}), ("bash", {"command": "touch canary"}), thread="t")
    assert [answer.status for answer in answers] == ["error", "error"]
    assert "look at its error" in answers[1].content
    assert answers[1].artifact["duration_ms"] < 5000
    assert not (here / "canary").exists()


def test_messages_are_pinned() -> None:
    assert [call["id"] for call in message(("a", {}), ("b", {})).tool_calls] == ["call-0", "call-1"]
