"""Folders of this machine of which a container is made with a copy. Everything blocks; errors are the Docker SDK's, but for bad input."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput

if TYPE_CHECKING:
    from docker import APIClient


def owner(api: APIClient, container: str, user: str | None) -> tuple[int, int]:
    """The numbers of a user such as "agent", "1000" or "1000:1000", by the container's own records.

    Raises:
        BadInput: there is none of that name.
    """
    if user is None:
        return 0, 0
    name, _, group = user.partition(":")
    found = next((fields for fields in _records(api, container, "passwd") if name in (fields[0], fields[2])), None)
    if found is None and not name.isdigit():
        raise BadInput(f"user {name!r} is not known in the image; give a number, or a name that is in its /etc/passwd")
    number = int(found[2]) if found is not None else int(name)
    if not group:
        return number, int(found[3]) if found is not None else 0
    groups = {fields[0]: int(fields[2]) for fields in _records(api, container, "group")}
    if group not in groups and not group.isdigit():
        raise BadInput(f"group {group!r} is not known in the image; give a number, or a name that is in its /etc/group")
    return number, groups[group] if group in groups else int(group)


def _records(api: APIClient, container: str, name: str) -> list[list[str]]:
    from docker.errors import NotFound  # noqa: PLC0415 - an extra

    with contextlib.suppress(NotFound):
        chunks, _ = api.get_archive(container, f"/etc/{name}")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            file = tar.extractfile(tar.getmembers()[0])
            lines = [] if file is None else file.read().decode(errors="replace").splitlines()
            return [fields for line in lines if len(fields := line.split(":")) >= 4]
    return []


def put(api: APIClient, container: str, mount: Mount, owner: tuple[int, int]) -> None:
    """Put a copy of a folder (or file) into a container. Links stay links; pipes, sockets and devices are left out.

    Raises:
        BadInput: it cannot be read.
    """

    def own(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        member.uid, member.gid = owner
        member.uname = member.gname = ""
        return member if member.isfile() or member.isdir() or member.issym() or member.islnk() else None

    with tempfile.TemporaryFile() as archive:
        try:
            with tarfile.open(fileobj=archive, mode="w", dereference=False) as tar:
                for parent in list(reversed(Path(mount.guest).parents))[1:]:
                    folder = tarfile.TarInfo(str(parent).lstrip("/"))
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(folder)
                tar.add(os.path.realpath(mount.host), arcname=mount.guest.lstrip("/"), filter=own)
        except OSError as error:
            raise BadInput(f"{mount.host} cannot be copied into a container: {error.strerror or error}; nothing was made") from error
        archive.seek(0)
        api.put_archive(container, "/", archive)
