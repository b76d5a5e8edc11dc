from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vers.tools.output import DeltaDecoder, clean_line, compose, format_exit, format_size, tail_text


def test_short_output_is_whole() -> None:
    for text in ("", "a", "a\n", "a\n\nb", "\n", "\n\n", "é\U0001f600\n"):
        found = tail_text(text.encode())
        assert (found.text, found.truncated, found.notice) == (text, False, None)
        assert found.shown_lines == found.total_lines == len(text.splitlines())


def test_last_lines_are_shown() -> None:
    data = b"".join(b"line %d\n" % number for number in range(1, 6001))
    found = tail_text(data, log_path="/tmp/x.log")
    assert found.text.splitlines()[0] == "line 4001" and found.text.endswith("line 6000\n")
    assert found.notice == "[Showing lines 4001-6000 of 6000 (2000 line limit). Full output: /tmp/x.log (use read)]"
    assert (found.first_line, found.last_line, found.total_lines, found.shown_lines) == (4001, 6000, 6000, 2000)
    assert tail_text(data[:-1]).notice == "[Showing lines 4001-6000 of 6000 (2000 line limit).]"


def test_last_bytes_are_shown_in_whole_lines() -> None:
    data = b"".join(b"%04d" % number + b"x" * 95 + b"\n" for number in range(1, 1001))
    found = tail_text(data, max_bytes=1024)
    assert found.shown_lines == 10 and found.text.startswith("0991x")
    assert found.notice == "[Showing lines 991-1000 of 1000 (1.0KB limit).]"
    assert tail_text(b"ab\ncd", max_bytes=5).text == "ab\ncd"
    assert tail_text(b"ab\ncd", max_bytes=4).text == "cd"


def test_data_that_is_only_the_end() -> None:
    whole = "".join(f"línea {number}\n" for number in range(1, 101)).encode()
    for cut in range(1, 40):
        found = tail_text(whole[-200 + cut :], total_bytes=len(whole), total_newlines=100)
        assert found.text.splitlines() == whole.decode().splitlines()[found.first_line - 1 :]
        assert found.truncated and found.notice and f"lines {found.first_line}-100 of 100 (50.0KB limit)" in found.notice


def test_one_line_that_is_too_long() -> None:
    data = b"first\n" + "é".encode() * 1000
    found = tail_text(data, max_bytes=101)
    assert found.text == "é" * 50
    assert found.notice == "[Showing the last 100 bytes of line 2 of 2 (the line is 2.0KB).]"
    part = tail_text(data[-999:], max_bytes=5000, total_bytes=len(data), total_newlines=1, log_path="/l")
    assert part.text == "é" * 499 and part.notice == "[Showing the last 998 bytes of line 2 of 2. Full output: /l (use read)]"
    huge = tail_text(b"x" * 5_000_000 + b"\n")
    assert huge.text == "x" * 51200 + "\n" and huge.truncated


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b]0;title\x07x\x1b]8;;http://a\x1b\\link\x1b]8;;\x1b\\", "xlink"),
        (b"\x1b(Ba\x1b=b\x1b7c", "abc"),
        (b"\x1b", ""),
        (b"10%\r50%\r100%", "100%"),
        (b"dos\r", "dos"),
        (b"10%\r", "10%"),
        (b"N\bNA\bAM\bM", "NAM"),
        (b"a\0b\x07", "a␀b␇"),
        (b"a\tb\x7f", "a\tb␡"),
        (b"\xc2\x85\xff", "��"),
        ("naïve ☃\U0001f600".encode(), "naïve ☃\U0001f600"),
    ],
)
def test_lines_are_made_readable(raw: bytes, text: str) -> None:
    assert clean_line(raw) == text


@given(st.binary(max_size=300), st.integers(1, 8), st.integers(1, 60), st.integers(0, 300))
def test_limits_hold_for_any_bytes(data: bytes, max_lines: int, max_bytes: int, cut: int) -> None:
    tail = data[min(cut, max(len(data) - 1, 0)) :]
    found = tail_text(tail, max_lines=max_lines, max_bytes=max_bytes, total_bytes=len(data), total_newlines=data.count(b"\n"))
    assert found.text.count("\n") <= max_lines
    assert len(found.text.encode()) <= max_bytes + 1
    assert not any(ord(char) < 32 and char not in "\t\n" for char in found.text)
    assert found.truncated == (found.notice is not None)
    assert found.total_lines == data.count(b"\n") + (1 if data and not data.endswith(b"\n") else 0)


@given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
def test_deltas_make_up_the_text(data: bytes, cuts: list[int]) -> None:
    decoder = DeltaDecoder()
    marks = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    text = "".join(decoder.feed(data[a:b]) for a, b in pairwise(marks)) + decoder.close()
    assert text == data.decode("utf-8", "replace").replace("\0", "␀")


def test_endings() -> None:
    assert format_exit(0) is None
    assert format_exit(2) == "Command exited with code 2"
    assert format_exit(137, signal=9) == "Command exited with code 137 (SIGKILL)"
    assert format_exit(143) == "Command exited with code 143 (SIGTERM)"
    assert format_exit(255) == "Command exited with code 255"
    assert "after 1.5 s" in (format_exit(None, timed_out=True, timeout=1.5) or "")
    assert format_exit(None) == "Command ended without an exit code."
    assert compose(tail_text(b""), None) == "(no output)"
    assert compose(tail_text(b"\n"), format_exit(1)) == "(no output)\n\nCommand exited with code 1"
    assert compose(tail_text(b"a\nb\n", max_lines=1), format_exit(1)).splitlines() == [
        "b",
        "",
        "[Showing lines 2-2 of 2 (1 line limit).]",
        "",
        "Command exited with code 1",
    ]


def test_sizes() -> None:
    assert [format_size(count) for count in (0, 1023, 51200, 1024 * 1024, 5 * 2**30)] == [
        "0 bytes",
        "1023 bytes",
        "50.0KB",
        "1.0MB",
        "5.0GB",
    ]
