"""The simple commands of a shell script, with everything that runs them: what a policy decides on. Pure.

`parse` reads a script with tree-sitter's grammar of bash and gives every simple command in it, wherever it stands: in pipelines, lists,
loops, functions, subshells, substitutions, here-documents that have some; and also the commands that other commands run, as
`bash -c '...'`, `eval`, `sudo`, `xargs` or `find -exec` do (`shell_wrappers.py`). Words are resolved as far as they are literal. Whatever
cannot be read to the end is told in `Script.doubts`, so that nothing is taken for harmless because it was not understood.

It reads scripts, it does not run them: what a script computes is unknown, and what the programs do that it starts is not looked into.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from langchain_vers.errors import Unsupported
from langchain_vers.shell_words import UNKNOWN, Cell, Word, ansi, double_quoted, joined, literal, unquoted, words_of
from langchain_vers.shell_wrappers import Argv, Code, inner

if TYPE_CHECKING:
    from tree_sitter import Node, Parser

MISSING = 'This policy reads shell commands, and the parser for them is not installed; run: pip install "langchain-vers[policy]"'
MOST_BYTES = 256 * 1024
"""A longer script is not read; it is a doubt."""
_DEPTH = 12
"""How many scripts may be inside of each other."""
_LEVELS = 150
"""How deeply the parts of one script may be nested."""
_MOST_COMMANDS = 4000


@dataclass(frozen=True)
class Redirection:
    """A file that a command's input comes from, or its output goes to."""

    target: Word
    writes: bool
    reads: bool


@dataclass(frozen=True)
class Command:
    """A simple command.

    Attributes:
        words: the program's name and its arguments; empty if there are only assignments or redirections.
        assignments: names and values of the variables that are set for it, or by it if it has no words.
        redirections: files that are opened for it.
        folders: where it may be run, relative to where the script is; None is a folder that is not known.
        through: the programs that run it, outermost first, such as ("sudo", "xargs").
        source: its text.
    """

    words: tuple[Word, ...] = ()
    assignments: tuple[tuple[str, Word], ...] = ()
    redirections: tuple[Redirection, ...] = ()
    folders: tuple[Word | None, ...] = (Word("."),)
    through: tuple[str, ...] = ()
    source: str = ""

    @property
    def name(self) -> str | None:
        """The program's name without its folder; None if it is not known, "" if there is none."""
        if not self.words:
            return ""
        plain = self.words[0].plain
        return None if plain is None or self.words[0].spread else plain.rpartition("/")[2]

    def __str__(self) -> str:
        return shown(self.source)


@dataclass(frozen=True)
class Script:
    """What a script holds: its commands in the order of the text, and the reasons why that may not be all."""

    commands: tuple[Command, ...] = ()
    doubts: tuple[str, ...] = ()


def shown(text: str, room: int = 120) -> str:
    """A piece of a script for a sentence: on one line, not too long."""
    text = " ".join(text.split())
    return text if len(text) <= room else f"{text[: room - 3]}..."


_parser: Parser | None = None


def require() -> None:
    """Make sure that there is a parser.

    Raises:
        Unsupported: it is not installed.
    """
    _the_parser()


def _the_parser() -> Parser:
    global _parser  # noqa: PLW0603  # made once: loading the grammar takes longer than most scripts
    if _parser is None:
        try:
            import tree_sitter_bash  # noqa: PLC0415  # an extra
            from tree_sitter import Language, Parser  # noqa: PLC0415
        except ImportError as error:
            raise Unsupported(f"{MISSING} ({error})") from error
        _parser = Parser(Language(tree_sitter_bash.language()))
    return _parser


def parse(script: str) -> Script:
    """The commands of a script. Never raises because of what the script is.

    Raises:
        Unsupported: the parser is not installed.
    """
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
    parser = _the_parser()
    if reader.depth > _DEPTH:
        reader.doubts.append("it has scripts in scripts in scripts")
        return
    reader.depth += 1
    outer, reader.data = reader.data, data
    root = parser.parse(data).root_node
    if root.has_error:
        reader.doubts.append(f"its syntax is not understood at {shown(_error_text(root), 60)!r}")
    reader.visit(root)
    reader.depth -= 1
    reader.data = outer


def _error_text(root: Node) -> str:
    nodes = [root]
    while nodes:
        node = nodes.pop()
        if node.is_error or node.is_missing:
            parent = node.parent
            return _text(node) or (_text(parent) if parent is not None else "")
        nodes += [child for child in node.children if child.has_error or child.is_missing]
    return _text(root)


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


_WORDS = {
    "word", "string", "raw_string", "ansi_c_string", "translated_string", "concatenation", "number", "simple_expansion", "expansion",
    "command_substitution", "process_substitution", "arithmetic_expansion", "brace_expression", "extglob_pattern", "regex", "test_operator",
    "variable_name", "special_variable_name", "subscript", "array", "command_name", "heredoc_start", "file_descriptor",
}  # fmt: skip
_EXPANSIONS = {"simple_expansion", "expansion", "command_substitution", "arithmetic_expansion", "process_substitution"}
_ENDS = " \t\n;&|<>()`"
"""Characters that end a word where they are not quoted. The grammar now and then has some in one."""
_BACKSLASHED = re.compile(r"\\([\\$`\"])")
_SETS_HOME = re.compile(r"\b(?:for|read|unset|export|declare|local|typeset|readonly|printf|mapfile|select|getopts)\b[^\n]*\bHOME\b")
_SUBSHELLS = {"subshell", "command_substitution", "process_substitution"}
_LOOPS = {"for_statement", "c_style_for_statement", "while_statement"}


@dataclass
class _Reader:
    commands: list[Command] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    folders: list[Word | None] = field(default_factory=lambda: [Word(".")])
    through: tuple[str, ...] = ()
    depth: int = 0
    level: int = 0
    loops: int = 0
    data: bytes = b""
    """The script that is being read."""
    assigned: frozenset[str] = frozenset()
    """Variables of the shell itself that the script sets, and that are not known any more."""
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
            self.doubts.append(f"its syntax is not understood at {shown(_text(node), 60)!r}")
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
        elif kind in _EXPANSIONS or kind in {"string", "concatenation"}:
            self.words(node)
        elif kind not in {"comment", "heredoc_content", "string_content", "raw_string"}:
            self._children(node)
        self.level -= 1

    def _children(self, node: Node) -> None:
        if not node.children:
            return
        end = node.start_byte
        for child in node.children:
            self._skipped(end, child.start_byte)
            end = child.end_byte
            self.visit(child)
        self._skipped(end, node.end_byte)

    def _skipped(self, start: int, end: int) -> None:
        """What stands between nodes must be blank: nothing of a script is passed over."""
        if start < end and (gap := self.data[start:end].replace(b"\\\n", b"").strip(b" \t\r\n\\")):
            self.doubts.append(f"it is not understood at {shown(gap.decode('utf-8', 'replace'), 60)!r}")

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
            leaves = operator == "||" and _text(right).split(maxsplit=1)[:1] in (["exit"], ["return"])
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
        name = next((_text(child) for child in node.children if child.type == "word"), "")
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
        pairs = zip(nodes, nodes[1:], strict=False)
        odd = any(
            one.type.endswith("_redirect") and one.end_byte == other.start_byte and not other.type.endswith("_redirect")
            for one, other in pairs
        )
        return [f"its words are not understood at {shown(_text(node), 60)!r}"] if odd else []

    def _assignments(self, node: Node, redirects: Sequence[Node]) -> None:
        parts = [node] if node.type == "variable_assignment" else node.children
        self._make(node, [], [self._assigned([part]) for part in parts if part.type == "variable_assignment"], redirects)

    def _command(self, node: Node, redirects: Sequence[Node], *, whole: bool = True) -> None:
        children = node.children if whole else []
        inside = [child for child in children if child.type.endswith("_redirect")]
        assigned: list[tuple[str, list[Cell]]] = []
        words: list[Word] = []
        if node.type == "test_command":
            words = [Word(_text(children[0])), *(word for child in children[1:-1] for word in self._leaves(child))]
            children = []
        for group in self._grouped([child for child in children if not child.is_missing]):
            first = group[0]
            if first.type.endswith("_redirect"):
                if len(group) > 1:
                    self.doubts.append(f"its words are not understood at {shown(_text(node), 60)!r}")
            elif first.type == "variable_assignment" and not words:
                assigned.append(self._assigned(group))
            elif node.type in {"declaration_command", "unset_command"} and not words:
                words.append(Word(_text(first)))
            else:
                words += words_of(list(self._run(group)))
        self._make(node, words, assigned, [*inside, *redirects])

    def _grouped(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """Nodes in groups that stand together without a blank: the grammar now and then takes one word for two."""
        groups: list[list[Node]] = []
        for node in nodes:
            if groups:
                gap = self.data[groups[-1][-1].end_byte : node.start_byte].replace(b"\\\n", b"")
                if not gap:
                    groups[-1].append(node)
                    continue
                if gap.strip():
                    self.doubts.append(f"it is not understood at {shown(gap.decode('utf-8', 'replace'), 60)!r}")
            groups.append([node])
        return groups

    def _assigned(self, group: Sequence[Node]) -> tuple[str, list[Cell]]:
        """An assignment's name and the cells of its value."""
        first = group[0]
        name, _, _ = _text(first).partition("=")
        parts = [*first.children[2:], *group[1:]]
        return name.rstrip("+"), list(self._run(parts))

    def _leaves(self, node: Node) -> list[Word]:
        """The words of a test, whose operators do not matter."""
        if node.type in _WORDS:
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
        command = Command(tuple(words), tuple(assignments), tuple(redirections), tuple(self.folders), self.through, _text(node))
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
                start = _text(child)
            elif child.type == "heredoc_body":
                body = _text(child)
                substituted = any(part.type != "heredoc_content" for part in child.children)
                for part in child.children:
                    self.visit(part)
            elif child.type == "file_redirect":
                more, files, _ = self._redirection(child)
                words, opened = [*words, *more], [*opened, *files]
            elif child.type in _WORDS:
                words += self.words(child)
            elif child.is_named and child.type != "heredoc_end":
                self.visit(child)
        literal_body = bool(set(start) & set("'\"\\")) or not (substituted or set(body) & set("$`\\"))
        return words, opened, Word(body) if literal_body else UNKNOWN

    # --- words ---

    def words(self, node: Node) -> list[Word]:
        """The words that a node stands for; the commands in it are taken in."""
        return words_of(list(self._cells(node)))

    def _cells(self, node: Node) -> Iterator[Cell]:
        kind, text = node.type, _text(node)
        if kind == "raw_string":
            yield from literal(text[1:-1], quoted=True)
        elif kind == "ansi_c_string":
            yield from ansi(text[2:-1])
        elif kind in {"string", "translated_string"}:
            yield from self._string(node)
        elif kind in {"concatenation", "command_name", "variable_assignment"}:
            if kind == "concatenation" and len(self._grouped(node.children)) > 1:
                self.doubts.append(f"its words are not understood at {shown(text, 60)!r}")
            yield from self._run(node.children)
        elif kind in {"simple_expansion", "expansion"} and text in {"$HOME", "${HOME}"} and "HOME" not in self.assigned:
            yield Cell("", home=True)
        elif kind == "process_substitution":
            self.visit(node)
            yield from literal("/dev/fd/63", quoted=True)
        elif kind in _EXPANSIONS:
            self._expansion(node)
            yield Cell("", spread=kind != "arithmetic_expansion")
        elif node.named_child_count and kind not in {"word", "number", "brace_expression", "extglob_pattern", "regex"}:
            self._children(node)
            yield Cell("", spread=True)
        else:
            if kind in {"extglob_pattern", "regex"} and set(text) & set("$`"):
                self.doubts.append(f"the pattern {shown(text, 40)!r} is not worked out")
            cells = unquoted(text)
            if kind not in {"regex", "extglob_pattern"} and any(not cell.quoted and cell.char in _ENDS for cell in cells):
                self.doubts.append(f"its words are not understood at {shown(text, 60)!r}")
            yield from cells

    def _string(self, node: Node) -> Iterator[Cell]:
        """What stands between double quotes: the grammar has no nodes for some of its blanks, so it goes by what is between the others."""
        data = node.text or b""
        position = data.index(b'"') + 1
        nodes = [each for child in node.children for each in (child.children if child.type == "string" else [child])]
        for child in nodes:
            if child.type not in _EXPANSIONS:
                continue
            start = child.start_byte - node.start_byte
            yield from double_quoted(data[position:start].decode("utf-8", "replace"))
            position = child.end_byte - node.start_byte
            for cell in self._cells(child):
                yield replace(cell, spread=False)
            if _text(child) in {"$@", "${@}"}:
                yield Cell("", spread=True)
        yield from double_quoted(data[position:-1].decode("utf-8", "replace"))

    def _run(self, nodes: Sequence[Node]) -> Iterator[Cell]:
        """The cells of nodes that make up one word. A dollar sign before a string is part of it: `$"..."` is translated."""
        for place, node in enumerate(nodes):
            following = nodes[place + 1] if place + 1 < len(nodes) else None
            while following is not None and following.type in {"concatenation", "command_name"} and following.children:
                following = following.children[0]
            if _text(node) == "$" and following is not None and following.type in {"string", "raw_string"}:
                continue
            yield from self._cells(node)

    def _expansion(self, node: Node) -> None:
        """Take in the commands that an expansion runs."""
        text = _text(node)
        if node.type == "command_substitution":
            self.visit(node)
            return
        if "@P}" in text:
            self.doubts.append(f"{shown(text, 40)} runs what a variable holds")
        self._children(node)

    def _substitution(self, node: Node) -> None:
        text = _text(node)
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
