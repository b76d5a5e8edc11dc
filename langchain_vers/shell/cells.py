"""Reading words off a syntax tree: quotes, escapes, expansions; and a check that nothing of the script is passed over. Pure.

The grammar has its ways: it takes one word for two, or two for one, where odd things stand together. What is next to what is therefore
looked up in the script itself, and what does not fit is a doubt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from langchain_vers.shell.script import shown
from langchain_vers.shell.words import Cell, Word, ansi, double_quoted, literal, unquoted, words_of

if TYPE_CHECKING:
    from tree_sitter import Node

WORDS = {
    "word", "string", "raw_string", "ansi_c_string", "translated_string", "concatenation", "number", "simple_expansion", "expansion",
    "command_substitution", "process_substitution", "arithmetic_expansion", "brace_expression", "extglob_pattern", "regex", "test_operator",
    "variable_name", "special_variable_name", "subscript", "array", "command_name", "heredoc_start", "file_descriptor",
}  # fmt: skip
EXPANSIONS = {"simple_expansion", "expansion", "command_substitution", "arithmetic_expansion", "process_substitution"}
_ENDS = " \t\n;&|<>()`"
"""Characters that end a word where they are not quoted. The grammar now and then has some in one."""


@dataclass
class WordReader(ABC):
    """Reads the words of a script; what runs in them is taken in by `visit`."""

    doubts: list[str] = field(default_factory=list)
    data: bytes = b""
    """The script that is being read."""
    assigned: frozenset[str] = frozenset()
    """Variables of the shell itself that the script sets, and that are not known any more."""

    def text(self, node: Node) -> str:
        """A node's piece of the script."""
        return self.data[node.start_byte : node.end_byte].decode("utf-8", "replace")

    @abstractmethod
    def visit(self, node: Node) -> None:
        """Take in all commands at and below a node."""

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

    def words(self, node: Node) -> list[Word]:
        """The words that a node stands for; the commands in it are taken in."""
        return words_of(list(self._cells(node)))

    def _cells(self, node: Node) -> Iterator[Cell]:
        kind, text = node.type, self.text(node)
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
        elif kind in EXPANSIONS:
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
        data = self.data[node.start_byte : node.end_byte]
        position = data.index(b'"') + 1
        nodes = [each for child in node.children for each in (child.children if child.type == "string" else [child])]
        for child in nodes:
            if child.type not in EXPANSIONS:
                continue
            start = child.start_byte - node.start_byte
            yield from double_quoted(data[position:start].decode("utf-8", "replace"))
            position = child.end_byte - node.start_byte
            for cell in self._cells(child):
                yield replace(cell, spread=False)
            if self.text(child) in {"$@", "${@}"}:
                yield Cell("", spread=True)
        yield from double_quoted(data[position:-1].decode("utf-8", "replace"))

    def _run(self, nodes: Sequence[Node]) -> Iterator[Cell]:
        """The cells of nodes that make up one word. A dollar sign before a string is part of it: `$"..."` is translated."""
        for place, node in enumerate(nodes):
            following = nodes[place + 1] if place + 1 < len(nodes) else None
            while following is not None and following.type in {"concatenation", "command_name"} and following.children:
                following = following.children[0]
            cells = list(self._cells(node))
            if following is not None and following.type in {"string", "raw_string"} and cells and cells[-1] == Cell("$"):
                cells.pop()
            yield from cells

    def _expansion(self, node: Node) -> None:
        """Take in the commands that an expansion runs."""
        text = self.text(node)
        if node.type == "command_substitution":
            self.visit(node)
            return
        if "@P}" in text:
            self.doubts.append(f"{shown(text, 40)} runs what a variable holds")
        self._children(node)
