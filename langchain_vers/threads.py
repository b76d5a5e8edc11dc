"""Threads, for programs: where each is, what its commands are given, and what it has made of mounted folders.

A `config` is that of a run: its `configurable.thread_id` names the thread; without one it is the thread that all calls without a thread
share. Methods come in two faces, `attach` for sync callers and `aattach` for async ones; both wait for the same coroutine on the I/O
thread.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from langchain_core.runnables import RunnableConfig

from langchain_vers import status
from langchain_vers._io import on_io, run
from langchain_vers.attachment import HERE, Attachment
from langchain_vers.backends.environment import Secret
from langchain_vers.errors import BadInput
from langchain_vers.looks import Recorded, machine_of, recorded
from langchain_vers.mount_changes import Change
from langchain_vers.mounts import CopiedMounts
from langchain_vers.turns import holder_of, thread_of
from langchain_vers.variables import Variables
from langchain_vers.whereabouts import Whereabouts

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext


class Threads(ABC):
    """The part of `BackendContext` that a program calls itself."""

    variables: Variables
    mounts: CopiedMounts
    whereabouts: Whereabouts

    @abstractmethod
    async def attachment(self, thread: str | None) -> Attachment:
        """See `BackendContext.attachment`."""

    @abstractmethod
    async def entrance(self, name: str) -> Attachment:
        """See `BackendContext.entrance`."""

    @abstractmethod
    async def resolve_vm(self, name: str) -> str:
        """See `BackendContext.resolve_vm`."""

    @abstractmethod
    async def settle(self, attachment: Attachment, config: RunnableConfig | None) -> None:
        """See `BackendContext.settle`."""

    @property
    def _context(self) -> BackendContext:
        return cast("BackendContext", self)

    # --- where they are ---

    def attach(self, vm: str, config: RunnableConfig | None = None, *, shared: bool = False) -> Attachment:
        """Attach a thread to a VM (id, unique prefix, label or alias) without asking whether it answers.

        It holds from the thread's next call on. A `VersSaver` stores it then with the checkpoint that the call belongs to, so that a step
        that is interrupted goes on there, also in another process.

        `shared`: others work on it too, and the thread is to see what they do: a `VersSaver` then keeps the attachment and no versions.

        Raises:
            Gone, BadInput: as `resolve_vm`.
        """
        return run(self._attach(vm, config, shared))

    async def aattach(self, vm: str, config: RunnableConfig | None = None, *, shared: bool = False) -> Attachment:
        """See `attach`."""
        return await on_io(self._attach(vm, config, shared))

    async def _attach(self, vm: str, config: RunnableConfig | None, shared: bool) -> Attachment:
        attachment = Attachment(backend="vers", machine_id=await self.resolve_vm(vm), shared=shared)
        await self.settle(attachment, config)
        return attachment

    def use(self, name: str, config: RunnableConfig | None = None) -> Attachment:
        """Move a thread to a registered backend, or with "local" to this machine; it stays where it is if the backend does not answer.

        Raises:
            BadInput, Denied, Unreachable, Gone, Unsupported: as `entrance`.
        """
        return run(self._use(name, thread_of(config)))

    async def ause(self, name: str, config: RunnableConfig | None = None) -> Attachment:
        """See `use`."""
        return await on_io(self._use(name, thread_of(config)))

    async def _use(self, name: str, thread: str | None) -> Attachment:
        attachment = await self.entrance(name)
        self.whereabouts.tell(thread, attachment)
        return attachment

    def detach(self, config: RunnableConfig | None = None) -> None:
        """Bring a thread back to this machine. The VM lives on."""
        self.whereabouts.tell(thread_of(config), HERE)

    def attached(self, config: RunnableConfig | None = None) -> Attachment:
        """A thread's attachment as it is now (or that of the worker whose config it is): on "local" if it has no machine, on "vers" without
        an id if its own is not made yet.
        """
        return run(self.attachment(holder_of(config)))

    def status(self, config: RunnableConfig | None = None) -> str:
        """One line for a prompt or a status bar, such as "vers: 3f2a91c07b1e running, /root/app" or "vers: offline". Never raises."""
        try:
            return run(status.line(self._context, thread_of(config)))
        except Exception:  # a status line must not break what it decorates
            return "vers: offline"

    async def astatus(self, config: RunnableConfig | None = None) -> str:
        """See `status`."""
        try:
            return await on_io(status.line(self._context, thread_of(config)))
        except Exception:  # a status line must not break what it decorates
            return "vers: offline"

    # --- variables and secrets ---

    def set_env(self, changes: Mapping[str, str | Secret | None], config: RunnableConfig | None = None) -> None:
        """Set variables for a thread's further commands, wherever they run; None takes one away that was set here.

        They are kept in this process only. A `Secret("NAME")` is read from this process's environment when a command begins.

        Raises:
            BadInput: a name or value that no environment can hold.
        """
        self.variables.change(thread_of(config), changes)

    def env(self, config: RunnableConfig | None = None) -> dict[str, str | Secret]:
        """A thread's variables, with those of all threads; secrets by reference."""
        return self.variables.of(thread_of(config))

    # --- mounted folders ---

    def changes(self, config: RunnableConfig | None = None) -> list[Change]:
        """What the thread's machine has changed in its copies of mounted folders and this machine does not have, by path.

        With a `VersSaver` it is the machine where the conversation is now, or at the checkpoint that `config` names; it is restored for the
        look if need be. Without one it is the machine of the thread's last call in this process. Nothing is brought home, nothing copied
        in, and no thread moved; `str` of a change is a line for a person.

        Raises:
            Gone: what was copied is not known on this machine; or there is no such checkpoint.
            Conflict: the machine has moved on from that checkpoint, which has no commit.
        """
        return run(self._changes(config, recorded(self._context, config)))

    async def achanges(self, config: RunnableConfig | None = None) -> list[Change]:
        """See `changes`."""
        return await on_io(self._changes(config, await asyncio.to_thread(recorded, self._context, config)))

    async def _changes(self, config: RunnableConfig | None, found: Recorded | None) -> list[Change]:
        if not self.mounts:
            return []
        async with machine_of(self._context, config, found) as look:
            return [] if look is None else await self.mounts.changes(look.backend)

    def pull(self, config: RunnableConfig | None = None, paths: Sequence[str | Change] | None = None) -> list[Change]:
        """Bring changes of the thread's machine home into the mounted folders, and never elsewhere; those that were brought.

        Which machine that is, is said with `changes`. What another branch of the conversation has brought home before may be replaced; what
        this machine has changed by itself is not.

        Args:
            config: names the thread, and maybe a checkpoint.
            paths: guest or host paths (a folder means all in it), or what `changes` gave, which is then brought home as it was reviewed or
                not at all; None: everything. All is checked before anything is written.

        Raises:
            BadInput: nothing was changed at one of the paths.
            Conflict: this machine has changed the same meanwhile, or the guest has since the change was reviewed.
            Denied: a symlink would lead out of the folder.
        """
        return run(self._pull(config, recorded(self._context, config), paths))

    async def apull(self, config: RunnableConfig | None = None, paths: Sequence[str | Change] | None = None) -> list[Change]:
        """See `pull`."""
        return await on_io(self._pull(config, await asyncio.to_thread(recorded, self._context, config), paths))

    async def _pull(self, config: RunnableConfig | None, found: Recorded | None, paths: Sequence[str | Change] | None) -> list[Change]:
        nothing = BadInput("the thread is on this machine, or no folders are mounted; there is nothing to bring home")
        if not self.mounts:
            raise nothing
        async with machine_of(self._context, config, found) as look:
            if look is None:
                raise nothing
            return await self.mounts.pull(look, paths)
