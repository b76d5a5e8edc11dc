"""What is public has an entry in the reference, and a docstring that tells what it raises and in which units it counts.

The reference is what `docs/reference/index.md` lists. Nothing is rendered here but in the full run, which does what `make docs` does.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest

import langchain_vers
from langchain_vers import errors

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
APART = "deepagents_code"
"""Can be imported beside the command line of Deep Agents only, which has an environment of its own."""
PUBLIC_MODULES = (
    *("errors", "policy", "backends.base", "history", "gc", "platform.client", "platform.credentials", "platform.models"),
    *(f"testing.{path.stem}" for path in (ROOT / "langchain_vers/testing").glob("[a-z]*.py")),
    *(
        f"integrations.{module.name}"
        for module in pkgutil.iter_modules([str(ROOT / "langchain_vers/integrations")])
        if module.name != APART
    ),
    *("machine", "branches", "golden_machines", "exploration"),
    # Those that are on their way.
    *(name for name in ("provision",) if find_spec(f"langchain_vers.{name}")),
)
OURS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.VersError)}
SECONDS = re.compile(r"(.*_)?(timeout|deadline|lease|grace|patience|idle_pause|delay|interval|retry_after)")
BYTES = re.compile(r"(.*_)?(memory|disk|offset|length|tail_limit)")
PAGED = {"list_commits", "list_public_commits"}
"""Their `offset` counts entries."""


def listed() -> list[str]:
    """The entries of the reference, by their whole names."""
    text = (DOCS / "reference/index.md").read_text()
    blocks = re.findall(r"^\.\. autosummary::\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [f"langchain_vers.{line.strip()}" for block in blocks for line in block.splitlines() if re.fullmatch(r"   [A-Za-z_.]+", line)]


def found(name: str) -> object:
    """The module or the object of this name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        home, _, last = name.rpartition(".")
        return getattr(found(home), last)


@cache
def tree(module: str) -> ast.Module:
    source = inspect.getsource(importlib.import_module(module))
    return ast.parse(source)


@dataclass(frozen=True)
class Told:
    """A public thing, and the docstrings that may speak of it: its own, and of its parts those of the class around it."""

    name: str
    node: ast.AST
    own: str
    around: str = ""


def public(module: str, *, only: str | None = None) -> Iterator[Told]:
    """What a module has to offer, or one thing of it with its parts."""
    for told in parts(module, tree(module).body, ""):
        if only is None or told.name == only or told.name.startswith(f"{only}."):
            yield told


def parts(module: str, body: list[ast.stmt], around: str, prefix: str = "") -> Iterator[Told]:
    """The public classes, functions and values of a module or class, one after another, with their parts."""
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name.startswith("_") and node.name != "__init__":
                continue
            own = ast.get_docstring(node) or ""
            if not own and prefix:  # what is inherited is shown
                own = inspect.getdoc(inspect.getattr_static(found(f"{module}.{prefix.rstrip('.')}"), node.name)) or ""
            yield Told(prefix + node.name, node, around if node.name == "__init__" else own, around)
            if isinstance(node, ast.ClassDef):
                yield from parts(module, node.body, own, f"{prefix}{node.name}.")
            continue
        below = said_below(after)
        for name in assigned(node):
            if not name.startswith("_") and (below or not unspoken(module, prefix, node, name)):
                yield Told(prefix + name, node, below or entry(around, name) or elsewhere(module, prefix, name), around)


def assigned(node: ast.stmt) -> list[str]:
    """The names that a statement gives values to, or declares."""
    targets = [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def said_below(after: ast.stmt | None) -> str:
    """The docstring that stands below a name."""
    literal = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return str(after.value.value) if literal else ""


def elsewhere(module: str, prefix: str, name: str) -> str:
    """What the docstring of the module says of a field that several of its classes have, or that of a class which this one is made from."""
    if not prefix:
        return ""
    shared = re.search(rf"^- (?:.*; )?(?:`\w+`, )*`{name}`(?:, `\w+`)*[: ](.+)", ast.get_docstring(tree(module)) or "", re.MULTILINE)
    if shared:
        return shared[1]
    kind = found(f"{module}.{prefix.rstrip('.')}")
    above = [each for each in kind.__mro__[1:] if each.__module__.startswith("langchain_vers.")] if isinstance(kind, type) else []
    return next((said for each in above if (said := of_field(each, name))), "")


def of_field(kind: type, name: str) -> str:
    """What a class itself says of one of its fields."""
    node = next(node for node in tree(kind.__module__).body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    for statement, after in pairwise(node.body):
        if name in assigned(statement) and (said := said_below(after)):
            return said
    return entry(ast.get_docstring(node) or "", name)


def unspoken(module: str, prefix: str, node: ast.AST, name: str) -> bool:
    """Whether it needs no words: type variables, loggers, pydantic's, members of enumerations, and what a base class only declares."""
    value = getattr(node, "value", None)
    kind = found(f"{module}.{prefix.rstrip('.')}") if prefix else None
    fields = getattr(kind, "__dataclass_fields__", None) or getattr(kind, "model_fields", None) or {}
    declared = isinstance(node, ast.AnnAssign) and value is None and kind is not None and name not in fields
    member = isinstance(kind, type) and issubclass(kind, Enum)
    made = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    return name == "model_config" or member or declared or made in {"TypeVar", "logging.getLogger"}


def entry(doc: str, name: str) -> str:
    """What a docstring's list of attributes or arguments says of one, or that of a class which it names for them."""
    told = re.search(rf"^\s+(?:\w+, )*{name}(?:, \w+)*:(.+)", doc, re.MULTILINE)
    others = re.search(r"(?:are those of|rguments as for) `(\w+)`", doc)
    if told is None and others is not None:
        return entry(inspect.getdoc(getattr(langchain_vers, others[1])) or "", name)
    return told[1] if told else ""


def homes() -> Iterator[tuple[str, str | None]]:
    """The modules of all entries, each with the name of the object in it, or None for all that it has."""
    for name in listed():
        thing = found(name)
        if isinstance(thing, ModuleType):
            yield name, None
            for public_name in getattr(thing, "__all__", ()):
                home = getattr(getattr(thing, public_name), "__module__", None)
                if isinstance(home, str) and home.startswith("langchain_vers.") and home != name:
                    yield home, public_name
        elif isinstance(thing, type):
            yield from ((kind.__module__, kind.__name__) for kind in thing.__mro__ if kind.__module__.startswith("langchain_vers."))
        elif inspect.isfunction(thing):
            yield thing.__module__, thing.__name__
        else:  # a value or a type alias, which does not know where it is from
            yield tuple(name.rsplit(".", 1))


EVERYTHING = sorted({(module, told.name): told for module, only in homes() for told in public(module, only=only)}.items())


def test_public_names_are_listed() -> None:
    wanted = {f"langchain_vers.{name}" for name in (*langchain_vers.__all__, *PUBLIC_MODULES)}
    assert not sorted(wanted - set(listed())), "these want a line in docs/reference/index.md"


def test_modules_say_what_they_are() -> None:
    silent = [module for module in {module for (module, _), _ in EVERYTHING} if not ast.get_docstring(tree(module))]
    assert not silent


def test_everything_has_a_docstring() -> None:
    silent = [f"{module}.{name}" for (module, name), told in EVERYTHING if not told.own]
    assert not silent, "\n".join(silent)


def test_errors_are_told() -> None:
    """What a function raises by itself stands in its docstring, or in that of what it says to see."""
    untold = []
    for (module, name), told in EVERYTHING:
        if isinstance(told.node, ast.ClassDef) or re.match(r"See `|As `", told.own):
            continue
        calls = (raised.exc for raised in ast.walk(told.node) if isinstance(raised, ast.Raise))
        kinds = {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)} & OURS
        untold += [f"{module}.{name}: {kind}" for kind in sorted(kinds) if kind not in told.own + told.around]
    assert not untold, "\n".join(untold)


def test_units_are_told() -> None:
    """Times are in seconds and sizes in bytes, and each argument and attribute that is one says so."""
    untold = []
    for (module, name), told in EVERYTHING:
        if isinstance(told.node, ast.FunctionDef | ast.AsyncFunctionDef):
            if name.rpartition(".")[2].startswith("test_"):  # its arguments are cases
                continue
            arguments = [each.arg for each in (*told.node.args.args, *told.node.args.kwonlyargs)]
            doc = told.own + ("" if name.endswith("__init__") else told.around)
            if re.match(r"See `|As `", told.own):
                continue
        elif isinstance(told.node, ast.ClassDef):
            continue
        else:
            arguments, doc = [name.rpartition(".")[2]], told.own
        for argument in arguments:
            for pattern, unit in ((SECONDS, "second"), (BYTES, "byte")):
                counted = (argument == "offset" and name.rpartition(".")[2] in PAGED) or name == "ListCommitsResponse.offset"
                said = re.search(f"{unit}|MiB|[Ss]ee `", doc + entry(told.around, argument), re.IGNORECASE)
                if pattern.fullmatch(argument.lower()) and not said and not counted:
                    untold.append(f"{module}.{name}: {argument} in {unit}s")
    assert not untold, "\n".join(untold)


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_parts_of_the_readme_are_where_pages_look_for_them(page: Path) -> None:
    for source, options in re.findall(r"```\{include\} (\S+)\n((?:^:.*\n)*)", page.read_text(), re.MULTILINE):
        text = (page.parent / source).read_text()
        for marker in re.findall(r'^:(?:start-after|end-before): "(.*)"$', options, re.MULTILINE):
            assert text.count(marker.replace("\\n", "\n")) == 1, f"{page.name} is cut from {source} at {marker!r}"


@pytest.mark.full
def test_pages_are_rendered_without_a_warning(tmp_path: Path) -> None:
    """As `make docs` does it, from a copy: what is generated on the way lies beside the pages."""
    if find_spec("furo") is None:
        reason = "Sphinx and its theme are not installed; they are in the extra `docs`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    for name in ("docs", "cookbook"):
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("_build", "generated"))
    for name in ("README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", str(tmp_path / "trees")]
    done = subprocess.run([*command, str(tmp_path / "docs"), str(tmp_path / "html")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Routes calls of any number of threads" in (tmp_path / "html/reference/generated/langchain_vers.BackendContext.html").read_text()
