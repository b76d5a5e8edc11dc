"""How an evaluation looks: as a table on a terminal or in a notebook, and as a picture. Pure, apart from the libraries that draw."""

from __future__ import annotations

import html as markup
import io
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_vers.errors import Unsupported

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

PASSED, FAILED, UNKNOWN, INK, FAINT = "#2a9d8f", "#e76f51", "#8d99ae", "#22303c", "#d9dee5"
"""Colours that people who cannot tell red from green can tell apart."""
NAMING = ("name", "id", "task", "question", "input", "title", "text")
"""What of an example's inputs or metadata is its name, if there is such a thing."""
WIDTH = 40
NOTE = 70


@dataclass(frozen=True)
class Line:
    """One example, for display. `passed` None: nothing was said."""

    number: int
    name: str
    scores: Mapping[str, float | bool | None]
    seconds: float
    passed: bool | None
    note: str = ""


@dataclass(frozen=True)
class Totals:
    """What stands below the lines: by evaluator the pass rate (0 to 1) and the mean; seconds of an agent in the mean, and of all."""

    rates: Mapping[str, float | None]
    means: Mapping[str, float | None]
    agent_seconds: float
    seconds: float
    measured: Collection[str] = ()
    """The evaluators that measure."""


def name_of(inputs: Mapping[str, Any] | None, metadata: Mapping[str, Any] | None = None) -> str:
    """What to call an example: the first of `NAMING` that its metadata or inputs have, else its first text."""
    for source in (metadata or {}, inputs or {}):
        for key in NAMING:
            if isinstance(source.get(key), str) and source[key].strip():
                return shortened(source[key])
    texts = [value for value in (inputs or {}).values() if isinstance(value, str)]
    return shortened(texts[0] if texts else str(dict(inputs or {})))


def shortened(text: str, width: int = WIDTH) -> str:
    """A text on one line of at most so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


def score(value: float | bool | None, *, measure: bool = False) -> str:
    """A score as people read it: as passed or failed where it says so, as a number where it is a `measure`."""
    if value is None:
        return "–"
    if not measure and (isinstance(value, bool) or value in {0, 1}):
        return "✓" if value else "✗"
    return f"{value:.3g}"


def total(rate: float | None, mean: float | None) -> str:
    """What stands below a column: the pass rate, or the mean where something is measured."""
    if rate is not None:
        return f"{rate:.0%}"
    return "–" if mean is None else f"⌀ {mean:.3g}"


def duration(seconds: float) -> str:
    """Seconds as people read them."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def summary(count: int, rate: float | None, seconds: float) -> str:
    """All of it in a few words."""
    said = "" if rate is None else f", {rate:.0%} passed"
    return f"{count} {'example' if count == 1 else 'examples'}{said}, {duration(seconds)}"


def _headed(lines: Sequence[Line], keys: Sequence[str], measured: Collection[str]) -> tuple[list[str], list[list[str]], bool]:
    noted = any(line.note for line in lines)
    head = ["#", "example", *keys, "agent", *(["note"] if noted else [])]
    body = [
        [str(line.number + 1), line.name, *(score(line.scores.get(key), measure=key in measured) for key in keys), duration(line.seconds)]
        + ([shortened(line.note, NOTE)] if noted else [])
        for line in lines
    ]
    return head, body, noted


def _foot(lines: Sequence[Line], keys: Sequence[str], totals: Totals, *, noted: bool) -> list[str]:
    said = [total(totals.rates.get(key), totals.means.get(key)) for key in keys]
    return ["", f"{len(lines)} in {duration(totals.seconds)}", *said, f"⌀ {duration(totals.agent_seconds)}", *([""] if noted else [])]


def text(lines: Sequence[Line], keys: Sequence[str], totals: Totals, *, title: str) -> str:
    """As plain text."""
    head, body, noted = _headed(lines, keys, totals.measured)
    foot = _foot(lines, keys, totals, noted=noted)
    widths = [max(len(row[column]) for row in (head, *body, foot)) for column in range(len(head))]
    rule = ["─" * width for width in widths]

    def joined(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    rows = [joined(row) for row in (head, rule, *body, rule, foot)]
    return "\n".join([title, *rows])


def table(lines: Sequence[Line], keys: Sequence[str], totals: Totals, *, title: str) -> Table:
    """As a table of `rich`.

    Raises:
        Unsupported: `rich` is not installed.
    """
    try:
        from rich import box  # noqa: PLC0415  # an extra
        from rich.markup import escape  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415
    except ImportError:
        raise Unsupported("a table needs the package rich; install langchain-vers[evals], or print the results as text") from None
    head, body, noted = _headed(lines, keys, totals.measured)
    foot = [escape(cell) for cell in _foot(lines, keys, totals, noted=noted)]
    drawn = Table(title=escape(title), box=box.ROUNDED, show_footer=True, title_style="bold", border_style="dim")
    for column, name in enumerate(head):
        right = name in {"#", "agent"}
        drawn.add_column(escape(name), footer=foot[column], justify="right" if right else "center" if name in keys else "left")
    colours = {"✓": "green", "✗": "red"}
    for line, row in zip(lines, body, strict=True):
        style = "" if line.passed is not False else "none"
        drawn.add_row(*(f"[{colours[cell]}]{cell}[/]" if cell in colours else escape(cell) for cell in row), style=style)
    return drawn


def html(lines: Sequence[Line], keys: Sequence[str], totals: Totals, *, title: str) -> str:
    """As a table for notebooks."""
    head, body, noted = _headed(lines, keys, totals.measured)
    foot = _foot(lines, keys, totals, noted=noted)
    colours = {"✓": PASSED, "✗": FAILED}

    def cell(tag: str, content: str) -> str:
        style = f' style="color:{colours[content]};font-weight:bold"' if content in colours else ""
        return f"<{tag}{style}>{markup.escape(content)}</{tag}>"

    def row(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(cell(tag, content) for content in cells) + "</tr>"

    return (
        f"<table><caption>{markup.escape(title)}</caption><thead>{row('th', head)}</thead>"
        f"<tbody>{''.join(row('td', cells) for cells in body)}</tbody><tfoot>{row('th', foot)}</tfoot></table>"
    )


def plot(lines: Sequence[Line], rates: Mapping[str, float], *, title: str) -> Figure:
    """Two panels: the pass rate of each evaluator, and how long each example took, coloured by whether it passed.

    Raises:
        Unsupported: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  # an extra
    except ImportError:
        raise Unsupported("a picture needs the package matplotlib; install langchain-vers[evals]") from None

    class Shown(Figure):
        """A figure that a notebook shows although no window was ever asked for one."""

        def _repr_png_(self) -> bytes:
            data = io.BytesIO()
            self.savefig(data, format="png")
            return data.getvalue()

    named = len(lines) <= 30
    height = 1.5 + max(0.46 * max(len(rates), 1), 0.26 * len(lines) if named else 3.2)
    figure = Shown(figsize=(9.5, height), dpi=100, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=12, fontweight="bold", color=INK, x=0.01, ha="left", parse_math=False)
    if rates:
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        _rates(left, rates, len(lines), rows=height / 0.62)
    else:
        right = figure.subplots()
    _durations(right, lines, named=named)
    return figure


def _rates(axes: Axes, rates: Mapping[str, float], count: int, *, rows: float) -> None:
    """`rows`: how many bars there is room for."""
    names = [textwrap.fill(name.replace("_", " "), 18) for name in rates]
    places = range(len(names))
    axes.barh(places, [1.0] * len(names), color=FAINT, height=0.55)
    axes.barh(places, list(rates.values()), color=PASSED, height=0.55)
    for place, rate in zip(places, rates.values(), strict=True):
        inside = rate >= 0.45
        where, colour = (rate - 0.03, "white") if inside else (rate + 0.03, INK)
        words = f"{rate:.0%}  ({round(rate * count)} of {count})"
        axes.text(where, place, words, va="center", ha="right" if inside else "left", color=colour, fontsize=9, fontweight="bold")
    axes.set_yticks(places, names, parse_math=False)  # a name is no formula, whatever is in it
    axes.set_ylim(max(len(names), rows) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes.set_title("passed", fontsize=10, color=INK, loc="left")
    _bare(axes)


def _durations(axes: Axes, lines: Sequence[Line], *, named: bool) -> None:
    from matplotlib.patches import Patch  # noqa: PLC0415  # an extra

    colours = {True: PASSED, False: FAILED, None: UNKNOWN}
    words = {True: "passed", False: "failed", None: "not said"}
    longest = max((line.seconds for line in lines), default=1.0) or 1.0
    shown = [(line.seconds, colours[line.passed]) for line in lines]
    axes.barh(range(len(lines)), [seconds for seconds, _ in shown], color=[colour for _, colour in shown], height=0.7)
    if named:
        for place, line in enumerate(lines):
            axes.text(line.seconds + longest * 0.015, place, duration(line.seconds), va="center", fontsize=8, color=INK)
        axes.set_yticks(range(len(lines)), [shortened(line.name, 24) for line in lines], parse_math=False)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(lines)} examples", color=INK, fontsize=9)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(0, longest * (1.16 if named else 1.03))
    axes.set_title("seconds of the agent, by example", fontsize=10, color=INK, loc="left")
    present = [verdict for verdict in (True, False, None) if any(line.passed is verdict for line in lines)]
    if len(present) > 1:
        handles = [Patch(color=colours[verdict], label=words[verdict]) for verdict in present]
        above: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.2}
        axes.legend(handles=handles, frameon=False, fontsize=8, ncols=len(present), **above)
    _bare(axes)


def _bare(axes: Axes) -> None:
    """No more lines than needed."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(length=0, labelsize=8.5, labelcolor=INK)
