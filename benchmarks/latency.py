"""How long a warm command takes: through the tool, on the bare backend, and with OpenSSH's client."""

from __future__ import annotations

from benchmarks.rig import Rig, Row, interleaved_ms, quiet
from langchain_vers import BackendContext, LocalBackend, VersToolkit
from langchain_vers._io import io
from langchain_vers.backends.base import ExecResult


def measure(rig: Rig) -> list[Row]:
    bash = rig.tools["bash"]
    master = ["-o", f"ControlPath={rig.folder / 'c'}"]
    ssh = ["ssh", *rig.ssh_options()]
    quiet(*ssh, *master, "-M", "-f", "-N", rig.target)
    found = interleaved_ms(
        {
            "tool": lambda: bash.invoke({"command": "true"}),
            "backend": lambda: io.run(rig.backend.exec("true")),
            "ssh": lambda: quiet(*ssh, rig.target, "true"),
            "master": lambda: quiet(*ssh, *master, rig.target, "true"),
        },
        runs=40,
    )
    quiet(*ssh, *master, "-O", "exit", rig.target)
    busy = interleaved_ms({"tool": lambda: bash.invoke({"command": "true"})}, runs=200, rest=0)
    ratio = found["ssh"] / found["tool"]
    return [
        Row(
            "warm `bash true` through the tool, embedded VM",
            "at most 8 ms, 20 times faster than `ssh` with a ProxyCommand",
            f"{found['tool']:.1f} ms, {busy['tool']:.1f} ms back to back; `ssh` {found['ssh']:.0f} ms ({ratio:.0f} times), "
            f"`ssh` with a ControlMaster {found['master']:.1f} ms",
            found["tool"] <= 8 and ratio >= 20,
        ),
        _tool_layer(),
    ]


class Nothing(LocalBackend):
    """A backend that answers at once, so that what is measured is everything around it."""

    async def exec(self, command: str, **_: object) -> ExecResult:  # type: ignore[override]
        return ExecResult(0, b"", 0, 0, 0.0)


def _tool_layer() -> Row:
    """The tool on a backend that does nothing, against the bare call of that backend: the difference would drown otherwise."""
    nothing = Nothing()
    context = BackendContext()
    context.register("nothing", nothing)
    tools = {tool.name: tool for tool in VersToolkit(context=context).get_tools()}
    tools["use_backend"].invoke({"name": "nothing"})
    found = interleaved_ms(
        {"tool": lambda: tools["bash"].invoke({"command": "true"}), "bare": lambda: io.run(nothing.exec("true"))}, runs=300, rest=0
    )
    added = found["tool"] - found["bare"]
    return Row("what the tool layer adds to the bare backend call", "at most 1 ms", f"{added:.2f} ms", added <= 1)
