"""At every checkpoint of any history, the machine holds what the messages claim.

One seed is one history, the same every time as far as threads let it be. `VERS_PROOF_SEED` and `VERS_PROOF_SETTING` (such as
"nested aiosqlite step async 40": graph, saver, policy, durability, operations) repeat the one that failed, in place of the short ones.
`VERS_PROOF_REPORT` names a file that gets a line with the sums.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rigs.savers import Database

from langchain_vers import BackendContext
from langchain_vers._io import run
from versions import mortality
from versions.histories import Outcome, Setting, Story
from versions.machine_claims import Report, everything, sweep

SETTINGS = [
    Setting("agent", "sqlite", "step", "async"),
    Setting("graph", "sqlite", "step", "sync"),
    Setting("nested", "sqlite", "step", "async"),
    Setting("agent", "aiosqlite", "step", "async"),
    Setting("graph", "memory", "step", "async"),
    Setting("nested", "aiosqlite", "step", "sync"),
    Setting("agent", "sqlite", "turn", "sync"),
    Setting("graph", "aiosqlite", "step", "async"),
    Setting("nested", "memory", "turn", "async"),
    Setting("agent", "memory", "step", "sync"),
    Setting("graph", "sqlite", "turn", "async"),
    Setting("nested", "sqlite", "step", "sync"),
]
HISTORIES = 312
SHORT = [(n, SETTINGS[n], 8) for n in (0, 2)]
REPORT = os.environ.get("VERS_PROOF_REPORT")
if "VERS_PROOF_SEED" in os.environ:
    *_words, _length = os.environ["VERS_PROOF_SETTING"].split()
    SHORT = [(int(os.environ["VERS_PROOF_SEED"]), Setting(*_words), int(_length))]  # type: ignore[arg-type]
FULL = [(1000 + n, SETTINGS[n % len(SETTINGS)], 20 + n * 7 % 41) for n in range(HISTORIES)]


@dataclass
class Sums:
    histories: int = 0
    refused: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    report: Report = field(default_factory=Report)

    def add(self, outcome: Outcome) -> None:
        self.histories += 1
        self.refused += outcome.refused
        self.operations += outcome.operations
        self.deaths += outcome.deaths
        self.report += outcome.report

    def __str__(self) -> str:
        report = self.report
        return (
            f"random histories: {self.histories} with {self.operations.total()} operations and {self.deaths.total()} deaths; "
            f"checkpoints checked {report.checked}, consistent {report.consistent}, without a commit of their own {report.without}; "
            f"live machines {report.live}; refused {self.refused}; wrong {len(report.wrong)}\n"
        )


@pytest.fixture(scope="module")
def sums() -> Iterator[Sums]:
    found = Sums()
    yield found
    if found.histories and REPORT is not None:
        with Path(REPORT).open("a") as file:
            file.write(str(found))


Play = Callable[[int, Setting, int], Outcome]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, clean: Path, isolated_vers_data: Path, tmp_path: Path, sums: Sums) -> Iterator[Play]:
    """Plays a history on the shared server, and removes what it made there."""
    # Calls of a dead process would wait for checkpoints that nobody stores any more.
    monkeypatch.setattr("langchain_vers.versions.KNOWN_SECONDS", 5.0)
    with BackendContext(data_dir=isolated_vers_data, local=False) as context, mortality.watched():
        client = run(context.client())
        before = run(everything(client))

        def carry_out(seed: int, setting: Setting, length: int) -> Outcome:
            database = Database("aiosqlite" if setting.asynchronous else "sqlite", str(tmp_path / f"{seed}.sqlite"))
            story = Story(seed, setting, isolated_vers_data, database)
            try:
                asyncio.run(story.play(length))
            finally:
                repeat = f"VERS_PROOF_SEED={seed} VERS_PROOF_SETTING='{' '.join(vars(setting).values())} {length}'"
                sys.stdout.write("\n".join([repeat, *story.outcome.trace, *story.outcome.report.wrong, ""]))  # shown if it fails
            sums.add(story.outcome)
            return story.outcome

        yield carry_out
        run(sweep(client, before))


def _check(outcome: Outcome, setting: Setting) -> None:
    report = outcome.report
    if report.wrong:
        pytest.fail("\n".join(report.wrong[:10]), pytrace=False)
    assert report.consistent == report.checked > 0
    if setting.policy == "step":
        assert outcome.refused == 0


@pytest.mark.parametrize(("seed", "setting", "length"), SHORT, ids=str)
def test_short_histories(seed: int, setting: Setting, length: int, play: Play) -> None:
    _check(play(seed, setting, length), setting)


@pytest.mark.full
@pytest.mark.parametrize(("seed", "setting", "length"), FULL, ids=str)
def test_histories(seed: int, setting: Setting, length: int, play: Play) -> None:
    _check(play(seed, setting, length), setting)
