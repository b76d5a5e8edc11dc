"""Which Vers a command looks at: the configured platform, or the embedded one of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_vers.embedded.launcher import find_running
from langchain_vers.errors import Denied, Unreachable
from langchain_vers.platform.client import VersClient
from langchain_vers.platform.credentials import Credentials, Endpoints

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext


@dataclass(frozen=True)
class Target:
    """Which Vers a command looks at, and how that was decided."""

    credentials: Credentials
    endpoints: Endpoints
    found: str

    def context(self) -> BackendContext:
        """A context on this Vers, for threads with machines only."""
        from langchain_vers.context import BackendContext  # noqa: PLC0415  # heavy, and most commands do without

        ends = self.endpoints
        ssh = None if ends.ssh_endpoint is None else f"{ends.ssh_endpoint[0]}:{ends.ssh_endpoint[1]}"
        key = self.credentials.resolve().value.get_secret_value()
        return BackendContext(api_key=key, base_url=ends.base_url, ssh_endpoint=ssh, ca_file=ends.ca_file, local=False)


def find_target(data_dir: Path | None, *, embedded: bool) -> Target:
    """The configured platform; else, or when asked for, the running embedded Vers. Raises `VersError`."""
    denied: Denied | None = None
    if not (embedded or data_dir):
        try:
            credentials = Credentials()
            found = credentials.resolve().source
            return Target(credentials, Endpoints.resolve(), f"from {found}")
        except Denied as error:
            denied = error
    running = find_running(data_dir)
    if running is None:
        if denied is not None:
            raise Denied(f"{denied} Nor is an embedded Vers running; start it with: langchain-vers serve") from denied
        raise Unreachable("No embedded Vers is running; start it with: langchain-vers serve")
    endpoints = Endpoints.of_embedded(running.base_url, running.ssh_endpoint, running.ca_file)
    return Target(Credentials(running.api_key), endpoints, f"from the embedded Vers (process {running.pid}, engine {running.engine})")


@asynccontextmanager
async def open_client(target: Target) -> AsyncIterator[VersClient]:
    """A client that gives up sooner than one of a program does."""
    async with VersClient(target.credentials, target.endpoints, retries=1, deadline=20, timeout=10) as client:
        yield client
