"""LangChain's own standard tests, for every tool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from langchain_vers.toolkit import VersToolkit

SETUP = "mkdir -p d && printf 'one\\n' >d/f"
EXAMPLES: dict[str, dict[str, Any]] = {
    "bash": {"command": "echo hi"},
    "bash_output": {"job_id": "JOB"},
    "bash_kill": {"job_id": "JOB"},
    "read": {"path": "d/f"},
    "write": {"path": "d/g", "content": "two"},
    "edit": {"path": "d/f", "old_text": "one", "new_text": "1"},
    "ls": {"path": "d"},
    "find": {"pattern": "f"},
    "grep": {"pattern": "one"},
    "vers_vms": {},
    "vers_vm_create": {"labels": {"a": "b"}},
    "vers_vm_use": {"vm_id": "VM"},
    "vers_vm_exec": {"vm_id": "VM", "command": "true"},
    "vers_vm_local": {},
    "vers_vm_branch": {"vm_id": "VM"},
    "vers_vm_commit": {"vm_id": "VM"},
    "vers_vm_restore": {"commit_id": "COMMIT"},
    "vers_vm_state": {"vm_id": "VM", "state": "running"},
    "vers_vm_delete": {"vm_id": "VM"},
    "vers_vm_copy": {"source": "d/f", "destination": "d/h"},
}


class Given:
    """What a standard test asks about the tool at hand."""

    chosen: BaseTool
    example: dict[str, Any]

    @property
    def tool_constructor(self) -> BaseTool:
        return self.chosen

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return self.example


@pytest.mark.parametrize("name", EXAMPLES)
class TestUnit(Given, ToolsUnitTests):
    @pytest.fixture(autouse=True)
    def _tool(self, name: str, clean: Path) -> None:
        type(self).chosen = next(tool for tool in VersToolkit().get_tools() if tool.name == name)
        type(self).example = EXAMPLES[name]


@pytest.mark.parametrize("name", EXAMPLES)
class TestIntegration(Given, ToolsIntegrationTests):
    @pytest.fixture(autouse=True)
    def _tool(self, name: str, make_toolkit: Any) -> Iterator[None]:
        tools = {tool.name: tool for tool in make_toolkit().get_tools()}

        def artifact(tool: str, **arguments: Any) -> dict[str, Any]:
            answer = tools[tool].invoke({"type": "tool_call", "id": "1", "name": tool, "args": arguments})
            assert answer.status == "success", answer
            return answer.artifact

        needed, known = set(map(str, EXAMPLES[name].values())), {}
        artifact("bash", command=SETUP)
        if "JOB" in needed:
            known["JOB"] = artifact("bash", command="exec sleep 1000", background=True)["job_id"]
        if needed & {"VM", "COMMIT"}:
            known["VM"] = artifact("vers_vm_create", attach=False)["machine_id"]
            known["COMMIT"] = artifact("vers_vm_commit", vm_id=known["VM"])["commit"]
        type(self).chosen = tools[name]
        type(self).example = {key: known.get(value, value) if isinstance(value, str) else value for key, value in EXAMPLES[name].items()}
        yield
        if "JOB" in known:
            artifact("bash_kill", job_id=known["JOB"])
