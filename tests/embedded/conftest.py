"""Fixtures of the embedded server's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Api, Server


@pytest.fixture(scope="session")
def vers_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on the process engine for all tests that do not break it."""
    server = Server(tmp_path_factory.mktemp("vers") / "data")
    server.start()
    yield server
    assert server.stop() == 0, server.log()
    assert "Traceback" not in server.log(), server.log()


@pytest.fixture
def api(vers_server: Server) -> Iterator[Api]:
    """A client with the right key; it deletes the VMs that the test made."""
    api = Api(vers_server.info)
    before = {vm["vm_id"] for vm in api("GET", "/vms")}
    yield api
    for vm in api("GET", "/vms"):
        if vm["vm_id"] not in before:
            api("DELETE", f"/vm/{vm['vm_id']}", 200)
    api.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may kill."""
    server = Server(tmp_path / "data")
    server.start()
    yield server
    server.stop()
