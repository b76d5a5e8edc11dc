"""Commands that run others in ways of their own: `find -exec`, `xargs`, `su -c`, `ssh`, `git`, and the programs of other languages. Pure.

Each function takes a command's words and its standard input (None if the script does not say what it is), and gives what it runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from langchain_vers.shell.options import Argv, Code, Options, Runs, options
from langchain_vers.shell.words import UNKNOWN, Word

LANGUAGES = {
    "perl": ("-e", "-E"), "ruby": ("-e",), "node": ("-e", "-p", "--eval", "--print"), "nodejs": ("-e", "-p", "--eval", "--print"),
    "php": ("-r", "-B", "-R", "-E"), "lua": ("-e",), "Rscript": ("-e",), "R": ("-e",), "osascript": ("-e",), "expect": ("-c",),
    "julia": ("-e", "-E", "--eval"), "guile": ("-c",), "tclsh": (), "bun": ("-e", "--eval"), "groovy": ("-e",), "elixir": ("-e",),
    "gdb": ("-x", "--eval-command"), "pwsh": ("-c", "-C", "-Command", "--command"), "deno": (), "irb": (), "ghci": (),
}  # fmt: skip
"""Languages, and the options that give them a program."""
_QUESTIONS = {"--version", "--help", "-V", "-h", "-v"}
_SAFE_SED = re.compile(
    r"""(?:[ \t]*+(?:\d+|\$|/(?:[^/\\\n]|\\.)*/)?(?:[ \t]*+,[ \t]*+[+~]?(?:\d+|\$|/(?:[^/\\\n]|\\.)*/))?[ \t]*+!?[ \t]*+
    (?:[pdqDPhHgGxnN=]|s([/|,\#@:%])(?:(?!\1)[^\\\n]|\\.)*\1(?:(?!\1)[^\\\n]|\\.)*\1[gpiIm0-9]*|y/[^\n]*/)?[ \t]*+(?:;|\n|$))+""",
    re.VERBOSE,
)
_MOST_SED = 500
_UNSAFE_AWK = re.compile(r"system|getline|\||>|@load|@include|@\w+\(")


def bundled(text: str, letter: str) -> bool:
    """Whether a word is a bundle of short options with this letter in it."""
    return len(text) > 1 and text[0] == "-" and text[1] != "-" and letter in text[1:]


def code(words: Sequence[Word], what: str, *, here: bool = False) -> Runs:
    """Words that are joined and run as shell text."""
    texts = [word.plain for word in words]
    known = [text for text in texts if text is not None]
    if len(known) < len(texts) or not texts:
        return Runs(doubts=(f"{what} is not known before it runs",) if texts else ())
    return Runs((Code(" ".join(known), here=here),))


def _eval(words: tuple[Word, ...], given: Word | None) -> Runs:
    return code(words[2:] if len(words) > 1 and words[1].plain == "--" else words[1:], "the text that it runs", here=True)


def _source(words: tuple[Word, ...], given: Word | None) -> Runs:
    file = words[1].plain if len(words) > 1 else ""
    if file is None or file.startswith(("/dev/", "/proc/")):
        return Runs(doubts=("the commands that it reads are not known",))
    return Runs()


def _trap(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:])
    if len(taken.rest) < 2 or taken.rest[0].plain in {"", "-"}:
        return Runs()
    return code(taken.rest[:1], "what it runs later", here=True)


def _alias(words: tuple[Word, ...], given: Word | None) -> Runs:
    values = [Word(word.text.partition("=")[2], word.known and not word.home) for word in words[1:] if "=" in word.text]
    runs = [code([value], "what the alias stands for") for value in values]
    return Runs(tuple(each for one in runs for each in one.inner), tuple(doubt for one in runs for doubt in one.doubts))


def _cd(words: tuple[Word, ...], given: Word | None) -> Runs:
    rest = options(words[1:]).rest
    if not rest:
        return Runs(moves=Word("", home=True) if words[0].plain == "cd" else UNKNOWN)
    return Runs(moves=UNKNOWN if rest[0].plain in {"-", None} and not (rest[0].home and rest[0].known) else rest[0])


def _popd(words: tuple[Word, ...], given: Word | None) -> Runs:
    return Runs(moves=UNKNOWN)


def _xargs(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(
        words[1:], "aEeIiLlnPsdJR", ("--arg-file", "--delimiter", "--eof", "--replace", "--max-lines", "--max-args", "--max-procs")
    )
    if not taken.rest:
        return Runs()
    token = taken.value("-I", "-J", "-i", "--replace")
    if token is not None or taken.has("-i", "--replace"):
        text = "{}" if token is None else token.text or "{}"
        return Runs((Argv(tuple(UNKNOWN if text in word.text else word for word in taken.rest)),))
    return Runs((Argv((*taken.rest, UNKNOWN)),))


def _find(words: tuple[Word, ...], given: Word | None) -> Runs:
    found: list[Argv | Code] = []
    doubts: list[str] = []
    position = 1
    while position < len(words):
        text = words[position].text
        position += 1
        if text not in {"-exec", "-execdir", "-ok", "-okdir"}:
            if words[position - 1].spread and not words[position - 1].known:
                doubts.append("what it does with the files is not known")
            continue
        start = position
        while position < len(words) and words[position].text not in {";", "+"}:
            position += 1
        run = tuple(UNKNOWN if "{}" in word.text else word for word in words[start:position])
        found += [Argv(run, folder=UNKNOWN if text.endswith("dir") else None)] if run else []
    return Runs(tuple(found), tuple(doubts[:1]))


def _su(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "cgGsuw", ("--command", "--session-command", "--group", "--shell", "--user"))
    command, rest = taken.value("-c", "--command", "--session-command"), taken.rest
    if command is None:  # behind the user's name, too
        later = options(rest[1:], "cgGsuw", ("--command", "--session-command"))
        command, rest = later.value("-c", "--command", "--session-command"), later.rest if taken.has("-u", "--user") is False else rest
    if command is not None:
        return code([command], "what it runs")
    if taken.has("-u", "--user") and taken.rest:
        return Runs((Argv(taken.rest),))
    return Runs(doubts=("it starts a shell as another user",))


def _flock(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "wE", ("--timeout", "--wait", "--conflict-exit-code"))
    later = options(taken.rest[1:], "c", ("--command",))
    command = taken.value("-c", "--command") or later.value("-c", "--command")
    if command is not None or taken.has("-c"):
        return code([command or UNKNOWN], "what it runs")
    return Runs((Argv(taken.rest[1:]),)) if len(taken.rest) > 1 else Runs()


def _script(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "cEmoOITB", ("--command",))
    command = taken.value("-c", "--command")
    return code([command], "what it runs") if command is not None else Runs(doubts=("it starts a shell",))


def _watch(words: tuple[Word, ...], given: Word | None) -> Runs:
    return code(options(words[1:], "nq", ("--interval",)).rest, "what it runs")


def _ssh(words: tuple[Word, ...], given: Word | None) -> Runs:
    rest = options(words[1:], "bBcDEeFIiJLlmOopQRSWw").rest
    runs = code(rest[1:], "what it runs on the other machine")
    risky = [word for word in words[1:] if re.search(r"proxycommand|localcommand|knownhostscommand", word.text, re.IGNORECASE)]
    more = () if rest[1:] else ("it starts a shell on another machine",)
    return Runs(runs.inner, (*runs.doubts, *more, *(("its option may run something",) if risky else ())))


def python(words: tuple[Word, ...], given: Word | None) -> Runs:
    """Python runs a module by `-m`, which may be a program that is known."""
    taken = options(words[1:], "cmWX")
    module = taken.value("-m")
    if module is not None and not taken.has("-c"):
        position = next(place for place, word in enumerate(words) if word.text.startswith("-") and "m" in word.text)
        packed = words[position].text.partition("m")[2]
        rest = words[position + 1 :] if packed else words[position + 2 :]
        return Runs((Argv((module, *rest)),))
    return language("python", words, taken)


def language(name: str, words: tuple[Word, ...], taken: Options | None = None) -> Runs:
    """A program in another language: given by an option or the standard input, nobody has looked at it."""
    given = ("-c",) if taken is not None else LANGUAGES[name]
    texts = [word.text for word in words[1:]]
    packed = any(bundled(text, option[1]) for text in texts for option in given if len(option) == 2)
    rest = taken.rest if taken is not None else options(words[1:]).rest
    if packed or any(text.partition("=")[0] in given for text in texts) or any(word.spread and not word.known for word in words[1:2]):
        return Runs(doubts=("it runs code of another language, which is not looked into",))
    if (not rest or rest[0].text in {"-", "/dev/stdin"} or rest[0].text.startswith("/dev/fd/")) and not set(texts) & _QUESTIONS:
        return Runs(doubts=("it runs code from its standard input, which is not looked into",))
    return Runs()


def _awk(words: tuple[Word, ...], given: Word | None) -> Runs:
    rest = options(words[1:], "Fvfe").rest
    program = rest[0] if rest else None
    if any(word.text.startswith(("-f", "-e", "-i", "-l", "--")) for word in words[1:]) or program is None or program.plain is None:
        return Runs(doubts=("what its program does is not known",))
    return Runs(doubts=("its program may run commands or write files",) if _UNSAFE_AWK.search(program.plain) else ())


def _sed(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "efl", ("--expression", "--file", "--line-length"))
    scripts = [value for name, value in taken.given if name in {"-e", "--expression"}] or [taken.rest[0] if taken.rest else UNKNOWN]
    texts = [None if each is None else each.plain for each in scripts]
    later = [word for word in taken.rest if word.text.startswith(("-e", "-f", "--exp", "--file"))]
    if taken.has("-f", "--file") or later or any(text is None or len(text) > _MOST_SED or not _SAFE_SED.fullmatch(text) for text in texts):
        return Runs(doubts=("what its script does is not worked out",))
    return Runs()


def _git(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "Cc", ("--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env", "--super-prefix"))
    if taken.has("-c", "--config-env", "--exec-path"):
        return Runs(doubts=("settings that it is given may run something",))
    verb = taken.rest[0].plain if taken.rest else ""
    below = taken.rest[1:]
    texts = [word.text for word in below]
    folder = taken.value("-C")
    if verb == "bisect" and texts[:1] == ["run"]:
        return Runs((Argv(tuple(below[1:]), folder=folder),))
    if verb == "submodule" and "foreach" in texts:
        rest = options(below[texts.index("foreach") + 1 :]).rest
        return code(rest, "what it runs")
    risky = {
        "rebase": ("-x", "--exec"), "filter-branch": ("-",), "difftool": ("-x", "--extcmd"), "grep": ("-O", "--open-files"),
        "clone": ("-u", "--upload-pack", "-c", "--config", "--template"), "fetch": ("--upload-pack",), "ls-remote": ("--upload-pack",),
        "push": ("--receive-pack", "--exec"), "config": ("alias", "core.", "credential", "pager", "diff", "merge", "filter", "include"),
        "mergetool": ("",), "send-email": ("",), "instaweb": ("",), "daemon": ("",), "hook": ("run",), "archive": ("--exec", "--remote"),
    }.get(verb or "", ())  # fmt: skip
    if any(text.startswith(risky) for text in texts) if risky else False:
        return Runs(doubts=(f"git {verb} may run something that it is given",))
    return Runs()


def _opaque(words: tuple[Word, ...], given: Word | None) -> Runs:
    return Runs(doubts=("what it runs is not worked out",))


SPECIAL: dict[str, Callable[[tuple[Word, ...], Word | None], Runs]] = {
    "eval": _eval, "source": _source, ".": _source, "trap": _trap, "alias": _alias, "cd": _cd, "pushd": _cd, "popd": _popd,
    "chdir": _cd, "xargs": _xargs, "gxargs": _xargs, "find": _find, "gfind": _find, "su": _su, "runuser": _su, "sg": _su, "flock": _flock,
    "script": _script, "watch": _watch, "ssh": _ssh, "awk": _awk, "gawk": _awk, "mawk": _awk, "nawk": _awk, "sed": _sed, "gsed": _sed,
    "git": _git, "parallel": _opaque, "systemd-run": _opaque, "at": _opaque, "batch": _opaque, "screen": _opaque, "tmux": _opaque,
    "dtach": _opaque, "nix-shell": _opaque, "rlwrap": _opaque, "start-stop-daemon": _opaque, "entr": _opaque, "m4": _opaque,
    "crontab": _opaque, "capsh": _opaque, "firejail": _opaque, "bwrap": _opaque, "run-parts": _opaque, "logsave": _opaque,
}  # fmt: skip
"""By name, the programs that are taken apart here."""
