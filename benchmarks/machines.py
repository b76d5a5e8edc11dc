"""How long the embedded Vers takes to create, commit and branch."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from benchmarks.rig import Rig, Row, median_ms
from langchain_vers._io import io


def measure(rig: Rig) -> list[Row]:
    client = rig.client
    vm_id = io.run(client.create_vm(wait_boot=True))
    backend = io.run(rig.context.machine(vm_id))
    io.run(backend.exec("mkdir -p /root/d && cd /root/d && for i in $(seq 100); do head -c 100000 /dev/urandom >f$i; done"))
    made: list[str] = []

    def timed(start: Callable[[], Coroutine[Any, Any, Any]]) -> float:
        def once() -> None:
            result = io.run(start())
            made.extend(result if isinstance(result, list) else [result])

        return median_ms(once, runs=9, warmup=1)

    found = {
        "create": timed(lambda: client.create_vm(wait_boot=True)),
        "commit": timed(lambda: client.commit_vm(vm_id)),
        "branch": timed(lambda: client.branch_vm(vm_id, count=1)),
    }
    machines = {vm.vm_id for vm in io.run(client.list_vms())}
    for name in made:
        if name in machines:
            io.run(client.delete_vm(name))
    return [
        Row(
            "embedded: create, commit, branch of a VM with 10 MB of changes, through the API",
            "100 ms, 100 ms, 100 ms",
            ", ".join(f"{name} {value:.0f} ms" for name, value in found.items()),
            all(value <= 100 for value in found.values()),
        )
    ]
