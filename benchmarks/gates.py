"""What routing and a policy add to a call: the same calls through the tools of two contexts, one with `Policy.open()`, one with
`Policy.careful()`, in turns.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.rig import Rig, Row, added_ms, median_ms
from langchain_vers import Attachment, LocalBackend, Policy, VersToolkit
from langchain_vers._io import io
from langchain_vers.backends.base import ExecResult
from langchain_vers.turns import Place

TARGET = 0.5
"""Milliseconds."""
CALLS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "`bash true`": ("bash", {"command": "true"}),
    "`bash` with three paths": ("bash", {"command": "cat a b >c"}),
    "`read`": ("read", {"path": "a"}),
}
ROUTES = 2000


class Nothing(LocalBackend):
    """This machine, on which commands do nothing: starting a shell takes so long, and so differently long, that the rest would drown."""

    async def exec(self, command: str, **_: object) -> ExecResult:
        return ExecResult(0, b"", 0, 0, 0.0)


class Pair:
    """The same tools without and with a policy, in the same place."""

    def __init__(self, rig: Rig, local: str, at: Attachment | None, registered: LocalBackend | None = None) -> None:
        self.toolkits = [
            VersToolkit(data_dir=rig.folder / "vers", local=local, policy=policy) for policy in (Policy.open(), Policy.careful())
        ]
        for toolkit in self.toolkits:
            assert toolkit.context is not None
            if registered is not None:
                toolkit.context.register("nothing", registered)
                toolkit.context.use("nothing")
            elif at is not None:
                toolkit.context.attach(str(at.machine_id))

    def calls(self, name: str, arguments: Mapping[str, Any]) -> list[Callable[[], object]]:
        """The call without and with the policy."""
        tools = [{tool.name: tool for tool in toolkit.get_tools()}[name] for toolkit in self.toolkits]
        return [lambda tool=tool: tool.invoke(dict(arguments)) for tool in tools]  # type: ignore[misc]

    def routing_ms(self) -> float:
        """Median time of a route."""
        context = self.toolkits[0].context
        assert context is not None

        async def measure() -> float:
            times = []
            for _ in range(ROUTES):
                started = time.perf_counter()
                await context.route(Place())
                times.append((time.perf_counter() - started) * 1000)
            return statistics.median(times)

        return io.run(measure())

    def close(self) -> None:
        for toolkit in self.toolkits:
            toolkit.close()


def measure(rig: Rig) -> list[Row]:
    with tempfile.TemporaryDirectory(dir=rig.folder) as local:
        return [_here(rig, local), _on_vm(rig, local)]


def _here(rig: Rig, local: str) -> Row:
    real, quick = Pair(rig, local, None), Pair(rig, local, None, Nothing(local))
    io.run(LocalBackend(local).exec("echo x >a; echo y >b"))
    added: dict[str, list[float]] = {}
    whole: dict[str, float] = {}
    for what, (name, arguments) in CALLS.items():
        pair = quick if name == "bash" else real
        added[what] = added_ms(*pair.calls(name, arguments), pairs=200, rest=0)[0]
        whole[what] = median_ms(real.calls(name, arguments)[0], runs=40)
    row = _row("this machine", added, whole, real.routing_ms())
    real.close()
    quick.close()
    return row


def _on_vm(rig: Rig, local: str) -> Row:
    io.run(rig.backend.exec("echo x >a; echo y >b", cwd="/root"))
    pair = Pair(rig, local, Attachment(backend="vers", machine_id=rig.vm_id))
    added: dict[str, list[float]] = {}
    whole: dict[str, float] = {}
    for what, (name, arguments) in CALLS.items():
        added[what], whole[what] = added_ms(*pair.calls(name, arguments), pairs=40, rest=0.05)
    row = _row("an embedded VM", added, whole, pair.routing_ms())
    pair.close()
    return row


def _row(where: str, added: Mapping[str, list[float]], whole: Mapping[str, float], routing: float) -> Row:
    def said(what: str) -> str:
        median = statistics.median(added[what])
        ratio = (whole[what] + median) / whole[what]
        return f"{what} {median:+.2f} ms ({min(added[what]):+.2f} to {max(added[what]):+.2f}), {ratio:.2f} times its {whole[what]:.1f} ms"

    return Row(
        f"what routing and `Policy.careful()` add to a call on {where}",
        f"at most {TARGET} ms",
        f"routing {routing:.3f} ms; the policy: {'; '.join(map(said, added))}",
        all(statistics.median(values) + routing <= TARGET for values in added.values()),
    )
