"""Help texts of click commands, taken apart: paragraphs, lists, examples, and the titles above them.

A text is made of paragraphs.  One that begins with a line ``\\b`` stands as it is on a terminal: there a line that ends
with a colon is the title of the indented lines below it, and runs of blanks separate columns.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from docutils import nodes

from minifo.tools.cli import COMMANDS

#: The widest line of a command on a man page: 80 without two indentations.
WIDTH = 66
_TITLE = re.compile(r"([A-Z][\w, -]{1,40}?)(?: \(([^)]*)\))?:")
_VERBS = "|".join(sorted(COMMANDS, key=len, reverse=True))
_WORDS = re.compile(rf"(?<![\w-])(--?[a-zA-Z][\w-]*(?:=[\w|]+)?|minifo-fsck|minifo (?:{_VERBS})\b)(?![\w(-])")
_LETTER = re.compile(r"[A-Za-z] \S")


@dataclass
class Block:
    """A piece of a help text.

    Attributes:
        title: of the section that it belongs to; empty: none.
        kind: ``text``, ``pairs`` (words and their meaning), ``examples`` (a comment and a command) or ``literal``.
        text: of a text or a literal.
        pairs: of a list or of examples.
    """

    title: str
    kind: str
    text: str = ""
    pairs: list[tuple[str, str]] = field(default_factory=list)


def blocks(text: str) -> list[Block]:
    """Take a help text apart."""
    found: list[Block] = []
    for chunk in re.split(r"\n[ \t]*\n", inspect.cleandoc(text)):
        if chunk.lstrip().startswith("\b"):
            found += _verbatim(chunk.lstrip().removeprefix("\b").strip("\n"))
        elif chunk.strip():
            found.append(_paragraph("", " ".join(chunk.split())))
    return found


def _paragraph(title: str, text: str) -> Block:
    if not text.startswith(("Exit codes: ", "The exit code is ")):
        return Block(title, "text", text)
    text = text.removeprefix("Exit codes: ")
    return Block("Exit status", "text", f"{text[0].upper()}{text[1:]}")


def _verbatim(chunk: str) -> Iterator[Block]:
    title, colon = "", False
    lines = chunk.replace("\\\n", " ").splitlines()
    while lines:
        line = lines.pop(0)
        inner = []
        while lines and lines[0].startswith("  "):
            inner.append(lines.pop(0))
        heading = _TITLE.fullmatch(line)
        if heading and inner:
            title, colon = heading[1], False
            if heading[2]:
                yield Block(title, "text", f"{heading[2][0].upper()}{heading[2][1:]}.")
        else:
            text = line
            while not inner and lines and not lines[0].startswith(" ") and not _TITLE.fullmatch(lines[0]):
                if lines[0].startswith("Exit codes: "):
                    break
                text += f" {lines.pop(0)}"
                while lines and lines[0].startswith("  "):
                    inner.append(lines.pop(0))
            colon = text.endswith(":")
            yield _paragraph(title if title not in ("Examples", "Exit status") else "", text)
        if inner:
            yield from _lines(title, inner, literal=colon)


def _lines(title: str, lines: list[str], *, literal: bool) -> Iterator[Block]:
    """Yield what indented lines are."""
    if title == "Examples":
        yield Block(title, "examples", pairs=[_example(line.strip()) for line in lines])
        return
    if literal and not any(re.search(r"\S {2,}\S", line) for line in lines):
        yield Block(title, "literal", inspect.cleandoc("\n".join(lines)))
        return
    found: list[Block] = []
    for line in lines:
        columns = re.split(r" {2,}", line.strip())
        worded = re.fullmatch(r"([\w]+(?:, [\w]+)?): (.*)", line.strip())
        if all(map(_LETTER.match, columns)) and len(columns) > 1:
            pairs = [(column[0], column[2:]) for column in columns]
        elif len(columns) == 3:
            pairs = [(f"{columns[0]}, {columns[1]}", columns[2])]
        elif len(columns) > 1:
            pairs = list(zip(columns[::2], columns[1::2], strict=True))
        elif worded:
            pairs = [(worded[1], worded[2])]
        else:
            pairs = []
        kind = "pairs" if pairs else "text"
        if not found or found[-1].kind != kind:
            found.append(Block(title, kind))
        found[-1].pairs += pairs
        found[-1].text += "" if pairs else f"{line.strip()} "
    yield from found


def _example(line: str) -> tuple[str, str]:
    command, _, comment = re.sub(r" +(?=# )", "\0", line, count=1).partition("\0")
    return comment.removeprefix("# ").strip().rstrip(":"), folded(command.strip())


def folded(command: str) -> str:
    """Return a command in lines that fit, each but the last with a backslash at its end."""
    made = [""]
    for word in re.split(r" +(?=-{1,2}[a-z]|[|>]|'|\")", command):
        if made[-1] and len(made[-1]) + len(word) + 3 > WIDTH:
            made[-1] += " \\"
            made.append(f"    {word}")
        else:
            made[-1] += f" {word}" if made[-1] else word
    return "\n".join(made)


def inline(text: str) -> list[nodes.Node]:
    """Return a text with its options and commands in the type of a program's words."""
    pieces = _WORDS.split(text)
    return [
        nodes.literal("", piece) if number % 2 else nodes.Text(piece) for number, piece in enumerate(pieces) if piece
    ]


def verbs_in(text: str) -> list[str]:
    """Return the words after ``minifo`` in a text, each once, in their order."""
    return list(dict.fromkeys(re.findall(r"\bminifo ([a-z][a-z-]+)", text)))
