"""How much a folder grows, as a look at its file system that costs microseconds, and a count of its files only when that look calls for it.

The file system's free space falls by at least what the folder takes, unless others give space back in the same moment; so as long as it has
fallen by less than what is still allowed, nothing needs to be counted. File names count as well: each file takes a place of its own.
Where the file system is out of sight, counting is all that is left, and is done seldom enough to cost little.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from langchain_vers._io import io
from langchain_vers.errors import VersError

PER_FILE = 1024
"""Bytes that a file counts besides its blocks."""
FASTEST = 4 << 30
"""Bytes a second that a machine may write."""
SOONEST, LATEST = 0.02, 1.0
"""Seconds between two looks."""
LEEWAY = 1 << 20
"""Bytes that a folder which is over its limit already may still grow, so that files can be deleted."""
SELDOM = 10
"""A folder whose file system is out of sight is counted, then left alone this many times as long as that took, for at least `LATEST`."""
CALM = 5.0
"""Seconds that it is left alone at most, when counting is quick and it does not grow."""

_UNSHARE = shutil.which("unshare")


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


def usage(folder: str, enough: float = math.inf) -> int:
    """Bytes that a folder takes, without what is mounted below. Blocks as long as du(1) needs, some microseconds per file.

    It is counted no further than it has to be to know that there are more than `enough`: whoever writes goes on meanwhile.

    Raises:
        OSError: du(1) cannot be started.
    """
    total = 0
    for unit, options in ((1, ["--block-size=1"]), (PER_FILE, ["--inodes"])):
        lines = _du([*options, "--", folder])
        total += unit * int(lines[-1].split()[0]) if lines else 0
        if total > enough:
            break
    return total


def _du(arguments: list[str]) -> list[bytes]:
    """What du(1) prints. It looks into all folders of this user's, whatever their mode: a command could hide files by that."""
    command = ["du", "-s", "-x", *arguments]
    if os.geteuid() != 0 and _UNSHARE is not None:
        # Root of a namespace in which this user is the only one may read all that is this user's.
        done = subprocess.run([_UNSHARE, "--map-root-user", "--", *command], capture_output=True, check=False)
        if done.stdout:
            return done.stdout.splitlines()
    return subprocess.run(command, capture_output=True, check=False).stdout.splitlines()  # files that vanish meanwhile make it end with 1


class Place(Protocol):
    """What can grow. Both methods block, and raise `VersError` or OSError when there is nothing to be learnt at the moment."""

    def free(self) -> Free | None:
        """What its file system has left, in microseconds; None if that is out of sight."""

    def usage(self, enough: float = math.inf) -> int:
        """Bytes that it takes, or some number above `enough`, if they are more than that."""


@dataclass(frozen=True)
class Folder:
    """A folder of this machine. `nameless` says what is taken by files of it that are open and have been deleted."""

    path: str
    nameless: Callable[[], int] = lambda: 0

    def free(self) -> Free:
        """See `Place`."""
        return free(self.path)

    def usage(self, enough: float = math.inf) -> int:
        """See `Place`."""
        named = usage(self.path, enough)
        return named if named > enough else named + self.nameless()


class Growth:
    """How far a place is from what it may take in all. Every method blocks; those that count do so as long as `Place.usage` does.

    `allowed` are the bytes by which it may grow from now on; with `whole`, those that it may take.
    """

    def __init__(self, place: Place, allowed: int, *, whole: bool = False) -> None:
        self._place = place
        self._ceiling = self._used = 0
        self._rest = LATEST
        self.left = 0
        """Bytes that it might still grow when it was counted last; negative when it had grown too far."""
        self._count(math.inf)
        now = place.free()
        # What has come while it was counted may be in the count, and is not to be allowed for.
        taken = 0 if self._before is None or now is None else now.taken_since(self._before)
        self._limit = allowed if whole else self._used - taken + allowed
        self._allow()

    def begin(self) -> None:
        """Count. A folder that is over its limit may grow by `LEEWAY` from now on."""
        self._count(math.inf)
        self._allow()

    def _allow(self) -> None:
        self._ceiling = self._limit
        self.left = self._ceiling - self._used
        if self.left < LEEWAY:
            self._ceiling += LEEWAY - self.left
            self.left = LEEWAY

    def count(self) -> None:
        """Find out how much it may still grow."""
        self._count(self._ceiling)

    def _count(self, enough: float) -> None:
        self._before = self._place.free()
        began, used = time.monotonic(), self._used
        self._used = self._place.usage(enough)
        self.left = self._ceiling - self._used
        ended = time.monotonic()
        calmer = LATEST if self._used > used else min(2 * self._rest, CALM)
        self._rest = max(calmer, SELDOM * (ended - began))
        self._due = ended + self._rest

    def room(self) -> int:
        """Bytes that it may still grow at least; negative when it has to be counted to know. Needs microseconds."""
        if self._before is None or (now := self._place.free()) is None:
            return self.left if time.monotonic() < self._due else -1
        return self.left - now.taken_since(self._before)


def pause(room: int) -> float:
    """Seconds until the next look at a folder that may still grow by so much."""
    return min(max(room / FASTEST, SOONEST), LATEST)


class Watch:
    """Watches some places, each of which may grow by so much from when it was seen first. Coroutines of the I/O thread.

    `places` are called by the names that they are known under to whom it may concern; those of `whole` may take so much in all.
    """

    def __init__(self, places: Mapping[str, Place], allowed: int, *, whole: Collection[str] = ()) -> None:
        self._places = places
        self._allowed = allowed
        self._whole = whole
        self._growths: dict[str, Growth] = {}
        self._begun = False

    async def begin(self) -> None:
        """Count what there is. A place that has grown too far may grow a little further from now on.

        Raises:
            VersError, OSError: a place cannot be counted.
        """
        for growth in self._growths.values():
            with contextlib.suppress(VersError, OSError):  # it is counted as soon as that can be done
                await io.blocking(growth.begin)
        for name, place in self._places.items():
            if name not in self._growths:
                self._growths[name] = await io.blocking(lambda: Growth(place, self._allowed, whole=name in self._whole))  # noqa: B023
        self._begun = True

    async def until_exceeded(self) -> str:
        """Wait until a place has grown too far; its name. Called again, such a place may grow a little further."""
        if not self._begun:
            await self.begin()
        self._begun = False
        while True:
            least = self._allowed
            for name, growth in self._growths.items():
                with contextlib.suppress(VersError, OSError):  # it is looked at again the next time
                    if growth.room() < 0:
                        await io.blocking(growth.count)
                        if growth.left < 0:
                            return name
                    least = min(least, growth.room())
            await asyncio.sleep(pause(least))
