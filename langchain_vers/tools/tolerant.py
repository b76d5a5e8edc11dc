"""A reading of a text in which look-alikes are equal, with the way back to the text as it is. Pure.

Equal are: what Unicode's NFKC form makes equal (ligatures, full-width letters, composed and combined accents, kinds of spaces), typographic
and plain quotes and dashes, and lines that differ only in blanks at their end. A passage found in the reading is always a whole number of
characters of the text: a match that begins or ends inside of "ﬁ" or between a letter and its accent does not count.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right

_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_ASCII = re.compile(r"[\x00-\x7f]+(?=[\x00-\x7f]|\Z)")
_NEXT_ASCII = re.compile(r"[\x00-\x7f]")
_BLANKS = " \t\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_TRAILING = re.compile(r"(?<![ \t])[ \t]++(?=\n|\Z)")


class Reading:
    """The tolerant reading of one text."""

    def __init__(self, text: str) -> None:
        self._out: list[str] = []
        self._length = 0
        # The reading consists of runs: start in the reading, start in the text, length in the reading, length in the text. A run of equal
        # lengths that is marked plain maps character by character; others are taken whole. Text that has no run is not in the reading.
        self._starts: list[int] = []
        self._runs: list[tuple[int, int, int, bool]] = []
        position = 0
        # From one character that is not ASCII to the line around it: one regular expression for the line would try each start of each line.
        odd = _NOT_ASCII.search(text)
        while odd:
            start = text.rfind("\n", 0, odd.start()) + 1
            end = text.find("\n", odd.start())
            end = len(text) if end < 0 else end
            if not unicodedata.is_normalized("NFKC", text[start:end]):
                self._plain(text, position, start)
                self._odd(text, start, end)
                position = end
            odd = _NOT_ASCII.search(text, end)
        self._plain(text, position, len(text))
        self.text = "".join(self._out)

    def _add(self, piece: str, start: int, length: int, plain: bool) -> None:
        self._starts.append(self._length)
        self._runs.append((start, len(piece), length, plain))
        self._out.append(piece)
        self._length += len(piece)

    def _plain(self, text: str, start: int, end: int) -> None:
        if start == end:
            return
        part = text[start:end]
        position = 0
        # Looked for quickly first: most files have none, and a pattern that stops at every blank takes long.
        has_trailing = " \n" in part or "\t\n" in part or part[-1] in " \t"
        for match in _TRAILING.finditer(part) if has_trailing else ():
            if match.end() == len(part) and end < len(text) and text[end] != "\n":
                continue  # the line goes on in the next run
            if match.start() > position:
                self._add(part[position : match.start()].translate(_PLAIN), start + position, match.start() - position, True)
            position = match.end()
        if position < len(part):
            self._add(part[position:].translate(_PLAIN), start + position, len(part) - position, True)

    def _odd(self, text: str, start: int, end: int) -> None:
        line = text[start:end].rstrip(_BLANKS)
        position = 0
        while position < len(line):
            # An ASCII letter before another character may carry the accent that follows; the ASCII text before it stands for itself.
            run = _ASCII.match(line, position)
            if run:
                self._add(run.group().translate(_PLAIN), start + position, run.end() - position, True)
                position = run.end()
                continue
            stop = _NEXT_ASCII.search(line, position + 1)
            limit = stop.start() if stop else len(line)
            for form, length in _clusters(line[position:limit]):
                self._add(form, start + position, length, False)
                position += length

    def find(self, old: str, *, overlapping: bool) -> list[tuple[int, int]]:
        """Places (start, end) in the text where `old`, read alike, stands. Blanks at the end of `old` only match an end of line."""
        wanted = Reading(old).text
        if not wanted.strip():
            return []
        at_line_end = old[-1] in _BLANKS
        found: list[tuple[int, int]] = []
        position = self.text.find(wanted)
        while position >= 0:
            end = position + len(wanted)
            start_there, end_there = self._start(position), self._end(end)
            fits = start_there is not None and end_there is not None
            if at_line_end and end < len(self.text) and self.text[end] != "\n":
                fits = False
            if fits and start_there is not None and end_there is not None:
                found.append((start_there, end_there))
            position = self.text.find(wanted, end if fits and not overlapping else position + 1)
        return found

    def _start(self, position: int) -> int | None:
        index = bisect_right(self._starts, position) - 1
        start, _, _, plain = self._runs[index]
        offset = position - self._starts[index]
        if plain:
            return start + offset
        return start if offset == 0 else None

    def _end(self, position: int) -> int | None:
        # The end behind the last character: blanks that the reading leaves out are behind it, and stay.
        index = bisect_right(self._starts, position - 1) - 1
        start, size, length, plain = self._runs[index]
        offset = position - self._starts[index]
        if plain:
            return start + offset
        return start + length if offset == size else None


def _clusters(line: str) -> list[tuple[str, int]]:
    """The line in pieces that normalise apart from each other: the plain form of each, and its length in the line."""
    pieces: list[tuple[str, int]] = []
    current = ""
    form = ""
    for char in line:
        if current and not _separate(current, form, char):
            current += char
            form = unicodedata.normalize("NFKC", current)
            continue
        if current:
            pieces.append((form.translate(_PLAIN), len(current)))
        current = char
        form = char if char.isascii() else unicodedata.normalize("NFKC", char)
    if current:
        pieces.append((form.translate(_PLAIN), len(current)))
    return pieces


def _separate(current: str, form: str, char: str) -> bool:
    if char.isascii():
        return True
    if unicodedata.combining(char) or len(current) > 64:
        return not unicodedata.combining(char)
    return unicodedata.normalize("NFKC", current + char) == form + unicodedata.normalize("NFKC", char)
