"""Background jobs: commands that outlive the call, the connection and the caller. Their state lives in a folder on the machine itself."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from langchain_vers.backends.base import Backend
from langchain_vers.errors import BadInput, Gone, ServerFault

LOOK_BYTES = 256 * 1024
"""How much of a job's new output is fetched: more than the model is shown of it."""
_SECONDS = 30.0
_ID = re.compile(r"[0-9a-f]{12}")
_HEAD = re.compile(rb"\A(running|ended|lost) (\d+) (\d+) (\d+) (\d+) (\d*) (.*)\n\Z", re.DOTALL)

# The job's processes carry its id in their environment, as a command's carry its session's mark, so that all of them can be found
# to be killed, and so that the end of the session that started the job does not end the job.
_FOLDER = "d=${TMPDIR:-/tmp}/vers-$(id -u)/jobs/"
_START = r"""
umask 077
mkdir -p "$d" && printf %s "$c" >"$d/command" || exit 1
s=$(command -v bash || command -v sh)
r='"$1" "$0/command"; printf %s "$?" >"$0/status.new"; mv "$0/status.new" "$0/status"'
if command -v setsid >/dev/null 2>&1; then
  env VERS_CALL="$j" setsid sh -c "$r" "$d" "$s" </dev/null >"$d/log" 2>&1 &
else
  env VERS_CALL="$j" nohup sh -c "$r" "$d" "$s" </dev/null >"$d/log" 2>&1 &
fi
printf '%s %s\n' "$!" "$d"
printf %s "$!" >"$d/pid"
printf 0 >"$d/seen"
"""
_ALIVE = r"""
[ -d "$d" ] || { echo none; exit 0; }
p=$(cat "$d/pid")
# A process that nobody has taken note of yet (a zombie) is dead, and after the end its number may be another's.
alive() {
  grep -lsF "VERS_CALL=$j" /proc/[0-9]*/environ | grep -q . && return
  [ ! -f "$d/status" ] && kill -0 "$p" 2>/dev/null && ! grep -qs '^State:[[:space:]]*Z' "/proc/$p/status"
}
"""
_LOOK = r"""
if alive; then state=running; else state=lost; fi
if [ -f "$d/status" ]; then state=ended; code=$(cat "$d/status"); fi
seen=$(cat "$d/seen")
size=$(wc -c <"$d/log")
lines=$(tail -c "+$((seen + 1))" "$d/log" | head -c $((size - seen)) | wc -l)
printf %s "$size" >"$d/seen"
printf '%s %d %d %d %d %s %s\n' "$state" "$p" "$seen" "$size" "$lines" "$code" "$d/log"
"""
_KILL = r"""
if alive; then echo killed; else echo ended; fi
while :; do
  n=
  for f in $(grep -lsF "VERS_CALL=$j" /proc/[0-9]*/environ); do
    f=${f#/proc/}
    kill -9 "${f%/environ}" 2>/dev/null && n=1
  done
  [ -n "$n" ] || break
done
[ -d /proc/self ] || kill -9 "-$p" 2>/dev/null
[ -f "$d/status" ] || printf 137 >"$d/status"
"""


@dataclass(frozen=True)
class Job:
    """A job that was started."""

    id: str
    pid: int
    log_path: str


@dataclass(frozen=True)
class JobReport:
    """What a look at a job shows."""

    running: bool
    exit_code: int | None
    """None while it runs, and when the machine lost it (a restart) before it could say."""
    pid: int
    output: bytes
    """The end of what is new since the last look, at most `LOOK_BYTES`."""
    new_bytes: int
    new_newlines: int
    log_path: str


async def start(backend: Backend, command: str, cwd: str | None, env: Mapping[str, str] | None = None) -> Job:
    """Start a job. `env`: further variables of its command."""
    if not command.strip() or "\0" in command:
        raise BadInput("the command is empty or contains a NUL character; give a shell command")
    job_id = secrets.token_hex(6)
    script = f"{_FOLDER}{job_id}; j={job_id}; c={shlex.quote(command)}\n{_START}"
    result = await backend.exec(script, cwd=cwd, env=env, timeout=_SECONDS)
    pid, _, folder = result.tail.decode(errors="replace").strip().partition(" ")
    if result.exit_code != 0 or not pid.isdigit():
        raise ServerFault(f"the job could not be started: {result.tail.decode(errors='replace').strip()[-300:] or 'no message'}")
    return Job(job_id, int(pid), f"{folder}/log")


async def look(backend: Backend, job_id: str) -> JobReport:
    """What is new of a job since the last look.

    Raises:
        Gone: this machine has no such job.
    """
    data = await _ask(backend, job_id, _ALIVE + _LOOK)
    head = _HEAD.match(data)
    if head is None:
        raise ServerFault(f"the state of job {job_id} cannot be read: {data[-200:].decode(errors='replace')}")
    state, pid, seen, size, lines, code, log = head.groups()
    log_path = log.decode("utf-8", "surrogateescape")
    new = int(size) - int(seen)
    length = min(new, LOOK_BYTES)
    output = (await backend.read(log_path, offset=int(size) - length, length=length)).data if length > 0 else b""
    return JobReport(
        running=state == b"running",
        exit_code=int(code) if code else None,
        pid=int(pid),
        output=output,
        new_bytes=max(new, 0),
        new_newlines=int(lines),
        log_path=log_path,
    )


async def kill(backend: Backend, job_id: str) -> bool:
    """End all of a job's processes; whether any was still running.

    Raises:
        Gone: this machine has no such job.
    """
    return (await _ask(backend, job_id, _ALIVE + _KILL)).startswith(b"killed")


async def _ask(backend: Backend, job_id: str, script: str) -> bytes:
    if not _ID.fullmatch(job_id):
        raise BadInput(f"{job_id!r} is no job id; use the one that bash gave when it started the job")
    result = await backend.exec(f"{_FOLDER}{job_id}; j={job_id}\n{script}", timeout=_SECONDS)
    if result.tail.strip() == b"none":
        raise Gone(f"this machine has no job {job_id}; it may have been started on another machine")
    return result.tail
