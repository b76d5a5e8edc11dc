"""The embedded Vers as a peer: a server of the tests' own, found and started as users do, and clients and VMs of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from langchain_vers._io import run
from langchain_vers.backends.vers import Transport, VersBackend
from langchain_vers.embedded.launcher import ServerInfo, ensure_running, find_running, stop
from langchain_vers.platform import Credentials, Endpoints, VersClient


class EmbeddedVers:
    """One server on a data folder; it can be killed and started again."""

    def __init__(self, data_dir: Path, engine: str) -> None:
        self.data_dir = data_dir
        self.engine = engine
        self._clients: list[VersClient] = []
        self.info: ServerInfo
        self.start()

    def start(self) -> None:
        self.info = ensure_running(self.data_dir, engine=self.engine)

    def kill(self) -> None:
        """End the server as a crash does."""
        os.kill(self.info.pid, signal.SIGKILL)
        try:
            os.waitpid(self.info.pid, 0)
        except ChildProcessError:
            deadline = time.monotonic() + 60
            while psutil.pid_exists(self.info.pid):
                assert time.monotonic() < deadline
                time.sleep(0.01)

    def client(self, ssh_endpoint: str | None = None) -> VersClient:
        """A client; without an `ssh_endpoint` SSH goes straight to the server."""
        host, port = self.info.ssh_endpoint
        endpoints = Endpoints.resolve(self.info.base_url, ssh_endpoint or f"{host}:{port}", self.info.ca_file, environ={})
        client = VersClient(Credentials(self.info.api_key), endpoints, backoff=0.01)
        self._clients.append(client)
        return client

    def new_backend(self, ssh_endpoint: str | None = None, transport: Transport = "ssh") -> VersBackend:
        """A backend on a new VM."""
        client = self.client(ssh_endpoint)
        return VersBackend(client, run(client.create_vm(wait_boot=True)), transport=transport)

    def close(self) -> None:
        for client in self._clients:
            run(client.aclose())
        stop(self.data_dir)


class SmallDiskVers(EmbeddedVers):
    """A server in a mount namespace of its own, where `small` (512 KiB) and the sessions' folder of logs (64 KiB) are small file systems.

    Its machines are processes that share the namespace.
    """

    def __init__(self, folder: Path) -> None:
        self.small = folder / "small"
        self.small.mkdir()
        super().__init__(folder / "data", "process")

    def start(self) -> None:
        self.data_dir.mkdir(mode=0o700)
        logs = Path(f"/tmp/vers-{os.getuid()}")
        logs.mkdir(mode=0o700, exist_ok=True)
        mounts = f"mount -t tmpfs -o size=512k,nr_inodes=20 tmpfs {self.small} && mount -t tmpfs -o size=64k,mode=700 tmpfs {logs}"
        command = f'{mounts} && exec "$0" -m langchain_vers.embedded serve --data-dir {self.data_dir} --engine process'
        as_root = [] if os.getuid() == 0 else ["--map-current-user", "--keep-caps"]
        with (self.data_dir.parent / "log").open("wb") as log:
            process = subprocess.Popen(
                ["unshare", "--user" if as_root else "--mount", "--mount", *as_root, "sh", "-c", command, sys.executable],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while (info := find_running(self.data_dir)) is None:
            assert process.poll() is None, (self.data_dir.parent / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self.info = info
        self._process = process

    def close(self) -> None:
        super().close()
        self._process.wait(60)
