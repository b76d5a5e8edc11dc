"""The escape suite over BubblewrapBackend, in real sandboxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.programs import require

from langchain_vers._io import run
from langchain_vers.backends.base import Backend
from langchain_vers.backends.bubblewrap import BubblewrapBackend, Limits
from langchain_vers.testing.escapes import Bounds, EscapeConformance, MiB

LIMITS = Limits(processes=64, memory=512 * MiB, disk=32 * MiB, scratch=32 * MiB)


class TestEscapes(EscapeConformance):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Iterator[Backend]:
        require("bwrap", "bubblewrap")
        backend = BubblewrapBackend(tmp_path, limits=LIMITS)
        yield backend
        run(backend.close())

    @pytest.fixture
    def bounds(self) -> Bounds:
        return Bounds(processes=64, disk=32 * MiB)
