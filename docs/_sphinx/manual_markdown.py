"""What the Markdown pages get before they are read, so that they read well without Sphinx, too.

* ``<!-- insert NAME WORDS -->`` is a directive: something that the code knows comes in its place.
* A link to a file outside of ``docs`` becomes its text: the manual has no sources.
* The headings of the start page, with the first links in their lists, are the parts of the manual.
"""

from __future__ import annotations

import posixpath
import re

from sphinx.application import Sphinx

_INSERT = re.compile(r"^<!-- insert ([\w-]+)([^\n]*?) *-->$", re.M)
_LINK = re.compile(r"\[([^\[\]]+)\]\((\.\./[^)\s]+)\)")
_PART = re.compile(r"^## (?P<title>[^\n]+)\n(?P<text>.*?)(?=^## |\Z)", re.M | re.S)
_PAGE = re.compile(r"^- \[[^\]]+\]\(([\w./-]+)\.md\)", re.M)


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx call this module for the text of each page."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Change the text of a page, the one item of *source*."""
    text = _INSERT.sub(r"```{\1}\2\n```", source[0])
    folder = posixpath.dirname(docname)

    def without_outside(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2].partition("#")[0]))
        return link[1] if target.startswith("..") else link[0]

    text = _LINK.sub(without_outside, text)
    source[0] = _PART.sub(_with_toctree, text) if docname == app.config.root_doc else text


def _with_toctree(part: re.Match[str]) -> str:
    """A part of the start page, and the pages that it links to as a part of the manual."""
    pages = list(dict.fromkeys(_PAGE.findall(part["text"])))
    if not pages:
        return part[0]
    lines = ["```{toctree}", ":hidden:", f":caption: {part['title']}", "", *pages, "```", ""]
    return f"{part[0]}\n" + "\n".join(lines) + "\n"
