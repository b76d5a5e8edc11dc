"""How far an evaluation is, in words for a progress bar."""

from __future__ import annotations

from langchain_vers.progress import Progress


class Tally:
    """Counts the examples that are worked on, and how they came out."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._running = self._passed = self._failed = 0

    def began(self) -> None:
        """An example is being worked on."""
        self._running += 1
        self._bar.say(str(self))

    def ended(self, passed: bool | None) -> None:
        """One was evaluated; None: nothing was said about whether it passed."""
        self._running -= 1
        self._passed += passed is True
        self._failed += passed is False
        self._bar.advance(str(self))

    def __str__(self) -> str:
        counts = {"passed": self._passed, "failed": self._failed, "running": self._running}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
