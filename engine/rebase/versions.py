"""The versions of a file that a rebase deals with: ours, the one that ours was made from, and the base's new one.

Only reads.  An old base may be at hand or not; where it is not, the versions that were kept (tree/ancestors.py) serve.
"""

from __future__ import annotations

import os
import stat

from ..model import Ino
from ..overlay import Overlay
from ..store.base_view import BaseView
from ..tree.drift import sample
from ..tree.inode_rows import Row
from .drift_report import Entry, Held, bytes_missing, same_bytes

_HOLDS = "SELECT 1 FROM created WHERE parent = ?1 UNION ALL SELECT 1 FROM renamed WHERE parent = ?1 LIMIT 1"


class Versions:
    """Looks up versions for the entries of a drift report.

    Args:
        overlay: open over the new base.
        old: the base that the overlay was made over; None where it is not at hand.
    """

    def __init__(self, overlay: Overlay, old: BaseView | None) -> None:
        self._ov = overlay
        self._db = overlay.db
        self.old = old

    def count(self) -> int:
        """About how many entries the drift report will have, for those who show progress."""
        return int(self._db.value("SELECT (SELECT count(*) FROM origin) + (SELECT count(*) FROM deleted)"))

    # -- ours

    def _row(self, entry: Entry) -> Row:
        row = self._ov.inodes.row(Ino(entry.ino))
        assert row is not None, entry
        return row

    def is_directory(self, entry: Entry) -> bool:
        """True where ours is a directory."""
        row = self._ov.inodes.row(Ino(entry.ino))
        return row is None or stat.S_ISDIR(row.mode)

    def is_file(self, entry: Entry) -> bool:
        """True where ours is a regular file."""
        return stat.S_ISREG(self._row(entry).mode)

    def size(self, entry: Entry) -> int:
        """The size of ours, in bytes."""
        return self._row(entry).size

    def missing(self, entry: Entry) -> int:
        """How many bytes of ours are those of the version below it."""
        return bytes_missing(self._db, self._row(entry))

    def holds_names(self, entry: Entry) -> bool:
        """True where a directory holds a name that was made in the overlay."""
        return self._db.value(_HOLDS, (entry.ino,)) is not None

    def read(self, entry: Entry) -> bytes:
        """All bytes of a file of ours of which none is missing."""
        return self._ov.content.read(self._row(entry), None, 0, self.size(entry))

    def ours(self, entry: Entry) -> bytes | None:
        """All bytes of a file of ours, or None where some were those of an old base that is not at hand."""
        row, content = self._row(entry), self._ov.content
        if not bytes_missing(self._db, row):
            return content.read(row, entry.base, 0, row.size)
        fd = self.below(entry)
        if fd is None:
            return None
        found = bytearray(os.pread(fd, min(row.bound or 0, row.size), 0).ljust(row.size, b"\0"))
        for extent in self._ov.stored.extents.of(row.ino, 0, row.size):
            # of bytes that an extent covers nothing comes from the base
            found[extent.start : extent.end] = content.read(row, None, extent.start, extent.end - extent.start)
        return bytes(found)

    def is_copy(self, ino: Ino, path: bytes, st: os.stat_result) -> bool:
        """True for a file that was created, with the bytes that the new base has at a path.

        Args:
            ino: the file.
            path: the place in the base (base terms).
            st: attributes of what the base has there.
        """
        row = self._ov.inodes.row(ino)
        if row is None or not stat.S_ISREG(row.mode) or row.size != st.st_size:
            return False
        if not self._ov.inodes.numbers.is_created(ino):
            return False
        return same_bytes(self._ov.content, row, self._ov.base.file(path, st))

    # -- the old ones

    def below(self, entry: Entry) -> int | None:
        """The version that a file was written over in part: a descriptor, valid until the next call, or None."""
        row = self._row(entry)
        digest = self._db.value("SELECT digest FROM modified WHERE ino = ?", (entry.ino,))
        return self._old_file(entry.base, row.seen_size, row.seen_mtime, digest)

    def ancestor(self, entry: Entry, most: int) -> bytes | None:
        """The bytes of the version that a file was made from, up to *most* of them."""
        kept = self._ov.inodes.ancestors.of(entry.base)
        if entry.held is Held.REPLACED:
            found = self._replaced(entry.base, most)
            return found if found is not None or kept is None else kept.data
        known = self._db.row("SELECT base_size, base_mtime, digest FROM modified WHERE ino = ?", (entry.ino,))
        fd = self._old_file(entry.base, *known) if known is not None else None
        if fd is not None:
            return os.pread(fd, most, 0)
        return kept.data if kept is not None and known is not None and known[:2] == kept[:2] else None

    def _replaced(self, path: bytes, most: int) -> bytes | None:
        """The bytes of a file that was replaced: whatever the old base has there."""
        st = self.old.find(path) if self.old is not None else None
        if self.old is None or st is None or not stat.S_ISREG(st.st_mode):
            return None
        return os.pread(self.old.file(path, st), most, 0)

    def _old_file(self, path: bytes, size: int | None, mtime: int | None, digest: bytes | None = None) -> int | None:
        """A descriptor of a file that has that size and mtime (and samples) in the old base, or None."""
        if self.old is None:
            return None
        st = self.old.find(path)
        if st is None or not stat.S_ISREG(st.st_mode) or (st.st_size, st.st_mtime_ns) != (size, mtime):
            return None
        fd = self.old.file(path, st)
        return fd if digest is None or sample(fd, st.st_size) == digest else None
