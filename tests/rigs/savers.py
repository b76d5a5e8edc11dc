"""LangGraph's savers, each by its kind and a connection string, so that another process can open the same database."""

from __future__ import annotations

import contextlib
import copy
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from rigs.network import NetworkThread
from rigs.postgres import Postgres

Saver = BaseCheckpointSaver[Any]
Kind = Literal["memory", "extended-memory", "sqlite", "aiosqlite", "postgres", "async-postgres"]
Face = Literal["sync", "async"]

KINDS: tuple[Kind, ...] = get_args(Kind)
SHARED_KINDS: tuple[Kind, ...] = ("sqlite", "aiosqlite", "postgres", "async-postgres")
"""Those whose database outlives the saver, and can be opened by several processes."""
FACES: tuple[tuple[Kind, Face], ...] = (
    ("memory", "sync"),
    ("memory", "async"),
    ("extended-memory", "sync"),
    ("extended-memory", "async"),
    ("sqlite", "sync"),
    ("aiosqlite", "sync"),
    ("aiosqlite", "async"),
    ("postgres", "sync"),
    ("async-postgres", "sync"),
    ("async-postgres", "async"),
)
"""What works with what. The sync methods of an async saver are for other threads than the one of its loop."""


class ExtendedMemorySaver(InMemorySaver):
    """Memory with the extensions of the protocol that the savers which LangGraph ships lack in part."""

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        for namespace, checkpoints in list(self.storage[source_thread_id].items()):
            self.storage[target_thread_id][namespace].update(checkpoints)
        for rows in (self.writes, self.blobs):
            for thread_id, *rest in list(rows):
                if thread_id == source_thread_id:
                    rows[target_thread_id, *rest] = copy.copy(rows[thread_id, *rest])

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        for thread_id in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread_id)
                continue
            for namespace, checkpoints in self.storage[thread_id].items():
                for checkpoint_id in sorted(checkpoints)[:-1]:
                    self._delete(thread_id, namespace, checkpoint_id)

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        for found in list(self.list(None)):
            if found.metadata.get("run_id") in run_ids:
                place = found.config["configurable"]
                self._delete(place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"])

    def _delete(self, thread_id: str, namespace: str, checkpoint_id: str) -> None:
        del self.storage[thread_id][namespace][checkpoint_id]
        self.writes.pop((thread_id, namespace, checkpoint_id), None)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self.copy_thread(source_thread_id, target_thread_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        self.prune(thread_ids, strategy=strategy)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        self.delete_for_runs(run_ids)


@dataclass(frozen=True)
class Database:
    """Where a saver keeps its rows. Another process makes it from the same two words: `Database(*sys.argv[1:3]).open()`."""

    kind: Kind
    url: str
    """A file, a PostgreSQL connection string, or nothing for the kinds of memory, where each saver has rows of its own."""

    @contextlib.contextmanager
    def open(self) -> Iterator[Saver]:
        """A new saver, set up. The loop of an async one runs in a thread of its own: use its sync methods."""
        if self.kind in _MEMORY:
            yield _MEMORY[self.kind]()
        elif self.kind in _SYNC:
            with _SYNC[self.kind](self.url) as saver:
                saver.setup()
                yield saver
        else:
            network = NetworkThread()
            try:
                stack = contextlib.AsyncExitStack()
                try:
                    yield network.do(stack.enter_async_context(self.aopen()))
                finally:
                    network.do(stack.aclose())
            finally:
                network.close()

    @contextlib.asynccontextmanager
    async def aopen(self) -> AsyncIterator[Saver]:
        """A new saver, set up, on the running loop. A sync one has its sync methods only, memory has both."""
        if self.kind in _ASYNC:
            async with _ASYNC[self.kind](self.url) as saver:
                await saver.setup()
                yield saver
        else:
            with self.open() as saver:
                yield saver


_MEMORY: dict[str, type[InMemorySaver]] = {"memory": InMemorySaver, "extended-memory": ExtendedMemorySaver}
_SYNC: dict[str, Callable[[str], contextlib.AbstractContextManager[Any]]] = {
    "sqlite": SqliteSaver.from_conn_string,
    "postgres": PostgresSaver.from_conn_string,
}
_ASYNC: dict[str, Callable[[str], contextlib.AbstractAsyncContextManager[Any]]] = {
    "aiosqlite": AsyncSqliteSaver.from_conn_string,
    "async-postgres": AsyncPostgresSaver.from_conn_string,
}


class Databases:
    """Makes empty databases, and removes those of the server in the end. `postgres` gives the server when the first is asked for."""

    def __init__(self, folder: Path, postgres: Callable[[], Postgres]) -> None:
        self._folder = folder
        self._postgres = postgres
        self._server: Postgres | None = None
        self._made: list[str] = []

    def new(self, kind: Kind) -> Database:
        """An empty database for this kind of saver."""
        if kind in _MEMORY:
            return Database(kind, "")
        if kind in {"sqlite", "aiosqlite"}:
            return Database(kind, str(self._folder / f"{uuid.uuid4().hex}.sqlite"))
        self._server = self._postgres()
        self._made.append(self._server.new_database())
        return Database(kind, self._made[-1])

    def close(self) -> None:
        if self._server is not None:
            for url in self._made:
                self._server.drop_database(url)
