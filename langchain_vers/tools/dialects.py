r"""Regular expressions as a model writes them (ripgrep's dialect), said in POSIX extended syntax for `grep -E`. Pure.

Translated: \d \w \s and their complements (alone or in brackets), \t \r \xHH \u{H}, \p{L} and a few more, (?:...), named groups, lazy
repetition (which lines match is the same), a leading (?i), \A and \z. \b, \B and \w lean on the C library, which GNU and musl both have.
Refused, with the remedy: lookaround, backreferences (ripgrep has neither), other inline flags, set operations in brackets, unknown
escapes.

Left different: ripgrep's \d \w \s cover all of Unicode, while \d here is 0 to 9 and the others are what the locale says. A busybox that is
built without locales (Debian's is, Alpine's is not) takes each byte for a character.
"""

from __future__ import annotations

import re

from langchain_vers.errors import BadInput

_SETS = {"d": "0-9", "w": "[:alnum:]_", "s": "[:space:]"}
_PROPERTIES = {
    **dict.fromkeys(("L", "Letter", "Alphabetic"), "[:alpha:]"),
    **dict.fromkeys(("Lu", "Uppercase"), "[:upper:]"),
    **dict.fromkeys(("Ll", "Lowercase"), "[:lower:]"),
    **dict.fromkeys(("N", "Nd"), "0-9"),
    **dict.fromkeys(("P", "Punctuation"), "[:punct:]"),
}
_CONTROLS = {"t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_SPECIAL = set(".[\\()*+?{|^$")
_COUNT = re.compile(r"\{\d+(?:,\d*)?\}")
_CODE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|[xuU]\{([0-9A-Fa-f]{1,8})\})")
_GROUP = re.compile(r"\(\?(?::|P?<[A-Za-z_][A-Za-z0-9_.]*>)")
_PROPERTY = re.compile(r"\\([pP])(?:\{(\w+)\}|(\w))")
_NEEDLESS = re.compile(r"""\\(?:([/"',:;=@!%`])|.)""", re.DOTALL)
_POSIX = re.compile(r"\[:(alnum|alpha|blank|cntrl|digit|graph|lower|print|punct|space|upper|xdigit):\]")


def to_ere(pattern: str) -> tuple[str, bool]:
    """The pattern for `grep -E`, and whether a leading (?i) asks for ignoring case.

    Raises:
        BadInput: the pattern is malformed, or uses what `grep -E` cannot do.
    """
    ignore_case = pattern.startswith("(?i)")
    return _Translator(pattern[4:] if ignore_case else pattern).run(), ignore_case


def to_rust(pattern: str) -> str:
    """The pattern for ripgrep: without backslashes before characters that are not special, which ripgrep 13 and older refuse."""
    return _NEEDLESS.sub(lambda found: found.group(1) or found.group(), pattern)


class _Translator:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def fail(self, why: str) -> BadInput:
        return BadInput(f"The regular expression {self.pattern!r} cannot be used: {why}.")

    def run(self) -> str:
        out: list[str] = []
        depth = 0
        repeatable = False
        while self.at < len(self.pattern):
            char = self.pattern[self.at]
            if char == "\\":
                piece, repeatable = self.escape()
            elif char == "[":
                piece, repeatable = self.bracket(), True
            elif char == "(":
                piece, repeatable = self.group(), False
                depth += 1
            elif char == ")":
                if depth == 0:
                    raise self.fail("a ')' is not opened; write '\\)' for a literal one")
                depth -= 1
                piece, repeatable = self.take(1), True
            elif char in "*+?{":
                piece = self.repetition(repeatable)
            else:
                repeatable = char not in "|^$"
                piece = self.take(1)
            out.append(piece)
        if depth:
            raise self.fail("a '(' is not closed; write '\\(' for a literal one")
        return "".join(out)

    def take(self, count: int) -> str:
        self.at += count
        return self.pattern[self.at - count : self.at]

    def repetition(self, repeatable: bool) -> str:
        if not repeatable:
            raise self.fail(f"there is nothing for '{self.pattern[self.at]}' to repeat; escape a literal one with a backslash")
        if self.pattern[self.at] == "{":
            count = _COUNT.match(self.pattern, self.at)
            if not count:
                raise self.fail("a '{' does not begin a count such as {2,5}; write '\\{' for a literal one")
            piece = self.take(len(count.group()))
        else:
            piece = self.take(1)
        if self.pattern.startswith("?", self.at):
            self.at += 1  # lazy: the same lines match
        return piece

    def group(self) -> str:
        if not self.pattern.startswith("(?", self.at):
            return self.take(1)
        named = _GROUP.match(self.pattern, self.at)
        if named:
            self.at = named.end()
            return "("
        if self.pattern.startswith(("(?=", "(?!", "(?<=", "(?<!"), self.at):
            raise self.fail("lookaround is not supported; search for the rest and look at the lines")
        raise self.fail("flags inside the expression are not supported here; use ignore_case")

    def literal(self, char: str) -> str:
        if char == "\n":
            raise self.fail("a line break never matches, as lines are searched one by one")
        return f"\\{char}" if char in _SPECIAL else char

    def code(self) -> str | None:
        found = _CODE.match(self.pattern, self.at)
        if not found:
            return None
        number = int(next(group for group in found.groups() if group), 16)
        if not 0 < number <= 0x10FFFF or 0xD800 <= number < 0xE000:
            raise self.fail(f"{found.group()} is no character that a line can have")
        self.at = found.end()
        return chr(number)

    def char_escape(self) -> str:
        """The one character that the escape at this place stands for."""
        char = self.code()
        if char is not None:
            return char
        letter = self.pattern[self.at + 1 : self.at + 2]
        if not letter:
            raise self.fail("it ends in a backslash")
        if letter == "n":
            raise self.fail("a line break never matches, as lines are searched one by one")
        if letter in _CONTROLS:
            self.at += 2
            return _CONTROLS[letter]
        if letter.isdigit():
            raise self.fail("backreferences are not supported")
        if letter.isalpha() or not letter.isascii():
            raise self.fail(f"the escape '\\{letter}' is not known")
        self.at += 2
        return letter

    def named_set(self) -> tuple[str, bool] | None:
        r"""The set that \d, \p{L} and the like stand for, as the inside of a bracket, and whether it is the complement that is meant."""
        letter = self.pattern[self.at + 1 : self.at + 2]
        if letter and letter.lower() in _SETS:
            self.at += 2
            return _SETS[letter.lower()], letter.isupper()
        found = _PROPERTY.match(self.pattern, self.at)
        if not found:
            return None
        name = found.group(2) or found.group(3)
        if name not in _PROPERTIES:
            raise self.fail(f"the class {found.group()} needs ripgrep on this machine; name the characters instead")
        self.at = found.end()
        return _PROPERTIES[name], found.group(1) == "P"

    def escape(self) -> tuple[str, bool]:
        letter = self.pattern[self.at + 1 : self.at + 2]
        if letter in ("b", "B"):
            return self.take(2), False
        if letter in ("A", "z"):
            self.at += 2
            return ("^" if letter == "A" else "$"), False
        named = self.named_set()
        if named:
            return f"[{'^' if named[1] else ''}{named[0]}]", True
        return self.literal(self.char_escape()), True

    def bracket(self) -> str:
        self.at += 1
        negated = self.pattern.startswith("^", self.at)
        self.at += negated
        singles: list[str] = []
        ranges: list[str] = []
        complements: list[str] = []
        first = True
        while True:
            if self.at >= len(self.pattern):
                raise self.fail("a '[' is not closed; write '\\[' for a literal one")
            char = self.pattern[self.at]
            if char == "]" and not first:
                self.at += 1
                break
            first = False
            posix = _POSIX.match(self.pattern, self.at)
            if posix:
                ranges.append(posix.group())
                self.at = posix.end()
                continue
            if char == "[" or self.pattern.startswith(("&&", "--", "~~"), self.at):
                raise self.fail("sets inside of brackets are not supported; write '\\[' for a literal bracket")
            if char == "\\" and (named := self.named_set()):
                (complements if named[1] else ranges).append(named[0])
                continue
            low = self.member()
            if self.pattern.startswith("--", self.at):
                raise self.fail("sets inside of brackets are not supported; write '\\-' for a literal dash")
            if self.pattern.startswith("-", self.at) and self.pattern[self.at + 1 : self.at + 2] not in ("", "]"):
                self.at += 1
                high = self.member()
                if high < low:
                    raise self.fail(f"the range {low}-{high} is the wrong way round")
                if {low, high} & set("]^-[\\"):
                    singles.extend(chr(number) for number in range(ord(low), min(ord(high), ord(low) + 1000) + 1))
                else:
                    ranges.append(f"{low}-{high}")
            else:
                singles.append(low)
        if complements:
            if len(complements) == 1 and not ranges and not singles:
                return f"[{'' if negated else '^'}{complements[0]}]"
            if not negated and set(complements) & set(ranges):
                return "."  # such as [\s\S]
            raise self.fail("a complement such as \\S beside others in brackets is not supported; use alternatives (a|b)")
        return _bracket_text(negated, singles, ranges)

    def member(self) -> str:
        if self.pattern.startswith("\\", self.at):
            return self.char_escape()
        char = self.take(1)
        self.literal(char)
        return char


def _bracket_text(negated: bool, singles: list[str], ranges: list[str]) -> str:
    # Backslashes mean nothing in a POSIX bracket; what is special there is made ordinary by its place.
    members = dict.fromkeys(singles)
    plain = "".join(char for char in members if char not in "]^-[")
    body = ("]" if "]" in members else "") + "".join(ranges) + plain + ("[" if "[" in members else "")
    if "^" in members and not body and not negated:
        return "[-^]" if "-" in members else "\\^"
    body += ("^" if "^" in members else "") + ("-" if "-" in members else "")
    return f"[{'^' if negated else ''}{body}]"
