"""A machine for each test: the pytest fixture `vers_machine`.

    @pytest.mark.langsmith
    def test_it_fixes_the_build(vers_machine, vers_thread):
        agent.invoke({"messages": [("user", "Fix the build.")]}, vers_thread)
        assert vers_machine.run("make").ok

Each test that asks for it gets a new branch of `vers_base`, deleted after the test, or kept if `--vers-keep` (or `vers_keep` in the
configuration file, or `@pytest.mark.vers(keep=...)`) says so; the report of the test names it then. `vers_base` is what the option
`--vers-base`, the setting `vers_base` or the marker's `base` names (a commit, a tag, a VM), else a new VM. Whoever wants another context,
or a golden machine that is built first, overrides the fixtures `vers_context` and `vers_base` in a conftest.py.

pytest loads this module wherever the package is installed: nothing else is imported before a test asks for a machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

    import langchain_vers.machine  # by its whole name where it is rendered: there are others that are called so
    from langchain_vers.branches import Branches
    from langchain_vers.context import BackendContext
    from langchain_vers.machine import Machine

KEEP = ("never", "failures", "always")
"""Whose machines outlive their test."""
LABEL = "langchain-vers-test"
"""On the machines of tests, with the test's name: to find those that a killed process has left."""
_machine = pytest.StashKey["Machine"]()
_failed = pytest.StashKey[bool]()
_new = pytest.StashKey[str]()
"""The VM that was made because none was named."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options."""
    group = parser.getgroup("vers", "machines for tests (langchain-vers)")
    group.addoption("--vers-base", metavar="NAME", help="the commit, tag or VM that vers_machine is branched from; default: a new VM")
    group.addoption("--vers-keep", choices=KEEP, help="whose machines outlive their test; default: never")
    parser.addini("vers_base", "see --vers-base", default="")
    parser.addini("vers_keep", "see --vers-keep", default=KEEP[0])


def pytest_configure(config: pytest.Config) -> None:
    """The marker."""
    config.addinivalue_line(
        "markers", "vers(base=..., keep=...): what vers_machine begins as, and whether it is kept (never, failures, always)"
    )


@pytest.fixture(scope="session")
def vers_context() -> Iterator[BackendContext]:
    """The context of the machines of this session; nothing runs on this machine. Make the agent's tools with it."""
    from langchain_vers.context import BackendContext  # noqa: PLC0415  # see the module

    with BackendContext(local=False) as context:
        yield context


@pytest.fixture(scope="session")
def vers_base(request: pytest.FixtureRequest, vers_context: BackendContext) -> Iterator[str]:
    """What `vers_machine` begins as, unless its test says otherwise: the name of a commit, a tag or a VM."""
    if named := _named(request.config):
        yield named
        return
    with _branches(vers_context, None, "base") as branches:
        (machine,) = _made(branches)
        request.config.stash[_new] = machine.vm_id
        yield machine.vm_id


@pytest.fixture
def vers_machine(request: pytest.FixtureRequest, vers_context: BackendContext) -> Iterator[langchain_vers.machine.Machine]:
    """A VM for this test alone."""
    _kept(request.node)  # nonsense shows before anything is made
    base = _marked(request.node).get("base") or request.getfixturevalue("vers_base")
    with _branches(vers_context, base, request.node.name) as branches:
        new = not _marked(request.node).get("base") and base == request.config.stash.get(_new, None)
        machine = request.node.stash[_machine] = _stable(_made(branches)[0], "a new machine" if new else str(base))
        if machine.commit is not None:
            vers_context.commits[machine.vm_id] = machine.commit
        yield machine
        if _kept(request.node):
            branches.keep(machine)


@pytest.fixture
def vers_thread(
    request: pytest.FixtureRequest, vers_machine: langchain_vers.machine.Machine, vers_context: BackendContext
) -> RunnableConfig:
    """The config of a thread that is attached to `vers_machine`: give it to the agent."""
    config: RunnableConfig = {"configurable": {"thread_id": f"pytest {request.node.nodeid}"}}
    vers_context.attach(vers_machine.vm_id, config)
    return config


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Remember whether a test with a machine failed, and say in its report which machine is kept."""
    outcome = yield
    if _machine not in item.stash:
        return
    report = outcome.get_result()
    if report.when != "teardown":
        item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    if report.when == "call" and _kept(item):
        report.sections.append(("VM", f"kept: {item.stash[_machine].vm_id}"))


@contextlib.contextmanager
def _branches(context: BackendContext, source: str | None, name: str) -> Iterator[Branches]:
    """Machines of a test, or of the session, which are gone afterwards."""
    from langchain_vers._io import run  # noqa: PLC0415  # see the module
    from langchain_vers.branches import Branches  # noqa: PLC0415

    branches = Branches(context, source, labels={LABEL: name[:60]})
    run(branches.__aenter__())
    try:
        yield branches
    finally:
        run(branches.__aexit__(None, None, None))


def _made(branches: Branches) -> list[Machine]:
    from langchain_vers._io import run  # noqa: PLC0415  # see the module

    return run(branches.make(1))


def _kept(item: pytest.Item) -> bool:
    """Whether a test's machine is to outlive it, as far as the test has come."""
    keep = _marked(item).get("keep") or item.config.getoption("--vers-keep") or item.config.getini("vers_keep")
    if keep not in KEEP:
        raise pytest.UsageError(f"vers_keep must be one of {', '.join(KEEP)}, not {keep!r}")
    return bool(keep == "always" or (keep == "failures" and item.stash.get(_failed, False)))


def _named(config: pytest.Config) -> str:
    """What the machines are branched from, if that is configured; else empty."""
    return str(config.getoption("--vers-base") or config.getini("vers_base") or "")


def _marked(item: pytest.Item) -> dict[str, Any]:
    marker = item.get_closest_marker("vers")
    given: dict[str, Any] = {} if marker is None else dict(marker.kwargs)
    if marker is not None and (marker.args or set(given) - {"base", "keep"}):
        raise pytest.UsageError(f"the marker of {item.nodeid} must be vers(base=..., keep=...)")
    return given


def _stable(machine: Machine, base: str) -> Machine:
    """The machine, which is the same in every run to LangSmith: the values of fixtures are the inputs of its examples."""
    from langchain_vers.machine import Machine  # noqa: PLC0415  # see the module

    class TestMachine(Machine):
        __test__ = False

        def __str__(self) -> str:
            return f"a branch of {base}"

        def __copy__(self) -> TestMachine:
            return self

        def __deepcopy__(self, memo: object) -> TestMachine:
            return self

    return TestMachine(machine.context, machine.vm_id, commit=machine.commit)
