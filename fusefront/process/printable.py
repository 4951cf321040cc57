"""Text that is safe to print, to log and to export: names are any bytes, and a terminal obeys some of them."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return *text* as one line of valid UTF-8; control characters and bytes that are not UTF-8 become ``\\xNN``."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
