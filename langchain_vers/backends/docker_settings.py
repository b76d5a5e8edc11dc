"""What an engine is told about a container to be made: what it may do, and what it may take. Blocks for a file at most."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_vers.backends import docker_seccomp
from langchain_vers.backends.docker_options import CAPABILITIES, Shape

if TYPE_CHECKING:
    from docker import APIClient


def host_config(api: APIClient, shape: Shape, *, quota: bool, profile: str | None) -> dict[str, Any]:
    """The settings of a container that the engine understands.

    Args:
        api: the engine's client.
        shape: what the container is to be like.
        quota: whether the engine is to bound the container's own files.
        profile: the seccomp profile, as the engine wants it; None: the engine's own.
    """
    from docker import types  # noqa: PLC0415 - an extra

    return api.create_host_config(
        mounts=[
            types.Mount(mount.guest, mount.host, type="bind", read_only=mount.mode == "ro", propagation="rprivate") for mount in shape.binds
        ],
        network_mode=shape.network,
        mem_limit=shape.memory,
        memswap_limit=shape.memory,  # the same: no swap on top
        storage_opt={"size": str(shape.disk)} if quota else None,
        nano_cpus=None if shape.cpus is None else int(shape.cpus * 1e9),
        pids_limit=shape.pids,
        # Process 1 has nothing to say, but who may write to its /proc/1/fd/1 could fill the engine's disk with its log.
        log_config=types.LogConfig(type="none"),
        privileged=False,
        cap_drop=["ALL"],
        cap_add=list(CAPABILITIES),
        security_opt=["no-new-privileges", *([] if profile is None else [f"seccomp={profile}"])],
    )


@contextlib.contextmanager
def seccomp_profile(info: Mapping[str, Any], architecture: str) -> Iterator[str | None]:
    """The profile that stands in for an engine's own, as the engine wants it: Docker its text, Podman a file that it can read.

    None where it fits the engine or the image not, or the engine is a Podman elsewhere.
    """
    if not docker_seccomp.fits(info, architecture):
        yield None
        return
    text = json.dumps(docker_seccomp.profile())
    if "BuildahVersion" not in info:
        yield text
        return
    if not Path(str(info.get("DockerRootDir"))).exists():
        yield None
        return
    with tempfile.NamedTemporaryFile("w", prefix="langchain-vers-", suffix=".json") as file:
        file.write(text)
        file.flush()
        yield file.name


def refuses_quota(message: str) -> bool:
    """Whether an engine's message says that its storage has no quotas."""
    lowered = message.lower()
    return any(word in lowered for word in ("storage-opt", "storage opt", "pquota", "quota"))
