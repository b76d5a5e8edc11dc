"""The command line of Deep Agents finds and uses this package's sandboxes: its own discovery and life cycle, in an environment of its own.

That environment is made by `make deepagents-code`, as CI does.
"""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".venv" / "deepagents-code"


@pytest.fixture
def dcode(isolated_vers_data: Path, tmp_path: Path) -> Any:
    """Runs a program beside the command line of Deep Agents; what it prints as JSON in its last line."""
    if not (PLACE / ".ready").exists():
        reason = "the command line of Deep Agents is not installed; `make deepagents-code` does that"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VERS_", "PYTHON"))}
    environment = {**kept, "HOME": str(tmp_path), "VERS_EMBEDDED_DATA_DIR": str(isolated_vers_data), "PYTHONPATH": str(ROOT)}

    def run(program: str) -> Any:
        command = [str(PLACE / "bin" / "python"), "-c", textwrap.dedent(program)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_its_discovery_and_life_cycle(dcode: Any) -> None:
    """As `dcode --sandbox vers` does it: found by the entry point, then as its configuration says; new VMs, named ones, and snapshots."""
    found = dcode("""
        import json, pathlib
        from deepagents import create_deep_agent
        from deepagents.backends.sandbox import BaseSandbox
        from deepagents_code.integrations import sandbox_factory as factory
        from deepagents_code.integrations.sandbox_registry import SandboxRegistry
        from langchain_core.language_models import BaseChatModel
        from langchain_core.messages import AIMessage
        from langchain_core.outputs import ChatGeneration, ChatResult
        from langchain_vers.machine import Machine

        pathlib.Path("setup.sh").write_text("echo made >/root/setup")
        factory.verify_sandbox_deps("vers")
        facts = {"names": SandboxRegistry.load().available_providers(), "directory": factory.get_default_working_dir("vers")}
        with factory.create_sandbox("vers", setup_script_path="setup.sh") as sandbox:
            facts["kind"] = isinstance(sandbox, BaseSandbox)
            facts["setup"] = sandbox.execute("cat setup; cd /srv; exit 7").output
            facts["cwd"] = sandbox.execute("pwd").output
            facts["written"] = sandbox.write("/srv/a.py", "x = 1\\n").error
            facts["edited"] = sandbox.edit("/srv/a.py", "1", "2").occurrences
            facts["read"] = sandbox.read("/srv/a.py").file_data["content"]
            facts["found"] = [match["path"] for match in sandbox.glob("*.py").matches + sandbox.grep("x", "/srv").matches]
            facts["code"] = sandbox.execute("exit 3").exit_code

        class Model(BaseChatModel):
            @property
            def _llm_type(self): return "scripted"
            def bind_tools(self, tools, **kwargs): return self
            def _generate(self, messages, stop=None, run_manager=None, **kwargs):
                call = {"name": "execute", "args": {"command": "echo $((6 * 7)) >>/root/log; cat /root/log"}, "id": "1"}
                message = AIMessage("done") if messages[-1].type == "tool" else AIMessage("", tool_calls=[call])
                return ChatResult(generations=[ChatGeneration(message=message)])

        config = pathlib.Path.home() / ".deepagents" / "config.toml"
        config.parent.mkdir(exist_ok=True)
        config.write_text('''
            [sandboxes.providers.vers]
            class_path = "langchain_vers.integrations.deepagents_code:VersProvider"
            working_dir = "/root"
            supports_snapshot_name = true
            params = { transport = "http" }
        ''')
        provider = factory._get_provider("vers")
        made = provider.get_or_create(mem_size_mib=512)
        facts["log"] = []
        for name in "ab":
            with factory.create_sandbox("vers", sandbox_id=made.id[:13]) as sandbox:
                agent = create_deep_agent(model=Model(), backend=sandbox)
                state = agent.invoke({"messages": [("user", "go")]}, {"configurable": {"thread_id": name}})
                facts["log"].append(state["messages"][-2].text.splitlines()[:2])
                facts["same"] = sandbox.id == made.id
        commit = Machine(made.context, made.id).save()
        with factory.create_sandbox("vers", snapshot_name=commit) as copy:
            facts["copy"] = [copy.id != made.id, copy.execute("cat /root/log").output]
        provider.delete(sandbox_id=made.id)
        provider.delete(sandbox_id=made.id)
        facts["errors"] = []
        for options in ({"sandbox_id": made.id}, {"sandbox_id": "no-vm"}, {"snapshot": "no-tag"}, {"nonsense": 1}, {"transport": "pigeon"}):
            try:
                provider.get_or_create(**options)
            except Exception as error:
                facts["errors"].append([type(error).__name__, str(error)])
        print(json.dumps(facts))
    """)
    assert "vers" in found["names"]
    assert (found["kind"], found["directory"], found["setup"], found["cwd"]) == (True, "/root", "made\n", "/srv\n")
    assert (found["written"], found["edited"], found["read"], found["code"]) == (None, 1, "x = 2", 3)
    assert found["found"] == ["/srv/a.py", "/srv/a.py"]
    # In every thread its agent is on the sandbox; one that was named lives on.
    assert found["log"] == [["42", ""], ["42", "42"]]
    assert found["same"]
    assert found["copy"] == [True, "42\n42\n"]
    missing = ["SandboxNotFoundError"] * 3
    assert [name for name, _ in found["errors"]] == [*missing, "SandboxError", "SandboxError"]
    assert "nonsense" in found["errors"][3][1]
