"""The HTTP routes for machines: making, looking at, freezing, storing, branching and deleting them.

Deciding and doing is left to `fleet`; what is done inside a machine has its routes in `work`.
"""

from __future__ import annotations

from starlette.responses import Response

from langchain_vers.embedded.catalog import Catalog
from langchain_vers.embedded.engine import MachineSpec
from langchain_vers.embedded.fleet import MAX_BRANCHES, Fleet, as_uuid
from langchain_vers.embedded.http import Answer, Call, Handler
from langchain_vers.embedded.requests import CommitVm, FromCommit, LabelVm, NewRoot, UpdateState, query_flag, query_number
from langchain_vers.embedded.store import Vm
from langchain_vers.errors import BadInput, Gone


class Machines:
    """The routes for what a machine is and what becomes of it."""

    def __init__(self, fleet: Fleet, ssh_port: int) -> None:
        self._fleet = fleet
        self._ssh_port = ssh_port

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler."""
        return [
            ("GET", "/vms", self.list),
            ("GET", "/vm", self.list),
            ("POST", "/vm/new_root", self.new_root),
            ("POST", "/vm/from_commit", self.from_commit),
            ("POST", "/vm/branch/by_vm/{vm_id}", self.branch_vm),
            ("POST", "/vm/branch/by_commit/{commit_id}", self.branch_commit),
            ("POST", "/vm/branch/by_tag/{tag_name}", self.branch_tag),
            ("POST", "/vm/branch/by_ref/{repo_name}/{tag_name}", self.branch_ref),
            ("POST", "/vm/{vm_or_commit_id}/branch", self.branch_any),
            ("DELETE", "/vm/{vm_id}", self.delete),
            ("GET", "/vm/{vm_id}/status", self.status),
            ("GET", "/vm/{vm_id}/metadata", self.metadata),
            ("PATCH", "/vm/{vm_id}/label", self.label),
            ("PATCH", "/vm/{vm_id}/state", self.set_state),
            ("POST", "/vm/{vm_id}/commit", self.commit),
            ("GET", "/vm/{vm_id}/ssh_key", self.ssh_key),
        ]

    def _described(self, vm: Vm) -> dict[str, object]:
        return {
            "vm_id": vm.vm_id,
            "owner_id": self._fleet.store.owner_id,
            "created_at": vm.created_at,
            "state": self._fleet.state(vm.vm_id),
        }

    def _vm(self, call: Call) -> Vm:
        return self._fleet.vm(call.uuid("vm_id", "VM"))

    async def list(self, call: Call) -> Response:
        """All VMs."""
        return Answer([{**self._described(vm), "labels": vm.labels} for vm in self._fleet.store.vms])

    async def status(self, call: Call) -> Response:
        """One VM."""
        vm = self._vm(call)
        return Answer({**self._described(vm), "labels": vm.labels})

    async def metadata(self, call: Call) -> Response:
        """One VM with where it comes from."""
        vm = self._vm(call)
        lineage = {"parent_commit_id": vm.parent_commit_id, "grandparent_vm_id": vm.grandparent_vm_id}
        return Answer({**self._described(vm), "ip": "127.0.0.1", "deleted_at": None, **lineage})

    async def new_root(self, call: Call) -> Response:
        """A VM from the base system; it has booted when the answer comes, with or without `wait_boot`."""
        query_flag(call.query, "wait_boot")
        config = call.body(NewRoot).vm_config
        if config.image_name not in {None, "default"}:
            raise BadInput("This server has no image but 'default'; leave image_name out.")
        if config.kernel_name not in {None, "default.bin"}:
            raise BadInput("This server has no kernel but 'default.bin'; leave kernel_name out.")
        spec = MachineSpec(config.vcpu_count, config.mem_size_mib, config.fs_size_mib)
        return Answer({"vm_id": await self._fleet.create(spec, labels=config.labels)}, 201)

    async def from_commit(self, call: Call) -> Response:
        """A VM from a commit, named by its id, a tag or `repository:tag`."""
        body = call.body(FromCommit)
        if [body.commit_id, body.tag_name, body.ref].count(None) != 2:
            raise BadInput("Give exactly one of commit_id, tag_name and ref.")
        if body.commit_id is not None:
            commit_id = as_uuid(body.commit_id, "commit")
        elif body.tag_name is not None:
            commit_id = self._tagged(body.tag_name)
        else:
            repository, colon, tag = (body.ref or "").partition(":")
            if not colon:
                raise BadInput("ref must be of the form repository:tag.")
            commit_id = self._tagged(tag, repository)
        return Answer({"vm_id": await self._fleet.create(MachineSpec(), commit_id=commit_id)}, 201)

    def _tagged(self, tag_name: str, repository: str | None = None) -> str:
        return Catalog.find_tag(self._fleet.store, tag_name, repository).commit_id

    async def branch_vm(self, call: Call) -> Response:
        """VMs like a VM."""
        return await self._branched_vm(call, call.uuid("vm_id", "VM"))

    async def branch_commit(self, call: Call) -> Response:
        """VMs from a commit."""
        return await self._restored(call, call.uuid("commit_id", "commit"))

    async def branch_tag(self, call: Call) -> Response:
        """VMs from the commit of a tag."""
        return await self._restored(call, self._tagged(call.text("tag_name")))

    async def branch_ref(self, call: Call) -> Response:
        """VMs from the commit of a repository's tag."""
        return await self._restored(call, self._tagged(call.text("tag_name"), call.text("repo_name")))

    async def branch_any(self, call: Call) -> Response:
        """VMs like a VM, or from a commit."""
        any_id = call.uuid("vm_or_commit_id", "VM or commit")
        if any_id in self._fleet.store.vms:
            return await self._branched_vm(call, any_id)
        if any_id in self._fleet.store.commits:
            return await self._restored(call, any_id)
        raise Gone(f"There is no VM and no commit {any_id}.")

    async def _branched_vm(self, call: Call, vm_id: str) -> Response:
        self._fleet.vm(vm_id)
        ids = await self._fleet.branch(vm_id, self._count(call), keep_paused=query_flag(call.query, "keep_paused"))
        return Answer({"vms": [{"vm_id": each} for each in ids]}, 201)

    async def _restored(self, call: Call, commit_id: str) -> Response:
        self._fleet.commit(commit_id)
        ids = await self._fleet.restore([commit_id] * self._count(call))
        return Answer({"vms": [{"vm_id": each} for each in ids]}, 201)

    @staticmethod
    def _count(call: Call) -> int:
        query_flag(call.query, "skip_wait_boot")
        return query_number(call.query, "count", 1, least=1, most=MAX_BRANCHES)

    async def delete(self, call: Call) -> Response:
        """End a VM and remove its disk."""
        vm = self._vm(call)
        await self._fleet.delete(vm.vm_id)
        return Answer({"vm_id": vm.vm_id})

    async def label(self, call: Call) -> Response:
        """Replace a VM's labels."""
        self._fleet.set_labels(self._vm(call).vm_id, call.body(LabelVm).labels)
        return Response(status_code=200)

    async def set_state(self, call: Call) -> Response:
        """Freeze or thaw a VM."""
        vm = self._vm(call)
        state = call.body(UpdateState).state.lower()
        if state not in {"paused", "running"}:
            raise BadInput("state must be Paused or Running.")
        await self._fleet.set_paused(vm.vm_id, paused=state == "paused")
        return Response(status_code=200)

    async def commit(self, call: Call) -> Response:
        """Store a VM as it is now."""
        vm = self._vm(call)
        # The body is optional on the platform, though its schema says otherwise.
        body = call.body(CommitVm) if call.raw else CommitVm()
        commit_id = await self._fleet.snapshot(
            vm.vm_id,
            commit_id=None if body.commit_id is None else as_uuid(body.commit_id, "commit"),
            name=body.name,
            description=body.description,
            keep_paused=query_flag(call.query, "keep_paused"),
        )
        return Answer({"commit_id": commit_id}, 201)

    async def ssh_key(self, call: Call) -> Response:
        """The private key that opens the VM, and the port of the SSH-over-TLS front."""
        return Answer({"ssh_private_key": self._vm(call).client_key, "ssh_port": self._ssh_port})
