"""The text of options: how items are separated and escaped, and the source text that /proc/mounts shows.

In a value ``\\,`` stands for a comma and ``\\\\`` for a backslash; any other backslash stands for itself, as in
mini_fo.
"""

from __future__ import annotations

from collections.abc import Iterator


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


def format_source(base: str, storage: str) -> str:
    """Return the source text (fsname) that /proc/mounts shows for a mount."""
    return f"base={escape(base)},sto={escape(storage)}"


def parse_source(text: str) -> tuple[str, str] | None:
    """Return base and storage from a source text; None if :func:`format_source` cannot have returned it."""
    items = list(split(text))
    if len(items) != 2 or not items[0].startswith("base=") or not items[1].startswith("sto="):
        return None
    base, storage = items[0].removeprefix("base="), items[1].removeprefix("sto=")
    return (base, storage) if format_source(base, storage) == text else None
