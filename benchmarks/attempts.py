"""How soon attempts work: from the call of `explore` until each of twenty has run its first command on a branch of its own."""

from __future__ import annotations

import statistics
import time
from typing import Any

from langchain_core.runnables import RunnableConfig

from benchmarks.rig import Rig, Row
from langchain_vers.exploration import explore
from langchain_vers.machine import Machine

N = 20
RUNS = 5
LIMIT = 2.0


def measure(rig: Rig) -> list[Row]:
    context = rig.context
    bash = rig.tools["bash"]
    config: RunnableConfig = {"configurable": {"thread_id": "attempts"}}
    working: list[float] = []
    whole: list[float] = []
    for _ in range(RUNS):
        context.attach(rig.vm_id, config)
        began = time.monotonic()
        first: list[float] = []

        async def attempt(given: Any, config: RunnableConfig, began: float = began, first: list[float] = first) -> None:
            await bash.ainvoke({"command": "true"}, config)
            first.append(time.monotonic() - began)

        found = explore(attempt, None, N, lambda trial: trial.number, context=context, config=config, progress=False)
        whole.append(time.monotonic() - began)
        assert len(first) == N and found.winner is not None and found.winner.machine is not None
        working.append(max(first))
        Machine(context, found.winner.machine.vm_id).delete()
    typical = statistics.median(working)
    said = f"{typical:.2f} s ({min(working):.2f} to {max(working):.2f}) until the last of {N} has run its first command"
    said += f"; {statistics.median(whole):.2f} s in all, the deletion of {N - 1} included"
    return [Row(f"`explore` with n = {N}: all branches working", f"within {LIMIT:.0f} s of the call", said, typical <= LIMIT)]
