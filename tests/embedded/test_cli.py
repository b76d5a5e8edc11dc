"""The command line, run as users run it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from serving import Api, Server, wait_for

from langchain_vers.embedded.launcher import find_running


def run(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """`langchain-vers ...` for a user without configuration."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("VERS_")}
    environment = {**clean, "HOME": str(home), "NO_COLOR": "1", "COLUMNS": "200", **env}
    command = [sys.executable, "-W", "error", "-m", "langchain_vers.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_help_is_quick_and_imports_little(tmp_path: Path) -> None:
    done = run("--help", home=tmp_path)
    assert done.returncode == 0, done.stderr
    for command in ("serve", "stop", "vms", "doctor"):
        assert command in done.stdout
    heavy = "{'langchain_core', 'langgraph', 'asyncssh', 'paramiko', 'starlette', 'httpx'}"
    script = f"import sys; import langchain_vers.cli; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    lazy = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert lazy.returncode == 0, lazy.stderr


def test_a_look_at_the_embedded_vers(vers_server: Server, api: Api, tmp_path: Path) -> None:
    vm_id = api.new_vm(labels={"thread": "t-1"})
    done = run("vms", "--data-dir", str(vers_server.data_dir), home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"{vm_id}.*running.*\d+ s.*thread=t-1", done.stdout), done.stdout
    configured = run("vms", home=tmp_path, VERS_API_KEY=vers_server.info.api_key, VERS_BASE_URL=vers_server.info.base_url)
    assert vm_id in configured.stdout, configured.stderr
    assert vers_server.info.api_key not in done.stdout + done.stderr + configured.stdout + configured.stderr


def test_doctor_finds_everything_well(vers_server: Server, api: Api, tmp_path: Path) -> None:
    api.new_vm()
    done = run("doctor", "--data-dir", str(vers_server.data_dir), "--engine", "process", home=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["ok", name] for name in ("key", "API", "TLS", "SSH", "engine")]
    assert vers_server.info.api_key not in done.stdout


def test_doctor_says_what_is_wrong_and_what_to_do(vers_server: Server, api: Api, tmp_path: Path) -> None:
    none = run("doctor", "--engine", "process", home=tmp_path)
    assert none.returncode == 1
    assert "VERS_API_KEY" in none.stdout
    wrong = run("doctor", "--engine", "process", home=tmp_path, VERS_API_KEY="wrong", VERS_BASE_URL=vers_server.info.base_url)
    assert wrong.returncode == 1
    assert re.search(r"failed API .*key", wrong.stdout), wrong.stdout
    api.new_vm()
    host, port = vers_server.info.ssh_endpoint
    untrusted = run(
        "doctor",
        "--engine",
        "process",
        home=tmp_path,
        VERS_API_KEY=vers_server.info.api_key,
        VERS_BASE_URL=vers_server.info.base_url,
        VERS_SSH_ENDPOINT=f"{host}:{port}",
    )
    assert untrusted.returncode == 1
    assert re.search(r"failed TLS .*VERS_CA_FILE", untrusted.stdout), untrusted.stdout
    engine = run("doctor", "--engine", "none", home=tmp_path)
    assert "There is no engine 'none'" in engine.stdout
    for done in (none, wrong, untrusted, engine):
        assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_and_stop(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "data"
    command = [sys.executable, "-m", "langchain_vers.cli", "serve", "--data-dir", str(folder), "--engine", "process"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            wait_for(lambda: find_running(folder))
            if number == signal.SIGINT:
                process.send_signal(number)
            else:
                stopped = run("stop", "--data-dir", str(folder), home=tmp_path)
                assert (stopped.returncode, stopped.stdout) == (0, "Stopped.\n"), stopped.stderr
            assert process.wait(60) == 0
        finally:
            process.kill()
        assert process.stdout is not None
        assert b"Traceback" not in process.stdout.read()
    again = run("stop", "--data-dir", str(folder), home=tmp_path)
    assert (again.returncode, again.stdout) == (0, "No embedded Vers is running.\n")


def test_missing_packages_are_named() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.modules['typer'] = None; import langchain_vers.cli"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert 'pip install "langchain-vers[embedded]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_to_look_at(tmp_path: Path) -> None:
    for arguments in (("vms",), ("vms", "--embedded")):
        done = run(*arguments, home=tmp_path)
        assert done.returncode == 1
        assert "langchain-vers serve" in done.stderr
        assert "Traceback" not in done.stderr
    refused = run("serve", "--host", "0.0.0.0", "--data-dir", str(tmp_path / "data"), home=tmp_path)
    assert refused.returncode == 1
    assert "loopback" in refused.stderr
