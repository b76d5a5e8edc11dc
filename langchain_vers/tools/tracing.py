"""Where a call ran and what came of it, put into the metadata of its LangSmith run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.tracers import LangChainTracer

from langchain_vers.tools.base import NOWHERE

_SCALARS = (str, int, float, bool)
_TEXT_LIMIT = 500
"""Longer texts (diffs) are content and not facts."""
_HOME = "~"
"""The working directory of a machine's login, as a shell writes it, where no command has said yet which one that is."""


def annotate(callbacks: object, artifact: Mapping[str, Any]) -> None:
    """Add the artifact's plain facts to the run that is being traced, if one is, as `vers_<name>`; not lists and long texts.

    What every artifact has (`NOWHERE`) is there for every run, also as None: a run without an exit code says so. `callbacks`: those of the
    tool's run, as LangChain hands them to its function; anything else is no run that is traced.
    """
    run_id = callbacks.parent_run_id if isinstance(callbacks, BaseCallbackManager) else None
    if not isinstance(callbacks, BaseCallbackManager) or run_id is None:
        return
    facts = facts_of(artifact)
    for handler in callbacks.handlers:
        if isinstance(handler, LangChainTracer) and (traced := handler.run_map.get(str(run_id))) is not None:
            traced.add_metadata(facts)


def facts_of(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """What of an artifact is put into the metadata of a run."""
    facts = {f"vers_{name}": value for name, value in artifact.items() if _is_fact(value) or (value is None and name in NOWHERE)}
    if facts.get("vers_backend") is not None and facts.get("vers_cwd") is None:
        facts["vers_cwd"] = _HOME
    return facts


def _is_fact(value: object) -> bool:
    return isinstance(value, _SCALARS) and not (isinstance(value, str) and len(value) > _TEXT_LIMIT)
