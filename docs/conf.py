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
autosummary_context = {"public": langchain_vers.__all__}
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
    (r"py:.*", r"(_pytest|annotated_types|httpx|langchain|langchain_core|langgraph|pydantic|pytest)\..*"),
    # What only this package's own rooms hand to each other stands in signatures of methods that are for them.
    (r"py:.*", r"langchain_vers\.(backends\.(premises|stamps)|idle|platform\.(catalogue|http|machines)|points|reclaim|turns|versions)\..*"),
    (r"py:.*", r"langchain_vers\.(redaction\.RedactedStream|shell\.words\.Word)"),
    # Type variables, and the functions in `Annotated` types.
    (r"py:.*", r"langchain_vers\.[a-z_.]+\.(T|F|M|_[a-z0-9_]+)|lambda"),
    # Names that Sphinx does not look up where they stand: those of pydantic's signatures, and a class in a tuple of any length.
    (r"py:class", r"CheckpointTuple|Environment|SecretStr|Transport|tuple\[~.*"),
]


COLON = "\ue000"
"""Stands for the first colon of what is said of an attribute, which napoleon would take for the end of the attribute's type."""


def before_napoleon(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Put the colon out of sight."""
    if what in {"attribute", "data", "property"} and lines:
        lines[0] = lines[0].replace(":", COLON)


def written_as_code(app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]) -> None:
    """Make literals of what stands in single backticks and cannot be a name: reStructuredText would take `~/.ssh` or `a <b>` apart."""

    def literal(found: re.Match[str]) -> str:
        return found[0] if re.fullmatch(r"[A-Za-z_][\w.]*", found[1]) else f"`{found[0]}`"

    lines[:] = [re.sub(r"(?<![`\w:])`([^`]+)`(?!`)", literal, line.replace(COLON, ":")) for line in lines]


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
    app.connect("autodoc-process-docstring", before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", written_as_code, priority=600)
    app.connect("missing-reference", resolved)
