"""Each operation: what goes over the wire and what comes back, command streams, and waiting for a machine."""

from __future__ import annotations

import base64
import json
import uuid
from contextlib import aclosing

import pytest
from scripted_api import KEY, Answer, Drop, Hang
from test_vers_models import COMMIT, OTHER, PUBLIC_REPO, REPO, REPO_TAG, SAMPLES, TAG, UUID

from langchain_vers.errors import BadInput, DeadlineExceeded, Gone, Interrupted, ServerFault, Unsupported
from langchain_vers.platform import VersClient, VmCreateVmConfig, VmExecStreamChunk, VmExecStreamExit, VmState, VmUpdateStateEnum

VM = SAMPLES["VM"]
LOGS = SAMPLES["VmExecLogResponse"]
VMS = {"vms": [{"vm_id": "v1"}, {"vm_id": "v2"}]}
NOTHING = Answer(204)
EXEC = {"exit_code": 3, "stdout": "out", "stderr": "err", "exec_id": UUID}

# what to call; method, path, query and JSON body that the server must see; the answer; what the call must return (or a check of it)
OPERATIONS = [
    (lambda c: c.list_vms(), "GET /vms", {}, None, [VM], lambda r: r[0].labels == {"a": "b"}),
    (lambda c: c.get_vm("v"), "GET /vm/v/status", {}, None, VM, lambda r: r.state is VmState.RUNNING),
    (lambda c: c.get_vm_metadata("v"), "GET /vm/v/metadata", {}, None, SAMPLES["VmMetadataResponse"], lambda r: r.ip == "fd00::1"),
    (lambda c: c.create_vm(), "POST /vm/new_root", {"wait_boot": "false"}, {"vm_config": {}}, {"vm_id": "n"}, "n"),
    (lambda c: c.create_vm(VmCreateVmConfig(vcpu_count=2, labels={"a": "b"}), wait_boot=True), "POST /vm/new_root", {"wait_boot": "true"},
     {"vm_config": {"vcpu_count": 2, "labels": {"a": "b"}}}, {"vm_id": "n"}, "n"),
    (lambda c: c.delete_vm("v", skip_wait_boot=True), "DELETE /vm/v", {"skip_wait_boot": "true"}, None, {"vm_id": "v"}, "v"),
    (lambda c: c.set_vm_state("v", "paused"), "PATCH /vm/v/state", {}, {"state": "Paused"}, Answer(200), None),
    (lambda c: c.set_vm_state("v", VmState.RUNNING), "PATCH /vm/v/state", {}, {"state": "Running"}, Answer(200), None),
    (lambda c: c.set_vm_state("v", VmUpdateStateEnum.RUNNING), "PATCH /vm/v/state", {}, {"state": "Running"}, Answer(200), None),
    (lambda c: c.label_vm("v", {"a": "b"}), "PATCH /vm/v/label", {}, {"labels": {"a": "b"}}, Answer(200), None),
    (lambda c: c.resize_vm_disk("v", 2048), "PATCH /vm/v/disk", {}, {"fs_size_mib": 2048}, Answer(200), None),
    (lambda c: c.get_ssh_key("v"), "GET /vm/v/ssh_key", {}, None, {"ssh_private_key": "hush", "ssh_port": 22},
     lambda r: r.ssh_private_key.get_secret_value() == "hush" and "hush" not in repr(r)),
    (lambda c: c.branch_vm("v", count=2, keep_paused=True), "POST /vm/branch/by_vm/v", {"count": "2", "keep_paused": "true"}, None,
     VMS, ["v1", "v2"]),
    (lambda c: c.branch_vm("v"), "POST /vm/branch/by_vm/v", {}, None, {"vm_id": "v1"}, ["v1"]),
    (lambda c: c.branch_commit("k", count=2), "POST /vm/branch/by_commit/k", {"count": "2"}, None, VMS, ["v1", "v2"]),
    (lambda c: c.branch_tag("v1.0"), "POST /vm/branch/by_tag/v1.0", {}, None, VMS, ["v1", "v2"]),
    (lambda c: c.branch_ref("web", "t"), "POST /vm/branch/by_ref/web/t", {}, None, VMS, ["v1", "v2"]),
    (lambda c: c.branch("x", skip_wait_boot=False), "POST /vm/x/branch", {"skip_wait_boot": "false"}, None, VMS, ["v1", "v2"]),
    (lambda c: c.commit_vm("v"), "POST /vm/v/commit", {}, {}, {"commit_id": "k"}, "k"),
    (lambda c: c.commit_vm("v", name="n", keep_paused=True), "POST /vm/v/commit", {"keep_paused": "true"}, {"name": "n"},
     {"commit_id": "k"}, "k"),
    (lambda c: c.restore_vm(commit_id="k"), "POST /vm/from_commit", {}, {"commit_id": "k"}, {"vm_id": "n"}, "n"),
    (lambda c: c.restore_vm(tag_name="t"), "POST /vm/from_commit", {}, {"tag_name": "t"}, {"vm_id": "n"}, "n"),
    (lambda c: c.restore_vm(ref="web:t"), "POST /vm/from_commit", {}, {"ref": "web:t"}, {"vm_id": "n"}, "n"),
    (lambda c: c.exec("v", ["true"]), "POST /vm/v/exec", {}, {"command": ["true"]}, EXEC, lambda r: (r.exit_code, r.stdout) == (3, "out")),
    (lambda c: c.exec("v", ("a", "b"), env={"A": "b"}, stdin="s", timeout_secs=9, working_dir="/", exec_id=UUID), "POST /vm/v/exec", {},
     {"command": ["a", "b"], "env": {"A": "b"}, "stdin": "s", "timeout_secs": 9, "working_dir": "/", "exec_id": UUID}, EXEC, None),
    (lambda c: c.get_vm_logs("v", offset=5, max_entries=2, stream="stderr"), "GET /vm/v/logs",
     {"offset": "5", "max_entries": "2", "stream": "stderr"}, None, LOGS, lambda r: r.entries[0].data == b"hi\n"),
    (lambda c: c.read_file("v", "/a b&c=ü"), "GET /vm/v/files", {"path": "/a b&c=ü"}, None, {"content_b64": "/wA="}, b"\xff\x00"),
    (lambda c: c.write_file("v", "/x", b"\xff\x00", mode=0o600, create_dirs=True), "PUT /vm/v/files", {},
     {"path": "/x", "content_b64": "/wA=", "mode": 384, "create_dirs": True}, Answer(200), None),
    (lambda c: c.list_commits(limit=10, offset=20), "GET /commits", {"limit": "10", "offset": "20"}, None,
     SAMPLES["ListCommitsResponse"], lambda r: r.commits[0].commit_id == UUID),
    (lambda c: c.list_public_commits(), "GET /commits/public", {}, None, SAMPLES["ListCommitsResponse"], lambda r: r.total == 1),
    (lambda c: c.list_commit_parents("k"), "GET /vm/commits/k/parents", {}, None, [SAMPLES["VmCommitEntity"]], lambda r: r[0].id == UUID),
    (lambda c: c.update_commit("k", is_public=True, name="n"), "PATCH /commits/k", {}, {"is_public": True, "name": "n"}, COMMIT,
     lambda r: r.name == "first"),
    (lambda c: c.delete_commit("k"), "DELETE /commits/k", {}, None, NOTHING, None),
    (lambda c: c.list_tags(), "GET /commit_tags", {}, None, {"tags": [TAG]}, lambda r: r[0].tag_name == "v1.0"),
    (lambda c: c.get_tag("t"), "GET /commit_tags/t", {}, None, TAG, lambda r: r.commit_id == OTHER),
    (lambda c: c.create_tag("t", "k", description="d"), "POST /commit_tags", {}, {"tag_name": "t", "commit_id": "k", "description": "d"},
     Answer(201, SAMPLES["CreateTagResponse"]), lambda r: r.tag_id == UUID),
    (lambda c: c.update_tag("t", commit_id="k"), "PATCH /commit_tags/t", {}, {"commit_id": "k"}, NOTHING, None),
    (lambda c: c.update_tag("t", description=None), "PATCH /commit_tags/t", {}, {"description": None}, NOTHING, None),
    (lambda c: c.delete_tag("t"), "DELETE /commit_tags/t", {}, None, NOTHING, None),
    (lambda c: c.list_repositories(), "GET /repositories", {}, None, {"repositories": [REPO]}, lambda r: r[0].is_public),
    (lambda c: c.get_repository("web"), "GET /repositories/web", {}, None, REPO, lambda r: r.name == "web"),
    (lambda c: c.create_repository("web"), "POST /repositories", {}, {"name": "web"}, SAMPLES["CreateRepositoryResponse"],
     lambda r: r.repo_id == UUID),
    (lambda c: c.delete_repository("web"), "DELETE /repositories/web", {}, None, NOTHING, None),
    (lambda c: c.set_repository_visibility("web", is_public=False), "PATCH /repositories/web/visibility", {},
     {"is_public": False}, NOTHING, None),
    (lambda c: c.fork_repository("o", "r", "t", tag_name="u"), "POST /repositories/fork", {},
     {"source_org": "o", "source_repo": "r", "source_tag": "t", "tag_name": "u"}, SAMPLES["ForkRepositoryResponse"],
     lambda r: r.reference == "b:c"),
    (lambda c: c.list_repository_tags("web"), "GET /repositories/web/tags", {}, None, SAMPLES["ListRepoTagsResponse"],
     lambda r: r[0].reference == "web:v1.0"),
    (lambda c: c.get_repository_tag("web", "t"), "GET /repositories/web/tags/t", {}, None, REPO_TAG, lambda r: r.tag_id == UUID),
    (lambda c: c.create_repository_tag("web", "t", "k"), "POST /repositories/web/tags", {}, {"tag_name": "t", "commit_id": "k"},
     SAMPLES["CreateRepoTagResponse"], lambda r: r.reference == "web:v1"),
    (lambda c: c.update_repository_tag("web", "t", description="d"), "PATCH /repositories/web/tags/t", {}, {"description": "d"},
     NOTHING, None),
    (lambda c: c.delete_repository_tag("web", "t"), "DELETE /repositories/web/tags/t", {}, None, NOTHING, None),
    (lambda c: c.list_public_repositories(), "GET /public/repositories", {}, None, {"repositories": [PUBLIC_REPO]},
     lambda r: r[0].full_name == "acme/web"),
    (lambda c: c.get_public_repository("acme", "web"), "GET /public/repositories/acme/web", {}, None, PUBLIC_REPO,
     lambda r: r.org_name == "acme"),
    (lambda c: c.list_public_repository_tags("acme", "web"), "GET /public/repositories/acme/web/tags", {}, None,
     SAMPLES["ListRepoTagsResponse"], lambda r: len(r) == 1),
    (lambda c: c.get_public_repository_tag("acme", "web", "t"), "GET /public/repositories/acme/web/tags/t", {}, None, REPO_TAG,
     lambda r: r.tag_name == "v1.0"),
    (lambda c: c.get_env_vars(), "GET /env_vars", {}, None, {"vars": {"A": "hush"}}, lambda r: r.vars["A"].get_secret_value() == "hush"),
    (lambda c: c.set_env_vars({"A": "hush"}, replace=True), "PUT /env_vars", {}, {"vars": {"A": "hush"}, "replace": True},
     {"vars": {"A": "hush"}}, lambda r: "hush" not in repr(r)),
    (lambda c: c.delete_env_var("A"), "DELETE /env_vars/A", {}, None, NOTHING, None),
    (lambda c: c.validate_key(), "POST /keys/validate", {}, None, {"valid": False, "message": "no"}, lambda r: not r.valid),
    (lambda c: c.get_version(), "GET /system/version", {}, None, SAMPLES["OrchestratorVersion"], lambda r: r.git_hash == "abc"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "line", "query", "body", "answer", "expected"), OPERATIONS, ids=[row[1] for row in OPERATIONS])
async def test_operations(api, client, call, line, query, body, answer, expected):
    api.script(answer if isinstance(answer, Answer) else Answer(200, answer))
    result = await call(client)
    (request,) = api.requests
    assert f"{request.method} {request.path}" == line.replace(" ", " /api/v1")
    assert {name: values[0] for name, values in request.query.items()} == query
    assert (request.json if request.body else None) == body
    if callable(expected):
        assert expected(result)
    elif expected is not None or isinstance(answer, Answer):
        assert result == expected


def test_every_operation_is_in_the_table():
    names = {name for name in dir(VersClient) if not name.startswith("_")}
    tested = {name for row in OPERATIONS for name in row[0].__code__.co_names}
    others = {"request", "command", "open", "aclose", "exec_stream", "attach_exec_stream", "wait_until_running"}
    assert names - tested == others


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.set_vm_state("v", "dead"),
        lambda c: c.branch_vm("v", count=0),
        lambda c: c.branch_commit("k", count=True),
        lambda c: c.resize_vm_disk("v", -1),
        lambda c: c.restore_vm(),
        lambda c: c.restore_vm(commit_id="k", ref="web:t"),
        lambda c: c.exec("v", []),
        lambda c: c.exec("v", "ls -l"),
        lambda c: c.exec("v", ["ls", 7]),
        lambda c: c.exec("v", ["ls"], timeout_secs=-1),
        lambda c: c.label_vm("v", {"a": 7}),
        lambda c: c.set_env_vars({"A": 7}),
    ],
)
async def test_bad_arguments_send_nothing(api, client, call):
    with pytest.raises(BadInput):
        await call(client)
    assert api.requests == []


async def test_a_commands_own_limit_is_waited_for(api):
    async with VersClient(*_parts(api), timeout=0.1, deadline=0.2, backoff=0.01) as client:
        api.script(Answer(200, EXEC), Hang())
        await client.exec("v", ["sleep", "1"], timeout_secs=1)
        with pytest.raises(DeadlineExceeded):
            await client.exec("v", ["sleep", "1"])


def _parts(api):
    from langchain_vers.platform import Credentials, Endpoints

    return Credentials(KEY), Endpoints.resolve(base_url=api.url, environ={})


# Streams


def chunk(cursor: int, data: bytes, stream: str = "stdout") -> dict:
    return {"type": "chunk", "exec_id": UUID, "cursor": cursor, "stream": stream, "data_b64": base64.b64encode(data).decode()}


def exit_event(cursor: int, code: int) -> dict:
    return {"type": "exit", "exec_id": UUID, "cursor": cursor, "exit_code": code}


def ndjson(*events: dict) -> bytes:
    return b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)


async def collect(events, into: list | None = None) -> list:
    into = [] if into is None else into
    async with aclosing(events):
        async for event in events:
            into.append(event)
    return into


async def test_a_stream_of_events(api, client):
    odd = chunk(1, b"\xff\xfe", "stderr") | {"note": "line\u2028separator\x85"}
    data = ndjson(chunk(0, b"a" * 200_000), odd, {"type": "heartbeat"}) + b"\r\n\n" + ndjson(exit_event(2, 7))
    api.script(Answer(503), Answer(200, data))
    first, second, last = await collect(client.exec_stream("v", ["make", "test"], env={"A": "b"}, timeout_secs=5))
    assert isinstance(first, VmExecStreamChunk)
    assert (first.data, first.stream, first.cursor) == (b"a" * 200_000, "stdout", 0)
    assert (second.data, second.stream) == (b"\xff\xfe", "stderr")
    assert isinstance(last, VmExecStreamExit)
    assert last.exit_code == 7
    refused, request = api.requests
    assert request.path == "/api/v1/vm/v/exec/stream"
    assert (
        request.json
        == refused.json
        == {"command": ["make", "test"], "env": {"A": "b"}, "timeout_secs": 5, "exec_id": request.json["exec_id"]}
    )
    assert uuid.UUID(request.json["exec_id"])
    assert request.headers["x-idempotency-key"] == refused.headers["x-idempotency-key"]


async def test_the_last_line_needs_no_newline(api, client):
    api.script(Answer(200, ndjson(exit_event(0, 0)).rstrip()))
    (last,) = await collect(client.exec_stream("v", ["true"]))
    assert last.exit_code == 0


@pytest.mark.parametrize("cut", [None, 60, "boundary"])
async def test_a_broken_stream_can_be_taken_up_again(api, client, cut):
    lines = ndjson(chunk(4, b"one"), chunk(5, b"two"))
    size = {None: None, 60: len(lines) - 20, "boundary": len(ndjson(chunk(4, b"one")))}[cut]
    api.script(Answer(200, lines, cut_after=size), Answer(200, ndjson(chunk(6, b"three"), exit_event(7, 0))))
    seen = []
    last = 5 if cut is None else 4
    with pytest.raises(Interrupted, match=rf"{UUID} broke off .*cursor {last}") as caught:
        await collect(client.exec_stream("v", ["x"], exec_id=UUID), seen)
    assert caught.value.machine_id == "v"
    assert seen[-1].cursor == last
    rest = await collect(client.attach_exec_stream("v", UUID, cursor=seen[-1].cursor))
    assert rest[-1].exit_code == 0
    assert api.requests[1].path == "/api/v1/vm/v/exec/stream/attach"
    assert api.requests[1].json == {"exec_id": UUID, "cursor": last}


async def test_attaching_to_what_is_new(api, client):
    api.script(Answer(200, ndjson(exit_event(9, 0))))
    await collect(client.attach_exec_stream("v", UUID, from_latest=True))
    assert api.requests[0].json == {"exec_id": UUID, "from_latest": True}


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"null", b'{"type": 1}', b'{"type": "chunk", "cursor": 0, "stream": "stdout", "data_b64": "%"}',
     b'{"type": "chunk", "cursor": 0, "stream": "other", "data_b64": ""}', b'{"type": "exit", "cursor": 1}', b"[" * 5000],
)  # fmt: skip
async def test_a_line_that_is_no_event(api, client, line):
    api.script(Answer(200, ndjson(chunk(0, b"a")) + line + b"\n" + ndjson(exit_event(2, 0))))
    seen = []
    with pytest.raises(ServerFault) as caught:
        await collect(client.exec_stream("v", ["x"]), seen)
    assert [event.data for event in seen] == [b"a"]
    assert caught.value.machine_id == "v"


async def test_an_error_within_the_stream(api, client):
    api.script(Answer(200, ndjson({"type": "error", "message": f"agent lost, {KEY}"})))
    with pytest.raises(ServerFault, match="agent lost") as caught:
        await collect(client.exec_stream("v", ["x"]))
    assert KEY not in str(caught.value)


async def test_a_refused_stream(api, client):
    api.script(Answer(404, {"error": "VM not found", "success": False}), Answer(501, b""))
    with pytest.raises(Gone, match="VM not found"):
        await collect(client.exec_stream("v", ["x"]))
    with pytest.raises(Unsupported):
        await collect(client.attach_exec_stream("v", UUID))


async def test_a_line_without_end_is_not_kept_in_memory(api, client, monkeypatch):
    monkeypatch.setattr("langchain_vers.platform.machines.MAX_LINE_BYTES", 1000)
    api.script(Answer(200, b"x" * 5000))
    with pytest.raises(ServerFault, match="longer than"):
        await collect(client.exec_stream("v", ["x"]))


async def test_a_silent_stream_may_be_left_and_outlives_the_attempts_time_limit(api):
    async with VersClient(*_parts(api), timeout=0.2, backoff=0.01) as client:
        api.script(Hang(ndjson(chunk(0, b"a"))), Hang())
        async with aclosing(client.exec_stream("v", ["x"])) as events:
            assert (await anext(events)).data == b"a"
        with pytest.raises(DeadlineExceeded):  # no headers at all: that is bounded
            client.retries = 0
            await collect(client.exec_stream("v", ["x"]))


# Waiting


def in_state(state: str) -> Answer:
    return Answer(200, VM | {"state": state})


async def test_waiting_until_a_vm_runs(api, client):
    api.script(in_state("not_started"), in_state("booting"), Drop(), in_state("Moving"), in_state("running"))
    assert (await client.wait_until_running("v", 10)).state is VmState.RUNNING


async def test_a_dead_vm_is_not_waited_for(api, client):
    api.script(in_state("booting"), in_state("dead"), Answer(404))
    with pytest.raises(Gone, match="is dead") as caught:
        await client.wait_until_running("v")
    assert caught.value.machine_id == "v"
    with pytest.raises(Gone):
        await client.wait_until_running("v")


async def test_waiting_ends_at_the_deadline(api, client):
    api.script(in_state("paused"), in_state("paused"), Hang())
    with pytest.raises(DeadlineExceeded, match=r"did not run within 0\.5 s \(state: paused\)"):
        await client.wait_until_running("v", 0.5)
    api.script(in_state("paused"))
    with pytest.raises(DeadlineExceeded, match="state: paused"):
        await client.wait_until_running("v", 0.05)
