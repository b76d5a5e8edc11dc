"""What a command may see of this machine's environment: nothing that was not named. Pure; the host's variables are given.

A guest (a container, a sandbox, a VM) gets a `PATH`, `HOME`, `LANG` and `TERM` of its own and what it is given by name. Commands on this
machine itself get `LOCAL_NAMES`, without which local work would not be usable, and what is named. So proxies, keys of APIs and clouds, and
the sockets of agents stay where they are until somebody asks for them.

A secret is given by reference, `Secret("NAME")`: its value is read when a command needs it, reaches the machine over the command's own
channel and never in an argument list, and is taken out of whatever is shown (`langchain_vers.redaction`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from langchain_vers.errors import BadInput

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""The `PATH` of commands on other machines, where the machine says none itself."""
LOCAL_NAMES = ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TERM", "TZ", "TMPDIR", "TMP", "TEMP")
"""What commands on this machine itself inherit unasked: who and where one is, how to write, where to put temporary files."""
ALL: Literal["all"] = "all"
"""As `inherit`: every variable whose name does not look like a secret's or a proxy's (`is_sensitive`)."""
SHORTEST_SECRET = 4
"""Characters. What is shorter stands everywhere in any output, so that it could not be kept out of it."""

Inherit = Collection[str] | Literal["all"]
"""Names of host variables that are passed on (`LC_*`: all that begin so), or "all" for all that do not look like secrets."""


@dataclass(frozen=True)
class Secret:
    """A secret by reference: the name of a variable of this process, read when a command needs it, and redacted wherever it might show.

    Attributes:
        name: the variable's name, here and for the command.

    Raises:
        BadInput: the name cannot be that of a variable.
    """

    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)


Environment = Mapping[str, str | Secret]
"""Variables for commands: a text as it is, or a secret by reference."""
EMPTY: Environment = MappingProxyType({})
"""No variables."""


def guest_environment(
    host: Mapping[str, str],
    *,
    home: str,
    added: Environment | None = None,
    inherit: Inherit = (),
    path: str = DEFAULT_PATH,
) -> dict[str, str]:
    """The environment of a command: a minimal PATH, HOME, LANG and TERM, what is `inherit`ed by name from `host`, and what is `added`.

    Raises:
        BadInput: a name or value is none that a shell can set, or a secret is missing.
    """
    environment = {"PATH": path, "HOME": home, "LANG": "C.UTF-8", "TERM": "dumb"}
    return environment | inherited(host, inherit) | resolved(added or {}, host)


def local_environment(host: Mapping[str, str], *, added: Environment | None = None, inherit: Inherit = ()) -> dict[str, str]:
    """The environment of a command on this machine itself: `LOCAL_NAMES`, what is `inherit`ed by name, and what is `added`.

    Raises:
        BadInput: as `guest_environment`.
    """
    environment = {"PATH": DEFAULT_PATH, "TERM": "dumb"} | inherited(host, LOCAL_NAMES)
    return environment | inherited(host, inherit) | resolved(added or {}, host)


def inherited(host: Mapping[str, str], names: Inherit) -> dict[str, str]:
    """The variables of the host that are passed on; those that are not set are left out.

    Raises:
        BadInput: `names` is a single text other than "all", or holds what is no name.
    """
    if names == ALL:
        return {name: value for name, value in host.items() if not is_sensitive(name)}
    wanted = checked_names(names)
    begins = tuple(name[:-1] for name in wanted if name.endswith("*"))
    return {name: value for name, value in host.items() if name in wanted or (begins and name.startswith(begins))}


def checked_names(names: Inherit) -> frozenset[str]:
    """The names of an `inherit`, checked when it is given and not only when it is used. ALL is no name, and gives none.

    Raises:
        BadInput: see `inherited`.
    """
    if isinstance(names, str):
        if names == ALL:
            return frozenset()
        raise BadInput(f'inherit={names!r} is one text; give a list of names of variables, or "{ALL}"')
    for name in names:
        if isinstance(name, str) and name != "*":
            _check_name(name.removesuffix("*"))
        else:
            raise BadInput(f'{name!r} names no variables to inherit; give names, or inherit="{ALL}"')
    return frozenset(names)


def checked(variables: Environment) -> dict[str, str | Secret]:
    """Variables as they may be given to a command; a copy.

    Raises:
        BadInput: a name that a shell cannot set, a NUL in a value, or a value that is neither text nor a secret.
    """
    for name, value in variables.items():
        _check_name(name)
        if isinstance(value, Secret):
            continue
        if not isinstance(value, str):
            raise BadInput(f"the variable {name} is of type {type(value).__name__}; give a text, or a Secret")
        _check_value(name, value)
    return dict(variables)


def resolved(variables: Environment, host: Mapping[str, str]) -> dict[str, str]:
    """The variables with the values of their secrets, as they are now.

    Raises:
        BadInput: see `checked`; or a secret is not set, or is too short to be kept out of output.
    """
    return {name: _value(value, host) if isinstance(value, Secret) else value for name, value in checked(variables).items()}


def _value(secret: Secret, host: Mapping[str, str]) -> str:
    value = host.get(secret.name, "")
    if not value:
        raise BadInput(f"the secret {secret.name} is not set in the environment of this process; set it there, then try again")
    if len(value) < SHORTEST_SECRET:
        raise BadInput(f"the secret {secret.name} is shorter than {SHORTEST_SECRET} characters, too short to be kept out of output")
    _check_value(secret.name, value)
    return value


def secrets_in(*environments: Environment) -> frozenset[Secret]:
    """All secrets that the variables refer to."""
    return frozenset(value for variables in environments for value in variables.values() if isinstance(value, Secret))


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadInput(f"{name!r} is not an environment variable that a shell can set; use letters, digits and '_', and no digit first")


def _check_value(name: str, value: str) -> None:
    if "\0" in value:
        raise BadInput(f"the value of {name} contains a NUL character, which no environment variable can; remove it")


_SENSITIVE_NAME = re.compile(
    # What it is, as a word anywhere in the name,
    r"(?:\A|_)(?:key|keys|apikey|tokens?|secrets?|password|passwd|passphrase|pass|pwd|credentials?|creds|auth|authorization|cert|private|cookie"
    r"|session|dsn|proxy|sock|socket|askpass|licen[cs]e|signature|pat|jwt|bearer|webhook|url|uri|netrc)(?:_|\d|\Z)"
    # as its end,
    r"|(?:key|token|secret|password|passwd|passfile|proxy|sock|dsn)\Z"
    # or whose it is, as its beginning.
    r"|\A(?:aws|azure|arm|google|gcp|gcloud|cloudsdk|kube|docker|openai|anthropic|langsmith|langchain_api|vers_|ssh_|gpg_|git_|github|gitlab|ci_|npm_"
    r"|pip_|uv_|twine|cargo_|hf_|huggingface|database|db_|pg|mysql|redis|mongo|vault|dbus|xauth|sentry|stripe|twilio|slack|op_)",
    re.IGNORECASE,
)


def is_sensitive(name: str) -> bool:
    """Whether a variable's name is one of those that hold secrets, lead to them, or say how this machine reaches the network.

    A list of words can never be whole: "all" is for people who know what is in their environment.
    """
    return _SENSITIVE_NAME.search(name) is not None


def with_changes(variables: Environment, changes: Mapping[str, str | Secret | None]) -> dict[str, str | Secret]:
    """The variables with some set and others (None) taken away.

    Raises:
        BadInput: see `checked`.
    """
    removed = {name for name, value in changes.items() if value is None}
    for name in removed:
        _check_name(name)
    added = checked({name: value for name, value in changes.items() if value is not None})
    return {name: value for name, value in {**variables, **added}.items() if name not in removed}
