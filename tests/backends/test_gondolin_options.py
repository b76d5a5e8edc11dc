"""What can be chosen about a Gondolin micro-VM: nonsense is refused with a reason, and the bridge is told the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vers._io import run
from langchain_vers.backends.environment import Secret
from langchain_vers.backends.gondolin import Egress, GondolinBackend, Hardware, HeldSecret, SSHEgress, SSHKey
from langchain_vers.backends.gondolin_machine import find_programs
from langchain_vers.backends.gondolin_options import COPIES, WORKSPACE, bridge_config, checked_mounts, secret_names
from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput, Gone, Missing, Unreachable, Unsupported

KEY = SSHKey(Secret("KEY"))

NONSENSE: list[Callable[[], object]] = [
    lambda: Hardware(memory=0),
    lambda: Hardware(memory=True),
    lambda: Hardware(memory=1.5),  # type: ignore[arg-type]
    lambda: Hardware(memory=2**60),
    lambda: Hardware(cpus=0),
    lambda: Hardware(cpus=-1),
    lambda: Hardware(acceleration="warp"),  # type: ignore[arg-type]
    lambda: Hardware(disk="floppy"),  # type: ignore[arg-type]
    lambda: Hardware(disk="readonly", disk_bytes=2**30),
    lambda: Hardware(disk_bytes=0),
    lambda: Hardware(machine=""),
    lambda: Hardware(cpu="a\0b"),
    lambda: Hardware(kernel_arguments="quiet\nroot=/dev/evil"),
    lambda: Hardware(idle_pause=0),
    lambda: Hardware(idle_pause=math.nan),
    lambda: Hardware(start_seconds=math.inf),
    lambda: Hardware(start_seconds=-1),
    lambda: Egress(hosts="example.com"),
    lambda: Egress(hosts=["https://example.com"]),
    lambda: Egress(hosts=["example.com/path"]),
    lambda: Egress(hosts=[""]),
    lambda: Egress(hosts=[None]),  # type: ignore[list-item]
    lambda: Egress(internal_hosts=["a b"]),
    lambda: Egress(secrets={"A-B": HeldSecret(Secret("KEY"), ["example.com"])}),
    lambda: Egress(secrets={"A": "plain"}),  # type: ignore[dict-item]
    lambda: HeldSecret("plain", ["example.com"]),  # type: ignore[arg-type]
    lambda: HeldSecret(Secret("KEY"), []),
    lambda: HeldSecret(Secret("KEY"), ["https://example.com"]),
    lambda: Egress(dns="carrier pigeon"),  # type: ignore[arg-type]
    lambda: Egress(dns="trusted"),
    lambda: Egress(dns_servers=["9.9.9.9"]),
    lambda: Egress(dns="trusted", dns_servers=["dns.example"]),
    lambda: Egress(dns="open", tcp={"db": "127.0.0.1:5432"}),
    lambda: Egress(tcp={"db": "127.0.0.1"}),
    lambda: Egress(tcp={"db": "127.0.0.1:99999"}),
    lambda: Egress(tcp={"d b": "127.0.0.1:1"}),
    lambda: Egress(ssh="github.com"),  # type: ignore[arg-type]
    lambda: Egress(max_request_bytes=0),
    lambda: SSHEgress([], {"*": KEY}),
    lambda: SSHEgress(["github.com"]),
    lambda: SSHEgress(["github.com"], {"github.com": "key"}),  # type: ignore[dict-item]
    lambda: GondolinBackend(egress="*"),  # type: ignore[arg-type]
    lambda: GondolinBackend(hardware={"cpus": 2}),  # type: ignore[arg-type]
    lambda: GondolinBackend(growth=-1),
    lambda: GondolinBackend(growth=1.5),  # type: ignore[arg-type]
    lambda: GondolinBackend(growth=True),
    lambda: GondolinBackend(hidden=".env"),
    lambda: GondolinBackend(hidden=["a/b"]),
    lambda: GondolinBackend(hidden=[".."]),
    lambda: GondolinBackend(mounts=["/a:/b"]),  # type: ignore[list-item]
    lambda: GondolinBackend("/w", mounts=[Mount("/x", WORKSPACE)]),
    lambda: GondolinBackend(mounts=[Mount("/x", "/m"), Mount("/y", "/m/n")]),
    lambda: GondolinBackend(mounts=[Mount("/x", "/m"), Mount("/y", "/m")]),
    *[
        lambda guest=guest: GondolinBackend(mounts=[Mount("/x", guest)])  # type: ignore[misc]
        for guest in ("/", "/proc", "/dev", "/data", "/etc/gondolin", COPIES, f"{COPIES}/0", "/a b", "/a,b", '/a"b')
    ],
]


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_nonsense_is_refused_before_anything_starts(nonsense: Callable[[], object]) -> None:
    with pytest.raises(BadInput) as error:
        nonsense()
    assert "\n" not in str(error.value)


def config(**options: Any) -> dict[str, Any]:
    given = {"image": None, "mounts": (), "hidden": (), "hardware": Hardware(), "egress": None, "secrets": {}}
    found = bridge_config(**{**given, **options})
    assert json.loads(json.dumps(found)) == found
    return found


def test_no_egress_is_no_network() -> None:
    assert config()["egress"] is None


def test_egress_without_hosts_names_no_host() -> None:
    """An empty list denies all; one that is missing would allow all."""
    assert config(egress=Egress())["egress"]["hosts"] == []


def test_secrets_go_to_the_bridge_by_value_and_show_nowhere_else() -> None:
    ssh = SSHEgress(["github.com"], {"github.com": SSHKey(Secret("KEY"), "git", Secret("PASS"))})
    egress = Egress(["api.example.com"], secrets={"TOKEN": HeldSecret(Secret("HOST_TOKEN"), ["api.example.com"])}, ssh=ssh)
    assert secret_names(egress) == ["HOST_TOKEN", "KEY", "PASS"]
    found = config(egress=egress, secrets={"HOST_TOKEN": "t", "KEY": "k", "PASS": "p"})["egress"]
    assert found["secrets"] == {"TOKEN": {"hosts": ["api.example.com"], "value": "t"}}
    assert found["ssh"]["credentials"] == {"github.com": {"username": "git", "privateKey": "k", "passphrase": "p"}}


def test_the_workspace_is_the_first_mount() -> None:
    mounts = checked_mounts("/w", [Mount("/x", "/m", "ro")])
    assert [(mount.host, mount.guest, mount.mode) for mount in mounts] == [("/w", WORKSPACE, "rw"), ("/x", "/m", "ro")]


@given(st.text(max_size=20))
def test_any_text_as_a_host_is_taken_as_it_is_or_refused(text: str) -> None:
    try:
        egress = Egress([text])
    except BadInput:
        return
    assert egress.hosts == (text,)
    assert not set(text) & set("/ \t\r\n\0,@?#")


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def sdk_in(folder: Path) -> Path:
    sdk = folder / "node_modules/@earendil-works/gondolin"
    sdk.mkdir(parents=True)
    (sdk / "package.json").write_text("{}")
    return sdk


def test_programs_are_found_in_a_folder_above(tmp_path: Path) -> None:
    sdk, node = sdk_in(tmp_path), program(tmp_path / "node_modules/node/bin/node")
    found = find_programs(None, None, {"PATH": ""}, tmp_path / "a/b")
    assert (found.sdk, found.node) == (str(sdk), str(node))


def test_what_is_given_goes_before_the_environment_and_that_before_what_is_found(tmp_path: Path) -> None:
    sdk_in(tmp_path)
    program(tmp_path / "node_modules/node/bin/node")
    other, named = program(tmp_path / "other/node"), program(tmp_path / "named/node")
    there = sdk_in(tmp_path / "there")
    environment = {"PATH": "", "VERS_GONDOLIN_NODE": str(named), "VERS_GONDOLIN_SDK": str(there)}
    assert find_programs(None, None, environment, tmp_path).node == str(named)
    assert find_programs(str(other), None, environment, tmp_path).node == str(other)
    assert find_programs(None, None, environment, tmp_path).sdk == str(there)


@pytest.mark.parametrize("node", ["", "/nowhere/node", "/tmp"])
def test_missing_node_says_what_to_install(tmp_path: Path, node: str) -> None:
    with pytest.raises(Unreachable, match="npm install node@24"):
        find_programs(node, str(sdk_in(tmp_path)), {"PATH": ""}, tmp_path / "empty")


def test_missing_sdk_says_what_to_install(tmp_path: Path) -> None:
    node = str(program(tmp_path / "bin/node"))
    with pytest.raises(Unreachable, match=r"npm install .*@earendil-works/gondolin"):
        find_programs(node, None, {"PATH": ""}, tmp_path)
    with pytest.raises(Unreachable, match="nowhere"):
        find_programs(node, "/nowhere", {"PATH": ""}, tmp_path)


def test_nothing_is_looked_for_before_first_use(tmp_path: Path) -> None:
    backend = GondolinBackend(tmp_path / "not there", node="/nowhere", sdk="/nowhere", image="/nowhere")
    assert backend.machine_id is None
    run(backend.close())
    run(backend.delete())
    with pytest.raises(Gone, match="deleted"):
        run(backend.exec("true"))


def test_a_workspace_that_is_not_there(tmp_path: Path) -> None:
    node, sdk = program(tmp_path / "bin/node"), sdk_in(tmp_path)
    backend = GondolinBackend(tmp_path / "gone", node=node, sdk=sdk)
    with pytest.raises(Missing, match="gone"):
        run(backend.exec("true"))


def test_a_secret_that_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    egress = Egress(secrets={"TOKEN": HeldSecret(Secret("NOT_SET"), ["example.com"])})
    backend = GondolinBackend(node=program(tmp_path / "bin/node"), sdk=sdk_in(tmp_path), egress=egress)
    with pytest.raises(BadInput, match="NOT_SET"):
        run(backend.exec("true"))


def test_a_machine_that_was_never_there() -> None:
    other = GondolinBackend().at("00000000-0000-0000-0000-000000000000")
    with pytest.raises(Gone, match="restore a snapshot"):
        run(other.exec("true"))
    run(other.delete())


@pytest.mark.parametrize("ref", ["", "../../etc/passwd", "x" * 32, "A" * 32])
def test_what_is_no_snapshot(ref: str) -> None:
    with pytest.raises(BadInput):
        run(GondolinBackend().restore(ref))
    with pytest.raises(BadInput):
        run(GondolinBackend().discard(ref))


@pytest.mark.parametrize("disk", ["memory", "readonly"])
def test_a_disk_that_keeps_nothing_has_no_snapshots(disk: Any) -> None:
    with pytest.raises(Unsupported):
        run(GondolinBackend(hardware=Hardware(disk=disk)).snapshot())


def test_no_branches_are_too_few() -> None:
    with pytest.raises(BadInput):
        run(GondolinBackend().branch(0))
