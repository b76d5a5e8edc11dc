"""Fixtures of all tests: no configuration of the person who runs them, and an embedded Vers for those that need one."""

from __future__ import annotations

import os
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from rigs.postgres import Postgres
from rigs.savers import Databases

from langchain_vers.embedded import launcher
from langchain_vers.toolkit import VersToolkit

# Whoever starts the tests in the background, or by nohup, has these ignored, and every process that a test starts would inherit that.
for _number, _usual in {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGQUIT: signal.SIG_DFL}.items():
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _usual)

# Machines that are busy are slow: no example has a deadline. `make test-full` has its own profile, with more examples.
_COMMON = {"deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("quick", max_examples=50, **_COMMON)
settings.register_profile("full", max_examples=300, print_blob=True, **_COMMON)
settings.load_profile("quick")


_SUITES = ("bubblewrap", "docker", "gondolin", "ssh", "vers", "vers_http")
_CONFORMING = ("backends/test_local_backend.py", *(f"backends/test_{name}_conformance.py" for name in _SUITES))
_COMMANDS = ("test_cli_checkout.py", "test_cli_history.py", "test_gc.py", "test_user_command_gates.py")
_DEEP_AGENTS = ("test_deepagents_agents.py", "test_subagents.py")
_OWN_MACHINES = ("test_provision.py", "test_interruptions.py")
THINNED = ("versions/", *_CONFORMING, "test_idle.py", "test_recall.py", *_OWN_MACHINES, *_COMMANDS, *_DEEP_AGENTS)
"""Where the default run takes one variant of each parametrised test, and `make test-full` all."""
WHOLE = ("test_sigkill.py", "test_scenes.py", "test_random_histories.py")
"""Which choose by themselves."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave all variants but one of the tests that take long to the full run; another one of each test, so that all kinds are tried."""
    variants: dict[str, list[pytest.Item]] = {}
    for item in items:
        place, _, _ = item.nodeid.partition("[")
        if any(part in place for part in THINNED) and not any(part in place for part in WHOLE) and item.get_closest_marker("full") is None:
            variants.setdefault(place, []).append(item)
    for place, several in variants.items():
        chosen = zlib.crc32(place.rpartition("::")[2].encode()) % len(several)
        for number, item in enumerate(several):
            if number != chosen:
                item.add_marker(pytest.mark.full)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No VERS_* variable, and an empty home; the home."""
    for name in [name for name in os.environ if name.startswith("VERS_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def _embedded(folder: Path, engine: str) -> Iterator[Path]:
    launcher.ensure_running(folder, engine=engine)
    yield folder
    launcher.stop(folder)


@pytest.fixture(scope="session")
def vers_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of an embedded Vers without isolation, shared by the tests of a process."""
    yield from _embedded(tmp_path_factory.mktemp("vers") / "data", "process")


@pytest.fixture(scope="session")
def isolated_vers_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same, with VMs that are isolated by namespaces."""
    yield from _embedded(tmp_path_factory.mktemp("isolated") / "data", "namespaces")


MakeToolkit = Callable[..., VersToolkit]


def _maker(data: Path, work: Path) -> Iterator[MakeToolkit]:
    made: list[VersToolkit] = []
    work.mkdir()

    def make(**options: Any) -> VersToolkit:
        if "context" not in options:
            options = {"data_dir": data, "local": str(work), **options}
        made.append(VersToolkit(**options))
        return made[-1]

    before = VersToolkit(data_dir=data)
    known = set(_tool(before, "vers_vms").invoke(_call("vers_vms")).artifact["vms"])
    yield make
    for toolkit in made:
        toolkit.close()
    left = set(_tool(before, "vers_vms").invoke(_call("vers_vms")).artifact["vms"]) - known
    for vm_id in left:
        answer = _tool(before, "vers_vm_delete").invoke(_call("vers_vm_delete", vm_id=vm_id))
        assert answer.status == "success", answer
    before.close()


def _tool(toolkit: VersToolkit, name: str) -> Any:
    return next(tool for tool in toolkit.get_tools() if tool.name == name)


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_call", "id": f"fixture-{name}", "name": name, "args": arguments}


@pytest.fixture
def make_toolkit(clean: Path, vers_data: Path, tmp_path: Path) -> Iterator[MakeToolkit]:
    """Makes toolkits on the shared server whose local work begins in `tmp_path / "here"`; closes them and deletes their VMs afterwards."""
    yield from _maker(vers_data, tmp_path / "here")


@pytest.fixture
def make_isolated_toolkit(clean: Path, isolated_vers_data: Path, tmp_path: Path) -> Iterator[MakeToolkit]:
    """As `make_toolkit`, on isolated VMs."""
    yield from _maker(isolated_vers_data, tmp_path / "here")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Where the local work of a toolkit begins."""
    return tmp_path / "here"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server, shared by the tests of a process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PG")]:
            patch.delenv(name)
        server = Postgres()
        yield server
        server.close()


@pytest.fixture
def databases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Databases]:
    """Makes empty databases for the savers of LangGraph. Only who asks for one of PostgreSQL needs it installed."""
    made = Databases(tmp_path, lambda: request.getfixturevalue("postgres"))
    yield made
    made.close()
