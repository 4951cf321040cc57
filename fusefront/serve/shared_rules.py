"""The constants that both Python's handlers and the C extension use; Python passes them to the extension at the start.

The extension answers some requests without Python (fusefront/extension/hook.c), and its answer must be the same as
Python's.  So if Python has a constant, the extension does not define it again.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

from ...engine.model import NAME_MAX, XATTR_ACLS, XATTR_SPACES

REQUESTS_PER_TURN: Final = 64  # requests served in a row before the event loop runs other tasks
SLOW_READ: Final = 0.005  # seconds; while a read of a base file takes longer, the base counts as slow
FOR_EVER: Final = 1e9  # seconds that the kernel may cache a reply: only this mount changes the tree


def pass_to(extension: ModuleType) -> None:
    """Pass the constants to the C extension; call this before a session is created."""
    extension.set_rules(REQUESTS_PER_TURN, round(SLOW_READ * 1e9), FOR_EVER, NAME_MAX, XATTR_SPACES, XATTR_ACLS)
