"""The variables that commands are given, for all threads and for each, and the secrets among them that must not show.

Kept in this process only: a thread's variables are no part of its conversation, and are set again by a program that resumes it. What the
environment of a command is made of is decided in `backends/environment.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from langchain_vers.backends.environment import SHORTEST_SECRET, Environment, Secret, checked, resolved, secrets_in, with_changes
from langchain_vers.redaction import NOTHING, Redactor

_KEYS = (Secret("VERS_API_KEY"), Secret("VERS_EMBEDDED_API_KEY"))
"""The keys to all machines: redacted wherever they come from, though no command is given them."""


class Variables:
    """What `BackendContext` knows of variables."""

    def __init__(self, common: Environment | None) -> None:
        self._common = checked(common or {})
        self._threads: dict[str | None, dict[str, str | Secret]] = {}
        self._values: set[tuple[str, str]] = set()
        """Secrets' values that this process has had: one that was replaced may still stand in a file."""
        self._redactor = NOTHING

    def __repr__(self) -> str:
        return f"Variables({', '.join(sorted(self._common)) or 'none'}; {len(self._threads)} threads)"

    def change(self, thread: str | None, changes: Mapping[str, str | Secret | None]) -> None:
        """Set variables of a thread, and take away (None) those that it was given."""
        self._threads[thread] = with_changes(self._threads.get(thread, {}), changes)

    def of(self, thread: str | None) -> dict[str, str | Secret]:
        """A thread's variables, with those of all threads."""
        return {**self._common, **self._threads.get(thread, {})}

    def now(self, thread: str | None) -> dict[str, str]:
        """The same with the values of secrets.

        Raises:
            BadInput: a secret is not set in this process, or too short to be kept out of output.
        """
        return resolved(self.of(thread), os.environ)

    def redactor(self, *environments: Environment) -> Redactor:
        """What takes out the secrets of all threads and of these environments."""
        known = secrets_in(self._common, *self._threads.values(), *environments).union(_KEYS)
        values = {(secret.name, os.environ.get(secret.name, "")) for secret in known}
        values = {(name, value) for name, value in values if len(value) >= SHORTEST_SECRET}
        if not values <= self._values:
            self._values |= values
            self._redactor = Redactor(self._values)
        return self._redactor
