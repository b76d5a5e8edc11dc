"""Machines that threads begin on: made when one is promised, taken back when that fails. What is promised stands in `provision.py`.

The tools that make machines use the same parts.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import AsyncIterator, Awaitable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar, cast
from weakref import WeakValueDictionary

from langchain_vers import idle
from langchain_vers._io import io
from langchain_vers.attachment import PROMISED, Attachment
from langchain_vers.branches import Make, of_vm, one_by_one
from langchain_vers.errors import BadInput, Gone, VersError
from langchain_vers.platform import CommitInfo, VersClient, VmCreateVmConfig
from langchain_vers.provision import Chooser, Provision, check
from langchain_vers.steps import Key

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext
    from langchain_vers.turns import Place

Made = TypeVar("Made", str, Sequence[str])

BOOT_SECONDS = 120.0
ANSWER_SECONDS = 30.0
_REMEMBERED = 4096


class Provisions:
    """The machines that threads were promised. Coroutines of the I/O thread.

    Raises:
        BadInput: see `check`.
    """

    def __init__(self, provision: Provision, vm: str | None = None) -> None:
        self._source = check(provision, vm)
        self._locks: WeakValueDictionary[str | None, asyncio.Lock] = WeakValueDictionary()
        self._asked: dict[str | None, asyncio.Future[object]] = {}
        """Answers of functions that go on although the call that wanted them was cancelled."""
        self._judged: dict[tuple[str | None, Key], Attachment] = {}
        """By thread and checkpoint, what was made for a judgement of the policy that may have led to a question: its run begins anew."""

    def __bool__(self) -> bool:
        return self._source is not False

    def making(self, holder: str | None) -> AbstractAsyncContextManager[None]:
        """Around the making of a machine for a thread, or for a worker of it: one after the other."""
        return self._locks.setdefault(holder, asyncio.Lock())

    async def settle(self, context: BackendContext, place: Place) -> Attachment:
        """The machine that a thread was promised; made now, if no other call has done it.

        Raises:
            VersError: it could not be made, and nothing is left of it.
        """
        async with self.making(place.holder):
            attachment = await context.attachment_at(place)
            if attachment != PROMISED:
                return attachment
            versions = context.versions_of(place)
            point = None if versions is None or place.position is None else (place.holder, place.position.path[0])
            machine = None if point is None else self._judged.get(point)
            if versions is not None and machine is not None and machine.machine_id is not None:
                versions.ledger.dropped(machine.machine_id)  # what was noted of it belongs to the run that was broken off
            if machine is None:
                machine = await self._made(context, place)
                if point is not None:
                    self._judged[point] = machine
                    if len(self._judged) > _REMEMBERED:  # calls that were refused leave theirs here
                        del self._judged[next(iter(self._judged))]
            context.provided(place, machine)
            return machine

    def taken(self, place: Place) -> None:
        """A call is going to work on its machine: a repetition of it must not find what it has done."""
        if self._judged and place.position is not None:
            self._judged.pop((place.holder, place.position.path[0]), None)

    async def likewise(self, context: BackendContext, client: VersClient, thread: str | None) -> tuple[Make, str]:
        """How machines are made that begin as the one that a thread is promised, and what that is called; for attempts of a thread that has
        none yet, and will have the best one's.

        Raises:
            BadInput: see `_chosen`. Gone: there is no such VM.
        """
        source = self._source
        if callable(source) and (name := await self._chosen(source, thread)) is not None:
            vm_id = str((await _existing(context, client, name)).machine_id)
            return of_vm(context, client, vm_id), vm_id
        if isinstance(source, str):
            return one_by_one(client, lambda: _restored_first_by_tag(client, source)), source
        return one_by_one(client, lambda: client.create_vm(wait_boot=True)), "new VMs"

    async def _made(self, context: BackendContext, place: Place) -> Attachment:
        source = self._source
        try:
            client = await context.client()
            if callable(source):
                name = await self._chosen(source, place.thread)
                if name is not None:
                    return await _existing(context, client, name)
            labels = await context.labels(place)
            if isinstance(source, str):
                making = _restored_first_by_tag(client, source)
            else:
                making = client.create_vm(VmCreateVmConfig(labels=labels or None), wait_boot=True)
            async with made(context, client, making) as vm_id:
                if isinstance(source, str) and labels:
                    await client.label_vm(vm_id, labels)
                return await answering(context, client, vm_id)
        except VersError as error:
            what = f" from {source!r}" if isinstance(source, str) else ""
            error.message = (
                f"the machine where this thread is to begin could not be made{what}, and nothing was run ({error.message.rstrip('.')}); "
                "if trying again does not help, make or choose one with vers_vm_create or vers_vm_use, and tell who runs this program"
            )
            error.machine_id = None  # it is not there to be looked at
            raise

    async def _chosen(self, choose: Chooser, thread: str | None) -> str | None:
        """What a program's function says.

        Raises:
            BadInput: it fails, or says nothing that could be a VM.
        """
        try:
            found = await self._answer(choose, thread)
        except VersError:
            raise
        except Exception as error:  # whatever a program's function does; its words may be anything, a secret among them
            raise BadInput(f"the function given as provision= failed with {type(error).__name__}; see the cause of this error") from error
        if found is not None and (not isinstance(found, str) or not found.strip()):
            kind = "an empty text" if isinstance(found, str) else type(found).__name__
            raise BadInput(f"the function given as provision= gave {kind}, and neither a VM's id nor None")
        return found

    async def _answer(self, choose: Chooser, thread: str | None) -> object:
        """The answer of a function. It cannot be cancelled: if its call is, the next one gets what it says."""
        asked = self._asked.get(thread)
        if asked is None or asked.get_loop() is not asyncio.get_running_loop():
            context = contextvars.copy_context()
            asked = self._asked[thread] = asyncio.ensure_future(io.blocking(context.run, _answer_of, choose, thread))
            asked.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            return await asyncio.shield(asked)
        finally:
            if asked.done():
                self._asked.pop(thread, None)


def _answer_of(choose: Chooser, thread: str | None) -> object:
    """What a function says, sync or async. What it does must not wait on the I/O thread, so it has a thread and a loop of its own."""
    found: object = choose(thread)

    async def wait() -> object:
        return await cast("Awaitable[object]", found)

    return asyncio.run(wait()) if inspect.isawaitable(found) else found


async def _existing(context: BackendContext, client: VersClient, name: str) -> Attachment:
    """A VM that is there, running and answering. Others may use it: a `VersSaver` sees to it that threads do not share what they do."""
    vm_id = await context.resolve_vm(name)
    if (await client.get_vm(vm_id)).state in {"paused", "sleeping"}:
        await idle.set_state(client, vm_id, "running")
    return await answering(context, client, vm_id)


async def _restored_first_by_tag(client: VersClient, ref: str) -> str:
    """As `restored`, without looking through the commits where a tag is meant: each thread comes by here, and there may be very many."""
    if ":" not in ref and not _is_id(ref):
        try:
            return await client.restore_vm(tag_name=ref)
        except (Gone, BadInput):
            pass
    return await restored(client, ref)


@asynccontextmanager
async def made(context: BackendContext, client: VersClient, making: Coroutine[None, None, Made]) -> AsyncIterator[Made]:
    """The id of a VM that is being made, or the ids of several. If that, or what follows, fails or is cancelled, they are deleted again, as
    nobody would know of them.

    Being cancelled does not cancel the request: what it makes could not be found again without its answer.
    """
    request = asyncio.ensure_future(making)

    async def take_back() -> None:
        await asyncio.wait([request])
        if not request.cancelled() and request.exception() is None:
            ids: str | Sequence[str] = request.result()
            await _deleted(context, client, [ids] if isinstance(ids, str) else ids)

    try:
        yield await asyncio.shield(request)
    except BaseException:
        taking = asyncio.ensure_future(take_back())
        context.link.afterwards(_awaited(taking))  # seen through also if the wait for it is cancelled, too
        await asyncio.shield(taking)
        raise


async def _awaited(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)


async def answering(context: BackendContext, client: VersClient, vm_id: str) -> Attachment:
    """Wait until a VM runs and answers a command; its attachment, with the host key that it showed."""
    await client.wait_until_running(vm_id, deadline=BOOT_SECONDS)
    backend = await context.machine(vm_id)
    result = await backend.exec("pwd", timeout=ANSWER_SECONDS)
    return Attachment(backend="vers", machine_id=vm_id, cwd=result.cwd, host_key=backend.host_key)


async def _deleted(context: BackendContext, client: VersClient, vm_ids: Sequence[str]) -> None:
    """What goes wrong here is not reported: the error that brought us here is the one that matters."""
    for vm_id in vm_ids:
        context.forget_vm(vm_id)
    await asyncio.gather(*(client.delete_vm(vm_id) for vm_id in vm_ids), return_exceptions=True)


async def restored(client: VersClient, ref: str) -> str:
    """A new VM from a commit's id (or the beginning of it, or its name), a tag, or `repo:tag`; its id.

    Raises:
        BadInput: several commits are meant. Gone: none is.
    """
    if not ref:
        raise BadInput("the commit id is empty; give a commit id, a tag, or repo:tag")
    if ":" in ref:
        return await client.restore_vm(ref=ref)
    if _is_id(ref):
        return await client.restore_vm(commit_id=ref)
    commits = [commit.commit_id for commit in await _commits(client) if commit.name == ref or commit.commit_id.startswith(ref)]
    if len(commits) == 1:
        return await client.restore_vm(commit_id=commits[0])
    if commits:
        raise BadInput(f"{ref!r} means {len(commits)} commits; give the whole commit id")
    return await client.restore_vm(tag_name=ref)


def _is_id(ref: str) -> bool:
    return len(ref) == 36 and ref.count("-") == 4


async def _commits(client: VersClient) -> list[CommitInfo]:
    found: list[CommitInfo] = []
    while True:
        page = await client.list_commits(limit=100, offset=len(found))
        found += page.commits
        if not page.commits or len(found) >= page.total:
            return found
