"""How a machine is reached by SSH, as the name that it was given and OpenSSH's configuration say. Pure text, but for the files of `read`.

paramiko reads the format; here is what it leaves out (`Include`), what the options mean for a connection of ours, and what is refused
because it would lead elsewhere than `ssh` does.
"""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko

from langchain_vers.backends.known_hosts import SSH_PORT
from langchain_vers.errors import BadInput

USER_FILE = "~/.ssh/config"
SYSTEM_FILE = "/etc/ssh/ssh_config"
IDENTITIES = ("id_rsa", "id_ecdsa", "id_ed25519")
"""In `~/.ssh`, when none are named: in OpenSSH's order, those kinds that paramiko can use."""
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_GLOBAL_KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_REFUSED = {
    "proxycommand": "reach it with ProxyJump instead",
    "revokedhostkeys": "mark revoked keys with @revoked in a known_hosts file instead",
}
"""Options that must not be passed over, and what to do about them."""
_CRITERIA = {"all": 0, "canonical": 0, "final": 0, "exec": 1, "host": 1, "originalhost": 1, "user": 1, "localuser": 1}
"""Of `Match`, and how many words follow; paramiko takes others for fulfilled."""
_INCLUDES = 16
_JUMPS = 8
_USER = re.compile(r"[^\s@:\"'`\\;&<>|(){}\x00-\x1f\x7f-][^\s:\"'`\\;&<>|(){}\x00-\x1f\x7f]*")
_HOST = re.compile(r"[A-Za-z0-9_.:%-]+")


@dataclass(frozen=True)
class Target:
    """A machine as it was named: `[user@]host[:port]`."""

    host: str
    user: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'' if self.user is None else self.user + '@'}{host}{'' if self.port is None else f':{self.port}'}"


@dataclass(frozen=True)
class Hop:
    """One machine to connect to.

    Attributes:
        target: its name, with the user and the port that hold.
        alias: how it was named.
        known_as: the name that its key is noted under, and `known_port` the port.
        identities: files of keys, in order. `named`: whether somebody has named them, so that a missing one is worth a word.
        identities_only: whether keys of the agent that belong to none of these files are left out.
        agent: the agent's socket, None for none, "" for the environment's.
        known_hosts: files. `notes`: the one in which a new key is noted, if any.
        accepts_new: whether a host of which nothing is known is accepted.
        hashed: whether names are noted in hashed form.
        seconds: how long to wait for the connection, None if nothing is said.
        jumps: the machines on the way to it, the first one first.
    """

    target: Target
    alias: str
    known_as: str
    known_port: int
    identities: tuple[str, ...]
    named: bool
    identities_only: bool
    agent: str | None
    known_hosts: tuple[str, ...]
    notes: str | None
    accepts_new: bool
    hashed: bool
    seconds: float | None
    jumps: tuple[Target, ...]

    @property
    def port(self) -> int:
        """The port that holds."""
        return self.target.port or SSH_PORT


def parse_target(text: str) -> Target:
    """`[user@]host[:port]`, also as `ssh://` URL; an IPv6 address with a port stands in brackets.

    Raises:
        BadInput: it is no such name.
    """
    rest = text.removeprefix("ssh://").removesuffix("/") if text.startswith("ssh://") else text
    user, at, place = rest.rpartition("@")
    if place.startswith("["):
        host, bracket, tail = place[1:].partition("]")
        good = bool(bracket) and (not tail or tail.startswith(":"))
        port = tail[1:] if tail else None
    elif place.count(":") > 1:
        host, port, good = place, None, True
    else:
        host, colon, number = place.partition(":")
        port, good = (number if colon else None), True
    good = good and bool(_HOST.fullmatch(host)) and not host.startswith("-")
    good = good and (not at or bool(_USER.fullmatch(user)))
    if port is not None:
        good = good and port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if not good:
        raise BadInput(f"{text[:100]!r} does not name a machine; use user@host or user@host:port ([address]:port for IPv6)")
    return Target(host, user if at else None, None if port is None else int(port))


def read(path: str, home: str, *, missing_ok: bool, depth: int = 0) -> str:
    """A configuration file with those that it includes in their places.

    Raises:
        BadInput: it cannot be read, or includes what cannot stand where it would.
    """
    try:
        lines = Path(_tilde(path, home)).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        if missing_ok and isinstance(error, FileNotFoundError):
            return ""
        raise BadInput(f"the SSH configuration {path} cannot be read ({error.strerror or error})") from error
    merged: list[str] = []
    block = False
    for line in lines:
        keyword, _, value = line.strip().replace("=", " ", 1).partition(" ")
        if keyword.lower() != "include":
            block = block or keyword.lower() in {"host", "match"}
            merged.append(line)
            continue
        included = _included(value, path, home, depth)
        if block and re.search(r"(?im)^\s*(host|match)\b", included):
            raise BadInput(
                f"{path} includes, within a Host or Match block, files with such blocks of their own, which is not understood; move the "
                "Include to the beginning of the file"
            )
        # What follows stands for all hosts again, as before the included blocks.
        merged += [included, *([] if block else ["Host *"])]
    return "\n".join(merged) + "\n"


def _included(value: str, path: str, home: str, depth: int) -> str:
    if depth >= _INCLUDES:
        raise BadInput(f"{path} includes files that include files, more than {_INCLUDES} deep; does one include itself?")
    base = Path(home) / ".ssh" if not path.startswith("/etc/ssh/") else Path("/etc/ssh")
    text = ""
    for pattern in _words(value, path):
        found = sorted(glob.glob(str(base / _tilde(pattern, home))))  # noqa: PTH207  # Path.glob takes no absolute pattern
        text += "".join(read(file, home, missing_ok=True, depth=depth + 1) for file in found)
    return text


def resolve(target: Target, config: str, *, home: str, local_user: str) -> Hop:
    """What a configuration says of a machine.

    Raises:
        BadInput: it says something that cannot be followed.
    """
    _check_matches(config)
    # For each option the first value holds: what was said with the name stands before everything else.
    said = "Host *\n" + (f"User {target.user}\n" if target.user else "") + (f"Port {target.port}\n" if target.port else "")
    try:
        options: Mapping[str, str] = paramiko.SSHConfig.from_text(f"{said}{config}").lookup(target.host)
    except ImportError as error:
        raise BadInput("the SSH configuration has a `Match exec`, which runs commands; install the package invoke to allow it") from error
    except (paramiko.SSHException, ValueError, KeyError) as error:
        raise BadInput(f"the SSH configuration for {target} is not understood ({error})") from error
    for option, remedy in _REFUSED.items():
        if (options.get(option) or "none").lower() != "none":
            raise BadInput(f"the SSH configuration for {target} has {option}, which is not supported; {remedy}")
    port = options.get("port", str(SSH_PORT))
    host, user = options["hostname"], options.get("user", local_user)
    reached = parse_target(f"{user}@[{host}]:{port}")
    tokens = {"%": "%", "d": home, "h": host, "n": target.host, "p": port, "r": user, "u": local_user}

    def files(option: str, default: tuple[str, ...]) -> tuple[str, ...]:
        words = _words(options[option], option) if option in options else default
        return tuple(_expanded(word, tokens, home) for word in words if word.lower() != "none")

    own = files("userknownhostsfile", _KNOWN_HOSTS)
    identities = options.get("identityfile")
    agent = options.get("identityagent", "SSH_AUTH_SOCK")
    alias = options.get("hostkeyalias")
    return Hop(
        target=reached,
        alias=str(target),
        known_as=alias or host,
        known_port=SSH_PORT if alias else reached.port or SSH_PORT,
        identities=tuple(_tilde(file, home) for file in identities if file.lower() != "none")
        if identities
        else tuple(f"{home}/.ssh/{name}" for name in IDENTITIES),
        named=bool(identities),
        identities_only=options.get("identitiesonly", "no").lower() == "yes",
        agent="" if agent == "SSH_AUTH_SOCK" else None if agent.lower() == "none" else _expanded(agent, tokens, home),
        known_hosts=own + files("globalknownhostsfile", _GLOBAL_KNOWN_HOSTS),
        notes=own[0] if own else None,
        accepts_new=options.get("stricthostkeychecking", "ask").lower() in {"accept-new", "no", "off"},
        hashed=options.get("hashknownhosts", "no").lower() == "yes",
        seconds=_seconds(options.get("connecttimeout")),
        jumps=tuple(map(parse_target, _jumps(options.get("proxyjump", "none")))),
    )


def route(target: Target, resolved: Callable[[Target], Hop]) -> list[Hop]:
    """The machines to connect to one after the other, the last of which is the one that was meant.

    Raises:
        BadInput: the way leads round in circles.
    """
    hops = [resolved(target)]
    while hops[0].jumps:
        *before, nearest = hops[0].jumps
        if not before and nearest.host == parse_target(hops[0].alias).host:
            break  # as with `Host *`, which makes a jump host its own
        hop = resolved(nearest)
        # A list of jump hosts says the whole way; only its first host may have one of its own.
        hops.insert(0, replace(hop, jumps=tuple(before)) if before else hop)
        if len(hops) > _JUMPS:
            raise BadInput(f"the way to {target} leads over more than {_JUMPS} jump hosts; does one of them jump over itself?")
    return hops


def _check_matches(config: str) -> None:
    for found in re.finditer(r"(?im)^[ \t]*match(?:[ \t]*=[ \t]*|[ \t]+)(.*)$", config):
        words = iter(_words(found[1], "Match"))
        for word in words:
            criterion, equals, _ = word.lower().removeprefix("!").partition("=")
            if criterion not in _CRITERIA or equals:
                raise BadInput(f"`Match {word[:40]}` in the SSH configuration is not supported; use Host, or Match with host or user")
            for _ in range(_CRITERIA[criterion]):
                next(words, None)


def _jumps(value: str) -> list[str]:
    return [] if value.lower() == "none" else [name.strip() for name in value.split(",")]


def _seconds(value: str | None) -> float | None:
    if value is None or value.lower() == "none":
        return None
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 10**6):
        raise BadInput(f"ConnectTimeout {value!r} in the SSH configuration is not a number of seconds")
    return float(value)


def _words(text: str, where: str) -> list[str]:
    try:
        return shlex.split(text.strip())
    except ValueError as error:
        raise BadInput(f"{text[:100]!r} in the SSH configuration ({where}) is not understood: {error}") from error


def _tilde(path: str, home: str) -> str:
    return home + path[1:] if path == "~" or path.startswith("~/") else path


def _expanded(path: str, tokens: Mapping[str, str], home: str) -> str:
    def token(found: re.Match[str]) -> str:
        if found[1] not in tokens:
            raise BadInput(f"{found[0]} in {path!r} of the SSH configuration is not understood")
        return tokens[found[1]]

    return _tilde(re.sub(r"%(.?)", token, path), home)
