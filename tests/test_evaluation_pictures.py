"""How evaluations look: the pure parts, for the odd cases that no real run shows."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langsmith.evaluation import EvaluationResult
from rich.console import Console

from langchain_vers.evals import pictures
from langchain_vers.evals.results import measures, passes, verdict


@pytest.mark.parametrize(
    ("score", "said"),
    [(True, True), (1, True), (1.0, True), (False, False), (0, False), (0.0, False), (0.5, None), (2, None), (None, None)],
)
def test_what_a_score_says(score: Any, said: bool | None) -> None:
    assert passes(score) is said


def test_the_verdict_on_an_example() -> None:
    def found(**scores: Any) -> dict[str, EvaluationResult]:
        return {key: EvaluationResult(key=key, score=score) for key, score in scores.items()}

    assert verdict(None, {}, {}, ()) is None and verdict(None, {}, found(lines=3), {"lines"}) is None
    assert verdict(None, {}, found(right=True, lines=0), {"lines"}) is True
    assert verdict(None, {}, found(right=True, lines=0), ()) is False
    assert verdict("it failed", {}, found(right=True), ()) is False and verdict(None, {"other": "failed"}, found(right=True), ()) is False
    assert measures(found(a=0.5, b=0, c=None, d=True, e=7).values()) == {"a", "e"}


@pytest.mark.parametrize(
    ("inputs", "metadata", "name"),
    [
        ({"x": 1, "question": "Why?\nWhen?"}, None, "Why? When?"),
        ({"question": "Why?"}, {"name": "first"}, "first"),
        ({"question": " ", "text": "t"}, {"name": 3}, "t"),
        ({"a": 1, "b": "the first text"}, {}, "the first text"),
        ({"a": 1}, None, "{'a': 1}"),
        (None, None, "{}"),
        ({"name": "x" * 100}, None, "x" * 39 + "…"),
    ],
)
def test_what_an_example_is_called(inputs: Any, metadata: Any, name: str) -> None:
    assert pictures.name_of(inputs, metadata) == name


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 ms"), (0.0123, "12 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"), (119.9, "119.9 s"), (150, "2.5 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert pictures.duration(seconds) == said


def test_a_measure_of_one_is_no_tick() -> None:
    lines = [pictures.Line(n, f"example {n}", {"right": n == 1, "lines": n}, 1.0, n == 1) for n in range(3)]
    totals = pictures.Totals({"right": 1 / 3, "lines": None}, {"right": 1 / 3, "lines": 1.0}, 1.0, 3.0, measured={"lines"})
    rows = [line.split() for line in pictures.text(lines, ["right", "lines"], totals, title="t").splitlines()]
    assert [row[3:5] for row in rows[3:6]] == [["✗", "0"], ["✓", "1"], ["✗", "2"]]
    assert rows[-1] == ["3", "in", "3.0", "s", "33%", "⌀", "1", "⌀", "1.0", "s"]


texts = st.text(max_size=60)
lines = st.lists(
    st.builds(
        pictures.Line,
        number=st.integers(0, 10**6),
        name=texts,
        scores=st.dictionaries(st.sampled_from(["[red]a[/]", "<b>"]), st.none() | st.booleans() | st.floats(allow_nan=False)),
        seconds=st.floats(0, 1e6),
        passed=st.none() | st.booleans(),
        note=texts,
    ),
    max_size=8,
)


@given(lines=lines, title=texts)
def test_anything_can_be_shown(lines: list[pictures.Line], title: str) -> None:
    keys = ["[red]a[/]", "<b>"]
    totals = pictures.Totals({keys[0]: 0.5}, {keys[1]: 2.0}, 1.0, 2.0)
    assert len(pictures.text(lines, keys, totals, title=title).splitlines()) >= len(lines) + 4
    Console(file=io.StringIO(), width=100).print(pictures.table(lines, keys, totals, title=title))
    shown = pictures.html(lines, keys, totals, title=title)
    assert shown.count("<tr>") == len(lines) + 2 and "<b>" not in shown


def test_pictures_of_few_and_many() -> None:
    for count in (0, 31):
        lines = [pictures.Line(n, rf"$\fra{{ {n}$", {}, float(n), [True, False, None][n % 3]) for n in range(count)]
        for rates in ({}, {"right": 0.0}, {"a_rather_long_name_of_an_evaluator": 1.0, "$_$": 0.5}):
            figure: Any = pictures.plot(lines, rates, title=r"$\x{$")
            assert figure._repr_png_().startswith(b"\x89PNG")
