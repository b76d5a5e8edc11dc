"""What an evaluation on branches costs beyond the work of its agents: those on the same number of machines that are there already."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import statistics
import time
from typing import Any

from langchain_core.runnables import RunnableConfig

from benchmarks.rig import Rig, Row
from langchain_vers.branches import Branches
from langchain_vers.integrations.langsmith import evaluate_on_branches
from langchain_vers.machine import Machine

EXAMPLES = 50
CONCURRENCY = 10
RUNS = 5
SECONDS = 0.5
"""How long an agent thinks."""
LIMIT = 150.0


def measure(rig: Rig) -> list[Row]:
    context, bash = rig.context, rig.tools["bash"]
    commit = Machine(context, rig.vm_id).save()
    before = {vm.vm_id for vm in _vms(rig)}

    async def agent(inputs: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        answer = await bash.ainvoke({"command": f"echo {inputs['n']} >answer; cat answer"}, config)
        await asyncio.sleep(SECONDS)
        return {"answer": answer}

    async def right(machine: Machine, inputs: dict[str, Any]) -> bool:
        return await machine.aread_text("answer") == f"{inputs['n']}\n"

    async def alone() -> float:
        """The agents' own work, in seconds."""
        async with Branches(context, commit) as branches:
            machines = await branches.make(EXAMPLES)
            turn = asyncio.Semaphore(CONCURRENCY)

            async def one(number: int, machine: Machine) -> None:
                config: RunnableConfig = {"configurable": {"thread_id": f"alone {machine.vm_id}"}}
                async with turn:
                    await context.aattach(machine.vm_id, config)
                    await agent({"n": number}, config)

            began = time.monotonic()
            await asyncio.gather(*(one(number, machine) for number, machine in enumerate(machines)))
            return time.monotonic() - began

    def evaluated() -> tuple[float, float]:
        """Seconds of all of it, and of an example in the mean beyond its agent's own work."""
        data = [{"inputs": {"n": number}} for number in range(EXAMPLES)]
        options: dict[str, Any] = {"concurrency": CONCURRENCY, "upload_results": False, "progress": False}
        began = time.monotonic()
        with contextlib.redirect_stdout(io.StringIO()):
            results = evaluate_on_branches(agent, data, right, context=context, base=commit, **options)
        took = time.monotonic() - began
        assert results.pass_rate() == 1.0
        assert {vm.vm_id for vm in _vms(rig)} == before
        return took, statistics.mean(row.waited + row.judged for row in results)

    asyncio.run(alone())
    evaluated()
    own, whole, beyond = [], [], []
    for _ in range(RUNS):
        own.append(asyncio.run(alone()))
        took, more = evaluated()
        whole.append(took)
        beyond.append(more * 1000)
    typical = statistics.median(beyond)
    longer = statistics.median(all_of_it - agents for all_of_it, agents in zip(whole, own, strict=True))
    said = f"{typical:.0f} ms ({min(beyond):.0f} to {max(beyond):.0f}) for its machine and its evaluator; all {EXAMPLES} in "
    said += f"{statistics.median(whole):.2f} s, {longer:.2f} s ({longer / EXAMPLES * 1000:.0f} ms each) longer than the agents alone on "
    said += f"{EXAMPLES} machines that were there, at load {os.getloadavg()[0]:.1f}; no machine left"
    what = f"`evaluate_on_branches`, {EXAMPLES} examples, concurrency {CONCURRENCY}: an example beyond the agent's own work"
    return [Row(what, f"at most {LIMIT:.0f} ms", said, typical <= LIMIT)]


def _vms(rig: Rig) -> list[Any]:
    from langchain_vers._io import io as bridge

    return bridge.run(rig.client.list_vms())
