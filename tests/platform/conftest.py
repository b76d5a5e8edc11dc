from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from scripted_api import KEY, ScriptedApi

from langchain_vers.platform import Credentials, Endpoints, VersClient


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    """No key, address or proxy of the developer's own."""
    for name in ("VERS_API_KEY", "VERS_BASE_URL", "VERS_SSH_ENDPOINT", "VERS_CA_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    server = ScriptedApi()
    yield server
    server.close()


@pytest.fixture
async def client(api) -> AsyncIterator[VersClient]:
    endpoints = Endpoints.resolve(base_url=api.url, environ={})
    async with VersClient(Credentials(KEY), endpoints, timeout=5.0, backoff=0.01) as client:
        yield client
