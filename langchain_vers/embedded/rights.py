"""What the warden may do on the host, and how the uids of its machines relate to the host's.

Started as root, machines get uids of their own that mean nothing on the host (0 in the machine is `FIRST_UID` outside), and
mounts of the host's folders and of the engine's disk translate between the two. Where the file system cannot do that, ids are the same
inside and outside. Started as an ordinary user, the warden first enters a user namespace where that user is root; a machine has that one
uid only.

The stage that is laid out here is where machines are put together (`guest.build`). Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from langchain_vers.embedded import linux
from langchain_vers.embedded.children import run_child

FIRST_UID = 0x70000000
"""First of the 65536 host uids that machines have when the warden is root; above every range that systemd or `useradd` hands out."""

Rights = Literal["mapped", "same", "user"]
"""How a machine's uids relate to the host's: a range of their own, the same, or the one user's."""


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

        run_child(body, ready_w)
    os.close(ready_w)
    os.close(done_r)
    mounted: list[str] = []
    try:
        if os.read(ready_r, 1) != b"1":
            return False
        write_maps(pid, "mapped")
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


def write_maps(pid: int, rights: Rights) -> None:
    """Give a process's new user namespace its uids and gids."""
    line = {"mapped": f"0 {FIRST_UID} 65536", "same": "0 0 65536", "user": "0 0 1"}[rights]
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(line)
