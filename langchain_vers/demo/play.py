"""The performance: what was asked for is made ready, the acts are played, summed up, and what they made is tidied up.

The first act is played here: an agent made with `create_agent`, its steps shown as they happen and checked. Its script is in `story`, the
task for another model in `assignment`. The second act is in `time_travel`. Where it happens, and the tidying up, is in `ground`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Sequence

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, ToolMessage

from langchain_vers.demo import assignment, story, time_travel
from langchain_vers.demo.course import Course, messages_in, output_in, rows_of
from langchain_vers.demo.ground import Ground, prepared
from langchain_vers.demo.models import CannotBegin, chosen, failure
from langchain_vers.demo.options import DemoOptions
from langchain_vers.demo.screen import Branch, Row, Screen
from langchain_vers.demo.scripted import ScriptedModel, Step, Unexpected, judge, succeeded
from langchain_vers.errors import Denied, VersError
from langchain_vers.naming import short_id

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def perform(options: DemoOptions) -> int:
    """Run the demo; its exit status, as `options.run` tells it."""
    try:
        return asyncio.run(_interruptible(options, Screen()))
    except KeyboardInterrupt:  # before the loop could take the signal
        return 128 + signal.SIGINT


async def _interruptible(options: DemoOptions, screen: Screen) -> int:
    caught: list[int] = []
    work = asyncio.ensure_future(_explained(options, screen))

    def interrupt(number: int) -> None:
        if not caught:  # a second one changes nothing: tidying up is under way, and has an end
            work.cancel()
            screen.end_output()
            screen.problem(f"Interrupted by {signal.Signals(number).name}{'' if options.keep else '; tidying up'}.")
        caught.append(number)

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt, number)
    try:
        return await work
    except asyncio.CancelledError:
        if not caught:
            raise
        return 128 + caught[0]


async def _explained(options: DemoOptions, screen: Screen) -> int:
    """The demo's exit status; expected failures are told in a sentence."""
    try:
        return await _show(options, screen)
    except CannotBegin as error:
        screen.problem(f"langchain-vers: {error}")
        return 2
    except (VersError, OSError) as error:
        screen.problem(f"langchain-vers: {error}")
        return 2 if options.vers and isinstance(error, Denied) else 1


async def _show(options: DemoOptions, screen: Screen) -> int:
    started = time.monotonic()
    logging.getLogger("langchain_vers").setLevel(logging.ERROR)  # which Vers is used stands in the heading
    if options.act == 2 and options.model is not None:
        raise CannotBegin("The second act plays a script; leave out --model, or ask for --act 1.")
    steps = story.STEPS if options.script is None else options.script
    model: BaseChatModel = ScriptedModel(steps=steps)
    about = "a script that checks each result (needs no key; --model takes a real one)"
    if isinstance(options.model, str):
        model, about = await asyncio.to_thread(chosen, options.model), options.model
    elif options.model is not None:
        model, about = options.model, type(options.model).__name__
    own_script = options.model is None and options.script is None
    acts = {options.act} if options.act is not None else {1, 2} if own_script else {1}
    leftovers: list[str] = []
    rows: list[Row] = []
    try:
        async with prepared(options, local=options.model is None, leftovers=leftovers) as ground:
            screen.heading("langchain-vers demo: an agent gets a computer of its own", [f"Model: {about}", f"Vers:  {ground.vers}"])
            if 1 in acts:
                rows += await (_play(ground, model, steps, screen) if options.model is None else _assign(ground, model, screen))
                for root in await _trees(ground):
                    screen.tree(root)
            if 2 in acts and all(row.ok for row in rows):
                rows += await time_travel.play(ground, screen)
            screen.summary(rows)
            if options.keep:
                for line in ground.kept():
                    screen.note(line)
    finally:
        for sentence in leftovers:
            screen.problem(sentence)
    ok = all(row.ok for row in rows) and not leftovers
    kept = "everything was kept" if options.keep else "what was made is gone again"
    screen.note(f"{'All steps checked out' if ok else 'Not all steps checked out'}; {kept}. {time.monotonic() - started:.1f} s in all.")
    return 0 if ok else 1


async def _play(ground: Ground, model: BaseChatModel, steps: Sequence[Step], screen: Screen) -> list[Row]:
    """Play the script; one row for each of its scenes."""
    course = Course(screen, lambda index: steps[index].scene, lambda results: judge(steps, results))
    await _run(ground, model, story.REQUEST, course)
    return rows_of(steps, course.verdicts)


async def _assign(ground: Ground, model: BaseChatModel, screen: Screen) -> list[Row]:
    """Give the task to a model, then look what has become of it."""

    def judged(results: Sequence[ToolMessage]) -> str:
        try:
            return succeeded(results[-1])
        except Unexpected:
            raise Unexpected("the model is told of the failure") from None

    scene: Callable[[int], str] = lambda index: "The model at work"  # noqa: E731  # typed, as the field is
    course = Course(screen, scene, judged)
    began = time.monotonic()
    try:
        await _run(ground, model, assignment.TASK, course)
    except VersError:
        raise
    except Exception as error:  # each provider raises its own
        told = f"The model failed: {failure(model, error)}"
        if not course.results:
            raise CannotBegin(f"{told.rstrip('.')}; check its name, its key and the network.") from error
        screen.problem(told)
        return [Row("The model worked to the end", False, time.monotonic() - began)]
    screen.scene("What it says")
    screen.block(course.last.text if course.last is not None else "")
    screen.end_output()
    rows = [Row(f"The model worked to the end ({len(course.results)} calls)", True, time.monotonic() - began)]
    for finding in await assignment.findings(ground):
        what = finding.what if finding.ok else f"{finding.what}: no, found {finding.seen}"
        rows.append(Row(what, finding.ok, 0.0))
    return rows


async def _run(ground: Ground, model: BaseChatModel, request: str, course: Course) -> None:
    """Let the agent work, and show it: calls, output as it arrives, results. What came of it is put into `course`."""
    agent = create_agent(model, ground.toolkit.get_tools())
    stream = agent.astream({"messages": [HumanMessage(request)]}, ground.config, stream_mode=["updates", "custom"])
    async for mode, piece in stream:
        if mode == "custom":
            course.screen.output(output_in(piece))
            continue
        for message in messages_in(piece):
            if isinstance(message, ToolMessage):
                ground.note(message)
            course.take(message)


async def _trees(ground: Ground) -> list[Branch]:
    """The demo's machines, each under the one that it was branched from."""
    machines = await ground.machines()
    commits = ", ".join(sorted(map(short_id, ground.commits)))

    def grown(vm_id: str) -> Branch:
        children = [grown(child) for child, parent in machines.items() if parent == vm_id]
        role = f"branch of {short_id(parent)}" if (parent := machines[vm_id]) in machines and parent else "the original"
        return Branch(f"VM {short_id(vm_id)}  {role}", children)

    roots = [grown(vm_id) for vm_id, parent in machines.items() if parent not in machines]
    return [Branch(f"Machines{f' (commits: {commits})' if commits else ''}", roots)] if roots else []
