"""What the embedded Vers remembers over a restart: machines, commits, tags, repositories and environment variables, in one SQLite file.

Reads come from memory, writes go through to the file at once; a killed server loses nothing that it had answered. The file holds SSH keys
and is readable by its owner only. Disks and snapshots are the engine's business.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar
from uuid import uuid4


def now() -> str:
    """The time in UTC as RFC 3339."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Identity:
    """The SSH keys that lie on a machine's disk and travel with every copy of it (OpenSSH private key format)."""

    host_key: str = field(repr=False)
    client_key: str = field(repr=False)


@dataclass(frozen=True)
class Vm:
    """A machine."""

    vm_id: str
    created_at: str
    host_key: str = field(repr=False)
    client_key: str = field(repr=False)
    labels: dict[str, str] | None = None
    vcpu_count: int | None = None
    mem_size_mib: int | None = None
    fs_size_mib: int | None = None
    parent_commit_id: str | None = None
    """The nearest commit that this machine descends from."""
    grandparent_vm_id: str | None = None
    """The machine that it was branched from, or that its commit was made of."""
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    """The account's variables as they were when the machine was made."""


@dataclass(frozen=True)
class Commit:
    """A stored state of a machine."""

    commit_id: str
    created_at: str
    name: str
    host_key: str = field(repr=False)
    client_key: str = field(repr=False)
    description: str | None = None
    is_public: bool = False
    parent_vm_id: str | None = None
    grandparent_commit_id: str | None = None
    vcpu_count: int | None = None
    mem_size_mib: int | None = None
    fs_size_mib: int | None = None
    has_environment: bool = False
    """Whether the server has written variables to the disk's /etc/environment."""


@dataclass(frozen=True)
class Tag:
    """A name for a commit; `repository` is None for the tags of the whole account."""

    tag_id: str
    tag_name: str
    commit_id: str
    created_at: str
    updated_at: str
    description: str | None = None
    repository: str | None = None


@dataclass(frozen=True)
class Repository:
    """A named set of tags."""

    repo_id: str
    name: str
    created_at: str
    description: str | None = None
    is_public: bool = False


@dataclass(frozen=True)
class Setting:
    """A single remembered string, such as an environment variable."""

    value: str = field(repr=False)


Record = TypeVar("Record", Vm, Commit, Tag, Repository, Setting)


class Shelf(Generic[Record]):
    """The records of one kind, by key, in the order in which they were first put there."""

    def __init__(self, database: sqlite3.Connection, kind: str, record_type: type[Record]) -> None:
        self._database = database
        self._kind = kind
        rows = database.execute("SELECT key, body FROM record WHERE kind = ? ORDER BY rowid", (kind,))
        self._records: dict[str, Record] = {key: record_type(**json.loads(body)) for key, body in rows}

    def __iter__(self) -> Iterator[Record]:
        return iter(list(self._records.values()))

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def items(self) -> list[tuple[str, Record]]:
        """Keys and records."""
        return list(self._records.items())

    def get(self, key: str) -> Record | None:
        """The record of that key."""
        return self._records.get(key)

    def put(self, key: str, record: Record) -> None:
        """Add or replace a record."""
        self._database.execute(
            "INSERT INTO record (kind, key, body) VALUES (?, ?, ?) ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
            (self._kind, key, json.dumps(asdict(record))),
        )
        self._records[key] = record

    def remove(self, key: str) -> None:
        """Remove a record; no-op if there is none."""
        self._database.execute("DELETE FROM record WHERE kind = ? AND key = ?", (self._kind, key))
        self._records.pop(key, None)


class Store:
    """All shelves, in `path` (mode 0600)."""

    def __init__(self, path: Path) -> None:
        # SQLite gives its side files the mode of the main one, so it is enough to make that before SQLite does.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        path.chmod(0o600)
        self._database = sqlite3.connect(path, isolation_level=None)
        # WAL with NORMAL survives a killed process without an fsync for every write.
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS record (kind TEXT, key TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, key))")
        self.vms = Shelf(self._database, "vm", Vm)
        self.commits = Shelf(self._database, "commit", Commit)
        self.tags = Shelf(self._database, "tag", Tag)
        self.repositories = Shelf(self._database, "repository", Repository)
        self.environment = Shelf(self._database, "environment", Setting)
        settings = Shelf(self._database, "setting", Setting)
        owner = settings.get("owner_id")
        if owner is None:
            owner = Setting(str(uuid4()))
            settings.put("owner_id", owner)
        self.owner_id = owner.value

    def close(self) -> None:
        """Close the file."""
        self._database.close()
