"""Where demos are run as processes of their own, and nothing of them may be left."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import psutil


class Stage:
    """A folder for temporary files, from which demos are started, and in which nothing may be left."""

    def __init__(self, folder: Path) -> None:
        self.temporary = folder / "temporary"
        self.home = folder / "home"
        self.temporary.mkdir()
        self.home.mkdir()

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERS_", "XDG_", "COLUMNS", "FORCE_", "PYTHON"))}
        return {**kept, "TMPDIR": str(self.temporary), "HOME": str(self.home), "PYTHONIOENCODING": "utf-8", **more}

    def command(self, *arguments: str, script: str = "") -> list[str]:
        if script:
            return [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *arguments]
        return [sys.executable, "-W", "error", "-m", "langchain_vers.demo", *arguments]

    def run(self, *arguments: str, script: str = "", environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = self.command(*arguments, script=script)
        return subprocess.run(command, capture_output=True, text=True, timeout=100, env=self.environment(**(environment or {})))

    def processes(self) -> list[psutil.Process]:
        """Those that have to do with this stage: its folder is in their arguments or environment."""
        found = []
        for process in psutil.process_iter():
            try:
                texts = [*process.cmdline(), process.environ().get("TMPDIR", "")]
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if any(str(self.temporary) in text for text in texts):
                found.append(process)
        return found

    def assert_empty(self) -> None:
        assert list(self.temporary.iterdir()) == []
        assert list(self.home.iterdir()) == []
        assert self.processes() == []
