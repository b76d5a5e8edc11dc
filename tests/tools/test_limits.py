"""What the model gets to see of much, and that the rest is in reach."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from agents import Runner
from langchain_core.messages import ToolMessage

from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.shell import ShellBackend
from langchain_vers.backends.vers import VersBackend

direct = Runner("direct", asynchronous=False)
LIMIT = 50 * 1024


class Hands:
    def __init__(self, toolkit: Any) -> None:
        self.context = toolkit.context
        self.tools = toolkit.get_tools()

    def one(self, name: str, /, **arguments: Any) -> ToolMessage:
        return direct(self.tools, (name, arguments))[0]


@pytest.fixture(params=["local", "vm"])
def hands(request: pytest.FixtureRequest, make_toolkit: Any) -> Hands:
    made = Hands(make_toolkit())
    if request.param == "vm":
        assert made.one("vers_vm_create").status == "success"
    return made


def test_the_notice_of_a_long_output_leads_to_all_of_it(hands: Hands) -> None:
    answer = hands.one("bash", command="seq 1 5000")
    assert answer.content.splitlines()[1999] == "5000"
    assert "Showing lines 3001-5000 of 5000" in answer.content
    assert answer.artifact["truncated"] is True
    log = answer.artifact["log_path"]
    assert log in answer.content
    assert hands.one("read", path=log, offset=3000, limit=1).content.splitlines()[0] == "3000"
    hands.one("bash", command=f"rm {log}")


def test_time_out_keeps_what_was_printed(hands: Hands) -> None:
    answer = hands.one("bash", command="echo before; sleep 100", timeout=1)
    assert answer.status == "error"
    assert answer.content.startswith("before")
    assert "timed out after 1 s" in answer.content
    assert (answer.artifact["timed_out"], answer.artifact["exit_code"]) == (True, None)


def test_read(hands: Hands) -> None:
    hands.one("bash", command="seq 1 3000 >f; head -c 100000 /dev/zero | tr '\\0' x >long; head -c 100 /dev/zero >zeros")
    first = hands.one("read", path="f")
    assert "Use offset=2001 to continue" in first.content
    assert hands.one("read", path="f", offset=2001).content.splitlines()[0] == "2001"
    assert "3000 lines" in hands.one("read", path="f", offset=3001).content
    assert "sed -n" in hands.one("read", path="long").content
    assert "not text" in hands.one("read", path="zeros").content


def test_lists_are_bounded(hands: Hands) -> None:
    hands.one("bash", command="mkdir many; cd many; seq -f 'a-rather-long-name-of-a-file-number-%g' 1 2000 | xargs touch; cd ..")
    assert "Showing the first 500 entries" in hands.one("ls", path="many").content
    assert "Showing the first 1000 results" in hands.one("find", pattern="*", path="many").content
    for name, arguments in (("ls", {"path": "many"}), ("find", {"path": "many", "pattern": "*"})):
        answer = hands.one(name, limit=100_000, **arguments)
        assert len(answer.content) < LIMIT + 500
        assert answer.artifact["truncated"] is True
    hands.one("bash", command="seq -f '%060g needle' 1 3000 >many/hay")
    answer = hands.one("grep", pattern="needle", path="many", limit=100_000)
    assert len(answer.content) < LIMIT + 500
    assert answer.artifact["truncated"] is True


@pytest.mark.parametrize("rg", [True, False])
def test_grep_with_and_without_ripgrep(rg: bool, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    if not rg:
        execute = ShellBackend.exec

        async def without(self: Any, command: str, **options: Any) -> Any:
            hidden = "command() { case $* in '-v rg') return 1 ;; *) builtin command \"$@\" ;; esac; }"
            return await execute(self, f"{hidden}\n{command}", **options)

        monkeypatch.setattr(ShellBackend, "exec", without)
    hands.one(
        "bash",
        command="mkdir -p d/sub; echo skipped >d/.gitignore; echo needle >d/skipped; "
        "printf 'a\\nneedle 1\\n' >d/sub/x.py; echo Needle >d/y",
    )
    assert hands.one("grep", pattern=r"needle \d", path="d").content == "sub/x.py:2:needle 1"
    assert hands.one("grep", pattern="needle", path="d", ignore_case=True).content == "sub/x.py:2:needle 1\ny:1:Needle"
    assert hands.one("grep", pattern="e", path="d/y").content == "y:1:Needle"
    assert hands.one("grep", pattern="nothing", path="d").content == "No matches."
    assert hands.one("grep", pattern="needle", path="d", glob="*.js").content == "No matches."


@pytest.mark.parametrize("mebibytes", [4, pytest.param(64, marks=pytest.mark.full)])
def test_write_takes_any_size(mebibytes: int, hands: Hands) -> None:
    content = "0123456789abcde\n" * (mebibytes * 65536)
    assert hands.one("write", path="deep/er/f", content=content).status == "success"
    assert hands.one("bash", command="sha256sum <deep/er/f").content.split()[0] == hashlib.sha256(content.encode()).hexdigest()


def test_a_change_in_between_is_not_lost(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    hands.one("write", path="f", content="one\n")
    ran = hands.one("bash", command="pwd")
    path = Path(str(ran.content)) / "f"
    kind: Any = LocalBackend if ran.artifact["backend"] == "local" else VersBackend
    original = kind.read

    async def read(*args: Any, **options: Any) -> Any:
        found = await original(*args, **options)
        path.write_text("other\n")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(kind, "read", read)
        assert hands.one("edit", path="f", old_text="one", new_text="two").artifact["error"] == "Conflict"
    assert path.read_text() == "other\n"


def test_a_working_directory_that_is_gone_does_not_strand_the_thread(hands: Hands) -> None:
    home = hands.one("bash", command="pwd").content
    hands.one("bash", command="mkdir gone; cd gone; rmdir ../gone")
    answer = hands.one("bash", command="echo never")
    assert answer.status == "error"
    assert "does not exist any more" in answer.content
    assert hands.one("bash", command="pwd").content == home
