"""Vers VMs for the command line of Deep Agents: `dcode --sandbox vers`.

The program finds `VersProvider` by the entry-point group `deepagents_code.sandbox_providers` when this package is installed beside it with
the extra `deepagents`. Where the platform is, is found as everywhere (see `BackendContext`), or said in the program's own configuration:

    [sandboxes.providers.vers]
    class_path = "langchain_vers.integrations.deepagents_code:VersProvider"
    working_dir = "/root"
    supports_snapshot_name = true
    params = { base_url = "https://vers.example/api/v1", mem_size_mib = 4096 }
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from deepagents_code.integrations.sandbox_provider import (
    SandboxError,
    SandboxNotFoundError,
    SandboxProvider,
    SandboxProviderMetadata,
)

from langchain_vers._io import run
from langchain_vers.branches import Branches
from langchain_vers.context import BackendContext
from langchain_vers.errors import BadInput, Gone, VersError
from langchain_vers.integrations.deepagents import VersSandbox
from langchain_vers.platform.models import VmCreateVmConfig

BOOT_SECONDS = 120.0
LABELS = {"made-by": "deepagents-code"}
"""Of the VMs that are made here."""


class VersProvider(SandboxProvider):  # type: ignore[misc]  # of a package that is not there when types are checked
    """Makes, finds and deletes VMs. A sandbox's id is its VM's."""

    def __init__(self) -> None:
        self._sandboxes: dict[str, VersSandbox] = {}

    @property
    def metadata(self) -> SandboxProviderMetadata:
        """What the program wants to know without making anything; a snapshot is a commit, a tag, or `repository:tag`."""
        return SandboxProviderMetadata(name="vers", working_dir="/root", supports_sandbox_id=True, supports_snapshot_name=True)

    def get_or_create(
        self,
        *,
        sandbox_id: str | None = None,
        snapshot: str | None = None,
        timeout: float = BOOT_SECONDS,
        vcpu_count: int | None = None,
        mem_size_mib: int | None = None,
        fs_size_mib: int | None = None,
        **options: Any,  # noqa: ANN401  # those of the context
    ) -> VersSandbox:
        """A sandbox on the VM that is named by its id, a unique beginning of it, or a label; else on a new one, which begins as `snapshot`.

        All threads begin on it, and none works on this machine. A paused VM is resumed. `timeout`: seconds until it runs. Sizes are those
        of a new VM; `options` are those of `BackendContext`.

        Raises:
            SandboxNotFoundError: there is no such VM, commit or tag.
            SandboxError: the options make no sense; or the platform does not answer, or refuses.
        """
        size = {"vcpu_count": vcpu_count, "mem_size_mib": mem_size_mib, "fs_size_mib": fs_size_mib}
        with _translated():
            try:
                sandbox = VersSandbox(local=False, **options)
            except TypeError as error:
                raise BadInput(f"there is an option that no sandbox of Vers has: {error}") from None
            try:
                sandbox = run(self._begun(sandbox, sandbox_id, snapshot, size, timeout))
            except BaseException:
                sandbox.close()
                raise
        self._sandboxes[sandbox.id] = sandbox
        return sandbox

    def delete(self, *, sandbox_id: str, **options: Any) -> None:  # noqa: ANN401  # those of the context
        """Delete a VM, and give back the connections to it; nothing if it is gone already.

        Raises:
            SandboxError: the platform does not answer, or refuses.
        """
        sandbox = self._sandboxes.pop(sandbox_id, None)
        with _translated(), sandbox or VersSandbox(local=False, **options) as made:
            run(_deleted(made.context, sandbox_id))

    async def _begun(
        self, sandbox: VersSandbox, vm: str | None, snapshot: str | None, size: dict[str, int | None], timeout: float
    ) -> VersSandbox:
        context = sandbox.context
        client = await context.client()
        if vm is not None:
            vm_id = await context.resolve_vm(vm)
            if str((await client.get_vm(vm_id)).state) == "paused":
                await client.set_vm_state(vm_id, "running")
            await client.wait_until_running(vm_id, deadline=timeout)
            return sandbox.on(vm_id)
        if snapshot is not None:
            async with Branches(context, snapshot, labels=LABELS) as branches:
                [machine] = await branches.make()
                branches.keep(machine)
            return sandbox.on(machine.vm_id)
        vm_id = await client.create_vm(VmCreateVmConfig(**size, labels=LABELS), wait_boot=True)
        try:
            await client.wait_until_running(vm_id, deadline=timeout)
        except BaseException:
            await _deleted(context, vm_id)
            raise
        return sandbox.on(vm_id)


async def _deleted(context: BackendContext, vm_id: str) -> None:
    try:
        await (await context.client()).delete_vm(vm_id)
    except Gone:
        return
    context.forget_vm(vm_id)


@contextmanager
def _translated() -> Iterator[None]:
    """Our errors as those that the program knows."""
    try:
        yield
    except Gone as error:
        raise SandboxNotFoundError(str(error)) from error
    except VersError as error:
        raise SandboxError(str(error)) from error
