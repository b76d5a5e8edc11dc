"""The HTTP API of the embedded Vers: the routes for machines, and the application around all routes.

Commits, tags, repositories and variables are in `catalog.py`; manners that all routes share in `http.py`; the work itself in `fleet.py`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator
from importlib.metadata import version
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from langchain_vers.errors import BadInput, Gone, VersError

from .catalog import Catalog
from .engine import EngineError, MachineSpec
from .execution import Log, Session, Stream, collect, run
from .fleet import MAX_BRANCHES, Fleet, as_uuid
from .http import Answer, Call, Guard, Handler, Replays, endpoint, failure
from .machine_files import read_file, write_file
from .requests import CommitVm, Exec, ExecAttach, FromCommit, LabelVm, NewRoot, UpdateState, WriteFile, query_flag, query_number
from .store import Vm

_EXEC_LIMIT = 64 * 1024 * 1024
_KEPT_SESSIONS = 64
_log = logging.getLogger(__name__)

UNSUPPORTED: tuple[tuple[str, str], ...] = (
    ("POST", "/deploy"),
    ("GET", "/domains"),
    ("POST", "/domains"),
    ("GET", "/domains/{domain_id}"),
    ("DELETE", "/domains/{domain_id}"),
    ("GET", "/images"),
    ("POST", "/images/create"),
    ("DELETE", "/images/images/{base_image_id}"),
    ("POST", "/images/upload"),
    ("GET", "/images/{image_name}/status"),
    ("GET", "/public/repositories"),
    ("GET", "/public/repositories/{org_name}/{repo_name}"),
    ("GET", "/public/repositories/{org_name}/{repo_name}/tags"),
    ("GET", "/public/repositories/{org_name}/{repo_name}/tags/{tag_name}"),
    ("POST", "/repositories/fork"),
    ("PATCH", "/vm/{vm_id}/disk"),
)
"""What the platform's schema has and this server has not."""


class Machines:
    """The routes below `/vm`."""

    def __init__(self, fleet: Fleet, ssh_port: int) -> None:
        self._fleet = fleet
        self._ssh_port = ssh_port
        self._sessions: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._logs: dict[str, Log] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        fleet.on_delete(self._forget)

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler; `exec/stream` is apart, see `stream_routes`."""
        return [
            ("GET", "/vms", self.list),
            ("GET", "/vm", self.list),
            ("POST", "/vm/new_root", self.new_root),
            ("POST", "/vm/from_commit", self.from_commit),
            ("POST", "/vm/branch/by_vm/{vm_id}", self.branch_vm),
            ("POST", "/vm/branch/by_commit/{commit_id}", self.branch_commit),
            ("POST", "/vm/branch/by_tag/{tag_name}", self.branch_tag),
            ("POST", "/vm/branch/by_ref/{repo_name}/{tag_name}", self.branch_ref),
            ("POST", "/vm/{vm_or_commit_id}/branch", self.branch_any),
            ("DELETE", "/vm/{vm_id}", self.delete),
            ("GET", "/vm/{vm_id}/status", self.status),
            ("GET", "/vm/{vm_id}/metadata", self.metadata),
            ("PATCH", "/vm/{vm_id}/label", self.label),
            ("PATCH", "/vm/{vm_id}/state", self.set_state),
            ("POST", "/vm/{vm_id}/commit", self.commit),
            ("GET", "/vm/{vm_id}/ssh_key", self.ssh_key),
            ("POST", "/vm/{vm_id}/exec", self.exec),
            ("GET", "/vm/{vm_id}/files", self.read),
            ("PUT", "/vm/{vm_id}/files", self.write),
            ("GET", "/vm/{vm_id}/logs", self.logs),
        ]

    def stream_routes(self) -> list[tuple[str, str, Handler]]:
        """Routes whose answer is a stream: a repetition is recognised by the session, not by a stored answer."""
        return [
            ("POST", "/vm/{vm_id}/exec/stream", self.exec_stream),
            ("POST", "/vm/{vm_id}/exec/stream/attach", self.attach),
        ]

    # -- life and looks

    def _described(self, vm: Vm) -> dict[str, object]:
        return {
            "vm_id": vm.vm_id,
            "owner_id": self._fleet.store.owner_id,
            "created_at": vm.created_at,
            "state": self._fleet.state(vm.vm_id),
        }

    def _vm(self, call: Call) -> Vm:
        return self._fleet.vm(call.uuid("vm_id", "VM"))

    async def list(self, call: Call) -> Response:
        """All VMs."""
        return Answer([{**self._described(vm), "labels": vm.labels} for vm in self._fleet.store.vms])

    async def status(self, call: Call) -> Response:
        """One VM."""
        vm = self._vm(call)
        return Answer({**self._described(vm), "labels": vm.labels})

    async def metadata(self, call: Call) -> Response:
        """One VM with where it comes from."""
        vm = self._vm(call)
        lineage = {"parent_commit_id": vm.parent_commit_id, "grandparent_vm_id": vm.grandparent_vm_id}
        return Answer({**self._described(vm), "ip": "127.0.0.1", "deleted_at": None, **lineage})

    async def new_root(self, call: Call) -> Response:
        """A VM from the base system; it has booted when the answer comes, with or without `wait_boot`."""
        query_flag(call.query, "wait_boot")
        config = call.body(NewRoot).vm_config
        if config.image_name not in {None, "default"}:
            raise BadInput("This server has no image but 'default'; leave image_name out.")
        if config.kernel_name not in {None, "default.bin"}:
            raise BadInput("This server has no kernel but 'default.bin'; leave kernel_name out.")
        spec = MachineSpec(config.vcpu_count, config.mem_size_mib, config.fs_size_mib)
        return Answer({"vm_id": await self._fleet.create(spec, labels=config.labels)}, 201)

    async def from_commit(self, call: Call) -> Response:
        """A VM from a commit, named by its id, a tag or `repository:tag`."""
        body = call.body(FromCommit)
        if [body.commit_id, body.tag_name, body.ref].count(None) != 2:
            raise BadInput("Give exactly one of commit_id, tag_name and ref.")
        if body.commit_id is not None:
            commit_id = as_uuid(body.commit_id, "commit")
        elif body.tag_name is not None:
            commit_id = self._tagged(body.tag_name)
        else:
            repository, colon, tag = (body.ref or "").partition(":")
            if not colon:
                raise BadInput("ref must be of the form repository:tag.")
            commit_id = self._tagged(tag, repository)
        return Answer({"vm_id": await self._fleet.create(MachineSpec(), commit_id=commit_id)}, 201)

    def _tagged(self, tag_name: str, repository: str | None = None) -> str:
        return Catalog.find_tag(self._fleet.store, tag_name, repository).commit_id

    async def branch_vm(self, call: Call) -> Response:
        """VMs like a VM."""
        return await self._branched_vm(call, call.uuid("vm_id", "VM"))

    async def branch_commit(self, call: Call) -> Response:
        """VMs from a commit."""
        return await self._restored(call, call.uuid("commit_id", "commit"))

    async def branch_tag(self, call: Call) -> Response:
        """VMs from the commit of a tag."""
        return await self._restored(call, self._tagged(call.text("tag_name")))

    async def branch_ref(self, call: Call) -> Response:
        """VMs from the commit of a repository's tag."""
        return await self._restored(call, self._tagged(call.text("tag_name"), call.text("repo_name")))

    async def branch_any(self, call: Call) -> Response:
        """VMs like a VM, or from a commit."""
        any_id = call.uuid("vm_or_commit_id", "VM or commit")
        if any_id in self._fleet.store.vms:
            return await self._branched_vm(call, any_id)
        if any_id in self._fleet.store.commits:
            return await self._restored(call, any_id)
        raise Gone(f"There is no VM and no commit {any_id}.")

    async def _branched_vm(self, call: Call, vm_id: str) -> Response:
        self._fleet.vm(vm_id)
        ids = await self._fleet.branch(vm_id, self._count(call), keep_paused=query_flag(call.query, "keep_paused"))
        return Answer({"vms": [{"vm_id": each} for each in ids]}, 201)

    async def _restored(self, call: Call, commit_id: str) -> Response:
        self._fleet.commit(commit_id)
        ids = await self._fleet.restore([commit_id] * self._count(call))
        return Answer({"vms": [{"vm_id": each} for each in ids]}, 201)

    @staticmethod
    def _count(call: Call) -> int:
        query_flag(call.query, "skip_wait_boot")
        return query_number(call.query, "count", 1, least=1, most=MAX_BRANCHES)

    async def delete(self, call: Call) -> Response:
        """End a VM and remove its disk."""
        vm = self._vm(call)
        await self._fleet.delete(vm.vm_id)
        return Answer({"vm_id": vm.vm_id})

    async def label(self, call: Call) -> Response:
        """Replace a VM's labels."""
        self._fleet.set_labels(self._vm(call).vm_id, call.body(LabelVm).labels)
        return Response(status_code=200)

    async def set_state(self, call: Call) -> Response:
        """Freeze or thaw a VM."""
        vm = self._vm(call)
        state = call.body(UpdateState).state.lower()
        if state not in {"paused", "running"}:
            raise BadInput("state must be Paused or Running.")
        await self._fleet.set_paused(vm.vm_id, paused=state == "paused")
        return Response(status_code=200)

    async def commit(self, call: Call) -> Response:
        """Store a VM as it is now."""
        vm = self._vm(call)
        # The body is optional on the platform, though its schema says otherwise.
        body = call.body(CommitVm) if call.raw else CommitVm()
        commit_id = await self._fleet.snapshot(
            vm.vm_id,
            commit_id=None if body.commit_id is None else as_uuid(body.commit_id, "commit"),
            name=body.name,
            description=body.description,
            keep_paused=query_flag(call.query, "keep_paused"),
        )
        return Answer({"commit_id": commit_id}, 201)

    async def ssh_key(self, call: Call) -> Response:
        """The private key that opens the VM, and the port of the SSH-over-TLS front."""
        return Answer({"ssh_private_key": self._vm(call).client_key, "ssh_port": self._ssh_port})

    # -- work

    def _log_of(self, vm_id: str) -> Log:
        return self._logs.setdefault(vm_id, Log())

    def _record(self, vm_id: str, stream: Stream, data: bytes, exec_id: str) -> None:
        if vm_id in self._fleet.store.vms:  # what a deleted machine's last process prints is nobody's any more
            self._log_of(vm_id).append(stream, data, exec_id)

    async def exec(self, call: Call) -> Response:
        """Run a command to its end."""
        vm = self._fleet.require_running(self._vm(call).vm_id)
        body = call.body(Exec)
        exec_id = str(uuid4()) if body.exec_id is None else as_uuid(body.exec_id, "run")

        async def log(stream: Stream, data: bytes) -> None:
            self._record(vm.vm_id, stream, data, exec_id)

        try:
            finished = await collect(
                self._fleet.spawner(vm.vm_id),
                body.command,
                exec_id=exec_id,
                limit=_EXEC_LIMIT,
                env=body.env,
                cwd=body.working_dir,
                stdin=_encoded(body.stdin),
                timeout=body.timeout_secs,
                log=log,
            )
        except (EngineError, OSError, ValueError) as error:
            if isinstance(error, VersError):
                raise
            return Answer({"exit_code": 127, "stdout": "", "stderr": f"{error}\n", "exec_id": exec_id})
        return Answer(
            {
                "exit_code": finished.exit_code,
                "stdout": finished.stdout.decode(errors="replace"),
                "stderr": finished.stderr.decode(errors="replace"),
                "exec_id": exec_id,
            }
        )

    async def exec_stream(self, call: Call) -> Response:
        """Run a command and stream what it prints; it goes on when the client hangs up.

        A repetition with the same `X-Idempotency-Key` streams the same run from its start.
        """
        vm = self._fleet.require_running(self._vm(call).vm_id)
        body = call.body(Exec)
        exec_id = str(uuid4()) if body.exec_id is None else as_uuid(body.exec_id, "run")
        repeated = call.request.headers.get("x-idempotency-key")
        if repeated is not None and (vm.vm_id, f"key:{repeated}") in self._sessions:
            return _streamed(self._sessions[vm.vm_id, f"key:{repeated}"].attach())
        if (vm.vm_id, exec_id) in self._sessions:
            raise BadInput(f"There is a run {exec_id} in VM {vm.vm_id} already; attach to it, or choose another exec_id.")
        session = Session(exec_id)
        self._sessions[vm.vm_id, exec_id] = session
        if repeated is not None:
            self._sessions[vm.vm_id, f"key:{repeated}"] = session
        self._make_room()
        lines = session.attach()
        task = asyncio.create_task(self._run_session(vm.vm_id, body, session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return _streamed(lines)

    async def _run_session(self, vm_id: str, body: Exec, session: Session) -> None:
        async def sink(stream: Stream, data: bytes) -> None:
            self._record(vm_id, stream, data, session.exec_id)
            await session.chunk(stream, data)

        try:
            code = await run(
                self._fleet.spawner(vm_id),
                body.command,
                sink,
                exec_id=session.exec_id,
                env=body.env,
                cwd=body.working_dir,
                stdin=_encoded(body.stdin),
                timeout=body.timeout_secs,
            )
        except (VersError, EngineError, OSError, ValueError) as error:
            await session.chunk("stderr", f"{error}\n".encode())
            code = 127
        await session.exit(code)

    async def attach(self, call: Call) -> Response:
        """Stream a run again, from a cursor on."""
        vm = self._vm(call)
        body = call.body(ExecAttach)
        session = self._sessions.get((vm.vm_id, as_uuid(body.exec_id, "run")))
        if session is None:
            raise Gone(f"There is no run {body.exec_id} in VM {vm.vm_id}, or it ended long ago.")
        return _streamed(session.attach(body.cursor or 0, from_latest=bool(body.from_latest)))

    def _make_room(self) -> None:
        """Forget the oldest runs that have ended."""
        ended = [key for key, session in self._sessions.items() if session.finished]
        for key in ended[: max(0, len(ended) - _KEPT_SESSIONS)]:
            del self._sessions[key]

    async def read(self, call: Call) -> Response:
        """A file's content."""
        vm = self._fleet.require_running(self._vm(call).vm_id)
        path = call.query.get("path", "")
        if not path.startswith("/") or "\0" in path:
            raise BadInput("path must be an absolute path in the VM.")
        content = await read_file(self._fleet.spawner(vm.vm_id), path)
        return Answer({"content_b64": base64.b64encode(content).decode()})

    async def write(self, call: Call) -> Response:
        """Replace a file's content."""
        vm = self._fleet.require_running(self._vm(call).vm_id)
        body = call.body(WriteFile)
        try:
            content = base64.b64decode(body.content_b64, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadInput(f"content_b64 is not base64: {error}.") from None
        await write_file(self._fleet.spawner(vm.vm_id), body.path, content, mode=body.mode, create_dirs=body.create_dirs)
        return Response(status_code=200)

    async def logs(self, call: Call) -> Response:
        """What the API's commands printed in a VM."""
        vm = self._vm(call)
        wanted = call.query.get("stream")
        stream: Stream | None
        match wanted:
            case "stdout":
                stream = "stdout"
            case "stderr":
                stream = "stderr"
            case None:
                stream = None
            case _:
                raise BadInput("stream must be stdout or stderr.")
        offset = query_number(call.query, "offset", 0)
        most = query_number(call.query, "max_entries", 1000, most=2**31 - 1)
        entries, next_offset, eof = self._log_of(vm.vm_id).page(offset, min(most, 10_000), stream)
        listed = [
            {
                "exec_id": entry.exec_id,
                "timestamp": entry.timestamp,
                "stream": entry.stream,
                "data_b64": base64.b64encode(entry.data).decode(),
            }
            for entry in entries
        ]
        return Answer({"entries": listed, "next_offset": next_offset, "eof": eof})

    def _forget(self, vm_id: str) -> None:
        self._logs.pop(vm_id, None)
        for key in [key for key in self._sessions if key[0] == vm_id]:
            del self._sessions[key]


def _encoded(stdin: str | None) -> bytes:
    return b"" if stdin is None else stdin.encode()


def _streamed(lines: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(lines, media_type="application/x-ndjson", headers={"cache-control": "no-store"})


async def _version(call: Call) -> Response:
    return Answer({"executable_name": "orchestrator", "workspace_version": version("langchain-vers"), "git_hash": "embedded"})


async def _valid(call: Call) -> Response:
    return Answer({"valid": True, "message": "The API key is valid."})


async def _unsupported(call: Call) -> Response:
    return failure(501, f"The embedded Vers cannot do {call.request.method} {call.request.url.path}; the Vers platform can.")


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 405:
        return failure(405, f"{request.url.path} does not know the method {request.method}.")
    return failure(status, f"There is nothing at {request.url.path}.")


def build_app(fleet: Fleet, *, api_key: str, ssh_port: int) -> ASGIApp:
    """The whole API as an ASGI application."""
    replays = Replays()
    machines = Machines(fleet, ssh_port)
    plain: list[tuple[str, str, Handler]] = [
        ("GET", "/system/version", _version),
        ("POST", "/keys/validate", _valid),
        *[(method, path, _unsupported) for method, path in UNSUPPORTED],
        *machines.routes(),
        *Catalog(fleet).routes(),
    ]
    routes = [Route(f"/api/v1{path}", endpoint(handler, replays), methods=[method]) for method, path, handler in plain]
    routes += [
        Route(f"/api/v1{path}", endpoint(handler, replays, replayable=False), methods=[method])
        for method, path, handler in machines.stream_routes()
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error})
    # A redirect would send the client's key a second time, to a path that it did not mean.
    app.router.redirect_slashes = False
    return Guard(app, api_key)
