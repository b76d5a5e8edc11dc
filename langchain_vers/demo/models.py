"""The model that `--model` names, made ready or refused with a reason before anything is started. No key appears in any message."""

from __future__ import annotations

import os

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from pydantic import SecretStr

_SHOWN = 300


class CannotBegin(Exception):
    """The demo cannot run as it was asked for; the message says what to do."""


def chosen(name: str) -> BaseChatModel:
    """The model of a `provider:name`.

    Raises:
        CannotBegin: no such provider, its package is not installed, or it has no key.
    """
    try:
        model = init_chat_model(name)
    except ImportError as error:
        raise CannotBegin(f"The model {name} cannot be used: {first_line(error)}") from error
    except Exception as error:  # each provider raises its own
        raise CannotBegin(f"The model {name} cannot be made, check its name and key: {first_line(error)}") from error
    variables = sorted(set(model.lc_secrets.values()))
    if variables and not _keys(model):
        raise CannotBegin(f"The model {name} has no key; set {' or '.join(variables)}.")
    return model


def failure(model: BaseChatModel, error: Exception) -> str:
    """The first sentence of a provider's error, without the model's keys."""
    text = first_line(error)
    for key in _keys(model):
        text = text.replace(key, "(key)")
    return text


def first_line(error: Exception) -> str:
    """An error in one bounded line."""
    lines = str(error).strip().splitlines()
    return lines[0][:_SHOWN] if lines else type(error).__name__


def _keys(model: BaseChatModel) -> list[str]:
    """The keys that a model holds, or would take from the environment."""
    found = []
    for attribute, variable in model.lc_secrets.items():
        value = getattr(model, attribute, None)
        text = value.get_secret_value() if isinstance(value, SecretStr) else value if isinstance(value, str) else ""
        found.append(text or os.environ.get(variable, ""))
    return [key for key in found if key]
