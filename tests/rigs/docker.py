"""Container engines of the tests' own, Docker and Podman, each on a unix socket in a folder of its own, and a small image for both.

The image is made of files of this machine's Debian packages: nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from docker import APIClient

from langchain_vers.backends.docker import DockerBackend
from langchain_vers.backends.docker_options import LABEL
from rigs.certificates import Authority
from rigs.openssh import _free_port as free_port
from rigs.programs import require
from rigs.users import ROOT

IMAGE = "tests-debian"
AGENT = "1000:1000"
"""A user of the image who is not root."""
_PACKAGES = ("base-files", "base-passwd", "bash", "coreutils", "dash", "findutils", "grep", "libc-bin", "libc6", "mawk", "procps")
_PACKAGES += ("sed", "tar", "util-linux")
_LEFT_OUT = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/info", "/usr/share/lintian", "/usr/share/bash-completion")
_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/bash\nagent:x:1000:1000::/home/agent:/bin/bash\nnobody:x:65534:65534::/nonexistent:/bin/false\n",
    "group": "root:x:0:\nagent:x:1000:\nnogroup:x:65534:\n",
}


def _needed(packages: Sequence[str]) -> list[str]:
    """The packages with all that they need, by the records of this machine."""
    known: dict[str, None] = {}
    waiting = list(packages)
    while waiting:
        names = [name for name in waiting if name not in known]
        waiting = []
        if names:
            known.update(dict.fromkeys(names))
            form = ["-W", "-f", "${Pre-Depends},${Depends}\n"]
            words = subprocess.run(["dpkg-query", *form, *names], capture_output=True, text=True, check=False).stdout
            waiting = [word.split("|")[0].split("(")[0].split(":")[0].strip() for word in words.replace("\n", ",").split(",")]
            waiting = [word for word in waiting if word.startswith("lib")]
    return list(known)


@functools.cache
def root_file_system() -> bytes:
    """A tar archive of a small Debian: bash, coreutils and what an agent's shell finds everywhere."""
    require("dpkg-query", "dpkg")
    listed = subprocess.run(["dpkg", "-L", *_needed(_PACKAGES)], capture_output=True, text=True, check=False).stdout
    archive = io.BytesIO()
    seen: set[Path] = set()
    with tarfile.open(fileobj=archive, mode="w") as tar:

        def folder(name: str, mode: int, owner: int = 0) -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
            tar.addfile(entry)
            seen.add(Path("/", name))

        def link(name: str, target: str) -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)

        for name in ("usr", "etc", "proc", "sys", "dev", "run", "var", "home"):
            folder(name, 0o755)
        for name, mode, owner in (("tmp", 0o1777, 0), ("var/tmp", 0o1777, 0), ("root", 0o700, 0), ("home/agent", 0o755, 1000)):
            folder(name, mode, owner)
        for name in ("bin", "lib", "lib64", "sbin"):
            link(name, f"usr/{name}")
        for name in sorted(set(listed.splitlines())):
            path = Path(os.path.realpath(Path(name).parent), Path(name).name)
            if name.startswith("/usr/") or path.parts[1:2] == ("usr",):
                # Tables of characters, and texts for people.
                if path in seen or not path.exists() or name.startswith(_LEFT_OUT) or "gconv" in name:
                    continue
                seen.add(path)
                tar.add(path, arcname=str(path).lstrip("/"), recursive=False)
        link("usr/bin/awk", "mawk")
        for name, text in _ETC.items():
            entry = tarfile.TarInfo(f"etc/{name}")
            entry.size, entry.mode = len(text), 0o644
            tar.addfile(entry, io.BytesIO(text.encode()))
    return archive.getvalue()


class ContainerEngine:
    """A server with its data in a folder that goes with it. A subclass says how it starts."""

    def __init__(self) -> None:
        if not ROOT:
            reason = "only root can start a container engine"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        # Not pytest's folder: the name of a socket may have 107 bytes only.
        self.folder = Path(tempfile.mkdtemp(prefix="vers-engine-"))
        self.socket = self.folder / "socket"
        self.url = f"unix://{self.socket}"
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
            self.api.import_image_from_data(root_file_system(), repository=IMAGE, tag="latest")
        except BaseException:
            self.close()
            raise

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> None:
        # If the tests are killed, the server ends too, and its containers with it.
        prefix = [require("setpriv", "util-linux"), "--pdeathsig", "TERM"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, *self.command()],
                start_new_session=True,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            if self.socket.exists():
                with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self.socket))
                    self.api = APIClient(self.url, version="auto", timeout=120)
                    return
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self.process is not None
        self.api.close()
        self.process.send_signal(number)
        self.process.wait(60)

    def backend(self, image: str | None = IMAGE, **options: Any) -> DockerBackend:
        return DockerBackend(image, url=self.url, **options)

    def containers(self, **filters: str) -> set[str]:
        """The ids of all containers that there are, also of those that do not run."""
        return {each["Id"] for each in self.api.containers(all=True, filters=dict(filters))}

    def images(self) -> set[str]:
        return {each["Id"] for each in self.api.images()}

    def clear(self) -> None:
        """Remove what a test has left, and everything that was made of it."""
        for container in self.containers():
            self.api.remove_container(container, force=True, v=True)
        for image in self.api.images(filters={"label": LABEL}):
            self.api.remove_image(image["Id"], force=True)

    def _end_helpers(self) -> None:
        """End what the server has started and leaves behind, found by the folder in its command line."""

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(Exception):
                self.clear()
            self.stop()
        self._end_helpers()
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            if (place := line.split()[1]).startswith(str(self.folder)):
                subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(self.folder)


class Dockerd(ContainerEngine):
    """Docker's server, with a containerd of its own, no network but those that a test makes, and no firewall rules.

    It listens on the loopback too, by TLS; `certificates` is what DOCKER_CERT_PATH has to be for that.
    """

    def command(self) -> list[str]:
        folder = self.folder
        self.certificates = folder / "certificates"
        if not self.certificates.exists():
            self.certificates.mkdir()
            authority = Authority(self.certificates, "engine")
            authority.server_context("localhost")
            both = next(self.certificates.glob("server-*.pem")).read_bytes()
            for name in ("cert.pem", "key.pem"):
                (self.certificates / name).write_bytes(both)
            authority.file.rename(self.certificates / "ca.pem")
            self.port = free_port()
        tls = [f"--tls{name}={self.certificates / file}.pem" for name, file in (("cacert", "ca"), ("cert", "cert"), ("key", "key"))]
        return [
            require("dockerd", "docker.io"),
            *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"), "--pidfile", str(folder / "pid")),
            *("-H", f"tcp://127.0.0.1:{self.port}", "--tls", *tls),
            *("-H", self.url, "--iptables=false", "--ip6tables=false", "--bridge=none", "--shutdown-timeout", "1"),
        ]


class DockerdOnBtrfs(Dockerd):
    """Docker's server on a file system of its own, in a file. This one can bound what a container takes."""

    kind = "btrfs"
    program, package = "mkfs.btrfs", "btrfs-progs"

    def start(self) -> None:
        data, disk = self.folder / "data", self.folder / "disk"
        if not data.exists():
            data.mkdir()
            with disk.open("wb") as file:
                file.truncate(2 << 30)
            subprocess.run([require(self.program, self.package), "-q", str(disk)], check=True)
            subprocess.run([require("mount", "mount"), "-t", self.kind, "-o", "loop", str(disk), str(data)], check=True)
        super().start()


class DockerdOnXfs(DockerdOnBtrfs):
    """This one could, but was mounted without quotas."""

    kind = "xfs"
    program, package = "mkfs.xfs", "xfsprogs"


class Podman(ContainerEngine):
    """Podman's API service."""

    def command(self) -> list[str]:
        folder = self.folder
        (folder / "storage").mkdir(exist_ok=True)
        # Its own defaults are above what this process may ask for.
        (folder / "containers.conf").write_text('[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n')
        return [
            require("podman", "podman"),
            *("--root", str(folder / "root"), "--runroot", str(folder / "run"), "--tmpdir", str(folder / "tmp")),
            *("--cgroup-manager=cgroupfs", "--events-backend=file", "system", "service", "--time=0", self.url),
        ]

    def _end_helpers(self) -> None:
        # The monitor of each process waits for five minutes before it tidies up.
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or [""]
            if line[0].endswith("conmon") and any(str(self.folder) in word for word in line):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")}


def engine(kind: type[ContainerEngine]) -> Iterator[ContainerEngine]:
    """For a fixture: an engine that is closed afterwards."""
    started = kind()
    yield started
    started.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()  # the SDK does not close a socket that it could not connect: no test must be blamed for those
