"""A machine of its own for each thread, made by the first call that needs one.

`VersToolkit(provision=...)` says what machine that is:

- True: a new VM.
- a string: a VM that is restored from a tag, a commit (its id, the beginning of it, or its name), or `repo:tag`. Where a tag points to is
  looked up for each thread anew.
- a function, sync or async, that is given the thread's id (None for calls without a thread) and gives the id, label or alias of a VM, or
  None for a new one. It runs in a thread of its own (an async one on an event loop of its own there), where
  `langgraph.config.get_config()` is the config of the run. It is asked once for a thread, unless it fails, or the thread goes back to
  before its first use; if the call is cancelled that wanted the answer, the next one gets it.
- None or False: threads have no machine until they make or choose one.

A thread begins *on its own machine*: it never works on this one by itself, also where `local` allows that; `vers_vm_local` and
`use_backend` still bring it here on purpose. What does not need a machine (lists of VMs, looking at a state, a prompt, going elsewhere)
makes none. Several calls at once, of one message or of several workers, get one machine. VMs that are made are labelled as those of tools
are, so that they go with their thread. A machine that could not be made is an error of the call: nothing is run, and nothing is left
behind. One that a function has given is nobody's to delete. Which machine it was is remembered like any other: by a `VersSaver`, where a
checkpoint from before the first use has no machine and a fork from there gets another one; without one by the artifacts of the
conversation.

What a thread begins with is decided by whoever writes the program: rules about `vers_vm_create` are about calls of that tool. Rules about
paths have them looked up on the machine, which is made for that if need be.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from langchain_vers.errors import BadInput

Chooser = Callable[[str | None], str | Awaitable[str | None] | None]
"""`chooser(thread_id)` gives a VM's id, or None for a new one."""
Provision = bool | str | Chooser | None
"""What machine threads begin on; see the module."""


def check(provision: Provision, vm: str | None = None) -> str | Chooser | bool:
    """What was given, False if nothing was.

    Raises:
        BadInput: it is nothing that leads to a machine, or all threads are to be on one machine (`vm`) already.
    """
    if provision is None or provision is False:
        return False
    if isinstance(provision, str):
        provision = provision.strip()
    if not (provision is True or (isinstance(provision, str) and provision and "\0" not in provision) or callable(provision)):
        raise BadInput(
            f"provision={provision!r} names no machine where threads could begin; "
            "give True, a commit's id, a tag, or a function of the thread's id"
        )
    if vm is not None:
        raise BadInput("vm= puts every thread on one machine, and provision= gives each one its own; give only one of them")
    return provision
