"""The conversation of a thread, as several attempts go on from one point of it: each is a fork, and one becomes the thread's newest state.

All of it is LangGraph's own: runs from one checkpoint, and the copy of a checkpoint. A graph whose saver has no async methods is run by its
sync ones, in threads.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, cast

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.pregel import Pregel
from langgraph.types import Command

from langchain_vers.errors import BadInput, Gone
from langchain_vers.turns import is_running

if TYPE_CHECKING:
    from langchain_vers.checkpoint import VersSaver

T = TypeVar("T")

TRIAL = "explore_trial"
"""In the metadata of an attempt's runs and checkpoints: its lane."""


class Forks:
    """Runs of one agent from one point of a thread's conversation, or without any conversation.

    Args:
        agent: a graph, or any other runnable, which has no conversation that could be forked.
        config: the thread's, perhaps with a `checkpoint_id` to go on from.

    Raises:
        BadInput: the config is that of a run that is under way; attempts within a graph are made by `Send` and `on_branch`.
    """

    def __init__(self, agent: Runnable[Any, Any], config: RunnableConfig | None) -> None:
        if is_running(config):
            raise BadInput("this is called from within a run of the thread; in a graph, Send to nodes that are made by on_branch instead")
        self.agent = agent
        self.config = config or RunnableConfig()
        self._configurable: Mapping[str, Any] = self.config.get("configurable") or {}
        has_thread = self._configurable.get("thread_id") is not None
        checkpointer = agent.checkpointer if isinstance(agent, Pregel) and has_thread else None
        self._graph = cast("Pregel[Any, Any, Any, Any]", agent) if checkpointer not in {None, True, False} else None
        self.versioned = hasattr(checkpointer, "versions")  # not by its class, which is another one after a reload
        """Whether the machine goes with the conversation."""
        self.savers: list[VersSaver] | None = None if self._graph is None else [cast("VersSaver", checkpointer)] if self.versioned else []
        """Those that may know of the thread's machine; None: any."""
        self.in_threads = False
        """Whether only the sync methods of the agent can be used."""
        self.adopted = False
        """Whether an attempt has won."""
        self._start: RunnableConfig | None = None
        self._pool = concurrent.futures.ThreadPoolExecutor(256, "langchain-vers-trial")

    async def begin(self) -> None:
        """Find the point that all go on from; a thread without any checkpoint gets an empty one.

        Raises:
            Gone: there is no such checkpoint.
        """
        if self._graph is None:
            return
        graph = self._graph
        try:
            state = await graph.aget_state(self.config)
        except NotImplementedError:
            self.in_threads = True
            state = await self._blocking(graph.get_state, self.config)
        if (state.config["configurable"]).get("checkpoint_id") is not None and state.created_at is not None:
            self._start = state.config
        elif self._configurable.get("checkpoint_id") is not None:
            raise Gone(f"the thread has no checkpoint {self._configurable['checkpoint_id']}; nothing was done")
        else:
            update = self._blocking(graph.update_state, self.config, None) if self.in_threads else graph.aupdate_state(self.config, None)
            self._start = await update

    async def attempt(self, given: Any, lane: str, more: RunnableConfig) -> Any:  # noqa: ANN401  # as the agent takes and gives them
        """Run the agent once, in a lane of the thread."""
        start = self._start
        if start is not None and isinstance(given, Command) and given.resume is not None:
            # An answer is for the tasks of the checkpoint itself, whose results would be the next attempt's, too.
            start = await self._copy(start, lane)
        configurable = {**self._configurable, **({} if start is None else start["configurable"]), "vers_branch": lane}
        config: RunnableConfig = {
            **self.config,
            **more,
            "configurable": configurable,
            "metadata": {**(self.config.get("metadata") or {}), TRIAL: lane},
        }
        if self.in_threads:
            return await self._blocking(self.agent.invoke, given, config)
        return await self.agent.ainvoke(given, config)

    async def adopt(self, lane: str) -> None:
        """Make the end of an attempt the thread's newest state, if there is a conversation.

        Raises:
            Gone: the attempt has left no checkpoint.
        """
        graph = self._graph
        if graph is not None:
            thread: RunnableConfig = {"configurable": {"thread_id": self._configurable["thread_id"]}}

            def newest() -> RunnableConfig | None:
                return next((state.config for state in graph.get_state_history(thread, filter={TRIAL: lane}, limit=1)), None)

            if self.in_threads:
                end = await self._blocking(newest)
            else:
                found = [state.config async for state in graph.aget_state_history(thread, filter={TRIAL: lane}, limit=1)]
                end = found[0] if found else None
            if end is None:
                raise Gone(f"the attempt {lane} has stored no checkpoint, so that the thread cannot go on from it")
            await self._copy(end)
        self.adopted = True

    async def give_up(self) -> None:
        """Have the thread go on from where all began: the newest state is some attempt's now."""
        if self._start is not None:
            await self._copy(self._start)

    async def _copy(self, state: RunnableConfig, lane: str = "") -> RunnableConfig:
        """Make a copy of a state, beside it, the thread's newest one."""
        assert self._graph is not None
        at: RunnableConfig = {"configurable": {**state["configurable"], "vers_branch": lane}} if lane else state
        if self.in_threads:
            return await self._blocking(self._graph.update_state, at, None, "__copy__")
        return await self._graph.aupdate_state(at, None, as_node="__copy__")

    async def _blocking(self, function: Callable[..., T], *args: Any) -> T:  # noqa: ANN401  # those of the function
        """A cancelled call is waited for: what it still stores must not come after what is stored of the exploration's end."""
        context = contextvars.copy_context()
        running = asyncio.wrap_future(self._pool.submit(context.run, function, *args))
        running.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be there to hear of it
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    def close(self) -> None:
        """Wait for what runs in threads."""
        self._pool.shutdown(wait=True)
