"""The embedded Vers as a peer: a server of the tests' own, found and started as users do, and clients and VMs of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

from langchain_vers._io import run
from langchain_vers.backends.vers import VersBackend
from langchain_vers.embedded.launcher import ServerInfo, ensure_running, stop
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
            deadline = time.monotonic() + 10
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

    def new_backend(self, ssh_endpoint: str | None = None) -> VersBackend:
        """A backend on a new VM."""
        client = self.client(ssh_endpoint)
        return VersBackend(client, run(client.create_vm(wait_boot=True)))

    def close(self) -> None:
        for client in self._clients:
            run(client.aclose())
        stop(self.data_dir)
