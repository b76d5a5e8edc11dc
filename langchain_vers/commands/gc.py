"""`langchain-vers gc`: shows what no checkpoint refers to any more, and deletes it when told to."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from langchain_vers.commands import database
from langchain_vers.commands.showing import age, console, fitting
from langchain_vers.commands.target import Target, find_target, open_client
from langchain_vers.errors import BadInput
from langchain_vers.gc import Failure, Findings, Orphan, Saver, delete_orphans, find_orphans

_UNITS = {"": 1, "s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}
_NAMES = {"vm": "VM", "commit": "commit"}


def gc(db: str, data_dir: Path | None, *, yes: bool, grace: str, embedded: bool) -> int:
    """List the orphans of a database, and delete them if `yes`; the exit status, 1 if one could not be deleted. Raises `VersError`."""
    limit = seconds(grace)
    database.check(db)  # what is wrong with the database is told first
    target = find_target(data_dir, embedded=embedded)
    found = database.read(db, lambda saver: asyncio.run(_find(target, saver, limit)), verbatim=True)
    screen = console()
    _show(found, screen, database.shown(db), grace)
    if not found.orphans:
        return 0
    if not yes:
        screen.print("Nothing was deleted; add --yes to delete them.")
        return 0
    failures = asyncio.run(_delete(target, found))
    screen.print(f"Deleted {len(found.orphans) - len(failures)} of {len(found.orphans)}.")
    for failure in failures:
        sys.stderr.write(f"langchain-vers: {_told(failure, screen)}\n")
    return 1 if failures else 0


def seconds(given: str) -> float:
    """A length of time such as "90s", "30min", "1h", "2d" or "0" in seconds.

    Raises:
        BadInput: it is none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|m|h|d|)", given.strip())
    if match is None:
        raise BadInput(f"{given!r} is no length of time; give one such as 90s, 30min, 1h, 2d or 0.")
    return float(match[1]) * _UNITS[match[2]]


async def _find(target: Target, saver: Saver, grace: float) -> Findings:
    async with open_client(target) as client:
        return await find_orphans(client, saver, grace=grace)


async def _delete(target: Target, found: Findings) -> list[Failure]:
    async with open_client(target) as client:
        return await delete_orphans(client, found.orphans)


def _show(found: Findings, screen: Console, db: str, grace: str) -> None:
    if found.identity is None:
        screen.print(f"No machine was ever made for {fitting(db, screen)}.")
        return
    if found.orphans:
        table = Table("Kind", "Id", "Thread", "Age", box=None, padding=(0, 2, 0, 0))
        for orphan in found.orphans:
            table.add_row(_NAMES[orphan.kind], fitting(orphan.id, screen), fitting(orphan.thread, screen), _age(orphan))
        screen.print(table)
    else:
        screen.print(f"Nothing to delete that was made for the threads of {fitting(db, screen)}.")
    if found.spared:
        screen.print(f"{len(found.spared)} more {'is' if len(found.spared) == 1 else 'are'} left alone, being younger than {grace}.")


def _age(orphan: Orphan) -> str:
    return age(orphan.created_at) or "?"


def _told(failure: Failure, screen: Console) -> str:
    return f"{_NAMES[failure.orphan.kind]} {fitting(failure.orphan.id, screen)} was not deleted: {fitting(str(failure.error), screen)}"
