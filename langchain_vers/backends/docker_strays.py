"""What a stopped command has left in its container without a trace: a look at all of its processes, and how they are killed.

Its watcher kills what carries the command's mark, descends from that or shares its session. A process that has shed all three has been
adopted by process 1; if it began after the command, it is the command's, as the container is nobody else's (`strays`). The look is taken by
the engine as root of the container, so only who has changed the container's own shell is out of its reach.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from langchain_vers.backends.strays import Seen, is_stray
from langchain_vers.errors import VersError

Run = Callable[[list[str]], Awaitable[bytes]]
ROUNDS = 5
"""How often new ones are looked for, before the container has to go as a whole."""
_TICKS = 100
"""Clock ticks in a second, the same on all machines with Linux: proc(5), USER_HZ."""
_INIT = 1

# Of each process: its line of proc(5), a NUL, its mark, a NUL; before all, how long the machine has been up.
LOOK = """
cat /proc/uptime; printf '\\0'
for p in /proc/[0-9]*; do
  cat "$p/stat"; printf '\\0'
  tr '\\0' '\\n' <"$p/environ" | sed -n 's/^VERS_CALL=//p'; printf '\\0'
done 2>/dev/null
"""


def parse(text: bytes) -> tuple[int, dict[int, Seen]]:
    """The ticks since the machine has started, and the live processes, of what `LOOK` has printed.

    Raises:
        ValueError, IndexError: that is something else.
    """
    uptime, *fields = text.split(b"\0")
    table = {}
    for stat, mark in zip(fields[::2], fields[1::2], strict=False):
        pid, _, rest = stat.partition(b" (")
        words = rest.rpartition(b")")[2].split()
        if words and words[0] not in (b"Z", b"X"):
            name = mark.decode(errors="replace").strip() or None
            table[int(pid)] = Seen(int(words[1]), int(words[3]), int(words[19]), words[0].decode(), name)
    return int(float(uptime.split()[0]) * _TICKS), table


def adopted(table: Mapping[int, Seen], since: int) -> set[int]:
    """The processes without a trace that began since then, and were left to process 1, or to one that was. What an engine starts has no
    parent in the container.
    """
    others = {pid: seen for pid, seen in table.items() if pid != _INIT}
    return {pid for pid in others if _top(others, pid).parent == _INIT and is_stray(others, pid, since)}


def _top(table: Mapping[int, Seen], pid: int) -> Seen:
    above: set[int] = set()
    while (parent := table[pid].parent) in table and parent not in above:
        above.add(parent)
        pid = parent
    return table[pid]


async def killed(run: Run, started: float) -> bool:
    """Kill what a command that began at `started` (in `time.monotonic`) has left; whether nothing is left for certain.

    `run` runs a program in the container as root.
    """
    try:
        for _ in range(ROUNDS):
            now, table = parse(await run(["sh", "-c", LOOK]))
            left = adopted(table, now - int((time.monotonic() - started) * _TICKS) - 1)
            if not left:
                return True
            await run(["sh", "-c", 'kill -9 "$@"; true', "sh", *map(str, sorted(left))])
    except (VersError, ValueError, IndexError):
        pass
    return False
