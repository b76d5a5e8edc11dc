"""Which machine a thread is on: the small fact that is remembered, persisted and put into every result."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Attachment(BaseModel):
    """A thread's machine at a point of its history. Immutable, plain JSON, no secrets.

    Attributes:
        backend: the name of the backend, such as "vers" or "local".
        machine_id: which machine of it; None where there is only one.
        commit: the version of the machine that this point of the history is known to equal, None if none was made.
        cwd: the working directory that the thread's last command left; None is the backend's own default.
        host_key: the SSH host key's fingerprint that the machine showed first ("SHA256:..."), None where there is none.
        shared: whether the machine is deliberately used by others too; such a machine is followed, and never versioned or rewound.
    """

    model_config = ConfigDict(frozen=True)

    backend: str
    machine_id: str | None = None
    commit: str | None = None
    cwd: str | None = None
    host_key: str | None = None
    shared: bool = False

    def same_machine(self, other: Attachment | None) -> bool:
        """Whether both are on one machine, wherever in it."""
        return other is not None and (self.backend, self.machine_id) == (other.backend, other.machine_id)

    def moved(self, **changes: str | bool | None) -> Attachment:
        """The same with some facts changed."""
        return self.model_copy(update=changes)


HERE = Attachment(backend="local")
"""Where every thread begins that is given no machine: this one."""
PROMISED = Attachment(backend="vers")
"""Where every thread begins that is to have a machine of its own: on that, before it is made (see `provision`)."""
