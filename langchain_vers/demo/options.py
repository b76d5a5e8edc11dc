"""What a demo can be asked for, and the way into it. The packages that it needs are imported in `run`, so that asking for help is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from langchain_vers.demo.scripted import Step

INSTALL_HINT = 'The demo needs packages that are not installed; install them with: pip install "langchain-vers[demo]"'


@dataclass(frozen=True)
class DemoOptions:
    """How to run the demo."""

    model: str | BaseChatModel | None = None
    """`provider:name` for `init_chat_model`, or a model, which is given a task; None plays the script."""
    data_dir: Path | None = None
    """Folder of the embedded Vers, which stays; None is a temporary one."""
    keep: bool = False
    """Leave machines, server and folders as they are."""
    vers: bool = False
    """Use the configured Vers platform instead of an embedded one."""
    engine: str = "namespaces"
    """Engine of the embedded Vers."""
    script: Sequence[Step] | None = None
    """What the scripted model plays in the first act; None is the demo's own script."""
    act: int | None = None
    """Play this act only, 1 or 2; None plays both, and of a model or script of one's own the first."""


def run(options: DemoOptions) -> int:
    """Run the demo on this process's standard output.

    Returns the exit status: 0 all steps checked out; 1 something did not, or could not be done; 2 it cannot begin as asked for (a package,
    key or model is missing); 128 and the signal's number if it was interrupted.
    """
    try:
        from langchain_vers.demo.play import perform  # noqa: PLC0415  # see above
    except ImportError as error:
        sys.stderr.write(f"langchain-vers: {INSTALL_HINT} ({error.name} is missing).\n")
        return 2
    except KeyboardInterrupt:
        return 130
    return perform(options)
