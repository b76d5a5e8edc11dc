"""`python -m langchain_vers.demo`, the same as `langchain-vers demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from langchain_vers.demo.options import DemoOptions, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the arguments and run the demo; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m langchain_vers.demo", description="Watch an agent work on a VM.")
    parser.add_argument("--model", metavar="PROVIDER:NAME", help="let this model do the work instead of a script")
    parser.add_argument("--data-dir", type=Path, help="folder of the embedded Vers to use, which stays (default: a temporary one)")
    parser.add_argument("--keep", action="store_true", help="leave the machines and the server for a look")
    parser.add_argument("--vers", action="store_true", help="use the configured Vers platform")
    parser.add_argument("--act", type=int, choices=(1, 2), help="play one act only: 1, the tools; 2, a crash and time travel")
    parsed = parser.parse_args(arguments)
    return run(DemoOptions(model=parsed.model, data_dir=parsed.data_dir, keep=parsed.keep, vers=parsed.vers, act=parsed.act))


if __name__ == "__main__":
    sys.exit(main())
