"""Death at a chosen moment: wrappers around the inner saver, the platform's client and the VM's backend that end what uses them.

A `Life` stands for a process. A real one kills itself there (`worker.py`). One that is played within the process of the tests raises
`Killed` and answers nothing any more: whatever still runs of it gets nothing done, neither in the database nor on the platform.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from langchain_vers.backends.vers import VersBackend
from langchain_vers.platform import VersClient

SAVER_POINTS = ("before put", "after put", "before put_writes", "after put_writes")
MACHINE_POINTS = ("before exec", "after exec", "before commit", "during commit", "after commit")
MOVE_POINTS = ("before branch", "during branch", "after branch")
RESTORE_POINTS = ("before restore", "during restore", "after restore")
POINTS = (*SAVER_POINTS, *MACHINE_POINTS, *MOVE_POINTS, *RESTORE_POINTS, "model")
HALFWAY = "half of it is done"
_CALLS = {
    "commit_vm": "commit",
    "restore_vm": "restore",
    "branch_commit": "restore",
    "branch_vm": "branch",
    "create_vm": "create",
    "delete_vm": "delete",
    "label_vm": "label",
}


class Killed(BaseException):
    """The process is dead; not an Exception, so that nobody takes it for an error that can be dealt with."""


class Life:
    """A process, as the wrappers see it. `die(point)` ends it; if it returns, `Killed` is raised."""

    def __init__(self, die: Callable[[str], None] = lambda point: None, thread: str | None = None) -> None:
        self.dead = False
        self.reached: Counter[str] = Counter()
        self.thread = thread
        """Only what is stored for this thread counts, if it is set."""
        self._die = die
        self._armed: tuple[str, int] | None = None
        self._lock = threading.Lock()

    def arm(self, point: str, nth: int = 1) -> None:
        """Die at the n-th time that a point is reached from now on."""
        with self._lock:
            self.reached.clear()
            self._armed = (point, nth)

    def disarm(self) -> None:
        with self._lock:
            self._armed = None

    def alive(self) -> None:
        """The dead do nothing."""
        if self.dead:
            raise Killed

    def due(self, point: str) -> bool:
        """Whether the next time that a point is reached is the last moment."""
        return self._armed is not None and self._armed == (point, self.reached[point] + 1)

    def reach(self, point: str) -> None:
        with self._lock:
            self.alive()
            self.reached[point] += 1
            if self._armed != (point, self.reached[point]):
                return
            self.dead = True
        self._die(point)
        raise Killed(point)

    def reach_in(self, point: str, config: Any) -> None:
        """A point in what is stored; it counts if it is for the right thread."""
        if self.thread in {None, config["configurable"]["thread_id"]}:
            self.reach(point)
        else:
            self.alive()


_lives: WeakKeyDictionary[VersClient, Life] = WeakKeyDictionary()
_calling: ContextVar[tuple[Life, str] | None] = ContextVar("calling", default=None)


def belongs(client: VersClient, life: Life) -> None:
    """This client, and the backends on it, are those of a process."""
    _lives[client] = life


def _sync(kind: Any) -> Any:
    """For savers whose async methods, if they have any, call the sync ones."""

    class Mortal(kind):
        def put(self, config: Any, *args: Any) -> Any:
            self.life.reach_in("before put", config)
            result = super().put(config, *args)
            self.life.reach_in("after put", config)
            return result

        def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
            self.life.reach_in("before put_writes", config)
            super().put_writes(config, writes, task_id, task_path)
            self.life.reach_in("after put_writes", config)

        def get_tuple(self, config: Any) -> Any:
            self.life.alive()
            return super().get_tuple(config)

    return Mortal


def _async(kind: Any) -> Any:
    """For savers whose sync methods call the async ones."""

    class Mortal(kind):
        async def aput(self, config: Any, *args: Any) -> Any:
            self.life.reach_in("before put", config)
            result = await super().aput(config, *args)
            self.life.reach_in("after put", config)
            return result

        async def aput_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
            self.life.reach_in("before put_writes", config)
            await super().aput_writes(config, writes, task_id, task_path)
            self.life.reach_in("after put_writes", config)

        async def aget_tuple(self, config: Any) -> Any:
            self.life.alive()
            return await super().aget_tuple(config)

    return Mortal


def mortal(saver: Any, life: Life) -> Any:
    """Make a saver that of a process; its class is one of its own from now on, which has the same capabilities."""
    kind = type(saver)
    saver.__class__ = (_async if kind.__name__.startswith("Async") else _sync)(kind)
    saver.life = life
    return saver


def _is_work(command: str) -> bool:
    return "echo did " in command


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """While it holds, clients and backends that belong to a life end with it."""
    with contextlib.ExitStack() as stack:

        def patch(owner: type, name: str, replacement: Any) -> None:
            mine = owner.__dict__.get(name)
            setattr(owner, name, replacement)
            stack.callback(lambda: setattr(owner, name, mine) if mine is not None else delattr(owner, name))

        for name, what in _CALLS.items():
            patch(VersClient, name, _call(getattr(VersClient, name), what))
        patch(VersClient, "_send", _send(VersClient._send))
        patch(VersBackend, "exec", _exec(VersBackend.exec))
        patch(VersBackend, "write", _written(VersBackend.write))
        patch(VersBackend, "_session", _session(VersBackend._session))
        patch(httpx.AsyncClient, "send", _sent(httpx.AsyncClient.send))
        yield


def _call(original: Any, what: str) -> Any:
    async def call(self: VersClient, *args: Any, **kwargs: Any) -> Any:
        life = _lives.get(self)
        if life is None:
            return await original(self, *args, **kwargs)
        life.reach(f"before {what}")
        token = _calling.set((life, what))
        try:
            result = await original(self, *args, **kwargs)
        finally:
            _calling.reset(token)
        life.reach(f"after {what}")
        return result

    return call


def _send(original: Any) -> Any:
    async def send(self: VersClient, *args: Any) -> Any:
        if (life := _lives.get(self)) is not None:
            life.alive()
        return await original(self, *args)

    return send


def _sent(original: Any) -> Any:
    """The moment at which a request has been sent, and its answer is not there yet."""

    async def send(self: httpx.AsyncClient, request: httpx.Request, **options: Any) -> Any:
        calling = _calling.get()
        if calling is not None:
            life, what = calling

            async def trace(event: str, info: Any) -> None:
                if event == "http11.send_request_body.complete":
                    life.reach(f"during {what}")

            request.extensions = {**request.extensions, "trace": trace}
        return await original(self, request, **options)

    return send


def _exec(original: Any) -> Any:
    async def execute(self: VersBackend, command: str, **options: Any) -> Any:
        life = _lives.get(self._client)
        if life is None or not _is_work(command):
            return await original(self, command, **options)
        life.reach("before exec")
        if life.due("amid exec"):
            # It stops where it cannot go on by itself, having done its work, and says so.
            command = command.replace("echo did ", f"echo {HALFWAY}; mkfifo ~/never; cat ~/never; echo did ")
            seen = bytearray()

            def watch(data: bytes) -> None:
                seen.extend(data)
                if HALFWAY.encode() in seen:
                    life.reach("amid exec")

            options["on_output"] = watch
        else:
            life.reached["amid exec"] += 1
        result = await original(self, command, **options)
        life.reach("after exec")
        return result

    return execute


def _written(original: Any) -> Any:
    async def write(self: VersBackend, *args: Any, **options: Any) -> Any:
        life = _lives.get(self._client)
        if life is None:
            return await original(self, *args, **options)
        life.reach("before exec")
        result = await original(self, *args, **options)
        life.reach("after exec")
        return result

    return write


def _session(original: Any) -> Any:
    async def session(self: VersBackend) -> Any:
        if (life := _lives.get(self._client)) is not None:
            life.alive()
        return await original(self)

    return session
