"""The conformance suite over VersBackend with transport="http": on isolated machines of the embedded Vers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rigs.embedded import EmbeddedVers

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import Backend
from langchain_vers.backends.vers import VersBackend
from langchain_vers.testing.backends import BackendConformance
from langchain_vers.testing.commands import CommandConformance
from langchain_vers.testing.files import FileConformance
from langchain_vers.testing.harness import Caller, Conformance


@pytest.fixture(scope="module")
def machine(namespaces: EmbeddedVers) -> Iterator[VersBackend]:
    backend = namespaces.new_backend(transport="http")
    yield backend
    run(backend.close())


@pytest.mark.full
class TestOverHttp(BackendConformance):
    @pytest.fixture
    def backend(self, machine: VersBackend) -> Backend:
        return machine


class TestSampleOverHttp(Conformance):
    """What hangs on how the platform passes streams and files on."""

    test_output_is_merged_in_order_of_arrival = CommandConformance.test_output_is_merged_in_order_of_arrival
    test_output_keeps_every_byte = CommandConformance.test_output_keeps_every_byte
    test_long_output_is_bounded_and_logged = CommandConformance.test_long_output_is_bounded_and_logged
    test_large_stdin = CommandConformance.test_large_stdin
    test_timeout_kills_the_whole_tree = CommandConformance.test_timeout_kills_the_whole_tree
    test_background_process_lives_on = CommandConformance.test_background_process_lives_on
    test_contents_come_back = FileConformance.test_contents_come_back
    test_64_mib = FileConformance.test_64_mib

    @pytest.fixture(params=["async"])
    def call(self) -> Caller:
        return on_io

    @pytest.fixture
    def backend(self, machine: VersBackend) -> Backend:
        return machine
