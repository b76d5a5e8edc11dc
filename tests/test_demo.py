"""The demo, run for real in processes of its own: what it says, its exit status, and that nothing of it is left."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from rigs.programs import require
from rigs.stage import Stage

from langchain_vers._io import run
from langchain_vers.context import BackendContext
from langchain_vers.demo import bookkeeping, story
from langchain_vers.demo.course import essential
from langchain_vers.demo.ground import descends
from langchain_vers.demo.screen import plain
from langchain_vers.demo.scripted import ScriptedModel, Step, Unexpected, succeeded
from langchain_vers.embedded import launcher
from langchain_vers.toolkit import VersToolkit


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_all_steps_check_out_and_nothing_is_left(stage: Stage) -> None:
    # A configured platform and a running server of the user's must not be touched: these lead nowhere.
    configured = {"VERS_API_KEY": "not-to-be-used", "VERS_BASE_URL": "http://127.0.0.1:9/", "VERS_SSH_ENDPOINT": "127.0.0.1:9"}
    done = stage.run(environment={**configured, "VERS_EMBEDDED_DATA_DIR": str(stage.home / "own")})
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "✗" not in done.stdout
    steps = [*story.STEPS, *bookkeeping.WORK, *bookkeeping.AGAIN]
    scenes = {step.scene for step in steps} | {bookkeeping.KILL, bookkeeping.COMPARE}
    assert done.stdout.count("✓") == len(steps) + len(scenes) + 2  # the kill and the comparison are looked at, too
    for fact in (
        "engine namespaces",
        "the test fails, as it should",
        "the test passes",
        "saved as commit",
        "nothing of all that landed here",
    ):
        assert fact in done.stdout
    original = re.search(r"VM (\w{12}) +the original", done.stdout)
    assert original is not None
    assert re.search(rf"VM (?!{original[1]})\w{{12}} +branch of {original[1]}", done.stdout)
    assert "All steps checked out; what was made is gone again." in done.stdout
    # No terminal: lines of 80 columns, without control characters.
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "not-to-be-used" not in done.stdout
    stage.assert_empty()


_BROKEN = """
    import sys
    from dataclasses import replace
    from langchain_vers.demo import story
    from langchain_vers.demo.options import DemoOptions, run
    from langchain_vers.demo.scripted import Unexpected

    def check(message, results):
        raise Unexpected("the light is not green")

    steps = [replace(step, check=check) if step.name == "look" else step for step in story.STEPS]
    sys.exit(run(DemoOptions(script=steps)))
"""


def test_a_step_that_does_not_check_out(stage: Stage) -> None:
    # Where only ASCII can be shown, the marks are words.
    done = stage.run(script=_BROKEN, environment={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.isascii()
    assert "FAILED the light is not green" in done.stdout
    assert "A machine of its own" in done.stdout
    assert "Save the machine: not reached" in done.stdout
    assert "Not all steps checked out" in done.stdout
    assert "roman.py" not in done.stdout
    stage.assert_empty()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
def test_an_interrupted_demo_tidies_up(stage: Stage, number: signal.Signals) -> None:
    script = """
        import sys
        from langchain_vers.demo import story
        from langchain_vers.demo.options import DemoOptions, run
        from langchain_vers.demo.scripted import Step

        waiting = Step("wait", "bash", {"command": "echo waiting; sleep 1000"})
        sys.exit(run(DemoOptions(script=[story.STEPS[0], waiting])))
    """
    demo = subprocess.Popen(
        stage.command(script=script), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=stage.environment()
    )
    assert demo.stdout is not None
    try:
        for line in demo.stdout:
            if line.strip() == "│ waiting":  # it is shown while the command runs
                break
        assert [path.name for path in stage.temporary.iterdir()] != []
        demo.send_signal(number)
        rest = demo.stdout.read()
        assert demo.wait(60) == 128 + number, rest
    finally:
        demo.kill()
        demo.wait()
        demo.stdout.close()
    assert f"Interrupted by {number.name}; tidying up." in rest
    assert "Traceback" not in rest
    stage.assert_empty()


@pytest.mark.full
def test_interrupted_while_the_server_starts(stage: Stage) -> None:
    demo = subprocess.Popen(stage.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=stage.environment())
    assert demo.stdout is not None
    try:
        while not any(stage.temporary.rglob("server.log")):
            assert demo.poll() is None
        demo.send_signal(signal.SIGINT)
        output = demo.communicate(timeout=60)[0]
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 130, output
    stage.assert_empty()


@pytest.mark.full
def test_a_reader_that_goes_away(stage: Stage) -> None:
    demo = subprocess.Popen(stage.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=stage.environment())
    assert demo.stdout is not None
    assert demo.stderr is not None
    try:
        demo.stdout.readline()
        demo.stdout.close()
        errors = demo.stderr.read()
        demo.wait(60)
    finally:
        demo.kill()
        demo.wait()
        demo.stderr.close()
    assert "Traceback" not in errors
    stage.assert_empty()


@pytest.mark.full
def test_keep_and_a_folder_of_ones_own(stage: Stage, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    done = stage.run("--keep", "--data-dir", str(folder))
    try:
        assert done.returncode == 0, done.stdout + done.stderr
        first = launcher.find_running(folder)
        assert first is not None
        assert f"langchain-vers stop --data-dir {folder}" in done.stdout
        with VersToolkit(**_reach(first)).context as context:
            there = _there(context)
            assert len(there) == 2 + 3 + 1 + 6  # VMs of both acts, with the one that was left half way; commits of both
            database = next(iter(stage.temporary.iterdir())) / "checkpoints.sqlite"
            assert f"langchain-vers history --db {database} --thread " in done.stdout
            # A second demo uses that server, and leaves what it found there.
            again = stage.run("--data-dir", str(folder), "--act", "2")
            assert again.returncode == 0, again.stdout + again.stderr
            assert launcher.find_running(folder) == first
            assert _there(context) == there
            # Nor does one touch them that is told to use this Vers as its platform.
            configured = {f"VERS_{name.upper()}": value for name, value in _reach(first).items()}
            platform = stage.run("--vers", environment=configured)
            assert platform.returncode == 0, platform.stdout + platform.stderr
            assert "key from the environment variable VERS_API_KEY" in platform.stdout
            assert first.api_key not in platform.stdout
            assert _there(context) == there
    finally:
        launcher.stop(folder)
    kept = list(stage.temporary.iterdir())
    assert len(kept) == 1
    shutil.rmtree(kept[0])
    stage.assert_empty()


def _there(context: BackendContext) -> set[str]:
    """The ids of all VMs and commits."""

    async def ask() -> set[str]:
        client = await context.client()
        commits = await client.list_commits(limit=100)
        return {vm.vm_id for vm in await client.list_vms()} | {commit.commit_id for commit in commits.commits}

    return run(ask())


def _reach(server: launcher.ServerInfo) -> dict[str, str]:
    host, port = server.ssh_endpoint
    return {"api_key": server.api_key, "base_url": server.base_url, "ssh_endpoint": f"{host}:{port}", "ca_file": server.ca_file}


@pytest.mark.full
def test_where_namespaces_are_forbidden(stage: Stage) -> None:
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec "$@"'
    wrapped = ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", *stage.command()]
    done = subprocess.run(wrapped, capture_output=True, text=True, timeout=100, env=stage.environment())
    assert done.returncode == 1, done.stdout + done.stderr
    assert "User namespaces are off" in done.stdout
    assert "sysctl -w user.max_user_namespaces=10000" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    stage.assert_empty()


def test_a_platform_that_is_not_configured(stage: Stage) -> None:
    done = stage.run("--vers")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "VERS_API_KEY" in done.stdout
    stage.assert_empty()


# Models that are not scripted


def test_a_model_whose_package_is_missing(stage: Stage) -> None:
    done = stage.run("--model", "nomic:nothing")
    assert done.returncode == 2
    assert done.stdout.startswith("langchain-vers: The model nomic:nothing cannot be")
    assert "Traceback" not in done.stdout + done.stderr
    stage.assert_empty()


_PROVIDER = """
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from pydantic import SecretStr

class ChatOpenAI(GenericFakeChatModel):
    model: str = ""
    messages: object = None
    key: SecretStr = SecretStr("")

    @property
    def lc_secrets(self):
        return {"key": "OPENAI_API_KEY"}

    def bind_tools(self, tools, **kwargs):
        return self

    def _generate(self, *args, **kwargs):
        raise RuntimeError("the key sk-secret is not known\\nmore")
"""


@pytest.mark.full
def test_a_model_without_a_key_or_with_a_wrong_one(stage: Stage, tmp_path: Path) -> None:
    package = tmp_path / "packages" / "langchain_openai"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(_PROVIDER)
    environment = {"PYTHONPATH": str(package.parent), "OPENAI_API_KEY": ""}
    done = stage.run("--model", "openai:some", environment=environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout == "langchain-vers: The model openai:some has no key; set OPENAI_API_KEY.\n"
    done = stage.run("--model", "openai:some", environment={**environment, "OPENAI_API_KEY": "sk-secret"})
    assert done.returncode == 2, done.stdout + done.stderr
    assert "The model failed: the key (key) is not known;" in done.stdout
    assert "sk-secret" not in done.stdout + done.stderr
    stage.assert_empty()


_ASSIGNED = """
    import sys
    from langchain_vers.demo.options import DemoOptions, run
    from langchain_vers.demo.scripted import ScriptedModel, Step

    ROMAN = '''
    n=$1
    for p in 1000:M 900:CM 500:D 400:CD 100:C 90:XC 50:L 40:XL 10:X 9:IX 5:V 4:IV 1:I; do
        while [ $n -ge ${p%:*} ]; do printf %s ${p#*:}; n=$((n - ${p%:*})); done
    done
    echo
    '''
    TEST = '[ "$(sh /root/roman/roman.sh 4)" = IV ]'
    branch = lambda results: {"vm_id": results["branch"].artifact["branches"][0], "command": "echo branch >/root/where"}
    steps = [
        Step("create", "vers_vm_create"),
        Step("program", "write", {"path": "/root/roman/roman.sh", "content": ROMAN}),
        Step("test", "write", {"path": "/root/roman/test.sh", "content": TEST}),
        Step("commit", "vers_vm_commit"),
        Step("branch", "vers_vm_branch"),
        Step("there", "vers_vm_exec", branch),
        Step("here", "bash", {"command": "echo original >/root/where"}),
    ]
    lazy = set(sys.argv[1:])
    steps = [step for step in steps if step.name not in lazy]
    sys.exit(run(DemoOptions(model=ScriptedModel(steps=steps, farewell="All is done."))))
"""


@pytest.mark.full
def test_a_model_that_does_its_task(stage: Stage) -> None:
    done = stage.run(script=_ASSIGNED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All is done." in done.stdout
    assert "✗" not in done.stdout
    stage.assert_empty()


def test_a_model_that_only_says_so(stage: Stage) -> None:
    done = stage.run("here", "commit", script=_ASSIGNED)
    assert done.returncode == 1, done.stdout + done.stderr
    text = " ".join(done.stdout.split())
    assert "All is done." in text
    assert "✗ The VM was committed: no, found 0 commit(s)" in text
    assert re.search(r"✗ /root/where on the original \w+ says original: no", text)
    assert "✓ There is one VM and one branch of it" in text
    stage.assert_empty()


# The parts


@pytest.mark.parametrize("shell", [["sh"], ["bash", "--posix"], ["busybox", "sh"]], ids=lambda words: words[0])
def test_the_shell_project(tmp_path: Path, shell: list[str]) -> None:
    require(shell[0], shell[0])
    project = story.SHELL
    for path, text in ((project.path, project.text), (project.test_path, project.test_text)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    command = [*shell, *project.run.split()[1:]]
    first = subprocess.run(command, cwd=tmp_path / "roman", capture_output=True, text=True)
    assert first.returncode == 1
    assert "FAIL 9 is VIV" in first.stdout
    assert project.text.count(project.old) == 1
    (tmp_path / project.path).write_text(project.text.replace(project.old, project.new))
    second = subprocess.run(command, cwd=tmp_path / "roman", capture_output=True, text=True)
    assert second.returncode == 0
    assert second.stdout.endswith("OK\n")


def test_the_project_follows_the_machine() -> None:
    assert story.project({"look": ToolMessage("vm\npython", tool_call_id="1")}) is story.PYTHON
    assert story.project({"look": ToolMessage("python\nshell", tool_call_id="1")}) is story.SHELL


def test_the_scripted_model_plays_checks_and_stops() -> None:
    def is_four(message: ToolMessage, results: object) -> str:
        if message.text != "4":
            raise Unexpected(f"{message.text} is not 4")
        return "it is"

    steps = [Step("add", "bash", {"command": "echo 4"}, is_four), Step("tell", "bash", lambda results: {"command": results["add"].text})]
    model = ScriptedModel(steps=steps)
    asked = HumanMessage("Go")
    first = model.invoke([asked])
    assert isinstance(first, AIMessage)
    assert first.tool_calls[0]["args"] == {"command": "echo 4"}
    four = ToolMessage("4", tool_call_id=first.tool_calls[0]["id"])
    second = model.invoke([asked, first, four])
    assert second.tool_calls[0]["args"] == {"command": "4"}
    last = model.invoke([asked, first, four, second, ToolMessage("", tool_call_id="2")])
    assert (last.tool_calls, last.response_metadata["completed"]) == ([], True)
    stopped = model.invoke([asked, first, ToolMessage("5", tool_call_id="1")])
    assert (stopped.text, stopped.tool_calls, stopped.response_metadata["completed"]) == ("Stopped at 'add': 5 is not 4", [], False)
    # A new request plays it anew, with ids that are new in the conversation.
    again = model.invoke([asked, first, four, second, ToolMessage("", tool_call_id="2"), last, HumanMessage("Again")])
    assert again.tool_calls[0]["args"] == {"command": "echo 4"}
    assert again.tool_calls[0]["id"] != first.tool_calls[0]["id"]
    with pytest.raises(Unexpected, match="boom"):
        succeeded(ToolMessage("boom", tool_call_id="1", status="error"))
    with pytest.raises(ValueError, match="not bound: bash"):
        model.bind_tools([])


def test_what_is_shown_of_a_machine_is_plain() -> None:
    assert plain("a\x1b[31mred\x1b[0m\x1b]0;title\x07\r\nb\tc\x08\x9b1m\x1bc") == "ared\nb\tc1m"
    assert essential({"vm_id": "0123456789ab-cd", "command": "ls"}) == "0123456789ab: ls"
    assert essential({"path": "x", "content": "long"}) == "x"
    assert essential({}) == ""


def test_whose_machine_it_is() -> None:
    parents = {"a": None, "b": "a", "c": "b", "x": None, "y": "x", "loop": "loop"}
    assert [vm_id for vm_id in parents if descends(vm_id, {"a"}, parents)] == ["a", "b", "c"]
