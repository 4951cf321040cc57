"""Rules that Python's handlers and the C extension must follow alike: said here, and told to the extension at start.

The extension answers some requests without Python (fusefront/extension/hook.c).  Whether it does must not change the
answer, so it keeps no constant of its own where Python has one too.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

from ...engine.model import NAME_MAX, XATTR_ACLS, XATTR_SPACES

REQUESTS_PER_TURN: Final = 64  # requests served in a row before the event loop gets a turn
SLOW_READ: Final = 0.005  # seconds for a read of a base file; other requests should not wait for a longer one
FOR_EVER: Final = 1e9  # seconds the kernel may keep what it was told: only this mount changes the tree


def tell(extension: ModuleType) -> None:
    """Tell the extension the rules; to be called before a session is made."""
    extension.set_rules(REQUESTS_PER_TURN, round(SLOW_READ * 1e9), FOR_EVER, NAME_MAX, XATTR_SPACES, XATTR_ACLS)
