"""A commit is made while the model thinks, and the next call of the thread waits for it, never the other way round."""

from __future__ import annotations

import threading
from typing import Any

from agents import ScriptedModel
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage

from langchain_vers._io import io, run
from versions.worlds import GO, World, answers, append, check, create, head, script, thread

PATIENCE = 30.0


class Thinking(ScriptedModel):
    """A model that tells when it is asked."""

    asked: Any

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> Any:
        self.asked(messages)
        return super()._generate(messages, *args, **kwargs)


class Starts(BaseCallbackHandler):
    """Tells when a tool is called."""

    def __init__(self) -> None:
        self.called = threading.Event()

    def on_tool_start(self, serialized: Any, input_str: str, **kwargs: Any) -> None:
        if "echo b" in input_str:
            self.called.set()


def test_the_model_thinks_while_the_machine_is_committed_and_the_next_call_waits(world: World) -> None:
    starts, model_went_on = Starts(), threading.Event()
    order: list[str] = []
    made: list[str] = []

    def asked(messages: list[BaseMessage]) -> None:
        if "did a" in str(messages[-1].content):
            order.append("model")
            model_went_on.set()

    with world.process() as process:
        client = run(process.context.client())
        commit_vm = client.commit_vm

        async def slow(vm_id: str, **options: Any) -> str:
            """The second commit takes until the model has answered and its next call has begun."""
            made.append(vm_id)
            if len(made) == 2:
                assert await io.blocking(lambda: model_went_on.wait(PATIENCE))
                assert await io.blocking(lambda: starts.called.wait(PATIENCE))
                await client.exec(vm_id, ["true"])  # a call that did not wait would have got there first
                order.append("commit")
            return await commit_vm(vm_id, **options)

        client.commit_vm = slow  # type: ignore[method-assign]
        model = Thinking(script=script(create(), [append("a")], [append("b")], "done"), asked=asked)
        graph = create_agent(model, process.tools, checkpointer=process.saver)
        state = graph.invoke(GO, {**thread(), "callbacks": [starts]})
        assert order == ["model", "commit"]
        assert answers(state)[-1].content == "did b"
        assert world.log(head(graph, thread())["vers_machine"]) == ["a", "b"]
        check(process, graph, thread())  # the commit after a has no b in it
