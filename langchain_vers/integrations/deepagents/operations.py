"""Commands for Deep Agents, on the machine of a call, and what all its operations share: coroutines of the I/O thread.

They need nothing but a POSIX shell on the machine. Failures are errors of `langchain_vers.errors`, which `answers.py` puts into
Deep Agents' words.
"""

from __future__ import annotations

import contextlib
import posixpath
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from deepagents.backends.protocol import (
    ExecuteOffloadResult,
    ExecuteResponse,
)

from langchain_vers.backends.base import Backend, ExecResult
from langchain_vers.errors import BadInput, VersError
from langchain_vers.integrations.deepagents.pages import PREVIEW_BYTES, absolute, offloaded, preview
from langchain_vers.route import Route
from langchain_vers.tools.base import Answer, Call
from langchain_vers.tools.shell import DEFAULT_TIMEOUT, MAX_TIMEOUT, run_command

RESULT = "result"
"""Where an operation's artifact has what it gives back."""
MAX_OUTPUT = 10 * 1024 * 1024
"""Bytes of a command's output that `execute` gives back; of a longer one only the end."""
TIMED_OUT = 124
"""The exit code of a command that was stopped by its time limit, as GNU timeout's and Deep Agents' own."""


# --- commands ---


@dataclass(frozen=True)
class Capture:
    """Where a long output is to stay, on the machine."""

    path: str
    inline: int
    """Bytes of output that are given back all the same."""
    limit: int
    """Bytes of output that are kept."""


def executing(capture: Capture | None = None) -> Callable[..., Awaitable[Answer]]:
    """The operation `execute`; with a `capture`, long output stays on the machine."""

    async def execute(call: Call, *, command: str, timeout: float | None = None) -> Answer:
        if timeout is not None and not 0 <= timeout <= MAX_TIMEOUT:
            raise BadInput(f"timeout must be a number of seconds from 0 (no limit) to {MAX_TIMEOUT:.0f}, not {timeout}; nothing was run")
        limit = DEFAULT_TIMEOUT if timeout is None else timeout or MAX_TIMEOUT
        async with call.changing() as route:
            result = await run_command(call, route.backend, route.cwd, command, limit)
            call.context.note(call.place, route, cwd=result.cwd)
            code = TIMED_OUT if result.timed_out else result.exit_code
            kept = await _kept(call, route, result, capture) if capture is not None else None
            if kept is not None:
                said, marker, cut = kept
            else:
                (said, cut), marker = await _output(call, route.backend, result), False
        if result.timed_out:
            said = f"{said}\nCommand timed out after {limit:g} s; it and its child processes were killed."
        response = ExecuteResponse(output=said, exit_code=code, truncated=cut)
        done = offloaded(response, marker=marker) if kept is not None else ExecuteOffloadResult(offloaded=False, response=response)
        facts = {"exit_code": code, "timed_out": result.timed_out, "truncated": cut, "bytes": result.total_bytes}
        return Answer(said, {RESULT: done, **facts, "reconnects": result.reconnects, "cwd": result.cwd or route.cwd})

    return execute


async def _output(call: Call, backend: Backend, result: ExecResult) -> tuple[str, bool]:
    """A command's whole output, if it is not too long; else its end, and word of where the rest is."""
    if not result.truncated:
        return result.tail.decode("utf-8", "replace"), False
    log = result.log_path
    if log is not None and result.total_bytes <= MAX_OUTPUT:
        with contextlib.suppress(VersError):  # the command has run: how it ended is told in any case
            whole = await backend.read(log, length=MAX_OUTPUT + 1)
            await backend.exec(f"rm -f -- {shlex.quote(log)}", cwd="/")
            return call.redactor().data(whole.data).decode("utf-8", "replace"), False
    where = f"; the whole output is in {log} on the machine" if log is not None else ""
    return f"[The first {result.total_bytes - len(result.tail)} bytes are left out{where}.]\n{result.tail.decode('utf-8', 'replace')}", True


async def _kept(call: Call, route: Route, result: ExecResult, capture: Capture) -> tuple[str, bool, bool] | None:
    """Have a long output stay on the machine: what stands for it, whether that has lines left out, and whether what is kept is cut.

    None if it is short enough, or cannot be put there.
    """
    if result.total_bytes <= capture.inline:
        return None
    backend, log = route.backend, result.log_path
    target, folder = shlex.quote(capture.path), shlex.quote(posixpath.dirname(capture.path))
    try:
        head = result.tail
        if result.truncated and log is not None:
            head = call.redactor().data((await backend.read(log, length=2 * PREVIEW_BYTES)).data, unfinished=True)
        if log is not None:
            source = shlex.quote(log)
            move = f"mv -f -- {source} {target}"
            if result.total_bytes > capture.limit:
                move = f"head -c {capture.limit} <{source} >{target} && rm -f -- {source}"
            if (await backend.exec(f"mkdir -p -- {folder} && {move}", cwd="/")).exit_code != 0:
                return None
        elif result.truncated:
            return None
        else:
            await backend.write(capture.path, result.tail)
    except VersError:  # the command has run: how it ended is told in any case
        return None
    shown, marker = preview(head, result.tail, total_bytes=result.total_bytes, total_newlines=result.total_newlines)
    return shown, marker, result.total_bytes > capture.limit


# --- what they share ---


async def located(call: Call, path: str) -> tuple[Route, str, str | None]:
    """Where a call goes, and the path as its machine takes it."""
    wanted = absolute(path)
    route = await call.route()
    return route, *route.locate(wanted)


def shown(call: Call, text: str) -> str:
    """A text as the model may read it: without secrets, and without private paths of the host."""
    paths = call.taken.paths if call.taken is not None else None
    return call.redactor().text(paths.text_from_guest(text) if paths else text)
