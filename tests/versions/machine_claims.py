"""The oracle: what a conversation claims to have done to its machine, what a machine really holds, and whether they are the same.

Every call of the scripted agent leaves a token that no other call leaves: a line of `~/log` (`bash`), a line of `~/notes` (`edit`), or a
file in `~/files` (`write`). A result claims its token only if it says itself that the work was done; a checkpoint claims what the results
in its messages claim. Nothing here asks `VersSaver` what it believes, other than which version is a checkpoint's.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents import Request
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langgraph.checkpoint.base import CheckpointTuple

from langchain_vers._io import on_io
from langchain_vers.errors import Gone, VersError
from langchain_vers.platform import VersClient

LOG, NOTES, FILES = "~/log", "~/notes", "~/files"
_LOOK = f"cat {LOG}; echo =; cat {NOTES}; echo =; ls {FILES}"
_SAID = re.compile(r"\bdid (\w+)")
_END = "(end)"
RESTORES_AT_ONCE = 4


# --- what the agent does ---


def create() -> tuple[Request, Request]:
    """The calls of the message that a thread begins with: a new machine, made ready."""
    return ("vers_vm_create", {}), ("bash", {"command": f"mkdir -p {FILES} && echo '{_END}' > {NOTES} && cd /usr"})


def append(token: str) -> Request:
    return "bash", {"command": f"echo {token} >> {LOG} && echo did {token}"}


def fail(token: str) -> Request:
    """A command that does its work and ends with an error."""
    return "bash", {"command": f"echo {token} >> {LOG}; echo did {token}; exit 3"}


def move(token: str) -> Request:
    """A command that leaves its thread in another directory."""
    return "bash", {"command": f"mkdir -p /srv/{token} && cd /srv/{token} && echo {token} >> {LOG} && echo did {token}"}


def write(token: str) -> Request:
    return "write", {"path": f"{FILES}/{token}", "content": token}


def edit(token: str) -> Request:
    return "edit", {"path": NOTES, "old_text": _END, "new_text": f"{token}\n{_END}"}


# --- what it claims ---


@dataclass
class Claim:
    """What a conversation claims of its machine. Calls of one message run side by side, in no order."""

    machine: bool = False
    """Whether it has one at all."""
    log: list[set[str]] = field(default_factory=list)
    notes: list[set[str]] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    undone: list[str] = field(default_factory=list)
    """Answers to calls that ought to have worked, and did not."""

    def __str__(self) -> str:
        def words(groups: Sequence[set[str]]) -> str:
            return " ".join("/".join(sorted(group)) for group in groups)

        return f"log [{words(self.log)}] notes [{words(self.notes)}] files [{' '.join(sorted(self.files))}]"

    def take(self, calls: Sequence[Any], answers: dict[str, ToolMessage]) -> None:
        """Add the calls of one message."""
        log, notes = set[str](), set[str]()
        undone: list[str] = []
        for call in calls:
            answer = answers.get(call["id"])
            if answer is None:
                continue
            if call["name"] == "vers_vm_create" and answer.status == "success":
                self.log, self.notes, self.files, self.machine = [], [], set(), True
                log, notes = set(), set()
                continue
            said = _SAID.search(str(answer.content))
            done = answer.status == "success"
            if call["name"] == "bash":
                if said:
                    log.add(said[1])
                elif _SAID.search(call["args"]["command"]) or not done:
                    undone.append(f"{call['args']['command']}: {answer.content}")
            elif call["name"] == "write" and done:
                self.files.add(call["args"]["content"])
            elif call["name"] == "edit" and done:
                notes.add(call["args"]["new_text"].split("\n")[0])
            elif call["name"] == "write" or (call["name"] == "edit" and "changed" not in str(answer.content)):
                undone.append(f"{call['name']}: {answer.content}")  # two edits of one file may collide, and then say so
        if not any(call["name"] == "vers_vm_create" for call in calls):  # those beside it find a machine that is not ready yet
            self.undone += undone
        self.log += [log] if log else []
        self.notes += [notes] if notes else []


def claim_of(messages: Sequence[BaseMessage]) -> Claim:
    """What these messages claim."""
    claim = Claim()
    answers = {message.tool_call_id: message for message in messages if isinstance(message, ToolMessage)}
    for message in messages:
        if isinstance(message, AIMessage) and message.tool_calls:
            claim.take(message.tool_calls, answers)
    return claim


# --- what a machine holds ---


@dataclass(frozen=True)
class Content:
    """What a machine holds, in order."""

    log: tuple[str, ...]
    notes: tuple[str, ...]
    files: frozenset[str]

    def __str__(self) -> str:
        return f"log [{' '.join(self.log)}] notes [{' '.join(self.notes)}] files [{' '.join(sorted(self.files))}]"

    def equals(self, claim: Claim) -> bool:
        return _in_order(self.log, claim.log) and _in_order(self.notes, claim.notes) and self.files == claim.files


def _in_order(lines: tuple[str, ...], groups: Sequence[set[str]]) -> bool:
    """Whether the lines are those of the groups, group after group, each exactly once."""
    rest = iter(lines)
    for group in groups:
        taken = [next(rest, "") for _ in group]
        if sorted(taken) != sorted(group):
            return False
    return next(rest, None) is None


async def content_of(client: VersClient, vm_id: str) -> Content:
    """What a VM holds. Asks the platform itself, not by way of any thread."""
    answer = await on_io(client.exec(vm_id, ["sh", "-c", f"{{ {_LOOK}; }} 2>/dev/null"]))
    log, notes, files = (part.split() for part in answer.stdout.split("=\n"))
    return Content(tuple(log), tuple(word for word in notes if word != _END), frozenset(files))


async def content_of_commit(client: VersClient, commit: str) -> Content:
    """What a commit holds."""
    vm_id = await on_io(client.restore_vm(commit_id=commit))
    try:
        return await content_of(client, vm_id)
    finally:
        await on_io(client.delete_vm(vm_id))


async def commits_of(client: VersClient, name: str = "") -> set[str]:
    """All commits of the account whose names begin so."""
    found: dict[str, str] = {}
    while True:
        page = await on_io(client.list_commits(limit=100, offset=len(found)))
        found |= {commit.commit_id: commit.name or "" for commit in page.commits}
        if not page.commits or len(found) >= page.total:
            return {commit for commit, given in found.items() if given.startswith(name)}


async def sweep(client: VersClient, keep: set[str]) -> None:
    """Delete all VMs and commits but these."""
    for vm in await on_io(client.list_vms()):
        if vm.vm_id not in keep:
            await on_io(client.delete_vm(vm.vm_id))
    left = await commits_of(client) - keep
    while left:  # one that others are made from goes after them
        before = len(left)
        for commit in sorted(left):
            with contextlib.suppress(VersError):
                await on_io(client.delete_commit(commit))
                left.discard(commit)
        assert len(left) < before, f"the commits {left} cannot be deleted"


async def everything(client: VersClient) -> set[str]:
    """All VMs and commits of the account."""
    return {vm.vm_id for vm in await on_io(client.list_vms())} | await commits_of(client)


# --- comparing ---


@dataclass
class Report:
    """What was looked at, and what was wrong."""

    checked: int = 0
    """Checkpoints that have a machine, each compared with its commit."""
    consistent: int = 0
    without: int = 0
    """Checkpoints of threads with a machine that say why they have no commit of their own."""
    live: int = 0
    """Machines that a head stands on, compared as they run."""
    wrong: list[str] = field(default_factory=list)

    def __iadd__(self, other: Report) -> Report:
        self.checked += other.checked
        self.consistent += other.consistent
        self.without += other.without
        self.live += other.live
        self.wrong += other.wrong
        return self


class Face:
    """The sync or the async methods of a graph and its saver, behind one set of coroutines."""

    def __init__(self, graph: Any, saver: Any, asynchronous: bool) -> None:
        self.graph, self.saver, self.asynchronous = graph, saver, asynchronous

    async def __call__(self, owner: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        """`owner.name(...)`, or `await owner.aname(...)`."""
        if self.asynchronous:
            return await getattr(owner, f"a{name}")(*args, **kwargs)
        return getattr(owner, name)(*args, **kwargs)

    async def tuples(self, config: Any, *, namespace: str | None = None, limit: int | None = None) -> list[CheckpointTuple]:
        """The checkpoints of a thread, all of them, those of nested graphs too; or the newest of one namespace."""
        thread = {"configurable": {"thread_id": config["configurable"]["thread_id"]}}
        if namespace is not None:
            thread["configurable"]["checkpoint_ns"] = namespace
        if self.asynchronous:
            return [found async for found in self.saver.alist(thread, limit=limit)]
        return list(self.saver.list(thread, limit=limit))

    async def history(self, config: Any) -> list[Any]:
        if self.asynchronous:
            return [state async for state in self.graph.aget_state_history(config)]
        return list(self.graph.get_state_history(config))


def name_of(found: CheckpointTuple) -> str:
    """A checkpoint in an error message."""
    place = found.config["configurable"]
    shown = {"source", "step", "vers_machine", "vers_commit", "vers_version", "vers_tools", "vers_restored_from", "vers_nearest"}
    facts = {key.removeprefix("vers_"): value for key, value in found.metadata.items() if key in shown}
    return f"{place['thread_id']}/{place['checkpoint_ns']}/{place['checkpoint_id']} {facts}"


def messages_of(found: CheckpointTuple) -> list[BaseMessage]:
    """The messages of a checkpoint. A graph's first one has not taken in yet what it was given, as it is when it runs within another."""
    values = found.checkpoint["channel_values"]
    messages = values["messages"] if "messages" in values else (values.get("__start__") or {}).get("messages", [])
    return [message for message in messages if isinstance(message, BaseMessage)]


class Contents:
    """The content of commits, each restored once."""

    def __init__(self, client: VersClient) -> None:
        self.client = client
        self._found: dict[str, asyncio.Task[Content]] = {}
        self._gate = asyncio.Semaphore(RESTORES_AT_ONCE)

    async def __call__(self, commit: str) -> Content:
        if commit not in self._found:
            self._found[commit] = asyncio.ensure_future(self._restore(commit))
        return await self._found[commit]

    async def _restore(self, commit: str) -> Content:
        async with self._gate:
            return await content_of_commit(self.client, commit)


async def acheck_thread(face: Face, config: Any, *, client: VersClient, lenient: bool = False, live: bool = True) -> Report:
    """Compare every checkpoint of a thread with its machine, and the machine on which the head stands with the head.

    Args:
        face: the graph and its saver.
        config: names the thread.
        client: the platform.
        lenient: checkpoints may have no commit of their own, if they say why; of two of them `machine_at` is asked.
        live: whether the machine of the head is compared too: right when no run was broken off and none waits for an answer.
    """
    report, contents = Report(), Contents(client)
    found = sorted(await face.tuples(config), key=lambda one: one.config["configurable"]["checkpoint_id"])  # the oldest first
    if not found:
        report.wrong.append(f"thread {config} has no checkpoints")
    report.wrong += [wrong for wrong in await asyncio.gather(*(_check(report, contents, one, lenient) for one in found)) if wrong]
    for one in [one for one in found if one.metadata.get("vers_machine") and not one.metadata.get("vers_commit")][:2]:
        await _without_commit(report, face, one, client)
    report.wrong += [f"{name_of(one)} shows a row of VersSaver's own" for one in found if "__vers__" in str(one.pending_writes)]
    if not lenient:
        undone = dict.fromkeys(text for one in found for text in claim_of(messages_of(one)).undone)
        report.wrong += [f"a call that ought to have worked did not: {text}" for text in undone]
    if live:
        await _check_live(report, face, config, client)
    return report


async def _check(report: Report, contents: Contents, one: CheckpointTuple, lenient: bool) -> str | None:
    """What is wrong with a checkpoint."""
    claim = claim_of(messages_of(one))
    commit = one.metadata.get("vers_commit")
    if commit is None:
        if one.metadata.get("vers_machine") is None and not claim.machine:
            return None
        report.without += 1
        if not lenient:
            return f"{name_of(one)} has no commit, and claims {claim}"
        if not (one.metadata.get("vers_nearest") or one.metadata.get("vers_no_commit")):
            return f"{name_of(one)} has no commit and does not say why, nor which is nearest"
        return None
    report.checked += 1
    try:
        content = await contents(commit)
    except VersError as error:
        return f"{name_of(one)}: its commit cannot be restored: {error}"
    if not content.equals(claim):
        return f"{name_of(one)} claims {claim}, and its commit holds {content}"
    report.consistent += 1
    return None


async def _without_commit(report: Report, face: Face, one: CheckpointTuple, client: VersClient) -> None:
    """`machine_at` for a checkpoint that names no commit of its own: right, if its very version was committed later, or refused."""
    try:
        made = await face(face.saver, "machine_at", one.config)
    except VersError as error:
        nearest = one.metadata.get("vers_nearest")
        if nearest and nearest not in str(error):
            report.wrong.append(f"{name_of(one)}: the refusal does not name the nearest commit {nearest}: {error}")
        return
    content, claim = await content_of(client, made.machine_id), claim_of(messages_of(one))
    await on_io(client.delete_vm(made.machine_id))
    if not content.equals(claim):
        report.wrong.append(f"{name_of(one)} has no commit of its own and claims {claim}; machine_at made a machine with {content}")


async def _check_live(report: Report, face: Face, config: Any, client: VersClient) -> None:
    head = await face(face.saver, "get_tuple", {"configurable": {"thread_id": config["configurable"]["thread_id"]}})
    machine = None if head is None else head.metadata.get("vers_machine")
    if head is None or machine is None:
        return
    claim = claim_of(messages_of(head))
    try:
        content = await content_of(client, machine)
    except Gone:
        return  # it was deleted behind the thread's back: the next call restores it
    report.live += 1
    if not content.equals(claim):
        report.wrong.append(f"the live machine of the head {name_of(head)} holds {content}, and the head claims {claim}")


async def acheck_machine_at(face: Face, one: CheckpointTuple, client: VersClient) -> list[str]:
    """What is wrong with the machine that `machine_at` makes for a checkpoint that has a commit."""
    made = await face(face.saver, "machine_at", one.config)
    wrong = []
    try:
        content, claim = await content_of(client, made.machine_id), claim_of(messages_of(one))
        if not content.equals(claim):
            wrong.append(f"{name_of(one)} claims {claim}, and machine_at made a machine that holds {content}")
        if made.machine_id == one.metadata.get("vers_machine"):
            wrong.append(f"{name_of(one)}: machine_at gave the thread's own machine")
    finally:
        await on_io(client.delete_vm(made.machine_id))
    return wrong


def check_thread(graph: Any, saver: Any, config: Any, **options: Any) -> Report:
    """`acheck_thread` for the sync methods; the platform is that of the saver's context."""

    async def check() -> Report:
        return await acheck_thread(Face(graph, saver, asynchronous=False), config, client=await on_io(saver.context.client()), **options)

    return asyncio.run(check())


def tokens() -> Iterator[str]:
    """Tokens that no call has used: t1, t2, ..."""
    number = 0
    while True:
        number += 1
        yield f"t{number}"
