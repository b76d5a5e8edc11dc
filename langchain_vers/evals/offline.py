"""A client of LangSmith that sends nothing."""

from __future__ import annotations

from typing import Any

import langsmith


class Offline(langsmith.Client):
    """What an evaluation that is not uploaded is given.

    `aevaluate(upload_results=False)` alone keeps its own runs to itself; those of LangChain's tools and models below them are traced by
    LangChain's tracer, which sends them by the client that it finds there (langsmith 0.15, langchain-core 1.8).
    """

    def __init__(self) -> None:
        super().__init__("http://offline.invalid", api_key="none", auto_batch_tracing=False, info={})

    def create_run(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # as the parent
        """Nothing."""

    def update_run(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  # as the parent
        """Nothing."""
