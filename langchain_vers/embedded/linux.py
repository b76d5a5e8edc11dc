"""System calls of Linux that Python's standard library does not have, as plain functions that raise OSError.

Used inside the warden and the machines that it starts (see `warden`), which run without site-packages: standard library only. What the
calls are used for is the business of `guest` and `warden`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from contextlib import suppress

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_SYS_OPEN_TREE = 428  # these three have the same number on every architecture
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MOUNT_ATTR_IDMAP = 0x00100000
_CAPABILITY_VERSION_3 = 0x20080522
_MFD_EXEC = 0x10  # Linux 6.3; without it the kernel may log a warning

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str, *paths: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}", *paths[:1])
    return result


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """`mount(2)`; `options` is at most a page (4096 bytes) long."""
    result = _libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        os.fsencode(options) if options else None,
    )
    _check(result, f"mount {kind or 'bind'}", target)


def unmount(target: str) -> None:
    """Take a mount out of the tree at once; it ends when its last user has gone."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), "umount", target)


def pivot_root(new: str, old: str) -> None:
    """`pivot_root(2)`."""
    _check(_libc.pivot_root(os.fsencode(new), os.fsencode(old)), "pivot_root", new)


def unshare(flags: int) -> None:
    """`unshare(2)`."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, flags: int) -> None:
    """`setns(2)`; with a pidfd, joins several namespaces of that process at once."""
    _check(_libc.setns(fd, flags), "setns")


def prctl(option: int, argument: int, more: int = 0) -> int:
    """`prctl(2)` for the options that take numbers."""
    return _check(_libc.prctl(option, *(ctypes.c_ulong(value) for value in (argument, more, 0, 0))), "prctl")


def limit_capabilities(kept: frozenset[int]) -> None:
    """Reduce every capability set of this process to `kept` for good: what it executes cannot get the others back."""
    for number in range(64):
        if number not in kept:
            try:
                prctl(PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    break  # past the kernel's last capability
                raise
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    mask = sum(1 << number for number in kept)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    data = struct.pack("=6I", low, low, 0, high, high, 0)
    _check(_libc.capset(header, data), "capset")


def mount_mapped(source: str, target: str, userns: int) -> None:
    """Mount the folder `source` (without what is mounted below it) on `target`, with owners mapped by the user namespace `userns`."""
    tree = _check(_libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC), "open_tree", source)
    try:
        attributes = struct.pack("=QQQQ", _MOUNT_ATTR_IDMAP, 0, 0, userns)
        size = ctypes.c_size_t(len(attributes))
        _check(_libc.syscall(_SYS_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, size), "mount_setattr", source)
        _check(_libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH), "move_mount", target)
    finally:
        os.close(tree)


def pause_program() -> bytes | None:
    """A static ELF program that does nothing but wait for signals, for this machine's architecture; None if there is none for it.

    It is what runs as pid 1: one page of memory, and no need of any file on the machine's disk, which its user may have emptied.
    """
    machine = platform.machine()
    if machine == "x86_64":
        number, code = 62, bytes.fromhex("b822000000 0f05 ebf7")  # again: pause(); goto again
    elif machine == "aarch64":
        words = (0xD2800000, 0xD2800001, 0xD2800002, 0xD2800003, 0xD2800004, 0xD2800928, 0xD4000001, 0x17FFFFF9)  # ppoll(0, 0, 0, 0, 0)
        number, code = 183, struct.pack("<8I", *words)
    else:
        return None
    start = 64 + 56
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, number, 1, 0x400000 + start, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, start + len(code), start + len(code), 0x10000)
    return header + segment + code


def pause_file() -> int | None:
    """A sealed file in memory with the program for pid 1; None where that cannot be (`guest.become_init` then uses the disk's `sleep`)."""
    program = pause_program()
    if program is None:
        return None
    for flags in (os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | _MFD_EXEC, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING):
        with suppress(OSError):
            fd = os.memfd_create("vers-init", flags)
            os.write(fd, program)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
            return fd
    return None
