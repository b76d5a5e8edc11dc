"""The part of the API that is about VMs: making, branching and removing them, and the commands and files within.

Each method is one operation of the API, named like it, and raises the errors of `HttpCore.open`; an id or a name that cannot stand in a URL
is `BadInput`. What to do with the machines is left to others.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from langchain_vers.errors import BadInput, Interrupted, ServerFault
from langchain_vers.platform import models
from langchain_vers.platform.failures import server_message
from langchain_vers.platform.http import Call, HttpCore, Params, path_segment

M = TypeVar("M", bound=BaseModel)

MAX_LINE_BYTES = 32 * 1024 * 1024
"""Longest line of an exec stream that is taken in."""
EXEC_MARGIN_SECONDS = 15.0
"""What a command's own time limit leaves the server to answer in."""


def given(**fields: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of any model
    """The fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def build(model: type[M], **fields: Any) -> M:  # noqa: ANN401 - fields of any model
    """A request's body.

    Raises:
        BadInput: a field does not fit the API. The message names the field, not its value.

    """
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        msg = f"The argument {'.'.join(map(str, first['loc'])) or 'given'} does not fit: {first['msg']}."
        raise BadInput(msg) from None


def vm_path(vm_id: str, rest: str = "") -> str:
    """The path of a VM, or of what is below it."""
    return f"/vm/{path_segment(vm_id, 'VM id')}{rest}"


class MachineCalls(HttpCore):
    """Operations on VMs. `deadline` is seconds for the whole call, where it may take long."""

    async def list_vms(self) -> list[models.VM]:
        """All VMs of the account."""
        return await self.request(Call("GET", "/vms"), list[models.VM])

    async def get_vm(self, vm_id: str, *, deadline: float | None = None) -> models.VM:
        """One VM with its state."""
        return await self.request(Call("GET", vm_path(vm_id, "/status"), machine_id=vm_id, deadline=deadline), models.VM)

    async def get_vm_metadata(self, vm_id: str) -> models.VmMetadataResponse:
        """One VM with its address and lineage."""
        return await self.request(Call("GET", vm_path(vm_id, "/metadata"), machine_id=vm_id), models.VmMetadataResponse)

    async def create_vm(
        self, config: models.VmCreateVmConfig | None = None, *, wait_boot: bool = False, deadline: float | None = None
    ) -> str:
        """A new VM from the base image; its id. With `wait_boot` the answer comes when it has booted."""
        body = models.NewRootRequest(vm_config=config or models.VmCreateVmConfig())
        call = self._slow(Call("POST", "/vm/new_root", params={"wait_boot": wait_boot}, body=body, deadline=deadline))
        return (await self.request(call, models.NewVmResponse)).vm_id

    async def delete_vm(self, vm_id: str, *, skip_wait_boot: bool | None = None) -> str:
        """Remove a VM for good; its id."""
        call = Call("DELETE", vm_path(vm_id), params={"skip_wait_boot": skip_wait_boot}, machine_id=vm_id)
        return (await self.request(call, models.VmDeleteResponse)).vm_id

    async def set_vm_state(self, vm_id: str, state: models.VmUpdateStateEnum | str, *, skip_wait_boot: bool | None = None) -> None:
        """Pause or resume a VM; `state` is "paused" or "running".

        Raises:
            BadInput: another state.

        """
        try:
            wanted = models.VmUpdateStateEnum(state)
        except ValueError:
            msg = f"A VM cannot be set to the state {str(state)[:60]!r}; use running or paused."
            raise BadInput(msg, machine_id=vm_id) from None
        body = models.VmUpdateStateRequest(state=wanted)
        await self.command(Call("PATCH", vm_path(vm_id, "/state"), params={"skip_wait_boot": skip_wait_boot}, body=body, machine_id=vm_id))

    async def label_vm(self, vm_id: str, labels: Mapping[str, str]) -> None:
        """Set the labels of a VM."""
        await self.command(
            Call("PATCH", vm_path(vm_id, "/label"), body=build(models.LabelVmRequest, labels=dict(labels)), machine_id=vm_id)
        )

    async def resize_vm_disk(self, vm_id: str, fs_size_mib: int, *, skip_wait_boot: bool | None = None) -> None:
        """Grow the disk of a VM to a size in MiB."""
        body = build(models.VmResizeDiskRequest, fs_size_mib=fs_size_mib)
        await self.command(Call("PATCH", vm_path(vm_id, "/disk"), params={"skip_wait_boot": skip_wait_boot}, body=body, machine_id=vm_id))

    async def get_ssh_key(self, vm_id: str) -> models.VmSshKeyResponse:
        """The private key and port for SSH to a VM."""
        return await self.request(Call("GET", vm_path(vm_id, "/ssh_key"), machine_id=vm_id), models.VmSshKeyResponse)

    # Branches, commits, and what is restored from them

    async def branch_vm(
        self,
        vm_id: str,
        *,
        count: int | None = None,
        keep_paused: bool | None = None,
        skip_wait_boot: bool | None = None,
        deadline: float | None = None,
    ) -> list[str]:
        """New VMs that go on from the present state of one; their ids."""
        params = {"count": count, "keep_paused": keep_paused, "skip_wait_boot": skip_wait_boot}
        return await self._branch(f"/vm/branch/by_vm/{path_segment(vm_id, 'VM id')}", params, deadline, machine_id=vm_id)

    async def branch_commit(self, commit_id: str, *, count: int | None = None, deadline: float | None = None) -> list[str]:
        """New VMs from a commit; their ids."""
        return await self._branch(f"/vm/branch/by_commit/{path_segment(commit_id, 'commit id')}", {"count": count}, deadline)

    async def branch_tag(self, tag_name: str, *, count: int | None = None, deadline: float | None = None) -> list[str]:
        """New VMs from the commit that a tag points to; their ids."""
        return await self._branch(f"/vm/branch/by_tag/{path_segment(tag_name, 'tag name')}", {"count": count}, deadline)

    async def branch_ref(self, repo_name: str, tag_name: str, *, count: int | None = None, deadline: float | None = None) -> list[str]:
        """New VMs from the commit that a repository's tag points to; their ids."""
        path = f"/vm/branch/by_ref/{path_segment(repo_name, 'repository name')}/{path_segment(tag_name, 'tag name')}"
        return await self._branch(path, {"count": count}, deadline)

    async def branch(
        self,
        vm_or_commit_id: str,
        *,
        count: int | None = None,
        keep_paused: bool | None = None,
        skip_wait_boot: bool | None = None,
        deadline: float | None = None,
    ) -> list[str]:
        """New VMs from a VM or a commit, whichever the id is of; their ids."""
        params = {"count": count, "keep_paused": keep_paused, "skip_wait_boot": skip_wait_boot}
        return await self._branch(f"/vm/{path_segment(vm_or_commit_id, 'VM or commit id')}/branch", params, deadline)

    async def commit_vm(
        self,
        vm_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        commit_id: str | None = None,
        keep_paused: bool | None = None,
        skip_wait_boot: bool | None = None,
        deadline: float | None = None,
    ) -> str:
        """Commit memory and disk of a VM; the commit's id (a UUID, which `commit_id` can choose)."""
        call = Call(
            "POST",
            vm_path(vm_id, "/commit"),
            params={"keep_paused": keep_paused, "skip_wait_boot": skip_wait_boot},
            body=build(models.VmCommitRequest, **given(name=name, description=description, commit_id=commit_id)),
            machine_id=vm_id,
            deadline=deadline,
        )
        return (await self.request(self._slow(call), models.VmCommitResponse)).commit_id

    async def restore_vm(
        self, *, commit_id: str | None = None, tag_name: str | None = None, ref: str | None = None, deadline: float | None = None
    ) -> str:
        """A new VM from exactly one of a commit, a tag, or `repo_name:tag_name`; its id.

        Raises:
            BadInput: none or several of them.

        """
        body = build(models.FromCommitVmRequest, **given(commit_id=commit_id, tag_name=tag_name, ref=ref))
        return (await self.request(self._slow(Call("POST", "/vm/from_commit", body=body, deadline=deadline)), models.NewVmResponse)).vm_id

    async def _branch(self, path: str, params: Params, deadline: float | None, machine_id: str | None = None) -> list[str]:
        count = params.get("count")
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            msg = "The number of branches must be a whole number of at least 1."
            raise BadInput(msg, machine_id=machine_id)
        call = self._slow(Call("POST", path, params=params, machine_id=machine_id, deadline=deadline))
        return (await self.request(call, models.NewVmsResponse)).vm_ids

    def _slow(self, call: Call) -> Call:
        """The call with one attempt allowed the whole deadline: to ask again while a machine is still being made would not help."""
        return replace(call, timeout=self.deadline if call.deadline is None else call.deadline)

    # Commands and files

    async def exec(
        self,
        vm_id: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_secs: int | None = None,
        working_dir: str | None = None,
        exec_id: str | None = None,
        deadline: float | None = None,
    ) -> models.VmExecResponse:
        """Run a command (arguments, no shell) to its end.

        Args:
            vm_id: where.
            command: the program and its arguments.
            env: environment variables to add.
            stdin: text for its standard input.
            timeout_secs: the command's own limit in seconds, kept by the server; None or 0 for none.
            working_dir: absolute path.
            exec_id: a UUID to find its output by in the logs.
            deadline: seconds to wait for the answer (default: a little over `timeout_secs`, else the client's).

        """
        if deadline is None and timeout_secs:
            deadline = timeout_secs + EXEC_MARGIN_SECONDS
        body = exec_request(command, env, stdin=stdin, timeout_secs=timeout_secs, working_dir=working_dir, exec_id=exec_id)
        call = self._slow(Call("POST", vm_path(vm_id, "/exec"), body=body, machine_id=vm_id, deadline=deadline))
        return await self.request(call, models.VmExecResponse)

    async def exec_stream(
        self,
        vm_id: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout_secs: int | None = None,
        working_dir: str | None = None,
        exec_id: str | None = None,
    ) -> AsyncGenerator[models.VmExecStreamEvent, None]:
        """Run a command (as in `exec`) and yield what it prints as it prints it; the last event is its exit. No time limit of our own.

        The `exec_id` is made here if it is not given, so that a lost stream can be taken up again with `attach_exec_stream`; the
        server refuses a second command with the same one. Close the iterator (`contextlib.aclosing`) if you leave it early: that drops
        the connection, not the command.

        Raises:
            Interrupted: the stream broke off before the exit; the message holds exec id and cursor to attach with.
            VersError: as for every call.

        """
        exec_id = exec_id or str(uuid.uuid4())
        body = exec_request(command, env, stdin=stdin, timeout_secs=timeout_secs, working_dir=working_dir, exec_id=exec_id)
        async with aclosing(self._events(Call("POST", vm_path(vm_id, "/exec/stream"), body=body, machine_id=vm_id), exec_id)) as events:
            async for event in events:
                yield event

    async def attach_exec_stream(
        self, vm_id: str, exec_id: str, *, cursor: int | None = None, from_latest: bool = False
    ) -> AsyncGenerator[models.VmExecStreamEvent, None]:
        """Take up a command's stream again after `cursor` (default: from what is retained), or with `from_latest` only what is new.

        Raises:
            Interrupted: the stream broke off again.
            VersError: as for every call.

        """
        body = build(models.VmExecStreamAttachRequest, exec_id=exec_id, **given(cursor=cursor, from_latest=from_latest or None))
        call = Call("POST", vm_path(vm_id, "/exec/stream/attach"), body=body, machine_id=vm_id)
        async with aclosing(self._events(call, exec_id, cursor)) as events:
            async for event in events:
                yield event

    async def _events(self, call: Call, exec_id: str, cursor: int | None = None) -> AsyncGenerator[models.VmExecStreamEvent, None]:
        reason = "the connection broke"
        async with self.open(call) as response:
            key = response.request.headers["Authorization"].removeprefix("Bearer ")
            try:
                async with aclosing(_lines(response)) as lines:
                    async for line in lines:
                        event = parse_exec_event(line, str(call), call.machine_id, key)
                        if event is None:
                            continue
                        cursor = event.cursor
                        yield event
                        if isinstance(event, models.VmExecStreamExit):
                            return
                reason = "the server ended it"
            except httpx.HTTPError as error:
                reason = f"the connection broke ({type(error).__name__})"
        place = "the start" if cursor is None else f"cursor {cursor}"
        msg = f"The output of exec {exec_id} broke off before its exit: {reason}; attach to it again from {place}."
        raise Interrupted(msg, machine_id=call.machine_id)

    async def get_vm_logs(
        self, vm_id: str, *, offset: int | None = None, max_entries: int | None = None, stream: models.VmExecLogStream | None = None
    ) -> models.VmExecLogResponse:
        """A page of what commands printed in a VM, from a byte offset."""
        params = {"offset": offset, "max_entries": max_entries, "stream": stream}
        return await self.request(Call("GET", vm_path(vm_id, "/logs"), params=params, machine_id=vm_id), models.VmExecLogResponse)

    async def read_file(self, vm_id: str, path: str, *, deadline: float | None = None) -> bytes:
        """The content of a file, given by its absolute path."""
        call = Call("GET", vm_path(vm_id, "/files"), params={"path": path}, machine_id=vm_id, deadline=deadline)
        return (await self.request(self._slow(call), models.VmReadFileResponse)).content

    async def write_file(
        self,
        vm_id: str,
        path: str,
        content: bytes,
        *,
        mode: int | None = None,
        create_dirs: bool | None = None,
        deadline: float | None = None,
    ) -> None:
        """Write a file, given by its absolute path; `mode` as in 0o644 (the default), `create_dirs` makes its parents."""
        body = build(models.VmWriteFileRequest, path=path, content=content, **given(mode=mode, create_dirs=create_dirs))
        await self.command(self._slow(Call("PUT", vm_path(vm_id, "/files"), body=body, machine_id=vm_id, deadline=deadline)))


def exec_request(command: Sequence[str], env: Mapping[str, str] | None, **fields: str | int | None) -> models.VmExecRequest:
    """The body for a command.

    Raises:
        BadInput: the command is empty, or a plain string where arguments are wanted.

    """
    if isinstance(command, str) or not command:
        msg = 'The command must be a list of at least one argument, such as ["bash", "-c", "make test"].'
        raise BadInput(msg)
    return build(models.VmExecRequest, command=list(command), **given(env=None if env is None else dict(env), **fields))


def parse_exec_event(line: bytes, request: str, vm_id: str | None, key: str = "") -> models.VmExecStreamEvent | None:
    """One line of an exec stream; None for a blank one and for kinds of event that came after this package.

    `key` is hidden in what an error event says.

    Raises:
        ServerFault: it is not JSON, does not have the shape of its kind, or reports an error.

    """
    if not line.strip():
        return None
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    kind = content.get("type") if isinstance(content, dict) else None
    if not isinstance(kind, str):
        msg = f"A line of the stream of {request} is not an event; check the versions."
        raise ServerFault(msg, machine_id=vm_id)
    if kind == "error":
        msg = f"The server broke off the stream of {request}: {server_message(line, key)}"
        raise ServerFault(msg, machine_id=vm_id)
    if kind not in {"chunk", "exit"}:
        return None
    try:
        return models.EXEC_STREAM_EVENT.validate_json(line)
    except ValidationError:
        msg = f"An event of kind {kind} in the stream of {request} does not have the expected shape; check the versions."
        raise ServerFault(msg, machine_id=vm_id) from None


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The lines of a body. Only at newlines: httpx's own splitting also breaks at characters that JSON allows within a string."""
    pending: list[bytes] = []
    size = 0
    async for data in response.aiter_bytes():
        *whole, rest = data.split(b"\n")
        for part in whole:
            yield b"".join([*pending, part])
            pending, size = [], 0
        pending.append(rest)
        size += len(rest)
        if size > MAX_LINE_BYTES:
            msg = f"A line of an exec stream is longer than {MAX_LINE_BYTES} bytes; read the log instead."
            raise ServerFault(msg)
    if size:
        yield b"".join(pending)
