"""Branches for a while, and the machine that programs get in hand: on a real server, with what can go wrong."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_vers import BackendContext, Secret
from langchain_vers._io import run
from langchain_vers.branches import Branches
from langchain_vers.errors import BadInput, CommandFailed, Gone, Missing, VersError
from langchain_vers.machine import Machine


@pytest.fixture
def context(clean: Path, vers_data: Path) -> Iterator[BackendContext]:
    with BackendContext(data_dir=vers_data, local=False, env={"GREETING": "hello"}) as made:
        before = ids(made)
        yield made
        for vm_id in ids(made) - before:
            Machine(made, vm_id).delete()


@pytest.fixture
def machine(context: BackendContext) -> Machine:
    return Machine(context, run(created(context)))


async def created(context: BackendContext) -> str:
    return await (await context.client()).create_vm(wait_boot=True)


async def listed(context: BackendContext) -> dict[str, dict[str, str]]:
    return {vm.vm_id: vm.labels for vm in await (await context.client()).list_vms()}


def ids(context: BackendContext) -> set[str]:
    return set(run(listed(context)))


def test_a_machine_in_hand(machine: Machine) -> None:
    machine.write("d/f", "one\n")
    assert machine.read("d/f") == b"one\n" and machine.read_text("d/f") == "one\n"
    assert machine.exists("d") and not machine.exists("e")
    done = machine.run("cat; echo $GREETING $OTHER; exit 3", cwd="d", stdin="given ", env={"OTHER": "you"})
    assert (done.exit_code, done.output, done.ok) == (3, "given hello you\n", False)
    with pytest.raises(CommandFailed, match=r"ended with exit code 3; its last output: oh") as failed:
        machine.run("echo oh; exit 3", check=True)
    assert failed.value.result.output == "oh\n" and failed.value.machine_id == machine.vm_id
    assert machine.run("sleep 1000", timeout=0.2).timed_out
    with pytest.raises(Missing):
        machine.read("nothing")
    with pytest.raises(BadInput):
        machine.read("a\0b")
    machine.delete()
    with pytest.raises(Gone):
        machine.run("true")


def test_no_secret_is_in_what_it_says(clean: Path, vers_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = "a-word-that-nobody-may-read"
    monkeypatch.setenv("SPELL", value)
    with BackendContext(data_dir=vers_data, local=False, env={"SPELL": Secret("SPELL")}) as context:
        machine = Machine(context, run(created(context)))
        try:
            assert value not in machine.run("echo $SPELL").output
            with pytest.raises(CommandFailed) as failed:
                machine.run(f"echo $SPELL {value}; exit 3", check=True)
            assert value not in str(failed.value) and value not in failed.value.result.output
        finally:
            machine.delete()


async def test_it_has_an_async_face(context: BackendContext) -> None:
    machine = Machine(context, await asyncio.to_thread(run, created(context)))
    await machine.awrite("f", b"\xff")
    assert await machine.aread("f") == b"\xff" and await machine.aread_text("f") == "\ufffd" and await machine.aexists("f")
    assert (await machine.arun("echo hi")).output == "hi\n"
    async with Branches(context, await machine.asave()) as branches:
        (branch,) = await branches.make()
        assert await branch.aread("f") == b"\xff"
    await machine.adelete()


@pytest.mark.parametrize("source", ["vm", "prefix", "commit", "tag", "repository"])
async def test_branches_of_anything(source: str, context: BackendContext, machine: Machine) -> None:
    await machine.awrite("f", "one")

    async def named() -> str:
        client = await context.client()
        commit = "" if source in {"vm", "prefix"} else await client.commit_vm(machine.vm_id)
        if source == "tag":
            await client.create_tag(f"t-{machine.vm_id[:8]}", commit)
        if source == "repository":
            await client.create_repository(f"r-{machine.vm_id[:8]}")
            await client.create_repository_tag(f"r-{machine.vm_id[:8]}", "latest", commit)
        names = {"vm": machine.vm_id, "prefix": machine.vm_id[:13], "commit": commit, "tag": f"t-{machine.vm_id[:8]}"}
        return names.get(source, f"r-{machine.vm_id[:8]}:latest")

    name = await asyncio.to_thread(run, named())
    async with Branches(context, name, labels={"purpose": "test"}) as branches:
        made = await branches.make(2)
        assert [await one.aread("f") for one in made] == [b"one", b"one"]
        assert (made[0].commit is None) == (source in {"vm", "prefix"})
        labels = await asyncio.to_thread(run, listed(context))
        assert all(labels[one.vm_id]["purpose"] == "test" for one in made)
        await branches.delete(made[0])
        assert branches.machines == made[1:]
        (kept,) = await branches.make()
        branches.keep(kept)
    assert set(await asyncio.to_thread(run, listed(context))) & {*(one.vm_id for one in made), kept.vm_id} == {kept.vm_id}


async def test_what_is_not_there_is_said(context: BackendContext, machine: Machine) -> None:
    for name, error in {
        "0" * 8 + "-0000-0000-0000-" + "0" * 12: "There is no commit",
        "no such thing": "no tag and no VM",
        "a:b": "epositor",
    }.items():
        async with Branches(context, name) as branches:
            with pytest.raises(Gone, match=error):
                await branches.make()
    for nonsense in ("", " ", 3):
        with pytest.raises(BadInput):
            Branches(context, nonsense)  # type: ignore[arg-type]
    async with Branches(context, machine.vm_id) as branches:
        for count in (0, -1, True):
            with pytest.raises(BadInput):
                await branches.make(count)


async def test_an_exception_and_branches_that_are_gone(context: BackendContext, machine: Machine) -> None:
    with pytest.raises(KeyError):
        async with Branches(context, machine.vm_id) as branches:
            one, two = await branches.make(2)
            await one.adelete()
            raise KeyError
    assert not set(await asyncio.to_thread(run, listed(context))) & {one.vm_id, two.vm_id}


async def test_one_that_is_being_made_when_the_task_is_cancelled(context: BackendContext, machine: Machine) -> None:
    before = set(await asyncio.to_thread(run, listed(context)))
    branches = Branches(context, machine.vm_id)
    making = asyncio.Event()

    async def work() -> None:
        async with branches:
            making.set()
            await branches.make(3)

    for _ in range(5):
        making.clear()
        task = asyncio.create_task(work())
        await making.wait()
        await asyncio.sleep(0)  # it has been handed over, and is not there yet
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert set(await asyncio.to_thread(run, listed(context))) == before


async def test_a_platform_that_refuses_to_delete_is_no_secret(context: BackendContext, machine: Machine, vers_data: Path) -> None:
    with pytest.raises(VersError, match="could not be deleted, and are still there"):
        async with Branches(context, machine.vm_id) as branches:
            (branch,) = await branches.make()
            client = await asyncio.to_thread(run, context.client())
            right, client.credentials = client.credentials, type(client.credentials)("wrong")
    client.credentials = right
    await branch.adelete()


INTERRUPTED = """
    import asyncio, sys
    from langchain_vers import BackendContext
    from langchain_vers._signals import attentive
    from langchain_vers.branches import Branches

    async def main():
        async with BackendContext(data_dir=sys.argv[1], local=False) as context:
            async with Branches(context, sys.argv[2], labels={"run": "interrupted"}) as branches:
                one, *_ = await branches.make(4)
                print("working", flush=True)
                await one.arun("sleep 1000")

    asyncio.run(attentive(main()))  # the one signal must not be lost by a loop that is about to wait
"""


def test_ctrl_c_leaves_no_branch(context: BackendContext, machine: Machine, vers_data: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(INTERRUPTED), str(vers_data), machine.vm_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert "interrupted" not in {labels.get("run") for labels in run(listed(context)).values()}


LEFT_TO_THE_END = """
    import sys
    from langchain_vers import BackendContext
    from langchain_vers._io import run
    from langchain_vers.branches import Branches

    branches = Branches(BackendContext(data_dir=sys.argv[1], local=False), sys.argv[2], labels={"run": "left to the end"})
    run(branches.__aenter__())
    run(branches.make(2))
"""


def test_branches_that_were_left_are_deleted_before_the_interpreter_exits(
    context: BackendContext, machine: Machine, vers_data: Path
) -> None:
    """When threads take no more calls, and other connections are being closed."""
    command = [sys.executable, "-c", textwrap.dedent(LEFT_TO_THE_END), str(vers_data), machine.vm_id]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "could not" not in ended.stderr and "Traceback" not in ended.stderr
    assert "left to the end" not in {labels.get("run") for labels in run(listed(context)).values()}


def test_branches_that_cannot_be_deleted_at_the_end_are_named(context: BackendContext, machine: Machine, vers_data: Path) -> None:
    closed = """
    from langchain_vers.errors import Unreachable

    async def no_client():
        raise Unreachable("the platform could not be reached")

    branches._context.client = no_client
    print(*(each.vm_id for each in branches.machines), flush=True)
"""
    failing = textwrap.dedent(LEFT_TO_THE_END) + textwrap.dedent(closed)
    ended = subprocess.run(
        [sys.executable, "-c", failing, str(vers_data), machine.vm_id], capture_output=True, text=True, timeout=60, check=True
    )
    assert all(vm_id in ended.stderr for vm_id in ended.stdout.split())
    assert "could not be deleted, and are still there" in ended.stderr
