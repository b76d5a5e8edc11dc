"""`bash` and its background jobs: a command on whatever machine the thread is on."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from pydantic import Field

from langchain_vers.backends.base import Backend, ExecResult
from langchain_vers.errors import BadInput
from langchain_vers.request import Reach
from langchain_vers.tools import jobs
from langchain_vers.tools.base import Answer, Arguments, Call, ToolSpec
from langchain_vers.tools.output import DeltaDecoder, compose, format_exit, tail_text

DEFAULT_TIMEOUT = 600.0
"""Seconds that a command may take when the model names no limit: a call that never returns is worth less than an error."""
MAX_TIMEOUT = 24 * 3600.0
_SHOW_SECONDS = 0.05
_SHOW_BYTES = 64 * 1024


class Bash(Arguments):
    command: str = Field(description="Shell command (bash)")
    timeout: float | None = Field(None, description=f"Seconds until it is killed (default {DEFAULT_TIMEOUT:.0f})")
    background: bool = Field(False, description="Return at once with a job id for bash_output")


class BashOutput(Arguments):
    job_id: str = Field(description="From bash with background")


class BashKill(Arguments):
    job_id: str = Field(description="From bash with background")


class Ticker:
    """Output on its way to whoever watches: pieces are joined, and a flood is thinned, so that watching never holds up the command.

    Nothing waits longer than `_SHOW_SECONDS`, also when the command falls silent.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        # Before anything is left out: of a secret that is cut, the rest would not be known any more.
        self._secrets = call.redactor().stream()
        self._decoder = DeltaDecoder()
        self._pending = bytearray()
        self._skipped = 0
        self._last = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, data: bytes) -> None:
        """Show these bytes, now or with the next ones."""
        self._pending += self._secrets.feed(data)
        if len(self._pending) > _SHOW_BYTES:
            excess = len(self._pending) - _SHOW_BYTES
            self._skipped += excess
            del self._pending[:excess]
        wait = self._last + _SHOW_SECONDS - time.monotonic()
        if wait <= 0:
            self._show()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._show)

    def close(self) -> None:
        """Show what is waiting."""
        self._pending += self._secrets.close()
        self._show()
        if rest := self._decoder.close():
            self._call.emit(rest)

    def _show(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._last = time.monotonic()
        text = self._decoder.feed(bytes(self._pending))
        if self._skipped:
            text = f"\n[{self._skipped} bytes not shown while running]\n{text}"
        self._pending.clear()
        self._skipped = 0
        if text:
            self._call.emit(text)


async def run_command(call: Call, backend: Backend, cwd: str | None, command: str, timeout: float | None) -> ExecResult:
    """Run a command and show its output meanwhile."""
    if timeout is not None and not 0 < timeout <= MAX_TIMEOUT:  # NaN fails this too
        raise BadInput(f"timeout must be a number of seconds above 0 and at most {MAX_TIMEOUT:.0f}, not {timeout}; nothing was run")
    ticker = Ticker(call)
    try:
        result = await backend.exec(command, cwd=cwd, env=call.variables(), timeout=timeout or DEFAULT_TIMEOUT, on_output=ticker.feed)
    finally:
        ticker.close()
    # As above: its beginning may be cut off already, and only some of its lines are going to be shown.
    tail = call.redactor().data(result.tail, cut=result.truncated)
    return replace(
        result,
        tail=tail,
        total_bytes=result.total_bytes - len(result.tail) + len(tail),
        total_newlines=result.total_newlines - result.tail.count(b"\n") + tail.count(b"\n"),
    )


def describe(result: ExecResult, timeout: float | None) -> Answer:
    """What the model and programs learn of a command that ran."""
    bounded = tail_text(result.tail, total_bytes=result.total_bytes, total_newlines=result.total_newlines, log_path=result.log_path)
    ending = format_exit(result.exit_code, signal=result.signal, timed_out=result.timed_out, timeout=timeout or DEFAULT_TIMEOUT)
    artifact: dict[str, Any] = {
        "exit_code": result.exit_code,
        "timed_out": result.timed_out,
        "truncated": bounded.truncated,
        "bytes": result.total_bytes,
        "reconnects": result.reconnects,
    }
    if result.log_path is not None:
        artifact["log_path"] = result.log_path
    if result.cwd is not None:
        artifact["cwd"] = result.cwd
    return Answer(compose(bounded, ending), artifact, error=ending is not None)


async def bash(call: Call, *, command: str, timeout: float | None = None, background: bool = False) -> Answer:
    if background and timeout is not None:
        raise BadInput("a background job has no time limit; leave timeout out, and end the job with bash_kill. Nothing was run")
    async with call.changing() as route:
        if background:
            job = await jobs.start(route.backend, command, route.cwd, call.variables())
            call.context.note(call.place, route)
            return Answer(
                f"Started job {job.id} (pid {job.pid}). Its output: bash_output, or read {job.log_path}",
                {"job_id": job.id, "log_path": job.log_path},
            )
        result = await run_command(call, route.backend, route.cwd, command, timeout)
        call.context.note(call.place, route, cwd=result.cwd)
    return describe(result, timeout)


async def bash_output(call: Call, *, job_id: str) -> Answer:
    route = await call.route()
    report = await jobs.look(route.backend, job_id)
    # A look may end in the middle of a secret, and the next one begins there.
    output = call.redactor().data(report.output, cut=True, unfinished=report.running)
    bounded = tail_text(
        output,
        total_bytes=report.new_bytes - len(report.output) + len(output),
        total_newlines=report.new_newlines - report.output.count(b"\n") + output.count(b"\n"),
        log_path=report.log_path,
    )
    if report.running:
        ending = f"Job {job_id} is running (pid {report.pid})."
    elif report.exit_code is None:
        ending = f"Job {job_id} was lost before it could say how it ended (the machine was restarted, or it was killed from outside)."
    else:
        ending = f"Job {job_id} has ended: " + (format_exit(report.exit_code) or "Command exited with code 0")
    artifact = {
        "job_id": job_id,
        "running": report.running,
        "exit_code": report.exit_code,
        "truncated": bounded.truncated,
        "bytes": report.new_bytes,
        "log_path": report.log_path,
    }
    text = compose(bounded, ending) if report.output else f"(no new output)\n\n{ending}"
    return Answer(text, artifact)


async def bash_kill(call: Call, *, job_id: str) -> Answer:
    async with call.changing() as route:
        was_running = await jobs.kill(route.backend, job_id)
    text = f"Killed job {job_id} and its child processes." if was_running else f"Job {job_id} had already ended; nothing of it runs."
    return Answer(text, {"job_id": job_id, "killed": was_running})


SPECS = [
    ToolSpec(
        "bash",
        "Run a bash command on the current machine, without stdin or terminal. `cd` holds for later calls, variables do not. "
        "Shows the last 2000 lines or 50KB of stdout and stderr, and where the full log is.",
        Bash,
        bash,
        reach=lambda arguments: Reach(command=arguments["command"]),
    ),
    ToolSpec("bash_output", "State of a background job, and its output since the last look.", BashOutput, bash_output),
    ToolSpec("bash_kill", "Kill a background job and its child processes.", BashKill, bash_kill),
]
