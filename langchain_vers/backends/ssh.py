"""A machine with an SSH server as a backend: reached, checked and logged into as OpenSSH's configuration says.

`ssh_config` reads the configuration and `known_hosts` the keys of hosts; here the connections are made, over jump hosts where need be. What
runs on the machine is the sessions' business; it needs a POSIX sh and coreutils, whatever the login shell is.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
import os
import secrets
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import paramiko

from langchain_vers._io import io
from langchain_vers.backends import known_hosts as known
from langchain_vers.backends import ssh_config
from langchain_vers.backends.environment import Environment, checked
from langchain_vers.backends.known_hosts import Verdict
from langchain_vers.backends.paths import Mount, PathMap
from langchain_vers.backends.pool import SessionPool
from langchain_vers.backends.sessions import Session
from langchain_vers.backends.shell import ShellBackend
from langchain_vers.backends.ssh_config import Hop
from langchain_vers.errors import BadInput, Denied, Unreachable, VersError
from langchain_vers.platform.loop_socket import LoopSocket
from langchain_vers.platform.peers import Peer, fingerprint
from langchain_vers.platform.ssh_login import Keys, log_in
from langchain_vers.platform.tunnel import SSHConnection
from langchain_vers.platform.wires import Wire

CONNECT_SECONDS = 30.0
_noting = threading.Lock()
"""Held while a new key is noted."""


class SSHBackend(ShellBackend):
    """Works on the machine that `ssh target` logs into, over connections that are opened on first use and kept.

    A host whose key is not known is refused unless `accept_new`; one whose key has changed always is.

    Args:
        target: `[user@]host[:port]`, or an alias of the SSH configuration.
        workspace: the directory where commands start and relative paths begin, default the login directory; it must exist.
        mounts: folders of this machine that the machine is to have copies of; there are no binds over SSH.
        env: variables that every command gets; a `Secret` is read when a command needs it, and goes to the machine by standard input.
        key: file of the private key to log in with, instead of those that the configuration names.
        agent: whether the SSH agent's keys may be used.
        config: True: the configuration of this user and of the system, as `ssh` reads them; False: none; or the path of one to use alone.
        known_hosts: a file of known host keys to use instead of the configured ones.
        accept_new: note the key of a host of which nothing is known, and go on.
        host_key: the fingerprint ("SHA256:...") that the machine must show; then `known_hosts` files are not asked about it.

    Raises:
        BadInput: the target is no name of a machine, or a mount is no copy. The configuration is read on first use.
    """

    name = "ssh"

    def __init__(
        self,
        target: str,
        *,
        workspace: str | os.PathLike[str] | None = None,
        mounts: Sequence[Mount] = (),
        env: Environment | None = None,
        key: str | os.PathLike[str] | None = None,
        agent: bool = True,
        config: bool | str | os.PathLike[str] = True,
        known_hosts: str | os.PathLike[str] | None = None,
        accept_new: bool = False,
        host_key: str | None = None,
    ) -> None:
        self._target = ssh_config.parse_target(target)
        self.machine_id: str = str(self._target)
        self.host_key = host_key
        self.mounts = tuple(mounts)
        self.paths = PathMap(self.mounts, resolve=os.path.realpath)
        if bound := next((mount for mount in self.mounts if mount.mode != "copy"), None):
            raise BadInput(f'{bound.host} cannot be bound on {target}, as there are no binds over SSH; give the mount mode="copy"')
        if host_key is not None and not host_key.startswith("SHA256:"):
            raise BadInput('host_key must be a fingerprint as `ssh-keygen -l` prints it, beginning with "SHA256:"')
        self._workspace = None if workspace is None else os.fspath(workspace)
        self.environment = checked(env or {})
        self._key = None if key is None else str(Path(key).expanduser())
        self._agent = agent
        self._config = config if isinstance(config, bool) else os.fspath(config)
        self._known_hosts = None if known_hosts is None else str(Path(known_hosts).expanduser())
        self._accept_new = accept_new
        self._pinned = host_key is not None
        self._pool = SessionPool(self._connect, self._ready)

    def __repr__(self) -> str:
        return f"SSHBackend({self.machine_id!r})"

    @property
    def home(self) -> str | None:
        """Where commands start: the workspace, else the login directory."""
        return self._workspace

    async def _session(self) -> Session:
        try:
            return await self._pool.take()
        except VersError as error:
            error.machine_id = self.machine_id
            raise

    # --- the way to the machine ---

    def _route(self) -> list[Hop]:
        """The machines to connect to one after the other. Reads files."""
        home = str(Path.home())
        if self._config is True:
            files = [(ssh_config.USER_FILE, True), (ssh_config.SYSTEM_FILE, True)]
        else:
            files = [(self._config, False)] if self._config else []
        # Each file begins with what stands for all hosts, whatever block the one before it ended in.
        config = "".join(f"Host *\n{ssh_config.read(file, home, missing_ok=optional)}" for file, optional in files)
        resolve = functools.partial(ssh_config.resolve, config=config, home=home, local_user=getpass.getuser())
        return ssh_config.route(self._target, resolve)

    async def _connect(self) -> SSHConnection:
        connection: SSHConnection | None = None
        hops = await io.blocking(self._route)
        for hop in hops:
            seconds = hop.seconds or CONNECT_SECONDS
            try:
                connection = await self._open(hop, connection, seconds, last=hop is hops[-1])
            except BaseException:
                if connection is not None:
                    await asyncio.shield(connection.close())
                raise
        assert connection is not None
        self.host_key = self.host_key or connection.fingerprint
        return connection

    async def _open(self, hop: Hop, below: SSHConnection | None, seconds: float, *, last: bool) -> SSHConnection:
        lines = await io.blocking(_lines, self._files(hop))
        peer = Peer(
            str(hop.target),
            check=functools.partial(self._check, hop, lines, last),
            log_in=functools.partial(log_in, keys=self._keys(hop, last), name=str(hop.target)),
            way=None if below is None else below.peer.name,
            key_types=known.wanted_kinds(known.about(lines, hop.known_as, hop.known_port)),
            advice="check that the host is up, that its SSH server runs, and that the network is",
        )
        connect: Callable[[], Awaitable[Wire]]
        if below is None:
            connect = functools.partial(LoopSocket.connect, hop.target.host, hop.port)
        else:
            connect = functools.partial(below.wire_to, hop.target.host, hop.port, timeout=seconds)
        connection = await SSHConnection.over(connect, peer, timeout=seconds)
        connection.below = below
        return connection

    def _files(self, hop: Hop) -> tuple[str, ...]:
        return hop.known_hosts if self._known_hosts is None else (self._known_hosts,)

    def _keys(self, hop: Hop, last: bool) -> Keys:
        agent = (hop.agent or os.environ.get("SSH_AUTH_SOCK") if hop.agent is not None else None) if self._agent else None
        user = hop.target.user
        assert user is not None
        if self._key is not None and last:
            return Keys(user, [self._key], agent, only=True, named=True)
        return Keys(user, hop.identities, agent, only=hop.identities_only, named=hop.named)

    def _check(self, hop: Hop, lines: Sequence[known.Line], last: bool, key: paramiko.PKey) -> None:
        """Raise `Unreachable` unless this is the key of the host."""
        shown, name = fingerprint(key), str(hop.target)
        if last and self.host_key is not None:
            if shown != self.host_key:
                raise Unreachable(
                    f"{name} shows the host key {shown}, but {self.host_key} was expected; if the machine was rebuilt on purpose, make the "
                    "backend anew with its present key"
                )
            if self._pinned:
                return
        verdict = known.judge(lines, hop.known_as, hop.known_port, key.asbytes())
        if verdict is Verdict.KNOWN:
            return
        if verdict is Verdict.REVOKED:
            raise Unreachable(f"{name} shows the host key {shown}, which is marked as revoked; do not connect until you know why")
        if verdict is Verdict.CHANGED:
            places = ", ".join(line.place for line in known.about(lines, hop.known_as, hop.known_port))
            raise Unreachable(
                f"{name} shows the host key {shown}, but another one is known for it ({places}): somebody may be in between; if the "
                f"machine was rebuilt on purpose, remove the old key with: ssh-keygen -R '{known.name_of(hop.known_as, hop.known_port)}'"
            )
        if not (self._accept_new or hop.accepts_new):
            raise Unreachable(
                f"the host key of {name} is not known ({key.get_name()} {shown}); compare it with the machine's own, and connect once with "
                f"`ssh {hop.alias}` to note it, give it as host_key, or accept new hosts with accept_new=True"
            )
        if (file := self._known_hosts or hop.notes) is not None:
            salt = secrets.token_bytes(20) if hop.hashed else None
            _note(file, known.entry(hop.known_as, hop.known_port, key.get_name(), key.asbytes(), salt=salt))

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._pool.close()


def _lines(files: Sequence[str]) -> list[known.Line]:
    """The entries of those files that exist.

    Raises:
        Denied: one cannot be read: what it says of a changed key must not be missed.
    """
    lines: list[known.Line] = []
    for file in files:
        try:
            text = Path(file).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise Denied(f"the file of known hosts {file} cannot be read ({error.strerror or error})") from error
        lines += known.parse(text, file)
    return lines


def _note(file: str, entry: str) -> None:
    """Add an entry, in one write, to a file that is this user's own."""
    path = Path(file)
    try:
        with _noting:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "r+b", buffering=0) as opened:
                size = os.fstat(descriptor).st_size
                unfinished = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                opened.write(b"\n" * unfinished + entry.encode())
    except OSError as error:
        raise Denied(
            f"the new host key could not be noted in {file} ({error.strerror or error}), so that it would not be known again; name another "
            "file with known_hosts"
        ) from error
