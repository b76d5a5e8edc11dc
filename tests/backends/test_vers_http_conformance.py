"""The conformance suite over VersBackend with transport="http": on isolated machines of the embedded Vers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rigs.embedded import EmbeddedVers

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import Backend
from langchain_vers.backends.vers import VersBackend
from langchain_vers.testing.backends import BackendConformance
from langchain_vers.testing.harness import Caller, run_sync


@pytest.fixture(scope="module")
def machine(namespaces: EmbeddedVers) -> Iterator[VersBackend]:
    backend = namespaces.new_backend(transport="http")
    yield backend
    run(backend.close())


class TestOverHttp(BackendConformance):
    """By sync callers too only in the full run, as over SSH."""

    @pytest.fixture(params=[pytest.param("sync", marks=pytest.mark.full), "async"])
    def call(self, request: pytest.FixtureRequest) -> Caller:
        return run_sync if request.param == "sync" else on_io

    @pytest.fixture
    def backend(self, machine: VersBackend) -> Backend:
        return machine
