"""A container as a backend, by the API of Docker or Podman: sessions by exec, versions by commit.

The container is made from an image on first use, without network, without new privileges and with limits; or one that exists is used as it
is. Snapshots hold the container's files and not its memory; what is mounted from this machine belongs to no snapshot, and branches share
it: mount as "copy" what is to be versioned.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Mapping, Sequence

from langchain_vers._io import io
from langchain_vers.backends import docker_options as options
from langchain_vers.backends import docker_strays
from langchain_vers.backends.base import ExecResult, OutputCallback, Snapshots
from langchain_vers.backends.docker_container import Container
from langchain_vers.backends.docker_engine import Engine
from langchain_vers.backends.environment import Environment, checked
from langchain_vers.backends.paths import Mount, PathMap
from langchain_vers.backends.sessions import Running, Session
from langchain_vers.backends.shell import ShellBackend
from langchain_vers.errors import BadInput, DeadlineExceeded, Denied, Gone, Interrupted, Unreachable, VersError

MAX_BRANCHES = 100
"""How many branches one call may ask for."""


class DockerBackend(ShellBackend, Snapshots):
    """Works in a container of `image`, or in the existing `container` (name or id), which is then never removed.

    `close` leaves the container running; `delete` removes one that was made here. With `remove` it is removed when the backend is closed,
    and at interpreter exit; used again, the backend makes a new one.

    Args:
        image: an image of the engine (not fetched from anywhere), with a POSIX shell and coreutils or busybox.
        container: instead of an image.
        url: `unix:///path` or `tcp://host:port` of the engine, also of Podman's service. None goes by DOCKER_HOST, DOCKER_TLS_VERIFY and
            DOCKER_CERT_PATH as the `docker` command does.
        workspace: a folder of this machine that commands see, for reading and writing, as `workdir`.
        workdir: where commands start; "/workspace" when there is a workspace, else the user's home.
        mounts: further folders. A copy is made once, with the container.
        memory: bytes, or a size such as "512m"; no swap on top. None: no limit.
        disk: the same for what its own files may take, for what each folder that it may write may grow by, and for the largest file. An
            engine whose storage has quotas (overlay2 on XFS with `pquota`, btrfs, zfs) bounds its own files; else they are watched while
            this backend is in use, and what makes them grow too far is ended with all that runs in the container, a moment late: see
            `docker_disk` for how long, and for what an engine elsewhere leaves unwatched. None: no limit but the disk's.
        cpus: how many processors' time it may use, such as 1.5. None: no limit.
        pids: how many processes and threads it may have.
        network: the name of one of the engine's networks. None: no network at all.
        user: who runs commands, such as "agent" or "1000:1000". None: whom the image says.
        env: variables for every command. Secrets go to the commands only, not into the container's settings.
        remove: see above.

    Raises:
        BadInput: an option makes no sense.
        DiskFull: by every call, when the container's files or a folder grew too far while it ran.
    """

    name = "docker"
    silence = "it runs, and so may be out of memory or processes: look with `docker stats`"

    def __init__(
        self,
        image: str | None = None,
        *,
        container: str | None = None,
        url: str | None = None,
        workspace: str | os.PathLike[str] | None = None,
        workdir: str | None = None,
        mounts: Sequence[Mount] = (),
        memory: int | str | None = None,
        disk: int | str | None = options.DISK,
        cpus: float | None = None,
        pids: int | None = None,
        network: str | None = None,
        user: str | None = None,
        env: Environment | None = None,
        remove: bool = False,
    ) -> None:
        if (image is None) == (container is None):
            raise BadInput("give either an image, of which a container is made, or a container that exists")
        shape = options.shape(
            workspace=workspace, workdir=workdir, mounts=mounts, memory=memory, disk=disk, cpus=cpus, pids=pids, network=network, user=user
        )
        if container is not None and (shape.given or remove):
            unfit = ", ".join(sorted(shape.given | ({"remove"} if remove else set())))
            raise BadInput(f"a container that exists is used as it is, and cannot be given {unfit}")
        self.environment = checked(env or {})
        self._shape = shape
        self.paths = PathMap(shape.mounts, resolve=os.path.realpath)
        self._engine = Engine(url)
        self._container = Container(
            self._engine,
            shape,
            self._ready,
            image=None if image is None else options.reference(image, "image"),
            found=None if container is None else options.reference(container, "container"),
            attached=container is not None,
            remove=remove,
        )

    @property
    def machine_id(self) -> str | None:  # type: ignore[override]  # not known before the container is made
        """The container's id; None until it is made."""
        return self._container.id

    @property
    def home(self) -> str | None:
        """The directory where commands start; None is the user's home."""
        return self._shape.workdir

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """The folders of this machine that commands see, the workspace among them."""
        return self._shape.mounts

    @property
    def _where(self) -> str:
        return self._container.words

    def __repr__(self) -> str:
        return f"DockerBackend({self._container.image or self._container.id!r})"

    async def _session(self) -> Session:
        return await self._container.session()

    async def exec(
        self,
        command: str,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout: float | None = None,
        on_output: OutputCallback | None = None,
    ) -> ExecResult:
        """See `Backend.exec`."""
        container, endings = self._container, self._container.guard.count
        try:
            return await super().exec(command, cwd=cwd, env=env, stdin=stdin, timeout=timeout, on_output=on_output)
        except Unreachable as error:
            await container.explain_fullness(error, endings)
            reason = await (container.aftermath if isinstance(error, Interrupted) else container.diagnosed)(error)
            if reason is error:
                raise
            if not isinstance(error, Interrupted):
                raise reason from error
            raise Interrupted(
                f"{reason.message}; the command was running, and has run in part", output=error.output, machine_id=self.machine_id
            ) from error

    async def _kill(self, running: Running) -> None:
        try:
            await super()._kill(running)
        except Gone:
            raise
        except VersError:
            # A container that may have no further process (a fork bomb) can stop nothing by itself.
            if not await self._container.emptied():
                raise
        else:
            container = self._container
            if not (container.attached or await docker_strays.killed(container.run, running.started) or await container.emptied()):
                raise Unreachable(
                    f"the command was stopped, but {self._where} did not say that it has left nothing behind; look with `docker top`",
                    machine_id=self.machine_id,
                )

    async def _call(
        self, path: str, line: bytes, payload: bytes | None = None, *, repeat: bool = True, changes: bool = False
    ) -> tuple[bytes, bytes]:
        endings = self._container.guard.count
        try:
            return await super()._call(path, line, payload, repeat=repeat, changes=changes)
        except (Unreachable, DeadlineExceeded) as error:
            await self._container.explain_fullness(error, endings)
            await self._container.explain(error)
            raise

    # --- versions ---

    async def snapshot(self, *, name: str | None = None) -> str:
        """Commit the container's files to an image (paused meanwhile); its id. `name` becomes the image's comment."""
        return await self._container.commit("snapshot", name)

    async def restore(self, ref: str) -> str:
        """A new container with the same settings from a snapshot, or from any image; its id.

        Raises:
            Gone: the engine does not have the image.
        """
        return await self._made_of(options.reference(ref, "the snapshot"))

    async def branch(self, count: int = 1) -> list[str]:
        """New containers with this one's files as they are now; their ids. Either all are made or none.

        Raises:
            BadInput: `count` is not from 1 to `MAX_BRANCHES`.
        """
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_BRANCHES:
            raise BadInput(f"count must be a whole number from 1 to {MAX_BRANCHES}, not {count!r}")
        image = await self._container.commit("branch", None)
        made: list[str] = []
        try:
            for _ in range(count):
                made.append(await self._made_of(image))
        except BaseException:
            await self._take_back(made, image)
            raise
        return made

    async def _made_of(self, image: str) -> str:
        source = self._container
        await io.blocking(options.refuse_socket, source.shape.mounts, self._engine.socket)

        making = asyncio.ensure_future(io.blocking(lambda: self._engine.create(image, source.shape, copies=False)))
        try:
            made = await asyncio.shield(making)
        except asyncio.CancelledError:
            making.add_done_callback(self._unwanted)
            raise
        if source.remove:
            self.at(made)._container.keep_track()
        return made

    def _unwanted(self, making: asyncio.Future[str]) -> None:
        if not making.cancelled() and making.exception() is None:
            io.in_background(self._engine.remove, making.result())

    async def _take_back(self, made: list[str], image: str) -> None:
        for container in made:
            await io.blocking(self._engine.remove, container)
        await io.blocking(self._engine.remove_image, image)

    def at(self, machine_id: str) -> DockerBackend:
        """See `Snapshots.at`."""
        other = copy.copy(self)
        own = self._container
        found = options.reference(machine_id, "machine_id")
        other._container = Container(self._engine, own.shape, other._ready, found=found, remove=own.remove)
        return other

    async def delete_snapshot(self, ref: str) -> None:
        """Remove an image that `snapshot` has made.

        Raises:
            Gone: there is none.
            Denied: it was not made by this package.
            Conflict: containers or other images stand on it.
        """
        ref = options.reference(ref, "the snapshot")
        found = await io.blocking(self._engine.image, ref)
        if ((found.get("Config") or {}).get("Labels") or {}).get(options.LABEL) not in ("snapshot", "branch"):
            raise Denied(f"image {ref} is no snapshot of this package, which therefore does not remove it; use `docker rmi`")
        await io.blocking(self._engine.remove_image, ref)

    # --- the end ---

    async def delete(self) -> None:
        """Remove the container with all that runs in it. Calls fail from then on; its snapshots stay.

        Raises:
            Denied: it existed before.
        """
        await self._container.delete()

    async def close(self) -> None:
        """See `Backend.close`. With `remove` the container goes too."""
        await self._container.close()
