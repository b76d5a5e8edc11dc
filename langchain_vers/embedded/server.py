"""The process of an embedded Vers: engine, store, HTTP API and SSH front, put together and run.

One server per data folder. On SIGINT and SIGTERM the machines are stopped and their disks kept. What is reachable from outside, and with
which key, stands in `server.json` of the data folder.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import importlib
import ipaddress
import logging
import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from langchain_vers.embedded.engine import Engine, EngineError
from langchain_vers.embedded.state import (
    DEFAULT_ENGINE,
    LOCK_FILE,
    SERVER_FILE,
    ServerState,
    default_data_dir,
    encode_state,
    make_data_dir,
    process_start_time,
    read_state,
)
from langchain_vers.errors import BadInput, Conflict, Unsupported, VersError

API_KEY_VARIABLE = "VERS_EMBEDDED_API_KEY"
ENGINES = {
    "namespaces": ("langchain_vers.embedded.namespaces", "NamespacesEngine"),
    "process": ("langchain_vers.embedded.process", "ProcessEngine"),
}
INSTALL_HINT = 'The embedded Vers needs packages that are not installed; install them with: pip install "langchain-vers[embedded]"'
_KEEP_ALIVE_SECONDS = 75
_GRACE_SECONDS = 2
_OPEN_FILES = 65536
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """How to serve. `port` and `ssh_port` 0 mean that of the folder's last server if it is still free, else any free one."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    ssh_port: int = 0
    engine: str = DEFAULT_ENGINE
    api_key: str | None = field(default=None, repr=False)
    """None: `$VERS_EMBEDDED_API_KEY`, else the key of the last time, else a new random one."""


def load_engine(name: str, data_dir: Path) -> Engine:
    """The engine of that name, with its own folder below `data_dir`; raises `BadInput`."""
    if name not in ENGINES:
        raise BadInput(f"There is no engine {name!r}; choose one of: {', '.join(ENGINES)}.")
    module, class_name = ENGINES[name]
    folder = data_dir / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = getattr(importlib.import_module(module), class_name)(folder)
    if not isinstance(engine, Engine):
        raise TypeError(f"{class_name} is not an Engine")
    return engine


def _require_loopback(host: str) -> None:
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return
    if host != "localhost":
        raise BadInput(
            f"The API would speak plain HTTP on {host}; only a loopback address such as 127.0.0.1 is served "
            "(use an SSH tunnel to reach it from elsewhere)."
        )


@contextlib.contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """Hold the folder's lock; raises `Conflict` if another server has it."""
    with os.fdopen(os.open(data_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "rb+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"Another server is running on {data_dir}; stop it with: langchain-vers stop --data-dir {data_dir}") from None
        yield


def _api_key(options: Options, known: ServerState | None) -> str:
    key = options.api_key or os.environ.get(API_KEY_VARIABLE) or (known.api_key if known else "") or f"vers-{secrets.token_urlsafe(32)}"
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BadInput("The API key may only hold printable ASCII characters without blanks.")
    return key


def _listener(family: socket.AddressFamily, host: str, port: int, last: int) -> socket.socket:
    """Listen on that port; for 0 on the folder's last one if it can be had, so that clients which hold the old address find us there."""
    if port == 0 and last != 0:
        with contextlib.suppress(OSError):
            return _listener(family, host, last, 0)
    # asyncio sets TCP_NODELAY only where the protocol is named; without it an answer's body waits 40 ms for the client's delayed ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(512)
    except BaseException:
        listener.close()
        raise
    return listener


async def serve(options: Options) -> None:
    """Serve until SIGINT or SIGTERM; raises `VersError` or `EngineError` when it cannot begin."""
    try:
        import uvicorn  # noqa: PLC0415 - these packages are an extra: without them the error must be ours

        from langchain_vers.embedded.api import build_app  # noqa: PLC0415
        from langchain_vers.embedded.fleet import Fleet  # noqa: PLC0415
        from langchain_vers.embedded.keys import ensure_tls, server_context, write_private  # noqa: PLC0415
        from langchain_vers.embedded.ssh import SshFront  # noqa: PLC0415
        from langchain_vers.embedded.store import Store  # noqa: PLC0415
    except ImportError as error:
        raise Unsupported(f"{INSTALL_HINT} ({error.name} is missing).") from error

    class HttpServer(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals are handled below, for all parts of the process."""
            yield

    _require_loopback(options.host)
    make_data_dir(options.data_dir)
    with _alone(options.data_dir), contextlib.ExitStack() as clean_up:
        known = read_state(options.data_dir)
        api_key = _api_key(options, known)
        engine = load_engine(options.engine, options.data_dir)
        front: SshFront | None = None
        try:
            problems = await engine.check()
            if problems:
                raise EngineError(" ".join(problems))
            tls = await asyncio.to_thread(ensure_tls, options.data_dir)
            store = Store(options.data_dir / f"{options.engine}.db")
            clean_up.callback(store.close)
            fleet = Fleet(engine, store)
            await fleet.open()
            stop = asyncio.Event()
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop.set)
                clean_up.callback(loop.remove_signal_handler, number)
            family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
            listener = clean_up.enter_context(_listener(family, options.host, options.port, known.port if known else 0))
            ssh_listener = clean_up.enter_context(_listener(family, options.host, options.ssh_port, known.ssh_port if known else 0))
            ssh_port = ssh_listener.getsockname()[1]
            front = SshFront(fleet, server_context(tls))
            await front.listen(ssh_listener)
            config = uvicorn.Config(
                build_app(fleet, api_key=api_key, ssh_port=ssh_port),
                lifespan="off",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
            http = HttpServer(config)
            serving = asyncio.create_task(http.serve(sockets=[listener]))
            host = f"[{options.host}]" if family == socket.AF_INET6 else options.host
            state = ServerState(
                url=f"http://{host}:{listener.getsockname()[1]}",
                ssh_host=options.host,
                ssh_port=ssh_port,
                api_key=api_key,
                ca_file=str(tls.ca),
                version=version("langchain-vers"),
                engine=options.engine,
                pid=os.getpid(),
                start_time=process_start_time(os.getpid()),
            )
            write_private(options.data_dir / SERVER_FILE, encode_state(state))
            _log.info("serving on %s, SSH over TLS on port %d", state.url, ssh_port)
            _log.info("engine %s: %s", engine.name, engine.isolation)
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            _log.info("stopping")
            http.should_exit = True
            await serving
            write_private(options.data_dir / SERVER_FILE, encode_state(replace(state, pid=None, start_time=None)))
        finally:
            if front is not None:
                await front.close()
            await engine.close()


def run(options: Options) -> int:
    """Serve in this process; the exit status. Failures to begin are told on stderr in one sentence."""
    # What a machine's processes inherit must not depend on who starts the server. Secrets are written with mode 0600 in a folder of 0700.
    os.umask(0o022)
    # Five descriptors for each session: the 1,024 that an ordinary user begins with are enough for 200 of them at most.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # asyncssh tells every channel at level INFO, with the command in it.
    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    if sys.version_info < (3, 12):
        # Later versions choose this by themselves; the older default starts a thread for every process.
        asyncio.set_child_watcher(asyncio.PidfdChildWatcher())
    try:
        asyncio.run(serve(options))
    except (VersError, EngineError) as error:
        sys.stderr.write(f"langchain-vers: {error}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"langchain-vers: the server cannot begin: {error}\n")
        return 1
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m langchain_vers.embedded serve ...`, as the launcher starts it."""
    parser = argparse.ArgumentParser(prog="python -m langchain_vers.embedded", description="A Vers on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("serve", help="serve in the foreground", description=f"The API key is read from ${API_KEY_VARIABLE}.")
    command.add_argument("--data-dir", type=Path, default=None)
    command.add_argument("--host", default="127.0.0.1")
    command.add_argument("--port", type=int, default=0)
    command.add_argument("--ssh-port", type=int, default=0)
    command.add_argument("--engine", choices=sorted(ENGINES), default=DEFAULT_ENGINE)
    parsed = parser.parse_args(argv)
    return run(
        Options(
            data_dir=(parsed.data_dir or default_data_dir()).absolute(),
            host=parsed.host,
            port=parsed.port,
            ssh_port=parsed.ssh_port,
            engine=parsed.engine,
        )
    )
