"""How far something is, shown to people on a terminal or in a notebook; nothing where nobody looks, or where rich is not installed."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Show = Callable[[int, str], object]
"""Shows how many are done, and a word about it."""


class Progress:
    """Counts what is done."""

    def __init__(self, show: Show | None = None) -> None:
        self._show = show
        self._done = 0

    def advance(self, said: str = "") -> None:
        """One more is done; `said` is shown behind the bar."""
        self._done += 1
        self.say(said)

    def say(self, said: str) -> None:
        """Show something else behind the bar."""
        if self._show is not None:
            self._show(self._done, said)


@contextmanager
def progress_bar(title: str, total: int, *, shown: bool = True) -> Iterator[Progress]:
    """A bar on stderr or in a notebook's cell, for as long as the block lasts; gone afterwards."""
    if shown and (handle := _cell()) is not None:
        try:
            yield Progress(_in_cell(handle, title, total))
        finally:
            handle.update({"text/plain": ""}, raw=True)
        return
    try:
        from rich.console import Console  # noqa: PLC0415  # not installed with every part of the package
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
        from rich.progress import Progress as Bar  # noqa: PLC0415
    except ImportError:
        shown = False
    console = Console(stderr=True) if shown else None
    if console is None or not console.is_terminal:
        yield Progress()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[said]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, said="")
        yield Progress(lambda done, said: bar.update(task, completed=done, said=said))


def _cell() -> Any:  # noqa: ANN401  # IPython's handle of what is displayed
    """A place in the notebook's cell that is being run; None outside of notebooks. Needs no widgets."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from IPython.display import DisplayHandle  # noqa: PLC0415  # only there

    handle: Any = DisplayHandle()  # type: ignore[no-untyped-call]
    handle.display({"text/plain": ""}, raw=True)
    return handle


def _in_cell(handle: Any, title: str, total: int) -> Show:  # noqa: ANN401  # see `_cell`
    began = time.monotonic()

    def show(done: int, said: str) -> None:
        seconds = f"{time.monotonic() - began:.0f} s"
        bar = f'<progress max="{total}" value="{done}"></progress>'
        text = f"{title} {done}/{total} {seconds} {said}"
        shown = f"{html.escape(title)} {bar} {done}/{total} {seconds} {html.escape(said)}"
        handle.update({"text/html": shown, "text/plain": text}, raw=True)

    show(0, "")
    return show
