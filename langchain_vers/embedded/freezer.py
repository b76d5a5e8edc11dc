"""Stops and continues every process of a pid namespace, from a process inside of it (see `warden`, which forks that process).

`kill(-1, SIGSTOP)` reaches all processes of the namespace and of those nested in it, in one step as far as `fork` is concerned: the kernel
lets a fork either finish before, or start again after, a signal to many. What is left to wait for is that each has really stopped.
Standard library only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

Frozen = frozenset[int]
"""Processes (as numbered in the machine) that were stopped already when the machine was frozen, and are to stay so."""

PATIENCE = 5.0
"""Seconds to wait for processes to stop; one that the kernel keeps in uninterruptible sleep may take longer."""

_AT_REST = "TtZXx"


def parse_stat(text: str) -> tuple[int, str, int]:
    """Pid, state letter and parent's pid out of /proc/<pid>/stat. The program's name in between may hold spaces and brackets."""
    head, _, tail = text.rpartition(")")
    state, parent = tail.split()[:2]
    return int(head.split(" ", 1)[0]), state, int(parent)


def _processes(proc: Path) -> Iterator[tuple[int, str, int]]:
    for path in proc.iterdir():
        if path.name.isdigit() and path.name not in ("1", str(os.getpid())):
            with suppress(FileNotFoundError, ProcessLookupError):
                yield parse_stat((path / "stat").read_text(errors="replace"))


def held_by_vfork(table: Mapping[int, tuple[str, int]]) -> frozenset[int]:
    """Processes that have a stopped child. `table` has the state and the parent of each pid.

    One that is in uninterruptible sleep besides waits for that child to leave `vfork`, and can neither stop nor run before.
    """
    return frozenset(parent for state, parent in table.values() if state == "T")


def _running_threads(proc: Path, pid: int, at_rest: str) -> bool:
    """Whether a thread of a process has yet to stop: the state of the process is that of its first thread alone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for path in (proc / str(pid) / "task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                if parse_stat((path / "stat").read_text(errors="replace"))[1] not in at_rest:
                    return True
    return False


def freeze(proc: Path) -> Frozen:
    """Stop all processes but pid 1 and this one; return when they have.

    Raises:
        TimeoutError: one did not stop; all have been continued.
    """
    before = frozenset(pid for pid, state, _ in _processes(proc) if state == "T")
    deadline = time.monotonic() + PATIENCE
    pause = 0.0002
    with suppress(ProcessLookupError):  # nobody there
        os.kill(-1, signal.SIGSTOP)
    while True:
        table = {pid: (state, parent) for pid, state, parent in _processes(proc)}
        held = held_by_vfork(table)
        if not any(_running_threads(proc, pid, _AT_REST + "D" if pid in held else _AT_REST) for pid in table):
            return before
        if time.monotonic() > deadline:
            thaw(proc, before)
            raise TimeoutError(f"a process did not stop within {PATIENCE:g} s")
        time.sleep(pause)
        pause = min(pause * 2, 0.01)


def thaw(proc: Path, before: Frozen) -> None:
    """Continue what `freeze` stopped, children first: a shell must not find a job stopped that is about to go on."""
    parents = {pid: parent for pid, _, parent in _processes(proc) if pid not in before}

    def depth(pid: int) -> int:
        steps = 0
        while pid in parents and steps < len(parents):
            pid, steps = parents[pid], steps + 1
        return steps

    for pid in sorted(parents, key=depth, reverse=True):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
