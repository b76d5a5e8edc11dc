"""Commands that run other commands: `sudo`, `env`, `xargs`, `find -exec`, `bash -c`, `eval` and their kin, taken apart. Pure.

`inner` gives what a command runs, as far as its words say, and a doubt for everything that it may run and they do not say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from langchain_vers.shell_words import UNKNOWN, Word


@dataclass(frozen=True)
class Argv:
    """A program that is run with these words; `folder` is where, relative to the command's own; `here`: in the same shell."""

    words: tuple[Word, ...]
    assignments: tuple[tuple[str, Word], ...] = ()
    folder: Word | None = None
    here: bool = False


@dataclass(frozen=True)
class Code:
    """Shell text that is run."""

    text: str
    folder: Word | None = None
    here: bool = False


@dataclass(frozen=True)
class Runs:
    """What a command runs. `moves` is the folder that it leads to."""

    inner: tuple[Argv | Code, ...] = ()
    doubts: tuple[str, ...] = ()
    moves: Word | None = None


class Options(NamedTuple):
    """The options in front of a command's first operand, and the words from there on."""

    given: list[tuple[str, Word | None]]
    rest: tuple[Word, ...]

    def value(self, *names: str) -> Word | None:
        """The value of the last of these options; UNKNOWN if it is given without one, None if it is not given."""
        found = [UNKNOWN if value is None else value for name, value in self.given if name in names]
        return found[-1] if found else None

    def has(self, *names: str) -> bool:
        """Whether one of these options is given."""
        return any(name in names for name, _ in self.given)


def options(words: Sequence[Word], valued: str = "", longs: Sequence[str] = ()) -> Options:
    """Take a command's options apart. `valued` are the letters that take a value, `longs` the long names that take the next word as one."""
    given: list[tuple[str, Word | None]] = []
    position = 0
    while position < len(words):
        text = words[position].plain
        if text is None or len(text) < 2 or text[0] not in "-+":
            break
        position += 1
        if text == "--":
            break
        following = words[position] if position < len(words) else None
        if text.startswith("--"):
            name, equals, value = text.partition("=")
            given.append((name, Word(value) if equals else following if name in longs else None))
            position += not equals and name in longs
            continue
        for place, letter in enumerate(text[1:], 2):
            if letter not in valued:
                given.append((f"{text[0]}{letter}", None))
                continue
            given.append((f"{text[0]}{letter}", Word(text[place:]) if text[place:] else following))
            position += not text[place:]
            break
    return Options(given, tuple(words[position:]))


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
_CODE = {
    "perl": ("-e", "-E"), "ruby": ("-e",), "node": ("-e", "-p", "--eval", "--print"), "nodejs": ("-e", "-p", "--eval", "--print"),
    "php": ("-r", "-B", "-R", "-E"), "lua": ("-e",), "Rscript": ("-e",), "R": ("-e",), "osascript": ("-e",), "expect": ("-c",),
    "julia": ("-e", "-E", "--eval"), "guile": ("-c",), "tclsh": (), "bun": ("-e", "--eval"), "groovy": ("-e",), "elixir": ("-e",),
    "gdb": ("-x", "--eval-command"), "pwsh": ("-c", "-C", "-Command", "--command"), "deno": (), "irb": (), "ghci": (),
}  # fmt: skip
"""Languages, and the options that give them a program."""
_EDITORS = {"vi", "vim", "nvim", "view", "ex", "ed", "red", "emacs", "emacsclient", "nano", "pico", "joe"}
_QUESTIONS = {"--version", "--help", "-V", "-h", "-v"}
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
    "tar": ("--to-command", "--checkpoint-action", "-I", "--use-compress-program", "-F", "--info-script", "--new-volume-script", "--rsh-command"),
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
    "git": ("-c", "--config-env", "--exec-path", "--upload-pack", "--receive-pack", "-u", "--exec", "-x", "--extcmd", "-O", "--open-files-in-pager"),
    "nc": ("-e", "-c"), "ncat": ("-e", "-c", "--exec", "--sh-exec", "--lua-exec"), "socat": (),
    "mapfile": ("-C",), "readarray": ("-C",), "compgen": ("-C", "-F", "-W"), "complete": ("-C", "-F", "-W"), "enable": ("-f",), "hash": ("-p",),
    "bind": ("-x", "-f"), "nix-shell": ("--run", "--command"), "nix": ("-c", "--command"), "less": ("-k",), "ssh": ("-o", "-F"),
    "scp": ("-o", "-S", "-F"), "sftp": ("-o", "-S", "-F"),
}  # fmt: skip
"""Options by which a program runs what they say."""
_SAFE_SED = re.compile(
    r"""(?:\s*(?:\d+|\$|/(?:[^/\\\n]|\\.)*/)?(?:\s*,\s*[+~]?(?:\d+|\$|/(?:[^/\\\n]|\\.)*/))?\s*!?\s*
    (?:[pdqDPhHgGxnN=]|s([/|,\#@:%])(?:(?!\1)[^\\\n]|\\.)*\1(?:(?!\1)[^\\\n]|\\.)*\1[gpiIm0-9]*|y/[^\n]*/)?\s*(?:;|\n|$))+""",
    re.VERBOSE,
)
_UNSAFE_AWK = re.compile(r"system|getline|\||>|@load|@include|@\w+\(")


def inner(name: str | None, words: tuple[Word, ...], given: Word | None) -> Runs:
    """What a command runs. `given` is its standard input: None if the script does not say, unknown if it says so in a way not worked out."""
    if name is None or name == "":
        return Runs()
    if name in _NEVER_NAMES:
        return Runs(doubts=(f"{name!r} stands where a command is expected",))
    special = _SPECIAL.get(name)
    if special is None and re.fullmatch(r"python[0-9.]*w?|pypy[0-9.]*", name):
        special = _python
    if special is not None:
        return special(words, given)
    if name in SHELLS:
        return _shell(words, given)
    if name in _WRAPPERS:
        return _wrapped(name, words)
    if name in _CODE:
        return _language(name, words)
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
            if word.text == option or word.text.startswith(f"{option}=") or (short and _bundled(word.text, option[1])):
                found.append(f"its option {option} may run something")
            elif not short and word.text.startswith("--") and len(word.text) > 4 and option.startswith(word.text.partition("=")[0]):
                found.append(f"its option {word.text} may be {option}, which may run something")
    return found[:1]


def _bundled(text: str, letter: str) -> bool:
    return len(text) > 1 and text[0] == "-" and text[1] != "-" and letter in text[1:]


def _wrapped(name: str, words: tuple[Word, ...]) -> Runs:
    how = _WRAPPERS[name]
    taken = options(words[1:], how.valued, how.longs)
    if name == "command" and taken.has("-v", "-V"):
        return Runs()
    if (name == "env" and (split := taken.value("-S", "--split-string")) is not None) or (name == "env" and taken.has("-S")):
        return Runs(doubts=("what env -S runs is not worked out",))
    rest = taken.rest
    if name == "coproc" and len(rest) > 1 and (rest[0].text.isupper() or rest[1].text in {"{", "("}):
        rest = rest[1:]
    assignments, rest = _assignments(rest[how.skipped :]) if name in {"env", "sudo", "doas"} else ((), rest[how.skipped :])
    if any(word.spread and not word.known for word in words[1 : len(words) - len(rest)]):
        return Runs(doubts=(f"what {name} runs is not known",))
    if not rest:
        return Runs(doubts=(f"{name} starts a shell",)) if name in {"chroot", "unshare", "nsenter"} or taken.has("-s", "-i") else Runs()
    return Runs((Argv(rest, assignments, taken.value(*how.folder) if how.folder else None, how.here),))


def _shell(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "oO", ("--rcfile", "--init-file"))
    if taken.has("-c"):
        return _code(taken.rest[:1], "the text that it is given")
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


def _code(words: Sequence[Word], what: str, *, here: bool = False) -> Runs:
    """Words that are joined and run as shell text."""
    texts = [word.plain for word in words]
    known = [text for text in texts if text is not None]
    if len(known) < len(texts) or not texts:
        return Runs(doubts=(f"{what} is not known before it runs",) if texts else ())
    return Runs((Code(" ".join(known), here=here),))


def _eval(words: tuple[Word, ...], given: Word | None) -> Runs:
    return _code(words[2:] if len(words) > 1 and words[1].plain == "--" else words[1:], "the text that it runs", here=True)


def _source(words: tuple[Word, ...], given: Word | None) -> Runs:
    file = words[1].plain if len(words) > 1 else ""
    if file is None or file.startswith(("/dev/", "/proc/")):
        return Runs(doubts=("the commands that it reads are not known",))
    return Runs()


def _trap(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:])
    if len(taken.rest) < 2 or taken.rest[0].plain in {"", "-"}:
        return Runs()
    return _code(taken.rest[:1], "what it runs later", here=True)


def _alias(words: tuple[Word, ...], given: Word | None) -> Runs:
    values = [Word(word.text.partition("=")[2], word.known and not word.home) for word in words[1:] if "=" in word.text]
    runs = [_code([value], "what the alias stands for") for value in values]
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
        return _code([command], "what it runs")
    if taken.has("-u", "--user") and taken.rest:
        return Runs((Argv(taken.rest),))
    return Runs(doubts=("it starts a shell as another user",))


def _flock(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "wE", ("--timeout", "--wait", "--conflict-exit-code"))
    later = options(taken.rest[1:], "c", ("--command",))
    command = taken.value("-c", "--command") or later.value("-c", "--command")
    if command is not None or taken.has("-c"):
        return _code([command or UNKNOWN], "what it runs")
    return Runs((Argv(taken.rest[1:]),)) if len(taken.rest) > 1 else Runs()


def _script(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "cEmoOITB", ("--command",))
    command = taken.value("-c", "--command")
    return _code([command], "what it runs") if command is not None else Runs(doubts=("it starts a shell",))


def _watch(words: tuple[Word, ...], given: Word | None) -> Runs:
    return _code(options(words[1:], "nq", ("--interval",)).rest, "what it runs")


def _ssh(words: tuple[Word, ...], given: Word | None) -> Runs:
    rest = options(words[1:], "bBcDEeFIiJLlmOopQRSWw").rest
    runs = _code(rest[1:], "what it runs on the other machine")
    risky = [word for word in words[1:] if re.search(r"proxycommand|localcommand|knownhostscommand", word.text, re.IGNORECASE)]
    more = () if rest[1:] else ("it starts a shell on another machine",)
    return Runs(runs.inner, (*runs.doubts, *more, *(("its option may run something",) if risky else ())))


def _python(words: tuple[Word, ...], given: Word | None) -> Runs:
    taken = options(words[1:], "cmWX")
    module = taken.value("-m")
    if module is not None and not taken.has("-c"):
        position = next(place for place, word in enumerate(words) if word.text.startswith("-") and "m" in word.text)
        bundled = words[position].text.partition("m")[2]
        rest = words[position + 1 :] if bundled else words[position + 2 :]
        return Runs((Argv((module, *rest)),))
    return _language("python", words, taken)


def _language(name: str, words: tuple[Word, ...], taken: Options | None = None) -> Runs:
    """A program in another language: given by an option or the standard input, nobody has looked at it."""
    given = ("-c",) if taken is not None else _CODE[name]
    texts = [word.text for word in words[1:]]
    bundled = any(_bundled(text, option[1]) for text in texts for option in given if len(option) == 2)
    rest = taken.rest if taken is not None else options(words[1:]).rest
    if bundled or any(text.partition("=")[0] in given for text in texts) or any(word.spread and not word.known for word in words[1:2]):
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
    if taken.has("-f", "--file") or later or any(text is None or not _SAFE_SED.fullmatch(text) for text in texts):
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
        return _code(rest, "what it runs")
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


_SPECIAL: dict[str, Callable[[tuple[Word, ...], Word | None], Runs]] = {
    "eval": _eval, "source": _source, ".": _source, "trap": _trap, "alias": _alias, "cd": _cd, "pushd": _cd, "popd": _popd,
    "chdir": _cd, "xargs": _xargs, "gxargs": _xargs, "find": _find, "gfind": _find, "su": _su, "runuser": _su, "sg": _su, "flock": _flock,
    "script": _script, "watch": _watch, "ssh": _ssh, "awk": _awk, "gawk": _awk, "mawk": _awk, "nawk": _awk, "sed": _sed, "gsed": _sed,
    "git": _git, "parallel": _opaque, "systemd-run": _opaque, "at": _opaque, "batch": _opaque, "screen": _opaque, "tmux": _opaque,
    "dtach": _opaque, "nix-shell": _opaque, "rlwrap": _opaque, "start-stop-daemon": _opaque, "entr": _opaque, "m4": _opaque,
    "crontab": _opaque, "capsh": _opaque, "firejail": _opaque, "bwrap": _opaque, "run-parts": _opaque, "logsave": _opaque,
}  # fmt: skip
