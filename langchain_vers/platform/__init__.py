"""The Vers platform: its HTTP API with types (`VersClient`), and who asks it and where (`Credentials`, `Endpoints`).

`models` holds the shapes of the API; import them from there.
"""

from langchain_vers.platform.client import VersClient
from langchain_vers.platform.credentials import DEFAULT_BASE_URL, Credentials, Endpoints, ResolvedKey
from langchain_vers.platform.models import (
    VM,
    CommitInfo,
    TagInfo,
    VmCreateVmConfig,
    VmExecStreamChunk,
    VmExecStreamExit,
    VmState,
    VmUpdateStateEnum,
)

__all__ = [
    "DEFAULT_BASE_URL",
    "VM",
    "CommitInfo",
    "Credentials",
    "Endpoints",
    "ResolvedKey",
    "TagInfo",
    "VersClient",
    "VmCreateVmConfig",
    "VmExecStreamChunk",
    "VmExecStreamExit",
    "VmState",
    "VmUpdateStateEnum",
]
