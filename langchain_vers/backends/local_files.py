"""Files of this machine: `read`, `write`, `stat` and `scan` of the backend protocol as plain blocking functions (POSIX).

The local backend runs them on worker threads; commands, routing and wording for the model are left to others. What a path may be, how it is
shown, and what the operating system's errors become, is in `local_paths`.
"""

# Paths stay strings as they were given: pathlib would fold './' and a trailing '/', and errors should name what the caller wrote.
# ruff: noqa: PTH102, PTH104, PTH106, PTH108, PTH116, PTH118, PTH120

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat as modes
import time
from collections.abc import Iterator
from typing import Literal

from langchain_vers.backends.base import ABSENT, Entry, FileRead, FileStat, Scan
from langchain_vers.backends.globs import IgnoreRules, PathPredicate, compile_glob
from langchain_vers.backends.local_paths import absolute, display_path, translated
from langchain_vers.errors import BadInput, Conflict, Denied, VersError, WrongKind

Kind = Literal["file", "directory", "symlink", "other"]

LOCK_PATIENCE = 10.0
"""Seconds that a writer waits for another writer in the same directory."""

_CHUNK = 1 << 20
_IGNORE_FILE_LIMIT = 1 << 20


def read(path: str, *, cwd: str | None = None, offset: int = 0, length: int | None = None) -> FileRead:
    """Bytes of a regular file; see `Backend.read`. Never blocks on a FIFO or device.

    Raises:
        Missing, WrongKind, Denied: for the path.
        BadInput: for an impossible path or range.
    """
    if offset < 0 or (length is not None and length < 0):
        raise BadInput("The offset and length of a read cannot be negative.")
    full = absolute(path, cwd)
    with translated(full):
        # Looked at before it is opened: opening a device can have effects. Looked at again afterwards: it may have been replaced.
        _require_file(full, os.stat(full))
        fd = os.open(full, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        with os.fdopen(fd, "rb", buffering=0) as file:
            found = os.fstat(fd)
            _require_file(full, found)
            # To the end of the file, not to the size that it claims: files in /proc claim 0.
            chunks: list[bytes] = []
            left = length
            if offset:
                file.seek(offset)
            while left is None or left > 0:
                chunk = file.read(_CHUNK if left is None else min(left, _CHUNK))
                if not chunk:
                    break
                chunks.append(chunk)
                if left is not None:
                    left -= len(chunk)
            return FileRead(b"".join(chunks), _as_stat(found))


def write(path: str, data: bytes, *, cwd: str | None = None, mode: int | None = None, expect: str | None = None) -> FileStat:
    """Replace a file's content atomically; see `Backend.write`.

    The new content is written to a temporary file (0600) beside the target, flushed, and renamed. Mode and, where allowed, owner of an
    existing file are kept; extended attributes are not, and another hard link keeps the old content. The comparison with `expect` and the
    rename happen under an advisory lock on the directory, so that writers of this kind cannot come between each other; other programs can,
    in the moment between the two.

    Raises:
        Conflict: the file is not as `expect` says.
        WrongKind, Denied, DiskFull, BadInput: for the path. Nothing is changed then.
    """
    full = absolute(path, cwd)
    if path.endswith("/"):
        raise WrongKind(f"{display_path(path)} names a directory; give the path of a file.")
    with translated(full):
        before = _stat_or_none(full)
        target = os.path.realpath(full)
        if before is not None:
            _require_file(full, before)
            if not os.access(target, os.W_OK):
                raise Denied(f"{display_path(full)} is not writable for this user; nothing was written.")
        elif expect not in (None, ABSENT):
            raise Conflict(f"{display_path(full)} does not exist any more; nothing was written.")
        parent = os.path.dirname(target)
        made = _make_parents(parent)
        temporary: str | None = None
        try:
            new_mode = mode
            if new_mode is None and before is None:
                new_mode = _mode_of_new_file(parent)
            # Bound before it is made: a failed or interrupted open leaves nothing, and removing nothing is no error.
            temporary = os.path.join(parent, f".vers-{secrets.token_hex(8)}.tmp")
            written = _write_temporary(temporary, data, before, new_mode)
            with _directory_lock(parent, full):
                if expect is not None:
                    _check_version(full, target, expect)
                if expect == ABSENT:
                    _rename_if_absent(temporary, target, full)
                else:
                    os.rename(temporary, target)
        except BaseException:
            if temporary is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
            for directory in reversed(made):
                with contextlib.suppress(OSError):  # another writer may have put something there by now
                    os.rmdir(directory)
            raise
        return written


def stat(path: str, *, cwd: str | None = None) -> FileStat:
    """What a path is; see `Backend.stat`.

    Raises:
        Missing, Denied: for the path.
        BadInput: for an impossible one.
    """
    full = absolute(path, cwd)
    with translated(full):
        found = _stat_or_none(full)
        return _as_stat(found if found is not None else os.lstat(full))


def scan(
    path: str,
    *,
    cwd: str | None = None,
    pattern: str | None = None,
    recursive: bool = False,
    ignored: bool = True,
    limit: int = 1000,
) -> Scan:
    """Entries of a directory or its tree; see `Backend.scan`.

    A `.git` is listed and not entered. Symlinks are listed and not followed, other than `path` itself. Directories below `path` that cannot
    be read are skipped. Stops as soon as there is one entry more than `limit`.

    Raises:
        Missing, WrongKind, Denied: for the path.
        BadInput: for the pattern, the limit, or an impossible path.
    """
    if limit < 1:
        raise BadInput(f"The limit of a listing is {limit}; give at least 1.")
    picks: PathPredicate | None = compile_glob(pattern) if pattern is not None else None
    full = absolute(path, cwd)
    with translated(full):
        if not modes.S_ISDIR(os.stat(full).st_mode):
            raise WrongKind(f"{display_path(full)} is not a directory; give a directory, or read the file.")
        rules = None if ignored else IgnoreRules()
        entries: list[Entry] = []
        for entry in _walk(full, recursive=recursive, rules=rules):
            if picks is not None and not picks(entry.path):
                continue
            if len(entries) == limit:
                return Scan(entries, truncated=True)
            entries.append(entry)
        return Scan(entries)


def _kind_of(mode: int) -> Kind:
    if modes.S_ISREG(mode):
        return "file"
    if modes.S_ISDIR(mode):
        return "directory"
    return "symlink" if modes.S_ISLNK(mode) else "other"


def _as_stat(found: os.stat_result) -> FileStat:
    return FileStat(_kind_of(found.st_mode), found.st_size, modes.S_IMODE(found.st_mode), found.st_mtime)


def _require_file(path: str, found: os.stat_result) -> None:
    if modes.S_ISDIR(found.st_mode):
        raise WrongKind(f"{display_path(path)} is a directory; give the path of a file.")
    if not modes.S_ISREG(found.st_mode):
        raise WrongKind(f"{display_path(path)} is a pipe, socket or device; only regular files can be read or written.")


def _stat_or_none(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except FileNotFoundError:
        return None


def _make_parents(parent: str) -> list[str]:
    """Make what is missing of a directory's path; the directories made, outermost first."""
    missing: list[str] = []
    while not os.path.lexists(parent):
        missing.append(parent)
        parent = os.path.dirname(parent)
    made: list[str] = []
    try:
        for directory in reversed(missing):
            try:
                os.mkdir(directory)
            except FileExistsError:
                continue
            made.append(directory)
    except BaseException:
        for directory in reversed(made):
            with contextlib.suppress(OSError):  # another writer may have put something there by now
                os.rmdir(directory)
        raise
    return made


def _mode_of_new_file(parent: str) -> int:
    """The mode that the system gives a new file here: 0o666 less the umask, or what the directory's default ACL says.

    Found out with an empty probe: asking for the umask itself means changing it for every thread of the process.
    """
    probe = os.path.join(parent, f".vers-{secrets.token_hex(8)}.tmp")
    fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        return modes.S_IMODE(os.fstat(fd).st_mode)
    finally:
        os.close(fd)
        os.unlink(probe)


def _write_temporary(temporary: str, data: bytes, before: os.stat_result | None, mode: int | None) -> FileStat:
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view[: 64 * _CHUNK]) :]
        if mode is None and before is not None:
            mode = modes.S_IMODE(before.st_mode)
        if before is not None and not _keep_owner(fd, before):
            # A file of another owner must not hand out that owner's rights.
            mode = (mode or 0) & ~(modes.S_ISUID | modes.S_ISGID)
        # After the owner: a change of owner clears the set-id bits.
        os.fchmod(fd, 0o600 if mode is None else mode)
        os.fsync(fd)
        return _as_stat(os.fstat(fd))
    finally:
        os.close(fd)


def _keep_owner(fd: int, before: os.stat_result) -> bool:
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) == (before.st_uid, before.st_gid):
        return True
    try:
        os.fchown(fd, before.st_uid, before.st_gid)
    except OSError:
        with contextlib.suppress(OSError):  # the group alone may still be allowed
            os.fchown(fd, -1, before.st_gid)
        return False
    return True


@contextlib.contextmanager
def _directory_lock(parent: str, path: str) -> Iterator[None]:
    """An advisory lock on a directory. Goes without one where the directory cannot be opened or the file system has no locks."""
    try:
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        yield
        return
    try:
        deadline = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Conflict(
                        f"{display_path(path)} was not written, because another program has held the lock on its directory for "
                        f"{LOCK_PATIENCE:g} s; try again."
                    ) from None
                time.sleep(0.005)
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                    break
                raise
        yield
    finally:
        os.close(fd)


def _check_version(path: str, target: str, expect: str) -> None:
    if expect == ABSENT:
        if os.path.lexists(target):
            raise Conflict(f"{display_path(path)} exists already; nothing was written.")
        return
    digest = hashlib.sha256()
    try:
        fd = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Conflict(f"{display_path(path)} does not exist any more; nothing was written.") from None
    with os.fdopen(fd, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != expect:
        raise Conflict(f"{display_path(path)} has changed since it was read; nothing was written, read it again.")


def _rename_if_absent(temporary: str, target: str, path: str) -> None:
    # A link, unlike a rename, never replaces what another program has just put there.
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise Conflict(f"{display_path(path)} exists already; nothing was written.") from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES):
            raise
        os.rename(temporary, target)  # a file system without hard links
    else:
        os.unlink(temporary)


def _walk(root: str, *, recursive: bool, rules: IgnoreRules | None) -> Iterator[Entry]:
    """Entries in byte order of their paths. A directory's content sorts as 'name/', thus behind a sibling 'name-x'."""
    # Each level: what is left of it, smallest last. An entry, or (None) the order to go down into the directory of that path.
    levels: list[list[tuple[bytes, str, Entry | None]]] = [_level(root, "", recursive=recursive, rules=rules)]
    while levels:
        if not levels[-1]:
            levels.pop()
            continue
        _, path, entry = levels[-1].pop()
        if entry is not None:
            yield entry
            continue
        with contextlib.suppress(OSError):  # a directory below the root that cannot be read, or is gone by now, is left out
            levels.append(_level(root, path, recursive=True, rules=rules))


def _level(root: str, directory: str, *, recursive: bool, rules: IgnoreRules | None) -> list[tuple[bytes, str, Entry | None]]:
    here = os.path.join(root, directory) if directory else root
    items: list[tuple[bytes, str, Entry | None]] = []
    with os.scandir(here) as listing:
        children = list(listing)
    if rules is not None and any(child.name == ".gitignore" and child.is_file(follow_symlinks=False) for child in children):
        # A .gitignore that cannot be read excludes nothing, nor does one that is a symlink, as in git.
        with contextlib.suppress(VersError):
            rules.add(directory, read(os.path.join(here, ".gitignore"), length=_IGNORE_FILE_LIMIT).data)
    for child in children:
        path = f"{directory}/{child.name}" if directory else child.name
        try:
            is_dir = child.is_dir(follow_symlinks=False)
            if rules is not None and rules.ignored(path, is_dir):
                continue
            found = child.stat(follow_symlinks=False)
        except OSError:
            continue  # gone since it was listed
        key = os.fsencode(child.name)
        items.append((key, path, Entry(path, _kind_of(found.st_mode), found.st_size if modes.S_ISREG(found.st_mode) else 0)))
        if recursive and is_dir and child.name != ".git":
            items.append((key + b"/", path, None))
    items.sort(key=lambda item: item[0], reverse=True)
    return items
