"""A real PostgreSQL server of the tests' own, on a unix socket that nobody else can reach, with a new database for whoever asks."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psycopg

from rigs.programs import require
from rigs.users import NOBODY, ROOT, folder_of_ordinary_user

USER = "tests"
_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "100",
    "log_min_messages": "warning",
}


def _programs() -> Path:
    """The folder of `initdb` and `postgres`. Debian keeps them, for each version, off the path."""
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin/initdb")
    if newest := max(versions, key=lambda program: int(program.parts[-3]), default=None):
        return newest.parent
    return Path(require("initdb", "postgresql")).resolve().parent


class Postgres:
    """One server; `new_database` makes what a test works on. PostgreSQL refuses to run as root, for whom it runs as `NOBODY`.

    It holds to the thread that made it: if the process is killed, the server ends at once, and only its folder is left.
    """

    def __init__(self) -> None:
        programs = _programs()
        setpriv = require("setpriv", "util-linux")
        self._made = 0
        with ExitStack() as stack:
            # Not pytest's folder: other users cannot enter that, and the name of a socket may have 107 bytes only.
            self.folder = stack.enter_context(folder_of_ordinary_user())
            data, log_file = self.folder / "data", self.folder / "log"
            new_cluster = [programs / "initdb", "--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8", "--locale=C"]
            initdb = subprocess.run(
                [*new_cluster, f"--username={USER}", f"--pgdata={data}"], **self._as_user(), capture_output=True, text=True, timeout=120
            )
            assert initdb.returncode == 0, initdb.stderr
            settings = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
            with log_file.open("wb") as log:
                self.process = subprocess.Popen(
                    [setpriv, "--pdeathsig", "QUIT", programs / "postgres", "-D", data, "-k", self.folder, *settings],
                    **self._as_user(),
                    # What is typed at the terminal of the tests, such as Ctrl-C, is not for the server.
                    start_new_session=True,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            stack.callback(self._end)
            self._wait(log_file)
            self._stack = stack.pop_all()

    def _as_user(self) -> dict[str, Any]:
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if ROOT else {}
        return {"cwd": self.folder, "env": {**os.environ, "LC_ALL": "C"}, **user}

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.01)

    def url(self, database: str) -> str:
        """The connection string of a database, for this process and any other of the same user."""
        return f"postgresql:///{database}?{urlencode({'host': self.folder, 'user': USER})}"

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def new_database(self) -> str:
        """Make an empty database; its connection string."""
        self._made += 1
        name = f"test_{self._made}"
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._execute(f"DROP DATABASE {psycopg.conninfo.conninfo_to_dict(url)['dbname']} WITH (FORCE)")

    def _end(self) -> None:
        # The quickest way: no connection is waited for, and nothing is saved that is removed anyway.
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(60)

    def close(self) -> None:
        """End the server with all connections to it, and remove its folder."""
        self._stack.close()
