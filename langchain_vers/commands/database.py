"""Checkpoint databases as the command line finds them: a sqlite file or a Postgres server, looked at without changing anything.

Values of a graph's channels are of the graph's own types. Nothing here imports them: what is only looked at is shown as far as it can be,
and what is copied is copied as it is stored.
"""

from __future__ import annotations

import difflib
import importlib
import json
import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import quote

import ormsgpack
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_vers.database import RESERVED_THREAD
from langchain_vers.errors import BadInput, Gone, Missing, Unreachable, Unsupported
from langchain_vers.history import ThreadSummary, summary
from langchain_vers.previews import clean

T = TypeVar("T")
Saver = BaseCheckpointSaver[Any]

CONNECT_SECONDS = 10
_ATTEMPTS = 5
_UNHEARD = logging.NullHandler()
_THREADS = """
    SELECT c.thread_id, c.checkpoint_id, c.metadata, newest.checkpoints FROM checkpoints c
    JOIN (
        SELECT thread_id, max(checkpoint_id) AS head, count(*) AS checkpoints FROM checkpoints WHERE checkpoint_ns = '' GROUP BY thread_id
    ) newest ON newest.thread_id = c.thread_id AND newest.head = c.checkpoint_id
    WHERE c.checkpoint_ns = '' ORDER BY c.checkpoint_id DESC
"""


class Readable(JsonPlusSerializer):
    """For looking: imports no type but those that LangGraph itself knows, and what cannot be read is empty instead of an error."""

    def __init__(self) -> None:
        super().__init__(allowed_msgpack_modules=None)
        logging.getLogger("langgraph").addHandler(_UNHEARD)  # that types are not imported is as it should be here

    def loads_typed(self, data: tuple[str, bytes]) -> Any:  # noqa: ANN401  # whatever was stored
        """See `SerializerProtocol`."""
        try:
            return super().loads_typed(data)
        except Exception:  # encrypted, pickled, broken: the metadata and the tree can be shown all the same
            return {"v": 4, "id": "", "ts": "", "channel_values": {}, "channel_versions": {}, "versions_seen": {}}


class Verbatim(JsonPlusSerializer):
    """For copying: objects stay what they are in storage, so that what is written is what was read, whatever is installed here."""

    def __init__(self) -> None:
        super().__init__(__unpack_ext_hook__=ormsgpack.Ext)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:  # noqa: ANN401  # whatever was stored
        """See `SerializerProtocol`; refuses what is encrypted or pickled."""
        if data[0] not in {"null", "bytes", "bytearray", "msgpack"}:
            raise Unsupported(
                f"The database holds values stored as {clean(data[0])!r}, which only a program with the saver's own serializer can read; "
                "call VersSaver.fork or langchain_vers.gc from there."
            )
        return super().loads_typed(data)


def is_postgres(db: str) -> bool:
    """Whether a database is given as a URL of Postgres, and not as a file."""
    return db.startswith(("postgres://", "postgresql://"))


def shown(db: str) -> str:
    """A database's path or URL without a password, for messages."""
    if not is_postgres(db):
        return clean(db)
    return clean(re.sub(r"(password=)[^&\s]*", r"\1***", re.sub(r"(//[^:@/]*):.*@", r"\1:***@", db)))


def check(db: str) -> None:
    """See whether there is such a database. Errors as for `read`."""
    read(db, lambda _: None)


def read(db: str, action: Callable[[Saver], T], *, verbatim: bool = False) -> T:
    """Do something with a saver that is only to be read from, and may be done again if somebody writes meanwhile. Creates no file.

    Raises:
        Missing: there is no such file.
        BadInput: it holds no checkpoints.
        Unreachable: it cannot be read.
        Unsupported: a package is missing.
    """
    serde = Verbatim() if verbatim else Readable()
    if is_postgres(db):
        with _postgres(db, serde) as saver:
            return action(saver)
    return _read_sqlite(db, action, serde)


@contextmanager
def writable(db: str) -> Iterator[Saver]:
    """A saver to read from and write to; the database is there already. Errors as for `read`."""
    if is_postgres(db):
        with _postgres(db, Verbatim()) as saver:
            yield saver
    else:
        path = _sqlite_file(db)
        with _sqlite_errors(db), _sqlite(f"{_uri(path)}?mode=rw", db, Verbatim()) as saver:
            yield saver


def threads(saver: Saver) -> list[ThreadSummary]:
    """All threads of a database, the one with the newest checkpoint first. `saver` comes from `read` or `writable`."""
    connection: Any = saver.conn  # type: ignore[attr-defined]  # both savers have one
    rows = [tuple(row.values()) if isinstance(row, dict) else row for row in connection.execute(_THREADS).fetchall()]
    return [summary(thread, head, count, _metadata(metadata)) for thread, head, metadata, count in rows if thread != RESERVED_THREAD]


def checkpoints(saver: Saver, thread: str, db: str) -> list[CheckpointTuple]:
    """All checkpoints of a thread, of all namespaces.

    Raises:
        Gone: there is no such thread; the message has the names that are like it.
    """
    found = [] if thread == RESERVED_THREAD else list(saver.list({"configurable": {"thread_id": thread}}))
    if found:
        return found
    names = [each.thread for each in threads(saver)]
    near = [name for name in names if thread and (name.startswith(thread) or thread.startswith(name))]
    near += [name for name in difflib.get_close_matches(thread, names, n=5, cutoff=0.5) if name not in near]
    like = ", ".join(clean(name) for name in (near or names)[:5])
    remedy = "the database has none" if not names else f"{'the nearest' if near else 'the newest'} are {like}"
    raise Gone(f"There is no thread {clean(thread)} in {shown(db)}; {remedy}.")


def _metadata(stored: Any) -> dict[str, Any]:  # noqa: ANN401  # text, bytes, or what a driver made of it
    found = stored
    if isinstance(stored, (str, bytes)):
        found = json.loads(stored)
    return found if isinstance(found, dict) else {}


# --- sqlite ---


def _read_sqlite(db: str, action: Callable[[Saver], T], serde: SerializerProtocol) -> T:
    """A write-ahead log that nobody holds open would be created by a look at it, so such a file is opened as if it could not change.

    Whether it changed all the same is looked at afterwards.
    """
    path = _sqlite_file(db)
    for attempt in range(_ATTEMPTS):
        before = _state(path)
        immutable = _has_wal_mode(path) and not _beside(path, "-wal").exists() and attempt < _ATTEMPTS - 1
        try:
            with _sqlite_errors(db), _sqlite(f"{_uri(path)}?{'immutable=1' if immutable else 'mode=ro'}", db, serde) as saver:
                result = action(saver)
        except Exception:  # what is read while it changes can look broken in every way
            if immutable and _state(path) != before:
                continue
            raise
        if not immutable or _state(path) == before:
            return result
    raise AssertionError("unreachable: the last attempt is not immutable")


@contextmanager
def _sqlite(uri: str, db: str, serde: SerializerProtocol) -> Iterator[Saver]:
    module = _package("langgraph.checkpoint.sqlite", "sqlite")
    with closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"checkpoints", "writes"} <= tables:
            raise _no_checkpoints(db)
        saver = module.SqliteSaver(connection, serde=serde)
        saver._has_task_path = any(row[1] == "task_path" for row in connection.execute("PRAGMA table_info(writes)"))
        saver.is_setup = True  # it is, and setting it up would be writing
        yield saver


def _sqlite_file(db: str) -> Path:
    path = Path(db).expanduser()
    if not path.exists():
        raise Missing(f"There is no file {shown(db)}; give the path of a checkpoint database, or a URL that begins with postgres://.")
    if not path.is_file():
        raise BadInput(f"{shown(db)} is not a file; give the path of a checkpoint database, or a URL that begins with postgres://.")
    return path.resolve()


@contextmanager
def _sqlite_errors(db: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unreachable(
            f"{shown(db)} cannot be read ({clean(str(error))}); check its rights, and whether another program holds it."
        ) from error
    except sqlite3.DatabaseError as error:
        raise BadInput(
            f"{shown(db)} is not a checkpoint database ({clean(str(error))}); give the file that the checkpointer writes."
        ) from error


def _uri(path: Path) -> str:
    return f"file:{quote(str(path))}"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _has_wal_mode(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(20)[18:] == b"\x02\x02"
    except OSError as error:
        raise Unreachable(f"{clean(str(path))} cannot be read ({error.strerror}); check its rights.") from error


def _state(path: Path) -> tuple[int, int, int, bool]:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, _beside(path, "-wal").exists()


# --- Postgres ---


@contextmanager
def _postgres(db: str, serde: SerializerProtocol) -> Iterator[Saver]:
    module = _package("langgraph.checkpoint.postgres", "postgres")
    psycopg: Any = _package("psycopg", "postgres")
    try:
        given = psycopg.conninfo.conninfo_to_dict(db)
        options = {} if "connect_timeout" in given else {"connect_timeout": CONNECT_SECONDS}
        # No prepared statements: poolers between here and the server may not keep them.
        with psycopg.connect(db, autocommit=True, prepare_threshold=None, row_factory=psycopg.rows.dict_row, **options) as connection:
            row = connection.execute("SELECT to_regclass('checkpoints') AS one, to_regclass('checkpoint_writes') AS two").fetchone()
            if row["one"] is None or row["two"] is None:
                raise _no_checkpoints(db)
            yield module.PostgresSaver(connection, serde=serde)
    except psycopg.ProgrammingError as error:
        raise BadInput(f"{shown(db)} cannot be used as a checkpoint database ({_first_line(error)}); check the URL.") from error
    except psycopg.Error as error:
        raise Unreachable(f"{shown(db)} cannot be read ({_first_line(error)}); check the URL, and whether the server runs.") from error


def _first_line(error: Exception) -> str:
    return clean(str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__


# --- both ---


def _no_checkpoints(db: str) -> BadInput:
    return BadInput(f"{shown(db)} is not a checkpoint database: it lacks the tables of one; give the one that the checkpointer writes.")


def _package(name: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unsupported(
            f'This kind of database needs packages that are not installed; run: pip install "langchain-vers[{extra}]" ({clean(str(error))})'
        ) from error
