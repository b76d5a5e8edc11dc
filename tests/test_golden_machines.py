"""Golden machines: built once, found again by any process, built anew when the recipe changes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from langchain_vers import BackendContext
from langchain_vers._io import run
from langchain_vers.branches import Branches
from langchain_vers.errors import BadInput, CommandFailed, DeadlineExceeded
from langchain_vers.golden_machines import agolden, fingerprint, golden
from langchain_vers.machine import Machine


@pytest.fixture
def context(clean: Path, vers_data: Path) -> Iterator[BackendContext]:
    with BackendContext(data_dir=vers_data, local=False) as made:
        yield made
        assert not {vm.labels.get("langchain-vers-golden") for vm in run(listed(made))} - {None}, "a machine was left behind"


async def listed(context: BackendContext) -> list:
    return await (await context.client()).list_vms()


async def content(context: BackendContext, commit: str, path: str = "f") -> str:
    async with Branches(context, commit) as branches:
        (machine,) = await branches.make()
        return await machine.aread_text(path)


@pytest.fixture
def name() -> str:
    return f"golden-{uuid.uuid4().hex[:8]}"


built: list[str] = []


def by_function(machine: Machine) -> None:
    built.append(machine.vm_id)
    machine.write("f", "by a function")


async def by_coroutine(machine: Machine) -> None:
    await machine.awrite("f", "by a coroutine")


def test_built_once_until_the_recipe_changes(name: str, context: BackendContext, vers_data: Path) -> None:
    first = golden(name, "echo one > f", context=context)
    assert golden(name, "echo one > f", context=context) == first
    with BackendContext(data_dir=vers_data, local=False) as other:
        assert golden(name, "echo one > f", context=other) == first
    second = golden(name, "echo two > f", context=context)
    assert asyncio.run(content(context, first)) == "one\n" and asyncio.run(content(context, second)) == "two\n"
    assert asyncio.run(content(context, name)) == "two\n"  # the tag is a name as well
    third = golden(name, "echo three >> f", context=context, base=first)
    assert asyncio.run(content(context, third)) == "one\nthree\n"
    assert len({first, second, third, golden(name, "echo three >> f", context=context, base=second)}) == 4


async def test_functions_and_several_at_once(name: str, context: BackendContext) -> None:
    built.clear()
    commits = await asyncio.gather(*(agolden(name, by_function, context=context) for _ in range(4)))
    assert len(set(commits)) == 1 and len(built) == 1
    assert await content(context, commits[0]) == "by a function"
    other = await agolden(name, by_coroutine, context=context)
    assert await content(context, other) == "by a coroutine"
    assert await agolden(name, by_function, context=context, recipe="2") not in {*commits, other}


async def test_what_cannot_be_built(name: str, context: BackendContext) -> None:
    def broken(machine: Machine) -> None:
        raise KeyError("no idea")

    with pytest.raises(CommandFailed, match="oh"):
        await agolden(name, "echo oh; exit 3", context=context)
    with pytest.raises(KeyError):
        await agolden(name, broken, context=context)
    with pytest.raises(DeadlineExceeded, match="was not built within"):
        await agolden(name, "sleep 1000", context=context, timeout=0.5)
    task = asyncio.create_task(agolden(name, "sleep 1000", context=context))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await content(context, await agolden(name, "echo now > f", context=context)) == "now\n"


def test_bad_input(name: str, context: BackendContext) -> None:
    for nonsense in ("", "a b", "a/b", "x" * 65, None, 3):
        with pytest.raises(BadInput):
            golden(nonsense, "true", context=context)  # type: ignore[arg-type]
    for recipe in (None, 3, ["true"]):
        with pytest.raises(BadInput):
            golden(name, recipe, context=context)  # type: ignore[arg-type]
    without_source = eval("lambda machine: None")
    with pytest.raises(BadInput, match="source"):
        golden(name, without_source, context=context)
    assert golden(name, without_source, context=context, recipe="1")

    async def tagged() -> None:
        client = await context.client()
        await client.create_tag(f"{name}-mine", (await client.get_tag(name)).commit_id, description="mine")

    run(tagged())
    with pytest.raises(BadInput, match="no golden machine's"):
        golden(f"{name}-mine", "true", context=context)


def test_fingerprints() -> None:
    assert fingerprint("true", None, "") == fingerprint("true", None, "")
    recipes = [
        ("true", None, ""),
        ("false", None, ""),
        ("true", "base", ""),
        ("true", None, "1"),
        (by_function, None, ""),
        (by_coroutine, None, ""),
    ]
    assert len({fingerprint(*each) for each in recipes}) == len(recipes)
