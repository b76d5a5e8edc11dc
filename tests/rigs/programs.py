"""Programs that some tests need beside Python and a POSIX system."""

from __future__ import annotations

import os
import shutil

import pytest


def require(program: str, package: str) -> str:
    """The path of a program. Without it the test is skipped, other than under CI, where it fails. `package` is its Debian package."""
    # Where servers lie is not on every user's path.
    found = shutil.which(program, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        reason = f"{program} is not installed; it is in the package {package}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found
