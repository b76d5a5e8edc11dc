"""What the tests of integrations have in common."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_vers import VersToolkit
from langchain_vers.integrations.deepagents import VersSandbox


@pytest.fixture
def make_sandbox(make_isolated_toolkit: Any) -> Any:
    """Makes sandboxes, each with the toolkit whose context it shares, on isolated VMs that are deleted afterwards."""

    def make(subagents: Any = "share", **options: Any) -> tuple[VersSandbox, VersToolkit]:
        toolkit = make_isolated_toolkit(**{"local": False, **options})
        return VersSandbox(toolkit, subagents=subagents), toolkit

    return make
