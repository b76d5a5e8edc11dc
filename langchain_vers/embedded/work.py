"""The HTTP routes for work inside a machine: commands, streams of their output, what they printed before, and files.

Running a command is left to `execution`, files to `machine_files`; a machine's own life has its routes in `machines`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import AsyncIterator
from uuid import uuid4

from starlette.responses import Response, StreamingResponse

from langchain_vers.embedded.engine import EngineError
from langchain_vers.embedded.execution import Log, Session, Stream, collect, run
from langchain_vers.embedded.fleet import Fleet, as_uuid
from langchain_vers.embedded.http import Answer, Call, Handler
from langchain_vers.embedded.machine_files import read_file, write_file
from langchain_vers.embedded.requests import Exec, ExecAttach, WriteFile, query_number
from langchain_vers.embedded.store import Vm
from langchain_vers.errors import BadInput, Gone, VersError

_EXEC_LIMIT = 64 * 1024 * 1024
_KEPT_SESSIONS = 64


class Work:
    """The routes for what is done in a machine."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._sessions: OrderedDict[tuple[str, str], Session] = OrderedDict()
        self._logs: dict[str, Log] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        fleet.on_delete(self._forget)

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler; `exec/stream` is apart, see `stream_routes`."""
        return [
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

    def _vm(self, call: Call) -> Vm:
        return self._fleet.vm(call.uuid("vm_id", "VM"))

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
