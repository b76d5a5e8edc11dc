"""A real OpenSSH server as a VM: sshd behind TLS, and an HTTP API that tells the key and the state, for the real `VersClient`."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from langchain_vers.backends.vers import VersBackend
from langchain_vers.platform import Credentials, Endpoints, VersClient
from rigs.certificates import Authority
from rigs.network import NetworkThread, TlsFront
from rigs.programs import require

API_KEY = "rig-api-key"


def make_key(file: Path) -> str:
    """A new Ed25519 key pair; the private key's text."""
    subprocess.run([require("ssh-keygen", "openssh-client"), "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file.read_text()


def fingerprint_of(file: Path) -> str:
    """What OpenSSH itself says is the fingerprint of a public key."""
    return subprocess.run(["ssh-keygen", "-l", "-f", str(file)], check=True, capture_output=True, text=True).stdout.split()[1]


class Sshd:
    """An OpenSSH server in the foreground of a child process; as root for root, else for this very user."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.folder = folder
        self._program = require("sshd", "openssh-server")
        home = folder / "home"
        home.mkdir()
        self.private_key = make_key(folder / "user")
        make_key(folder / "host")
        self.authorized = folder / "authorized_keys"
        self.authorized.write_bytes((folder / "user.pub").read_bytes())
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        self.port = _free_port()
        lines = [
            "ListenAddress 127.0.0.1",
            f"Port {self.port}",
            f"HostKey {folder / 'host'}",
            f"AuthorizedKeysFile {self.authorized}",
            "PermitRootLogin yes",
            "StrictModes no",
            "UsePAM no",
            "PidFile none",
            # The developer's own start files are not part of the test.
            f"SetEnv HOME={home}",
            *settings,
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint_of(self.folder / "host.pub")

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def target(self) -> str:
        """As people name it."""
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def known_hosts(self) -> Path:
        """A file in which its present key stands."""
        kind, key, *_ = (self.folder / "host.pub").read_text().split()
        file = self.folder / "known_hosts"
        file.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")
        return file

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._program, "-D", "-e", "-f", str(self.folder / "sshd_config")], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(self.address, 1).close()
                return
            except OSError:
                log_text = (self.folder / "log").read_text()
                assert self.process.poll() is None, log_text
                assert time.monotonic() < deadline, log_text
                time.sleep(0.01)

    def new_host_key(self) -> None:
        """Take another host key, as a machine that was rebuilt does."""
        self.stop()
        for name in ("host", "host.pub"):
            (self.folder / name).unlink()
        make_key(self.folder / "host")
        self.start()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
            self.process = None


class KeyAgent:
    """OpenSSH's agent as a child process."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "agent"
        self._process = subprocess.Popen([require("ssh-agent", "openssh-client"), "-D", "-a", str(self.socket)], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not self.socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def add(self, file: Path) -> None:
        subprocess.run(["ssh-add", "-q", str(file)], check=True, env={**os.environ, "SSH_AUTH_SOCK": str(self.socket)})

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class StateApi(ThreadingHTTPServer):
    """The two answers of the platform's API that a connection needs: a VM's SSH key and its state."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.machines: dict[str, dict[str, str]] = {}
        """For each VM its `key` and `state`."""
        self.asked: list[str] = []
        """The paths of all requests."""
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: StateApi

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        *prefix, vm_id, what = self.path.split("/")
        machine = self.server.machines.get(vm_id)
        if self.headers.get("Authorization") != f"Bearer {API_KEY}":
            self._answer(401, {"error": "wrong key", "success": False})
        elif "/".join(prefix) != "/api/v1/vm" or machine is None:
            self._answer(404, {"error": "no such VM", "success": False})
        elif what == "ssh_key":
            self._answer(200, {"ssh_private_key": machine["key"], "ssh_port": 443})
        else:
            fields = {"owner_id": str(uuid.UUID(int=1)), "created_at": "2026-01-01T00:00:00Z", "labels": {}}
            self._answer(200, {"vm_id": vm_id, "state": machine["state"], **fields})

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class UserBackend(VersBackend):
    """A `VersBackend` that logs in as this user: an sshd that does not run as root lets in nobody else."""

    username = getpass.getuser()


class Platform:
    """One sshd that stands for any number of VMs, the TLS front before it, and the API."""

    def __init__(self, folder: Path, network: NetworkThread, *settings: str) -> None:
        self.folder = folder
        self.network = network
        (folder / "sshd").mkdir(parents=True)
        self.sshd = Sshd(folder / "sshd", *settings)
        self.sshd.start()
        self.authority = Authority(folder)
        self.front = TlsFront(network, self.authority.server_context("*.vm.vers.sh"), {})
        self.api = StateApi()

    def new_vm(self) -> str:
        """A VM that is known to the front and the API."""
        vm_id = str(uuid.uuid4())
        self.api.machines[vm_id] = {"key": self.sshd.private_key, "state": "running"}
        self.front.targets[f"{vm_id}.vm.vers.sh"] = self.sshd.address
        return vm_id

    def client(self, ssh_endpoint: str | None = None, ca_file: Path | None = None) -> VersClient:
        endpoints = Endpoints.resolve(
            f"{self.api.url}/api/v1", ssh_endpoint or self.front.endpoint, ca_file or self.authority.file, environ={}
        )
        return VersClient(Credentials(API_KEY), endpoints, backoff=0.01)

    def close(self) -> None:
        self.api.close()
        self.front.close()
        self.sshd.stop()
