"""The Gondolin micro-VMs of this process: starting one through the Node bridge, finding it again, and ending it.

A VM lives as long as its bridge, and that as long as this process: it ends when its standard input does, and QEMU is killed when it ends,
however it does. So nothing outlives this process but snapshots, and a folder of temporary files when both were killed at once; such folders
are removed when the next VM starts. Everything that a VM has on this machine (its disk, its sockets) lies in one folder that only this user
can enter.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from langchain_vers._io import io
from langchain_vers.backends.gondolin_room import Room
from langchain_vers.backends.gondolin_socket import GondolinConnection
from langchain_vers.backends.local import LocalProcess
from langchain_vers.errors import BadInput, Conflict, DeadlineExceeded, Gone, Unreachable

PACKAGE = "@earendil-works/gondolin"
BRIDGE = Path(__file__).with_name("gondolin_bridge.mjs")
PASSED_ON = (
    "PATH", "HOME", "LANG", "XDG_CACHE_HOME", "GONDOLIN_GUEST_DIR", "GONDOLIN_DEFAULT_IMAGE", "GONDOLIN_IMAGE_STORE",
    "GONDOLIN_IMAGE_REGISTRY_URL", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
"""Variables of this process that the bridge sees: where programs and images are. The guest sees none of them."""
END_SECONDS = 4.0
"""How long a bridge may take to end its VM before it is killed."""
_GRACE_SECONDS = 30.0
"""How much longer than the SDK's own limit a start may take: Node has to load it."""
_SNAPSHOT_SECONDS = 600.0
_LOG_LIMIT = 4096
_LONGEST_BASE = 40
"""Bytes; a socket's whole path has at most 108 (Linux) or 104 (macOS), and the SDK's names are long."""
_LOCK = "lock"
_PREFIX = "vers-gondolin-"

machines: dict[str, Machine] = globals().get("machines", {})
"""All that live, by their ids; kept when this module is reloaded."""


@dataclass(frozen=True)
class Programs:
    """What runs the bridge: Node, and the folder of the SDK."""

    node: str
    sdk: str


def find_programs(node: str | None, sdk: str | None, environment: Mapping[str, str], folder: Path) -> Programs:
    """Node and the SDK: as given, else from `VERS_GONDOLIN_NODE` and `VERS_GONDOLIN_SDK`, else from `node_modules` of the folder or of one
    above it, else (Node) from the PATH and (the SDK) from where npm installs globally beside it.

    Raises:
        Unreachable: one is not there; the message says what to install.
    """
    modules = [above / "node_modules" for above in (folder, *folder.parents)]
    given = sdk or environment.get("VERS_GONDOLIN_SDK")
    found_sdk = Path(given) if given else next((place / PACKAGE for place in modules if (place / PACKAGE / "package.json").exists()), None)
    chosen = node or environment.get("VERS_GONDOLIN_NODE")
    if not chosen:
        if found_sdk is not None:
            modules.insert(0, found_sdk.parents[1])
        beside = next((place / "node/bin/node" for place in modules if os.access(place / "node/bin/node", os.X_OK)), None)
        chosen = str(beside) if beside is not None else shutil.which("node", path=environment.get("PATH"))
    if chosen is None or not os.access(chosen, os.X_OK) or Path(chosen).is_dir():
        raise Unreachable(
            f"{chosen or 'Node'} is no program on this machine, and Gondolin needs Node 23.6 or newer: install it with "
            "`npm install node@24`, or give its path as `node` or in VERS_GONDOLIN_NODE"
        )
    if found_sdk is None:
        everywhere = Path(chosen).resolve().parents[1] / "lib/node_modules" / PACKAGE
        found_sdk = everywhere if everywhere.exists() else None
    if found_sdk is None or not (found_sdk / "package.json").exists():
        raise Unreachable(
            f"Gondolin's SDK was not found{f' in {found_sdk}' if found_sdk else ''}: install it with `npm install node@24 {PACKAGE}` "
            "in this folder or one above it, or give the package's folder as `sdk` or in VERS_GONDOLIN_SDK"
        )
    return Programs(str(Path(chosen).absolute()), str(found_sdk.absolute()))


class _Bridge(LocalProcess):
    """The Node process, which leads a session of its own; QEMU is in it."""

    def kill(self) -> None:
        """Kill it, and QEMU, also if it has gone and QEMU has not."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)


class Machine:
    """A micro-VM that runs. Coroutines of the I/O thread."""

    def __init__(self, bridge: _Bridge, folder: Path, lock: IO[str]) -> None:
        self._bridge = bridge
        self._folder = folder
        self._lock = lock
        self._log = b""
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._requests = 0
        self._ready: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._connections: set[GondolinConnection] = set()
        self._over = asyncio.Event()
        self.id = ""
        self.socket = ""
        self.placeholders: Mapping[str, str] = {}
        """What the guest's variables hold in place of its secrets."""
        self.room: Room | None = None
        """Where its commands run, None where the guest's kernel or programs do not suffice for one."""
        self.gone: str | None = None
        """Why it does not live any more, None while it does."""
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def start(cls, programs: Programs, config: Mapping[str, Any], *, seconds: float, checkpoint: Path | None = None) -> Machine:
        """Start a VM; when this returns, its guest answers. `seconds` is how long the guest may take.

        Raises:
            Unreachable: it could not be started; the message has the SDK's reason.
            DeadlineExceeded: it did not come up in time.
        """
        folder, lock = await io.blocking(_make_folder)
        try:
            base = None
            if checkpoint is not None:
                base = folder / "base.qcow2"
                await io.blocking(_link_or_copy, checkpoint, base)
            environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
            # In a folder of their own, as the SDK takes other sockets beside them for left over and removes them.
            environment |= {"TMPDIR": str(folder), "GONDOLIN_SESSIONS_DIR": str(folder / "sessions")}
            bridge = await _Bridge.start([programs.node, str(BRIDGE), programs.sdk], cwd=str(folder), env=environment)
        except BaseException:
            await io.blocking(_remove_folder, folder, lock)
            raise
        assert isinstance(bridge, _Bridge)
        machine = cls(bridge, folder, lock)
        io.at_close(machine, machine.end)
        try:
            with contextlib.suppress(Unreachable):  # it has ended already, and the reason is in what it printed
                await bridge.send(json.dumps({**config, "checkpoint": base and str(base)}).encode() + b"\n")
            async with asyncio.timeout(seconds + _GRACE_SECONDS):
                ready = await asyncio.shield(machine._ready)
        except TimeoutError:
            await machine.end()
            raise DeadlineExceeded(
                f"the micro-VM did not start within {seconds + _GRACE_SECONDS:.0f} s; give it more start_seconds"
            ) from None
        except BaseException:
            await machine.end()
            raise
        machine.id, machine.socket, machine.placeholders = ready["id"], ready["socket"], ready["placeholders"]
        machine.room = None if ready["room"] is None else Room(int(ready["room"]))
        machines[machine.id] = machine
        return machine

    async def connect(self, environment: Mapping[str, str]) -> GondolinConnection:
        """A further connection to its session.

        Raises:
            Gone: it does not live any more.
        """
        self.check()
        try:
            connection = await GondolinConnection.open(self.socket, lambda: environment, self.room)
        except Unreachable:
            # The bridge closes its socket a little before it is seen to have ended.
            await self.settled(1.0)
            raise
        self._connections.add(connection)
        connection.ended.add_done_callback(lambda _: self._connections.discard(connection))
        return connection

    def check(self) -> None:
        """Raises:
        Gone: it does not live any more.
        """
        if self.gone is not None:
            raise Gone(
                f"the Gondolin micro-VM {self.id} does not exist any more: {self.gone}; restore a snapshot, or make a new one",
                machine_id=self.id,
            )

    async def settled(self, seconds: float) -> None:
        """Wait that long for its end.

        Raises:
            Gone: it has come.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        self.check()

    async def snapshot(self, target: Path, name: str) -> None:
        """Write its disk as it is now to a checkpoint file of Gondolin's; the VM goes on.

        Raises:
            Gone: it does not live any more.
            Conflict: it could not be done; the message has the reason.
        """
        await self._request({"op": "snapshot", "path": str(target), "name": name})

    async def _request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        self.check()
        self._requests += 1
        number = self._requests
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            await self._bridge.send(json.dumps({**message, "request": number}).encode() + b"\n")
            async with asyncio.timeout(_SNAPSHOT_SECONDS):
                found: dict[str, Any] = await answer
        except TimeoutError:
            raise DeadlineExceeded(f"the Gondolin micro-VM {self.id} took too long for its {message['op']}", machine_id=self.id) from None
        finally:
            self._answers.pop(number, None)
        if "error" in found:
            raise Conflict(f"the {message['op']} of the Gondolin micro-VM {self.id} failed: {found['error']}", machine_id=self.id)
        return found

    async def _read(self) -> None:
        """Take the bridge's lines until it has ended."""
        partial = b""
        reason = ""
        try:
            while (received := await self._bridge.receive())[0] != 0:
                kind, data = received
                if kind == 2:
                    self._log = (self._log + data)[-_LOG_LIMIT:]
                    continue
                *lines, partial = (partial + data).split(b"\n")
                for line in lines:
                    reason = self._take(line) or reason
        finally:
            self._ended(reason or f"its bridge has ended{self._last_words()}")

    def _take(self, line: bytes) -> str:
        """Take a line of the bridge; the reason if it is about to end."""
        try:
            message = json.loads(line)
        except ValueError:  # something that the SDK has printed
            self._log = (self._log + line + b"\n")[-_LOG_LIMIT:]
            return ""
        if (answer := self._answers.get(message.get("answer"))) is not None and not answer.done():
            answer.set_result(message)
        elif message.get("event") == "ready" and not self._ready.done():
            self._ready.set_result(message)
        elif message.get("event") == "failed" or message.get("event") == "stopped":
            return str(message["reason"])
        return ""

    def _last_words(self) -> str:
        words = self._log.decode(errors="replace").strip()
        return f" ({words[-500:]})" if words else ""

    def _ended(self, reason: str) -> None:
        self.gone = self.gone or reason
        machines.pop(self.id, None)
        self._bridge.kill()
        self._bridge.close()
        if not self._ready.done():
            self._ready.set_exception(Unreachable(f"the Gondolin micro-VM could not be started: {self.gone}"))
            self._ready.exception()  # it may be that nobody waits any more
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(Gone(f"the Gondolin micro-VM {self.id} does not exist any more: {self.gone}", machine_id=self.id))
        self._over.set()
        io.in_background(_remove_folder, self._folder, self._lock)
        io.forget(self)

    async def end(self) -> None:
        """End it, and wait until nothing of it is left on this machine. May be called twice."""
        self.gone = self.gone or "it was deleted"
        machines.pop(self.id, None)
        for connection in list(self._connections):
            await connection.abort()
        with contextlib.suppress(Unreachable):
            await self._bridge.send_eof()
        try:
            async with asyncio.timeout(END_SECONDS):
                await self._over.wait()
        except TimeoutError:
            self._bridge.kill()
            await self._over.wait()
        await asyncio.gather(self._reading, return_exceptions=True)
        await io.blocking(_remove_folder, self._folder, self._lock)


def _link_or_copy(source: Path, target: Path) -> None:
    """The same file under a further name, so that it stays when the first name goes.

    Raises:
        Gone: there is no such file.
    """
    try:
        target.hardlink_to(source)
    except FileNotFoundError:
        raise Gone(f"the snapshot {source.stem} does not exist (any more)") from None
    except OSError:  # another file system
        shutil.copyfile(source, target)


def _base() -> Path:
    # Names of sockets are short, and macOS's own folder for temporary files is long.
    return Path("/tmp") if sys.platform == "darwin" else Path(tempfile.gettempdir())  # noqa: S108  # the folder is made by mkdtemp


def _make_folder() -> tuple[Path, IO[str]]:
    """A folder for a VM, with a lock that this process holds; those of processes that have died are removed."""
    base = _base()
    for left in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            _sweep(left)
    if len(os.fsencode(base)) > _LONGEST_BASE:
        raise BadInput(f"the folder for temporary files {base} has too long a name for sockets in it; set TMPDIR to a shorter one")
    made = Path(tempfile.mkdtemp(prefix=".vers-", dir=base))
    lock = (made / _LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Under a name that is swept only when it has its lock.
    folder = made.rename(base / f"{_PREFIX}{made.name[-8:]}")
    return folder, lock


def _sweep(folder: Path) -> None:
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return
    with (folder / _LOCK).open("r") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it is in use
        shutil.rmtree(folder, ignore_errors=True)


def _remove_folder(folder: Path, lock: IO[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()
