"""The rules that the presets of `Policy` are made of: protected paths, the workspace, risky commands. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from langchain_vers.request import ALL_NEEDS, Access, Allow, Ask, Decision, Deny, Machine, Need, Request, matches
from langchain_vers.shell.programs import kinds, known_to_read

F = TypeVar("F", bound=Callable[[Request], Decision | None])


def needing(*needs: Need) -> Callable[[F], F]:
    """Says what a rule has to know of a request besides the tool and the machine: "command", "paths", or nothing."""

    def mark(rule: F) -> F:
        rule.needs = frozenset(needs)  # type: ignore[attr-defined]  # functions have any attributes
        return rule

    return mark


SECRETS = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_*_sk", ".netrc", ".npmrc",
    ".pypirc", ".git-credentials", ".pgpass", "~/.ssh", "~/.aws", "~/.gnupg", "~/.kube", "~/.docker/config.json", "~/.config/gcloud",
    "~/.azure", "~/.vers", "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d", "/proc/*/environ", "/proc/*/mem",
)  # fmt: skip
"""Files that hold secrets: protected against reading and writing by `Policy.careful` and `Policy.read_only`."""
_EXAMPLES = (".env.example", ".env.sample", ".env.template", ".env.dist")
GUARDED = (".git", ".bashrc", ".bash_profile", ".profile", ".zshrc", ".gitconfig", "~/.config/git", ".hg", ".svn")
"""Files that make other programs run something: protected against writing by `Policy.careful`."""


@dataclass(frozen=True)
class Protected:
    """A rule that keeps calls from paths, where they really are: a symlink to a protected file is one, too.

    Attributes:
        patterns: see `matches`.
        access: against "read" (which takes "any" along: also against writing), or only against "write".
        strict: whether such a call is denied; otherwise a person is asked.
        needs: see `Policy`.
    """

    patterns: Sequence[str]
    access: Literal["write", "any"] = "any"
    strict: bool = False
    needs: frozenset[Need] = ALL_NEEDS

    def __call__(self, request: Request) -> Decision | None:
        """Deny or ask, if a path of the request is protected, or is not known."""
        for access in request.accesses:
            if self.access == "write" and not access.writes:
                continue
            if not access.known:
                return self._say(request, f"it uses a path that is not known before it runs ({access.written or 'of a variable'})")
            if matches(access, self.patterns) and posixpath.basename(access.path) not in _EXAMPLES:
                return self._say(request, f"{access.written or access.path} is protected{_really(access)}")
        return None

    def _say(self, request: Request, reason: str) -> Decision:
        return Deny(reason) if self.strict else Ask(_question(request, reason))


def _really(access: Access) -> str:
    same = not access.written or posixpath.normpath(access.path).endswith(posixpath.normpath(access.written).lstrip("~./"))
    return "" if same else f" (it is {access.path})"


TEMPORARY = ("/tmp", "/var/tmp", "/private/tmp")  # noqa: S108  # names to compare with
"""Folders outside of the workspace that `Policy.careful` lets be written."""
_SINKS = ("/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/fd")
_SYSTEM = frozenset(
    [
        "/",
        "/bin",
        "/boot",
        "/dev",
        "/etc",
        "/home",
        "/lib",
        "/lib32",
        "/lib64",
        "/opt",
        "/proc",
        "/root",
        "/sbin",
        "/srv",
        "/sys",
        "/usr",
        "/var",
        "/Users",
        "/System",
        "/Library",
    ]
)


def within(path: str, folder: str) -> bool:
    """Whether a path is a folder, or in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


@dataclass(frozen=True)
class Outside:
    """A rule that asks before anything outside of the workspace is written.

    Attributes:
        folders: the workspace, where it is not the machine's own; a path may begin with "~".
        temporary: further folders that may be written.
        needs: see `Policy`.
    """

    folders: Sequence[str] = ()
    temporary: Sequence[str] = TEMPORARY
    needs: frozenset[Need] = ALL_NEEDS

    def __call__(self, request: Request) -> Decision | None:
        """Ask, if a path that is written is outside, or not known."""
        for access in request.accesses:
            if access.mode in {"read", "any"}:
                continue
            if not access.known:
                return Ask(
                    _question(request, f"it writes to a path that is not known before it runs ({access.written or 'of a variable'})")
                )
            roots = [_expanded(folder, access.machine) for folder in self.folders] or list(access.machine.workspace)
            if not any(within(access.path, root) for root in (*roots, *self.temporary, *_SINKS)):
                return Ask(_question(request, f"{access.written or access.path} is outside of the workspace{_really(access)}"))
            if access.mode == "remove" and access.path in roots:
                return Ask(_question(request, f"{access.path} is the workspace itself"))
        return None


def _expanded(folder: str, machine: Machine) -> str:
    return f"{machine.home or '~'}{folder[1:]}" if folder == "~" or folder.startswith("~/") else folder.rstrip("/") or "/"


@needing("command", "paths")
def ruin(request: Request) -> Decision | None:
    """Denies what takes a machine down: `rm -rf /` and its kin."""
    for access in request.accesses:
        sweeping = access.mode == "remove" or (access.mode == "write" and access.deep)
        if sweeping and access.known and (access.path in _SYSTEM or access.path == access.machine.home):
            return Deny(
                f"it would take away {access.path} with all that is in it"
                if access.mode == "remove"
                else f"it would change all of {access.path}"
            )
    return None


@needing("command")
def risks(request: Request) -> Decision | None:
    """Asks about commands of the kinds that a careful person would want to hear of, and about what could not be read to the end."""
    reasons = [reason for command in request.commands for _, reason in kinds(command)]
    reasons += () if request.script is None else request.script.doubts
    return Ask(_question(request, "; ".join(dict.fromkeys(reasons)))) if reasons else None


@needing("command")
def only_reads(request: Request) -> Decision | None:
    """Allows what reads, denies everything else."""
    if request.tool in {"read", "ls", "find", "grep", "bash_output", "vers_vms", "vers_vm_use", "vers_vm_local", "use_backend"}:
        return Allow()
    if request.script is None:
        return Deny("only reading is allowed")
    for command in request.commands:
        found = [reason for _, reason in kinds(command)]
        if found or not known_to_read(command):
            detail = found[0] if found else f"`{command}` is not known to only read"
            return Deny(f"only reading is allowed, and {detail}")
    if request.script.doubts:
        return Deny(f"only reading is allowed, and {request.script.doubts[0]}")
    return Allow()


def _question(request: Request, reason: str) -> str:
    who = "The user's command" if request.by == "user" else f"The agent's call of {request.tool}"
    where = request.machine.backend + (f" {request.machine.machine_id}" if request.machine.machine_id else "")
    return f"{who} on {where} needs your word: {reason}. Go ahead?"


@needing()
def machine_tools(request: Request) -> Decision | None:
    """Asks before machines are deleted or paused, and before work or data come to the user's own machine."""
    said = {
        "vers_vm_delete": "it deletes a machine for good",
        "vers_vm_local": "later commands would run on your own machine",
        "vers_vm_copy": "it copies between machines",
    }.get(request.tool)
    if request.tool == "vers_vm_state" and request.arguments.get("state") == "paused":
        said = "it pauses a machine"
    if request.tool == "use_backend" and request.arguments.get("name") == "local":
        said = "later commands would run on your own machine"
    return None if said is None else Ask(_question(request, f"{said} ({_facts(request.arguments)})" if request.arguments else said))


def _facts(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {str(value)[:100]}" for name, value in arguments.items() if value is not None)
