r"""Folders renamed in running text: prompts, a program's output, error messages. Pure; what is renamed to what is decided by `paths.py`.

Text does not say where a path begins and ends, so borders are guessed, in this way. A path begins at a slash that no name stands before:
after blanks, quotes, brackets and most signs, after an option (`-I/usr`), after an escape (`\n`, a colour), not inside of `a/b` and not at
the host of a URL. A folder is meant only if the name ends there too: `/srv/app` is not meant by `/srv/app2` or `/srv/app.old`. Doubled
slashes and `/./` are seen through, and so are the ways in which a path is written in URLs, shell commands and JSON. What is hidden, is
hidden up to the end of the path: up to the closing quote if one is open, else up to a blank or another sign that rarely is part of a name.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import quote

PLACEHOLDER = "[host path]"
"""Stands for a path that is not to be shown."""

_FOREIGN = "\u00ab\u00bb\u2018-\u201f\u2026\u3001\u3002\u3008-\u3011\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f"
_ENDS = r"""\s"'`()\[\]{}<>|,;:!?&*$^\\""" + "\x00-\x1f\x7f-\x9f" + _FOREIGN
"""Signs that end a path, as part of a character class."""
# What is taken is not given back: a text of nothing but slashes must not take long.
_SEPARATOR = r"/(?:\.?/)*+"
_AFTER = re.compile(rf"/|(?!\\ )[{_ENDS}]|\.++(?:[{_ENDS}]|\Z)|\Z")
_NAME = re.compile(rf"[^/{_ENDS}]")
_REST = re.compile(rf"(?:\\[ ()'\"&]|[^{_ENDS}])*")
_DOTTED = re.compile(rf"/(?:[^{_ENDS}=@#%]|[=@#%](?!/))*")
_BEFORE = re.compile(
    r"(?:\A|[^\w.~+\-/\x80-\U0010ffff]"
    rf"|[{_FOREIGN}\u2500-\u257f\ufffd\x80-\xa0]"
    r"|(?:\A|\n)[+\-]"  # a line of a diff
    r"|(?:\A|[^\w\-])-[A-Za-z]"  # an option
    r"|\\[abefnrtv0]"  # an escape that was not carried out
    r"|\x1b\[[0-9;]*[A-Za-z])\Z"  # a colour
)
_LOOK_BACK = 16
_SCHEME = re.compile(r"(?:\A|[^\w/.+\-\\])[A-Za-z][A-Za-z0-9+.\-]*:\Z")


@dataclass(frozen=True)
class Rule:
    """What becomes of paths in a folder (absolute, in plain form): they move to another one, or the same; None: they are hidden."""

    folder: str
    to: str | None


class TextMap:
    """Replaces folders in text by rules in tiers: an earlier tier goes before a later one, and in a tier the longest folder."""

    def __init__(self, *tiers: Iterable[Rule], ignore_case: bool = False) -> None:
        self._tiers = [_Tier(rules, ignore_case) for rules in tiers]
        self._tiers = [tier for tier in self._tiers if tier.rules]
        # Where one of ours may begin: a slash and the first name of a folder.
        names = {re.escape(first) for tier in self._tiers for first in tier.first_names}
        start = rf"(?<![/.]){_SEPARATOR}(?:{'|'.join(sorted(names))})"
        self._start = re.compile(start, re.IGNORECASE if ignore_case else 0) if names else None

    def replace(self, text: str) -> str:
        """The text with all folders replaced."""
        if self._start is None or "/" not in text:
            return text
        if "/.." in text:
            text = self._without_dots(text)
        done: list[str] = []
        kept = at = 0
        while (found := self._start.search(text, at)) is not None:
            start = found.start()
            replaced = self._at(text, start)
            if replaced is None:
                at = start + 1
                continue
            new, at = replaced
            done += (text[kept:start], new)
            kept = at
        return "".join([*done, text[kept:]]) if done else text

    def _at(self, text: str, start: int) -> tuple[str, int] | None:
        """What stands instead of the path that begins at `start`, and where the text goes on; None if none of ours begins there."""
        if not _begins(text, start):
            return None
        for tier in self._tiers:
            if (match := tier.match(text, start)) is not None:
                break
        else:
            return None
        written, end, rule, encode = match
        if written.startswith("//") and not written.startswith("///") and _SCHEME.search(_before(text, start, 32)):
            return None  # the host of a URL
        rest = _REST.match(text, end)
        assert rest is not None
        slashes = "//" if written.startswith("///") and text[start - 1 : start] == ":" else ""
        if rule.to is None:
            return slashes + PLACEHOLDER, _hidden_to(text, start, rest.end())
        tail = rest.group()
        if ".." in tail.split("/"):
            moved = self._collapsed(f"{rule.folder}/{tail}", only_if_moved=rule.to == rule.folder)
            if moved is not None:
                return slashes + moved, rest.end()
        if rule.to == rule.folder:
            return text[start : rest.end()], rest.end()
        return slashes + _joined(encode(rule.to), tail), rest.end()

    def _without_dots(self, text: str) -> str:
        def look(found: re.Match[str]) -> str:
            path = found.group()
            if ".." not in path.split("/") or not _begins(text, found.start()):
                return path
            return self._collapsed(path, only_if_moved=True) or path

        return _DOTTED.sub(look, text)

    def _collapsed(self, path: str, *, only_if_moved: bool = False) -> str | None:
        """Where a path with `..` leads by its name, as it is shown. A link on the way may lead elsewhere, but nobody goes there."""
        parts: list[str] = []
        for part in path.split("/"):
            if part == "..":
                del parts[-1:]
            elif part not in {"", "."}:
                parts.append(part)
        plain = "/" + "/".join(parts)
        for tier in self._tiers:
            if (match := tier.match(plain)) is not None:
                _, end, rule, encode = match
                if rule.to is None:
                    return PLACEHOLDER
                if rule.to != rule.folder:
                    return _joined(encode(rule.to), plain[end:])
                break
        return None if only_if_moved else plain


class _Tier:
    """Rules of one rank, as patterns."""

    def __init__(self, rules: Iterable[Rule], ignore_case: bool) -> None:
        first: dict[str, Rule] = {}
        for rule in rules:
            first.setdefault(rule.folder, rule)
        self.rules = sorted(first.values(), key=lambda rule: (rule.folder != "/") * (rule.folder.count("/") + 1), reverse=True)
        self.first_names: set[str] = set()
        self._patterns: list[tuple[re.Pattern[str], re.Pattern[str], Rule, Callable[[str], str]]] = []
        for rule in self.rules:
            for spelling, encode in _spellings(rule.folder, ignore_case):
                names = [name for name in spelling.split("/") if name]
                self.first_names.add(names[0] if names else "")
                folder = "".join(_SEPARATOR + re.escape(name) for name in names) or _SEPARATOR
                pattern = re.compile(folder, re.IGNORECASE if ignore_case else 0)
                self._patterns.append((pattern, _AFTER if names else _NAME, rule, encode))

    def match(self, text: str, start: int = 0) -> tuple[str, int, Rule, Callable[[str], str]] | None:
        """The folder that a path at `start` lies in: how it is written and where that ends, its rule, and how others are written so."""
        for pattern, after, rule, encode in self._patterns:
            if (match := pattern.match(text, start)) is not None and after.match(text, match.end()):
                return match.group(), match.end(), rule, encode
        return None


def _spellings(folder: str, ignore_case: bool) -> list[tuple[str, Callable[[str], str]]]:
    """The ways in which a folder may be written, and how another is written in the same way."""
    ways: list[Callable[[str], str]] = [lambda path: path, _in_json, _in_shell, _in_url]
    if ignore_case:
        ways += [lambda path: unicodedata.normalize("NFC", path), lambda path: unicodedata.normalize("NFD", path)]
    found: dict[str, Callable[[str], str]] = {}
    for way in ways:
        found.setdefault(way(folder), way)
    return list(found.items())


def _in_json(path: str) -> str:
    return json.dumps(path)[1:-1]


def _in_shell(path: str) -> str:
    return re.sub(r"([^\w/.,:=@%+\-\x80-\U0010ffff])", r"\\\1", path)


def _in_url(path: str) -> str:
    try:
        return quote(path, errors="surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return path


def _begins(text: str, start: int) -> bool:
    return _BEFORE.search(_before(text, start, _LOOK_BACK)) is not None


def _before(text: str, start: int, length: int) -> str:
    """What stands before; behind a letter where it is cut, as only the beginning of the text is to be taken for one."""
    return text[:start] if start <= length else "x" + text[start - length : start]


def _hidden_to(text: str, start: int, end: int) -> int:
    """Where a path that is hidden ends: at the closing quote, if it began with one on the same line."""
    mark = text[start - 1 : start]
    if mark and mark in "\"'`":
        line = text.find("\n", end)
        closing = text.find(mark, end, line if line >= 0 else len(text))
        if closing >= 0:
            return closing
    while text[end - 1] == "." and end > start + 1:  # the end of a sentence
        end -= 1
    return end


def _joined(folder: str, tail: str) -> str:
    """A folder and what stood behind the one that it replaces."""
    if folder == "/":
        return tail if tail.startswith("/") else "/" + tail
    return folder + tail if tail.startswith("/") or not tail or not _is_name(tail) else f"{folder}/{tail}"


def _is_name(tail: str) -> bool:
    return not tail.startswith(".") or tail.strip(".") != ""
