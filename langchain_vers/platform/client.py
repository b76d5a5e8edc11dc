"""`VersClient`: the Vers platform's HTTP API with types, time limits, retries and errors that say what to do.

Async only; the package's I/O thread runs it. The operations stand in `machines` (VMs, commands, files) and `catalogue` (commits, tags,
repositories, settings), how a request is sent in `http`, who asks and where in `credentials`. SSH is `tunnel`'s business.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Self

from langchain_vers.errors import DeadlineExceeded, Gone
from langchain_vers.platform import models
from langchain_vers.platform.catalogue import CatalogueCalls
from langchain_vers.platform.machines import MachineCalls

_FIRST_POLL_SECONDS = 0.1
_LAST_POLL_SECONDS = 2.0
_POLL_GROWTH = 1.5


class VersClient(MachineCalls, CatalogueCalls):
    """The platform's API. Connections open with the first request; `aclose()` or `async with` closes them. For one event loop.

    Args:
        credentials: finds the key, anew for each request.
        endpoints: where the API is.
        timeout: seconds for one attempt.
        deadline: seconds for all attempts of one call with the pauses between them, unless the call says otherwise.
        retries: how many times a request that is safe to repeat is repeated.
        backoff: seconds of the first pause; the later ones grow.
        transport: what httpx sends with, instead of its own.

    Arguments that mean the same in every method; None is always the server's default:

    - `deadline`: seconds for the whole call, with its repetitions.
    - `count`: how many VMs; by default one.
    - `keep_paused`: whether the VM stays paused after it was committed or branched. By default it goes on.
    - `skip_wait_boot`: whether a VM that is still booting is an error at once. By default the server waits for it.
    - `wait_boot`: whether the answer comes only when the new VM has booted.
    - `limit`, `offset`: how many entries a list has at most, and how many are left out in front of them.

    Every method may raise:

        - `Denied`: there is no key, or it is not good for this.
        - `Gone`: there is no such VM, commit, tag or repository.
        - `Conflict`: it is in use, or not in a state for this.
        - `BadInput`: an id or a name cannot stand in a URL, or the server refuses the request as senseless.
        - `RateLimited`, `ServerFault`, `Unsupported`: what the server said, after the retries.
        - `Unreachable`: no answer. `DeadlineExceeded`: none in time.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()

    async def wait_until_running(self, vm_id: str, deadline: float = 120.0) -> models.VM:
        """Ask for a VM's state, at growing intervals, until it runs.

        Args:
            vm_id: which.
            deadline: seconds to wait at most.

        Raises:
            Gone: the VM is dead, or there is no such VM.
            DeadlineExceeded: it does not run in time; the message names its last state.

        """
        end = time.monotonic() + deadline
        pause = _FIRST_POLL_SECONDS
        state: str = "unknown"
        while (left := end - time.monotonic()) > 0:
            try:
                vm = await self.get_vm(vm_id, deadline=left)
            except DeadlineExceeded:
                break
            state = vm.state
            if vm.state == models.VmState.RUNNING:
                return vm
            if vm.state == models.VmState.DEAD:
                msg = f"The VM {vm_id} is dead; create a new one or restore one from a commit."
                raise Gone(msg, machine_id=vm_id)
            await asyncio.sleep(min(pause, max(0.0, end - time.monotonic())))
            pause = min(pause * _POLL_GROWTH, _LAST_POLL_SECONDS)
        msg = f"The VM {vm_id} did not run within {deadline:g} s (state: {state[:60]}); wait longer, or resume it if it is paused."
        raise DeadlineExceeded(msg, machine_id=vm_id)
