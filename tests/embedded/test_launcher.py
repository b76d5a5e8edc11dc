"""Starting, finding and stopping the embedded Vers, with real processes."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from serving import Api, Server, wait_for

from langchain_vers.embedded import launcher
from langchain_vers.embedded.server import Options, serve
from langchain_vers.embedded.state import SERVER_FILE, default_data_dir, process_start_time, read_state
from langchain_vers.errors import BadInput, Conflict, DeadlineExceeded, Unreachable


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "data"
    yield path
    launcher.stop(path)


def test_two_processes_at_once_start_one_server(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from langchain_vers.embedded.launcher import ensure_running;"
        "sys.stdout.write(str(ensure_running(Path(sys.argv[1]), engine='process').pid))"
    )
    with ThreadPoolExecutor(3) as pool:
        command = [sys.executable, "-W", "error", "-c", script, str(folder)]
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, timeout=60), range(3)))
    assert [run.stderr for run in runs] == ["", "", ""]
    assert len({run.stdout for run in runs}) == 1
    # The processes that started it are gone, and it still answers.
    info = launcher.find_running(folder)
    assert info is not None
    assert str(info.pid) == runs[0].stdout
    assert launcher.ensure_running(folder, engine="process") == info
    with pytest.raises(Conflict, match="engine process"):
        launcher.ensure_running(folder, engine="namespaces")


def test_the_server_does_not_take_secrets_along(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret-of-another-program")
    info = launcher.ensure_running(folder, engine="process")
    assert "SOME_API_KEY" not in psutil.Process(info.pid).environ()


def test_missing_packages_are_named(tmp_path: Path) -> None:
    script = "import sys; sys.modules['asyncssh'] = None; from langchain_vers.embedded.server import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "serve", "--engine", "process", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert 'pip install "langchain-vers[embedded]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_of_the_server_is_for_others_to_read(folder: Path) -> None:
    info = launcher.ensure_running(folder, engine="process")
    api = Api(info)
    vm_id = api.new_vm()
    api.run(vm_id, "true")
    api.close()
    for path in [folder, *folder.iterdir()]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o077 == 0, (path, oct(mode))
    server = psutil.Process(info.pid)
    assert info.api_key not in " ".join(server.cmdline())
    assert info.api_key not in (folder / "server.log").read_text()
    assert info.api_key not in repr(info)
    assert info.api_key not in repr(read_state(folder))
    assert os.getsid(info.pid) == info.pid
    assert {os.readlink(f"/proc/{info.pid}/fd/{number}") for number in (0, 1, 2)} == {"/dev/null", str(folder / "server.log")}


def test_files_of_the_starting_process_are_not_inherited(folder: Path, tmp_path: Path) -> None:
    with (tmp_path / "mine").open("w") as mine:
        os.set_inheritable(mine.fileno(), True)
        info = launcher.ensure_running(folder, engine="process")
        files = {file.path for file in psutil.Process(info.pid).open_files()}
    assert str(tmp_path / "mine") not in files


def test_stop_and_start_keep_key_machines_and_disks(folder: Path) -> None:
    first = launcher.ensure_running(folder, engine="process")
    api = Api(first)
    vm_id = api.new_vm()
    api.run(vm_id, "echo kept > file")
    api.close()
    assert launcher.stop(folder) is True
    assert launcher.stop(folder) is False
    assert launcher.find_running(folder) is None
    second = launcher.ensure_running(folder, engine="process")
    assert second.pid != first.pid
    assert second.api_key == first.api_key
    api = Api(second)
    assert api.run(vm_id, "cat file")["stdout"] == "kept\n"
    api.close()


def test_the_engine_once_chosen_is_kept(folder: Path) -> None:
    first = launcher.ensure_running(folder, engine="process")
    assert launcher.ensure_running(folder) == first
    launcher.stop(folder)
    second = launcher.ensure_running(folder)
    assert (second.engine, second.pid != first.pid) == ("process", True)
    # Also after one that did not end in good order.
    psutil.Process(second.pid).kill()
    wait_for(lambda: process_start_time(second.pid) is None)
    assert launcher.ensure_running(folder).engine == "process"


def test_the_address_is_kept_while_nobody_else_has_it(folder: Path) -> None:
    first = launcher.ensure_running(folder, engine="process")
    launcher.stop(folder)
    second = launcher.ensure_running(folder, engine="process")
    assert (second.base_url, second.ssh_endpoint) == (first.base_url, first.ssh_endpoint)
    process = psutil.Process(second.pid)
    process.kill()
    process.wait(15)  # to its last thread: the ports are its as long as one is left
    with ExitStack() as others:
        taken = {urlsplit(first.base_url).port, first.ssh_endpoint[1]}
        for port in taken:
            others.enter_context(socket.create_server(("127.0.0.1", port)))
        third = launcher.ensure_running(folder, engine="process")
        assert taken.isdisjoint({urlsplit(third.base_url).port, third.ssh_endpoint[1]})
        api = Api(third)
        api("GET", "/vms", 200)
        api.close()


def test_a_stale_file_is_not_believed(folder: Path) -> None:
    info = launcher.ensure_running(folder, engine="process")
    psutil.Process(info.pid).kill()
    wait_for(lambda: process_start_time(info.pid) is None)
    assert launcher.find_running(folder) is None
    # The number now belongs to somebody else: this very process must not be taken for a server, nor be stopped.
    state = json.loads((folder / SERVER_FILE).read_text())
    (folder / SERVER_FILE).write_text(json.dumps({**state, "pid": os.getpid()}))
    assert launcher.find_running(folder) is None
    assert launcher.stop(folder) is False
    (folder / SERVER_FILE).write_text("{")
    assert launcher.find_running(folder) is None
    assert launcher.ensure_running(folder, engine="process").pid != info.pid


def test_why_it_did_not_start_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unreachable, match="invalid choice: 'no-such-engine'"):
        launcher.ensure_running(folder, engine="no-such-engine")
    monkeypatch.setenv("VERS_EMBEDDED_API_KEY", "not a key")
    with pytest.raises(Unreachable, match="printable ASCII"):
        launcher.ensure_running(folder, engine="process")


def test_waiting_for_another_launcher_has_an_end(folder: Path) -> None:
    folder.mkdir()
    with (folder / "launch.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceeded):
            launcher.ensure_running(folder, engine="process", timeout=0.2)


def test_one_server_per_folder(own_server: Server) -> None:
    command = [sys.executable, "-m", "langchain_vers.embedded", "serve", "--engine", "process", "--data-dir", str(own_server.data_dir)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert "Another server is running" in second.stderr
    assert "Traceback" not in second.stderr
    assert launcher.find_running(own_server.data_dir) == own_server.info


def test_a_key_of_ones_own(tmp_path: Path) -> None:
    server = Server(tmp_path / "data", env={"VERS_EMBEDDED_API_KEY": "chosen-key"})
    server.start()
    try:
        assert server.info.api_key == "chosen-key"
        api = Api(server.info, "chosen-key")
        api("GET", "/vms", 200)
        api.close()
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])
async def test_plain_http_stays_on_this_machine(tmp_path: Path, host: str) -> None:
    with pytest.raises(BadInput, match="loopback"):
        await serve(Options(data_dir=tmp_path / "data", host=host, engine="process"))


def test_where_the_folder_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERS_EMBEDDED_DATA_DIR", "/somewhere")
    assert default_data_dir() == Path("/somewhere")
    monkeypatch.delenv("VERS_EMBEDDED_DATA_DIR")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_data_dir() == Path("/state/langchain-vers")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert default_data_dir() == Path.home() / ".local/state/langchain-vers"
