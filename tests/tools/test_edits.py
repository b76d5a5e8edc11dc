from __future__ import annotations

import subprocess
import unicodedata
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_vers.errors import BadInput
from langchain_vers.tools.edits import BOM, Edit, EditError, apply_edits


def edit(data: bytes, old: str, new: str, *, everywhere: bool = False) -> bytes:
    return apply_edits(data, [Edit(old, new, everywhere)]).data


@pytest.mark.parametrize(
    ("data", "old", "new", "result"),
    [
        (b"a\nb\nc\n", "b\n", "x\ny\n", b"a\nx\ny\nc\n"),
        (b"a\r\nb\r\nc\r\n", "a\nb", "a\nx\ny", b"a\r\nx\r\ny\r\nc\r\n"),
        (b"a\r\nb\r\nc", "c", "c\nd\n", b"a\r\nb\r\nc\r\nd\r\n"),
        (b"a\r\nb\r\n", "a\r\nb", "x\ny", b"x\r\ny\r\n"),
        (b"a\nb\n", "a\r\nb", "x\r\ny", b"x\ny\n"),
        (b"a\r\nb\nc\r\nd\n", "b\nc\nd", "b\nX\nd", b"a\r\nb\nX\r\nd\n"),
        (b"a\r\nb\nc\nd\r\n", "b\n", "b\nnew\n", b"a\r\nb\nnew\nc\nd\r\n"),
        (b"a\rb\rc", "b\nc", "x\ny\nz", b"a\rx\ry\rz"),
        (b"10%\r20%\ndone\n", "10%\r20%", "x", b"x\ndone\n"),
        (BOM + b"a\r\nb", "a", "x", BOM + b"x\r\nb"),
        (BOM + b"a", "a", "", BOM),
        (b"a\nb", "b", "b\n", b"a\nb\n"),
        (b"a\nb\n", "b\n", "b", b"a\nb"),
        (b"a\r\nb", "\n", " ", b"a b"),
        (b"a\0b", "\0", "-", b"a-b"),
        ("x\U0001f600y\U0001f600".encode(), "\U0001f600y", "", "x\U0001f600".encode()),
        # The tolerant reading.
        ("say “hi” – ‘now’\n".encode(), "say \"hi\" - 'now'", "gone", b"gone\n"),
        (b"a  \nb\t\nc\n", "a\nb\nc", "x\ny", b"x\ny\n"),
        (b"a  \nb\t\nc\n", "a\nb", "x", b"x\t\nc\n"),
        (b"a\nb\n", "a \nb  ", "x", b"x\n"),
        ("the oﬃce ﬁle\n".encode(), "office file", "x", b"the x\n"),
        ("cafe\u0301!\n".encode(), "café", "tea", b"tea!\n"),
        ("café!\n".encode(), "cafe\u0301", "tea", b"tea!\n"),
        ("Ｈｅｌｌｏ\u00a0you\n".encode(), "Hello you", "x", b"x\n"),
        ("한\n".encode(), "\u1112\u1161\u11ab", "x", b"x\n"),
        (
            "keep “this”\nchange “that”\nend\n".encode(),
            'keep "this"\nchange "that"\nend',
            'keep "this"\nnew\nend',
            "keep “this”\nnew\nend\n".encode(),
        ),
        ("“a”\r\n“b”\r\n".encode(), '"a"\n"b"', '"a"\nx\ny', "“a”\r\nx\r\ny\r\n".encode()),
    ],
)
def test_one_edit(data: bytes, old: str, new: str, result: bytes) -> None:
    assert edit(data, old, new) == result


def test_exact_comes_before_tolerant() -> None:
    assert edit("'a' ‘a’".encode(), "'a'", "x") == "x ‘a’".encode()
    assert edit("'a' ‘a’".encode(), "‘a’", "x") == b"'a' x"
    assert edit("'a' ‘a’ “a”".encode(), "'a'", "x", everywhere=True) == "x ‘a’ “a”".encode()
    found = apply_edits("‘a’ and ‘a’\n".encode(), [Edit("'a'", "x", True)])
    assert found.data == b"x and x\n" and found.tolerant == (0,) and found.replacements == 2


def test_half_a_character_does_not_match() -> None:
    for data, old in (("ﬁ", "f"), ("eﬁe", "ie"), ("①", "2")):
        with pytest.raises(EditError):
            edit(data.encode(), old, "x")


def test_several_edits_see_the_original() -> None:
    found = apply_edits(b"a\nb\nc\n", [Edit("c", "a"), Edit("a", "b\nb"), Edit("b", "")])
    assert found.data == b"b\nb\n\na\n"
    assert (found.first_changed_line, found.replacements, found.tolerant) == (1, 3, ())
    assert apply_edits(b"ab", [Edit("b", "2"), Edit("a", "1")]).data == b"12"


@pytest.mark.parametrize(
    ("data", "edits", "message", "lines"),
    [
        (b"a", [], "no edits", []),
        (b"a\n\xff\n", [Edit("a", "b")], "not UTF-8 text \\(line 2", [2]),
        (b"a", [Edit("", "b")], "old_text is empty", []),
        (b"a", [Edit("a", "a")], "are equal", []),
        (b"a\r\nb", [Edit("a\r\nb", "a\nb")], "line endings only", []),
        (b"a\nb\na\n", [Edit("a", "b")], "2 places in f.txt, at lines 1, 3;", [1, 3]),
        (b"a\n" * 30, [Edit("a", "b")], "30 places .* 9, 10, \\.\\.\\.;", list(range(1, 31))),
        (b"a\na\na\n", [Edit("a\na\n", "b")], "2 places", [1, 2]),
        ("‘a’\n“a”\n‘a’".encode(), [Edit("'a'", "b")], "loosely. 2 places", [1, 3]),
        (b"abc\n", [Edit("ab", "1"), Edit("x", "y")], r"edits\[1\].old_text was not found", []),
        (b"z\nabc\n", [Edit("bc", "1"), Edit("ab", "2")], r"edits\[0\] and edits\[1\] overlap at line 2", [2]),
        (b"one\n  two\nthree\n", [Edit("one\n\ttwo", "x")], "line 2, only the indentation differs.*'  two'.*'\\\\ttwo'", [2]),
        (b"one\ntwo\nthree\n", [Edit("one\ntwo\nfour\n", "x")], "line 3, the file has 'three' where old_text has 'four'", [3]),
        (b"one\ntwo", [Edit("one\ntwo\nfour\n", "x")], "before line 3 of old_text", [2]),
        (b"def function(a, b):\n", [Edit("def functoin(a, b):", "x")], "line 1, the file has 'def function", [1]),
        (b"one\n", [Edit("completely other words", "x")], "nor anything like it", []),
        (b"", [Edit("a", "x")], "is empty; use write", []),
        (b"a", [Edit("a", "\ud83d")], "surrogate", []),
    ],
)
def test_what_is_refused(data: bytes, edits: list[Edit], message: str, lines: list[int]) -> None:
    with pytest.raises(EditError, match=message) as caught:
        apply_edits(data, edits, path="f.txt")
    assert caught.value.lines == lines
    assert isinstance(caught.value, BadInput) and str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_a_place_that_stays_the_same_is_said() -> None:
    with pytest.raises(EditError, match="already"):
        edit("“a”".encode(), '"a"', "“a”")


ALPHABET = "ab \n\t-“‘e\u0301ﬁ\U0001f600한"
TEXT = st.text(alphabet=ALPHABET, max_size=40)


@given(st.text(alphabet=ALPHABET, min_size=1, max_size=40), st.integers(0, 40), st.integers(1, 8), TEXT, st.booleans())
def test_an_exact_match_is_str_replace(text: str, start: int, length: int, new: str, everywhere: bool) -> None:
    start %= len(text)
    old = text[start : start + length]
    new += "b" if new == old else ""
    places = sum(text.startswith(old, index) for index in range(len(text)))
    if places == 1 or everywhere:
        assert edit(text.encode(), old, new, everywhere=everywhere).decode() == text.replace(old, new)
        crlf = text.replace("\n", "\r\n")
        if "\n" in text:
            assert edit(BOM + crlf.encode(), old, new, everywhere=everywhere).decode("utf-8-sig") == text.replace(old, new).replace(
                "\n", "\r\n"
            )
    else:
        with pytest.raises(EditError) as caught:
            edit(text.encode(), old, new)
        assert len(caught.value.lines) == places


@given(TEXT, TEXT.filter(str.strip), TEXT, st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"]), st.booleans())
def test_a_tolerant_match_touches_nothing_else(
    before: str, middle: str, after: str, form: Literal["NFC", "NFD", "NFKC", "NFKD"], crlf: bool
) -> None:
    # The passage is looked for in another spelling; whatever is replaced must read like the passage, and the rest must stay.
    old = unicodedata.normalize(form, middle.replace("“", '"').replace("‘", "'"))
    text = (before + middle + after).replace("\n", "\r\n") if crlf else before + middle + after
    new = "<NEW>"
    try:
        found = apply_edits(text.encode(), [Edit(old, new)])
    except EditError:
        return
    result = found.data.decode()
    head, _, tail = result.partition(new)
    assert text.startswith(head) and text.endswith(tail) and len(head) + len(tail) <= len(text)
    cut = text[len(head) : len(text) - len(tail)]

    def reading(value: str) -> str:
        plain = unicodedata.normalize("NFKC", value.replace("\r\n", "\n")).replace("“", '"').replace("‘", "'")
        return unicodedata.normalize("NFKC", "\n".join(line.rstrip(" \t") for line in plain.split("\n")))

    assert reading(cut) == reading(old)


@given(
    st.lists(st.text(alphabet="abc", max_size=2), min_size=1, max_size=14),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6), st.text(alphabet="abx\n", max_size=5)), min_size=1, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_the_diff_makes_the_new_from_the_old(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], newline: bool, cuts: list[tuple[int, int, str]]
) -> None:
    text = "\n".join(f"{index}{line}" for index, line in enumerate(lines)) + ("\n" if newline else "")
    edits = [Edit(text[start : start + length], new) for start, length, new in cuts]
    try:
        found = apply_edits(text.encode(), edits, path="file")
    except EditError:
        return
    folder = tmp_path_factory.mktemp("diff")
    (folder / "file").write_bytes(text.encode())
    subprocess.run(["git", "apply", "-p0", "--unidiff-zero", "--whitespace=nowarn", "-"], cwd=folder, input=found.diff.encode(), check=True)
    result = (folder / "file").read_bytes() if (folder / "file").exists() else b""
    assert result == found.data
    old_lines, new_lines = text.split("\n"), found.data.decode().split("\n")
    first = next(index for index in range(99) if old_lines[index : index + 1] != new_lines[index : index + 1]) + 1
    assert abs(found.first_changed_line - first) <= 1


def test_the_diff_is_bounded(tmp_path: Path) -> None:
    data = b"".join(b"line %d\n" % number for number in range(20_000))
    found = apply_edits(data, [Edit("line", "row", True)], max_diff_bytes=2000)
    assert len(found.diff) < 2100 and found.diff.endswith("[The diff is longer than is shown here.]\n")
    small = apply_edits(b"a\nb\nc\nd\ne\nf\ng\nh\ni\n", [Edit("b", "B"), Edit("i\n", "")], path="x")
    assert small.diff == "--- x\n+++ x\n@@ -1,9 +1,8 @@\n a\n-b\n+B\n c\n d\n e\n f\n g\n h\n-i\n"


@pytest.mark.timeout(120)  # what grows with the square of the length would take hours
@pytest.mark.parametrize("text", ["x" * 5_000_000, "é" * 2_000_000, "a " * 2_000_000, "ﬁ" + "x" * 3_000_000, "\u0301" * 50_000])
def test_one_long_line_is_quick(text: str) -> None:
    with pytest.raises(EditError):
        apply_edits(text.encode(), [Edit("not to be found", "x")])


@pytest.mark.timeout(120)
@pytest.mark.parametrize("count", [20_000, pytest.param(200_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("tolerant", [False, True])
def test_large_files_are_quick(ending: str, tolerant: bool, count: int) -> None:
    # Every line is odd here, the worst case of the tolerant reading.
    lines = [f"    line number {number} of “the” file, café ﬁn  " for number in range(count)]
    chosen = range(count // 100, count // 2, count // 100)
    olds = [f'line number {number} of "the" file' if tolerant else f"line number {number} of “the” file" for number in chosen]
    found = apply_edits(ending.join(lines).encode(), [Edit(old, "changed") for old in olds])
    assert found.replacements == len(olds) == 49 and len(found.tolerant) == (49 if tolerant else 0)
