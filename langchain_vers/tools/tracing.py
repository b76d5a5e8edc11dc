"""Where a call ran, put into the metadata of its LangSmith run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.tracers import LangChainTracer

_SCALARS = (str, int, float, bool)
_TEXT_LIMIT = 500
"""Longer texts (diffs) are content and not facts."""


def annotate(callbacks: BaseCallbackManager | None, artifact: Mapping[str, Any]) -> None:
    """Add the artifact's plain facts to the run that is being traced, if one is, as `vers_<name>`; not lists, long texts and None."""
    run_id = callbacks.parent_run_id if callbacks is not None else None
    if callbacks is None or run_id is None:
        return
    facts = {f"vers_{name}": value for name, value in artifact.items() if _is_fact(value)}
    for handler in callbacks.handlers:
        if isinstance(handler, LangChainTracer) and (traced := handler.run_map.get(str(run_id))) is not None:
            traced.add_metadata(facts)


def _is_fact(value: object) -> bool:
    return isinstance(value, _SCALARS) and not (isinstance(value, str) and len(value) > _TEXT_LIMIT)
