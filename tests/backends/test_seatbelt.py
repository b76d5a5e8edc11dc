"""SeatbeltBackend as far as it goes on every machine: its profiles and command lines as text, and what it says where it cannot work."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_vers._io import run
from langchain_vers.backends.paths import Mode, Mount
from langchain_vers.backends.seatbelt import DEVICES, PROGRAMS, Rules, SeatbeltBackend, command_line, profile, quoted
from langchain_vers.errors import BadInput, Unsupported

MAC = sys.platform == "darwin"

_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..")
)
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map(lambda names: "/" + "/".join(names))
ODD = ['/a "b"', "/a\\", '/a\\"', "/a\nb", "/a\rb\tc", "/a)(b", "/a;b", "/a#|b|#", "/a\x1b\x7f", "/é\u0301\U0001f600", "/(allow default)"]


# --- a reader of SBPL, which is Scheme as far as it goes here ---


def read(text: str) -> list[Any]:
    """The forms of a profile: lists, `str` for names, and `Text` for strings."""
    forms, rest = _forms(text, 0, top=True)
    assert rest == len(text)
    return forms


class Text(str):
    """What stands between quotes."""


def _forms(text: str, at: int, *, top: bool) -> tuple[list[Any], int]:
    found: list[Any] = []
    while True:
        while at < len(text) and text[at] in " \n":
            at += 1
        if at == len(text):
            assert top, "a bracket is not closed"
            return found, at
        if text[at] == ")":
            assert not top, "a bracket too many"
            return found, at + 1
        if text[at] == "(":
            inner, at = _forms(text, at + 1, top=False)
            found.append(inner)
        elif text[at] == '"':
            value, at = _string(text, at + 1)
            found.append(Text(value))
        else:
            end = at
            while text[end] not in ' \n()"':
                end += 1
            assert all(char.isalnum() or char in "-*" for char in text[at:end]), text[at:end]
            found.append(text[at:end])
            at = end


def _string(text: str, at: int) -> tuple[str, int]:
    value = ""
    while text[at] != '"':
        if text[at] == "\\":
            if text[at + 1] == "x":
                value += chr(int(text[at + 2 : at + 4], 16))
                at += 4
            else:
                assert text[at + 1] in '\\"'
                value += text[at + 1]
                at += 2
        else:
            assert text[at] >= " "
            value += text[at]
            at += 1
    return value, at + 1


# --- quoting ---


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=100))
@example(text='"')
@example(text="\\")
@example(text='\\"\\\\""')
@example(text='")(allow default)("')
@example(text="\n\r\t\x01\x1f\x7f")
@example(text="\\x41")
@example(text="\x0141")
def test_any_text_is_quoted_so_that_it_is_read_as_it_was(text: str) -> None:
    assert read(quoted(text)) == [Text(text)]


@pytest.mark.parametrize("text", ["a\0b", "\0", "/\udcff"])
def test_what_no_file_name_can_be_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        quoted(text)


# --- profiles ---


def allowed(forms: list[Any], operation: str) -> set[tuple[str, str]]:
    """What an operation is allowed for, as (kind, name); ("", "") if it is for everything."""
    found: set[tuple[str, str]] = set()
    for form in forms:
        names = [part for part in form if isinstance(part, str) and not isinstance(part, Text)]
        filters = [part for part in form if isinstance(part, list)]
        if names[0] == "allow" and any(operation == name or (name.endswith("*") and operation.startswith(name[:-1])) for name in names[1:]):
            found |= {(each[0], str(each[1])) for each in filters} or {("", "")}
    return found


@given(writable=st.lists(_PATHS, max_size=4), readable=st.lists(_PATHS, max_size=4), network=st.booleans())
@example(writable=ODD, readable=[], network=False)
@example(writable=[], readable=ODD, network=True)
def test_a_profile_allows_what_it_was_asked_for_and_nothing_else(writable: list[str], readable: list[str], network: bool) -> None:
    forms = read(profile(Rules(writable, readable, network)))
    assert forms[:2] == [["version", "1"], ["deny", "default"]]
    assert all(form[0] in ("version", "allow", "deny") for form in forms)
    assert ["allow", "default"] not in forms
    mine = {("subpath", path) for path in writable}
    devices = {("literal", name) for name in DEVICES} | {("subpath", "/dev/fd")}
    assert allowed(forms, "file-write-create") == mine
    assert allowed(forms, "file-write-unlink") == mine
    assert allowed(forms, "file-write-data") == mine | devices
    content = allowed(forms, "file-read-data") - mine - devices - {("subpath", path) for path in readable} - {("literal", "/")}
    assert all(name.startswith((*PROGRAMS, "/private/etc/", "/private/var/run/resolv.conf")) for _, name in content)
    assert not any(name.startswith(("/Users", "/private/etc/master", "/private/var/root", "/Library/Keychains")) for _, name in content)
    assert allowed(forms, "network-outbound") == ({("", "")} if network else set())
    assert allowed(forms, "network-bind") == ({("", "")} if network else set())
    assert allowed(forms, "signal") == {("target", "same-sandbox")}
    assert allowed(forms, "process-info-pidinfo") == {("target", "same-sandbox")}


@given(path=_PATHS)
def test_the_folders_above_show_that_they_are_there_and_nothing_more(path: str) -> None:
    forms = read(profile(Rules([path + "/x"])))
    assert ("literal", path) in allowed(forms, "file-read-metadata")
    assert ("literal", path) not in allowed(forms, "file-read-data")
    assert ("subpath", path) not in allowed(forms, "file-read-metadata")


@pytest.mark.parametrize("path", ["", "a", "./a", "/", "//", "/a/../b", "/..", "~", "/a\0b"])
def test_folders_that_make_no_sense_are_refused(path: str) -> None:
    for rules in (Rules([path]), Rules([], [path])):
        with pytest.raises(BadInput):
            profile(rules)


def test_no_profile_lets_files_be_made_that_give_their_owner_s_rights() -> None:
    forms = read(profile(Rules(["/w"])))
    assert forms.index(["deny", "file-write-setugid"]) > max(number for number, form in enumerate(forms) if "file-write*" in form)


def test_command_line() -> None:
    assert command_line("/p/profile.sb", ["/bin/sh", "-c", 'x "y"']) == [
        "/usr/bin/sandbox-exec",
        "-f",
        "/p/profile.sb",
        "/bin/sh",
        "-c",
        'x "y"',
    ]


# --- the backend ---


@pytest.mark.parametrize(
    "mount", [("/a", "/b", "rw"), ("/a", "/a", "copy"), ("a", "a", "rw"), ("/", "/", "rw"), ("/a/../b", "/a/../b", "rw")]
)
def test_mounts_that_seatbelt_cannot_make_are_refused(mount: tuple[str, str, Mode]) -> None:
    with pytest.raises(BadInput):
        SeatbeltBackend(mounts=[Mount(*mount)])


@pytest.mark.skipif(MAC, reason="this is macOS")
def test_elsewhere_it_says_what_it_is_for(tmp_path: Path) -> None:
    backend = SeatbeltBackend(tmp_path)
    for call in (backend.exec("true"), backend.exec("cat", stdin=b"x"), backend.read("f"), backend.write("f", b"")):
        with pytest.raises(Unsupported, match="macOS"):
            run(call)
    run(backend.close())
