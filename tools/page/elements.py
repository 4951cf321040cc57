"""HTML as a tree of elements, so that no text can become markup: the tree is escaped when it is written."""

from __future__ import annotations

import base64
import hashlib
import xml.etree.ElementTree as ET

from .._output import plain

_LONGEST = 1000  # characters of a path: a hostile storage can name far longer ones, thousands of them

Element = ET.Element
Child = ET.Element | str | None


def element(tag: str, *children: Child, **attributes: str | int | None) -> Element:
    """Return an element.

    Args:
        tag: its name.
        children: elements and text in their order; None is left out.
        attributes: its attributes: ``_`` stands for ``-``, and is left out at the end (``class_``); None is left out.
    """
    found = ET.Element(tag)
    for name, value in attributes.items():
        if value is not None:
            found.set(name.rstrip("_").replace("_", "-"), str(value))
    append(found, *children)
    return found


def append(parent: Element, *children: Child) -> None:
    """Add elements and text at the end of an element."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, str):
            if len(parent):
                parent[-1].tail = (parent[-1].tail or "") + child
            else:
                parent.text = (parent.text or "") + child
        else:
            parent.append(child)


def path_text(path: bytes) -> str:
    """Return a path as one line of printable text; the middle of one that no page has room for is left out."""
    return shortened(plain(path))


def shortened(text: str) -> str:
    """Return a text without its middle, where it is longer than a path that a page has room for."""
    half = _LONGEST // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} … {text[-half:]}"


def table(headings: list[tuple[str, str]], rows: list[tuple[Child, ...]], **attributes: str) -> Element:
    """Return a table.

    Args:
        headings: text and class (``number`` or empty) of each column.
        rows: the cells of each row.
        attributes: of the table.
    """
    head = [element("th", text, scope="col", class_=kind or None) for text, kind in headings]
    body = element("tbody")
    for cells in rows:
        named = zip(cells, headings, strict=True)
        body.append(element("tr", *(element("td", cell, class_=kind or None) for cell, (_, kind) in named)))
    return element("table", element("thead", element("tr", *head)), body, **attributes)


def digest(text: str) -> str:
    """Return how a Content-Security-Policy names an inline script or style that it allows (CSP level 2, 4.2.5)."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def written(page: Element) -> str:
    """Return the text of a whole page."""
    return "<!doctype html>\n" + ET.tostring(page, encoding="unicode", method="html") + "\n"
