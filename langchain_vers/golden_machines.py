"""Golden machines: built once by a recipe, committed, tagged, and reused until the recipe changes.

    commit = golden("django", "apt-get install -y git && git clone ...", context=context)

The tag's description holds the recipe's fingerprint, so that any process finds what another one has built.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import re
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from langchain_vers._io import on_io
from langchain_vers._loops import called, run_on_a_loop
from langchain_vers._process import kept
from langchain_vers.branches import Branches
from langchain_vers.errors import BadInput, Conflict, DeadlineExceeded, Gone
from langchain_vers.machine import Machine

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext

Setup = str | Callable[[Machine], Awaitable[None] | None]
"""A recipe: a shell script, or a function that is given the machine."""
LABEL = "langchain-vers-golden"
"""The label of a VM that is being built: the golden machine's name."""
BUILD_SECONDS = 3600.0
"""Seconds that a build may take by default."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DESCRIPTION = "langchain-vers recipe "


def golden(
    name: str,
    setup: Setup,
    *,
    context: BackendContext,
    base: str | None = None,
    recipe: str = "",
    timeout: float = BUILD_SECONDS,
) -> str:
    """The commit of a machine that was built by a recipe; it is built now if that recipe was not built under this name before.

    Commits of earlier recipes stay: results may refer to them.

    Args:
        name: the tag that it gets: letters, digits, '.', '_', '-', at most 64 of them.
        setup: a shell script, which must end with exit code 0, or a function, sync or async, that is given the `Machine`.
        context: whose platform is used.
        base: what the recipe begins with: a commit, a tag or a VM (see `Branches`); None: the platform's base image.
        recipe: what else the result depends on, such as a version or the content of files that a function copies: of a function only its
            own source is known.
        timeout: seconds that building may take.

    Raises:
        BadInput: the name, or a function whose source cannot be found and that has no `recipe`.
        CommandFailed: the script failed.
        DeadlineExceeded: it took too long. Anything that the function raises.
            Nothing is left of a machine that could not be built.
    """
    return run_on_a_loop(agolden(name, setup, context=context, base=base, recipe=recipe, timeout=timeout))


async def agolden(
    name: str,
    setup: Setup,
    *,
    context: BackendContext,
    base: str | None = None,
    recipe: str = "",
    timeout: float = BUILD_SECONDS,
) -> str:
    """See `golden`."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadInput(f"a golden machine's name is a tag of 1 to 64 letters, digits, '.', '_' and '-', not {name!r}")
    wanted = fingerprint(setup, base, recipe)
    async with _alone(name):
        known = await on_io(_known(context, name, wanted))
        if known is not None:
            return known
        async with Branches(context, base, labels={LABEL: name}) as branches:
            (machine,) = await branches.make()
            try:
                async with asyncio.timeout(timeout) as limit:
                    if isinstance(setup, str):
                        await machine.arun(setup, timeout=None, check=True)
                    else:
                        await called(setup, machine)
            except TimeoutError:
                if limit.expired():
                    raise DeadlineExceeded(
                        f"the golden machine {name} was not built within {timeout:g} s; nothing was kept of it"
                    ) from None
                raise
            commit = await machine.asave(f"{LABEL}/{name}")
        return await on_io(_tagged(context, name, wanted, commit))


def fingerprint(setup: Setup, base: str | None, recipe: str) -> str:
    """What tells one recipe from another: a SHA-256 in hex. Pure.

    Raises:
        BadInput: the source of a function cannot be found, and there is no `recipe`; or it is no recipe at all.
    """
    if isinstance(setup, str):
        text = setup
    elif callable(setup):
        try:
            text = textwrap.dedent(inspect.getsource(setup))
        except (OSError, TypeError):
            if not recipe:
                raise BadInput(
                    "the source of the setup function cannot be found; say with recipe=... what would change its result"
                ) from None
            text = ""
    else:
        raise BadInput(f"a recipe is a shell script or a function that is given the machine, not {setup!r}")
    return hashlib.sha256(json.dumps([isinstance(setup, str), text, base, recipe]).encode()).hexdigest()


@asynccontextmanager
async def _alone(name: str) -> AsyncIterator[None]:
    """Around the building of one name: others of this process wait, whichever loop they are of."""
    held: list[asyncio.Lock] = []

    async def take() -> None:
        locks: WeakValueDictionary[tuple[int, str], asyncio.Lock] = kept("golden", WeakValueDictionary)
        lock = locks.setdefault((id(asyncio.get_running_loop()), name), asyncio.Lock())
        await lock.acquire()
        held.append(lock)

    async def release() -> None:
        for lock in held:
            lock.release()

    try:
        await on_io(take())
        yield
    finally:
        await on_io(release())


async def _known(context: BackendContext, name: str, wanted: str) -> str | None:
    """The commit that has the tag, if it is of the wanted recipe."""
    try:
        tag = await (await context.client()).get_tag(name)
    except Gone:
        return None
    if not (tag.description or "").startswith(_DESCRIPTION):
        raise BadInput(f"there is a tag {name} already that is no golden machine's; choose another name, or delete the tag")
    return tag.commit_id if tag.description == f"{_DESCRIPTION}{wanted}" else None


async def _tagged(context: BackendContext, name: str, wanted: str, commit: str) -> str:
    """Give the tag to a commit, unless another process has built the same meanwhile; the commit that has it."""
    client = await context.client()
    description = f"{_DESCRIPTION}{wanted}"
    try:
        await client.create_tag(name, commit, description=description)
    except Conflict:
        pass
    else:
        return commit
    other = await _known(context, name, wanted)
    if other is not None:
        await client.delete_commit(commit)
        return other
    await client.update_tag(name, commit_id=commit, description=description)
    return commit
