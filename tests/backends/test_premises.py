"""What is taken for granted of paths: the machine looks before a call begins there, in every shell, and nothing is done if it is not so."""

from __future__ import annotations

import os
import posixpath
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from agents import Runner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command

from langchain_vers import VersToolkit
from langchain_vers._io import run
from langchain_vers.backends import guest, real_paths
from langchain_vers.backends.base import Backend
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.premises import Ground, Grounds, Premises, Spot
from langchain_vers.backends.shell import ShellBackend
from langchain_vers.errors import Misplaced
from langchain_vers.policy import Ask, Decision, Deny, Policy, Protected, Request, Rule

direct = Runner("direct", asynchronous=False)
MACHINE = ("m", "1")
SHELLS = [["bash"], ["dash"], ["busybox", "ash"]]

# --- the check itself ---


@pytest.fixture(params=SHELLS, ids=lambda words: words[-1])
def shell(request: pytest.FixtureRequest) -> list[str]:
    words: list[str] = request.param
    if shutil.which(words[0]) is None:
        assert "CI" not in os.environ, f"{words[0]} is missing"
        pytest.skip(f"{words[0]} is not installed")
    return words


def holds(shell: list[str], premises: Premises, start: Path) -> bool:
    """Whether a session in this shell would carry out a call on these premises."""
    functions = guest.preamble().decode().partition("__vers_look() {")[0]
    line = premises.around(b"pwd; printf yes", command=True).decode("utf-8", "surrogateescape")
    script = f"__n='\n'\n{functions}\n{line}\n".encode("utf-8", "surrogateescape")
    environment = {"PATH": os.environ["PATH"], "HOME": premises.home, "TMPDIR": str(start)}
    done = subprocess.run([*shell, "-c", script], capture_output=True, cwd=start, env=environment, timeout=60, check=True)
    if done.stdout:
        assert done.stdout == f"{start}\nyes".encode(), done.stderr  # it has left the session where it was
        return True
    assert done.stderr == b"xpaths\0"
    return False


def test_parts_that_are_symlinks(shell: list[str], tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").write_text("")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "a" / "out").symlink_to("/etc/hostname")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "x\ny $z").mkdir()

    def fits(*paths: str, given: str | None = None, cwd: str | None = None, home: str | None = None) -> bool:
        here = str(tmp_path)
        return holds(shell, Premises(home or here, given or here, cwd or given or here, paths), tmp_path)

    straight = [
        "a",
        "a/file",
        "a/b/new/x",
        "./a//b/",
        "a/../a/file",
        "",
        "no/such",
        "-n",
        "x\ny $z/new",
        f"{tmp_path}/a/file",
        "/",
        "//etc",
        "a/b/..",
    ]
    for path in straight:
        assert fits(path), path
    assert fits(*straight)
    for path in [
        "link",
        "link/",
        "link/file",
        "a/out",
        "dangling",
        "a/../link/file",
        f"{tmp_path}/link/x",
        f"{tmp_path}/a/../a/out",
        "./link/..",
    ]:
        assert not fits("a", path), path
    assert fits("file", given=f"{tmp_path}/link", cwd=f"{tmp_path}/a")
    assert not fits("out", given=f"{tmp_path}/link", cwd=f"{tmp_path}/a")
    assert not fits("file", given=f"{tmp_path}/link")
    assert not fits("file", given=f"{tmp_path}/none")
    assert fits("etc/hosts", given="/")
    assert holds(shell, Premises(str(tmp_path), None, str(tmp_path), ("a",)), tmp_path)
    assert not holds(shell, Premises(str(tmp_path), None, "/", ("a",)), tmp_path)


names = st.sampled_from(["a", "b", "c", "d"])
routes = st.lists(st.sampled_from(["a", "b", "c", "d", "..", ".", ""]), min_size=1, max_size=5).map("/".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    links=st.dictionaries(st.lists(names, min_size=1, max_size=3).map("/".join), st.tuples(routes, st.booleans()), max_size=4),
    paths=st.lists(routes, min_size=1, max_size=4),
)
@example(links={"b": ("a", False)}, paths=["a/../b"])
def test_what_holds_is_so(links: dict[str, tuple[str, bool]], paths: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever symlinks there are: where the check passes, every path is where it was taken to be."""
    root = Path(os.path.realpath(tmp_path_factory.mktemp("tree")))
    for name, (target, absolute) in links.items():
        place = root / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(root / target if absolute else target or ".")
        except OSError:
            continue  # another link is there, or leads nowhere
    wanted = [path if index % 2 else f"{root}/{path}" for index, path in enumerate(paths)]
    if holds(["bash"], Premises(str(root), str(root), str(root), tuple(wanted)), root):
        for path in wanted:
            whole = posixpath.join(root, path)
            assert os.path.realpath(whole) == "/" + posixpath.normpath(whole).lstrip("/")
    shutil.rmtree(root)


# --- what is remembered, and guessed from it ---


def test_a_guess_needs_to_know_the_machine() -> None:
    grounds = Grounds()
    spots = [Spot("a"), Spot("/x", home=True), Spot("/y/../z"), Spot("//z")]
    assert grounds.guess(MACHINE, "/w", spots) is None
    grounds.learn(MACHINE, "/link", [], Ground("/root", "/root", "/root/app", "/real", ()))
    ground, premises = grounds.guess(MACHINE, "/link", spots) or pytest.fail()
    assert (ground.home, ground.start, ground.cwd) == ("/root", "/root/app", "/real")
    assert ground.real == (("/real/a",), ("/root/x",), ("/z",), ("/z",))
    assert premises == Premises("/root", "/link", "/real", ("a", "/root/x", "/y/../z", "//z"))
    other = grounds.guess(MACHINE, "/w", [Spot("a")])
    assert other is not None and other[0].real == (("/w/a",),)
    for cwd, unknown in (
        (None, [Spot("a")]),
        ("w", [Spot("a")]),
        ("/w", [Spot("*.x", pattern=True)]),
        ("/w", [Spot(str(n)) for n in range(51)]),
    ):
        assert grounds.guess(MACHINE, cwd, unknown) is None
    assert grounds.guess(("m", "2"), "/w", spots) is None


def test_what_leads_elsewhere_is_looked_up_from_then_on() -> None:
    grounds = Grounds()
    spots = [Spot("a"), Spot("b"), Spot("c")]
    grounds.learn(MACHINE, "/w", spots, Ground("/root", "/root", "/root", "/w", (("/w/a",), ("/etc",), None)))
    assert grounds.guess(MACHINE, "/w", spots[:1]) is not None
    assert grounds.guess(MACHINE, "/w", spots[:2]) is None and grounds.guess(MACHINE, "/w", spots[2:]) is None
    grounds.learn(MACHINE, "/w", spots[1:2], Ground("/root", "/root", "/root", "/w", (("/w/b",),)))
    assert grounds.guess(MACHINE, "/w", spots[:2]) is not None
    grounds.learn(MACHINE, "/w", spots[:1], Ground("/other", "/other", "/root", "/w", (("/w/a",),)))
    assert grounds.guess(MACHINE, "/w", spots[2:]) is not None  # another home: all that was known is in doubt
    grounds.learn(("m", "2"), "/w", [], Ground("/real/home", "/home", "/real/home", "/w", ()))
    assert grounds.guess(("m", "2"), "/w", spots[:1]) is None


def test_memory_is_bounded() -> None:
    grounds = Grounds()
    for number in range(1000):
        grounds.learn(("m", str(number)), "/w", [], Ground("/root", "/root", "/root", "/w", ()))
    assert grounds.guess(("m", "0"), "/w", [Spot("a")]) is None and grounds.guess(("m", "999"), "/w", [Spot("a")]) is not None
    for number in range(5000):
        grounds.learn(MACHINE, f"/w{number}", [Spot("a")], Ground("/root", "/root", "/root", "/w", (("/etc",),)))
    assert grounds.guess(MACHINE, "/w0", [Spot("a")]) is not None and grounds.guess(MACHINE, "/w4999", [Spot("a")]) is None


# --- on machines ---


@pytest.fixture(params=["ssh", "http"])
def vm(request: pytest.FixtureRequest, make_toolkit: Any) -> Any:
    """Makes a toolkit with a policy whose thread is on a VM, without the first look at it."""

    def make(policy: Policy) -> VersToolkit:
        toolkit: VersToolkit = make_toolkit(policy=policy, transport=request.param)
        assert one(toolkit, "vers_vm_create").status == "success"
        return toolkit

    return make


def prepare(toolkit: VersToolkit, command: str) -> None:
    """Run a command on the thread's machine behind the policy's back."""

    async def work() -> None:
        backend = await toolkit.context.backend_of(await toolkit.context.attachment(None))
        assert (await backend.exec(command)).exit_code == 0

    run(work())


def one(toolkit: VersToolkit, tool: str, /, **arguments: Any) -> Any:
    return direct(toolkit.get_tools(), (tool, arguments))[0]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The paths of every look at a machine."""
    found: list[list[str]] = []
    real = real_paths.look_up

    async def look_up(backend: Backend, cwd: str | None, spots: Any) -> Ground:
        found.append([spot.text for spot in spots])
        return await real(backend, cwd, spots)

    monkeypatch.setattr(real_paths, "look_up", look_up)
    return found


WORK = [
    ("write", {"path": "src/a.txt", "content": "one"}),
    ("read", {"path": "src/a.txt"}),
    ("edit", {"path": "src/a.txt", "old_text": "one", "new_text": "two"}),
    ("ls", {}),
    ("ls", {"path": "src"}),
    ("find", {"pattern": "*.txt"}),
    ("grep", {"pattern": "two", "path": "src"}),
    ("bash", {"command": "cat src/a.txt >src/b.txt && rm src/b.txt"}),
    ("bash", {"command": "cd src; cat a.txt"}),
    ("read", {"path": "a.txt"}),
    ("bash", {"command": "touch ~/new; cat \"$HOME/new\"; rm -- '-x' 2>/dev/null; cd ..", "background": True}),
]


def test_one_look_at_a_machine_is_enough(vm: Any, looks: list[list[str]]) -> None:
    toolkit = vm(Policy.careful())
    for tool, arguments in WORK:
        answer = one(toolkit, tool, **arguments)
        assert answer.status == "success", (tool, answer.content)
    assert "two" in one(toolkit, "grep", pattern="two").content
    assert looks == [["src/a.txt"]]


def test_a_symlink_is_found_and_judged(vm: Any, looks: list[list[str]]) -> None:
    toolkit = vm(Policy(Protected([".env"]), Rule(Deny("not there"), paths=["/etc"])))
    prepare(toolkit, "echo KEY >.env; mkdir real; echo x >real/x; ln -s .env innocent; ln -s real link; ln -s /etc/hostname out")
    assert one(toolkit, "read", path="real/x").status == "success"
    looks.clear()
    for tool, arguments in (
        ("read", {"path": "innocent"}),
        ("write", {"path": "innocent", "content": "x"}),
        ("edit", {"path": "./innocent", "old_text": "KEY", "new_text": "x"}),
        ("bash", {"command": "cat innocent"}),
        ("grep", {"path": "innocent", "pattern": "K"}),
        ("ls", {"path": "out"}),
        ("bash", {"command": "cat out", "background": True}),
    ):
        answer = one(toolkit, tool, **arguments)
        assert answer.artifact["error"] == "Denied" and "KEY" not in answer.content, (tool, answer.content)
    assert one(toolkit, "read", path="link/x").content == "x\n"
    assert one(toolkit, "read", path=".env").artifact["error"] == "Denied"
    seen = len(looks)
    assert one(toolkit, "read", path="link/x").content == "x\n"
    assert looks[seen:] == [["link/x"]]  # not tried without, once more


def test_what_is_moved_behind_a_decision(vm: Any) -> None:
    """Between the decision and the call a link is made where a file was: nothing is read, written or run."""
    toolkit = vm(Policy.open())
    one(toolkit, "bash", command="mkdir w; echo good >w/a")

    async def work() -> None:
        backend = await toolkit.context.backend_of(await toolkit.context.attachment(None))
        assert isinstance(backend, ShellBackend)
        ground = await real_paths.look_up(backend, "w", [])
        grounds = Grounds()
        grounds.learn(MACHINE, ground.cwd, [], ground)
        _, premises = grounds.guess(MACHINE, ground.cwd, [Spot("a")]) or pytest.fail()
        other = ground.cwd
        assert (await backend.expecting(premises).read("a", cwd=other)).data == b"good\n"
        await backend.exec("ln -s /etc/hostname b; mv b a", cwd=other)
        view = backend.expecting(premises)
        for call in (
            view.read("a", cwd=other),
            view.write("a", b"bad", cwd=other),
            view.stat("a", cwd=other),
            view.scan(".", cwd=other),
            view.exec("echo bad >ran", cwd=other),
            view.exec("cat >ran", stdin=b"bad", cwd=other),
        ):
            with pytest.raises(Misplaced, match="nothing was done"):
                await call
        assert (await backend.exec("ls -A . /tmp | grep -c -e ran -e stdin", cwd=other)).tail == b"0\n"
        await backend.exec("rm a; echo good >a", cwd=other)
        # A call that has begun is not refused for what it has done itself.
        assert (await view.exec("ln -sf /etc/hostname a", cwd=other)).exit_code == 0
        await view.write("b", b"more", cwd=other)
        assert (await view.exec("ls", cwd=other)).tail == b"a\nb\n"

    run(work())


def test_a_directory_that_is_gone(vm: Any) -> None:
    toolkit = vm(Policy.careful())
    one(toolkit, "bash", command="mkdir w; cd w")
    one(toolkit, "write", path="a", content="x")
    prepare(toolkit, "rm -r ~/w")
    answer = one(toolkit, "read", path="a")
    assert answer.artifact["error"] == "Missing" and "the working directory" in answer.content, answer.content
    assert one(toolkit, "write", path="a", content="x").status == "success"


def ask_before_writing(request: Request) -> Decision | None:
    if any(access.path.startswith("/etc") for access in request.accesses):
        return Deny("that is the system's")
    return Ask("write?") if request.tool == "write" else None


def test_what_was_approved_and_moved_since_is_not_done(vm: Any) -> None:
    toolkit = vm(Policy(ask_before_writing))
    prepare(toolkit, "mkdir w")
    graph = (
        StateGraph(MessagesState)
        .add_node("tools", ToolNode(toolkit.get_tools()))
        .set_entry_point("tools")
        .compile(checkpointer=InMemorySaver())
    )
    vm_id = toolkit.context.attached().machine_id
    for number, swap in enumerate(["rmdir w; ln -s /etc w", ""]):
        config: Any = {"configurable": {"thread_id": str(number)}}
        toolkit.context.attach(vm_id or "", config)
        call = {"type": "tool_call", "id": "1", "name": "write", "args": {"path": "w/new-file", "content": "x"}}
        state = graph.invoke({"messages": [{"role": "assistant", "content": "", "tool_calls": [call]}]}, config)
        assert state["__interrupt__"][0].value["question"] == "write?"
        if swap:
            prepare(toolkit, swap)
        answer = graph.invoke(Command(resume=True), config)["messages"][-1]
        if swap:
            assert answer.artifact["error"] == "Denied" and "the system's" in answer.content, answer.content
            prepare(toolkit, "rm w; mkdir w")
        else:
            assert answer.status == "success", answer.content
    assert not Path("/etc/new-file").exists()


def test_a_local_backend_looks_for_itself() -> None:
    assert not LocalBackend.checks_premises
