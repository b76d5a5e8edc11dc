"""The simple commands of a shell script, with everything that runs them: what a policy decides on. Pure.

`parse` reads a script with tree-sitter's grammar of bash and gives every simple command in it, wherever it stands: in pipelines, lists,
loops, functions, subshells, substitutions, here-documents that have some; and also the commands that other commands run, as
`bash -c '...'`, `eval`, `sudo`, `xargs` or `find -exec` do (`wrappers.py`). Words are resolved as far as they are literal. Whatever
cannot be read to the end is told in `Script.doubts`, so that nothing is taken for harmless because it was not understood.

It reads scripts, it does not run them: what a script computes is unknown, and what the programs do that it starts is not looked into.
"""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from langchain_vers.errors import Unsupported
from langchain_vers.shell.cells import EXPANSIONS, WORDS, WordReader
from langchain_vers.shell.options import Argv, Code
from langchain_vers.shell.script import Command, Redirection, Script, shown
from langchain_vers.shell.words import UNKNOWN, Cell, Word, joined, words_of
from langchain_vers.shell.wrappers import inner

if TYPE_CHECKING:
    from tree_sitter import Language, Node

MISSING = 'This policy reads shell commands, and the parser for them is not installed; run: pip install "langchain-vers[policy]"'
MOST_BYTES = 64 * 1024
"""A longer script is not read; it is a doubt."""
PARSE_SECONDS = 1.0
"""How long the grammar may take: some scripts that are none take it quadratic time."""
_DEPTH = 12
"""How many scripts may be inside of each other."""
_LEVELS = 100
"""How deeply the parts of one script may be nested."""
_MOST_COMMANDS = 4000


def require() -> None:
    """Make sure that there is a parser.

    Raises:
        Unsupported: it is not installed.
    """
    _grammar()


@functools.lru_cache(maxsize=1)
def _grammar() -> Language:
    try:
        import tree_sitter_bash  # noqa: PLC0415  # an extra
        from tree_sitter import Language  # noqa: PLC0415
    except ImportError as error:
        raise Unsupported(f"{MISSING} ({error})") from error
    return Language(tree_sitter_bash.language())


def _parsed(data: bytes) -> Node | None:
    """The syntax tree of a script, whose nodes say where they are; what they say is to be read in `data`. None if that takes too long.

    The grammar's scanner asks C's `isdigit` and its like about characters that these do not know, and crashes the process over some
    (tree-sitter-bash 0.25.1: an opening brace, and U+D040B behind it). So it is shown no character that is not ASCII, but in the place of
    each a percent sign for every byte: to both a character of words, and not of names.
    """
    from tree_sitter import Parser  # noqa: PLC0415  # an extra

    shadow, started = data.translate(_ASCII), time.monotonic()
    try:
        # A parser of its own, as they are not for several threads. It is only stopped in time if it asks for its text.
        tree = Parser(_grammar()).parse(
            lambda offset, point: shadow[offset:], progress_callback=lambda offset, failed: time.monotonic() - started > PARSE_SECONDS
        )
    except ValueError:
        return None
    return None if tree is None else tree.root_node


_ASCII = bytes(range(128)) + b"%" * 128


def parse(script: str) -> Script:
    """The commands of a script. Never raises because of what the script is.

    Raises:
        Unsupported: the parser is not installed.
    """
    try:
        return _understood(script)
    except RecursionError:
        return Script(doubts=("it is nested too deeply",))


def _understood(script: str) -> Script:
    reader = _Reader()
    _read(reader, script)
    if "HOME" in {name for command in reader.commands for name, _ in command.assignments} or _SETS_HOME.search(script):
        reader = _Reader(assigned=frozenset({"HOME"}))
        _read(reader, script)
    if reader.moves_in_function:
        reader.commands = [replace(command, folders=(*command.folders, None)) for command in reader.commands]
    return Script(tuple(reader.commands), tuple(dict.fromkeys(reader.doubts)))


def _read(reader: _Reader, script: str) -> None:
    data = script.encode("utf-8", "replace")
    if len(data) > MOST_BYTES:
        reader.doubts.append(f"it is longer than {MOST_BYTES // 1024} KiB")
        return
    if "\0" in script:
        reader.doubts.append("it has a NUL character")
        return
    if reader.depth > _DEPTH:
        reader.doubts.append("it has scripts in scripts in scripts")
        return
    root = _parsed(data)
    if root is None:
        reader.doubts.append("it takes too long to read")
        return
    reader.depth += 1
    outer, reader.data = reader.data, data
    if root.has_error:
        reader.doubts.append(f"its syntax is not understood at {shown(_error_text(reader, root), 60)!r}")
    reader.visit(root)
    reader.depth -= 1
    reader.data = outer


def _error_text(reader: _Reader, root: Node) -> str:
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if node.is_error or node.is_missing:
            parent = node.parent
            return reader.text(node) or (reader.text(parent) if parent is not None else "")
        nodes += [child for child in node.children if child.has_error or child.is_missing]
    return reader.text(root)


_SETS_HOME = re.compile(r"\b(?:for|read|unset|export|declare|local|typeset|readonly|printf|mapfile|select|getopts)\b[^\n]*\bHOME\b")
_BACKSLASHED = re.compile(r"\\([\\$`\"])")
_SUBSHELLS = {"subshell", "command_substitution", "process_substitution"}
_LOOPS = {"for_statement", "c_style_for_statement", "while_statement"}


@dataclass
class _Reader(WordReader):
    commands: list[Command] = field(default_factory=list)
    folders: list[Word | None] = field(default_factory=lambda: [Word(".")])
    through: tuple[str, ...] = ()
    depth: int = 0
    level: int = 0
    loops: int = 0
    moves_in_function: bool = False

    def visit(self, node: Node) -> None:
        """Take in all commands at and below a node."""
        if len(self.commands) > _MOST_COMMANDS:
            self.doubts.append("it has too many commands")
            return
        if self.level > _LEVELS:
            self.doubts.append("it is nested too deeply")
            return
        self.level += 1
        kind = node.type
        if kind == "ERROR":
            self.doubts.append(f"its syntax is not understood at {shown(self.text(node), 60)!r}")
        if kind in {"command", "declaration_command", "unset_command", "test_command"}:
            self._command(node, [])
        elif kind in {"variable_assignment", "variable_assignments"}:
            self._assignments(node, [])
        elif kind == "redirected_statement":
            self._redirected(node)
        elif kind in _SUBSHELLS or kind == "pipeline":
            before = list(self.folders)
            self._substitution(node) if kind == "command_substitution" else self._children(node)
            self.folders = before
        elif kind == "list":
            self._list(node)
        elif kind in _LOOPS:
            self._loop(node)
        elif kind == "function_definition":
            self._function(node)
        elif kind == "file_redirect":
            self._command(node, [node], whole=False)
        elif kind in EXPANSIONS or kind in {"string", "concatenation"}:
            self.words(node)
        elif kind not in {"comment", "heredoc_content", "string_content", "raw_string"}:
            self._children(node)
        self.level -= 1

    # --- the parts that move or repeat ---

    def _list(self, node: Node) -> None:
        """`a && b`, `a || b`: after `cd x && `, and after `cd x || exit`, the folder is known."""
        before = list(self.folders)
        operator = next((child.type for child in node.children if child.type in {"&&", "||"}), "")
        left, right = node.children[0], node.children[-1]
        self.visit(left)
        moved = self._moved(left, before)
        if operator == "&&" and moved is not None:
            self.folders = moved
        for child in node.children[1:]:
            self.visit(child)
        if moved is not None:
            leaves = operator == "||" and self.text(right).split(maxsplit=1)[:1] in (["exit"], ["return"])
            self.folders = moved if leaves else _merged(before, self.folders)

    def _moved(self, node: Node, before: list[Word | None]) -> list[Word | None] | None:
        """The folders that a plain `cd` has led to, without those of before; None if the node is something else."""
        if node.type != "command" or self.folders == before or len(self.folders) <= len(before):
            return None
        return self.folders[len(before) :]

    def _loop(self, node: Node) -> None:
        """A loop: if it moves, nobody knows where its second round is."""
        before, mark, doubts = list(self.folders), len(self.commands), len(self.doubts)
        self.loops += 1
        self._children(node)
        self.loops -= 1
        if self.folders == before or None in before:
            return
        if self.loops:  # the outermost loop does it for all
            return
        del self.commands[mark:], self.doubts[doubts:]
        self.folders = [*before, None]
        self._children(node)

    def _function(self, node: Node) -> None:
        """A function: it may be called from anywhere, and any number of times."""
        before, mark = list(self.folders), len(self.commands)
        name = next((self.text(child) for child in node.children if child.type == "word"), "")
        self._children(node)
        if self.folders != before:
            self.moves_in_function = True
        if any(command.name == name for command in self.commands[mark:]):
            self.doubts.append(f"the function {shown(name, 40)} calls itself")
        self.folders = before

    # --- commands ---

    def _redirected(self, node: Node) -> None:
        redirects = [child for child in node.children if child.type.endswith("_redirect")]
        bodies = [child for child in node.children if not child.type.endswith("_redirect")]
        if any(len(group) > 1 for group in self._grouped([child for child in node.children if child.is_named])):
            self.doubts += self._stuck(node)
        if len(bodies) == 1 and bodies[0].type in {"command", "declaration_command", "unset_command", "test_command"}:
            self._command(bodies[0], redirects)
        elif len(bodies) == 1 and bodies[0].type in {"variable_assignment", "variable_assignments"}:
            self._assignments(bodies[0], redirects)
        else:
            for body in bodies:
                self.visit(body)
            self._command(node, redirects, whole=False)

    def _stuck(self, node: Node) -> list[str]:
        """A doubt, if a redirection stands so close to a word that it may not be what the grammar takes it for. `a>b` and `2>a` are."""
        nodes = [child for child in node.children if child.is_named]
        pairs = itertools.pairwise(nodes)
        odd = any(
            one.type.endswith("_redirect") and one.end_byte == other.start_byte and not other.type.endswith("_redirect")
            for one, other in pairs
        )
        return [f"its words are not understood at {shown(self.text(node), 60)!r}"] if odd else []

    def _assignments(self, node: Node, redirects: Sequence[Node]) -> None:
        parts = [node] if node.type == "variable_assignment" else node.children
        self._make(node, [], [self._assigned([part]) for part in parts if part.type == "variable_assignment"], redirects)

    def _command(self, node: Node, redirects: Sequence[Node], *, whole: bool = True) -> None:
        children = node.children if whole else []
        inside = [child for child in children if child.type.endswith("_redirect")]
        assigned: list[tuple[str, list[Cell]]] = []
        words: list[Word] = []
        if node.type == "test_command":
            words = [Word(self.text(children[0])), *(word for child in children[1:-1] for word in self._leaves(child))]
            children = []
        for group in self._grouped([child for child in children if not child.is_missing]):
            first = group[0]
            if first.type.endswith("_redirect"):
                if len(group) > 1:
                    self.doubts.append(f"its words are not understood at {shown(self.text(node), 60)!r}")
            elif first.type == "variable_assignment" and not words:
                assigned.append(self._assigned(group))
            elif node.type in {"declaration_command", "unset_command"} and not words:
                words.append(Word(self.text(first)))
            else:
                words += words_of(list(self._run(group)))
        self._make(node, words, assigned, [*inside, *redirects])

    def _assigned(self, group: Sequence[Node]) -> tuple[str, list[Cell]]:
        """An assignment's name and the cells of its value."""
        first = group[0]
        name, _, _ = self.text(first).partition("=")
        parts = [*first.children[2:], *group[1:]]
        return name.rstrip("+"), list(self._run(parts))

    def _leaves(self, node: Node) -> list[Word]:
        """The words of a test, whose operators do not matter."""
        if node.type in WORDS:
            return self.words(node)
        return [word for child in node.children for word in self._leaves(child)]

    def _make(self, node: Node, words: list[Word], assigned: Sequence[tuple[str, list[Cell]]], redirects: Sequence[Node]) -> None:
        """Take in a command, and what it runs."""
        values = [(name, words_of(cells)) for name, cells in assigned]
        assignments = [(name, value[0] if len(value) == 1 else UNKNOWN) for name, value in values]
        redirections: list[Redirection] = []
        given: Word | None = None
        for each in redirects:
            more, opened, text = self._redirection(each)
            words = [*words, *more]
            redirections += opened
            given = text if text is not None else given
        if not (words or assignments or redirections):
            return
        command = Command(tuple(words), tuple(assignments), tuple(redirections), tuple(self.folders), self.through, self.text(node))
        self.take(command, given)

    def take(self, command: Command, given: Word | None = None) -> None:
        """Take in a command and whatever it runs; `given` is its standard input, as far as the script says."""
        self.commands.append(command)
        if len(self.commands) > _MOST_COMMANDS or self.depth > _DEPTH:
            self.doubts.append("it has too many commands in commands")
            return
        through, folders = self.through, list(self.folders)
        runs = inner(command.name, command.words, given)
        self.doubts += [f"{shown(str(command), 80)}: {doubt}" for doubt in runs.doubts]
        self.depth += 1
        for each in runs.inner:
            self.through = (*through, command.name or "")
            if each.folder is not None:
                self.folders = [joined(folder, each.folder) for folder in folders]
            if isinstance(each, Argv):
                self.take(Command(each.words, each.assignments, (), tuple(self.folders), self.through, command.source), given)
            elif isinstance(each, Code):
                _read(self, each.text)
            if not each.here:
                self.folders = list(folders)
        self.depth -= 1
        self.through = through
        if runs.moves is not None:
            self.folders = _merged(self.folders, [joined(folder, runs.moves) for folder in self.folders])

    def _redirection(self, node: Node) -> tuple[list[Word], list[Redirection], Word | None]:
        """Words that belong to the command behind it, files that it opens, and text that it gives to the command."""
        if node.type == "herestring_redirect":
            text = [word for child in node.children[1:] for word in self.words(child)]
            return [], [], text[0] if len(text) == 1 else UNKNOWN
        if node.type == "heredoc_redirect":
            return self._heredoc(node)
        operator = next((child.type for child in node.children if not child.is_named), "")
        parts = self._grouped([child for child in node.children if child.is_named and child.type != "file_descriptor"])
        targets = [word for group in parts for word in words_of(list(self._run(group)))]
        if not targets:
            return [], [], None
        target, more = targets[0], targets[1:]
        if operator in {">&", "<&"} and target.plain is not None and re.fullmatch(r"\d*-?", target.plain):
            return more, [], None
        reads, writes = operator in {"<", "<>", "<&"}, operator != "<"
        return more, [Redirection(target, writes, reads)], UNKNOWN if reads else None

    def _heredoc(self, node: Node) -> tuple[list[Word], list[Redirection], Word | None]:
        words: list[Word] = []
        opened: list[Redirection] = []
        start, body = "", ""
        substituted = False
        for child in node.children:
            if child.type == "heredoc_start":
                start = self.text(child)
            elif child.type == "heredoc_body":
                body = self.text(child)
                substituted = any(part.type != "heredoc_content" for part in child.children)
                for part in child.children:
                    self.visit(part)
            elif child.type == "file_redirect":
                more, files, _ = self._redirection(child)
                words, opened = [*words, *more], [*opened, *files]
            elif child.type in WORDS:
                words += self.words(child)
            elif child.is_named and child.type != "heredoc_end":
                self.visit(child)
        literal_body = bool(set(start) & set("'\"\\")) or not (substituted or set(body) & set("$`\\"))
        return words, opened, Word(body) if literal_body else UNKNOWN

    def _substitution(self, node: Node) -> None:
        text = self.text(node)
        if not text.startswith("`"):
            self._children(node)
        elif "\\" in text:
            # In backticks a backslash goes before $, ` and itself, and the rest is read as if it were not there.
            _read(self, _BACKSLASHED.sub(r"\1", text[1:-1]))
        else:
            self._children(node)


def _merged(one: Sequence[Word | None], other: Sequence[Word | None]) -> list[Word | None]:
    found = list(dict.fromkeys([*one, *other]))
    return found if len(found) <= 16 else [None]
