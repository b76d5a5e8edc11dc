"""A backend whose machine is a folder of this machine: real commands and real files, a machine that can be copied, lost and found again."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

from langchain_vers._io import io
from langchain_vers.backends.base import Snapshots
from langchain_vers.backends.local import LocalBackend


class PlainFolder(LocalBackend):
    """It knows its machine's id, and can have no other one."""

    name = "folder"

    def __init__(self, folder: Path | str) -> None:
        super().__init__(folder, env={"PATH": "/usr/bin:/bin", "HOME": str(folder)})
        self.machine_id = Path(folder).name
        self.folder = Path(folder)
        self.closed = 0

    async def close(self) -> None:
        self.closed += 1


class Folder(PlainFolder, Snapshots):
    """One that can be versioned: its versions and branches lie beside it."""

    @classmethod
    def new(cls, parent: Path, name: str) -> Folder:
        (parent / name).mkdir(parents=True)
        return cls(parent / name)

    async def snapshot(self, *, name: str | None = None) -> str:
        return await self._copy(self.folder)

    async def restore(self, ref: str) -> str:
        return await self._copy(self.folder.parent / ref)

    async def branch(self, count: int = 1) -> list[str]:
        return [await self._copy(self.folder) for _ in range(count)]

    async def _copy(self, source: Path) -> str:
        name = uuid.uuid4().hex[:12]
        await io.blocking(shutil.copytree, source, self.folder.parent / name)
        return name

    def at(self, machine_id: str) -> Folder:
        return Folder(self.folder.parent / machine_id)
