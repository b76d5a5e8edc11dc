"""What is evaluated: a runnable, or a function that takes what it needs by name. Its tools must be of the context of the machines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import Runnable, RunnableConfig

from langchain_vers._loops import called
from langchain_vers._threads import in_thread, in_words
from langchain_vers.errors import BadInput, DeadlineExceeded, VersError

if TYPE_CHECKING:
    from langchain_vers.machine import Machine

Agent = Runnable[Any, Any] | Callable[..., Any]
"""A runnable (a graph, an agent of `create_agent`), which is given an example's inputs as they are; or a function, sync or async, whose
first parameter gets the inputs, and those named `config` and `machine` the run's config and the machine.
"""
Work = Callable[[Mapping[str, Any], RunnableConfig, "Machine"], Awaitable[Any]]
_GIVEN = ("config", "machine")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def work_of(agent: Agent, *, sync: bool) -> Work:
    """How the agent is put to work. `sync`: a runnable is invoked in a thread of its own rather than awaited.

    Raises:
        BadInput: it is neither a runnable nor a function that can be called so.
    """
    if isinstance(agent, Runnable):
        if sync:
            return lambda inputs, config, machine: in_thread(agent.invoke, dict(inputs), config)
        return lambda inputs, config, machine: agent.ainvoke(dict(inputs), config)
    if isinstance(agent, type) or not callable(agent):
        raise BadInput(f"the agent must be a runnable, or a function of (inputs, config, machine), not {_kind(agent)}")
    takes = _takes(agent)

    async def call(inputs: Mapping[str, Any], config: RunnableConfig, machine: Machine) -> Any:  # noqa: ANN401  # what the agent gives
        given = {"config": config, "machine": machine}
        return await called(agent, dict(inputs), **{name: given[name] for name in takes})

    return call


def _takes(function: Callable[..., Any]) -> list[str]:
    """Which of `config` and `machine` a function takes."""
    parameters = signature_of(function, "the agent").parameters
    everything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    others = [
        parameter
        for name, parameter in parameters.items()
        if name not in _GIVEN and parameter.kind not in {parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL}
    ]
    takes_inputs = (bool(others) and others[0].kind in _POSITIONAL and next(iter(parameters)) == others[0].name) or any(
        parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters.values()
    )
    unknown = [parameter.name for parameter in others[1:] if parameter.default is parameter.empty]
    if not takes_inputs or unknown:
        what = f"wants {', '.join(map(repr, unknown))}, which nobody gives it" if unknown else "does not take the inputs first"
        raise BadInput(f"the agent {_name(function)} {what}; write it as a function of (inputs, config, machine), or of fewer of these")
    return [name for name in _GIVEN if name in parameters or everything]


def signature_of(function: Callable[..., Any], what: str) -> inspect.Signature:
    """A function's parameters. `what`: what it is here, for the error.

    Raises:
        BadInput: Python does not know them, as of some that are built in.
    """
    try:
        return inspect.signature(function)
    except (ValueError, TypeError):
        raise BadInput(f"{what} {_name(function)} does not say what it takes; wrap it in a function that does") from None


async def see_through(work: Awaitable[Any], seconds: float | None) -> Any:  # noqa: ANN401  # what the agent gives
    """Wait for an agent, however it ends: its errors are raised, and nothing else is.

    Raises:
        DeadlineExceeded: it has not ended within so many seconds, and was cancelled.
        VersError: it was cancelled from within.
    """

    async def ordinary() -> Any:  # noqa: ANN401  # what the agent gives
        try:
            return await work
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            if (said := in_words(error)) is error:
                raise
            raise said from error

    task = asyncio.ensure_future(ordinary())
    try:
        done, _ = await asyncio.wait({task}, timeout=seconds)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
    if not done:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise DeadlineExceeded(f"the agent did not end within {seconds:g} s and was stopped")
    if task.cancelled():
        raise VersError("the agent was cancelled from within, by itself or by what it called")
    return task.result()


def _name(function: object) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)


def name_of(agent: Agent) -> str:
    """What the agent's runs are called."""
    if isinstance(agent, Runnable):
        return str(agent.get_name())
    return _name(agent)


def _kind(agent: object) -> str:
    return f"the class {agent.__name__}" if isinstance(agent, type) else type(agent).__name__
