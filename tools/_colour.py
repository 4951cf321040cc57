"""Colours of what is printed: on a terminal that has them, and not where NO_COLOR is set (no-color.org)."""

from __future__ import annotations

import os
import sys

#: SGR sequences (ECMA-48, 8.3.117) by what they are for; the terminal's own colours, which fit its background.
STYLES = {
    "head": "\x1b[1;36m",
    "bold": "\x1b[1m",
    "dim": "\x1b[2m",
    "bad": "\x1b[1;31m",
    "added": "\x1b[32m",
    "deleted": "\x1b[31m",
    "modified": "\x1b[33m",
    "renamed": "\x1b[35m",
    "type": "\x1b[36m",
    "": "",
}
PLAIN = "\x1b[0m"
_LINES = {"@": "type", "+": "added", "-": "deleted"}  # of a patch, by what they begin with


def is_terminal() -> bool:
    """Return whether standard output is a terminal that knows escape sequences."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "")


def are_refused() -> bool:
    """Return whether the user wants no colours."""
    return bool(os.environ.get("NO_COLOR"))


def are_wanted() -> bool:
    """Return whether what is printed gets colours."""
    return is_terminal() and not are_refused()


def painted(style: str, text: str) -> str:
    """Return a text in a style of ``STYLES``."""
    return f"{STYLES[style]}{text}{PLAIN}" if STYLES[style] else text


def shown_patch(patch: bytes, *, coloured: bool) -> bytes:
    """Return the patch of one file for a terminal, without characters that control it.

    Args:
        patch: its lines, those that say which file it is before the first that begins with ``@@``.
        coloured: whether to add colours.
    """
    found = []
    in_header = True
    for line in patch.split(b"\n"):
        text = line.decode("utf-8", "surrogateescape")
        text = "".join(char if char.isprintable() or char == "\t" else _escaped(char) for char in text)
        in_header = in_header and not text.startswith("@@")
        style = "bold" if in_header else _LINES.get(text[:1], "")
        found.append(painted(style, text) if text and coloured else text)
    return "\n".join(found).encode()


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else char.encode("unicode_escape").decode()
