"""Whether the run that a sync call belongs to is being given up.

Sync graphs carry out their tools in threads, and nothing tells a thread that whoever waits for it has been interrupted: LangGraph, and the
executors of `concurrent.futures` below it, wait for it to end before they let Ctrl-C, or the closing of a stream, through. A command of ten
minutes would then have to be waited for, and goes on on the machine. So a sync call that waits looks from time to time at what the other
threads are doing. If one of them is leaving this very run (a frame of `Pregel.stream` that has the run's own `RunControl`, which graphs
nested in it share) with KeyboardInterrupt, SystemExit or GeneratorExit, the call is ended like one of the main thread would be.

Nothing official tells: a `RunControl` is drained only by who was given it, and is looked at between steps; callbacks (`on_chain_error`)
hear of the end after the executor has waited; and futures that run cannot be cancelled (langgraph 1.2).

This relies on the names of LangGraph's local variables; where they are others, nothing is found, and all is as without it
(`tests/tools/test_interruptions.py` would tell). Async graphs cancel their tasks and need none of it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

_LEAVING = (KeyboardInterrupt, SystemExit, GeneratorExit)
_DRIVER = "langgraph/pregel/main.py"


def leaving(config: Mapping[str, Any] | None) -> Callable[[], bool] | None:
    """What tells whether the run of a config is being given up; None where that cannot be, or reaches the call by itself."""
    runtime = ((config or {}).get("configurable") or {}).get("__pregel_runtime")
    control = getattr(runtime, "control", None)
    if control is None or threading.current_thread() is threading.main_thread():
        return None
    return lambda: _is_left(control)


def _is_left(control: object) -> bool:
    here = threading.get_ident()
    suspects = [thread for thread, raised in sys._current_exceptions().items() if thread != here and _leaves(raised)]
    if not suspects:
        return False
    frames = sys._current_frames()
    return any(_drives(frames.get(thread), control) for thread in suspects)


def _leaves(raised: object) -> bool:
    error = raised[1] if isinstance(raised, tuple) else raised  # Python 3.11 has all three parts of `sys.exc_info`
    return isinstance(error, _LEAVING)


def _drives(frame: FrameType | None, control: object) -> bool:
    """Whether a thread is in the middle of the run."""
    while frame is not None:
        code = frame.f_code
        if code.co_name == "stream" and code.co_filename.replace("\\", "/").endswith(_DRIVER):
            runtime = frame.f_locals.get("runtime")
            if getattr(runtime, "control", None) is control:
                return True
        frame = frame.f_back
    return False
