"""Bounded text for the model: the end of a command's output, how the command ended, and deltas while it runs. Pure.

What is done to the text, and why: the log on the backend stays byte for byte as it was, so the shown text may be made for reading.
Invalid UTF-8 becomes U+FFFD. Colours, cursor movements and titles (ANSI CSI, OSC and other escape sequences) are left out: they cost tokens
and mean nothing without a screen. Of a line that is overwritten with carriage returns (a progress bar) the last state is shown. A backspace
takes back the character before it (overstruck manual pages). Other control characters are shown as their Unicode pictures (NUL as U+2400):
some models and databases refuse them, and dropping them would hide that they are there.
"""

from __future__ import annotations

import codecs
import re
import signal as signals
from dataclasses import dataclass

MAX_LINES = 2000
MAX_BYTES = 50 * 1024

_ESCAPES = re.compile(
    r"\x1b(?:"
    r"\[[0-?]*[ -/]*[@-~]?"  # CSI
    r"|[\]PX^_][^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"  # OSC, DCS, SOS, PM, APC with their text
    r"|[ -/]*[0-~]?"  # two characters, or three (character sets)
    r")"
    r"|\x9b[0-?]*[ -/]*[@-~]?"
)
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


@dataclass(frozen=True)
class Bounded:
    """The end of some output, and what of the whole it is."""

    text: str
    truncated: bool
    notice: str | None
    """Which lines are shown and where the rest is, in brackets; None if all is shown."""
    first_line: int
    """1-based number of the first shown line in the whole output; 0 if there is none."""
    last_line: int
    total_lines: int

    @property
    def shown_lines(self) -> int:
        """How many lines are shown, a cut one included."""
        return self.last_line - self.first_line + 1 if self.first_line else 0


def tail_text(
    data: bytes,
    *,
    max_lines: int = MAX_LINES,
    max_bytes: int = MAX_BYTES,
    total_bytes: int | None = None,
    total_newlines: int | None = None,
    log_path: str | None = None,
) -> Bounded:
    """The last `max_lines` lines or `max_bytes` bytes (of UTF-8) of an output, whichever is less, in whole lines.

    `data` is the whole output or its end; `total_bytes` and `total_newlines` describe the whole. A line whose beginning is not in `data` is
    dropped, and so is one that does not fit any more; only if no whole line is left, the end of the last line is shown, and the notice says
    so.
    """
    total = len(data) if total_bytes is None else total_bytes
    newlines = data.count(b"\n") if total_newlines is None else total_newlines
    total_lines = newlines + (0 if data.endswith(b"\n") or not data else 1)
    if not data:
        return Bounded("", total > 0, None, 0, 0, total_lines)
    lines = data.split(b"\n")
    ends_with_newline = lines[-1] == b""
    if ends_with_newline:
        lines.pop()
    headless = total > len(data)
    whole = lines[1:] if headless else lines
    shown: list[str] = []
    room = max_bytes + (0 if ends_with_newline else 1)
    by_bytes = headless
    for raw in reversed(whole):
        if len(shown) == max_lines:
            by_bytes = False
            break
        # A line can only get shorter than its bytes by what is left out of it, so one of many times the room is not worth cleaning.
        text = clean_line(raw) if len(raw) <= 16 * max_bytes else None
        size = max_bytes + 2 if text is None else len(text.encode()) + 1
        if text is None or size > room:
            by_bytes = True
            break
        shown.append(text)
        room -= size
    if not shown:
        text = _last_bytes(clean_line(lines[-1][-4 * max_bytes :].lstrip(_CONTINUATION)), max_bytes)
        size_known = not headless or len(lines) > 1
        length = f" (the line is {format_size(len(lines[-1]))})" if size_known else ""
        notice = f"[Showing the last {format_size(len(text.encode()))} of line {total_lines} of {total_lines}{length}.{_where(log_path)}]"
        return Bounded(text + ("\n" if ends_with_newline else ""), True, notice, total_lines, total_lines, total_lines)
    shown.reverse()
    text = "\n".join(shown) + ("\n" if ends_with_newline else "")
    first = total_lines - len(shown) + 1
    if len(shown) == len(lines) and not headless:
        return Bounded(text, False, None, first, total_lines, total_lines)
    limit = f"{format_size(max_bytes)} limit" if by_bytes else f"{max_lines} line limit"
    notice = f"[Showing lines {first}-{total_lines} of {total_lines} ({limit}).{_where(log_path)}]"
    return Bounded(text, True, notice, first, total_lines, total_lines)


_CONTINUATION = bytes(range(0x80, 0xC0))


def _where(log_path: str | None) -> str:
    return f" Full output: {log_path} (use read)" if log_path else ""


def _last_bytes(text: str, limit: int) -> str:
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return raw[-limit:].lstrip(_CONTINUATION).decode()


def clean_line(raw: bytes) -> str:
    """One line of output, without its newline, as readable text; see the module's docstring."""
    text = raw.decode("utf-8", "replace")
    if text.isascii() and text.isprintable():
        return text
    text = _ESCAPES.sub("", text).rstrip("\r")
    text = text.rpartition("\r")[2]
    if "\b" in text:
        kept: list[str] = []
        for char in text:
            if char != "\b":
                kept.append(char)
            elif kept:
                kept.pop()
        text = "".join(kept)
    return text.translate(_PICTURES)


def format_size(count: int) -> str:
    """A number of bytes for a person: '512 bytes', '50.0KB', '1.2MB' (steps of 1,024)."""
    if count < 1024:
        return f"{count} bytes"
    size = count / 1024
    for unit in ("KB", "MB"):
        if size < 1023.95:
            return f"{size:.1f}{unit}"
        size /= 1024
    return f"{size:.1f}GB"


def format_exit(exit_code: int | None, *, signal: int | None = None, timed_out: bool = False, timeout: float | None = None) -> str | None:
    """The sentence that says how a command ended, None if it succeeded. `timeout` is the limit in seconds."""
    if timed_out:
        limit = f" after {timeout:g} s" if timeout is not None else ""
        return f"Command timed out{limit}; it and its child processes were killed. Give a longer timeout, or run it with background=true."
    if exit_code is None:
        return "Command ended without an exit code."
    if exit_code == 0:
        return None
    name = _signal_name(signal if signal is not None else exit_code - 128)
    return f"Command exited with code {exit_code}" + (f" ({name})" if name else "")


def _signal_name(number: int) -> str | None:
    try:
        return signals.Signals(number).name
    except ValueError:
        return None


def compose(bounded: Bounded, ending: str | None) -> str:
    """What the model reads: the text, then the notice, then the sentence about the end; "(no output)" stands for nothing."""
    body = bounded.text.rstrip("\n") if bounded.text.strip("\n") else ""
    parts = [body or "(no output)"]
    parts.extend(part for part in (bounded.notice, ending) if part)
    return "\n\n".join(parts)


class DeltaDecoder:
    """Chunks of bytes to deltas of text, never cutting a UTF-8 sequence.

    Made for a screen: escape sequences and carriage returns pass, for the consumer can draw them; only NUL is replaced.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, chunk: bytes) -> str:
        """The text that is complete with this chunk, perhaps empty."""
        return self._decoder.decode(chunk).replace("\0", "␀")

    def close(self) -> str:
        """What is left: U+FFFD if the stream ended in the middle of a sequence."""
        return self._decoder.decode(b"", True)
