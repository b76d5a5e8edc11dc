"""What DockerBackend decides without an engine: taking streams apart, and which options it refuses."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_vers._io import io, run
from langchain_vers.backends import docker_options as options
from langchain_vers.backends.docker import DockerBackend
from langchain_vers.backends.docker_engine import Engine, Hijacked
from langchain_vers.backends.docker_process import DockerProcess
from langchain_vers.backends.environment import Secret
from langchain_vers.backends.frames import EndMark, Frames
from langchain_vers.backends.paths import Mount
from langchain_vers.errors import BadInput, Unreachable

MARK = "0123456789abcdef01234567"
WHOLE = b"\xff\x00end " + MARK.encode() + b"\n"


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(places)]


def framed(kind: int, data: bytes) -> bytes:
    return bytes([kind, 0, 0, 0]) + len(data).to_bytes(4) + data


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300))), st.lists(st.integers(0, 10**6)))
def test_frames_cut_anywhere(parts: list[tuple[int, bytes]], cuts: list[int]) -> None:
    frames, found = Frames(), {1: b"", 2: b""}
    for piece in cut(b"".join(framed(*part) for part in parts), cuts):
        for kind, data in frames.feed(piece):
            found[kind] += data
    assert found == {kind: b"".join(data for each, data in parts if each == kind) for kind in (1, 2)}
    assert frames.whole


def test_a_frame_that_is_cut_off_is_not_whole() -> None:
    for length in range(1, 11):
        frames = Frames()
        frames.feed(framed(1, b"abc")[:length])
        assert not frames.whole


def test_the_engines_own_words_are_a_message() -> None:
    assert Frames().feed(framed(3, b"engine") + framed(0, b"odd")) == [(2, b"engine"), (2, b"odd")]


@given(st.binary(min_size=8, max_size=64))
def test_what_is_no_frame(data: bytes) -> None:
    if data[0] > 3 or any(data[1:4]):
        with pytest.raises(Unreachable, match="frame"):
            Frames().feed(data)
    else:
        Frames().feed(data)


@given(st.binary(max_size=200), st.lists(st.integers(0, 10**6)), st.booleans())
@example(WHOLE[:-1], [], True)
@example(b"\xff" * 5 + WHOLE[:20], [3, 9, 21], True)
def test_the_end_mark_cut_anywhere(output: bytes, cuts: list[int], ends: bool) -> None:
    end, found = EndMark(MARK), b""
    for piece in cut(output + (WHOLE if ends else b""), cuts):
        found += end.feed(piece)
        assert len(end.held) < len(WHOLE)
    assert end.found == ends
    assert found + end.release() == output


def test_another_sessions_end_mark_is_output() -> None:
    end = EndMark(MARK)
    other = WHOLE.replace(b"0123", b"3210")
    assert end.feed(other) == other
    assert not end.found


def pair() -> tuple[Hijacked, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    class Response:
        def close(self) -> None:
            pass

    return Hijacked("process", ours, b"", Response()), theirs


async def _ended() -> bool:
    return True


def test_output_that_looks_like_a_beginning_mark_is_given_all_the_same() -> None:
    """It is held back for a moment only: nobody knows when the next output comes."""
    connection, engine = pair()

    async def look() -> tuple[int, bytes]:
        process = DockerProcess(connection, MARK, _ended)
        engine.sendall(framed(1, b"\xff\x00en"))
        got = await process.receive()
        process.close()
        return got

    assert run(look()) == (1, b"\xff\x00en")
    engine.close()


@pytest.mark.parametrize("more", [b"", b"late"])
def test_a_connection_is_used_again_only_if_nothing_is_left_on_it(more: bytes) -> None:
    connection, engine = pair()
    given_back: list[object] = []

    async def serve() -> list[tuple[int, bytes]]:
        process = DockerProcess(connection, MARK, _ended)
        process.on_close = given_back.append
        for piece in (b"mark\n", b"functions", b"call\n"):
            await process.send(piece)
        engine.sendall(framed(1, b"out" + WHOLE) + framed(2, b"err" + WHOLE) + (framed(1, more) if more else b""))
        got = []
        while (each := await process.receive())[0]:
            got.append(each)
        assert process.ended_cleanly
        process.close()
        process.close()
        return got

    assert run(serve()) == [(1, b"out"), (2, b"err")]
    assert given_back == [None if more else connection]
    connection.close()
    engine.close()


@pytest.mark.parametrize("how", ["eof", "release", "no mark"])
def test_a_connection_with_input_that_may_be_unread_is_closed(how: str) -> None:
    connection, engine = pair()
    given_back: list[object] = []

    async def serve() -> None:
        process = DockerProcess(connection, MARK, _ended)
        process.on_close = given_back.append
        for piece in (b"mark\n", b"functions", b"call\n"):
            await process.send(piece)
        if how == "eof":
            await process.send_eof()
        if how == "release":
            await process.send(b"r\n")
        engine.sendall(framed(1, WHOLE) + (b"" if how == "no mark" else framed(2, WHOLE)))
        engine.shutdown(socket.SHUT_WR)
        while (await process.receive())[0]:
            pass
        process.close()

    run(serve())
    assert given_back == [None]
    assert connection.sock.fileno() == -1
    engine.close()


def test_a_stream_that_breaks_inside_a_frame_did_not_end_cleanly() -> None:
    connection, engine = pair()

    async def serve() -> bool:
        process = DockerProcess(connection, MARK, _ended)
        engine.sendall(framed(1, b"whole") + framed(1, b"cut off")[:-2])
        engine.close()
        while (await process.receive())[0]:
            pass
        process.close()
        return process.ended_cleanly

    assert not run(serve())


# --- options ---


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image": "a", "container": "b"},
        {"image": ""},
        {"image": "-v"},
        {"image": "a b"},
        {"image": "a\0"},
        {"image": "a" * 600},
        {"image": 5},
        {"container": "../x"},
        {"container": "c", "memory": "1g"},
        {"container": "c", "workspace": "/"},
        {"container": "c", "network": "bridge"},
        {"container": "c", "remove": True},
        {"image": "a", "url": "ssh://host"},
        {"image": "a", "url": "unix://relative"},
        {"image": "a", "url": 3},
        {"image": "a", "memory": "lots"},
        {"image": "a", "memory": "1m"},
        {"image": "a", "memory": -1},
        {"image": "a", "memory": True},
        {"image": "a", "memory": 1.5e9},
        {"image": "a", "memory": "99999999999t"},
        {"image": "a", "disk": "1k"},
        {"image": "a", "cpus": 0},
        {"image": "a", "cpus": float("nan")},
        {"image": "a", "cpus": float("inf")},
        {"image": "a", "cpus": "2"},
        {"image": "a", "pids": 3},
        {"image": "a", "pids": -1},
        {"image": "a", "pids": 1e9},
        {"image": "a", "network": "host"},
        {"image": "a", "network": "container:other"},
        {"image": "a", "network": ""},
        {"image": "a", "user": "a b"},
        {"image": "a", "user": "a:b:c"},
        {"image": "a", "user": 0},
        {"image": "a", "workdir": "relative"},
        {"image": "a", "workdir": "/a/../b"},
        {"image": "a", "workdir": "/a\0"},
        {"image": "a", "mounts": [("/a", "/b")]},
        {"image": "a", "mounts": [Mount("/a", "/")]},
        {"image": "a", "mounts": [Mount("/a", "/proc/x")]},
        {"image": "a", "mounts": [Mount("/a", "/b"), Mount("/c", "/b/")]},
        {"image": "a", "workspace": "/a", "mounts": [Mount("/c", "/workspace")]},
        {"image": "a", "env": {"A-B": "x"}},
        {"image": "a", "env": {"A": "x\0"}},
        {"image": "a", "env": {"A": 1}},
    ],
    ids=str,
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        DockerBackend(**options)


@pytest.mark.parametrize("mount", [("relative", "/b"), ("/a", "b"), ("/a", "/b", "rx"), ("/a\0", "/b"), ("/a", "/b/../c")], ids=str)
def test_mounts_that_make_no_sense(mount: tuple[Any, ...]) -> None:
    with pytest.raises(BadInput):
        DockerBackend("a", mounts=[Mount(*mount)])


@given(st.one_of(st.text(max_size=20), st.integers(), st.floats(), st.booleans(), st.none(), st.binary(max_size=5)))
def test_any_size(given_size: Any) -> None:
    with contextlib.suppress(BadInput):
        assert options.MIN_SIZE <= options.size(given_size, "memory") < 2**63


@pytest.mark.parametrize(("text", "count"), [("16m", 2**24), ("1GB", 2**30), (" 2g ", 2**31), ("33554432", 2**25), (2**25, 2**25)])
def test_sizes(text: int | str, count: int) -> None:
    assert options.size(text, "memory") == count


@given(st.text(max_size=30))
def test_any_guest_path_is_refused_or_normal(path: str) -> None:
    try:
        found = options.guest_path(path, "it")
    except BadInput:
        return
    assert found.startswith("/") and not found.startswith("//")
    assert not {"", ".", ".."} & set(found[1:].split("/")) or found == "/"


def test_the_engines_socket_cannot_be_mounted(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    path = str(folder / "docker.sock")
    for host in (path, str(folder), str(tmp_path / "link"), str(tmp_path), "/", f"{folder}/."):
        for mode in ("ro", "rw"):
            with pytest.raises(BadInput, match="socket"):
                options.refuse_socket([Mount(host, "/x", mode)], path)  # type: ignore[arg-type]  # a literal
    options.refuse_socket([Mount(f"{folder}x", "/x"), Mount(f"{tmp_path}/other", "/y")], path)
    options.refuse_socket([Mount("/", "/x")], None)


def test_nothing_happens_before_the_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/at/all")
    backend = DockerBackend("image", env={"A": Secret("NOT_SET")})
    assert (backend.machine_id, backend.home) == (None, None)
    assert "image" in repr(backend)
    run(backend.delete())
    run(backend.close())


@pytest.mark.parametrize("host", ["ssh://host", "npipe:////./pipe/x", "nonsense"])
def test_engines_that_are_not_understood(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", host)
    with pytest.raises(BadInput, match="DOCKER_HOST"):
        run(DockerBackend("image").exec("true"))


def test_no_engine(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"no container engine answers at unix://.*start it") as error:
        run(DockerBackend("image", url=f"unix://{tmp_path}/none").exec("true"))
    assert not isinstance(error.value.__cause__, Unreachable)


def test_a_server_that_is_no_engine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            client, _ = server.accept()
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
            client.close()

        io.loop  # noqa: B018 - has the pool of threads made
        io.in_background(answer)
        with pytest.raises(Unreachable, match="no container engine"):
            run(DockerBackend("image", url=f"tcp://127.0.0.1:{port}").exec("true"))


def test_a_forked_child_does_not_use_the_parents_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine("unix:///nowhere")
    made: list[int] = []
    monkeypatch.setattr(engine, "_connect", lambda: made.append(os.getpid()))
    _ = engine._api, engine._api
    monkeypatch.setattr(os, "getpid", lambda: -1)
    _ = engine._api
    assert len(made) == 2
