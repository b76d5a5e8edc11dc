"""Machines that nobody uses are paused, and resumed by whoever uses them next.

Which of this process's machines have had no call for how long is known here, one `Rest` for each of them. A machine is left alone while a
call or a commit of this process is under way, and while anything that a call of whichever process has started still runs on it: a
background job, a server that a command has left behind, another process's command. A machine that was paused here says so in a label, so
that every process resumes it when it is used; one that a person or `vers_vm_state` has paused has no such label, and stays as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from langchain_vers.backends.gate import Gate
from langchain_vers.backends.sessions import RemoteProcess, Session
from langchain_vers.errors import BadInput, Gone, VersError
from langchain_vers.platform.client import VersClient
from langchain_vers.platform.models import VM

if TYPE_CHECKING:
    from langchain_vers.backends.vers import VersBackend

IDLE_LABEL = "langchain-vers-idle"
"""On a VM that was paused because it was idle."""
LOOK_SECONDS = 30.0
RESUME_SECONDS = 120.0
logger = logging.getLogger("langchain_vers")

# What a call starts carries its mark. A session that waits for its call has one, too, but neither a log nor a job's folder.
_LOOK = r"""
d=${TMPDIR:-/tmp}/vers-$(id -u)
for m in $(grep -ahso 'VERS_CALL=[0-9a-f]*' /proc/[0-9]*/environ | sort -u); do
  m=${m#VERS_CALL=}
  [ "$m" != "$VERS_CALL" ] || continue
  if [ -e "$d/$m.log" ] || [ -d "$d/jobs/$m" ]; then exit 3; fi
done
"""


def check_seconds(idle_pause: float | None) -> float | None:
    """The number of seconds after which idle machines are paused, None for never.

    Raises:
        BadInput: it is no such number.
    """
    if idle_pause is None:
        return None
    if isinstance(idle_pause, bool) or not isinstance(idle_pause, int | float) or not (math.isfinite(idle_pause) and idle_pause > 0):
        raise BadInput(f"idle_pause must be a number of seconds above 0, or None to pause no machine, not {idle_pause!r}")
    return float(idle_pause)


async def wake(client: VersClient, vm: VM) -> bool:
    """Resume a VM that was paused because it was idle, and take its label off; whether it was one. Others stay as they are."""
    if IDLE_LABEL not in (vm.labels or {}):
        return False
    if vm.state == "paused":
        await client.set_vm_state(vm.vm_id, "running")
        vm = await client.wait_until_running(vm.vm_id, RESUME_SECONDS)
    await _unlabel(client, vm)
    return True


async def set_state(client: VersClient, vm_id: str, state: str) -> None:
    """Pause or resume a VM because somebody said so: it is nothing that is undone by itself any more."""
    await _unlabel(client, await client.get_vm(vm_id))
    await client.set_vm_state(vm_id, state)


async def _unlabel(client: VersClient, vm: VM) -> None:
    labels = dict(vm.labels or {})
    if labels.pop(IDLE_LABEL, None) is not None:
        await client.label_vm(vm.vm_id, labels)


class Rest:
    """When a machine was used last by this process, and its pauses. Made and used on the I/O thread.

    `gate` orders the pause with commits and with calls that change a versioned machine.
    """

    def __init__(self, backend: VersBackend, client: VersClient, gate: Gate, seconds: float) -> None:
        self.asleep = False
        """Whether this process has found or made it paused, and not used it since."""
        self._backend = backend.unwatched()
        self._client = client
        self._gate = gate
        self._seconds = seconds
        self._calls = 0
        self._closed = False
        self._used = 0.0
        self._pausing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def session(self, take: Callable[[], Awaitable[Session]]) -> Session:
        """A session for a call, of a machine that is awake; the machine counts as used until the session is closed."""
        self._calls += 1
        try:
            if self.asleep or self._pausing.locked():
                async with self._pausing:
                    if self.asleep:
                        with contextlib.suppress(Gone):  # the call itself meets it, and says what can be done
                            await wake(self._client, await self._client.get_vm(self._backend.machine_id))
                        self.asleep = False
            session = await take()
        except BaseException:
            self._leave()
            raise
        process = cast("RemoteProcess", session.process)
        given_back = process.on_close

        def closed() -> None:
            self._leave()
            given_back()

        process.on_close = closed
        return session

    def _leave(self) -> None:
        self._calls -= 1
        self._used = asyncio.get_running_loop().time()
        if self._timer is None:
            self._wait(self._seconds)

    def _wait(self, seconds: float) -> None:
        if not self._closed:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        """The time is up; if the machine was used meanwhile, it begins anew."""
        left = self._used + self._seconds - asyncio.get_running_loop().time()
        if self._calls or self._gate.busy or left > 0:
            self._wait(left if left > 0 else self._seconds)
            return
        self._task = asyncio.get_running_loop().create_task(self._rest())

    async def _rest(self) -> None:
        try:
            async with self._gate.commit(), self._pausing:
                self.asleep = await self._paused()
        except Gone:
            self.asleep = True  # for good
        except VersError as error:
            logger.info("VM %s is idle and could not be paused: %s", self._backend.machine_id, error)
        if self.asleep:
            self._timer = None
        else:
            self._wait(self._seconds)

    async def _paused(self) -> bool:
        """Pause the machine if nothing is in the way; whether it sleeps now."""
        machine_id = self._backend.machine_id
        vm = await self._client.get_vm(machine_id)
        if vm.state != "running":
            await self._backend.hang_up()
            return True  # another process, or a person, was first: whoever uses it next looks which
        if (await self._backend.exec(_LOOK, cwd="/", timeout=LOOK_SECONDS)).exit_code != 0 or self._calls:
            return False
        await self._client.label_vm(machine_id, {**(vm.labels or {}), IDLE_LABEL: "1"})
        try:
            if self._calls:
                await _unlabel(self._client, await self._client.get_vm(machine_id))
                return False
            await self._client.set_vm_state(machine_id, "paused")
        except VersError:
            await _unlabel(self._client, await self._client.get_vm(machine_id))
            raise
        await self._backend.hang_up()
        logger.info("VM %s was not used for %g s and is paused", machine_id, self._seconds)
        return True

    async def close(self) -> None:
        """No pause from now on; one that is under way is broken off."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
