"""A process is killed anywhere, another one goes on: every command has taken effect exactly once, and every checkpoint is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rigs.savers import Databases

from langchain_vers import BackendContext
from langchain_vers._io import run
from versions.machine_claims import Report, everything, sweep
from versions.scripts import GRAPHS, plan
from versions.worker import Crew, expected

PLAIN = plan(["create"], ["append"], ["read"], ["append", "append"], ["write", "fail"], ["edit"], ["move"])
BRANCHING = plan(["create"], ["append"], ["branch"], ["append", "append"], ["append"])
ASKING = plan(["create", "append"], ["append", "ask"], ["append", "read"], ["append"])
FURTHER = plan(["append", "read"], ["append"])
ELSEWHERE = plan(["append"], ["write", "append"])
WORD = plan(["append"])
OTHER = plan(["create", "append"], ["write"])
KILLED = -9


@dataclass(frozen=True)
class Case:
    """One death. `again`: where the next process dies, too. `lost`: the machines are deleted before somebody goes on."""

    graph: str
    saver: str
    point: str
    nth: int
    durability: str = "async"
    lost: bool = False
    again: tuple[str, int] | None = None

    def __str__(self) -> str:
        parts = [self.graph, self.saver, self.durability, f"{self.point} {self.nth}"]
        parts += ["lost"] * self.lost + ([f"again {self.again[0]} {self.again[1]}"] if self.again else [])
        return "-".join(parts).replace(" ", "_")

    def steps(self) -> tuple[list[list[Any]], list[str]]:
        """What the one does that is killed first, and all that the user of the thread says."""
        deadly = ["arm", self.point, self.nth]
        if self.point == "interrupted":
            return [["turn", "main", ASKING], ["die"]], [ASKING]
        if self.point.endswith("branch"):
            return [deadly, ["turn", "main", BRANCHING]], [BRANCHING]
        if self.point.endswith("restore"):
            return [["turn", "main", PLAIN], ["turn", "main", FURTHER], deadly, ["fork", "main", ELSEWHERE]], [PLAIN, ELSEWHERE]
        return [deadly, ["turn", "main", PLAIN]], [PLAIN]


QUICK = [
    Case("graph", "sqlite", "amid exec", 2, "sync"),
    Case("nested", "sqlite", "during commit", 2),
    Case("agent", "sqlite", "after commit", 3, again=("after exec", 1)),
    Case("graph", "async-postgres", "interrupted", 1, lost=True),
]


def _matrix() -> Iterator[Case]:
    times = {"put": (1, 2, 5, 9), "put_writes": (1, 3, 6, 8), "exec": (1, 3, 5), "commit": (1, 3), "model": (1, 3, 5)}
    points = [f"{when} {what}" for what in ("exec", "put", "put_writes") for when in ("before", "after")]
    points += [f"{when} {what}" for what in ("commit", "branch", "restore") for when in ("before", "during", "after")]
    points += ["amid exec", "model", "interrupted"]
    second = [("after exec", 1), ("after put", 2), ("before put_writes", 2), ("during commit", 1), ("before restore", 1)]
    number = 0
    for graph in GRAPHS:
        for saver in ("sqlite", "aiosqlite", "postgres", "async-postgres"):
            for point in points:
                for nth in times.get(point.split()[-1], (1,)):
                    number += 1
                    again = second[number % len(second)] if number % 4 == 0 else None
                    yield Case(graph, saver, point, nth, ("async", "sync")[number % 2], lost=number // 2 % 2 == 0, again=again)


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    found = Crew()
    yield found
    found.close()


Kill = Callable[[Case], Report]


@pytest.fixture
def kill(clean: Path, isolated_vers_data: Path, tmp_path: Path, crew: Crew, databases: Databases) -> Iterator[Kill]:
    """Carries a case out on the shared server, and removes what it made there."""
    with BackendContext(data_dir=isolated_vers_data, local=False) as context:
        client = run(context.client())
        there = run(everything(client))

        def carry_out(case: Case) -> Report:
            database = databases.new(case.saver)  # type: ignore[arg-type]
            job = {"data_dir": str(isolated_vers_data), "saver": case.saver, "url": database.url, "graph": case.graph, "thread": "main"}
            job |= {"durability": case.durability, "out": str(tmp_path / "out"), "err": str(tmp_path / "err")}
            steps, said = case.steps()

            code, told, err = crew({**job, "steps": [["turn", "other", OTHER], ["report", "other"], *steps]})
            assert code == KILLED, f"{case} was to be killed, and ended with {code}; {told[-1:]} {err}"
            before = told[0]
            lose = [["lose", "other"]] * case.lost
            go_on = ["go_on", "main", said[-1], "fork" if said[-1] is ELSEWHERE else "turn"]
            if case.again is not None:
                code, told, err = crew({**job, "steps": [*lose, ["arm", *case.again], go_on]})
                assert code in {KILLED, 0}, err  # little may have been left to do
            further = []
            if case.lost and case.again:  # all may be done already, so that nothing brings the machine back
                further, said = [["turn", "main", WORD]], [*said, WORD]
            last = [*lose, go_on, *further, ["report", "main"], ["report", "other"], ["collect", "main", "other"]]
            code, told, err = crew({**job, "steps": last})
            assert code == 0, f"{case}: {err}"
            main, other, orphans = told[:3]

            if main["wrong"]:
                pytest.fail("\n".join([str(case), *main["wrong"][:5]]), pytrace=False)
            assert main["claim"] == expected(*said), main["messages"]
            assert main["live"] == 1
            assert main["consistent"] == main["checked"] > 0
            assert other == before
            assert orphans["failures"] == orphans["left"] == orphans["lost"] == []
            # The platform takes no labels for these: whoever makes a VM so and dies at once has had no time to say whose it is.
            unnamed = [point for point, _ in [(case.point, 0), case.again or ("", 0)] if point.endswith(("branch", "restore"))]
            assert len(orphans["nameless"]) <= len(unnamed)
            return Report(checked=main["checked"], consistent=main["consistent"])

        yield carry_out
        run(sweep(client, there))


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_killed_and_taken_up_again(case: Case, kill: Kill) -> None:
    kill(case)


@pytest.mark.full
@pytest.mark.parametrize("case", list(_matrix()), ids=str)
def test_the_whole_matrix(case: Case, kill: Kill) -> None:
    kill(case)
