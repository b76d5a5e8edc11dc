"""Finding, starting and stopping the embedded Vers of this user, from any process.

Blocking functions, to be called in a thread. Only the standard library and httpx are needed here; the server process itself needs the
`embedded` extra. One server serves all processes that use the same data folder, and outlives them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import httpx

from langchain_vers.embedded.state import (
    DEFAULT_ENGINE,
    LAUNCH_LOCK_FILE,
    LOG_FILE,
    ServerState,
    default_data_dir,
    make_data_dir,
    process_start_time,
    read_state,
)
from langchain_vers.errors import Conflict, DeadlineExceeded, Denied, Unreachable

_POLL = 0.02
_LOG_LINES = 15
_LOG_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True)
class ServerInfo:
    """How to reach a running server."""

    base_url: str
    """Without a path, such as `http://127.0.0.1:4711`."""
    ssh_endpoint: tuple[str, int]
    """Where SSH over TLS listens; the TLS server name is `<vm_id>.vm.vers.sh`."""
    api_key: str = field(repr=False)
    ca_file: str
    """The certificate authority that signed the front's certificate (PEM)."""
    pid: int
    engine: str
    version: str


def find_running(data_dir: Path | None = None) -> ServerInfo | None:
    """The server of this folder, if its process lives and answers."""
    state = read_state(data_dir or default_data_dir())
    if state is None or state.pid is None or not _alive(state):
        return None
    try:
        # An environment's proxies are not for a server on this machine; nor are certificates, which httpx would read first.
        answer = httpx.get(f"{state.url}/api/v1/system/version", timeout=5, trust_env=False, verify=False)  # noqa: S501  # plain HTTP
    except httpx.HTTPError:
        return None
    if answer.status_code != 200:
        return None
    return ServerInfo(
        base_url=state.url,
        ssh_endpoint=(state.ssh_host, state.ssh_port),
        api_key=state.api_key,
        ca_file=state.ca_file,
        pid=state.pid,
        engine=state.engine,
        version=state.version,
    )


def ensure_running(data_dir: Path | None = None, *, engine: str | None = None, timeout: float = 30.0) -> ServerInfo:
    """The server of this folder; started, detached from this process, if there is none. `timeout` is in seconds.

    Without `engine`, a server that runs is taken as it is, and one that is started gets the engine of the folder's last server, which made
    the machines there. A folder that no server has used gets `namespaces`. Two processes that call this at once get the same server.

    Raises:
        Conflict: a server with another engine than the one asked for is running on the folder.
        Unreachable: the server ended before it answered; the message holds what it last said.
        DeadlineExceeded: it did not answer in time.
        Denied: the folder cannot be used.

    """
    folder = (data_dir or default_data_dir()).absolute()
    deadline = time.monotonic() + timeout
    running = find_running(folder)
    if running is None:
        try:
            make_data_dir(folder)
        except OSError as error:
            raise Denied(f"The folder {folder} of the embedded Vers cannot be used: {error}.") from error
        with _launch_lock(folder, deadline):
            running = find_running(folder) or _start(folder, engine or _last_engine(folder), deadline)
    if engine is not None and running.engine != engine:
        raise Conflict(
            f"The embedded Vers on {folder} runs with the engine {running.engine}, not {engine}; "
            "stop it with 'langchain-vers stop', or use another data folder."
        )
    return running


def stop(data_dir: Path | None = None, *, timeout: float = 30.0) -> bool:
    """Stop the server of this folder and wait until it has ended; False if there was none. Disks and commits stay.

    Raises:
        DeadlineExceeded: it has not ended after `timeout` seconds.

    """
    folder = data_dir or default_data_dir()
    state = read_state(folder)
    if state is None or state.pid is None or not _alive(state):
        return False
    deadline = time.monotonic() + timeout
    with contextlib.suppress(ProcessLookupError):
        os.kill(state.pid, signal.SIGTERM)
    while _alive(state):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"The embedded Vers (process {state.pid}) has not ended after {timeout:g} s; see {folder / LOG_FILE}.")
        _reap(state.pid)
        time.sleep(_POLL)
    _reap(state.pid)  # one that has only just ended counts as ended, and would stay a zombie
    return True


def _alive(state: ServerState) -> bool:
    """Whether the server's very process lives, and not a later one with its number."""
    if state.pid is None:
        return False
    if state.start_time is not None:
        return process_start_time(state.pid) == state.start_time
    try:
        os.kill(state.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _reap(pid: int) -> None:
    """Collect the server's exit status if this very process started it; otherwise its parent does."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@contextlib.contextmanager
def _launch_lock(folder: Path, deadline: float) -> Iterator[None]:
    """Hold the folder's launch lock."""
    with os.fdopen(os.open(folder / LAUNCH_LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(f"Another process has been starting the embedded Vers on {folder} for too long.") from None
                time.sleep(_POLL)
        yield


def _last_engine(folder: Path) -> str:
    state = read_state(folder)
    return DEFAULT_ENGINE if state is None else state.engine


def _start(folder: Path, engine: str, deadline: float) -> ServerInfo:
    log_path = folder / LOG_FILE
    with _open_log(log_path) as log:
        begin = log.seek(0, os.SEEK_END)
        # No key here: the server finds or makes it, and arguments are there for all to read.
        process = subprocess.Popen(
            [sys.executable, "-m", "langchain_vers.embedded", "serve", "--data-dir", str(folder), "--engine", engine],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            close_fds=True,
            cwd="/",
            env=_environment(),
        )
    while True:
        running = find_running(folder)
        if running is not None:
            # The server outlives this process; without this, a warning would say that it is still running.
            process.returncode = 0
            return running
        if process.poll() is not None:
            raise Unreachable(f"The embedded Vers ended before it answered: {_said(log_path, begin)}")
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise DeadlineExceeded(f"The embedded Vers did not answer in time and was stopped: {_said(log_path, begin)}")
        time.sleep(_POLL)


def _environment() -> dict[str, str]:
    """What the server needs to run, and nothing else: it outlives this process, whose other variables may hold other programs' secrets."""
    names = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH"}
    prefixes = ("LC_", "XDG_", "PYTHON", "VERS_EMBEDDED_")
    kept = {name: value for name, value in os.environ.items() if name in names or name.startswith(prefixes)}
    # It must find the same package, however this process came by it.
    package_root = str(Path(__file__).resolve().parents[2])
    paths = [package_root, *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _open_log(path: Path) -> IO[bytes]:
    """The server's log for appending (0600); one that has grown large is begun anew."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    if path.exists() and path.stat().st_size > _LOG_LIMIT:
        flags |= os.O_TRUNC
    log = os.fdopen(os.open(path, flags, 0o600), "ab")
    path.chmod(0o600)
    return log


def _said(path: Path, begin: int) -> str:
    """The last lines that the server wrote."""
    with path.open("rb") as log:
        log.seek(begin)
        lines = log.read().decode(errors="replace").strip().splitlines()
    return "\n".join(lines[-_LOG_LINES:]) or f"it said nothing (see {path})."
