"""What a command runs, and the options in front of its operands: the words for taking commands apart. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from langchain_vers.shell.words import UNKNOWN, Word


@dataclass(frozen=True)
class Argv:
    """A program that is run with these words; `folder` is where, relative to the command's own; `here`: in the same shell."""

    words: tuple[Word, ...]
    assignments: tuple[tuple[str, Word], ...] = ()
    folder: Word | None = None
    here: bool = False


@dataclass(frozen=True)
class Code:
    """Shell text that is run."""

    text: str
    folder: Word | None = None
    here: bool = False


@dataclass(frozen=True)
class Runs:
    """What a command runs. `moves` is the folder that it leads to."""

    inner: tuple[Argv | Code, ...] = ()
    doubts: tuple[str, ...] = ()
    moves: Word | None = None


class Options(NamedTuple):
    """The options in front of a command's first operand, and the words from there on."""

    given: list[tuple[str, Word | None]]
    rest: tuple[Word, ...]

    def value(self, *names: str) -> Word | None:
        """The value of the last of these options; UNKNOWN if it is given without one, None if it is not given."""
        found = [UNKNOWN if value is None else value for name, value in self.given if name in names]
        return found[-1] if found else None

    def has(self, *names: str) -> bool:
        """Whether one of these options is given."""
        return any(name in names for name, _ in self.given)


def options(words: Sequence[Word], valued: str = "", longs: Sequence[str] = ()) -> Options:
    """Take a command's options apart. `valued` are the letters that take a value, `longs` the long names that take the next word as one."""
    given: list[tuple[str, Word | None]] = []
    position = 0
    while position < len(words):
        text = words[position].plain
        if text is None or len(text) < 2 or text[0] not in "-+":
            break
        position += 1
        if text == "--":
            break
        following = words[position] if position < len(words) else None
        if text.startswith("--"):
            name, equals, value = text.partition("=")
            given.append((name, Word(value) if equals else following if name in longs else None))
            position += not equals and name in longs
            continue
        for place, letter in enumerate(text[1:], 2):
            if letter not in valued:
                given.append((f"{text[0]}{letter}", None))
                continue
            given.append((f"{text[0]}{letter}", Word(text[place:]) if text[place:] else following))
            position += not text[place:]
            break
    return Options(given, tuple(words[position:]))
