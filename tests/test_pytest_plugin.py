"""The fixture `vers_machine`: whole runs of pytest, which finds the plugin by its entry point, with and without LangSmith's own plugin."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rigs.langsmith import LangSmith

from langchain_vers import BackendContext
from langchain_vers._io import run
from langchain_vers.embedded.launcher import ServerInfo, find_running
from langchain_vers.machine import Machine

ROOT = Path(__file__).parents[1]
SUITE = """
import pytest
from langchain_vers import VersToolkit

seen = []


@pytest.mark.langsmith
def test_one(vers_machine, vers_thread, vers_context):
    tools = {tool.name: tool for tool in VersToolkit(context=vers_context).get_tools()}
    tools["bash"].invoke({"command": "echo hello >f"}, vers_thread)
    assert vers_machine.read_text("f") == "hello\\n"
    seen.append(vers_machine.vm_id)


@pytest.mark.langsmith
async def test_two(vers_machine):
    assert not await vers_machine.aexists("f")
    assert vers_machine.vm_id not in seen
    print("failing on", vers_machine.vm_id)
    assert False


def test_without():
    pass
"""


@pytest.fixture
def server(clean: Path, vers_data: Path) -> Iterator[BackendContext]:
    with BackendContext(data_dir=vers_data, local=False) as made:
        before = ids(made)
        yield made
        for vm_id in ids(made) - before:
            Machine(made, vm_id).delete()


def ids(context: BackendContext) -> set[str]:
    async def listed() -> set[str]:
        return {vm.vm_id for vm in await (await context.client()).list_vms()}

    return run(listed())


class Suite:
    """A folder with tests, and a place where Python finds the plugin as it does where the package is installed."""

    def __init__(self, folder: Path, info: ServerInfo) -> None:
        self.folder = folder / "suite"
        self.folder.mkdir()
        named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
        installed = folder / "site" / "langchain_vers_under_test-1.dist-info"
        installed.mkdir(parents=True)
        (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: langchain-vers-under-test\nVersion: 1\n")
        (installed / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{name} = {where}\n" for name, where in named.items()))
        self.settings()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "LANGSMITH", "LANGCHAIN_"))},
            "PYTHONPATH": os.pathsep.join([str(installed.parent), str(ROOT), *sys.path]),
            "VERS_API_KEY": info.api_key,
            "VERS_BASE_URL": info.base_url,
            "VERS_SSH_ENDPOINT": "{}:{}".format(*info.ssh_endpoint),
            "VERS_CA_FILE": str(info.ca_file),
            "LANGSMITH_TEST_TRACKING": "false",
        }

    def settings(self, *lines: str) -> None:
        """The configuration file."""
        whole = ["[pytest]", "asyncio_mode = auto", "asyncio_default_fixture_loop_scope = function", *lines]
        (self.folder / "pytest.ini").write_text("\n".join(whole))

    def run(self, source: str, *options: str, **environment: str) -> str:
        """What pytest says of a file of tests."""
        (self.folder / "test_suite.py").write_text(textwrap.dedent(source))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", "--strict-markers", "-W", "error", *options]
        done = subprocess.run(
            command, cwd=self.folder, env={**self.environment, **environment}, capture_output=True, text=True, timeout=120, check=False
        )
        return done.stdout + done.stderr


@pytest.fixture
def suite(server: BackendContext, vers_data: Path, tmp_path: Path) -> Suite:
    info = find_running(vers_data)
    assert info is not None
    return Suite(tmp_path, info)


@pytest.mark.full
def test_each_test_has_a_machine_which_goes_with_it(suite: Suite, server: BackendContext) -> None:
    before = ids(server)
    said = suite.run(SUITE)
    assert "1 failed, 2 passed" in said, said
    assert ids(server) == before


@pytest.mark.full
def test_machines_of_failures_are_kept_on_request(suite: Suite, server: BackendContext) -> None:
    before = ids(server)
    said = suite.run(SUITE, "--vers-keep=failures")
    [kept] = re.findall(r"^kept: ([0-9a-f-]{36})$", said, re.MULTILINE)
    assert "1 failed, 2 passed" in said and f"failing on {kept}" in said
    assert ids(server) - before == {kept}


def test_markers_and_settings(suite: Suite, server: BackendContext) -> None:
    golden = server_machine(server)
    commit = golden.save()
    before = ids(server)
    suite.settings(f"vers_base = {golden.vm_id}")
    said = suite.run(f"""
        import pytest

        def test_by_setting(vers_machine):
            assert vers_machine.read_text("golden") == "yes" and vers_machine.commit is None

        @pytest.mark.vers(base={commit!r}, keep="always")
        def test_by_marker(vers_machine):
            assert vers_machine.read_text("golden") == "yes" and vers_machine.commit == {commit!r}

        @pytest.mark.vers("x")
        def test_nonsense(vers_machine):
            raise AssertionError("it ran")

        @pytest.mark.vers(keep="maybe")
        def test_more_nonsense(vers_machine):
            raise AssertionError("it ran")

        @pytest.mark.vers(base="no-such-thing")
        def test_no_base(vers_machine):
            raise AssertionError("it ran")
    """)
    assert "2 passed, 3 errors" in said and "E   AssertionError" not in said, said
    for part in ("must be vers(base=..., keep=...)", "never, failures, always, not 'maybe'", "no tag and no VM named"):
        assert part in said
    assert len(ids(server) - before) == 1


@pytest.mark.full
def test_fixtures_may_be_overridden(suite: Suite, server: BackendContext) -> None:
    golden = server_machine(server)
    (suite.folder / "conftest.py").write_text(
        textwrap.dedent(f"""
            import pytest

            @pytest.fixture(scope="session")
            def vers_base():
                return {golden.vm_id!r}
        """)
    )
    assert "1 passed" in suite.run('def test_it(vers_machine):\n    assert vers_machine.exists("golden")')


def server_machine(context: BackendContext) -> Machine:
    async def create() -> str:
        return await (await context.client()).create_vm(wait_boot=True)

    machine = Machine(context, run(create()))
    machine.write("golden", "yes")
    return machine


@pytest.mark.parametrize(
    "options", [pytest.param((), id="with", marks=pytest.mark.full), pytest.param(("-p", "no:langsmith_plugin"), id="without")]
)
def test_whoever_asks_for_nothing_pays_nothing(suite: Suite, options: Any) -> None:
    said = suite.run(
        """
        import sys

        def test_it():
            ours = {name for name in sys.modules if name.startswith("langchain_vers")}
            assert ours == {"langchain_vers", "langchain_vers.integrations", "langchain_vers.integrations.pytest_plugin"}
            assert "langgraph" not in sys.modules and "paramiko" not in sys.modules and "langchain_core" not in sys.modules
        """,
        *options,
    )
    assert "1 passed" in said, said


def test_with_langsmith(suite: Suite, server: BackendContext) -> None:
    """Its plugin sends the tests to a server; the machine is no input that differs from run to run."""
    before = ids(server)
    with LangSmith() as langsmith:
        environment = {
            "LANGSMITH_TEST_TRACKING": "true",
            "LANGSMITH_TRACING": "true",
            "LANGSMITH_ENDPOINT": langsmith.url,
            "LANGSMITH_API_KEY": "anything",
            "LANGSMITH_TEST_SUITE": "machines",
        }
        for _ in range(2):
            said = suite.run(SUITE, "--vers-keep=failures", "-W", "ignore::ResourceWarning", **environment)
            assert "1 failed, 2 passed" in said, said
        runs, examples, verdicts = langsmith.runs(), langsmith.examples, langsmith.verdicts()
    assert [each["name"] for each in langsmith.datasets.values()] == ["machines"]
    assert len(examples) == 2, [each["inputs"] for each in examples.values()]  # and not four
    assert sorted(run["name"] for run in runs.values() if run["run_type"] != "tool") == ["test_one", "test_one", "test_two", "test_two"]
    assert sorted(each["score"] for each in verdicts) == [0, 0, 1, 1]
    tools = [run for run in runs.values() if run["run_type"] == "tool"]
    assert len(tools) == 2 and all(run["extra"]["metadata"]["vers_backend"] == "vers" for run in tools)
    assert len(ids(server) - before) == 2
