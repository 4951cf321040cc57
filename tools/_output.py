"""Names in the output of verbs that list: safe to look at, exact for scripts.

Names are bytes.  A terminal gets printable text; ``-z`` gets the bytes themselves; JSON gets text, and beside it
``path_b64`` where the text cannot say all of it.
"""

from __future__ import annotations

import base64

from ._common import printable


def plain(path: bytes) -> str:
    """Return a name as one line of printable text: control characters and bytes that are not UTF-8 as ``\\xNN``."""
    text = path.decode("utf-8", "surrogateescape")
    return text if text.isprintable() else printable(text)  # most are


def json_name(key: str, path: bytes) -> dict[str, str]:
    """Return the members of a JSON object that say a name.

    Args:
        key: the name of the member, for example ``path``.
        path: the bytes.

    Returns:
        The text under *key*; where the bytes are not UTF-8 also ``KEY_b64``, the bytes in base64 (RFC 4648).
    """
    try:
        return {key: path.decode()}
    except UnicodeDecodeError:
        return {key: path.decode("utf-8", "replace"), key + "_b64": base64.b64encode(path).decode()}
