"""What the tests of the embedded server share: a real server process, a client that checks answers against the schema, SSH through TLS."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import httpx
from jsonschema import Draft202012Validator, FormatChecker

from langchain_vers.embedded.launcher import ServerInfo, find_running

SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "vers-openapi.json").read_text())
# Answers that every route may give and the schema does not list everywhere.
ALWAYS_ALLOWED = {"400", "401", "404", "405", "501"}


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Poll until the condition holds; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


class Server:
    """A server process of its own, in the foreground of a child process."""

    def __init__(self, data_dir: Path, engine: str = "process", env: dict[str, str] | None = None) -> None:
        self.data_dir = data_dir
        self.engine = engine
        self.env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self.info: ServerInfo

    def start(self) -> None:
        self.data_dir.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "langchain_vers.embedded", "serve", "--data-dir", str(self.data_dir), "--engine", self.engine]
        with (self.data_dir.parent / f"{self.data_dir.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.env)

        def running() -> ServerInfo | None:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            info = find_running(self.data_dir)
            return info if info is not None and info.pid == self.process.pid else None

        self.info = wait_for(running)

    def log(self) -> str:
        return (self.data_dir.parent / f"{self.data_dir.name}.log").read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()


def _templates() -> list[tuple[re.Pattern[str], str]]:
    # Literal parts go before parameters, as routers do.
    paths = sorted(SCHEMA["paths"], key=lambda path: [part.startswith("{") for part in path.split("/")])
    return [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + r"\Z"), path) for path in paths]


TEMPLATES = _templates()


def check_answer(method: str, path: str, response: httpx.Response) -> None:
    """The answer is one that the schema knows: its status, and its body."""
    status = str(response.status_code)
    known = next((SCHEMA["paths"][template] for pattern, template in TEMPLATES if pattern.match(path)), {})
    operation = known.get(method.lower())
    if response.status_code >= 400:
        assert operation is None or status in operation["responses"] or status in ALWAYS_ALLOWED, (method, path, status)
        body = response.json()
        assert body["success"] is False
        assert isinstance(body["error"], str)
        assert body["error"]
        return
    if operation is None:
        assert path == "/api/v1/vm", (method, path)  # the list of VMs under its second name
        return
    assert status in operation["responses"], (method, path, status)
    content = operation["responses"][status].get("content", {}).get("application/json")
    if content is None:
        assert not response.content
        return
    schema = {**content["schema"], "components": SCHEMA["components"]}
    Draft202012Validator(schema, format_checker=FormatChecker()).validate(response.json())


class Api:
    """A client of the API whose every answer is held against the schema."""

    def __init__(self, info: ServerInfo, api_key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key or info.api_key}"}
        self.client = httpx.Client(base_url=info.base_url, headers=headers, timeout=90, trust_env=False)

    def __call__(self, method: str, path: str, status: int | None = None, **arguments: Any) -> Any:
        response = self.client.request(method, f"/api/v1{path}", **arguments)
        check_answer(method, f"/api/v1{path.partition('?')[0]}", response)
        if status is not None:
            assert response.status_code == status, response.text
        return response.json() if response.content else None

    def new_vm(self, **config: Any) -> str:
        vm_id: str = self("POST", "/vm/new_root?wait_boot=true", 201, json={"vm_config": config})["vm_id"]
        return vm_id

    def run(self, vm_id: str, command: str, **fields: Any) -> Any:
        return self("POST", f"/vm/{vm_id}/exec", 200, json={"command": ["/bin/sh", "-c", command], **fields})

    def close(self) -> None:
        self.client.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 18):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def ssh(info: ServerInfo, vm_id: str, key: str, *, username: str = "root", server_name: str | None = None, **options: Any) -> Any:
    """An SSH connection inside TLS (asyncssh on one end of a socket pair)."""
    context = ssl.create_default_context(cafile=info.ca_file)
    reader, writer = await asyncio.open_connection(*info.ssh_endpoint, ssl=context, server_hostname=server_name or f"{vm_id}.vm.vers.sh")
    near, far = socket.socketpair()
    far_reader, far_writer = await asyncio.open_connection(sock=far)
    pumps = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
    try:
        async with await asyncssh.run_client(
            near,
            config=None,
            host=vm_id,
            known_hosts=options.pop("known_hosts", None),
            username=username,
            client_keys=[asyncssh.import_private_key(key)],
            agent_path=None,
            **options,
        ) as connection:
            yield connection
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for each in (writer, far_writer):
            # TLS transports of early releases of Python 3.11 that were closed twice have nothing left to abort.
            with suppress(AttributeError):
                each.transport.abort()
        await asyncio.sleep(0)  # lets the aborted transports close their sockets
