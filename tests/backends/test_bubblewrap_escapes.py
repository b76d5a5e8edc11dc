"""The escape suite over BubblewrapBackend, in real sandboxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.programs import require
from rigs.users import ROOT, folder_of_ordinary_user, ordinary_user

from langchain_vers._io import run
from langchain_vers.backends.base import Backend
from langchain_vers.backends.bubblewrap import BubblewrapBackend, Limits
from langchain_vers.testing.escapes import Bounds, EscapeConformance, MiB
from langchain_vers.testing.harness import Conformance

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


class OrdinaryUser(Conformance):
    """With resource limits instead of control groups, and without root's rights on this side."""

    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
        require("bwrap", "bubblewrap")
        with folder_of_ordinary_user() as folder, ordinary_user():
            monkeypatch.setattr("tempfile.tempdir", str(folder))
            (folder / "workspace").mkdir()
            backend = BubblewrapBackend(folder / "workspace", limits=LIMITS)
            yield backend
            run(backend.close())

    @pytest.fixture
    def bounds(self) -> Bounds:
        return Bounds(processes=64, disk=32 * MiB)


@pytest.mark.full
@pytest.mark.skipif(not ROOT, reason="an ordinary user has run these tests already")
class TestWhereAnOrdinaryUserDiffers(OrdinaryUser):
    test_fork_bomb_is_contained = EscapeConformance.test_fork_bomb_is_contained
    test_no_daemon_without_traces_outlives_the_time_limit = EscapeConformance.test_no_daemon_without_traces_outlives_the_time_limit
    patience = EscapeConformance.patience
    _works = EscapeConformance._works
    _outlive = EscapeConformance._outlive


@pytest.mark.full
@pytest.mark.skipif(not ROOT, reason="an ordinary user has run these tests already")
class TestAsAnOrdinaryUser(OrdinaryUser, EscapeConformance): ...
