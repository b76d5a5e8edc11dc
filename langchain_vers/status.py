"""The line that says where a thread is, for prompts and status bars."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from langchain_vers.backends.registry import RESERVED
from langchain_vers.errors import Gone, VersError
from langchain_vers.naming import short_id

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext

STATE_SECONDS = 3.0
"""How long it may take to learn a machine's state."""


async def line(context: BackendContext, thread: str | None) -> str:
    """Such as "vers: 3f2a91c07b1e running, /root/app" or "vers: offline". Coroutine of the I/O thread; starts and moves nothing."""
    attachment = context.whereabouts.remembered(thread)
    place = f", {attachment.cwd}" if attachment is not None and attachment.cwd else ""
    if attachment is not None and attachment.backend not in RESERVED:
        return f"{attachment.backend}: {attachment.machine_id or 'in use'}{place}"
    machine_id = attachment.machine_id if attachment is not None and attachment.backend == "vers" else None
    try:
        async with asyncio.timeout(STATE_SECONDS):
            client = await context.client(start=False)
            if attachment is None and context.home_vm is not None:
                machine_id = await context.resolve_vm(context.home_vm)
            if machine_id is None:
                return f"vers: {len(await client.list_vms())} VM(s)"
            state = str((await client.get_vm(machine_id)).state)
    except Gone:
        if machine_id is None:
            return f"vers: no VM {context.home_vm}"
        state = "deleted"
    except (VersError, TimeoutError):
        if machine_id is None:
            return "vers: offline"
        state = "offline"
    return f"vers: {short_id(machine_id or '')} {state}{place}"
