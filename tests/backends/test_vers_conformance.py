"""The conformance suite over VersBackend: on machines of the embedded Vers, and on a real OpenSSH server behind TLS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rigs.embedded import EmbeddedVers
from rigs.openssh import Platform, UserBackend

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import Backend
from langchain_vers.backends.vers import VersBackend
from langchain_vers.testing.backends import BackendConformance
from langchain_vers.testing.harness import Caller, run_sync


@pytest.fixture(scope="module")
def isolated_machine(namespaces: EmbeddedVers) -> Iterator[VersBackend]:
    backend = namespaces.new_backend()
    yield backend
    run(backend.close())


@pytest.fixture(scope="module")
def openssh_machine(openssh: Platform) -> Iterator[VersBackend]:
    client = openssh.client()
    backend = UserBackend(client, openssh.new_vm())
    yield backend
    run(backend.close())
    run(client.aclose())


class VersConformance(BackendConformance):
    """By sync callers too only in the full run: `run` and `on_io` know nothing of backends, and LocalBackend's tests go by both."""

    @pytest.fixture(params=[pytest.param("sync", marks=pytest.mark.full), "async"])
    def call(self, request: pytest.FixtureRequest) -> Caller:
        return run_sync if request.param == "sync" else on_io


class TestOnNamespaces(VersConformance):
    @pytest.fixture
    def backend(self, isolated_machine: VersBackend) -> Backend:
        return isolated_machine


@pytest.mark.peer
class TestOnOpenSSH(VersConformance):
    @pytest.fixture
    def backend(self, openssh_machine: VersBackend) -> Backend:
        return openssh_machine
