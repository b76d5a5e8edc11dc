"""What a new machine of the `namespaces` engine finds on its disk: this host's programs, and nothing that is private on this host.

Three parts. Folders of the host that machines see through an overlay (`host_trees`), each with a mask on top that hides what not everyone
on the host may read. A root folder made from scratch, with a cleaned copy of /etc and an empty /var. And nothing else: no homes, keys,
temporary files, sockets or data of services.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

_FOLDERS = ("usr", "opt", "srv", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
# The package managers' own records, so that `dpkg -l` or `rpm -q` tell the truth about what is installed.
_RECORDS = ("var/lib/dpkg", "var/lib/apt", "var/lib/rpm", "var/lib/pacman")

_EMPTY = {
    **dict.fromkeys(("boot", "dev", "home", "media", "mnt", "opt", "proc", "run", "srv", "sys", "usr"), 0o755),
    **dict.fromkeys(
        ("etc", "var", "var/backups", "var/cache", "var/cache/apt/archives/partial", "var/lib", "var/lib/misc", "var/local"), 0o755
    ),
    **dict.fromkeys(("var/log", "var/log/apt", "var/mail", "var/opt", "var/spool"), 0o755),
    "root": 0o700,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}

# Readable by all on some hosts, and yet nobody else's business; replaced below, or of no use in a machine.
_PRIVATE = re.compile(
    r"(g?shadow.*|passwd-|group-|subuid.*|subgid.*|sudoers.*|hostname|hosts|mtab|resolv\.conf|machine-id|fstab|crypttab"
    r"|ssh/ssh_host_.*|ssl/private|NetworkManager|netplan|wpa_supplicant|wireguard|krb5\.keytab|docker|kubernetes|rancher|letsencrypt"
    r"|cloud|cron\.d|cron\..*ly|crontab|exports|fstab|ppp|openvpn|ipsec.*|cups|samba|postgresql|mysql|redis|systemd/network|\.git)(/.*)?"
)

# find(1): what others may not read, and what is no file at all (a socket here would lead out of the machine, if anywhere).
_FIND_HIDDEN = (
    ("(", "-type", "d", "!", "-perm", "-005", ")"),
    ("(", "!", "-type", "d", "!", "-type", "l", "!", "-perm", "-004", ")"),
    ("-type", "s"),
    ("-type", "p"),
    ("-type", "b"),
    ("-type", "c"),
)


def host_trees() -> list[str]:
    """The host's folders that machines see, relative to /: those that exist, are no links, and have something in them."""
    found = []
    for name in (*_FOLDERS, *_RECORDS):
        path = Path("/", name)
        with suppress(PermissionError):
            if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
                found.append(name)
    return found


def key_of(tree: str) -> str:
    """The name of a tree's folder in a layer: `var/lib/dpkg` is `var-lib-dpkg`."""
    return tree.replace("/", "-")


def build_mask(tree: str, target: Path, *, own_directories: bool) -> None:
    """Make the layer that goes on top of a host folder, in the new folder `target`.

    It hides (by whiteouts) every file, folder, socket, pipe and device that others on the host may not read. With `own_directories` it
    also holds the folders themselves (of /usr the upper four levels): for an ordinary user they are somebody else's otherwise, and nothing
    could be installed there.

    Raises:
        OSError: the tools are missing or the disk is full.
    """
    target.mkdir(mode=0o755)
    root = Path("/", tree)
    if own_directories:
        for path in _find(root, "-mindepth", "1", "-maxdepth", "4" if tree == "usr" else "40", "-type", "d", "-perm", "-005", "-print0"):
            with suppress(FileNotFoundError):  # below a folder that is hidden
                (target / path).mkdir(mode=0o755)
    test = [word for each in _FIND_HIDDEN for word in (*each, "-o")][:-1]
    for path in _find(root, "-mindepth", "1", "(", *test, ")", "-print0", "-prune"):
        place = target / path
        with suppress(FileExistsError):
            for parent in reversed(place.relative_to(target).parents[:-1]):
                folder = target / parent
                if not folder.exists():
                    folder.mkdir(mode=0o755)
                    _copy_owner(root / parent, folder)
            os.mknod(place, stat.S_IFCHR, 0)
    target.chmod(stat.S_IMODE(root.stat().st_mode))


def _find(root: Path, *tests: str) -> list[PurePosixPath]:
    # Files may come and go meanwhile, and an ordinary user may not look into some folders (which are then hidden as a whole): no error.
    result = subprocess.run(["find", str(root), "-xdev", *tests], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return [PurePosixPath(os.fsdecode(name)).relative_to(root) for name in result.stdout.split(b"\0") if name]


def _copy_owner(source: Path, target: Path) -> None:
    status = source.stat()
    target.chmod(stat.S_IMODE(status.st_mode))
    if os.geteuid() == 0:
        os.chown(target, status.st_uid, status.st_gid)


def build_root(target: Path, trees: Sequence[str]) -> None:
    """Make a machine's root folder in the new folder `target`.

    Raises:
        OSError: the disk is full, or /etc cannot be read.
    """
    target.mkdir(mode=0o755)
    for name, mode in (*_EMPTY.items(), *((tree, 0o755) for tree in trees)):
        (target / name).mkdir(mode=0o755, parents=True, exist_ok=True)
        (target / name).chmod(mode)
    for name in _FOLDERS:
        if Path("/", name).is_symlink():
            (target / name).symlink_to(Path("/", name).readlink())
    (target / "var/run").symlink_to("/run")
    (target / "var/lock").symlink_to("/run/lock")
    etc = target / "etc"
    _copy_public(Path("/etc"), etc, PurePosixPath())
    users, groups = (_first_fields(etc / name) for name in ("passwd", "group"))
    for name, mode, text in (
        ("shadow", 0o600, "".join(f"{user}:*:19000:0:99999:7:::\n" for user in users)),
        ("gshadow", 0o600, "".join(f"{group}:*::\n" for group in groups)),
        ("hosts", 0o644, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
        ("resolv.conf", 0o644, ""),
        ("machine-id", 0o444, ""),
        ("fstab", 0o644, ""),
        ("sudoers", 0o440, "root ALL=(ALL:ALL) ALL\n"),
    ):
        (etc / name).write_text(text)
        (etc / name).chmod(mode)
    (etc / "mtab").symlink_to("../proc/self/mounts")
    skeleton = etc / "skel"
    if skeleton.is_dir():
        shutil.copytree(skeleton, target / "root", symlinks=True, dirs_exist_ok=True)
        (target / "root").chmod(0o700)


def _first_fields(path: Path) -> list[str]:
    return [line.split(":", 1)[0] for line in path.read_text().splitlines() if ":" in line] if path.exists() else []


def _copy_public(source: Path, target: Path, inside: PurePosixPath) -> None:
    """Copy what everyone may read: files, folders and links."""
    with os.scandir(source) as entries:
        for entry in entries:
            path = inside / entry.name
            if _PRIVATE.fullmatch(str(path)):
                continue
            status = entry.stat(follow_symlinks=False)
            place = target / entry.name
            if stat.S_ISLNK(status.st_mode):
                place.symlink_to(Path(entry.path).readlink())
            elif stat.S_ISDIR(status.st_mode) and status.st_mode & 0o005 == 0o005:
                place.mkdir()
                _copy_public(Path(entry.path), place, path)
                _copy_owner(Path(entry.path), place)
            elif stat.S_ISREG(status.st_mode) and status.st_mode & 0o004:
                try:
                    shutil.copy2(entry.path, place)
                except PermissionError:  # an access list or a security module says no to us where the mode said yes
                    continue
                _copy_owner(Path(entry.path), place)
