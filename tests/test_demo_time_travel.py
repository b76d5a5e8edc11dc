"""The demo's second act, run for real: the process that dies, the ones that should not, and that nothing of it is left."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from rigs.stage import Stage

from langchain_vers.demo import bookkeeping


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_crash_and_time_travel(stage: Stage) -> None:
    # A configured platform leads nowhere. Where only ASCII can be shown, the pictures are made of it.
    configured = {"VERS_API_KEY": "not-to-be-used", "VERS_BASE_URL": "http://127.0.0.1:9/", "VERS_SSH_ENDPOINT": "127.0.0.1:9"}
    done = stage.run("--act", "2", environment={**configured, "PYTHONIOENCODING": "ascii", "PYTHONWARNINGS": "error"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.isascii()
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "A machine of its own" not in done.stdout
    text = " ".join(done.stdout.split())
    for fact in (
        "the process is gone, and the machine is left half way",
        "restored as it was before",
        "what was run one and a half times took effect exactly once",
        "ok left 40",
        "ok left 55",
        "each machine is as its own conversation says",
        "All steps checked out; what was made is gone again.",
    ):
        assert fact in text
    # What was half done is there once more before it is done wholly, on another machine.
    half, whole = re.findall(r"[|] balance 100\n  [|] rent -40\n(.*)", done.stdout)
    assert (half.split()[0], whole.split()) == ("ok", ["|", "power", "-20"])
    first = re.search(r"ok VM (\w{12}) is up", done.stdout)
    assert first is not None
    machines = re.search(r"[|] VM +[|] (\w{12}) +[|] (\w{12}) +[|]", done.stdout)
    assert machines is not None
    assert len({first[1], machines[1], machines[2]}) == 3
    assert re.search(r"[|] commit +[|] (\w{12}) +[|] (?!\1)\w{12} +[|]", done.stdout)
    assert re.search(r"[|] +[|] power -20 +[|] tea -5 +[|]", done.stdout)
    # The tree has both ways, and the one that was gone last is where the thread is.
    assert text.count(" fork ") == 1 + text.split("The checkpoints")[0].count(" fork ")
    assert text.count(" HEAD ") == 1
    stage.assert_empty()


@pytest.mark.full
def test_a_command_that_took_effect_twice(stage: Stage) -> None:
    script = """
        import sys
        from langchain_vers.demo import bookkeeping
        from langchain_vers.demo.options import DemoOptions, run

        bookkeeping.LEDGER += bookkeeping.LEDGER[-1:]
        sys.exit(run(DemoOptions(act=2)))
    """
    done = stage.run(script=script)
    assert done.returncode == 1, done.stdout + done.stderr
    text = " ".join(done.stdout.split())
    assert "✗ the ledger should be balance 100, rent -40, power -20, power -20, and it is balance 100, rent -40, power -20" in text
    assert f"✗ {bookkeeping.RESUME}" in text
    assert f"✗ {bookkeeping.REWIND}: not reached" in text
    assert f"✗ {bookkeeping.COMPARE}: not reached" in text
    assert "Not all steps checked out; what was made is gone again." in text
    stage.assert_empty()


@pytest.mark.full
def test_a_process_that_dies_unasked(stage: Stage) -> None:
    def kill(line: str, demo: psutil.Popen) -> bool:
        if (found := re.search(r"Process (\d+) knows", line)) is None:
            return False
        assert int(found[1]) in {child.pid for child in demo.children()}
        psutil.Process(int(found[1])).kill()
        return True

    status, said = _disturbed(stage, kill)
    assert status == 1
    assert "langchain-vers: The agent's process ended with status -9 (it said nothing); run the demo again." in said
    assert "Traceback" not in said


@pytest.mark.full
def test_interrupted_while_an_agent_works(stage: Stage) -> None:
    seen: list[str] = []

    def interrupt(line: str, demo: psutil.Popen) -> bool:
        if line.strip() != f"│ {bookkeeping.HALFWAY}":
            return False
        seen.append(line)
        if len(seen) == 2:  # the second process is in the middle of the command
            demo.send_signal(signal.SIGINT)
        return len(seen) == 2

    status, said = _disturbed(stage, interrupt)
    assert status == 130
    assert "Interrupted by SIGINT; tidying up." in said
    assert "Traceback" not in said


def test_a_model_of_ones_own_has_no_second_act(stage: Stage) -> None:
    done = stage.run("--act", "2", "--model", "openai:some")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == "langchain-vers: The second act plays a script; leave out --model, or ask for --act 1.\n"
    stage.assert_empty()


def _disturbed(stage: Stage, disturb: Callable[[str, psutil.Popen], bool]) -> tuple[int, str]:
    """Run the act, disturb it at a line (when `disturb` says True, it has been), and see that nothing is left; status and output."""
    demo = psutil.Popen(stage.command("--act", "2"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=stage.environment())
    said = ""
    try:
        for line in demo.stdout:
            said += line
            if disturb(line, demo):
                break
        said += demo.stdout.read()
        status = demo.wait(60)
    finally:
        if demo.is_running():
            demo.kill()
        demo.wait()
        demo.stdout.close()
    stage.assert_empty()
    return status, said
