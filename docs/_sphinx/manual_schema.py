"""The tables of the database, from engine/store/schema.sql: its comments are the reference for every column."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SCHEMA = Path(__file__).resolve().parents[2] / "engine" / "store" / "schema.sql"
_STATEMENT = re.compile(r"^CREATE TABLE (\w+) \((.*?)\) STRICT[^;]*;", re.M | re.S)
_COLUMN = re.compile(r'^ *"?(\w+)"? +(INTEGER|BLOB|TEXT|ANY)([^,-]*),? *(?:-- *(.*))?$')
_REST = re.compile(r"^ +-- *(.*)$")


class Table(NamedTuple):
    """One table.

    Attributes:
        name: of the table.
        about: what stands above it, as paragraphs; a line that begins with two blanks is one by itself.
        columns: name, type and comment of each.
        key: the columns of the primary key, where it has more than one.
    """

    name: str
    about: list[str]
    columns: list[tuple[str, str, str]]
    key: str


def tables(sql: str) -> list[Table]:
    """Return the tables that *sql* makes, but for those of the history, which have the columns of the others."""
    found: list[Table] = []
    for match in _STATEMENT.finditer(sql):
        above = sql[: match.start()].rpartition("\n\n")[2]
        body = match[2] if "\n" in match[2] else f"\n{match[2]}\n"
        columns: list[tuple[str, str, str]] = []
        for line in body.splitlines():
            if column := _COLUMN.match(line):
                words = f"{column[2]} {column[3].strip()}".replace("PRIMARY KEY", "primary key").strip()
                columns.append((column[1], words.replace("NOT NULL", "").strip(), column[4] or ""))
            elif (rest := _REST.match(line)) and columns:
                name, kind, comment = columns[-1]
                columns[-1] = (name, kind, f"{comment} {rest[1]}".strip())
        key = re.search(r"PRIMARY KEY \(([^)]*)\)", body)
        if not (match[1].startswith("was_") and found and found[-1].name.startswith("was_")):
            found.append(Table(match[1], _paragraphs(above), columns, key[1] if key else ""))
    return found


def _paragraphs(comment: str) -> list[str]:
    """Return a comment of SQL as paragraphs."""
    found: list[str] = []
    for line in comment.splitlines():
        if not line.startswith("--"):
            continue
        text = line.removeprefix("--").removeprefix(" ")
        if text.startswith("  ") or not found:
            found.append(text.strip())
        else:
            found[-1] += f" {text.strip()}"
    return found


class Schema(SphinxDirective):
    """``<!-- insert schema -->``: a list of all tables with their columns."""

    def run(self) -> list[nodes.Node]:
        """Return the list."""
        self.env.note_dependency(str(SCHEMA))
        made: list[nodes.Node] = []
        for table in tables(SCHEMA.read_text()):
            name = "was_… (one for each table above)" if table.name == "was_created" else table.name
            term = nodes.term("", "", nodes.literal("", name))
            definition = nodes.definition("", *(nodes.paragraph("", text) for text in table.about))
            columns = nodes.definition_list()
            for column, kind, comment in table.columns:
                words = nodes.term("", "", nodes.literal("", column), nodes.Text(f" {kind}"))
                columns += nodes.definition_list_item(
                    "", words, nodes.definition("", *([nodes.paragraph("", comment)] if comment else []))
                )
            definition += columns
            if table.key:
                definition += nodes.paragraph("", f"Primary key: {table.key}.")
            made.append(nodes.definition_list("", nodes.definition_list_item("", term, definition)))
        return made


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know the directive."""
    app.add_directive("schema", Schema)
    return {"parallel_read_safe": True}
