"""Where paths really are on a machine: symlinks followed, patterns expanded, files that do not exist yet placed where they would be made.

For those that decide by paths. All paths of a call are asked about at once: on this machine by the system's own calls, elsewhere in one
round trip.
"""

from __future__ import annotations

import glob
import os
import shlex
from collections.abc import Sequence

from langchain_vers._io import io
from langchain_vers.backends.base import Backend
from langchain_vers.backends.local import LocalBackend
from langchain_vers.backends.premises import Ground, Spot
from langchain_vers.errors import ServerFault

MOST_MATCHES = 500
"""How many paths a pattern may stand for; more are not known."""
_SECONDS = 30.0


async def look_up(backend: Backend, cwd: str | None, spots: Sequence[Spot]) -> Ground:
    """Where paths are, as seen from `cwd` (None: where the backend's commands start). Coroutine of the I/O thread.

    Raises:
        VersError: of the machine.
    """
    if isinstance(backend, LocalBackend):
        return await io.blocking(_here, backend.user_home, backend.home, cwd or backend.home, tuple(spots))
    start = getattr(backend, "home", None)
    result = await backend.exec(_script(start, spots), cwd=cwd, timeout=_SECONDS)
    fields = result.tail.decode("utf-8", "surrogateescape").split("\0")
    if result.exit_code != 0 or result.truncated or len(fields) < 5 or fields[-1] != "":
        detail = result.tail[-300:].decode("utf-8", "replace").strip() or f"exit code {result.exit_code}"
        raise ServerFault(f"the machine could not say where the paths of the call are: {detail}", machine_id=backend.machine_id)
    home_as_set, home, first, here, *rest = fields[:-1]
    real: list[tuple[str, ...] | None] = []
    current: list[str] = []
    for entry in rest:
        if entry:
            current.append(entry)
            continue
        real.append(None if not current or "?" in current or len(current) > MOST_MATCHES else tuple(current))
        current = []
    if len(real) != len(spots):
        raise ServerFault("the machine did not answer about all paths of the call; try again", machine_id=backend.machine_id)
    return Ground(home, home_as_set, first, here, tuple(real))


def _here(home: str, start: str, cwd: str, spots: tuple[Spot, ...]) -> Ground:
    here = os.path.realpath(cwd)
    home_as_set, home = home, os.path.realpath(home)

    def real(spot: Spot) -> tuple[str, ...] | None:
        path = home + spot.text if spot.home else os.path.join(here, spot.text)  # noqa: PTH118  # `..` and a trailing "/" are kept
        if "\0" in path:
            return None
        try:
            if not spot.pattern:
                return (os.path.realpath(path),)
            found = sorted(glob.glob(path)) or [path]  # noqa: PTH207  # as a shell does it, hidden files only by name
            folder, name = os.path.split(path)
            if name.startswith("."):  # many a bash has these among the matches
                found += [f"{folder}/.", f"{folder}/.."]
            return None if len(found) > MOST_MATCHES else tuple(dict.fromkeys(os.path.realpath(each) for each in found))
        except (OSError, ValueError):
            return None

    return Ground(home, home_as_set, os.path.realpath(start), here, tuple(real(spot) for spot in spots))


# `readlink -f` fails where more than the last part does not exist: what is there is resolved, and the rest put behind it. A name that
# ends with a line break would lose it in a substitution, hence the "x".
_FUNCTIONS = r"""
__real() {
  case $1 in /*) __p=$1 ;; *) __p=${__here%/}/$1 ;; esac
  __rest=
  while :; do
    while [ "$__p" != / ] && [ "$__p" != "${__p%/}" ]; do __p=${__p%/}; done
    if __q=$(readlink -f -- "$__p" 2>/dev/null && printf x) && [ -n "${__q%?x}" ]; then
      __q=${__q%x}
      __q=${__q%?}
      [ "$__q" != / ] || [ -z "$__rest" ] || __q=
      printf '%s\0' "$__q$__rest"
      return
    fi
    __n=${__p##*/}
    # A loop of symlinks, or a way up from what does not exist.
    if [ -L "$__p" ] || [ "$__n" = .. ] || [ "$__n" = . ] || [ -z "$__p" ]; then printf '?\0'; return; fi
    __rest=/$__n$__rest
    __p=${__p%/*}
    __p=${__p:-/}
  done
}
__one() { __real "$1"; printf '\0'; }
__all() {
  IFS=
  set -- $1
  if [ "$#" -gt %d ]; then printf '?\0'; else for __f in "$@"; do __real "$__f"; done; fi
  printf '\0'
}
cd -P . || exit
__here=$PWD
"""


def _script(start: str | None, spots: Sequence[Spot]) -> str:
    lines = [
        _FUNCTIONS.replace("%d", str(MOST_MATCHES)),
        "printf '%s\\0' \"$HOME\"",
        '__real "$HOME"',
        f"__real {shlex.quote(start) if start else chr(34) + '$HOME' + chr(34)}",
    ]
    lines.append("printf '%s\\0' \"$__here\"")
    for spot in spots:
        text = f'"$HOME"{shlex.quote(spot.text)}' if spot.home else shlex.quote(spot.text)
        lines.append(f"{'__all' if spot.pattern else '__one'} {text}")
    return "\n".join(lines)
