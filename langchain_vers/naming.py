"""What people and models call VMs: ids, their beginnings, labels, and aliases of the Vers CLI."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from langchain_vers._io import io
from langchain_vers.errors import BadInput, Gone
from langchain_vers.platform import VersClient

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""What ids of VMs and commits look like."""
_OWN_LABELS = "langchain-vers-"
"""Labels that name no VM: a thread's id may be the beginning of another VM's."""


def short_id(vm_id: str) -> str:
    """The first 12 hex digits of a VM's id, as people and status lines write it."""
    return vm_id.replace("-", "")[:12]


async def find(name: str, client: Callable[[], Awaitable[VersClient]]) -> str:
    """The id of the VM that a name means. Coroutine of the I/O thread; the platform is asked only if it is no whole id.

    Raises:
        Gone: no VM is meant.
        BadInput: several are.
    """
    name = await io.blocking(_alias, name.strip())
    if not name:
        raise BadInput("the VM's name is empty; give an id, the beginning of one, or a label (see vers_vms)")
    if UUID.fullmatch(name):
        return name.lower()
    vms = await (await client()).list_vms()
    found = [vm.vm_id for vm in vms if _labelled(vm.labels or {}, name)]
    bare = name.lower().replace("-", "")
    found = found or [vm.vm_id for vm in vms if vm.vm_id.replace("-", "").startswith(bare)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise Gone(f"there is no VM with the id, label or alias {name!r}; vers_vms lists those that exist")
    raise BadInput(
        f"{name!r} means {len(found)} VMs ({', '.join(sorted(found)[:5])}{', ...' if len(found) > 5 else ''}); give more of the id"
    )


def _labelled(labels: Mapping[str, str], name: str) -> bool:
    return any(name in {value, f"{key}={value}"} for key, value in labels.items() if not key.startswith(_OWN_LABELS))


def _alias(name: str) -> str:
    """What an alias of the Vers CLI stands for; the name itself if it is none. A broken alias file is no aliases."""
    try:
        aliases = json.loads((Path.home() / ".vers" / "aliases.json").read_text())
    except (OSError, ValueError, RuntimeError):
        return name
    target = aliases.get(name) if isinstance(aliases, dict) else None
    return target if isinstance(target, str) else name
