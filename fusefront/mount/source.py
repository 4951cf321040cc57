"""The text of options: how items are separated and escaped, and the source text that /proc/mounts shows.

In a value ``\\,`` stands for a comma and ``\\\\`` for a backslash; any other backslash stands for itself, as in
mini_fo.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from ...engine.store.layers import join_layers, layers_of

SOURCE_LIMIT = 4095  # bytes; mount(2) refuses a longer source with EINVAL

_ITEM = re.compile(r"(?:\\[,\\]|[^,])+")
_ESCAPED = re.compile(r"\\([,\\])")
_CUT = ":..."  # in place of the layers for which a source text has no room


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
    return map(decode, split_encoded(text))


def split_encoded(text: str) -> Iterator[str]:
    """Yield the items of *text* between commas as they are written; skip empty items."""
    return (found[0] for found in _ITEM.finditer(text))


def decode(item: str) -> str:
    """Return *item* with ``\\,`` and ``\\\\`` decoded."""
    return _ESCAPED.sub(r"\1", item)


def escape(value: str) -> str:
    """Return *value* encoded for an option text: commas and backslashes get a backslash."""
    return value.replace("\\", "\\\\").replace(",", "\\,")


def format_source(base: str, storage: str, at: str | None = None) -> str:
    """Return the source text (fsname) that /proc/mounts shows for a mount; the arguments are those of ``Source``.

    Of a base of many layers it has as many as there is room for, and then ``...``.
    """
    shown = "" if at is None else f",at={escape(at)}"
    text = f"base={escape(base)},sto={escape(storage)}{shown}"
    layers = layers_of(base)
    while len(os.fsencode(text)) > SOURCE_LIMIT and len(layers) > 1:
        layers.pop()
        text = f"base={escape(join_layers(layers) + _CUT)},sto={escape(storage)}{shown}"
    return text


def is_cut(base: str) -> bool:
    """Return whether the base in a source text lacks some of its layers."""
    return base.endswith(_CUT)


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
