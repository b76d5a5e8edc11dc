"""The conformance suite over SSHBackend: on a real OpenSSH server, and on one behind another by ProxyJump."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.openssh import Sshd

from langchain_vers._io import on_io, run
from langchain_vers.backends.base import Backend
from langchain_vers.backends.ssh import SSHBackend
from langchain_vers.testing.backends import BackendConformance
from langchain_vers.testing.harness import Caller, run_sync

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def direct(sshd: Sshd) -> Iterator[SSHBackend]:
    backend = SSHBackend(sshd.target, key=sshd.folder / "user", known_hosts=sshd.known_hosts, agent=False, config=False)
    yield backend
    run(backend.close())


@pytest.fixture(scope="module")
def by_jump(sshd: Sshd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SSHBackend]:
    jump = Sshd(tmp_path_factory.mktemp("jump"))
    jump.start()
    config: Path = jump.folder / "config"
    known = jump.folder / "both"
    known.write_text(jump.known_hosts.read_text() + sshd.known_hosts.read_text())
    config.write_text(
        f"UserKnownHostsFile {known}\nGlobalKnownHostsFile none\nIdentityAgent none\n"
        f"Host jump\n HostName 127.0.0.1\n Port {jump.port}\n IdentityFile {jump.folder}/user\n"
        f"Host far\n HostName 127.0.0.1\n Port {sshd.port}\n IdentityFile {sshd.folder}/user\n ProxyJump jump\n"
    )
    backend = SSHBackend("far", config=config)
    yield backend
    run(backend.close())
    jump.stop()


class SSHConformance(BackendConformance):
    """By sync callers too only in the full run, as with VersBackend."""

    @pytest.fixture(params=[pytest.param("sync", marks=pytest.mark.full), "async"])
    def call(self, request: pytest.FixtureRequest) -> Caller:
        return run_sync if request.param == "sync" else on_io


class TestOnOpenSSH(SSHConformance):
    @pytest.fixture
    def backend(self, direct: SSHBackend) -> Backend:
        return direct


@pytest.mark.full
class TestByProxyJump(SSHConformance):
    @pytest.fixture
    def backend(self, by_jump: SSHBackend) -> Backend:
        return by_jump
