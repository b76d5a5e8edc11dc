"""The conformance suite over BubblewrapBackend, in real sandboxes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.programs import require

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import Backend
from langchain_vers.backends.bubblewrap import BubblewrapBackend
from langchain_vers.testing.backends import BackendConformance
from langchain_vers.testing.harness import Caller, run_sync


class TestBubblewrap(BackendConformance):
    @pytest.fixture(params=[pytest.param("sync", marks=pytest.mark.full), "async"])
    def call(self, request: pytest.FixtureRequest) -> Caller:
        return run_sync if request.param == "sync" else on_io

    @pytest.fixture
    def backend(self, sandbox: BubblewrapBackend) -> Backend:
        return sandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BubblewrapBackend]:
    require("bwrap", "bubblewrap")
    workspace: Path = tmp_path_factory.mktemp("workspace")
    backend = BubblewrapBackend(workspace)
    yield backend
    run(backend.close())
