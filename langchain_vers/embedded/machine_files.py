"""Reading and writing a machine's files for the HTTP API, done by a shell inside the machine and never by a path of the host."""

from __future__ import annotations

from langchain_vers.embedded.engine import EngineError
from langchain_vers.embedded.execution import Finished, Spawn, output_of
from langchain_vers.errors import BadInput, Denied, DiskFull, Missing, VersError, WrongKind

_MISSING, _WRONG_KIND, _DENIED, _NO_FOLDER, _FULL = 40, 41, 42, 43, 44

_READ = f"""
[ -e "$1" ] || exit {_MISSING}
[ -f "$1" ] || exit {_WRONG_KIND}
[ -r "$1" ] || exit {_DENIED}
exec cat -- "$1"
"""

# The new content stands beside the old one until it is complete, so that a failure leaves the old one whole; a symlink is followed.
_WRITE = f"""
path=$1
if [ -L "$path" ]; then path=$(readlink -f -- "$path") || exit {_MISSING}; fi
[ ! -d "$path" ] || exit {_WRONG_KIND}
folder=$(dirname -- "$path")
if [ ! -d "$folder" ]; then
  [ "$3" = 1 ] || exit {_NO_FOLDER}
  mkdir -p -- "$folder" || exit {_WRONG_KIND}
fi
new=$(mktemp "$folder/.vers-XXXXXXXX") || exit {_DENIED}
trap 'rm -f -- "$new"' EXIT
cat > "$new" || exit {_FULL}
[ "$(wc -c < "$new")" -eq "$4" ] || exit {_FULL}
chmod -- "$2" "$new" && mv -f -- "$new" "$path" || exit {_DENIED}
"""


async def read_file(spawn: Spawn, path: str) -> bytes:
    """The bytes of a regular file; raises `Missing`, `WrongKind`, `Denied` or `DiskFull` (larger than can be answered)."""
    finished = await output_of(spawn, ["/bin/sh", "-c", _READ, "sh", path])
    _check(finished, path)
    return finished.stdout


async def write_file(spawn: Spawn, path: str, data: bytes, *, mode: int, create_dirs: bool) -> None:
    """Replace a file's content atomically; raises `Missing` (its folder, without `create_dirs`), `WrongKind`, `Denied`, `DiskFull`."""
    argv = ["/bin/sh", "-c", _WRITE, "sh", path, f"{mode:04o}", "1" if create_dirs else "0", str(len(data))]
    _check(await output_of(spawn, argv, stdin=data), path)


def _check(finished: Finished, path: str) -> None:
    errors: dict[int, VersError] = {
        _MISSING: Missing(f"There is no file {path} in the VM."),
        _WRONG_KIND: WrongKind(f"{path} is not a regular file, or one of its folders is not a folder."),
        _DENIED: Denied(f"{path} cannot be accessed in the VM."),
        _NO_FOLDER: BadInput(f"The folder of {path} does not exist in the VM; ask for create_dirs."),
        _FULL: DiskFull(f"{path} could not be written completely; the VM's disk may be full. The old content is whole."),
    }
    if finished.exit_code in errors:
        raise errors[finished.exit_code]
    if finished.exit_code != 0:
        raise EngineError(f"{path} could not be accessed: {finished.stderr.decode(errors='replace').strip()[:500]}")
