"""The cookbook's LangGraph Server, run for real and driven by its SDK: with `VersSaver`, and with the server's own checkpointer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph_sdk import get_client
from langgraph_sdk.errors import ConflictError, UnprocessableEntityError
from rigs.langgraph_server import SERVED, LangGraphServer
from rigs.waiting import wait_for

from langchain_vers import BackendContext, VersClient
from langchain_vers._io import run
from langchain_vers.context import THREAD_LABEL

pytestmark = pytest.mark.timeout(120)
IDLE_SECONDS = 2
WAITING = "echo first; for i in $(seq 400); do [ -e /tmp/gate ] && break; sleep 0.05; done; [ -e /tmp/gate ] && echo last"
"""Prints, and goes on only when somebody who saw it makes the file."""
ENDLESS = "echo $$ >/tmp/pid; exec sleep 1000"


class World:
    """A server, and the platform that its machines are on."""

    def __init__(self, server: LangGraphServer, platform: VersClient) -> None:
        self.server, self._platform = server, platform

    @property
    def client(self) -> Any:
        return self.server.client

    def thread(self) -> str:
        return str(self.client.threads.create()["thread_id"])

    def tell(self, thread: str, text: str | None, **options: Any) -> Any:
        """Run the agent; what its last tool answered."""
        return tools(self.client.runs.wait(thread, "agent", input=said(text), **options))[-1]

    def vms(self, thread: str) -> dict[str, str]:
        """The machines that were made for a thread, and their states."""
        return {vm.vm_id: str(vm.state) for vm in run(self._platform.list_vms()) if (vm.labels or {}).get(THREAD_LABEL) == thread}

    def sh(self, vm_id: str, command: str) -> str:
        """What a command prints on a machine, by way of the platform itself."""
        return run(self._platform.exec(vm_id, ["bash", "-c", command])).stdout.strip()

    def running(self, thread: str) -> tuple[str, str]:
        """The machine of a thread on which `ENDLESS` runs, and the number of its process there."""

        def found() -> tuple[str, str] | None:
            return next(((vm, pid) for vm in self.vms(thread) if (pid := self.sh(vm, "cat /tmp/pid 2>/dev/null"))), None)

        wait_for(found)
        machine = found()
        assert machine is not None and self.sh(machine[0], f"kill -0 {machine[1]} && echo runs") == "runs"
        return machine

    def wait_until_killed(self, machine: tuple[str, str]) -> None:
        wait_for(lambda: self.sh(machine[0], f"kill -0 {machine[1]} 2>/dev/null || echo gone") == "gone")


def said(text: str | None) -> Any:
    return None if text is None else {"messages": [{"role": "user", "content": text}]}


def tools(state: Any) -> list[Any]:
    return [one for one in state["messages"] if one["type"] == "tool"]


def _world(data: Path, folder: Path, config: str) -> Iterator[World]:
    with BackendContext(data_dir=data, local=False) as context:
        platform = run(context.client())
        before = {vm.vm_id for vm in run(platform.list_vms())}
        server = LangGraphServer(folder, data, config, IDLE_PAUSE=str(IDLE_SECONDS))
        try:
            server.start()
            yield World(server, platform)
        finally:
            server.stop()
            for vm in run(platform.list_vms()):
                if vm.vm_id not in before:
                    run(platform.delete_vm(vm.vm_id))


@pytest.fixture(scope="module")
def versioned(isolated_vers_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with `VersSaver`."""
    yield from _world(isolated_vers_data, tmp_path_factory.mktemp("versioned") / "app", "langgraph.json")


@pytest.fixture(scope="module")
def plain(isolated_vers_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with its own checkpointer."""
    yield from _world(isolated_vers_data, tmp_path_factory.mktemp("plain") / "app", "langgraph.plain.json")


# --- with VersSaver ---


def test_each_thread_has_a_machine_that_its_first_command_makes(versioned: World) -> None:
    one, two = versioned.thread(), versioned.thread()
    versioned.client.threads.get_state(one)
    assert versioned.vms(one) == {}
    answers = tools(versioned.client.runs.wait(one, "agent", input=said("echo a >~/a\necho b >~/b\npwd")))
    assert len(answers) == 3 and {answer["artifact"]["machine_id"] for answer in answers} == set(versioned.vms(one))
    assert len(versioned.vms(one)) == 1
    assert versioned.tell(two, "ls ~")["content"] == "(no output)"
    assert len(versioned.vms(two)) == 1 and set(versioned.vms(two)) != set(versioned.vms(one))


Seen = Callable[[Any], str]
ROWS: dict[str, tuple[list[str], Seen]] = {
    "custom": (["custom"], lambda part: part.data.get("delta", "") if part.event == "custom" else ""),
    "events": (["events"], lambda part: _of_event(part.data) if part.event == "events" else ""),
    "all": (["updates", "custom", "events"], lambda part: part.data.get("delta", "") if part.event == "custom" else ""),
}
"""By stream modes of a run: how to see output in a part of the stream, while the command runs."""


def _of_event(event: Any) -> str:
    return str(event["data"]["delta"]) if event["event"] == "on_custom_event" else ""


@pytest.mark.parametrize("row", ROWS)
def test_output_comes_while_the_command_runs(row: str, versioned: World) -> None:
    modes, seen = ROWS[row]
    thread, output = versioned.thread(), ""
    for part in versioned.client.runs.stream(thread, "agent", input=said(WAITING), stream_mode=modes):
        output += seen(part)
        if output == "first\n":
            (machine,) = versioned.vms(thread)
            versioned.sh(machine, "touch /tmp/gate")
    assert output.split() == ["first", "last"]


def test_output_comes_in_the_threads_own_stream(versioned: World) -> None:
    """The typed events of the protocol that is to replace the modes, where "tools" is one kind."""
    thread, output = versioned.thread(), ""
    with versioned.client.threads.stream(thread, assistant_id="agent") as stream:
        stream.run.start(input=said(WAITING))
        for event in stream.events:
            data = event["params"]["data"]
            if event["method"] == "tools" and data["event"] == "tool-output-delta":
                output += data["delta"]
                if output == "first\n":
                    (machine,) = versioned.vms(thread)
                    versioned.sh(machine, "touch /tmp/gate")
    assert output.split() == ["first", "last"]


def test_the_server_takes_no_mode_tools(versioned: World) -> None:
    """Should it learn to, the table in `tools/showing.py` is out of date."""
    with pytest.raises(UnprocessableEntityError, match="tools"):
        list(versioned.client.runs.stream(versioned.thread(), "agent", input=said("true"), stream_mode=["tools"]))


@pytest.mark.parametrize("action", ["interrupt", pytest.param("rollback", marks=pytest.mark.full)])
def test_a_run_that_is_cancelled_leaves_nothing_running(action: str, versioned: World) -> None:
    thread = versioned.thread()
    made = versioned.client.runs.create(thread, "agent", input=said(ENDLESS))
    machine = versioned.running(thread)
    versioned.client.runs.cancel(thread, made["run_id"], wait=True, action=action)
    versioned.wait_until_killed(machine)
    assert versioned.tell(thread, "echo on it goes")["content"] == "on it goes"


@pytest.mark.parametrize("strategy", ["interrupt", "rollback"])
def test_a_message_that_ends_the_run_before_it(strategy: str, versioned: World) -> None:
    """What the command had done is undone. After "rollback" the conversation does not know of it either."""
    thread = versioned.thread()
    versioned.tell(thread, "echo one > ~/log")
    first = versioned.client.runs.create(thread, "agent", input=said(f"echo two >> ~/log; {ENDLESS}"))
    machine = versioned.running(thread)
    second = versioned.client.runs.create(thread, "agent", input=said("cat ~/log"), multitask_strategy=strategy)
    versioned.wait_until_killed(machine)
    state = versioned.client.runs.join(thread, second["run_id"])
    answer = tools(state)[-1]
    assert answer["content"].splitlines()[-1] == "one" and "restored from commit" in answer["content"]
    texts = [one["content"] for one in state["messages"] if one["type"] == "human"]
    assert any("two" in text for text in texts) == (strategy == "interrupt") and len(texts) == (3 if strategy == "interrupt" else 2)
    runs = {one["run_id"]: one["status"] for one in versioned.client.runs.list(thread)}
    assert runs.get(first["run_id"]) == ("interrupted" if strategy == "interrupt" else None)
    assert versioned.tell(thread, "cat ~/log")["content"] == "one"
    assert "Exception ignored" not in (versioned.server.folder / "server.log").read_text()


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["enqueue", "reject"])
def test_a_message_that_leaves_the_run_before_it_alone(strategy: str, versioned: World) -> None:
    thread = versioned.thread()
    first = versioned.client.runs.create(
        thread, "agent", input=said("echo $$ >/tmp/pid; until [ -e /tmp/gate ]; do sleep 0.05; done; echo one > ~/log")
    )
    machine, _ = versioned.running(thread)
    if strategy == "reject":
        with pytest.raises(ConflictError):
            versioned.client.runs.create(thread, "agent", input=said("cat ~/log"), multitask_strategy=strategy)
    else:
        versioned.client.runs.create(thread, "agent", input=said("cat ~/log"), multitask_strategy=strategy)
    versioned.sh(machine, "touch /tmp/gate")
    versioned.client.runs.join(thread, first["run_id"])
    assert versioned.tell(thread, "cat ~/log")["content"] == "one"
    assert len(tools(versioned.client.threads.get_state(thread)["values"])) == (2 if strategy == "reject" else 3)


def test_a_client_that_goes_away_takes_its_command_along(versioned: World) -> None:
    thread = versioned.thread()

    async def leave() -> tuple[str, str]:
        client = get_client(url=versioned.server.url, api_key=None)
        try:
            parts = client.runs.stream(thread, "agent", input=said(ENDLESS), stream_mode="custom", on_disconnect="cancel")
            assert (await anext(parts)).event == "metadata"
            machine = await asyncio.to_thread(versioned.running, thread)
            await parts.aclose()
        finally:
            await client.http.client.aclose()
        return machine

    versioned.wait_until_killed(asyncio.run(leave()))


def test_a_person_is_asked_and_answers(versioned: World) -> None:
    thread = versioned.thread()
    versioned.tell(thread, "touch ~/kept")
    (machine,) = versioned.vms(thread)
    for answer, left in ((False, "kept"), (True, "")):
        asked = versioned.client.runs.wait(thread, "agent", input=said("rm ~/kept"))
        (question,) = asked["__interrupt__"]
        assert "deletes files" in question["value"]["question"] and question["value"]["machine_id"] == machine
        assert versioned.sh(machine, "ls ~") == "kept"
        versioned.client.runs.wait(thread, "agent", command={"resume": answer})
        assert versioned.sh(machine, "ls ~") == left


def test_an_idle_machine_is_paused_and_resumed(versioned: World) -> None:
    thread = versioned.thread()
    versioned.tell(thread, "echo $$ >~/one")
    wait_for(lambda: set(versioned.vms(thread).values()) == {"paused"})
    assert versioned.tell(thread, "ls ~")["content"] == "one"
    assert len(versioned.vms(thread)) == 1


def test_a_restart_a_rewind_and_a_fork(versioned: World) -> None:
    thread = versioned.thread()
    versioned.tell(thread, "echo one > ~/log")
    (machine,) = versioned.vms(thread)
    past = versioned.client.threads.get_state(thread)
    assert past["metadata"]["vers_machine"] == machine
    versioned.tell(thread, "echo two >> ~/log")
    asked = versioned.client.runs.wait(thread, "agent", input=said("rm ~/log; echo three > ~/log"))
    assert asked["__interrupt__"]
    versioned.server.restart()
    versioned.client.threads.create(thread_id=thread, if_exists="do_nothing")
    answer = tools(versioned.client.runs.wait(thread, "agent", command={"resume": False}))[-1]
    assert answer["artifact"]["error"] == "Denied" and answer["status"] == "error"
    answer = versioned.tell(thread, "cat ~/log")
    assert answer["content"].split() == ["one", "two"] and answer["artifact"]["machine_id"] == machine
    # Back to an earlier point: the conversation has another machine there, and the one that it left is as it was.
    answer = versioned.tell(thread, "echo other >> ~/log; cat ~/log", checkpoint_id=past["checkpoint"]["checkpoint_id"])
    assert answer["content"].split()[-2:] == ["one", "other"] and "restored from commit" in answer["content"]
    assert answer["artifact"]["machine_id"] != machine
    assert versioned.tell(thread, "cat ~/log")["content"].split() == ["one", "other"]
    # A new thread that begins as a copy of that one.
    copy = versioned.client.threads.copy(thread)["thread_id"]
    answer = versioned.tell(copy, "echo copied >> ~/log; cat ~/log")
    assert answer["content"].split()[-3:] == ["one", "other", "copied"]
    assert versioned.tell(thread, "cat ~/log")["content"].split()[-2:] == ["one", "other"]


def test_the_clients_session(versioned: World) -> None:
    lines = session(versioned).splitlines()
    machines = [line.split()[-1] for line in lines if "machine" in line.split(":")[-1].split()[:1]]
    first, own, forked, other = machines
    assert first == "none" and len({own, forked, other}) == 3
    text = "\n".join(lines)
    assert "line 1\nline 2\nline 3" in text and "? " in text and "it is gone" in text and "kept" in lines and "it was never here" in text


def session(world: World) -> str:
    command = [sys.executable, "-W", "error", str(SERVED / "client.py"), world.server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "!" not in done.stdout, done.stdout + done.stderr
    return done.stdout


# --- with the server's own checkpointer ---


def test_the_servers_own_checkpointer(plain: World) -> None:
    thread = plain.thread()
    assert plain.tell(thread, "echo one >~/log; cat ~/log")["content"] == "one"
    (machine,) = plain.vms(thread)
    asked = plain.client.runs.wait(thread, "agent", input=said("rm ~/log"))
    assert asked["__interrupt__"]
    plain.server.restart()
    assert tools(plain.client.runs.wait(thread, "agent", command={"resume": False}))[-1]["artifact"]["error"] == "Denied"
    answer = plain.tell(thread, "cat ~/log")
    assert answer["content"] == "one" and answer["artifact"]["machine_id"] == machine
    wait_for(lambda: plain.vms(thread) == {machine: "paused"})
    assert plain.tell(thread, "cat ~/log")["content"] == "one"
    assert plain.tell(plain.thread(), "ls ~")["content"] == "(no output)"
    assert len(plain.vms(thread)) == 1


@pytest.mark.full
def test_a_run_that_is_rolled_back_there_leaves_the_machine_as_it_is(plain: World) -> None:
    thread = plain.thread()
    plain.tell(thread, "echo one > ~/log")
    plain.client.runs.create(thread, "agent", input=said(f"echo two >> ~/log; {ENDLESS}"))
    machine = plain.running(thread)
    second = plain.client.runs.create(thread, "agent", input=said("cat ~/log"), multitask_strategy="rollback")
    plain.wait_until_killed(machine)
    state = plain.client.runs.join(thread, second["run_id"])
    assert tools(state)[-1]["content"].split() == ["one", "two"] and not any("two" in one["content"] for one in state["messages"][:-2])


@pytest.mark.full
def test_the_clients_session_there(plain: World) -> None:
    text = session(plain)
    assert "line 1\nline 2\nline 3" in text and "it is gone" in text and "it was never here" in text
