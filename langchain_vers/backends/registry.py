"""The one place where names become backends, each imported and made when it is first used.

A *spec* is a kind, or a kind and its one argument behind a colon: "local", "docker:python:3.12", "ssh:user@host", "bubblewrap:/work". The
kinds are those of this package and those that other installed packages offer by an entry point of the group `langchain_vers.backends`: a
class, or a function, that takes the argument (or nothing) and gives a backend. A `Registry` holds what one context offers to its threads.
Only names that a program has registered lead anywhere: neither a model nor a stored conversation can name a spec of its own.
"""

from __future__ import annotations

import asyncio
import difflib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from langchain_vers._io import io
from langchain_vers.backends.base import Backend, Snapshots
from langchain_vers.errors import BadInput, Gone, Unsupported, VersError

GROUP = "langchain_vers.backends"
"""The entry points of other packages. One with the name of a kind of this package is not looked at."""
RESERVED = ("vers", "local")
"""Names that always mean the same to a thread: a VM of Vers, and this machine as the context offers it."""

Source = Backend | str | Callable[[], Backend]
"""A backend, a spec, or a function that makes one."""


@dataclass(frozen=True)
class Kind:
    """A backend of this package before it is imported."""

    home: str
    """Module and class, with a colon between."""
    argument: str | None = None
    """What the constructor calls the part of a spec behind the colon; None: it is the first positional one."""
    needed: bool = False
    """Whether there is nothing to be made without it."""
    example: str = ""
    """A spec of it, for errors."""
    extra: str | None = None
    """Which extra of this package brings the libraries that it imports."""


KINDS = {
    "local": Kind("langchain_vers.backends.local:LocalBackend", "root", example="local:/folder"),
    "ssh": Kind("langchain_vers.backends.ssh:SSHBackend", needed=True, example="ssh:user@host:port"),
    "docker": Kind("langchain_vers.backends.docker:DockerBackend", needed=True, example="docker:python:3.12", extra="docker"),
    "bubblewrap": Kind("langchain_vers.backends.bubblewrap:BubblewrapBackend", "workspace", example="bubblewrap:/folder"),
    "seatbelt": Kind("langchain_vers.backends.seatbelt:SeatbeltBackend", "workspace", example="seatbelt:/folder"),
    "gondolin": Kind("langchain_vers.backends.gondolin:GondolinBackend", "image", example="gondolin:/image"),
}
"""The kinds of this package, by the word in front of the colon."""


def kinds() -> list[str]:
    """The kinds that a spec may begin with, in order of the alphabet."""
    return sorted({*KINDS, *(point.name for point in entry_points(group=GROUP))})


def check(spec: str) -> tuple[str, str]:
    """The kind and the argument of a spec. Imports nothing.

    Raises:
        BadInput: it is malformed, or no such kind is known; says what to install or to register.
    """
    kind, colon, argument = spec.partition(":")
    if not kind or "\0" in spec or kind != kind.strip() or (colon and not argument.strip()):
        raise BadInput(f"{spec!r} names no backend; write a kind, or kind:argument, such as {KINDS['docker'].example}")
    if kind == "vers":
        raise BadInput("a VM of Vers needs no registration; attach a thread to it with context.attach(vm), or give vm=... to the toolkit")
    if kind not in KINDS and kind not in (known := kinds()):
        close = difflib.get_close_matches(kind, known, 1)
        raise BadInput(
            f"no backend is named {kind!r}{f' (did you mean {close[0]!r}?)' if close else ''}; there are {', '.join(known)}, and others "
            f"come with packages that have an entry point {kind!r} in the group {GROUP}; a backend of your own is registered as an object"
        )
    if kind in KINDS and KINDS[kind].needed and not argument:
        raise BadInput(f"the backend {kind} needs an argument, as in {KINDS[kind].example}")
    return kind, argument


def resolve(spec: str, **options: Any) -> Backend:  # noqa: ANN401  # those of the backend
    """The backend that a spec means. Imports its module; connects to nothing.

    `options` are keyword arguments of its constructor.

    Raises:
        BadInput: as `check`, or the constructor does not take these arguments.
        Unsupported: the kind is known, and what it needs is not installed, or does not work here.
    """
    kind, argument = check(spec)
    if kind not in KINDS:
        return _checked(kind, _loaded(kind), [argument] if argument else [], options)
    keyword = KINDS[kind].argument
    if argument and keyword is not None:
        return _checked(kind, _imported(kind), [], {keyword: argument, **options})
    return _checked(kind, _imported(kind), [argument] if argument else [], options)


def _imported(name: str) -> Callable[..., Any]:
    """The class of a kind of this package."""
    kind = KINDS[name]
    module, _, attribute = kind.home.partition(":")
    try:
        made: Callable[..., Any] = getattr(import_module(module), attribute)
    except ImportError as error:
        remedy = f'pip install "langchain-vers[{kind.extra}]"' if kind.extra else "install a version of langchain-vers that has it"
        raise Unsupported(f"the backend {name} cannot be loaded ({error}); {remedy}") from error
    return made


def _loaded(name: str) -> Callable[..., Any]:
    """What another package offers under a kind's name."""
    points = list(entry_points(group=GROUP, name=name))
    homes = sorted({point.value for point in points})
    if len(homes) > 1:
        raise BadInput(f"several installed packages offer a backend {name!r} ({', '.join(homes)}); uninstall all but one of them")
    try:
        made: Callable[..., Any] = points[0].load()
    except Exception as error:  # whatever a foreign module does when it is imported
        raise Unsupported(f"the backend {name} of {_package(points[0])} cannot be loaded ({type(error).__name__}: {error})") from error
    return made


def _package(point: EntryPoint) -> str:
    return f"the package {point.dist.name}" if point.dist is not None else point.value


def _checked(name: str, make: Callable[..., Any], arguments: Sequence[str], options: dict[str, Any]) -> Backend:
    try:
        made = make(*arguments, **options)
    except VersError:
        raise
    except TypeError as error:  # an argument that it does not have, or one that is missing
        raise BadInput(f"the backend {name} could not be made ({error})") from error
    except (ImportError, OSError) as error:
        raise Unsupported(f"the backend {name} cannot be used here ({type(error).__name__}: {error})") from error
    except Exception as error:  # whatever a foreign constructor does; its words may be anything, a secret among them
        raise Unsupported(f"the backend {name} cannot be used here ({type(error).__name__}); see the cause of this error") from error
    if not isinstance(made, Backend):
        raise BadInput(f"the backend {name} could not be made: its factory gave a {type(made).__name__} and no Backend")
    return made


@dataclass
class _Offer:
    """A name, and what it leads to once somebody has gone there."""

    source: Source
    made: Backend | None = None
    machines: dict[str, Backend] = field(default_factory=dict)
    """Further machines of the same engine, by id: those that attachments name."""
    making: threading.Lock = field(default_factory=threading.Lock)

    def backend(self, name: str) -> Backend:
        """The backend; made now if need be, and only once."""
        with self.making:
            if self.made is None:
                if isinstance(self.source, Backend):
                    self.made = self.source
                elif isinstance(self.source, str):
                    self.made = resolve(self.source)
                else:
                    self.made = _checked(name, self.source, [], {})
            return self.made

    def own(self) -> list[Backend]:
        """What was made here, and not given by somebody who may still use it; forgotten by this."""
        own, self.machines = list(self.machines.values()), {}
        if self.made is not None and self.made is not self.source:
            own.append(self.made)
        self.made = None
        return own


class Registry:
    """The further backends that a context offers, by name. Coroutines of the I/O thread; `add` and `names` are for any thread."""

    def __init__(self) -> None:
        self._offers: dict[str, _Offer] = {}
        self._replaced: list[_Offer] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lost: list[Backend] = []

    def add(self, name: str, source: Source) -> None:
        """Offer a backend. A name that is offered again leads to the new one, also for threads that are there.

        Raises:
            BadInput: the name is no identifier, or one that the package uses itself; or `source` is nothing that leads to a backend.
        """
        if not isinstance(name, str) or name in RESERVED or not name.isidentifier():
            raise BadInput(f"{name!r} cannot name a backend; use an identifier other than 'vers' and 'local'")
        if isinstance(source, str):
            check(source)
        elif not isinstance(source, Backend) and not callable(source):
            raise BadInput(
                f"{source!r} is no backend; register a backend, a spec such as 'docker:python:3.12', or a function that makes one"
            )
        known = self._offers.get(name)
        if known is not None and known.source == source:
            return
        if known is not None:
            self._replaced.append(known)
        self._offers[name] = _Offer(source)

    @property
    def names(self) -> list[str]:
        """What is offered, in order of the alphabet."""
        return sorted(self._offers)

    def made(self) -> list[Backend]:
        """The backends that there are already, without their further machines, whose settings are the same."""
        return [offer.made for offer in self._offers.values() if offer.made is not None]

    async def backend(self, name: str, machine_id: str | None = None) -> Backend:
        """The backend of a name, on the machine with this id, if one is given.

        Raises:
            BadInput: nothing is registered under the name.
            Unsupported: what is cannot be used here.
            Gone: the backend is on another machine now, and cannot go back to that one.
        """
        offer = self._offers.get(name)
        if offer is None:
            raise BadInput(self._unknown(name))
        self._settle()
        backend: Backend = offer.made if offer.made is not None else await io.blocking(offer.backend, name)
        if machine_id is None or backend.machine_id == machine_id:
            return backend
        if machine_id in offer.machines:
            return offer.machines[machine_id]
        if isinstance(backend, Snapshots):
            return offer.machines.setdefault(machine_id, backend.at(machine_id))
        now = f"is on {backend.machine_id} now" if backend.machine_id is not None else "cannot tell whether it is on that machine"
        raise Gone(
            f"this thread was on the machine {machine_id} of the backend {name}, which {now}; move there on purpose with use_backend",
            machine_id=machine_id,
        )

    def _settle(self) -> None:
        """Forget what was made on another loop, as before a fork: it is not ours to close any more, and not for the collector either."""
        if self._loop is not (loop := asyncio.get_running_loop()):
            if self._loop is not None:
                self._lost += [backend for offer in self._offers.values() for backend in offer.own()]
            self._loop = loop
        io.at_close(self, self.close)

    def _unknown(self, name: str) -> str:
        known = ", ".join(self.names) or "none"
        remedy = f"; context.register({name!r}, ...) does it" if name.isidentifier() and name not in RESERVED else ""
        if name in kinds() and name not in RESERVED:
            remedy = f'; context.register("{name}", "{KINDS[name].example if name in KINDS else name}") does it'
        return f"no backend named {name!r} is registered{remedy}; registered are: {known}"

    async def close(self) -> None:
        """Close what is offered; what was made here is made anew for further use, and finds its machines by the attachments to them."""
        await self._close([offer.source for offer in self._offers.values() if isinstance(offer.source, Backend)])

    async def _close(self, given: Sequence[Backend]) -> None:
        replaced, self._replaced = self._replaced, []
        self._settle()
        io.forget(self)
        made = [backend for offer in (*self._offers.values(), *replaced) for backend in offer.own()]
        await asyncio.gather(*(backend.close() for backend in (*given, *made)), return_exceptions=True)

    def close_soon(self) -> None:
        """Close what was made here, without waiting; what was given stays with those who may still use it. For any thread."""
        if self._loop is not None and io.runs(self._loop):
            io.submit(self._close([]))
