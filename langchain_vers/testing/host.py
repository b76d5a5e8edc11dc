"""The side of an escape that must not be reached: this machine, and how one sees that nobody got here.

Secrets in files, a listener on every kind of local address, and the processes that carry a mark. Portable to every POSIX system that the
tests run on; nothing here knows of backends.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

ANSWER_SECONDS = 10.0
"""Seconds that the listener waits for somebody whom a test has sent."""
_SILENT_SECONDS = 1.0


def new_mark() -> str:
    """A word that stands nowhere else on this machine."""
    return f"escape{secrets.token_hex(10)}"


@contextlib.contextmanager
def secret_files(content: str) -> Iterator[list[Path]]:
    """Files with this content where people keep theirs: the home, the folders for temporary files, the current folder. 0600 and 0644."""
    parents = dict.fromkeys(Path(path).resolve() for path in (Path.home(), tempfile.gettempdir(), "/var/tmp", Path.cwd()))  # noqa: S108
    folders: list[Path] = []
    files: list[Path] = []
    try:
        for parent in parents:
            with contextlib.suppress(OSError):  # not everybody may write everywhere
                folder = Path(tempfile.mkdtemp(prefix=".escape-", dir=parent))
                folder.chmod(0o755)
                folders.append(folder)
                for name, mode in (("id_ed25519", 0o600), ("notes.txt", 0o644)):
                    path = folder / name
                    path.write_text(content + "\n")
                    path.chmod(mode)
                    files.append(path)
        yield files
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def private_system_files() -> list[Path]:
    """Files of this machine's system that not everybody may read, and that are there."""
    found = [Path("/etc", name) for name in ("shadow", "gshadow", "sudoers", "master.passwd", "krb5.keytab")]
    found += sorted(Path("/etc/ssh").glob("ssh_host_*_key")) if Path("/etc/ssh").is_dir() else []
    return [path for path in found if path.is_file() and path.stat().st_size > 0]


def processes_with(mark: str) -> list[int]:
    """The processes of this machine that have this text in their command line, other than those that are dead and wait to be reaped."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(mark in argument for argument in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


@contextlib.contextmanager
def bystander(mark: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this machine that has nothing to do with any sandbox, with the mark in its command line and its environment."""
    child = subprocess.Popen(
        ["sh", "-c", "echo up; read -r _", mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "BYSTANDER": mark}
    )
    assert child.stdin is not None and child.stdout is not None
    try:
        assert child.stdout.readline() == b"up\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def own_addresses() -> list[str]:
    """The IPv4 addresses of this machine, its loopback first."""
    found = [address.address for addresses in psutil.net_if_addrs().values() for address in addresses if address.family == socket.AF_INET]
    return list(dict.fromkeys(["127.0.0.1", *found]))


class Listener:
    """Listens on this machine and writes down who comes: TCP and UDP on all addresses (IPv4 and IPv6), and unix sockets.

    Visitors say a line; one that says nothing is written down as "(silent)".
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="escape-listener-")
        self.path = f"{self._folder.name}/socket"
        self.abstract = new_mark() if sys.platform == "linux" else None
        """The name of a socket that lies in no folder: Linux gives those out per network, not per file system."""
        tcp = _bound(socket.AF_INET, socket.SOCK_STREAM, ("0.0.0.0", 0))  # noqa: S104  # that is the point
        self.port: int = tcp.getsockname()[1]
        self._sockets = [tcp, _bound(socket.AF_INET, socket.SOCK_DGRAM, ("0.0.0.0", self.port))]  # noqa: S104
        with contextlib.suppress(OSError):  # no IPv6 here
            self._sockets.append(_bound(socket.AF_INET6, socket.SOCK_STREAM, ("::", self.port)))
        self._sockets.append(_bound(socket.AF_UNIX, socket.SOCK_STREAM, self.path))
        if self.abstract is not None:
            self._sockets.append(_bound(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{self.abstract}"))
        self._heard: list[str] = []
        self._news = threading.Condition()
        self._bell, self._ringer = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="escape-listener", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for each in (self._bell, *self._sockets):
                selector.register(each, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._bell:
                        return
                    assert isinstance(key.fileobj, socket.socket)
                    said = _said(key.fileobj)
                    with self._news:
                        self._heard.append(said)
                        self._news.notify_all()

    def visits(self) -> list[str]:
        """Who has come so far. Each socket is visited once more from here, as queues keep their order."""
        marks = []
        for each in self._sockets:
            marks.append(new_mark())
            self._visit(each, marks[-1].encode() + b"\n")
        with self._news:
            assert self._news.wait_for(lambda: set(marks) <= set(self._heard), ANSWER_SECONDS), self._heard
            self._heard = [said for said in self._heard if said not in marks]
            return list(self._heard)

    def forget(self) -> None:
        """Forget who has come so far."""
        self.visits()
        self._heard.clear()

    def _visit(self, listening: socket.socket, line: bytes) -> None:
        address = listening.getsockname()
        if listening.family in (socket.AF_INET, socket.AF_INET6):
            address = ("127.0.0.1" if listening.family == socket.AF_INET else "::1", self.port)
        with socket.socket(listening.family, listening.type) as visitor:
            visitor.connect(address)
            visitor.sendall(line)

    def close(self) -> None:
        """Stop listening."""
        self._ringer.close()
        self._thread.join(ANSWER_SECONDS)
        for each in (self._bell, *self._sockets):
            each.close()
        self._folder.cleanup()


def _bound(family: int, kind: int, address: str | tuple[str, int]) -> socket.socket:
    made = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen(64)
    except OSError:
        made.close()
        raise
    return made


def _said(listening: socket.socket) -> str:
    if listening.type == socket.SOCK_DGRAM:
        return listening.recv(1024).decode(errors="replace").strip() or "(silent)"
    visitor, _ = listening.accept()
    with visitor:
        visitor.settimeout(_SILENT_SECONDS)
        with contextlib.suppress(OSError):
            return visitor.recv(1024).decode(errors="replace").strip() or "(silent)"
    return "(silent)"


def reaching(listener: Listener, addresses: Sequence[str], word: str) -> str:
    """A shell script that says `word` to the listener in all ways that the machine has the programs for. It ends within half a minute."""
    program = "\n".join(
        [
            "import socket, sys",
            "def say(family, kind, address):",
            "    try:",
            "        s = socket.socket(family, kind); s.settimeout(5); s.connect(address); s.sendall(sys.argv[1].encode()); s.close()",
            "    except (OSError, AttributeError): pass",
            f"for a in {list(addresses)!r}:",
            f"    say(socket.AF_INET, socket.SOCK_STREAM, (a, {listener.port}))",
            f"    say(socket.AF_INET, socket.SOCK_DGRAM, (a, {listener.port}))",
            f"say(socket.AF_INET6, socket.SOCK_STREAM, ('::1', {listener.port}))",
            f"say(socket.AF_UNIX, socket.SOCK_STREAM, {listener.path!r})",
            *([f"say(socket.AF_UNIX, socket.SOCK_STREAM, '\\0{listener.abstract}')"] if listener.abstract else []),
        ]
    )
    lines = ['limit() { if command -v timeout >/dev/null; then timeout 10 "$@"; else "$@"; fi; }', "{"]
    gateway = "$(ip route 2>/dev/null | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p' | head -n 1)"
    for address in (*addresses, gateway, "host.docker.internal", "10.0.2.2"):
        for kind in ("tcp", "udp"):
            lines.append(f"limit bash -c 'echo {word} >/dev/{kind}/'\"{address}\"'/{listener.port}' &")
        lines.append(f'echo {word} | limit nc -w 3 "{address}" {listener.port} &')
        lines.append(f'limit curl -s -m 5 "http://{address}:{listener.port}/{word}" &')
        lines.append(f'limit wget -q -T 5 -t 1 -O /dev/null "http://{address}:{listener.port}/{word}" &')
    lines.append(f"limit python3 - {word} <<'PROGRAM' &\n{program}\nPROGRAM")
    lines.append("wait; } >/dev/null 2>&1; echo tried")
    return "\n".join(lines)
