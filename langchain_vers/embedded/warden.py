"""The warden: one small process beside the server that holds all machines of the `namespaces` engine.

It makes namespaces, starts processes in them, freezes them, reaps them, and tells the server how they ended. It is the parent of every
machine's pid 1 and lives as long as its socket to the server: when either dies, all machines do, however they died. Which disks a machine
is made of is decided by the server (`layers`, `namespaces`); what it may do on the host is in `rights`, how it forks and reaps in
`children`, what happens inside a machine in `guest`. Standard library only; started by `command()`.

Wire format, both ways: u32be length and that many bytes of JSON. File descriptors travel with the first bytes of their request.
"""

from __future__ import annotations

import array
import errno
import json
import os
import select
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langchain_vers.embedded import freezer, guest, linux, rights
from langchain_vers.embedded.children import Children, Forked, Message, explain

_BOOT = """
import sys, types
for name, path in (("langchain_vers", {package!r}), ("langchain_vers.embedded", {folder!r})):
    module = types.ModuleType(name); module.__path__ = [path]; sys.modules[name] = module
from langchain_vers.embedded import warden
warden.main(sys.argv[1:])
"""


def command(data_dir: Path, trees: Sequence[str], fd: int) -> list[str]:
    """The argument list that starts a warden: `fd` is its end of the socket, `trees` the host's folders that machines see."""
    # Not `-m`: that would import the package's own __init__ and with it all that the server needs and the warden does not.
    folder = Path(__file__).parent
    boot = _BOOT.format(package=str(folder.parent), folder=str(folder))
    return [sys.executable, "-I", "-S", "-c", boot, str(fd), str(data_dir), *trees]


@dataclass
class _Machine:
    init: int
    pidfd: int
    pidns: int
    frozen: freezer.Frozen | None = None


class Warden:
    """The loop: requests come in, processes end, answers and events go out."""

    def __init__(self, link: socket.socket, data_dir: str, trees: Sequence[str]) -> None:
        self._link = link
        self._selector = selectors.DefaultSelector()
        self._machines: dict[str, _Machine] = {}
        self._inbox = bytearray()
        self._fds: list[int] = []
        self._stage = f"{data_dir}/stage"
        self.rights = rights.enter(data_dir, trees)
        self._init_program = linux.pause_file()
        self._children = Children(self._selector, returnable=self.rights != "user")

    def run(self) -> None:
        """Serve until the server's end of the socket closes."""
        self._selector.register(self._link, selectors.EVENT_READ, self._receive)
        self._send({"event": "ready", "rights": self.rights})
        while True:
            for key, _ in self._selector.select():
                # An earlier callback of this round may have closed this one's descriptor.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()

    def finish(self) -> None:
        """End all machines and tools, and wait until they are gone."""
        signal.alarm(10)  # the kernel ends the machines with us in any case
        self._children.finish()

    # Messages

    def _send(self, message: Message) -> None:
        data = json.dumps(message).encode()
        self._link.sendall(struct.pack(">I", len(data)) + data)

    def _receive(self) -> None:
        data, ancillary, _, _ = self._link.recvmsg(1 << 16, socket.CMSG_SPACE(64 * 4), socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
                self._fds.extend(numbers)
        if not data:
            raise EOFError
        self._inbox += data
        while len(self._inbox) >= 4:
            (size,) = struct.unpack(">I", self._inbox[:4])
            if len(self._inbox) < 4 + size:
                return
            request = json.loads(self._inbox[4 : 4 + size])
            del self._inbox[: 4 + size]
            fds = [self._fds.pop(0) for _ in range(request.get("fds", 0))]
            try:
                getattr(self, f"_do_{request['op']}")(request, fds)
            except OSError as error:
                self._send({"id": request["id"], **explain(error)})
            finally:
                for fd in fds:
                    os.close(fd)

    def _machine(self, request: Message) -> _Machine:
        machine = self._machines.get(request["vm"])
        if machine is None:
            raise OSError(errno.ESRCH, "the machine does not run")
        return machine

    # Requests

    def _do_start(self, request: Message, fds: list[int]) -> None:
        """Two forks: the builder enters new namespaces and forks their pid 1."""
        vm_id: str = request["vm"]
        if vm_id in self._machines:
            raise OSError(errno.EEXIST, "the machine runs already")
        mapped_r, mapped_w = os.pipe()
        go_r, go_w = os.pipe()
        inits: list[int] = []
        failures: list[Message] = []

        def body(report: int) -> None:
            os.close(mapped_w)
            os.close(go_w)
            os.chdir(self._stage)
            linux.unshare(guest.NAMESPACES)
            os.write(report, b"unshared\n")
            if not os.read(mapped_r, 1):
                os._exit(1)  # the maps could not be written; the warden knows why
            guest.become_root()
            pid = os.fork()
            if pid:
                os.write(report, b"%d\n" % pid)
                os._exit(0)
            guest.build(request["plan"])
            # The builder must be gone before the death signal is asked for, or it would be the builder's death that counts.
            if not os.read(go_r, 1):
                os._exit(1)
            guest.reset_signals()
            linux.limit_capabilities(guest.CAPABILITIES)
            linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
            if select.select([go_r], [], [], 0)[0]:
                os._exit(1)  # the warden died just before
            guest.become_init(self._init_program)

        def heard(line: bytes) -> None:
            if line == b"unshared":
                try:
                    rights.write_maps(builder, self.rights)
                    os.write(mapped_w, b"1")
                except OSError as error:
                    failures.append(explain(error))
                    os.kill(builder, signal.SIGKILL)
            elif line.isdigit():
                inits.append(int(line))
            else:
                failures.append(json.loads(line))

        def closed() -> None:
            os.close(mapped_w)
            os.close(go_w)
            try:
                if failures or not inits:
                    raise OSError(errno.ECHILD, "the machine ended while it was started")
                init = inits[0]
                # Fails when pid 1 has died already, and so tells that from a good start.
                pidns = os.open(f"/proc/{init}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
                self._machines[vm_id] = _Machine(init, os.pidfd_open(init), pidns)
            except OSError as error:
                self._send({"id": request["id"], **(failures[0] if failures else explain(error))})
            else:
                self._children.adopt(init, lambda _: self._ended(vm_id))
                self._send({"id": request["id"], "pid": init})

        def builder_ended(code: int) -> None:
            if code == 0:
                os.write(go_w, b"1")

        try:
            builder = self._children.fork(body, heard, closed, builder_ended)
        except OSError:
            os.close(mapped_w)
            os.close(go_w)
            raise
        finally:
            os.close(mapped_r)
            os.close(go_r)

    def _ended(self, vm_id: str) -> None:
        machine = self._machines.pop(vm_id)
        os.close(machine.pidfd)
        os.close(machine.pidns)
        self._send({"event": "ended", "vm": vm_id})

    def _do_stop(self, request: Message, fds: list[int]) -> None:
        # The kernel ends all processes of the namespace before its pid 1 can be reaped, so "ended" means that nothing is left.
        os.kill(self._machine(request).init, signal.SIGKILL)
        self._send({"id": request["id"]})

    def _do_spawn(self, request: Message, fds: list[int]) -> None:
        machine = self._machine(request)
        if machine.frozen is not None:
            raise OSError(errno.EBUSY, "the machine is paused")

        def body(report: int) -> None:
            linux.setns(machine.pidfd, guest.JOINED)
            guest.become_root()
            linux.limit_capabilities(guest.CAPABILITIES)
            guest.reset_signals()
            guest.execute(request["argv"], request["env"], request["cwd"], fds)

        self._follow(request, body, machine)

    def _do_run(self, request: Message, fds: list[int]) -> None:
        """A tool of the host, with the warden's rights."""

        def body(report: int) -> None:
            guest.reset_signals()
            guest.execute(request["argv"], {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"}, request["cwd"], fds)

        self._follow(request, body)

    def _follow(self, request: Message, body: Callable[[int], None], machine: _Machine | None = None) -> None:
        """Fork `body`; answer when it has become a program or failed to, tell when it ended."""
        failures: list[Message] = []
        exits: list[Message] = []
        answered = False

        def closed() -> None:
            nonlocal answered
            answered = True
            self._send({"id": request["id"], **(failures[0] if failures else {"pid": process.pid})})
            tell()

        def ended(code: int) -> None:
            exits.append({"event": "exit", "pid": process.pid, "code": code})
            tell()

        def tell() -> None:
            # A short process may be reaped before its pipe is seen to be closed; the other side must know of it first.
            if answered and exits and not failures:
                self._send(exits.pop())

        def heard(line: bytes) -> None:
            failures.append(json.loads(line))

        if machine is None:
            process = Forked(self._children.fork(body, heard, closed, ended))
        else:
            process = self._children.fork_into(machine.pidns, body, heard=heard, closed=closed, ended=ended)

    def _do_signal(self, request: Message, fds: list[int]) -> None:
        # Nobody else reaps our children: the number is that process's as long as it is in the table.
        if request["pid"] in self._children:
            os.kill(request["pid"], request["signal"])
        self._send({"id": request["id"]})

    def _do_freeze(self, request: Message, fds: list[int]) -> None:
        machine = self._machine(request)
        if machine.frozen is not None:
            self._send({"id": request["id"], "was": True})
            return

        def frozen(before: list[int]) -> None:
            machine.frozen = frozenset(before)
            self._send({"id": request["id"], "was": False})

        self._in_pidns(request, machine, lambda proc: list(freezer.freeze(proc)), frozen)

    def _do_thaw(self, request: Message, fds: list[int]) -> None:
        machine = self._machine(request)
        before = machine.frozen
        if before is None:
            self._send({"id": request["id"]})
            return

        def thaw(proc: Path) -> list[int]:
            freezer.thaw(proc, before)
            return []

        def thawed(_: list[int]) -> None:
            machine.frozen = None
            self._send({"id": request["id"]})

        self._in_pidns(request, machine, thaw, thawed)

    def _in_pidns(self, request: Message, machine: _Machine, work: Callable[[Path], list[int]], done: Callable[[list[int]], None]) -> None:
        """Let `work` run in a process of the machine's pid namespace, with the machine's /proc, and `done` get its result."""
        proc = Path(f"/proc/{machine.init}/root/proc")
        handle = os.open(proc, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        answers: list[Any] = []

        def body(report: int) -> None:
            os.fchdir(handle)
            os.write(report, json.dumps(work(Path())).encode() + b"\n")
            os._exit(0)

        def closed() -> None:
            if answers and isinstance(answers[0], list):
                done(answers[0])
            else:
                lost = explain(OSError(errno.ESRCH, "the machine ended"))
                self._send({"id": request["id"], **(answers[0] if answers else lost)})

        try:
            self._children.fork_into(
                machine.pidns, body, heard=lambda line: answers.append(json.loads(line)), closed=closed, ended=lambda _: None
            )
        finally:
            os.close(handle)


def main(arguments: Sequence[str]) -> None:
    """Entry of the process: the socket's number, the engine's folder, and the host's folders that machines see."""
    number, data_dir, *trees = arguments
    link = socket.socket(fileno=int(number))
    link.set_inheritable(False)
    try:
        warden = Warden(link, data_dir, trees)
    except OSError as error:
        data = json.dumps({"event": "unable", **explain(error)}).encode()
        link.sendall(struct.pack(">I", len(data)) + data)
        return
    with suppress(EOFError, ConnectionError):
        warden.run()
    warden.finish()
