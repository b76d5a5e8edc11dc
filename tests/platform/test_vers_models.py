"""Every shape parses an instance of the API's schema, keeps what it does not know, and hides its secrets."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from langchain_vers.platform import models
from langchain_vers.platform.models import NewVmsResponse, VmState

UUID = "5e0f4ad6-3c4b-4b1f-9d5d-6a0f3c1c2b3a"
OTHER = "0b8a1d5e-6f6d-4e3b-8a53-7c1d3b2e4f5a"
WHEN = "2026-11-20T12:00:00.123456Z"
COMMIT = {"commit_id": UUID, "owner_id": OTHER, "name": "first", "created_at": WHEN, "is_public": False}
TAG = {"tag_id": UUID, "tag_name": "v1.0", "commit_id": OTHER, "created_at": WHEN, "updated_at": WHEN, "description": None}
REPO_TAG = {**TAG, "reference": "web:v1.0"}
REPO = {"repo_id": UUID, "name": "web", "is_public": True, "created_at": WHEN, "description": "a server"}
PUBLIC_REPO = {"repo_id": UUID, "org_name": "acme", "name": "web", "full_name": "acme/web", "created_at": WHEN}
LOG_ENTRY = {"timestamp": WHEN, "stream": "stderr", "data_b64": "aGkK", "exec_id": UUID}

SAMPLES: dict[str, object] = {
    "ErrorResponse": {"error": "no", "success": False},
    "VM": {"vm_id": UUID, "owner_id": OTHER, "created_at": WHEN, "state": "running", "labels": {"a": "b"}},
    "VmMetadataResponse": {
        "vm_id": UUID,
        "owner_id": OTHER,
        "created_at": WHEN,
        "state": "sleeping",
        "ip": "fd00::1",
        "deleted_at": None,
        "parent_commit_id": OTHER,
        "grandparent_vm_id": None,
    },
    "VmCreateVmConfig": {
        "vcpu_count": 2,
        "mem_size_mib": 512,
        "fs_size_mib": 1024,
        "image_name": "default",
        "kernel_name": "default.bin",
        "labels": None,
    },
    "NewRootRequest": {"vm_config": {"vcpu_count": 1}},
    "NewVmResponse": {"vm_id": UUID},
    "NewVmsResponse": {"vms": [{"vm_id": UUID}, {"vm_id": OTHER}]},
    "VmDeleteResponse": {"vm_id": UUID},
    "VmUpdateStateRequest": {"state": "Paused"},
    "LabelVmRequest": {"labels": {"thread": "42"}},
    "VmResizeDiskRequest": {"fs_size_mib": 2048},
    "FromCommitVmRequest": {"ref": "web:v1.0"},
    "VmSshKeyResponse": {"ssh_private_key": "-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "ssh_port": 22},
    "VmExecRequest": {"command": ["true"], "env": {"A": "b"}, "exec_id": UUID, "stdin": "x", "timeout_secs": 0, "working_dir": "/"},
    "VmExecResponse": {"exit_code": -1, "stdout": "a", "stderr": "b", "exec_id": None},
    "VmExecStreamAttachRequest": {"exec_id": UUID, "cursor": 7, "from_latest": None},
    "VmExecStreamChunk": {"type": "chunk", "exec_id": UUID, "cursor": 0, "stream": "stdout", "data_b64": "/wA="},
    "VmExecStreamExit": {"type": "exit", "exec_id": None, "cursor": 1, "exit_code": 3},
    "VmExecLogEntry": LOG_ENTRY,
    "VmExecLogResponse": {"entries": [LOG_ENTRY], "next_offset": 120, "eof": True},
    "VmReadFileResponse": {"content_b64": ""},
    "VmWriteFileRequest": {"path": "/etc/motd", "content_b64": "aGk=", "create_dirs": True, "mode": 384},
    "VmCommitRequest": {"commit_id": UUID, "name": "n", "description": None},
    "VmCommitResponse": {"commit_id": UUID},
    "CommitInfo": COMMIT,
    "ListCommitsResponse": {"commits": [COMMIT], "total": 1, "limit": 50, "offset": 0},
    "UpdateCommitRequest": {"is_public": True, "name": None, "description": "d"},
    "VmCommitEntity": {"id": UUID, "owner_id": OTHER, "name": "n", "created_at": WHEN, "is_public": False, "parent_vm_id": OTHER},
    "TagInfo": TAG,
    "ListTagsResponse": {"tags": [TAG]},
    "CreateTagRequest": {"tag_name": "v1", "commit_id": UUID},
    "CreateTagResponse": {"tag_id": UUID, "tag_name": "v1", "commit_id": OTHER},
    "UpdateTagRequest": {"description": None},
    "RepositoryInfo": REPO,
    "ListRepositoriesResponse": {"repositories": [REPO]},
    "CreateRepositoryRequest": {"name": "web", "description": None},
    "CreateRepositoryResponse": {"repo_id": UUID, "name": "web"},
    "SetRepositoryVisibilityRequest": {"is_public": False},
    "PublicRepositoryInfo": PUBLIC_REPO,
    "ListPublicRepositoriesResponse": {"repositories": [PUBLIC_REPO]},
    "RepoTagInfo": REPO_TAG,
    "ListRepoTagsResponse": {"repository": "web", "tags": [REPO_TAG]},
    "CreateRepoTagRequest": {"tag_name": "v1", "commit_id": UUID, "description": "d"},
    "CreateRepoTagResponse": {"tag_id": UUID, "reference": "web:v1", "commit_id": OTHER},
    "UpdateRepoTagRequest": {"commit_id": UUID},
    "ForkRepositoryRequest": {"source_org": "a", "source_repo": "b", "source_tag": "c", "repo_name": None, "tag_name": None},
    "ForkRepositoryResponse": {"vm_id": UUID, "commit_id": OTHER, "repo_name": "b", "tag_name": "c", "reference": "b:c"},
    "EnvVarsResponse": {"vars": {"TOKEN": "hush"}},
    "SetEnvVarsRequest": {"vars": {"TOKEN": "hush"}, "replace": True},
    "ValidateKeyResponse": {"valid": True, "message": "ok"},
    "OrchestratorVersion": {"executable_name": "orchestrator", "workspace_version": "1", "git_hash": "abc"},
}

json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3))


def shapes() -> dict[str, type[BaseModel]]:
    bases = {"Model", "SecretModel", "BaseModel"}
    found = {name: value for name, value in vars(models).items() if isinstance(value, type) and issubclass(value, BaseModel)}
    return {name: value for name, value in found.items() if name not in bases}


def test_every_shape_has_a_sample():
    assert set(SAMPLES) == set(shapes())


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_a_sample_of_the_schema_survives_the_round_trip(name):
    shape = shapes()[name]
    first = shape.model_validate_json(TypeAdapter(object).dump_json(SAMPLES[name]))
    assert first.model_dump(mode="json", exclude_unset=True) == SAMPLES[name]
    assert shape.model_validate_json(first.model_dump_json()) == first
    with pytest.raises(ValidationError, match="frozen"):
        setattr(first, next(iter(shape.model_fields)), None)


@pytest.mark.parametrize("name", sorted(SAMPLES))
@settings(max_examples=15)
@given(extra=st.dictionaries(st.text(min_size=1).map("new_field_".__add__), json_values, max_size=3))
def test_unknown_fields_are_kept(name, extra):
    parsed = shapes()[name].model_validate(SAMPLES[name] | extra)
    assert parsed.model_extra == extra


@pytest.mark.parametrize("spelling", ["booting", "running", "paused", "sleeping", "dead", "not_started", "stopped"])
def test_known_states(spelling):
    assert VmState(spelling) in list(VmState)
    assert VmState(spelling.capitalize()) is VmState(spelling)


@given(st.text(min_size=1).filter(lambda text: text.lower() not in list(VmState)))
def test_an_unknown_state_prints_as_itself(text):
    vm = models.VM.model_validate(SAMPLES["VM"] | {"state": text})
    assert isinstance(vm.state, VmState)
    assert str(vm.state) == f"{vm.state}" == vm.state == text
    assert hash(vm.state) == hash(text)
    assert pickle.loads(pickle.dumps(vm)) == vm
    assert vm.model_dump(mode="json")["state"] == text
    assert len(list(VmState)) == 7


@pytest.mark.parametrize("state", [None, 1, "", []])
def test_what_is_no_state(state):
    with pytest.raises(ValidationError):
        models.VM.model_validate(SAMPLES["VM"] | {"state": state})


def test_branch_answers_of_both_ages():
    assert NewVmsResponse.model_validate({"vm_id": UUID}).vm_ids == [UUID]
    assert NewVmsResponse.model_validate({"vms": [{"vm_id": UUID}, {"vm_id": OTHER}]}).vm_ids == [UUID, OTHER]
    with pytest.raises(ValidationError):
        NewVmsResponse.model_validate({})


def test_secrets_show_on_the_wire_only():
    key = models.VmSshKeyResponse.model_validate({"ssh_private_key": "hush-1", "ssh_port": 22, "passphrase": "hush-2"})
    variables = models.EnvVarsResponse.model_validate({"vars": {"NAME": "hush-3"}, "old": {"X": "hush-4"}})
    run = models.VmExecRequest(command=["true"], env={"A": "hush-5"}, stdin="hush-6")
    for shape in (key, variables, run):
        assert "hush" not in repr(shape)
        assert "hush" not in str(shape)
    assert "hush" not in str(key.model_dump()["ssh_private_key"])
    assert "NAME" in repr(variables)
    assert key.ssh_private_key.get_secret_value() == "hush-1"
    assert "hush-1" in key.model_dump_json()
    assert '"NAME":"hush-3"' in variables.model_dump_json()


def test_a_validation_error_does_not_quote_its_input():
    with pytest.raises(ValidationError) as caught:
        models.VmSshKeyResponse.model_validate({"ssh_private_key": ["hush"], "ssh_port": "hush"})
    assert "hush" not in str(caught.value)


@given(st.binary())
def test_bytes_are_base64_on_the_wire(data):
    written = models.VmWriteFileRequest(path="/x", content=data).model_dump_json()
    assert models.VmWriteFileRequest.model_validate_json(written).content == data


@pytest.mark.parametrize("text", ["%%%", "aGk", "aGk=\n", "héé="])
def test_what_is_no_base64(text):
    with pytest.raises(ValidationError, match="not base64"):
        models.VmReadFileResponse.model_validate({"content_b64": text})


def test_a_time_without_a_zone_is_utc():
    vm = models.VM.model_validate(SAMPLES["VM"] | {"created_at": "2026-11-20T12:00:00"})
    assert vm.created_at.isoformat() == "2026-11-20T12:00:00+00:00"


@pytest.mark.parametrize("body", [{}, {"commit_id": "a", "ref": "b"}])
def test_a_restore_names_exactly_one_source(body):
    with pytest.raises(ValidationError, match="exactly one"):
        models.FromCommitVmRequest.model_validate(body)
