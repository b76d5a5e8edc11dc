"""The second act's script: a month's books on a machine, a payment during which the process is killed, and another month from the middle.

Pure; playing it is left to `time_travel`, which lets processes of `agent_process` do it. Each command appends to the ledger, so that a
command that took effect twice, or half, shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import ToolMessage

from langchain_vers.demo.scripted import Results, Step, Unexpected, succeeded
from langchain_vers.naming import short_id

REQUEST = "Keep the books of a month on a VM: there are 100 coins; pay the rent and the power, and say what is left."
OTHER_REQUEST = "No: pay the rent only, and buy tea."
STEPS_BACK = 3
HALFWAY = "rent is paid"
"""What the payment prints when it has done half of its work."""
FOLDER = "books"
OPENED = ("balance 100",)
HALF = (*OPENED, "rent -40")
LEDGER = (*HALF, "power -20")
OTHER_LEDGER = (*HALF, "tea -5")
TOTAL = "left 40"
OTHER_TOTAL = "left 55"

_PAY = f'echo "rent -40" >>ledger; echo "{HALFWAY}"; sleep 1; echo "power -20" >>ledger; echo "power is paid"'
_SUM = """awk '{ left += $2 } END { print "left", left }' ledger | tee total"""


def lines_in(text: str) -> tuple[str, ...]:
    """A ledger's lines."""
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _artifact(message: ToolMessage) -> Mapping[str, Any]:
    return message.artifact or {}


def _created(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    return f"VM {short_id(str(_artifact(message).get('machine_id')))} is up; each step that changes it is committed"


def _opened(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    _holds(message.text, OPENED)
    return "the ledger is begun"


def _restored(message: ToolMessage) -> str:
    """The VM that a call ran on, which must have been restored for it."""
    succeeded(message)
    artifact = _artifact(message)
    if not artifact.get("restored_from"):
        raise Unexpected(f"it ran on VM {short_id(str(artifact.get('machine_id')))} as that was, not on one restored from a commit")
    return short_id(str(artifact["machine_id"]))


def _paid(message: ToolMessage, results: Results) -> str:
    vm_id = _restored(message)
    if vm_id == short_id(str(_artifact(results["create"]).get("machine_id"))):
        raise Unexpected("it ran on the machine that the dead process has left half way")
    return f"run again on VM {vm_id}, restored as it was before"


def _once(message: ToolMessage, results: Results) -> str:
    succeeded(message)
    _holds(message.text, LEDGER)
    return "what was run one and a half times took effect exactly once"


def _left(total: str, message: ToolMessage) -> str:
    succeeded(message)
    if message.text.strip() != total:
        raise Unexpected(f"{total} was expected, and it says {message.text.strip()[:100]}")
    return total


def _elsewhere(message: ToolMessage, results: Results) -> str:
    return f"VM {_restored(message)} is the machine as it was then"


def _holds(text: str, lines: Sequence[str]) -> None:
    found = lines_in(text)
    if found != tuple(lines):
        raise Unexpected(f"the ledger should be {', '.join(lines)}, and it is {', '.join(found)[:200]}")


BEGIN = "A conversation and its machine, kept in sqlite"
KILL = "The process is killed in the middle of a command"
RESUME = "A new process goes on"
REWIND = f"Back {STEPS_BACK} steps, and another turn from there"
COMPARE = "Both machines, side by side"
WORK = (
    Step("create", "vers_vm_create", {}, _created, BEGIN, "The books need a machine."),
    Step("open", "bash", {"command": f'mkdir {FOLDER} && cd {FOLDER} && echo "{OPENED[0]}" | tee ledger'}, _opened, BEGIN, "A new ledger."),
    Step("pay", "bash", {"command": _PAY}, _paid, RESUME, "Rent and power are due."),
    Step("look", "read", {"path": "ledger"}, _once, RESUME, "What was paid?"),
    Step("sum", "bash", {"command": _SUM}, lambda message, _: _left(TOTAL, message), RESUME, "What is left?"),
)
AGAIN = (
    Step("pay", "bash", {"command": 'echo "rent -40" >>ledger; echo "tea -5" >>ledger'}, _elsewhere, REWIND, "The rent, and tea."),
    Step("sum", "bash", {"command": _SUM}, lambda message, _: _left(OTHER_TOTAL, message), REWIND, "What is left now?"),
)
SCRIPTS: Mapping[str, tuple[str, Sequence[Step]]] = {"work": (REQUEST, WORK), "again": (OTHER_REQUEST, AGAIN)}
"""By name, what the user says and what the agent then does."""
