"""Backends on Gondolin micro-VMs for tests: small ones, which QEMU runs by itself (KVM may be there and not work)."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from langchain_vers.backends.gondolin import GondolinBackend, Hardware
from rigs.guest_image import Programs, prepared

START_SECONDS = 240.0
_CONSOLE = "ttyAMA0" if platform.machine() == "aarch64" else "ttyS0"
KERNEL = f"console={_CONSOLE} quiet initramfs_async=1 mitigations=off nowatchdog psi=0 tsc=reliable random.trust_cpu=on"
"""Without what costs a processor that QEMU emulates most, and guards nothing here."""


class Gondolin:
    """Makes backends; snapshots lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.programs: Programs = prepared()
        self.folder = folder

    def hardware(self, **options: Any) -> Hardware:
        return Hardware(
            **{"memory": 256, "cpus": 1, "acceleration": "tcg", "kernel_arguments": KERNEL, "start_seconds": START_SECONDS, **options}
        )

    def options(self, **options: Any) -> dict[str, Any]:
        programs = self.programs
        given = {"image": programs.image, "node": programs.node, "sdk": programs.sdk, "snapshots": self.folder, "hardware": self.hardware()}
        return {**given, **options}

    def backend(self, workspace: Path | None = None, **options: Any) -> GondolinBackend:
        return GondolinBackend(workspace, **self.options(**options))
