"""The disks of the `namespaces` engine: layers, what is stacked on what, and which layer nobody needs any more.

    layers/<layer>/<tree>/...    what one snapshot changed, per overlay ("root" and the names of the host's folders); never written again
    vms/<vm>/{upper,work}/<tree>/    what a machine has changed since
    {vms,snapshots}/<name>/manifest.json   {"layers": [top, ..., base]}
    trash/                           being made or being deleted; emptied when the engine starts

A layer is kept as long as a manifest names it. That is read off the manifests, not counted, so a crash cannot make it wrong: things
are made in `trash` and appear by one rename, and disappear by one. Copying and removing trees takes rights that the server may not have:
the `warden` runs the tools for that, among them this module's `main`, which merges layers. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DEPTH = 8
"""How many layers a machine may stand on, besides the base; more are merged into one (the mount options must fit into a page)."""

OPAQUE = "user.overlay.opaque"

Kind = Literal["vms", "snapshots"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


def valid_name(name: str) -> bool:
    """Whether a machine's or snapshot's name can name its folder."""
    return _NAME.fullmatch(name) is not None


class Disks:
    """Bookkeeping of the folders below `data_dir`. Every method blocks for a few file operations at most; none of them copies."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def open(self) -> None:
        """Make the folders; what an earlier run left half made becomes trash. Call `collect` and empty the trash afterwards."""
        for path in (self.data_dir, *(self.data_dir / name for name in ("layers", "vms", "snapshots", "trash", "masks"))):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)

    def names(self, kind: Kind) -> list[str]:
        """The machines or snapshots that are stored, sorted."""
        return sorted(path.name for path in (self.data_dir / kind).iterdir() if (path / "manifest.json").exists())

    def layers(self, kind: Kind, name: str) -> list[str]:
        """The layers of a machine or snapshot, top first, the base last.

        Raises:
            FileNotFoundError: there is no such thing.
        """
        found: list[str] = json.loads((self.data_dir / kind / name / "manifest.json").read_text())["layers"]
        return found

    def scratch(self) -> Path:
        """A new folder in the trash, for making something."""
        path = self.data_dir / "trash" / uuid.uuid4().hex
        path.mkdir(mode=0o700)
        return path

    def adopt(self, made: Path) -> str:
        """Turn a finished folder into a layer; its name."""
        name = uuid.uuid4().hex[:12]
        made.rename(self.data_dir / "layers" / name)
        return name

    def publish(self, kind: Kind, name: str, layers: Sequence[str], made: Path | None = None) -> None:
        """Store a machine or snapshot, all at once. `made` holds what belongs to it besides its manifest.

        Raises:
            FileExistsError: the name is taken.
        """
        made = made or self.scratch()
        (made / "manifest.json").write_text(json.dumps({"layers": list(layers)}))
        target = self.data_dir / kind / name
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(target))
        made.rename(target)

    def discard(self, kind: Kind, name: str) -> Path | None:
        """Move a machine or snapshot into the trash; where it is now, None if there was none."""
        target = self.data_dir / "trash" / uuid.uuid4().hex
        try:
            (self.data_dir / kind / name).rename(target)
        except FileNotFoundError:
            return None
        return target

    def collect(self, kept: Iterable[str] = ()) -> list[Path]:
        """Move layers that no manifest names, and that are not in `kept`, into the trash; where they are now."""
        needed = set(kept)
        for kind in ("vms", "snapshots"):
            for name in self.names(kind):
                needed.update(self.layers(kind, name))
        moved = []
        for path in (self.data_dir / "layers").iterdir():
            if path.name not in needed:
                target = self.data_dir / "trash" / uuid.uuid4().hex
                path.rename(target)
                moved.append(target)
        return moved


# Merging


@dataclass(frozen=True)
class Merge:
    """What one name in a directory becomes when layers are merged."""

    sources: tuple[Path, ...]
    """One path for anything but a directory; for a directory all that make it up, top first."""
    opaque: bool = False
    """For a directory: whether what is further below must not show through."""


def is_opaque(path: Path) -> bool:
    """Whether an overlay directory hides what lies below it."""
    try:
        return os.getxattr(path, OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return False
        raise


def plan_merge(directories: Sequence[Path]) -> dict[str, Merge]:
    """What the entries of one directory become. `directories` are the layers' versions of it, top first, the last one maybe opaque."""
    entries: dict[str, Merge] = {}
    closed: set[str] = set()
    for directory in directories:
        with os.scandir(directory) as found:
            for entry in found:
                if entry.name in closed:
                    continue
                before = entries.get(entry.name)
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    opaque = is_opaque(path)
                    entries[entry.name] = Merge((*(before.sources if before else ()), path), opaque)
                    if opaque:
                        closed.add(entry.name)
                else:
                    # Below a directory, anything else (a file, or the mark of its deletion) ends it: what is further down is another's.
                    entries[entry.name] = Merge(before.sources, opaque=True) if before else Merge((path,))
                    closed.add(entry.name)
    return entries


def merge(layers: Sequence[Path], target: Path) -> None:
    """Make one layer that looks like several, top first. Files are hard links: layers are never written, and the data is not copied."""
    trees = {entry.name for layer in layers for entry in layer.iterdir() if entry.is_dir()}
    for tree in sorted(trees):
        sources = tuple(layer / tree for layer in layers if (layer / tree).is_dir())
        _merge_directory(Merge(sources), target / tree)


def _merge_directory(what: Merge, target: Path) -> None:
    target.mkdir()
    for name, entry in plan_merge(what.sources).items():
        first = entry.sources[0]
        if stat.S_ISDIR(first.lstat().st_mode):
            _merge_directory(entry, target / name)
        else:
            try:
                os.link(first, target / name, follow_symlinks=False)
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                _copy(first, target / name)
    _copy_attributes(what.sources[0], target)
    if what.opaque:
        os.setxattr(target, OPAQUE, b"y")


def _copy(source: Path, target: Path) -> None:
    os.spawnvp(os.P_WAIT, "cp", ["cp", "-a", "--reflink=auto", "--", str(source), str(target)])  # noqa: S606 - no shell wanted


def _copy_attributes(source: Path, target: Path) -> None:
    status = source.lstat()
    os.chown(target, status.st_uid, status.st_gid)
    target.chmod(stat.S_IMODE(status.st_mode))
    for name in os.listxattr(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def main(arguments: Sequence[str]) -> None:
    """`merge TARGET LAYER...`: the layers top first, as absolute paths."""
    target, *sources = (Path(argument) for argument in arguments)
    merge(sources, target)


if __name__ == "__main__":
    main(sys.argv[1:])
