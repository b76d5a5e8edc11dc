"""Which host keys are known: the lines of `known_hosts` files and what they say of a key that a machine has shown. Pure text.

As sshd(8) describes the format: markers, comma-separated patterns with `*`, `?` and `!`, hashed names, and `[host]:port` for ports other
than 22. Keys that certificate authorities have signed are not understood: such a host counts as unknown.
"""

from __future__ import annotations

import base64
import binascii
import enum
import fnmatch
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

SSH_PORT = 22
_SIGNATURES = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}
"""What a key of a kind signs with, where that is not its own name."""


class Verdict(enum.Enum):
    """What is known of a key."""

    KNOWN = "it is the host's"
    UNKNOWN = "nothing is known of the host"
    CHANGED = "the host has another"
    REVOKED = "it must not be used any more"


@dataclass(frozen=True)
class Line:
    """One entry; `place` says where it stands, for errors."""

    names: str
    kind: str
    blob: bytes
    marker: str = ""
    place: str = ""

    def is_about(self, name: str) -> bool:
        """Whether it is about the host with this name, `[host]:port` if its port is not 22."""
        if self.names.startswith("|1|"):
            return _is_hash_of(self.names, name)
        found = False
        for pattern in self.names.lower().split(","):
            # A name in brackets is not a set of characters.
            if fnmatch.fnmatchcase(name.lower(), pattern.removeprefix("!").replace("[", "[[]")):
                if pattern.startswith("!"):
                    return False
                found = True
        return found


def name_of(host: str, port: int) -> str:
    """What a host is called in these files."""
    return host.lower() if port == SSH_PORT else f"[{host.lower()}]:{port}"


def parse(text: str, file: str = "known_hosts") -> list[Line]:
    """The entries of a file. Lines that are none, and keys that cannot be read, are left out: the host is then unknown."""
    lines = []
    for number, text_line in enumerate(text.splitlines(), 1):
        fields = text_line.split()
        if not fields or fields[0].startswith("#"):
            continue
        marker = fields.pop(0) if fields[0].startswith("@") else ""
        if len(fields) < 3:
            continue
        try:
            blob = base64.b64decode(fields[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        lines.append(Line(fields[0], fields[1], blob, marker, f"{file}:{number}"))
    return lines


def about(lines: Sequence[Line], host: str, port: int) -> list[Line]:
    """The keys of a host. Those noted under its name alone count if none is noted for its port, as for OpenSSH."""
    for name in dict.fromkeys((name_of(host, port), host.lower())):
        if found := [line for line in lines if not line.marker and line.is_about(name)]:
            return found
    return []


def judge(lines: Sequence[Line], host: str, port: int, blob: bytes) -> Verdict:
    """What is known of the key that a host has shown.

    A host of which only keys of other kinds are known counts as changed: it was asked for those kinds first.
    """
    names = {name_of(host, port), host.lower()}
    if any(line.marker == "@revoked" and line.blob == blob and any(map(line.is_about, names)) for line in lines):
        return Verdict.REVOKED
    own = [line for line in lines if not line.marker and line.is_about(name_of(host, port))]
    if any(line.blob == blob for line in own or about(lines, host, port)):
        return Verdict.KNOWN
    return Verdict.CHANGED if own else Verdict.UNKNOWN


def wanted_kinds(known: Sequence[Line]) -> list[str]:
    """The algorithms to ask a host for first, so that it shows a key that is known."""
    return [name for line in known for name in _SIGNATURES.get(line.kind, (line.kind,))]


def entry(host: str, port: int, kind: str, blob: bytes, *, salt: bytes | None = None) -> str:
    """The line that makes a key known; with `salt` (20 random bytes) it does not tell the host's name."""
    name = name_of(host, port)
    return f"{name if salt is None else _hashed(name, salt)} {kind} {base64.b64encode(blob).decode()}\n"


def _hashed(name: str, salt: bytes) -> str:
    # SHA-1 is the format's; it hides a name and guards nothing.
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


def _is_hash_of(names: str, name: str) -> bool:
    try:
        _, _, salt, _ = names.split("|")
        return hmac.compare_digest(_hashed(name, base64.b64decode(salt, validate=True)), names)
    except (ValueError, TypeError):  # binascii.Error is a ValueError
        return False
