"""Names and configurations of SSH: what `ssh -G` makes of them, we make of them too; what would lead elsewhere is refused."""

from __future__ import annotations

import functools
import getpass
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rigs.programs import require

from langchain_vers.backends.ssh_config import Hop, Target, parse_target, read, resolve, route
from langchain_vers.errors import BadInput

HOME, USER = "/home/me", "me"


def resolved(name: str, config: str = "") -> Hop:
    return resolve(parse_target(name), config, home=HOME, local_user=USER)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("host", Target("host")),
        ("user@host", Target("host", "user")),
        ("user@host:2200", Target("host", "user", 2200)),
        ("ssh://user@host:2200", Target("host", "user", 2200)),
        ("ssh://host/", Target("host")),
        ("user@example.org@host", Target("host", "user@example.org")),
        ("::1", Target("::1")),
        ("fe80::1%eth0", Target("fe80::1%eth0")),
        ("root@[::1]:22", Target("::1", "root", 22)),
        ("[::1]", Target("::1")),
    ],
)
def test_targets(text: str, target: Target) -> None:
    assert parse_target(text) == target
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", "@host", "user@", ":22", "host:", "host:0", "host:65536", "host:22x", "host:-1", "host:²", "-oProxyCommand=x", "a b"),
        *("user@-host", "-user@host", "us er@host", "host\n", "host\nProxyCommand x", "user\nx@host", "ho\0st", "[::1", "[::1]22", "[]:22"),
        *("ssh://", "http://host", "host/path", "*", "$(x)@host", "`x`@host", 'a"b@host', "user@host;x", "user@ho;st", "h\u00f6st"),
    ],
)
def test_names_of_no_machine(text: str) -> None:
    with pytest.raises(BadInput, match="does not name a machine"):
        parse_target(text)


@given(st.text(max_size=60))
@example("ssh://a@[b]:1")
def test_any_text(text: str) -> None:
    try:
        target = parse_target(text)
    except BadInput:
        return
    assert parse_target(str(target)) == target
    # Nothing in a name can become a line of the configuration of its own.
    assert resolve(target, "", home=HOME, local_user=USER).target == Target(target.host, target.user or USER, target.port or 22)


CONFIG = """
Host short
  HostName long.example.org
  Port 2201
  User somebody
  IdentityFile ~/.ssh/%r_at_%h
  IdentityFile /keys/two
  IdentitiesOnly yes
Host *.example.org !x.example.org
  ProxyJump jump@bastion:2222,inner
  UserKnownHostsFile ~/.ssh/known_%h /second
  StrictHostKeyChecking accept-new
  HashKnownHosts yes
  HostKeyAlias alias.example.org
  ConnectTimeout 7
Match host long.example.org user somebody
  IdentityAgent none
Match user root
  Port 99
Host %h-odd
  Port 1
Host *
  User fallback
  ServerAliveInterval 5
"""


def asked_of_openssh(name: str, file: Path) -> dict[str, list[str]]:
    target = parse_target(name)
    arguments = [*(["-p", str(target.port)] if target.port else []), *(["-l", target.user] if target.user else []), "--", target.host]
    done = subprocess.run([require("ssh", "openssh-client"), "-G", "-F", str(file), *arguments], check=True, capture_output=True, text=True)
    options: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        options.setdefault(key, []).append(value)
    return options


@pytest.mark.peer
@pytest.mark.parametrize(
    "name", ["short", "other@short", "short:5", "a.example.org", "x.example.org", "root@far", "far", "root@a.example.org:7", "10.0.0.1"]
)
def test_the_same_as_openssh(name: str, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(CONFIG)
    theirs = asked_of_openssh(name, file)
    hop = resolve(parse_target(name), read(str(file), HOME, missing_ok=False), home=str(Path.home()), local_user=getpass.getuser())
    assert (hop.target.host, str(hop.port), hop.target.user) == tuple(theirs[key][0] for key in ("hostname", "port", "user"))
    assert ",".join(map(str, hop.jumps)) == theirs.get("proxyjump", [""])[0]
    assert hop.accepts_new == (theirs["stricthostkeychecking"][0] == "accept-new")
    assert hop.hashed == (theirs["hashknownhosts"][0] == "yes")
    assert hop.identities_only == (theirs["identitiesonly"][0] == "yes")
    assert hop.known_as == theirs.get("hostkeyalias", theirs["hostname"])[0]
    assert (hop.agent is None) == (theirs.get("identityagent", [""])[0] == "none")
    assert (hop.seconds or 0) == (0 if theirs["connecttimeout"][0] == "none" else int(theirs["connecttimeout"][0]))
    if hop.named:
        home, user, host = str(Path.home()), hop.target.user, hop.target.host
        theirs_expanded = [each.replace("%r", str(user)).replace("%h", host).replace("~", home) for each in theirs["identityfile"]]
        assert list(hop.identities) == theirs_expanded


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("ProxyCommand nc %h %p", "proxycommand.*ProxyJump"),
        ("RevokedHostKeys /revoked", "revokedhostkeys"),
        ("Port none", "does not name a machine"),
        ("HostName -oX", "does not name a machine"),
        ("User a b", "does not name a machine"),
        ("ProxyJump a b", "does not name a machine"),
        ("ProxyJump host:x", "does not name a machine"),
        ("ConnectTimeout soon", "ConnectTimeout"),
        ("UserKnownHostsFile %Z", "%Z"),
        ('UserKnownHostsFile "a', "not understood"),
        ("Nonsense", "not understood"),
        ("Match tagged x", "not supported"),
        ("  match=host a !version b", "not supported"),
        ("Match host=a", "not supported"),
        ('Match host "a', "not understood"),
    ],
)
def test_what_cannot_be_followed(config: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolved("host", config)


def test_nothing_is_said() -> None:
    hop = resolved("host")
    assert str(hop.target) == "me@host:22"
    assert (hop.known_as, hop.known_port, hop.accepts_new, hop.identities_only, hop.agent) == ("host", 22, False, False, "")
    assert hop.identities == tuple(f"{HOME}/.ssh/{name}" for name in ("id_rsa", "id_ecdsa", "id_ed25519"))
    assert hop.known_hosts[0] == f"{HOME}/.ssh/known_hosts" == hop.notes
    assert resolved("host", "ProxyCommand none\nProxyJump none\nUserKnownHostsFile none").notes is None


def names(target: str, config: str) -> list[str]:
    return [hop.alias for hop in route(parse_target(target), functools.partial(resolve, config=config, home=HOME, local_user=USER))]


def test_ways_over_jump_hosts() -> None:
    assert names("far", "") == ["far"]
    assert names("far", "Host far\n ProxyJump near") == ["near", "far"]
    assert names("far", "Host far\n ProxyJump a,b@b:2,c") == ["a", "b@b:2", "c", "far"]
    # Each jump host may have one of its own; the first one of a list, too.
    assert names("far", "Host far\n ProxyJump b\nHost b\n ProxyJump a") == ["a", "b", "far"]
    assert names("far", "Host far\n ProxyJump b,c\nHost b\n ProxyJump a\nHost c\n ProxyJump x") == ["a", "b", "c", "far"]
    # One that stands for all hosts is not its own.
    assert names("far", "Host *\n ProxyJump near") == ["near", "far"]
    with pytest.raises(BadInput, match="more than 8 jump hosts"):
        names("a", "Host a\n ProxyJump b\nHost b\n ProxyJump a")


def test_included_files(tmp_path: Path) -> None:
    (tmp_path / "one.conf").write_text("Host a\n  Port 1\n")
    (tmp_path / "two.conf").write_text(f"Include {tmp_path}/three\nHost b\n  Port 2\n")
    (tmp_path / "three").write_text("Host c\n  Port 3\n")
    (tmp_path / "plain").write_text("  User inner\n")
    main = tmp_path / "main"
    main.write_text(
        f"Include {tmp_path}/*.conf {tmp_path}/missing\nUser all\nHost d\n  Port 4\nHost e\n  Include {tmp_path}/plain\n  Port 5\n"
    )
    text = read(str(main), HOME, missing_ok=False)
    assert [resolved(name, text).port for name in "abcdef"] == [1, 2, 3, 4, 5, 22]
    assert {resolved(name, text).target.user for name in "abcdef"} == {"all"}
    main.write_text(f"Host e\n  Include {tmp_path}/plain\n")
    assert [resolved(name, read(str(main), HOME, missing_ok=False)).target.user for name in "ef"] == ["inner", "me"]
    main.write_text(f"Host e\n  Include {tmp_path}/one.conf\n")
    with pytest.raises(BadInput, match="within a Host or Match block"):
        read(str(main), HOME, missing_ok=False)
    main.write_text(f"Include {main}\n")
    with pytest.raises(BadInput, match="deep"):
        read(str(main), HOME, missing_ok=False)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert read(f"{tmp_path}/nothing", HOME, missing_ok=True) == ""
    with pytest.raises(BadInput, match="cannot be read"):
        read(f"{tmp_path}/nothing", HOME, missing_ok=False)
    with pytest.raises(BadInput, match="cannot be read"):
        read(str(tmp_path), HOME, missing_ok=True)
