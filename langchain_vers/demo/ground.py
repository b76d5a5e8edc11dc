"""Where a demo happens: a Vers of its own (or the one that was asked for), an empty folder on this machine, and the tools over both.

Whatever way the demo ends, what it made is gone afterwards: machines, server, folders. Machines that others made are never touched.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver
from pydantic import SecretStr

from langchain_vers._io import on_io
from langchain_vers.backends.local import LocalBackend
from langchain_vers.context import THREAD_LABEL, BackendContext
from langchain_vers.demo.options import DemoOptions
from langchain_vers.embedded import launcher
from langchain_vers.errors import Gone, VersError
from langchain_vers.gc import delete_orphans, find_orphans
from langchain_vers.platform import Credentials, Endpoints, VersClient
from langchain_vers.toolkit import VersToolkit


@dataclass
class Ground:
    """What a demo works with."""

    context: BackendContext
    toolkit: VersToolkit
    here: Path
    """The folder of this machine where local commands run; empty at the start."""
    vers: str
    """Which Vers it is, in words."""
    thread: str
    """The thread's id, which labels the machines."""
    leftovers: list[str]
    """What could not be tidied up, in sentences."""
    data_dir: Path | None
    """The embedded Vers's folder, or None on a platform."""
    reach: Mapping[str, str] = field(default_factory=dict, repr=False)
    """With which arguments another process's `BackendContext` finds the same Vers, the key among them; none on a platform."""
    _made: set[str] = field(default_factory=set)
    _commits: set[str] = field(default_factory=set)

    @property
    def config(self) -> RunnableConfig:
        """The config of the agent's runs."""
        return {"configurable": {"thread_id": self.thread}, "recursion_limit": 200}

    @property
    def versioned(self) -> str:
        """The id of the thread whose machine is versioned with it."""
        return f"{self.thread}-books"

    @property
    def database(self) -> Path:
        """The sqlite file of that thread's checkpoints."""
        return self.here.parent / "checkpoints.sqlite"

    @property
    def log(self) -> Path:
        """What the agent's processes have to say when something goes wrong."""
        return self.here.parent / "agent.log"

    def note(self, message: ToolMessage) -> None:
        """Remember what a tool made."""
        artifact: Mapping[str, Any] = message.artifact or {}
        if message.status == "error":
            return
        if message.name in {"vers_vm_create", "vers_vm_restore"}:
            self._made.add(artifact["machine_id"])
        self._made.update(artifact.get("branches", ()))
        if message.name == "vers_vm_commit":
            self._commits.add(artifact["commit"])

    async def machines(self) -> dict[str, str | None]:
        """The machines of this demo, oldest first, each with the one that it was branched from. Raises `VersError`."""
        return await on_io(self._machines())

    async def _machines(self) -> dict[str, str | None]:
        client = await self.context.client()
        vms = await client.list_vms()
        roots = self._made | {vm.vm_id for vm in vms if (vm.labels or {}).get(THREAD_LABEL) == self.thread}
        if not roots:
            return {}
        parents: dict[str, str | None] = {}
        for vm in sorted(vms, key=lambda vm: vm.created_at):
            try:
                parent = (await client.get_vm_metadata(vm.vm_id)).grandparent_vm_id
            except Gone:
                continue
            parents[vm.vm_id] = None if parent is None else str(parent)
        return {vm_id: parent for vm_id, parent in parents.items() if descends(vm_id, roots, parents)}

    @property
    def commits(self) -> frozenset[str]:
        """Ids of the commits that the tools made."""
        return frozenset(self._commits)

    def kept(self) -> list[str]:
        """For a demo that keeps what it made: how to look at it, and how to end it."""
        history = f"See the checkpoints:  langchain-vers history --db {self.database} --thread {self.versioned}"
        lines = [history] if self.database.exists() else []
        if self.data_dir is None:
            return [*lines, "The VMs are kept; see them with: langchain-vers vms"]
        return [
            *lines,
            f"See the VMs with:     langchain-vers vms --data-dir {self.data_dir}",
            f"Stop the server with: langchain-vers stop --data-dir {self.data_dir}",
            f"Then remove:          {self.here.parent}",
        ]

    async def delete_all(self) -> None:
        """Delete this demo's machines and commits; what cannot be deleted is told in `leftovers`."""
        try:
            await on_io(self._delete_all())
        except VersError as error:
            self.leftovers.append(f"The machines could not be looked up for deletion: {error}")

    async def _delete_all(self) -> None:
        client = await self.context.client(start=False)
        deletions: list[tuple[str, str, Callable[[str], Awaitable[object]]]] = []
        deletions += [("VM", vm_id, client.delete_vm) for vm_id in await self._machines()]
        deletions += [("commit", commit, client.delete_commit) for commit in self._commits]
        for kind, name, delete in deletions:
            try:
                await delete(name)
            except Gone:
                continue
            except VersError as error:
                self.leftovers.append(f"The {kind} {name} could not be deleted: {error}")
        if self.database.exists():
            try:
                await self._delete_versioned(client)
            except sqlite3.Error as error:
                self.leftovers.append(f"What {self.database} refers to could not be looked up for deletion: {error}")

    async def _delete_versioned(self, client: VersClient) -> None:
        """Delete the checkpoints, and then what no checkpoint refers to any more: all that was made for them."""
        with closing(sqlite3.connect(self.database, check_same_thread=False)) as connection:
            saver = SqliteSaver(connection)
            await asyncio.to_thread(saver.delete_thread, self.versioned)
            found = await find_orphans(client, saver, grace=0)
        for failure in await delete_orphans(client, found.orphans):
            self.leftovers.append(f"The {failure.orphan.kind} {failure.orphan.id} could not be deleted: {failure.error}")


def descends(vm_id: str, roots: Iterable[str], parents: Mapping[str, str | None]) -> bool:
    """Whether a machine is one of `roots` or was branched from one, over any number of generations."""
    wanted, seen = set(roots), set()
    current: str | None = vm_id
    while current is not None and current not in seen:
        if current in wanted:
            return True
        seen.add(current)
        current = parents.get(current)
    return False


@asynccontextmanager
async def prepared(options: DemoOptions, *, local: bool, leftovers: list[str]) -> AsyncIterator[Ground]:
    """A ground to work on; `local` says whether the agent may run commands on this machine. What cannot be tidied up is told
    in `leftovers`.

    Raises:
        VersError: there is no Vers to be had; nothing is left behind.
    """
    async with AsyncExitStack() as clean_up:
        scratch = Path(tempfile.mkdtemp(prefix="langchain-vers-demo-"))
        if not options.keep:
            clean_up.callback(_remove, scratch)
        here = scratch / "here"
        here.mkdir()
        where: Path | bool = here if local else False
        if options.vers:
            found = await asyncio.to_thread(Credentials().resolve)
            reach = {}
            context = BackendContext(local=where)
            vers = f"{Endpoints.resolve().base_url}, key from {found.source}"
            folder = None
        else:
            folder = scratch / "vers" if options.data_dir is None else options.data_dir.absolute()
            server = await _served(folder, options, clean_up)
            host, port = server.ssh_endpoint
            # All is given, so that neither keys nor addresses are looked for in the environment or in files.
            reach = {
                "api_key": server.api_key,
                "base_url": server.base_url,
                "ssh_endpoint": f"{host}:{port}",
                "ca_file": str(server.ca_file),
            }
            context = BackendContext(
                local=where,
                api_key=SecretStr(server.api_key).get_secret_value,
                base_url=reach["base_url"],
                ssh_endpoint=reach["ssh_endpoint"],
                ca_file=reach["ca_file"],
            )
            vers = f"embedded, on {server.base_url}, engine {server.engine}"
        # Local commands keep their logs where they are removed with the rest.
        context.local = LocalBackend(here, env={"HOME": str(here), "TMPDIR": str(scratch)})
        clean_up.push_async_callback(context.aclose)
        ground = Ground(context, VersToolkit(context=context), here, vers, f"demo-{uuid4().hex[:12]}", leftovers, folder, reach)
        try:
            yield ground
        finally:
            if not options.keep:
                await ground.delete_all()


async def _served(folder: Path, options: DemoOptions, clean_up: AsyncExitStack) -> launcher.ServerInfo:
    """The embedded Vers of a folder; one that is started here is stopped at the end."""
    found = await asyncio.to_thread(launcher.find_running, folder)
    if found is not None:
        return found
    starting = asyncio.ensure_future(asyncio.to_thread(launcher.ensure_running, folder, engine=options.engine))

    async def stop() -> None:
        await asyncio.wait({starting})  # an interrupted demo must not leave the server that is just coming up
        if not starting.cancelled():
            starting.exception()
        await asyncio.to_thread(launcher.stop, folder)

    if not options.keep:
        clean_up.push_async_callback(stop)
    return await asyncio.shield(starting)


def _remove(folder: Path) -> None:
    """Remove a folder in which some folders may have been left without permissions, as overlays do with their own."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)
