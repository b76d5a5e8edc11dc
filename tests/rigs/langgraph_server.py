"""`langgraph dev` in a copy of the cookbook's folder: started, stopped and started again as a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from langgraph_sdk import get_sync_client

SERVED = Path(__file__).parents[2] / "cookbook" / "server"
START_SECONDS = 90.0
STOP_SECONDS = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LangGraphServer:
    """A server, and a client of it; what it knows is in `folder`."""

    def __init__(self, folder: Path, data_dir: Path, config: str = "langgraph.json", **environment: str) -> None:
        self.folder = folder
        shutil.copytree(SERVED, folder, ignore=shutil.ignore_patterns("__pycache__", ".langgraph_api", "*.sqlite*"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERS_", "LANG", "MODEL", "GOLDEN", "IDLE"))}
        self._environment = {
            **kept,
            "VERS_EMBEDDED_DATA_DIR": str(data_dir),
            "LANGSMITH_TRACING": "false",
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            **environment,
        }
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self.client: Any = None

    def start(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--n-jobs-per-worker", "8"]
        command += ["--config", self._config, "--host", "127.0.0.1", "--port", str(port)]
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/ok", trust_env=False).status_code == 200:
                    break
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                pytest.fail(f"the server did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.1)
        self.client = get_sync_client(url=self.url, api_key=None)

    def stop(self) -> None:
        """End it in good order; whatever is left of it then is killed."""
        if self.client is not None:
            self.client.http.client.close()
            self.client = None
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def restart(self) -> None:
        self.stop()
        self.start()
