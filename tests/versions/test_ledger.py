"""The books by themselves: what is left of broken runs, and which rows tell of a checkpoint itself."""

from __future__ import annotations

from typing import Any

from langchain_vers import Attachment
from langchain_vers.ledger import Ledger
from langchain_vers.records import CHANNEL, Accepted, Record, Snapshot, accept, acknowledgement
from langchain_vers.steps import Key, Position, run_of

KEY = Key("thread", "", "checkpoint")
VM = Attachment(backend="vers", machine_id="vm", commit="v1")
BEGINNING = Record(VM, "v1")


class Run:
    """Something that is another thing in each run, as the writer of a graph's stream is."""

    def config(self) -> dict[str, Any]:
        return {"__pregel_runtime": type("Runtime", (), {"stream_writer": self})()}


def call(run: Run, execution: object) -> Position:
    return Position((KEY,), ("task",), run=run, execution=execution)


def test_a_late_call_of_a_run_that_was_broken_off_is_not_met() -> None:
    ledger, first, second = Ledger(), Run(), Run()
    ledger.enter(KEY, BEGINNING, run=run_of(first.config()))
    assert ledger.meet(call(first, "execution 1"))
    ledger.fail(KEY, "task")
    assert not ledger.meet(call(first, "execution 1"))
    ledger.load(KEY, BEGINNING, Accepted(), None)  # somebody looks
    assert not ledger.meet(call(first, "execution 1"))
    ledger.load(KEY, BEGINNING, Accepted(), None, run=run_of(second.config()))
    assert ledger.meet(call(second, "execution 2"))
    assert not ledger.meet(call(first, "one that had not been seen before"))
    assert ledger.meet(call(second, "execution 2"))


def test_a_task_that_failed_before_its_checkpoint_was_stored_is_not_met() -> None:
    ledger, run = Ledger(), Run()
    ledger.fail(KEY, "task")
    ledger.enter(KEY, BEGINNING, run=run_of(run.config()))
    assert not ledger.meet(call(run, "execution 1"))
    assert ledger.meet(Position((KEY,), ("another task",), run=run, execution="execution 2"))


def test_looking_is_no_run() -> None:
    assert run_of({}) is None


def test_only_what_holds_no_call_is_the_checkpoints_own() -> None:
    later = Record(VM.moved(commit="v2"), "v2")
    rows = [
        ("one", CHANNEL, Snapshot(later, frozenset({"a"})).row()),
        ("two", CHANNEL, Snapshot(BEGINNING, own=True).row()),
        ("task", CHANNEL, acknowledgement(["a"])),
    ]
    found = accept(rows)
    assert found.before is not None and found.before.record == BEGINNING
    assert found.snapshot is not None and found.snapshot.record == later
    # Of a version whose calls are not known, nothing can be said of the checkpoint.
    assert accept([("one", CHANNEL, Snapshot(later).row())]).before is None


def test_tools_are_named_in_an_order_that_is_not_by_chance() -> None:
    """Calls of one message begin in any order, and checkpoints are searched by what ran."""
    ledger, run = Ledger(), Run()
    ledger.enter(KEY, BEGINNING, run=run_of(run.config()))
    for tool in ("write", "bash", "read", "bash"):
        ledger.used(call(run, "execution"), tool)
    closing = ledger.close(KEY._replace(checkpoint="next"), KEY, "", None)
    assert closing.record is not None and closing.record.tools == "bash, read, write"
