"""`langchain-vers history` on real databases."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents import agent, message
from click.testing import Result
from langchain_core.tools import tool
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from rigs.savers import Database, Databases
from typer.testing import CliRunner

from langchain_vers.cli import app
from langchain_vers.commands import database

VM = "3f2a91c0-7b1e-4bbb-8000-000000000001"
VERSION = "9acf12ab-34cd-4bbb-8000-000000000002"
ON_VM = {
    "vers_format": 1,
    "vers_backend": "vers",
    "vers_machine": VM,
    "vers_version": VERSION,
    "vers_commit": VERSION,
    "vers_tools": "bash",
}


@dataclass
class Plan:
    """A type that only the graph's own program knows."""

    steps: list[str]


@tool
def bash(command: str) -> str:
    """Run a command."""
    return f"ran {command}"


def call(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, arguments)


def fill(saver: Any, thread: str, **metadata: Any) -> Any:
    """Have a real agent work in a thread; the graph."""
    graph = agent([bash], message(("bash", {"command": "pytest -q"})), checkpointer=saver)
    graph.invoke({"messages": [("user", "go and look")]}, {"configurable": {"thread_id": thread}, "metadata": metadata})
    return graph


@pytest.fixture(params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, databases: Databases) -> Database:
    """A database with two threads, one of them on a VM and forked."""
    made = databases.new(request.param)
    with made.open() as saver:
        fill(saver, "local")
        graph = fill(saver, "42", **ON_VM)
        history = list(graph.get_state_history({"configurable": {"thread_id": "42"}}))
        graph.invoke(None, {**history[1].config, "metadata": ON_VM})
        saver.put(
            {"configurable": {"thread_id": database.RESERVED_THREAD, "checkpoint_ns": ""}},
            {"v": 4, "id": "1f", "ts": "", "channel_values": {}, "channel_versions": {}, "versions_seen": {}},
            {},
            {},
        )
    return made


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Iterator[Path]:
    """A sqlite database with one thread, in a folder of its own."""
    folder = tmp_path / "db"
    folder.mkdir()
    path = folder / "agent.db"
    with SqliteSaver.from_conn_string(str(path)) as saver:
        fill(saver, "42", **ON_VM)
    yield path
    assert not path.exists() or sorted(each.name for each in folder.iterdir()) == ["agent.db"]


def test_threads_and_one_thread(filled: Database) -> None:
    listed = call("history", "--db", filled.url)
    assert listed.exit_code == 0, listed.stderr
    assert [line.split()[:3] for line in listed.stdout.splitlines()] == [["42", "7", "checkpoints"], ["local", "5", "checkpoints"]]
    assert "on 3f2a91c07b1e  @9acf12ab34cd" in listed.stdout.splitlines()[0]
    one = call("history", "--db", filled.url, "--thread", "42")
    assert one.exit_code == 0, one.stderr
    lines = one.stdout.splitlines()
    assert lines[0] == "thread 42  7 checkpoints"
    assert re.search(r"HEAD  \d  model done .* ago$", lines[-1])
    assert sum("fork 1f" in line for line in lines) == 1
    assert "tool bash: ran pytest -q" in one.stdout


def test_for_programs(filled: Database) -> None:
    threads = json.loads(call("history", "--db", filled.url, "--json").stdout)["threads"]
    assert [(each["thread"], each["checkpoints"]) for each in threads] == [("42", 7), ("local", 5)]
    assert [each["machine"] and each["machine"]["machine"] for each in threads] == [VM, None]
    one = json.loads(call("history", "--db", filled.url, "--thread", "42", "--json").stdout)
    assert one["head"] == threads[0]["head"]
    assert [each["id"] for each in one["checkpoints"] if each["head"]] == [one["head"]]
    for each in one["checkpoints"]:
        assert each["machine"] == {"backend": "vers", "machine": VM, "version": VERSION, "commit": VERSION, "tools": "bash"}
    assert sorted(child for each in one["checkpoints"] for child in each["children"]) == sorted(
        each["id"] for each in one["checkpoints"] if each["parent"]
    )


def test_threads_that_do_not_exist(filled: Database) -> None:
    for asked, told in (("4", "the nearest are 42."), ("locla", "the nearest are local."), ("zzz", "the newest are 42, local.")):
        done = call("history", "--db", filled.url, "--thread", asked)
        assert done.exit_code == 1
        assert re.fullmatch(rf"langchain-vers: There is no thread {asked} in \S+; {told}\n", done.stderr), done.stderr
    assert call("history", "--db", filled.url, "--thread", database.RESERVED_THREAD).exit_code == 1


def test_an_unknown_format(filled: Database) -> None:
    with filled.open() as saver:
        fill(saver, "later", vers_format=2)
    listed = call("history", "--db", filled.url)
    assert listed.exit_code == 0
    assert re.search(r"^later .*format 2", listed.stdout, re.MULTILINE)
    done = call("history", "--db", filled.url, "--thread", "later")
    assert done.exit_code == 1
    assert re.fullmatch(r"langchain-vers: checkpoint 1f\S+: .*format 2.*upgrade langchain-vers\n", done.stderr), done.stderr


def test_as_users_run_it(sqlite_file: Path, tmp_path: Path) -> None:
    def run(columns: str, encoding: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "HOME": str(tmp_path), "PYTHONIOENCODING": encoding, "COLUMNS": columns}
        command = [sys.executable, "-W", "error", "-m", "langchain_vers.cli", "history", "--db", str(sqlite_file), "--thread", "42"]
        return subprocess.run(command, capture_output=True, timeout=60, env=environment)

    wide = run("", "utf-8")
    assert (wide.returncode, wide.stderr) == (0, b"")
    assert len(wide.stdout.decode().splitlines()) == 6
    narrow = run("30", "ascii")
    assert (narrow.returncode, narrow.stderr) == (0, b"")
    lines = narrow.stdout.decode("ascii").splitlines()
    assert max(map(len, lines)) <= 30
    assert b"\x1b" not in wide.stdout + narrow.stdout


# --- sqlite is only looked at ---


def test_a_look_changes_no_byte_and_makes_no_file(sqlite_file: Path) -> None:
    before = sqlite_file.read_bytes(), sqlite_file.stat().st_mtime_ns
    assert call("history", "--db", str(sqlite_file), "--thread", "42").exit_code == 0
    assert call("history", "--db", str(sqlite_file)).exit_code == 0
    assert (sqlite_file.read_bytes(), sqlite_file.stat().st_mtime_ns) == before


def test_a_look_at_a_database_without_write_ahead_log(sqlite_file: Path) -> None:
    with closing(sqlite3.connect(sqlite_file)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    before = sqlite_file.read_bytes()
    assert call("history", "--db", str(sqlite_file), "--thread", "42").exit_code == 0
    assert sqlite_file.read_bytes() == before


def test_a_look_while_somebody_writes_sees_what_is_in_the_log(sqlite_file: Path) -> None:
    with SqliteSaver.from_conn_string(str(sqlite_file)) as saver:
        fill(saver, "43")
        assert sqlite_file.with_name("agent.db-wal").exists()
        assert "43" in call("history", "--db", str(sqlite_file)).stdout


def test_a_database_that_changes_during_a_look_is_looked_at_again(sqlite_file: Path) -> None:
    looks = 0
    write = "import sys; from test_cli_history import *\nwith SqliteSaver.from_conn_string(sys.argv[1]) as saver: fill(saver, '43')"

    def look(saver: Any) -> list[str]:
        nonlocal looks
        looks += 1
        if looks == 1:
            path = os.pathsep.join(sys.path)
            subprocess.run([sys.executable, "-c", write, str(sqlite_file)], check=True, timeout=60, env={**os.environ, "PYTHONPATH": path})
        list(saver.list(None))
        return [each.thread for each in database.threads(saver)]

    assert database.read(str(sqlite_file), look) == ["43", "42"]
    assert looks == 2


def test_a_database_of_an_older_langgraph(sqlite_file: Path) -> None:
    with closing(sqlite3.connect(sqlite_file)) as connection:
        connection.execute("ALTER TABLE writes DROP COLUMN task_path")
    assert call("history", "--db", str(sqlite_file), "--thread", "42").exit_code == 0


def test_names_with_special_characters(sqlite_file: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a?b#c%20 d.db"
    shutil.copy(sqlite_file, odd)
    assert call("history", "--db", str(odd)).stdout.startswith("42")


def test_what_is_no_database(tmp_path: Path) -> None:
    empty, text, other = tmp_path / "empty.db", tmp_path / "text.db", tmp_path / "other.db"
    empty.touch()
    text.write_text("x" * 5000)
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE checkpoints (a)")
    cases = {
        tmp_path / "none.db": "There is no file",
        tmp_path: "is not a file",
        empty: "is not a checkpoint database",
        text: "is not a checkpoint database",
        other: "is not a checkpoint database",
    }
    files = sorted(tmp_path.iterdir())
    for path, told in cases.items():
        done = call("history", "--db", str(path))
        assert done.exit_code == 1
        assert done.stderr.startswith("langchain-vers: ")
        assert told in done.stderr
        assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == files


def test_a_database_without_threads(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    with SqliteSaver.from_conn_string(str(path)) as saver:
        saver.setup()
    assert call("history", "--db", str(path)).stdout == f"No threads in {path}.\n"
    assert json.loads(call("history", "--db", str(path), "--json").stdout) == {"threads": []}
    assert "the database has none" in call("history", "--db", str(path), "--thread", "1").stderr


# --- Postgres ---


def test_a_postgres_that_cannot_be_used(databases: Databases, tmp_path: Path) -> None:
    bare = databases.new("postgres").url
    done = call("history", "--db", bare)
    assert done.exit_code == 1
    assert "is not a checkpoint database" in done.stderr
    for url, told in (
        (f"postgresql://somebody:secret@/db?host={tmp_path}", "cannot be read"),
        ("postgres://somebody:s%40cret@127.0.0.1:1/db?connect_timeout=5", "cannot be read"),
        ("postgresql://somebody@/db?password=secret&nonsense=1", "cannot be used"),
    ):
        done = call("history", "--db", url)
        assert done.exit_code == 1
        assert told in done.stderr
        assert "cret" not in done.stderr
        assert done.stderr.count("\n") == 1


# --- values of types that are not known here ---


class TypedState(MessagesState):
    """A state with a value of the graph's own type."""

    plan: Plan


def test_nothing_of_the_graph_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    builder = StateGraph(TypedState)
    builder.add_node("plan", lambda state: {"plan": Plan(["one"]), "messages": [("ai", "planned")]})
    builder.add_edge(START, "plan")
    builder.add_edge("plan", END)
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        saver = SqliteSaver(connection, serde=JsonPlusSerializer(allowed_msgpack_modules=[(__name__, "Plan")]))
        builder.compile(checkpointer=saver).invoke({"messages": []}, {"configurable": {"thread_id": "1"}})
    code = "import sys; from langchain_vers.cli import app; app(sys.argv[1:], standalone_mode=False); sys.exit('agents' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "history", "--db", str(path), "--thread", "1"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "model planned" in done.stdout


def test_copies_are_what_was_stored(tmp_path: Path) -> None:
    path = tmp_path / "own.db"
    stored = JsonPlusSerializer().dumps_typed({"plan": Plan(["one"]), "messages": [{1, 2}, (3,)], 7: b"x"})
    assert database.Verbatim().dumps_typed(database.Verbatim().loads_typed(stored)) == stored
    assert not path.exists()


class Cipher:
    """Not a good one."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "xor", bytes(byte ^ 7 for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return bytes(byte ^ 7 for byte in ciphertext)


def test_an_encrypted_database_shows_its_tree_and_machines(tmp_path: Path) -> None:
    path = tmp_path / "secret.db"
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        fill(SqliteSaver(connection, serde=EncryptedSerializer(Cipher())), "42", **ON_VM)
    done = call("history", "--db", str(path), "--thread", "42")
    assert done.exit_code == 0, done.stderr
    assert "go and look" not in done.stdout
    assert len(done.stdout.splitlines()) == 6
    assert "on 3f2a91c07b1e  @9acf12ab34cd  ran bash" in done.stdout


@pytest.mark.parametrize(
    ("module", "extra", "url"), [("langgraph.checkpoint.sqlite", "sqlite", None), ("psycopg", "postgres", "postgres://a/b")]
)
def test_packages_that_are_missing_are_named(sqlite_file: Path, module: str, extra: str, url: str | None) -> None:
    code = f"import sys; sys.modules['{module}'] = None; from langchain_vers.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, "history", "--db", url or str(sqlite_file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert f'pip install "langchain-vers[{extra}]"' in done.stderr
    assert done.stderr.count("\n") == 1
