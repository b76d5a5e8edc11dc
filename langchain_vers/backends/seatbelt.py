"""A sandbox on macOS, by `sandbox-exec` (Seatbelt): this machine's own programs, a folder to work in, and nothing else of the user's.

Unlike bubblewrap's, paths are those of this machine, processes are in its process table, and nothing limits memory or disk: Seatbelt only
says which system calls with which names are allowed. `profile` and `command_line` are pure; profiles are written in Apple's SBPL, which has
no published reference: what is used here is what Apple's own profiles in /System/Library/Sandbox/Profiles use.

File calls are made in the sandbox like commands. Their functions need GNU's coreutils and findutils (`brew install coreutils findutils`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from langchain_vers._io import io
from langchain_vers.backends import guest
from langchain_vers.backends.environment import Environment, checked, guest_environment
from langchain_vers.backends.local import LocalProcess
from langchain_vers.backends.paths import Mount
from langchain_vers.backends.sessions import Session
from langchain_vers.backends.shell import ShellBackend
from langchain_vers.errors import BadInput, Missing, Unsupported

SANDBOX_EXEC = "/usr/bin/sandbox-exec"
PROGRAMS = (
    *("/usr", "/bin", "/sbin", "/System", "/Library/Apple", "/Library/Developer", "/Library/Frameworks", "/opt/homebrew", "/opt/local"),
    *("/Applications/Xcode.app", "/private/var/db/dyld", "/private/var/db/timezone", "/private/var/select"),
)
"""Folders of programs, which may be read and run."""
SETTINGS = tuple(
    f"/private/etc/{name}"
    for name in ("passwd", "group", "hosts", "protocols", "services", "localtime", "shells", "ssl", "bashrc", "profile", "paths", "paths.d")
)
"""What may be read of /etc, as `SETTINGS` of `jail`."""
NETWORK_SETTINGS = ("/private/etc/resolv.conf", "/private/var/run/resolv.conf")
DEVICES = (
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/dtracehelper",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
)
_LOOKUPS = ("com.apple.system.opendirectoryd.libinfo", "com.apple.system.opendirectoryd.membership", "com.apple.system.notification_center")
_NETWORK_LOOKUPS = ("com.apple.dnssd.service", "com.apple.SystemConfiguration.configd", "com.apple.trustd", "com.apple.networkd")
_GNU = tuple(f"{brew}/opt/{name}/libexec/gnubin" for brew in ("/opt/homebrew", "/usr/local") for name in ("coreutils", "findutils"))
_PATH = ":".join((*_GNU, "/opt/homebrew/bin", "/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"))


@dataclass(frozen=True)
class Rules:
    """What a profile allows. All paths are absolute and without symlinks: Seatbelt looks at where a path leads, not at its name.

    Attributes:
        writable: folders that may be read and written.
        readable: folders that may be read, besides the system's programs.
        network: whether anything of the network may be used, this machine's loopback included.
    """

    writable: Sequence[str]
    readable: Sequence[str] = ()
    network: bool = False


def quoted(text: str) -> str:
    """A string of SBPL with this value.

    Raises:
        BadInput: it contains a NUL, or what no file name of macOS can hold.
    """
    if "\0" in text:
        raise BadInput(f"the path {text!r} contains a NUL character, which no file name can; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"the path {text!r} is not UTF-8, as all file names of macOS are; name another") from None
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(f"\\x{ord(char):02x}" if ord(char) < 32 or ord(char) == 127 else char for char in plain) + '"'


def profile(rules: Rules) -> str:
    """The sandbox profile: everything is denied but what stands in it.

    Raises:
        BadInput: a path that is not absolute and plain, or the root folder.
    """
    writable = [_plain(path) for path in rules.writable]
    readable = [_plain(path) for path in rules.readable]
    above = sorted(
        {str(parent) for path in (*writable, *readable, *PROGRAMS, *SETTINGS, *DEVICES) for parent in PurePosixPath(path).parents}
    )
    lines = [
        "(version 1)",
        "(deny default)",
        "(allow process-fork)",
        "(allow process-exec* " + _each("subpath", [*PROGRAMS, *readable, *writable]) + ")",
        "(allow signal (target same-sandbox))",
        "(allow process-info* (target same-sandbox))",
        "(allow sysctl-read)",
        "(allow mach-lookup " + _each("global-name", _LOOKUPS) + ")",
        '(allow ipc-posix-shm-read* (ipc-posix-name "apple.shm.notification_center"))',
        # The names above what may be read, and no content: programs ask what their own folder is called.
        "(allow file-read-metadata " + _each("literal", [*above, "/tmp", "/var", "/etc", "/private/tmp"]) + ")",  # noqa: S108
        '(allow file-read-data (literal "/"))',
        "(allow file-read* file-map-executable " + _each("subpath", PROGRAMS) + ")",
        "(allow file-read* " + _each("subpath", SETTINGS) + ")",
        "(allow file-read* file-write-data file-ioctl " + _each("literal", DEVICES) + ")",
        '(allow file-read* file-write-data (subpath "/dev/fd"))',
    ]
    if readable:
        lines.append("(allow file-read* file-map-executable " + _each("subpath", readable) + ")")
    if writable:
        lines.append("(allow file-read* file-write* file-map-executable " + _each("subpath", writable) + ")")
        # The last rule that fits decides. A file with these bits would give its rights to whoever runs it outside.
        lines.append("(deny file-write-setugid)")
    if rules.network:
        lines += [
            "(allow network*)",
            "(allow system-socket)",
            "(allow mach-lookup " + _each("global-name", _NETWORK_LOOKUPS) + ")",
            "(allow file-read* " + _each("literal", NETWORK_SETTINGS) + ")",
        ]
    return "\n".join(lines) + "\n"


def command_line(profile_file: str, command: Sequence[str]) -> list[str]:
    """The argument list that runs a command under a profile. It names no folder of the user's but the profile's own."""
    return [SANDBOX_EXEC, "-f", profile_file, *command]


def _each(kind: str, names: Sequence[str]) -> str:
    return " ".join(f"({kind} {quoted(name)})" for name in dict.fromkeys(names))


def _plain(path: str) -> str:
    found = PurePosixPath(path)
    if not path.startswith("/") or ".." in found.parts or found == PurePosixPath("/") or found == PurePosixPath("//"):
        raise BadInput(f"{path!r} cannot be opened to a sandbox: name a folder other than / by an absolute path without '..'")
    return str(found)


class SeatbeltBackend(ShellBackend):
    """Works on this Mac, in a sandbox whose commands may write their workspace and a temporary folder of their own, and nothing else.

    Args:
        workspace: the folder where commands start, and that they may change; None: their home, which goes with `close`.
        mounts: further folders. Paths are the same inside and outside, so `guest` must be `host`; copies are not to be had.
        env: variables of all commands.
        inherit: names of variables of this process that are passed on to commands.
        network: whether commands have this machine's network, its loopback included.

    Raises:
        BadInput: for mounts that cannot be.
        Unsupported: with the first call, anywhere but on macOS, or without GNU's coreutils and findutils.
    """

    name = "seatbelt"

    def __init__(
        self,
        workspace: str | os.PathLike[str] | None = None,
        *,
        mounts: Sequence[Mount] = (),
        env: Environment | None = None,
        inherit: Sequence[str] = (),
        network: bool = False,
    ) -> None:
        for mount in mounts:
            if mount.mode == "copy" or mount.guest != mount.host:
                raise BadInput(
                    f"Seatbelt can only open a folder under its own name: mount {mount.host} on itself, with mode 'ro' or 'rw', "
                    "or copy it into the workspace"
                )
            _plain(mount.host)
        self._workspace = None if workspace is None else str(Path(workspace).absolute())
        self._mounts = tuple(mounts)
        self.environment = checked(env or {})
        self._inherit = tuple(inherit)
        self._network = network
        self._own: str | None = None
        self._opening = asyncio.Lock()

    def __repr__(self) -> str:
        return f"SeatbeltBackend({self._workspace!r})"

    @property
    def home(self) -> str | None:
        """Where commands start: the workspace, or else their home."""
        return self._workspace

    @property
    def scratch(self) -> str:
        """See `ShellBackend.scratch`."""
        return f"{self._own}/scratch"

    async def _store_stdin(self, stdin: bytes, cwd: str | None) -> str:
        await self._opened()
        return await super()._store_stdin(stdin, cwd)

    async def _session(self) -> Session:
        own = await self._opened()
        mark = Session.new_mark()
        own_folder = {"TMPDIR": f"{own}/scratch"}
        environment = guest_environment(os.environ, home=f"{own}/home", added=own_folder, inherit=self._inherit, path=_PATH)
        command = command_line(f"{own}/profile.sb", ["/bin/sh", "-c", guest.boot(mark)])
        return await self._ready(await LocalProcess.start(command, cwd=self.home or f"{own}/home", env=environment), mark)

    async def _opened(self) -> str:
        """The folder of this backend, with the profile in it."""
        async with self._opening:
            if self._own is None:
                if sys.platform != "darwin":
                    raise Unsupported(f"SeatbeltBackend is for macOS, and this is {sys.platform}; use BubblewrapBackend on Linux")
                self._own = await io.blocking(self._open)
                io.at_close(self, self.close)
            return self._own

    def _open(self) -> str:
        for program in ("gstat", "gfind"):
            if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/opt/homebrew/bin:/usr/local/bin") is None:
                raise Unsupported("SeatbeltBackend needs GNU's tools; install them with `brew install coreutils findutils`")
        own = str(Path(tempfile.mkdtemp(prefix="vers-seatbelt-")).resolve())
        try:
            for name in ("scratch", "home"):
                Path(own, name).mkdir()
            # The profile itself lies beside what may be written.
            writable = [f"{own}/scratch", f"{own}/home"]
            readable: list[str] = []
            if self._workspace is not None:
                writable.append(_resolved(self._workspace))
            for mount in self._mounts:
                (writable if mount.mode == "rw" else readable).append(_resolved(mount.host))
            Path(own, "profile.sb").write_text(profile(Rules(writable, readable, self._network)))
        except BaseException:
            shutil.rmtree(own, ignore_errors=True)
            raise
        return own

    async def close(self) -> None:
        """Remove the temporary folder of the sandbox and its home. Background processes live on, as on any machine."""
        async with self._opening:
            own, self._own = self._own, None
            if own is not None:
                await io.blocking(shutil.rmtree, own, True)
            io.forget(self)


def _resolved(path: str) -> str:
    try:
        return str(Path(path).resolve(strict=True))
    except OSError as error:
        raise Missing(f"{path}, which is to be opened to the sandbox, is not there ({error.strerror or error}); make it first") from None
