"""Figures of an overlay: what its lists count, and the bytes it takes in storage."""

from __future__ import annotations

import os
import threading
from typing import Any

from ..free_space import RESERVE
from ..overlay import Overlay
from ..store.layers import join_layers
from .at_rest import recorded_base

_LISTS = ("created", "deleted", "modified", "renamed")
_CONTENT = (
    "SELECT coalesce((SELECT sum(length(data)) FROM small), 0)"
    " + coalesce((SELECT sum(min(size, coalesce(bound, size))) FROM inode WHERE object > 0), 0)"
    ' + coalesce((SELECT sum("end" - start) FROM extent WHERE object > 0), 0)'
)


class CommittedContent:
    """The bytes of content of an open overlay as of its last commit.

    To add them up takes a look at each row: some ten milliseconds for 100,000 objects.  So a daemon has it done in
    another thread, once for each commit at most.

    Args:
        overlay: the overlay.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._lock = threading.Lock()
        self._known: int | None = None
        self._commit = -1

    def known(self) -> int | None:
        """Return the bytes if they were measured since the last commit, else None."""
        return self._known if self._commit == self._overlay.commits.count else None

    def measure(self) -> int | None:
        """Measure the bytes unless they are known, in any thread; None where only the engine's own may (``content``).

        Raises:
            FsError: the database cannot be read.
        """
        with self._lock:
            known = self.known()
            if known is None:
                commit = self._overlay.commits.count  # first: a commit that comes meanwhile may be in the sum or not
                self._known = known = self._overlay.db.committed_value(_CONTENT)
                self._commit = commit
        return known


def content(overlay: Overlay) -> int:
    """Return the bytes of content: what files show of it.

    Holes of content objects are counted, blocks that no file shows any more are not.
    """
    return int(overlay.db.value(_CONTENT))


def identity(overlay: Overlay) -> dict[str, Any]:
    """Return which overlay it is, and whether it takes changes."""
    return {
        "pid": os.getpid(),
        "uuid": overlay.uuid,
        "base": recorded_base(overlay.db),
        # even where a mount covers it
        "base_directory": join_layers([f"/proc/{os.getpid()}/fd/{fd}" for fd in overlay.base.descriptors]),
        "storage": os.fspath(overlay.storage.path),
        "read_only": overlay.db.read_only or overlay.commits.failure is not None,
    }


def figures(overlay: Overlay, content: int) -> dict[str, Any]:
    """Return what every state of an overlay has, mounted or not.  It takes no time that grows with the overlay.

    Args:
        overlay: the open overlay.
        content: its bytes of content.
    """
    storage = overlay.storage
    space = overlay.space
    return identity(overlay) | {
        "failure": None if overlay.commits.failure is None else str(overlay.commits.failure),
        "lists": {name: overlay.db.value(f"SELECT count(*) FROM {name}") for name in _LISTS},
        "usage": {
            "content": content,
            "database": storage.database_bytes() - storage.log_bytes(),
            "log": storage.log_bytes(),
            "reserve": storage.stat(RESERVE).st_size if storage.exists(RESERVE) else 0,
            "limit": space.max_size,
            "free": space.free(),
        },
        "pending": overlay.commits.is_needed,
        "trial": overlay.trial.state()._asdict(),
        "names": len(overlay.inodes),
        "orphans": overlay.db.value("SELECT count(*) FROM orphan"),
    }


def counters(overlay: Overlay) -> dict[str, int]:
    """Return what an open overlay counted since it was opened, and what it takes now: each figure at once, no scan."""
    storage, space = overlay.storage, overlay.space
    return {
        "operations": overlay.operations,
        "row_changes": overlay.db.row_changes(),
        "content_written": overlay.objects.written,
        "names": len(overlay.inodes),
        "database": storage.database_bytes() - storage.log_bytes(),
        "log": storage.log_bytes(),
        "redo": overlay.durability.redo_size,
        "free": space.free(),
        "failed": int(overlay.commits.failure is not None),
        "pending": int(overlay.commits.is_needed),
    }
