"""Short histories that are told on purpose, each about one thing that can go wrong; `test_random_histories.py` tells the others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.graph import END
from rigs.savers import Database

from langchain_vers import BackendContext
from langchain_vers._io import run
from versions import mortality, scripts
from versions.histories import Setting, Story
from versions.machine_claims import Report, acheck_thread, everything, sweep

Scene = list[tuple[Any, ...]]
BEGIN = ("turn", "create; append")
SCENES: dict[str, Scene] = {
    "the machine is lost while the process lives": [BEGIN, ("lose",), ("turn", "append; append")],
    "the machine is lost between processes": [BEGIN, ("lose",), ("restart",), ("turn", "append; append")],
    "lost, and the first call only reads": [BEGIN, ("lose",), ("turn", "read; append")],
    "lost, and a branch among other calls": [BEGIN, ("lose",), ("turn", "branch append move read; append")],
    "a question": [BEGIN, ("turn", "append edit ask; append"), ("resume",)],
    "a question before the work": [BEGIN, ("turn", "ask append edit write; append"), ("resume",)],
    "a question before the work, and never answered": [BEGIN, ("turn", "ask append edit write"), ("turn", "append")],
    "a look beside the new machine": [("turn", "create ls read; append")],
    "work beside the new machine": [("turn", "create append append; append")],
    "a question, asked again": [BEGIN, ("turn", "append edit ask; append"), ("go on",), ("resume",)],
    "a question, answered to another process": [BEGIN, ("turn", "append edit ask; append"), ("restart",), ("resume",)],
    "a question, answered on another machine": [BEGIN, ("turn", "append edit ask; append"), ("lose",), ("restart",), ("resume",)],
    "a question that is never answered": [BEGIN, ("turn", "append append ask"), ("turn", "append")],
    "never answered, and another process": [BEGIN, ("turn", "append append ask"), ("restart",), ("turn", "append")],
    "never answered, asked twice": [BEGIN, ("turn", "append append ask"), ("go on",), ("turn", "append")],
    "never answered, and forked": [BEGIN, ("turn", "append append ask"), ("mark", "a"), ("copy", "a"), ("turn", "append")],
    "never answered, and updated": [BEGIN, ("turn", "append append ask"), ("mark", "a"), ("update", "a", "a note"), ("turn", "append")],
    "never answered, and ended": [BEGIN, ("turn", "append append ask"), ("mark", "a"), ("end", "a"), ("turn", "append")],
    "answered on a copy": [BEGIN, ("turn", "append append ask"), ("mark", "a"), ("copy", "a"), ("go on",), ("resume",), ("turn", "append")],
    "died, asked, never answered": [BEGIN, ("die", "after exec", 1, "move append ask"), ("go on",), ("turn", "append append")],
    "a gate": [BEGIN, ("turn", "append gate; append"), ("resume",)],
    "a fork": [BEGIN, ("mark", "a"), ("turn", "append"), ("turn", "append", "a"), ("turn", "append", "a")],
    "a fork that only reads": [BEGIN, ("mark", "a"), ("turn", "append"), ("turn", "read", "a"), ("turn", "append")],
    "a fork that begins with a branch": [BEGIN, ("mark", "a"), ("turn", "append"), ("turn", "branch; append", "a")],
    "a fork that begins with a branch and more": [BEGIN, ("mark", "a"), ("turn", "append"), ("turn", "branch edit", "a")],
    "a branch, and back": [BEGIN, ("mark", "a"), ("turn", "branch append; append"), ("turn", "append", "a")],
    "a new machine, and back": [BEGIN, ("mark", "a"), ("turn", "create append; append"), ("turn", "append", "a")],
    "a copy": [BEGIN, ("mark", "a"), ("turn", "append"), ("copy", "a"), ("turn", "append")],
    "a replay": [BEGIN, ("turn", "append; append"), ("replay", 4), ("turn", "append"), ("replay", 6), ("turn", "append")],
    "died before the commit, then another fork": [
        BEGIN,
        ("mark", "a"),
        ("turn", "append"),
        ("die", "before commit", 1, "append; append"),
        ("turn", "append", "a"),
    ],
    "an update that leaves out what a task did": [BEGIN, ("turn", "append edit"), ("update before", 2, "a note"), ("turn", "append")],
    "asked by another process, and updated": [
        BEGIN,
        ("turn", "append; ask"),
        ("restart",),
        ("go on",),
        ("mark", "a"),
        ("update", "a", "a note"),
        ("turn", "append"),
    ],
    "died amid a message of three": [BEGIN, ("die", "after put_writes", 3, "append append edit; append"), ("go on",), ("turn", "append")],
}

QUICK = [
    ("the machine is lost while the process lives", "graph"),
    ("lost, and a branch among other calls", "agent"),
    ("a look beside the new machine", "agent"),
    ("a question, asked again", "nested"),
    ("a question that is never answered", "agent"),
    ("a fork that begins with a branch", "agent"),
    ("an update that leaves out what a task did", "nested"),
    ("died amid a message of three", "agent"),
]


class Told(Story):
    """A story whose operations are given."""

    async def tell(self, scene: Scene) -> Report:
        self._marks: dict[str, Any] = {}
        await self.start()
        try:
            for what, *arguments in scene:
                await getattr(self, f"tell_{what.replace(' ', '_')}")(*arguments)
            return await acheck_thread(self.face, self.config, client=self.process.client)
        finally:
            await self.process.end()

    async def tell_turn(self, said: str, mark: str | None = None) -> None:
        await self._run({"messages": [("user", said)]}, self.config if mark is None else self._marks[mark])

    async def tell_mark(self, mark: str) -> None:
        self._marks[mark] = (await self.face(self.face.saver, "get_tuple", self.config)).config

    async def tell_replay(self, back: int) -> None:
        """From the checkpoint that is so many steps behind the head."""
        await self._run(None, (await self.face.history(self.config))[back].config)

    async def tell_update_before(self, back: int, said: str) -> None:
        """Of the checkpoint that is so many steps behind the head."""
        self._marks["before"] = (await self.face.history(self.config))[back].config
        await self.tell_update("before", said)

    async def tell_copy(self, mark: str) -> None:
        await self.face(self.face.graph, "update_state", self._marks[mark], None, as_node="__copy__")

    async def tell_update(self, mark: str, said: str) -> None:
        node = "after" if self.setting.graph == "nested" else "model"
        await self.face(self.face.graph, "update_state", self._marks[mark], {"messages": [("user", said)]}, as_node=node)

    async def tell_end(self, mark: str) -> None:
        """Clear all tasks: the results of those that are done are taken in."""
        await self.face(self.face.graph, "update_state", self._marks[mark], None, as_node=END)

    async def tell_resume(self) -> None:
        await self._resume()

    async def tell_go_on(self) -> None:
        await self._go_on()

    async def tell_restart(self) -> None:
        await self.restart()

    async def tell_lose(self) -> None:
        await self._lose()

    async def tell_die(self, point: str, nth: int, said: str) -> None:
        self.process.life.arm(point, nth)
        try:
            await self.tell_turn(said)
        except BaseException:
            if not self.process.life.dead:
                raise
        assert self.process.life.dead or "ask" in said, f"{point} was reached {self.process.life.reached[point]} times"
        await self.restart()


def _play(scene: str, setting: Setting, data: Path, folder: Path) -> None:
    with BackendContext(data_dir=data, local=False) as context, mortality.watched():
        client = run(context.client())
        before = run(everything(client))
        story = Told(0, setting, data, Database("aiosqlite" if setting.asynchronous else "sqlite", str(folder / "database.sqlite")))
        report = asyncio.run(story.tell(SCENES[scene]))
        run(sweep(client, before))
    if report.wrong:
        pytest.fail("\n".join(report.wrong[:5]), pytrace=False)
    assert report.consistent == report.checked > 0
    assert report.live == 1


@pytest.mark.parametrize(("scene", "graph"), QUICK)
def test_a_scene(scene: str, graph: Any, clean: Path, isolated_vers_data: Path, tmp_path: Path, impatient: None) -> None:
    _play(scene, Setting(graph, "sqlite", "step", "async"), isolated_vers_data, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("saver", ["sqlite", "aiosqlite"])
@pytest.mark.parametrize("graph", scripts.GRAPHS)
@pytest.mark.parametrize("durability", ["async", "sync"])
@pytest.mark.parametrize("scene", SCENES)
def test_a_scene_in_every_way(
    scene: str, graph: Any, saver: str, durability: str, clean: Path, isolated_vers_data: Path, tmp_path: Path, impatient: None
) -> None:
    _play(scene, Setting(graph, saver, "step", durability), isolated_vers_data, tmp_path)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a dead process would wait for checkpoints that nobody stores any more."""
    monkeypatch.setattr("langchain_vers.versions.KNOWN_SECONDS", 5.0)
