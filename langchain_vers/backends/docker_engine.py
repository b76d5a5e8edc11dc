"""The container engine at the other end of an API socket (Docker, Podman): its calls by the Docker SDK, and what its errors mean.

Everything here blocks; `docker.py` calls it in threads. The SDK is an extra and is imported on first use.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from langchain_vers.backends import docker_copies, docker_settings
from langchain_vers.backends.docker_disk import may_have_quotas
from langchain_vers.backends.docker_options import KEEP_RUNNING, LABEL, REPOSITORY, Shape
from langchain_vers.backends.frames import Frames
from langchain_vers.errors import (
    BadInput,
    Conflict,
    DeadlineExceeded,
    Denied,
    DiskFull,
    Gone,
    ServerFault,
    Unreachable,
    Unsupported,
    VersError,
)

if TYPE_CHECKING:
    from docker import APIClient

DEFAULT_URL = "unix:///var/run/docker.sock"
TIMEOUT = 300
"""Seconds that the engine may take to answer: a commit of a large container takes long."""
CONNECTIONS = 32
"""As many as there are threads to call in."""
_SCHEMES = ("unix:///", "tcp://", "http://", "https://")


class Hijacked:
    """A connection that the engine has handed over to the streams of a process."""

    def __init__(self, process: str, sock: socket.socket, early: bytes, response: Any) -> None:  # noqa: ANN401 - the SDK's own
        self.process = process
        """The engine's id of the process."""
        self.sock = sock
        self.early = early
        self._response = response

    def close(self) -> None:
        """Close it, without waiting."""
        self._response.close()
        self.sock.close()


class Engine:
    """One engine. `url` is `unix://...` or `tcp://...`; None goes by DOCKER_HOST and its companions as the `docker` command does."""

    def __init__(self, url: str | None = None) -> None:
        if url is not None and (not isinstance(url, str) or not url.startswith(_SCHEMES)):
            raise BadInput(
                f'url must be "unix:///path" or "tcp://host:port", not {url!r}; forward the socket of an engine behind SSH to a local one'
            )
        self._url = url
        self._client: tuple[int, APIClient] | None = None
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where the engine is."""
        return self._url or os.environ.get("DOCKER_HOST") or DEFAULT_URL

    @property
    def socket(self) -> str | None:
        """The path of its socket on this machine, if it has one."""
        return self.url.removeprefix("unix://") if self.url.startswith("unix://") else None

    @property
    def _api(self) -> APIClient:
        # A forked child must not share the parent's connections.
        if self._client is None or self._client[0] != os.getpid():
            with self._lock:
                if self._client is None or self._client[0] != os.getpid():
                    self._client = os.getpid(), self._connect()
        return self._client[1]

    def _connect(self) -> APIClient:
        _sdk()
        import docker  # noqa: PLC0415 - an extra
        from docker.transport.unixconn import UnixHTTPAdapter  # noqa: PLC0415
        from docker.utils import kwargs_from_env  # noqa: PLC0415

        from langchain_vers.backends.docker_sockets import SocketAdapter  # noqa: PLC0415

        class Client(docker.APIClient):
            # Proxies and certificate bundles that this process's environment names for the Web (requests takes the latter even where the
            # SDK says another) are not for the engine; nor is ~/.netrc.
            trust_env = property(lambda _: False, lambda _, __: None)

            def mount(self, prefix: str | bytes, adapter: Any) -> None:  # noqa: ANN401  # one of requests
                if isinstance(adapter, UnixHTTPAdapter):
                    adapter = SocketAdapter(adapter.socket_path, adapter.timeout, max_pool_size=adapter.max_pool_size)
                super().mount(prefix, adapter)

        if not self.url.startswith(_SCHEMES):
            raise BadInput(f"DOCKER_HOST is {self.url!r}, of which only unix:// and tcp:// are understood; forward that engine's socket")
        with self.errors("it"):
            settings: dict[str, Any] = {**kwargs_from_env(), "base_url": self.url}
            return Client(**settings, version="auto", timeout=TIMEOUT, max_pool_size=CONNECTIONS)

    @contextlib.contextmanager
    def errors(self, what: str) -> Iterator[None]:
        """Around calls of the SDK: its errors become ours. `what` is what the call is about, such as "container 3f2a91c07b1e".

        Raises:
            Gone: the engine does not have it.
            Unreachable, Denied: the engine does not answer, or not to us. VersError: by status.
        """
        _sdk()
        import requests  # noqa: PLC0415 - comes with the SDK
        from docker import errors  # noqa: PLC0415

        try:
            yield
        except errors.APIError as error:
            if error.response is not None:  # the SDK leaves the connection of a stream open
                error.response.close()
            raise self._meaning(what, error.response.status_code if error.response is not None else 500, _text(error)) from error
        except (errors.DockerException, requests.RequestException, OSError) as error:
            if isinstance(error, VersError):
                raise
            raise self._unreachable(error) from error

    def _meaning(self, what: str, status: int, text: str) -> VersError:
        lowered = text.lower()
        if "no space left" in lowered or "disk quota" in lowered:
            return DiskFull(f"the container engine has no room left for {what}; free some space (`docker system df`) and try again")
        if "max depth exceeded" in lowered:
            return Conflict(f"{what} has as many layers as the container engine can stack; make a new one from a flat image")
        if status == 404 and "network" in lowered:
            return BadInput(f"{what} cannot be made: {text}; `docker network ls` lists the networks that there are")
        if status == 404:
            return Gone(f"the container engine at {self.url} has no {what} (any more): {text}", status=status)
        if "executable file not found" in lowered or ("no such file or directory" in lowered and "exec" in lowered):
            return BadInput(f"{what} has no POSIX shell (`sh`), without which nothing can be run in it; use another image")
        kind = {400: BadInput, 401: Denied, 403: Denied, 409: Conflict}.get(status, ServerFault)
        return kind(f"the container engine refused what was asked of {what}: {text}", status=status)

    def _unreachable(self, error: BaseException) -> VersError:
        causes = list(_causes(error))
        if any(isinstance(cause, PermissionError) for cause in causes):
            return Denied(f"this user may not use the container engine at {self.url}; join the group that owns its socket")
        if (refusal := next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)) is not None:
            return Unreachable(
                f"the container engine at {self.url} was not accepted, or does not accept us ({refusal.reason or refusal}); see what "
                "DOCKER_TLS_VERIFY and DOCKER_CERT_PATH say"
            )
        if any(isinstance(cause, TimeoutError) or "timed out" in str(cause).lower() for cause in causes):
            return DeadlineExceeded(f"the container engine at {self.url} did not answer in time; look whether it is overloaded")
        return Unreachable(
            f"no container engine answers at {self.url}; start it (`dockerd`, `podman system service`), or say with url= or "
            "DOCKER_HOST where it is"
        )

    # --- containers ---

    def create(self, image: str, shape: Shape, *, copies: bool) -> str:
        """Make and start a container; its id. Nothing is left of one that cannot be started. `copies`: with the folders to be copied in.

        Raises:
            Gone: there is no such image.
            BadInput: the engine cannot make what was asked for.
        """
        found = self.image(image)
        config = found.get("Config") or {}
        environment = {"TERM": "dumb"}
        if not any(variable.startswith("LANG=") for variable in config.get("Env") or []):
            environment["LANG"] = "C.UTF-8"
        container = self._created(found, image, shape, environment)
        try:
            with self.errors(f"image {image}"):
                if copies and shape.copies:
                    owner = docker_copies.owner(self._api, container, shape.user)
                    for mount in shape.copies:
                        docker_copies.put(self._api, container, mount, owner)
                self._api.start(container)
        except BaseException:
            with contextlib.suppress(VersError):
                self.remove(container)
            raise
        return container

    def _created(self, found: dict[str, Any], image: str, shape: Shape, environment: dict[str, str]) -> str:
        """Make a container; its id. Its files have a quota where the engine can; else what outruns a watch is kept from it."""
        with self.errors(f"image {image}"):
            info: dict[str, Any] = self._api.info()
        if shape.disk is not None and may_have_quotas(info):
            try:
                return self._create(
                    found, image, docker_settings.host_config(self._api, shape, quota=True, profile=None), shape, environment
                )
            except VersError as error:
                if not docker_settings.refuses_quota(error.message):
                    raise
        with contextlib.ExitStack() as stack:
            profile = None
            if shape.disk is not None:
                profile = stack.enter_context(docker_settings.seccomp_profile(info, str(found.get("Architecture"))))
            return self._create(
                found, image, docker_settings.host_config(self._api, shape, quota=False, profile=profile), shape, environment
            )

    def _create(self, found: dict[str, Any], image: str, settings: dict[str, Any], shape: Shape, environment: dict[str, str]) -> str:
        with self.errors(f"image {image}"):
            made: str = self._api.create_container(
                found["Id"],
                entrypoint=list(KEEP_RUNNING),
                command=[],
                user=shape.user,
                working_dir=shape.workdir,
                environment=environment,
                labels={LABEL: "container"},
                # Nobody has to wait for process 1, which does nothing.
                stop_signal="SIGKILL",
                # The proxies of this user's Docker settings often hold a password.
                use_config_proxy=False,
                host_config=settings,
            )["Id"]
            return made

    def run(self, container: str, argv: Sequence[str]) -> bytes:
        """Run a program of ours as root, and see that it succeeds; what it prints."""
        with self.errors(f"container {container[:12]}"):
            return self._run(container, argv)

    def _run(self, container: str, argv: Sequence[str]) -> bytes:
        made = self._api.exec_create(container, list(argv), user="0")["Id"]
        with contextlib.closing(self._attached(made)) as stream:  # the SDK's own way leaves the connection open
            stream.sock.settimeout(TIMEOUT)
            output = stream.early
            while data := stream.sock.recv(65536):
                output += data
        printed = b"".join(part for _, part in Frames().feed(output))
        if code := self._api.exec_inspect(made)["ExitCode"]:
            text = printed.decode(errors="replace").strip()
            raise BadInput(f"{argv[0]} failed in container {container[:12]} with {code}: {text[-300:]}")
        return printed

    def inspect(self, container: str) -> dict[str, Any]:
        """What a container is.

        Raises:
            Gone: it does not exist.
        """
        with self.errors(f"container {container[:12]}"):
            found: dict[str, Any] = self._api.inspect_container(container)
            return found

    def size(self, container: str) -> int:
        """Bytes of a container's own files, without its image and what is mounted. Takes the engine as long as it has files.

        Raises:
            Gone: it does not exist.
            Unsupported: the engine does not say.
        """
        with self.errors(f"container {container[:12]}"):
            api: Any = self._api
            # The SDK's own call does not ask for sizes.
            answer: dict[str, Any] = api._result(api._get(api._url("/containers/{0}/json", container), params={"size": 1}), True)
        if not isinstance(size := answer.get("SizeRw"), int):
            # Docker leaves out a size of nothing.
            if "SizeRootFs" in answer:
                return 0
            raise Unsupported(
                f"the container engine at {self.url} does not say how much a container's files take; give disk=None to work without a limit"
            )
        return size

    def kill(self, container: str) -> None:
        """Kill all that runs in a container. One that does not run (any more) is killed."""
        with contextlib.suppress(Gone, Conflict), self.errors(f"container {container[:12]}"):
            self._api.kill(container)

    def remove(self, container: str) -> None:
        """Kill and remove a container with its anonymous volumes; one that does not exist (any more) is removed."""
        with contextlib.suppress(Gone), self.errors(f"container {container[:12]}"):
            self._api.remove_container(container, force=True, v=True)

    def restart(self, container: str) -> None:
        """Kill all that runs in a container, and start it again with its files as they are."""
        with self.errors(f"container {container[:12]}"):
            self._api.restart(container, timeout=0)

    # --- processes ---

    def start(self, container: str, argv: Sequence[str], *, user: str | None) -> Hijacked:
        """Start a process with open input; its streams."""
        with self.errors(f"container {container[:12]}"):
            return self._attached(self._api.exec_create(container, list(argv), stdin=True, user=user or "")["Id"])

    def _attached(self, process: str) -> Hijacked:
        # The SDK says what it returns only loosely: a raw reader over the socket, which holds what it needs; with TLS, the socket.
        stream: Any = self._api.exec_start(process, socket=True)
        sock = getattr(stream, "_sock", stream)
        response = stream._response
        sock.setblocking(False)
        if isinstance(sock, ssl.SSLSocket):
            sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # an end that the other side has not announced is a break
        early = b""
        with contextlib.suppress(OSError):  # nothing yet
            early = response.raw._fp.fp.peek()
        return Hijacked(process, sock, early, response)

    def ended(self, container: str, process: str) -> bool:
        """Whether a process has ended while its container lives on, which a further process in it proves."""
        try:
            with self.errors(f"container {container[:12]}"):
                if self._api.exec_inspect(process)["Running"]:
                    return False
                self._run(container, ["true"])
        except VersError:
            return False
        return True

    # --- images ---

    def image(self, image: str) -> dict[str, Any]:
        """What an image is.

        Raises:
            Gone: the engine does not have it.
        """
        try:
            with self.errors(f"image {image}"):
                found: dict[str, Any] = self._api.inspect_image(image)  # type: ignore[no-untyped-call]
                return found
        except Gone as error:
            raise Gone(f"the container engine at {self.url} has no image {image}; fetch it with `docker pull {image}`") from error

    def commit(self, container: str, *, kind: str, tag: str, comment: str | None) -> str:
        """Make an image of a container as it is now; its id."""
        with self.errors(f"container {container[:12]}"):
            made: str = self._api.commit(container, repository=REPOSITORY, tag=tag, message=comment, changes=[f"LABEL {LABEL}={kind}"])[
                "Id"
            ]
            return made

    def remove_image(self, image: str) -> None:
        """Remove an image. One that does not exist (any more) is removed.

        Raises:
            Conflict: containers or other images stand on it.
        """
        with contextlib.suppress(Gone), self.errors(f"image {image}"):
            self._api.remove_image(image)

    def close(self) -> None:
        """Give idle connections back. More are made when they are needed."""
        if self._client is not None and self._client[0] == os.getpid():
            self._client[1].close()


def _sdk() -> None:
    try:
        import docker  # noqa: F401, PLC0415 - an extra: without it the error must be ours
    except ImportError as error:
        raise Unsupported("the Docker SDK is not installed; run: pip install 'langchain-vers[docker]'") from error


def _text(error: Any) -> str:  # noqa: ANN401 - an APIError, of a package that may not be there
    explanation = error.explanation or str(error)
    if isinstance(explanation, bytes):
        explanation = explanation.decode(errors="replace")
    return " ".join(str(explanation).split())[:500]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and everything that led to it: requests and urllib3 put errors into each other's arguments."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
