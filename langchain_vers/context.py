"""The only router: which backend a call goes to, decided each time it runs.

`BackendContext` holds the attachments of all threads, the live backends, and the platform client. Tools, middleware and integrations ask it for a
route and act on the backend that they get; nothing else decides where work goes. A thread that is attached stays so until it is moved on purpose:
there is no fall-back to this machine.

Public methods come in two faces, `attach` for sync callers and `aattach` for async ones; both wait for the same coroutine on the I/O thread.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from langchain_core.runnables import RunnableConfig

from langchain_vers._io import io, on_io, run
from langchain_vers.attachment import Attachment
from langchain_vers.backends.base import Backend
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.vers import VersBackend
from langchain_vers.errors import BadInput, Denied, Gone, Unreachable, VersError
from langchain_vers.platform import Credentials, Endpoints, VersClient
from langchain_vers.turns import Place, Turns

if TYPE_CHECKING:
    from langchain_vers.embedded.launcher import ServerInfo

logger = logging.getLogger("langchain_vers")

STATUS_SECONDS = 3.0
"""How long `status` may take to learn a machine's state."""


@dataclass(frozen=True)
class Route:
    """Where a call goes: a live backend, and the attachment that led there."""

    backend: Backend
    attachment: Attachment

    @property
    def cwd(self) -> str | None:
        """Where commands start and relative paths begin; None is the backend's own default."""
        return self.attachment.cwd


SetTo = Callable[[Attachment], None]
"""Moves a thread; see `BackendContext.moving`."""


class BackendContext:
    """Routes calls of any number of threads to their machines.

    Args:
        vm: id, unique prefix, label or alias of a VM that every thread is attached to from the start.
        local: whether calls of threads without a machine may run on this one; a path makes that the directory where they start.
        shared_folder: the folder of this machine that `vers_vm_copy` may use where `local` is False.
        api_key, base_url, ssh_endpoint, ca_file: the platform, as for `Credentials` and `Endpoints`; default: the environment, then the
            configuration files. If neither names a key or a server, the embedded Vers of this machine is used, and started if need be.
        data_dir: the embedded Vers's folder, if not its default.
    """

    def __init__(
        self,
        *,
        vm: str | None = None,
        local: bool | str | os.PathLike[str] = True,
        shared_folder: str | os.PathLike[str] | None = None,
        api_key: str | Callable[[], str] | None = None,
        base_url: str | None = None,
        ssh_endpoint: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self.local_allowed = local is not False
        self.shared_folder = None if shared_folder is None else Path(shared_folder).resolve()
        self.data_dir = None if data_dir is None else Path(data_dir)
        self._credentials = Credentials(api_key)
        self._given = (base_url, ssh_endpoint, None if ca_file is None else Path(ca_file))
        self._client: VersClient | None = None
        self._client_lock: asyncio.Lock | None = None
        self._home_vm = vm
        self.local = LocalBackend(None if isinstance(local, bool) else local)
        self._threads: dict[str | None, Attachment] = {}
        self._machines: dict[str, VersBackend] = {}
        self._registered: dict[str, Backend] = {}
        self._turns = Turns()
        io.at_close(self, self._close)

    # --- routing ---

    async def route(self, place: Place) -> Route:
        """The backend that a call at this place goes to. Coroutine of the I/O thread.

        Raises:
            Denied: the thread has no machine, and local work is not allowed.
            Conflict: an earlier call of the same message was to move the thread, and did not.
        """
        attachment = await self.attachment_at(place)
        return Route(await self.backend_of(attachment), attachment)

    async def attachment_at(self, place: Place) -> Attachment:
        """The attachment that holds at a place: the thread's, as the earlier calls of the same message have left it."""
        return await self._turns.attachment_at(place, await self.attachment(place.thread))

    async def attachment(self, thread: str | None) -> Attachment:
        """A thread's attachment; its backend is "local" as long as the thread has no machine."""
        if thread not in self._threads:
            vm_id = None if self._home_vm is None else await self.resolve_vm(self._home_vm)
            start = _HERE if vm_id is None else Attachment(backend="vers", machine_id=vm_id)
            self._threads.setdefault(thread, start)
        return self._threads[thread]

    async def backend_of(self, attachment: Attachment) -> Backend:
        """The live backend of an attachment; its connections open on first use."""
        if attachment.backend == "local":
            if not self.local_allowed:
                raise Denied(
                    "no machine is attached to this thread, and work on this machine is not allowed; "
                    "create one with vers_vm_create or attach to one with vers_vm_use"
                )
            return self.local
        if attachment.backend == "vers" and attachment.machine_id is not None:
            return await self.machine(attachment.machine_id, attachment.host_key)
        if attachment.backend not in self._registered:
            raise BadInput(f"no backend named {attachment.backend!r} is registered; register it, or move the thread with vers_vm_use")
        return self._registered[attachment.backend]

    async def machine(self, vm_id: str, host_key: str | None = None) -> VersBackend:
        """The backend of one VM, shared by all threads and calls."""
        backend = self._machines.get(vm_id)
        if backend is None:
            backend = self._machines.setdefault(vm_id, VersBackend(await self.client(), vm_id, host_key=host_key))
        return backend

    @asynccontextmanager
    async def moving(self, place: Place) -> AsyncIterator[SetTo]:
        """Around a call that may move its thread: yields the function that does it, ordered with the other calls of the message.

        Calls of the message that stand behind it wait until it has ended, and are refused if it raises.
        """
        current = await self.attachment(place.thread)
        self._turns.begin_move(place, current)
        result: Attachment | None = None

        def set_to(attachment: Attachment) -> None:
            nonlocal result
            result = self._threads[place.thread] = attachment

        try:
            before = await self._turns.attachment_at(place, current)
            yield set_to
        except BaseException:
            self._turns.end_move(place, current, failed=True)
            raise
        self._turns.end_move(place, result or before)

    def note(self, place: Place, route: Route, *, cwd: str | None = None) -> None:
        """Remember what a call on a route has taught: the directory that it left, the host key that the machine showed."""
        current = self._threads.get(place.thread)
        if current is not None and current.same_machine(route.attachment):
            host_key = current.host_key or getattr(route.backend, "host_key", None)
            self._threads[place.thread] = current.moved(cwd=cwd or current.cwd, host_key=host_key)

    def register(self, name: str, backend: Backend) -> None:
        """Offer a further backend under a name.

        Raises:
            BadInput: the name is taken by the package itself.
        """
        if name in {"vers", "local"} or not name.isidentifier():
            raise BadInput(f"{name!r} cannot name a backend; use an identifier other than 'vers' and 'local'")
        self._registered[name] = backend

    @property
    def registered(self) -> Mapping[str, Backend]:
        """The further backends, by name."""
        return dict(self._registered)

    def attached_threads(self, vm_id: str) -> list[str | None]:
        """The threads that are attached to a VM."""
        return [thread for thread, attachment in self._threads.items() if attachment.machine_id == vm_id]

    # --- the platform ---

    async def client(self, *, start: bool = True) -> VersClient:
        """The platform's client. Without a key and a server, the embedded Vers is found, or started if `start`.

        Raises:
            Unreachable: the embedded Vers does not run and was not to be started, or cannot be.
        """
        if self._client_lock is None:
            self._client_lock = asyncio.Lock()
        async with self._client_lock:
            if self._client is None:
                self._client = await self._make_client(start)
            return self._client

    async def _make_client(self, start: bool) -> VersClient:
        base_url, ssh_endpoint, ca_file = self._given
        if base_url is not None or os.environ.get("VERS_BASE_URL") or await asyncio.to_thread(_has_key, self._credentials):
            return VersClient(self._credentials, Endpoints.resolve(base_url, ssh_endpoint, ca_file))
        server = await asyncio.to_thread(_embedded, self.data_dir, start)
        host, port = server.ssh_endpoint
        return VersClient(Credentials(lambda: server.api_key), Endpoints.resolve(server.base_url, f"{host}:{port}", server.ca_file))

    async def resolve_vm(self, name: str) -> str:
        """The id of the VM that a name means: an alias of the Vers CLI, an id, a label's value, or the unique beginning of an id.

        Raises:
            Gone: no VM is meant. BadInput: several are.
        """
        name = await asyncio.to_thread(_alias, name.strip())
        if not name:
            raise BadInput("the VM's name is empty; give an id, the beginning of one, or a label (see vers_vms)")
        if _UUID.fullmatch(name):
            return name.lower()
        vms = await (await self.client()).list_vms()
        found = [vm.vm_id for vm in vms if name in (vm.labels or {}).values()]
        bare = name.lower().replace("-", "")
        found = found or [vm.vm_id for vm in vms if vm.vm_id.replace("-", "").startswith(bare)]
        if len(found) == 1:
            return found[0]
        if not found:
            raise Gone(f"there is no VM with the id, label or alias {name!r}; vers_vms lists those that exist")
        raise BadInput(f"{name!r} means {len(found)} VMs ({', '.join(sorted(found)[:5])}{', ...' if len(found) > 5 else ''}); give more of the id")

    def forget_vm(self, vm_id: str) -> None:
        """Give back the connections to a VM that was deleted or paused. Attachments to it stay, and fail with a clear error."""
        backend = self._machines.pop(vm_id, None)
        if backend is not None:
            _closing.add(task := asyncio.get_running_loop().create_task(backend.close()))
            task.add_done_callback(_closing.discard)

    # --- for programs ---

    def attach(self, vm: str, config: RunnableConfig | None = None) -> Attachment:
        """Attach a thread to a VM (id, unique prefix, label or alias) without asking whether it answers."""
        return run(self._attach(vm, _thread(config)))

    async def aattach(self, vm: str, config: RunnableConfig | None = None) -> Attachment:
        """See `attach`."""
        return await on_io(self._attach(vm, _thread(config)))

    async def _attach(self, vm: str, thread: str | None) -> Attachment:
        attachment = Attachment(backend="vers", machine_id=await self.resolve_vm(vm))
        self._threads[thread] = attachment
        return attachment

    def detach(self, config: RunnableConfig | None = None) -> None:
        """Bring a thread back to this machine. The VM lives on."""
        self._threads[_thread(config)] = _HERE

    def attached(self, config: RunnableConfig | None = None) -> Attachment:
        """A thread's attachment as it is now; its backend is "local" if the thread has no machine."""
        return run(self.attachment(_thread(config)))

    def status(self, config: RunnableConfig | None = None) -> str:
        """One line for a prompt or a status bar, such as "vers: 3f2a91c07b1e running, /root/app" or "vers: offline". Never raises."""
        try:
            return run(self._status(_thread(config)))
        except Exception:  # noqa: BLE001  # a status line must not break what it decorates
            return "vers: offline"

    async def astatus(self, config: RunnableConfig | None = None) -> str:
        """See `status`."""
        try:
            return await on_io(self._status(_thread(config)))
        except Exception:  # noqa: BLE001  # a status line must not break what it decorates
            return "vers: offline"

    async def _status(self, thread: str | None) -> str:
        attachment = self._threads.get(thread)
        machine_id = attachment.machine_id if attachment is not None and attachment.backend == "vers" else None
        try:
            async with asyncio.timeout(STATUS_SECONDS):
                client = await self.client(start=False)
                if machine_id is None:
                    return f"vers: {len(await client.list_vms())} VM(s)"
                state = str((await client.get_vm(machine_id)).state)
        except Gone:
            state = "deleted"
        except (VersError, TimeoutError):
            if machine_id is None:
                return "vers: offline"
            state = "offline"
        place = f", {attachment.cwd}" if attachment is not None and attachment.cwd else ""
        return f"vers: {short_id(machine_id or '')} {state}{place}"

    def close(self) -> None:
        """Give back all connections and processes of this side; destroys no machine. The context can be used again afterwards."""
        run(self._close())

    async def aclose(self) -> None:
        """See `close`."""
        await on_io(self._close())

    async def _close(self) -> None:
        machines, self._machines = self._machines, {}
        client, self._client = self._client, None
        backends = [*machines.values(), *self._registered.values(), self.local]
        await asyncio.gather(*(backend.close() for backend in backends), return_exceptions=True)
        if client is not None:
            await client.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


_HERE = Attachment(backend="local")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_closing: set[asyncio.Task[None]] = set()


def short_id(vm_id: str) -> str:
    """The first 12 hex digits of a VM's id, as people and status lines write it."""
    return vm_id.replace("-", "")[:12]


def _thread(config: RunnableConfig | None) -> str | None:
    thread = ((config or {}).get("configurable") or {}).get("thread_id")
    return None if thread is None else str(thread)


def _has_key(credentials: Credentials) -> bool:
    try:
        credentials.resolve()
    except Denied:
        return False
    return True


def _alias(name: str) -> str:
    """What an alias of the Vers CLI stands for; the name itself if it is none. A broken alias file is no aliases."""
    try:
        aliases = json.loads((Path.home() / ".vers" / "aliases.json").read_text())
    except (OSError, ValueError, RuntimeError):
        return name
    target = aliases.get(name) if isinstance(aliases, dict) else None
    return target if isinstance(target, str) else name


def _embedded(data_dir: Path | None, start: bool) -> ServerInfo:
    from langchain_vers.embedded import launcher  # noqa: PLC0415  # only here is the embedded Vers any business of the package's users

    server = launcher.find_running(data_dir)
    if server is not None:
        return server
    if not start:
        raise Unreachable("no Vers key is configured and the embedded Vers does not run; `langchain-vers serve` starts it")
    server = launcher.ensure_running(data_dir)
    logger.warning("no Vers key and no VERS_BASE_URL: using the embedded Vers of this machine (%s, engine %s)", server.base_url, server.engine)
    return server
