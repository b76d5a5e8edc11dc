"""`VersSaver` as the checkpointer of a LangGraph Server: a real one, driven by its SDK, restarted, and sent back in time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_sync_client

from langchain_vers import BackendContext
from langchain_vers._io import run

SERVED = Path(__file__).parent / "served"
START_SECONDS = 90.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(folder: Path, data_dir: Path) -> Iterator[Any]:
    """`langgraph dev` in a folder with the served files; a client of it."""
    port = free_port()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERS_", "LANG"))}
    environment = {
        **kept,
        "VERS_EMBEDDED_DATA_DIR": str(data_dir),
        "THREADS_DATABASE": str(folder / "threads.sqlite"),
        "LANGSMITH_TRACING": "false",
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    }
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--host", "127.0.0.1", "--port", str(port)]
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(process, url, log)
        client = get_sync_client(url=url, api_key=None)
        with contextlib.closing(client.http.client):
            yield client
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/ok", trust_env=False).status_code == 200:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the server did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.1)


def tell(client: Any, thread: str, text: str | None, **options: Any) -> Any:
    """Run the agent; what its last tool answered, and the state."""
    given = None if text is None else {"messages": [{"role": "user", "content": text}]}
    state = client.runs.wait(thread, "agent", input=given, **options)
    return [one for one in state["messages"] if one["type"] == "tool"][-1]


@pytest.mark.timeout(300)
def test_a_thread_of_a_server(clean: Path, isolated_vers_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "app"
    shutil.copytree(SERVED, folder, ignore=shutil.ignore_patterns("__pycache__", ".langgraph_api"))
    with BackendContext(data_dir=isolated_vers_data, local=False) as context:
        platform = run(context.client())
        before = {vm.vm_id for vm in run(platform.list_vms())}
        try:
            with server(folder, isolated_vers_data) as client:
                thread = client.threads.create()["thread_id"]
                machine = tell(client, thread, "new")["artifact"]["machine_id"]
                tell(client, thread, "echo one > ~/log")
                past = client.threads.get_state(thread)
                assert past["metadata"]["vers_machine"] == machine
                assert tell(client, thread, "echo two >> ~/log; cat ~/log")["content"].split() == ["one", "two"]
            with server(folder, isolated_vers_data) as client:
                client.threads.create(thread_id=thread, if_exists="do_nothing")
                answer = tell(client, thread, "cat ~/log")
                assert answer["content"].split() == ["one", "two"] and answer["artifact"]["machine_id"] == machine
                answer = tell(client, thread, "echo three >> ~/log; cat ~/log", checkpoint_id=past["checkpoint"]["checkpoint_id"])
                assert answer["artifact"]["machine_id"] != machine
                assert answer["content"].split()[-2:] == ["one", "three"] and "restored from commit" in answer["content"]
                assert run(platform.exec(machine, ["bash", "-c", "cat ~/log"])).stdout.split() == ["one", "two"]
        finally:
            for vm in run(platform.list_vms()):
                if vm.vm_id not in before:
                    run(platform.delete_vm(vm.vm_id))
