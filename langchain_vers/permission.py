"""The gate that every call passes: what it reaches for is found out, the policy decides, and a person is asked where it says so.

`judge` runs on the I/O thread: it finds out where the paths of a call really are on the machine (see `backends.premises`), and has the
policy decide. `asking.py` does the rest where the call was made, in LangGraph's task, for that is where `interrupt()` works. Tools go
through both (`tools/carrying.py`, `tools/adapter.py`); `permit` and `apermit` are the same for commands that are no tool calls.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from langchain_core.runnables import RunnableConfig

from langchain_vers._io import io
from langchain_vers.asking import Verdict, ask, refusal
from langchain_vers.attachment import PROMISED
from langchain_vers.backends import real_paths
from langchain_vers.backends.base import Backend
from langchain_vers.backends.premises import Ground, Premises, Spot, seeming
from langchain_vers.errors import Denied, VersError
from langchain_vers.request import Access, Allow, Deny, Machine, Reach, Request, wanted
from langchain_vers.shell.script import Script
from langchain_vers.shell.syntax import parse
from langchain_vers.shell.tables import TouchMode
from langchain_vers.shell.words import Word
from langchain_vers.turns import Place, place_of

if TYPE_CHECKING:
    from langchain_vers.context import BackendContext
    from langchain_vers.route import Route

_LONG = 2000
"""Characters of a command from which it is not parsed between two events of the I/O loop."""
By = Literal["model", "user"]


@dataclass(frozen=True)
class _Spot:
    """A path of a call, before it is known where it is."""

    word: Word
    mode: TouchMode
    deep: bool
    at: str = ""
    """Where: "" for the machine of the call, "here" for the user's machine, else the name of a VM."""
    argument: bool = False
    """Whether it is an argument of the tool, which may be a path of the host; what stands in a command is taken as it is."""


async def judge(
    context: BackendContext,
    place: Place,
    tool: str,
    arguments: Mapping[str, Any],
    reach: Reach,
    *,
    by: By = "model",
    look: bool = False,
) -> Verdict:
    """Have the policy decide about a call. Coroutine of the I/O thread; changes nothing on any machine.

    What is allowed may be so on premises that the machine has to be told with the call. With `look`, all is looked up.

    Raises:
        VersError: the machine does not answer, or the thread's place cannot be told; then nothing may be done either.
    """
    policy = context.policy
    attachment = await context.attachment_at(place)
    needed = policy.needs
    script = await _script(reach.command) if reach.command is not None and "command" in needed else None
    spots = _spots(reach, script) if "paths" in needed else []
    elsewhere = reach.vm is not None  # by its name, and then not where the thread's own commands start
    machine = Machine(attachment.backend, attachment.machine_id)
    if reach.vm is not None:
        machine = Machine("vers", await context.resolve_vm(reach.vm))
    cwd = None if elsewhere else attachment.cwd
    if spots and not elsewhere and not any(spot.at for spot in spots):
        request = Request(tool, arguments, machine, cwd, script, by=by)
        verdict = None if look else await _judged_here(context, place, request, spots, look=False)
        # A path that leads elsewhere than it seems can only make it worse: what is not allowed anyhow is worth a look.
        if verdict is None or not isinstance(verdict.decision, Allow):
            verdict = await _judged_here(context, place, request, spots, look=True)
        assert verdict is not None
        return verdict
    accesses: list[Access] = []
    for at in dict.fromkeys(spot.at for spot in spots):
        backend, start = await _backend(context, place, at or ("vm" if elsewhere else ""), machine, cwd)
        if not at and attachment == PROMISED and not elsewhere:
            machine = replace(machine, machine_id=backend.machine_id)
        there = machine if at == "" else Machine(backend.name, backend.machine_id)
        here = _Asked([spot for spot in spots if spot.at == at])
        ground = await real_paths.look_up(backend, start, here.spots)
        found, there = here.accesses(ground, there)
        accesses += found
        if at == "":
            machine, cwd = there, start or there.start
    request = Request(tool, arguments, machine, cwd, script, tuple(accesses), by)
    return Verdict(policy.decide(request), request)


async def _judged_here(context: BackendContext, place: Place, request: Request, spots: list[_Spot], *, look: bool) -> Verdict | None:
    """The verdict on a call all of whose paths are on its thread's machine; without a `look` None if it needs one."""
    route = await _seen(context, place)
    asked = _Asked([replace(spot, word=_mapped(route, spot.word)) if spot.argument else spot for spot in spots])
    given = route.cwd or getattr(route.backend, "home", None)
    known = route.attachment.backend, route.backend.machine_id
    checks = route.backend.checks_premises
    if look:
        ground = await real_paths.look_up(route.backend, route.cwd, asked.spots)
        if checks:
            context.grounds.learn(known, given, asked.spots, ground)
    guess = context.grounds.guess(known, given, asked.spots) if checks else None
    if not look:
        if guess is None:
            return None
        ground = guess[0]
    premises = None if guess is None or guess[0].real != ground.real else guess[1]
    accesses, machine = asked.accesses(ground, replace(request.machine, machine_id=route.attachment.machine_id))
    request = replace(request, machine=machine, cwd=route.cwd or machine.start, accesses=tuple(accesses))
    return Verdict(context.policy.decide(request), request, premises)


async def _seen(context: BackendContext, place: Place) -> Route:
    """Where a call will go. What has to be done for that now, the call itself will tell of."""
    route = await context.route(place)
    if route.arrival is not None and (versions := context.versions_of(place)) is not None:
        versions.judged_on(route.arrival)
    return route


def _mapped(route: Route, word: Word) -> Word:
    """A path that the tool is going to translate, as the machine will see it."""
    if not route.paths or not word.known or word.pattern or word.home:
        return word
    try:
        return replace(word, text=route.paths.argument(word.text))
    except VersError:
        return word  # the tool will refuse it


async def _script(command: str) -> Script:
    """A command, parsed; a long one in another thread, as that takes its time."""
    return parse(command) if len(command) < _LONG else await io.blocking(parse, command)


def _spots(reach: Reach, script: Script | None) -> list[_Spot]:
    found = [_Spot(word, touch.mode, touch.deep) for touch, word in wanted(script)]
    for path, mode, deep in reach.paths:
        at, rest = "", path
        if path.startswith("here:"):
            at, rest = "here", path.removeprefix("here:")
        elif path.startswith("vm:"):
            at, _, rest = path.removeprefix("vm:").partition(":")
        home = rest == "~" or rest.startswith("~/")
        found.append(_Spot(Word(rest[1:] if home else rest, home=home), mode, deep, at, argument=True))
    return found


async def _backend(context: BackendContext, place: Place, at: str, machine: Machine, cwd: str | None) -> tuple[Backend, str | None]:
    """The backend to look paths up on, and the directory that they are relative to."""
    if at == "here":
        folder = None if context.local_allowed else context.shared_folder
        return context.local, None if folder is None else str(folder)
    if at == "vm":
        assert machine.machine_id is not None
        return await context.machine(machine.machine_id), None
    if at:
        return await context.machine(await context.resolve_vm(at)), None
    route = await _seen(context, place)
    return route.backend, route.cwd


class _Asked:
    """Paths of a call that are on one machine."""

    def __init__(self, paths: list[_Spot]) -> None:
        self._paths = paths
        self.spots = list(dict.fromkeys(_spot(path.word) for path in paths if _sayable(path.word)))
        """What the machine can be asked about."""

    def accesses(self, ground: Ground, machine: Machine) -> tuple[list[Access], Machine]:
        """The accesses that these paths are, and the machine that they are on, given what it says."""
        machine = replace(machine, home=ground.home, start=ground.start, workspace=(ground.start,))
        real = dict(zip(self.spots, ground.real, strict=True))
        found: list[Access] = []
        for each in self._paths:
            word = each.word
            access = Access("", each.mode, False, each.deep, str(word), machine)
            paths = real.get(_spot(word)) if _sayable(word) else None
            if paths is None:
                found.append(access)
                continue
            if not word.pattern:
                paths = tuple(dict.fromkeys((*paths, seeming(ground.home, ground.cwd, _spot(word)))))
            found += [replace(access, path=path, known=True) for path in paths]
        return list(dict.fromkeys(found)), machine


def _spot(word: Word) -> Spot:
    return Spot(word.text, word.home, word.pattern)


def _sayable(word: Word) -> bool:
    return word.known and "\0" not in word.text


async def hidden(
    context: BackendContext, route: Route, folder: str, cwd: str | None, names: Iterable[str], *, premises: Premises | None = None
) -> set[str]:
    """Those of the files below a folder that the policy does not let be read as a matter of course: a search must not tell of them.

    `premises`: what the machine has confirmed when it searched.
    """
    if context.policy.trivial or "paths" not in context.policy.needs:
        return set()
    guess = context.grounds.guess(
        (route.attachment.backend, route.backend.machine_id), cwd or getattr(route.backend, "home", None), [Spot(folder)]
    )
    if guess is not None and premises is not None and premises.cover(guess[1]):
        ground = guess[0]
    else:
        ground = await real_paths.look_up(route.backend, cwd, [Spot(folder)])
    base = (ground.real[0] or (ground.cwd,))[0]
    machine = Machine(route.attachment.backend, route.attachment.machine_id, ground.home, ground.start, (ground.start,))

    def kept(name: str) -> bool:
        path = posixpath.normpath(posixpath.join(base, name))
        access = Access(path, "read", written=name, machine=machine)
        return isinstance(context.policy.decide(Request("read", {"path": path}, machine, cwd, None, (access,))), Allow)

    return {name for name in set(names) if not kept(name)}


# --- for commands that are no tool calls ---


def permit(
    context: BackendContext, tool: str, arguments: Mapping[str, Any], reach: Reach, config: RunnableConfig | None = None, *, by: By = "user"
) -> None:
    """The gate for what is done without a tool call, in the thread of `config`; asks where it has to, in the caller's task.

    For a shell command on the thread's machine: `permit(context, "bash", {"command": text}, Reach(command=text), config)`.

    Raises:
        Denied: the policy, or a person, does not allow it.
        GraphInterrupt: a person is being asked; to be let through, and the call made again when the graph is resumed.
    """
    if context.policy.trivial:
        return
    place = place_of(config or {}, None, None, lambda name, args: False)
    _settle(place, io.run(judge(context, place, tool, arguments, reach, by=by)))


async def apermit(
    context: BackendContext, tool: str, arguments: Mapping[str, Any], reach: Reach, config: RunnableConfig | None = None, *, by: By = "user"
) -> None:
    """See `permit`."""
    if context.policy.trivial:
        return
    place = place_of(config or {}, None, None, lambda name, args: False)
    _settle(place, await io.on_io(judge(context, place, tool, arguments, reach, by=by)))


def _settle(place: Place, verdict: Verdict) -> None:
    if isinstance(verdict.decision, Allow):
        return
    text = refusal(verdict) if isinstance(verdict.decision, Deny) else ask(place, verdict)
    if text is not None:
        raise Denied(text, machine_id=verdict.request.machine.machine_id)
