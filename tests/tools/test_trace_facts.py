"""What LangSmith is told of every tool run: its own SDK sends to a real server, and the runs are read as they arrived."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from agents import ScriptedModel, message
from langchain.agents import create_agent
from langchain_core.tracers import LangChainTracer
from langgraph.checkpoint.memory import InMemorySaver
from langsmith import Client
from rigs.network import NetworkThread, Relay
from rigs.traces import Collector

from langchain_vers import BackendContext, VersSaver, VersToolkit
from langchain_vers.backends.environment import Secret
from langchain_vers.embedded.launcher import find_running
from langchain_vers.policy import Ask, Deny, Policy, Rule

NAMES = "backend machine_id commit cwd exit_code duration_ms bytes truncated reconnects"
ALWAYS = {f"vers_{name}" for name in NAMES.split()}


class Traced:
    """An agent's calls, and the metadata of their runs as LangSmith received it."""

    def __init__(self, tools: Any, asynchronous: bool) -> None:
        self.tools = {tool.name: tool for tool in tools}
        self.asynchronous = asynchronous

    def call(self, name: str, /, thread: str | None = "one", **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """One call: its answer (or what it raised) and its run's metadata."""
        with Collector() as collector:
            client = Client(api_url=collector.url, api_key="anything")
            config = {"callbacks": [LangChainTracer(client=client)], "configurable": {"thread_id": thread}}
            call = {"type": "tool_call", "id": "call", "name": name, "args": arguments}
            tool = self.tools[name]
            answer: Any
            try:
                answer = asyncio.run(tool.ainvoke(call, config)) if self.asynchronous else tool.invoke(call, config)
            except Exception as error:
                answer = error
            client.flush()
            client.cleanup()
            [run] = [run for run in collector.runs().values() if run["run_type"] == "tool"]
        return answer, facts(run)

    def ok(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        answer, told = self.call(name, **arguments)
        assert answer.status == "success", answer
        return told


def facts(run: dict[str, Any]) -> dict[str, Any]:
    """A run's metadata about the machine; what every run has, it has."""
    told = {name: value for name, value in run["extra"]["metadata"].items() if name.startswith("vers_")}
    assert set(told) >= ALWAYS, ALWAYS - set(told)
    assert isinstance(told["vers_duration_ms"], float)
    return told


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_on_a_machine(make_toolkit: Any, asynchronous: bool) -> None:
    traced = Traced(make_toolkit(local=False).get_tools(), asynchronous)
    made = traced.ok("vers_vm_create")
    vm_id = made["vers_machine_id"]
    assert made["vers_backend"] == "vers" and made["vers_commit"] is None and made["vers_exit_code"] is None
    told = traced.ok("bash", command="mkdir -p d; cd d; printf hello")
    assert told["vers_backend"] == "vers" and told["vers_machine_id"] == vm_id
    assert (told["vers_exit_code"], told["vers_bytes"], told["vers_truncated"], told["vers_reconnects"]) == (0, 5, False, 0)
    assert told["vers_cwd"].endswith("/d") and told["vers_duration_ms"] > 0 and told["vers_timed_out"] is False
    there = told["vers_cwd"]
    assert traced.ok("write", path="f", content="tick\ntock\n")["vers_bytes"] == 10
    assert traced.ok("edit", path="f", old_text="tock", new_text="tocktock")["vers_bytes"] == 14
    looks: list[Any] = [("read", {"path": "f"}, 14), ("ls", {}, 1), ("find", {"pattern": "*"}, 1), ("grep", {"pattern": "tick"}, 8)]
    for name, arguments, size in looks:
        told = traced.ok(name, **arguments)
        assert (told["vers_backend"], told["vers_machine_id"], told["vers_cwd"]) == ("vers", vm_id, there), name
        assert (told["vers_bytes"], told["vers_exit_code"]) == (size, None), name
    saved = traced.ok("vers_vm_commit")["vers_commit"]
    assert traced.ok("bash", command="seq 3000")["vers_commit"] == saved
    told = traced.ok("bash", command="seq 3000")
    assert told["vers_truncated"] is True and told["vers_bytes"] == sum(len(f"{n}\n") for n in range(1, 3001))
    restored = traced.ok("vers_vm_restore", commit_id=saved)
    assert restored["vers_machine_id"] != vm_id
    told = traced.ok("read", path="d/f")
    assert (told["vers_machine_id"], told["vers_commit"]) == (restored["vers_machine_id"], saved)
    told = traced.ok("vers_vm_exec", vm_id=vm_id, command="exit 0")
    assert (told["vers_machine_id"], told["vers_exit_code"], told["vers_commit"]) == (vm_id, 0, saved)
    assert traced.ok("vers_vms")["vers_bytes"] > 2 * 36


@pytest.mark.parametrize("asynchronous", [True, pytest.param(False, marks=pytest.mark.full)])
def test_on_this_machine(make_toolkit: Any, here: Path, asynchronous: bool) -> None:
    traced = Traced(make_toolkit().get_tools(), asynchronous)
    assert traced.ok("ls")["vers_cwd"] == str(here)
    told = traced.ok("bash", command="true")
    assert (told["vers_backend"], told["vers_machine_id"], told["vers_commit"]) == ("local", None, None)
    job = traced.ok("bash", command="exec sleep 1000", background=True)["vers_job_id"]
    assert traced.ok("bash_output", job_id=job)["vers_running"] is True
    assert traced.ok("bash_kill", job_id=job)["vers_killed"] is True


@pytest.mark.parametrize("asynchronous", [False, pytest.param(True, marks=pytest.mark.full)])
def test_what_fails(make_toolkit: Any, asynchronous: bool) -> None:
    policy = Policy(Rule(Deny("not here"), commands=["reboot"]), Rule(Ask("Sure?"), commands=["halt"]))
    traced = Traced(make_toolkit(local=False, policy=policy).get_tools(), asynchronous)
    answer, told = traced.call("bash", command="true")
    assert answer.status == "error" and (told["vers_error"], told["vers_backend"]) == ("Denied", "local")
    vm_id = traced.ok("vers_vm_create")["vers_machine_id"]

    def failed(name: str, **arguments: Any) -> dict[str, Any]:
        answer, told = traced.call(name, **arguments)
        assert isinstance(answer, Exception) or answer.status == "error"
        return told

    told = failed("bash", command="printf oh; exit 3")
    assert (told["vers_exit_code"], told["vers_bytes"], told["vers_machine_id"]) == (3, 2, vm_id)
    told = failed("bash", command="printf oh; sleep 1000", timeout=0.3)
    assert (told["vers_exit_code"], told["vers_timed_out"], told["vers_bytes"]) == (None, True, 2) and told["vers_duration_ms"] >= 300
    told = failed("read", path="nothing")
    assert (told["vers_error"], told["vers_machine_id"]) == ("Missing", vm_id) and told["vers_cwd"].startswith("/")
    assert failed("bash", command="reboot")["vers_error"] == "Denied"
    assert failed("bash", comand="true")["vers_error"] == "BadInput"
    assert failed("bash", command="halt")["vers_error"] == "Denied"  # nobody can be asked outside of a graph
    assert failed("vers_vm_use", vm_id="none")["vers_error"] == "Gone"


def test_a_call_that_is_broken_off(make_toolkit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its facts are there, and have no secrets."""
    monkeypatch.setenv("THE_SECRET", "sesame-0123456789")
    toolkit = make_toolkit(local=False, env={"TOKEN": Secret("THE_SECRET")})
    traced = Traced(toolkit.get_tools(), True)
    vm_id = traced.ok("vers_vm_create")["vers_machine_id"]
    traced.ok("bash", command='mkdir "$TOKEN"; cd "$TOKEN"')

    async def broken_off(client: Client) -> None:
        begun = threading.Event()
        config = {"callbacks": [LangChainTracer(client=client)], "configurable": {"thread_id": "one"}}
        graph = create_agent(ScriptedModel(script=[message(("bash", {"command": "echo up; sleep 1000"}))]), toolkit.get_tools())

        async def follow() -> None:
            async for _ in graph.astream({"messages": [("user", "go")]}, config, stream_mode="custom"):
                begun.set()

        task = asyncio.create_task(follow())
        assert await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with Collector() as collector:
        client = Client(api_url=collector.url, api_key="anything")
        asyncio.run(broken_off(client))
        client.flush()
        client.cleanup()
        [run] = [run for run in collector.runs().values() if run["run_type"] == "tool"]
    told = facts(run)
    assert (told["vers_backend"], told["vers_machine_id"], told["vers_error"]) == ("vers", vm_id, "CancelledError")
    assert told["vers_cwd"].endswith("/[secret THE_SECRET]") and b"sesame" not in collector.everything()


@pytest.mark.parametrize("asynchronous", [True, pytest.param(False, marks=pytest.mark.full)])
def test_a_connection_that_is_made_anew(make_toolkit: Any, vers_data: Path, asynchronous: bool) -> None:
    info = find_running(vers_data)
    assert info is not None
    network = NetworkThread()
    relay = Relay(network, info.ssh_endpoint)
    toolkit = make_toolkit(
        local=False, base_url=info.base_url, api_key=info.api_key, ca_file=info.ca_file, ssh_endpoint=relay.endpoint, data_dir=None
    )
    traced = Traced(toolkit.get_tools(), asynchronous)
    try:
        traced.ok("vers_vm_create")
        assert traced.ok("write", path="f", content="x")["vers_reconnects"] == 0
        for name, arguments in [("bash", {"command": "true"}), ("read", {"path": "f"}), ("ls", {})]:
            relay.drop()
            assert traced.ok(name, **arguments)["vers_reconnects"] == 1, name
            assert traced.ok(name, **arguments)["vers_reconnects"] == 0, name
    finally:
        toolkit.close()
        relay.close()
        network.close()


def test_versions_name_the_commit_that_a_call_began_from(make_toolkit: Any) -> None:
    context: BackendContext = make_toolkit(local=False).context
    tools = VersToolkit(context=context).get_tools()
    steps = [message(("vers_vm_create", {}), first=0), *(message(("bash", {"command": "date >>f"}), first=n) for n in (1, 2))]
    with Collector() as collector:
        client = Client(api_url=collector.url, api_key="anything")
        config = {"callbacks": [LangChainTracer(client=client)], "configurable": {"thread_id": "versions"}}
        graph = create_agent(ScriptedModel(script=steps), tools, checkpointer=VersSaver(InMemorySaver(), context))
        graph.invoke({"messages": [("user", "go")]}, config)
        commits = {state.metadata.get("vers_commit") for state in graph.get_state_history(config)} - {None}
        client.flush()
        client.cleanup()
        runs = sorted((run for run in collector.runs().values() if run["run_type"] == "tool"), key=lambda run: run["start_time"])
    told = [facts(run)["vers_commit"] for run in runs if run["name"] == "bash"]
    assert len(told) == 2 and told[1] in commits, (told, commits)
