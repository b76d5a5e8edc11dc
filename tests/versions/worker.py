"""A process that works on threads and is killed while it does, and the one that makes such processes.

A job is a list of steps; what they find goes line by line into a file, so that what was found before the end is kept. `Crew` starts
`python -m versions.worker`, which has everything imported and forks a child for each job: each job is carried out by a new process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage
from langgraph.types import Command
from rigs.savers import Database

from langchain_vers import BackendContext, VersSaver, gc
from langchain_vers._io import on_io
from langchain_vers.platform import VersClient
from versions import mortality, scripts
from versions.machine_claims import Claim, Face, acheck_thread, claim_of, commits_of, content_of, messages_of

DEADLINE = 120.0


# --- the process that works ---


class Worker:
    """Carries out the steps of a job: each is a list of the method's name and its arguments."""

    def __init__(self, job: dict[str, Any], face: Face, client: VersClient, life: mortality.Life, out: Path) -> None:
        self.job, self.face, self.client, self.life, self._out = job, face, client, life, out

    def tell(self, **facts: Any) -> None:
        with self._out.open("a") as file:
            file.write(json.dumps(facts) + "\n")

    async def turn(self, thread: str, said: str) -> None:
        """What a user says."""
        await self._invoke({"messages": [("user", said)]}, thread)

    async def _invoke(self, given: Any, thread: str, checkpoint: str | None = None) -> None:
        place = {"thread_id": thread} if checkpoint is None else {"thread_id": thread, "checkpoint_id": checkpoint}
        config = {"configurable": place, "recursion_limit": 100}
        await self.face(self.face.graph, "invoke", given, config, durability=self.job["durability"])

    async def go_on(self, thread: str, said: str, how: str = "turn") -> None:
        """Bring what was broken off to its end: say it again if that was lost (by a `turn` or a `fork`), answer what is asked, go on."""
        config = _config(thread)
        head = await self.face(self.face.saver, "get_tuple", config)
        if head is None or said not in str(head.checkpoint["channel_values"]):  # it may be stored, and not taken in yet
            await getattr(self, how)(thread, said)
        state = await self.face(self.face.graph, "get_state", config)
        for _ in range(5):  # once at least: a state whose tasks have all been done, and not been put together, has no next ones
            waits = any(task.interrupts for task in state.tasks)
            await self._invoke(Command(resume="yes") if waits else None, thread)
            state = await self.face(self.face.graph, "get_state", config)
            if not state.next:
                return

    async def fork(self, thread: str, said: str) -> None:
        """Say it at the checkpoint that the thread's first turn ended with."""
        ended = [state for state in await self.face.history(_config(thread)) if not state.next]
        await self._invoke({"messages": [("user", said)]}, thread, ended[-1].config["configurable"]["checkpoint_id"])

    async def arm(self, point: str, nth: int) -> None:
        self.life.arm(point, nth)

    async def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def lose(self, *others: str) -> None:
        """Delete all VMs but those of other threads, behind the back of whoever is on them."""
        kept = {(await self._head(thread))["machine"] for thread in others}
        for vm in await on_io(self.client.list_vms()):
            if vm.vm_id not in kept:
                await on_io(self.client.delete_vm(vm.vm_id))

    async def report(self, thread: str) -> None:
        """Tell what a thread is, and whether all of its checkpoints are as they should be."""
        report = await acheck_thread(self.face, _config(thread), client=self.client)
        head = await self._head(thread)
        content = "" if head["machine"] is None else str(await content_of(self.client, head["machine"]))
        ids = sorted(one.config["configurable"]["checkpoint_id"] for one in await self.face.tuples(_config(thread)))
        counts = {"checked": report.checked, "consistent": report.consistent, "live": report.live}
        self.tell(thread=thread, wrong=report.wrong, content=content, checkpoints=ids, **head, **counts)

    async def collect(self, *threads: str) -> None:
        """Collect garbage; tell what is left that no checkpoint needs, and what is lost that one does."""
        found = await on_io(gc.find_orphans(self.client, self.face.saver, grace=0))
        failures = await on_io(gc.delete_orphans(self.client, found.orphans))
        tuples = [one for thread in threads for one in await self.face.tuples(_config(thread))]
        needed = {one.metadata[key] for one in tuples for key in ("vers_machine", "vers_commit") if key in one.metadata}
        heads = {(await self._head(thread))["machine"] for thread in threads}
        vms = {vm.vm_id for vm in await on_io(self.client.list_vms())}
        commits = await commits_of(self.client)
        labels = {vm.vm_id: vm.labels or {} for vm in await on_io(self.client.list_vms())}
        # Others use the server too: what counts is what was made for this database.
        identity = await asyncio.to_thread(self.face.saver.identity)
        ours = await commits_of(self.client, f"langchain-vers/{identity}/")
        named = {vm_id for vm_id in vms - needed if labels[vm_id].get("langchain-vers-database") == identity}
        left = [*sorted(named), *sorted(ours - needed)]
        nameless = sorted(vm_id for vm_id in vms - needed if not labels[vm_id])
        lost = sorted((needed - vms - commits) & heads) + sorted({one.metadata.get("vers_commit") for one in tuples} - commits - {None})
        self.tell(orphans=len(found.orphans), failures=[str(one.error) for one in failures], left=left, nameless=nameless, lost=lost)

    async def _head(self, thread: str) -> dict[str, Any]:
        head = await self.face(self.face.saver, "get_tuple", _config(thread))
        if head is None:
            return {"machine": None, "claim": str(Claim()), "messages": []}
        messages = messages_of(head)
        told = [f"{message.type}: {message.content}" for message in messages]
        return {"machine": head.metadata.get("vers_machine"), "claim": str(claim_of(messages)), "messages": told}


def _config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


def expected(*said: str) -> str:
    """What a thread claims after these have been said and carried out: for each message as if nothing had happened in between."""
    model = scripts.PlannedModel(next_token=scripts.fixed)
    messages: list[BaseMessage] = []
    for one in said:
        messages.append(HumanMessage(one))
        while (answer := model._answer(messages)).tool_calls:
            messages.append(answer)
            for call in answer.tool_calls:
                content = str(call["args"].get("command", "")).replace("echo did", "did")
                messages.append(ToolMessage(content, tool_call_id=call["id"]))
        messages.append(answer)
    return str(claim_of(messages))


async def _work(job: dict[str, Any], out: Path) -> None:
    life = mortality.Life(lambda point: os.kill(os.getpid(), signal.SIGKILL), thread=job["thread"])
    database = Database(job["saver"], job["url"])
    asynchronous = job["saver"].startswith(("aio", "async"))
    context = BackendContext(data_dir=Path(job["data_dir"]), local=False)
    client = await on_io(context.client())
    mortality.belongs(client, life)
    with mortality.watched():
        if asynchronous:
            async with database.aopen() as inner:
                await _carry_out(job, inner, context, client, life, out)
        else:
            with database.open() as inner:
                await _carry_out(job, inner, context, client, life, out)
    await context.aclose()


async def _carry_out(job: dict[str, Any], inner: Any, context: BackendContext, client: VersClient, life: mortality.Life, out: Path) -> None:
    saver = VersSaver(mortality.mortal(inner, life), context)
    model = scripts.PlannedModel(next_token=scripts.fixed, thinking=lambda: life.reach("model"))
    graph = scripts.build(job["graph"], model, scripts.toolbox(context), saver)
    worker = Worker(job, Face(graph, saver, job["saver"].startswith(("aio", "async"))), client, life, out)
    for name, *arguments in job["steps"]:
        await getattr(worker, name)(*arguments)
    worker.tell(ended=True, reached=dict(life.reached))


def _child(job: dict[str, Any]) -> None:
    status = 1
    try:
        with Path(job["err"]).open("a") as err:
            os.dup2(err.fileno(), 2)
        asyncio.run(_work(job, Path(job["out"])))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _serve() -> None:
    """Read jobs, one a line, and answer with the status of the child that carried it out."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(json.loads(line))
        _, status = os.waitpid(pid, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


# --- who has it done ---


class Crew:
    """Makes a new process for each job."""

    def __init__(self) -> None:
        tests = Path(__file__).parent.parent
        self._process = subprocess.Popen(
            [sys.executable, "-m", "versions.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tests,
            env={**{name: value for name, value in os.environ.items() if not name.startswith("VERS_")}, "PYTHONPATH": str(tests)},
        )

    def __call__(self, job: dict[str, Any]) -> tuple[int, list[dict[str, Any]], str]:
        """Carry out a job; its exit code (-9 if it was killed), what it told, and its standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out, err = Path(job["out"]), Path(job["err"])
        for file in (out, err):
            file.write_text("")
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())
        return code, [json.loads(line) for line in out.read_text().splitlines()], err.read_text()

    def close(self) -> None:
        self._process.communicate(timeout=60)


if __name__ == "__main__":
    _serve()
