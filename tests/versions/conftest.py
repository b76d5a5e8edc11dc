"""The database and the platform of a test of versioned threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.savers import Database

from langchain_vers import BackendContext, link
from langchain_vers._io import run
from versions import machine_claims
from versions.worlds import World


@pytest.fixture(autouse=True)
def _contexts_are_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests call a process is a context of its own, which holds nothing together with the others."""
    monkeypatch.setattr(link, "_exchange", lambda account: link.Exchange())
    for name in ("gates", "bringing"):
        monkeypatch.setattr(link.Link, name, property(lambda self, name=name: self.__dict__.setdefault(f"own_{name}", {})))


@pytest.fixture
def world(clean: Path, isolated_vers_data: Path, tmp_path: Path) -> Iterator[World]:
    """An empty database and the shared server, from which everything is removed that the test makes."""
    with BackendContext(data_dir=isolated_vers_data, local=False) as context:
        client = run(context.client())
        before = run(machine_claims.everything(client))
        yield World(isolated_vers_data, Database("sqlite", str(tmp_path / "threads.sqlite")), client, before)
        run(machine_claims.sweep(client, before))
