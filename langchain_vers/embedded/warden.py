"""The warden: one small process beside the server that holds all machines of the `namespaces` engine.

It makes namespaces, starts processes in them, freezes them, reaps them, and tells the server how they ended. It is the parent of every
machine's pid 1 and lives as long as its socket to the server: when either dies, all machines do, however they died. Which disks a machine
is made of is decided by the server (`layers`, `namespaces`). Standard library only; started by `command()`.

Rights. Started as root, machines get uids of their own that mean nothing on the host (0 in the machine is `FIRST_UID` outside), and
mounts of the host's folders and of the engine's disk translate between the two. Where the file system cannot do that, ids are the same
inside and outside. Started as an ordinary user, the warden first enters a user namespace where that user is root; a machine has that one
uid only.

Wire format, both ways: u32be length and that many bytes of JSON. File descriptors travel with the first bytes of their request.
"""

from __future__ import annotations

import array
import errno
import fcntl
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
from typing import Any, Literal, NoReturn

from langchain_vers.embedded import freezer, guest, linux

FIRST_UID = 0x70000000
"""First of the 65536 host uids that machines have when the warden is root; above every range that systemd or `useradd` hands out."""

_BOOT = """
import sys, types
for name, path in (("langchain_vers", {package!r}), ("langchain_vers.embedded", {folder!r})):
    module = types.ModuleType(name); module.__path__ = [path]; sys.modules[name] = module
from langchain_vers.embedded import warden
warden.main(sys.argv[1:])
"""

Rights = Literal["mapped", "same", "user"]
"""How a machine's uids relate to the host's: a range of their own, the same, or the one user's."""

Message = dict[str, Any]


def command(data_dir: Path, trees: Sequence[str], fd: int) -> list[str]:
    """The argument list that starts a warden: `fd` is its end of the socket, `trees` the host's folders that machines see."""
    # Not `-m`: that would import the package's own __init__ and with it all that the server needs and the warden does not.
    folder = Path(__file__).parent
    boot = _BOOT.format(package=str(folder.parent), folder=str(folder))
    return [sys.executable, "-I", "-S", "-c", boot, str(fd), str(data_dir), *trees]


_MFD_EXEC = 0x10  # Linux 6.3; without it the kernel may log a warning


def _nothing() -> None:
    pass


@dataclass
class _Machine:
    init: int
    pidfd: int
    pidns: int
    frozen: freezer.Frozen | None = None


@dataclass
class _Child:
    """A forked process: what to do when it ends with an exit code (-n: signal n), and how to read what it reports."""

    ended: Callable[[int], None]
    read: Callable[[], None] = _nothing


@dataclass
class _Process:
    """The number of a forked process, once it is known."""

    pid: int = 0


class Warden:
    """The loop: requests come in, processes end, answers and events go out."""

    def __init__(self, link: socket.socket, data_dir: str, trees: Sequence[str]) -> None:
        self._link = link
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, _Child] = {}
        self._machines: dict[str, _Machine] = {}
        self._inbox = bytearray()
        self._fds: list[int] = []
        self._stage = f"{data_dir}/stage"
        self.rights = enter(data_dir, trees)
        self._own_pidns = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._init_program = _pause_file()
        self._wake_r, wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(wake_w, False)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        linux.prctl(linux.PR_SET_CHILD_SUBREAPER, 1)

    def run(self) -> None:
        """Serve until the server's end of the socket closes."""
        self._selector.register(self._link, selectors.EVENT_READ, self._receive)
        self._selector.register(self._wake_r, selectors.EVENT_READ, self._reap)
        self._send({"event": "ready", "rights": self.rights})
        while True:
            for key, _ in self._selector.select():
                # An earlier callback of this round may have closed this one's descriptor.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()

    def finish(self) -> None:
        """End all machines and tools, and wait until they are gone."""
        signal.alarm(10)  # the kernel ends the machines with us in any case
        for pid in self._children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)

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
                self._send({"id": request["id"], **_explain(error)})
            finally:
                for fd in fds:
                    os.close(fd)

    # Children

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while os.read(self._wake_r, 512):
                pass
        for child in list(self._children.values()):
            child.read()  # how a process began is told before how it ended, and some are known by their parents' reports only
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if known := self._children.pop(pid, None):
                known.read()
                known.ended(os.waitstatus_to_exitcode(status))

    def _fork(
        self, body: Callable[[int], None], heard: Callable[[bytes], None], closed: Callable[[], None], ended: Callable[[int], None]
    ) -> int:
        """Fork a child that runs `body` with a descriptor to write lines to.

        `body` ends in `exec`, `_exit`, or an OSError, which is reported.
        """
        report_r, report_w = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(report_r)
            raise
        else:
            if pid == 0:
                _run_child(body, report_w)
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

        child = self._children[pid] = _Child(ended, read)
        self._selector.register(report_r, selectors.EVENT_READ, read)
        return pid

    def _fork_inside(
        self,
        machine: _Machine | None,
        body: Callable[[int], None],
        heard: Callable[[bytes], None],
        closed: Callable[[], None],
        ended: Callable[[int], None],
    ) -> _Process:
        """Like `_fork`, in the pid namespace of a machine."""
        if machine is None:
            return _Process(self._fork(body, heard, closed, ended))
        if self.rights != "user":
            linux.setns(machine.pidns, linux.CLONE_NEWPID)
            try:
                return _Process(self._fork(body, heard, closed, ended))
            finally:
                linux.setns(self._own_pidns, linux.CLONE_NEWPID)
        # There is no way back for us into the host's pid namespace: somebody else has to go, and leaves us the child when it ends.
        process = _Process()

        def go(report: int) -> None:
            linux.setns(machine.pidns, linux.CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                body(report)
                os._exit(127)
            os.write(report, b"%d\n" % pid)
            os._exit(0)

        def heard_first(line: bytes) -> None:
            if line.isdigit():
                process.pid = int(line)
                self._children[process.pid] = _Child(ended)
            else:
                heard(line)

        self._fork(go, heard_first, closed, lambda _: None)
        return process

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
                    _write_maps(builder, self.rights)
                    os.write(mapped_w, b"1")
                except OSError as error:
                    failures.append(_explain(error))
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
                self._send({"id": request["id"], **(failures[0] if failures else _explain(error))})
            else:
                self._children[init] = _Child(lambda _: self._ended(vm_id))
                self._send({"id": request["id"], "pid": init})

        def builder_ended(code: int) -> None:
            if code == 0:
                os.write(go_w, b"1")

        try:
            builder = self._fork(body, heard, closed, builder_ended)
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

        def closed() -> None:
            self._send({"id": request["id"], **(failures[0] if failures else {"pid": process.pid})})

        def ended(code: int) -> None:
            if not failures:
                self._send({"event": "exit", "pid": process.pid, "code": code})

        process = self._fork_inside(machine, body, lambda line: failures.append(json.loads(line)), closed, ended)

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
                lost = _explain(OSError(errno.ESRCH, "the machine ended"))
                self._send({"id": request["id"], **(answers[0] if answers else lost)})

        try:
            self._fork_inside(machine, body, lambda line: answers.append(json.loads(line)), closed, lambda _: None)
        finally:
            os.close(handle)


def _run_child(body: Callable[[int], None], report: int) -> NoReturn:
    """The life of a forked child: it never returns into the warden's loop."""
    try:
        body(report)
    except OSError as error:
        os.write(report, json.dumps(_explain(error)).encode() + b"\n")
    except (TypeError, ValueError) as error:  # an argument with a zero byte, for one
        os.write(report, json.dumps({"error": str(error), "errno": errno.EINVAL}).encode() + b"\n")
    finally:
        os._exit(127)


def _explain(error: OSError) -> Message:
    text = error.strerror or str(error)
    return {"error": f"{text} ({error.filename})" if error.filename else text, "errno": error.errno}


# Rights


def enter(data_dir: str, trees: Sequence[str]) -> Rights:
    """Get the rights that making machines needs, and lay out the stage: `disk` is the engine's folder, `lower` the host's, `root` is empty.

    Raises:
        OSError: user or mount namespaces are not to be had.
    """
    rights: Rights = "same"
    try:
        linux.unshare(linux.CLONE_NEWNS)
    except PermissionError:
        rights = "user"
        uid, gid = os.geteuid(), os.getegid()
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    stage = f"{data_dir}/stage"
    Path(stage).mkdir(exist_ok=True)
    # The stage hides nothing of the disk, which is reached through the folder opened here.
    linux.mount("tmpfs", stage, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755,size=1m")
    for name in ("root", "lower"):
        Path(stage, name).mkdir()
    names = {"disk": data_dir, **{f"lower/{tree.replace('/', '-')}": f"/{tree}" for tree in trees}}
    if rights == "same" and _mount_mapped(stage, names):
        return "mapped"
    for name, source in names.items():
        Path(stage, name).symlink_to(source)
    return rights


def _mount_mapped(stage: str, names: dict[str, str]) -> bool:
    """Mount each folder with its owners moved into the machines' range; False (and nothing mounted) if one cannot be."""
    ready_r, ready_w = os.pipe()
    done_r, done_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(done_w)
        os.close(ready_r)

        def body(_: int) -> None:
            linux.unshare(linux.CLONE_NEWUSER)
            os.write(ready_w, b"1")
            os.read(done_r, 1)

        _run_child(body, ready_w)
    os.close(ready_w)
    os.close(done_r)
    mounted: list[str] = []
    try:
        if os.read(ready_r, 1) != b"1":
            return False
        _write_maps(pid, "mapped")
        userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for name, source in names.items():
                Path(stage, name).mkdir()
                mounted.append(f"{stage}/{name}")
                linux.mount_mapped(source, f"{stage}/{name}", userns)
        finally:
            os.close(userns)
    except OSError:
        for path in reversed(mounted):
            with suppress(OSError):
                linux.unmount(path)
            Path(path).rmdir()
        return False
    finally:
        os.close(ready_r)
        os.close(done_w)
        os.waitpid(pid, 0)
    return True


def _write_maps(pid: int, rights: Rights) -> None:
    """Give a process's new user namespace its uids and gids."""
    line = {"mapped": f"0 {FIRST_UID} 65536", "same": "0 0 65536", "user": "0 0 1"}[rights]
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(line)


def _pause_file() -> int | None:
    """A sealed file in memory with the program for pid 1; None where that cannot be (`guest.become_init` then uses the disk's `sleep`)."""
    program = linux.pause_program()
    if program is None:
        return None
    for flags in (os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _MFD_EXEC, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING):
        with suppress(OSError):
            fd = os.memfd_create("vers-init", flags)
            os.write(fd, program)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
            return fd
    return None


def main(arguments: Sequence[str]) -> None:
    """Entry of the process: the socket's number, the engine's folder, and the host's folders that machines see."""
    number, data_dir, *trees = arguments
    link = socket.socket(fileno=int(number))
    link.set_inheritable(False)
    try:
        warden = Warden(link, data_dir, trees)
    except OSError as error:
        data = json.dumps({"event": "unable", **_explain(error)}).encode()
        link.sendall(struct.pack(">I", len(data)) + data)
        return
    with suppress(EOFError, ConnectionError):
        warden.run()
    warden.finish()
