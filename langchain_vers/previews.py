"""What happened at a checkpoint, in a few words, from the values of its channels; and text of others made fit for one line of a terminal.

Pure, and tolerant: values come from any graph, and from databases that hold types which are not installed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PREVIEW_CHARACTERS = 60
"""How much of a message is quoted."""

_UNSHOWN = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)|[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]"
)
_KINDS = {"human": "user", "user": "user", "ai": "model", "assistant": "model"}


@dataclass(frozen=True)
class Event:
    """What happened last before a checkpoint.

    Attributes:
        kind: who spoke, such as "user", "model", "tool" or "state"; "" if nobody did.
        text: the first words, on one line.
    """

    kind: str = ""
    text: str = ""


def clean(text: str) -> str:
    """One line for a terminal: no escape sequences, control characters and reversals of direction; runs of blanks are one."""
    return " ".join(_UNSHOWN.sub("", text).split())


def event_of(checkpoint: Mapping[str, Any]) -> Event:
    """What happened last, as far as the values of a checkpoint tell: the last message, else which values were changed."""
    values = checkpoint.get("channel_values")
    values = values if isinstance(values, Mapping) else {}
    if "__start__" in values:
        return _input(values["__start__"])
    spoken = [value for name, value in values.items() if not name.startswith(("__", "branch:")) and _is_conversation(value)]
    messages = values["messages"] if _is_conversation(values.get("messages")) else (spoken or [None])[0]
    if messages:
        return _said(messages[-1])
    changed = [name for name in checkpoint.get("updated_channels") or () if not str(name).startswith(("__", "branch:"))]
    return Event("state", _preview(", ".join(map(str, changed)))) if changed else Event()


def _input(given: object) -> Event:
    """What a run was started with, before any node has seen it."""
    messages = given.get("messages") if isinstance(given, Mapping) else getattr(given, "messages", None)
    if isinstance(messages, Sequence) and not isinstance(messages, str) and messages:
        return _said(messages[-1])
    if messages and not isinstance(messages, Sequence):
        return _said(messages)
    if isinstance(given, Mapping):
        return Event("input", _preview(", ".join(map(str, given))))
    return Event("input", _preview(given) if isinstance(given, str) else "")


def _is_conversation(value: object) -> bool:
    return isinstance(value, list) and bool(value) and _is_message(value[-1])


def _is_message(value: object) -> bool:
    if isinstance(value, Mapping):
        return "content" in value and ("role" in value or "type" in value)
    return hasattr(value, "content") and isinstance(getattr(value, "type", None), str)


def _said(message: object) -> Event:
    if isinstance(message, str):
        return Event("user", _preview(message))
    if isinstance(message, (tuple, list)) and len(message) == 2:
        return Event(_kind(message[0]), _preview(_content(message[1])))
    role = _of(message, "role") or _of(message, "type")
    kind, text = _kind(role), _content(_of(message, "content"))
    calls = _of(message, "tool_calls")
    if calls and isinstance(calls, Sequence):
        return Event(kind, _preview(f"calls {', '.join(_call(call) for call in calls)}"))
    if kind == "tool":
        failed = "failed: " if _of(message, "status") == "error" else ""
        name = _of(message, "name")
        return Event(kind, _preview(f"{name}: {failed}{text}" if name else f"{failed}{text}"))
    return Event(kind, _preview(text))


def _kind(role: object) -> str:
    return _KINDS.get(str(role), clean(str(role))[:20])


def _of(message: object, name: str) -> object:
    return message.get(name) if isinstance(message, Mapping) else getattr(message, name, None)


def _call(call: object) -> str:
    arguments = _of(call, "args")
    told = next((value for value in arguments.values() if isinstance(value, str)), "") if isinstance(arguments, Mapping) else ""
    return f"{_of(call, 'name')}({_shortened(clean(told), 40)})"


def _content(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts = [part if isinstance(part, str) else _block(part) for part in content]
    return " ".join(part for part in parts if part)


def _block(block: object) -> str:
    if not isinstance(block, Mapping):
        return ""
    text = block.get("text")
    return text if isinstance(text, str) else f"[{block.get('type')}]"


def _preview(text: str) -> str:
    return _shortened(clean(text[: 20 * PREVIEW_CHARACTERS]), PREVIEW_CHARACTERS)


def _shortened(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3].rstrip()}..."
