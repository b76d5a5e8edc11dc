"""Commands that run other commands: `sudo`, `env`, `xargs`, `find -exec`, `bash -c`, `eval` and their kin, taken apart. Pure.

`inner` gives what a command runs, as far as its words say, and a doubt for everything that it may run and they do not say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from langchain_vers.shell.options import Argv, Code, Runs, options
from langchain_vers.shell.runners import LANGUAGES, SPECIAL, bundled, code, language, python
from langchain_vers.shell.words import Word

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)


def _assignments(words: Sequence[Word]) -> tuple[tuple[tuple[str, Word], ...], tuple[Word, ...]]:
    """The `NAME=value` words in front, and the rest."""
    found: list[tuple[str, Word]] = []
    for position, word in enumerate(words):
        match = _ASSIGNMENT.match(word.text)
        if match is None or word.home:
            return tuple(found), tuple(words[position:])
        found.append((match[1], Word(match[2], word.known)))
    return tuple(found), ()


class Wrapper(NamedTuple):
    """How a program that runs another one is called: its options that take values, and how many operands stand before the other one."""

    valued: str = ""
    longs: tuple[str, ...] = ()
    skipped: int = 0
    folder: tuple[str, ...] = ()
    """The options that name a folder to run in."""
    here: bool = False


_WRAPPERS = {
    "sudo": Wrapper(
        "ugpCcrtTRDhUa",
        ("--user", "--group", "--prompt", "--close-from", "--role", "--type", "--command-timeout", "--chroot", "--chdir", "--host"),
        folder=("-D", "--chdir"),
    ),
    "doas": Wrapper("uCa"),
    "pkexec": Wrapper("", ("--user",)),
    "env": Wrapper("uCa", ("--unset", "--chdir", "--argv0"), folder=("-C", "--chdir")),
    "timeout": Wrapper("ks", ("--kill-after", "--signal"), 1),
    "nice": Wrapper("n", ("--adjustment",)),
    "ionice": Wrapper("cnpPu", ("--class", "--classdata")),
    "nohup": Wrapper(),
    "setsid": Wrapper(),
    "stdbuf": Wrapper("ioe", ("--input", "--output", "--error")),
    "time": Wrapper("fo", ("--format", "--output")),
    "command": Wrapper(here=True),
    "builtin": Wrapper(here=True),
    "exec": Wrapper("a"),
    "chroot": Wrapper("", (), 1),
    "unshare": Wrapper("RwSG", ("--root", "--wd", "--setuid", "--setgid"), folder=("-w", "--wd")),
    "nsenter": Wrapper("tSG", ("--target", "--setuid", "--setgid")),
    "strace": Wrapper("abeEIoOpPsSuUX"),
    "ltrace": Wrapper("aAeDFlnopsuxX"),
    "taskset": Wrapper("", (), 1),
    "chrt": Wrapper("TPD", (), 1),
    "setpriv": Wrapper("", ("--reuid", "--regid", "--groups", "--inh-caps", "--ambient-caps", "--bounding-set")),
    "prlimit": Wrapper("p"),
    "fakeroot": Wrapper("lsibu"),
    "eatmydata": Wrapper(),
    "catchsegv": Wrapper(),
    "caffeinate": Wrapper("tw"),
    "busybox": Wrapper(),
    "toybox": Wrapper(),
    "torsocks": Wrapper(),
    "torify": Wrapper(),
    "proxychains": Wrapper("f"),
    "proxychains4": Wrapper("f"),
    "coproc": Wrapper(),
    "!": Wrapper(here=True),
    "npx": Wrapper("p", ("--package",)),
    "bunx": Wrapper(),
    "uvx": Wrapper("p", ("--from", "--with", "--python")),
    "xvfb-run": Wrapper("enpsfw"),
    "dbus-run-session": Wrapper(),
    "runcon": Wrapper("turl", (), 0),
    "noglob": Wrapper(),
    "nocorrect": Wrapper(),
}
_RUNNERS = {
    ("uv", "run"), ("poetry", "run"), ("pipenv", "run"), ("pdm", "run"), ("hatch", "run"), ("rye", "run"), ("conda", "run"),
    ("mamba", "run"), ("bundle", "exec"), ("npm", "exec"), ("pnpm", "exec"), ("yarn", "exec"), ("rustup", "run"), ("direnv", "exec"),
}  # fmt: skip
SHELLS = {"bash", "sh", "dash", "ash", "zsh", "ksh", "mksh", "lksh", "rbash", "fish", "csh", "tcsh", "hush", "yash"}
_EDITORS = {"vi", "vim", "nvim", "view", "ex", "ed", "red", "emacs", "emacsclient", "nano", "pico", "joe"}
_NEVER_NAMES = {
    "then",
    "fi",
    "do",
    "done",
    "else",
    "elif",
    "esac",
    "{",
    "}",
    "in",
    "function",
    "select",
    "case",
    "if",
    "for",
    "while",
    "until",
}
_OPTIONS_THAT_RUN = {
    "tar": ("--to-command", "--checkpoint-action", "-I", "--use-compress-program", "-F", "--info-script", "--new-volume-script",
    "--rsh-command"),
    "bsdtar": ("--use-compress-program",),
    "rsync": ("-e", "--rsh", "--rsync-path"),
    "split": ("--filter",),
    "sort": ("--compress-program",),
    "zip": ("-TT", "--unzip-command"),
    "rg": ("--pre", "--hostname-bin"),
    "grep": ("--devices-bin",),
    "man": ("-P", "--pager", "-H", "--html"),
    "make": ("--eval", "-E"),
    "gmake": ("--eval", "-E"),
    "curl": ("-K", "--config"),
    "wget": ("--use-askpass", "-e", "--execute", "--config"),
    "git": ("-c", "--config-env", "--exec-path", "--upload-pack", "--receive-pack", "-u", "--exec", "-x", "--extcmd", "-O",
    "--open-files-in-pager"),
    "nc": ("-e", "-c"), "ncat": ("-e", "-c", "--exec", "--sh-exec", "--lua-exec"), "socat": (),
    "mapfile": ("-C",), "readarray": ("-C",), "compgen": ("-C", "-F", "-W"), "complete": ("-C", "-F", "-W"), "enable": ("-f",),
    "hash": ("-p",),
    "bind": ("-x", "-f"), "nix-shell": ("--run", "--command"), "nix": ("-c", "--command"), "less": ("-k",), "ssh": ("-o", "-F"),
    "scp": ("-o", "-S", "-F"), "sftp": ("-o", "-S", "-F"),
}  # fmt: skip
"""Options by which a program runs what they say."""


def inner(name: str | None, words: tuple[Word, ...], given: Word | None) -> Runs:
    """What a command runs. `given` is its standard input: None if the script does not say, unknown if that is not worked out."""
    if name is None or name == "":
        return Runs()
    runs = _inner(name, words, given)
    return replace(runs, inner=tuple(_assigned(each) if isinstance(each, Argv) else each for each in runs.inner))


def _assigned(argv: Argv) -> Argv:
    """With the `NAME=value` words in front taken for assignments. They are that to some, such as `env`, and a program's name to others;
    a program that has such a name is not what anybody means, and what stands behind it is judged rather than overlooked.
    """
    assignments, rest = _assignments(argv.words)
    return replace(argv, words=rest, assignments=(*argv.assignments, *assignments))


def _inner(name: str, words: tuple[Word, ...], given: Word | None) -> Runs:
    if name in _NEVER_NAMES:
        return Runs(doubts=(f"{name!r} stands where a command is expected",))
    special = SPECIAL.get(name)
    if special is None and re.fullmatch(r"python[0-9.]*w?|pypy[0-9.]*", name):
        special = python
    if special is not None:
        return special(words, given)
    if name in SHELLS:
        return _shell(words, given)
    if name in _WRAPPERS:
        return _wrapped(name, words)
    if name in LANGUAGES:
        return language(name, words)
    if name in _EDITORS:
        return Runs(doubts=("an editor may run commands",))
    if len(words) > 1 and (name, words[1].plain) in _RUNNERS:
        return Runs(
            (Argv(options(words[2:], "pn", ("--from", "--with", "--python", "--package", "--extra", "--group", "--env-file")).rest),)
        )
    return Runs(doubts=tuple(_run_by_options(name, words)))


def _run_by_options(name: str, words: Sequence[Word]) -> list[str]:
    found = []
    for word in words[1:]:
        for option in _OPTIONS_THAT_RUN.get(name, ()):
            short = len(option) == 2
            if word.text == option or word.text.startswith(f"{option}=") or (short and bundled(word.text, option[1])):
                found.append(f"its option {option} may run something")
            elif not short and word.text.startswith("--") and len(word.text) > 4 and option.startswith(word.text.partition("=")[0]):
                found.append(f"its option {word.text} may be {option}, which may run something")
    return found[:1]


def _wrapped(name: str, words: tuple[Word, ...]) -> Runs:
    how = _WRAPPERS[name]
    taken = options(words[1:], how.valued, how.longs)
    if name == "command" and taken.has("-v", "-V"):
        return Runs()
    if name == "env" and taken.has("-S", "--split-string"):
        return Runs(doubts=("what env -S runs is not worked out",))
    rest = taken.rest
    if name == "coproc" and len(rest) > 1 and (rest[0].text.isupper() or rest[1].text in {"{", "("}):
        rest = rest[1:]
    rest = rest[how.skipped :]
    if any(word.spread and not word.known for word in words[1 : len(words) - len(rest)]):
        return Runs(doubts=(f"what {name} runs is not known",))
    if not rest:
        return Runs(doubts=(f"{name} starts a shell",)) if name in {"chroot", "unshare", "nsenter"} or taken.has("-s", "-i") else Runs()
    return Runs((Argv(rest, (), taken.value(*how.folder) if how.folder else None, how.here),))


def _shell(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "oO", ("--rcfile", "--init-file"))
    if taken.has("-c"):
        return code(taken.rest[:1], "the text that it is given")
    if taken.has("--version", "--help"):
        return Runs()
    file = taken.rest[0].plain if taken.rest and not taken.has("-s") else "-" if not taken.rest or taken.has("-s") else None
    if file is None:
        return Runs(doubts=("which script it runs is not known",))
    if file == "-" or file.startswith(("/dev/", "/proc/")):
        if given is not None and given.plain is not None and not file.startswith(("/dev/fd", "/proc/")):
            return Runs((Code(given.plain),))
        return Runs(doubts=("the commands that it is given to run are not known",))
    return Runs()
