"""What a file operation of Deep Agents costs through `VersSandbox`, next to a plain `BaseSandbox` on the same VM.

The plain one runs its scripts through the same backend and connection, so that only what the two do differs.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from benchmarks.rig import Rig, Row, series_ms
from langchain_vers._io import io
from langchain_vers.integrations.deepagents import VersSandbox

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

TREE = "for d in $(seq 20); do mkdir -p /root/tree/src/d$d; for f in $(seq 10); do seq 200 >/root/tree/src/d$d/f$f.py; done; done"
"""200 files of 200 lines."""


def measure(rig: Rig) -> list[Row]:
    from casts import PlainSandbox

    ours, plain = VersSandbox(rig.context), PlainSandbox(rig.backend)
    io.run(rig.backend.exec(TREE))
    text = "line\n" * 200
    path, sources = "/root/tree/src/d1/f1.py", "/root/tree/src"
    edits = {id(each): iter(range(1_000_000)) for each in (ours, plain)}

    def edit(sandbox: VersSandbox | PlainSandbox) -> None:
        number = next(edits[id(sandbox)])
        name = f"/root/tree/{type(sandbox).__name__}"
        if number == 0:
            sandbox.write(name, f"{text}number 0\n")
        assert sandbox.edit(name, f"number {number}\n", f"number {number + 1}\n").error is None

    operations = {
        "ls": lambda sandbox: sandbox.ls(sources),
        "read": lambda sandbox: sandbox.read(path),
        "write": lambda sandbox: sandbox.write("/root/tree/new/file.py", text),
        "edit": edit,
        "grep": lambda sandbox: sandbox.grep("117", sources, "d1*/*.py"),
        "glob": lambda sandbox: sandbox.glob("**/f1.py", sources),
    }
    series = 5
    ratios, said = [], []
    for name, operation in operations.items():
        found = series_ms({"ours": lambda run=operation: run(ours), "plain": lambda run=operation: run(plain)}, series=series, runs=10)
        mine, theirs = statistics.median(found["ours"]), statistics.median(found["plain"])
        ratio = statistics.median(other / own for own, other in zip(found["ours"], found["plain"], strict=True))
        ratios.append(ratio)
        said.append(f"{name} {mine:.1f} against {theirs:.1f} ms ({ratio:.1f} times)")
    found = series_ms({"ours": lambda: ours.grep("117", sources), "plain": lambda: plain.grep("117", sources)}, series=series, runs=10)
    mine, theirs = statistics.median(found["ours"]), statistics.median(found["plain"])
    middle = statistics.median(ratios)
    return [
        Row(
            "Deep Agents: a file operation through `VersSandbox`, against a plain `BaseSandbox` on the same VM",
            "at least 3 times faster (median of ls, read, write, edit, grep, glob)",
            f"{middle:.1f} times: {', '.join(said)}; grep without a glob, which is one `rg` for both, {mine:.1f} against {theirs:.1f} ms",
            middle >= 3,
        )
    ]
