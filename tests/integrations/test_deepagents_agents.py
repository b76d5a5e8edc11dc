"""Real deep agents on `VersSandbox`: where their calls go, what is shown while they run, and what holds for them as for other tools."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from agents import START_INPUT
from casts import Cast, cast, said
from deepagents import create_deep_agent
from deepagents.backends import CompositeBackend, StateBackend
from deepagents.backends.sandbox import MAX_OUTPUT_BYTES, TRUNCATION_MSG
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from langsmith import Client
from rigs.traces import Collector
from rigs.waiting import wait_for

from langchain_vers import Mount, Policy, Secret, VersSaver
from langchain_vers.integrations.deepagents import VersSandbox
from langchain_vers.machine import Machine
from langchain_vers.policy import Ask, Deny, Rule

CREATE = ("vers_vm_create", {})
ROOT = {"path": "/root"}
SYNC = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def thread(name: str) -> RunnableConfig:
    return {"configurable": {"thread_id": name}}


def deep(sandbox: VersSandbox, toolkit: Any, *messages: Any, saver: Any = None, **parts: Any) -> Any:
    """A deep agent that asks for these calls, with the tools that make and choose machines beside its own."""
    tools = [tool for tool in toolkit.get_tools() if tool.name.startswith("vers_")]
    return create_deep_agent(model=cast(go=messages, **parts), backend=sandbox, tools=tools, checkpointer=saver)


def carried_out(agent: Any, asynchronous: bool, config: Any = None, given: Any = START_INPUT) -> Any:
    return asyncio.run(agent.ainvoke(given, config)) if asynchronous else agent.invoke(given, config)


def execute(command: str, **more: Any) -> Any:
    return "execute", {"command": command, **more}


def read(path: str) -> Any:
    return "read_file", {"file_path": path}


def write(path: str, content: str) -> Any:
    return "write_file", {"file_path": path, "content": content}


@SYNC
def test_all_of_its_tools(make_sandbox: Any, asynchronous: bool) -> None:
    sandbox, toolkit = make_sandbox()
    messages = [
        [CREATE],
        [execute("cd /srv; mkdir -p app; cd app; printf 'one\\ntwo\\n' >f.txt; pwd"), write("/srv/app/new/g.py", "two = 2\n")],
        [("edit_file", {"file_path": "/srv/app/f.txt", "old_string": "two", "new_string": "2"}), execute("pwd; false")],
        [read("/srv/app/f.txt"), ("ls", {"path": "/srv/app"}), ("glob", {"pattern": "*.py"}), ("grep", {"pattern": "two", "path": "/srv"})],
        [("delete", {"file_path": "/srv/app/new"})],
        [("ls", {"path": "/srv/app"}), read("/srv/app/new/g.py")],
    ]
    answers = said(carried_out(deep(sandbox, toolkit, *messages, saver=InMemorySaver()), asynchronous, thread("t")))
    assert answers["go-1-0"] == "/srv/app\n\n[Command succeeded with exit code 0]"
    assert answers["go-2-1"] == "/srv/app\n\n[Command failed with exit code 1]"
    assert answers["go-3-0"].endswith("one\n2")
    assert "/srv/app/new" in answers["go-3-1"]
    assert "/srv/app/new/g.py" in answers["go-3-2"]
    assert answers["go-3-3"].strip() == "/srv/app/new/g.py"
    assert "new" not in answers["go-5-0"]
    assert "not_found" in answers["go-5-1"]


def test_the_calls_of_a_message_are_in_their_order(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox()
    messages = [
        [CREATE],
        [execute("echo first >/root/id")],
        [execute("cat /root/id"), ("vers_vm_create", {}), execute("cat /root/id || echo second >/root/id"), write("/root/g", "g")],
        [execute("cat /root/id /root/g")],
        [("vers_vm_use", {"vm_id": "no-such-vm"}), execute("touch /root/canary")],
        [execute("ls /root")],
    ]
    answers = said(deep(sandbox, toolkit, *messages, saver=InMemorySaver()).invoke(START_INPUT, thread("t")))
    assert answers["go-2-0"].startswith("first\n")
    assert answers["go-3-0"].startswith("second\ng")
    assert "it failed; nothing was run here" in answers["go-4-1"]
    assert "canary" not in answers["go-5-0"]


def test_threads_have_their_own_machines(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox()
    messages = [[CREATE], [execute("cd /srv; echo $RANDOM$RANDOM >id")], [execute("pwd; cat id")]]
    agent = deep(sandbox, toolkit, *messages, saver=InMemorySaver())

    async def both() -> Any:
        return await asyncio.gather(*(agent.ainvoke(START_INPUT, thread(name)) for name in "ab"))

    one, other = (said(state)["go-2-0"] for state in asyncio.run(both()))
    assert one.startswith("/srv\n")
    assert one != other
    assert sandbox.bound(thread("a")).read("/srv/id").file_data["content"] in one


OPERATIONS: dict[str, Callable[[VersSandbox], Any]] = {
    "execute": lambda sandbox: sandbox.execute("touch /tmp/deepagents-canary"),
    "ls": lambda sandbox: sandbox.ls("/"),
    "read": lambda sandbox: sandbox.read("/etc/hostname"),
    "write": lambda sandbox: sandbox.write("/tmp/deepagents-canary", ""),
    "edit": lambda sandbox: sandbox.edit("/etc/hostname", "a", "b"),
    "delete": lambda sandbox: sandbox.delete("/tmp/deepagents-canary"),
    "glob": lambda sandbox: sandbox.glob("*"),
    "grep": lambda sandbox: sandbox.grep("a"),
    "upload": lambda sandbox: sandbox.upload_files([("/tmp/deepagents-canary", b"")])[0],
    "download": lambda sandbox: sandbox.download_files(["/etc/hostname"])[0],
}


def error_of(result: Any) -> str:
    return str(getattr(result, "error", None) or (result.output if getattr(result, "exit_code", 0) else ""))


def test_nothing_runs_here_that_must_not(make_sandbox: Any) -> None:
    sandbox, _ = make_sandbox()
    for name, operation in OPERATIONS.items():
        error = error_of(operation(sandbox))
        assert "vers_vm_create" in error or error == "permission_denied", name
    assert not Path("/tmp/deepagents-canary").exists()
    assert error_of(sandbox.bound(thread("another")).execute("true")).startswith("Error: no machine is attached to this thread")


def test_a_thread_without_a_machine_works_here_where_that_is_allowed(make_sandbox: Any, here: Any) -> None:
    sandbox, _ = make_sandbox(local=str(here))
    assert sandbox.execute("pwd; echo x >f").output == f"{here}\n"
    assert (here / "f").read_text() == "x\n"
    assert sandbox.glob("*").matches == [{"path": f"{here}/f", "is_dir": False, "size": 2}]
    assert [match["path"] for match in sandbox.grep("x").matches] == [f"{here}/f"]


def test_a_dead_machine_is_an_error_and_nothing_else(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox()
    deep(sandbox, toolkit, [CREATE]).invoke(START_INPUT, thread("t"))
    vm_id = toolkit.context.attached(thread("t")).machine_id
    bound = sandbox.bound(thread("t"))
    assert bound.execute("true").exit_code == 0
    Machine(toolkit.context, vm_id).delete()
    for name, operation in OPERATIONS.items():
        assert "does not exist any more" in error_of(operation(bound)), name
    answers = said(deep(sandbox, toolkit, [execute("true"), read("/etc/hostname")]).invoke(START_INPUT, thread("t")))
    assert all("does not exist any more" in answer for answer in answers.values())


def test_it_can_be_used_again_after_it_was_closed(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox()
    deep(sandbox, toolkit, [CREATE]).invoke(START_INPUT)
    assert sandbox.execute("echo hi").output == "hi\n"
    sandbox.close()
    assert sandbox.execute("echo again").output == "again\n"


# --- while it runs ---

GATED = "printf first; sleep 0.01; printf second; for i in $(seq 400); do [ -e /root/gate ] && exit 0; sleep 0.05; done; exit 9"
"""Prints, and ends only when somebody who saw it makes the file."""


@pytest.mark.parametrize("mode", ["tools", "custom"])
def test_output_is_shown_while_a_command_runs(make_sandbox: Any, mode: str) -> None:
    sandbox, toolkit = make_sandbox()
    agent = deep(sandbox, toolkit, [CREATE], [execute(GATED)])
    seen, opened, ids = "", False, set()
    for kind, item in agent.stream(START_INPUT, thread("t"), stream_mode=list({mode, "custom", "updates"})):
        if kind == mode and isinstance(item, dict) and "delta" in item:
            seen += item["delta"]
            ids.add(item["tool_call_id"])
            assert mode == "tools" or (item["type"], item["tool"]) == ("tool_output", "execute")
        if "second" in seen and not opened:
            opened = sandbox.bound(thread("t")).write("/root/gate", "").error is None
        if kind == "updates" and "tools" in item:
            last = item["tools"]["messages"][-1]
    assert seen == "firstsecond"
    assert ids == {"go-1-0"}
    assert last.artifact["exit_code"] == 0


async def test_output_is_shown_while_a_command_runs_async(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox()
    agent = deep(sandbox, toolkit, [CREATE], [execute(GATED)])
    seen = ""
    async for mode, item in agent.astream(START_INPUT, thread("t"), stream_mode=["custom", "tools"]):
        seen += item.get("delta", "") if mode == "custom" else ""
        if "second" in seen:
            await sandbox.bound(thread("t")).awrite("/root/gate", "")
    assert seen == "firstsecond"


async def test_output_is_an_event_while_a_command_runs(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox()
    agent = deep(sandbox, toolkit, [CREATE], [execute(GATED)])
    seen, around = "", set()
    async for event in agent.astream_events(START_INPUT, thread("t"), version="v2"):
        if event["event"] == "on_tool_start" and event["name"] == "execute":
            around.add(event["run_id"])
        if event["event"] == "on_custom_event" and event["name"] == "tool_output":
            seen += event["data"]["delta"]
            assert event["run_id"] in around
        if "second" in seen:
            await sandbox.bound(thread("t")).awrite("/root/gate", "")
    assert seen == "firstsecond"


def _sleepers(seconds: str) -> list[psutil.Process]:
    return [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", seconds]]


async def test_cancelling_the_run_kills_the_command(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox()
    seconds = str(10_000 + uuid.uuid4().int % 80_000)
    run = asyncio.create_task(deep(sandbox, toolkit, [CREATE], [execute(f"sleep {seconds}")]).ainvoke(START_INPUT, thread("t")))
    await asyncio.to_thread(wait_for, lambda: bool(_sleepers(seconds)))
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    await asyncio.to_thread(wait_for, lambda: not _sleepers(seconds))
    assert (await sandbox.bound(thread("t")).aexecute("echo alive")).output == "alive\n"


@SYNC
def test_long_output_stays_on_the_machine(make_sandbox: Any, asynchronous: bool) -> None:
    sandbox, toolkit = make_sandbox()
    long = (
        'for i in $(seq 9); do echo "$i begins"; done; head -c 700000 /dev/zero | tr "\\0" "x" | fold -w 100; printf "the end\\n"; exit 3'
    )
    messages = [
        [CREATE],
        [execute(long), execute("seq 30000")],
        [read("/large_tool_results/go-1-0"), execute("find /tmp/vers-* -size +50k | wc -l")],
    ]
    state = carried_out(deep(sandbox, toolkit, *messages), asynchronous, thread("t"))
    answers = said(state)
    assert "/large_tool_results/go-1-0" in answers["go-1-0"]
    assert "1 begins" in answers["go-1-0"]
    assert "the end" in answers["go-1-0"]
    assert "exit code 3" in answers["go-1-0"]
    assert len(answers["go-1-0"]) < 6000
    assert "[29990 lines truncated]" in answers["go-1-1"]
    assert "9 begins" in answers["go-2-0"]
    assert answers["go-2-1"].startswith("0\n")
    whole = sandbox.bound(thread("t")).download_files(["/large_tool_results/go-1-0", "/large_tool_results/go-1-1"])
    assert [len(each.content) for each in whole] == [9 * 9 + 700_000 + 7000 - 1 + 8, sum(len(f"{n}\n") for n in range(1, 30_001))]


# --- what holds for it as for other tools ---


def test_versions_of_the_machine(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox()
    saver = VersSaver(InMemorySaver(), toolkit.context)
    messages = [
        [CREATE],
        [write("/root/f", "one")],
        [
            read("/root/f"),
            ("ls", {"path": "/root"}),
            ("grep", {"pattern": "one", "path": "/root"}),
            ("glob", {"pattern": "*", "path": "/root"}),
        ],
        [("edit_file", {"file_path": "/root/f", "old_string": "one", "new_string": "two"})],
        [execute("cat /root/f; rm /root/f")],
        [read("/root/f")],
    ]
    agent = deep(sandbox, toolkit, *messages, saver=saver)
    answers = said(agent.invoke(START_INPUT, thread("t")))
    assert answers["go-4-0"].startswith("two")
    assert "not_found" in answers["go-5-0"]
    history = list(agent.get_state_history(thread("t")))
    versions: list[Any] = []
    for snapshot in reversed(history):
        if (version := snapshot.metadata.get("vers_version")) is not None and version not in versions:
            versions.append(version)
    tools = [snapshot.metadata.get("vers_tools") for snapshot in history if snapshot.metadata.get("vers_tools")]
    used = {name for names in tools for name in names.split(", ")}
    assert used == {"bash", "edit", "find", "grep", "ls", "read", "vers_vm_create", "write"}
    assert len(versions) == 4  # made, written, edited, and by the command; not by those that look
    before = next(snapshot for snapshot in history if snapshot.next and _asks(snapshot, "edit_file"))
    again = agent.invoke(None, before.config)
    assert said(again)["go-4-0"].startswith("two")
    reading = next(snapshot for snapshot in reversed(history) if snapshot.next and _asks(snapshot, "read_file"))
    assert said(agent.invoke(None, reading.config))["go-2-0"].endswith("one")


def _asks(snapshot: Any, tool: str) -> bool:
    last = snapshot.values["messages"][-1] if snapshot.values.get("messages") else None
    return any(call["name"] == tool for call in getattr(last, "tool_calls", []))


@SYNC
def test_a_person_is_asked_once_and_it_runs_once(make_sandbox: Any, asynchronous: bool) -> None:
    policy = Policy(Rule(Ask("Really?"), tools=["bash", "write"]), Rule(Deny("no removals"), tools=["delete"]))
    sandbox, toolkit = make_sandbox(policy=policy)
    messages = [
        [CREATE],
        [
            execute("echo once >>/root/log; head -c 200000 /dev/zero | tr '\\0' 'x'"),
            write("/root/f", "x"),
            ("delete", {"file_path": "/root"}),
        ],
        [("glob", {"pattern": "*", **ROOT}), read("/root/log")],
    ]
    agent, config = deep(sandbox, toolkit, *messages, saver=InMemorySaver()), thread("t")
    state = carried_out(agent, asynchronous, config)
    interrupts = state["__interrupt__"]
    assert sorted(each.value["tool"] for each in interrupts) == ["bash", "write"]
    assert {each.value["tool_call_id"] for each in interrupts} == {"go-1-0", "go-1-1"}
    state = carried_out(agent, asynchronous, config, Command(resume={each.id: each.value["tool"] == "bash" for each in interrupts}))
    assert "__interrupt__" not in state
    answers = said(state)
    assert "The user rejected this call" in answers["go-1-1"]
    assert "no removals" in answers["go-1-2"]
    assert answers["go-2-0"].strip("[]'") == "/root/log"
    assert answers["go-2-1"].splitlines()[1:] == ["once"]


def test_a_question_is_a_denial_where_it_would_come_too_late(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox(policy=Policy(Rule(Ask("Really?"), tools=["find"])))
    answers = said(
        deep(sandbox, toolkit, [CREATE], [("glob", {"pattern": "*", "path": "/root"})], saver=InMemorySaver()).invoke(
            START_INPUT, thread("t")
        )
    )
    assert "A person has to agree to this first" in answers["go-1-0"]


def test_paths_that_a_policy_protects(make_sandbox: Any) -> None:
    sandbox, toolkit = make_sandbox(policy=Policy(Rule(Deny("secret"), paths=["*.pem", "/root/private"])))
    deep(sandbox, toolkit, [CREATE]).invoke(START_INPUT)
    machine = Machine(toolkit.context, toolkit.context.attached().machine_id)
    machine.run("cd /root; mkdir private open; echo word | tee key private/f open/key.pem >open/f; ln -s ../private open/way", check=True)
    for path in ("/root/private/f", "/root/open/way/f", "/root/open/key.pem", "/root/open/../private/f"):
        assert sandbox.read(path).error is not None
        assert sandbox.write(path, "x").error is not None
        assert sandbox.edit(path, "word", "x").error is not None
        assert sandbox.delete(path).error is not None
        assert sandbox.download_files([path])[0].error in {"permission_denied", "invalid_path"}
    assert machine.read("/root/private/f") == b"word\n"
    assert [match["path"] for match in sandbox.grep("word", "/root").matches] == ["/root/key", "/root/open/f"]
    answers = [one.error for one in sandbox.upload_files([("/root/a", b"1"), ("/root/b.pem", b"2"), ("/root/c", b"3")])]
    assert answers == [None, "permission_denied", None]


def test_secrets_are_not_shown(make_sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    value = "sesame-open-0123456789"
    monkeypatch.setenv("THE_SECRET", value)
    sandbox, toolkit = make_sandbox(env={"TOKEN": Secret("THE_SECRET")})
    long = 'seq 20000; yes "$TOKEN" | head -n 9000; printf %s "$TOKEN" >/root/f'
    messages = [
        [CREATE],
        [execute('echo "<$TOKEN>"; printf %s "$TOKEN" >/root/f')],
        [read("/root/f"), ("grep", {"pattern": "sesame", "path": "/root"})],
    ]
    messages += [
        [execute(long)],
        [("edit_file", {"file_path": "/root/f", "old_string": "open-o", "new_string": "x"}), read("/large_tool_results/go-3-0")],
    ]
    agent = deep(sandbox, toolkit, *messages)
    everything = [str(item) for item in agent.stream(START_INPUT, thread("t"), stream_mode=["values", "custom", "tools", "updates"])]
    assert not [item for item in everything if value in item]
    assert any("<[secret THE_SECRET]>" in item for item in everything)
    bound = sandbox.bound(thread("t"))
    assert value not in bound.execute(long).output
    assert bound.download_files(["/root/f"])[0].content == value.encode()  # programs get what is there


def test_folders_are_brought_along(make_sandbox: Any, tmp_path: Any) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.txt").write_text("from home\n")
    sandbox, toolkit = make_sandbox(mounts=[Mount(tmp_path / "src", "/srv/src", "copy")])
    edit = ("edit_file", {"file_path": "/srv/src/a.txt", "old_string": "home", "new_string": "there"})
    deep(sandbox, toolkit, [CREATE], [edit]).invoke(START_INPUT, thread("t"))
    assert [change.path for change in toolkit.context.changes(thread("t"))] == ["/srv/src/a.txt"]
    toolkit.context.pull(thread("t"))
    assert (tmp_path / "src" / "a.txt").read_text() == "from there\n"


@SYNC
def test_a_trace_says_where_a_call_ran(make_sandbox: Any, asynchronous: bool) -> None:
    sandbox, toolkit = make_sandbox()
    with Collector() as collector:
        client = Client(api_url=collector.url, api_key="anything")
        config: RunnableConfig = {**thread("t"), "callbacks": [LangChainTracer(client=client)]}
        carried_out(deep(sandbox, toolkit, [CREATE], [execute("cd /srv; exit 3"), write("/srv/f", "xyz")]), asynchronous, config)
        client.flush()
        client.cleanup()
        facts = {run["name"]: run["extra"]["metadata"] for run in collector.runs().values() if run["run_type"] == "tool"}
    vm_id = toolkit.context.attached(thread("t")).machine_id
    wanted = {"vers_backend": "vers", "vers_machine_id": vm_id, "vers_exit_code": 3, "vers_cwd": "/srv", "vers_truncated": False}
    assert wanted.items() <= facts["execute"].items()
    assert {"vers_backend": "vers", "vers_machine_id": vm_id, "vers_bytes": 3}.items() <= facts["write_file"].items()
    assert facts["execute"]["vers_duration_ms"] > 0


def test_beside_other_backends(make_sandbox: Any) -> None:
    """As the default of a `CompositeBackend`, with files of the conversation's own beside it."""
    sandbox, toolkit = make_sandbox()
    backend = CompositeBackend(default=sandbox, routes={"/notes/": StateBackend()})
    messages = [
        [CREATE],
        [write("/notes/a", "in the state"), write("/root/b", "on the machine")],
        [execute("cat /root/b; ls /notes"), read("/notes/a"), execute("seq 30000")],
        [read("/large_tool_results/go-2-2")],
    ]
    tools = [tool for tool in toolkit.get_tools() if tool.name.startswith("vers_")]
    agent = create_deep_agent(model=cast(go=messages), backend=backend, tools=tools, checkpointer=InMemorySaver())
    answers = said(agent.invoke(START_INPUT, thread("t")))
    assert "on the machine" in answers["go-2-0"]
    assert "No such file" in answers["go-2-0"]
    assert "in the state" in answers["go-2-1"]
    assert "30000" in answers["go-2-2"]
    assert "\n1\n2\n3\n" in answers["go-3-0"]


@SYNC
def test_memory_and_skills_of_the_machine(make_sandbox: Any, asynchronous: bool) -> None:
    sandbox, toolkit = make_sandbox()
    deep(sandbox, toolkit, [CREATE]).invoke(START_INPUT, thread("t"))
    bound = sandbox.bound(thread("t"))
    bound.write("/root/AGENTS.md", "Always say please.\n")
    bound.write("/root/skills/dig/SKILL.md", "---\nname: dig\ndescription: How to dig a hole.\n---\nTake a spade.\n")
    seen: list[str] = []

    class Listening(Cast):
        def _generate(self, messages: Any, *args: Any, **more: Any) -> Any:
            seen.append(str(messages[0].text))
            return super()._generate(messages, *args, **more)

    agent = create_deep_agent(
        model=Listening(script=[], parts={}),
        backend=sandbox,
        memory=["/root/AGENTS.md"],
        skills=["/root/skills"],
        checkpointer=InMemorySaver(),
    )
    carried_out(agent, asynchronous, thread("t"))
    assert "Always say please." in seen[0]
    assert "How to dig a hole." in seen[0]


def test_secrets_at_the_edges_of_what_is_shown(make_sandbox: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither half of a secret is shown where an output, or a line, is cut."""
    value = "sesame-open-0123456789"
    monkeypatch.setenv("THE_SECRET", value)
    sandbox, toolkit = make_sandbox(env={"TOKEN": Secret("THE_SECRET")})
    deep(sandbox, toolkit, [CREATE]).invoke(START_INPUT)
    pieces = [value[start : start + 6] for start in range(len(value) - 5)]
    for shift in range(0, 24, 5):
        fill = f"head -c {3980 + shift} /dev/zero | tr '\\0' x; printf %s \"$TOKEN\"; head -c 600000 /dev/zero | tr '\\0' x"
        done = sandbox.execute_with_offload(fill, f"/root/kept{shift}", max_inline_bytes=1000)
        assert done.offloaded
        assert not [piece for piece in pieces if piece in done.response.output]
        room = MAX_OUTPUT_BYTES - len(TRUNCATION_MSG)
        long = f"head -c {room - 20 + shift} /dev/zero | tr '\\0' x; printf %s \"$TOKEN\"; head -c 1000 /dev/zero | tr '\\0' x"
        sandbox.execute(f"{{ {long}; }} >/root/long{shift}.txt")
        page = sandbox.read(f"/root/long{shift}.txt").file_data["content"]
        assert len(page) > 500_000
        assert not [piece for piece in pieces if piece in page]
