"""`python -m benchmarks [NAME ...]`: measure, each part in a process of its own, and print the table."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

from benchmarks import attempts, connections, deepagents, evals, gates, latency, machines, places, roundtrips, throughput, versions
from benchmarks.rig import Row, rig

PARTS = {
    "latency": latency.measure,
    "roundtrips": roundtrips.measure,
    "transfers": throughput.transfers,
    "connections": connections.measure,
    "machines": machines.measure,
    "bubblewrap": places.bubblewrap,
    "docker": places.docker,
    "ssh": places.ssh,
    "here": places.here,
    "policy": gates.measure,
    "versions": versions.measure,
    "attempts": attempts.measure,
    "deepagents": deepagents.measure,
    "evals": evals.measure,
    "flood": throughput.flood,
}
REACHED = {True: "yes", False: "no", None: "not run"}


def main(names: list[str]) -> int:
    if names[:1] == ["--one"]:
        with rig() as made:
            print(json.dumps([asdict(row) for row in PARTS[names[1]](made)]))
        return 0
    print("| what | target | measured | reached |\n|---|---|---|---|", flush=True)
    failed = False
    for name in names or PARTS:
        done = subprocess.run([sys.executable, "-m", "benchmarks", "--one", name], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            print(f"| {name} | | could not be measured, see above | no |", flush=True)
            failed = True
            continue
        for item in json.loads(done.stdout.splitlines()[-1]):
            row = Row(**item)
            print(f"| {row.what} | {row.target} | {row.measured} | {REACHED[row.reached] if row.target else '–'} |", flush=True)
    return 1 if failed else 0


raise SystemExit(main(sys.argv[1:]))
