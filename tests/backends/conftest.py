"""Fixtures of the backends' tests: the peers that VersBackend is joined with."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.docker import ContainerEngine, Dockerd, Podman, engine
from rigs.embedded import EmbeddedVers
from rigs.gondolin import Gondolin
from rigs.network import NetworkThread, Relay
from rigs.openssh import Platform, UserBackend

from langchain_vers._io import run
from langchain_vers.backends.vers import VersBackend


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave to the full run what a class does not name in its `sample`, if it has one."""
    for item in items:
        sample = getattr(getattr(item, "cls", None), "sample", None)
        if sample is not None and getattr(item, "originalname", "") not in sample:
            item.add_marker(pytest.mark.full)


@pytest.fixture(scope="session")
def network() -> Iterator[NetworkThread]:
    """The thread in which relays and TLS fronts run."""
    network = NetworkThread()
    yield network
    network.close()


@pytest.fixture(scope="session")
def openssh(tmp_path_factory: pytest.TempPathFactory, network: NetworkThread) -> Iterator[Platform]:
    """One OpenSSH server with its settings as they come."""
    platform = Platform(tmp_path_factory.mktemp("openssh"), network)
    yield platform
    platform.close()


@pytest.fixture
def own_openssh(tmp_path: Path, network: NetworkThread) -> Iterator[Platform]:
    """One that the test may change."""
    platform = Platform(tmp_path / "openssh", network)
    yield platform
    platform.close()


@pytest.fixture
def relay(openssh: Platform, network: NetworkThread) -> Iterator[Relay]:
    """The network between this side and the OpenSSH server's TLS front."""
    relay = Relay(network, openssh.front.address)
    yield relay
    relay.close()


@pytest.fixture
def remote(openssh: Platform, relay: Relay) -> Iterator[VersBackend]:
    """A backend on a new VM of the OpenSSH server, by way of `relay`."""
    client = openssh.client(relay.endpoint)
    backend = UserBackend(client, openssh.new_vm())
    yield backend
    run(backend.close())
    run(client.aclose())


@pytest.fixture(scope="session")
def namespaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedVers]:
    """An embedded Vers whose machines are isolated."""
    server = EmbeddedVers(tmp_path_factory.mktemp("namespaces") / "data", "namespaces")
    yield server
    server.close()


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedVers]:
    """An embedded Vers on the engine that starts quickest."""
    server = EmbeddedVers(tmp_path_factory.mktemp("processes") / "data", "process")
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _sockets_of_the_docker_sdk(request: pytest.FixtureRequest) -> Iterator[None]:
    """The SDK does not close a socket that it could not connect: they are collected here, so that no other test is blamed for them."""
    yield
    if request.path.name == "test_docker_failures.py":  # elsewhere, engines answer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session")
def dockerd() -> Iterator[ContainerEngine]:
    """A Docker engine with the image `rigs.docker.IMAGE`."""
    yield from engine(Dockerd)


@pytest.fixture(scope="session")
def podman() -> Iterator[ContainerEngine]:
    """The same of Podman."""
    yield from engine(Podman)


@pytest.fixture(scope="session")
def gondolin(tmp_path_factory: pytest.TempPathFactory) -> Gondolin:
    """Makes backends on Gondolin micro-VMs."""
    return Gondolin(tmp_path_factory.mktemp("gondolin"))
