"""What a backend owes: the protocol that every place where work runs speaks, and its result types.

Five primitives; everything else is derived from them once, here or in the tools. A backend that can also version its machine implements
`Snapshots`; capabilities are types, checked with `isinstance`. Making and deleting machines is the platform's business, not a backend's.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from langchain_vers._process import keep_classes
from langchain_vers.backends.environment import EMPTY, Environment
from langchain_vers.backends.paths import UNMAPPED, PathMap

OutputCallback = Callable[[bytes], Awaitable[None] | None]
"""Called on the I/O thread with each chunk of merged output as it arrives; chunks may split UTF-8 sequences."""

ABSENT = "absent"
"""As `expect` of `Backend.write`: the file must not exist yet."""


def version_of(data: bytes) -> str:
    """The version of a file with this content: its SHA-256 in hex, the same on every backend."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class ExecResult:
    """How a command ended.

    Exactly one of three ends: an exit code (`exit_code` set, `timed_out` False), a signal (`exit_code` is 128+n and `signal` is n),
    or a time-out (`timed_out` True, `exit_code` None; the command and its children were killed on the guest).
    """

    exit_code: int | None
    """0 to 255, 128+n after signal n; None if the time ran out."""
    tail: bytes
    """The last bytes of merged stdout and stderr in order of arrival, at most the backend's `tail_limit`."""
    total_bytes: int
    """How many bytes the command printed in all."""
    total_newlines: int
    """How many newline characters it printed in all."""
    duration: float
    """Seconds, as the caller saw it."""
    signal: int | None = None
    """The number of the signal that it died of, such as 9; None if it ended by itself or the time ran out."""
    timed_out: bool = False
    """Whether `timeout` ran out, and the command was killed for that."""
    cwd: str | None = None
    """The directory that the command left, None if it is not known."""
    log_path: str | None = None
    """Where the whole output lies on the same backend; set when it is longer than `tail`, or still growing."""
    reconnects: int = 0
    """How many times a connection had to be made anew for this call."""

    @property
    def truncated(self) -> bool:
        """Whether `tail` is less than the whole output."""
        return self.total_bytes > len(self.tail)


@dataclass(frozen=True)
class FileStat:
    """What a path is."""

    kind: Literal["file", "directory", "symlink", "other"]
    """"other": a device, a socket or a named pipe."""
    size: int
    """Bytes."""
    mode: int
    """Permission bits, 0 to 0o7777."""
    mtime: float
    """Seconds since the epoch."""


@dataclass(frozen=True)
class FileRead:
    """Bytes of a file and what the file was when they were read."""

    data: bytes
    """The part of the file that was asked for; shorter where the file ends."""
    stat: FileStat
    """Of the whole file."""


@dataclass(frozen=True)
class Entry:
    """One path that a scan found."""

    path: str
    """Relative to the scanned directory, with '/' between parts, no leading './'."""
    kind: Literal["file", "directory", "symlink", "other"]
    """Of the entry itself: a symlink is not followed."""
    size: int = 0
    """Bytes of a file, 0 for anything else."""


@dataclass(frozen=True)
class Scan:
    """What a scan found, sorted by path (byte order)."""

    entries: list[Entry] = field(default_factory=list)
    """At most `limit` of them."""
    truncated: bool = False
    """Whether there was more than `limit`."""


class Backend(ABC):
    """A place where work runs. All methods are coroutines of the I/O thread.

    Paths are absolute, or relative to the `cwd` that each call is given (None: the backend's home). Every method raises `Unreachable` when
    the machine does not answer, `Gone` when it does not exist any more, `BadInput` for a path with a NUL.
    """

    name: str
    """The backend's name in artifacts and in `use_backend`, such as "vers" or "local"."""
    machine_id: str | None = None
    """Which machine it is, None where there is only one."""
    tail_limit: int = 256 * 1024
    """Bytes of output that `exec` keeps in memory for its result."""
    environment: Environment = EMPTY
    """Variables that are set for every command; a `Secret` is read when the command begins. What a call's `env` says goes before."""
    paths: PathMap = UNMAPPED
    """Which folders of the host it sees under which names."""
    checks_premises: bool = False
    """Whether its machine can look, before a call begins there, that paths are where they were taken to be (`ShellBackend.expecting`)."""

    @abstractmethod
    async def exec(
        self,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout: float | None = None,
        on_output: OutputCallback | None = None,
    ) -> ExecResult:
        """Run a shell command (bash where the machine has it, else sh) with stdout and stderr merged.

        When the time runs out, or the awaiting task is cancelled, the command's whole process tree is killed on the machine, and partial
        output is kept in the result. Background processes that outlive the command are left alone.

        Args:
            command: text for the shell.
            cwd: where it starts; None is the backend's home.
            env: variables besides those of the backend, which they go before.
            stdin: bytes for its standard input; None is an empty one.
            timeout: seconds from when the machine begins the command; None is no limit.
            on_output: called with each chunk of output as it arrives.

        Raises:
            BadInput: the command is empty or has a NUL, or the timeout is no positive number.
            Interrupted: the connection broke while the command ran.
            Missing: `cwd` does not exist.
        """

    @abstractmethod
    async def read(self, path: str, *, cwd: str | None = None, offset: int = 0, length: int | None = None) -> FileRead:
        """Bytes `offset` to `offset + length` of a regular file (to its end if `length` is None). Symlinks are followed.

        Raises:
            Missing, WrongKind, Denied: for the path.
            BadInput: `offset` or `length` is negative.
        """

    @abstractmethod
    async def write(
        self,
        path: str,
        data: bytes,
        *,
        cwd: str | None = None,
        mode: int | None = None,
        expect: str | None = None,
    ) -> FileStat:
        """Replace a file's content atomically; parent directories are made.

        The old content stays whole until all of the new one has arrived. A symlink is followed. `mode` None keeps the mode of an existing
        file (0o666 less the umask for a new one). `expect` is `version_of` the content that is to be replaced, or `ABSENT`.

        Raises:
            Conflict: the file is not as `expect` says; nothing was written.
            WrongKind, Denied, DiskFull: for the path.
        """

    @abstractmethod
    async def stat(self, path: str, *, cwd: str | None = None) -> FileStat:
        """What a path is; a symlink is followed (a dangling one is of kind "symlink").

        Raises:
            Missing, Denied: for the path.
        """

    @abstractmethod
    async def scan(
        self,
        path: str,
        *,
        cwd: str | None = None,
        pattern: str | None = None,
        recursive: bool = False,
        ignored: bool = True,
        limit: int = 1000,
    ) -> Scan:
        """The entries of a directory, or of its whole tree (hidden ones included, `.git` never entered).

        `pattern` is a glob: without '/' it is matched against names, otherwise against relative paths; `**` crosses directories.
        `ignored` False leaves out what `.gitignore` files below `path` exclude.

        Raises:
            Missing, WrongKind, Denied: for the path.
            BadInput: for the pattern.
        """

    async def close(self) -> None:  # noqa: B027 - a backend may have nothing to give back
        """Give back connections and processes of this side. The machine lives on. May be called twice."""


class Snapshots(ABC):
    """A backend whose machine can be versioned."""

    @abstractmethod
    async def snapshot(self, *, name: str | None = None) -> str:
        """Commit the machine as it is now; the reference that `restore` takes.

        `name` is for people, or the reference itself, as the backend says.

        Raises:
            Conflict: the machine is not in a state for it.
        """

    @abstractmethod
    async def restore(self, ref: str) -> str:
        """A new machine as it was at `ref`; its id. This machine is left alone.

        Raises:
            Gone: there is no such snapshot.
        """

    @abstractmethod
    async def branch(self, count: int = 1) -> list[str]:
        """`count` new machines as this one is now; their ids.

        Raises:
            BadInput: so many cannot be made.
        """

    @abstractmethod
    def at(self, machine_id: str) -> Backend:
        """Another machine of the same engine, with the same settings: one that `restore` or `branch` has made."""


# A backend from before a reload is a backend after it.
keep_classes(globals())
