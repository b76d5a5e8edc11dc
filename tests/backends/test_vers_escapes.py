"""The escape suite over machines of the embedded Vers that are isolated by namespaces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rigs.embedded import EmbeddedVers

from langchain_vers._io import run
from langchain_vers.backends.base import Backend
from langchain_vers.testing.escapes import PLACES, Bounds, EscapeConformance, MiB


class TestOnNamespaces(EscapeConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, namespaces: EmbeddedVers) -> Iterator[Backend]:
        backend = namespaces.new_backend()
        yield backend
        run(backend.close())

    @pytest.fixture
    def bounds(self) -> Bounds:
        return Bounds(processes=64, disk=16 * MiB)

    @pytest.mark.xfail(strict=True, reason="the engine bounds no number of processes; it says so in its `limits`")
    async def test_fork_bomb_is_contained(self, backend: Backend, bounds: Bounds) -> None:
        await super().test_fork_bomb_is_contained(backend, bounds)

    @pytest.fixture(params=[".", *(pytest.param(place, marks=pytest.mark.full) for place in PLACES if place != ".")])
    def where(self, request: pytest.FixtureRequest) -> str:
        place: str = request.param
        return place

    @pytest.mark.xfail(strict=True, reason="the engine bounds no disk; it says so in its `limits`")
    async def test_disk_cannot_be_filled(self, backend: Backend, bounds: Bounds, where: str) -> None:
        await super().test_disk_cannot_be_filled(backend, bounds, where)

    @pytest.mark.xfail(strict=True, reason="a machine's sessions find a command's processes by their traces, and it has only sessions")
    async def test_no_daemon_without_traces_outlives_the_time_limit(self, backend: Backend, place: str) -> None:
        await super().test_no_daemon_without_traces_outlives_the_time_limit(backend, place)
