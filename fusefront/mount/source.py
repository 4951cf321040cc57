"""The text of options: how items are separated and escaped, and the source text that /proc/mounts shows.

In a value ``\\,`` stands for a comma and ``\\\\`` for a backslash; any other backslash stands for itself, as in
mini_fo.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Source(NamedTuple):
    """What the source text of a mount says.

    Attributes:
        base, storage: the directories.
        at: the name of the checkpoint that it shows (``-o at=``); None for a mount of the overlay itself.
    """

    base: str
    storage: str
    at: str | None = None


def split(text: str) -> Iterator[str]:
    """Yield the items of *text* between commas, with ``\\,`` and ``\\\\`` decoded; skip empty items."""
    item: list[str] = []
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\" and text[position + 1 : position + 2] in {",", "\\"}:
            position += 1
            item.append(text[position])
        elif char == ",":
            if item:
                yield "".join(item)
            item = []
        else:
            item.append(char)
        position += 1
    if item:
        yield "".join(item)


def escape(value: str) -> str:
    """Return *value* encoded for an option text: commas and backslashes get a backslash."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def format_source(base: str, storage: str, at: str | None = None) -> str:
    """Return the source text (fsname) that /proc/mounts shows for a mount; the arguments are those of ``Source``."""
    shown = "" if at is None else f",at={escape(at)}"
    return f"base={escape(base)},sto={escape(storage)}{shown}"


def parse_source(text: str) -> Source | None:
    """Return what a source text says; None if :func:`format_source` cannot have returned it."""
    values = []
    for item, name in zip(split(text), ("base=", "sto=", "at="), strict=False):
        if not item.startswith(name):
            return None
        values.append(item.removeprefix(name))
    if len(values) < 2:
        return None
    found = Source(*values)
    return found if format_source(*found) == text else None
