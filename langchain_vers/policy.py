"""What an agent may do: decisions by rules over the tool, the machine, the paths where they really are, and the parsed command. Pure.

A policy is a list of rules; the first that says something decides, and `default` decides where none does. A rule is a `Rule`, or anything
that is called with a `Request` and gives `Allow()`, `Deny(reason)`, `Ask(question)`, or None if it has nothing to say. The same policy
holds for the model's calls and for the user's own commands (`Request.by`).

A gate is no sandbox. It judges what is asked for, not what the programs do that are started: `make test` may do anything. Against programs
that mean harm there are backends that isolate.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_vers.shell_programs import Kind, Touch, TouchMode, kinds, known_to_read, touches
from langchain_vers.shell_syntax import Command, Script, require
from langchain_vers.shell_words import Word, joined


@dataclass(frozen=True)
class Allow:
    """Go ahead."""


@dataclass(frozen=True)
class Deny:
    """Do not do it. `reason` is told to the model: half a sentence, such as "it would delete the home directory"."""

    reason: str


@dataclass(frozen=True)
class Ask:
    """Ask a person first. `question` is what they are asked."""

    question: str


Decision = Allow | Deny | Ask


@dataclass(frozen=True)
class Machine:
    """Where something is to be done.

    Attributes:
        backend: the backend's name, such as "local" or "vers".
        machine_id: which machine of it, None where there is only one.
        home: the home directory there, None if it is not known.
        start: where commands start when the thread has no other directory, None if it is not known.
        workspace: the folders that are there to be worked in.
    """

    backend: str
    machine_id: str | None = None
    home: str | None = None
    start: str | None = None
    workspace: tuple[str, ...] = ()


@dataclass(frozen=True)
class Access:
    """A path that a call is going to read or write.

    Attributes:
        path: where it is, absolute and without `..`: once as it is written, and once where it really is, if a symlink leads elsewhere.
        mode: "read", "write", "remove", or "any" if that depends on a program that is not known.
        known: whether the path is known before it runs.
        deep: whether all that is below it is meant, too.
        written: the path as it was given.
        machine: the machine that it is on.
    """

    path: str
    mode: TouchMode
    known: bool = True
    deep: bool = False
    written: str = ""
    machine: Machine = Machine("local")

    @property
    def writes(self) -> bool:
        """Whether something may be changed there."""
        return self.mode != "read"


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        tool: the tool's name; a user's own command is "bash".
        arguments: its arguments, as they were given.
        machine: the machine that it works on.
        cwd: the working directory there, None if it is not known.
        script: the parsed command of a tool that runs one, else None.
        accesses: the paths that it is known to be about.
        by: whether the model or the user asks for it.
        targets: further machines that it names, such as one to be deleted.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    machine: Machine = Machine("local")
    cwd: str | None = None
    script: Script | None = None
    accesses: tuple[Access, ...] = ()
    by: Literal["model", "user"] = "model"
    targets: tuple[Machine, ...] = ()

    @property
    def backend(self) -> str:
        """The name of the backend that it works on."""
        return self.machine.backend

    @property
    def commands(self) -> tuple[Command, ...]:
        """The simple commands in it."""
        return () if self.script is None else self.script.commands


RuleLike = Callable[[Request], Decision | None]
Need = Literal["command", "paths"]
_ALL_NEEDS: frozenset[Need] = frozenset({"command", "paths"})


@dataclass(frozen=True)
class Rule:
    """Decides about requests that fit all of its conditions; an empty condition fits everything.

    Attributes:
        decision: what it says.
        tools: patterns of tool names, such as "vers_vm_*".
        backends: names of backends.
        commands: patterns of commands, word by word: "git push *" fits any `git push`, as a last `*` stands for any number of words.
        kinds: kinds of commands, see `shell_programs.Kind`.
        paths: patterns of paths, see `matches`.
        access: which accesses the paths are about.
        by: whose requests.

    To deny or to ask, it is enough that one command (or path) of the request fits. To allow, all of them must, and nothing of the
    command may be unknown: a rule that allows `git status` does not allow `git status; rm -rf /`.
    """

    decision: Decision
    tools: Sequence[str] = ()
    backends: Sequence[str] = ()
    commands: Sequence[str] = ()
    kinds: Sequence[Kind] = ()
    paths: Sequence[str] = ()
    access: Literal["read", "write", "any"] = "any"
    by: Literal["model", "user"] | None = None

    @property
    def needs(self) -> frozenset[Need]:
        """What it has to know of a request besides the tool and the machine."""
        if self.paths:
            return _ALL_NEEDS
        return frozenset({"command"}) if self.commands or self.kinds else frozenset()

    def __call__(self, request: Request) -> Decision | None:
        """What the rule says."""
        if self.tools and not any(fnmatch.fnmatchcase(request.tool, pattern) for pattern in self.tools):
            return None
        if (self.backends and request.backend not in self.backends) or self.by not in {None, request.by}:
            return None
        every = isinstance(self.decision, Allow)
        if (self.commands or self.kinds) and not self._commands_fit(request, every):
            return None
        if self.paths and not self._paths_fit(request, every):
            return None
        return self.decision

    def _commands_fit(self, request: Request, every: bool) -> bool:
        if request.script is None or (every and (request.script.doubts or not request.commands)):
            return False

        def fits(command: Command) -> bool:
            found = {kind for kind, _ in kinds(command)}
            return (not self.commands or any(_command_matches(command, pattern) for pattern in self.commands)) and (
                not self.kinds or bool(found & set(self.kinds))
            )

        if not every:
            return any(fits(command) for command in request.commands)
        plain = all(word.plain is not None for command in request.commands for word in command.words)
        quiet = not any(command.assignments or any(each.writes for each in command.redirections) for command in request.commands)
        return plain and quiet and all(fits(command) for command in request.commands)

    def _paths_fit(self, request: Request, every: bool) -> bool:
        wanted = [
            each for each in request.accesses if self.access == "any" or each.mode == "any" or each.writes == (self.access == "write")
        ]
        if every:
            whole = len(wanted) == len(request.accesses) and request.accesses and (request.script is None or not request.script.doubts)
            return bool(whole) and all(access.known and matches(access, self.paths) for access in wanted)
        return any(not access.known or matches(access, self.paths) for access in wanted)


def _command_matches(command: Command, pattern: str) -> bool:
    parts = pattern.split()
    texts = [command.name or "", *(word.text for word in command.words[1:])]
    rest = parts[-1:] == ["*"]
    parts = parts[:-1] if rest else parts
    if not command.words or len(texts) < len(parts) or (len(texts) > len(parts) and not rest):
        return False
    return all(fnmatch.fnmatchcase(text, part) for text, part in zip(texts, parts, strict=False))


def matches(access: Access, patterns: Sequence[str]) -> bool:
    """Whether a path, or a folder that it is in, fits one of these patterns.

    A pattern without "/" is about names in any folder (".env", "*.pem"); one with it is a whole path, which may begin with "~".
    """
    parts = [part for part in access.path.split("/") if part]
    folders = ["/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    for pattern in patterns:
        bare = pattern.rstrip("/") or "/"
        if "/" not in bare and not bare.startswith("~"):
            if any(fnmatch.fnmatchcase(part, bare) for part in parts):
                return True
            continue
        whole = bare if not bare.startswith("~") else f"{access.machine.home or '~'}{bare[1:]}"
        if any(fnmatch.fnmatchcase(folder, whole) for folder in folders) or (whole == "/" and not parts):
            return True
    return False


SECRETS = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_*_sk", ".netrc", ".npmrc", ".pypirc",
    ".git-credentials", ".pgpass", "~/.ssh", "~/.aws", "~/.gnupg", "~/.kube", "~/.docker/config.json", "~/.config/gcloud", "~/.azure",
    "~/.vers", "/etc/shadow", "/etc/gshadow", "/etc/sudoers", "/etc/sudoers.d", "/proc/*/environ", "/proc/*/mem",
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
    """

    patterns: Sequence[str]
    access: Literal["write", "any"] = "any"
    strict: bool = False
    needs: frozenset[Need] = _ALL_NEEDS

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
    ["/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/opt", "/proc", "/root", "/sbin", "/srv", "/sys", "/usr", "/var", "/Users", "/System", "/Library"]
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
    """

    folders: Sequence[str] = ()
    temporary: Sequence[str] = TEMPORARY
    needs: frozenset[Need] = _ALL_NEEDS

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


def _ruin(request: Request) -> Decision | None:
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


_ruin.needs = _ALL_NEEDS  # type: ignore[attr-defined]


def _risks(request: Request) -> Decision | None:
    """Asks about commands of the kinds that a careful person would want to hear of, and about what could not be read to the end."""
    reasons = [reason for command in request.commands for _, reason in kinds(command)]
    reasons += () if request.script is None else request.script.doubts
    return Ask(_question(request, "; ".join(dict.fromkeys(reasons)))) if reasons else None


_risks.needs = frozenset({"command"})  # type: ignore[attr-defined]


def _only_reads(request: Request) -> Decision | None:
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


_only_reads.needs = frozenset({"command"})  # type: ignore[attr-defined]


def _question(request: Request, reason: str) -> str:
    who = "The user's command" if request.by == "user" else f"The agent's call of {request.tool}"
    where = request.machine.backend + (f" {request.machine.machine_id}" if request.machine.machine_id else "")
    return f"{who} on {where} needs your word: {reason}. Go ahead?"


def _machine_tools(request: Request) -> Decision | None:
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


_machine_tools.needs = frozenset()  # type: ignore[attr-defined]


def _facts(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {str(value)[:100]}" for name, value in arguments.items() if value is not None)


class Policy:
    """Rules in order; the first that says something decides.

    Args:
        rules: `Rule`s, or callables `(Request) -> Decision | None`. A callable may have an attribute `needs`, a set of "command" and
            "paths", to say what it has to know of a request; without it, it is told everything.
        default: the decision where no rule has one.

    Raises:
        Unsupported: a rule needs commands to be parsed, and the parser (extra `policy`) is not installed.
    """

    def __init__(self, *rules: RuleLike, default: Decision | None = None) -> None:
        self.rules = rules
        self.default = Allow() if default is None else default
        for rule in rules:
            if not callable(rule):
                raise TypeError(f"{rule!r} is no rule; give a Rule, or a callable that takes a Request")
        if not isinstance(self.default, Allow | Deny | Ask):
            raise TypeError(f"{default!r} is no decision; give Allow(), Deny(reason) or Ask(question)")
        self.needs: frozenset[Need] = frozenset().union(*(getattr(rule, "needs", _ALL_NEEDS) for rule in rules))
        if "command" in self.needs:
            require()

    @classmethod
    def open(cls) -> Policy:
        """Everything is allowed, and nothing is looked at."""
        return cls()

    @classmethod
    def careful(
        cls,
        *,
        workspace: Sequence[str] = (),
        temporary: Sequence[str] = TEMPORARY,
        secrets: Sequence[str] = SECRETS,
        guarded: Sequence[str] = GUARDED,
    ) -> Policy:
        """For an agent that is watched: asks before anything that is hard to undo, leaves the workspace, or is not understood.

        `rm -rf /` and its kin are denied. A person is asked about sudo, network tools, installing software, `git push --force`, losing
        work in git, the machine's own settings, deleting and pausing machines, coming to the user's own machine, writing outside of
        `workspace` (default: each backend's own) and `temporary`, reading or writing `secrets`, writing `guarded` files, and commands that cannot be read
        to the end, or whose programs or files are not known before they run.
        """
        return cls(_ruin, Protected(secrets), Protected(guarded, "write"), _machine_tools, _risks, Outside(workspace, temporary))

    @classmethod
    def read_only(cls, *, secrets: Sequence[str] = SECRETS) -> Policy:
        """For an agent that only looks: whatever is not known to only read is denied, and so is reading `secrets`. Machines may be changed
        to, not changed.
        """
        return cls(Protected(secrets, strict=True), _only_reads)

    def after(self, *rules: RuleLike) -> Policy:
        """The same policy, with these rules before all others: they have the first word."""
        return Policy(*rules, *self.rules, default=self.default)

    @property
    def trivial(self) -> bool:
        """Whether it allows everything without looking."""
        return not self.rules and isinstance(self.default, Allow)

    def decide(self, request: Request) -> Decision:
        """The decision about a request. A rule that fails, or gives something else than a decision, denies."""
        for rule in self.rules:
            try:
                decision = rule(request)
            except Exception as error:
                return Deny(f"a rule of the policy failed ({type(error).__name__}: {error})")
            if isinstance(decision, Allow | Deny | Ask):
                return decision
            if decision is not None:
                return Deny(f"a rule of the policy gave {decision!r}, which is no decision")
        return self.default

    def __repr__(self) -> str:
        return f"Policy({', '.join(getattr(rule, '__name__', type(rule).__name__) for rule in self.rules)})"


@dataclass(frozen=True)
class Reach:
    """What a call of a tool reaches for, in the tool's own words.

    Attributes:
        command: the shell command that it runs.
        paths: the paths that it works on, with what it does to them; one may begin with "vm:<id>:", or "here:" for the user's machine.
        vm: the VM that it names; None is the thread's machine.
    """

    command: str | None = None
    paths: tuple[tuple[str, TouchMode, bool], ...] = ()
    vm: str | None = None


def wanted(script: Script | None) -> list[tuple[Touch, Word]]:
    """What the commands of a script touch, each with the path as it is from where the script starts."""
    found = []
    for command in () if script is None else script.commands:
        for touch in touches(command):
            found += [(touch, joined(folder, touch.word)) for folder in command.folders]
    return list(dict.fromkeys(found))
