"""What the demo shows: steps as they happen, then a table and a tree. Plain text without control characters where there is no terminal.

It knows nothing of agents or machines. What comes from a machine is stripped of control characters before it is shown.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DIFF = {"+": "green", "-": "red"}
_SHOWN_LINES = 24
_SHOWN_ARGUMENT = 400


@dataclass(frozen=True)
class Row:
    """One line of the closing table."""

    what: str
    ok: bool
    seconds: float


@dataclass(frozen=True)
class Branch:
    """One node of the tree of machines."""

    text: str
    children: Sequence[Branch] = ()


def plain(text: str) -> str:
    """Text without escape sequences and control characters, except line breaks and tabs."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))


class Screen:
    """Writes to a console, line by line. Output that streams in is shown at the end of each of its lines."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, markup=False, emoji=False)
        pictures = self.console.encoding.lower().startswith("utf")
        self._tick, self._cross, self._bar, self._prompt = ("✓", "✗", "│", "▸") if pictures else ("ok", "FAILED", "|", ">")
        self._partial = ""
        self._lines = 0
        self._scene = ""

    def heading(self, title: str, lines: Sequence[str]) -> None:
        """The demo's title and what is going on."""
        self._print(Text(title, style="bold"))
        for line in lines:
            self.note(line)

    def note(self, text: str) -> None:
        """A remark by the demo itself."""
        self.console.print(Text(self._clean(text), style="dim"), soft_wrap=True)  # what is to be copied must stay in one piece

    def problem(self, text: str) -> None:
        """What went wrong, and what to do."""
        self.console.print(Text(self._clean(text), style="bold red"), soft_wrap=True)

    def scene(self, title: str) -> None:
        """A new part of the story, unless it is the one that is on."""
        if title and title != self._scene:
            self._print(Text())
            self._print(Text(title, style="bold cyan"))
        self._scene = title

    def say(self, text: str) -> None:
        """What is going on, told by the demo."""
        self.end_output()
        for piece in Text(self._clean(text), style="italic").wrap(self.console, max(20, self.console.width - 2)):
            self._print(Text("  ").append_text(piece))

    def call(self, tool: str, argument: str, said: str = "") -> None:
        """A tool is called; `argument` is the one that tells most."""
        self.end_output()
        self._lines = 0
        if said:
            self._print(Text(f"  {self._clean(said)}", style="italic"))
        short = argument if len(argument) <= _SHOWN_ARGUMENT else f"{argument[:_SHOWN_ARGUMENT]}..."
        line = Text().append(tool, style="bold cyan").append(f" {self._clean(short)}")
        for number, piece in enumerate(line.wrap(self.console, max(20, self.console.width - 4), overflow="fold")):
            self._print(Text().append("    " if number else f"  {self._prompt} ", style="cyan").append_text(piece))

    def output(self, delta: str) -> None:
        """A piece of a command's output, as it arrives."""
        self._partial += delta
        *lines, self._partial = self._partial.split("\n")
        for line in lines:
            self._line(line)

    def block(self, text: str, *, diff: bool = False) -> None:
        """Several lines at once, such as a file or a diff, which is coloured."""
        self.end_output()
        for line in text.rstrip("\n").split("\n"):
            self._line(line, style=_DIFF.get(line[:1], "default") if diff else "default")

    def end_output(self) -> None:
        """Show what is left of a last line without a line break; say how much was left out."""
        if self._partial:
            self._line(self._partial)
        self._partial = ""
        if self._lines > _SHOWN_LINES:
            self._print(Text(f"  {self._bar} ({self._lines - _SHOWN_LINES} more lines)", style="dim"))
        self._lines = 0

    def result(self, ok: bool, text: str, seconds: float) -> None:
        """How a call came out, as far as the demo is concerned."""
        self.end_output()
        line = Text().append(f"  {self._mark(ok)} ", style="bold green" if ok else "bold red")
        self._print(line.append(self._clean(text), style="" if ok else "bold red").append(f"  {_seconds(seconds)}", style="dim"))

    def side_by_side(self, titles: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
        """A table with a column for each title; each row has a name, and for each column a text of one or more lines."""
        table = Table(show_lines=True)
        for title in ("", *titles):
            table.add_column(Text(self._clean(title)))
        for name, cells in rows:
            table.add_row(Text(self._clean(name), style="bold"), *(Text(self._clean(cell)) for cell in cells))
        self.console.print(table)

    def summary(self, rows: Sequence[Row]) -> None:
        """The closing table."""
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(no_wrap=True)
        table.add_column()
        table.add_column(justify="right", no_wrap=True)
        for row in rows:
            table.add_row(
                Text(self._mark(row.ok), style="bold green" if row.ok else "bold red"),
                Text(self._clean(row.what)),
                Text(_seconds(row.seconds) if row.seconds else "", style="dim"),
            )
        self._print(Text())
        self._print(Text("What was shown", style="bold"))
        self.console.print(table)

    def tree(self, root: Branch) -> None:
        """The machines, and which came from which."""
        shown = Tree(Text(self._clean(root.text), style="bold"), guide_style="dim")
        _grow(shown, root)
        self._print(Text())
        self.console.print(shown)
        self._print(Text())

    def _mark(self, ok: bool) -> str:
        return self._tick if ok else self._cross

    def _line(self, text: str, style: str = "default") -> None:
        self._lines += 1
        if self._lines > _SHOWN_LINES:
            return
        line = Text(self._clean(text).expandtabs(4) or " ", style=style)
        for piece in line.wrap(self.console, max(20, self.console.width - 4), overflow="fold"):
            self._print(Text().append(f"  {self._bar} ", style="dim").append_text(piece))

    def _clean(self, text: str) -> str:
        return plain(text).encode(self.console.encoding, "replace").decode(self.console.encoding)

    def _print(self, text: Text) -> None:
        text.rstrip()
        self.console.print(text, overflow="fold")


def _grow(tree: Tree, branch: Branch) -> None:
    for child in branch.children:
        _grow(tree.add(Text(plain(child.text))), child)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
