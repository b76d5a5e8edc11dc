"""The inside of a machine: what the warden's children do between `fork` and `exec` to become a machine's pid 1 or one of its processes.

Everything here runs in a process of its own that ends in `exec` or with an OSError. Which machines there are, and who reaps whom, is the
warden's business. Standard library only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

from langchain_vers.embedded import linux

NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWUSER | linux.CLONE_NEWPID | linux.CLONE_NEWNET
JOINED = NAMESPACES & ~linux.CLONE_NEWPID  # the pid namespace is joined by the parent, before it forks

# chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap:
# what a package manager or a service needs. Without sys_admin nobody in the machine can mount or unmount.
CAPABILITIES = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
# Files of /proc that belong to the host as a whole. An ordinary uid cannot write them anyway; where a machine's root is the host's uid 0
# (no mapped mounts, see `rights`) this is what keeps it from, say, kernel.core_pattern.
_PROC_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi")
_PROC_HIDDEN = ("kcore", "keys", "timer_list", "sched_debug", "latency_stats", "kmsg")
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1


class Overlay(TypedDict):
    """One overlay of a machine. Paths are relative to the warden's stage; `lower` is top first."""

    target: str
    lower: list[str]
    upper: str
    work: str


class Plan(TypedDict):
    """What a machine is made of. `tmpfs` is a size option for memory-backed folders, such as "50%" or "512m"."""

    hostname: str
    overlays: list[Overlay]
    tmpfs: str


def become_root() -> None:
    """Take uid and gid 0 of the user namespace just entered. Without privileges there are no groups to give up."""
    with suppress(PermissionError):
        os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def build(plan: Plan) -> None:
    """Mount a machine's file systems and make them the root of this mount namespace. The current folder is the stage."""
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    for overlay in plan["overlays"]:
        options = f"lowerdir={':'.join(overlay['lower'])},upperdir={overlay['upper']},workdir={overlay['work']},userxattr"
        linux.mount("overlay", f"root/{overlay['target']}", "overlay", 0, options)
    os.chdir("root")
    linux.mount("proc", "proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for name in _PROC_READ_ONLY:
        if Path("proc", name).exists():
            linux.mount(f"proc/{name}", f"proc/{name}", None, linux.MS_BIND | linux.MS_REC)
            linux.mount("none", f"proc/{name}", None, linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | 0xE)
    _devices(plan["tmpfs"])
    for name in _PROC_HIDDEN:
        if Path("proc", name).exists():
            linux.mount("/dev/null", f"proc/{name}", None, linux.MS_BIND)
    linux.mount("tmpfs", "run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode=755,size={plan['tmpfs']}")
    Path("run/lock").mkdir()
    Path("run/lock").chmod(0o1777)
    linux.pivot_root(".", ".")
    linux.unmount(".")
    os.chdir("/")
    _names(plan["hostname"])
    _loopback()


def _devices(size: str) -> None:
    linux.mount("tmpfs", "dev", "tmpfs", linux.MS_NOSUID, "mode=755,size=64k")
    for name in _DEVICES:
        os.close(os.open(f"dev/{name}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o666))
        linux.mount(f"/dev/{name}", f"dev/{name}", None, linux.MS_BIND)
    for destination, name in _LINKS:
        Path("dev", name).symlink_to(destination)
    Path("dev/pts").mkdir()
    linux.mount("devpts", "dev/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    Path("dev/shm").mkdir()
    linux.mount("tmpfs", "dev/shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, f"mode=1777,size={size}")


def _names(hostname: str) -> None:
    socket.sethostname(hostname)
    # The disk may be broken, or a copy of another machine's: neither may keep this one from starting.
    with suppress(OSError):
        _write_if_new(Path("/etc/hostname"), hostname + "\n")
    with suppress(OSError, UnicodeDecodeError):
        path = Path("/etc/hosts")
        _write_if_new(path, hosts_file(path.read_text(), hostname))


def hosts_file(text: str, hostname: str) -> str:
    """The content of /etc/hosts with 127.0.1.1 naming this machine and nothing else changed."""
    lines = [line for line in text.splitlines() if line.split()[:1] != ["127.0.1.1"]]
    return "\n".join([*lines, f"127.0.1.1\t{hostname}"]) + "\n"


def _write_if_new(path: Path, text: str) -> None:
    if path.is_symlink() or (path.exists() and path.read_text() == text):
        return
    path.write_text(text)


def _loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def reset_signals() -> None:
    """Undo what Python, the warden, and whoever started the server (as `nohup` does) did to signals: a program must find the defaults."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def become_init(program: int | None) -> None:
    """Turn this process into a machine's pid 1, which only waits. `program` is a file with `linux.pause_program`.

    With SIGCHLD ignored the kernel reaps every orphan by itself, so pid 1 needs no code for that.
    """
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    if program is not None:
        os.execve(program, ["vers-init"], {})  # noqa: S606 - that is the point
    os.execve("/usr/bin/sleep", ["sleep", "infinity"], {})  # noqa: S606 - that is the point


def execute(argv: Sequence[str], env: Mapping[str, str], cwd: str | None, fds: Sequence[int]) -> None:
    """Become a process of a machine (its namespaces are entered already): session, standard streams, folder, program.

    If stdin is a terminal it becomes the session's controlling terminal. `cwd` must exist; without one it is the home
    folder, or / if that is gone. A program without a slash is looked for on the PATH of `env`.

    Raises:
        OSError: a step failed; `filename` says what was missing.
    """
    os.setsid()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
    if os.isatty(0):
        with suppress(OSError):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if cwd is None:
        try:
            os.chdir(env.get("HOME", "/"))
        except OSError:
            os.chdir("/")
    else:
        os.chdir(cwd)
    os.umask(0o022)
    if "/" in argv[0]:
        os.execve(argv[0], list(argv), dict(env))  # noqa: S606 - that is the point
    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
    for folder in env.get("PATH", "/usr/bin:/bin").split(":"):
        try:
            os.execve(f"{folder}/{argv[0]}", list(argv), dict(env))  # noqa: S606 - that is the point
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failure = error
    raise failure
