"""This machine as a backend: the conformance suite, and what only it has."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from rigs.users import ROOT, folder_of_ordinary_user, ordinary_user

from langchain_vers._io import run
from langchain_vers.backends.base import Backend
from langchain_vers.backends.local import LocalBackend
from langchain_vers.errors import Unreachable
from langchain_vers.testing.backends import BackendConformance
from langchain_vers.testing.files import FileConformance
from langchain_vers.testing.harness import Conformance
from langchain_vers.testing.listings import ListingConformance


class TestLocalBackend(BackendConformance):
    @pytest.fixture
    def backend(self) -> Iterator[Backend]:
        backend = LocalBackend("/")
        yield backend
        run(backend.close())


@pytest.mark.skipif(not ROOT, reason="an ordinary user has run these tests already")
class TestAsAnOrdinaryUser(Conformance):
    """What the suite leaves out where the machine's user is root."""

    test_denied = FileConformance.test_denied
    test_unreadable_directory_below = ListingConformance.test_unreadable_directory_below
    _all_calls = FileConformance._all_calls

    @pytest.fixture
    def backend(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Backend]:
        with folder_of_ordinary_user() as folder, ordinary_user():
            monkeypatch.setenv("TMPDIR", str(folder))
            backend = LocalBackend("/")
            yield backend
            run(backend.close())


def test_root_is_where_commands_and_relative_paths_begin(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path)
    assert run(backend.exec("pwd")).tail.decode() == f"{tmp_path}\n"
    run(backend.write("f", b"x"))
    assert (tmp_path / "f").read_bytes() == b"x"


def test_the_platforms_key_is_not_shown_to_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VERS_API_KEY", "key-that-no-command-sees")
    monkeypatch.setenv("OTHER", "seen")
    backend = LocalBackend(tmp_path, inherit=["OTHER"])
    output = run(backend.exec("env; tr '\\0' '\\n' </proc/self/environ; echo $OTHER")).tail
    assert b"key-that-no-command-sees" not in output
    assert b"seen" in output


def test_a_root_that_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    backend = LocalBackend(folder)
    folder.rmdir()
    with pytest.raises(Unreachable, match="gone"):
        run(backend.exec("true"))


def test_output_that_is_late_is_not_lost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where programs are slow to start, what passes a command's output on may begin long after the command has ended; and a background
    process holds the output, so that its end is no sign.
    """
    tee = shutil.which("tee")
    (tmp_path / "tee").write_text(f'#!/bin/sh\ni=0; while [ $i -lt 300000 ]; do i=$((i+1)); done\nexec {tee} "$@"\n')
    (tmp_path / "tee").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    backend = LocalBackend(tmp_path)
    result = run(backend.exec("sleep 600 & echo $! said"))
    assert result.tail.endswith(b" said\n") and result.log_path is not None
    os.kill(int(result.tail.split()[0]), signal.SIGKILL)
    Path(result.log_path).unlink()
    run(backend.close())
