"""What the graph and its checkpointer have in common."""

from langchain_vers import BackendContext

context = BackendContext(local=False)
