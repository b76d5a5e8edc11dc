"""The room of a Gondolin guest that commands run in: what its kernel can do so that they take neither the guest nor its time. Pure text.

The guest's agent starts everything in its own process group and as root, looks after nothing but its own children, and cannot kill. So a
command that kills its process group would take the calls beside it and the program that serves the mounted folders; a fork bomb would leave
nothing to stop it with; and what outlived its parent would stay a zombie for ever. In the room there is a namespace of process numbers
whose first process reaps, and a control group (version 2) for each call below one for all: with the half of the processes that the kernel
can have, most of the memory that is there, and a share of the processor no larger than the agent's. The kernel ends a group as a whole.

It needs a kernel with control groups and `cgroup.kill` (5.14), and mount, unshare, nsenter and setsid of util-linux or busybox.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

_GROUPS = "/sys/fs/cgroup"
_ALL = f"{_GROUPS}/vers"
_TOGETHER = 16
"""Groups that are made at once; those whose processes have all ended are removed at the same time."""
DEAD = "dead"

# The /proc that it finds is the old one, where it has the number that the rest of the guest knows it by. The shell reaps whatever ends.
_FIRST = (
    "read -r number rest </proc/self/stat; mount -t proc proc /proc || exit; echo $number >$1; while :; do sleep 1000000 & wait $!; done"
)

# Memory: seven eighths of what is there, in bytes.
SETUP = f"""
set -e
[ -e {_GROUPS}/cgroup.controllers ] || mount -t cgroup2 cgroup2 {_GROUPS}
cd {_GROUPS}
echo '+pids +memory +cpu' >cgroup.subtree_control
mkdir -p {_ALL}
cd {_ALL}
[ -e cgroup.kill ]
read -r threads </proc/sys/kernel/threads-max
echo $((threads / 2)) >pids.max
while read -r name amount rest; do case $name in MemAvailable:) echo $((amount * 896)) >memory.max ;; esac; done </proc/meminfo
said=/run/vers-room.$$
mkfifo $said
{{ setsid unshare -p -m -f /bin/sh -c {shlex.quote(_FIRST)} sh $said || echo >$said; }} </dev/null >/dev/null 2>&1 &
read -r number <$said
rm $said
nsenter -t $number -p -m setsid /bin/sh -c 'kill -0 1'
echo $number
"""
"""Makes the room and prints the number of its first process, for the agent of a guest that has just started; fails where it cannot."""


@dataclass(frozen=True)
class Room:
    """A room that `SETUP` has made."""

    first: int
    """The number of its first process."""

    def command(self, command: str, connection: str, number: int) -> tuple[list[str], str]:
        """The program that runs a shell command in the room, in a group and a session of its own; and the group.

        `number` counts the sessions of the connection. Groups are made a few at a time, as each program that is started costs time.
        """
        group = f"{connection}-{number}"
        own = f"{_ALL}/{group}/cgroup.procs"
        several = [f"{_ALL}/{connection}-{following}" for following in range(number, number + _TOGETHER)]
        made = f"rmdir {_ALL}/*; mkdir -p {' '.join(several)}; " if number % _TOGETHER == 1 else ""
        # Who makes them for others removes what is empty, and others come before they are made.
        enter = f"{made}for n in 1 2 3 4 none; do echo 0 >{own} && break; mkdir -p {_ALL}/{group}; done; [ $n != none ]"
        inner = f"{{ {enter}; }} 2>/dev/null || exit; {command}"
        return ["nsenter", "-t", str(self.first), "-p", "-m", "setsid", "/bin/sh", "-c", inner], group

    def kill(self, group: str, left: str) -> str:
        """A shell command that ends all of a group, waits for that, removes the file `left`, and says "dead"."""
        return (
            f"cd {_ALL}/{group} && echo 1 >cgroup.kill && "
            "while read -r name populated <cgroup.events && [ $populated != 0 ]; do sleep 0.01 || sleep 1; done && "
            f"cd .. && rmdir {group} && rm -f {shlex.quote(left)} && echo {DEAD}"
        )
