"""A computer for LangChain agents and LangGraph workflows that they can leave, come back to, fork and rewind.

`VersToolkit` is what most programs need; `BackendContext` is the router that it is built around, and can be shared between toolkits. The
errors are in `langchain_vers.errors`, what the rules of a policy are made of in `langchain_vers.policy`, the backend protocol in
`langchain_vers.backends.base`, the platform's client in `langchain_vers.platform`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_vers.attachment import Attachment
    from langchain_vers.backends.base import Backend, Snapshots
    from langchain_vers.backends.bubblewrap import BubblewrapBackend
    from langchain_vers.backends.docker import DockerBackend
    from langchain_vers.backends.environment import Secret
    from langchain_vers.backends.gondolin import GondolinBackend
    from langchain_vers.backends.layered import LayeredBubblewrapBackend
    from langchain_vers.backends.local import LocalBackend
    from langchain_vers.backends.paths import Mount
    from langchain_vers.backends.seatbelt import SeatbeltBackend
    from langchain_vers.backends.ssh import SSHBackend
    from langchain_vers.backends.vers import VersBackend
    from langchain_vers.bang_commands import user_commands
    from langchain_vers.branches import Branches
    from langchain_vers.checkpoint import VersSaver
    from langchain_vers.context import BackendContext
    from langchain_vers.errors import VersError
    from langchain_vers.exploration import aexplore, explore
    from langchain_vers.golden_machines import agolden, golden
    from langchain_vers.machine import Machine
    from langchain_vers.middleware import VersMiddleware
    from langchain_vers.platform import VersClient
    from langchain_vers.policy import Policy
    from langchain_vers.toolkit import VersToolkit
    from langchain_vers.trials import Budget, Exploration, Trial
    from langchain_vers.workers import on_branch

# Imported when they are asked for: the command line and the embedded server must not wait for LangChain.
_HOMES = {
    "Attachment": "attachment",
    "Backend": "backends.base",
    "BackendContext": "context",
    "Branches": "branches",
    "BubblewrapBackend": "backends.bubblewrap",
    "Budget": "trials",
    "DockerBackend": "backends.docker",
    "Exploration": "trials",
    "GondolinBackend": "backends.gondolin",
    "LayeredBubblewrapBackend": "backends.layered",
    "LocalBackend": "backends.local",
    "Machine": "machine",
    "Mount": "backends.paths",
    "Policy": "policy",
    "SSHBackend": "backends.ssh",
    "SeatbeltBackend": "backends.seatbelt",
    "Secret": "backends.environment",
    "Snapshots": "backends.base",
    "Trial": "trials",
    "VersBackend": "backends.vers",
    "VersClient": "platform",
    "VersError": "errors",
    "VersMiddleware": "middleware",
    "VersSaver": "checkpoint",
    "VersToolkit": "toolkit",
    "aexplore": "exploration",
    "agolden": "golden_machines",
    "explore": "exploration",
    "golden": "golden_machines",
    "on_branch": "workers",
    "user_commands": "bang_commands",
}

__all__ = [
    "Attachment",
    "Backend",
    "BackendContext",
    "Branches",
    "BubblewrapBackend",
    "Budget",
    "DockerBackend",
    "Exploration",
    "GondolinBackend",
    "LayeredBubblewrapBackend",
    "LocalBackend",
    "Machine",
    "Mount",
    "Policy",
    "SSHBackend",
    "SeatbeltBackend",
    "Secret",
    "Snapshots",
    "Trial",
    "VersBackend",
    "VersClient",
    "VersError",
    "VersMiddleware",
    "VersSaver",
    "VersToolkit",
    "aexplore",
    "agolden",
    "explore",
    "golden",
    "on_branch",
    "user_commands",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whichever public name it is
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
