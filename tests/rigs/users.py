"""An ordinary user for tests that root runs: the rights that file modes give mean nothing to root."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = os.geteuid() == 0
NOBODY = 65534


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Within it root has the rights of an ordinary user, and an ordinary user their own. It holds for the whole process."""
    if not ROOT:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, 0)
    os.setresuid(NOBODY, NOBODY, 0)  # the saved user is the way back, and not passed on to other programs
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


@contextlib.contextmanager
def folder_of_ordinary_user() -> Iterator[Path]:
    """A folder that an ordinary user can reach and owns (pytest's own lie below one that is root's); it is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="vers-test-"))
    if ROOT:
        os.chown(folder, NOBODY, NOBODY)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
