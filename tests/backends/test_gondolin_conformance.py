"""The conformance suite over GondolinBackend, on a real micro-VM. It takes minutes: the guest is slow, as QEMU runs it without KVM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rigs.gondolin import Gondolin

from langchain_vers._io import on_io, run
from langchain_vers.backends import sessions
from langchain_vers.backends.base import Backend
from langchain_vers.backends.gondolin import GondolinBackend
from langchain_vers.testing.backends import BackendConformance
from langchain_vers.testing.harness import Caller, run_sync


@pytest.fixture(scope="module")
def machine(gondolin: Gondolin) -> Iterator[GondolinBackend]:
    backend = gondolin.backend()
    with pytest.MonkeyPatch.context() as patch:
        # On a machine that is busy with other tests, an emulated processor gets little done.
        patch.setattr(sessions, "ANSWER_SECONDS", 120.0)
        patch.setattr(sessions, "KILL_SECONDS", 60.0)
        yield backend
        run(backend.delete())


@pytest.mark.full
@pytest.mark.timeout(600)
class TestOnGondolin(BackendConformance):
    patience = 30.0

    @pytest.fixture(params=["sync", "async"])
    def call(self, request: pytest.FixtureRequest) -> Caller:
        return run_sync if request.param == "sync" else on_io

    @pytest.fixture
    def backend(self, machine: GondolinBackend) -> Backend:
        return machine
