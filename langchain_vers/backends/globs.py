"""Which paths a glob or a set of `.gitignore` files picks: pure matching over path strings, the same on every backend.

One translator turns the wildcard language that git calls "wildmatch" into regular expressions. Globs of the tools use it on characters,
with braces expanded first; ignore rules use it on bytes, as git does, and with git's order of precedence. Walking directories and reading
`.gitignore` files is left to the backends.

The `pathspec` library is not used for ignore rules. Against git 2.39, pathspec 1.1 differs for escapes and classes inside brackets, and for
'a**/b'; it raises for '[z-a]' and a final backslash; it lets a rule bring back a file whose directory is excluded; and its '?' takes a
character where git takes a byte. The tests compare this module with git itself.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass, field

from langchain_vers.errors import BadInput

PathPredicate = Callable[[str], bool]
"""Takes a path relative to the searched directory, '/' between parts, no leading './'; says whether the glob picks it."""

MAX_ALTERNATIVES = 1000
"""How many patterns the braces of one glob may expand to."""

_CLASSES = {
    "alnum": string.ascii_letters + string.digits,
    "alpha": string.ascii_letters,
    "blank": " \t",
    "cntrl": "".join(map(chr, range(32))) + "\x7f",
    "digit": string.digits,
    "graph": "".join(map(chr, range(33, 127))),
    "lower": string.ascii_lowercase,
    "print": "".join(map(chr, range(32, 127))),
    "punct": string.punctuation,
    "space": " \t\n\r\f\v",
    "upper": string.ascii_uppercase,
    "xdigit": string.hexdigits,
}
_STARS = re.compile(r"\*+")
_WILD = re.compile(r"[*?\[\\]")


class _NoMeaning(ValueError):
    """The pattern is malformed: git lets it match nothing, a glob of the tools is refused."""


def compile_glob(pattern: str) -> PathPredicate:
    """A predicate for a glob.

    An alternative without '/' is matched against the last part of a path, one with '/' against the whole path. `*` and `?` do not cross
    '/', `**` as a whole part matches any number of parts, `[a-z]` and `[!a-z]` are classes, `{a,b}` alternatives (which nest), a backslash
    takes the next character literally. Hidden names are matched like all others. A leading './' is dropped; 'dir/' means 'dir/**'.

    Raises:
        BadInput: the glob is empty, absolute, climbs with '..', is malformed, or its braces expand to more than `MAX_ALTERNATIVES`.
    """
    if not pattern:
        raise BadInput("The glob is empty; give one such as '*.py' or 'src/**/*.ts'.")
    if "\0" in pattern:
        raise BadInput("The glob contains a NUL character.")
    names: list[str] = []
    paths: list[str] = []
    for alternative in expand_braces(pattern):
        spelled = alternative
        while spelled.startswith("./"):
            spelled = spelled[2:].lstrip("/")
        if spelled.startswith("/"):
            raise BadInput(f"The glob {pattern!r} is absolute; give the directory as path and a glob relative to it.")
        if ".." in spelled.split("/"):
            raise BadInput(f"The glob {pattern!r} climbs with '..'; give the directory as path and a glob relative to it.")
        if spelled.endswith("/"):
            spelled = spelled.rstrip("/") + "/**"
        try:
            if "/" in spelled:
                paths.append(_translate(re.sub("//+", "/", spelled)))
            elif spelled:
                names.append(_translate(spelled))
        except _NoMeaning as error:
            raise BadInput(f"The glob {pattern!r} is malformed: {error}.") from None
    name_regex = _union(names)
    path_regex = _union(paths)

    def picks(path: str) -> bool:
        if name_regex is not None and name_regex.fullmatch(path.rpartition("/")[2]):
            return True
        return path_regex is not None and path_regex.fullmatch(path) is not None

    return picks


def expand_braces(pattern: str) -> list[str]:
    """The alternatives that `{a,b}` groups of a glob stand for, left to right, groups nested or not; escapes are left in place.

    Raises:
        BadInput: a brace is not closed or not opened, or there are more than `MAX_ALTERNATIVES` results.
    """
    # Each open group keeps the alternatives finished so far and the prefixes that the current alternative consists of.
    current = [""]
    groups: list[tuple[list[str], list[str]]] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        piece = char
        if char == "\\":
            piece = pattern[position : position + 2]
        elif char == "[":
            end = _bracket_end(pattern, position)
            piece = pattern[position:end] if end else char
        elif char == "{":
            groups.append((current, []))
            current = [""]
            position += 1
            continue
        elif char in ",}" and groups:
            before, finished = groups[-1]
            finished.extend(current)
            current = [""]
            if char == "}":
                groups.pop()
                if len(before) * len(finished) > MAX_ALTERNATIVES:
                    raise BadInput(f"The braces of the glob {pattern!r} expand to more than {MAX_ALTERNATIVES} alternatives.")
                current = [head + tail for head in before for tail in finished]
            position += 1
            continue
        elif char == "}":
            raise BadInput(f"The glob {pattern!r} closes a brace that is not open; write '\\}}' for a literal one.")
        current = [head + piece for head in current]
        position += len(piece)
    if groups:
        raise BadInput(f"The glob {pattern!r} has a brace that is not closed; write '\\{{' for a literal one.")
    return list(dict.fromkeys(current))


@dataclass(frozen=True)
class _Rule:
    regex: re.Pattern[str]
    negated: bool
    directories_only: bool
    name_only: bool


@dataclass
class IgnoreRules:
    """The `.gitignore` files of a tree, with git's rules.

    The last matching rule of the deepest file that has one decides; what lies in an excluded directory is excluded, whatever later rules
    say. Add a directory's file before asking about anything below that directory. Global excludes and `.git/info/exclude` are left out on
    purpose: they differ from machine to machine.
    """

    _rules: dict[str, list[_Rule]] = field(default_factory=dict)
    _directories: dict[str, bool] = field(default_factory=dict)

    def add(self, directory: str, content: bytes) -> None:
        """Take the content of `directory`'s `.gitignore`. `directory` is relative to the root of the tree, "" for the root itself."""
        rules = [rule for line in _ignore_lines(content) if (rule := _parse_rule(line)) is not None]
        if rules:
            self._rules[_as_bytes(directory)] = rules
            self._directories.clear()

    def ignored(self, path: str, is_dir: bool) -> bool:
        """Whether git would ignore `path` (relative to the root of the tree), were it not tracked. A symlink is no directory."""
        if not self._rules:
            return False
        raw = _as_bytes(path)
        parent = raw.rpartition("/")[0]
        if parent and self._directory_ignored(parent):
            return True
        return self._directory_ignored(raw) if is_dir else self._decide(raw, False)

    def _directory_ignored(self, raw: str) -> bool:
        known = self._directories.get(raw)
        if known is None:
            parent = raw.rpartition("/")[0]
            known = (bool(parent) and self._directory_ignored(parent)) or self._decide(raw, True)
            self._directories[raw] = known
        return known

    def _decide(self, raw: str, is_dir: bool) -> bool:
        parent, _, name = raw.rpartition("/")
        while True:
            relative = raw[len(parent) + 1 :] if parent else raw
            for rule in reversed(self._rules.get(parent, ())):
                if rule.directories_only and not is_dir:
                    continue
                if rule.regex.fullmatch(name if rule.name_only else relative):
                    return not rule.negated
            if not parent:
                return False
            parent = parent.rpartition("/")[0]


def _as_bytes(path: str) -> str:
    # git compares bytes: each byte becomes one character, so that `?` and classes see what git sees.
    return path.encode("utf-8", "surrogateescape").decode("latin-1")


def _ignore_lines(content: bytes) -> list[str]:
    text = content.removeprefix(b"\xef\xbb\xbf").decode("latin-1")
    return [line.removesuffix("\r") for line in text.split("\n") if not line.startswith("#")]


def _parse_rule(line: str) -> _Rule | None:
    pattern = _trim_spaces(line)
    negated = pattern.startswith("!")
    if negated:
        pattern = pattern[1:]
    directories_only = pattern.endswith("/")
    if directories_only:
        pattern = pattern[:-1]
    name_only = "/" not in pattern
    pattern = pattern.removeprefix("/")
    if not pattern:
        return None
    # git compares the part before the first wildcard as it is and starts its matcher behind it; thus 'a**/b' crosses directories there.
    wild = _WILD.search(pattern)
    literal = pattern[: wild.start()] if wild else pattern
    try:
        regex = re.escape(literal) + _translate(pattern[len(literal) :], stars_cross=not name_only)
    except _NoMeaning:
        return None
    return _Rule(re.compile(regex, re.DOTALL), negated, directories_only, name_only)


def _trim_spaces(line: str) -> str:
    # Trailing spaces go, unless a backslash keeps one.
    keep = position = 0
    while position < len(line):
        if line[position] == "\\":
            position += 2
            keep = position
        else:
            if line[position] != " ":
                keep = position + 1
            position += 1
    return line[:keep]


def _union(patterns: list[str]) -> re.Pattern[str] | None:
    if not patterns:
        return None
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.DOTALL)


def _translate(pattern: str, *, stars_cross: bool = True) -> str:
    """The regular expression (for a full match, with DOTALL) of one wildcard pattern without braces."""
    out: list[str] = []
    # A star and the fixed text behind it, up to the next star of the same part, can be matched at the first place where it fits: what
    # follows begins with a star and can take the rest. As an atomic group that keeps '*a*a*a*a*b' from trying every split.
    star_at: int | None = None
    position = 0
    while position < len(pattern):
        char = pattern[position]
        if char == "*":
            stars = _STARS.match(pattern, position)
            end = stars.end() if stars else position + 1
            whole_part = (position == 0 or pattern[position - 1] == "/") and (end == len(pattern) or pattern[end] == "/")
            if stars_cross and end - position > 1 and whole_part:
                star_at = None
                if end == len(pattern):
                    out.append(".*")
                else:
                    out.append("(?:.*/)?")
                    end += 1
            else:
                if star_at is not None:
                    out[star_at] = "(?>[^/]*?"
                    out.append(")")
                star_at = len(out)
                out.append("[^/]*")
            position = end
        elif char == "[":
            end = _bracket_end(pattern, position)
            if not end:
                raise _NoMeaning("a '[' is not closed; write '[[]' for a literal one")
            out.append(_bracket_regex(pattern[position + 1 : end - 1]))
            position = end
        elif char == "\\":
            if position + 1 == len(pattern):
                raise _NoMeaning("it ends in a backslash")
            out.append(re.escape(pattern[position + 1]))
            if pattern[position + 1] == "/":
                star_at = None
            position += 2
        else:
            if char == "/":
                star_at = None
            out.append("[^/]" if char == "?" else re.escape(char))
            position += 1
    return "".join(out)


def _bracket_end(pattern: str, start: int) -> int:
    """Position behind the ']' that closes the bracket at `start`, 0 if nothing does."""
    position = start + 1
    if pattern[position : position + 1] in ("!", "^"):
        position += 1
    first = position
    while position < len(pattern):
        char = pattern[position]
        if char == "]" and position > first:
            return position + 1
        if char == "\\":
            position += 2
        elif pattern.startswith("[:", position):
            close = pattern.find("]", position + 2)
            if close < 0:
                return 0
            position = close + 1 if pattern[close - 1] == ":" and close > position + 2 else position + 1
        else:
            position += 1
    return 0


def _bracket_regex(body: str) -> str:
    negated = body[:1] in ("!", "^")
    items = body[1:] if negated else body
    parts: list[str] = []
    previous = ""
    position = 0
    while position < len(items):
        char = items[position]
        if (
            char == "["
            and items.startswith("[:", position)
            and (close := items.find("]", position + 2)) > position + 2
            and items[close - 1] == ":"
        ):
            name = items[position + 2 : close - 1]
            if name not in _CLASSES:
                raise _NoMeaning(f"'[:{name}:]' is no character class")
            parts.extend(re.escape(member) for member in _CLASSES[name])
            previous = ""
            position = close + 1
            continue
        if char == "-" and previous and position + 1 < len(items):
            position += 1
            last = items[position]
            if last == "\\":
                position += 1
                last = items[position]
            if previous <= last:
                parts.append(f"{re.escape(previous)}-{re.escape(last)}")
            previous = ""
            position += 1
            continue
        if char == "\\":
            position += 1
            char = items[position]
        parts.append(re.escape(char))
        previous = char
        position += 1
    if negated:
        return f"[^/{''.join(parts)}]"
    # A class never matches '/', even if it names it.
    return f"(?!/)[{''.join(parts)}]" if parts else "(?!)"
