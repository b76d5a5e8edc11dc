"""Unified diffs from known changes: no search for what differs in a large file, only around the places that were changed. Pure."""

from __future__ import annotations

import difflib
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

MAX_DIFF_BYTES = 50 * 1024
CONTEXT = 3


@dataclass(frozen=True)
class Change:
    """Characters `start` to `end` of the old text become `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class _Block:
    """Lines `start` to `end` (from 0) of the old text become `lines`."""

    start: int
    end: int
    lines: list[str]


def unified_diff(text: str, changes: Sequence[Change], *, path: str = "file", max_bytes: int = MAX_DIFF_BYTES) -> str:
    """The diff of `text` and `text` with `changes` (sorted, apart), as `patch` reads it; cut behind a whole line at `max_bytes`."""
    starts = _line_starts(text)
    blocks = _blocks(text, starts, changes)
    out = _Bounded(max_bytes)
    out.add(f"--- {path}\n+++ {path}\n")
    shift = 0
    index = 0
    count = len(starts) - 1
    while index < len(blocks) and not out.full:
        last = index
        while last + 1 < len(blocks) and blocks[last + 1].start - blocks[last].end <= 2 * CONTEXT:
            last += 1
        group = blocks[index : last + 1]
        first, end = max(group[0].start - CONTEXT, 0), min(group[-1].end + CONTEXT, count)
        growth = sum(len(block.lines) - (block.end - block.start) for block in group)
        out.add(f"@@ -{_range(first, end - first)} +{_range(first + shift, end - first + growth)} @@\n")
        position = first
        for block in group:
            for row in range(position, block.start):
                out.line(" ", text[starts[row] : starts[row + 1]])
            for row in range(block.start, block.end):
                out.line("-", text[starts[row] : starts[row + 1]])
            for line in block.lines:
                out.line("+", line)
            position = block.end
        for row in range(position, end):
            out.line(" ", text[starts[row] : starts[row + 1]])
        shift += growth
        index = last + 1
    return out.text()


def first_changed_line(text: str, changes: Sequence[Change]) -> int:
    """1-based number, in the new text, of the first line that is not as before."""
    blocks = _blocks(text, _line_starts(text), changes)
    return blocks[0].start + 1 if blocks else 1


class _Bounded:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._parts: list[str] = []
        self.full = False

    def add(self, part: str) -> None:
        self._size += len(part.encode("utf-8", "replace"))
        if self._size > self._limit:
            self.full = True
        if not self.full:
            self._parts.append(part)

    def line(self, sign: str, line: str) -> None:
        if not self.full:
            self.add(sign + line if line.endswith("\n") else f"{sign}{line}\n\\ No newline at end of file\n")

    def text(self) -> str:
        return "".join(self._parts) + ("[The diff is longer than is shown here.]\n" if self.full else "")


def _range(start: int, count: int) -> str:
    # As diff writes it: an empty range names the line before it, and a count of 1 is left out.
    first = start + 1 if count else start
    return str(first) if count == 1 else f"{first},{count}"


def _line_starts(text: str) -> list[int]:
    """Where each line starts, and the end of the text."""
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    if starts[-1] != len(text):
        starts.append(len(text))
    return starts


def _blocks(text: str, starts: list[int], changes: Sequence[Change]) -> list[_Block]:
    """The changes as changes of whole lines, with lines that stay the same taken out."""
    count = len(starts) - 1
    blocks: list[_Block] = []
    index = 0
    while index < len(changes):
        first = min(bisect_right(starts, changes[index].start) - 1, count)
        pieces: list[str] = []
        position = starts[first]
        end = first
        # Changes that touch the same line belong together, and so does the next line if a line break before it is taken away.
        while index < len(changes) and (
            not pieces or changes[index].start < starts[end] or (end == count and changes[index].start <= starts[end])
        ):
            change = changes[index]
            pieces += (text[position : change.start], change.text)
            position = change.end
            end = max(end, min(bisect_right(starts, change.end - 1 if change.end > change.start else change.end), count))
            last = next((piece for piece in reversed(pieces) if piece), "\n")
            if end < count and position == starts[end] and not last.endswith("\n"):
                end += 1
            index += 1
        pieces.append(text[position : starts[end]])
        new = [line for line in re.split(r"(?<=\n)", "".join(pieces)) if line]
        blocks.extend(_refine([text[starts[row] : starts[row + 1]] for row in range(first, end)], new, first))
    return blocks


def _refine(old: list[str], new: list[str], first: int) -> list[_Block]:
    head = 0
    while head < min(len(old), len(new)) and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    a, b = old[head : len(old) - tail], new[head : len(new) - tail]
    if len(a) * len(b) > 250_000:
        return [_Block(first + head, first + head + len(a), b)]
    codes = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return [_Block(first + head + i1, first + head + i2, b[j1:j2]) for tag, i1, i2, j1, j2 in codes if tag != "equal"]
