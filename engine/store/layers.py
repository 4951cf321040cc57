"""The text that names a base: one directory, or several layers, the topmost first.

A text with ``:/`` in it is a list of layers between colons, as overlayfs has it: ``/upper:/middle:/lower``.  In it
``\\:`` stands for a colon, ``\\,`` for a comma and ``\\\\`` for a backslash.  Every other text is the path of one
directory as it stands, in which no character has a meaning.  So a base that is one directory looks as it always has.

It only handles text and looks whether directories are there; layered_view.py reads layers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

_ESCAPED = ("\\", ":", ",")


def split_layers(text: str) -> list[str]:
    """Return the paths of a list of layers, decoded; an empty path stands for nothing between two colons."""
    layers: list[str] = []
    path: list[str] = []
    position = 0
    while position < len(text):
        char = text[position]
        if char == "\\" and text[position + 1 : position + 2] in _ESCAPED:
            position += 1
            path.append(text[position])
        elif char == ":":
            layers.append("".join(path))
            path = []
        else:
            path.append(char)
        position += 1
    return [*layers, "".join(path)]


def join_layers(layers: Sequence[str]) -> str:
    """Return the text that names a base of *layers*, absolute paths, the topmost first."""
    if len(layers) == 1 and ":/" not in layers[0]:
        return layers[0]
    return ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in layers)


def layers_of(base: str) -> list[str]:
    """Return the paths of the directories that a base's text names, the topmost first."""
    return split_layers(base) if ":/" in base else [base]


def real_base(base: str) -> str:
    """Return the text of the same base with the true paths of its directories (realpath(3))."""
    return join_layers([os.path.realpath(layer) for layer in layers_of(base)])


def missing_layer(base: str) -> str | None:
    """Return the path of the first layer of a base that is not a directory; None if all are."""
    return next((layer for layer in layers_of(base) if not os.path.isdir(layer)), None)
