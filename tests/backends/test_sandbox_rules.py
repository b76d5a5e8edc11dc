"""What BubblewrapBackend decides without doing anything: what a sandbox is made of, its filter, whose a process is, where groups go."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_vers.backends import disk_watch, docker_seccomp, jail, seccomp
from langchain_vers.backends.cgroups import homes
from langchain_vers.backends.disk_watch import LEEWAY, Folder, Free, Growth
from langchain_vers.backends.paths import Mount
from langchain_vers.backends.strays import Seen, belonging
from langchain_vers.errors import BadInput

# --- jail ---

JAIL = jail.Jail("/host/work", "/host/own", [jail.Folder("/usr", "/usr"), jail.Folder("/bin", "usr/bin", link=True)], ["/proc/kcore"])


def options(made_of: jail.Jail) -> list[str]:
    return jail.arguments(made_of, status_fd=7, block_fd=8, seccomp_fd=9)


def pairs(args: list[str], option: str) -> list[tuple[str, str]]:
    return [(args[at + 1], args[at + 2]) for at, arg in enumerate(args) if arg == option]


def test_only_what_was_named_can_be_written() -> None:
    made_of = jail.Jail(JAIL.workspace, JAIL.own, JAIL.system, binds=[Mount("/a", "/mnt/a", "ro"), Mount("/b", "/mnt/b", "rw")])
    args = options(made_of)
    assert pairs(args, "--bind") == [("/b", "/mnt/b"), ("/host/work", "/workspace")]
    assert ("/a", "/mnt/a") in pairs(args, "--ro-bind")
    assert args[args.index("--remount-ro", args.index("--chdir") - 2) :] == ["--remount-ro", "/", "--chdir", "/workspace"]
    assert not [arg for arg in args if arg.startswith("--dev-bind")]


def test_every_file_system_in_memory_has_a_size() -> None:
    args = options(JAIL)
    for at, arg in enumerate(args):
        if arg == "--tmpfs":
            assert args[at - 2] == "--size"


def test_network_only_when_it_is_asked_for() -> None:
    assert "--unshare-net" in options(JAIL)
    shared = options(jail.Jail("/w", "/o", [], network=True))
    assert "--unshare-net" not in shared
    assert ("/etc/resolv.conf", "/etc/resolv.conf") in pairs(shared, "--ro-bind-try")


def test_the_kernel_s_files_are_covered_after_proc_is_there() -> None:
    args = options(JAIL)
    assert ("/dev/null", "/proc/kcore") in pairs(args, "--ro-bind")
    assert min(args.index(name) for name in ("/proc/sys", "/proc/kcore")) > args.index("--proc")


@pytest.mark.parametrize(
    "mounts",
    [
        [("relative", "/mnt/a")],
        [("/a", "relative")],
        [("/a", "/mnt/../etc")],
        [("/a", "/")],
        [("/a", "/mnt/\0")],
        [("/a\0", "/mnt/a")],
        *([("/a", f"{name}/x")] for name in ("/proc", "/dev", "/etc", "/usr", "/tmp", "/run", "/sys", "/bin", "/home/agent", "/workspace")),
        *([("/a", name)] for name in ("/proc", "/home", "/etc", "/workspace", "/home/agent")),
        [("/a", "/mnt/a"), ("/b", "/mnt/a")],
        [("/a", "/mnt/a"), ("/b", "/mnt/a/b")],
        [("/a", "/mnt/a/b"), ("/b", "/mnt/a")],
        [("/a", "")],
        [("", "/mnt/a")],
    ],
)
def test_mounts_that_make_no_sense_are_refused(mounts: list[tuple[str, str]]) -> None:
    with pytest.raises(BadInput):
        jail.checked_mounts([Mount(host, guest) for host, guest in mounts])


def test_mounts_side_by_side_are_fine() -> None:
    mounts = [Mount("/a", "/mnt/a"), Mount("/b", "/mnt/ab"), Mount("/c", "/data")]
    assert jail.checked_mounts(mounts) == tuple(mounts)


def test_no_folder_of_the_system_is_anybody_s_data() -> None:
    allowed = ("/usr", "/bin", "/sbin", "/lib", "/nix/store", "/etc/")
    for folder in jail.system_folders():
        assert folder.path.startswith(allowed)
        assert folder.path not in ("/etc", "/etc/shadow", "/etc/passwd", "/etc/ssh", "/etc/ssl", "/etc/ssl/private")


# --- seccomp ---


def verdict(program: bytes, *, arch: int, number: int, argument: int = 0, second: int = 0) -> int:
    """What the kernel would make of a system call: the few instructions that the program has, carried out."""
    lines = [struct.unpack("=HBBI", program[at : at + 8]) for at in range(0, len(program), 8)]
    data = struct.pack("=iIQQQ", number - (1 << 32) if number >= 1 << 31 else number, arch, 0, argument, second)
    at = value = 0
    while True:
        code, when_true, when_false, k = lines[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack("=I", data[k : k + 4])
        elif code == 0x54:
            value &= k
        elif code in (0x15, 0x35):
            at += when_true if (value == k if code == 0x15 else value >= k) else when_false
        else:
            assert code == 0x06
            return int(k)


ALLOWED, KILLED = 0x7FFF0000, 0x80000000
MACHINES = {
    "x86_64": (0xC000003E, {"fallocate": 285, "keyctl": 250, "socket": 41, "ioctl": 16, "read": 0, "fork": 57}),
    "aarch64": (0xC00000B7, {"fallocate": 47, "keyctl": 219, "socket": 198, "ioctl": 29, "read": 63, "fork": 220}),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_filter(machine: str) -> None:
    program = seccomp.program(machine)
    assert program is not None and len(program) % 8 == 0
    arch, numbers = MACHINES[machine]
    assert verdict(program, arch=arch, number=numbers["read"]) == ALLOWED
    assert verdict(program, arch=arch, number=numbers["fork"]) == ALLOWED
    assert verdict(program, arch=arch, number=numbers["fallocate"]) == 0x50000 | 95
    assert verdict(program, arch=arch, number=numbers["keyctl"]) == 0x50000 | 1
    for family in range(64):
        wanted = ALLOWED if family in seccomp.FAMILIES else 0x50000 | 97
        assert verdict(program, arch=arch, number=numbers["socket"], argument=family) == wanted
    looked_into = (numbers["socket"], numbers["ioctl"])
    for number in range(600):
        denied = verdict(program, arch=arch, number=number) not in (ALLOWED,)
        assert denied == (number in seccomp._ARCHITECTURES[machine].numbers.values() and number not in looked_into)
        assert verdict(program, arch=0x40000003, number=number) == KILLED


RESERVE = [0x40305828, 0x4030582A, 0x40305839, 0x402C5828]
"""FS_IOC_RESVSP, FS_IOC_RESVSP64, FS_IOC_ZERO_RANGE, and the first as 32-bit programs call it."""


@pytest.mark.parametrize("machine", MACHINES)
@given(st.one_of(st.sampled_from(RESERVE), st.integers(0, 2**32 - 1)), st.integers(0, 2**32 - 1))
def test_space_is_not_reserved_by_ioctl_either(machine: str, request: int, above: int) -> None:
    """The kernel takes 32 bits of the request, whatever is above."""
    program = seccomp.program(machine)
    assert program is not None
    arch, numbers = MACHINES[machine]
    given = verdict(program, arch=arch, number=numbers["ioctl"], second=above << 32 | request)
    reserves = request >> 30 == 1 and request >> 8 & 0xFF == ord("X") and 32 <= request & 0xFF < 64
    assert given == (0x50000 | 25 if reserves else ALLOWED)
    assert reserves or request not in RESERVE


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_rules_for_all_but_some_numbers(mask: int, value: int, number: int) -> None:
    rules = docker_seccomp.all_but(mask, value & mask)
    for each in (number, value & mask | number & ~mask):
        assert sum(each & part == wanted for part, wanted in rules) == (each & mask != value & mask)


def test_the_other_numbering_of_x86_is_no_way_round() -> None:
    program = seccomp.program("x86_64")
    assert program is not None
    assert verdict(program, arch=0xC000003E, number=0x40000000 + 285) == 0x50000 | 38


def test_unknown_machines_have_no_filter() -> None:
    assert seccomp.program("riscv64") is None


# --- whose a process is ---


def seen(parent: int, session: int, *, started: int = 100, mark: str | None = None) -> Seen:
    return Seen(parent, session, started, "S", mark)


def test_what_carries_the_mark_or_descends_from_it_belongs() -> None:
    table = {
        10: seen(1, 10, started=5, mark="own"),
        11: seen(10, 10, mark="own"),
        12: seen(11, 10),
        13: seen(12, 13),  # in a session of its own
        14: seen(1, 13),  # an orphan in that session
        20: seen(1, 20, started=6, mark="other"),
        21: seen(20, 20, mark="other"),
        22: seen(21, 20),
    }
    assert belonging(table, "own", 50) == {10, 11, 12, 13, 14}


def test_a_daemon_without_traces_belongs_if_it_came_meanwhile() -> None:
    table = {
        10: seen(1, 10, mark="own"),
        30: seen(1, 30),
        31: seen(30, 30),
        32: seen(1, 999),
        40: seen(1, 40, started=49),
        41: seen(40, 41),
    }
    assert belonging(table, "own", 50) == {10, 30, 31, 32}


def test_background_processes_of_others_do_not_belong() -> None:
    """Not those that came before, not their children, and not those whose session or parent tells whose they are."""
    table = {
        20: seen(1, 20, started=10, mark="other"),
        21: seen(20, 20),
        22: seen(1, 20),
        23: seen(1, 23, mark="other"),
        24: seen(23, 24),
        25: seen(1, 25, started=20),
        26: seen(25, 26),
    }
    assert belonging(table, "own", 50) == set()


@given(
    st.dictionaries(
        st.integers(2, 30),
        st.builds(Seen, st.integers(1, 30), st.integers(1, 30), st.integers(0, 100), st.just("S"), st.sampled_from([None, "own", "other"])),
    )
)
def test_any_table_is_decided(table: dict[int, Seen]) -> None:
    """Loops, which a table that was read while it changed can have, do no harm; all that carry the mark belong."""
    found = belonging(table, "own", 50)
    assert {pid for pid, process in table.items() if process.mark == "own"} <= found <= set(table)
    if all(process.mark != "own" for process in table.values()):
        assert all(table[pid].started >= 50 or {table[pid].parent, table[pid].session} & found for pid in found)


# --- control groups ---


def test_version_1_has_a_tree_per_controller() -> None:
    mounts = "\n".join(
        [
            "30 20 0:26 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids",
            "31 20 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
            "32 20 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
            "33 20 0:29 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw",
            "34 20 8:1 / / rw - ext4 /dev/vda rw",
        ]
    )
    found = homes(mounts, "8:pids:/\n4:memory:/a/b\n1:cpu:/\n0::/")
    assert found == {"pids": (1, [Path("/sys/fs/cgroup/pids")]), "memory": (1, [Path("/sys/fs/cgroup/memory/a/b")])}


def test_version_2_goes_beside_or_further_up() -> None:
    mounts = "33 20 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
    top = Path("/sys/fs/cgroup")
    user = top / "user.slice/user@1.service"
    found = homes(mounts, "0::/user.slice/user@1.service/app.slice/x.scope")
    assert found["pids"] == found["memory"] == (2, [user / "app.slice", user, top / "user.slice", top, user / "app.slice/x.scope"])


def test_version_2_in_a_container() -> None:
    mounts = "33 20 0:29 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw"
    assert homes(mounts, "0::/docker/abc")["pids"] == (2, [Path("/sys/fs/cgroup")])


def test_no_control_groups_at_all() -> None:
    assert homes("34 20 8:1 / / rw - ext4 /dev/vda rw", "") == {}


# --- the watch over the disk ---


def test_what_is_given_back_does_not_count() -> None:
    before = Free(1000, 10)
    assert before.taken_since(before) == 0
    assert Free(900, 10).taken_since(before) == 100
    assert Free(1100, 8).taken_since(before) == 2 * disk_watch.PER_FILE


@given(st.integers(-(2**40), 2**45))
def test_the_next_look_is_never_far_off(room: int) -> None:
    assert disk_watch.SOONEST <= disk_watch.pause(room) <= disk_watch.LATEST
    assert disk_watch.pause(room) == disk_watch.SOONEST or disk_watch.pause(room) * disk_watch.FASTEST <= room


def test_growth_is_counted_from_the_first_look(tmp_path: Path) -> None:
    (tmp_path / "before").write_bytes(bytes(3 << 20))
    growth = Growth(Folder(str(tmp_path)), 2 << 20)
    assert growth.left == pytest.approx(2 << 20, abs=200_000)
    (tmp_path / "more").write_bytes(bytes(1 << 20))
    growth.count()
    assert growth.left == pytest.approx(1 << 20, abs=200_000)
    (tmp_path / "too much").write_bytes(bytes(4 << 20))
    assert growth.room() < 0
    growth.count()
    assert growth.left < 0
    growth.begin()
    assert growth.left == LEEWAY
    (tmp_path / "too much").unlink()
    growth.begin()
    assert growth.left == pytest.approx(1 << 20, abs=200_000)
