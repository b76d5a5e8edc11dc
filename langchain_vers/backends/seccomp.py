"""The system calls that a sandboxed command does not get, as a seccomp program for bubblewrap. Pure.

Namespaces and missing capabilities do most; this closes what they leave open. Layout of the program: seccomp(2), struct sock_filter and
struct seccomp_data; numbers: the kernel's tables of the two architectures.
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass

_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_ALLOW, _ERRNO, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_X32 = 0x40000000

# Linux' numbers and not this machine's, as the program is text on every machine.
_NOT_SUPPORTED, _NO_FAMILY, _NO_SYSCALL, _NO_SUCH_CONTROL = 95, 97, 38, 25

DENIED = {
    # Space that is reserved in an instant would outrun the watch over the disk; programs fall back to writing.
    "fallocate": _NOT_SUPPORTED,
    # Does what other calls do, past every filter.
    "io_uring_setup": _NO_SYSCALL,
    "io_uring_enter": _NO_SYSCALL,
    "io_uring_register": _NO_SYSCALL,
    # The session keyring of whoever started this process is inherited, and no namespace is around it.
    "add_key": errno.EPERM,
    "request_key": errno.EPERM,
    "keyctl": errno.EPERM,
    # Parts of the kernel that no build or test needs, and where most ways out of sandboxes were found.
    "bpf": errno.EPERM,
    "perf_event_open": errno.EPERM,
    "userfaultfd": errno.EPERM,
}
"""Calls that fail, and with what."""

RESERVING = 0xC000FFE0, 0x40005820
"""What reserves space by ioctl(2): a mask for its second argument, of which the kernel takes 32 bits, and what is then left of
FS_IOC_RESVSP, FS_IOC_RESVSP64 and FS_IOC_ZERO_RANGE (Linux, include/uapi/linux/falloc.h): type 'X', numbers 32 to 63, writing, any size.
"""

FAMILIES = (0, 1, 2, 10, 16)
"""The kinds of socket that there are: unspecified, unix, IPv4, IPv6, netlink. Others, such as vsock, are in no network namespace."""


@dataclass(frozen=True)
class _Architecture:
    audit: int
    numbers: dict[str, int]
    x32: bool = False


_ARCHITECTURES = {
    "x86_64": _Architecture(
        0xC000003E,
        {
            "socket": 41,
            "ioctl": 16,
            "keyctl": 250,
            "add_key": 248,
            "request_key": 249,
            "fallocate": 285,
            "perf_event_open": 298,
            "bpf": 321,
            "userfaultfd": 323,
            "io_uring_setup": 425,
            "io_uring_enter": 426,
            "io_uring_register": 427,
        },
        x32=True,
    ),
    "aarch64": _Architecture(
        0xC00000B7,
        {
            "socket": 198,
            "ioctl": 29,
            "keyctl": 219,
            "add_key": 217,
            "request_key": 218,
            "fallocate": 47,
            "perf_event_open": 241,
            "bpf": 280,
            "userfaultfd": 282,
            "io_uring_setup": 425,
            "io_uring_enter": 426,
            "io_uring_register": 427,
        },
    ),
}


def program(machine: str) -> bytes | None:
    """The filter for a machine as `platform.machine()` names it; None for one whose numbers are not known here."""
    architecture = _ARCHITECTURES.get(machine)
    if architecture is None:
        return None
    lines = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_EQUAL, architecture.audit, 1, 0),
        _instruction(_RETURN, _KILL_PROCESS),  # 32-bit programs: their calls have other numbers
        _instruction(_LOAD, _NUMBER),
    ]
    if architecture.x32:
        lines += [_instruction(_AT_LEAST, _X32, 0, 1), _instruction(_RETURN, _ERRNO | _NO_SYSCALL)]
    for name, code in DENIED.items():
        lines += [_instruction(_EQUAL, architecture.numbers[name], 0, 1), _instruction(_RETURN, _ERRNO | code)]
    mask, reserving = RESERVING
    lines += [
        _instruction(_EQUAL, architecture.numbers["ioctl"], 0, 5),
        _instruction(_LOAD, _SECOND_ARGUMENT),
        _instruction(_AND, mask),
        _instruction(_EQUAL, reserving, 0, 1),
        _instruction(_RETURN, _ERRNO | _NO_SUCH_CONTROL),
        _instruction(_RETURN, _ALLOW),
        _instruction(_EQUAL, architecture.numbers["socket"], 1, 0),
        _instruction(_RETURN, _ALLOW),
        _instruction(_LOAD, _FIRST_ARGUMENT),
    ]
    for family in FAMILIES:
        lines += [_instruction(_EQUAL, family, 0, 1), _instruction(_RETURN, _ALLOW)]
    lines.append(_instruction(_RETURN, _ERRNO | _NO_FAMILY))
    return b"".join(lines)


def _instruction(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, when_true, when_false, value)
