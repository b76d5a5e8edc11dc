"""What belongs to the process and not to the modules: kept where no reload loses it.

`importlib.reload` runs a module again in its old namespace, IPython's autoreload empties the namespace before, and other hot reloaders
take modules out of `sys.modules` and import them anew. What must be the same before and after lies in a module of its own that has no
file, so that none of them touches it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")
_NAME = "_langchain_vers_process"


def kept(name: str, make: Callable[[], T]) -> T:
    """What the process keeps under a name; made by whoever asks first."""
    home = sys.modules.setdefault(_NAME, ModuleType(_NAME, "What langchain_vers keeps over reloads of its modules."))
    if name not in home.__dict__:
        home.__dict__.setdefault(name, make())
    found: T = home.__dict__[name]
    return found


def keep_classes(namespace: dict[str, Any], *names: str) -> None:
    """Have the classes that a module has just defined (or only these) be those of before its reload: others catch and compare them."""
    module = namespace["__name__"]
    classes = kept(f"classes of {module}", dict[str, type])
    for name, value in list(namespace.items()):
        if isinstance(value, type) and value.__module__ == module and (not names or name in names):
            namespace[name] = classes.setdefault(name, value)
