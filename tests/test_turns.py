"""The order of routing inside one message, against the plain one: run the calls one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ToolMessage

from langchain_vers import turns
from langchain_vers.attachment import PROMISED, Attachment
from langchain_vers.errors import Conflict
from langchain_vers.turns import Place, Turns, place_of

HERE = Attachment(backend="local")


def vm(name: str) -> Attachment:
    return Attachment(backend="vers", machine_id=name)


CALLS = st.lists(st.sampled_from(["work", "use A", "use B", "local", "create", "fail", "nothing"]), min_size=1, max_size=7)
TARGETS = {"use A": vm("A"), "use B": vm("B"), "local": HERE}


def sequential(calls: list[str], start: Attachment = HERE) -> list[Attachment | None]:
    """Where each call finds the thread; None for one that is refused."""
    at, failed = start, False
    found: list[Attachment | None] = []
    for number, call in enumerate(calls):
        if failed:
            found.append(None)
            continue
        found.append(at)
        if call == "fail":
            failed = True
        elif call == "create":
            at = vm(f"new-{number}")
        else:
            at = TARGETS.get(call, at)
    return found


async def side_by_side(calls: list[str], order: list[int], pauses: list[int]) -> tuple[list[Attachment | None], Attachment]:
    """The same, with calls that start in any order and take any number of turns of the loop."""
    routes = Turns()
    current = [HERE]
    found: list[Attachment | None] = [None] * len(calls)
    moving = [number for number, call in enumerate(calls) if call != "work"]

    async def carry_out(number: int) -> None:
        call = calls[number]
        place = Place("t", "m", number, tuple(mover for mover in moving if mover < number))
        mover = call != "work"
        if mover:
            routes.begin_move(place, current[0])
        try:
            before = await routes.attachment_at(place, current[0])
        except Conflict:
            if mover:
                routes.end_move(place, None)
            return
        found[number] = before
        for _ in range(pauses[number]):
            await asyncio.sleep(0)
        if call == "fail":
            routes.end_move(place, None)
        elif mover:
            target = vm(f"new-{number}") if call == "create" else TARGETS.get(call, before)
            current[0] = target
            routes.end_move(place, target)

    await asyncio.gather(*(carry_out(number) for number in order))
    return found, current[0]


@given(calls=CALLS, data=st.data())
def test_as_if_run_one_after_the_other(calls: list[str], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(calls))))
    pauses = data.draw(st.lists(st.integers(0, 5), min_size=len(calls), max_size=len(calls)))
    # A call that does not move the thread may start after one behind it has moved it: it still belongs to where it stands.
    movers = [number for number in order if calls[number] != "work"]
    found, _ = asyncio.run(side_by_side(calls, [*movers, *(number for number in order if calls[number] == "work")], pauses))
    assert found == sequential(calls)


@given(calls=CALLS, data=st.data())
def test_in_any_order_of_starting(calls: list[str], data: st.DataObject) -> None:
    order = list(data.draw(st.permutations(range(len(calls)))))
    pauses = data.draw(st.lists(st.integers(0, 5), min_size=len(calls), max_size=len(calls)))
    found, at_last = asyncio.run(side_by_side(calls, order, pauses))
    wanted = sequential(calls)
    assert found == wanted
    if "fail" not in calls:
        assert at_last == sequential([*calls, "work"])[-1]


async def with_a_promise(calls: list[str], order: list[int], pauses: list[int]) -> tuple[list[Attachment | None], Attachment, int]:
    """The calls of a thread that begins on a machine of its own, which the first one makes that works there; where they worked, where
    the thread is in the end, and how many machines of its own were made.
    """
    routes, making = Turns(), asyncio.Lock()
    current, made = [PROMISED], [0]
    found: list[Attachment | None] = [None] * len(calls)
    moving = [number for number, call in enumerate(calls) if call != "work"]

    async def own(place: Place) -> Attachment:
        async with making:
            attachment = await routes.attachment_at(place, current[0])
            if attachment == PROMISED:
                await asyncio.sleep(0)
                made[0] += 1
                attachment = vm(f"own-{made[0]}")
                routes.keep_promise(place, attachment)
                if current[0] == PROMISED:
                    current[0] = attachment
            return attachment

    async def carry_out(number: int) -> None:
        call = calls[number]
        place = Place("t", "m", number, tuple(mover for mover in moving if mover < number))
        if call != "work":
            routes.begin_move(place, current[0])
        try:
            before = await routes.attachment_at(place, current[0])
        except Conflict:
            if call != "work":
                routes.end_move(place, None)
            return
        for _ in range(pauses[number]):
            await asyncio.sleep(0)
        if call == "work":
            found[number] = await own(place) if before == PROMISED else before
        elif call == "fail":
            routes.end_move(place, None)
        else:
            target = vm(f"new-{number}") if call == "create" else TARGETS.get(call, before)
            if call != "nothing":
                current[0] = target
            routes.end_move(place, target)

    await asyncio.gather(*(carry_out(number) for number in order))
    return found, current[0], made[0]


@given(calls=CALLS, data=st.data())
def test_a_promise_is_kept_once_and_where_it_stands(calls: list[str], data: st.DataObject) -> None:
    order = list(data.draw(st.permutations(range(len(calls)))))
    pauses = data.draw(st.lists(st.integers(0, 5), min_size=len(calls), max_size=len(calls)))
    found, at_last, made = asyncio.run(with_a_promise(calls, order, pauses))
    wanted = sequential(calls, vm("own-1"))
    assert found == [at if call == "work" else None for at, call in zip(wanted, calls, strict=True)]
    works_there = any(call == "work" and at == vm("own-1") for call, at in zip(calls, wanted, strict=True))
    assert made == works_there
    if "fail" not in calls and (works_there or set(calls) - {"work", "nothing"}):
        assert at_last == sequential([*calls, "work"], vm("own-1"))[-1]


async def test_a_call_that_is_never_carried_out_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "START_SECONDS", 0.05)
    with pytest.raises(Conflict, match="not carried out"):
        await Turns().attachment_at(Place("t", "m", 1, (0,)), HERE)


async def test_a_move_may_be_repeated() -> None:
    routes = Turns()
    mover, worker = Place("t", "m", 0), Place("t", "m", 1, (0,))
    for target in (vm("A"), vm("B")):
        routes.begin_move(mover, HERE)
        waiting = asyncio.ensure_future(routes.attachment_at(worker, HERE))
        await asyncio.sleep(0)
        assert not waiting.done()
        routes.end_move(mover, target)
        assert await waiting == target


async def test_a_directory_that_changed_on_the_same_machine_is_taken_along() -> None:
    routes = Turns()
    assert await routes.attachment_at(Place("t", "m", 0), vm("A")) == vm("A")
    moved = vm("A").moved(cwd="/x")
    assert await routes.attachment_at(Place("t", "m", 1), moved) == moved


# --- places ---


def moves(name: str, arguments: Mapping[str, Any]) -> bool:
    return name == "use"


ASKED = AIMessage(
    "", id="m", tool_calls=[{"name": name, "args": {}, "id": str(number)} for number, name in enumerate(["use", "bash", "use", "bash"])]
)


def runtime(messages: Any, call_id: str = "3", checkpoint: str = "c1") -> Any:
    return SimpleNamespace(state=messages, tool_call_id=call_id, execution_info=SimpleNamespace(checkpoint_id=checkpoint))


@pytest.mark.parametrize("state", [{"messages": [ASKED]}, [ASKED], SimpleNamespace(messages=[ASKED])])
def test_place_in_any_kind_of_state(state: Any) -> None:
    place = place_of({"configurable": {"thread_id": 7}}, runtime(state), None, moves)
    assert (place.thread, place.index, place.movers, place.refused) == ("7", 3, (0, 2), False)


def test_replay_is_another_message_and_other_calls_of_the_same_are_not() -> None:
    def name(call: str, checkpoint: str) -> str | None:
        return place_of({}, runtime([ASKED], call, checkpoint), None, moves).message

    assert name("0", "c1") == name("3", "c1") != name("3", "c2")


def test_calls_that_have_their_answer_are_not_waited_for() -> None:
    done = ToolMessage("ok", tool_call_id="0")
    place = place_of({}, runtime([ASKED, done]), None, moves)
    assert (place.movers, place.refused) == ((2,), False)
    rejected = ToolMessage("no", tool_call_id="2", status="error")
    place = place_of({}, runtime([ASKED, done, rejected]), None, moves)
    assert (place.movers, place.refused) == ((), True)


async def test_a_call_behind_a_rejected_move_is_refused() -> None:
    with pytest.raises(Conflict, match="failed"):
        await Turns().attachment_at(Place("t", "m", 1, (), refused=True), HERE)


def test_no_place_in_a_message_without_one() -> None:
    for source in (None, runtime([]), runtime(None), runtime({"messages": "text"})):
        assert place_of({}, source, "3", moves).message is None
