"""The machine of this very process as a backend: commands run by the same sessions as everywhere else, files by the system's own calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Self, TypeVar

from langchain_vers._io import io
from langchain_vers.backends import guest, local_files
from langchain_vers.backends.base import FileRead, FileStat, Scan
from langchain_vers.backends.environment import Environment, Inherit, checked, checked_names, local_environment
from langchain_vers.backends.pipes import Pipes
from langchain_vers.backends.sessions import Session
from langchain_vers.backends.shell import ShellBackend, check_version
from langchain_vers.errors import Unreachable

T = TypeVar("T")
_LAST_SECONDS = 1.0
"""How long the end of the process waits for a child that was told to end."""
_reaping: set[asyncio.Task[None]] = set()


class LocalBackend(ShellBackend):
    """Runs on this machine, as this user, with this user's rights. There is no isolation of any kind.

    Of this process's environment its commands get what `environment.LOCAL_NAMES` lists (who and where one is, the language, `TERM`, where
    temporary files go), and nothing else: no proxies, keys, or sockets of agents.

    Args:
        root: where commands start and relative paths begin (default: the directory of the process at the time of the call).
        env: further variables for every command; `Secret("NAME")` is read when a command begins, and redacted in what is shown.
        inherit: names of further variables that are passed on as they are (`LC_*`: all that begin so), or "all" for every one whose name
            does not look like a secret's or a proxy's.

    Raises:
        BadInput: a name or value that no environment can hold.
    """

    name = "local"
    checks_premises = False

    def __init__(self, root: str | os.PathLike[str] | None = None, *, env: Environment | None = None, inherit: Inherit = ()) -> None:
        self._root = None if root is None else str(Path(root).absolute())
        self.environment = checked(env or {})
        checked_names(inherit)
        self._inherit = inherit

    @property
    def home(self) -> str:
        """Where commands start: the root, else the directory of the process."""
        return self._root or str(Path.cwd())

    @property
    def user_home(self) -> str:
        """What `~` means to its commands."""
        home = self.environment.get("HOME")
        return home if isinstance(home, str) and home else str(Path.home())

    async def _session(self) -> Session:
        mark = Session.new_mark()
        # The session itself needs them, too: TMPDIR says where it keeps logs. Secrets come with the call.
        plain = {name: value for name, value in self.environment.items() if isinstance(value, str)}
        environment = local_environment(os.environ, added=plain, inherit=self._inherit)
        process = await LocalProcess.start(["/bin/sh", "-c", guest.boot(mark)], cwd=self.home, env=environment)
        return await self._ready(process, mark)

    async def read(self, path: str, *, cwd: str | None = None, offset: int = 0, length: int | None = None) -> FileRead:
        """See `Backend.read`."""
        return await _in_thread(lambda: local_files.read(path, cwd=cwd or self.home, offset=offset, length=length))

    async def write(
        self, path: str, data: bytes, *, cwd: str | None = None, mode: int | None = None, expect: str | None = None
    ) -> FileStat:
        """See `Backend.write`."""
        check_version(expect)
        return await _in_thread(lambda: local_files.write(path, data, cwd=cwd or self.home, mode=mode, expect=expect))

    async def stat(self, path: str, *, cwd: str | None = None) -> FileStat:
        """See `Backend.stat`."""
        return await _in_thread(lambda: local_files.stat(path, cwd=cwd or self.home))

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
        """See `Backend.scan`."""
        return await _in_thread(
            lambda: local_files.scan(path, cwd=cwd or self.home, pattern=pattern, recursive=recursive, ignored=ignored, limit=limit)
        )


async def _in_thread(function: Callable[[], T]) -> T:
    """A file operation in a thread; one that writes is finished also when the caller is cancelled, so that nothing is left half-done."""
    return await asyncio.shield(asyncio.to_thread(function))


class LocalProcess(Pipes):
    """A child process of this one, read and written without blocking. Coroutines of the I/O thread."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        self._child = child
        super().__init__(*(os.dup(stream.fileno()) for stream in (child.stdin, child.stdout, child.stderr)))
        for stream in (child.stdin, child.stdout, child.stderr):
            stream.close()
        self._closed = False

    @classmethod
    async def start(cls, argv: list[str], *, cwd: str, env: Mapping[str, str], pass_fds: Collection[int] = ()) -> Self:
        """Start a child in a session of its own.

        Raises:
            Unreachable: it cannot be started.
        """

        def spawn() -> subprocess.Popen[bytes]:
            return subprocess.Popen(
                argv,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                pass_fds=pass_fds,
            )

        try:
            return cls(await io.blocking(spawn))
        except OSError as error:
            raise Unreachable(f"no shell could be started in {cwd} on this machine: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the three pipes, and reap the child when it ends; does not wait for that."""
        if self._closed:
            return
        self._closed = True
        super().close()
        if self._child.poll() is None:
            self._reap_later()

    def _reap_later(self) -> None:
        try:
            descriptor = os.pidfd_open(self._child.pid)
        except (AttributeError, OSError):  # not Linux, or an old kernel: wait for it in a thread
            io.in_background(self._child.wait)
            return
        task = self._loop.create_task(self._reap(descriptor))
        _reaping.add(task)
        task.add_done_callback(_reaping.discard)

    async def _reap(self, descriptor: int) -> None:
        ended = asyncio.Event()
        self._loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        except asyncio.CancelledError:  # the loop ends: the child has been told to end as well, and is about to
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_SECONDS):
                    await ended.wait()
            raise
        finally:
            self._loop.remove_reader(descriptor)
            os.close(descriptor)
            if self._child.poll() is None and io.ending:
                self._child.returncode = 0  # a command that was left running outlives this process; else a warning would say so
