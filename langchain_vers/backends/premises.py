"""What is taken for granted of a call's paths, so that they need not be looked up on the machine before the call is sent there. Pure.

A path of which no part is a symlink is where it seems to be. So a decision is made as if there were no symlinks in it, and the machine
looks whether that is so in the same round trip as the call's work, and before it. If it is not, nothing is done, and the paths are looked
up after all (`real_paths.look_up`). What a decision was made on then holds when the call begins, however long ago it was made.
"""

from __future__ import annotations

import posixpath
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from langchain_vers.backends import guest

MOST_PATHS = 50
"""For more paths than these a look is not dearer."""
_MACHINES = 256
_CROOKED = 1000


@dataclass(frozen=True)
class Spot:
    """A path to be looked up: relative to the working directory, or to the home directory; or a pattern of such paths."""

    text: str
    home: bool = False
    pattern: bool = False


@dataclass(frozen=True)
class Ground:
    """What a machine says of itself and of the paths that it was asked about.

    Attributes:
        home: the home directory.
        home_as_set: the same as `$HOME` has it, which may lead there by symlinks.
        start: where commands start by default.
        cwd: the working directory.
        real: for each path where it really is (several for a pattern), None if that cannot be told.
    """

    home: str
    home_as_set: str
    start: str
    cwd: str
    real: tuple[tuple[str, ...] | None, ...]


@dataclass
class Premises:
    """What must hold on a machine when a call begins."""

    home: str
    """What `$HOME` is there."""
    given: str | None
    """The working directory as the call names it; None is where commands start."""
    cwd: str
    """Where that really is."""
    paths: tuple[str, ...]
    """No part of these is a symlink; they are absolute, or relative to `cwd`."""
    met: bool = False
    """Whether a part of the call has changed something, or may have, so that it is under way and no longer to be refused."""

    def around(self, line: bytes, *, command: bool) -> bytes:
        """A session's line with the check before it; `command`: it is a command."""
        return line if self.met else guest.straight(line, self.home, self.given, self.cwd, self._looked_at(), command=command)

    def _looked_at(self) -> tuple[str, ...]:
        """The paths, and where those with `..` seem to lead: behind a directory that is not made yet the machine would see nothing."""
        plain = (posixpath.normpath(path) for path in self.paths if ".." in path.split("/"))
        return tuple(dict.fromkeys((*self.paths, *plain)))

    def cover(self, other: Premises) -> bool:
        """Whether all that these say is said here, too."""
        return (self.home, self.cwd) == (other.home, other.cwd) and set(other.paths) <= set(self.paths)


@dataclass
class _Known:
    home: str
    start: str
    cwds: dict[str | None, str] = field(default_factory=dict)
    crooked: set[tuple[str | None, Spot]] = field(default_factory=set)
    """Paths that lead by symlinks: these are looked up."""


Key = tuple[str, str | None]
"""A machine: what the context calls its backend, and its id."""


class Grounds:
    """What the machines of a context have said of themselves when paths were looked up there."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, _Known] = OrderedDict()

    def learn(self, machine: Key, cwd: str | None, spots: Sequence[Spot], ground: Ground) -> None:
        """Remember what a machine has said about itself and these paths, as seen from `cwd`."""
        if ground.home != ground.home_as_set:
            return  # `~` leads by a symlink: there is nothing that could be taken for granted
        known = self._known.get(machine)
        if known is None or (known.home, known.start) != (ground.home, ground.start):
            known = self._known[machine] = _Known(ground.home, ground.start)
        self._known.move_to_end(machine)
        while len(self._known) > _MACHINES:
            self._known.popitem(last=False)
        if len(known.crooked) > _CROOKED or len(known.cwds) > _CROOKED:
            known.crooked.clear()
            known.cwds.clear()
        known.cwds[cwd] = ground.cwd
        for spot, real in zip(spots, ground.real, strict=True):
            known.crooked.discard((cwd, spot))
            if not spot.pattern and real != (seeming(known.home, ground.cwd, spot),):
                known.crooked.add((cwd, spot))

    def guess(self, machine: Key, cwd: str | None, spots: Sequence[Spot]) -> tuple[Ground, Premises] | None:
        """What a look at these paths would find if there were no symlinks, and what has to be checked then; None: look them up."""
        known = self._known.get(machine)
        if known is None or len(spots) > MOST_PATHS or any(spot.pattern or (cwd, spot) in known.crooked for spot in spots):
            return None
        here = known.cwds.get(cwd, cwd)
        if here is None or not here.startswith("/"):
            return None
        real = tuple((seeming(known.home, here, spot),) for spot in spots)
        paths = tuple(dict.fromkeys(known.home + spot.text if spot.home else spot.text for spot in spots))
        return Ground(known.home, known.home, known.start, here, real), Premises(known.home, cwd, here, paths)


def seeming(home: str, cwd: str, spot: Spot) -> str:
    """Where a path is if there are no symlinks in it: absolute, without `..`."""
    path = home + spot.text if spot.home else posixpath.join(cwd, spot.text)
    return "/" + posixpath.normpath(path).lstrip("/")
