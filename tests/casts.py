"""Deep agents whose model says what it was told to say, each agent of a team by what it is asked; and the sandbox that Deep Agents has of
its own, over a backend of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agents import Request, ScriptedModel
from deepagents.backends.protocol import ExecuteResponse, FileDownloadResponse, FileUploadResponse
from deepagents.backends.sandbox import BaseSandbox
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from langchain_vers._io import run
from langchain_vers.backends.base import Backend
from langchain_vers.errors import VersError


class Cast(ScriptedModel):
    """What the model says to whom: by the first message that it is given, one message after the other."""

    parts: dict[str, list[AIMessage]]

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        asked = next(str(message.text) for message in messages if message.type == "human")
        said = sum(isinstance(message, AIMessage) for message in messages)
        part = self.parts.get(asked, [])
        message = part[said] if said < len(part) else AIMessage("done")
        return ChatResult(generations=[ChatGeneration(message=message.model_copy())])


def cast(**parts: Sequence[Sequence[Request]]) -> Cast:
    """A model that asks for these calls when it is asked for that; every call has an id of its own."""
    made: dict[str, list[AIMessage]] = {}
    for name, messages in parts.items():
        made[name] = [
            AIMessage("", tool_calls=[{"name": tool, "args": given, "id": f"{name}-{number}-{n}"} for n, (tool, given) in enumerate(calls)])
            for number, calls in enumerate(messages)
        ]
    return Cast(script=[], parts=made)


def task(name: str, part: str) -> Request:
    """A call that has a sub-agent play a part."""
    return "task", {"description": part, "subagent_type": name}


def subagents(*names: str) -> list[Any]:
    """Sub-agents of these names."""
    return [{"name": name, "description": name, "system_prompt": name} for name in names]


def said(state: Mapping[str, Any]) -> dict[str, str]:
    """What the calls of a conversation were answered, by their ids."""
    return {message.tool_call_id: str(message.text) for message in state["messages"] if message.type == "tool"}


class PlainSandbox(BaseSandbox):
    """Deep Agents' own sandbox, which does all by scripts that it runs; its commands and transfers go through a backend of ours."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @property
    def id(self) -> str:
        return "plain"

    def execute(self, command: str, *, timeout: int | None = None) -> ExecuteResponse:
        output = bytearray()
        result = run(self.backend.exec(command, timeout=timeout, on_output=output.extend))
        return ExecuteResponse(output=output.decode(errors="replace"), exit_code=result.exit_code)

    def upload_files(self, files: list[tuple[str, bytes]]) -> list[FileUploadResponse]:
        for path, content in files:
            run(self.backend.write(path, content))
        return [FileUploadResponse(path=path) for path, _ in files]

    def download_files(self, paths: list[str]) -> list[FileDownloadResponse]:
        found = []
        for path in paths:
            try:
                found.append(FileDownloadResponse(path=path, content=run(self.backend.read(path)).data))
            except VersError:
                found.append(FileDownloadResponse(path=path, error="file_not_found"))
        return found
