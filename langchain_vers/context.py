"""The only router: which backend a call goes to, decided each time it runs.

`BackendContext` holds the attachments of all threads, the live backends, and the platform client. Tools, middleware and integrations
ask it for a route and act on the backend that they get; nothing else decides where work goes. A thread that is attached stays so until
it is moved on purpose: there is no fall-back to this machine.

What programs ask and say of threads is in `threads.py`.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from langchain_core.runnables import RunnableConfig
from pydantic import SecretStr

from langchain_vers import naming, workers
from langchain_vers._io import io, on_io, run
from langchain_vers.asking import Rounds
from langchain_vers.attachment import HERE, PROMISED, Attachment
from langchain_vers.backends.base import Backend
from langchain_vers.backends.environment import Environment
from langchain_vers.backends.gate import Gate
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.paths import Mount
from langchain_vers.backends.premises import Grounds
from langchain_vers.backends.registry import Registry, Source
from langchain_vers.backends.vers import Transport, VersBackend, check_transport
from langchain_vers.beginnings import Provisions
from langchain_vers.errors import BadInput, Denied, Gone, TakenOver, Unreachable
from langchain_vers.idle import check_seconds
from langchain_vers.link import Link
from langchain_vers.mounts import CopiedMounts
from langchain_vers.platform import Credentials, VersClient
from langchain_vers.policy import Policy
from langchain_vers.provision import Provision
from langchain_vers.redaction import Redactor
from langchain_vers.route import Route
from langchain_vers.threads import Threads
from langchain_vers.trunk import Account
from langchain_vers.turns import Place, Turns, holder_of, is_running, place_of
from langchain_vers.variables import Variables
from langchain_vers.versions import Versions
from langchain_vers.whereabouts import Whereabouts

if TYPE_CHECKING:
    from langchain_vers.checkpoint import VersSaver

ENTRANCE_SECONDS = 60.0
"""How long a registered backend may take to answer when a thread goes there."""
THREAD_LABEL = "langchain-vers-thread"
"""The label that tells which thread made a VM."""
LANE_LABEL = "langchain-vers-branch"
"""The label that tells which worker or attempt of it."""


SetTo = Callable[[Attachment], None]
"""Moves a thread; see `BackendContext.moving`."""


class BackendContext(Threads):
    """Routes calls of any number of threads to their machines.

    For programs there are `attach`, `use`, `detach`, `attached`, `status`, `register`, `set_env`, `changes`, `pull` and `close`; the rest
    is for tools, middleware and integrations. A `config` is that of a run: its `configurable.thread_id` names the thread; without one it is
    the thread that all calls without a thread share.

    Args:
        vm: id, unique prefix, label or alias of a VM that every thread is attached to from the start.
        provision: what machine each thread has of its own, made for the first call that needs one (see `provision`): True for a new VM; a
            commit's id or name, a tag, or `repo:tag` for one that is restored from it; or a function that is given the thread's id and
            gives a VM's. A thread that was promised one never works on this machine, unless it goes there on purpose.
        local: whether calls of threads without a machine may run on this one; a path makes that the directory where they start.
        shared_folder: the folder of this machine that `vers_vm_copy` may use where `local` is False.
        api_key: the platform's key, or a function that gives it; default: `VERS_API_KEY`, then `~/.vers`. If there is none and no server
            is named, the embedded Vers of this machine is used, and started if need be.
        base_url: the platform's API, default `VERS_BASE_URL`, then the hosted platform.
        ssh_endpoint: "host:port" that the SSH of all VMs is reached through, default `VERS_SSH_ENDPOINT`, then `<vm_id>.vm.vers.sh:443`.
        ca_file: certificates (PEM) that are trusted besides the system's, default `VERS_CA_FILE`.
        data_dir: the embedded Vers's folder, if not its default.
        transport: what commands and files of VMs go over: "ssh", or "http" where only HTTPS leaves the network (see `vers_http`).
        policy: what calls may do (see `policy`); default: `Policy.open()`, everything.
        idle_pause: seconds without a call or a running job after which a VM is paused, until it is used again (see `idle`); None: never.
        env: variables for the commands of every thread, wherever they run; `Secret("NAME")` is read from this process's environment when
            a command begins, and redacted in all that is shown. `set_env` adds those of one thread.
        mounts: folders of this machine that every other machine gets a copy of (`mode="copy"`) when a thread first uses it; `changes`
            tells what was made of them there, and `pull` brings it home.

    Raises:
        BadInput: a value that makes no sense.
    """

    def __init__(
        self,
        *,
        vm: str | None = None,
        provision: Provision = None,
        local: bool | str | os.PathLike[str] = True,
        shared_folder: str | os.PathLike[str] | None = None,
        api_key: str | SecretStr | Callable[[], str] | None = None,
        base_url: str | None = None,
        ssh_endpoint: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        transport: Transport = "ssh",
        idle_pause: float | None = None,
        policy: Policy | None = None,
        env: Environment | None = None,
        mounts: Iterable[Mount] = (),
    ) -> None:
        self.variables = Variables(env)
        self.mounts = CopiedMounts(mounts)
        self.local_allowed = local is not False
        self.shared_folder = None if shared_folder is None else Path(shared_folder).resolve()
        account = Account(
            Credentials(api_key),
            base_url,
            ssh_endpoint,
            None if ca_file is None else Path(ca_file),
            None if data_dir is None else Path(data_dir),
            check_transport(transport),
            check_seconds(idle_pause),
        )
        self.link = Link(account)
        """What is held open, with other contexts of the same account. To be used on the I/O thread."""
        self.home_vm = vm
        """The name of the VM that every thread is attached to from the start."""
        self.provisions = Provisions(provision, vm)
        self.local = LocalBackend(None if isinstance(local, bool) else local)
        self.whereabouts = Whereabouts(self.beginning, self._is_beginning)
        self.registry = Registry()
        weakref.finalize(self, abandon, self.link, self.registry).atexit = False
        self._turns = Turns()
        self.savers: weakref.WeakSet[VersSaver] = weakref.WeakSet()
        """Those that version the machines of this context's threads."""
        self.policy = Policy.open() if policy is None else policy
        self.grounds = Grounds()
        """What machines have said of where their paths are."""
        self.rounds = Rounds()
        """Who asks for the calls that one task carries out."""
        self.commits: dict[str | None, str] = {}
        """By machine, the commit that it was last made from or saved as by this process: for traces, not for routing."""

    # --- routing ---

    async def route(self, place: Place, attachment: Attachment | None = None) -> Route:
        """The backend that a call at this place goes to, its machine in the state that the conversation says. Coroutine of the I/O thread.

        Raises:
            Denied: the thread has no machine, and local work is not allowed.
            VersError: the machine that it was promised could not be made (see `provision`).
            Conflict: an earlier call of the same message was to move the thread, and did not; or the machine is another process's; or it
                has something else where a mounted folder is to be.
            Gone: the machine, or the commit that it would be restored from, does not exist any more.
        """
        attachment = attachment or await self.attachment_at(place)
        if attachment == PROMISED:
            attachment = await self.provisions.settle(self, place)
        route = await self.way(place, attachment)
        name = route.attachment.backend
        if self.mounts.missing(name, route.backend):
            async with self.changing(place, route) as changing:
                await self.mounts.bring(name, changing.backend)
        return replace(route, paths=self.mounts.paths(name, route.backend))

    async def way(self, place: Place, attachment: Attachment | None = None) -> Route:
        """As `route`, for who only looks: without the copies of mounted folders that the machine may still be owed."""
        attachment = attachment or await self.attachment_at(place)
        versions = self.versions_of(place)
        if versions is None or place.position is None or not _versioned(attachment):
            return Route(await self.backend_of(attachment), attachment)
        arrival = await versions.arrive(place.position, attachment, nearest=bool(place.settings.get("vers_nearest")))
        assert arrival.attachment.machine_id is not None
        backend = await self.machine(arrival.attachment.machine_id, arrival.attachment.host_key)
        return Route(backend.guarded(versions.guard(None)), arrival.attachment, arrival)

    @asynccontextmanager
    async def changing(self, place: Place, route: Route) -> AsyncIterator[Route]:
        """Around what may change the machine of a route: the route to do it by."""
        versions = self.versions_of(place)
        attachment = route.attachment
        if versions is None or place.position is None or not _versioned(attachment) or attachment.machine_id is None:
            yield route
            return
        backend = await self.machine(attachment.machine_id, attachment.host_key)
        async with versions.changing(place.position, attachment.machine_id, backend) as guarded:
            yield replace(route, backend=guarded)

    async def attachment_at(self, place: Place) -> Attachment:
        """The attachment that holds at a place: the thread's, as the earlier calls of the same message have left it."""
        return await self._turns.attachment_at(place, await self._found(place))

    async def _found(self, place: Place) -> Attachment:
        versions = self.versions_of(place)
        if place.lane and (made := await workers.owed(self, place, versions)) is not None:
            return made
        if self.provisions and versions is not None and place.position is not None:
            versions.ledger.give_up(place.position)
        return await self.whereabouts.at(place, versions)

    def provided(self, place: Place, attachment: Attachment) -> None:
        """The machine that a thread was promised is there: what its calls find from now on, unless it has gone elsewhere meanwhile."""
        versions = self.versions_of(place)
        self._turns.keep_promise(place, attachment)
        if self.whereabouts.begins(place, versions):
            self.whereabouts.move(place, versions, attachment)

    def versions_of(self, place: Place) -> Versions | None:
        """What keeps the versions of the thread's machine; None if its graph's checkpointer is no `VersSaver`.

        Raises:
            BadInput: the saver was made with another context, or the run stores no checkpoints that machines could follow.
        """
        versions: Versions | None = getattr(place.saver, "versions", None)
        if (
            versions is None or not hasattr(versions, "arrive") or place.position is None
        ):  # not by its class, which is another one after a reload
            return None
        if versions.context is not self:
            raise BadInput("the tools and the VersSaver of this graph have different contexts; make both with the same BackendContext")
        if place.settings.get("__pregel_durability") == "exit":
            raise BadInput(
                'a run with durability="exit" stores no checkpoint before it ends, so that no version of the machine could be kept; '
                'nothing was run: use "async" or "sync"'
            )
        return versions

    async def glance(self, place: Place) -> Attachment | None:
        """Where the next call at a place would begin, without moving, making or asking a machine; None if a worker's is still to be made.

        Raises:
            BadInput, Gone: as `versions_of`, and as `resolve_vm` for the VM that every thread is attached to.
        """
        return self.whereabouts.glance(place, self.versions_of(place)) or (None if place.lane else await self.beginning())

    async def opened(self, attachment: Attachment) -> Backend | None:
        """The backend of an attachment, as far as nothing has to be opened for that. Coroutine of the I/O thread."""
        if attachment.backend == "vers":
            return None if attachment.machine_id is None else self.link.open_machine(attachment.machine_id)
        return await self.backend_of(attachment)

    async def attachment(self, thread: str | None) -> Attachment:
        """Where a thread was last: on "local" as long as it has no machine, on "vers" without an id as long as its own is not made."""
        return await self.whereabouts.last(thread)

    async def beginning(self) -> Attachment:
        """Where threads begin; `PROMISED` if that is a machine of their own, which is made when it is needed."""
        if self.home_vm is None:
            return PROMISED if self.provisions else HERE
        return Attachment(backend="vers", machine_id=await self.resolve_vm(self.home_vm))

    def _is_beginning(self, attachment: Attachment) -> bool:
        if self.provisions:
            return attachment == PROMISED
        here = attachment == HERE or (attachment.backend == "local" and attachment == HERE.moved(cwd=self.local.home))
        return here and self.home_vm is None

    async def backend_of(self, attachment: Attachment) -> Backend:
        """The live backend of an attachment; its connections open on first use.

        Raises:
            Denied: it is this machine, and work here is not allowed.
            Gone: no backend of that name is registered.
        """
        if attachment.backend == "local":
            if not self.local_allowed:
                raise Denied(
                    "no machine is attached to this thread, and work on this machine is not allowed; "
                    "create one with vers_vm_create or attach to one with vers_vm_use"
                )
            return self.local
        if attachment == PROMISED:
            raise Gone("this thread has no machine yet: one of its own is made for the first call that works on it")
        if attachment.backend == "vers" and attachment.machine_id is not None:
            return await self.machine(attachment.machine_id, attachment.host_key)
        return await self.registry.backend(attachment.backend, attachment.machine_id)

    async def machine(self, vm_id: str, host_key: str | None = None) -> VersBackend:
        """The backend of one VM, shared by all threads and calls."""
        return await self.link.machine(vm_id, host_key)

    @asynccontextmanager
    async def moving(self, place: Place) -> AsyncIterator[SetTo]:
        """Around a call that may move its thread: yields the function that does it, ordered with the other calls of the message.

        Calls of the message that stand behind it wait until it has ended, and are refused if it raises. What `retake` may mend is no end
        yet: the call is repeated, or `settle_move` ends it.
        """
        current = await self._found(place)
        self._turns.begin_move(place, current)
        moved: Attachment | None = None
        ended: Attachment | None = None
        repeatable = False

        def set_to(attachment: Attachment) -> None:
            nonlocal moved
            moved = attachment
            self.whereabouts.move(place, self.versions_of(place), attachment)

        try:
            before = await self._turns.attachment_at(place, current)
            yield set_to
            ended = moved or before
        except (TakenOver, Gone):
            repeatable = True
            raise
        finally:
            if not repeatable:
                self._turns.end_move(place, ended)

    def settle_move(self, place: Place) -> None:
        """A call is over: if it was to move its thread and has not, it will not any more."""
        self._turns.settle_move(place)

    async def refuse_move(self, place: Place) -> None:
        """A call that might have moved its thread was refused before it began: those of the message behind it need not wait."""
        self._turns.end_move(place, None)

    def note(self, place: Place, route: Route, *, cwd: str | None = None) -> None:
        """Remember what a call on a route has taught: the directory that it left, the host key that the machine showed."""
        facts = {"cwd": cwd, "host_key": route.attachment.host_key or getattr(route.backend, "host_key", None)}
        if route.attachment.machine_id is None:
            facts["machine_id"] = route.backend.machine_id  # one that its backend has made for this call
        known = {name: fact for name, fact in facts.items() if fact is not None}
        self.whereabouts.learn(place, self.versions_of(place), route.attachment, **known)

    def forget_cwd(self, place: Place, route: Route) -> None:
        """Have the thread's next call start in the machine's default directory, because the one of this route is gone."""
        remembered = self.whereabouts.remembered(place.holder)
        if remembered is not None and remembered.cwd == route.cwd:
            self.whereabouts.learn(place, self.versions_of(place), route.attachment, cwd=None)

    async def labels(self, place: Place) -> dict[str, str]:
        """The labels of a VM that a call makes: which thread and lane it is for, and of which database of conversations."""
        lane = {LANE_LABEL: place.lane} if place.lane else {}
        if place.thread is None:
            return lane
        versions = self.versions_of(place)
        return lane | ({THREAD_LABEL: place.thread} if versions is None else await io.blocking(versions.labels, place.thread))

    def resting(self, machine_id: str) -> AbstractAsyncContextManager[None]:
        """Around what must see a machine at rest: while none of this process's calls changes it."""
        return self.link.gates.setdefault(machine_id, Gate()).commit()

    def gone(self, place: Place, attachment: Attachment) -> None:
        """A call has deleted its thread's own machine: it stays gone, and is not brought back for the next call."""
        self.whereabouts.lose(place, self.versions_of(place), attachment.moved(commit=None))

    def used(self, place: Place, tool: str) -> None:
        """A tool was used, for the history of the conversation's machines."""
        try:
            versions = self.versions_of(place)
        except BadInput:
            return
        if versions is not None and place.position is not None:
            versions.ledger.used(place.position, tool)

    async def retake(self, place: Place, error: TakenOver | Gone) -> None:
        """After a call that was refused because its machine is not this process's, or gone: learn what holds now, to repeat the call."""
        versions = self.versions_of(place)
        if versions is None or error.machine_id is None:
            raise error
        await versions.retake(error.machine_id, error)

    def register(self, name: str, backend: Source) -> None:
        """Offer a further backend under a name: the backend itself, a spec such as "docker:python:3.12" (see `backends.registry`), or a
        function that makes it. The last two are carried out when the first thread goes there.

        Raises:
            BadInput: the name is taken by the package itself, or the spec is of no kind that is known.
        """
        self.registry.add(name, backend)

    @property
    def registered(self) -> list[str]:
        """The names of the further backends."""
        return self.registry.names

    async def entrance(self, name: str) -> Attachment:
        """Where a thread is when it goes to this machine ("local") or to a registered backend, which has just answered.

        Raises:
            BadInput: no backend of that name is registered.
            Denied: for "local", if work on this machine is not allowed.
            Unreachable, Gone, Unsupported: it does not answer, or cannot be used here.
        """
        if name == "vers":
            raise BadInput("a VM of Vers is chosen with vers_vm_use or vers_vm_create, and by programs with context.attach")
        if name == HERE.backend:
            await self.backend_of(HERE)
            return HERE
        backend = await self.registry.backend(name)
        result = await backend.exec("pwd", timeout=ENTRANCE_SECONDS)
        if result.timed_out:
            raise Unreachable(f"the backend {name} did not answer within {ENTRANCE_SECONDS:.0f} s; stay where you are, or try again")
        # Its threads share it, so it stands for no point of any conversation.
        host_key = getattr(backend, "host_key", None)
        return Attachment(backend=name, machine_id=backend.machine_id, cwd=result.cwd, host_key=host_key, shared=True)

    def attached_threads(self, vm_id: str) -> list[str | None]:
        """The threads (and workers of threads) that are attached to a VM."""
        return self.whereabouts.holders(vm_id)

    def redactor(self, backend: Backend | None = None) -> Redactor:
        """What takes all secrets out of what is shown: those of the threads, and of the backends' own environments."""
        backends = [self.local, *self.registry.made(), *([] if backend is None else [backend])]
        return self.variables.redactor(*(each.environment for each in backends))

    async def settle(self, attachment: Attachment, config: RunnableConfig | None) -> None:
        """Move a thread, or a lane of it. Coroutine of the I/O thread.

        Within a run, by the config that its node was given, it is as if a tool had done it: the run's next checkpoint says so.
        """
        if is_running(config):
            async with self.moving(place_of(config or {}, None, None, lambda name, arguments: False)) as set_to:
                set_to(attachment)
        else:
            self.whereabouts.tell(holder_of(config), attachment)

    # --- the platform ---

    async def client(self, *, start: bool = True) -> VersClient:
        """The platform's client. Without a key and a server, the embedded Vers is found, or started if `start`.

        Raises:
            Unreachable: the embedded Vers does not run and was not to be started, or cannot be.
        """
        return await self.link.client(start=start)

    async def resolve_vm(self, name: str) -> str:
        """The id of the VM that a name means: an alias of the Vers CLI, an id, a label's value, or the unique beginning of an id.

        Raises:
            Gone: no VM is meant.
            BadInput: several are.
        """
        return await naming.find(name, self.client)

    def forget_vm(self, vm_id: str, *, running: bool = False) -> None:
        """Give back the connections to a VM that was deleted, or paused; `running` lets calls that are under way keep theirs to their end.

        Attachments to it stay, and fail with a clear error.
        """
        self.link.forget(vm_id, running=running)

    def close(self) -> None:
        """Give back all connections and processes of this side; destroys no machine. The context can be used again afterwards."""
        run(self._close())

    async def aclose(self) -> None:
        """See `close`."""
        await on_io(self._close())

    async def _close(self) -> None:
        await asyncio.gather(self.registry.close(), self.local.close(), self.link.close(), return_exceptions=True)

    def __repr__(self) -> str:
        return "BackendContext()"  # the same in every process: traces and LangSmith's examples show it where it is an argument

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def abandon(link: Link, registry: Registry) -> None:
    """Give back what a context held that nobody holds any more, without waiting. For any thread."""
    link.abandon_soon()
    registry.close_soon()


def _versioned(attachment: Attachment) -> bool:
    """Whether the machine of an attachment goes back in time with the conversation."""
    return attachment.backend == "vers" and attachment.machine_id is not None and not attachment.shared
