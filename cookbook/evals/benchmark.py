"""A small benchmark in the manner of SWE-bench: ten repositories, each with an issue and tests that fail because of it.

The golden machine has all of them in `~/tasks`. An agent is told where its repository is and what the issue says; whether it has solved
it is found out on the machine, by the tests.
"""

import difflib
from pathlib import Path

REPOS = Path(__file__).parent / "repos"
TASKS = sorted(folder.name for folder in REPOS.iterdir() if folder.is_dir())
INSTRUCTION = (
    "The Python code in ~/tasks/{task} has an issue. Fix it there, without changing the tests; `python3 -m unittest` runs them.\n\n{issue}"
)


def files(task):
    """The files of a repository, by name."""
    return {path.name: path.read_text() for path in sorted((REPOS / task).iterdir()) if path.is_file()}


def recipe():
    """All that the golden machine is made of, as one text."""
    return "".join(f"{task}/{name}\n{content}\n" for task in TASKS for name, content in files(task).items())


def prepare(machine):
    """Put the repositories on a machine."""
    machine.run("python3 -m unittest --help", check=True)
    for task in TASKS:
        for name, content in files(task).items():
            machine.write(f"tasks/{task}/{name}", content)


def examples():
    """The tasks as LangSmith takes them; the agent sees the inputs only."""
    return [
        {
            "inputs": {"messages": [{"role": "user", "content": INSTRUCTION.format(task=task, issue=files(task)["ISSUE.md"])}]},
            "outputs": {"task": task},
            "metadata": {"name": task},
        }
        for task in TASKS
    ]


# --- the evaluators: they get the machine that the agent has worked on ---


def tests_pass(machine, reference_outputs):
    """Whether the tests of the repository pass now."""
    return machine.run("python3 -m unittest -q", cwd=f"tasks/{reference_outputs['task']}", timeout=60).ok


def tests_untouched(machine, reference_outputs):
    """Whether they are the tests that were there before."""
    task = reference_outputs["task"]
    return machine.read_text(f"tasks/{task}/test_{task}.py") == files(task)[f"test_{task}.py"]


def lines_changed(machine, reference_outputs):
    """How many lines of code were added or taken away."""
    task = reference_outputs["task"]
    before, after = files(task)[f"{task}.py"], machine.read_text(f"tasks/{task}/{task}.py")
    changes = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))[2:]
    return sum(not line.startswith("@@") for line in changes)
