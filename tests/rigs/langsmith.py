"""LangSmith, as far as evaluations and its pytest plugin need it: traces, datasets, examples, experiments and feedback."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rigs.traces import Collector


class LangSmith(Collector):
    """Keeps what it is told in memory, by id."""

    def __init__(self) -> None:
        super().__init__()
        self.datasets: dict[str, dict[str, Any]] = {}
        self.examples: dict[str, dict[str, Any]] = {}
        self.experiments: dict[str, dict[str, Any]] = {}

    def add_dataset(self, name: str, *examples: dict[str, Any]) -> str:
        """A dataset with these examples (`inputs`, `outputs`); its id."""
        dataset = _made(name=name)
        self.datasets[dataset["id"]] = dataset
        for example in examples:
            made = _made(dataset_id=dataset["id"], metadata={}, **example)
            self.examples[made["id"]] = made
        return str(dataset["id"])

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        split = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        parts = [part for part in split.path.split("/") if part not in {"", "api", "v1"}]
        kind, rest = (parts[0] if parts else ""), parts[1:]
        if kind == "info":
            return 200, self.info
        told = json.loads(body) if body[:1] in {b"{", b"["} else {}
        if kind == "datasets":
            return self._datasets(method, rest, query, told)
        if kind == "examples":
            return self._examples(method, rest, query, told)
        if kind == "sessions":
            if method == "POST":
                made = _made(tenant_id=str(uuid.UUID(int=1)), start_time=_now(), **told)
                self.experiments[made["id"]] = made
                return 200, made
            if method == "PATCH":
                self.experiments[rest[0]].update({name: value for name, value in told.items() if value is not None})
                return 200, self.experiments[rest[0]]
            return 200, self.experiments[rest[0]] if rest else list(self.experiments.values())
        if kind == "feedback":
            return 200, told
        return super().reply(method, path, body)

    def _datasets(self, method: str, rest: list[str], query: dict[str, str], told: Any) -> tuple[int, Any]:
        if method == "POST":
            dataset = _made(**{"metadata": told.get("extra", {}).get("metadata"), **told})
            self.datasets[dataset["id"]] = dataset
            return 200, dataset
        if rest and method == "GET":
            return (200, self.datasets[rest[0]]) if rest[0] in self.datasets else (404, {"detail": "not found"})
        if method == "GET":
            return 200, [each for each in self.datasets.values() if each["name"] == query.get("name", each["name"])]
        return 200, {}

    def _examples(self, method: str, rest: list[str], query: dict[str, str], told: Any) -> tuple[int, Any]:
        if method == "POST":
            example = _made(**told)
            self.examples[example["id"]] = example
            return 200, example
        if rest:
            return (200, self.examples[rest[0]]) if rest[0] in self.examples else (404, {"detail": "not found"})
        if int(query.get("offset", 0)) > 0:
            return 200, []
        return 200, [each for each in self.examples.values() if each["dataset_id"] == query.get("dataset", each["dataset_id"])]


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _made(**facts: Any) -> dict[str, Any]:
    known = {name: value for name, value in facts.items() if value is not None}
    return {"id": str(uuid.uuid4()), "created_at": _now(), "modified_at": _now(), **known}
