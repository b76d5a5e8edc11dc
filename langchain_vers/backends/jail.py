"""What a bubblewrap sandbox is made of, as the arguments of bwrap(1). Pure, but for what looks at this machine to
know its folders.

The system is this machine's own, read-only and without anybody's data: programs (/usr), and of /etc only what programs need to find each
other. Everything is bound by name; what is not named here or in a mount is not there. The folders that commands may write are the
workspace, mounts of mode "rw", and file systems in memory with a size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput

HOME = "/home/agent"
WORKSPACE = "/workspace"
USER = "agent"
UID = 1000
"""Who commands are in the sandbox; outside, they are the user of this process."""
SESSIONS = "/run/sessions"
"""Where the pipes of sessions lie in the sandbox."""

SETTINGS = (
    *("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "nsswitch.conf", "host.conf", "gai.conf", "protocols", "services"),
    *("localtime", "timezone", "locale.alias", "locale.conf", "default/locale", "inputrc", "terminfo", "profile", "profile.d"),
    *("bash.bashrc", "shells", "mime.types", "magic", "magic.mime", "debian_version", "os-release", "lsb-release", "fonts", "xattr.conf"),
    *(
        "ssl/certs",
        "ssl/openssl.cnf",
        "pki/tls/certs",
        "pki/ca-trust",
        "ca-certificates",
        "ca-certificates.conf",
        "java-*",
        "python3*",
        "perl",
    ),
)
"""What of /etc is there, as far as this machine has it. What holds secrets anywhere is left out; `passwd` and `hosts` are our own."""

_TREES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
_RESERVED = ("/proc", "/dev", "/sys", "/run", "/tmp", "/etc", "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", HOME)  # noqa: S108

# To root without capabilities the kernel still gives what the owner of a file may do, and all of these are root's. bwrap covers them where
# it finds that it may write, which it finds wrongly for /proc/sys.
_KERNEL = (
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/irq",
    "/proc/bus",
    "/proc/fs",
    "/proc/pressure",
    "/proc/acpi",
    "/proc/scsi",
    "/proc/mtrr",
)
_SECRET_KERNEL = (
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/key-users",
    "/proc/latency_stats",
)


@dataclass(frozen=True)
class Folder:
    """A folder of this machine as it is found in a sandbox: a bind of `source`, or a symlink with that target."""

    path: str
    source: str
    link: bool = False


@dataclass(frozen=True)
class Jail:
    """What one sandbox is made of.

    Attributes:
        workspace: the folder of this machine that is the workspace.
        own: the folder of this machine with `passwd`, `group`, `hosts` and the pipes of sessions (`io`), see `own_files`.
        system: see `system_folders`.
        hidden: files below /proc that nobody is to read, see `hidden_files`.
        binds: further folders, their `host` resolved and their mode "ro" or "rw".
        home: a folder of this machine that is the home, None for one in memory.
        scratch: bytes that each file system in memory holds: /tmp, /dev/shm, and the home if it is in memory.
        network: whether the sandbox has this machine's network.
    """

    workspace: str
    own: str
    system: Sequence[Folder]
    hidden: Sequence[str] = ()
    binds: Sequence[Mount] = ()
    home: str | None = None
    scratch: int = 1 << 30
    network: bool = False


def arguments(jail: Jail, *, status_fd: int, block_fd: int, seccomp_fd: int | None) -> list[str]:
    """The options of bwrap(1), for a process that has these descriptors. They name folders of this machine, and `ps` shows arguments to
    everybody, the sandbox included: see `--args`.
    """
    args = ["--unshare-user", "--disable-userns", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    args += [] if jail.network else ["--unshare-net"]
    args += ["--uid", str(UID), "--gid", str(UID), "--hostname", "sandbox", "--new-session", "--die-with-parent", "--cap-drop", "ALL"]
    args += ["--json-status-fd", str(status_fd), "--block-fd", str(block_fd)]
    args += [] if seccomp_fd is None else ["--seccomp", str(seccomp_fd)]
    for folder in jail.system:
        args += ["--symlink" if folder.link else "--ro-bind", folder.source, folder.path]
    args += ["--proc", "/proc"]
    for name in _KERNEL:
        args += ["--ro-bind-try", name, name]
    for name in jail.hidden:
        args += ["--ro-bind", "/dev/null", name]
    size = str(jail.scratch)
    # /dev and / are file systems in memory without a size, and must not be written therefore.
    args += ["--dev", "/dev", "--perms", "1777", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]  # noqa: S108
    args += ["--perms", "1777", "--size", size, "--tmpfs", "/tmp", "--dir", "/var", "--symlink", "/tmp", "/var/tmp"]  # noqa: S108
    for name in ("passwd", "group", "hosts"):
        args += ["--ro-bind", f"{jail.own}/{name}", f"/etc/{name}"]
    args += ["--ro-bind", f"{jail.own}/io", SESSIONS]
    if jail.network:
        args += ["--ro-bind-try", "/etc/resolv.conf", "/etc/resolv.conf"]
    args += ["--size", size, "--tmpfs", HOME] if jail.home is None else ["--bind", jail.home, HOME]
    for bind in sorted((Mount(jail.workspace, WORKSPACE), *jail.binds), key=lambda bind: PurePosixPath(bind.guest).parts):
        args += ["--bind" if bind.mode == "rw" else "--ro-bind", bind.host, bind.guest]
    return [*args, "--remount-ro", "/", "--chdir", WORKSPACE]


def own_files() -> dict[str, str]:
    """The files of /etc that are the sandbox's own."""
    return {
        "passwd": f"root:x:0:0:root:/:/usr/sbin/nologin\n{USER}:x:{UID}:{UID}::{HOME}:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n",
        "group": f"root:x:0:\n{USER}:x:{UID}:\nnogroup:x:65534:\n",
        "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    }


def checked_mounts(mounts: Sequence[Mount]) -> tuple[Mount, ...]:
    """The mounts, as far as they make sense together.

    Raises:
        BadInput: a path is not absolute or not plain, hides a part of the sandbox itself, or lies in a folder that commands may write:
            they could lead a mount there anywhere.
    """
    taken: list[PurePosixPath] = [PurePosixPath(WORKSPACE)]
    for mount in mounts:
        guest = PurePosixPath(mount.guest)
        for path in (mount.host, mount.guest):
            if not path.startswith("/") or "\0" in path:
                raise BadInput(f"a mount goes from one absolute path to another, and {path!r} is none")
        if ".." in guest.parts or guest == PurePosixPath("/"):
            raise BadInput(f"nothing can be mounted on {mount.guest}; name a folder of the sandbox without '..'")
        if any(guest.is_relative_to(name) or PurePosixPath(name).is_relative_to(guest) for name in _RESERVED):
            raise BadInput(f"{mount.guest} is a part of the sandbox itself; mount {mount.host} elsewhere, such as on /mnt/{guest.name}")
        if any(guest.is_relative_to(other) or other.is_relative_to(guest) for other in taken):
            raise BadInput(f"{mount.guest} lies in another mount or in the workspace, or they in it; mount {mount.host} elsewhere")
        taken.append(guest)
    return tuple(mounts)


def hidden_files() -> list[str]:
    """What of the kernel's own files this machine has, and nobody in a sandbox is to read. Blocks for a few file operations."""
    return [name for name in _SECRET_KERNEL if Path(name).exists()]


def system_folders() -> list[Folder]:
    """The folders of this machine that are its programs, and the settings that these need. Blocks for a few dozen file operations."""
    found = []
    for name in _TREES:
        if Path(name).is_symlink():
            found.append(Folder(name, str(Path(name).readlink()), link=True))
        elif Path(name).is_dir():
            found.append(Folder(name, name))
    names = {str(path) for pattern in SETTINGS for path in Path("/etc").glob(pattern) if os.access(path, os.R_OK)}
    return [*found, *(Folder(name, name) for name in sorted(names))]
