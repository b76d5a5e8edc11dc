"""The folder of this machine that belongs to one backend with a sandbox, and is gone when that is: also when its process was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
from pathlib import Path

from langchain_vers.backends import jail

AS_ROOT = ("unshare", "--user", "--map-root-user")
"""Before tools that handle what commands left behind: files whose modes keep their own user out, as well."""
PREFIX = "vers-bwrap-"


class Own:
    """A folder of this machine that belongs to one backend: `passwd` and the like, the pipes of sessions, copies of mounts."""

    def __init__(self) -> None:
        sweep(Path(tempfile.gettempdir()))
        making = Path(tempfile.mkdtemp(prefix=".vers-"))
        self._lock = os.open(making / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        # Under this name it is swept, should nobody hold its lock.
        self.path = str(making.rename(making.with_name(f"{PREFIX}{making.name.removeprefix('.vers-')}")))
        Path(self.path, "io").mkdir(0o700)
        for name, text in jail.own_files().items():
            Path(self.path, name).write_text(text)

    def remove(self) -> None:
        """Remove it."""
        subprocess.run([*AS_ROOT, "rm", "-rf", "--one-file-system", "--", self.path], check=False, capture_output=True)
        os.close(self._lock)


def sweep(parent: Path) -> None:
    """Remove the folders of processes that were killed: nobody holds their locks any more."""
    for folder in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.lstat().st_uid != os.geteuid():  # anybody may make anything here
                continue
        with contextlib.suppress(OSError), (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            subprocess.run([*AS_ROOT, "rm", "-rf", "--one-file-system", "--", str(folder)], check=False, capture_output=True)
