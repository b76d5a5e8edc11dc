"""Known host keys: what OpenSSH's own tools say of a file, we say too."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rigs.programs import require

from langchain_vers.backends.known_hosts import Verdict, about, entry, judge, name_of, parse, wanted_kinds

KEY, OTHER = b"\x00\x00\x00\x0bssh-ed25519" + b"k" * 36, b"\x00\x00\x00\x0bssh-ed25519" + b"o" * 36


def line(names: str, blob: bytes = KEY, kind: str = "ssh-ed25519") -> str:
    return f"{names} {kind} {base64.b64encode(blob).decode()} somebody\n"


@pytest.mark.parametrize(
    ("text", "host", "port", "verdict"),
    [
        ("", "host", 22, Verdict.UNKNOWN),
        ("# host ssh-ed25519 AAAA\n\nhost\nhost ssh-ed25519\nhost ssh-ed25519 ***\n", "host", 22, Verdict.UNKNOWN),
        (line("host"), "host", 22, Verdict.KNOWN),
        (line("host"), "HOST", 22, Verdict.KNOWN),
        (line("other,host"), "host", 22, Verdict.KNOWN),
        (line("host", OTHER), "host", 22, Verdict.CHANGED),
        (line("host", OTHER) + line("host"), "host", 22, Verdict.KNOWN),
        (line("host", b"x", "ssh-rsa"), "host", 22, Verdict.CHANGED),
        (line("[host]:2200"), "host", 2200, Verdict.KNOWN),
        (line("[host]:2200"), "host", 22, Verdict.UNKNOWN),
        (line("[host]:2200", OTHER) + line("host"), "host", 2200, Verdict.CHANGED),
        # A key that is noted without the port vouches for the host, and is no contradiction.
        (line("host"), "host", 2200, Verdict.KNOWN),
        (line("host", OTHER), "host", 2200, Verdict.UNKNOWN),
        (line("*.example.org,!bad.example.org"), "a.example.org", 22, Verdict.KNOWN),
        (line("*.example.org,!bad.example.org"), "bad.example.org", 22, Verdict.UNKNOWN),
        (line("[h]ost"), "host", 22, Verdict.UNKNOWN),
        ("@revoked " + line("*") + line("host"), "host", 22, Verdict.REVOKED),
        ("@revoked " + line("host") + line("[host]:2200"), "host", 2200, Verdict.REVOKED),
        ("@cert-authority " + line("host"), "host", 22, Verdict.UNKNOWN),
        ("|1|x|y ssh-ed25519 AAAA\n|1| ssh-ed25519 AAAA\n", "host", 22, Verdict.UNKNOWN),
    ],
)
def test_verdicts(text: str, host: str, port: int, verdict: Verdict) -> None:
    assert judge(parse(text), host, port, KEY) is verdict


HOSTS = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", fullmatch=True)


@given(HOSTS, st.integers(1, 65535), st.none() | st.binary(min_size=20, max_size=20), st.binary(min_size=1, max_size=80))
def test_what_is_noted_is_known(host: str, port: int, salt: bytes | None, blob: bytes) -> None:
    lines = parse(entry(host, port, "ssh-ed25519", blob, salt=salt))
    assert judge(lines, host, port, blob) is Verdict.KNOWN
    assert judge(lines, host, port, blob + b"x") is Verdict.CHANGED
    assert judge(lines, f"x{host}", port, blob) is Verdict.UNKNOWN
    assert salt is None or host not in entry(host, port, "k", b"", salt=salt).split()[0] or len(host) < 6


@given(st.text(max_size=300), HOSTS)
@example("@", "a")
@example("|1|a|b|c x y", "a")
@example("\x00 \x00 \x00", "a")
def test_any_file_can_be_read(text: str, host: str) -> None:
    """Whatever stands there, a key that it does not hold is not known by it."""
    assert judge(parse(text), host, 22, KEY) in {Verdict.UNKNOWN, Verdict.CHANGED}


@pytest.mark.peer
@pytest.mark.parametrize("hashed", [False, True])
def test_the_same_hosts_as_for_openssh(tmp_path: Path, hashed: bool) -> None:
    keygen = require("ssh-keygen", "openssh-client")
    file = tmp_path / "known_hosts"
    names = ["plain", "one,two", "[ported]:2222", "[::1]:2222", "::1", "10.0.0.1", "*.wild.org,!not.wild.org", "q?estion"]
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    kind, text, _ = (tmp_path / "key.pub").read_text().split()
    file.write_text("".join(f"{name} {kind} {text}\n" for name in names))
    if hashed:
        subprocess.run([keygen, "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    lines = parse(file.read_text())
    asked = [
        *(("plain", 22), ("plain", 2222), ("one", 22), ("two", 22), ("three", 22), ("ported", 22), ("ported", 2222), ("::1", 22)),
        *(("::1", 2222), ("10.0.0.1", 22), ("a.wild.org", 22), ("not.wild.org", 22), ("question", 22), ("qestion", 22)),
    ]
    for host, port in asked:
        name = name_of(host, port)
        found = subprocess.run([keygen, "-F", name, "-f", str(file)], capture_output=True, check=False).returncode == 0
        assert any(each.is_about(name) for each in lines) == found, (host, port)


def test_kinds_that_are_asked_for() -> None:
    lines = parse(line("h", b"a", "ssh-rsa") + line("h", b"b", "ecdsa-sha2-nistp256") + line("other", b"c", "ssh-ed25519"))
    assert wanted_kinds(about(lines, "h", 22)) == ["rsa-sha2-512", "rsa-sha2-256", "ecdsa-sha2-nistp256"]


def test_a_hash_needs_its_salt() -> None:
    salt = os.urandom(20)
    assert entry("h", 22, "k", b"", salt=salt).startswith(f"|1|{base64.b64encode(salt).decode()}|")
