"""The conformance suite over DockerBackend: on Docker's own engine, and on Podman's socket."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rigs.docker import AGENT, ContainerEngine

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import Backend
from langchain_vers.backends.docker import DockerBackend
from langchain_vers.testing.backends import BackendConformance
from langchain_vers.testing.commands import CommandConformance
from langchain_vers.testing.files import FileConformance
from langchain_vers.testing.harness import Caller, Conformance, run_sync
from langchain_vers.testing.listings import ListingConformance


def _machine(engine: ContainerEngine, **options: str) -> Iterator[DockerBackend]:
    backend = engine.backend(**options)
    yield backend
    run(backend.delete())
    run(backend.close())


@pytest.fixture(scope="module")
def on_docker(dockerd: ContainerEngine) -> Iterator[DockerBackend]:
    yield from _machine(dockerd)


@pytest.fixture(scope="module")
def as_agent(dockerd: ContainerEngine) -> Iterator[DockerBackend]:
    yield from _machine(dockerd, user=AGENT)


@pytest.fixture(scope="module")
def on_podman(podman: ContainerEngine) -> Iterator[DockerBackend]:
    yield from _machine(podman)


class DockerConformance(BackendConformance):
    """By sync callers too only in the full run, as for every backend but the local one."""

    @pytest.fixture(params=[pytest.param("sync", marks=pytest.mark.full), "async"])
    def call(self, request: pytest.FixtureRequest) -> Caller:
        return run_sync if request.param == "sync" else on_io


class TestOnDocker(DockerConformance):
    @pytest.fixture
    def backend(self, on_docker: DockerBackend) -> Backend:
        return on_docker


class TestAsAnOrdinaryUser(Conformance):
    """What the suite leaves out where the machine's user is root."""

    test_denied = FileConformance.test_denied
    test_unreadable_directory_below = ListingConformance.test_unreadable_directory_below
    test_timeout_kills_the_whole_tree = CommandConformance.test_timeout_kills_the_whole_tree
    _all_calls = FileConformance._all_calls

    @pytest.fixture(params=["async"])
    def call(self) -> Caller:
        return on_io

    @pytest.fixture
    def backend(self, as_agent: DockerBackend) -> Backend:
        return as_agent


@pytest.mark.full
class TestOnPodman(DockerConformance):
    @pytest.fixture
    def backend(self, on_podman: DockerBackend) -> Backend:
        return on_podman


class TestSampleOnPodman(Conformance):
    """What hangs on how an engine passes streams on."""

    test_output_is_merged_in_order_of_arrival = CommandConformance.test_output_is_merged_in_order_of_arrival
    test_output_keeps_every_byte = CommandConformance.test_output_keeps_every_byte
    test_long_output_is_bounded_and_logged = CommandConformance.test_long_output_is_bounded_and_logged
    test_shell_that_is_killed_from_within = CommandConformance.test_shell_that_is_killed_from_within
    test_large_stdin = CommandConformance.test_large_stdin
    test_timeout_kills_the_whole_tree = CommandConformance.test_timeout_kills_the_whole_tree
    test_background_process_lives_on = CommandConformance.test_background_process_lives_on

    @pytest.fixture(params=["async"])
    def call(self) -> Caller:
        return on_io

    @pytest.fixture
    def backend(self, on_podman: DockerBackend) -> Backend:
        return on_podman
