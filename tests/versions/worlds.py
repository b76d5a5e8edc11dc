"""What tests of versioned threads have in common: a database and a platform that outlive "processes", and a look at both from outside.

A process is a context with a saver of its own over the same database; it knows nothing but what is stored. Calls of the scripted agent
leave tokens as in `machine_claims.py`.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents import Request, ScriptedModel, message
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool
from rigs.savers import Database

from langchain_vers import BackendContext, VersSaver, VersToolkit
from langchain_vers._io import run
from langchain_vers.platform import VersClient
from versions import machine_claims
from versions.scripts import ask

GO: dict[str, Any] = {"messages": [("user", "go")]}
_numbers = itertools.count(10_000)


def thread(name: str = "thread", **configurable: Any) -> Any:
    """A config that names a thread."""
    return {"configurable": {"thread_id": name, **configurable}}


def script(*messages: Sequence[Request] | str) -> list[AIMessage]:
    """What a model says, one message after the other; a text ends its turn. Every call has an id of its own."""
    made, number = [], 0
    for one in messages:
        made.append(AIMessage(one) if isinstance(one, str) else message(*one, first=number))
        number += 0 if isinstance(one, str) else len(one)
    return made


def request(name: str, **arguments: Any) -> Any:
    """A call as a node makes it that calls a tool itself."""
    return {"type": "tool_call", "id": f"own-{next(_numbers)}", "name": name, "args": arguments}


def append(token: str) -> Request:
    return machine_claims.append(token)


def create() -> tuple[Request, Request]:
    return machine_claims.create()


def answers(state: Any) -> list[ToolMessage]:
    """The results of tools in a state, in order."""
    return [one for one in state["messages"] if isinstance(one, ToolMessage)]


def tokens(state: Any) -> list[str]:
    """The tokens that the results in a state claim, in order."""
    return [token for group in machine_claims.claim_of(state["messages"]).log for token in sorted(group)]


@dataclass
class Process:
    """A context and a saver."""

    context: BackendContext
    saver: Any

    @property
    def tools(self) -> list[BaseTool]:
        return [*VersToolkit(context=self.context).get_tools(), ask]

    def tool(self, name: str) -> Any:
        return next(one for one in self.tools if one.name == name)

    def agent(self, *messages: Sequence[Request] | str, **options: Any) -> Any:
        """An agent whose model says this; see `script`."""
        return create_agent(ScriptedModel(script=script(*messages)), self.tools, **{"checkpointer": self.saver, **options})


class World:
    """What outlives processes."""

    def __init__(self, data_dir: Path, database: Database, client: VersClient, before: set[str]) -> None:
        self.data_dir, self.database, self.client = data_dir, database, client
        self._before = before
        """VMs and commits of the server that other tests have left."""

    @contextlib.contextmanager
    def process(self, wrap: Callable[..., Any] = VersSaver, context: dict[str, Any] | None = None, **options: Any) -> Iterator[Process]:
        """A new process. `options` are those of `VersSaver`, `context` those of its context; `wrap=None` has the inner saver itself."""
        with self.database.open() as inner, BackendContext(data_dir=self.data_dir, **{"local": False, **(context or {})}) as made:
            yield Process(made, inner if wrap is None else wrap(inner, made, **options))

    @contextlib.asynccontextmanager
    async def aprocess(self, context: dict[str, Any] | None = None, **options: Any) -> AsyncIterator[Process]:
        """The same, its saver an async one of the running loop."""
        database = Database("aiosqlite", self.database.url)
        async with database.aopen() as inner, BackendContext(data_dir=self.data_dir, **{"local": False, **(context or {})}) as made:
            yield Process(made, VersSaver(inner, made, **options))

    # --- looks ---

    def vm(self) -> str:
        """A new VM, made by nobody's thread."""
        return run(self._vm())

    async def _vm(self) -> str:
        vm_id = await self.client.create_vm(wait_boot=True)
        await self.client.wait_until_running(vm_id, deadline=60)
        return vm_id

    def sh(self, vm_id: str, command: str) -> str:
        """What a command prints on a VM, by way of the platform itself."""
        return run(self.client.exec(vm_id, ["bash", "-c", command])).stdout

    def log(self, vm_id: str) -> list[str]:
        """The tokens on a VM, in order."""
        return self.sh(vm_id, f"cat {machine_claims.LOG} 2>/dev/null").split()

    def log_at(self, process: Process, config: Any) -> list[str]:
        """The tokens on the machine of a checkpoint."""
        vm_id = process.saver.machine_at(config).machine_id
        try:
            return self.log(vm_id)
        finally:
            self.delete(vm_id)

    def commits(self) -> set[str]:
        return run(machine_claims.commits_of(self.client)) - self._before

    def delete(self, vm_id: str) -> None:
        """Delete a VM behind everybody's back."""
        run(self.client.delete_vm(vm_id))

    def vms(self) -> set[str]:
        return {vm.vm_id for vm in run(self.client.list_vms())} - self._before


def check(process: Process, graph: Any, config: Any, **options: Any) -> None:
    """At every checkpoint of a thread the machine holds what the messages claim."""
    report = machine_claims.check_thread(graph, process.saver, config, **options)
    assert not report.wrong, "\n".join(report.wrong)
    assert report.checked > 0


def head(graph: Any, config: Any) -> dict[str, Any]:
    """What the metadata of a thread's latest checkpoint say."""
    return dict(graph.get_state(config).metadata)


def at(graph: Any, config: Any, chosen: Callable[[Any], bool]) -> Any:
    """The config of the newest checkpoint for which `chosen(state)` holds."""
    return next(state.config for state in graph.get_state_history(config) if chosen(state))


def after(count: int, node: str = "model") -> Callable[[Any], bool]:
    """Chooses the checkpoint at which so many tools have answered, and `node` is next."""

    def chosen(state: Any) -> bool:
        said: Sequence[BaseMessage] = state.values.get("messages", ())
        return state.next == (node,) and sum(isinstance(one, ToolMessage) for one in said) == count

    return chosen
