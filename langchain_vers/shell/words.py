"""Words of a shell script as far as they are literal: quotes, escapes and braces are worked out, what only a running shell knows is not.

Pure. `syntax.py` finds the words in a script, `programs.py` says what they mean to the programs that get them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

MOST_BRACES = 256
"""How many words the braces of one may make before it counts as unknown."""
_MOST_GROUPS = 32


@dataclass(frozen=True)
class Word:
    """One word as a program gets it.

    Attributes:
        text: its value; of an unknown word only what is literal in it.
        known: whether `text` is all of it, apart from `home` before it and the names that a `pattern` stands for.
        pattern: whether it has unquoted `*`, `?` or `[`, and so stands for any number of file names. `text` is the pattern.
        home: whether the home directory comes before `text` (an unquoted `~`, or `$HOME`).
        spread: whether it may become any number of words (an unquoted variable or substitution).
    """

    text: str
    known: bool = True
    pattern: bool = False
    home: bool = False
    spread: bool = False

    @property
    def plain(self) -> str | None:
        """The value, None if it is not known to the last character."""
        return self.text if self.known and not self.pattern and not self.home else None

    def __str__(self) -> str:
        return ("~" if self.home else "") + (self.text if self.known else f"{self.text}..." if self.text else "(unknown)")


UNKNOWN = Word("", known=False, spread=True)


def joined(folder: Word | None, word: Word) -> Word:
    """A path as it is from where `folder` is relative to. None is a folder that is not known."""
    if not word.known or word.home or word.text.startswith("/"):
        return word
    if folder is None or not folder.known or folder.pattern:
        return replace(word, known=False, text="")
    if folder.text in {"", "."} and not folder.home:
        return word
    return replace(
        word, text=posixpath.join(folder.text or "/", word.text) if not folder.home else f"{folder.text}/{word.text}", home=folder.home
    )


@dataclass(frozen=True)
class Cell:
    """A character of a word, and whether it is quoted; or something unknown (`char` is empty)."""

    char: str
    quoted: bool = False
    spread: bool = False
    home: bool = False


def literal(text: str, *, quoted: bool) -> list[Cell]:
    """Cells of text that stands for itself."""
    return [Cell(char, quoted) for char in text]


def unquoted(text: str) -> list[Cell]:
    """Cells of text outside of quotes: a backslash quotes the next character, and takes a line break away."""
    cells: list[Cell] = []
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\" and position + 1 < len(text):
            position += 1
            if text[position] != "\n":
                cells.append(Cell(text[position], True))
        else:
            cells.append(Cell(char))
        position += 1
    return cells


_ESCAPED = re.compile(r'\\([$`"\\\n])')


def double_quoted(text: str) -> list[Cell]:
    """Cells of a piece of text between double quotes."""
    return literal(_ESCAPED.sub(lambda found: "" if found[1] == "\n" else found[1], text), quoted=True)


_SIMPLE = {"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ANSI = re.compile(rb"\\(?:([abeEfnrtv\\'\"?])|x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{1,4})|U([0-9A-Fa-f]{1,8})|([0-7]{1,3})|c(.))", re.DOTALL)


def ansi(text: str) -> list[Cell]:
    """Cells of the text between `$'` and `'`, as bash reads it: a NUL ends it."""

    def value(found: re.Match[bytes]) -> bytes:
        simple, byte, short, long, octal, control = found.groups()
        if simple is not None:
            return _SIMPLE.get(simple.decode(), simple.decode()).encode()
        if byte is not None:
            return bytes([int(byte, 16)])
        if octal is not None:
            return bytes([int(octal, 8) & 0xFF])
        if control is not None:
            return bytes([control[0] & 0x1F])
        number = int(short or long, 16)
        return chr(number).encode("utf-8", "replace") if number <= 0x10FFFF else b"?"

    data = _ANSI.sub(value, text.encode("utf-8", "surrogatepass"))
    return literal(data.partition(b"\0")[0].decode("utf-8", "replace"), quoted=True)


_NAMED = frozenset("_$!?#@*-{(")
"""Characters that make an expansion of a dollar sign before them, letters and digits aside."""
_RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.-?\d+)?")


def words_of(cells: Sequence[Cell]) -> list[Word]:
    """The words that these cells are: one, or several if there are braces to expand."""
    if sum(cell.char == "{" and not cell.quoted for cell in cells) > _MOST_GROUPS:
        return [UNKNOWN]
    expanded = _braces(list(cells), MOST_BRACES)
    if expanded is None or (len(expanded) > 1 and not all(expanded)):  # words that become empty may vanish
        return [UNKNOWN]
    return [_word(each) for each in expanded]


def _braces(cells: list[Cell], room: int) -> list[list[Cell]] | None:
    """All that unquoted braces make of a word; None if that is more than there is room for, or is not worked out here."""
    for start, cell in enumerate(cells):
        if cell.char != "{" or cell.quoted or (start and cells[start - 1].char == "$" and not cells[start - 1].quoted):
            continue
        parts, end = _alternatives(cells, start)
        if parts is None:
            rest = "".join(each.char for each in cells[start:] if not each.quoted)
            if "}" in rest and ("," in rest or ".." in rest):
                return None  # bash has its own ways with braces that do not match
            continue
        made: list[list[Cell]] = []
        for part in parts:
            below = _braces(part, room)
            after = _braces(cells[end + 1 :], room)
            if below is None or after is None or len(made) + len(below) * len(after) > room:
                return None
            made += [cells[:start] + middle + rest for middle in below for rest in after]
        return made
    return [cells]


def _alternatives(cells: list[Cell], start: int) -> tuple[list[list[Cell]] | None, int]:
    """What stands between the brace at `start` and the one that closes it, cut at its commas; None if this is no expansion."""
    depth, parts, current = 0, [], []  # type: ignore[var-annotated]  # both are lists of cells
    for position in range(start, len(cells)):
        cell = cells[position]
        char = "" if cell.quoted else cell.char
        if char == "}" and depth == 1:
            parts.append(current)
            if len(parts) > 1:
                return parts, position
            between = "".join(each.char for each in current)
            if any(each.quoted for each in current) or (found := _RANGE.fullmatch(between)) is None:
                return None, start
            return _range(found), position
        if depth == 1 and char == ",":
            parts.append(current)
            current = []
            continue
        depth += (char == "{") - (char == "}")
        if position > start:
            current.append(cell)
    return None, start


def _range(found: re.Match[str]) -> list[list[Cell]]:
    low, high = found[1], found[2]
    if low.isalpha() != high.isalpha() or found[0].count("..") > 1:
        return [[Cell("", spread=True)]]
    first, last = (ord(low), ord(high)) if low.isalpha() else (int(low), int(high))
    if abs(last - first) > MOST_BRACES:
        return [[Cell("", spread=True)]]
    numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
    return [literal(chr(number) if low.isalpha() else str(number), quoted=True) for number in numbers]


def _word(cells: list[Cell]) -> Word:
    home = bool(cells) and cells[0].home
    known = True
    if home:
        cells = cells[1:]
    elif cells and cells[0].char == "~" and not cells[0].quoted:
        # `~` and `~/x` are known; `~name`, `~+` and `~-` are not, nor is `~` with something quoted right behind it.
        if len(cells) == 1 or (cells[1].char == "/" and not cells[1].quoted):
            home, cells = True, cells[1:]
        elif cells[1].char not in {"=", ":"}:
            known = False
    if home and cells and cells[0].char != "/":
        known = False  # $HOME and something that is stuck to it
    if any(one == Cell("$") and not other.quoted and (other.char.isalnum() or other.char in _NAMED) for one, other in pairwise(cells)):
        return UNKNOWN  # an expansion that the grammar has not seen
    text = "".join(cell.char for cell in cells)
    known = known and all(cell.char for cell in cells) and not any(cell.home for cell in cells)
    pattern = any(cell.char in {"*", "?", "["} and not cell.quoted for cell in cells)
    return Word(text, known, pattern, home, any(cell.spread for cell in cells))
