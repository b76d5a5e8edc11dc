"""What is asked of a policy, and what it answers: requests, the paths and machines that they are about, decisions. Pure data."""

from __future__ import annotations

import fnmatch
import functools
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_vers.shell.programs import Touch, touches
from langchain_vers.shell.script import Command, Script
from langchain_vers.shell.tables import TouchMode
from langchain_vers.shell.words import Word, joined


@dataclass(frozen=True)
class Allow:
    """Go ahead."""


@dataclass(frozen=True)
class Deny:
    """Do not do it.

    Attributes:
        reason: what the model is told, half a sentence such as "it would delete the home directory".
    """

    reason: str


@dataclass(frozen=True)
class Ask:
    """Ask a person first.

    Attributes:
        question: what they are asked.
    """

    question: str


Decision = Allow | Deny | Ask
"""What a rule says of a request."""


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
"""A `Rule`, or any function that decides about a request; None if it has nothing to say."""
Need = Literal["command", "paths"]
"""What a rule may have to know of a request besides the tool and the machine: the parsed command, and where the paths really are."""
ALL_NEEDS: frozenset[Need] = frozenset({"command", "paths"})
"""What a rule is told that does not say what it needs."""


def matches(access: Access, patterns: Sequence[str]) -> bool:
    """Whether a path, or a folder that it is in, fits one of these patterns.

    A pattern without "/" is about names in any folder (`.env`, `*.pem`); one with it is a whole path, which may begin with "~".
    """
    names, places = _compiled(tuple(patterns), access.machine.home)
    parts = [part for part in access.path.split("/") if part]
    if names is not None and any(map(names.match, parts)):
        return True
    if places is None:
        return False
    folders = itertools.accumulate(parts, lambda folder, part: f"{folder}/{part}", initial="")
    return any(map(places.match, folders if parts else "/"))


@functools.lru_cache(128)
def _compiled(patterns: tuple[str, ...], home: str | None) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """What fits the patterns about names, and those about whole paths."""
    names, places = [], []
    for pattern in patterns:
        bare = pattern.rstrip("/") or "/"
        if "/" not in bare and not bare.startswith("~"):
            names.append(fnmatch.translate(bare))
        else:
            places.append(fnmatch.translate(bare if not bare.startswith("~") else f"{home or '~'}{bare[1:]}"))
    return (re.compile("|".join(names)) if names else None, re.compile("|".join(places)) if places else None)


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
