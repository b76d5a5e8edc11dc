"""The seccomp profile of a container whose disk is watched: which system calls it has. Pure.

A watch comes too late for space that is reserved in an instant, and an engine's own profile lets a container do so. A container can only
have one profile; so this one stands in for the engine's, and is as narrow: what it does not name does not exist (ENOSYS, for which programs
have other ways). Beside what reserves space it leaves out what needs capabilities that these containers have not (`CAPABILITIES`),
namespaces, io_uring (which does other calls' work past every profile), kernel keyrings, NUMA policies, and sockets that belong to no
network namespace. Only the calls of 64-bit programs are known to it. Form: OCI runtime specification, config-linux, "Seccomp", in the
spelling of Docker and Podman.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_vers.backends.seccomp import DENIED, FAMILIES, RESERVING

_ARCHITECTURES = ("amd64", "arm64")
"""As images name them."""
_NO_SYSCALL = 38
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET: clone(2)."""
_PERSONALITIES = (0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
"""Linux, with 32 bits, with the version of 2.6, with both; and the question which it is: personality(2)."""
_REFUSED = (
    "mount umount2 unshare setns pivot_root fsopen fsmount open_tree move_mount sethostname setdomainname swapon swapoff reboot syslog"
)
"""Calls for which "not permitted" is what programs expect to hear."""
_ALLOWED = """
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chroot clock_adjtime clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl
    epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fanotify_mark
    fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr file_getattr flistxattr flock fork fremovexattr fsetxattr
    fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu
    getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority
    getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr getxattrat
    inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit
    ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen
    listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create memfd_secret
    mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
    mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
    newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl
    pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
    restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget
    semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsuid setgid setgroups
    setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr setxattrat shmat
    shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat uretprobe utime utimensat utimes vfork wait4 waitid
    write writev
"""


def fits(info: Mapping[str, Any], architecture: str) -> bool:
    """Whether the profile can stand in for an engine's, which is none that its owner has chosen, for an image of this architecture.

    `info` is what the engine says of itself.
    """
    own = [option for option in info.get("SecurityOptions") or () if option.startswith("name=seccomp")]
    usual = any(option.partition("profile=")[2] in ("default", "builtin", "unconfined") for option in own)
    return usual and architecture in _ARCHITECTURES


def profile() -> dict[str, Any]:
    """The profile."""
    denied = {name: code for name, code in DENIED.items() if code != _NO_SYSCALL}
    rules = [
        _rule(_ALLOWED.split(), "SCMP_ACT_ALLOW"),
        _rule(_REFUSED.split(), "SCMP_ACT_ERRNO", errno=1),
        # Its flags lie in memory, where no profile can look.
        _rule(["clone3"], "SCMP_ACT_ERRNO", errno=_NO_SYSCALL),
        _rule(["clone"], "SCMP_ACT_ALLOW", _masked(0, _NEW_NAMESPACES, 0)),
    ]
    rules += [_rule([name], "SCMP_ACT_ERRNO", errno=code) for name, code in denied.items()]
    rules += [_rule(["socket"], "SCMP_ACT_ALLOW", _equal(0, family)) for family in FAMILIES]
    rules += [_rule(["personality"], "SCMP_ACT_ALLOW", _equal(0, value)) for value in _PERSONALITIES]
    rules += [_rule(["ioctl"], "SCMP_ACT_ALLOW", _masked(1, mask, value)) for mask, value in all_but(*RESERVING)]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _NO_SYSCALL,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    }


def all_but(mask: int, value: int) -> list[tuple[int, int]]:
    """Masks and values of which exactly one fits each number that `mask` and `value` do not fit: a profile knows no "unless"."""
    bits = [1 << number for number in reversed(range(mask.bit_length())) if mask >> number & 1]
    above = 0
    rules = []
    for bit in bits:
        rules.append((above | bit, value & above | (value & bit ^ bit)))
        above |= bit
    return rules


def _rule(names: list[str], action: str, argument: dict[str, Any] | None = None, *, errno: int | None = None) -> dict[str, Any]:
    rule: dict[str, Any] = {"names": names, "action": action, "args": [] if argument is None else [argument]}
    return rule if errno is None else {**rule, "errnoRet": errno}


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": 0, "op": "SCMP_CMP_EQ"}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
