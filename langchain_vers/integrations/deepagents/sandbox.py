"""The backend for Deep Agents: one object for all threads.

Each call goes where its thread is, by the same routing as the tools of `VersToolkit`, which
may be used beside it: policies, secrets, mounted folders and the versions of a `VersSaver` hold for Deep Agents' own tools as for those.
File operations are those of the machine's backend (`operations.py`), in one or two round trips and without Python on the
machine; `execute` shows its output while it runs, on all ways that LangChain has (`tools/showing.py`).
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

from deepagents.backends.protocol import (
    DeleteResult,
    EditResult,
    ExecuteOffloadResult,
    ExecuteResponse,
    FileDownloadResponse,
    FileUploadResponse,
    GlobResult,
    GrepResult,
    LsResult,
    ReadResult,
    WriteResult,
)
from deepagents.backends.sandbox import BaseSandbox
from langchain_core.runnables import RunnableConfig

from langchain_vers._io import on_io, run
from langchain_vers.context import BackendContext
from langchain_vers.errors import BadInput
from langchain_vers.integrations.deepagents import answers, specs
from langchain_vers.integrations.deepagents.operations import Capture
from langchain_vers.integrations.deepagents.place import Standing, SubAgents, standing
from langchain_vers.integrations.deepagents.subagents import SubAgentMachine, delete_subagent_machines, subagent_machines
from langchain_vers.toolkit import VersToolkit
from langchain_vers.tools.abandoning import leaving
from langchain_vers.tools.adapter import Work
from langchain_vers.tools.base import Answer, ToolSpec
from langchain_vers.tools.showing import Shower
from langchain_vers.tools.tracing import annotate
from langchain_vers.turns import Place

_REMEMBERED = 256
_CAPTURE_LIMIT = 10 * 1024 * 1024
"""Bytes of an output that stay on the machine, as with Deep Agents' own sandboxes."""
_AT_ONCE = 8
"""Files that are transferred side by side."""


Wanted = tuple[str, ToolSpec, dict[str, Any]]
"""What is to be carried out, on behalf of which tool, with which arguments."""


class VersSandbox(BaseSandbox):
    """A sandbox of Deep Agents whose calls go to the machine of the thread that runs.

    Args:
        context: where to route by: a `BackendContext`, or a `VersToolkit` whose tools are used beside it. Default: a context of its own.
        subagents: "share": sub-agents work on the thread's machine; "branch": each run of one works on a branch of it, made at its first
            call from the machine as it is then; or the names of those that do. Branches are labelled, and stay until they are deleted.
            Those of an attempt of `explore`, or of a worker behind `on_branch`, work on its machine in any case.
        options: of the context, if none is given; see `BackendContext`.

    No method raises for what may happen to a machine: a result of Deep Agents says it. A thread without a machine works on this one, or
    with `local=False` is refused with the remedy. Paths are absolute. `glob` and `grep` without a path begin in the thread's working
    directory.

    Raises:
        BadInput: both a context and options for one; or `subagents` is nothing of the above.
    """

    grep_exclude_dirs: tuple[str, ...] = (".git",)
    """Names of directories that `grep` leaves out, unless it begins in one; `.git` in any case."""

    def __init__(
        self,
        context: BackendContext | VersToolkit | None = None,
        *,
        subagents: SubAgents = "share",
        **options: Any,  # noqa: ANN401  # those of the context
    ) -> None:
        if context is not None and options:
            raise BadInput(f"give these to the context, not beside it: {', '.join(sorted(options))}")
        if isinstance(subagents, str) and subagents not in {"share", "branch"}:
            raise BadInput(f'subagents must be "share", "branch" or a list of names, not {subagents!r}')
        given = context.context if isinstance(context, VersToolkit) else context
        self.context = BackendContext(**options) if given is None else given
        """Where calls are routed by; to attach threads, and for a `VersSaver`."""
        self._subagents: SubAgents = subagents if isinstance(subagents, str) else frozenset(subagents)
        self._bound: RunnableConfig | None = None
        self._id: str = self.context.home_vm or f"vers-{uuid.uuid4().hex[:12]}"
        self._changed = _Executions()
        self._specs = specs.made()

    def __repr__(self) -> str:
        return f"VersSandbox({self._id!r})"

    @property
    def id(self) -> str:
        """What the sandbox is called: the VM that all threads begin on, if there is one; else the same as long as this object lives."""
        return self._id

    def bound(self, config: RunnableConfig) -> VersSandbox:
        """The same for calls of a program on behalf of one thread: `sandbox.bound(config).read("/root/notes.md")`."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._bound = config
        return other

    def on(self, vm_id: str) -> Self:
        """The same sandbox, for whose context all threads begin on this VM from now on."""
        self.context.home_vm = self._id = vm_id
        return self

    # --- commands ---

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """Run a shell command where the thread is; `cd` holds for its later commands.

        `timeout` is in seconds: None means 600, 0 no limit. A command that is stopped by it has exit code 124. Of output beyond 10 MiB the
        end is given back. If nothing was run, the exit code is 1 and the output says why; it is None if the connection broke, and the
        command may have run in part.
        """
        return answers.executed(self._carry("execute", specs.execute_spec(), command=command, timeout=timeout)).response

    async def aexecute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        """See `execute`; the command is killed on the machine if the call is cancelled."""
        return answers.executed(await self._acarry("execute", specs.execute_spec(), command=command, timeout=timeout)).response

    def execute_with_offload(
        self, command: str, capture_path: str, *, max_inline_bytes: int, max_capture_bytes: int | None = None, timeout: int | None = None
    ) -> ExecuteOffloadResult:
        """As `execute`; output of more than `max_inline_bytes` stays on the machine at `capture_path`, and its beginning and end come
        back.
        """
        spec = _capturing(capture_path, max_inline_bytes, max_capture_bytes)
        return answers.executed(self._carry("execute", spec, command=command, timeout=timeout))

    async def aexecute_with_offload(
        self, command: str, capture_path: str, *, max_inline_bytes: int, max_capture_bytes: int | None = None, timeout: int | None = None
    ) -> ExecuteOffloadResult:
        """See `execute_with_offload`."""
        spec = _capturing(capture_path, max_inline_bytes, max_capture_bytes)
        return answers.executed(await self._acarry("execute", spec, command=command, timeout=timeout))

    # --- files ---

    def ls(self, path: str) -> LsResult:
        """The entries of a directory, hidden ones included."""
        return answers.listed(path, self._carry("ls", path=path))

    async def als(self, path: str) -> LsResult:
        """See `ls`."""
        return answers.listed(path, await self._acarry("ls", path=path))

    def read(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """Lines of a text file from `offset` (from 0) on, at most `limit` and 500 KiB; another file in Base64, at most 500 KiB."""
        return answers.read(file_path, self._carry("read_file", file_path=file_path, offset=offset, limit=limit))

    async def aread(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """See `read`."""
        return answers.read(file_path, await self._acarry("read_file", file_path=file_path, offset=offset, limit=limit))

    def write(self, file_path: str, content: str) -> WriteResult:
        """Replace a file, or make it, with the directories that it needs; all or nothing."""
        return answers.written(file_path, self._carry("write_file", file_path=file_path, content=content))

    async def awrite(self, file_path: str, content: str) -> WriteResult:
        """See `write`."""
        return answers.written(file_path, await self._acarry("write_file", file_path=file_path, content=content))

    def edit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """Replace a passage that stands in the file exactly so, line endings aside; the file's own line endings are kept.

        A file that is changed by somebody else meanwhile is not overwritten: the result has an error.
        """
        given: dict[str, Any] = {"file_path": file_path, "old_string": old_string, "new_string": new_string, "replace_all": replace_all}
        return answers.edited(file_path, self._carry("edit_file", **given))

    async def aedit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """See `edit`."""
        given: dict[str, Any] = {"file_path": file_path, "old_string": old_string, "new_string": new_string, "replace_all": replace_all}
        return answers.edited(file_path, await self._acarry("edit_file", **given))

    def delete(self, file_path: str) -> DeleteResult:
        """Remove a file, or a directory with all that is in it; a symlink itself, not what it leads to."""
        return answers.deleted(file_path, self._carry("delete", file_path=file_path))

    async def adelete(self, file_path: str) -> DeleteResult:
        """See `delete`."""
        return answers.deleted(file_path, await self._acarry("delete", file_path=file_path))

    def grep(self, pattern: str, path: str | None = None, glob: str | None = None, *, max_count: int | None = None) -> GrepResult:
        """The lines that have a text in them, in files below a directory or in one file, ignored ones included.

        Directories named in `grep_exclude_dirs` are left out. A result of more than 200 KB is cut, and says so by `truncated`.
        """
        spec = specs.grep_spec(self.grep_exclude_dirs)
        return answers.found(path, self._carry("grep", spec, pattern=pattern, path=path, glob=glob, max_count=max_count))

    async def agrep(self, pattern: str, path: str | None = None, glob: str | None = None, *, max_count: int | None = None) -> GrepResult:
        """See `grep`."""
        spec = specs.grep_spec(self.grep_exclude_dirs)
        return answers.found(path, await self._acarry("grep", spec, pattern=pattern, path=path, glob=glob, max_count=max_count))

    def glob(self, pattern: str, path: str | None = None) -> GlobResult:
        """The regular files below a directory that match, with absolute paths; not those below `.git`.

        A policy that would have to ask a person denies instead: Deep Agents' tool `glob` lets no question through.
        """
        return answers.globbed(path, self._carry("glob", pattern=pattern, path=path))

    async def aglob(self, pattern: str, path: str | None = None) -> GlobResult:
        """See `glob`."""
        return answers.globbed(path, await self._acarry("glob", pattern=pattern, path=path))

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """Write files byte for byte, with the directories that they need; an answer for each, in their order."""
        return answers.uploaded(files, self._carry_all(self._uploads(files)))

    async def aupload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        """See `upload_files`."""
        return answers.uploaded(files, await self._acarry_all(self._uploads(files)))

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """Files byte for byte, secrets included; an answer for each, in their order."""
        return answers.downloaded(paths, self._carry_all(_downloads(paths)))

    async def adownload_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        """See `download_files`."""
        return answers.downloaded(paths, await self._acarry_all(_downloads(paths)))

    # --- sub-agents ---

    def subagent_machines(self, config: RunnableConfig | None = None) -> list[SubAgentMachine]:
        """The machines that sub-agents of a thread worked on by themselves and that are still there, the oldest first; by their labels, so
        that those of an earlier process are among them. None: of calls without a thread.

        Raises:
            VersError: the platform does not answer.
        """
        return run(subagent_machines(self.context, config))

    async def asubagent_machines(self, config: RunnableConfig | None = None) -> list[SubAgentMachine]:
        """See `subagent_machines`."""
        return await on_io(subagent_machines(self.context, config))

    def delete_subagent_machines(
        self, config: RunnableConfig | None = None, *, names: Sequence[str] | None = None
    ) -> list[SubAgentMachine]:
        """Delete those of a thread, or those of some sub-agents of it; what was deleted.

        One that a thread has gone to meanwhile is that thread's machine now, and left alone.

        Raises:
            VersError: the platform does not answer, or refuses.
        """
        return run(delete_subagent_machines(self.context, config, names))

    async def adelete_subagent_machines(
        self, config: RunnableConfig | None = None, *, names: Sequence[str] | None = None
    ) -> list[SubAgentMachine]:
        """See `delete_subagent_machines`."""
        return await on_io(delete_subagent_machines(self.context, config, names))

    # --- life ---

    def close(self) -> None:
        """Give back connections and processes of this side; destroys no machine. It can be used again afterwards."""
        self.context.close()

    async def aclose(self) -> None:
        """See `close`."""
        await self.context.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- carrying out ---

    def _carry(self, tool: str, spec: ToolSpec | None = None, **arguments: Any) -> Answer:  # noqa: ANN401  # those of the tool
        work, where, show = self._prepared(tool, spec, arguments)
        with work.traced(where.callbacks):
            answer = work.carry_out(show, leaving(where.config))
        return self._done(tool, where, answer)

    async def _acarry(self, tool: str, spec: ToolSpec | None = None, **arguments: Any) -> Answer:  # noqa: ANN401  # those of the tool
        work, where, show = self._prepared(tool, spec, arguments)
        with work.traced(where.callbacks):
            answer = await work.acarry_out(show)
        await show.told()
        return self._done(tool, where, answer)

    def _uploads(self, files: list[tuple[str, bytes]]) -> list[Wanted]:
        return [("upload", self._specs["write_file"], {"file_path": path, "content": content}) for path, content in files]

    def _carry_all(self, wanted: list[Wanted]) -> list[Answer]:
        return [self._carry(tool, spec, **arguments) for tool, spec, arguments in wanted]

    async def _acarry_all(self, wanted: list[Wanted]) -> list[Answer]:
        if not self.context.policy.trivial:  # questions to a person come one after the other, always in the same order
            return [await self._acarry(tool, spec, **arguments) for tool, spec, arguments in wanted]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(tool: str, spec: ToolSpec, arguments: dict[str, Any]) -> Answer:
            async with gate:
                return await self._acarry(tool, spec, **arguments)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*each)) for each in wanted]
        return [task.result() for task in tasks]

    def _prepared(self, tool: str, spec: ToolSpec | None, arguments: dict[str, Any]) -> tuple[Work, Standing, Shower]:
        spec = spec or self._specs[tool]
        where = standing(tool, arguments, self._subagents, self._bound)
        place = where.place
        if tool == "glob" or self._changed.has(place):
            place = replace(place, together=None)  # a question would have the whole task repeated
        given = {name: value for name, value in arguments.items() if value is not None}
        return (
            Work(spec, self.context, place, given, {**self._specs, tool: spec}, by="model"),
            where,
            Shower(tool, where.runtime, where.call_id, where.callbacks),
        )

    def _done(self, tool: str, where: Standing, answer: Answer) -> Answer:
        if tool not in {"ls", "read_file", "glob", "grep", "download"}:
            self._changed.add(where.place)
        annotate(where.callbacks, answer.artifact)
        return answer


class _Executions:
    """The executions of tasks that have changed something, which must not be repeated to ask a person. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[int, object] = OrderedDict()

    def add(self, place: Place) -> None:
        if place.execution is not None:
            with self._lock:
                self._known[id(place.execution)] = place.execution  # it is held, so that its id is not another's
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)

    def has(self, place: Place) -> bool:
        with self._lock:
            return place.execution is not None and id(place.execution) in self._known


def _capturing(path: str, inline: int, limit: int | None) -> ToolSpec:
    return specs.execute_spec(Capture(path, inline, _CAPTURE_LIMIT if limit is None else limit))


def _downloads(paths: list[str]) -> list[Wanted]:
    return [("download", specs.DOWNLOAD, {"file_path": path}) for path in paths]
