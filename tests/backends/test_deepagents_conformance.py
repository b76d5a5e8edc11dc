"""LangChain's standard tests of sandboxes, over `VersSandbox` on every backend: in the default run all of them on an embedded VM, and a
sample elsewhere.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from deepagents.backends.protocol import SandboxBackendProtocol
from langchain_tests.integration_tests import SandboxIntegrationTests
from rigs.docker import ContainerEngine
from rigs.embedded import EmbeddedVers
from rigs.gondolin import Gondolin
from rigs.openssh import Sshd
from rigs.programs import require

from langchain_vers import BackendContext
from langchain_vers._io import run
from langchain_vers.backends import sessions
from langchain_vers.backends.base import Backend
from langchain_vers.backends.bubblewrap import BubblewrapBackend
from langchain_vers.backends.layered import LayeredBubblewrapBackend
from langchain_vers.backends.ssh import SSHBackend
from langchain_vers.integrations.deepagents import VersSandbox

RELATIVE = "deepagents 0.7 has glob give absolute paths, and so does BaseSandbox; the suite wants relative ones"
FILES_ONLY = "deepagents 0.7 has glob give regular files only, and so does BaseSandbox; the suite wants directories as well"
OVERWRITES = "deepagents 0.7 has write replace what is there, and so does BaseSandbox; the suite wants it refused"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = "/tmp/langchain-vers-programs"
PYTHON = f"""mkdir -p {PROGRAMS} && cat >{PROGRAMS}/python <<'END' && chmod 755 {PROGRAMS}/python
#!/bin/sh
command -v python3 >/dev/null 2>&1 && exec python3 "$@"
head -c 512000 /dev/zero | tr '\\0' x
END"""
"""The suite runs `python -c` to have 500 KiB printed, and nothing else: what does the same where the machine has no such program."""


def contradicted(name: str, reason: str) -> Any:
    """A test of the suite that the installed deepagents fails as well."""
    original = getattr(SandboxIntegrationTests, name)

    @functools.wraps(original)
    def test(self: Any, sandbox_backend: SandboxBackendProtocol, sandbox_test_root: str) -> None:
        original(self, sandbox_backend, sandbox_test_root)

    return pytest.mark.xfail(strict=True, reason=reason)(test)


class Suite(SandboxIntegrationTests):
    """The suite, but for what in it contradicts deepagents."""

    @pytest.fixture(scope="class")
    @classmethod
    def sandbox_backend(cls, sandbox: SandboxBackendProtocol) -> SandboxBackendProtocol:
        """As the suite's own, which pytest takes for a fixture of each instance and warns of."""
        return sandbox

    test_glob = contradicted("test_glob", RELATIVE)
    test_glob_basic_pattern = contradicted("test_glob_basic_pattern", RELATIVE)
    test_glob_hidden_files_explicitly = contradicted("test_glob_hidden_files_explicitly", RELATIVE)
    test_glob_with_character_class = contradicted("test_glob_with_character_class", RELATIVE)
    test_glob_with_question_mark = contradicted("test_glob_with_question_mark", RELATIVE)
    test_glob_with_directories = contradicted("test_glob_with_directories", FILES_ONLY)
    test_write_existing_file_fails = contradicted("test_write_existing_file_fails", OVERWRITES)


class Sample(Suite):
    """What hangs on the backend: in the default run only these, and `make test-full` runs all."""

    sample = frozenset(
        {
            "test_execute_large_stdout_payload",
            "test_read_binary_file",
            "test_edit_multiline_support",
            "test_glob_recursive_pattern",
            "test_grep_with_globstar_include_pattern",
            "test_ls_special_characters_in_filenames",
            "test_upload_download_roundtrip",
            "test_download_error_permission_denied",
            "test_write_unicode_content",
        }
    )


@contextmanager
def sandbox_on(backend: Backend) -> Iterator[VersSandbox]:
    """A sandbox whose context has this backend registered and is on it."""
    with BackendContext(local=False, env={"PATH": f"{PROGRAMS}:{PATH}"}) as context:
        context.register("place", backend)
        context.use("place")
        sandbox = VersSandbox(context)
        made = sandbox.execute(PYTHON)
        assert made.exit_code == 0, made.output
        yield sandbox


class OnVm:
    """On a VM of the embedded Vers."""

    transport = "ssh"

    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls, namespaces: EmbeddedVers) -> Iterator[VersSandbox]:
        vm_id = run(namespaces.client().create_vm(wait_boot=True))
        options: dict[str, Any] = {"data_dir": namespaces.data_dir, "transport": cls.transport}
        with VersSandbox(vm=vm_id, local=False, env={"PATH": f"{PROGRAMS}:{PATH}"}, **options) as sandbox:
            made = sandbox.execute(PYTHON)
            assert made.exit_code == 0, made.output
            yield sandbox


class TestOnEmbeddedVm(OnVm, Suite):
    pass


class TestOverHttp(OnVm, Sample):
    transport = "http"


class TestOnThisMachine(Sample):
    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersSandbox]:
        with VersSandbox(local=tmp_path_factory.mktemp("work"), env={"PATH": f"{PROGRAMS}:{PATH}"}) as sandbox:
            sandbox.execute(PYTHON)
            yield sandbox
            sandbox.execute(f"rm -rf {PROGRAMS} /tmp/test_sandbox_ops")


@pytest.mark.peer
class TestOnSSH(Sample):
    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersSandbox]:
        server = Sshd(tmp_path_factory.mktemp("sshd"))
        server.start()
        key = server.folder / "user"
        with sandbox_on(SSHBackend(server.target, key=key, known_hosts=server.known_hosts, agent=False, config=False)) as sandbox:
            yield sandbox
            sandbox.execute(f"rm -rf {PROGRAMS} /tmp/test_sandbox_ops")
        server.stop()


class TestOnBubblewrap(Sample):
    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersSandbox]:
        require("bwrap", "bubblewrap")
        with sandbox_on(BubblewrapBackend(tmp_path_factory.mktemp("workspace"))) as sandbox:
            yield sandbox


class TestOnLayers(Sample):
    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersSandbox]:
        require("bwrap", "bubblewrap")
        backend = LayeredBubblewrapBackend(state=tmp_path_factory.mktemp("layers"))
        with sandbox_on(backend) as sandbox:
            yield sandbox
            run(backend.delete())


class TestOnDocker(Sample):
    """Whose machine has no Python, and no ripgrep."""

    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls, dockerd: ContainerEngine) -> Iterator[VersSandbox]:
        with sandbox_on(dockerd.backend(remove=True)) as sandbox:
            assert sandbox.execute("command -v python3 || command -v rg").exit_code != 0
            yield sandbox


@pytest.mark.full
class TestOnPodman(Suite):
    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls, podman: ContainerEngine) -> Iterator[VersSandbox]:
        with sandbox_on(podman.backend(remove=True)) as sandbox:
            yield sandbox


@pytest.mark.full
@pytest.mark.timeout(600)
class TestOnGondolin(Suite):
    @pytest.fixture(scope="class")
    @classmethod
    def sandbox(cls, gondolin: Gondolin) -> Iterator[VersSandbox]:
        backend = gondolin.backend()
        with pytest.MonkeyPatch.context() as patch:
            # On a machine that is busy with other tests, an emulated processor gets little done.
            patch.setattr(sessions, "ANSWER_SECONDS", 120.0)
            patch.setattr(sessions, "KILL_SECONDS", 60.0)
            with sandbox_on(backend) as sandbox:
                yield sandbox
            run(backend.delete())
