"""Secrets do not get through: not whole, not encoded, not in pieces."""

from __future__ import annotations

import base64
import json
import shlex
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rigs.examples import many

from langchain_vers.redaction import Redactor

pytestmark = pytest.mark.timeout(900)

# Few letters, so that secrets overlap, contain and continue each other; and whatever else people use.
SECRETS = (
    st.text("ab", min_size=4, max_size=8)
    | st.text(st.characters(codec="utf-8", blacklist_characters="\0"), min_size=4, max_size=12)
    | st.sampled_from(["[secret A]", "secret", "redacted", "]]]]", "a\nbbbbbbbbb\nccccccccc", "p@ss w'rd\"\\", "pässwörd", "    "])
)
SETS = st.dictionaries(st.sampled_from(["A", "B", "C"]), SECRETS, min_size=1, max_size=3)


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, str], list[bytes]]:
    """Secrets, and chunks of output with pieces of them."""
    secrets = draw(SETS)
    values = st.sampled_from(sorted(secrets.values()))
    encodings = st.sampled_from(
        [str.encode, lambda v: v.encode()[:3], lambda v: v.encode()[2:], lambda v: base64.b64encode(b"x" + v.encode())]
    )
    word = (
        st.builds(lambda value, encode: encode(value), values, encodings)
        | st.binary(max_size=3)
        | st.sampled_from([b"a", b"b", b"\n", b" "])
    )
    output = b"".join(draw(st.lists(word, max_size=8)))
    cuts = sorted(draw(st.lists(st.integers(0, len(output)), max_size=5)))
    return secrets, [output[start:end] for start, end in zip([0, *cuts], [*cuts, len(output)], strict=True)]


@many
@given(cases())
def test_nothing_gets_through_however_it_is_cut(case: tuple[dict[str, str], list[bytes]]) -> None:
    secrets, chunks = case
    redactor = Redactor(secrets)
    whole = b"".join(chunks)
    once = redactor.data(whole)
    for value in secrets.values():
        assert value.encode() not in once
    assert redactor.data(once) == once
    stream = redactor.stream()
    shown = [stream.feed(chunk) for chunk in chunks]
    assert b"".join([*shown, stream.close()]) == once
    # At no time has more been shown than would be, had it ended there.
    seen = b""
    for number, piece in enumerate(shown):
        seen += piece
        assert once.startswith(seen)
        assert redactor.data(b"".join(chunks[: number + 1])).startswith(seen)


@many
@given(
    st.text(st.characters(codec="utf-8", blacklist_characters="\0"), min_size=8, max_size=80),
    st.binary(max_size=5),
    st.binary(max_size=5),
    st.integers(1, 80),
)
def test_encoded_forms(value: str, before: bytes, after: bytes, width: int) -> None:
    redactor = Redactor({"KEY": value})
    raw = value.encode()
    for form in (
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        raw.hex(),
        raw.hex().upper(),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
    ):
        assert form not in redactor.text(f"x={form}&y")
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + raw + after).decode()
        lines = "\n".join(encoded[start : start + width] for start in range(0, len(encoded), width))
        shown = redactor.text(lines)
        mark = redactor._marks["KEY"].decode()
        assert mark in shown
        # What is left is of what stands before and behind, but for signs that hold bits of both.
        assert len(shown.replace(mark, "").replace("\n", "")) <= len(encode(before)) + len(encode(after)) + 4


@many
@given(st.text("abcdef", min_size=4, max_size=12), st.integers(0, 12))
def test_the_end_of_a_secret_where_the_beginning_was_cut_off(value: str, lost: int) -> None:
    left = value[lost:]
    shown = Redactor({"A": value}).text(f"{left} z", cut=True)
    assert shown == (f"{left} z" if len(left) < 4 else "[secret A] z")


@many
@given(st.text("abcdef", min_size=4, max_size=12), st.integers(0, 12))
def test_the_beginning_of_a_secret_that_is_not_finished(value: str, kept: int) -> None:
    shown = Redactor({"A": value}).data(f"z {value[:kept]}".encode(), unfinished=True).decode()
    assert shown == (f"z {value[:kept]}" if len(value[:kept]) < 4 else "z [secret A]")


def test_marks_name_the_secret_and_joined_ones_give_nothing_away() -> None:
    redactor = Redactor({"ONE": "xyza", "TWO": "zabc"})
    assert redactor.text("(xyza) (zabc) (xyzabc)") == "([secret ONE]) ([secret TWO]) ([secret ONE])"
    assert repr(redactor) == "Redactor(ONE, TWO)"
    assert "xyza" not in repr(redactor.stream())


def test_only_what_may_be_a_secret_waits() -> None:
    stream = Redactor({"KEY": "sesame-open"}).stream()
    assert stream.feed(b"Password: ") == b"Password: "
    assert stream.feed(b"ses") == b""
    assert stream.feed(b"sion\n") == b"session\n"
    assert stream.feed(b"<sesame-") == b"<"
    assert stream.feed(b"open>") == b"[secret KEY]>"
    assert stream.feed(b"sesame") == b""
    assert stream.close() == b"sesame"


def test_each_line_of_a_key() -> None:
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqh\nkiG9w0BAQEFAASC\n-----END KEY-----\n"
    redactor = Redactor({"PEM": key})
    assert redactor.text(key.replace("\n", "\r\n")).count("[secret PEM]") == 4
    assert "kiG9" not in redactor.text("grep: kiG9w0BAQEFAASC")
    assert "MII" not in redactor.text(base64.encodebytes(key.encode()).decode())
    assert redactor.text(shlex.quote("it's")) == shlex.quote("it's")


def test_whatever_is_made_of_texts() -> None:
    redactor = Redactor({"A": "sesame"})
    facts = {"sesame": ["x sesame", ("sesame", 1, None)], "n": 1.5, "raw": b"sesame"}
    assert redactor.value(facts) == {"[secret A]": ["x [secret A]", ("[secret A]", 1, None)], "n": 1.5, "raw": b"[secret A]"}


@pytest.mark.parametrize("text", ["", "\ud800 sesame", "\udcff sesame", "\ud800\udcff sesame", "plain"])
def test_text_that_is_no_proper_unicode(text: str) -> None:
    assert Redactor({"A": "sesame"}).text(text) == text.replace("sesame", "[secret A]")
    assert Redactor({"A": ""}).text(text) == Redactor().text(text) == text


def test_a_flood_takes_no_long_time() -> None:
    redactor = Redactor({"KEY": "a" * 64, "PEM": "\n".join("MIIE" + "x" * 60 for _ in range(40))})
    for flood in (b"a" * 63 + b"b", b"M", b"MIIE\n", b"\n"):
        stream = redactor.stream()
        for _ in range(20):
            stream.feed(flood * 1000)
        stream.close()
