"""Where a call of Deep Agents stands: which thread, which message, which sub-agent. No I/O.

Deep Agents hands its backends neither a config nor a tool call, so both are taken from what LangGraph keeps for the task that runs: the
config of the current context, and through it the state, as `StateBackend` of Deep Agents does.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_config
from langgraph.prebuilt import ToolRuntime

from langchain_vers.bang_commands import runtime_of
from langchain_vers.integrations.deepagents.pages import absolute
from langchain_vers.tools import files, machines, search, shell
from langchain_vers.turns import Place, place_of
from langchain_vers.workers import LANE, NAME

SubAgents = Literal["share", "branch"] | Collection[str]
"""Which sub-agents work on a branch of their own: none, all, or those of these names."""
OPERATIONS = frozenset({"ls", "read_file", "write_file", "edit_file", "delete", "glob", "grep", "execute"})
"""The tools of Deep Agents that work on its backend."""
_MOVERS = {spec.name: spec.moves for spec in (*machines.SPECS, machines.USE_BACKEND)}
_OURS = {spec.name for spec in (*shell.SPECS, *files.SPECS, *search.SPECS)} | OPERATIONS | {"write_todos"}


@dataclass(frozen=True)
class Standing:
    """Where a call stands."""

    place: Place
    config: RunnableConfig
    runtime: ToolRuntime[Any, Any] | None
    """None outside of a graph."""
    call_id: str | None
    """The tool call that is being carried out, None if there is none or that cannot be told."""

    @property
    def callbacks(self) -> BaseCallbackManager | None:
        """Those of the run that the call belongs to; None outside of anything that runs."""
        found = self.config.get("callbacks")
        return found if isinstance(found, BaseCallbackManager) else None


def standing(tool: str, arguments: Mapping[str, Any], subagents: SubAgents, bound: RunnableConfig | None = None) -> Standing:
    """Where a call stands that asks for an operation with these arguments, by the context of whoever calls.

    `bound`: the config of a thread that it is for, whatever runs.
    """
    config = bound if bound is not None else _running()
    configurable = dict(config.get("configurable") or {})
    if (branch := _branch(config, configurable, subagents)) is not None:
        configurable |= {LANE: branch[0], NAME: branch[1]}
        config = {**config, "configurable": configurable}
    if "__pregel_scratchpad" not in configurable:
        return Standing(place_of(config, None, None, _may_move), config, None, None)
    messages = _messages(configurable)
    call, alone = _carried_out(config, messages, tool, arguments)
    call_id = None if call is None else str(call["id"])
    runtime = runtime_of({"messages": messages}, config, call_id)
    place = place_of(config, runtime, call_id, _may_move)
    if not alone:  # what is done on the side of a tool call is judged by itself, and too late to ask where others run in the same task
        place = replace(place, together=None if place.together else place.together)
    return Standing(place, config, runtime, call_id)


def _running() -> RunnableConfig:
    try:
        return get_config()
    except RuntimeError:  # called by a program, outside of anything that runs
        return {}


def _may_move(name: str, arguments: Mapping[str, Any]) -> bool | None:
    """Whether a tool call may move its thread to another machine; None for tools of somebody else, such as `task`."""
    if name in _MOVERS:
        return _MOVERS[name](arguments)
    return False if name in _OURS else None


def _messages(configurable: Mapping[str, Any]) -> Sequence[Any]:
    read = configurable.get("__pregel_read")
    found: Any = None
    if read is not None:
        with suppress(KeyError):  # a graph whose state has no messages
            found = read("messages", False)
    return found if isinstance(found, list) else []


def _carried_out(
    config: RunnableConfig, messages: Sequence[Any], tool: str, arguments: Mapping[str, Any]
) -> tuple[Mapping[str, Any] | None, bool]:
    """The tool call on whose behalf an operation is asked for, and whether it is this very operation."""
    answered = {getattr(message, "tool_call_id", None) for message in messages}
    found = (getattr(message, "tool_calls", None) for message in reversed(messages))
    calls: Sequence[Mapping[str, Any]] = next((calls for calls in found if calls), [])
    pending = [call for call in calls if call["id"] not in answered]
    same = [call for call in pending if _is(call, tool, arguments)]
    path: Sequence[Any] = (config.get("metadata") or {}).get("langgraph_path") or ("",)
    if path[0] == "__pregel_push" and len(path) > 1 and isinstance(path[1], int) and path[1] < len(pending):
        call = pending[path[1]]
        return call, call in same
    return (same[0], True) if len(same) == 1 else (None, False)


def _is(call: Mapping[str, Any], tool: str, arguments: Mapping[str, Any]) -> bool:
    given = call["args"]
    if call["name"] != tool:
        return False
    for name in ("command", "pattern", "content", "old_string"):
        if name in arguments and given.get(name) != arguments[name]:
            return False
    paths = [name for name in ("file_path", "path") if arguments.get(name) is not None]
    return all(_same_path(given.get(name), arguments[name]) for name in paths)


def _same_path(given: object, path: str) -> bool:
    try:
        return isinstance(given, str) and absolute("/" + given.lstrip("/")) == absolute(path)
    except ValueError:
        return False


def _branch(config: RunnableConfig, configurable: Mapping[str, Any], subagents: SubAgents) -> tuple[str, str] | None:
    """The lane and the name of the sub-agent that runs, if it is to have a branch.

    A sub-agent runs in the task of the tool call that started it, whose id names it: also when it is broken off and goes on later.
    """
    if subagents == "share" or configurable.get(LANE) or configurable.get("ls_agent_type") != "subagent":
        return None
    name = str((config.get("metadata") or {}).get("lc_agent_name") or "sub-agent")
    if subagents != "branch" and name not in subagents:
        return None
    around = [part for part in str(configurable.get("checkpoint_ns") or "").split("|")[:-1] if not part.isdigit()]
    if not around:
        return None
    own = next((part for part in reversed(around) if part.startswith("tools:")), around[-1])
    return own.rpartition(":")[2], name
