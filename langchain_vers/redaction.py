"""Secrets taken out of what is shown: values that are known, in text, in bytes, and in streams that may cut them anywhere. Pure.

What is found: the value itself; each line of a value with several; the forms that it has in JSON and shell quotes, in a URL, as hex digits,
and in Base64 (wherever it begins in the encoded data, also when that is wrapped into lines). What is not: a value that was changed in
another way (reversed, encrypted, cut into pieces by the command itself). So redaction keeps accidents from spreading a secret; it holds no
one back who runs commands on a machine that has it.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

SHORTEST_PART = 8
"""Bytes of a line of a secret that is looked for by itself, and of a secret whose encoded forms are."""
SHORTEST_REMAINDER = 4
"""Bytes of the end of a secret that is recognised where the beginning of a text was cut off."""
_FALLBACKS = (b"[redacted]", "\u2588\u2588\u2588\u2588".encode(), "\u2022\u2022\u2022\u2022".encode())
_BREAKS = re.compile(rb"[\r\n]+")


class Redactor:
    """Replaces secrets by a mark that names them.

    Args:
        secrets: the values by name. Those that are empty are ignored.
    """

    def __init__(self, secrets: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        named = secrets.items() if isinstance(secrets, Mapping) else secrets
        plain: dict[bytes, str] = {}
        wrapped: dict[bytes, str] = {}
        for name, value in sorted(set(named)):
            if value:
                for form in _forms(value):
                    plain.setdefault(form, name)
                for form in _base64_forms(_encoded(value)):
                    wrapped.setdefault(form, name)
        self._plain, self._wrapped = plain, wrapped
        self._longest = max(map(len, (*plain, *wrapped)), default=0)
        self._marks = _marks({*plain.values(), *wrapped.values()}, [*plain, *wrapped])

    def __repr__(self) -> str:
        return f"Redactor({', '.join(sorted(self._marks)) or 'nothing'})"

    def __bool__(self) -> bool:
        """Whether there is anything to redact."""
        return bool(self._plain)

    def data(self, data: bytes, *, cut: bool = False, unfinished: bool = False) -> bytes:
        """The bytes without secrets.

        `cut`: they are the end of something longer, so that they may begin with the end of a secret; `unfinished`: more may follow, so that
        they may end with the beginning of one. Pieces of a secret of less than `SHORTEST_REMAINDER` bytes are not noticed.
        """
        if not self._plain:
            return data
        spans = self._spans(data, cut=cut)
        if unfinished and len(data) - (end := self._open(data)) >= SHORTEST_REMAINDER:
            named = next((name for form, name in [*self._plain.items(), *self._wrapped.items()] if form.startswith(data[end:])), None)
            spans = _joined([*spans, (end, len(data), named or next(iter(self._marks)))])
        return self._replaced(data, spans, len(data))

    def text(self, text: str, *, cut: bool = False) -> str:
        """The text without secrets; as `data`."""
        if not self._plain:
            return text
        data = _encoded(text)
        redacted = self.data(data, cut=cut)
        # Most text has none: it stays the very same, also if it is not proper Unicode.
        return text if redacted == data else _decoded(redacted)

    def value(self, value: Any) -> Any:  # noqa: ANN401  # what is given comes back
        """Whatever is made of texts, lists and dicts, without secrets in any of its texts, the keys included."""
        if not self._plain:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes):
            return self.data(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self.value, value))
        return value

    def stream(self) -> RedactedStream:
        """For data that comes in pieces."""
        return RedactedStream(self)

    # --- where they are ---

    def _spans(self, data: bytes, *, cut: bool = False) -> list[tuple[int, int, str]]:
        """Where secrets stand: sorted, overlapping ones joined."""
        found = list(_found(data, self._plain))
        if self._wrapped:
            flat = _BREAKS.sub(b"", data)
            encoded = list(_found(flat, self._wrapped))
            if encoded and len(flat) < len(data):
                places = [index for index, byte in enumerate(data) if byte not in b"\r\n"]
                encoded = [(places[start], places[end - 1] + 1, name) for start, end, name in encoded]
            found += encoded
        if cut and (remainder := self._remainder(data)) is not None:
            found.append(remainder)
        return _joined(found)

    def _remainder(self, data: bytes) -> tuple[int, int, str] | None:
        """The end of a secret that the data begins with."""
        best: tuple[int, int, str] | None = None
        for forms in (self._plain, self._wrapped):
            head = data[: self._longest]
            for form, name in forms.items():
                for length in range(min(len(form) - 1, len(head)), SHORTEST_REMAINDER - 1, -1):
                    if (best is None or length > best[1]) and head.startswith(form[-length:]):
                        best = (0, length, name)
                        break
        return best

    def _replaced(self, data: bytes, spans: list[tuple[int, int, str]], end: int) -> bytes:
        pieces: list[bytes] = []
        at = 0
        for first, last, name in spans:
            if first >= end:
                break
            pieces += (data[at:first], self._marks[name])
            at = last
        return b"".join([*pieces, data[at:end]]) if at < end else b"".join(pieces)

    def _safe(self, data: bytes) -> tuple[bytes, int]:
        """As much of the beginning as no further data can change, redacted; and how much that is."""
        end = self._open(data)
        spans = self._spans(data)
        for first, last, _ in spans:
            if first < end < last:  # something begins in the middle of a secret, and would be joined to it
                end = first
        return self._replaced(data, [span for span in spans if span[1] <= end], end), end

    def _open(self, data: bytes) -> int:
        """Where the first secret may begin that is not complete yet."""
        tail_start = max(0, len(data) - self._longest + 1)
        first = _first_open(data[tail_start:], self._plain) + tail_start
        if self._wrapped:
            flat = _BREAKS.sub(b"", data)[1 - self._longest :]
            count = len(flat) - _first_open(flat, self._wrapped)
            if count:
                first = min(first, _last(data, count))
        return first


class RedactedStream:
    """Data in pieces, given on as soon as it is known to hold no secret: only what may be the beginning of one waits for what follows."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._waiting = b""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes; those that may be shown by now."""
        if not self._redactor:
            return data
        self._waiting += data
        shown, used = self._redactor._safe(self._waiting)
        self._waiting = self._waiting[used:]
        return shown

    def close(self) -> bytes:
        """Nothing follows any more; the rest."""
        rest, self._waiting = self._waiting, b""
        return self._redactor.data(rest)


def _found(data: bytes, forms: Mapping[bytes, str]) -> Iterator[tuple[int, int, str]]:
    for form, name in forms.items():
        start = data.find(form)
        while start >= 0:
            yield start, start + len(form), name
            start = data.find(form, start + 1)


def _joined(found: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    joined: list[tuple[int, int, str]] = []
    for start, end, name in sorted(found):
        if joined and start < joined[-1][1]:
            first, last, known = joined[-1]
            joined[-1] = (first, max(last, end), known)
        else:
            joined.append((start, end, name))
    return joined


def _last(data: bytes, count: int) -> int:
    """Where the last `count` bytes begin, line breaks not counted."""
    place = len(data)
    while count:
        place -= 1
        count -= data[place] not in b"\r\n"
    return place


def _first_open(tail: bytes, forms: Mapping[bytes, str]) -> int:
    """The first place from which on the tail is the beginning of a form; its length if there is none."""
    first = len(tail)
    for form in forms:
        at = tail.find(form[:1], max(0, len(tail) - len(form) + 1))
        while 0 <= at < first:
            if form.startswith(tail[at:]):
                first = at
                break
            at = tail.find(form[:1], at + 1)
    return first


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")


def _forms(value: str) -> set[bytes]:
    """How a value may be written, but for Base64."""
    written = {value}
    parts = {part for line in value.splitlines() for part in (line, line.strip())}
    written |= {part for part in parts if len(_encoded(part)) >= SHORTEST_PART}
    if (bare := value.strip()) and len(bare) >= SHORTEST_REMAINDER:
        written.add(bare)
    forms = {_encoded(text) for text in written}
    for text in tuple(written):
        raw = _encoded(text)
        forms.add(_encoded(json.dumps(text)[1:-1]))
        forms.add(_encoded(json.dumps(text, ensure_ascii=False)[1:-1]))
        forms.add(_encoded(shlex.quote(text).strip("'")))
        if len(raw) >= SHORTEST_PART:
            forms |= {
                quote(raw, safe="").encode(),
                quote(raw).encode(),
                quote_plus(raw).encode(),
                raw.hex().encode(),
                raw.hex().upper().encode(),
            }
    return {form for form in forms if form}


def _base64_forms(raw: bytes) -> set[bytes]:
    """What is in Base64 data that holds these bytes, wherever they begin in it: the signs that depend on nothing else."""
    if len(raw) < SHORTEST_PART:
        return set()
    forms: set[bytes] = set()
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            whole = encode(b"\0" * before + raw)
            start = (before * 8 + 5) // 6
            end = (before + len(raw)) * 8 // 6
            forms.add(whole[start:end])
    return forms


def _marks(names: set[str], forms: list[bytes]) -> dict[str, bytes]:
    """A mark for each name that no secret can be made of, neither alone nor together with what stands around it."""
    marks: dict[str, bytes] = {}
    single = [bytes([code]) * 4 for code in range(0x21, 0x7F)]
    for name in names:
        candidates = (f"[secret {name}]".encode(), *_FALLBACKS, *single)
        marks[name] = next((mark for mark in candidates if not any(_overlap(form, mark) for form in forms)), b"\x1a")
    return marks


def _overlap(form: bytes, mark: bytes) -> bool:
    """Whether the form can stand so that it shares bytes with the mark."""
    if form in mark or mark in form:
        return True
    return any(form.endswith(mark[:length]) or form.startswith(mark[-length:]) for length in range(1, min(len(mark), len(form)) + 1))


NOTHING = Redactor()
"""Redacts nothing."""
