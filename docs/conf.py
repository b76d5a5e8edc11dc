"""How `make docs` renders the pages of this folder and the docstrings. It needs no network, and every warning is an error."""

import re
import subprocess
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.inspect import signature as get_signature
from sphinx.util.inspect import stringify_signature

import langchain_vers

HERE = Path(__file__).parent

project = "langchain-vers"
author = "the authors of langchain-vers"
copyright = author
version = release = version_of(project)

# myst_nb brings myst_parser with it, and renders the notebooks with the outputs that they were committed with.
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
include_patterns = ["*.md", "reference/**", "cookbook/*.ipynb"]
exclude_patterns = ["_build/**"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"langchain-vers {version}"
html_copy_source = False

nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "fieldlist"]
myst_heading_anchors = 3
suppress_warnings = [
    "misc.highlighting_failure",  # notebooks have IPython's own commands in them
]

autosummary_generate = True
# The public names have pages of their own; on the pages of the modules that they are from there is a link.
PUBLIC = {name: getattr(langchain_vers, name) for name in langchain_vers.__all__}
HOMES = {each.__module__ for each in PUBLIC.values()}
autosummary_context = {"elsewhere": {home: [name for name, each in PUBLIC.items() if each.__module__ == home] for home in HOMES}}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autoclass_content = "class"
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# `name` in a docstring is code, and a link where it names something that has an entry here.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    # Types of Python and of other packages: their documentation is elsewhere, and is not fetched.
    (r"py:.*", rf"({'|'.join(sys.stdlib_module_names)})\..*"),
    (r"py:.*", r"(_pytest|annotated_types|deepagents|httpx|langchain|langchain_core|langgraph)\..*"),
    (r"py:.*", r"(langsmith|matplotlib|pydantic|pytest|rich)\..*"),
    # What only this package's own rooms hand to each other stands in signatures of methods that are for them.
    (r"py:.*", r"langchain_vers\.(backends\.(premises|stamps)|platform\.(catalogue|http|machines))\..*"),
    (r"py:.*", r"langchain_vers\.(idle|points|reclaim|threads|turns|versions)\..*"),
    (r"py:.*", r"langchain_vers\.(bang_commands\.Message|redaction\.RedactedStream|shell\.words\.Word)"),
    # Type variables, and the functions in `Annotated` types.
    (r"py:.*", r"langchain_vers\.[a-z_.]+\.(T|F|M|_[a-z0-9_]+)|lambda"),
    # Names that Sphinx does not look up where they stand: those of pydantic's signatures, and a class in a tuple of any length.
    (r"py:class", r"CheckpointTuple|Environment|Runnable|RunnableConfig|SecretStr|Transport|tuple\[~.*"),
    (r"py:class", r"AsyncExperimentResults|Figure|Table"),
]


COLON = "\ue000"
"""Stands for the first colon of what is said of an attribute, which napoleon would take for the end of the attribute's type."""


def has_own_page(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: Any) -> bool | None:
    """Leave a public name out of its module's page."""
    return True if what == "module" and PUBLIC.get(name.rpartition(".")[2]) is obj else None


def before_napoleon(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Put the colon out of sight; and what stands indented in the docstring of a module is code."""
    if what == "module":
        for number in range(len(lines) - 1, 1, -1):
            if lines[number].startswith("    ") and not lines[number - 1] and not lines[number - 2].startswith(" "):
                lines[number - 1 : number] = ["", "::", ""]
    if what in {"attribute", "data", "property"} and lines:
        lines[0] = lines[0].replace(":", COLON)


def written_as_code(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Make literals of what stands in single backticks and names nothing: reStructuredText would take `~/.ssh` or `a <b>` apart."""

    def marked(found: re.Match[str]) -> str:
        word, behind = found.groups()
        return (f"`{word}`" if may_be_linked(word, name, obj) else f"``{word}``") + ("\\ " if behind else "")

    lines[:] = [re.sub(r"(?<![`\w:])`([^`]+)`(?!`)(?=(\w?))", marked, line.replace(COLON, ":")) for line in lines]


def may_be_linked(word: str, name: str, obj: object) -> bool:
    """Whether what stands in backticks names something: a class, or with a small letter a function that is near. Else it is an argument."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", word):
        return False
    around = [obj, sys.modules.get(getattr(obj, "__module__", None) or "")]
    home, _, owner = name.rpartition(".")[0].rpartition(".")
    around.append(getattr(sys.modules.get(home), owner, None))
    return "." in word or word[0].isupper() or any(callable(getattr(place, word, None)) for place in around)


def with_arguments(app: Sphinx, what: str, name: str, obj: object, options: Any, signature: str | None, gives: str | None) -> Any:
    """The arguments of a class that also makes its instances in `__new__` are those of `__init__`."""
    if what == "class" and {"__new__", "__init__"} <= vars(obj).keys():
        return stringify_signature(get_signature(vars(obj)["__init__"], bound_method=True), show_return_annotation=False), gives
    return signature, gives


def resolved(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement) -> nodes.Node | None:
    """A link for a name that is written without its module, if one thing only is called so; what is code and no name stays code."""
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    target = str(node["reftarget"])
    found = {
        (entry.docname, entry.node_id)
        for name, entry in domain.objects.items()
        if (name == target or name.endswith(f".{target}")) and entry.objtype in {"class", "exception", "function", "data", "module", "type"}
    }
    if len(found) == 1:
        docname, node_id = found.pop()
        reference = nodes.reference("", "", internal=True)
        reference["refuri"] = f"{app.builder.get_relative_uri(node['refdoc'], docname)}#{node_id}"
        reference += shown
        return reference
    return shown if node["reftype"] == "obj" else None


def write_command_line(app: Sphinx, config: object) -> None:
    """The page of the command line, by typer's own generator."""
    page = HERE / "reference/generated/cli.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "typer", "langchain_vers.cli", "utils", "docs", "--name", project, "--title", "Command line"]
    page.write_text(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("config-inited", write_command_line)
    app.connect("autodoc-skip-member", has_own_page)
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", written_as_code, priority=600)
    app.connect("autodoc-process-signature", with_arguments)
    app.connect("missing-reference", resolved)
