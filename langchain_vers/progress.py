"""How far something is, shown to people on a terminal or in a notebook; nothing where nobody looks, or where rich is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """Counts what is done."""

    def __init__(self, bar: Bar | None = None, task: Any = None) -> None:  # noqa: ANN401  # rich's task id
        self._bar, self._task = bar, task

    def advance(self, said: str = "") -> None:
        """One more is done; `said` is shown behind the bar."""
        if self._bar is not None:
            self._bar.update(self._task, advance=1, said=said)


@contextmanager
def progress_bar(title: str, total: int, *, shown: bool = True) -> Iterator[Progress]:
    """A bar on stderr, for as long as the block lasts; gone afterwards."""
    try:
        from rich.console import Console  # noqa: PLC0415  # not installed with every part of the package
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415
    except ImportError:
        shown = False
    console = Console(stderr=True) if shown else None
    if console is None or not (console.is_terminal or console.is_jupyter):
        yield Progress()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[said]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        yield Progress(bar, bar.add_task(title, total=total, said=""))
