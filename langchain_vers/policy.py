"""What an agent may do: decisions by rules over the tool, the machine, the paths where they really are, and the parsed command. Pure.

A policy is a list of rules; the first that says something decides, and `default` decides where none does. A rule is a `Rule`, or anything
that is called with a `Request` and gives `Allow()`, `Deny(reason)`, `Ask(question)`, or None if it has nothing to say. The same policy
holds for the model's calls and for the user's own commands (`Request.by`).

A gate is no sandbox. It judges what is asked for, not what the programs do that are started: `make test` may do anything. Against programs
that mean harm there are backends that isolate.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from langchain_vers.caution import GUARDED, SECRETS, TEMPORARY, Outside, Protected, machine_tools, needing, only_reads, risks, ruin
from langchain_vers.request import (
    ALL_NEEDS,
    Access,
    Allow,
    Ask,
    Decision,
    Deny,
    Machine,
    Need,
    Reach,
    Request,
    RuleLike,
    matches,
)
from langchain_vers.shell.programs import kinds
from langchain_vers.shell.script import Command
from langchain_vers.shell.syntax import require
from langchain_vers.shell.tables import Kind

__all__ = [
    "GUARDED",
    "SECRETS",
    "TEMPORARY",
    "Access",
    "Allow",
    "Ask",
    "Decision",
    "Deny",
    "Kind",
    "Machine",
    "Outside",
    "Policy",
    "Protected",
    "Reach",
    "Request",
    "Rule",
    "RuleLike",
    "matches",
    "needing",
]


@dataclass(frozen=True)
class Rule:
    """Decides about requests that fit all of its conditions; an empty condition fits everything.

    Attributes:
        decision: what it says.
        tools: patterns of tool names, such as `vers_vm_*`.
        backends: names of backends.
        commands: patterns of commands, word by word: `git push *` fits any `git push`, as a last `*` stands for any number of words.
        kinds: kinds of commands, see `shell.tables.Kind`.
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
            return ALL_NEEDS
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
        plain = all(command.ordinary or not command.words for command in request.commands) and all(
            word.plain is not None for command in request.commands for word in command.words
        )
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


class Policy:
    """Rules in order; the first that says something decides.

    Args:
        rules: each a `Rule`, or a callable `(Request) -> Decision | None`. A callable may have an attribute `needs`, a set of "command" and
            "paths", to say what it has to know of a request; without it, it is told everything.
        default: the decision where no rule has one.

    Raises:
        Unsupported: a rule needs commands to be parsed, and the parser (extra "policy") is not installed.
        TypeError: a rule cannot be called, or the default is no decision.
    """

    def __init__(self, *rules: RuleLike, default: Decision | None = None) -> None:
        self.rules = rules
        self.default = Allow() if default is None else default
        for rule in rules:
            if not callable(rule):
                raise TypeError(f"{rule!r} is no rule; give a Rule, or a callable that takes a Request")
        if not isinstance(self.default, Allow | Deny | Ask):
            raise TypeError(f"{default!r} is no decision; give Allow(), Deny(reason) or Ask(question)")
        self.needs: frozenset[Need] = frozenset().union(*(getattr(rule, "needs", ALL_NEEDS) for rule in rules))
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
        `workspace` (default: where the backend's commands start) and `temporary`, reading or writing `secrets`, writing `guarded` files,
        and commands that cannot be read to the end, or whose programs or files are not known before they run.
        """
        return cls(ruin, Protected(secrets), Protected(guarded, "write"), machine_tools, risks, Outside(workspace, temporary))

    @classmethod
    def read_only(cls, *, secrets: Sequence[str] = SECRETS) -> Policy:
        """For an agent that only looks: whatever is not known to only read is denied, and so is reading `secrets`. Machines may be changed
        to, not changed.
        """
        return cls(Protected(secrets, strict=True), only_reads)

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
