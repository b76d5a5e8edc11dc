"""How far an evaluation is: one line that people watch, where there is somebody to watch it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Watch(Protocol):
    """What an evaluation tells of its course."""

    def began(self) -> None:
        """An example is being worked on."""

    def ended(self, passed: bool | None) -> None:
        """An example was evaluated; None: nothing was said about whether it passed."""


class Unwatched:
    """Nobody looks."""

    def began(self) -> None:
        """See `Watch.began`."""

    def ended(self, passed: bool | None) -> None:
        """See `Watch.ended`."""


@contextlib.contextmanager
def watched(total: int, title: str, *, show: bool) -> Iterator[Watch]:
    """A progress bar while the block runs, on a terminal (standard error) or in a notebook, where `rich` is installed. Else nothing."""
    try:
        from rich.console import Console  # noqa: PLC0415  # an extra
    except ImportError:
        show = False
    if not show or not ((console := Console(stderr=True)).is_terminal or console.is_jupyter):
        yield Unwatched()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=32, complete_style="green", finished_style="green"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[said]}"),
        TimeElapsedColumn(),
        TextColumn("[dim]left"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, said="")
        counts = {"running": 0, "passed": 0, "failed": 0}

        class Bar:
            def began(self) -> None:
                counts["running"] += 1
                self._show(0)

            def ended(self, passed: bool | None) -> None:
                counts["running"] -= 1
                if passed is not None:
                    counts["passed" if passed else "failed"] += 1
                self._show(1)

            def _show(self, advance: int) -> None:
                said = f"[green]{counts['passed']} passed[/]  [red]{counts['failed']} failed[/]  [dim]{counts['running']} running[/]"
                progress.update(task, advance=advance, said=said)

        yield Bar()
