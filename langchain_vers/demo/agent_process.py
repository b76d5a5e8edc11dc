"""A process in which the second act's agent works: `python -m langchain_vers.demo.agent_process`. It may be killed at any moment.

It is given one JSON object a line on standard input, first where it works,

    {"reach": {...}, "database": "...", "thread": "..."}            `reach`: arguments of `BackendContext`, with the key

and then what to do, one after the other, until there is no more:

    {"script": "work"}                                              say the script's request, and work
    {"script": "work", "resume": true}                              go on with what was broken off
    {"script": "again", "back": 3}                                  say it to the conversation as it was so many tool calls ago

It tells what happens the same way: `{"message": ...}` in the form of `message_to_dict`, `{"output": "..."}`, and at the end of each order
`{"machine": "...", "commit": "..."}`. An order's `hold` is a text: when a command has printed it, the process stands still, and waits for
its end: nothing more of the run is stored, however fast the command is.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage, ToolMessage, message_to_dict
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from langchain_vers.checkpoint import VersSaver
from langchain_vers.context import BackendContext
from langchain_vers.demo.bookkeeping import SCRIPTS
from langchain_vers.demo.course import messages_in, output_in
from langchain_vers.demo.scripted import ScriptedModel
from langchain_vers.toolkit import VersToolkit


async def main() -> None:
    """Carry out what standard input says, to its end."""
    place = json.loads(await asyncio.to_thread(sys.stdin.readline))
    context = BackendContext(local=False, **place["reach"])
    config: RunnableConfig = {"configurable": {"thread_id": place["thread"]}}
    try:
        async with AsyncSqliteSaver.from_conn_string(place["database"]) as inner:
            saver = VersSaver(inner, context)
            while line := await asyncio.to_thread(sys.stdin.readline):
                await _carry_out(json.loads(line), saver, config)
    finally:
        await context.aclose()


async def _carry_out(order: Mapping[str, Any], saver: VersSaver, config: RunnableConfig) -> None:
    request, steps = SCRIPTS[order["script"]]
    agent = create_agent(ScriptedModel(steps=steps), VersToolkit(context=saver.context).get_tools(), checkpointer=saver)
    given: Any = None if order.get("resume") else {"messages": [HumanMessage(request)]}
    start = config
    if "back" in order:
        history = [state async for state in agent.aget_state_history(config)]
        after_calls = [state for state in history if isinstance((state.values.get("messages") or [None])[-1], ToolMessage)]
        start = after_calls[order["back"]].config
    hold, printed = order.get("hold"), ""
    async for mode, piece in agent.astream(given, start, stream_mode=["updates", "custom"]):
        if mode == "custom":
            printed += output_in(piece)
            _tell(output=output_in(piece))
            if hold and hold in printed:
                sys.stdin.read()  # on the loop's own thread: so the run stands still until the end
                return
            continue
        for message in messages_in(piece):
            _tell(message=message_to_dict(message))  # type: ignore[arg-type]  # an agent's updates hold messages
    metadata: Mapping[str, Any] = (await agent.aget_state(config)).metadata or {}
    _tell(machine=metadata.get("vers_machine"), commit=metadata.get("vers_commit"))


def _tell(**facts: Any) -> None:  # noqa: ANN401  # JSON
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
