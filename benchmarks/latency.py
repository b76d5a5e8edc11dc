"""How long a warm command takes: through the tool, on the bare backend, and with OpenSSH's client."""

from __future__ import annotations

from benchmarks.rig import Rig, Row, interleaved_ms, quiet
from langchain_vers._io import io


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
    alone = interleaved_ms(
        {"tool": lambda: bash.invoke({"command": "true"}), "backend": lambda: io.run(rig.backend.exec("true"))}, runs=200
    )
    ratio = found["ssh"] / found["tool"]
    return [
        Row(
            "warm `bash true` through the tool, embedded VM",
            "at most 8 ms, 20 times faster than `ssh` with a ProxyCommand",
            f"{alone['tool']:.1f} ms back to back, {found['tool']:.1f} ms in turns with the peers; "
            f"`ssh` {found['ssh']:.0f} ms ({ratio:.0f} times), `ssh` with a ControlMaster {found['master']:.1f} ms",
            alone["tool"] <= 8 and ratio >= 20,
        ),
        Row(
            "what the tool layer adds to the bare backend call",
            "at most 1 ms",
            f"{alone['tool'] - alone['backend']:.2f} ms ({alone['tool']:.2f} against {alone['backend']:.2f} ms)",
            alone["tool"] - alone["backend"] <= 1,
        ),
    ]
