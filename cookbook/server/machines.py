"""What the agent and its checkpointer have in common: where the threads' machines are, and what may be done on them."""

import os

from langchain_vers import BackendContext, Policy
from langchain_vers.policy import Ask, Rule

context = BackendContext(
    local=False,  # nothing runs on the server itself
    provision=os.environ.get("GOLDEN") or True,  # each thread has a VM of its own: from a commit or tag of yours, or a new one
    policy=Policy.careful().after(Rule(Ask("This deletes files."), commands=["rm *"])),  # risky commands are asked about
    idle_pause=float(os.environ.get("IDLE_PAUSE", "600")),  # seconds
)
