"""The cookbook's notebooks: their code runs as it stands, and prints what the committed outputs say.

The cells are run one after another in a plain Python process. To renew the outputs after a change: `jupyter execute --inplace` on the
notebook.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rigs.programs import require

from langchain_vers.embedded import launcher

COOKBOOK = Path(__file__).parents[1] / "cookbook"
RUNNER = """
import contextlib, io, json, sys
cells, printed, scope = json.load(sys.stdin), [], {"__name__": "__main__"}
for number, cell in enumerate(cells):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(cell, f"cell {number}", "exec"), scope)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""
_ID = re.compile(r"\b(?:[0-9a-f]{8}(?:-[0-9a-f]{1,12})*|[0-9a-f]{12})\b")
"""An id or the beginning of one; how long that is depends on the others."""
_TIME = re.compile(r"\b\d+(?:\.\d+)? (?:ms|s|min)\b")


def notebook(name: str) -> list[dict[str, Any]]:
    return json.loads((COOKBOOK / name).read_text())["cells"]


def code(name: str) -> list[dict[str, Any]]:
    return [cell for cell in notebook(name) if cell["cell_type"] == "code"]


def text(lines: str | list[str]) -> str:
    return lines if isinstance(lines, str) else "".join(lines)


def printed(cell: dict[str, Any]) -> str:
    return "".join(text(output["text"]) for output in cell["outputs"] if output.get("name") == "stdout")


def comparable(output: str) -> str:
    """What does not change from run to run."""
    return _TIME.sub("<time>", _ID.sub("<id>", output))


def run(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    data = folder / "data"
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VERS_") and key != "MODEL"}
    own = {"HOME": str(folder), "TMPDIR": str(folder), "VERS_EMBEDDED_DATA_DIR": str(data), "PYTHONUTF8": "1"}
    sources = json.dumps([text(cell["source"]) for cell in code(name)])
    command = [sys.executable, "-W", "error", "-c", RUNNER]
    try:
        done = subprocess.run(command, input=sources, capture_output=True, text=True, timeout=100, env={**kept, **own, **environment})
    finally:
        launcher.stop(data)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("name", [path.name for path in sorted(COOKBOOK.glob("*.ipynb"))])
def test_it_runs_and_prints_what_it_says(name: str, tmp_path: Path) -> None:
    if name == "backends.ipynb":
        require("bwrap", "bubblewrap")
    done = run(name, tmp_path)
    assert [comparable(output) for output in json.loads(done.stdout)] == [comparable(printed(cell)) for cell in code(name)]


@pytest.mark.full
def test_a_vm_takes_the_place_of_a_sandbox_that_is_not_there(tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep):
        for program in Path(folder).glob("*"):
            if program.name != "bwrap" and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    done = run("backends.ipynb", tmp_path, PATH=str(programs))
    assert "a VM takes its place: bubblewrap is not installed" in done.stderr
    [_, sandbox, *_, last] = [comparable(output) for output in json.loads(done.stdout)]
    assert "vers     Created VM <id> and attached to it\nvers     no keys found\nvers     the key is [secret GARDEN_KEY]\n" in sandbox
    assert last == comparable(printed(code("backends.ipynb")[-1]))


@pytest.mark.parametrize("name", [path.name for path in sorted(COOKBOOK.glob("*.ipynb"))])
def test_it_is_short_and_shows_a_real_run(name: str) -> None:
    cells = notebook(name)
    assert len(cells) <= 10
    assert [cell["execution_count"] for cell in code(name)] == list(range(1, len(code(name)) + 1))
    outputs = json.dumps([cell["outputs"] for cell in code(name)])
    assert '"error"' not in [output["output_type"] for cell in code(name) for output in cell["outputs"]]
    assert not re.search(r"/(home|tmp|work|usr|Users)/", outputs)
