"""What agents are evaluated on: a dataset of LangSmith, or examples that were made here."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import langsmith
from langsmith.schemas import Dataset, Example
from langsmith.utils import LangSmithNotFoundError

from langchain_vers.errors import BadInput

Data = str | uuid.UUID | Dataset | Iterable[Example | Mapping[str, Any]]
"""A dataset (its name, its id, or itself), or examples: LangSmith's, or mappings with `inputs` and perhaps `outputs` (the reference),
`metadata` and `id`.
"""

NO_DATASET = uuid.UUID(int=0)
"""The dataset of examples that are in none."""
_FIELDS = {"inputs", "outputs", "metadata", "id"}
_REMEDY = "give the name of a dataset, or a list of examples such as {'inputs': {...}, 'outputs': {...}}"


def examples_of(data: Data, client: langsmith.Client | None, *, upload: bool, attachments: bool = False) -> list[Example]:
    """The examples, in their order. Asks the server (`client`, default: LangSmith's own) only for a dataset; may block.

    Raises:
        BadInput: there are none, one of them makes no sense, or they are to be uploaded and are in no dataset.
    """
    if isinstance(data, str) and not data.strip():
        raise BadInput(f"the name of the dataset is empty; {_REMEDY}")
    if isinstance(data, str | uuid.UUID | Dataset):
        try:
            found = _of_dataset(data, client or langsmith.Client(), attachments)
        except LangSmithNotFoundError:
            raise BadInput(f"there is no dataset {data!r}; look for its name in LangSmith, or give examples") from None
        if not found:
            raise BadInput(f"the dataset {data if not isinstance(data, Dataset) else data.name} has no examples; add some, or name another")
        return found
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise BadInput(f"the data must be several examples, not {type(data).__name__}; {_REMEDY}")
    found = [_example(item, number) for number, item in enumerate(data)]
    if not found:
        raise BadInput(f"there are no examples to evaluate on; {_REMEDY}")
    ids = {example.id for example in found}
    if len(ids) < len(found):
        raise BadInput("two examples have the same id; give each its own, or none")
    if upload and any(example.dataset_id == NO_DATASET for example in found):
        raise BadInput(
            "results are uploaded to a dataset, and these examples are in none; make one (client.create_dataset, client.create_examples) "
            "and give its name, or evaluate with upload_results=False"
        )
    return found


def _of_dataset(data: str | uuid.UUID | Dataset, client: langsmith.Client, attachments: bool) -> list[Example]:
    if isinstance(data, Dataset):
        data = data.id
    try:
        known = uuid.UUID(str(data))
    except ValueError:
        return list(client.list_examples(dataset_name=str(data), include_attachments=attachments))
    return list(client.list_examples(dataset_id=known, include_attachments=attachments))


def _example(item: object, number: int) -> Example:
    if isinstance(item, Example):
        return item
    if not isinstance(item, Mapping) or "inputs" not in item:
        raise BadInput(f"example {number} has no inputs; {_REMEDY}")
    if unknown := set(item) - _FIELDS:
        raise BadInput(f"example {number} has {', '.join(map(repr, sorted(map(str, unknown))))}, which no example has; {_REMEDY}")
    for name in ("inputs", "outputs", "metadata"):
        if not isinstance(item.get(name) or {}, Mapping):
            raise BadInput(f"the {name} of example {number} must be a mapping, not {type(item[name]).__name__}")
    try:
        known = uuid.UUID(str(item["id"])) if item.get("id") is not None else uuid.uuid4()
    except ValueError:
        raise BadInput(f"the id of example {number} must be a UUID, not {item['id']!r}") from None
    return Example(
        id=known,
        dataset_id=NO_DATASET,
        inputs=dict(item["inputs"] or {}),
        outputs=None if item.get("outputs") is None else dict(item["outputs"]),
        metadata=None if item.get("metadata") is None else dict(item["metadata"]),
        created_at=datetime.now(UTC),
    )
