"""The path map: what it maps, what it refuses, and what it makes of running text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from rigs.examples import many

from langchain_vers.backends.path_text import PLACEHOLDER
from langchain_vers.backends.paths import Mount, PathMap
from langchain_vers.errors import BadInput, Denied

pytestmark = pytest.mark.timeout(900)

# Few names, so that folders nest and prefixes of names are tried; names that text can hold without being cut.
NAMES = st.sampled_from(["a", "b", "ab", "a.b", "a-b", ".a", "é", "e\u0301", "日", "a+", "_"])
ODD_NAMES = NAMES | st.sampled_from(["a b", "a:b", "a'b", '"', "-", "~", "..a", "a\nb", "\udcff", "$a", "a\\", "%41", "*", "(a)"])


def paths(names: st.SearchStrategy[str], least: int = 0, most: int = 5) -> st.SearchStrategy[str]:
    return st.lists(names, min_size=least, max_size=most).map(lambda parts: "/" + "/".join(parts))


def below(folder: str, path: str) -> str:
    return (folder.rstrip("/") + path).rstrip("/") or "/"


@st.composite
def maps(draw: st.DrawFn, names: st.SearchStrategy[str] = ODD_NAMES, host_least: int = 0, **options: object) -> PathMap:
    pairs = draw(st.lists(st.tuples(paths(names, host_least, 3), paths(names, host_least, 3)), min_size=1, max_size=3))
    try:
        return PathMap([Mount(host, guest) for host, guest in pairs], **options)  # type: ignore[arg-type]
    except BadInput:
        assume(False)
        raise


def inside(path: str, folder: str) -> bool:
    return folder == "/" or path == folder or path.startswith(folder + "/")


# --- properties of paths ---


@many
@given(maps(), paths(ODD_NAMES), st.booleans())
def test_round_trip_longest_folder_and_no_escape(mapping: PathMap, path: str, slash: bool) -> None:
    holding = [mount for mount in mapping.mounts if inside(path, mount.host)]
    asked = path + "/" if slash and path != "/" else path
    if not holding:
        with pytest.raises(Denied):
            mapping.to_guest(asked)
        return
    guest = mapping.to_guest(asked)
    longest = max(holding, key=lambda mount: len(mount.host))
    assert guest.rstrip("/") == below(longest.guest, path[len(longest.host.rstrip("/")) :]).rstrip("/")
    assert inside(guest, longest.guest)
    # The root itself has no slash that could be kept.
    assert mapping.to_host(guest) == (path if guest == "/" else asked)


@many
@given(maps(), paths(ODD_NAMES))
def test_a_guest_path_names_one_host_path(mapping: PathMap, path: str) -> None:
    holding = [mount for mount in mapping.mounts if inside(path, mount.guest)]
    if not holding:
        with pytest.raises(Denied):
            mapping.to_host(path)
        return
    host = mapping.to_host(path)
    # Whichever of the mounts one looks through, it is the same file.
    assert {below(mount.host, path[len(mount.guest.rstrip("/")) :]) for mount in holding} == {host}
    assert mapping.to_host(mapping.to_guest(host)) == host


@many
@given(maps(), st.lists(ODD_NAMES | st.sampled_from(["..", ".", ""]), max_size=8))
def test_what_is_not_plain_never_gets_through(mapping: PathMap, parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    if ".." in parts:
        for translate in (mapping.to_guest, mapping.to_host):
            with pytest.raises(BadInput):
                translate(path)
        return
    plain = os.path.normpath(path)
    plain = "/" + plain.lstrip("/")
    try:
        guest = mapping.to_guest(path)
    except Denied:
        assert not any(inside(plain, mount.host) for mount in mapping.mounts)
        return
    assert any(inside(guest.rstrip("/") or "/", mount.guest) for mount in mapping.mounts)
    assert "//" not in guest and "/./" not in guest


@many
@given(maps(host_least=1, private=["/a"], own=["/b"]), st.lists(ODD_NAMES | st.sampled_from(["..", "."]), max_size=6))
def test_no_argument_names_a_private_path(mapping: PathMap, parts: list[str]) -> None:
    try:
        given_on = mapping.argument("/" + "/".join(parts))
    except (Denied, BadInput):
        return
    where = os.path.normpath(given_on)
    private = inside(where, "/a") and not any(inside(where, mount.guest) for mount in mapping.mounts)
    # What is the guest's own by name is not the host's.
    assert not private or inside(where, "/b")


# --- properties of text ---

SEPARATORS = st.sampled_from(
    [" ", "\n", ", ", ": ", " '", '"', "=", "(", ") ", ":", ";", " -I", "[", "] ", "<", ">", "`", "\x1b[31m", "\\n", "file://"]
)


@st.composite
def texts(draw: st.DrawFn) -> str:
    word = paths(NAMES, 1) | NAMES | st.sampled_from(["/", "//", "..", "/../a/b", "/./a/b", "//a//b", ".", PLACEHOLDER])
    pieces = draw(st.lists(st.tuples(SEPARATORS, word), max_size=6))
    return "".join(separator + piece for separator, piece in pieces) + draw(SEPARATORS)


@st.composite
def apart(draw: st.DrawFn) -> PathMap:
    """Maps whose guest folders bear no name of a host folder."""
    hosts = draw(st.lists(paths(NAMES, 1, 3), min_size=1, max_size=3, unique=True))
    private = draw(st.lists(paths(NAMES, 1, 2), max_size=2))
    return PathMap([Mount(host, f"/guest{number}") for number, host in enumerate(hosts)], private=private, own=["/own"])


@many
@given(apart(), texts())
def test_text_is_translated_once(mapping: PathMap, text: str) -> None:
    for translate in (mapping.text_for_guest, mapping.text_from_guest):
        once = translate(text)
        assert translate(once) == once


@many
@given(maps(names=NAMES), texts())
def test_what_a_guest_printed_is_translated_once_by_any_map(mapping: PathMap, text: str) -> None:
    once = mapping.text_from_guest(text)
    assert mapping.text_from_guest(once) == once


@many
@given(apart(), paths(NAMES, 1), SEPARATORS, st.sampled_from(["", " ", ".", ". ", ":1", "'", "\n", ")", ", x", "…"]))
def test_a_path_in_text_means_what_it_means_alone(mapping: PathMap, path: str, before: str, after: str) -> None:
    try:
        wanted = mapping.to_guest(path)
    except Denied:
        private = any(inside(path, folder) for folder in mapping._private)
        wanted = PLACEHOLDER if private else path
    shown = mapping.text_for_guest(before + path + after)
    assert shown == before + wanted + after
    if wanted not in {PLACEHOLDER, path}:
        assert mapping.text_for_host(shown) == before + path + after


@many
@given(st.lists(NAMES, min_size=1, max_size=3), texts(), SEPARATORS, paths(ODD_NAMES), st.sampled_from(["/", "//", "/./", "/x/../"]))
def test_a_private_folder_is_never_shown(parts: list[str], text: str, before: str, rest: str, slash: str) -> None:
    home = "/" + "/".join(["home", *parts])
    mapping = PathMap([Mount(below(home, "/mapped"), "/work")], private=[home])
    written = slash + slash.join(["home", *parts]) if slash != "/x/../" else "/x/.." + home
    for translate in (mapping.text_for_guest, mapping.text_from_guest):
        shown = translate(text + before + written + rest)
        assert home not in shown.replace("//", "/").replace("/./", "/")
        assert "/home/" not in shown


# --- cases ---

ALICE = PathMap(
    [Mount("/home/alice/proj", "/work"), Mount("/home/alice/proj/.git", "/work/.git", "ro"), Mount("/data set", "/data", "ro")],
    private=["/home/alice"],
    own=["/root"],
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/./home/alice/b://home/alice/b", "[host path]:[host path]"),
        ("see b://home/alice/b", "see b://home/alice/b"),
        (r"\n://home/alice/b", r"\n:[host path]"),
        ("/==/x/../home/alice/", "/==[host path]"),
        ("cat /home/alice/proj/x.py:12", "cat /work/x.py:12"),
        ("see /home/alice/proj.", "see /work."),
        ("see /home/alice/proj...", "see /work..."),
        ("/home/alice/proj2/x and /home/alice/proj.old", f"{PLACEHOLDER} and {PLACEHOLDER}"),
        ("gcc -I/home/alice/proj/inc --x=/home/alice/lib", f"gcc -I/work/inc --x={PLACEHOLDER}"),
        ("+/home/alice/a\n-/home/alice/b", f"+{PLACEHOLDER}\n-{PLACEHOLDER}"),
        ("file:///home/alice/proj/x file:///home/alice/x", f"file:///work/x file://{PLACEHOLDER}"),
        ("http://home/alice/proj", "http://home/alice/proj"),
        ("open('/home/alice/my secret/x') failed", f"open('{PLACEHOLDER}') failed"),
        ("cat /home/alice/my\\ secret/x y", f"cat {PLACEHOLDER} y"),
        ("/etc/../home/alice/x /home/alice/proj/../x", f"{PLACEHOLDER} {PLACEHOLDER}"),
        ("/home/alice/proj/../../bob", "/home/bob"),
        ("//home//./alice/proj/q", "/work/q"),
        ("a/home/alice ./home/alice ~/home/alice", "a/home/alice ./home/alice ~/home/alice"),
        ("\x1b[31m/home/alice/k\x1b[0m", f"\x1b[31m{PLACEHOLDER}\x1b[0m"),
        ("/data set/x", "/data/x"),
        ("file:///data%20set/x", "file:///data/x"),
        ("cat /data\\ set/x", "cat /data/x"),
        ("PATH=/home/alice/bin:/usr/bin", f"PATH={PLACEHOLDER}:/usr/bin"),
        (json.dumps("x\n/home/alice/z"), f'"x\\n{PLACEHOLDER}"'),
        ("/home/alice/proj。", "/work。"),
        ("/work/x /root/x /etc/x", "/work/x /root/x /etc/x"),
        ("and / or // are no paths of ours", "and / or // are no paths of ours"),
    ],
)
def test_text_for_a_reader_on_the_guest(text: str, shown: str) -> None:
    assert ALICE.text_for_guest(text) == shown


def test_a_guest_has_a_home_of_its_own() -> None:
    mapping = PathMap([Mount("/root/proj", "/work")], private=["/root"], own=["/root"])
    assert mapping.text_from_guest("/root/proj/x /work/x") == "/root/proj/x /work/x"
    assert mapping.text_for_guest("/root/proj/x /root/y") == f"/work/x {PLACEHOLDER}"
    assert mapping.argument("/root/.bashrc") == "/root/.bashrc"


def test_what_a_guest_says_of_system_folders_is_its_own() -> None:
    mapping = PathMap([Mount("/usr/share", "/data"), Mount("/home/alice/p", "/work")], private=["/home/alice"])
    assert mapping.text_from_guest("/usr/share/x /home/alice/p/y") == "/usr/share/x /work/y"


def test_the_whole_host_or_the_whole_guest() -> None:
    everything = PathMap([Mount("/", "/host")], private=["/home/alice"])
    assert everything.to_guest("/etc/x") == "/host/etc/x"
    assert everything.to_guest("/") == "/host"
    assert everything.to_host("/host/") == "/"
    assert everything.argument("/etc/x") == "/etc/x"
    assert everything.text_for_guest("/etc/x a/b / /home/alice/y") == "/host/etc/x a/b / /host/home/alice/y"
    root = PathMap([Mount("/rootfs/", "/")])
    assert root.to_guest("/rootfs") == "/"
    assert root.to_host("/etc/") == "/rootfs/etc/"
    assert root.text_for_guest("/rootfs /rootfs/etc/x /etc") == "/ /etc/x /etc"
    assert root.text_for_host("/etc/x") == "/rootfs/etc/x"


@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        (("/a", "/g"), ("/b", "/g"), "both mounted at /g"),
        (("/a", "/g"), ("/a/", "/h"), "mounted twice"),
        (("/a", "/g"), ("/b", "/g/sub"), "inside of /g"),
        (("/a", "/g/sub"), ("/b", "/g"), "inside of /g"),
        (("/a", "/g"), ("/a/other", "/g/sub"), "two files"),
        (("/a", "/"), ("/b", "/g"), "two files"),
    ],
)
def test_what_is_ambiguous_is_refused(first: tuple[str, str], second: tuple[str, str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        PathMap([Mount(*first), Mount(*second)])


def test_nested_in_the_same_way_is_clear() -> None:
    assert ALICE.to_guest("/home/alice/proj/.git/config") == "/work/.git/config"
    mount = ALICE.mount_at("/work/.git/config")
    assert mount is not None and mount.mode == "ro"
    assert ALICE.mount_at("/etc") is None


@pytest.mark.parametrize("path", ["", "a", "./a", "~/a", "/a\0b", "/a/../b", b"/a", None, 1])
@pytest.mark.parametrize("side", ["host", "guest"])
def test_bad_folders(path: object, side: str) -> None:
    with pytest.raises(BadInput, match=side):
        Mount(**{"host": "/h", "guest": "/g", side: path})  # type: ignore[arg-type]


def test_bad_mode_and_plain_form() -> None:
    with pytest.raises(BadInput, match="'ro', 'rw', 'copy'"):
        Mount("/a", "/b", "w")  # type: ignore[arg-type]
    assert Mount("//a/./b//", "/") == Mount("/a/b", "/")
    assert Mount(Path("/a"), "/b").host == "/a"  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "a", "../a", "/a\0", "/proj/../x"])
def test_bad_paths(path: str) -> None:
    for translate in (ALICE.to_guest, ALICE.to_host):
        with pytest.raises(BadInput):
            translate(path)


def test_errors_name_what_is_mapped_and_nothing_private() -> None:
    with pytest.raises(Denied) as caught:
        ALICE.to_guest("/home/alice/.ssh/id_ed25519")
    assert str(caught.value).endswith("it sees /data, /work, /work/.git")
    assert "alice" not in str(caught.value)
    with pytest.raises(BadInput) as refused:
        ALICE.argument("/home/alice/proj/../.ssh/id")
    assert "alice" not in str(refused.value)
    with pytest.raises(Denied, match="sees none"):
        PathMap().to_guest("/x")
    assert "alice" not in repr(ALICE)


def test_symlinks_are_seen_through(tmp_path: Path) -> None:
    real, other = tmp_path / "real", tmp_path / "other"
    (real / "sub").mkdir(parents=True)
    other.mkdir()
    (tmp_path / "called").symlink_to(real)
    (real / "out").symlink_to(other)
    (real / "in").symlink_to("sub")
    mapping = PathMap([Mount(str(tmp_path / "called"), "/work")], resolve=os.path.realpath, private=[str(tmp_path)])
    assert mapping.to_guest(str(tmp_path / "called/sub/x")) == mapping.to_guest(f"{real}/sub/x") == "/work/sub/x"
    assert mapping.to_guest(f"{real}/in/x") == "/work/sub/x"
    assert mapping.to_guest(f"{other}/../real/x") == "/work/x"
    for path in (f"{real}/out", f"{real}/out/x", f"{real}/../other/x", f"{real}/in/../../other"):
        with pytest.raises(Denied):
            mapping.to_guest(path)
    # What the guest has put into the folder is not followed out of it.
    with pytest.raises(Denied, match="leads out of the folder /work"):
        mapping.to_host("/work/out/x")
    assert mapping.to_host("/work/in/x") == f"{real}/sub/x"
    # People write the name that they know.
    assert mapping.text_for_guest(f"{tmp_path}/called/x {real}/x {other}/x") == f"/work/x /work/x {PLACEHOLDER}"


def test_a_host_that_tells_no_case() -> None:
    mapping = PathMap([Mount("/Users/Zoé/Proj", "/work")], private=["/Users/Zoé"], ignore_case=True)
    assert mapping.to_guest("/users/ZOE\u0301/PROJ/Src") == "/work/Src"
    assert mapping.to_host("/work/Src") == "/Users/Zoé/Proj/Src"
    with pytest.raises(Denied):
        mapping.to_host("/Work/Src")
    assert mapping.text_for_guest("/users/zoe\u0301/proj/x /USERS/ZOÉ/k") == f"/work/x {PLACEHOLDER}"
    with pytest.raises(BadInput, match="twice"):
        PathMap([Mount("/A", "/x"), Mount("/a", "/y")], ignore_case=True)
    with pytest.raises(Denied):
        PathMap([Mount("/A", "/x")]).to_guest("/a")


@pytest.mark.parametrize(
    ("path", "given_on"),
    [
        ("x", "x"),
        ("../x", "../x"),
        ("~/x", "~/x"),
        ("/etc/x", "/etc/x"),
        ("/work/../etc", "/work/../etc"),
        ("/home/alice/proj/x/", "/work/x/"),
    ],
)
def test_arguments(path: str, given_on: str) -> None:
    assert ALICE.argument(path) == given_on


@pytest.mark.parametrize("path", ["/home/alice/.ssh/id", "/home/alice", "/home/alice/proj/../.ssh", "/etc/../home/alice/x", "/x\0"])
def test_arguments_that_must_not_reach_a_guest(path: str) -> None:
    with pytest.raises((Denied, BadInput)):
        ALICE.argument(path)


def test_a_long_text_takes_no_long_time() -> None:
    # Slashes are where a path may begin: a text of nothing else is the worst.
    for text in ("/" * 200_000, "/home/alice" * 20_000, "/.." * 60_000, ".." * 100_000 + "/home/alice/x", quote("/home/alice/ " * 9000)):
        ALICE.text_for_guest(text)
