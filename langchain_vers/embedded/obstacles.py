"""What is known to keep the engine `namespaces` from working on a host, and what to change about it.

Only what can be read off the host's settings; whether a machine can really be made is found out by making one (`NamespacesEngine.check`).
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

_TOOLS = ("cp", "rm", "find")
_SETTINGS = {  # a sysctl, and its value that forbids them
    "kernel.unprivileged_userns_clone": "0",
    "user.max_user_namespaces": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
}


def remedies(settings: Mapping[str, str], *, root: bool, overlay: bool, missing: Iterable[str], release: tuple[int, int]) -> list[str]:
    """What on this host is known to keep the engine from working, each with what to change.

    `settings` are the host's values of sysctls (those that exist), `overlay` whether the kernel knows overlayfs, `missing` the tools that
    are not on the PATH, `release` the kernel's version.
    """
    found = []
    if release < (5, 11):
        found.append(f"Linux {release[0]}.{release[1]} cannot mount an overlay in a user namespace: use Linux 5.11 or later.")
    if not overlay:
        found.append("The kernel has no overlayfs: load it with `modprobe overlay`.")
    found += [f"The tool `{tool}` is not on the PATH: install coreutils and findutils." for tool in missing]
    for name, bad in _SETTINGS.items():
        if settings.get(name) == bad and (name.startswith("user.") or not root):
            good = {"0": "1", "1": "0"}[bad] if not name.startswith("user.") else "10000"
            found.append(f"User namespaces are off ({name} is {bad}): set it with `sysctl -w {name}={good}` as root.")
    return found


def known_obstacles() -> list[str]:
    """What `remedies` says of this host. Blocks for a few small files."""
    if sys.platform != "linux":
        return [f"Namespaces are a feature of Linux, and this is {sys.platform}: use the engine `process`."]
    settings = {}
    for name in _SETTINGS:
        path = Path("/proc/sys", *name.split(".", 1))
        if path.exists():
            settings[name] = path.read_text().strip()
    filesystems = Path("/proc/filesystems").read_text().split()
    modules = Path("/lib/modules", os.uname().release, "kernel/fs/overlayfs")
    major, minor = os.uname().release.split(".")[:2]
    return remedies(
        settings,
        root=os.geteuid() == 0,
        overlay="overlay" in filesystems or modules.exists(),
        missing=[tool for tool in _TOOLS if shutil.which(tool) is None],
        release=(int(major), int("".join(letter for letter in minor if letter.isdigit()) or "0")),
    )
