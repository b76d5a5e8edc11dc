"""Whether an agent's tools are of the context that somebody routes by: those of another one would work where its threads are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from langchain_vers.errors import BadInput

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext


def check_tools(agent: object, context: BackendContext) -> None:
    """Refuse an agent whose tools would work elsewhere, as far as that can be seen: those of a graph's tool nodes.

    Raises:
        BadInput: one of them is of another context.
    """
    nodes = getattr(agent, "nodes", None)
    for node in nodes.values() if isinstance(nodes, Mapping) else ():
        tools = getattr(getattr(node, "bound", None), "tools_by_name", None)
        for name, tool in tools.items() if isinstance(tools, Mapping) else ():
            others = getattr(tool, "_context", context)
            if others is not context:
                raise BadInput(
                    f"the agent's tool {name} is of another context, and would work on another machine than is meant; make the tools "
                    "with VersToolkit(context=context), and give the same context here"
                )
