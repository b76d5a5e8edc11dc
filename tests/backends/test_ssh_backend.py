"""SSHBackend and real OpenSSH servers: who is let in, who is trusted, the ways that lead there, and what happens when they break."""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from rigs.network import NetworkThread, Relay
from rigs.openssh import KeyAgent, Sshd, make_key
from rigs.programs import require
from rigs.waiting import wait_for

from langchain_vers._io import on_io, run
from langchain_vers.backends import guest
from langchain_vers.backends.environment import Secret
from langchain_vers.backends.local import LocalBackend, LocalProcess
from langchain_vers.backends.paths import Mount
from langchain_vers.backends.sessions import Session
from langchain_vers.backends.ssh import SSHBackend
from langchain_vers.errors import BadInput, Denied, Interrupted, Missing, Unreachable

pytestmark = pytest.mark.peer

Make = Callable[..., SSHBackend]


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that no test changes."""
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Makes servers that the test may change."""
    made: list[Sshd] = []

    def make(*settings: str) -> Sshd:
        folder = tmp_path / f"sshd{len(made)}"
        folder.mkdir()
        made.append(Sshd(folder, *settings))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[KeyAgent]:
    agent = KeyAgent(tmp_path)
    yield agent
    agent.close()


@pytest.fixture
def make(clean: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes backends on a server, by default with its key and its host key known; the home is empty, and there is no agent."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    made: list[SSHBackend] = []

    def make(server: Sshd, target: str | None = None, **options: Any) -> SSHBackend:
        defaults = {"key": server.folder / "user", "known_hosts": server.known_hosts, "config": False}
        made.append(SSHBackend(target or server.target, **{**defaults, **options}))
        return made[-1]

    yield make
    for backend in made:
        run(backend.close())


def works(backend: SSHBackend) -> bool:
    return run(backend.exec("echo in")).tail == b"in\n"


# --- who is let in ---


def test_key_in_a_file(make: Make, sshd: Sshd) -> None:
    backend = make(sshd)
    assert works(backend)
    assert backend.host_key == sshd.fingerprint
    assert backend.machine_id == sshd.target


def test_key_of_the_agent(make: Make, sshd: Sshd, agent: KeyAgent, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    agent.add(sshd.folder / "user")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(agent.socket))
    assert works(make(sshd, key=None))
    public = tmp_path / "public"
    shutil.copy(sshd.folder / "user.pub", f"{public}.pub")
    assert works(make(sshd, key=public))  # the agent has its private half
    with pytest.raises(Denied, match="tried no key"):
        run(make(sshd, key=None, agent=False).exec("true"))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nobody"))
    with pytest.raises(Denied, match=r"the agent at .*nobody does not answer"):
        run(make(sshd, key=None).exec("true"))


def test_agent_and_keys_of_the_configuration(make: Make, sshd: Sshd, agent: KeyAgent, tmp_path: Path) -> None:
    agent.add(sshd.folder / "user")
    config = tmp_path / "config"
    config.write_text(f"IdentityAgent {agent.socket}\n")
    assert works(make(sshd, key=None, config=config))
    make_key(tmp_path / "other")
    config.write_text(f"IdentityAgent {agent.socket}\nIdentitiesOnly yes\nIdentityFile {tmp_path}/other\n")
    with pytest.raises(Denied, match=f"tried {tmp_path}/other; add"):
        run(make(sshd, key=None, config=config).exec("true"))
    config.write_text(f"IdentityAgent {agent.socket}\nIdentitiesOnly yes\nIdentityFile {sshd.folder}/user.pub\n")
    assert works(make(sshd, key=None, config=config))


def test_keys_that_are_not_used(make: Make, sshd: Sshd, tmp_path: Path) -> None:
    shutil.copy(sshd.folder / "user", tmp_path / "open")
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(Denied, match=r"tried no key.*open can be read by others .* chmod 600"):
        run(make(sshd, key=tmp_path / "open").exec("true"))
    keygen = require("ssh-keygen", "openssh-client")
    subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "word", "-f", str(tmp_path / "locked")], check=True)
    with pytest.raises(Denied, match="locked is encrypted: ssh-add"):
        run(make(sshd, key=tmp_path / "locked").exec("true"))
    with pytest.raises(Denied, match="missing does not exist"):
        run(make(sshd, key=tmp_path / "missing").exec("true"))
    for content in (b"", b"\xff\x00", b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"):
        (tmp_path / "none").write_bytes(content)
        (tmp_path / "none").chmod(0o600)
        with pytest.raises(Denied, match="none is no private key of a kind that is supported") as caught:
            run(make(sshd, key=tmp_path / "none").exec("true"))
        assert "AAAA" not in str(caught.value)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_kinds_of_keys(make: Make, own: Callable[..., Sshd], tmp_path: Path, clean: Path, kind: str) -> None:
    """Each kind, found where OpenSSH finds it by itself."""
    server = own()
    (clean / ".ssh").mkdir()
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(clean / ".ssh" / f"id_{kind}")], check=True)
    server.authorized.write_bytes((clean / ".ssh" / f"id_{kind}.pub").read_bytes())
    assert works(make(server, key=None))


def test_servers_that_hang_up_or_want_more(make: Make, own: Callable[..., Sshd], agent: KeyAgent, tmp_path: Path) -> None:
    for number in range(4):
        make_key(tmp_path / f"key{number}")
        agent.add(tmp_path / f"key{number}")
    config = tmp_path / "config"
    config.write_text(f"IdentityAgent {agent.socket}\n")
    with pytest.raises(Denied, match=r"hung up after .* IdentitiesOnly"):
        run(make(own("MaxAuthTries 2"), key=None, config=config).exec("true"))
    with pytest.raises(Denied, match=r"takes no keys .* only password"):
        run(make(own("PubkeyAuthentication no", "PasswordAuthentication yes", "KbdInteractiveAuthentication no")).exec("true"))
    with pytest.raises(Denied, match="wants more than a key"):
        both = own("AuthenticationMethods publickey,password", "PasswordAuthentication yes", "KbdInteractiveAuthentication no")
        run(make(both).exec("true"))


# --- who is trusted ---


def test_unknown_host(make: Make, own: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own("LogLevel VERBOSE")
    noted = tmp_path / "new" / "known_hosts"
    with pytest.raises(Unreachable, match=r"host key of .* is not known .* accept_new=True") as caught:
        run(make(server, known_hosts=noted).exec("true"))
    assert server.fingerprint in str(caught.value) and caught.value.machine_id == server.target
    assert not noted.exists()
    assert "Accepted" not in (server.folder / "log").read_text() and "publickey" not in (server.folder / "log").read_text()

    assert works(make(server, known_hosts=noted, accept_new=True))
    assert noted.stat().st_mode & 0o777 == 0o600 and noted.parent.stat().st_mode & 0o777 == 0o700
    assert noted.read_text() == server.known_hosts.read_text()
    assert works(make(server, known_hosts=noted))
    found = subprocess.run(["ssh-keygen", "-F", f"[127.0.0.1]:{server.port}", "-f", str(noted)], capture_output=True, check=True)
    assert b"found" in found.stdout


@pytest.mark.parametrize("accept_new", [False, True])
def test_changed_host_key(make: Make, own: Callable[..., Sshd], tmp_path: Path, accept_new: bool) -> None:
    server = own()
    noted = tmp_path / "known_hosts"
    noted.write_text("other ssh-ed25519 AAAA")  # without an end of line
    assert works(make(server, known_hosts=noted, accept_new=True))
    old = server.fingerprint
    server.new_host_key()
    before = noted.read_text()
    assert before.splitlines()[0] == "other ssh-ed25519 AAAA"
    with pytest.raises(Unreachable, match=r"another one is known for it \(.*known_hosts:2\).*ssh-keygen -R") as caught:
        run(make(server, known_hosts=noted, accept_new=accept_new).exec("true"))
    assert server.fingerprint in str(caught.value) and old not in str(caught.value)
    assert noted.read_text() == before


def test_host_key_that_changes_while_the_backend_lives(make: Make, own: Callable[..., Sshd]) -> None:
    server = own()
    backend = make(server)
    assert works(backend)
    server.new_host_key()
    server.known_hosts  # noqa: B018  # writes the new one: even so it is not the machine that the backend knew
    run(backend.close())
    with pytest.raises(Unreachable, match="was expected"):
        run(backend.exec("true"))
    assert works(make(server))


def test_host_key_that_is_given(make: Make, sshd: Sshd, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    assert works(make(sshd, known_hosts=nothing, host_key=sshd.fingerprint))
    with pytest.raises(Unreachable, match="was expected"):
        run(make(sshd, host_key="SHA256:" + "A" * 43, accept_new=True).exec("true"))
    with pytest.raises(BadInput, match="SHA256"):
        make(sshd, host_key="aa:bb")
    assert not nothing.exists()


def test_revoked_host_key(make: Make, sshd: Sshd, tmp_path: Path) -> None:
    _, kind, key = sshd.known_hosts.read_text().split()
    noted = tmp_path / "known"
    noted.write_text(f"{sshd.known_hosts.read_text()}@revoked * {kind} {key}\n")
    with pytest.raises(Unreachable, match="revoked"):
        run(make(sshd, known_hosts=noted, accept_new=True).exec("true"))


def test_server_with_several_keys_shows_the_one_that_is_known(make: Make, own: Callable[..., Sshd], tmp_path: Path) -> None:
    for kind in ("ecdsa", "rsa"):
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(tmp_path / kind)], check=True)
    server = own(f"HostKey {tmp_path}/ecdsa", f"HostKey {tmp_path}/rsa")
    for kind in ("ecdsa", "rsa"):
        name, key, *_ = (tmp_path / f"{kind}.pub").read_text().split()
        (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {name} {key}\n")
        assert works(make(server, known_hosts=tmp_path / "known"))
    # None of its keys is of the kind that is known: it is not the machine that was.
    only = own()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{only.port} {name} {key}\n")
    with pytest.raises(Unreachable, match="another one is known"):
        run(make(only, known_hosts=tmp_path / "known", accept_new=True).exec("true"))


def test_known_hosts_that_cannot_be_used(make: Make, sshd: Sshd, tmp_path: Path) -> None:
    with pytest.raises(Denied, match="cannot be read"):
        run(make(sshd, known_hosts=tmp_path).exec("true"))
    (tmp_path / "file").touch()
    with pytest.raises(Denied, match="could not be noted"):
        run(make(sshd, known_hosts=tmp_path / "file" / "below", accept_new=True).exec("true"))


# --- ways ---


def test_configuration_of_the_user(make: Make, sshd: Sshd, clean: Path) -> None:
    folder = clean / ".ssh"
    folder.mkdir()
    shutil.copy(sshd.folder / "user", folder / "mine")
    (folder / "more").write_text(f"Host short\n  HostName 127.0.0.1\n  Port {sshd.port}\n  User {getpass.getuser()}\n")
    (folder / "config").write_text(
        "Include more\nHost sho*\n  IdentityFile ~/.ssh/mine\n  StrictHostKeyChecking accept-new\n  HashKnownHosts yes\n"
    )
    backend = make(sshd, "short", key=None, known_hosts=None, config=True)
    assert works(backend)
    assert backend.machine_id == "short"
    noted = (folder / "known_hosts").read_text()
    assert noted.startswith("|1|") and "127.0.0.1" not in noted
    (folder / "config").write_text((folder / "config").read_text().replace("accept-new", "yes"))
    assert works(make(sshd, "short", key=None, known_hosts=None, config=True))


@pytest.fixture
def jump(own: Callable[..., Sshd], sshd: Sshd, tmp_path: Path) -> tuple[Sshd, Path]:
    """A jump host, and a configuration that knows `far` behind it."""
    jump = own("LogLevel VERBOSE")
    known = tmp_path / "known"
    known.write_text(jump.known_hosts.read_text() + sshd.known_hosts.read_text())
    config = tmp_path / "config"
    config.write_text(
        f"UserKnownHostsFile {known}\nGlobalKnownHostsFile none\nIdentityAgent none\nHost 127.0.0.1\n IdentityFile {jump.folder}/user\n"
        f"Host far\n HostName 127.0.0.1\n Port {sshd.port}\n IdentityFile {sshd.folder}/user\n ProxyJump 127.0.0.1:{jump.port}\n"
    )
    return jump, config


def test_way_over_a_jump_host(make: Make, sshd: Sshd, jump: tuple[Sshd, Path]) -> None:
    server, config = jump
    backend = make(sshd, "far", key=None, known_hosts=None, config=config)
    assert works(backend)
    assert backend.host_key == sshd.fingerprint
    assert "Accepted publickey" in (server.folder / "log").read_text()
    data = os.urandom(5 << 20)
    path = f"{sshd.folder}/home/big"
    run(backend.write(path, data))
    assert run(backend.read(path)).data == data

    server.stop()  # connections that stand live on in processes of their own; the next one needs it
    run(backend.close())
    with pytest.raises(Unreachable, match=str(server.port)):
        run(backend.exec("true"))
    server.start()
    assert works(backend)


def test_jump_host_that_is_not_trusted(make: Make, sshd: Sshd, jump: tuple[Sshd, Path]) -> None:
    server, config = jump
    server.new_host_key()
    with pytest.raises(Unreachable, match=f"{server.port} shows the host key .* another one is known"):
        run(make(sshd, "far", key=None, known_hosts=None, config=config, accept_new=True).exec("true"))


def test_machine_behind_the_jump_host_that_is_not_trusted(make: Make, sshd: Sshd, jump: tuple[Sshd, Path], tmp_path: Path) -> None:
    server, config = jump
    (tmp_path / "known").write_text(server.known_hosts.read_text())
    with pytest.raises(Unreachable, match=f"{sshd.port} is not known"):
        run(make(sshd, "far", key=None, known_hosts=None, config=config).exec("true"))


def test_jump_host_that_may_not_forward(make: Make, sshd: Sshd, own: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own("AllowTcpForwarding no")
    config = tmp_path / "config"
    config.write_text(f"Host 127.0.0.1\n ProxyJump jump\nHost jump\n HostName 127.0.0.1\n HostKeyAlias jump\n Port {server.port}\n")
    (tmp_path / "known").write_text(
        sshd.known_hosts.read_text() + server.known_hosts.read_text().replace(f"[127.0.0.1]:{server.port}", "jump")
    )
    config.write_text(
        f"{config.read_text()}Host *\n IdentityFile {sshd.folder}/user\n IdentityFile {server.folder}/user\n IdentityAgent none\n"
    )
    with pytest.raises(Unreachable, match=r"did not connect to .*may forward connections"):
        run(make(sshd, key=None, known_hosts=tmp_path / "known", config=config).exec("true"))


def test_closing_leaves_nothing(make: Make, sshd: Sshd, jump: tuple[Sshd, Path]) -> None:
    server, config = jump

    def mine() -> tuple[int, set[str]]:
        ports = {server.port, sshd.port}
        connections = [each for each in psutil.Process().net_connections() if each.raddr and each.raddr.port in ports]
        return len(connections), {thread.name for thread in threading.enumerate() if "Thread-" in thread.name}

    before = mine()
    backend = make(sshd, "far", key=None, known_hosts=None, config=config)
    assert works(backend)
    assert mine()[0] > before[0]
    run(backend.close())
    run(backend.close())
    wait_for(lambda: mine() == before)


def test_nothing_is_done_before_it_is_needed(clean: Path) -> None:
    backend = SSHBackend("nobody@host.invalid", config=clean / "missing", known_hosts=clean / "missing", key=clean / "missing")
    assert (backend.name, backend.machine_id, repr(backend)) == ("ssh", "nobody@host.invalid", "SSHBackend('nobody@host.invalid')")
    run(backend.close())
    with pytest.raises(BadInput, match="missing cannot be read"):
        run(backend.exec("true"))


def test_hosts_that_do_not_answer(make: Make, sshd: Sshd, own: Callable[..., Sshd], network: NetworkThread, tmp_path: Path) -> None:
    server = own()
    server.stop()
    with pytest.raises(Unreachable, match="check that the host is up"):
        run(make(server).exec("true"))
    with pytest.raises(Unreachable, match=r"host\.invalid"):
        run(make(sshd, "me@host.invalid").exec("true"))
    relay = Relay(network, sshd.address)
    relay.stall()
    config = tmp_path / "config"
    config.write_text("ConnectTimeout 1\n")
    with pytest.raises(TimeoutError, match="did not answer in time"):
        run(make(sshd, f"127.0.0.1:{relay.address[1]}", config=config).exec("true"))
    relay.close()


# --- work ---


def test_broken_in_the_middle_of_a_command(make: Make, sshd: Sshd, network: NetworkThread, tmp_path: Path) -> None:
    relay = Relay(network, sshd.address)
    backend = make(sshd, f"{getpass.getuser()}@127.0.0.1:{relay.address[1]}", host_key=sshd.fingerprint)

    def on_output(_: bytes) -> None:
        asyncio.get_running_loop().run_in_executor(None, relay.drop)

    with pytest.raises(Interrupted, match="may have run in part, and the machine kills") as caught:
        run(backend.exec(f"echo $$ >{tmp_path}/pid; echo up; sleep 300", on_output=on_output))
    assert caught.value.output == b"up\n"
    wait_for(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())))
    assert works(backend)
    relay.close()


def test_workspace(make: Make, sshd: Sshd, tmp_path: Path) -> None:
    place = tmp_path / "a place"
    place.mkdir()
    backend = make(sshd, workspace=place)
    assert run(backend.exec("pwd")).tail.decode() == f"{place}\n"
    run(backend.write("f", b"here"))
    assert (place / "f").read_bytes() == b"here"
    assert run(backend.read("f")).data == b"here"
    assert run(backend.stat("f")).size == 4
    assert [entry.path for entry in run(backend.scan(".")).entries] == ["f"]
    assert run(backend.exec("pwd", cwd="/")).tail == b"/\n"
    with pytest.raises(Missing, match="nowhere does not exist"):
        run(make(sshd, workspace="/nowhere").exec("true"))


def test_environment(make: Make, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_HERE", "hidden" + "-word")
    monkeypatch.setenv("NOT_NAMED", "leak" + "ed")
    backend = make(sshd, env={"PLAIN": "a 'b'", "TOKEN": Secret("TOKEN_HERE")})
    assert run(backend.exec('echo "$PLAIN $TOKEN ${#NOT_NAMED}"')).tail == b"a 'b' hidden-word 0\n"
    assert run(backend.exec('echo "$PLAIN $MORE"', env={"PLAIN": "c", "MORE": "d"})).tail == b"c d\n"
    look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'hidden[-]word'"
    assert run(backend.exec(look)).tail == b"0\n"
    assert "hidden-word" not in repr(vars(backend))
    monkeypatch.delenv("TOKEN_HERE")
    with pytest.raises(BadInput, match="the secret TOKEN_HERE is not set in the environment of this process"):
        run(backend.exec("true"))


async def test_from_async_code(make: Make, sshd: Sshd) -> None:
    results = await asyncio.gather(*(on_io(make(sshd).exec(f"echo {number}")) for number in range(3)))
    assert [result.tail for result in results] == [b"0\n", b"1\n", b"2\n"]


def test_options_that_make_no_sense(clean: Path) -> None:
    for mode in ("ro", "rw"):
        with pytest.raises(BadInput, match='no binds over SSH; give the mount mode="copy"'):
            SSHBackend("host", mounts=[Mount("/here", "/there", mode)])
    assert SSHBackend("host", mounts=[Mount("/here", "/there", "copy")]).mounts
    with pytest.raises(BadInput, match="does not name a machine"):
        SSHBackend("-oProxyCommand=touch /tmp/x")


# --- login shells ---


class ByLoginShell(LocalBackend):
    """Starts sessions as sshd does: the user's shell is given the command with -c."""

    def __init__(self, shell: list[str], home: Path) -> None:
        super().__init__(home)
        self._shell = shell
        self._shells_own = {"PATH": os.environ["PATH"], "HOME": str(home)}

    async def _session(self) -> Session:
        mark = Session.new_mark()
        process = await LocalProcess.start([*self._shell, "-c", guest.boot(mark)], cwd=self.home, env=self._shells_own)
        return await self._ready(process, mark)


SHELLS = {"dash": "dash", "bash": "bash", "tcsh": "tcsh", "fish": "fish", "busybox": "busybox"}


@pytest.mark.parametrize("name", SHELLS)
def test_any_login_shell(name: str, tmp_path: Path) -> None:
    shell = [require(name, SHELLS[name]), *(["sh"] if name == "busybox" else [])]
    backend = ByLoginShell(shell, tmp_path)
    result = run(backend.exec('echo "it\'s $((1 + 1)) $TOKEN"; exit 3', env={"TOKEN": "a\nb\\ !"}))
    assert (result.tail, result.exit_code) == (b"it's 2 a\nb\\ !\n", 3)
    run(backend.close())
