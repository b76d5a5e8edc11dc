"""What machines of the engine `namespaces` are stacked on: the base of new ones, the masks over the host's folders, the mounts of a start.

Blocking functions over the folders that `layers` keeps. What the base and the masks hold is decided by `base_system`; when they are made,
and by whom mounted, is left to the engine (`namespaces`) and the machine (`guest`).
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from langchain_vers.embedded import base_system
from langchain_vers.embedded.guest import Overlay, Plan
from langchain_vers.embedded.layers import Disks


@dataclass(frozen=True)
class Foundation:
    """Built anew by every server."""

    base: str
    """The layer that new machines start from."""
    masks: Path
    """The folder with one layer for each of the host's folders, which lies over it."""


def build(disks: Disks, trees: Sequence[str], *, own_directories: bool) -> Foundation:
    """Make the base, and the masks of the host's folders `trees`; see `base_system.build_mask` for `own_directories`.

    Raises:
        OSError: the tools are missing or the disk is full.
    """
    made = disks.scratch()
    base_system.build_root(made / "root", trees)
    masks = disks.data_dir / "masks" / uuid.uuid4().hex[:12]
    masks.mkdir()
    for tree in trees:
        base_system.build_mask(tree, masks / base_system.key_of(tree), own_directories=own_directories)
    return Foundation(disks.adopt(made), masks)


def garbage(disks: Disks, foundation: Foundation | None) -> list[Path]:
    """What earlier runs left: trash, masks, and layers that nobody needs. It is still there, to be removed."""
    masks = [path for path in (disks.data_dir / "masks").iterdir() if foundation is None or path != foundation.masks]
    return [*(disks.data_dir / "trash").iterdir(), *masks, *disks.collect([foundation.base] if foundation else [])]


def plan(disks: Disks, foundation: Foundation, trees: Sequence[str], vm_id: str, memory_mib: int | None) -> Plan:
    """Lay out a stored machine's folders for its start, and say what is to be mounted.

    Raises:
        FileNotFoundError: there is no such machine.
    """
    folder = disks.data_dir / "vms" / vm_id
    below = disks.layers("vms", vm_id)
    overlays: list[Overlay] = []
    for tree in ("", *trees):
        key = base_system.key_of(tree) or "root"
        stacked = [f"layers/{layer}/{key}" for layer in below]
        if tree:
            stacked.append(str(foundation.masks.relative_to(disks.data_dir) / key))
        present = [path for path in stacked if (disks.data_dir / path).is_dir()]
        upper = folder / "upper" / key
        if not upper.exists():
            upper.mkdir(parents=True)
            status = (disks.data_dir / present[0]).stat()
            if os.geteuid() == 0:
                os.chown(upper, status.st_uid, status.st_gid)
            upper.chmod(stat.S_IMODE(status.st_mode))
        (folder / "work" / key).mkdir(parents=True, exist_ok=True)
        overlays.append(
            {
                "target": tree,
                "lower": [*(f"disk/{path}" for path in present), *([f"lower/{key}"] if tree else [])],
                "upper": f"disk/vms/{vm_id}/upper/{key}",
                "work": f"disk/vms/{vm_id}/work/{key}",
            }
        )
    return {"hostname": f"vers-{vm_id[:12]}", "overlays": overlays, "tmpfs": f"{memory_mib}m" if memory_mib else "50%"}
