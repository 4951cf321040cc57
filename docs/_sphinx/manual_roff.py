"""What a page needs on paper and on a terminal of 80 columns, where it is a man page.

A man page has the sections that readers expect, no table that is wider than the terminal, no line that is cut off, and
names other pages as ``minifo-mount(1)``.  All of it is done on the finished document of a page, for the builder ``man``
only.
"""

from __future__ import annotations

import re
import textwrap

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.manpage import ManualPageTranslator

#: Columns that are left for a line that is not filled, after the margin and one indentation.
WIDTH = 68
#: A table of short cells stays one if all its rows fit.
TABLE_WIDTH = 60


class Translator(ManualPageTranslator):
    """Sphinx's own, without the empty line that it puts after a heading."""

    def astext(self) -> str:
        """Return the page."""
        return re.sub(r"^(\.S[HS] .*\n)\.sp\n", r"\1", super().astext(), flags=re.M)


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx call this module for each finished document."""
    app.set_translator("man", Translator)
    app.connect("doctree-resolved", finish)
    app.connect("doctree-read", name_pages, priority=900)  # when the tables of contents have been noted
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _pages(app: Sphinx) -> dict[str, str]:
    """Return the names of the man pages by their documents."""
    return {document: f"{name}({section})" for document, name, _, _, section in app.config.man_pages}


def name_pages(app: Sphinx, document: nodes.document) -> None:
    """Say on a man page which other one a link leads to; of other links their text stays."""
    if app.builder.name != "man":
        return
    pages = _pages(app)
    here = app.env.docname
    named: list[str] = []
    for link in list(document.findall(lambda node: node.tagname == "pending_xref")):
        target = link.get("reftarget", "")
        text = link.astext()
        if link.get("refdomain") == "std":  # made by manual_commands, which names the page
            link.replace_self(nodes.strong("", text))
            continue
        page = pages.get(target) if target != here else None
        if page is None:
            link.replace_self(nodes.inline("", text))
            continue
        named.append(page)
        is_name = text == page or text.endswith(".md")
        words: list[nodes.Node] = [] if is_name else [nodes.Text(f"{text} (")]
        words += [nodes.strong("", page), *([] if is_name else [nodes.Text(")")])]
        link.replace_self(words)
    for contents in list(document.findall(lambda node: node.tagname == "toctree")):
        contents.parent.remove(contents)  # on a man page it would be all the pages that it names
    for download in list(document.findall(lambda node: node.tagname == "download_reference")):
        download.replace_self(nodes.inline("", download.astext()))
    if here in pages and not any(title.astext() == "See also" for title in document.findall(nodes.title)):
        others = list(dict.fromkeys(["minifo(1)", *named]))
        links = [
            piece for page in others if page != pages[here] for piece in (nodes.Text(", "), nodes.strong("", page))
        ]
        top = next(iter(document.findall(nodes.section)))
        top += nodes.section("", nodes.title("", "See also"), nodes.paragraph("", "", *links[1:]), ids=["see-also"])


def finish(app: Sphinx, document: nodes.document, docname: str) -> None:
    """Give a man page its form."""
    if app.builder.name != "man":
        return
    for node in list(document.findall(nodes.raw)):
        node.parent.remove(node)
    top = next(iter(document.findall(nodes.section)))
    _describe(top)
    # no word is divided, for it may be an option; and no line is stretched
    top.insert(1, nodes.raw("", ".nr HY 0\n.nh\n.ad l\n", format="manpage"))
    for table in list(document.findall(nodes.table)):
        table.replace_self(_as_list(table))
    for block in list(document.findall(nodes.literal_block)):
        lines = [part for line in block.astext().splitlines() for part in _folded(line)]
        block.replace_self(nodes.literal_block("", "\n".join(lines)))


def _describe(top: nodes.section) -> None:
    """Put what stands before the first section into one: a page begins with a synopsis or a description."""
    first = next((at for at, node in enumerate(top) if isinstance(node, nodes.section)), len(top))
    content = top[1:first]
    if not content:
        return
    del top[1:first]
    made = []
    if isinstance(content[0], nodes.literal_block):
        words = nodes.paragraph("", "", nodes.Text(content.pop(0).astext()))
        made.append(nodes.section("", nodes.title("", "Synopsis"), words))
    made.append(nodes.section("", nodes.title("", "Description"), *content))
    top[1:1] = made


def _folded(line: str) -> list[str]:
    if len(line) <= WIDTH:
        return [line]
    indent = line[: len(line) - len(line.lstrip())] + "    "
    return textwrap.wrap(
        line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


def _as_list(table: nodes.table) -> nodes.Node:
    """Return a table as a list: its first column, and below it the others, each after its heading."""
    rows = [[entry for entry in row if isinstance(entry, nodes.entry)] for row in table.findall(nodes.row)]
    head = next(iter(table.findall(nodes.thead)), None)
    titles = [entry.astext() for entry in rows.pop(0)] if head is not None else []
    made = nodes.definition_list()
    for row in rows:
        term = nodes.term("", "", *(child.deepcopy() for part in row[0] for child in part))
        definition = nodes.definition()
        for number, entry in enumerate(row[1:], 1):
            title = titles[number] if number < len(titles) else ""
            for paragraph in entry.findall(nodes.paragraph):
                if len(row) > 2 and title:
                    paragraph = nodes.paragraph("", "", nodes.Text(f"{title}: "), *(c.deepcopy() for c in paragraph))
                else:
                    paragraph = paragraph.deepcopy()
                definition += paragraph
        made += nodes.definition_list_item("", term, definition)
    return made
