"""What programs do with their arguments, as far as a policy wants to know it: which files they read and write, and what kind of thing they do.

Pure tables and the few rules to read them by. A program that stands in no table may do anything: its operands are files that it may read
or write (`Touch.mode` "any"), and it is not known to only read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from langchain_vers.shell_syntax import Command
from langchain_vers.shell_words import UNKNOWN, Word
from langchain_vers.shell_wrappers import options

TouchMode = Literal["read", "write", "remove", "any"]
Kind = Literal["privilege", "network", "install", "force-push", "discard", "system", "destroy", "variables", "unknown"]
"""Kinds of commands: gaining rights; talking to other machines; installing software; rewriting what others have (`git push --force`);
throwing away work; changing the machine's own settings; destroying it; changing what names mean to the commands behind; not known.
"""


@dataclass(frozen=True)
class Touch:
    """A file or folder that a command is given to work on. `deep`: with all that is in it."""

    word: Word
    mode: TouchMode
    deep: bool = False


_SAID = frozenset(
    "echo printf test [ [[ true false : expr seq sleep exit return break continue shift wait jobs set shopt pwd dirname basename type which "
    "whereis date uname id whoami groups hostname nproc arch tty uptime free ps lscpu lsblk lsmod locale getconf getent printenv env cal "
    "umask ulimit times let read unset declare typeset local readonly export logname factor numfmt hash help history dirs bc yes cd chdir "
    "pushd popd command builtin time timeout nice nohup exec coproc eval trap alias unalias getopts w who last lsof pgrep pstree vmstat "
    "iostat tput clear stty xargs gxargs setsid stdbuf ionice taskset ((".split()
)
"""Programs whose arguments are no files, or are not opened. Wrappers are among them: what they run is judged by itself."""
_READERS = frozenset(
    "cat tac head tail less more wc nl grep egrep fgrep zgrep rg ag ls dir vdir stat file diff cmp comm cut sort uniq tr awk gawk mawk sed "
    "find tree du df md5sum sha1sum sha224sum sha256sum sha384sum sha512sum b2sum cksum sum base64 base32 xxd hexdump hd od strings rev paste "
    "join column fold fmt pr expand unexpand jq realpath readlink zcat bzcat xzcat zstdcat tsort ptx look nm size ldd objdump readelf cloc "
    "tokei shellcheck mapfile readarray source . egrep colordiff sdiff fdfind fd locate exa eza bat batcat".split()
)
"""Programs that only read what they are given, but for the exceptions in `_writes_after_all`."""
_WRITERS: dict[str, tuple[str, int, TouchMode]] = {
    "touch": ("drt", 0, "write"), "mkdir": ("mZ", 0, "write"), "mkfifo": ("mZ", 0, "write"), "mknod": ("mZ", 0, "write"),
    "rmdir": ("", 0, "remove"), "rm": ("", 0, "remove"), "unlink": ("", 0, "remove"), "shred": ("ns", 0, "remove"),
    "truncate": ("rs", 0, "write"), "tee": ("", 0, "write"), "chmod": ("", 1, "write"), "chown": ("", 1, "write"),
    "chgrp": ("", 1, "write"), "setfacl": ("mMxX", 0, "write"), "chattr": ("pv", 1, "write"), "setfattr": ("nvxh", 0, "write"),
    "fallocate": ("lop", 0, "write"), "patch": ("BDdFgioprVYz", 0, "write"), "gzip": ("bS", 0, "write"), "gunzip": ("S", 0, "write"),
    "bzip2": ("", 0, "write"), "bunzip2": ("", 0, "write"), "xz": ("FTM", 0, "write"), "unxz": ("", 0, "write"), "zstd": ("oT", 0, "write"),
    "mktemp": ("p", 0, "write"), "dos2unix": ("", 0, "write"), "black": ("", 0, "write"), "wipe": ("", 0, "remove"), "trash": ("", 0, "remove"),
}  # fmt: skip
"""Programs that change what their operands name: their options that take values, the operands in front that are no files, what they do."""
_COPIERS = {"cp": "Stt", "ln": "St", "install": "gmoSt", "rsync": "efTB", "scp": "cFiJloPS", "mv": "St", "link": "", "symlink": ""}
_OUTPUTS = {
    "sort": ("-o", "--output"), "curl": ("-o", "--output", "--output-dir", "-D", "-c"), "wget": ("-O", "--output-document", "-P", "-o", "-a"),
    "gcc": ("-o",), "g++": ("-o",), "cc": ("-o",), "c++": ("-o",), "clang": ("-o",), "clang++": ("-o",), "ld": ("-o",), "go": ("-o",),
    "tree": ("-o",), "git": ("--output", "-o"), "shuf": ("-o", "--output"), "ssh-keygen": ("-f",), "openssl": ("-out", "-keyout"),
    "rustc": ("-o", "--out-dir"), "tar": ("-C", "--directory"), "unzip": ("-d",), "7z": (), "docker": ("-o", "--output"),
    "split": (), "gpg": ("-o", "--output"), "pandoc": ("-o", "--output"), "ffmpeg": (), "tsc": ("--outDir", "--outFile"), "less": ("-o", "-O"),
}  # fmt: skip
"""Options whose value is a file or folder that is written."""

_NAMES: dict[Kind, frozenset[str]] = {
    "privilege": frozenset(
        "sudo su doas pkexec runuser sg newgrp chroot nsenter unshare setpriv capsh systemd-run machinectl docker podman nerdctl lxc lxc-attach "
        "ctr crictl visudo sudoedit setcap".split()
    ),
    "network": frozenset(
        "curl wget wget2 nc ncat netcat socat ssh scp sftp ftp lftp tftp telnet aria2c http https httpie xh lynx links w3m elinks nmap masscan "
        "dig nslookup host whois ping ping6 traceroute tracepath mtr rsh rlogin rcp mosh sshfs sshpass ssh-copy-id openssl-s_client axel "
        "youtube-dl yt-dlp rclone s3cmd gsutil gcloud az aws kubectl helm terraform gh glab hub ngrok cloudflared tor torsocks torify "
        "proxychains proxychains4 smbclient ldapsearch snmpwalk mail mailx sendmail mutt irssi tcpdump tshark websocat grpcurl".split()
    ),
    "install": frozenset("apt apt-get aptitude dpkg yum dnf rpm zypper pacman yay apk emerge brew port snap flatpak nix-env npx bunx uvx pipx".split()),
    "system": frozenset(
        "systemctl service initctl rc-service useradd userdel usermod groupadd groupdel groupmod passwd chpasswd chsh adduser deluser mount "
        "umount swapon swapoff insmod rmmod modprobe sysctl iptables ip6tables nft ufw firewall-cmd ip ifconfig route crontab at batch "
        "timedatectl hostnamectl localectl update-alternatives ldconfig grub-install update-grub setenforce launchctl defaults".split()
    ),
    "destroy": frozenset(
        "mkfs wipefs fdisk sfdisk gdisk sgdisk cfdisk parted partprobe mkswap shutdown reboot halt poweroff init telinit killall5 lvremove "
        "vgremove pvremove mdadm cryptsetup blkdiscard hdparm badblocks debugfs zpool zfs kexec".split()
    ),
}  # fmt: skip
_INSTALLS: dict[str, frozenset[str]] = {
    name: frozenset(verbs.split())
    for names, verbs in (
        ("pip pip2 pip3", "install uninstall download wheel"),
        ("uv", "add remove sync pip tool venv python run lock self"),
        (
            "npm pnpm yarn bun cnpm",
            "install i add ci update up upgrade uninstall remove rm un link exec dlx x create init global install-test it",
        ),
        ("gem", "install uninstall update"),
        ("cargo", "install uninstall add update"),
        ("go", "install get"),
        ("conda mamba micromamba", "install create update remove env"),
        ("poetry pdm pipenv hatch rye", "add install update remove sync lock"),
        ("composer", "install require update global"),
        ("bundle bundler", "install update add"),
        ("cpan cpanm luarocks opam raco cabal stack mix rebar3 nimble vcpkg conan", "install get update add"),
        ("corepack", "enable install prepare"),
        ("rustup", "install update default toolchain component target self"),
        ("nvm asdf mise rbenv pyenv sdk", "install use"),
        ("nix", "profile shell run develop"),
    )
    for name in names.split()
}
_ALONE = frozenset({"yarn", "bundle", "cpan", "cpanm"})
"""Without arguments they install."""
_GIT_READS = frozenset(
    "status log diff show blame annotate rev-parse rev-list ls-files ls-tree cat-file describe grep shortlog name-rev merge-base diff-tree "
    "diff-index diff-files cherry for-each-ref show-ref check-ignore check-attr count-objects var version help whatchanged range-diff".split()
)
_GIT_NETWORK = frozenset("clone fetch pull push ls-remote fetch-pack send-pack svn p4 send-email request-pull".split())
_GIT_BELOW = {
    "remote": {"update", "show", "prune"},
    "submodule": {"update", "add", "init"},
    "lfs": {"pull", "push", "fetch"},
    "archive": set(),
}
_MEANINGS = frozenset(
    "PATH IFS CDPATH ENV BASH_ENV BASH_FUNC SHELLOPTS BASHOPTS PROMPT_COMMAND PS0 PS1 PS4 LD_PRELOAD LD_LIBRARY_PATH LD_AUDIT PYTHONSTARTUP "
    "PYTHONPATH PYTHONHOME PERL5LIB PERL5OPT RUBYOPT RUBYLIB NODE_OPTIONS GIT_SSH GIT_SSH_COMMAND GIT_EXTERNAL_DIFF GIT_PAGER GIT_EDITOR "
    "GIT_ASKPASS GIT_EXEC_PATH GIT_CONFIG GIT_CONFIG_COUNT GIT_CONFIG_GLOBAL GIT_CONFIG_PARAMETERS GIT_PROXY_COMMAND GIT_SEQUENCE_EDITOR GIT_DIR "
    "PAGER EDITOR VISUAL BROWSER LESSOPEN LESSCLOSE MANPAGER SHELL HOME TMPDIR JAVA_TOOL_OPTIONS DYLD_INSERT_LIBRARIES DYLD_LIBRARY_PATH "
    "MAKEFLAGS MAKEFILES RIPGREP_CONFIG_PATH TAR_OPTIONS SSH_ASKPASS SUDO_ASKPASS GZIP POSIXLY_CORRECT GLOBIGNORE".split()
)
_ARITHMETIC = frozenset("let test [ [[ declare typeset local export readonly unset read printf mapfile readarray ((".split())


def kinds(command: Command) -> list[tuple[Kind, str]]:
    """What kinds of thing a command does, each with a few words about it."""
    found: list[tuple[Kind, str]] = []
    name = command.name
    if name is None:
        found.append(("unknown", f"which program it runs is not known before it runs: {command}"))
    for variable, value in command.assignments:
        if variable.partition("[")[0] in _MEANINGS:
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
    found += [
        (kind, f"{_DESCRIBED[kind]}: {command}")
        for kind, names in _NAMES.items()
        if name in names or name.partition(".")[0] == "mkfs" == kind
    ]
    if name.startswith("mkfs."):
        found.append(("destroy", f"{_DESCRIBED['destroy']}: {command}"))
    verb = next((word.plain for word in command.words[1:] if not word.text.startswith("-")), None)
    if name in _INSTALLS and (verb in _INSTALLS[name] or (verb is None and len(command.words) > 1 and not command.words[-1].known)):
        found.append(("install", f"{_DESCRIBED['install']}: {command}"))
    elif name in _ALONE and all(word.text.startswith("-") for word in command.words[1:]):
        found.append(("install", f"{_DESCRIBED['install']}: {command}"))
    if name == "make" and any(word.text.startswith("install") or word.text.startswith("uninstall") for word in command.words[1:]):
        found.append(("install", f"{_DESCRIBED['install']}: {command}"))
    if (
        re.fullmatch(r"python[0-9.]*|setup\.py", name)
        and any(word.text.endswith("setup.py") for word in command.words)
        and verb is not None
    ):
        found += [("install", f"{_DESCRIBED['install']}: {command}")] if {"install", "develop"} & {w.text for w in command.words} else []
    if name == "git":
        found += _git_kinds(command)
    if name in {"rsync", "openssl"} and any(":" in word.text or word.text == "s_client" for word in command.words[1:]):
        found.append(("network", f"{_DESCRIBED['network']}: {command}"))
    if name == "kill" and any(word.text == "-1" for word in command.words[2:]):
        found.append(("destroy", f"it kills every process: {command}"))
    if name == "dd" and any(word.text.startswith("of=") and _device(Word(word.text[3:])) for word in command.words[1:]):
        found.append(("destroy", f"it writes to a device: {command}"))
    if name in _ARITHMETIC and any("$(" in word.text or "`" in word.text for word in command.words[1:]):
        found.append(("unknown", f"it may run what stands in its arguments: {command}"))
    if name in {"export", "declare", "typeset", "local", "readonly", "read", "unset", "printf", "mapfile", "readarray"}:
        names = {re.split(r"[=\[+]", word.text)[0] for word in command.words[1:]}
        found += [("variables", f"it sets {each}, which changes what commands mean") for each in sorted(names & _MEANINGS)]
    if not known_to_read(command) and any(not word.known for word in command.words[1:]) and name not in _SAID:
        found.append(("unknown", f"its arguments are not known before it runs: {command}"))
    return found


_DESCRIBED: dict[Kind, str] = {
    "privilege": "it gains other rights",
    "network": "it talks to other machines",
    "install": "it installs or removes software",
    "force-push": "it overwrites or deletes what others have",
    "discard": "it throws away work that is not committed",
    "system": "it changes the machine's own settings",
    "destroy": "it can destroy the machine or its data",
}


def _device(word: Word) -> bool:
    return bool(re.match(r"/dev/(?!null$|zero$|stdout$|stderr$|stdin$|tty$|fd/|full$|random$|urandom$|shm/|pts/|tcp/|udp/)", word.text))


def _git_kinds(command: Command) -> list[tuple[Kind, str]]:
    found: list[tuple[Kind, str]] = []
    verb, rest = git_verb(command)
    texts = [word.text for word in rest]
    short = {letter for text in texts if re.fullmatch(r"-[A-Za-z]+", text) for letter in text[1:]}
    if verb in _GIT_NETWORK or (verb in _GIT_BELOW and set(texts) & _GIT_BELOW[verb]):
        found.append(("network", f"{_DESCRIBED['network']}: {command}"))
    long = [text for text in texts if text.startswith("--")]
    if verb == "push":
        # Git takes any unambiguous beginning of an option; a "+" in front of a refspec forces that one, an empty source deletes.
        forced = any(len(text) > 3 and f"{full}".startswith(text.partition("=")[0]) for text in long for full in _FORCING)
        if forced or short & set("fd") or any(text.startswith(("+", ":")) for text in texts):
            found.append(("force-push", f"{_DESCRIBED['force-push']}: {command}"))
    thrown = {
        "reset": any(len(text) > 3 and "--hard".startswith(text) for text in long), "clean": "n" not in short, "restore": True,
        "checkout": "f" in short or "--" in texts or "." in texts or any("--force".startswith(t) for t in long if len(t) > 3),
        "stash": bool({"drop", "clear"} & set(texts)), "branch": "D" in short, "switch": "f" in short or "--discard-changes" in texts,
        "update-ref": True, "reflog": bool({"expire", "delete"} & set(texts)), "gc": True, "filter-branch": True, "filter-repo": True,
        "rm": "--cached" not in texts, "worktree": "remove" in texts, "prune": True,
    }  # fmt: skip
    if thrown.get(verb or ""):
        found.append(("discard", f"{_DESCRIBED['discard']}: {command}"))
    return found


_FORCING = ("--force", "--force-with-lease", "--force-if-includes", "--mirror", "--delete", "--prune")


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
    if not name or name in _SAID or (name in {"sudo", "xargs"} and words):
        return []
    outputs = _output_values(name, words)
    recursive = any(re.fullmatch(r"-[A-Za-z]*[rRa][A-Za-z]*|--recursive|--archive", word.text) for word in words)
    if name in _WRITERS:
        valued, skipped, mode = _WRITERS[name]
        rest = _bare(words, valued)[skipped:]
        return [Touch(word, mode, deep=recursive or mode == "remove" and recursive) for word in rest] + outputs
    if name in _COPIERS:
        return _copied(name, words, recursive)
    if name == "dd":
        pairs = [(word.text.partition("="), word) for word in words]
        return [
            Touch(replace(word, text=text[2]), "write" if text[0] == "of" else "read") for text, word in pairs if text[0] in {"of", "if"}
        ]
    if name == "find":
        starts = [word for word in _until_option(words)] or [Word(".")]
        deleting = any(word.text in {"-delete"} for word in words)
        written = [
            Touch(words[n + 1], "write") for n, word in enumerate(words[:-1]) if word.text in {"-fprint", "-fprintf", "-fls", "-fprint0"}
        ]
        return [Touch(word, "remove" if deleting else "read", deep=True) for word in starts] + written
    if name in {"sed", "gsed", "perl"} and any(re.match(r"-[a-zA-Z]*i|--in-place", word.text) for word in words):
        rest = _bare(words, "efl")
        return [Touch(word, "write") for word in (rest if any(w.text.startswith(("-e", "-f")) for w in words) else rest[1:])]
    if name == "git":
        verb, rest = git_verb(command)
        mode: TouchMode = "read" if verb in _GIT_READS else "any"
        folder = [Touch(value, mode) for value in (options(words, "Cc").value("-C"),) if value is not None]
        return [*folder, *(Touch(word, mode) for word in _bare(rest, "m")), *_output_values(name, words)]
    if name in _READERS:
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
        for option in _OUTPUTS.get(name, ()):
            if word.text == option and position + 1 < len(words):
                found.append(Touch(words[position + 1], "write"))
            elif word.text.startswith(f"{option}="):
                found.append(Touch(replace(word, text=word.text[len(option) + 1 :]), "write"))
            elif len(option) == 2 and word.text.startswith(option) and len(word.text) > 2:
                found.append(Touch(replace(word, text=word.text[2:]), "write"))
    return found


def _copied(name: str, words: Sequence[Word], recursive: bool) -> list[Touch]:
    rest = _bare(words, _COPIERS[name])
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
    if name == "git":
        verb, rest = git_verb(command)
        return verb in _GIT_READS and not any(re.match(r"--output|-o|--ext-diff|-O|--open", word.text) for word in rest)
    if not name or name in _SAID:
        return name not in {"hostname", "date", "stty"} or not any(re.match(r"[^+-]|-s|--set|-b|-F", w.text) for w in command.words[1:])
    return name in _READERS and not _writes_after_all(name, command.words[1:])


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
