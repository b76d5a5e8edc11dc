"""Output of a call while it runs, on all ways that LangChain has for it.

Each piece is given out three times, and costs nothing where nobody listens:

- on the stream mode "tools", as `tool-output-delta` of the call;
- on the stream mode "custom", and to `get_stream_writer()` in the functional API, as
  `{"type": "tool_output", "tool": name, "tool_call_id": id, "delta": text}`;
- to callback handlers and the events API, as the custom event "tool_output" with the same data, a child of the tool's run.

What is seen, and when (`tests/tools/test_streaming.py` has a test for each line, `tests/test_langgraph_server.py` for the server's):

| way | output while the command runs |
|---|---|
| `stream_mode="custom"`, alone or with others | yes |
| `stream_mode="tools"`, also with "updates", "values" or "tasks" beside it | at the end of the step, for which LangGraph waits |
| "tools" with "custom" or "messages" beside it, or with `subgraphs=True`, or if `graph.stream_eager = True` was set once | yes |
| `stream_mode="updates"` or "values" | no, these show states, and a state has the whole result; put "custom" beside it |
| `astream_events(version="v2")` | yes, `on_custom_event` named "tool_output" |
| `stream_events(version="v3")`, `astream_events(version="v3")` | yes, `output_deltas` of each call in `run.tool_calls` |
| a server's `runs.stream(stream_mode="custom")` or "events" | yes, as above; LangGraph Server has no mode "tools" there |
| a server's `threads.stream(...)` | yes, `tool-output-delta` in `stream.events`; the SDK gives the deltas of `stream.tool_calls` later |
"""

from __future__ import annotations

import asyncio
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler, AsyncCallbackManager, BaseCallbackHandler, BaseCallbackManager, CallbackManager
from langgraph.config import get_stream_writer
from langgraph.prebuilt import ToolRuntime

EVENT = "tool_output"
"""What output is called in the stream mode "custom" (its "type") and among custom events (their name)."""
_SILENT = (BaseCallbackHandler.on_custom_event, AsyncCallbackHandler.on_custom_event)


class Shower:
    """Shows the output of one call. Used in the thread and context, and on the loop, of whoever calls the tool."""

    def __init__(self, tool: str, runtime: ToolRuntime | None, call_id: str | None, callbacks: BaseCallbackManager | None) -> None:
        self._facts = {"type": EVENT, "tool": tool, "tool_call_id": call_id}
        self._runtime = runtime
        self._callbacks = callbacks if callbacks is not None and any(map(_listens, callbacks.handlers)) else None
        self._telling: list[asyncio.Task[None]] = []

    def __call__(self, delta: str) -> None:
        """Show a piece."""
        data: dict[str, Any] = {**self._facts, "delta": delta}
        self._tell(data)
        if self._runtime is not None:
            self._runtime.emit_output_delta(delta)
            write = self._runtime.stream_writer
        else:
            try:
                write = get_stream_writer()  # a task of the functional API, or a node that calls the tool itself
            except (RuntimeError, KeyError):
                return  # outside of any graph nobody watches
        write(data)

    def _tell(self, data: dict[str, Any]) -> None:
        callbacks = self._callbacks
        if isinstance(callbacks, AsyncCallbackManager):
            telling = callbacks.on_custom_event(EVENT, data, run_id=callbacks.parent_run_id)
            self._telling = [task for task in self._telling if not task.done()]
            self._telling.append(asyncio.get_running_loop().create_task(telling))
        elif isinstance(callbacks, CallbackManager):
            callbacks.on_custom_event(EVENT, data, run_id=callbacks.parent_run_id)

    async def told(self) -> None:
        """Wait until all handlers have heard of everything: nothing is to come after the end of the call."""
        await asyncio.gather(*self._telling)


def _listens(handler: BaseCallbackHandler) -> bool:
    """Whether a handler does anything about custom events; tracers, which are always there, do not."""
    return not handler.ignore_custom_event and type(handler).on_custom_event not in _SILENT
