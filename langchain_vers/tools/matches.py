"""Searching file contents: the shell commands for ripgrep and for grep, what their output means, and the text for the model. Pure.

Both commands are run in the searched directory and give the same answer: hidden files are searched, `.git` is not, of the ignore files only
`.gitignore` at or below the directory counts, files with a NUL byte are skipped, symlinks are not followed, encodings are not guessed, and
files come in the order of their paths' parts. ripgrep walks the tree itself; grep is given the list of files on standard input (which
`Backend.scan(..., recursive=True, ignored=False)` makes, the same `.gitignore` rules included). Files whose names hold a line break are
left out. Two differences stay: see `dialects.py` for Unicode classes, and ripgrep does not notice a NUL behind the last match it looks for.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from langchain_vers.backends.globs import compile_glob, expand_braces
from langchain_vers.errors import BadInput
from langchain_vers.tools.dialects import to_ere, to_rust

OUTPUT_LIMIT = 200_000
"""Bytes that a command prints at most: less than a backend's `tail_limit`, so that the beginning is never lost."""
LINE_BYTES = 2004
"""Bytes of a line that matter: 500 characters of at most four bytes, and a little more so that a cut is noticed."""

_SIMPLE_GLOB = re.compile(r"[A-Za-z0-9._*?/-]+")
_RG_RECORD = re.compile(rb"\./([^\0\n]*)\0(\d+)([:-])(.*)", re.DOTALL)
_RG_BINARY = re.compile(rb"\./(.*): (?:binary file matches|WARNING: stopped searching binary file)", re.IGNORECASE | re.DOTALL)
_GREP_FILE = re.compile(rb"\0file \./([^\0]*)\0")
_GREP_RECORD = re.compile(rb"(\d+)([:-])(.*)", re.DOTALL)
_TRAILER = re.compile(rb"\0exit (\d+)\0\n?\Z")


@dataclass(frozen=True)
class Search:
    """What is looked for. `context` is in lines before and after; `limit` counts matching lines."""

    pattern: str
    literal: bool = False
    ignore_case: bool = False
    context: int = 0
    glob: str | None = None
    limit: int = 100
    ignored: bool = False
    """Whether files that `.gitignore` excludes are searched, too."""

    def __post_init__(self) -> None:
        if "\n" in self.pattern or "\0" in self.pattern:
            raise BadInput("The pattern contains a line break or NUL; lines are searched one by one.")
        if self.context < 0 or self.limit < 1:
            raise BadInput("The context must be at least 0 lines and the limit at least 1.")
        if self.glob is not None:
            compile_glob(self.glob)


@dataclass(frozen=True)
class Match:
    """One line of an answer."""

    path: str
    """Relative to the searched directory."""
    line_number: int
    text: str
    is_context: bool = False


@dataclass(frozen=True)
class Found:
    """What a command printed."""

    matches: list[Match]
    complete: bool
    """Whether all of the output is there; False if it was cut at `OUTPUT_LIMIT`."""
    error: str | None = None
    """What the program said, if it refused the pattern."""
    one_file: bool = False
    """Whether what was searched is a file, and the matches have its name."""


def rg_command(search: Search, target: str = ".") -> str:
    """A shell command for ripgrep 12 or newer; run it in the searched directory. `target` may name one file in it instead.

    A glob is only a first sieve here, in the form of an ignore file of lowest rank: `--glob` would bring
    back what `.gitignore` excludes. `select` does the rest.
    """
    options = [
        "rg", "--no-config", "--null", "--line-number", "--no-heading", "--with-filename", "--color=never",
        "--no-messages",
        "--hidden", "--glob=!.git", "--no-require-git",
        "--no-ignore-dot", "--no-ignore-exclude", "--no-ignore-global", "--no-ignore-parent",
        "--encoding=none", "--no-mmap", "--sort=path", f"--max-columns={LINE_BYTES}", "--max-columns-preview",
        f"--max-count={search.limit + 1}", f"--context={search.context}",
    ]  # fmt: skip
    if search.ignored:
        options.append("--no-ignore-vcs")
    if search.literal:
        options.append("--fixed-strings")
    if search.ignore_case:
        options.append("--ignore-case")
    pattern = search.pattern if search.literal else to_rust(search.pattern)
    sieve = _sieve(search.glob)
    if sieve:
        options.append("--ignore-file=/dev/stdin")
    command = shlex.join([*options, "-e", pattern, "--", "./" if target == "." else f"./{target}"])
    source = f"printf '%s\\n' {shlex.join(sieve)} | " if sieve else ""
    return f'{{ {source}{command}{"" if sieve else " </dev/null"}; {_EXIT} "$?" 2>/dev/null; }} 2>&1 | head -c {OUTPUT_LIMIT}'


_EXIT = "printf '\\0exit %d\\0\\n'"


def _sieve(glob: str | None) -> list[str]:
    """Lines of an ignore file that lets all pass that the glob picks, and perhaps more; none if the glob is not plain enough to be sure."""
    if glob is None:
        return []
    lines = ["*", "!*/"]
    for alternative in expand_braces(glob):
        plain = alternative.removeprefix("./")
        if plain.endswith("/"):
            plain += "**"
        if not _SIMPLE_GLOB.fullmatch(plain) or "//" in plain or "/./" in plain or plain.startswith(("/", "./")):
            return []
        lines.append(f"!/{plain}" if "/" in plain else f"!{plain}")
    return lines


def grep_command(search: Search, *, grep: str = "grep") -> str:
    """A shell command for GNU, BSD or busybox grep; run it in the searched directory with `grep_input` of the files as standard input.

    First the files that match are named, many to a process; then each of them is checked for NUL bytes and searched again for its lines.

    Raises:
        BadInput: the pattern uses what `grep -E` cannot do.
    """
    pattern, ignore_case = (search.pattern, False) if search.literal else to_ere(search.pattern)
    options = ["-F" if search.literal else "-E"]
    if search.ignore_case or ignore_case:
        options.append("-i")
    what = f"{shlex.join([*options, '-e', pattern])} --"
    # busybox prints a bad pattern's error only when it has a line to try it on.
    return (
        f"LC_ALL=C.UTF-8; export LC_ALL; a=; if echo x | {grep} -a x >/dev/null 2>&1; then a=-a; fi; "
        f"{{ echo x | {grep} {what.removesuffix(' --')} >/dev/null; s=$?; if [ $s -lt 2 ]; then s=0; "
        f"xargs -0 {grep} -l -s $a {what} | while IFS= read -r f; do "
        'if [ "$(tr -d "\\000" <"$f" | wc -c)" -eq "$(wc -c <"$f")" ]; then '
        "printf '\\0file %s\\0\\n' \"$f\" 2>/dev/null || break; "
        f'{grep} -n $a -m {search.limit + 1} -C {search.context} {what} "$f" | cut -b 1-{LINE_BYTES + 20}; '
        f'fi; done; fi; {_EXIT} "$s" 2>/dev/null; }} 2>&1 | head -c {OUTPUT_LIMIT}'
    )


def grep_input(paths: Iterable[str]) -> bytes:
    """Standard input for `grep_command`: files (relative to the searched directory) that are to be searched, in the order of the answer."""
    raw = {path.encode("utf-8", "surrogateescape") for path in paths if "\n" not in path}
    return b"".join(b"./" + path + b"\0" for path in sorted(raw, key=lambda path: path.split(b"/")))


def parse_rg(output: bytes) -> Found:
    """The meaning of `rg_command`'s output."""
    lines, status = _lines_and_status(output)
    matches: list[Match] = []
    binary: set[str] = set()
    other: list[bytes] = []
    for line in lines:
        record = _RG_RECORD.fullmatch(line)
        if record:
            matches.append(_match(record.group(1), record.group(2), record.group(3), record.group(4)))
        elif message := _RG_BINARY.match(line):
            binary.add(message.group(1).decode("utf-8", "surrogateescape"))
        elif line not in (b"--", b""):
            other.append(line)
    error = _error(other) if status is not None and status > 1 and not matches else None
    return Found([match for match in matches if match.path not in binary], status is not None, error)


def parse_grep(output: bytes) -> Found:
    """The meaning of `grep_command`'s output."""
    lines, status = _lines_and_status(output)
    matches: list[Match] = []
    other: list[bytes] = []
    path: bytes | None = None
    for line in lines:
        header = _GREP_FILE.fullmatch(line)
        if header:
            path = header.group(1)
        elif path is not None and (record := _GREP_RECORD.fullmatch(line)):
            matches.append(_match(path, record.group(1), record.group(2), record.group(3)))
        elif line not in (b"--", b""):
            other.append(line)
    return Found(matches, status is not None, _error(other) if status is not None and status > 1 else None)


def _lines_and_status(output: bytes) -> tuple[list[bytes], int | None]:
    trailer = _TRAILER.search(output)
    if trailer:
        return output[: trailer.start()].split(b"\n"), int(trailer.group(1))
    return output.split(b"\n")[:-1], None  # the last line is cut


def _match(path: bytes, number: bytes, sign: bytes, text: bytes) -> Match:
    return Match(path.decode("utf-8", "surrogateescape"), int(number), text.decode("utf-8", "replace").removesuffix("\r"), sign == b"-")


def _error(lines: list[bytes]) -> str:
    said = b" ".join(line.strip() for line in lines if line.strip(b" ^")).decode("utf-8", "replace")
    return said[:500] or "the search program failed without saying why"


def select(matches: Sequence[Match], glob: str | None) -> list[Match]:
    """The matches in files that the glob picks, all if it is None."""
    if glob is None:
        return list(matches)
    picks = compile_glob(glob)
    return [match for match in matches if picks(match.path)]


@dataclass(frozen=True)
class Formatted:
    """An answer for the model."""

    text: str
    """`path:12:line` for matches, `path-11-line` for context, `--` between groups; "No matches." if there are none."""
    notice: str | None
    shown: int
    """How many matches are shown."""
    truncated: bool
    """Whether there are, or may be, more."""


def format_matches(
    matches: Sequence[Match], *, limit: int = 100, context: int = 0, max_line: int = 500, complete: bool = True
) -> Formatted:
    """The first `limit` matches with their context, each line cut at `max_line` characters."""
    chosen, more = _first(matches, limit, context)
    lines: list[str] = []
    cut = False
    previous: Match | None = None
    for match in chosen:
        if context and previous is not None and (match.path != previous.path or match.line_number > previous.line_number + 1):
            lines.append("--")
        text = match.text
        if len(text) > max_line:
            text = text[:max_line] + "..."
            cut = True
        sign = "-" if match.is_context else ":"
        path = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in match.path)
        lines.append(f"{path}{sign}{match.line_number}{sign}{text}")
        previous = match
    shown = sum(not match.is_context for match in chosen)
    notes: list[str] = []
    if more:
        notes.append(f"Showing the first {shown} matches; there are more. Narrow the pattern, path or glob, or give a larger limit.")
    elif not complete:
        notes.append("The output was too large and was cut; there may be more matches. Narrow the pattern, path or glob.")
    if cut:
        notes.append(f"Lines are cut at {max_line} characters; use read to see them whole.")
    text = "\n".join(lines) or ("No matches." if complete else "")
    return Formatted(text, f"[{' '.join(notes)}]" if notes else None, shown, more or not complete)


def _first(matches: Sequence[Match], limit: int, context: int) -> tuple[list[Match], bool]:
    """The matches up to `limit` with their context, and whether there are more. Context of a match that is left out is left out, too."""
    chosen: list[Match] = []
    pending: list[Match] = []
    count = 0
    last: Match | None = None
    for match in matches:
        if match.is_context:
            if last is not None and match.path == last.path and match.line_number <= last.line_number + context:
                chosen.append(match)
            else:
                pending.append(match)
            continue
        if count == limit:
            return chosen, True
        chosen.extend(entry for entry in pending if entry.path == match.path and match.line_number - context <= entry.line_number)
        pending.clear()
        chosen.append(match)
        count += 1
        last = match
    return chosen, False
