"""One container: made or found on first use, with the sessions that wait in it, and what it means when it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from langchain_vers._io import io, to_thread
from langchain_vers.backends import docker_disk, sessions
from langchain_vers.backends.disk_guard import DiskGuard
from langchain_vers.backends.disk_watch import Watch
from langchain_vers.backends.docker_engine import Engine, Hijacked
from langchain_vers.backends.docker_options import LABEL, Shape, refuse_socket
from langchain_vers.backends.docker_process import Connection, DockerProcess, serve
from langchain_vers.backends.gate import gate_of
from langchain_vers.backends.pool import MAX_SPARES
from langchain_vers.backends.sessions import Process, Session
from langchain_vers.backends.spares import Spares
from langchain_vers.errors import Conflict, DeadlineExceeded, Denied, DiskFull, Gone, Unreachable, VersError

T = TypeVar("T")
Ready = Callable[[Process, str], Awaitable[Session]]
SIDE_BY_SIDE = 6
"""How many sessions are started at once. An engine starts processes of a container one after the other (Podman holds a lock), so that more
would only wait there; a call that waits here may get the connection of one that has ended.
"""
AFTERMATH_SECONDS = 1.0
"""How long a container in which a command was lost is looked at, whether it ends too."""
_REMOVED = "restore it from a snapshot, or go on with another backend"


class Container:
    """Coroutines of the I/O thread. Either `image`, of which it is to be made, or the `found` name or id of one that exists.

    `ready` waits for a shell that was just started. `attached`: it existed before, and is never removed. `remove`: it goes when it is
    closed, and at interpreter exit.
    """

    def __init__(
        self,
        engine: Engine,
        shape: Shape,
        ready: Ready,
        *,
        image: str | None = None,
        found: str | None = None,
        attached: bool = False,
        remove: bool = False,
    ) -> None:
        self.id = found
        self.engine = engine
        self.shape = shape
        self.image = image
        self.attached = attached
        self.remove = remove
        self._ready = ready
        self._opening: asyncio.Task[str] | None = None
        self._idle: list[Hijacked] = []
        """Connections that wait for a session to be started on them."""
        self._starting: set[asyncio.Task[Session]] = set()
        self._side_by_side = asyncio.Semaphore(SIDE_BY_SIDE)
        self._closed = False
        self._spares = Spares(self._start, _waits)
        self.guard = DiskGuard(self._empty)

    @property
    def words(self) -> str:
        """What messages call it."""
        return "the container" if self.id is None else f"container {self.id[:12]}"

    # --- its life ---

    async def open(self) -> str:
        """The id; makes the container, or looks for it, the first time.

        Raises:
            Gone: it, or its image, does not exist.
            Unreachable: it does not run, or its engine does not answer.
        """
        self._closed = False
        if self._opening is None or (self._opening.done() and (self._opening.cancelled() or self._opening.exception() is not None)):
            self._opening = asyncio.get_running_loop().create_task(self._open())
        # A caller that is cancelled leaves the making to those that still wait, or to `close`: a container half made would be lost.
        return await asyncio.shield(self._opening)

    async def _open(self) -> str:
        if self.id is None:
            assert self.image is not None
            await io.blocking(refuse_socket, self.shape.mounts, self.engine.socket)
            self.keep_track()
            image = self.image
            self.id = await io.blocking(lambda: self.engine.create(image, self.shape, copies=True))
            await self._watch(await io.blocking(self.engine.inspect, self.id))
            return self.id
        try:
            found = await io.blocking(self.engine.inspect, self.id)
        except Gone as error:
            raise self._gone() from error
        # From now on this very one: another may get its name.
        self.id = str(found["Id"])
        if (reason := self._reason(found)) is not None:
            raise reason
        await self._watch(found)
        return self.id

    def keep_track(self) -> None:
        """Have it removed at interpreter exit, if it is to be."""
        if self.remove:
            io.at_close(self, self.close)

    async def close(self) -> None:
        """End the waiting sessions. A container that is to be removed goes, and another would be made for the next call."""
        await self._settled()
        if self.remove and self.id is not None:
            await self._delete(self.id)
            if self.image is not None:
                self.id = None
        io.forget(self)
        self.engine.close()

    async def delete(self) -> None:
        """Remove it, with all that runs in it.

        Raises:
            Denied: it is none that this package has made.
        """
        await self._settled()
        if self.id is not None:
            await self._delete(self.id)
        io.forget(self)

    async def _settled(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None and not opening.done():
            await asyncio.gather(opening, return_exceptions=True)
        self.guard.stop()
        await self.guard.at_rest()
        self._closed = True
        await self._spares.close()
        await asyncio.gather(*self._starting, return_exceptions=True)
        while self._idle:
            self._idle.pop().close()

    async def _delete(self, container: str) -> None:
        try:
            found = await to_thread(lambda: self.engine.inspect(container))
        except Gone:
            return
        if self.attached or _labels(found).get(LABEL) != "container":
            raise Denied(
                f"container {container[:12]} was not made by this backend, which therefore does not remove it; use `docker rm`",
                machine_id=container,
            )
        await to_thread(lambda: self.engine.remove(container))
        await to_thread(lambda: self._drop_branch_image(str(found["Image"])))

    def _drop_branch_image(self, image: str) -> None:
        """Remove the image that branches were made of, when the last of them goes."""
        with contextlib.suppress(Gone, Conflict):
            if _labels(self.engine.image(image)).get(LABEL) == "branch":
                self.engine.remove_image(image)

    # --- its sessions ---

    async def session(self) -> Session:
        """A session that waits for its call."""
        try:
            return await self._spares.take()
        except VersError:
            if not await self.guard.at_rest():
                raise
            return await self._spares.take()  # all that ran was being ended, and nothing of this call had begun

    async def _start(self) -> Session:
        starting = asyncio.get_running_loop().create_task(self._started())
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(_close)
            raise

    async def _started(self) -> Session:
        container = await self.open()
        try:
            async with self._side_by_side:
                if self._idle:
                    return await self._served(container, self._idle.pop())
                async with gate_of(container).call():
                    return await self._served(container, await self._connected(container))
        except VersError as error:
            await self.explain(error)
            raise

    async def _served(self, container: str, connection: Hijacked) -> Session:
        """A session on a connection to the loop in the container, when its shell is ready."""
        mark, before = Session.new_mark(), self.guard.count

        async def ended() -> bool:
            return self.guard.count == before and await self._ended(container, connection.process)

        try:
            process = DockerProcess(connection, mark, ended)
        except BaseException:
            connection.close()
            raise
        try:
            await process.begin(mark)
        except BaseException:
            process.close()
            raise
        session = await self._ready(process, mark)
        process.on_close = self._handed_back
        return session

    def _handed_back(self, connection: Connection | None) -> None:
        """A call has ended; its connection is there for another session, if it can be used again."""
        if isinstance(connection, Hijacked):
            if len(self._idle) < MAX_SPARES and not self._closed:
                self._idle.append(connection)
            else:
                connection.close()
        self._spares.refill()

    async def _connected(self, container: str) -> Hijacked:
        """Have the engine start the loop that serves sessions: it answers before it has."""
        argv = ["sh", "-c", serve(self.shape.disk if self.guard.watching else None)]
        starting = asyncio.ensure_future(io.blocking(lambda: self.engine.start(container, argv, user=self.shape.user)))
        try:
            async with asyncio.timeout(sessions.ANSWER_SECONDS):
                return await asyncio.shield(starting)
        except TimeoutError:
            starting.add_done_callback(_close)
            raise DeadlineExceeded(
                f"the container engine at {self.engine.url} did not start a shell in {self.words} within {sessions.ANSWER_SECONDS:.0f} s",
                machine_id=container,
            ) from None
        except asyncio.CancelledError:
            starting.add_done_callback(_close)
            raise

    async def run(self, argv: list[str]) -> bytes:
        """Run a program of ours in it as root; what it prints."""
        container = await self.open()
        async with gate_of(container).call():
            return await io.blocking(self.engine.run, container, argv)

    async def _ended(self, container: str, process: str) -> bool:
        async with gate_of(container).call():
            return await io.blocking(self.engine.ended, container, process)

    async def commit(self, kind: str, comment: str | None) -> str:
        """Make an image of it as it is now, while it is paused; the image's id."""
        container, tag = await self.open(), secrets.token_hex(8)

        async def alone() -> str:
            async with gate_of(container).commit():
                return await io.blocking(lambda: self.engine.commit(container, kind=kind, tag=tag, comment=comment))

        # The gate opens when the engine has done with it, also for a caller who does not wait for that.
        try:
            return await asyncio.shield(asyncio.get_running_loop().create_task(alone()))
        except VersError as error:
            await self.explain(error)
            raise

    async def emptied(self) -> bool:
        """Kill all that runs in it by starting it anew, if it is this package's own and not paused; whether that was done."""
        if self.attached or self.id is None:
            return False
        found = await io.blocking(self.engine.inspect, self.id)
        if self._reason(found) is not None or _labels(found).get(LABEL) != "container":
            return False
        async with gate_of(self.id).commit():
            await io.blocking(self.engine.restart, self.id)
        return True

    # --- what it takes of the disk ---

    async def _watch(self, found: dict[str, Any]) -> None:
        """Watch its disk until it is closed, if this package has made it."""
        allowed = self.shape.disk
        if allowed is None or self.attached or _labels(found).get(LABEL) != "container":
            return
        size, root = lambda: self.engine.size(str(found["Id"])), os.geteuid() == 0
        seen = await io.blocking(lambda: docker_disk.places(found, self.shape.binds, size, root=root))
        try:
            await self.guard.begin(Watch(seen, allowed, whole={docker_disk.OWN}))
        except VersError:
            raise
        except OSError as error:
            raise Unreachable(f"the disk of {self.words} cannot be watched ({error}); give disk=None to go without") from error

    async def _empty(self) -> None:
        """Kill all that runs in it, and start it anew with its files as they are. No call begins meanwhile."""
        assert self.id is not None
        killing = asyncio.ensure_future(io.blocking(self.engine.kill, self.id))
        async with gate_of(self.id).commit():
            await killing
            await io.blocking(self.engine.restart, self.id)

    async def explain_fullness(self, error: VersError, before: int) -> None:
        """Raise what a call's failure means, if that is the disk. `before` is the guard's count when the call began.

        Raises:
            DiskFull: all that ran was ended because the disk had filled.
        """
        if self.guard.count == before:
            return
        await self.guard.at_rest()
        raise DiskFull(
            f"{self.guard.overgrown[-1]} in {self.words} took more than may be (disk, {self.shape.disk} bytes), and all that ran in it was "
            "ended; delete what is not needed, a few files at a time",
            machine_id=self.id,
        ) from error

    # --- what is wrong with it ---

    async def explain(self, error: VersError) -> None:
        """Raise what a call's failure means, if that is more than the error says."""
        reason = await self.diagnosed(error)
        if reason is not error:
            raise reason from error

    async def diagnosed(self, error: VersError) -> VersError:
        """What a call's failure means, after a look at the container; the error itself if that is as it should be."""
        if self.id is None:
            return error
        try:
            return self._reason(await io.blocking(self.engine.inspect, self.id)) or error
        except Gone:
            return self._gone()
        except VersError as reason:
            reason.machine_id = self.id
            return reason

    async def aftermath(self, error: VersError) -> VersError:
        """As `diagnosed`, for a command that was lost: an engine ends a container's processes before it says that it has ended."""
        for _ in range(10):
            if (reason := await self.diagnosed(error)) is not error:
                return reason
            await asyncio.sleep(AFTERMATH_SECONDS / 10)
        return error

    def _gone(self) -> Gone:
        return Gone(f"{self.words} does not exist any more; {_REMOVED}", machine_id=self.id)

    def _reason(self, found: dict[str, Any]) -> VersError | None:
        state = found.get("State") or {}
        status = str(state.get("Status") or "in an unknown state")
        if status in {"removing", "dead"}:
            return self._gone()
        if state.get("Paused") or status == "paused":
            return Unreachable(f"{self.words} is paused; let it go on with `docker unpause {found['Id'][:12]}`", machine_id=self.id)
        if state.get("Running"):
            return None
        killed = " (its memory ran out)" if state.get("OOMKilled") else ""
        return Unreachable(
            f"{self.words} does not run: it is {status}{killed}; start it again with `docker start {found['Id'][:12]}`", machine_id=self.id
        )


def _waits(session: Session) -> bool:
    process = session.process
    assert isinstance(process, DockerProcess)
    return process.waiting


def _close(starting: asyncio.Future[Hijacked] | asyncio.Future[Session]) -> None:
    """What comes when nobody waits for it any more is given back."""
    if not starting.cancelled() and starting.exception() is None:
        came = starting.result()
        (came.process if isinstance(came, Session) else came).close()


def _labels(found: dict[str, Any]) -> dict[str, str]:
    return (found.get("Config") or {}).get("Labels") or {}
