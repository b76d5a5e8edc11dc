"""Globs against a table, ignore rules against git itself."""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_vers.backends.globs import MAX_ALTERNATIVES, IgnoreRules, compile_glob, expand_braces
from langchain_vers.errors import BadInput


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("*.py", ["a.py", "x/y/a.py", ".py", "x/.hidden.py"], ["a.pyc", "py", "a.py/b"]),
        ("a?c", ["abc", "d/aéc", "a\U0001f600c"], ["ac", "abbc", "a/c"]),
        ("src/*.py", ["src/a.py"], ["src/x/a.py", "lib/src/a.py", "a.py"]),
        ("src/**/*.py", ["src/a.py", "src/x/y/a.py"], ["src.py", "a/src/a.py"]),
        ("**/a", ["a", "x/a", "x/y/a"], ["xa", "a/b"]),
        ("a/**", ["a/b", "a/b/c"], ["a", "ab/c"]),
        ("a/", ["a/b", "a/b/c"], ["a"]),
        ("**", ["a", "a/b"], []),
        ("**/*", ["a", "a/b"], []),
        ("./x/*", ["x/a"], ["a", "./x/a"]),
        ("x//y", ["x/y"], ["x//y"]),
        ("a**b", ["ab", "axxb", "d/axb"], ["a/b"]),
        ("x/a**b", ["x/ab", "x/axxb"], ["x/a/b"]),
        ("*.{py,js}", ["a.py", "b/a.js"], ["a.ts", "a.{py,js}"]),
        ("{*.md,docs/*.txt}", ["x/a.md", "docs/a.txt"], ["a.txt", "x/docs/a.txt"]),
        ("a{b,c{d,e}}f", ["abf", "acdf", "acef"], ["acf", "af"]),
        ("a{,b}", ["a", "ab"], ["abb"]),
        ("[!x]a", ["ya", "d/-a"], ["xa", "a"]),
        ("[^x]a", ["ya"], ["xa"]),
        ("[]a]b", ["]b", "ab"], ["b"]),
        ("[a-c]", ["a", "b", "c"], ["d", "-"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[[:digit:]x]", ["7", "x"], ["y", ":"]),
        ("[z-a]", ["z"], ["a", "m", "-"]),  # as git: the first letter stands for itself
        ("[!z-a]", ["q", "a"], ["z", ""]),
        ("x[/]y", [], ["x/y", "xy"]),
        ("x/[!a]y", ["x/by"], ["x/ay", "x//y"]),
        (r"\*", ["*"], ["a"]),
        (r"\{a,b\}", ["{a,b}"], ["a", "b"]),
        ("[{]x", ["{x"], ["x"]),
        ("a,b", ["a,b"], ["a"]),
        ("a\nb", ["a\nb"], ["ab"]),
        ("*", ["a\nb", "a\n"], []),
        ("a", ["a"], ["a\n"]),
        ("*.txt", ["caf\udce9.txt"], []),
    ],
)
def test_glob(pattern: str, yes: list[str], no: list[str]) -> None:
    picks = compile_glob(pattern)
    assert [path for path in yes if not picks(path)] == []
    assert [path for path in no if picks(path)] == []


@pytest.mark.parametrize(
    "pattern", ["", "a\0b", "/etc/*", "../x", "a/../b", "a[", "a[!", "{a", "a}", "a\\", "{a,{b}", "[[:nope:]]", "{..,x}/y"]
)
def test_nonsense_is_refused(pattern: str) -> None:
    with pytest.raises(BadInput):
        compile_glob(pattern)


def test_braces_are_bounded() -> None:
    assert expand_braces("{a,b}{c,d}") == ["ac", "ad", "bc", "bd"]
    with pytest.raises(BadInput, match=str(MAX_ALTERNATIVES)):
        expand_braces("{a,b}" * 40)


def test_many_stars_stay_fast() -> None:
    started = time.process_time()
    assert not compile_glob("*a" * 30 + "b")("a" * 250)
    assert compile_glob("*a" * 30 + "*")("a" * 250)
    assert time.process_time() - started < 2


def git_ignored(root: Path, paths: list[str]) -> set[str]:
    """What git itself ignores among paths relative to `root`."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}
    subprocess.run(["git", "init", "-q", "."], cwd=root, check=True, env=environment)
    done = subprocess.run(
        ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "--no-index", "-z", "--stdin"],
        cwd=root,
        input=b"\0".join(map(os.fsencode, paths)) + b"\0",
        capture_output=True,
        check=False,
        env=environment,
    )
    assert done.returncode in (0, 1), done.stderr
    return {os.fsdecode(path) for path in done.stdout.split(b"\0") if path}


def check_tree(root: Path, files: list[str], ignores: dict[str, bytes]) -> None:
    for path in files:
        target = root / path
        if not any(parent.is_file() for parent in target.parents) and not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(b"")
    rules = IgnoreRules()
    for directory, content in ignores.items():
        if (root / directory).is_dir():
            (root / directory / ".gitignore").write_bytes(content)
            rules.add(directory, content)
    found: dict[str, bool] = {}
    for directory, names, leaves in os.walk(root):
        names[:] = [name for name in names if name != ".git"]
        for name in names + leaves:
            relative = os.path.relpath(os.path.join(directory, name), root)
            found[relative] = name in names
    expected = git_ignored(root, sorted(found))
    actual = {path for path, is_dir in found.items() if rules.ignored(path, is_dir)}
    assert actual == expected, ignores


def test_ignore_rules_known_cases(tmp_path: Path) -> None:
    check_tree(
        tmp_path,
        [
            "build/a.o",
            "src/build/keep.txt",
            "src/x.o",
            "src/keep.o",
            "doc/frotz/a",
            "a/doc/frotz/b",
            "foox/y/bar",
            "foo/bar",
            "trail ",
            "trail",
            "café",
            "caf",
            "#hash",
            "!bang",
            "a]b",
            "a\\b",
            "x-y",
            "xzy",
            "nested/deep/log.txt",
            "nested/log.txt",
            "new\nline",
            "tab\t",
            "q/r/s/t",
            "caf\udce9",
        ],
        {
            "": (
                b"\xef\xbb\xbfbuild/\n*.o\r\n!keep.o\ndoc/frotz/\nfoo**/bar\ntrail\\ \ncaf??\n\\#hash\n\\!bang\n# comment\n"
                b"[a-]\\]b\na[\\\\]b\n"
                b"x[+--]y\n/nested/*\n!/nested/deep\nnew?line\ntab\n[z-a]\n[unclosed\nend\\\n/\n//\n!\n**/r/**/t\n"
            ),
            "src": b"!x.o\n/build\n",
            "nested/deep": b"!log.txt\n*\n!log.txt\n",
        },
    )


PART = st.text(alphabet="ab.c", min_size=1, max_size=3).filter(lambda name: name.strip(".") != "" and name != ".git")
FILE = st.lists(PART, min_size=1, max_size=4).map("/".join)
PIECE = st.sampled_from(
    [
        "a",
        "b",
        "c",
        ".",
        "*",
        "**",
        "***",
        "?",
        "/",
        "/",
        "[ab]",
        "[!a]",
        "[^b.]",
        "[a-c]",
        "[]a]",
        "[[:alpha:]]",
        "[!/]",
        "\\",
        "\\*",
        " ",
        "[",
        "]",
        "{",
        "é",
    ]
)
RULE = st.builds(
    lambda bang, lead, body, tail: bang + lead + "".join(body) + tail,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "", "/", "**/"]),
    st.lists(PIECE, min_size=1, max_size=5),
    st.sampled_from(["", "", "/", "/**", "/*", " ", "\\ ", "\r"]),
)
IGNORE = st.lists(RULE, max_size=6).map(lambda rules: "\n".join(rules).encode())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(FILE, min_size=3, max_size=14),
    IGNORE,
    st.dictionaries(st.lists(PART, min_size=1, max_size=2).map("/".join), IGNORE, max_size=3),
)
def test_ignore_rules_answer_as_git(
    tmp_path_factory: pytest.TempPathFactory, files: list[str], top: bytes, nested: dict[str, bytes]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    inside = {str(Path(path).parent) for path in files} - {"."}
    chosen = dict(nested)
    # Rules are put where directories are, else most would lie nowhere.
    for directory, content in zip(sorted(inside), nested.values(), strict=False):
        chosen[directory] = content
    check_tree(root, files, {"": top, **chosen})


def test_ignore_rules_on_a_larger_random_tree(tmp_path: Path) -> None:
    chance = random.Random(7)
    parts = ["a", "b", "ab", "a.c", "c.b", "node_modules", "build", "x.log", ".env"]
    files = ["/".join(chance.choices(parts, k=chance.randint(1, 5))) for _ in range(300)]
    rules = ["*.log", "!a/**/x.log", "build/", "/node_modules", "**/a.c", "a/*", "!a/b", ".env", "c.b/**/ab", "!.env"]
    directories = ["", "a", "b", "a/b", "ab", "build", "a/ab"]
    check_tree(tmp_path, files, {name: "\n".join(chance.sample(rules, k=4)).encode() for name in directories})


def test_rules_added_later_count() -> None:
    rules = IgnoreRules()
    assert not rules.ignored("a/b", False)
    rules.add("", b"a/b\n")
    assert rules.ignored("a/b", False)
    rules.add("a", b"!b\n")
    assert not rules.ignored("a/b", False)
