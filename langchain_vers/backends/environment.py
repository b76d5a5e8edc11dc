"""What a command may see of this machine's environment: nothing that was not named. Pure; the host's variables are given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Secret:
    """A secret by reference: the name of a variable of this process, read when a command needs it, and redacted wherever it might show."""

    name: str


def guest_environment(
    host: Mapping[str, str],
    *,
    home: str,
    added: Mapping[str, str | Secret] | None = None,
    inherit: Collection[str] = (),
    path: str = DEFAULT_PATH,
) -> dict[str, str]:
    """The environment of a command: a minimal PATH, HOME, LANG and TERM, what is `inherit`ed by name from `host`, and what is `added`."""
    environment = {"PATH": path, "HOME": home, "LANG": "C.UTF-8", "TERM": "dumb"}
    environment |= {name: host[name] for name in inherit if name in host}
    for name, value in (added or {}).items():
        environment[name] = host[value.name] if isinstance(value, Secret) else value
    return environment
