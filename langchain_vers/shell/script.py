"""A shell script after it has been read: its simple commands, with the words that are known. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_vers.shell.words import Word

_BINS = frozenset({"/bin", "/usr/bin", "/usr/local/bin", "/sbin", "/usr/sbin", "/opt/homebrew/bin"})


@dataclass(frozen=True)
class Redirection:
    """A file that a command's input comes from, or its output goes to.

    Attributes:
        target: the file, as it is written.
        writes: whether it is written (`>`, `>>`, `<>`).
        reads: whether it is read (`<`, `<>`).
    """

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

    @property
    def ordinary(self) -> bool:
        """Whether the program is found where the system's programs are: `./ls` is another one than `ls`."""
        folder, _, name = self.words[0].text.rpartition("/") if self.words else ("", "", "")
        return bool(name) and (not folder or folder in _BINS)

    def __str__(self) -> str:
        return shown(self.source)


@dataclass(frozen=True)
class Script:
    """What a script holds.

    Attributes:
        commands: its simple commands, in the order of the text.
        doubts: the reasons why that may not be all, in words; empty if it was read to the end.
    """

    commands: tuple[Command, ...] = ()
    doubts: tuple[str, ...] = ()


def shown(text: str, room: int = 120) -> str:
    """A piece of a script for a sentence: on one line, not too long."""
    text = " ".join(text.split())
    return text if len(text) <= room else f"{text[: room - 3]}..."
