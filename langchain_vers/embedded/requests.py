"""What clients may send to the embedded Vers: strict models of the request bodies, and the parsing of queries.

Strict where the client's own models are tolerant: a wrong type is refused with one sentence that names the field, before anything is done.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, NoReturn, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from langchain_vers.errors import BadInput

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("a NUL character is not allowed")
    return text


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("a name has 1 to 64 letters, digits, dots, hyphens or underscores")
    return text


def _variable(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise ValueError("the name of a variable has 1 to 256 letters, digits or underscores and does not start with a digit")
    return text


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("an absolute path is needed")
    return path


Text = Annotated[str, AfterValidator(_no_nul)]
Name = Annotated[str, AfterValidator(_name)]
Variable = Annotated[str, AfterValidator(_variable)]
VariableValue = Annotated[Text, Field(max_length=8192)]
AbsolutePath = Annotated[Text, AfterValidator(_absolute)]
Count32 = Annotated[int, Field(ge=0, le=2**31 - 1)]
Labels = dict[str, str]


class Body(BaseModel):
    """A request body; unknown fields are ignored."""

    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)


class VmConfig(Body):
    """`VmCreateVmConfig`."""

    vcpu_count: Count32 | None = None
    mem_size_mib: Count32 | None = None
    fs_size_mib: Count32 | None = None
    image_name: Text | None = None
    kernel_name: Text | None = None
    labels: Labels | None = None


class NewRoot(Body):
    """`NewRootRequest`."""

    vm_config: VmConfig


class FromCommit(Body):
    """`FromCommitVmRequest`: exactly one of the three."""

    commit_id: str | None = None
    tag_name: str | None = None
    ref: str | None = None


class LabelVm(Body):
    """`LabelVmRequest`."""

    labels: Labels | None = None


class UpdateState(Body):
    """`VmUpdateStateRequest`."""

    state: str


class CommitVm(Body):
    """`VmCommitRequest`."""

    commit_id: str | None = None
    name: str | None = None
    description: str | None = None


class Exec(Body):
    """`VmExecRequest`."""

    command: Annotated[list[Text], Field(min_length=1)]
    env: dict[Variable, Text] | None = None
    exec_id: str | None = None
    stdin: str | None = None
    timeout_secs: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    working_dir: Text | None = None


class ExecAttach(Body):
    """`VmExecStreamAttachRequest`."""

    exec_id: str
    cursor: Annotated[int, Field(ge=0)] | None = None
    from_latest: bool | None = None


class WriteFile(Body):
    """`VmWriteFileRequest`."""

    path: AbsolutePath
    content_b64: str
    create_dirs: bool = False
    mode: Annotated[int, Field(ge=0, le=0o7777)] = 0o644


class UpdateCommit(Body):
    """`UpdateCommitRequest`."""

    is_public: bool
    name: str | None = None
    description: str | None = None


class CreateTag(Body):
    """`CreateTagRequest` and `CreateRepoTagRequest`."""

    tag_name: Name
    commit_id: str
    description: str | None = None


class UpdateTag(Body):
    """`UpdateTagRequest` and `UpdateRepoTagRequest`: a description that is there and null clears it."""

    commit_id: str | None = None
    description: str | None = None


class CreateRepository(Body):
    """`CreateRepositoryRequest`."""

    name: Name
    description: str | None = None


class SetVisibility(Body):
    """`SetRepositoryVisibilityRequest`."""

    is_public: bool


class SetEnvironment(Body):
    """`SetEnvVarsRequest`."""

    vars: dict[Variable, VariableValue]
    replace: bool = False


Model = TypeVar("Model", bound=Body)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse_body(data: bytes, model: type[Model]) -> Model:
    """The body as that model; raises `BadInput` with one sentence."""
    try:
        value = json.loads(data, parse_constant=_no_constant)
        if b"\\u" in data:
            # Escapes can name halves of a character, which no file, process or answer could hold.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadInput(f"The request body is not JSON: {error}.", status=400) from None
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100] or "the request body"
        raise BadInput(f"{where}: {first['msg']}.", status=400) from None


def query_flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean of the query, False if it is not there."""
    text = query.get(name, "false").lower()
    if text not in {"true", "false", "1", "0"}:
        raise BadInput(f"{name} must be true or false.", status=400)
    return text in {"true", "1"}


def query_number(query: Mapping[str, str], name: str, default: int, *, least: int = 0, most: int = 2**63 - 1) -> int:
    """A number of the query between `least` and `most`."""
    text = query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,19}", text) or not least <= int(text) <= most:
        raise BadInput(f"{name} must be a whole number from {least} to {most}.", status=400)
    return int(text)
