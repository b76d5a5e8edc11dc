"""Names that become backends: specs, packages that offer some, what is said of those that are not there, and when they are made."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rigs.folders import Folder, PlainFolder

from langchain_vers._io import run
from langchain_vers.backends import registry
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.registry import GROUP, KINDS, Kind, Registry, resolve
from langchain_vers.errors import BadInput, Gone, Unsupported, VersError

# --- specs ---


def test_a_spec_becomes_a_backend(tmp_path: Path) -> None:
    backend = resolve(f"local:{tmp_path}")
    assert isinstance(backend, LocalBackend) and backend.home == str(tmp_path)
    assert resolve("local", root=tmp_path).home == str(tmp_path)  # type: ignore[attr-defined]
    assert isinstance(resolve("local"), LocalBackend)


@pytest.mark.parametrize(
    "spec", ["", ":", ":x", "docker:", "docker: ", " docker:x", "docker :x", "docker:a\0b", "Docker:x", "ssh", "a b:c"]
)
def test_nonsense_is_refused(spec: str) -> None:
    with pytest.raises(BadInput):
        resolve(spec)
    with pytest.raises(BadInput):
        Registry().add("name", spec)


@given(st.text())
def test_any_text_is_a_spec_or_an_error(text: str) -> None:
    try:
        kind, argument = registry.check(text)
    except BadInput:
        return
    assert text in {kind, f"{kind}:{argument}"} and kind in registry.kinds()


def test_an_unknown_kind_says_what_to_do() -> None:
    with pytest.raises(BadInput) as caught:
        resolve("dokcer:python:3.12")
    said = str(caught.value)
    assert "did you mean 'docker'?" in said and "bubblewrap, docker, gondolin, local, seatbelt, ssh" in said and GROUP in said
    with pytest.raises(BadInput, match=r"context\.attach"):
        resolve("vers:3f2a")


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "docker", Kind("langchain_vers.backends.no_such_module:DockerBackend", extra="docker"))
    with pytest.raises(Unsupported, match=r'pip install "langchain-vers\[docker\]"'):
        resolve("docker:python:3.12")


def test_wrong_options_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="colour"):
        resolve("local", colour="red")


def test_backends_are_imported_when_they_are_first_used() -> None:
    program = """
        import sys
        from langchain_vers import BackendContext
        context = BackendContext()
        for kind in ("docker:x", "ssh:x", "bubblewrap", "seatbelt", "gondolin"):
            context.register(kind.partition(":")[0], kind)
        print(context.registered, [kind for kind in context.registered if f"langchain_vers.backends.{kind}" in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("['bubblewrap', 'docker', 'gondolin', 'seatbelt', 'ssh'] []\n", "")


# --- other packages ---


class Packages:
    """Packages that are installed for one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, package: str, code: str, **points: str) -> None:
        (self.folder / f"{package}.py").write_text(textwrap.dedent(code))
        facts = self.folder / f"{package}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[{GROUP}]\n" + "".join(f"{name} = {package}:{what}\n" for name, what in points.items()))


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "site")
    before = set(sys.modules)
    yield Packages(tmp_path / "site")
    for name in set(sys.modules) - before:
        del sys.modules[name]


GARAGE = """
    from langchain_vers import LocalBackend
    class Garage(LocalBackend):
        name = "garage"
    def broken(*arguments):
        return "no backend"
"""


def test_a_package_offers_a_backend(packages: Packages, tmp_path: Path) -> None:
    packages.install("vers_test_garage", GARAGE, garage="Garage", broken="broken", local="broken", lost="nothing")
    assert "garage" in registry.kinds()
    offered = Registry()
    offered.add("mine", f"garage:{tmp_path}")
    assert "vers_test_garage" not in sys.modules
    backend = run(offered.backend("mine"))
    assert (backend.name, backend.home) == ("garage", str(tmp_path))  # type: ignore[attr-defined]
    assert type(resolve("local")) is LocalBackend  # nobody takes the place of the package's own
    with pytest.raises(BadInput, match="str and no Backend"):
        resolve("broken")
    with pytest.raises(Unsupported, match="vers_test_garage"):
        resolve("lost")
    with pytest.raises(BadInput, match="garage could not be made"):
        resolve("garage", colour="red")


def test_a_package_that_cannot_be_imported(packages: Packages) -> None:
    packages.install("vers_test_wreck", "raise RuntimeError('no wheels')", wreck="Wreck")
    with pytest.raises(Unsupported, match=r"vers_test_wreck.*RuntimeError: no wheels"):
        resolve("wreck")


def test_two_packages_with_one_name_are_told_apart_by_nobody(packages: Packages) -> None:
    packages.install("vers_test_one", GARAGE, twin="Garage")
    packages.install("vers_test_two", GARAGE, twin="Garage")
    with pytest.raises(BadInput, match="vers_test_one:Garage, vers_test_two:Garage"):
        resolve("twin")


# --- what a context offers ---


@pytest.mark.parametrize("name", ["vers", "local", "no name", "", "docker:x", "1st", 7, None])
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(BadInput):
        Registry().add(name, LocalBackend())


@pytest.mark.parametrize("source", [7, None, b"docker:x", ["docker:x"]])
def test_sources_that_are_refused(source: Any) -> None:
    with pytest.raises(BadInput, match="is no backend"):
        Registry().add("name", source)


def test_a_backend_is_made_once(tmp_path: Path) -> None:
    made: list[PlainFolder] = []
    together = threading.Barrier(2)

    def factory() -> PlainFolder:
        made.append(PlainFolder(tmp_path))
        return made[-1]

    offered = Registry()
    offered.add("box", factory)
    assert not made

    def first() -> Any:
        together.wait(30)
        return run(offered.backend("box"))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: first(), range(2)))
    assert found == [made[0]] * 2
    run(offered.close())
    assert made[0].closed == 1
    assert run(offered.backend("box")) is made[1]  # a closed one can be used again
    run(offered.close())
    run(offered.close())
    assert [one.closed for one in made] == [1, 1]


@pytest.mark.parametrize("factory", [lambda: None, lambda: LocalBackend, lambda needed: LocalBackend(), str])
def test_a_factory_that_makes_none(factory: Any) -> None:
    offered = Registry()
    offered.add("box", factory)
    with pytest.raises(BadInput, match="backend box could not be made"):
        run(offered.backend("box"))


def test_an_error_of_a_factory_is_the_threads(tmp_path: Path) -> None:
    def factory() -> Any:
        raise Gone("the box was thrown away")

    offered = Registry()
    offered.add("box", factory)
    for _ in range(2):
        with pytest.raises(Gone, match="thrown away"):
            run(offered.backend("box"))


def test_whatever_a_factory_raises_is_an_error_of_this_package() -> None:
    offered = Registry()
    offered.add("box", lambda: [][0])
    offered.add("other", lambda: Path("/no/such/socket").read_bytes())
    with pytest.raises(Unsupported, match=r"the backend box cannot be used here \(IndexError\)"):
        run(offered.backend("box"))
    with pytest.raises(Unsupported, match="No such file"):
        run(offered.backend("other"))


def test_the_very_machine_of_an_attachment(tmp_path: Path) -> None:
    offered, folder = Registry(), Folder.new(tmp_path, "first")
    offered.add("box", folder)
    (branch,) = run(folder.branch())
    assert run(offered.backend("box", "first")) is folder
    there: Any = run(offered.backend("box", branch))
    assert there.folder == tmp_path / branch and run(offered.backend("box", branch)) is there
    run(offered.close())
    assert (folder.closed, there.closed) == (1, 1)

    offered.add("plain", PlainFolder(tmp_path / "first"))
    assert run(offered.backend("plain", "first")).machine_id == "first"
    with pytest.raises(Gone, match="is on first now") as caught:
        run(offered.backend("plain", branch))
    assert caught.value.machine_id == branch


def test_a_name_that_is_given_again(tmp_path: Path) -> None:
    offered = Registry()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    offered.add("box", f"local:{tmp_path}/a")
    first = run(offered.backend("box"))
    offered.add("box", f"local:{tmp_path}/a")
    assert run(offered.backend("box")) is first  # a cell that is run again
    made = Folder(tmp_path / "a")
    offered.add("box", lambda: made)
    assert run(offered.backend("box")) is made
    offered.add("box", f"local:{tmp_path}/b")
    assert run(offered.backend("box")).home == f"{tmp_path}/b"  # type: ignore[attr-defined]
    run(offered.close())
    assert made.closed == 1


def test_a_name_that_nobody_gave() -> None:
    offered = Registry()
    offered.add("box", "local")
    for name, remedy in {"docker": 'context.register("docker", "docker:python:3.12")', "other": "context.register('other', ...)"}.items():
        with pytest.raises(VersError) as caught:
            run(offered.backend(name))
        assert remedy in str(caught.value) and str(caught.value).endswith("registered are: box")
