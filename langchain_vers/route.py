"""Where a call goes, once that is decided: a live backend, and how the paths of the call are meant there."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_vers.attachment import Attachment
from langchain_vers.backends.base import Backend
from langchain_vers.backends.paths import UNMAPPED, PathMap
from langchain_vers.errors import BadInput
from langchain_vers.versions import Arrival


@dataclass(frozen=True)
class Route:
    """Where a call goes: a live backend, and the attachment that led there."""

    backend: Backend
    """Where the call is carried out."""
    attachment: Attachment
    """The thread's, as it was when the call was routed."""
    arrival: Arrival | None = None
    """What it took to have the machine where the conversation is; None for machines that are not versioned."""
    paths: PathMap = UNMAPPED
    """Which folders of the host the machine has under which names."""

    @property
    def cwd(self) -> str | None:
        """Where commands start and relative paths begin; None is the backend's own default."""
        return self.attachment.cwd

    def locate(self, path: str) -> tuple[str, str | None]:
        """A path as the backend takes it, and the directory that it is relative to. `~` is the home directory of the machine itself.

        A path of the host that the machine sees under another name is translated.

        Raises:
            BadInput: the path begins with `~` and a user's name, or leads through a folder of the host with `..`.
            Denied: it is a private path of the host.
        """
        if not path.startswith("~"):
            return self.paths.argument(path) if self.paths else path, self.cwd
        tilde, _, rest = path.partition("/")
        if tilde != "~":
            raise BadInput(
                f"{path} begins with another user's home, which is not looked up; give the whole path, or ./{path} for that name"
            )
        rest = rest.lstrip("/")
        user_home: str | None = getattr(self.backend, "user_home", None)
        if user_home is not None:  # its commands start elsewhere than at home
            return f"{user_home}/{rest}", None
        return rest or ".", None
