"""Deep Agents on this package's machines: `create_deep_agent(backend=VersSandbox(...))`. Needs the extra `deepagents`."""

try:
    import deepagents as _deepagents  # noqa: F401  # to say what is missing
except ImportError as error:
    raise ImportError('VersSandbox is a backend for Deep Agents; pip install "langchain-vers[deepagents]"') from error

from langchain_vers.integrations.deepagents.sandbox import VersSandbox
from langchain_vers.integrations.deepagents.subagents import SubAgentMachine

__all__ = ["SubAgentMachine", "VersSandbox"]
