"""Waiting for what must come to pass, and looking whether processes have ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def alive(folder: Path) -> list[str]:
    """Which of the processes whose numbers stand in `*.pid` run."""

    def runs(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [file.name for file in folder.glob("*.pid") if runs(int(file.read_text()))]
