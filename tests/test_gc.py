"""`langchain_vers.gc` and `langchain-vers gc`: real machines and commits of threads that are gone."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agents import agent, message
from click.testing import Result
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from rigs.embedded import EmbeddedVers
from rigs.savers import Databases, Saver
from typer.testing import CliRunner

from langchain_vers import VersSaver, VersToolkit
from langchain_vers._io import run
from langchain_vers.cli import app
from langchain_vers.commands.gc import seconds
from langchain_vers.embedded.launcher import find_running
from langchain_vers.errors import BadInput, Conflict
from langchain_vers.gc import Orphan, delete_orphans, find_orphans
from langchain_vers.platform import Credentials, Endpoints, VersClient, VmCreateVmConfig


class Cipher:
    """Not a good one."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "xor", bytes(byte ^ 7 for byte in plaintext)

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return bytes(byte ^ 7 for byte in ciphertext)


@pytest.fixture
async def client(vers_data: Path) -> AsyncIterator[VersClient]:
    info = find_running(vers_data)
    assert info is not None
    host, port = info.ssh_endpoint
    endpoints = Endpoints.resolve(info.base_url, f"{host}:{port}", info.ca_file, environ={})
    async with VersClient(Credentials(info.api_key), endpoints) as client:
        yield client


@pytest.fixture
def toolkit(make_toolkit: Callable[..., VersToolkit]) -> VersToolkit:
    return make_toolkit(local=False)


def work(saver: VersSaver, toolkit: VersToolkit, thread: str) -> dict[str, Any]:
    """A thread makes a VM and works there; the metadata of its head."""
    script = [message(("vers_vm_create", {})), message(("bash", {"command": "echo 1 > a"}), first=1)]
    graph = agent(toolkit.get_tools(), *script, checkpointer=saver)
    config: Any = {"configurable": {"thread_id": thread}}
    graph.invoke({"messages": [("user", "go")]}, config)
    return dict(graph.get_state(config).metadata)


def kinds(orphans: tuple[Orphan, ...]) -> list[tuple[str, str]]:
    return [(orphan.kind, orphan.thread) for orphan in orphans]


async def commits_of(client: VersClient, identity: str) -> set[str]:
    found = []
    while (page := await client.list_commits(limit=100, offset=len(found))).commits:
        found += page.commits
    return {each.commit_id for each in found if each.name.startswith(f"langchain-vers/{identity}/")}


async def ids_of_vms(client: VersClient) -> set[str]:
    return {vm.vm_id for vm in await client.list_vms()}


@pytest.mark.parametrize("kind", ["memory", "sqlite", "aiosqlite", "postgres", "async-postgres"])
async def test_what_deleted_threads_leave_is_found_and_deleted(
    databases: Databases, toolkit: VersToolkit, client: VersClient, kind: Any
) -> None:
    async with databases.new(kind).aopen() as inner:
        saver = VersSaver(inner, toolkit.context)
        kept = await asyncio.to_thread(work, saver, toolkit, "kept")
        gone = await asyncio.to_thread(work, saver, toolkit, "gone")
        identity = await asyncio.to_thread(saver.identity)
        assert (await find_orphans(client, saver, grace=0)).orphans == ()
        await asyncio.to_thread(inner.delete_thread, "gone")

        found = await find_orphans(client, saver, grace=0)
        assert found == await find_orphans(client, inner, grace=0)
        assert found.identity == identity
        assert found.spared == ()
        assert found.orphans[0].id == gone["vers_machine"]
        assert kinds(found.orphans)[0] == ("vm", "gone")
        assert set(kinds(found.orphans)[1:]) == {("commit", "gone")}
        assert gone["vers_commit"] in {orphan.id for orphan in found.orphans}

        assert await delete_orphans(client, found.orphans) == []
        assert kept["vers_machine"] in await ids_of_vms(client)
        assert gone["vers_machine"] not in await ids_of_vms(client)
        assert kept["vers_commit"] in await commits_of(client, identity)
        assert not {orphan.id for orphan in found.orphans} & await commits_of(client, identity)
        assert (await find_orphans(client, saver, grace=0)).orphans == ()
        assert await delete_orphans(client, found.orphans) == []  # what is gone is not missed


async def test_what_is_young_or_not_ours_is_left_alone(client: VersClient, clean: Path) -> None:
    inner = InMemorySaver()
    identity, other = identify(inner), str(uuid.uuid4())
    made = []
    try:
        for labels in (
            None,
            {"langchain-vers-thread": "1"},
            {"langchain-vers-thread": "1", "langchain-vers-database": other},
            {"langchain-vers-thread": "1", "langchain-vers-database": identity},
        ):
            made.append(await client.create_vm(VmCreateVmConfig(labels=labels), wait_boot=True))
        names = [None, "mine", f"langchain-vers/{other}/1", f"langchain-vers/{identity}", f"langchain-vers/{identity}/a/b"]
        commits = [await client.commit_vm(made[0], name=name) for name in names]
        young = await find_orphans(client, inner)
        assert young.orphans == ()
        assert [orphan.id for orphan in young.spared] == [made[-1], commits[-1]]
        found = await find_orphans(client, inner, grace=0)
        assert [(orphan.kind, orphan.id, orphan.thread) for orphan in found.orphans] == [
            ("vm", made[-1], "1"),
            ("commit", commits[-1], "a/b"),
        ]
        assert await delete_orphans(client, found.orphans) == []
        assert await ids_of_vms(client) >= set(made[:-1])
    finally:
        for vm in set(made) & await ids_of_vms(client):
            await client.delete_vm(vm)


def identify(inner: Saver) -> str:
    """Give a database its identity; it."""
    return VersSaver(inner, VersToolkit(local=False).context).identity()


async def test_everything_that_a_database_says_counts(client: VersClient, clean: Path) -> None:
    inner = InMemorySaver()
    identity = identify(inner)
    vm = await client.create_vm(VmCreateVmConfig(labels={"langchain-vers-database": identity}), wait_boot=True)
    try:
        ids = [await client.commit_vm(vm, name=f"langchain-vers/{identity}/1") for _ in range(7)]
        config = {"configurable": {"thread_id": "1", "checkpoint_ns": "", "checkpoint_id": None}}
        stub: Any = {"v": 4, "id": "1f", "ts": "", "channel_values": {"x": ids[5]}, "channel_versions": {}, "versions_seen": {}}
        metadata: Any = {"vers_commit": ids[0], "vers_version": ids[1].upper(), "vers_nearest": ids[2], "vers_format": 1}
        stored = inner.put({"configurable": {**config["configurable"]}}, stub, metadata, {})
        row = {"later": [{"commit": ids[3]}, (f"also {uuid.UUID(ids[4]).hex}", {uuid.UUID(vm)})]}
        inner.put_writes(stored, [("__vers__", row), ("messages", ids[6])], "task")
        found = await find_orphans(client, inner, grace=0)
        # What a graph's own channels hold is the graph's business.
        assert {orphan.id for orphan in found.orphans} == {ids[5], ids[6]}
        assert await delete_orphans(client, found.orphans) == []
    finally:
        await client.delete_vm(vm)


async def test_pages_of_commits(client: VersClient, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langchain_vers.gc._PAGE", 3)
    inner = InMemorySaver()
    identity = identify(inner)
    vm = await client.create_vm(wait_boot=True)
    try:
        ids = [await client.commit_vm(vm, name=f"langchain-vers/{identity}/1") for _ in range(7)]
        found = await find_orphans(client, inner, grace=0)
        assert [orphan.id for orphan in found.orphans] == ids
        await delete_orphans(client, found.orphans)
    finally:
        await client.delete_vm(vm)


async def test_one_that_cannot_be_deleted_does_not_keep_the_others(client: VersClient, clean: Path) -> None:
    inner = InMemorySaver()
    identity = identify(inner)
    vm = await client.create_vm(VmCreateVmConfig(labels={"langchain-vers-database": identity}), wait_boot=True)
    tagged, _ = [await client.commit_vm(vm, name=f"langchain-vers/{identity}/1") for _ in range(2)]
    tag = f"keep-{uuid.uuid4().hex[:8]}"
    await client.create_tag(tag, tagged)
    found = await find_orphans(client, inner, grace=0)
    failures = await delete_orphans(client, reversed(found.orphans))
    assert [failure.orphan.id for failure in failures] == [tagged]
    assert isinstance(failures[0].error, Conflict)
    assert await commits_of(client, identity) == {tagged}
    assert vm not in await ids_of_vms(client)
    await client.delete_tag(tag)
    assert await delete_orphans(client, [failures[0].orphan]) == []


async def test_a_database_without_machines_and_arguments_that_make_no_sense(client: VersClient) -> None:
    found = await find_orphans(client, InMemorySaver(), grace=0)
    assert (found.identity, found.orphans, found.spared) == (None, (), ())
    for grace in (-1.0, float("nan")):
        with pytest.raises(BadInput, match="grace"):
            await find_orphans(client, InMemorySaver(), grace=grace)


# --- the command ---


def call(*arguments: str, data: Path) -> Result:
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["gc", *arguments, "--data-dir", str(data)])


@pytest.fixture(params=["sqlite", "postgres"])
def left(
    request: pytest.FixtureRequest, databases: Databases, toolkit: VersToolkit
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """A database from which a thread was deleted behind the saver's back, and the heads of the one that stays and of this one."""
    made = databases.new(request.param)
    with made.open() as inner:
        saver = VersSaver(inner, toolkit.context)
        kept, gone = work(saver, toolkit, "kept"), work(saver, toolkit, "gone")
        inner.delete_thread("gone")
    yield made.url, kept, gone


def test_the_command_lists_and_deletes_only_when_told_to(left: tuple[str, dict[str, Any], dict[str, Any]], vers_data: Path) -> None:
    url, kept, gone = left
    young = call("--db", url, data=vers_data)
    assert young.exit_code == 0, young.stderr
    assert "Nothing to delete" in young.stdout
    assert "younger than 1h" in young.stdout
    listed = call("--db", url, "--grace", "0", data=vers_data)
    assert listed.exit_code == 0, listed.stderr
    assert listed.stdout.splitlines()[1].split()[:3] == ["VM", gone["vers_machine"], "gone"]
    assert gone["vers_commit"] in listed.stdout
    assert kept["vers_machine"] not in listed.stdout
    assert kept["vers_commit"] not in listed.stdout
    assert listed.stdout.splitlines()[-1] == "Nothing was deleted; add --yes to delete them."
    deleted = call("--db", url, "--grace", "0", "--yes", data=vers_data)
    assert deleted.exit_code == 0, deleted.stderr
    count = len(listed.stdout.splitlines()) - 2
    assert deleted.stdout.splitlines()[-1] == f"Deleted {count} of {count}."
    again = call("--db", url, "--grace", "0", "--yes", data=vers_data)
    assert "Nothing to delete" in again.stdout
    assert (again.exit_code, again.stderr) == (0, "")


def test_the_command_reports_what_could_not_be_deleted(databases: Databases, toolkit: VersToolkit, vers_data: Path) -> None:
    made = databases.new("sqlite")
    with made.open() as inner:
        saver = VersSaver(inner, toolkit.context)
        gone = work(saver, toolkit, "gone")
        inner.delete_thread("gone")
    server = EmbeddedVers(vers_data, "process")
    client = server.client()
    tag = f"keep-{uuid.uuid4().hex[:8]}"
    run(client.create_tag(tag, gone["vers_commit"]))
    done = call("--db", made.url, "--grace", "0", "--yes", data=vers_data)
    assert done.exit_code == 1
    assert f"commit {gone['vers_commit']} was not deleted" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Deleted" in done.stdout
    run(client.delete_tag(tag))
    assert call("--db", made.url, "--grace", "0", "--yes", data=vers_data).exit_code == 0
    run(client.aclose())


def test_what_cannot_be_read_is_not_taken_for_nothing(tmp_path: Path, vers_data: Path, clean: Path) -> None:
    path = tmp_path / "secret.db"
    with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
        identify(SqliteSaver(connection, serde=EncryptedSerializer(Cipher())))
    done = call("--db", str(path), "--grace", "0", "--yes", data=vers_data)
    assert done.exit_code == 1
    assert "langchain_vers.gc" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_command_without_machines_without_vers_and_with_nonsense(tmp_path: Path, vers_data: Path, clean: Path) -> None:
    path = tmp_path / "new.db"
    with SqliteSaver.from_conn_string(str(path)) as saver:
        saver.setup()
    assert call("--db", str(path), data=vers_data).stdout == f"No machine was ever made for {path}.\n"
    for arguments, told in (
        (["--db", str(path), "--grace", "soon"], "no length of time"),
        (["--db", str(tmp_path / "none.db")], "There is no file"),
    ):
        done = call(*arguments, data=vers_data)
        assert done.exit_code == 1
        assert told in done.stderr
    nowhere = call("--db", str(path), data=tmp_path / "nowhere")
    assert nowhere.exit_code == 1
    assert "langchain-vers serve" in nowhere.stderr


def test_lengths_of_time() -> None:
    assert [seconds(given) for given in ("0", "90", "90s", "1.5 h", "30min", "2m", "2d")] == [0, 90, 90, 5400, 1800, 120, 172_800]
    for nonsense in ("", "-1", "1y", "h", "1e3", "nan"):
        with pytest.raises(BadInput, match="length of time"):
            seconds(nonsense)
