"""Replacing passages of a text file by what a model wrote: finding each passage, refusing what is unclear, keeping all other bytes. Pure.

A passage is looked for as it is, line endings aside; if it is nowhere, then once more in a tolerant reading (see `tolerant.py`), whose
positions are mapped back to the bytes of the file. Reading the file and writing it back (compare and swap) is left to the tool.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from langchain_vers.errors import BadInput
from langchain_vers.tools.diffs import MAX_DIFF_BYTES, Change, first_changed_line, unified_diff
from langchain_vers.tools.tolerant import Reading

BOM = b"\xef\xbb\xbf"
_LISTED = 10
_SEARCHED_LINES = 20_000


class EditError(BadInput):
    """An edit cannot be made; nothing was changed.

    Attributes:
        lines: 1-based numbers of the lines that the message speaks of.
    """

    def __init__(self, message: str, *, lines: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.lines = list(lines)


@dataclass(frozen=True)
class Edit:
    """One passage and what is to stand in its place. Line breaks are line feeds, whatever the file uses."""

    old_text: str
    new_text: str
    replace_all: bool = False


@dataclass(frozen=True)
class Edited:
    """The new content, and what became different."""

    data: bytes
    diff: str
    """Unified diff with three lines of context; cut, and said so in its last line, if it would be longer than its bound."""
    first_changed_line: int
    """1-based, in the new content."""
    replacements: int
    """How many passages were replaced."""
    tolerant: tuple[int, ...] = ()
    """Positions (from 0) of the edits that matched in the tolerant reading only."""


@dataclass(frozen=True)
class _Span:
    start: int
    end: int
    edit: int


def apply_edits(data: bytes, edits: Sequence[Edit], *, path: str = "the file", max_diff_bytes: int = MAX_DIFF_BYTES) -> Edited:
    """Make all edits at once, each matched against `data` as it is. All or none.

    A byte order mark and line endings are kept: inserted line breaks are those of the place where they are inserted. Lines that an edit
    names in both texts alike keep their bytes.

    Raises:
        EditError: the file is not UTF-8, or an edit is empty, changes nothing, matches nothing or more than one place, or overlaps another.
    """
    if not edits:
        raise EditError("There are no edits; give at least one with old_text and new_text.")
    mark = BOM if data.startswith(BOM) else b""
    try:
        text = data[len(mark) :].decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, len(mark) + error.start) + 1
        raise EditError(
            f"{path} is not UTF-8 text (line {line} is not), so it cannot be edited; change it with bash.", lines=[line]
        ) from None
    document = _Document(text)
    spans: list[_Span] = []
    tolerant: list[int] = []
    for number, edit in enumerate(edits):
        label = f"edits[{number}]." if len(edits) > 1 else ""
        old, new = document.plain(edit.old_text), document.plain(edit.new_text)
        if not old:
            raise EditError(f"{label}old_text is empty; give the passage that is to be replaced, or use write for a new file.")
        if old == new:
            what = "are equal" if edit.old_text == edit.new_text else "differ in line endings only, which edit keeps"
            raise EditError(f"{label}old_text and {label}new_text {what}; there is nothing to change.")
        found, loosely = _find(document, edit, old, label, path)
        if loosely:
            tolerant.append(number)
        spans.extend(_Span(start, end, number) for start, end in found)
    spans.sort(key=lambda span: (span.start, span.end))
    _refuse_overlaps(document, spans)
    plain = [(document.plain(edit.old_text), document.plain(edit.new_text)) for edit in edits]
    changes = [Change(span.start, span.end, _replacement(document, span, *plain[span.edit])) for span in spans]
    changes = [change for change in changes if text[change.start : change.end] != change.text]
    if not changes:
        raise EditError(f"{path} already has new_text at that place; there is nothing to change.")
    pieces: list[str] = []
    position = 0
    for change in changes:
        pieces += (text[position : change.start], change.text)
        position = change.end
    pieces.append(text[position:])
    try:
        content = mark + "".join(pieces).encode("utf-8")
    except UnicodeEncodeError:
        raise EditError("new_text contains half of a surrogate pair, which is no character; give whole characters.") from None
    return Edited(
        data=content,
        diff=unified_diff(text, changes, path=path, max_bytes=max_diff_bytes),
        first_changed_line=first_changed_line(text, changes),
        replacements=len(spans),
        tolerant=tuple(tolerant),
    )


class _Document:
    """A file's text, and the same with a line feed for every line ending, together with the way back."""

    def __init__(self, text: str) -> None:
        self.text = text
        # A file with no other line ending than CR is an old Mac's; elsewhere a lone CR is a character like others.
        self.cr_only = "\r" in text and "\n" not in text
        self._pairs: list[int] = []
        if self.cr_only:
            self.flat = text.replace("\r", "\n")
        elif "\r\n" in text:
            self._pairs = [match.start() - index for index, match in enumerate(re.finditer("\r\n", text))]
            self.flat = text.replace("\r\n", "\n")
        else:
            self.flat = text
        self._reading: Reading | None = None
        self._starts: list[int] | None = None

    @property
    def reading(self) -> Reading:
        """The tolerant reading of `flat`, made when it is first needed."""
        if self._reading is None:
            self._reading = Reading(self.flat)
        return self._reading

    def plain(self, text: str) -> str:
        text = text.replace("\r\n", "\n")
        return text.replace("\r", "\n") if self.cr_only else text

    def position(self, flat: int) -> int:
        """Where a position of `flat` lies in `text`; before the CR of a pair, never inside it."""
        return flat + bisect_left(self._pairs, flat)

    def line_of(self, position: int) -> int:
        """1-based number of the line at a position of `text`."""
        if self._starts is None:
            mark = "\r" if self.cr_only else "\n"
            self._starts = [0, *(match.end() for match in re.finditer(mark, self.text))]
        return bisect_right(self._starts, position)

    def ending_at(self, start: int, end: int) -> str:
        """The line ending of a place: of the first line that ends in or behind it, else of the line before it."""
        if self.cr_only:
            return "\r"
        found = self.text.find("\n", start, end)
        if found < 0:
            found = self.text.find("\n", end)
        if found < 0:
            found = self.text.rfind("\n", 0, start)
        return "\r\n" if found > 0 and self.text[found - 1] == "\r" else "\n"


def _find(document: _Document, edit: Edit, old: str, label: str, path: str) -> tuple[list[tuple[int, int]], bool]:
    """Places of an edit in `document.text`, and whether only the tolerant reading has them."""
    loosely = False
    places = list(_occurrences(document.flat, old, overlapping=not edit.replace_all))
    if not places:
        places = document.reading.find(old, overlapping=not edit.replace_all)
        loosely = True
    if not places:
        raise _not_found(document, old, label, path)
    spans = [(document.position(start), document.position(end)) for start, end in places]
    if len(spans) > 1 and not edit.replace_all:
        lines = [document.line_of(start) for start, _ in spans]
        listed = ", ".join(map(str, lines[:_LISTED])) + (", ..." if len(lines) > _LISTED else "")
        how = " (loosely)" if loosely else ""
        raise EditError(
            f"{label}old_text matches{how} {len(lines)} places in {path}, at lines {listed}; add surrounding lines to make it unique, "
            "or set replace_all.",
            lines=lines,
        )
    return spans, loosely


def _occurrences(text: str, old: str, *, overlapping: bool) -> Iterator[tuple[int, int]]:
    position = text.find(old)
    while position >= 0:
        yield position, position + len(old)
        position = text.find(old, position + (1 if overlapping else len(old)))


def _refuse_overlaps(document: _Document, spans: list[_Span]) -> None:
    for index in range(1, len(spans)):
        first, second = spans[index - 1], spans[index]
        if second.start < first.end:
            one, other = sorted((first.edit, second.edit))
            line = document.line_of(second.start)
            raise EditError(f"edits[{one}] and edits[{other}] overlap at line {line}; join them into one edit.", lines=[line])


def _replacement(document: _Document, span: _Span, old: str, new: str) -> str:
    """`new` for a place: with the line endings of the place, and with the file's own bytes for lines that `old` and `new` share."""
    ending = document.ending_at(span.start, span.end)
    there = document.text[span.start : span.end]
    mine = _lines(there, "\r" if document.cr_only else "\n")
    before, after = _lines(old), _lines(new)
    if len(mine) != len(before):
        # Cannot be compared line by line: the passage ends in front of trailing blanks, or the like.
        return new.replace("\n", ending)
    out: list[str] = []
    for same, (a, b), (c, d) in _shared(before, after):
        if same:
            out.extend(mine[a:b])
        else:
            # A line that takes the place of another also takes its ending.
            for index, line in enumerate(after[c:d], start=a):
                instead = mine[min(index, b - 1)] if a < b else ""
                out.append(line.replace("\n", _ending_of(instead) or ending))
    return "".join(out)


def _ending_of(line: str) -> str:
    if line.endswith("\r\n"):
        return "\r\n"
    return line[-1] if line.endswith(("\n", "\r")) else ""


def _lines(text: str, mark: str = "\n") -> list[str]:
    # Not str.splitlines: form feeds and U+2028 end no line of a file.
    return [line for line in re.split(f"(?<={mark})", text) if line]


def _shared(before: list[str], after: list[str]) -> Iterator[tuple[bool, tuple[int, int], tuple[int, int]]]:
    """Runs of lines that are the same in both, and those between them, in order."""
    head = 0
    while head < min(len(before), len(after)) and before[head] == after[head]:
        head += 1
    tail = 0
    while tail < min(len(before), len(after)) - head and before[-1 - tail] == after[-1 - tail]:
        tail += 1
    if head:
        yield True, (0, head), (0, head)
    a, b = before[head : len(before) - tail], after[head : len(after) - tail]
    if len(a) * len(b) <= 250_000:
        for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
            yield tag == "equal", (head + i1, head + i2), (head + j1, head + j2)
    else:
        yield False, (head, head + len(a)), (head, head + len(b))
    if tail:
        yield True, (len(before) - tail, len(before)), (len(after) - tail, len(after))


def _not_found(document: _Document, old: str, label: str, path: str) -> EditError:
    """The error for a passage that is nowhere: names the nearest place and the first line that differs there."""
    have = document.flat.split("\n")
    want = old.removesuffix("\n").split("\n")
    if not document.flat:
        return EditError(f"{label}old_text was not found, because {path} is empty; use write.")
    near = _nearest(have, want)
    if near is None:
        return EditError(f"{label}old_text was not found in {path}, nor anything like it; read the file again.")
    lost = f"{label}old_text was not found in {path};"
    for index, line in enumerate(want):
        row = near + index
        number = max(row, 0) + 1
        if row >= len(have):
            message = f"{lost} the nearest text ends with the file, before line {index + 1} of old_text; read the file again."
            return EditError(message, lines=[len(have)])
        there = have[row] if row >= 0 else ""
        if there.rstrip() == line.rstrip() and row >= 0:
            continue
        what = "only the indentation differs: " if row >= 0 and there.strip() == line.strip() else ""
        message = (
            f"{lost} at the nearest place, line {number}, {what}the file has {_quote(there)} where old_text has {_quote(line)}; "
            "copy the text exactly as it is in the file."
        )
        return EditError(message, lines=[number])
    message = f"{lost} the text at line {near + 1} differs in blanks or in how its lines begin and end; copy it exactly."
    return EditError(message, lines=[near + 1])


def _nearest(have: list[str], want: list[str]) -> int | None:
    """Index in `have` where `want` would begin at the best place, None if nothing is alike; negative if `have` lacks the beginning."""
    rows: dict[str, list[int]] = {}
    wanted = {line.strip() for line in want} - {""}
    for row, line in enumerate(have):
        stripped = line.strip()
        if stripped in wanted:
            rows.setdefault(stripped, []).append(row)
    votes: dict[int, int] = {}
    for index, line in enumerate(want):
        for row in rows.get(line.strip(), ())[:50]:
            votes[row - index] = votes.get(row - index, 0) + len(line.strip())
    if votes:
        return max(votes, key=lambda start: (votes[start], -start))
    # No line in common: the line that is most like the longest one wanted.
    index = max(range(len(want)), key=lambda number: len(want[number].strip()))
    goal = want[index].strip()[:200]
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(goal)
    best, best_row = 0.55, None
    budget = _SEARCHED_LINES
    for row, line in enumerate(have):
        candidate = line.strip()[:200]
        if not candidate or 2 * min(len(candidate), len(goal)) / (len(candidate) + len(goal)) <= best:
            continue
        matcher.set_seq1(candidate)
        if matcher.quick_ratio() > best:
            budget -= 100
            ratio = matcher.ratio()
            if ratio > best:
                best, best_row = ratio, row
        budget -= 1
        if budget < 0:
            break
    return None if best_row is None else best_row - index


def _quote(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:117] + "...")
