"""Branches that are used for a while: made of a VM, a commit or a tag, and deleted at the end, whatever has happened until then.

    async with Branches(context, "3f2a91c07b1e") as branches:
        one, two = await branches.make(2)
        ...
        branches.keep(two)

A branch whose making is cancelled is waited for and deleted, as the platform makes it all the same. Branches that could not be deleted when
the block ended, because its task was cancelled again or a second Ctrl-C came, are deleted before the interpreter exits; only a process that
is killed leaves them, with their labels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self

from langchain_vers._io import io
from langchain_vers.errors import BadInput, Gone, VersError
from langchain_vers.machine import Machine
from langchain_vers.naming import UUID

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext
    from langchain_vers.platform import VersClient

logger = logging.getLogger(__name__)

BOOT_SECONDS = 120.0
"""Seconds that a branch may take until it runs."""

Make = Callable[[int], Awaitable[Sequence[str]]]
"""Makes so many branches; their ids."""


class Branches:
    """Makes branches of one source. An async context manager for any event loop; leaving it deletes all branches but those that are kept.

    Args:
        context: whose platform and connections are used.
        source: what the branches begin as: a commit's id, a tag (`name` or `repository:name`), or a VM as it is when they are made (id,
            unique prefix, label or alias); None: new VMs from the platform's base image; or a function that makes so many branches, on the
            I/O thread, and gives their ids.
        labels: set on every branch.

    Raises:
        BadInput: what to branch is no name.
    """

    def __init__(self, context: BackendContext, source: str | Make | None, *, labels: Mapping[str, str] | None = None) -> None:
        if source is not None and not callable(source) and (not isinstance(source, str) or not source.strip()):
            raise BadInput(f"what to branch must be the name of a commit, a tag or a VM, not {source!r}")
        self._context = context
        self._source = source if isinstance(source, str) else ""
        self._labels = dict(labels or {})
        self._make: Make | None = source if callable(source) else None
        self._commit: str | None = None
        self._making: set[asyncio.Task[list[Machine]]] = set()
        self._machines: dict[str, Machine] = {}
        self._kept: set[str] = set()
        self._ending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        try:
            await io.on_io(self._end())
        except VersError as left:
            if error is None:
                raise
            logger.warning("%s", left)

    # --- for the block ---

    async def make(self, count: int = 1) -> list[Machine]:
        """`count` new branches of the source, as it is now if it is a VM; they run when this returns.

        Raises:
            BadInput: `count` is less than 1, or several VMs are meant by the name.
            Gone: nothing has that name.
        """
        return await io.on_io(self._made(count))

    async def delete(self, machine: Machine) -> None:
        """Delete one branch now; nothing if it is gone already.

        Raises:
            VersError: it could not be deleted; it will be tried again when the block ends.
        """
        await io.on_io(self._delete(machine.vm_id))

    def keep(self, machine: Machine) -> None:
        """Have one branch outlive the block."""
        self._kept.add(machine.vm_id)

    def unkeep(self, machine: Machine) -> None:
        """Take a `keep` back."""
        self._kept.discard(machine.vm_id)

    @property
    def machines(self) -> list[Machine]:
        """The branches that were made and not deleted, in the order of their making."""
        return list(self._machines.values())

    # --- on the I/O thread ---

    async def _made(self, count: int) -> list[Machine]:
        io.at_close(self, self._end_at_exit)
        task = asyncio.ensure_future(self._carry_out(count))
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        return await asyncio.shield(task)

    async def _carry_out(self, count: int) -> list[Machine]:
        client = await self._context.client()
        if self._make is None:
            self._make, self._commit = await self._way(client)
        ids = await self._make(count)
        made = [Machine(self._context, vm_id, commit=self._commit) for vm_id in ids]
        self._machines.update((machine.vm_id, machine) for machine in made)
        await asyncio.gather(*(self._ready(client, vm_id) for vm_id in ids))
        return made

    async def _ready(self, client: VersClient, vm_id: str) -> None:
        if self._labels:
            await client.label_vm(vm_id, self._labels)
        await client.wait_until_running(vm_id, deadline=BOOT_SECONDS)

    async def _way(self, client: VersClient) -> tuple[Make, str | None]:
        """How branches of the source are made, and the commit that it is."""
        name = self._source.strip()
        if not name:
            return one_by_one(client, lambda: client.create_vm(wait_boot=True)), None
        repository, colon, tag = name.partition(":")
        if colon:
            commit = (await client.get_repository_tag(repository, tag)).commit_id
            return of_commit(client, commit), commit
        with contextlib.suppress(Gone, BadInput):
            commit = (await client.get_tag(name)).commit_id
            return of_commit(client, commit), commit
        try:
            vm_id = await self._context.resolve_vm(name)
            await client.get_vm(vm_id)
        except Gone:
            # Of a commit the platform says nothing by its id alone; that it is not there shows when it is branched.
            if not UUID.fullmatch(name):
                raise Gone(
                    f"there is no tag and no VM named {name!r}, and it is no commit's id; langchain-vers vms lists the VMs"
                ) from None
            return of_commit(client, name), name
        return of_vm(self._context, client, vm_id), None

    async def _delete(self, vm_id: str) -> None:
        client = await self._context.client()
        with contextlib.suppress(Gone):
            await client.delete_vm(vm_id)
        self._context.forget_vm(vm_id)
        self._machines.pop(vm_id, None)

    async def _end(self) -> None:
        """Delete what was made and is not kept; goes on if whoever waits for it is cancelled."""
        if self._ending is None or self._ending.done():
            self._ending = asyncio.ensure_future(self._delete_all())
        await asyncio.shield(self._ending)

    async def _end_at_exit(self) -> None:
        try:
            await self._end()
        except VersError as left:  # nobody else would be told
            logger.warning("%s", left)

    async def _delete_all(self) -> None:
        while self._making:
            await asyncio.wait(self._making)
        left = [vm_id for vm_id in self._machines if vm_id not in self._kept]
        outcomes = await asyncio.gather(*(self._delete(vm_id) for vm_id in left), return_exceptions=True)
        io.forget(self)
        failed = {vm_id: error for vm_id, error in zip(left, outcomes, strict=True) if isinstance(error, BaseException)}
        if failed:
            why = next(iter(failed.values()))
            raise VersError(f"these branches could not be deleted, and are still there: {', '.join(failed)}; delete them yourself ({why})")


def of_vm(context: BackendContext, client: VersClient, vm_id: str) -> Make:
    """Branches of a VM as it is when they are made, and at rest."""

    async def make(count: int) -> Sequence[str]:
        async with context.resting(vm_id):
            return await client.branch_vm(vm_id, count=count)

    return make


def one_by_one(client: VersClient, make_one: Callable[[], Awaitable[str]]) -> Make:
    """Machines for which the platform knows no way to make several at once: all of them, or none.

    What is given back raises:
        BadInput: there are to be less than one. Whatever `make_one` raises; what was made is deleted then.
    """

    async def make(count: int) -> Sequence[str]:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise BadInput(f"the number of machines must be a whole number of at least 1, not {count!r}")
        made = await asyncio.gather(*(make_one() for _ in range(count)), return_exceptions=True)
        ids = [vm_id for vm_id in made if isinstance(vm_id, str)]
        for error in made:
            if isinstance(error, BaseException):
                await asyncio.gather(*(client.delete_vm(vm_id) for vm_id in ids), return_exceptions=True)
                raise error
        return ids

    return make


def of_commit(client: VersClient, commit_id: str) -> Make:
    """Machines that are restored from a commit."""

    async def make(count: int) -> Sequence[str]:
        return await client.branch_commit(commit_id, count=count)

    return make
