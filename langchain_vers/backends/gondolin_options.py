"""What can be chosen about a Gondolin micro-VM, and what the bridge is told of it. Pure; nothing here touches a file or starts a process.

Gondolin has two promises that a plain VM has not: the guest reaches only hosts that were named, and a secret never enters the guest: its
environment holds a placeholder, which the host's side replaces in requests to the hosts that the secret is for. Without an `Egress` the
guest has no network at all. Source: the documentation and types of the npm package `@earendil-works/gondolin` 0.12.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from langchain_vers.backends.environment import Secret
from langchain_vers.backends.gondolin_room import SETUP
from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput

Acceleration = Literal["kvm", "hvf", "tcg"]
"""How QEMU runs the guest's processor: Linux's or macOS's virtualisation, or by itself, which works everywhere and is slow."""
Disk = Literal["cow", "memory", "readonly"]
"""Where the guest's writes to its root file system go: a file that lives as long as the VM, memory, or nowhere: they fail."""
Dns = Literal["synthetic", "trusted", "open"]
"""How the guest's name look-ups are answered: by the host's side with made-up addresses (no look-up leaves the machine), by the name
servers that are named, or by whichever server the guest asks."""

WORKSPACE = "/workspace"
"""Where commands start on the guest, and where the workspace folder of the host is mounted."""
HOME = "/home/agent"
"""HOME of the commands: on the guest's disk, as /root is in memory there, and so in no snapshot."""
COPIES = "/mnt/.vers"
"""Where folders that are to be copied in are mounted until they have been."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_*-]+(\.[A-Za-z0-9_*-]+)*|\[?[0-9A-Fa-f:]+\]?")
_HOST_PORT = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:(?P<port>[0-9]{1,5}))?")
_ADDRESS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")
_RESERVED = ("/", "/proc", "/sys", "/dev", "/data", "/etc/gondolin")


@dataclass(frozen=True)
class HeldSecret:
    """A secret that stays on the host; the guest's variable of its name holds a placeholder.

    Attributes:
        secret: which one.
        hosts: patterns (`api.example.com`, `*.example.com`) of the hosts that it may be sent to. `Egress.hosts` must allow them too.

    Raises:
        BadInput: there is no host, or one is malformed.
    """

    secret: Secret
    hosts: Sequence[str]

    def __post_init__(self) -> None:
        if not isinstance(self.secret, Secret):
            raise BadInput('the secret must be given by reference, as Secret("NAME of a variable of this process")')
        _hosts("the hosts of a secret", self.hosts)
        if not self.hosts:
            raise BadInput("a secret that may be sent to no host is of no use; name its hosts")
        _freeze(self, "hosts")


@dataclass(frozen=True)
class SSHKey:
    """Who the host's side logs in as when the guest connects to an SSH host; the guest never sees the key.

    Attributes:
        key: the private key (PEM or OpenSSH), by reference.
        username: None is the name that the guest's client gives.
        passphrase: of the key, by reference.
    """

    key: Secret
    username: str | None = None
    passphrase: Secret | None = None


@dataclass(frozen=True)
class SSHEgress:
    """Which SSH hosts the guest may run commands on (such as git's). The host's side logs in for it.

    Attributes:
        hosts: patterns, with `:port` where it is not 22.
        keys: by pattern of host.
        agent: the socket of an SSH agent to log in with where there is no key.
        known_hosts: files with the hosts' keys; none are `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.

    Raises:
        BadInput: a host is malformed, or there is no way to log in.
    """

    hosts: Sequence[str]
    keys: Mapping[str, SSHKey] = field(default_factory=dict)
    agent: str | None = None
    known_hosts: Sequence[str] = ()

    def __post_init__(self) -> None:
        _texts("the SSH hosts", self.hosts)
        if not self.hosts:
            raise BadInput("SSH egress without a host allows nothing; name the hosts, or leave it out")
        if not self.keys and self.agent is None:
            raise BadInput("SSH egress needs a key or an agent: the host's side logs in for the guest")
        if not all(isinstance(key, SSHKey) for key in self.keys.values()):
            raise BadInput("the keys of SSH egress must be SSHKey objects")
        _texts("the known_hosts files", self.known_hosts)
        _freeze(self, "hosts", "known_hosts")


@dataclass(frozen=True)
class Egress:
    """What the guest reaches: HTTP and HTTPS to named hosts through the host's side, which looks into both, and what is mapped by name.

    Attributes:
        hosts: patterns of allowed hosts; `("*",)` are all that are no internal addresses.
        internal_hosts: patterns of hosts that may also resolve to internal addresses.
        block_internal: whether internal addresses are out of reach otherwise.
        secrets: the secrets that stay on the host, by the name of the guest's variable that holds the placeholder.
        secrets_in_query: whether placeholders are also replaced in the query part of URLs, where servers tend to log them.
        websockets: whether HTTP connections may become WebSockets, into which nobody looks.
        dns: see `Dns`.
        dns_servers: IPv4 addresses, for `dns="trusted"`.
        tcp: other protocols: `host` or `host:port` as the guest calls it to `host:port` as this machine reaches it. Needs synthetic names.
        ssh: see `SSHEgress`. Needs synthetic names.
        max_request_bytes: bytes of the largest body of a request that is let through, None for Gondolin's limit.
        max_response_bytes: bytes of the largest body of a response, likewise.

    Raises:
        BadInput: for a malformed value, or a combination that makes no sense.
    """

    hosts: Sequence[str] = ()
    internal_hosts: Sequence[str] = ()
    block_internal: bool = True
    secrets: Mapping[str, HeldSecret] = field(default_factory=dict)
    secrets_in_query: bool = False
    websockets: bool = True
    dns: Dns = "synthetic"
    dns_servers: Sequence[str] = ()
    tcp: Mapping[str, str] = field(default_factory=dict)
    ssh: SSHEgress | None = None
    max_request_bytes: int | None = None
    max_response_bytes: int | None = None

    def __post_init__(self) -> None:
        _hosts("the allowed hosts", self.hosts)
        _hosts("the internal hosts", self.internal_hosts)
        _names("a secret's variable", self.secrets)
        if not all(isinstance(secret, HeldSecret) for secret in self.secrets.values()):
            raise BadInput("the secrets of egress must be HeldSecret objects, which say which hosts each may be sent to")
        _choice("dns", self.dns, Dns)
        _texts("the name servers", self.dns_servers)
        if any(not _ADDRESS.fullmatch(server) for server in self.dns_servers):
            raise BadInput("name servers must be IPv4 addresses")
        if (self.dns == "trusted") != bool(self.dns_servers):
            raise BadInput('dns_servers go with dns="trusted", which needs at least one')
        if self.dns != "synthetic" and (self.tcp or self.ssh is not None):
            raise BadInput('TCP and SSH egress need dns="synthetic": a host is told by the name that the guest has looked up')
        for name, target in self.tcp.items():
            _host_port("a mapped host", name, port_needed=False)
            _host_port("the target of a mapped host", target, port_needed=True)
        if self.ssh is not None and not isinstance(self.ssh, SSHEgress):
            raise BadInput("ssh must be an SSHEgress")
        for limit in ("max_request_bytes", "max_response_bytes"):
            _whole(limit, getattr(self, limit), least=1, optional=True)
        _freeze(self, "hosts", "internal_hosts", "dns_servers")


@dataclass(frozen=True)
class Hardware:
    """The virtual machine.

    Attributes:
        memory: MiB.
        cpus: virtual processors.
        acceleration: None takes what this machine has. Gondolin takes KVM when `/dev/kvm` can be opened, also where guests do not start.
        machine: QEMU's machine type; None is Gondolin's choice for the acceleration.
        cpu: QEMU's processor model; None likewise.
        qemu: path of the QEMU program; None is the one on the PATH for the image's architecture.
        disk: see `Disk`. Only "cow" can be snapshotted.
        disk_bytes: bytes of the root disk, if it is to be larger than the image's; the image needs resize2fs.
        idle_pause: seconds without work after which the guest's processors stop, until the next call. No session is kept waiting then, so
            that calls take longer to begin.
        kernel_arguments: replace Gondolin's own (`console=... initramfs_async=1`).
        start_seconds: seconds that it may take to start.

    Raises:
        BadInput: for a value that makes no sense.
    """

    memory: int = 1024
    cpus: int = 2
    acceleration: Acceleration | None = None
    machine: str | None = None
    cpu: str | None = None
    qemu: str | None = None
    disk: Disk = "cow"
    disk_bytes: int | None = None
    idle_pause: float | None = None
    kernel_arguments: str | None = None
    start_seconds: float = 120.0

    def __post_init__(self) -> None:
        _whole("memory (MiB)", self.memory, least=64)
        _whole("cpus", self.cpus, least=1)
        _whole("disk_bytes", self.disk_bytes, least=1, optional=True)
        if self.acceleration is not None:
            _choice("acceleration", self.acceleration, Acceleration)
        _choice("disk", self.disk, Disk)
        if self.disk == "readonly" and self.disk_bytes is not None:
            raise BadInput("a read-only disk cannot be made larger; leave out disk_bytes, or choose another disk")
        for name in ("machine", "cpu", "qemu", "kernel_arguments"):
            value = getattr(self, name)
            if value is not None and not _plain(value):
                raise BadInput(f"{name} must be a text without NUL, or None")
        _seconds("idle_pause", self.idle_pause, optional=True)
        _seconds("start_seconds", self.start_seconds)


def checked_mounts(workspace: str | None, mounts: Sequence[Mount]) -> tuple[Mount, ...]:
    """The mounts of a VM, the workspace folder first.

    Raises:
        BadInput: a guest folder is the system's or Gondolin's own, has a character that the kernel's command line cannot take, or is given
            twice, or one lies in another.
    """
    found = [Mount(workspace, WORKSPACE)] if workspace is not None else []
    found += mounts
    if not all(isinstance(mount, Mount) for mount in found):
        raise BadInput("mounts must be Mount objects")
    guests = [mount.guest.rstrip("/") or "/" for mount in found]
    for guest in guests:
        if not guest.startswith("/") or guest in _RESERVED or guest.startswith(f"{COPIES}/") or guest == COPIES:
            raise BadInput(f"{guest} cannot be a mounted folder of the guest, as it is the system's own; choose another")
        if re.search(r'[\s,"\\]', guest):
            raise BadInput(f"{guest!r} cannot be a mounted folder of the guest: it is on its kernel's command line; use plain characters")
        if sum(other == guest or other.startswith(f"{guest}/") for other in guests) > 1:
            raise BadInput(f"{guest} on the guest is the place of two mounts, or holds another; give each a place of its own")
    return tuple(found)


def checked_growth(growth: int | None) -> int | None:
    """How many bytes larger the guest may make each mounted folder; None: any number.

    Raises:
        BadInput: it is no such number.
    """
    _whole("growth", growth, least=0, optional=True)
    return growth


def bridge_config(
    *,
    image: str | None,
    mounts: Sequence[Mount],
    hidden: Sequence[str],
    hardware: Hardware,
    egress: Egress | None,
    secrets: Mapping[str, str],
    growth: int | None = None,
) -> dict[str, Any]:
    """What the bridge is told on its standard input, as JSON. `secrets` are the values by name of reference, `growth` what
    `checked_growth` lets pass.
    """
    return {
        "image": image,
        "mounts": [{"host": mount.host, "guest": mount.guest, "mode": mount.mode, "growth": growth} for mount in mounts],
        "hidden": list(hidden),
        "folders": [WORKSPACE, HOME] if hardware.disk != "readonly" else [],
        "copies": COPIES,
        "room": SETUP,
        "hardware": {item.name: getattr(hardware, item.name) for item in fields(hardware)},
        "egress": None if egress is None else _egress(egress, secrets),
    }


def secret_names(egress: Egress | None) -> list[str]:
    """Which secrets of this process the bridge needs."""
    if egress is None:
        return []
    keys = list(egress.ssh.keys.values()) if egress.ssh is not None else []
    return [
        *(held.secret.name for held in egress.secrets.values()),
        *(key.key.name for key in keys),
        *(key.passphrase.name for key in keys if key.passphrase is not None),
    ]


def _egress(egress: Egress, secrets: Mapping[str, str]) -> dict[str, Any]:
    ssh = egress.ssh
    return {
        "hosts": list(egress.hosts),
        "internalHosts": list(egress.internal_hosts),
        "blockInternal": egress.block_internal,
        "secrets": {name: {"hosts": list(held.hosts), "value": secrets[held.secret.name]} for name, held in egress.secrets.items()},
        "secretsInQuery": egress.secrets_in_query,
        "webSockets": egress.websockets,
        "dns": egress.dns,
        "dnsServers": list(egress.dns_servers),
        "tcp": dict(egress.tcp),
        "ssh": None if ssh is None else {
            "allowedHosts": list(ssh.hosts),
            "agent": ssh.agent,
            "knownHostsFile": list(ssh.known_hosts) or None,
            "credentials": {
                host: {
                    "username": key.username,
                    "privateKey": secrets[key.key.name],
                    "passphrase": None if key.passphrase is None else secrets[key.passphrase.name],
                }
                for host, key in ssh.keys.items()
            },
        },
        "maxRequestBytes": egress.max_request_bytes,
        "maxResponseBytes": egress.max_response_bytes,
    }  # fmt: skip


def _freeze(options: object, *names: str) -> None:
    for name in names:
        object.__setattr__(options, name, tuple(getattr(options, name)))


def _plain(value: object) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value and "\n" not in value


def _texts(what: str, values: object) -> None:
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(map(_plain, values)):
        raise BadInput(f"{what} must be a sequence of texts without NUL")


def _hosts(what: str, values: Sequence[str]) -> None:
    _texts(what, values)
    for value in values:
        if not _HOST.fullmatch(value):
            raise BadInput(
                f"{value!r} in {what} is no name of a host nor a pattern such as *.example.com; give names without parts of a URL"
            )


def _host_port(what: str, value: object, *, port_needed: bool) -> None:
    found = _HOST_PORT.fullmatch(value) if isinstance(value, str) else None
    port = found["port"] if found else None
    if found is None or (port is None and port_needed) or (port is not None and not 0 < int(port) < 65536):
        raise BadInput(f"{value!r} as {what} must be host:port" + ("" if port_needed else " or host"))


def _names(what: str, values: Mapping[str, object]) -> None:
    for name in values:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise BadInput(f"{name!r} cannot be {what}; use letters, digits and '_'")


def _choice(name: str, value: object, choices: object) -> None:
    if value not in get_args(choices):
        raise BadInput(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, not {value!r}")


def _whole(name: str, value: object, *, least: int, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        raise BadInput(f"{name} must be a whole number of at least {least}, not {value!r}")


def _seconds(name: str, value: object, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not 0 < value < 2_000_000:
        raise BadInput(f"{name} must be a number of seconds between 0 and 2000000, not {value!r}")
