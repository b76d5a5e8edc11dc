"""What is offered: the fixed list of tools, built around one context.

`VersToolkit().get_tools()` is all that most programs need. Which tools there are and what they are called never changes at run time;
where they run is the context's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from langchain_core.tools import BaseTool, BaseToolkit
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, SkipValidation, ValidationError

from langchain_vers.backends.environment import Environment
from langchain_vers.backends.paths import Mount
from langchain_vers.backends.vers import Transport
from langchain_vers.context import BackendContext
from langchain_vers.errors import BadInput
from langchain_vers.policy import Policy
from langchain_vers.provision import Provision
from langchain_vers.tools import files, machines, search, shell
from langchain_vers.tools.adapter import build
from langchain_vers.tools.base import ToolSpec

WORKING_TOOLS = tuple(spec.name for spec in (*shell.SPECS, *files.SPECS, *search.SPECS))
"""Names of the tools that work on the current machine."""
MACHINE_TOOLS = tuple(spec.name for spec in machines.SPECS)
"""Names of the tools that make, choose and version machines."""


class VersToolkit(BaseToolkit):
    """Tools for a computer that the agent can leave, come back to, fork and rewind.

    All arguments but these two are those of `BackendContext`, for a context of the toolkit's own.

    Args:
        tools: names of the tools to offer, default all; see `WORKING_TOOLS` and `MACHINE_TOOLS`.
        context: a context to share with others, instead of one of its own.

    Raises:
        BadInput: an unknown tool name, both a context and arguments for one, or a value that makes no sense.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True)

    vm: str | None = None
    provision: Annotated[Provision, SkipValidation] = None
    local: bool | str | os.PathLike[str] = True
    tools: Sequence[str] | None = None
    shared_folder: str | os.PathLike[str] | None = None
    api_key: SecretStr | Callable[[], str] | None = Field(None, repr=False)
    base_url: str | None = None
    ssh_endpoint: str | None = None
    ca_file: str | os.PathLike[str] | None = None
    data_dir: str | os.PathLike[str] | None = None
    transport: Transport = "ssh"
    idle_pause: float | None = None
    policy: Policy | None = None
    env: Mapping[str, Any] | None = Field(None, repr=False)
    mounts: Sequence[Mount] = ()
    context: BackendContext | None = None
    _context: BackendContext = PrivateAttr()

    def __init__(
        self,
        *,
        vm: str | None = None,
        provision: Provision = None,
        local: bool | str | os.PathLike[str] = True,
        tools: Sequence[str] | None = None,
        shared_folder: str | os.PathLike[str] | None = None,
        api_key: str | SecretStr | Callable[[], str] | None = None,
        base_url: str | None = None,
        ssh_endpoint: str | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        transport: Transport | None = None,
        idle_pause: float | None = None,
        policy: Policy | None = None,
        env: Environment | None = None,
        mounts: Sequence[Mount] | None = None,
        context: BackendContext | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "vm": vm,
            "provision": provision,
            "local": local,
            "tools": tools,
            "shared_folder": shared_folder,
            "api_key": api_key,
            "base_url": base_url,
            "ssh_endpoint": ssh_endpoint,
            "ca_file": ca_file,
            "data_dir": data_dir,
            "transport": transport,
            "idle_pause": idle_pause,
            "policy": policy,
            "env": env,
            "mounts": mounts,
            "context": context,
        }
        try:
            super().__init__(**{name: value for name, value in options.items() if value is not None and (name, value) != ("local", True)})
        except ValidationError as error:
            said = [f"{item['loc'][0]}: {item['msg']}" if item["loc"] else item["msg"] for item in error.errors(include_input=False)]
            raise BadInput("; ".join(text.removeprefix("Value error, ") for text in said)) from None

    def model_post_init(self, _: Any, /) -> None:  # noqa: ANN401  # as pydantic declares it
        """Make the context, or take the one that was given.

        Raises:
            BadInput: a context was given, and beside it what is for one.
        """
        options = {name: getattr(self, name) for name in type(self).model_fields if name not in {"tools", "context"}}
        if self.context is None:
            self._context = BackendContext(**options)
            self.context = self._context
        elif self.model_fields_set - {"context", "tools"}:
            raise BadInput(f"give these to the context, not beside it: {', '.join(sorted(self.model_fields_set - {'context', 'tools'}))}")
        else:
            self._context = self.context
        self._select()

    def get_tools(self) -> list[BaseTool]:
        """The tools, in a fixed order, each with a sync and an async face. They are made anew by each call.

        Raises:
            BadInput: a name in `tools` is no tool's; `use_backend` is one once a further backend is registered.
        """
        specs = self._select()
        moves = {spec.name: spec.moves for spec in specs}

        def may_move(name: str, arguments: Mapping[str, Any]) -> bool | None:
            return moves[name](arguments) if name in moves else None

        by_name = {spec.name: spec for spec in specs}
        return [build(spec, self._context, may_move, by_name) for spec in specs]

    def _select(self) -> list[ToolSpec]:
        specs = [*shell.SPECS, *files.SPECS, *search.SPECS, *machines.SPECS]
        if self._context.registered:
            specs.append(machines.USE_BACKEND)
        if self.tools is None:
            return specs
        known = {spec.name for spec in specs}
        unknown = [name for name in self.tools if name not in known]
        if unknown:
            raise BadInput(f"no tool is named {', '.join(map(repr, unknown))}; there are {', '.join(sorted(known))}")
        return [spec for spec in specs if spec.name in set(self.tools)]

    def close(self) -> None:
        """Give back connections and processes of this side; destroys no machine."""
        self._context.close()

    async def aclose(self) -> None:
        """See `close`."""
        await self._context.aclose()
