"""Decisions on paths where they really are: the workspace, protected files, symlinks, patterns; on this machine and on a VM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agents import Runner
from langchain_core.messages import ToolMessage

from langchain_vers._io import io, run
from langchain_vers.backends import real_paths
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.paths import Mount
from langchain_vers.backends.premises import Spot
from langchain_vers.policy import Access, Allow, Ask, Decision, Deny, Machine, Policy, Protected, Request, Rule, matches
from langchain_vers.toolkit import VersToolkit

direct = Runner("direct", asynchronous=False)


class Elsewhere(LocalBackend):
    """This machine, asked as another one is: by a command."""


@pytest.fixture
def place(tmp_path: Path, clean: Path) -> Path:
    """A workspace with everything that makes paths difficult; beside it a secret."""
    here = tmp_path / "work"
    (here / "src" / "deep").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("out")
    (here / ".env").write_text("KEY=1")
    (here / ".git").mkdir()
    (here / ".git" / "config").write_text("[core]")
    (here / "src" / "a.txt").write_text("a")
    (here / "innocent").symlink_to(".env")
    (here / "src" / "up").symlink_to("../.env")
    (here / "way-out").symlink_to("../outside")
    (here / "hooks").symlink_to(".git")
    (here / "odd 'name\" $x").write_text("odd")
    (clean / ".ssh").mkdir()
    (clean / ".ssh" / "config").write_text("key")
    return here


@pytest.fixture(params=["here", "vm"])
def bench(request: pytest.FixtureRequest, place: Path) -> Any:
    """Tools whose commands run in the workspace: on this machine, or on a VM (which is this machine, too, reached by SSH)."""
    if request.param == "here":
        toolkit = VersToolkit(local=str(place), policy=Policy.careful(temporary=["/tmp/.policy-test"]))
        yield toolkit.get_tools()
        toolkit.close()
        return
    make = request.getfixturevalue("make_toolkit")
    tools = make(policy=Policy.careful(workspace=[str(place)], temporary=["/tmp/.policy-test"])).get_tools()
    one(tools, "vers_vm_create")
    assert one(tools, "bash", command=f"cd {place}").status == "success"
    yield tools


def one(tools: Any, tool: str, /, **arguments: Any) -> ToolMessage:
    return direct(tools, (tool, arguments))[0]


def outcome(answer: ToolMessage) -> str:
    """ "asked" is a denial for want of somebody to ask."""
    if answer.artifact.get("error") != "Denied":
        return "done"
    return "asked" if "A person has to agree" in answer.content else "denied" if "policy" in answer.content else f"other: {answer.content}"


READS = [
    ("read", {"path": ".env"}), ("read", {"path": "innocent"}), ("read", {"path": "src/up"}), ("read", {"path": "./src/../.env"}),
    ("read", {"path": "src/deep/../../innocent"}), ("read", {"path": "~/.ssh/config"}), ("read", {"path": "/etc/shadow"}), ("ls",
    {"path": "~/.ssh"}),
    ("grep", {"pattern": "K", "path": "innocent"}), ("write", {"path": ".env", "content": "x"}), ("write", {"path": "src/up",
    "content": "x"}),
    ("edit", {"path": "innocent", "old_text": "KEY", "new_text": "k"}), ("find", {"pattern": "*", "path": "~/.ssh"}),
    ("bash", {"command": "cat .env"}), ("bash", {"command": "cat innocent"}), ("bash", {"command": "cat src/up | wc"}), ("bash",
    {"command": "cd src; cat up"}),
    ("bash", {"command": "cat .e*"}), ("bash", {"command": "cat inno*"}), ("bash", {"command": "cat *"}), ("bash",
    {"command": "cat s*/u?"}),
    ("bash", {"command": "wc <innocent"}), ("bash", {"command": "echo $(<inno'cent')"}), ("bash",
    {"command": "bash -c 'cat \"innocent\"'"}),
    ("bash", {"command": "cat \"$x\""}), ("bash", {"command": "for f in a; do cat $f; done"}), ("bash", {"command": "cp innocent src/b"}),
    ("bash", {"command": "ln -s .env src/c"}), ("bash", {"command": "cat ~/.ssh/config"}), ("bash", {"command": "cat $HOME/.ssh/config"}),
    ("bash", {"command": "mytool innocent"}), ("bash", {"command": "mytool --file=innocent"}), ("bash",
    {"command": "tar cf x.tar innocent"}),
    ("bash", {"command": "cat .env", "background": True}), ("bash", {"command": "find . -exec cat {} +"}), ("bash",
    {"command": "xargs cat <src/a.txt"}),
    ("bash", {"command": "git diff --no-index src/a.txt innocent"}),
]  # fmt: skip
WRITES = [
    ("write", {"path": ".git/config", "content": "x"}), ("write", {"path": "hooks/pre-commit", "content": "x"}), ("write",
    {"path": "../x", "content": ""}),
    ("write", {"path": "way-out/x", "content": "x"}), ("edit", {"path": "way-out/file", "old_text": "out", "new_text": "x"}),
    ("write", {"path": "~/.bashrc", "content": "x"}), ("bash", {"command": "echo x >way-out/x"}), ("bash",
    {"command": "echo x >>hooks/pre-commit"}),
    ("bash", {"command": "touch ../x"}), ("bash", {"command": "cd ..; touch x"}), ("bash", {"command": "cd way-out && touch x"}),
    ("bash", {"command": "cp src/a.txt way-out"}), ("bash", {"command": "mv src/a.txt way-*"}), ("bash", {"command": "rm way-out/file"}),
    ("bash", {"command": "rm -r .git"}), ("bash", {"command": "sed -i s/a/b/ way-out/file"}), ("bash",
    {"command": "tee way-out/x </dev/null"}),
    ("bash", {"command": "touch \"$x/y\""}), ("bash", {"command": "rm -rf $x/*"}), ("bash", {"command": "rm -rf \"$PWD\""}), ("bash",
    {"command": "rm -rf ."}),
    ("bash", {"command": "dd if=/dev/null of=way-out/file"}), ("bash", {"command": "tar -C way-out -xf src/a.txt"}), ("bash",
    {"command": "ln -s x way-out/y"}),
    ("bash", {"command": "sort -o way-out/file src/a.txt"}), ("bash", {"command": "chmod 777 way-out/file"}), ("bash",
    {"command": "mkdir -p src/../../x"}),
]  # fmt: skip
RUINS = ["rm -rf /", "rm -rf /*", "rm -fr -- /", "cd /; rm -rf *", "rm -rf ~", "rm -rf ~/", 'rm -rf "$HOME"', "rm -rf /etc",
"rm -rf /usr/../etc", "chmod -R 777 /",
         "chown -R x:x /", "find / -delete", "sh -c 'rm -rf /'", "rm -rf --no-preserve-root /", "rm -rf root-link/",
         "mv /usr src/"]  # fmt: skip
FREE = [
    ("read", {"path": "src/a.txt"}), ("ls", {}), ("ls", {"path": "src"}), ("find", {"pattern": "*.txt"}), ("grep", {"pattern": "a",
    "path": "src"}),
    ("read", {"path": ".git/config"}), ("write", {"path": "new/x.txt", "content": "x"}), ("edit", {"path": "src/a.txt", "old_text": "a",
    "new_text": "b"}),
    ("bash", {"command": "cat src/a.txt /etc/hostname >/dev/null 2>&1"}), ("bash", {"command": "touch src/new; rm src/new"}), ("bash",
    {"command": "cat src/*.txt"}),
    ("bash", {"command": "cd src && touch b && mv b c && rm -rf ./c deep"}), ("bash",
    {"command": "echo x >/tmp/.policy-test; rm /tmp/.policy-test"}),
    ("bash", {"command": "mkdir -p a/b/c; rmdir a/b/c"}), ("bash", {"command": "cat odd*"}), ("bash", {"command": "ls -la .. | head -1"}),
    ("bash", {"command": "cat way-out/file"}), ("write", {"path": ".env.example", "content": "KEY="}), ("bash",
    {"command": "ls nothing* || true"}),
]  # fmt: skip


def test_what_is_protected_or_outside_is_asked_about(bench: Any, place: Path) -> None:
    (place / "root-link").symlink_to("/")
    before = sorted(str(path) for path in place.parent.rglob("*") if "/vers" not in str(path))
    for tool, arguments in READS + WRITES:
        assert outcome(one(bench, tool, **arguments)) == "asked", (tool, arguments)
    for command in RUINS:
        answer = one(bench, "bash", command=command)
        assert outcome(answer) == "denied", (command, answer.content)
    assert sorted(str(path) for path in place.parent.rglob("*") if "/vers" not in str(path)) == before
    for tool, arguments in FREE:
        answer = one(bench, tool, **arguments)
        assert outcome(answer) == "done", (tool, arguments, answer.content)


def test_a_policy_that_only_reads(place: Path) -> None:
    toolkit = VersToolkit(local=str(place), policy=Policy.read_only())
    tools = toolkit.get_tools()
    for tool, arguments in (*READS, *WRITES, *(("bash", {"command": command}) for command in RUINS)):
        assert outcome(one(tools, tool, **arguments)) == "denied", (tool, arguments)
    for tool, arguments in (
        ("read", {"path": "src/a.txt"}),
        ("ls", {}),
        ("bash", {"command": "cat src/a.txt | wc -l"}),
        ("bash", {"command": "git status"}),
    ):
        assert outcome(one(tools, tool, **arguments)) == "done", (tool, arguments)
    for tool in ("vers_vm_create", "vers_vm_branch", "vers_vm_commit"):
        assert outcome(one(tools, tool)) == "denied"
    toolkit.close()


def test_rules_of_ones_own_come_first(place: Path) -> None:
    def night(request: Request) -> Decision | None:
        return Deny("it is night") if request.tool == "write" else None

    policy = Policy.careful().after(
        Rule(Allow(), tools=["bash"], commands=["sudo -n true"]), Rule(Deny("not in docs"), paths=["docs"], access="write"), night
    )
    toolkit = VersToolkit(local=str(place), policy=policy)
    tools = toolkit.get_tools()
    assert outcome(one(tools, "bash", command="sudo -n true; sudo -n true")) == "asked"  # what sudo runs is allowed by no rule
    assert "not in docs" in one(tools, "bash", command="mkdir docs").content
    assert outcome(one(tools, "ls", path="docs")) == "done"
    assert "it is night" in one(tools, "write", path="x", content="").content
    assert outcome(one(tools, "bash", command="curl x")) == "asked"
    toolkit.close()


def test_a_path_that_is_translated_is_judged_as_the_machine_sees_it(make_toolkit: Any, tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "notes").write_text("secret")
    (folder / "open").write_text("fine")
    inside = str(tmp_path / "inside")
    toolkit = make_toolkit(policy=Policy(Rule(Deny("not these"), paths=[f"{inside}/notes"])), mounts=[Mount(str(folder), inside, "copy")])
    tools = toolkit.get_tools()
    one(tools, "vers_vm_create")
    for path in (f"{folder}/notes", f"{inside}/notes"):
        for tool, arguments in (("read", {"path": path}), ("grep", {"path": path, "pattern": "s"})):
            assert "not these" in one(tools, tool, **arguments).content
    assert one(tools, "read", path=f"{folder}/open").content == "fine"
    assert "not these" in one(tools, "bash", command=f"cat {inside}/notes").content
    assert "secret" in one(tools, "bash", command=f"cat {folder}/notes").content  # in a command it is the machine's own file of that name


def test_a_vm_by_its_name_is_judged_where_its_commands_start(make_toolkit: Any) -> None:
    """Also if it is the thread's own, which is in another directory: there the name is the same and the file another."""
    toolkit = make_toolkit(policy=Policy(Rule(Deny("not this"), paths=["~/keep"])))
    tools = toolkit.get_tools()
    vm_id = one(tools, "vers_vm_create").artifact["machine_id"]
    assert one(tools, "bash", command="mkdir d; cd d").status == "success"
    assert one(tools, "bash", command="cat keep || true").status == "success"
    assert "not this" in one(tools, "vers_vm_exec", vm_id=vm_id, command="cat keep").content


def test_what_searches_find_in_protected_files_is_left_out(place: Path) -> None:
    (place / "src" / "b.txt").write_text("KEY here")
    toolkit = VersToolkit(local=str(place), policy=Policy.careful())
    answer = one(toolkit.get_tools(), "grep", pattern="KEY")
    assert "src/b.txt" in answer.content and "KEY=1" not in answer.content
    toolkit.close()


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("/w/.env", ".env", True), ("/w/.env/x", ".env", True), ("/w/.envx", ".env", False), ("/w/a.pem", "*.pem", True), ("/h/.ssh/x",
        "~/.ssh", True),
        ("/h/.sshx", "~/.ssh", False), ("/etc/shadow", "/etc/shadow", True), ("/proc/1/environ", "/proc/*/environ", True), ("/", "/",
        True), ("/x", "/", False),
        ("/w/.git/config", ".git/", True), ("/w/sub/.git", ".git", True), ("/h", "~", True), ("/h/x", "~/", True), ("/x/h", "~", False),
    ],
)  # fmt: skip
def test_patterns(path: str, pattern: str, fits: bool) -> None:
    assert matches(Access(path, "read", machine=Machine("local", home="/h")), [pattern]) is fits


def test_both_ways_to_look_paths_up_agree(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "n\n").write_text("")
    spots = [
        Spot(text)
        for text in (
            "innocent",
            "src/up",
            "way-out/new/x",
            ".",
            "..",
            "/",
            "src/../hooks/x",
            "n\n",
            "src/",
            "-x",
            "odd 'name\" $x",
            "no/such/x",
        )
    ]
    spots += [
        Spot("s*/u?", pattern=True),
        Spot("*.none", pattern=True),
        Spot("[is]*", pattern=True),
        Spot("/x", home=True),
        Spot("", home=True),
    ]
    here = LocalBackend(place)
    known = run(real_paths.look_up(here, None, spots))
    monkeypatch.setattr(real_paths, "LocalBackend", type("Other", (), {}))
    asked = run(real_paths.look_up(here, None, spots))
    assert [set(each or ()) for each in asked.real] == [set(each or ()) for each in known.real]
    assert (asked.home, asked.start, asked.cwd) == (known.home, known.start, known.cwd)
    (place / "loop").symlink_to("loop")
    assert run(real_paths.look_up(here, None, [Spot("loop"), Spot("nowhere/../x")])).real == (None, None)


def test_a_rule_about_unknown_paths_is_on_the_safe_side() -> None:
    unknown = Access("", "any", known=False)
    assert isinstance(Protected([".env"])(Request("bash", accesses=(unknown,))), Ask)
    assert isinstance(Protected([".env"], strict=True)(Request("bash", accesses=(unknown,))), Deny)
    assert Rule(Allow(), paths=["/w"])(Request("read", accesses=(unknown,))) is None
    assert Rule(Allow(), paths=["/w"])(Request("read")) is None
    assert io.loop is not None
