"""The HTTP API of the embedded Vers, through real sockets, every answer held against the platform's schema."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import SCHEMA, Api, Server, check_answer, wait_for
from starlette.responses import Response

from langchain_vers.embedded.execution import Log, Session
from langchain_vers.embedded.fleet import Gate
from langchain_vers.embedded.http import Replays

UNKNOWN = "3f0c8b1e-2a4d-4c7e-9b55-0d4f6a1c2e3b"


def events(response: httpx.Response) -> list[dict[str, Any]]:
    return [json.loads(line) for line in response.text.splitlines()]


def output(found: list[dict[str, Any]], stream: str = "stdout") -> bytes:
    return b"".join(base64.b64decode(event["data_b64"]) for event in found if event.get("stream") == stream)


def ended(pid: str) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


# -- keys


def test_only_the_version_is_told_without_a_key(vers_server: Server) -> None:
    base = f"{vers_server.info.base_url}/api/v1"
    version = httpx.get(f"{base}/system/version", trust_env=False)
    assert version.status_code == 200
    check_answer("GET", "/api/v1/system/version", version)
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": vers_server.info.api_key}, {"Authorization": "Basic x"}):
        for method, path in (("GET", "/vms"), ("POST", "/vm/new_root"), ("GET", "/nowhere"), ("POST", "/system/version")):
            response = httpx.request(method, base + path, headers=header, trust_env=False)
            assert response.status_code == 401, (header, path)
            assert vers_server.info.api_key not in response.text


def test_the_right_key_is_valid(api: Api) -> None:
    assert api("POST", "/keys/validate", 200)["valid"] is True


# -- machines


def test_the_life_of_a_machine(api: Api) -> None:
    vm_id = api.new_vm(labels={"purpose": "test"}, vcpu_count=1, mem_size_mib=256, fs_size_mib=512)
    status = api("GET", f"/vm/{vm_id}/status", 200)
    assert status["state"] == "running"
    assert status["labels"] == {"purpose": "test"}
    assert vm_id in {vm["vm_id"] for vm in api("GET", "/vms", 200)}
    assert vm_id in {vm["vm_id"] for vm in api("GET", "/vm", 200)}
    api("PATCH", f"/vm/{vm_id}/label", 200, json={"labels": {"other": "é"}})
    assert api("GET", f"/vm/{vm_id}/status", 200)["labels"] == {"other": "é"}
    assert api("DELETE", f"/vm/{vm_id}", 200) == {"vm_id": vm_id}
    assert vm_id not in {vm["vm_id"] for vm in api("GET", "/vms", 200)}
    api("GET", f"/vm/{vm_id}/status", 404)
    api("DELETE", f"/vm/{vm_id}", 404)


def test_branches_and_restored_machines_know_where_they_come_from(api: Api) -> None:
    root = api.new_vm()
    api.run(root, "echo one > mark")
    commit = api("POST", f"/vm/{root}/commit", 201, json={"name": "first", "description": "a mark"})["commit_id"]
    api.run(root, "echo two > mark")
    restored = api("POST", "/vm/from_commit", 201, json={"commit_id": commit})["vm_id"]
    assert api.run(restored, "cat mark")["stdout"] == "one\n"
    metadata = api("GET", f"/vm/{restored}/metadata", 200)
    assert (metadata["parent_commit_id"], metadata["grandparent_vm_id"]) == (commit, root)
    branches = [each["vm_id"] for each in api("POST", f"/vm/branch/by_vm/{root}?count=3", 201)["vms"]]
    assert len(set(branches)) == 3
    assert {api.run(each, "cat mark")["stdout"] for each in branches} == {"two\n"}
    assert api("GET", f"/vm/{branches[0]}/metadata", 200)["grandparent_vm_id"] == root
    api.run(branches[0], "echo three > mark")
    assert api.run(branches[1], "cat mark")["stdout"] == "two\n"
    second = api("POST", f"/vm/{restored}/commit", 201)["commit_id"]
    assert [each["id"] for each in api("GET", f"/vm/commits/{second}/parents", 200)] == [second, commit]
    assert api("GET", f"/vm/{root}/ssh_key") == api("GET", f"/vm/{restored}/ssh_key")


def test_every_way_to_branch(api: Api) -> None:
    root = api.new_vm()
    api.run(root, "echo seed > seed")
    commit = api("POST", f"/vm/{root}/commit", 201, json={})["commit_id"]
    tag, repository = f"tag-{uuid4()}", f"repo-{uuid4()}"
    api("POST", "/commit_tags", 201, json={"tag_name": tag, "commit_id": commit})
    api("POST", "/repositories", 201, json={"name": repository})
    api("POST", f"/repositories/{repository}/tags", 201, json={"tag_name": "latest", "commit_id": commit})
    for path in (
        f"/vm/branch/by_commit/{commit}?count=2",
        f"/vm/branch/by_tag/{tag}?count=2",
        f"/vm/branch/by_ref/{repository}/latest?count=2",
        f"/vm/{commit}/branch?count=2",
        f"/vm/{root}/branch?count=2",
    ):
        made = api("POST", path, 201)["vms"]
        assert len(made) == 2
        assert all(api.run(each["vm_id"], "cat seed")["stdout"] == "seed\n" for each in made)
    for body in ({"tag_name": tag}, {"ref": f"{repository}:latest"}):
        assert api.run(api("POST", "/vm/from_commit", 201, json=body)["vm_id"], "cat seed")["stdout"] == "seed\n"
    for body in ({}, {"tag_name": tag, "commit_id": commit}, {"ref": repository}, {"commit_id": "x"}):
        api("POST", "/vm/from_commit", 400, json=body)
    for path in (f"/vm/branch/by_vm/{UNKNOWN}", f"/vm/branch/by_commit/{UNKNOWN}", "/vm/branch/by_tag/none", f"/vm/{UNKNOWN}/branch"):
        api("POST", path, 404)
    for count in ("0", "-1", "x", "101", "99999999999999999999"):
        api("POST", f"/vm/{root}/branch?count={count}", 400)


def test_a_paused_machine_refuses_work_until_it_runs_again(api: Api) -> None:
    vm_id = api.new_vm()
    api("PATCH", f"/vm/{vm_id}/state", 200, json={"state": "Paused"})
    assert api("GET", f"/vm/{vm_id}/status", 200)["state"] == "paused"
    api("POST", f"/vm/{vm_id}/exec", 400, json={"command": ["true"]})
    api("GET", f"/vm/{vm_id}/files?path=/etc/hostname", 400)
    api("PATCH", f"/vm/{vm_id}/state", 200, json={"state": "Paused"})
    api("PATCH", f"/vm/{vm_id}/state", 200, json={"state": "Running"})
    assert api.run(vm_id, "echo back")["stdout"] == "back\n"
    api("POST", f"/vm/{vm_id}/commit?keep_paused=true", 201)
    assert api("GET", f"/vm/{vm_id}/status", 200)["state"] == "paused"
    api("PATCH", f"/vm/{vm_id}/state", 400, json={"state": "Asleep"})


def test_many_requests_at_once(api: Api) -> None:
    with ThreadPoolExecutor(8) as pool:
        machines = list(pool.map(lambda _: api.new_vm(), range(6)))
        assert len(set(machines)) == 6
        answers = list(pool.map(lambda number: api.run(machines[number % 6], f"echo {number}")["stdout"], range(30)))
        assert answers == [f"{number}\n" for number in range(30)]
        outcomes = list(pool.map(lambda _: api("DELETE", f"/vm/{machines[0]}"), range(4)))
    assert sum(outcome == {"vm_id": machines[0]} for outcome in outcomes) == 1


# -- commits, tags, repositories, variables


def test_commits_are_listed_changed_and_deleted(api: Api) -> None:
    vm_id = api.new_vm()
    wished = str(uuid4())
    assert api("POST", f"/vm/{vm_id}/commit", 201, json={"commit_id": wished, "name": "wish"})["commit_id"] == wished
    api("POST", f"/vm/{vm_id}/commit", 400, json={"commit_id": wished})
    page = api("GET", "/commits?limit=1&offset=0", 200)
    assert page["commits"][0]["commit_id"] == wished
    assert page["limit"] == 1
    assert api("GET", f"/commits?offset={page['total']}", 200)["commits"] == []
    changed = api("PATCH", f"/commits/{wished}", 200, json={"is_public": True, "name": "new"})
    assert (changed["name"], changed["is_public"]) == ("new", True)
    assert wished in {each["commit_id"] for each in api("GET", "/commits/public", 200)["commits"]}
    tag = f"t-{uuid4()}"
    api("POST", "/commit_tags", 201, json={"tag_name": tag, "commit_id": wished})
    api("DELETE", f"/commits/{wished}", 409)
    api("DELETE", f"/commit_tags/{tag}", 204)
    child = api("POST", "/vm/from_commit", 201, json={"commit_id": wished})["vm_id"]
    api("DELETE", f"/commits/{wished}", 204)
    assert api.run(child, "echo alive")["stdout"] == "alive\n"
    api("DELETE", f"/commits/{wished}", 404)
    api("POST", "/vm/from_commit", 404, json={"commit_id": wished})


def test_tags_and_repositories(api: Api) -> None:
    vm_id = api.new_vm()
    first, second = (api("POST", f"/vm/{vm_id}/commit", 201)["commit_id"] for _ in range(2))
    name = f"r-{uuid4()}"
    api("POST", "/repositories", 201, json={"name": name, "description": "d"})
    api("POST", "/repositories", 409, json={"name": name})
    api("PATCH", f"/repositories/{name}/visibility", 204, json={"is_public": True})
    assert api("GET", f"/repositories/{name}", 200)["is_public"] is True
    assert name in {each["name"] for each in api("GET", "/repositories", 200)["repositories"]}
    for base in ("/commit_tags", f"/repositories/{name}/tags"):
        tag = f"v-{uuid4()}"
        api("POST", base, 201, json={"tag_name": tag, "commit_id": first, "description": "one"})
        api("POST", base, 409, json={"tag_name": tag, "commit_id": first})
        api("POST", base, 404, json={"tag_name": f"{tag}-2", "commit_id": UNKNOWN})
        api("POST", base, 400, json={"tag_name": "a b", "commit_id": first})
        api("PATCH", f"{base}/{tag}", 204, json={"commit_id": second})
        found = api("GET", f"{base}/{tag}", 200)
        assert (found["commit_id"], found["description"]) == (second, "one")
        api("PATCH", f"{base}/{tag}", 204, json={"description": None})
        assert api("GET", f"{base}/{tag}", 200)["description"] is None
        assert tag in {each["tag_name"] for each in api("GET", base, 200)["tags"]}
        api("PATCH", f"{base}/{tag}", 404, json={"commit_id": UNKNOWN})
        api("DELETE", f"{base}/{tag}", 204)
        api("GET", f"{base}/{tag}", 404)
    api("POST", f"/repositories/{name}/tags", 201, json={"tag_name": "kept", "commit_id": first})
    api("DELETE", f"/commits/{first}", 409)
    api("DELETE", f"/repositories/{name}", 204)
    api("DELETE", f"/commits/{first}", 204)
    api("GET", f"/repositories/{name}/tags", 404)


def test_variables_reach_machines_that_are_made_afterwards(api: Api) -> None:
    before = api.new_vm()
    try:
        assert api("PUT", "/env_vars", 200, json={"vars": {"COLOUR": 'blue "$x" `y`', "SIZE": "9"}, "replace": True})["vars"]["SIZE"] == "9"
        vm_id = api.new_vm()
        assert api.run(vm_id, 'echo "$COLOUR"')["stdout"] == 'blue "$x" `y`\n'
        assert api.run(vm_id, 'echo "$COLOUR"', env={"COLOUR": "red"})["stdout"] == "red\n"
        assert api.run(before, 'echo "[$COLOUR]"')["stdout"] == "[]\n"
        api("DELETE", "/env_vars/COLOUR", 204)
        api("DELETE", "/env_vars/COLOUR", 404)
        assert api("GET", "/env_vars", 200)["vars"] == {"SIZE": "9"}
        assert api("PUT", "/env_vars", 200, json={"vars": {"A": "1"}})["vars"] == {"SIZE": "9", "A": "1"}
        assert api("PUT", "/env_vars", 200, json={"vars": {"B": "2"}, "replace": True})["vars"] == {"B": "2"}
        for bad in ({"1A": "x"}, {"A-B": "x"}, {"A": 1}, {"A": "x" * 8193}, {"A": "nul\0"}):
            api("PUT", "/env_vars", 400, json={"vars": bad})
    finally:
        api("PUT", "/env_vars", 200, json={"vars": {}, "replace": True})


# -- commands


def test_a_command_and_everything_that_belongs_to_it(api: Api, tmp_path: Path) -> None:
    vm_id = api.new_vm()
    done = api.run(vm_id, "cat; echo err >&2; echo $NAME; pwd; exit 7", stdin="in é\n", env={"NAME": "v"}, working_dir=str(tmp_path))
    assert done["stdout"] == f"in é\nv\n{tmp_path}\n"
    assert (done["stderr"], done["exit_code"]) == ("err\n", 7)
    assert api.run(vm_id, "kill -9 $$")["exit_code"] == 137
    assert api.run(vm_id, r"printf '\377'")["stdout"] == "\ufffd"
    exec_id = str(uuid4())
    assert api.run(vm_id, "true", exec_id=exec_id)["exec_id"] == exec_id
    missing = api("POST", f"/vm/{vm_id}/exec", 200, json={"command": ["/no/such/program"]})
    assert missing["exit_code"] in {126, 127}
    assert api.run(vm_id, "head -c 3000000 /dev/zero | tr '\\0' x")["stdout"] == "x" * 3_000_000


def test_a_time_out_kills_the_whole_tree(api: Api, tmp_path: Path) -> None:
    vm_id = api.new_vm()
    script = f"echo part; setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60' & sleep 60"
    done = api.run(vm_id, script, timeout_secs=1)
    assert done["exit_code"] == 124
    assert done["stdout"] == "part\n"
    pid = (tmp_path / "pid").read_text().strip()
    wait_for(lambda: ended(pid))


def test_background_processes_do_not_hold_up_an_answer(api: Api) -> None:
    vm_id = api.new_vm()
    assert api.run(vm_id, "sleep 30 & echo started")["stdout"] == "started\n"


def test_a_stream_has_chunks_and_an_exit(api: Api) -> None:
    vm_id = api.new_vm()
    body = {"command": ["/bin/sh", "-c", "echo out; echo err >&2; cat; exit 3"], "stdin": "in"}
    response = api.client.post(f"/api/v1/vm/{vm_id}/exec/stream", json=body)
    found = events(response)
    assert output(found) == b"out\nin"
    assert output(found, "stderr") == b"err\n"
    assert [event["cursor"] for event in found] == list(range(1, len(found) + 1))
    assert found[-1]["type"] == "exit"
    assert found[-1]["exit_code"] == 3
    again = api.client.post(f"/api/v1/vm/{vm_id}/exec/stream/attach", json={"exec_id": found[0]["exec_id"]})
    assert events(again) == found
    rest = api.client.post(f"/api/v1/vm/{vm_id}/exec/stream/attach", json={"exec_id": found[0]["exec_id"], "cursor": 1})
    assert events(rest) == found[1:]
    latest = api.client.post(f"/api/v1/vm/{vm_id}/exec/stream/attach", json={"exec_id": found[0]["exec_id"], "from_latest": True})
    assert events(latest) == found[-1:]


def test_a_run_goes_on_without_its_client(api: Api, tmp_path: Path) -> None:
    vm_id = api.new_vm()
    gate = tmp_path / "gate"
    exec_id = str(uuid4())
    script = f"echo one; until [ -e {gate} ]; do sleep 0.02; done; echo two"
    body = {"command": ["/bin/sh", "-c", script], "exec_id": exec_id}
    with api.client.stream("POST", f"/api/v1/vm/{vm_id}/exec/stream", json=body) as response:
        first = json.loads(next(response.iter_lines()))
    assert base64.b64decode(first["data_b64"]) == b"one\n"
    api("POST", f"/vm/{vm_id}/exec/stream", 400, json=body)
    gate.touch()
    attach = {"exec_id": exec_id, "cursor": first["cursor"]}
    rest = events(api.client.post(f"/api/v1/vm/{vm_id}/exec/stream/attach", json=attach))
    assert output(rest) == b"two\n"
    assert rest[-1]["exit_code"] == 0
    api("POST", f"/vm/{vm_id}/exec/stream/attach", 404, json={"exec_id": UNKNOWN})


def test_a_large_stream_arrives_whole(api: Api) -> None:
    vm_id = api.new_vm()
    response = api.client.post(f"/api/v1/vm/{vm_id}/exec/stream", json={"command": ["head", "-c", "10000000", "/dev/zero"]})
    found = events(response)
    assert output(found) == bytes(10_000_000)
    kept = events(api.client.post(f"/api/v1/vm/{vm_id}/exec/stream/attach", json={"exec_id": found[0]["exec_id"]}))
    assert 2_000_000 < len(output(kept)) <= 4 * 1024 * 1024  # bounded as it is sent: many pieces hold less


def test_the_log_of_a_machine(api: Api) -> None:
    vm_id = api.new_vm()
    api.run(vm_id, "echo a")
    api.run(vm_id, "echo b >&2")
    page = api("GET", f"/vm/{vm_id}/logs", 200)
    assert [(entry["stream"], base64.b64decode(entry["data_b64"])) for entry in page["entries"]] == [("stdout", b"a\n"), ("stderr", b"b\n")]
    assert page["eof"] is True
    first = api("GET", f"/vm/{vm_id}/logs?max_entries=1", 200)
    assert (len(first["entries"]), first["eof"]) == (1, False)
    assert api("GET", f"/vm/{vm_id}/logs?offset={first['next_offset']}", 200)["entries"] == page["entries"][1:]
    assert len(api("GET", f"/vm/{vm_id}/logs?stream=stderr", 200)["entries"]) == 1
    api("GET", f"/vm/{vm_id}/logs?stream=both", 400)


async def test_output_in_tiny_pieces_is_bounded_too() -> None:
    log, session = Log(retain=10_000), Session("s", retain=10_000)
    for _ in range(1000):
        log.append("stdout", b"x", "s")
        await session.chunk("stdout", b"x")
    await session.exit(0)
    assert len(log.page(0, 10_000, None)[0]) < 40
    assert log.page(0, 10_000, None)[1:] == (1000, True)
    lines = [json.loads(line) async for line in session.attach()]
    assert len(lines) < 40
    assert lines[-1] == {"type": "exit", "exit_code": 0, "exec_id": "s", "cursor": 1001}


async def test_nothing_is_dropped_while_a_client_is_attached() -> None:
    session = Session("s", retain=5_000)
    reader = session.attach()

    async def write() -> None:
        for _ in range(200):
            await session.chunk("stdout", b"x" * 100)
        await session.exit(0)

    writing = asyncio.create_task(write())
    first = json.loads(await anext(reader))
    for _ in range(50):
        await asyncio.sleep(0)
    assert not writing.done()  # it waits for the reader
    cursors = [first["cursor"], *[json.loads(line)["cursor"] async for line in reader]]
    assert cursors == list(range(1, 202))
    await writing


async def test_a_gate_lets_many_in_or_one_alone() -> None:
    gate, inside = Gate(), []

    async def enter(name: str, *, alone: bool) -> None:
        async with gate.exclusive() if alone else gate.shared():
            inside.append(name)
            try:
                assert not alone or len(inside) == 1
                await asyncio.sleep(0.005)
            finally:
                inside.remove(name)

    tasks = [asyncio.create_task(enter(str(number), alone=number % 3 == 0)) for number in range(30)]
    await asyncio.sleep(0.01)
    for task in tasks[5:25:4]:
        task.cancel()
    async with asyncio.timeout(60):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results), results
    assert not inside
    async with asyncio.timeout(1), gate.exclusive():
        pass


# -- files


def test_files_come_back_as_they_were_sent(api: Api, tmp_path: Path) -> None:
    vm_id = api.new_vm()
    data = bytes(range(256)) * 4096
    path = str(tmp_path / "a b" / "ünï\n.bin")
    body = {"path": path, "content_b64": base64.b64encode(data).decode()}
    api("PUT", f"/vm/{vm_id}/files", 400, json=body)
    api("PUT", f"/vm/{vm_id}/files", 200, json={**body, "create_dirs": True, "mode": 0o600})
    assert base64.b64decode(api("GET", f"/vm/{vm_id}/files", 200, params={"path": path})["content_b64"]) == data
    assert api.run(vm_id, 'stat -c %a "$P"', env={"P": path})["stdout"] == "600\n"
    assert [each.name for each in (tmp_path / "a b").iterdir()] == ["ünï\n.bin"]
    (tmp_path / "link").symlink_to(path)
    api("PUT", f"/vm/{vm_id}/files", 200, json={"path": str(tmp_path / "link"), "content_b64": ""})
    assert (tmp_path / "link").is_symlink()
    assert Path(path).read_bytes() == b""
    api("GET", f"/vm/{vm_id}/files", 404, params={"path": str(tmp_path / "none")})
    api("GET", f"/vm/{vm_id}/files", 400, params={"path": str(tmp_path)})
    api("GET", f"/vm/{vm_id}/files", 400, params={"path": "relative"})
    api("GET", f"/vm/{vm_id}/files", 400)
    api("PUT", f"/vm/{vm_id}/files", 400, json={"path": str(tmp_path), "content_b64": ""})
    api("PUT", f"/vm/{vm_id}/files", 400, json={"path": path, "content_b64": "?"})


# -- repetitions


def test_a_repeated_request_has_one_effect(api: Api) -> None:
    headers = {"X-Idempotency-Key": str(uuid4())}
    first = api("POST", "/vm/new_root", 201, json={"vm_config": {}}, headers=headers)
    assert api("POST", "/vm/new_root", 201, json={"vm_config": {}}, headers=headers) == first
    assert api("POST", "/vm/new_root", 201, json={"vm_config": {}}, headers={"X-Idempotency-Key": str(uuid4())}) != first
    vm_id = first["vm_id"]
    assert api("DELETE", f"/vm/{vm_id}", 200, headers=headers) == {"vm_id": vm_id}
    assert api("DELETE", f"/vm/{vm_id}", 200, headers=headers) == {"vm_id": vm_id}


def test_a_repetition_waits_for_the_first(api: Api, tmp_path: Path) -> None:
    vm_id = api.new_vm()
    script = f"echo x >> {tmp_path}/runs; sleep 0.3; cat {tmp_path}/runs"
    barrier = threading.Barrier(6)

    def ask(_: int) -> Any:
        barrier.wait()
        return api("POST", f"/vm/{vm_id}/exec", 200, json={"command": ["/bin/sh", "-c", script]}, headers={"X-Idempotency-Key": "same"})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["stdout"] == "x\n"


def test_a_repeated_stream_is_the_same_run(api: Api, tmp_path: Path) -> None:
    vm_id = api.new_vm()
    body = {"command": ["/bin/sh", "-c", f"echo x >> {tmp_path}/runs; cat {tmp_path}/runs"]}
    headers = {"X-Idempotency-Key": "stream"}
    answers = [events(api.client.post(f"/api/v1/vm/{vm_id}/exec/stream", json=body, headers=headers)) for _ in range(2)]
    assert answers[0] == answers[1]
    assert output(answers[0]) == b"x\n"


async def test_stored_answers_are_bounded_and_failures_are_not_stored() -> None:
    calls: list[str] = []

    def answering(status: int, size: int) -> Any:
        async def act() -> Response:
            calls.append("")
            return Response(b"x" * size, status)

        return act

    replays = Replays(entries=3, size=1000)
    for key, status, size, expected in (
        ("a", 200, 10, 1),
        ("a", 200, 10, 1),  # stored
        ("b", 500, 10, 2),
        ("b", 200, 10, 3),  # the failure was not stored
        ("c", 404, 10, 4),
        ("d", 200, 10, 5),
        ("a", 200, 10, 6),  # the fourth answer pushed it out
        ("big", 200, 5000, 7),
        ("big", 200, 5000, 7),  # the newest is kept whatever its size
        ("d", 200, 10, 8),
    ):
        assert (await replays.answer((key,), answering(status, size))).status_code == status
        assert len(calls) == expected, key


# -- bad input


def test_ids_that_are_none(api: Api) -> None:
    for bad in ("x", "123", UNKNOWN[:-1], "%00", "..%2f..", "{" + UNKNOWN + "}", UNKNOWN.replace("-", "")):
        assert api("GET", f"/vm/{bad}/status", None)["success"] is False
    api("GET", "/vm/nope/status", 400)
    api("GET", f"/vm/{UNKNOWN}/status", 404)
    api("GET", f"/vm/{UNKNOWN}/ssh_key", 404)
    api("POST", f"/vm/{UNKNOWN}/exec", 404, json={"command": ["true"]})


def test_what_this_server_cannot_do_is_said(api: Api) -> None:
    for path, operations in SCHEMA["paths"].items():
        for method in operations:
            concrete = re.sub(r"\{\w*id\}", UNKNOWN, path).removeprefix("/api/v1")
            concrete = re.sub(r"\{\w+\}", "nothing", concrete)
            answer = api.client.request(method, f"/api/v1{concrete}", json={})
            assert answer.status_code not in {405, 500}, (method, path)
            assert answer.status_code != 404 or "There is nothing at" not in answer.text, (method, path)
            check_answer(method.upper(), f"/api/v1{concrete}", answer)
    api("POST", "/deploy", 501, json={})
    api("GET", "/domains", 501)
    assert api.client.get("/api/v1/unheard/of").status_code == 404
    assert api.client.get("/").status_code == 404
    assert api.client.put("/api/v1/vms").status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"vm_config": 1}',
        b'{"vm_config": {"vcpu_count": -1}}',
        b'{"vm_config": {"vcpu_count": NaN}}',
        b'{"vm_config": {"vcpu_count": true}}',
        b'{"vm_config": {"vcpu_count": 1e400}}',
        b'{"vm_config": {"labels": {"a": 1}}}',
        b'{"vm_config": {"labels": {"a": "\\ud800"}}}',
        b'{"vm_config": {"labels": {"\\ud800": "a"}}}',
        b'{"vm_config": {"image_name": "other"}}',
        b"[" * 100_000,
        b'{"vm_config": {"mem_size_mib": ' + b"9" * 5000 + b"}}",
    ],
)
def test_bodies_that_make_no_sense(api: Api, body: bytes) -> None:
    answer = api("POST", "/vm/new_root", 400, content=body)
    assert len(answer["error"]) < 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "vm_config labels command env stdin timeout_secs working_dir exec_id cursor path content_b64 mode commit_id name description "
    "tag_name ref state vars is_public"
)
KEYS = st.sampled_from(FIELDS.split())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.dictionaries(KEYS, JSON, max_size=4) | JSON, path=st.text(max_size=6))
def test_nonsense_is_never_the_servers_fault(api: Api, body: Any, path: str) -> None:
    vm_id = next((vm["vm_id"] for vm in api("GET", "/vms")), None) or api.new_vm()
    for method, route in (
        ("POST", f"/vm/{vm_id}/exec"),
        ("POST", f"/vm/{vm_id}/exec/stream/attach"),
        ("PATCH", f"/vm/{vm_id}/label"),
        ("PUT", f"/vm/{vm_id}/files"),
        ("POST", "/vm/from_commit"),
        ("POST", "/commit_tags"),
        ("PATCH", f"/commits/{vm_id}"),
        ("POST", "/repositories"),
    ):
        answer = api.client.request(method, f"/api/v1{route}", json=body)
        assert answer.status_code < 500, (method, route, body, answer.text)
    answer = api.client.get(f"/api/v1/vm/{vm_id}/files", params={"path": path, "count": path, "offset": path})
    assert answer.status_code < 500


# -- restarts


def test_a_killed_server_loses_nothing(own_server: Server) -> None:
    api = Api(own_server.info)
    vm_id = api.new_vm(labels={"keep": "me"})
    api.run(vm_id, "echo precious > file")
    commit = api("POST", f"/vm/{vm_id}/commit", 201, json={"name": "c"})["commit_id"]
    api("POST", "/commit_tags", 201, json={"tag_name": "t", "commit_id": commit})
    api("PUT", "/env_vars", 200, json={"vars": {"A": "1"}})
    key = api("GET", f"/vm/{vm_id}/ssh_key", 200)["ssh_private_key"]
    api.run(vm_id, "setsid sh -c 'echo $$ > pid; exec sleep 300' > /dev/null 2>&1 &")
    wait_for(lambda: api.run(vm_id, "test -s pid")["exit_code"] == 0)
    left = api.run(vm_id, "cat pid")["stdout"].strip()
    api.close()
    own_server.kill()
    own_server.start()
    wait_for(lambda: ended(left))
    api = Api(own_server.info)
    status = api("GET", f"/vm/{vm_id}/status", 200)
    assert (status["state"], status["labels"]) == ("running", {"keep": "me"})
    assert api.run(vm_id, "cat file")["stdout"] == "precious\n"
    assert api("GET", f"/vm/{vm_id}/ssh_key", 200)["ssh_private_key"] == key
    assert api("GET", "/commit_tags/t", 200)["commit_id"] == commit
    assert api("GET", "/env_vars", 200)["vars"] == {"A": "1"}
    restored = api("POST", "/vm/from_commit", 201, json={"tag_name": "t"})["vm_id"]
    assert api.run(restored, "cat file; echo $A")["stdout"] == "precious\n1\n"
    api.close()


def test_a_machine_without_its_disk_is_dead(own_server: Server) -> None:
    api = Api(own_server.info)
    lost, kept = api.new_vm(), api.new_vm()
    api.close()
    own_server.kill()
    shutil.rmtree(next(path for path in own_server.data_dir.rglob(lost) if path.is_dir()))
    own_server.start()
    api = Api(own_server.info)
    assert {vm["vm_id"]: vm["state"] for vm in api("GET", "/vms", 200)} == {lost: "dead", kept: "running"}
    api("POST", f"/vm/{lost}/exec", 400, json={"command": ["true"]})
    api("POST", f"/vm/{lost}/branch", 400)
    api("PATCH", f"/vm/{lost}/state", 400, json={"state": "Running"})
    api("DELETE", f"/vm/{lost}", 200)
    assert api.run(kept, "echo fine")["stdout"] == "fine\n"
    api.close()


def test_no_process_of_a_machine_outlives_the_server(own_server: Server, tmp_path: Path) -> None:
    api = Api(own_server.info)
    vm_id = api.new_vm()
    api.run(vm_id, f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 300' > /dev/null 2>&1 &")
    pid = wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    api.close()
    assert Path(f"/proc/{pid}").exists()
    assert own_server.stop() == 0
    wait_for(lambda: ended(pid))


# -- on the engine that isolates


def test_the_core_on_namespaces(tmp_path: Path) -> None:
    host_environment = Path("/etc/environment")
    before = host_environment.read_bytes() if host_environment.exists() else None
    server = Server(tmp_path / "data", "namespaces")
    server.start()
    api = Api(server.info)
    api("PUT", "/env_vars", 200, json={"vars": {"COLOUR": "deep blue"}})
    root = api.new_vm(labels={"a": "b"})
    assert api.run(root, "cat /etc/environment")["stdout"] == 'COLOUR="deep blue"\n'
    assert (host_environment.read_bytes() if host_environment.exists() else None) == before
    assert api.run(root, "echo $COLOUR; id -u; echo mark > /root/mark; umask")["stdout"] == "deep blue\n0\n0022\n"
    assert api.run(root, "setsid sleep 300 & sleep 300", timeout_secs=1)["exit_code"] == 124
    assert "sleep" not in api.run(root, "cat /proc/[0-9]*/comm")["stdout"]
    path = "/srv/deep/file"
    api("PUT", f"/vm/{root}/files", 200, json={"path": path, "content_b64": "AAEC", "create_dirs": True, "mode": 0o640})
    assert not Path(path).exists()
    assert api("GET", f"/vm/{root}/files?path={path}", 200)["content_b64"] == "AAEC"
    api("PUT", "/env_vars", 200, json={"vars": {}, "replace": True})
    commit = api("POST", f"/vm/{root}/commit", 201, json={})["commit_id"]
    branches = [each["vm_id"] for each in api("POST", f"/vm/{root}/branch?count=2", 201)["vms"]]
    restored = api("POST", "/vm/from_commit", 201, json={"commit_id": commit})["vm_id"]
    for vm_id in (*branches, restored):
        assert api.run(vm_id, "cat /root/mark /etc/environment")["stdout"] == "mark\n"
    api("PATCH", f"/vm/{root}/state", 200, json={"state": "Paused"})
    api("POST", f"/vm/{root}/exec", 400, json={"command": ["true"]})
    api.close()
    server.kill()
    server.start()
    try:
        api = Api(server.info)
        assert api.run(root, "cat /root/mark")["stdout"] == "mark\n"
        for vm in api("GET", "/vms", 200):
            api("DELETE", f"/vm/{vm['vm_id']}", 200)
        api("DELETE", f"/commits/{commit}", 204)
        api.close()
    finally:
        assert server.stop() == 0
