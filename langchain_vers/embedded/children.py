"""The warden's children: forking processes, on the host or into a machine's pid namespace, hearing what they report, and reaping them.

What a child does is its `body`, which belongs to whoever forks it (`warden`, `rights`). A child reports through a pipe, in lines, until it
becomes a program: an OSError on the way there arrives as one line of JSON (`explain`). Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import selectors
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from langchain_vers.embedded import linux

Message = dict[str, Any]


def _nothing() -> None:
    pass


@dataclass
class _Child:
    """A forked process: what to do when it ends with an exit code (-n: signal n), and how to read what it reports."""

    ended: Callable[[int], None]
    read: Callable[[], None] = _nothing


@dataclass
class Forked:
    """The number of a forked process, once it is known."""

    pid: int = 0


class Children:
    """All children of this process, reaped in the loop of `selector`.

    `returnable` says whether this process can come back into its own pid namespace after it has forked into another one.
    """

    def __init__(self, selector: selectors.BaseSelector, *, returnable: bool) -> None:
        self._selector = selector
        self._returnable = returnable
        self._table: dict[int, _Child] = {}
        self._own_pidns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._wake_r, wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)
        selector.register(self._wake_r, selectors.EVENT_READ, self._reap)

    def __contains__(self, pid: int) -> bool:
        """Whether the number is that of a child that has not been reaped."""
        return pid in self._table

    def adopt(self, pid: int, ended: Callable[[int], None]) -> None:
        """Reap a process that a child has forked and left to us."""
        self._table[pid] = _Child(ended)

    def finish(self) -> None:
        """Kill all, and wait until they are gone."""
        for pid in self._table:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake_r, 512):
                pass
        for child in list(self._table.values()):
            child.read()  # how a process began is told before how it ended, and some are known by their parents' reports only
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if known := self._table.pop(pid, None):
                known.read()
                known.ended(os.waitstatus_to_exitcode(status))

    def fork(
        self, body: Callable[[int], None], heard: Callable[[bytes], None], closed: Callable[[], None], ended: Callable[[int], None]
    ) -> int:
        """Fork a child that runs `body` with a descriptor to write lines to; its number.

        `body` ends in `exec`, `_exit`, or an OSError, which is reported. `heard` gets each line, `closed` is called after the last one,
        `ended` gets the exit code (-n: signal n).

        Raises:
            OSError: there can be no more processes or descriptors.
        """
        report_r, report_w = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(report_r)
            raise
        else:
            if pid == 0:
                run_child(body, report_w)
        finally:
            os.close(report_w)
        os.set_blocking(report_r, False)
        buffer = bytearray()

        def read() -> None:
            try:
                while chunk := os.read(report_r, 1 << 16):
                    buffer.extend(chunk)
                    while b"\n" in buffer:
                        line, _, rest = bytes(buffer).partition(b"\n")
                        buffer[:] = rest
                        heard(line)
            except BlockingIOError:
                return
            self._selector.unregister(report_r)
            os.close(report_r)
            child.read = _nothing
            closed()

        child = self._table[pid] = _Child(ended, read)
        self._selector.register(report_r, selectors.EVENT_READ, read)
        return pid

    def fork_into(
        self,
        pidns: int,
        body: Callable[[int], None],
        *,
        heard: Callable[[bytes], None],
        closed: Callable[[], None],
        ended: Callable[[int], None],
    ) -> Forked:
        """Like `fork`, in the pid namespace of that descriptor. The number may be known only when `closed` is called."""
        if self._returnable:
            linux.setns(pidns, linux.CLONE_NEWPID)
            try:
                return Forked(self.fork(body, heard, closed, ended))
            finally:
                linux.setns(self._own_pidns, linux.CLONE_NEWPID)
        # There is no way back for us into the host's pid namespace: somebody else has to go, and leaves us the child when it ends.
        process = Forked()

        def go(report: int) -> None:
            linux.setns(pidns, linux.CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                body(report)
                os._exit(127)
            os.write(report, b"%d\n" % pid)
            os._exit(0)

        def heard_first(line: bytes) -> None:
            if line.isdigit():
                process.pid = int(line)
                self.adopt(process.pid, ended)
            else:
                heard(line)

        self.fork(go, heard_first, closed, lambda _: None)
        return process


def run_child(body: Callable[[int], None], report: int) -> NoReturn:
    """The life of a forked child: it never returns into its parent's code."""
    try:
        body(report)
    except OSError as error:
        os.write(report, json.dumps(explain(error)).encode() + b"\n")
    except (TypeError, ValueError) as error:  # an argument with a zero byte, for one
        os.write(report, json.dumps({"error": str(error), "errno": errno.EINVAL}).encode() + b"\n")
    finally:
        os._exit(127)


def explain(error: OSError) -> Message:
    """An error as a message: `error` is a text, `errno` the number."""
    text = error.strerror or str(error)
    return {"error": f"{text} ({error.filename})" if error.filename else text, "errno": error.errno}
