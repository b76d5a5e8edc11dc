"""One VM for programs: commands and files on it, without a thread, a model or a tool.

It is what evaluators, scores, recipes and tests get in hand. What is done through it belongs to no conversation, and no policy is asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import FileStat
from langchain_vers.backends.vers import VersBackend
from langchain_vers.errors import CommandFailed, Missing

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext


@dataclass(frozen=True)
class CommandResult:
    """How a command on a machine ended.

    Attributes:
        exit_code: 128+n for signal n; None if the time ran out.
        output: stdout and stderr as they were printed, secrets of the context redacted; the last 256 KiB of them.
        truncated: whether `output` is less than the whole.
        timed_out: whether the time ran out, and the command was killed.
        duration: seconds.
        log_path: where the whole output lies on the machine, None if `output` is all.
    """

    exit_code: int | None
    output: str
    truncated: bool = False
    timed_out: bool = False
    duration: float = 0.0
    log_path: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it ended with exit code 0."""
        return self.exit_code == 0


class Machine:
    """A VM that programs work on.

    Methods come in two faces, `run` for sync callers and `arun` for async ones; those that talk to the machine raise `Unreachable` when it
    does not answer and `Gone` when it does not exist any more. Relative paths begin in the home of the machine's user.

    Args:
        context: whose connections and environment are used.
        vm_id: the VM's whole id.
        commit: the commit that it was made from, if that is known.
    """

    def __init__(self, context: BackendContext, vm_id: str, *, commit: str | None = None) -> None:
        self.context = context
        self.vm_id = vm_id
        self.commit = commit

    def __repr__(self) -> str:
        return f"Machine({self.vm_id!r})"

    async def _backend(self) -> VersBackend:
        return await self.context.machine(self.vm_id)

    # --- commands ---

    def run(
        self,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | bytes | None = None,
        timeout: float | None = 600.0,
        check: bool = False,
    ) -> CommandResult:
        """Run a shell command to its end; the context's variables are set for it, and `env` goes before them.

        `timeout` is in seconds, None: no limit. A cancelled call kills the command on the machine. `check`: it must succeed.

        Raises:
            CommandFailed: `check`, and the exit code is not 0.
            Missing: there is no `cwd`.
        """
        return run(self._run(command, cwd=cwd, env=env, stdin=stdin, timeout=timeout, check=check))

    async def arun(
        self,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | bytes | None = None,
        timeout: float | None = 600.0,
        check: bool = False,
    ) -> CommandResult:
        """See `run`."""
        return await on_io(self._run(command, cwd=cwd, env=env, stdin=stdin, timeout=timeout, check=check))

    async def _run(
        self,
        command: str,
        *,
        cwd: str | None,
        env: Mapping[str, str] | None,
        stdin: str | bytes | None,
        timeout: float | None,
        check: bool,
    ) -> CommandResult:
        backend = await self._backend()
        variables = {**self.context.variables.now(None), **(env or {})}
        given = stdin.encode() if isinstance(stdin, str) else stdin
        ended = await backend.exec(command, cwd=cwd, env=variables, stdin=given, timeout=timeout)
        redactor = self.context.redactor(backend)
        output = redactor.text(ended.tail.decode("utf-8", "replace"), cut=ended.truncated)
        result = CommandResult(ended.exit_code, output, ended.truncated, ended.timed_out, ended.duration, ended.log_path)
        if check and not result.ok:
            how = f"did not end within {timeout:g} s" if result.timed_out else f"ended with exit code {result.exit_code}"
            shown = output[-1000:].strip() or "(none)"
            raise CommandFailed(
                f"the command {redactor.text(command)[:100]!r} {how}; its last output: {shown}", result, machine_id=self.vm_id
            )
        return result

    # --- files ---

    def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            Missing, WrongKind, Denied: for the path.
        """
        return run(self._read(path))

    async def aread(self, path: str) -> bytes:
        """See `read`."""
        return await on_io(self._read(path))

    async def _read(self, path: str) -> bytes:
        return (await (await self._backend()).read(path)).data

    def read_text(self, path: str) -> str:
        """A file's content as UTF-8; what is not becomes U+FFFD. Raises as `read`."""
        return self.read(path).decode("utf-8", "replace")

    async def aread_text(self, path: str) -> str:
        """See `read_text`."""
        return (await self.aread(path)).decode("utf-8", "replace")

    def write(self, path: str, content: str | bytes) -> None:
        """Replace a file's content, all or nothing; directories are made.

        Raises:
            WrongKind, Denied, DiskFull: for the path.
        """
        run(self._write(path, content))

    async def awrite(self, path: str, content: str | bytes) -> None:
        """See `write`."""
        await on_io(self._write(path, content))

    async def _write(self, path: str, content: str | bytes) -> None:
        await (await self._backend()).write(path, content.encode() if isinstance(content, str) else content)

    def exists(self, path: str) -> bool:
        """Whether there is anything at a path; a symlink is followed."""
        return run(self._stat(path)) is not None

    async def aexists(self, path: str) -> bool:
        """See `exists`."""
        return await on_io(self._stat(path)) is not None

    async def _stat(self, path: str) -> FileStat | None:
        try:
            found = await (await self._backend()).stat(path)
        except Missing:
            return None
        return None if found.kind == "symlink" else found

    # --- the machine itself ---

    def save(self, name: str | None = None) -> str:
        """Commit memory and disk as they are now; the commit's id."""
        return run(self._save(name))

    async def asave(self, name: str | None = None) -> str:
        """See `save`."""
        return await on_io(self._save(name))

    async def _save(self, name: str | None) -> str:
        async with self.context.resting(self.vm_id):
            return await (await self.context.client()).commit_vm(self.vm_id, name=name)

    def delete(self) -> None:
        """Delete the VM, whoever is on it."""
        run(self._delete())

    async def adelete(self) -> None:
        """See `delete`."""
        await on_io(self._delete())

    async def _delete(self) -> None:
        await (await self.context.client()).delete_vm(self.vm_id)
        self.context.forget_vm(self.vm_id)
