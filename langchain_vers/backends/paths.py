"""Which folders of this machine a guest sees, and under which names: the path map of a backend. Pure; nothing here touches a file.

What must be resolved first, and by whom: a symlink or a `..` behind one can lead anywhere, and only the file system knows where. So a map
is built from folders that are resolved (`os.path.realpath`), and is asked about paths that are. Either the caller resolves, and a `..` is
refused here; or it gives the map a `resolve`, which is called for every host path before anything is decided by its name. A guest's paths
are never resolved here: what comes out of `to_host` is a path that the guest has chosen, so with a `resolve` it is looked at again, and
without one the caller has to make sure that it does not lead out of the folder.

Running text (prompts, output, errors) is the business of `path_text`, which `PathMap` uses; there a path is only shown, never used.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from langchain_vers.backends.path_text import PLACEHOLDER, Rule, TextMap
from langchain_vers.errors import BadInput, Denied

Mode = Literal["ro", "rw", "copy"]
"""How a guest sees a folder of this machine: read-only, for reading and writing, or as a copy that is made when it is attached."""
Resolve = Callable[[str], str]
"""Where a host path really is, as `os.path.realpath` says it."""


@dataclass(frozen=True)
class Mount:
    """A folder of this machine that a guest sees.

    Attributes:
        host: its absolute path on this machine.
        guest: its absolute path on the guest.
        mode: "ro" and "rw" bind it where the engine can; "copy" copies it in when the guest is attached, and nothing comes back by itself.

    Both paths are kept in their plain form: no `.`, no double or trailing slash.

    Raises:
        BadInput: a path is relative, empty, or has a NUL or a `..`; or there is no such mode.
    """

    host: str
    guest: str
    mode: Mode = "rw"

    def __post_init__(self) -> None:
        for name in ("host", "guest"):
            given: object = getattr(self, name)
            if not isinstance(given, str | os.PathLike):
                raise BadInput(f"the {name} folder of a mount must be a path, not {type(given).__name__}")
            path = os.fspath(given)
            if not isinstance(path, str):
                raise BadInput(f"the {name} folder of a mount must be a path of text, not of bytes")
            object.__setattr__(self, name, _join(_parts(path, f"{name} folder of a mount")))
        if self.mode not in get_args(Mode):
            raise BadInput(f"{self.mode!r} is no mode of a mount; use one of {', '.join(map(repr, get_args(Mode)))}")


class PathMap:
    """Host paths to guest paths and back, by the longest folder that holds them.

    Args:
        mounts: the folders. Their host paths are resolved by `resolve` if it is given, else they must be already.
        resolve: where a host path really is; see the module's docstring.
        private: folders of the host that no guest hears of, such as the home of its user. In text, a path in there that is not mapped is
            replaced by a placeholder.
        own: folders of the guest that are no mounts, such as its home: in text that a guest printed, a path in there is its own, also if
            the host has a folder of that name.
        ignore_case: the host's file systems tell no upper from lower case, nor composed from decomposed letters (macOS). A guest's always
            do.

    Raises:
        BadInput: it would not be clear what a path means: two mounts have one host folder, or one guest folder; or one's guest folder lies
            in another's without being the same folder of the host. A path is malformed.
    """

    def __init__(
        self,
        mounts: Iterable[Mount] = (),
        *,
        resolve: Resolve | None = None,
        private: Iterable[str] = (),
        own: Iterable[str] = (),
        ignore_case: bool = False,
    ) -> None:
        self._resolve = resolve
        self._ignore_case = ignore_case
        given = tuple(mounts)
        self.mounts: tuple[Mount, ...] = tuple(Mount(self._resolved(mount.host), mount.guest, mount.mode) for mount in given)
        """The mounts, with resolved host folders."""
        self._hosts = [self._key(_parts(mount.host, "host folder")) for mount in self.mounts]
        self._guests = [_parts(mount.guest, "guest folder") for mount in self.mounts]
        self._check()
        self._private: list[str] = []
        for folder in private:
            spellings = {_join(_parts(folder, "private folder")), self._resolved(folder)}
            # What is mapped is not hidden: the guest has it under another name.
            self._private += [spelling for spelling in sorted(spellings) if self._mount_of(_parts(spelling, "private folder")) is None]
        self._own = [_join(_parts(folder, "guest folder")) for folder in own]
        self._given = given

    def __repr__(self) -> str:
        return f"PathMap({', '.join(f'{mount.guest} ({mount.mode})' for mount in self.mounts)})"

    def __bool__(self) -> bool:
        """Whether anything is mapped."""
        return bool(self.mounts)

    # --- paths ---

    def to_guest(self, path: str) -> str:
        """What the guest calls a host path. A trailing slash is kept.

        Raises:
            Denied: it is in no folder that the guest sees.
            BadInput: it is not absolute, has a NUL, or a `..` and this map has no `resolve`.
        """
        parts = _parts(self._resolved(path), "path")
        index = self._mount_of(parts)
        if index is None:
            raise Denied(f"{self._nameable(parts)} is a path of the host in no folder that the guest sees; {self._seen()}")
        return _join([*self._guests[index], *parts[len(self._hosts[index]) :]], like=path)

    def to_host(self, path: str) -> str:
        """What the host calls a guest path. With a `resolve`, the result is resolved and lies in a mapped folder; without, see above.

        Raises:
            Denied: it is in no folder of the host; or it leads out of all of them, by a symlink.
            BadInput: it is not absolute, or has a NUL or a `..`.
        """
        parts = _parts(path, "guest path")
        index = _longest(self._guests, parts)
        if index is None:
            raise Denied(f"{path} is the guest's own, and in no folder of the host; {self._seen()}")
        host = _join([*_parts(self.mounts[index].host, "host folder"), *parts[len(self._guests[index]) :]])
        resolved = self._resolved(host)
        if resolved != host and self._mount_of(_parts(resolved, "path")) is None:
            raise Denied(f"{path} leads out of the folder {self.mounts[index].guest} on the host; {self._seen()}")
        return _join(_parts(resolved, "path"), like=path)

    def argument(self, path: str) -> str:
        """A path that was meant for a guest, as it may be given to it: a mapped host path is translated, the guest's own stay as they are.

        Raises:
            Denied: it is a private path of the host.
            BadInput: it has a NUL, or leads through a folder of the host with `..`.
        """
        if "\0" in path:
            raise BadInput("the path contains a NUL character, which no file name can; remove it")
        if not path.startswith("/"):
            return path
        raw = path.split("/")
        parts = [part for part in raw if part not in {"", "."}]
        if ".." in parts:
            # Neither where it starts nor where it seems to end may be the host's: what is between may be symlinks.
            for candidate in (parts[: parts.index("..")], _collapsed(parts)):
                if not self._is_guests(candidate) and (self._mount_of(candidate) is not None or self._is_private(candidate)):
                    raise BadInput(
                        f"{self._nameable(candidate)} is reached by way of '..', which may lead elsewhere; give the path without"
                    )
            return path
        if self._is_guests(parts):
            return path
        if (index := self._mount_of(parts)) is not None and parts and self._hosts[index]:
            return self.to_guest(path)
        if self._is_private(parts):
            raise Denied(f"{PLACEHOLDER} is a path of the host in no folder that the guest sees; {self._seen()}")
        return path

    def mount_at(self, guest_path: str) -> Mount | None:
        """The mount that a guest path lies in."""
        index = _longest(self._guests, _parts(guest_path, "guest path"))
        return None if index is None else self.mounts[index]

    # --- text ---

    def text_for_guest(self, text: str) -> str:
        """Text of the host (a prompt, an error of this side) for a reader who works on the guest: mapped host paths become guest paths, and
        private ones a placeholder. Doing it twice changes nothing more, unless a guest folder bears the name of another's host folder.
        """
        return self._texts[0].replace(text)

    def text_from_guest(self, text: str) -> str:
        """Text that a guest printed, for the same reader: its own paths stay; what it says of private folders of the host (a path that was
        compiled in, a file that came with a mount) is translated or hidden. Other host paths cannot be told from the guest's own.
        """
        return self._texts[1].replace(text)

    def text_for_host(self, text: str) -> str:
        """Text of the guest for a reader on the host: paths in mapped folders become host paths."""
        return self._texts[2].replace(text)

    @cached_property
    def _texts(self) -> tuple[TextMap, TextMap, TextMap]:
        keep_guests = [Rule(mount.guest, mount.guest) for mount in self.mounts] + [Rule(folder, folder) for folder in self._own]
        hide = [Rule(folder, None) for folder in self._private]
        mapped: list[Rule] = []
        for asked, mount in zip(self._given, self.mounts, strict=True):
            # Both as it is and as it is called: people write /tmp, and the system says /private/tmp.
            mapped += [Rule(spelling, mount.guest) for spelling in dict.fromkeys((mount.host, asked.host))]
        private = [_parts(folder, "private folder") for folder in self._private]
        hidden_and_mapped = [rule for rule in mapped if any(_starts(self._key(_parts(rule.folder, "")), self._key(at)) for at in private)]
        back = [Rule(mount.guest, mount.host) for mount in self.mounts]
        fold = self._ignore_case
        return (
            TextMap([*mapped, *keep_guests[: len(self.mounts)], *hide], ignore_case=fold),
            TextMap([*keep_guests], [*hidden_and_mapped, *hide], ignore_case=fold),
            TextMap(back),
        )

    # --- names ---

    def _check(self) -> None:
        for later, guest in enumerate(self._guests):
            for earlier in range(later):
                first, second = self.mounts[earlier], self.mounts[later]
                if self._hosts[earlier] == self._hosts[later]:
                    raise BadInput(f"{second.host} is mounted twice, at {first.guest} and {second.guest}; keep one of them")
                if self._guests[earlier] == guest:
                    raise BadInput(
                        f"{first.host} and {second.host} are both mounted at {second.guest}; give one of them another guest folder"
                    )
                outer, inner = (earlier, later) if _starts(guest, self._guests[earlier]) else (later, earlier)
                if not _starts(self._guests[inner], self._guests[outer]):
                    continue
                rest = self._guests[inner][len(self._guests[outer]) :]
                if self._hosts[inner] != [*self._hosts[outer], *self._key(rest)]:
                    inside, outside = self.mounts[inner], self.mounts[outer]
                    raise BadInput(
                        f"{inside.host} is mounted at {inside.guest}, inside of {outside.guest}, where {outside.host} is mounted: a path "
                        "in there would mean two files; choose a guest folder outside of it"
                    )

    def _resolved(self, path: str) -> str:
        parts = _parts(path, "path", dots=self._resolve is not None)
        if self._resolve is None:
            return _join(parts)
        resolved = self._resolve(path)
        return _join(_parts(resolved, "resolved path"))

    def _key(self, parts: Sequence[str]) -> list[str]:
        if not self._ignore_case:
            return list(parts)
        return [unicodedata.normalize("NFC", unicodedata.normalize("NFC", part).casefold()) for part in parts]

    def _mount_of(self, parts: Sequence[str]) -> int | None:
        return _longest(self._hosts, self._key(parts))

    def _is_guests(self, parts: Sequence[str]) -> bool:
        return _longest(self._guests, parts) is not None or any(_starts(parts, _parts(folder, "")) for folder in self._own)

    def _is_private(self, parts: Sequence[str]) -> bool:
        key = self._key(parts)
        return any(_starts(key, self._key(_parts(folder, "private folder"))) for folder in self._private)

    def _nameable(self, parts: Sequence[str]) -> str:
        """A path as an error may name it, to whomever it is shown."""
        return PLACEHOLDER if self._is_private(parts) else self.text_for_guest(_join(parts))

    def _seen(self) -> str:
        folders = ", ".join(sorted(mount.guest for mount in self.mounts))
        return f"it sees {folders}" if folders else "it sees none"


def _parts(path: str, what: str, *, dots: bool = False) -> list[str]:
    """The names that an absolute path leads through."""
    if not path.startswith("/"):
        raise BadInput(
            f"the {what} {path!r} is not absolute; give it from '/' on" if path else f"the {what} is empty; give an absolute path"
        )
    if "\0" in path:
        raise BadInput(f"the {what} {path!r} contains a NUL character, which no file name can; remove it")
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts and not dots:
        raise BadInput(f"the {what} {path!r} contains '..', and only the file system knows where that leads; resolve it first")
    return parts


def _join(parts: Sequence[str], *, like: str = "") -> str:
    return "/" + "/".join(parts) + ("/" if parts and like.strip("/") and like.endswith("/") else "")


def _collapsed(parts: Sequence[str]) -> list[str]:
    """Where a path leads if nothing on its way is a symlink."""
    kept: list[str] = []
    for part in parts:
        if part != "..":
            kept.append(part)
        elif kept:
            kept.pop()
    return kept


def _starts(parts: Sequence[str], folder: Sequence[str]) -> bool:
    return list(parts[: len(folder)]) == list(folder)


def _longest(folders: Sequence[Sequence[str]], parts: Sequence[str]) -> int | None:
    holding = [index for index, folder in enumerate(folders) if _starts(parts, folder)]
    return max(holding, key=lambda index: len(folders[index]), default=None)


UNMAPPED = PathMap()
"""Maps nothing, and changes no text."""
