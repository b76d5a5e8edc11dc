"""A bubblewrap sandbox whose changes are kept apart from its workspace, and can be versioned: a machine made of layers.

The workspace is never written. What commands change in it, and in their home, lies in a folder of the machine (overlayfs: a file that is
there hides the one below; a mark hides one that was deleted), so a snapshot is a copy of the changes and costs as much as these:

    machines/<machine id>/{upper,work,home,copies}    what a machine has changed; `below` and `merged` are where its sandbox mounts
    snapshots/<reference>/{upper,home,copies}         the same as it was once; never written again

The workspace must not be changed while machines stand on it: that changes what all of them see, snapshots included. /tmp and processes
are no part of a machine's versions.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from langchain_vers._io import io
from langchain_vers.backends import jail
from langchain_vers.backends.base import Snapshots
from langchain_vers.backends.bubblewrap import BubblewrapBackend, run_tool
from langchain_vers.backends.environment import Secret
from langchain_vers.backends.own_folder import AS_ROOT
from langchain_vers.backends.paths import Mount
from langchain_vers.backends.sandbox import Limits, Sandbox
from langchain_vers.errors import BadInput, Conflict, Gone

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_VERSIONED = ("upper", "home", "copies")
# $1: the machine's folder, $2: the workspace. Names that need no quoting in mount options, by binding the workspace first.
_MOUNT = """
set -e
cd "$1"
mount --rbind "$2" below
mount -t overlay overlay -o lowerdir=below,upperdir=upper,workdir=work,userxattr merged
shift 2
exec "$@"
"""


class LayeredBubblewrapBackend(BubblewrapBackend, Snapshots):
    """As `BubblewrapBackend`, but the workspace stays as it is, and what changes is a machine that can be snapshotted and branched.

    Args:
        workspace: the folder of this machine that is below everything; None: an empty one.
        machine_id: a machine that exists; None: a new one, made with the first call.
        state: the folder of this machine where machines and snapshots are kept; they stay until they are deleted.
        mounts: as for `BubblewrapBackend`. Copies are the machine's, and versioned with it.
        env, inherit, network, limits: as for `BubblewrapBackend`.

    Raises:
        BadInput: a machine's name that cannot be one, or mounts that make no sense.
        Gone: with the first call: there is no such machine.
        Conflict: with the first call: another process, or another backend of this one, works on the machine.
    """

    def __init__(
        self,
        workspace: str | os.PathLike[str] | None = None,
        *,
        machine_id: str | None = None,
        state: str | os.PathLike[str] | None = None,
        mounts: Sequence[Mount] = (),
        env: Mapping[str, str | Secret] | None = None,
        inherit: Sequence[str] = (),
        network: bool = False,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(workspace, mounts=mounts, env=env, inherit=inherit, network=network, limits=limits)
        self._state = Path(state).absolute() if state is not None else _default_state()
        self._new = machine_id is None
        self.machine_id: str = _checked("machine", machine_id or _new_name())
        self._lock: int | None = None

    def __repr__(self) -> str:
        return f"LayeredBubblewrapBackend({self._workspace!r}, machine_id={self.machine_id!r})"

    @property
    def _machine(self) -> Path:
        return self._state / "machines" / self.machine_id

    # --- the sandbox ---

    async def _start(self) -> Sandbox:
        await io.blocking(self._claim)
        return await super()._start()

    def _claim(self) -> None:
        """Make the machine ours, and make it at all if it is new. Blocks."""
        if self._lock is not None:
            return
        if self._new:
            self._state.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in (*_VERSIONED, "work", "below", "merged"):
                (self._machine / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        self._lock = self._locked()
        self._new = False

    def _locked(self) -> int:
        try:
            lock = os.open(self._machine / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            raise self._gone() from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Conflict(
                f"machine {self.machine_id} is in use by another backend; close that first", machine_id=self.machine_id
            ) from None
        return lock

    def _gone(self) -> Gone:
        return Gone(
            f"there is no machine {self.machine_id} in {self._state}; restore one from a snapshot, or make a new one",
            machine_id=self.machine_id,
        )

    def _made_of(self, own: str) -> jail.Jail:
        found = super()._made_of(own)
        self._below = found.workspace
        return replace(found, workspace=str(self._machine / "merged"), home=str(self._machine / "home"))

    def _copies(self, own: str) -> str:
        return str(self._machine / "copies")

    def _before(self) -> Sequence[str]:
        return [*AS_ROOT, "--mount", "sh", "-c", _MOUNT, "sh", str(self._machine), self._below]

    def _grows(self, made_of: jail.Jail) -> dict[str, str]:
        ours = str(self._machine)
        others = {bind.guest: bind.host for bind in made_of.binds if bind.mode == "rw" and not bind.host.startswith(f"{ours}/")}
        return {jail.WORKSPACE: ours, **others}

    async def close(self) -> None:
        """End the sandbox. The machine stays, as it was written."""
        await super().close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def delete(self) -> None:
        """Delete the machine, and close. Its snapshots stay."""
        await self.close()
        if self._new:
            return
        lock = await io.blocking(self._locked)
        try:
            await io.blocking(_discard, self._machine)
        finally:
            os.close(lock)

    # --- versions ---

    async def snapshot(self, *, name: str | None = None) -> str:
        """See `Snapshots.snapshot`: what the machine has changed, and its home. Its processes are stopped while it is copied.

        Raises:
            BadInput: the name cannot be one, or is taken.
            Conflict: processes could not be stopped.
        """
        ref = _checked("snapshot", name or _new_name())
        target = self._state / "snapshots" / ref
        if target.exists():
            raise BadInput(f"there is a snapshot {ref} already; give another name", machine_id=self.machine_id)
        await self._copied([target])
        return ref

    async def restore(self, ref: str) -> str:
        """See `Snapshots.restore`.

        Raises:
            Gone: there is no such snapshot.
        """
        source = self._state / "snapshots" / _checked("snapshot", ref)
        if not source.is_dir():
            raise Gone(f"there is no snapshot {ref} in {self._state}", machine_id=self.machine_id)
        machine_id = _new_name()
        await io.blocking(_copy, source, [self._state / "machines" / machine_id])
        return machine_id

    async def branch(self, count: int = 1) -> list[str]:
        """See `Snapshots.branch`."""
        if count < 1:
            raise BadInput(f"the number of branches must be at least 1, not {count}", machine_id=self.machine_id)
        names = [_new_name() for _ in range(count)]
        await self._copied([self._state / "machines" / name for name in names])
        return names

    def at(self, machine_id: str) -> Self:
        """See `Snapshots.at`."""
        return type(self)(
            self._workspace,
            machine_id=machine_id,
            state=self._state,
            mounts=self._mounts,
            env=self.environment,
            inherit=self._inherit,
            network=self._network,
            limits=self._limits,
        )

    async def delete_snapshot(self, ref: str) -> None:
        """Delete a snapshot. Machines that were restored from it stay."""
        source = self._state / "snapshots" / _checked("snapshot", ref)
        if source.exists():
            await io.blocking(_discard, source)

    async def _copied(self, targets: Sequence[Path]) -> None:
        sandbox = await self._running()
        await sandbox.frozen(lambda: _copy(self._machine, targets))


def _default_state() -> Path:
    """Where the user's programs keep what is no setting, by the XDG base directory specification."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(home, "langchain-vers", "bubblewrap")


def _new_name() -> str:
    return f"bw-{secrets.token_hex(8)}"


def _checked(what: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} cannot name a {what}: use up to 100 letters, digits, and any of _ . - after the first")
    return name


def _copy(source: Path, targets: Sequence[Path]) -> None:
    """Copies of what is versioned of a machine or snapshot; each is there whole, or not at all. Blocks."""
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        making = target.with_name(f".{target.name}.new")
        making.mkdir(mode=0o755)
        try:
            run_tool(*AS_ROOT, "cp", "-a", "--reflink=auto", "--", *(str(source / name) for name in _VERSIONED), str(making))
            for name in ("work", "below", "merged"):
                (making / name).mkdir()
            making.rename(target)
        except BaseException:
            _discard(making)
            raise


def _discard(folder: Path) -> None:
    """Remove a machine or snapshot: at once out of sight, then its files. Blocks."""
    gone = folder.with_name(f".{folder.name}.gone")
    folder.rename(gone)
    run_tool(*AS_ROOT, "rm", "-rf", "--one-file-system", "--", str(gone))
    shutil.rmtree(gone, ignore_errors=True)
