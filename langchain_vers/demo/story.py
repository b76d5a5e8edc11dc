"""The demo's script: what the agent does on its machine, and what each result must be. Pure; playing it is left to `play`.

The small project has two forms, in Python and in POSIX sh. Which one is written depends on what the machine has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import ToolMessage

from langchain_vers.demo.scripted import Results, Step, Unexpected, succeeded
from langchain_vers.naming import short_id

REQUEST = "Write a small program with a test on a VM, make the test pass, save the VM, and try something on a branch of it."


@dataclass(frozen=True)
class Project:
    """A program with a defect, its test, and the change that puts it right."""

    path: str
    text: str
    old: str
    new: str
    test_path: str
    test_text: str
    run: str


PYTHON = Project(
    path="roman/roman.py",
    text="""\
NUMERALS = [(10, "X"), (5, "V"), (4, "IV"), (1, "I")]


def roman(number):
    text = ""
    for value, letters in NUMERALS:
        while number >= value:
            text += letters
            number -= value
    return text
""",
    old='(10, "X"), (5, "V")',
    new='(10, "X"), (9, "IX"), (5, "V")',
    test_path="roman/test_roman.py",
    test_text="""\
import unittest

from roman import roman


class TestRoman(unittest.TestCase):
    def test_four(self):
        self.assertEqual(roman(4), "IV")

    def test_nine(self):
        self.assertEqual(roman(9), "IX")

    def test_seventeen(self):
        self.assertEqual(roman(17), "XVII")
""",
    run="python3 -B -m unittest -v",
)
SHELL = Project(
    path="roman/roman.sh",
    text="""\
roman() {
    number=$1 text=
    for numeral in 10:X 5:V 4:IV 1:I; do
        while [ "$number" -ge "${numeral%:*}" ]; do
            text=$text${numeral#*:}
            number=$((number - ${numeral%:*}))
        done
    done
    echo "$text"
}
""",
    old="10:X 5:V",
    new="10:X 9:IX 5:V",
    test_path="roman/test.sh",
    test_text="""\
. ./roman.sh
status=0
for case in 4=IV 9=IX 17=XVII; do
    found=$(roman "${case%=*}")
    if [ "$found" = "${case#*=}" ]; then
        echo "ok   ${case%=*} is $found"
    else
        echo "FAIL ${case%=*} is $found, expected ${case#*=}"
        status=1
    fi
done
[ $status = 0 ] && echo OK
exit $status
""",
    run="sh test.sh",
)
_LOOK = "uname -n; if python3 -c 'import unittest' 2>/dev/null; then echo python; else echo shell; fi"


def project(results: Results) -> Project:
    """The form of the project that suits the machine."""
    return PYTHON if results["look"].text.split()[-1:] == ["python"] else SHELL


def machine(results: Results) -> str:
    """Id of the machine that was made."""
    return _fact(results["create"], "machine_id")


def branch(results: Results) -> str:
    """Id of its branch."""
    return _fact(results["branch"], "machine_id")


def _fact(message: ToolMessage, name: str) -> str:
    value = (message.artifact or {}).get(name)
    if not isinstance(value, str):
        raise Unexpected(f"the result does not tell its {name}: {message.text.strip()[:200]}")
    return value


def _ran_on(message: ToolMessage, vm_id: str | None) -> None:
    found = (message.artifact or {}).get("machine_id")
    if found != vm_id:
        raise Unexpected(f"it ran on {found or 'this machine'} and not on {vm_id or 'this machine'}")


def _created(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    return f"VM {short_id(machine(results))} is up, and commands go there from now on"


def _looked(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    _ran_on(message, machine(results))
    return "this is the VM, and it has Python" if project(results) is PYTHON else "this is the VM; without Python, sh will do"


def _on_machine(phrase: str) -> Callable[[ToolMessage, Results], str]:
    def check(message: ToolMessage, results: Results) -> str:
        succeeded(message)
        _ran_on(message, machine(results))
        return phrase

    return check


def _fails(message: ToolMessage, results: Results) -> str:
    _ran_on(message, machine(results))
    code = (message.artifact or {}).get("exit_code")
    if code != 1 or "FAIL" not in message.text:
        raise Unexpected(f"the test should have failed with exit status 1, and its status is {code}")
    return "the test fails, as it should: nine is not VIV"


def _read(message: ToolMessage, results: Results) -> str:
    _on_machine("")(message, results)
    if project(results).old not in message.text:
        raise Unexpected("the file does not hold what was written to it")
    return "the table has no nine"


def _edited(message: ToolMessage, results: Results) -> str:
    _on_machine("")(message, results)
    if project(results).new not in _fact(message, "diff"):
        raise Unexpected("the edit did not make the change")
    return "one line changed"


def _passes(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    _ran_on(message, machine(results))
    if "OK" not in message.text:
        raise Unexpected("the test did not report OK")
    return "the test passes"


def _committed(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    return f"saved as commit {short_id(_fact(message, 'commit'))}"


def _branched(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    if branch(results) == machine(results):
        raise Unexpected("the branch has the id of its original")
    return f"VM {short_id(branch(results))} began as a copy"


def _on_branch(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    _ran_on(message, branch(results))
    if "OK" not in message.text:
        raise Unexpected("the project on the branch is not the one that was branched: its test does not pass")
    _listing(message.text, has="on-branch", lacks="on-original")
    return "the branch has the work so far, and now a file of its own"


def _on_original(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    _ran_on(message, machine(results))
    _listing(message.text, has="on-original", lacks="on-branch")
    return "the original does not have the branch's file"


def _branch_again(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    _ran_on(message, branch(results))
    _listing(message.text, has="on-branch", lacks="on-original")
    return "nor does the branch have the original's"


def _listing(text: str, *, has: str, lacks: str) -> None:
    names = text.split()
    if has not in names:
        raise Unexpected(f"the file {has} is not there")
    if lacks in names:
        raise Unexpected(f"the file {lacks} is there, but it was made on the other machine")


def _left(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    _ran_on(message, None)
    return "commands run on this machine again; the VMs go on"


def _nothing_here(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    _ran_on(message, None)
    if message.text.splitlines()[-1:] != ["0 files here"]:
        raise Unexpected("something of the work on the VM landed on this machine")
    return "nothing of all that landed here"


def _listed(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    missing = {machine(results), branch(results)} - set((message.artifact or {}).get("vms", ()))
    if missing:
        raise Unexpected(f"the list lacks {', '.join(sorted(missing))}")
    return "both are still there to come back to"


def _write(path: Callable[[Project], str], text: Callable[[Project], str]) -> Callable[[Results], Mapping[str, Any]]:
    return lambda results: {"path": path(project(results)), "content": text(project(results))}


MACHINE, WORK, SAVE, FORK, BACK = (
    "A machine of its own",
    "Write, run, fail, edit, pass",
    "Save the machine",
    "Fork it: two machines, independent of each other",
    "Back to this machine",
)
STEPS = (
    Step("create", "vers_vm_create", {}, _created, MACHINE, "I need a machine to work on."),
    Step("look", "bash", {"command": _LOOK}, _looked, MACHINE, "Where am I, and what is there?"),
    Step(
        "write", "write", _write(lambda it: it.path, lambda it: it.text), _on_machine("the program is written"), WORK, "First the program."
    ),
    Step(
        "test",
        "write",
        _write(lambda it: it.test_path, lambda it: it.test_text),
        _on_machine("the test is written"),
        WORK,
        "Then its test.",
    ),
    Step("fail", "bash", lambda r: {"command": f"cd roman && {project(r).run}"}, _fails, WORK, "Does it work?"),
    Step("read", "read", lambda r: {"path": project(r).path.removeprefix("roman/")}, _read, WORK, "It does not. Let me look."),
    Step(
        "edit",
        "edit",
        lambda r: {"path": project(r).path.removeprefix("roman/"), "old_text": project(r).old, "new_text": project(r).new},
        _edited,
        WORK,
        "Nine has a numeral pair of its own.",
    ),
    Step("pass", "bash", lambda r: {"command": project(r).run}, _passes, WORK, "And now?"),
    Step("commit", "vers_vm_commit", {"name": "roman: tests pass"}, _committed, SAVE, "This is worth keeping."),
    Step("branch", "vers_vm_branch", {}, _branched, FORK, "An experiment belongs on a copy."),
    Step(
        "on-branch",
        "vers_vm_exec",
        lambda r: {"vm_id": branch(r), "command": f"cd roman && {project(r).run} && touch on-branch && ls"},
        _on_branch,
        FORK,
        "Something only on the branch,",
    ),
    Step("on-original", "bash", {"command": "touch on-original && ls"}, _on_original, FORK, "something only on the original,"),
    Step(
        "branch-again",
        "vers_vm_exec",
        lambda r: {"vm_id": branch(r), "command": "cd roman && ls"},
        _branch_again,
        FORK,
        "and the branch once more.",
    ),
    Step("local", "vers_vm_local", {}, _left, BACK, "Back to where I came from."),
    Step("nothing-here", "bash", {"command": 'echo "$(ls -A | wc -l | tr -d " ") files here"'}, _nothing_here, BACK, "What is here?"),
    Step("list", "vers_vms", {}, _listed, BACK, "And the machines?"),
)
