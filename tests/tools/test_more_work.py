"""Jobs with whole trees of processes, copies to full disks, and every tool on isolated VMs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from agents import Runner
from langchain_core.messages import ToolMessage
from rigs.embedded import SmallDiskVers

from langchain_vers.tools import transfer

direct = Runner("direct", asynchronous=False)


class Hands:
    def __init__(self, toolkit: Any) -> None:
        self.tools = toolkit.get_tools()

    def one(self, tool: str, /, **arguments: Any) -> ToolMessage:
        return direct(self.tools, (tool, arguments))[0]

    def ok(self, tool: str, /, **arguments: Any) -> ToolMessage:
        answer = self.one(tool, **arguments)
        assert answer.status == "success", answer.content
        return answer

    def sh(self, command: str) -> str:
        return str(self.ok("bash", command=command).content)


TREE = """
sleep 1001 & echo $! >>pids
setsid sh -c 'echo $$ >>pids; setsid sleep 1002 & echo $! >>pids; wait' &
(trap '' TERM HUP INT; (sleep 1003 & echo $! >>pids; wait) & wait) &
until [ "$(wc -l <pids)" = 4 ]; do sleep 0.02; done
echo planted
wait
"""


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(params=["local", "vm"])
def jobs(request: pytest.FixtureRequest, make_toolkit: Any) -> Iterator[tuple[Hands, str, str]]:
    """Tools, a job with a tree of processes, and another one; both are ended afterwards, whatever the test did."""
    hands = Hands(make_toolkit())
    if request.param == "vm":
        hands.ok("vers_vm_create")
    started = [str(hands.ok("bash", command=command, background=True).artifact["job_id"]) for command in (TREE, "exec sleep 1004")]
    yield hands, started[0], started[1]
    for job in started:
        hands.ok("bash_kill", job_id=job)


def test_killing_a_job_kills_its_whole_tree(jobs: tuple[Hands, str, str]) -> None:
    hands, job, other = jobs
    deadline = time.monotonic() + 20
    while "planted" not in str((report := hands.ok("bash_output", job_id=job)).content):
        assert time.monotonic() < deadline, report.content
    pids = [int(pid) for pid in hands.sh("cat pids").split()]
    assert len(pids) == 4
    assert all(map(lives, pids))
    assert hands.ok("bash_kill", job_id=job).artifact["killed"] is True
    deadline = time.monotonic() + 10
    while any(map(lives, pids)):  # killed; their parents have yet to take note
        assert time.monotonic() < deadline
    report = hands.ok("bash_output", job_id=job)
    assert (report.artifact["running"], report.artifact["exit_code"]) == (False, 137)
    assert "Command exited with code 137 (SIGKILL)" in report.content
    assert hands.ok("bash_kill", job_id=job).artifact["killed"] is False
    assert hands.ok("bash_output", job_id=other).artifact["running"] is True
    assert hands.ok("bash_kill", job_id=other).artifact["killed"] is True


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDiskVers]:
    (tmp_path / "rig").mkdir()
    server = SmallDiskVers(tmp_path / "rig")
    yield server
    server.close()


def test_a_copy_to_a_full_disk_leaves_the_old_file_whole(
    make_toolkit: Any, small: SmallDiskVers, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands(make_toolkit(data_dir=small.data_dir))
    vm_id = hands.ok("vers_vm_create").artifact["machine_id"]
    place = small.small
    hands.sh(f"echo old >{place}/f; mkdir {place}/d; echo old >{place}/d/f")
    (here / "d").mkdir()
    (here / "d/f").write_bytes(os.urandom(2 << 20))
    for pieces in (transfer.PIECE_BYTES, 100 * 1024):
        monkeypatch.setattr(transfer, "PIECE_BYTES", pieces)
        for source, destination in (("d/f", "f"), ("d/f", "new"), ("d", "d"), ("d", "new")):
            answer = hands.one("vers_vm_copy", source=source, destination=f"vm:{vm_id}:{place}/{destination}", recursive=True)
            assert (answer.status, answer.artifact["error"]) == ("error", "DiskFull"), answer.content
            assert hands.sh(f"cd {place}; find . -type f | sort; cat f d/f") == "./d/f\n./f\nold\nold", (source, destination)


def test_every_tool_on_isolated_vms(make_isolated_toolkit: Any, here: Path) -> None:
    hands = Hands(make_isolated_toolkit())
    used = set()

    def ok(tool: str, /, **arguments: Any) -> ToolMessage:
        used.add(tool)
        return hands.ok(tool, **arguments)

    first = ok("vers_vm_create", labels={"role": "first"}).artifact["machine_id"]
    where = ok("bash", command="mkdir -p ~/w && cd ~/w && pwd").content
    ok("write", path="src/a.py", content="needle = 1\n")
    ok("edit", path="src/a.py", old_text="needle = 1", new_text="needle = 2")
    assert ok("read", path=f"{where}/src/a.py").content == "needle = 2\n"
    assert ok("ls").content == "src/"
    assert ok("find", pattern="*.py").content == "src/a.py"
    assert ok("grep", pattern=r"needle = \d").content == "src/a.py:1:needle = 2"
    assert list(here.iterdir()) == []
    job = ok("bash", command="echo begun; exec sleep 1000", background=True).artifact["job_id"]
    deadline = time.monotonic() + 20
    while "begun" not in str(ok("bash_output", job_id=job).content):
        assert time.monotonic() < deadline
    assert ok("bash_kill", job_id=job).artifact["killed"] is True

    commit = ok("vers_vm_commit").artifact["commit"]
    ok("write", path="src/a.py", content="later\n")
    (branch,) = ok("vers_vm_branch", count=1).artifact["branches"]
    assert ok("vers_vm_exec", vm_id=branch, command="cat ~/w/src/a.py").content == "later"
    ok("vers_vm_exec", vm_id=branch, command="echo branch >~/w/src/a.py")
    assert ok("read", path="src/a.py").content == "later\n"
    restored = ok("vers_vm_restore", commit_id=commit).artifact["machine_id"]
    assert ok("read", path="~/w/src/a.py").content == "needle = 2\n"

    (here / "sent").mkdir()
    (here / "sent/f").write_text("x" * 1000)
    ok("vers_vm_copy", source="sent", destination=f"vm:{restored}:/root/sent", recursive=True)
    assert ok("bash", command="cd ~ && wc -c <sent/f").content == "1000"
    ok("vers_vm_copy", source=f"vm:{branch}:{where}/src/a.py", destination=f"vm:{restored}:/root/sent/")
    ok("vers_vm_copy", source=f"vm:{restored}:/root/sent", destination="back", recursive=True)
    assert {path.name: path.read_text() for path in (here / "back").iterdir()} == {"f": "x" * 1000, "a.py": "branch\n"}
    old = ok("bash", command="cat /proc/sys/kernel/ostype").content
    for recursive in (False, True):
        denied = hands.one("vers_vm_copy", source="sent/f", destination=f"vm:{restored}:/proc/sys/kernel/ostype", recursive=recursive)
        assert denied.status == "error"
        assert ok("bash", command="cat /proc/sys/kernel/ostype").content == old

    ok("vers_vm_state", state="paused", vm_id=branch)
    assert "vers_vm_state" in hands.one("vers_vm_exec", vm_id=branch, command="true").content
    assert ok("vers_vm_use", vm_id=branch).artifact["resumed"] is True
    assert ok("read", path="~/w/src/a.py").content == "branch\n"
    ok("vers_vm_local")
    for vm_id in (first, branch, restored):
        ok("vers_vm_delete", vm_id=vm_id)
    assert not {first, branch, restored} & set(ok("vers_vms").artifact["vms"])
    assert used == {tool.name for tool in hands.tools}
