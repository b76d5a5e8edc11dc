"""What programs do with their arguments, as far as a policy wants to know: which files they read and write, and what kind of thing they do.

Pure tables and the few rules to read them by. A program that stands in no table may do anything: its operands are files that it may read
or write (`Touch.mode` "any"), and it is not known to only read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from langchain_vers.shell.options import options
from langchain_vers.shell.script import Command
from langchain_vers.shell.tables import (
    ARITHMETIC,
    BY_KIND,
    COPIERS,
    DESCRIBED,
    FORCING,
    GIT_BELOW,
    GIT_NETWORK,
    GIT_READS,
    INSTALL_ALONE,
    INSTALLS,
    MEANINGS,
    OUTPUTS,
    READERS,
    SAID,
    WRITERS,
    Kind,
    TouchMode,
)
from langchain_vers.shell.words import UNKNOWN, Word


@dataclass(frozen=True)
class Touch:
    """A file or folder that a command is given to work on. `deep`: with all that is in it."""

    word: Word
    mode: TouchMode
    deep: bool = False


def kinds(command: Command) -> list[tuple[Kind, str]]:
    """What kinds of thing a command does, each with a few words about it."""
    found: list[tuple[Kind, str]] = []
    name = command.name
    if name is None:
        found.append(("unknown", f"which program it runs is not known before it runs: {command}"))
    for variable, value in command.assignments:
        if variable.partition("[")[0] in MEANINGS:
            found.append(("variables", f"it sets {variable}, which changes what commands mean"))
        elif set(value.text) & set("`") or "$(" in value.text:
            found.append(("unknown", f"the value of {variable} may be run by a later command"))
    for redirection in command.redirections:
        if redirection.target.text.startswith(("/dev/tcp/", "/dev/udp/")):
            found.append(("network", f"it opens a connection: {command}"))
        if redirection.writes and _device(redirection.target):
            found.append(("destroy", f"it writes to a device: {command}"))
    if not name:
        return found
    found += [(kind, f"{DESCRIBED[kind]}: {command}") for kind, names in BY_KIND.items() if name in names]
    if name.startswith("mkfs."):
        found.append(("destroy", f"{DESCRIBED['destroy']}: {command}"))
    verb = next((word.plain for word in command.words[1:] if not word.text.startswith("-")), None)
    alone = name in INSTALL_ALONE and all(word.text.startswith("-") for word in command.words[1:])
    if alone or (name in INSTALLS and verb in INSTALLS[name]):
        found.append(("install", f"{DESCRIBED['install']}: {command}"))
    if name == "make" and any(word.text.startswith("install") or word.text.startswith("uninstall") for word in command.words[1:]):
        found.append(("install", f"{DESCRIBED['install']}: {command}"))
    if (
        re.fullmatch(r"python[0-9.]*|setup\.py", name)
        and any(word.text.endswith("setup.py") for word in command.words)
        and verb is not None
    ):
        found += [("install", f"{DESCRIBED['install']}: {command}")] if {"install", "develop"} & {w.text for w in command.words} else []
    if name == "git":
        found += _git_kinds(command)
    if name in {"rsync", "openssl"} and any(":" in word.text or word.text == "s_client" for word in command.words[1:]):
        found.append(("network", f"{DESCRIBED['network']}: {command}"))
    if name == "kill" and any(word.text == "-1" for word in command.words[2:]):
        found.append(("destroy", f"it kills every process: {command}"))
    if name == "dd" and any(word.text.startswith("of=") and _device(Word(word.text[3:])) for word in command.words[1:]):
        found.append(("destroy", f"it writes to a device: {command}"))
    if name in ARITHMETIC and any("$(" in word.text or "`" in word.text for word in command.words[1:]):
        found.append(("unknown", f"it may run what stands in its arguments: {command}"))
    if name in {"export", "declare", "typeset", "local", "readonly", "read", "unset", "printf", "mapfile", "readarray"}:
        names = {re.split(r"[=\[+]", word.text)[0] for word in command.words[1:]}
        found += [("variables", f"it sets {each}, which changes what commands mean") for each in sorted(names & MEANINGS)]
    if not known_to_read(command) and any(not word.known for word in command.words[1:]) and (name not in SAID or not command.ordinary):
        found.append(("unknown", f"its arguments are not known before it runs: {command}"))
    return found


def _device(word: Word) -> bool:
    return bool(re.match(r"/dev/(?!null$|zero$|stdout$|stderr$|stdin$|tty$|fd/|full$|random$|urandom$|shm/|pts/|tcp/|udp/)", word.text))


def _git_kinds(command: Command) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    verb, rest = git_verb(command)
    texts = [word.text for word in rest]
    short = {letter for text in texts if re.fullmatch(r"-[A-Za-z]+", text) for letter in text[1:]}
    if verb in GIT_NETWORK or (verb in GIT_BELOW and set(texts) & GIT_BELOW[verb]):
        found.append(("network", f"{DESCRIBED['network']}: {command}"))
    long = [text for text in texts if text.startswith("--")]
    if verb == "push":
        # Git takes any unambiguous beginning of an option; a "+" in front of a refspec forces that one, an empty source deletes.
        forced = any(len(text) > 3 and f"{full}".startswith(text.partition("=")[0]) for text in long for full in FORCING)
        if forced or short & set("fd") or any(text.startswith(("+", ":")) for text in texts):
            found.append(("force-push", f"{DESCRIBED['force-push']}: {command}"))
    thrown = {
        "reset": any(len(text) > 3 and "--hard".startswith(text) for text in long), "clean": "n" not in short, "restore": True,
        "checkout": "f" in short or "--" in texts or "." in texts or any("--force".startswith(t) for t in long if len(t) > 3),
        "stash": bool({"drop", "clear"} & set(texts)), "branch": "D" in short, "switch": "f" in short or "--discard-changes" in texts,
        "update-ref": True, "reflog": bool({"expire", "delete"} & set(texts)), "gc": True, "filter-branch": True, "filter-repo": True,
        "rm": "--cached" not in texts, "worktree": "remove" in texts, "prune": True,
    }  # fmt: skip
    if thrown.get(verb or ""):
        found.append(("discard", f"{DESCRIBED['discard']}: {command}"))
    return found


def git_verb(command: Command) -> tuple[str | None, Sequence[Word]]:
    """Git's subcommand, None if it is not known, and what follows it."""
    taken = options(command.words[1:], "Cc", ("--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env"))
    return (taken.rest[0].plain, taken.rest[1:]) if taken.rest else ("", ())


def touches(command: Command) -> list[Touch]:
    """The files and folders that a command is given to work on, in the order of its words; redirections last."""
    opened = [Touch(each.target, "write" if each.writes else "read") for each in command.redirections]
    opened += [Touch(each.target, "read") for each in command.redirections if each.writes and each.reads]
    return [*_operands(command), *opened]


def _operands(command: Command) -> list[Touch]:
    name, words = command.name, command.words[1:]
    if name is None:
        return [Touch(word, "any", deep=True) for word in words]
    if not name or (name in SAID and command.ordinary) or (name in {"sudo", "xargs"} and words):
        return []
    outputs = _output_values(name, words)
    recursive = any(re.fullmatch(r"-[A-Za-z]*[rRa][A-Za-z]*|--recursive|--archive", word.text) for word in words)
    if name in WRITERS:
        valued, skipped, mode = WRITERS[name]
        rest = _bare(words, valued)[skipped:]
        return [Touch(word, mode, deep=recursive) for word in rest] + outputs
    if name in COPIERS:
        return _copied(name, words, recursive)
    if name == "dd":
        pairs = [(word.text.partition("="), word) for word in words]
        return [
            Touch(replace(word, text=text[2]), "write" if text[0] == "of" else "read") for text, word in pairs if text[0] in {"of", "if"}
        ]
    if name == "find":
        starts = _until_option(words) or [Word(".")]
        deleting = any(word.text == "-delete" for word in words)
        written = [
            Touch(words[n + 1], "write") for n, word in enumerate(words[:-1]) if word.text in {"-fprint", "-fprintf", "-fls", "-fprint0"}
        ]
        return [Touch(word, "remove" if deleting else "read", deep=True) for word in starts] + written
    if name in {"sed", "gsed", "perl"} and any(re.match(r"-[a-zA-Z]*i|--in-place", word.text) for word in words):
        rest = _bare(words, "efl")
        return [Touch(word, "write") for word in (rest if any(w.text.startswith(("-e", "-f")) for w in words) else rest[1:])]
    if name == "git":
        verb, below = git_verb(command)
        how: TouchMode = "read" if verb in GIT_READS else "any"
        folder = [Touch(value, how) for value in (options(words, "Cc").value("-C"),) if value is not None]
        return [*folder, *(Touch(word, how) for word in _bare(below, "m")), *_output_values(name, words)]
    if name in READERS:
        rest = _bare(words, "")
        if name in {"grep", "egrep", "fgrep", "rg", "ag", "awk", "gawk", "mawk", "sed", "jq"} and not _pattern_by_option(words):
            rest = rest[1:]  # a pattern or a program
        deep = recursive or name in {"rg", "ag", "tree", "du", "cloc", "tokei"}
        given = rest or ([Word(".")] if deep or name == "ls" else [])
        wrote = [Touch(word, "write") for word in rest[1:2]] if name in {"uniq", "xxd"} else []
        return [Touch(word, "read", deep) for word in given] + _valued(words) + wrote + outputs
    return [Touch(word, "any", deep=recursive) for word in _bare(words, "")] + _valued(words) + outputs


def _pattern_by_option(words: Sequence[Word]) -> bool:
    return any(word.text in {"-e", "-f", "--files", "-l"} or word.text.startswith(("--regexp", "--file=", "-e", "-f")) for word in words)


def _bare(words: Sequence[Word], valued: str) -> list[Word]:
    """The words that are no options, nor values of those that take one. What might be an option but is not known counts as an operand."""
    found: list[Word] = []
    position, ended = 0, False
    while position < len(words):
        word = words[position]
        position += 1
        if not ended and word.text == "--":
            ended = True
        elif ended or not word.text.startswith("-") or word.text == "-" or not word.known:
            if word.text != "-":
                found.append(word)
        elif len(word.text) == 2 and word.text[1] in valued:
            position += 1
    return found


def _valued(words: Sequence[Word]) -> list[Touch]:
    """Files in options such as `--file=x`, `@x` or `-fx`: read, as far as anybody can tell."""
    found = []
    for word in words:
        value = word.text.partition("=")[2] if "=" in word.text else word.text[1:] if word.text.startswith("@") else ""
        if not value and re.match(r"-[A-Za-z][./~]", word.text):
            value = word.text[2:]
        if value and word.known:
            home = value.startswith("~/")
            found.append(Touch(Word(value[1:] if home else value, True, word.pattern, home), "read"))
    return found


def _output_values(name: str, words: Sequence[Word]) -> list[Touch]:
    found: list[Touch] = []
    for position, word in enumerate(words):
        for option in OUTPUTS.get(name, ()):
            if word.text == option and position + 1 < len(words):
                found.append(Touch(words[position + 1], "write"))
            elif word.text.startswith(f"{option}="):
                found.append(Touch(replace(word, text=word.text[len(option) + 1 :]), "write"))
            elif len(option) == 2 and word.text.startswith(option) and len(word.text) > 2:
                found.append(Touch(replace(word, text=word.text[2:]), "write"))
    return found


def _copied(name: str, words: Sequence[Word], recursive: bool) -> list[Touch]:
    rest = _bare(words, COPIERS[name])
    goals = [words[n + 1] for n, word in enumerate(words[:-1]) if word.text in {"-t", "--target-directory"}]
    goals += [replace(word, text=word.text.partition("=")[2]) for word in words if word.text.startswith("--target-directory=")]
    sources = rest
    if not goals and len(rest) > 1:
        sources, goals = rest[:-1], rest[-1:]
    elif name == "ln" and len(rest) == 1:
        goals = [Word(".")]
    taken: TouchMode = "remove" if name == "mv" else "read"
    if name == "ln":  # what is made is another name for the source: writing to it later would write there
        taken = "any"
    # Into a folder a file goes under its own name.
    inside = [
        replace(goal, text=f"{goal.text.rstrip('/')}/{source.text.rstrip('/').rpartition('/')[2]}")
        for goal in goals
        for source in sources
        if goal.known and source.known and source.text
    ]
    return [
        *(Touch(word, taken, deep=recursive or name == "mv") for word in sources),
        *(Touch(word, "write", deep=False) for word in [*goals, *inside]),
    ]


def _until_option(words: Sequence[Word]) -> list[Word]:
    found = []
    for word in words:
        if word.text in {"-H", "-L", "-P"}:
            continue
        if word.text.startswith(("-", "(", "!", ",")):
            break
        found.append(word)
    return found


def known_to_read(command: Command) -> bool:
    """Whether a command changes nothing: it is one that only reads or says, and has no argument that makes it write."""
    name = command.name
    if name is None or any(redirection.writes and not _sink(redirection.target) for redirection in command.redirections):
        return False
    if command.words and not command.ordinary:
        return False
    if name == "git":
        verb, rest = git_verb(command)
        return verb in GIT_READS and not any(re.match(r"--output|-o|--ext-diff|-O|--open", word.text) for word in rest)
    if not name or name in SAID:
        return name not in {"hostname", "date", "stty"} or not any(re.match(r"[^+-]|-s|--set|-b|-F", w.text) for w in command.words[1:])
    return name in READERS and not _writes_after_all(name, command.words[1:])


def _sink(word: Word) -> bool:
    return word.plain in {"/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty"}


def _writes_after_all(name: str, words: Sequence[Word]) -> bool:
    texts = [word.text for word in words]
    if any(not word.known for word in words) and name in {
        "find",
        "fd",
        "fdfind",
        "sort",
        "tree",
        "xxd",
        "uniq",
        "less",
        "file",
        "sed",
        "rg",
    }:
        return any(word.spread and not word.known for word in words)
    if name in {"find", "fd", "fdfind"}:
        return any(text.startswith(("-exec", "-ok", "-delete", "-fprint", "-fls", "-x", "-X", "--exec")) for text in texts)
    if name == "sed":
        return any(re.match(r"-[a-zA-Z]*i|--in-place", text) for text in texts)
    if name in {"sort", "tree", "less"}:
        return any(re.match(r"-[a-zA-Z]*o|--output|--log-file|-O", text) for text in texts)
    if name in {"uniq", "xxd"}:
        return len(_bare(words, "sfwcgol")) > 1
    return name == "file" and any(text.startswith(("-C", "--compile")) for text in texts)


__all__ = ["UNKNOWN", "Kind", "Touch", "TouchMode", "git_verb", "kinds", "known_to_read", "touches"]
