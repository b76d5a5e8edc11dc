"""How much a folder grows, as a look at its file system that costs microseconds, and a count of its files only when that look calls for it.

The file system's free space falls by at least what the folder takes, unless others give space back in the same moment; so as long as it has
fallen by less than what is still allowed, nothing needs to be counted. File names count as well: each file takes a place of its own.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from langchain_vers._io import io

PER_FILE = 1024
"""Bytes that a file counts besides its blocks."""
FASTEST = 4 << 30
"""Bytes a second that a machine may write."""
SOONEST, LATEST = 0.02, 1.0
"""Seconds between two looks."""
LEEWAY = 1 << 20
"""Bytes that a folder which is over its limit already may still grow, so that files can be deleted."""


@dataclass(frozen=True)
class Free:
    """What a file system has left."""

    space: int
    files: int

    def taken_since(self, before: Free) -> int:
        """Bytes that at most have been taken since then."""
        return max(0, before.space - self.space) + PER_FILE * max(0, before.files - self.files)


def free(folder: str) -> Free:
    """What the file system of a folder has left."""
    found = os.statvfs(folder)
    return Free(found.f_bfree * found.f_frsize, found.f_ffree)


def usage(folder: str) -> int:
    """Bytes that a folder takes, without what is mounted below. Blocks as long as du(1) needs, some microseconds per file.

    Raises:
        OSError: du(1) cannot be started.
    """
    total = 0
    for unit, options in ((1, ["--block-size=1"]), (PER_FILE, ["--inodes"])):
        done = subprocess.run(["du", "-s", "-x", *options, "--", folder], capture_output=True, check=False)
        lines = done.stdout.splitlines()  # files that vanish meanwhile make it end with 1
        total += unit * int(lines[-1].split()[0]) if lines else 0
    return total


class Growth:
    """How far a folder is from what it may take in all. Every method blocks; those that count do so as long as `usage` does."""

    def __init__(self, folder: str, allowed: int) -> None:
        self._folder = folder
        before = free(folder)
        self._limit = usage(folder) - free(folder).taken_since(before) + allowed
        self._ceiling = self._limit
        self._before = before
        self.left = 0
        """Bytes that it might still grow when it was counted last; negative when it had grown too far."""
        self.begin()

    def begin(self) -> None:
        """Count. A folder that is over its limit may grow by `LEEWAY` from now on."""
        self._ceiling = self._limit
        self.count()
        if self.left < LEEWAY:
            self._ceiling += LEEWAY - self.left
            self.left = LEEWAY

    def count(self) -> None:
        """Find out how much it may still grow."""
        self._before = free(self._folder)
        self.left = self._ceiling - usage(self._folder)

    def room(self) -> int:
        """Bytes that it may still grow at least; negative when it has to be counted to know. Needs microseconds."""
        return self.left - free(self._folder).taken_since(self._before)


def pause(room: int) -> float:
    """Seconds until the next look at a folder that may still grow by so much."""
    return min(max(room / FASTEST, SOONEST), LATEST)


class Watch:
    """Watches some folders, each of which may grow by so much from when it was seen first. Coroutines of the I/O thread.

    `folders` are called by the names that they are known under to whom it may concern.
    """

    def __init__(self, folders: Mapping[str, str], allowed: int) -> None:
        self._folders = folders
        self._allowed = allowed
        self._growths: dict[str, Growth] = {}

    async def until_exceeded(self) -> str:
        """Wait until a folder has grown too far; its name. Called again, such a folder may grow a little further."""
        for growth in self._growths.values():
            await io.blocking(growth.begin)
        for name, folder in self._folders.items():
            if name not in self._growths:
                self._growths[name] = await io.blocking(Growth, folder, self._allowed)
        while True:
            least = self._allowed
            for name, growth in self._growths.items():
                if growth.room() < 0:
                    await io.blocking(growth.count)
                    if growth.left < 0:
                        return name
                least = min(least, growth.room())
            await asyncio.sleep(pause(least))
