"""Paths of this machine: their absolute form, how they are shown, and what the operating system's errors about them become.

For `local_files`, which does what is to be done with the files; nothing here touches one.

Names that are not UTF-8: paths are `str` as `os.fsdecode` makes them, so a byte that does not decode is a lone surrogate (U+DC80 to
U+DCFF). It survives the way out of `local_files.scan` and back into `read`. Such a string cannot be encoded for a model or a log;
`display_path` shows it with replacement characters, and error messages use that. A name that was shown so cannot be given back; `bash` can
still reach it.
"""

# Paths stay strings as they were given: pathlib would fold './' and a trailing '/', and errors should name what the caller wrote.
# ruff: noqa: PTH111, PTH118

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator

from langchain_vers.errors import BadInput, Conflict, Denied, DiskFull, Missing, VersError, WrongKind


def absolute(path: str, cwd: str | None) -> str:
    """The absolute form of a path as a backend is given it. '..' is kept: only the kernel knows where it leads behind a symlink.

    Raises:
        BadInput: the path is empty, has a NUL, or has characters that no file name can have.
    """
    for part, what in ((path, "path"), (cwd, "working directory")):
        if part is None:
            continue
        if not part:
            raise BadInput(f"The {what} is empty; give one.")
        if "\0" in part:
            raise BadInput(f"The {what} {display_path(part.replace(chr(0), '␀'))} contains a NUL character; no file can have it.")
        try:
            os.fsencode(part)
        except UnicodeEncodeError:
            raise BadInput(f"The {what} {display_path(part)} contains a character that cannot be part of a file name.") from None
    return os.path.join(os.path.expanduser("~") if cwd is None else cwd, path)


def display_path(path: str) -> str:
    """The path as text that every encoder takes: surrogates become U+FFFD. Not to be used as a path."""
    return (
        path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        if _is_fs_text(path)
        else path.encode("utf-8", "replace").decode()
    )


def _is_fs_text(path: str) -> bool:
    try:
        path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turns the operating system's errors about `path` into the package's, each with one sentence that names the path."""
    try:
        yield
    except VersError:
        raise
    except OSError as error:
        raise _translate(error, display_path(path)) from error


_SENTENCES: dict[int, tuple[Callable[[str], VersError], str]] = {
    errno.ENOENT: (Missing, "{path} does not exist; check the path, or list its directory."),
    errno.ENOTDIR: (WrongKind, "{path} leads through a file as if it were a directory; check the path."),
    errno.EISDIR: (WrongKind, "{path} is a directory; give the path of a file."),
    errno.ENXIO: (WrongKind, "{path} is not a regular file; only regular files can be read or written."),
    errno.EEXIST: (WrongKind, "{path} cannot be made, because a file is where a directory is needed."),
    errno.EACCES: (Denied, "{path} cannot be accessed, because this user has no permission; change the mode or use another path."),
    errno.EPERM: (Denied, "{path} cannot be changed, because the system does not permit it to this user; use another path."),
    errno.EROFS: (Denied, "{path} is on a file system that is mounted read-only; use another path."),
    errno.ENOSPC: (DiskFull, "{path} was not written, because the disk is full; free some space, then try again."),
    errno.EDQUOT: (DiskFull, "{path} was not written, because the disk quota of this user is used up; free some space, then try again."),
    errno.EFBIG: (DiskFull, "{path} was not written, because it would be larger than a file may be here."),
    errno.ENAMETOOLONG: (BadInput, "{path} has a name that is too long for the file system; use a shorter one."),
    errno.ELOOP: (BadInput, "{path} leads through too many symbolic links, perhaps in a circle; check where they point."),
    errno.EINVAL: (BadInput, "{path} is not a path that the system accepts; check it."),
    errno.EILSEQ: (BadInput, "{path} has a name that the file system does not take; use another one."),
    errno.EBUSY: (
        Conflict,
        "{path} is in use by the system, perhaps as a mount point; write into it with a command.",
    ),
    errno.ETXTBSY: (Conflict, "{path} is a program that is running; end it, then try again."),
}


def _translate(error: OSError, path: str) -> VersError:
    if len(path) > 500:
        path = f"{path[:300]}...{path[-100:]}"
    known = _SENTENCES.get(error.errno or 0)
    if known is None:
        return VersError(f"{path} could not be used: {error.strerror or type(error).__name__}.")
    kind, sentence = known
    return kind(sentence.format(path=path))
