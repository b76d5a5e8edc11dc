"""A computer for LangChain agents and LangGraph workflows that they can leave, come back to, fork and rewind.

`VersToolkit` is what most programs need; `BackendContext` is the router that it is built around, and can be shared between toolkits. The errors are
in `langchain_vers.errors`, the backend protocol in `langchain_vers.backends.base`, the platform's client in `langchain_vers.platform`.
"""

from langchain_vers.attachment import Attachment
from langchain_vers.backends.base import Backend, Snapshots
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.vers import VersBackend
from langchain_vers.context import BackendContext
from langchain_vers.errors import VersError
from langchain_vers.platform import VersClient
from langchain_vers.toolkit import VersToolkit

__all__ = [
    "Attachment",
    "Backend",
    "BackendContext",
    "LocalBackend",
    "Snapshots",
    "VersBackend",
    "VersClient",
    "VersError",
    "VersToolkit",
]
