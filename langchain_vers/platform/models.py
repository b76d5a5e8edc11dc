"""The JSON shapes of the Vers platform's HTTP API, as frozen pydantic models named like the schema.

Both sides of the wire use them: the client parses answers with them, the embedded server parses requests and prints answers.
They are lenient readers: unknown fields are kept, an unknown machine state is kept as it was spelled. They do no I/O and decide nothing.

Wire format is `model_dump_json()` (or `model_dump(mode="json")`): byte fields are base64 there, and secrets are written out. In Python mode
(`model_dump()`, `repr`, `str`) secrets stay hidden. Source: the platform's published OpenAPI schema.

What these fields mean wherever they stand; each shape tells the others itself:

- `vm_id`, `commit_id`, `tag_id`, `repo_id`: the id of a VM, commit, tag or repository (a UUID).
- `owner_id`: whose it is, an id of the platform's (a UUID).
- `exec_id`: the id of one execution of a command (a UUID), None if the server gives it none.
- `created_at`, `updated_at`, `deleted_at`: when that happened; None, where it may be that, if it has not. A text where the server's own
  spelling is kept.
- `name`, `tag_name`, `repo_name`, `org_name`: the name of a commit, tag, repository or organisation, up to 64 letters, digits, hyphens,
  underscores and dots.
- `description`: words for people, None if there are none.
- `labels`: names and values that a VM carries, as many as one likes.
- `state`: what a VM does now, or is to do.
- `is_public`: whether everybody may read it and make VMs from it.
- `reference`: a tag of a repository, as `repo_name:tag_name`.
- `parent_vm_id`: the VM that a commit was made from; `grandparent_commit_id` the commit that this VM was made from. None if there was none.
- `parent_commit_id`: the commit that a VM was made from; `grandparent_vm_id` the VM that this commit was made from. None if there was none.
- `vms`, `commits`, `tags`, `repositories`: what was asked for, in the server's order.
- `limit`, `offset`, `total`: how many entries a page has at most, how many there are before it, and in all.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    TypeAdapter,
    model_validator,
)

from langchain_vers._process import keep_classes


class VmState(StrEnum):
    """The state of a VM. A state that is not listed here becomes a member of its own that prints as it was spelled.

    What the words mean is the platform's to say; this package asks only whether a VM is running, can be resumed, or is dead.
    """

    BOOTING = "booting"
    RUNNING = "running"
    PAUSED = "paused"
    SLEEPING = "sleeping"
    DEAD = "dead"
    NOT_STARTED = "not_started"
    STOPPED = "stopped"

    @classmethod
    def _missing_(cls, value: object) -> VmState | None:
        if not isinstance(value, str) or not value:
            return None
        if value.lower() in cls._value2member_map_:
            return cls(value.lower())
        # Not registered with the enum, so that a hostile server cannot make it grow; equality and hash are those of the text.
        unknown = str.__new__(cls, value)
        unknown._name_ = value
        unknown._value_ = value
        return unknown

    def __reduce_ex__(self, protocol: object) -> tuple[type[VmState], tuple[str]]:
        """By value: early releases of Python 3.11 pickle a member by its name, and one that is not registered has none to be found by."""
        return type(self), (self.value,)


class VmUpdateStateEnum(StrEnum):
    """The states that can be asked for; the API spells them with a capital."""

    PAUSED = "Paused"
    RUNNING = "Running"

    @classmethod
    def _missing_(cls, value: object) -> VmUpdateStateEnum | None:
        return cls._value2member_map_.get(value.capitalize()) if isinstance(value, str) else None  # type: ignore[return-value]  # typed as Enum


VmExecLogStream = Literal["stdout", "stderr"]
"""Where a command printed something."""


def _as_utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _decode_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        msg = "not base64"
        raise ValueError(msg) from None


Timestamp = Annotated[datetime, AfterValidator(_as_utc)]
"""A point in time; one without a zone is taken as UTC."""

Base64Data = Annotated[
    bytes, BeforeValidator(_decode_base64), PlainSerializer(lambda data: base64.b64encode(data).decode("ascii"), str, when_used="json")
]
"""Bytes in Python, base64 on the wire."""

Labels = Annotated[dict[str, str], BeforeValidator(lambda value: {} if value is None else value)]
"""Labels of a VM; `null` on the wire is the same as none."""

Secret = Annotated[SecretStr, PlainSerializer(lambda secret: secret.get_secret_value(), str, when_used="json")]
"""Text that only shows on the wire."""


class Model(BaseModel):
    """Base of all shapes: frozen, keeps unknown fields, never quotes its input in a validation error."""

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True, validate_by_name=True, serialize_by_alias=True)


class SecretModel(Model):
    """A shape with a secret in it: fields that this package does not know could hold one too, so `repr` leaves them out."""

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        known = type(self).model_fields
        return [(name, value) for name, value in super().__repr_args__() if name in known]


class ErrorResponse(Model):
    """The envelope of an error.

    Attributes:
        error: what went wrong, in words.
        success: always False.
    """

    error: str | None = None
    success: bool = False


# Machines


class VM(Model):
    """One VM, as listed and as answered by its status."""

    vm_id: str
    owner_id: str
    created_at: Timestamp
    state: VmState
    labels: Labels = Field(default_factory=dict)


class VmMetadataResponse(Model):
    """A VM with its address and lineage.

    Attributes:
        ip: the VM's address within the platform.
    """

    vm_id: str
    owner_id: str
    created_at: Timestamp
    state: VmState
    ip: str
    deleted_at: Timestamp | None = None
    parent_commit_id: str | None = None
    grandparent_vm_id: str | None = None


class VmCreateVmConfig(Model):
    """Size and labels of a new VM; absent fields take the server's defaults.

    Attributes:
        vcpu_count: how many virtual processors.
        mem_size_mib: memory in MiB.
        fs_size_mib: size of the disk in MiB.
        image_name: the base image, "default" if it is to be named.
        kernel_name: the kernel, "default.bin" if it is to be named.
    """

    vcpu_count: int | None = Field(default=None, ge=0)
    mem_size_mib: int | None = Field(default=None, ge=0)
    fs_size_mib: int | None = Field(default=None, ge=0)
    image_name: str | None = None
    kernel_name: str | None = None
    labels: dict[str, str] | None = None


class NewRootRequest(Model):
    """Body of `POST /vm/new_root`.

    Attributes:
        vm_config: what the VM is to be like.
    """

    vm_config: VmCreateVmConfig


class NewVmResponse(Model):
    """One new VM, by id."""

    vm_id: str


class NewVmsResponse(Model):
    """New VMs, by id. Also parses the older answer that holds a single `vm_id`."""

    vms: list[NewVmResponse]

    @model_validator(mode="before")
    @classmethod
    def _accept_single(cls, value: Any) -> Any:  # noqa: ANN401 - whatever the server sent
        if isinstance(value, dict) and "vms" not in value and "vm_id" in value:
            return {"vms": [value]}
        return value

    @property
    def vm_ids(self) -> list[str]:
        """The ids alone, in the server's order."""
        return [vm.vm_id for vm in self.vms]


class VmDeleteResponse(Model):
    """The VM that was deleted."""

    vm_id: str


class VmUpdateStateRequest(Model):
    """Body of `PATCH /vm/{vm_id}/state`."""

    state: VmUpdateStateEnum


class LabelVmRequest(Model):
    """Body of `PATCH /vm/{vm_id}/label`."""

    labels: Labels = Field(default_factory=dict)


class VmResizeDiskRequest(Model):
    """Body of `PATCH /vm/{vm_id}/disk`.

    Attributes:
        fs_size_mib: the new size of the disk in MiB; it must be larger than the present one.
    """

    fs_size_mib: int = Field(ge=0)


class FromCommitVmRequest(Model):
    """Body of `POST /vm/from_commit`: exactly one of a commit id, a tag name, or `repo_name:tag_name`.

    Attributes:
        ref: a tag of a repository, as `repo_name:tag_name`.
    """

    commit_id: str | None = None
    tag_name: str | None = None
    ref: str | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for value in (self.commit_id, self.tag_name, self.ref)) != 1:
            msg = "exactly one of commit_id, tag_name and ref is needed"
            raise ValueError(msg)
        return self


class VmSshKeyResponse(SecretModel):
    """How to log in to a VM.

    Attributes:
        ssh_private_key: the private key, OpenSSH's text.
        ssh_port: the port of the VM's SSH server within the platform; from outside it is reached by SSH over TLS.
    """

    ssh_private_key: Secret
    ssh_port: int = Field(ge=0)


# Commands and files in a machine


class VmExecRequest(SecretModel):
    """Body of `POST /vm/{vm_id}/exec` and of its streaming form.

    Attributes:
        command: the program and its arguments; no shell reads them.
        env: variables for it, besides those of the VM.
        stdin: what it finds on standard input.
        timeout_secs: seconds that it may take; 0 or None is no limit.
        working_dir: where it starts, None for the server's choice.
    """

    command: list[str]
    env: dict[str, str] | None = Field(default=None, repr=False)
    exec_id: str | None = None
    stdin: str | None = Field(default=None, repr=False)
    timeout_secs: int | None = Field(default=None, ge=0)
    working_dir: str | None = None


class VmExecResponse(Model):
    """A finished command; its output was decoded as UTF-8 by the server, with loss where it was not.

    Attributes:
        exit_code: its exit code.
        stdout: its standard output.
        stderr: its standard error.
    """

    exit_code: int
    stdout: str
    stderr: str
    exec_id: str | None = None


class VmExecStreamAttachRequest(Model):
    """Body of `POST /vm/{vm_id}/exec/stream/attach`.

    Attributes:
        cursor: go on behind the line with this number; None repeats all that the server has kept.
        from_latest: go on behind what is there already, whatever the cursor.
    """

    exec_id: str
    cursor: int | None = Field(default=None, ge=0)
    from_latest: bool | None = None


class VmExecStreamChunk(Model):
    """A line of the stream: bytes that the command printed.

    Attributes:
        type: "chunk".
        cursor: the number of the line, one more than that of the line before.
        stream: where the command printed them.
        data: the bytes, which may begin or end within a character.
    """

    type: Literal["chunk"] = "chunk"
    exec_id: str | None = None
    cursor: int = Field(ge=0)
    stream: VmExecLogStream
    data: Base64Data = Field(alias="data_b64")


class VmExecStreamExit(Model):
    """The last line of the stream: the command ended.

    Attributes:
        type: "exit".
        cursor: the number of the line.
        exit_code: the command's exit code.
    """

    type: Literal["exit"] = "exit"
    exec_id: str | None = None
    cursor: int = Field(ge=0)
    exit_code: int


VmExecStreamEvent = VmExecStreamChunk | VmExecStreamExit
"""A line of the stream."""
EXEC_STREAM_EVENT: TypeAdapter[VmExecStreamEvent] = TypeAdapter(Annotated[VmExecStreamEvent, Field(discriminator="type")])
"""Parses one line of the stream."""


class VmExecLogEntry(Model):
    """A chunk of output in a VM's log.

    Attributes:
        timestamp: when it was printed, as the server spells it.
        stream: where it was printed.
        data: the bytes.
    """

    timestamp: str
    stream: VmExecLogStream
    data: Base64Data = Field(alias="data_b64")
    exec_id: str | None = None


class VmExecLogResponse(Model):
    """A page of a VM's log.

    Attributes:
        entries: the chunks, the oldest first.
        next_offset: bytes of the log in front of the next page.
        eof: whether there is no more of it now.
    """

    entries: list[VmExecLogEntry]
    next_offset: int = Field(ge=0)
    eof: bool


class VmReadFileResponse(Model):
    """The content of a file.

    Attributes:
        content: its bytes.
    """

    content: Base64Data = Field(alias="content_b64", repr=False)


class VmWriteFileRequest(Model):
    """Body of `PUT /vm/{vm_id}/files`.

    Attributes:
        path: where, absolute.
        content: the bytes.
        create_dirs: whether its parent directories are made.
        mode: permission bits, such as 0o644.
    """

    path: str
    content: Base64Data = Field(alias="content_b64", repr=False)
    create_dirs: bool = False
    mode: int = Field(default=0o644, ge=0)


# Commits


class VmCommitRequest(Model):
    """Body of `POST /vm/{vm_id}/commit`; with `commit_id` the caller chooses the id (a UUID)."""

    commit_id: str | None = None
    name: str | None = None
    description: str | None = None


class VmCommitResponse(Model):
    """The new commit."""

    commit_id: str


class CommitInfo(Model):
    """A commit, as listed."""

    commit_id: str
    owner_id: str
    name: str
    created_at: str
    is_public: bool
    description: str | None = None
    parent_vm_id: str | None = None
    grandparent_commit_id: str | None = None


class ListCommitsResponse(Model):
    """A page of commits."""

    commits: list[CommitInfo]
    total: int
    limit: int
    offset: int


class UpdateCommitRequest(Model):
    """Body of `PATCH /commits/{commit_id}`."""

    is_public: bool
    name: str | None = None
    description: str | None = None


class VmCommitEntity(Model):
    """A commit among the parents of another.

    Attributes:
        id: the commit's id (a UUID).
    """

    id: str
    owner_id: str
    name: str
    created_at: Timestamp
    is_public: bool
    description: str | None = None
    parent_vm_id: str | None = None
    grandparent_commit_id: str | None = None


# Tags and repositories


class TagInfo(Model):
    """A tag: a name that points to a commit."""

    tag_id: str
    tag_name: str
    commit_id: str
    created_at: Timestamp
    updated_at: Timestamp
    description: str | None = None


class ListTagsResponse(Model):
    """All tags of the organisation."""

    tags: list[TagInfo]


class CreateTagRequest(Model):
    """Body of `POST /commit_tags`."""

    tag_name: str
    commit_id: str
    description: str | None = None


class CreateTagResponse(Model):
    """The new tag."""

    tag_id: str
    tag_name: str
    commit_id: str


class UpdateTagRequest(Model):
    """Body of `PATCH /commit_tags/{tag_name}`. A description of `None` that was set clears it; one that was not set keeps it."""

    commit_id: str | None = None
    description: str | None = None


class RepositoryInfo(Model):
    """A repository of one's own organisation."""

    repo_id: str
    name: str
    is_public: bool
    created_at: Timestamp
    description: str | None = None


class ListRepositoriesResponse(Model):
    """All repositories of the organisation."""

    repositories: list[RepositoryInfo]


class CreateRepositoryRequest(Model):
    """Body of `POST /repositories`."""

    name: str
    description: str | None = None


class CreateRepositoryResponse(Model):
    """The new repository."""

    repo_id: str
    name: str


class SetRepositoryVisibilityRequest(Model):
    """Body of `PATCH /repositories/{repo_name}/visibility`."""

    is_public: bool


class PublicRepositoryInfo(Model):
    """A public repository of any organisation.

    Attributes:
        full_name: `org_name/name`.
    """

    repo_id: str
    org_name: str
    name: str
    full_name: str
    created_at: Timestamp
    description: str | None = None


class ListPublicRepositoriesResponse(Model):
    """All public repositories."""

    repositories: list[PublicRepositoryInfo]


class RepoTagInfo(TagInfo):
    """A tag within a repository; `reference` is `repo_name:tag_name`."""

    reference: str


class ListRepoTagsResponse(Model):
    """The tags of one repository.

    Attributes:
        repository: the repository's name.
    """

    repository: str
    tags: list[RepoTagInfo]


class CreateRepoTagRequest(CreateTagRequest):
    """Body of `POST /repositories/{repo_name}/tags`."""


class CreateRepoTagResponse(Model):
    """The new tag in a repository."""

    tag_id: str
    reference: str
    commit_id: str


class UpdateRepoTagRequest(UpdateTagRequest):
    """Body of `PATCH /repositories/{repo_name}/tags/{tag_name}`; as for `UpdateTagRequest`."""


class ForkRepositoryRequest(Model):
    """Body of `POST /repositories/fork`.

    Attributes:
        source_org: whose repository is copied.
        source_repo: its name.
        source_tag: which of its tags.
        repo_name: the name of the copy, None for the same.
        tag_name: the tag in the copy, None for the same.
    """

    source_org: str
    source_repo: str
    source_tag: str
    repo_name: str | None = None
    tag_name: str | None = None


class ForkRepositoryResponse(Model):
    """The fork: a new VM, its commit, and the tag that points to it."""

    vm_id: str
    commit_id: str
    repo_name: str
    tag_name: str
    reference: str


# The account


class EnvVarsResponse(SecretModel):
    """The environment variables that new VMs of this account get.

    Attributes:
        vars: values by name.
    """

    vars: dict[str, Secret]


class SetEnvVarsRequest(SecretModel):
    """Body of `PUT /env_vars`.

    Attributes:
        vars: values by name.
        replace: whether every variable that is not named here is dropped.
    """

    vars: dict[str, Secret]
    replace: bool = False


class ValidateKeyResponse(Model):
    """Whether the API key is good.

    Attributes:
        valid: whether it is.
        message: the same in a sentence.
    """

    valid: bool
    message: str


class OrchestratorVersion(Model):
    """What the server runs.

    Attributes:
        executable_name: the program's name.
        workspace_version: its version.
        git_hash: the commit that it was built from.
    """

    executable_name: str
    workspace_version: str
    git_hash: str


# A client from before a reload takes what is made after it.
keep_classes(globals())
