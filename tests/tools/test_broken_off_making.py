"""Machines whose making is broken off: the platform makes them all the same, and nobody would know of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rigs.api_front import ApiFront, Hold

from langchain_vers import BackendContext, Machine, VersToolkit
from langchain_vers._io import on_io
from langchain_vers.embedded import launcher
from langchain_vers.workers import LANE


@pytest.fixture
def front(clean: Path, vers_data: Path) -> Iterator[ApiFront]:
    server = launcher.find_running(vers_data)
    assert server is not None
    with ApiFront(server.base_url) as front:
        yield front


@pytest.fixture
def context(front: ApiFront, vers_data: Path) -> Iterator[BackendContext]:
    """By way of the front."""
    server = launcher.find_running(vers_data)
    assert server is not None
    host, port = server.ssh_endpoint
    options: dict[str, Any] = {"base_url": front.url, "api_key": server.api_key, "ca_file": server.ca_file}
    with BackendContext(**options, ssh_endpoint=f"{host}:{port}", local=False) as made:
        yield made


async def ids(context: BackendContext) -> set[str]:
    async def listed() -> set[str]:
        return {vm.vm_id for vm in await (await context.client()).list_vms()}

    return await on_io(listed())


async def created(context: BackendContext) -> str:
    return await (await context.client()).create_vm(wait_boot=True)


@pytest.mark.parametrize(
    ("name", "arguments", "end", "lane"),
    [
        ("vers_vm_create", {}, "/vm/new_root", ""),
        ("vers_vm_branch", {"count": 2}, "/vm/branch/by_vm/{vm_id}", ""),
        ("vers_vm_restore", {"commit_id": "commit"}, "/vm/from_commit", ""),
        ("bash", {"command": "true"}, "/vm/branch/by_vm/{vm_id}", "worker"),
    ],
)
async def test_a_call_that_is_cancelled_while_its_machine_is_made(
    name: str, arguments: dict[str, Any], end: str, lane: str, context: BackendContext, front: ApiFront
) -> None:
    machine = Machine(context, await on_io(created(context)))
    if name == "vers_vm_restore":
        arguments = {"commit_id": await machine.asave()}
    thread: Any = {"configurable": {"thread_id": "42"}}
    await asyncio.to_thread(context.attach, machine.vm_id, thread)
    before = await ids(context)
    tool = next(each for each in VersToolkit(context=context).get_tools() if each.name == name)
    config: Any = {"configurable": {**thread["configurable"], LANE: lane}}
    hold = front.holds["POST", end.format(vm_id=machine.vm_id)] = Hold()
    call = asyncio.ensure_future(tool.ainvoke({"type": "tool_call", "id": "1", "name": name, "args": arguments}, config))
    call.add_done_callback(lambda _: hold.reached.set())
    assert await asyncio.to_thread(hold.reached.wait, 60)
    assert not call.done(), call.result()
    call.cancel()
    await asyncio.sleep(0)
    hold.released.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await ids(context) == before
    await machine.adelete()
