"""The folder of an embedded Vers: where it lies, and the file in it that says how to reach the server.

Shared by the server, which writes it, and the launcher, which reads it; needs the standard library only.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

SERVER_FILE = "server.json"
LOCK_FILE = "server.lock"
LAUNCH_LOCK_FILE = "launch.lock"
LOG_FILE = "server.log"
DEFAULT_ENGINE = "namespaces"
"""The engine of a folder that no server has used yet."""


@dataclass(frozen=True)
class ServerState:
    """Content of `server.json` (mode 0600). `pid` is None when the server was stopped in good order."""

    url: str
    ssh_host: str
    ssh_port: int
    api_key: str = field(repr=False)
    ca_file: str
    version: str
    engine: str
    pid: int | None
    start_time: str | None
    """What tells this process from a later one with the same number."""

    @property
    def port(self) -> int:
        """Where the API listens, or did."""
        return urlsplit(self.url).port or 0


def default_data_dir() -> Path:
    """`$VERS_EMBEDDED_DATA_DIR`, else `langchain-vers` in `$XDG_STATE_HOME` (by default `~/.local/state`)."""
    chosen = os.environ.get("VERS_EMBEDDED_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    state_home = os.environ.get("XDG_STATE_HOME")
    base = Path(state_home) if state_home and Path(state_home).is_absolute() else Path.home() / ".local" / "state"
    return base / "langchain-vers"


def make_data_dir(path: Path) -> None:
    """Make the folder (0700), or take from others what access they have to it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.chmod(0o700)


def read_state(data_dir: Path) -> ServerState | None:
    """What the last server wrote; None if there is nothing that makes sense."""
    try:
        return ServerState(**json.loads((data_dir / SERVER_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def encode_state(state: ServerState) -> bytes:
    """The content of `server.json`."""
    return json.dumps(asdict(state), indent=2).encode() + b"\n"


def process_start_time(pid: int) -> str | None:
    """When a process started, in a form that is only good for comparison; None if there is no such process (or no /proc)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses; the state and 19 more fields follow it.
    fields = stat.rpartition(b")")[2].split()
    if fields[0] in {b"Z", b"X"}:
        return None
    return f"{boot}:{fields[19].decode()}"
