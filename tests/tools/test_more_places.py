"""Finding machines and staying on them: other backends, aliases, commits by every name, deletion, machines out of reach, and `~`."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Runner
from langchain_core.messages import ToolMessage
from rigs.embedded import EmbeddedVers

from langchain_vers._io import run
from langchain_vers.attachment import HERE
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.vers import VersBackend
from langchain_vers.context import BackendContext
from langchain_vers.embedded import launcher
from langchain_vers.errors import BadInput
from langchain_vers.turns import Place

direct = Runner("direct", asynchronous=False)


class Hands:
    def __init__(self, toolkit: Any) -> None:
        self.context: BackendContext = toolkit.context
        self.tools = toolkit.get_tools()

    def one(self, tool: str, /, thread: str | None = None, **arguments: Any) -> ToolMessage:
        return direct(self.tools, (tool, arguments), thread=thread)[0]

    def ok(self, tool: str, /, thread: str | None = None, **arguments: Any) -> ToolMessage:
        answer = self.one(tool, thread, **arguments)
        assert answer.status == "success", answer.content
        return answer

    def refused(self, kind: str, tool: str, /, thread: str | None = None, **arguments: Any) -> str:
        answer = self.one(tool, thread, **arguments)
        assert (answer.status, answer.artifact["error"]) == ("error", kind), answer.content
        return str(answer.content)

    def vms(self) -> set[str]:
        return set(self.ok("vers_vms").artifact["vms"])

    def new(self, **labels: str) -> str:
        vm_id: str = self.ok("vers_vm_create", attach=False, labels=labels).artifact["machine_id"]
        return vm_id


@pytest.fixture
def hands(make_toolkit: Any) -> Hands:
    return Hands(make_toolkit())


# --- other backends ---


def test_use_backend(make_toolkit: Any, here: Path, tmp_path: Path) -> None:
    assert "use_backend" not in {tool.name for tool in make_toolkit().get_tools()}
    toolkit = make_toolkit()
    (tmp_path / "other").mkdir()
    toolkit.context.register("other", LocalBackend(tmp_path / "other"))
    hands = Hands(toolkit)
    hands.ok("bash", command="touch here")
    answer = hands.ok("use_backend", name="other")
    assert (answer.artifact["backend"], answer.artifact["machine_id"]) == ("other", None)
    answer = hands.ok("bash", command="touch there; pwd")
    assert (answer.content, answer.artifact["backend"]) == (str(tmp_path / "other"), "other")
    assert hands.ok("ls").content == "there"
    assert hands.ok("ls", thread="another").content == "here"
    known = hands.refused("BadInput", "use_backend", name="third")
    assert "'third'" in known
    assert known.endswith("registered are: other")
    assert "vers_vm_use" in hands.refused("BadInput", "use_backend", name="vers")
    assert hands.ok("ls").content == "there"
    moved = direct(toolkit.get_tools(), ("use_backend", {"name": "local"}), ("ls", {}))
    assert moved[1].content == "here"
    for name in ("vers", "local", "no name"):
        with pytest.raises(BadInput):
            toolkit.context.register(name, LocalBackend())


# --- names of VMs and commits ---


def test_aliases_and_prefixes(hands: Hands, clean: Path) -> None:
    first, second = hands.new(team="red"), hands.new(team="red")
    (clean / ".vers").mkdir()
    file = clean / ".vers/aliases.json"
    file.write_text(json.dumps({"mine": first, second: first, "number": 7}))
    assert hands.ok("vers_vm_use", vm_id="mine").artifact["machine_id"] == first
    assert hands.ok("vers_vm_use", vm_id=second[:18]).artifact["machine_id"] == second
    assert hands.ok("vers_vm_use", vm_id=second.replace("-", "")[:18].upper()).artifact["machine_id"] == second
    hands.refused("Gone", "vers_vm_use", vm_id="number")
    for name in ("red", "team=red"):
        text = hands.refused("BadInput", "vers_vm_use", vm_id=name)
        assert first in text
        assert second in text
        assert "give more of the id" in text
    assert hands.ok("bash", command="true").artifact["machine_id"] == second
    for broken in ("[]", "{", '{"mine": 7}'):
        file.write_text(broken)
        assert "'mine'" in hands.refused("Gone", "vers_vm_use", vm_id="mine")


def test_restore_by_every_name(hands: Hands) -> None:
    vm_id = hands.new()
    commits = []
    for number in (1, 2):
        hands.ok("vers_vm_exec", vm_id=vm_id, command=f"echo {number} >~/version")
        commits.append(str(hands.ok("vers_vm_commit", vm_id=vm_id, name=f"named-{vm_id}-{number}").artifact["commit"]))
    first, second = commits
    tag, repository = f"tag-{vm_id}", f"repo-{vm_id}"

    async def name_them() -> None:
        client = await hands.context.client()
        await client.create_tag(tag, first)
        await client.create_repository(repository)
        await client.create_repository_tag(repository, "stable", second)

    run(name_them())
    names = {first: "1", second[:20]: "2", f" {second} ": "2", tag: "1", f"{repository}:stable": "2", f"named-{vm_id}-2": "2"}
    for name, version in names.items():
        restored = hands.ok("vers_vm_restore", commit_id=name).artifact
        assert (restored["attached"], restored["machine_id"] != vm_id) == (True, True)
        answer = hands.ok("bash", command="cat ~/version")
        assert (answer.content, answer.artifact["machine_id"]) == (version, restored["machine_id"]), name
        hands.ok("vers_vm_delete", vm_id=restored["machine_id"])
    hands.ok("vers_vm_commit", vm_id=vm_id, name=f"named-{vm_id}-1")
    before = hands.vms()
    assert "2 commits" in hands.refused("BadInput", "vers_vm_restore", commit_id=f"named-{vm_id}-1")
    assert "empty" in hands.refused("BadInput", "vers_vm_restore", commit_id=" ")
    for unknown in ("no-such-tag", "no-such-repo:tag", f"{repository}:none", "00000000-0000-4000-8000-000000000000"):
        hands.refused("Gone", "vers_vm_restore", commit_id=unknown)
    assert hands.vms() == before


# --- deletion ---


def test_delete(hands: Hands) -> None:
    vm_id = hands.new()
    hands.ok("vers_vm_use", thread="a", vm_id=vm_id)
    hands.ok("vers_vm_use", thread="b", vm_id=vm_id)
    assert "another thread" in hands.refused("Conflict", "vers_vm_delete", thread="a", vm_id=vm_id)
    assert "another thread" in hands.refused("Conflict", "vers_vm_delete", vm_id=vm_id)
    hands.ok("bash", thread="b", command="true")
    hands.ok("vers_vm_local", thread="b")
    assert "vers_vm_local" in hands.ok("vers_vm_delete", thread="a", vm_id=vm_id).content
    assert vm_id not in hands.vms()
    assert "does not exist any more" in hands.refused("Gone", "bash", thread="a", command="true")
    hands.refused("Gone", "vers_vm_delete", thread="a", vm_id=vm_id)


# --- out of reach ---


@pytest.fixture
def closed_port() -> Iterator[str]:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def account(server: launcher.ServerInfo) -> dict[str, Any]:
    host, port = server.ssh_endpoint
    return {"base_url": server.base_url, "api_key": server.api_key, "ca_file": server.ca_file, "ssh_endpoint": f"{host}:{port}"}


def test_what_was_made_and_does_not_answer_is_not_left_behind(
    hands: Hands, make_toolkit: Any, vers_data: Path, closed_port: str, here: Path
) -> None:
    server = launcher.find_running(vers_data)
    assert server is not None
    source = hands.new()
    commit = hands.ok("vers_vm_commit", vm_id=source).artifact["commit"]
    before = hands.vms()
    unreachable = Hands(make_toolkit(**{**account(server), "ssh_endpoint": closed_port}, data_dir=None))
    for tool, arguments in (
        ("vers_vm_create", {}),
        ("vers_vm_restore", {"commit_id": commit}),
        ("vers_vm_branch", {"vm_id": source, "attach": True}),
    ):
        unreachable.refused("Unreachable", tool, **arguments)
        assert hands.vms() == before, tool
    assert unreachable.ok("bash", command="pwd").content == str(here)  # the thread is where it was


CANARIES: list[tuple[str, dict[str, Any]]] = [
    ("bash", {"command": "touch CANARY"}),
    ("bash", {"command": "touch CANARY", "background": True}),
    ("write", {"path": "CANARY", "content": ""}),
    ("read", {"path": "CANARY"}),
    ("grep", {"pattern": "x", "path": "CANARY"}),
]


@pytest.mark.parametrize("why", ["ssh", pytest.param("server", marks=pytest.mark.full)])
def test_out_of_reach_nothing_runs_here(why: str, make_toolkit: Any, closed_port: str, here: Path, tmp_path: Path) -> None:
    server = EmbeddedVers(tmp_path / "server", "process")
    try:
        known = account(server.info)
        vm_id = str(Hands(make_toolkit(**known, data_dir=None)).ok("vers_vm_create").artifact["machine_id"])
        hands = Hands(make_toolkit(**{**known, **({"ssh_endpoint": closed_port} if why == "ssh" else {})}, data_dir=None, vm=vm_id))
        if why == "server":
            hands.ok("bash", command="true")
            server.close()
        for tool, arguments in CANARIES:
            given = {
                name: value.replace("CANARY", f"{here}/canary") if isinstance(value, str) else value for name, value in arguments.items()
            }
            answer = hands.one(tool, thread="t", **given)
            assert answer.status == "error"
            assert (answer.artifact["error"], answer.artifact["backend"], answer.artifact["machine_id"]) == ("Unreachable", "vers", vm_id)
        assert list(here.iterdir()) == []
    finally:
        server.close()


def test_a_refused_mover_does_not_bring_a_thread_here(hands: Hands, make_toolkit: Any) -> None:
    vm_id = hands.new()
    context: BackendContext = make_toolkit(vm=vm_id).context

    async def routed() -> str | None:
        await context.refuse_move(Place("t", "m", index=1))
        return (await context.route(Place("t", "m", index=0))).attachment.machine_id

    assert run(routed()) == vm_id


# --- home ---


@pytest.fixture(params=["local", "vm"])
def at_home(request: pytest.FixtureRequest, hands: Hands, clean: Path) -> Hands:
    if request.param == "vm":
        hands.ok("vers_vm_create")
    home = hands.ok("bash", command="echo ~").content
    assert (home == str(clean)) == (request.param == "local")
    hands.ok("bash", command="mkdir -p ~/.sub 'elsewhere/~'; cd elsewhere")
    return hands


def test_tilde_is_the_home_of_the_machine(at_home: Hands) -> None:
    assert at_home.ok("write", path="~/.sub/f", content="one\n").artifact["path"] == "~/.sub/f"
    assert at_home.ok("bash", command="cat ~/.sub/f").content == "one"
    at_home.ok("edit", path="~//.sub/f", old_text="one", new_text="two")
    assert at_home.ok("read", path="~/.sub/f").content == "two\n"
    assert ".sub/" in str(at_home.ok("ls", path="~").content).split("\n")
    assert at_home.ok("ls", path="~/.sub").content == "f"
    assert at_home.ok("find", pattern="f", path="~/.sub/").content == "f"
    assert at_home.ok("grep", pattern="two", path="~").content == ".sub/f:1:two"
    assert at_home.ok("grep", pattern="two", path="~/.sub/f").content == "f:1:two"
    assert at_home.ok("ls").content == "~/"  # the thread has not moved
    assert at_home.ok("write", path="./~/g", content="").status == "success"
    assert at_home.ok("bash", command="ls './~'").content == "g"
    for tool, arguments in (("read", {}), ("write", {"content": ""}), ("ls", {}), ("find", {"pattern": "x"}), ("grep", {"pattern": "x"})):
        assert "./~root/f" in at_home.refused("BadInput", tool, path="~root/f", **arguments)
    assert "f does not exist" in at_home.refused("Missing", "read", path="~/f")


def test_the_command_that_read_proposes_works_for_a_path_at_home(at_home: Hands) -> None:
    at_home.ok("bash", command="mkdir -p ~/'a b'; head -c 100000 /dev/zero | tr '\\0' x >~/'a b/long'")
    text = str(at_home.ok("read", path="~/a b/long").content)
    found = re.search(r"sed -n .*? \| head -c \d+", text)
    assert found is not None
    assert str(at_home.ok("bash", command=found.group()).content).startswith("x")


def test_tilde_costs_no_further_round_trip(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    hands.ok("vers_vm_create")
    hands.ok("write", path="~/f", content="x")
    taken = []
    session = VersBackend._session

    async def counted(self: VersBackend) -> Any:
        taken.append(self)
        return await session(self)

    monkeypatch.setattr(VersBackend, "_session", counted)
    assert hands.ok("read", path="~/f").content == "x"
    assert len(taken) == 1


def test_copies_know_home(hands: Hands, clean: Path, make_toolkit: Any, tmp_path: Path) -> None:
    vm_id = hands.new()
    (clean / "f").write_text("x")
    answer = hands.ok("vers_vm_copy", source="~/f", destination=f"vm:{vm_id}:/tmp/{vm_id}-f")
    assert answer.artifact["source"] == str(clean / "f")
    hands.ok("vers_vm_copy", source=f"vm:{vm_id}:/tmp/{vm_id}-f", destination="~/new/")
    assert (clean / f"new/{vm_id}-f").read_text() == "x"
    hands.ok("vers_vm_exec", vm_id=vm_id, command=f"rm /tmp/{vm_id}-f")
    (tmp_path / "shared").mkdir()
    fenced = Hands(make_toolkit(local=False, shared_folder=tmp_path / "shared"))
    fenced.refused("Denied", "vers_vm_copy", source="~/f", destination=f"vm:{vm_id}:/tmp/{vm_id}-g")


# --- the table of attachments ---


def test_threads_that_are_where_they_began_take_no_memory(hands: Hands, here: Path) -> None:
    table = hands.context.whereabouts._remembered
    vm_id = hands.new()
    table.clear()
    for number in range(20):
        hands.ok("ls", thread=f"t{number}")
        hands.ok("bash", thread=f"t{number}", command="true")
    assert table == {}
    hands.ok("bash", thread="moved", command="mkdir d; cd d")
    hands.ok("vers_vm_use", thread="on", vm_id=vm_id)
    assert set(table) == {"moved", "on"}
    assert hands.ok("bash", thread="moved", command="pwd").content == str(here / "d")
    hands.ok("bash", thread="moved", command="cd ..")
    hands.ok("vers_vm_local", thread="on")
    assert table == {}
    assert hands.ok("bash", thread="moved", command="pwd").content == str(here)


def test_a_thread_that_left_the_vm_of_the_toolkit_stays_here(hands: Hands, make_toolkit: Any, here: Path) -> None:
    other = Hands(make_toolkit(vm=hands.new()))
    assert other.ok("bash", thread="t", command="true").artifact["backend"] == "vers"
    other.ok("vers_vm_local", thread="t")
    other.ok("bash", thread="t", command="true")
    assert other.ok("bash", thread="t", command="pwd").content == str(here)
    other.context.detach({"configurable": {"thread_id": "new"}})
    assert other.context.attached({"configurable": {"thread_id": "new"}}) == HERE
