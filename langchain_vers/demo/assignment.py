"""The task for a model that is not scripted, and the proof that it was done: by looking at the machines, not by believing the model."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from langchain_vers._io import on_io
from langchain_vers.demo.ground import Ground
from langchain_vers.errors import VersError
from langchain_vers.naming import short_id

TASK = """\
Work on a VM of your own; use the tools.

1. Create a VM and work on it.
2. Write /root/roman/roman.sh, a POSIX sh script: `sh /root/roman/roman.sh N` prints the Roman numeral of N, for 1 to 3999.
3. Write /root/roman/test.sh, a POSIX sh script that tests it with at least five numbers, among them 4, 9 and 1994; its exit status is 0
   only if all are right. Run it, and mend what fails, until it passes.
4. Commit the VM.
5. Branch the VM once. Do not delete either of the two.
6. Only on the branch, write the word branch to the file /root/where. Only on the original, write the word original to that same path.
7. Say in one sentence what you did.
"""
_NUMERALS = {4: "IV", 9: "IX", 14: "XIV", 1994: "MCMXCIV", 3999: "MMMCMXCIX"}
_SECONDS = 30.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    seen: str


async def findings(ground: Ground) -> list[Finding]:
    """What has become of the task, as the machines show it. A machine that does not answer is a finding, not an error."""
    try:
        machines = await ground.machines()
    except VersError as error:
        return [Finding("The machines can be listed", False, str(error))]
    branches = [vm_id for vm_id, parent in machines.items() if parent in machines]
    originals = [vm_id for vm_id in machines if vm_id not in branches]
    two = len(originals) == 1 and len(branches) == 1
    found = [Finding("There is one VM and one branch of it", two, f"{len(originals)} VM(s) and {len(branches)} branch(es)")]
    numbers = " ".join(map(str, _NUMERALS))
    program = f"for n in {numbers}; do sh /root/roman/roman.sh $n; done"
    for role, vm_ids in (("original", originals), ("branch", branches)):
        for vm_id in vm_ids[:3]:
            name = f"{role} {short_id(vm_id)}"
            found.append(await _look(ground, vm_id, f"The program on the {name} is right", program, list(_NUMERALS.values())))
            found.append(
                await _look(
                    ground, vm_id, f"Its own test passes on the {name}", "sh /root/roman/test.sh >/dev/null 2>&1 && echo ok", ["ok"]
                )
            )
            found.append(await _look(ground, vm_id, f"/root/where on the {name} says {role}", "cat /root/where", [role]))
    found.append(Finding("The VM was committed", bool(ground.commits), f"{len(ground.commits)} commit(s)"))
    return found


async def _look(ground: Ground, vm_id: str, what: str, command: str, expected: list[str]) -> Finding:
    async def run() -> list[str]:
        backend = await ground.context.machine(vm_id)
        result = await backend.exec(f"sh -c {shlex.quote(command)}", timeout=_SECONDS)
        return result.tail.decode(errors="replace").split()

    try:
        words = await on_io(run())
    except VersError as error:
        return Finding(what, False, str(error))
    return Finding(what, words == expected, " ".join(words)[:200] or "nothing")
