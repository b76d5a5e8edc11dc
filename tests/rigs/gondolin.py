"""Backends on Gondolin micro-VMs for tests: small ones, which QEMU runs by itself (KVM may be there and not work)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_vers.backends.gondolin import GondolinBackend, Hardware
from rigs.guest_image import Programs, prepared

START_SECONDS = 150.0


class Gondolin:
    """Makes backends; snapshots lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.programs: Programs = prepared()
        self.folder = folder

    def hardware(self, **options: Any) -> Hardware:
        return Hardware(**{"memory": 256, "cpus": 1, "acceleration": "tcg", "start_seconds": START_SECONDS, **options})

    def options(self, **options: Any) -> dict[str, Any]:
        programs = self.programs
        given = {"image": programs.image, "node": programs.node, "sdk": programs.sdk, "snapshots": self.folder, "hardware": self.hardware()}
        return {**given, **options}

    def backend(self, workspace: Path | None = None, **options: Any) -> GondolinBackend:
        return GondolinBackend(workspace, **self.options(**options))
