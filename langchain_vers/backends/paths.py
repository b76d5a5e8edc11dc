"""Which folders of this machine a guest sees, and under which names: the path map of a backend. Pure; nothing here touches a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["ro", "rw", "copy"]
"""How a guest sees a folder of this machine: read-only, for reading and writing, or as a copy that is made when it is attached."""


@dataclass(frozen=True)
class Mount:
    """A folder of this machine that a guest sees.

    Attributes:
        host: its absolute path on this machine.
        guest: its absolute path on the guest.
        mode: "ro" and "rw" bind it where the engine can; "copy" copies it in when the guest is attached, and nothing comes back by itself.
    """

    host: str
    guest: str
    mode: Mode = "rw"
