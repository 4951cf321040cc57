"""The versions of a file in a rebase: the overlay's, the old base's from which it was made, and the new base's.

Only reads.  If the user does not have the old base, ancestors (tree/ancestors.py) take its place.
"""

from __future__ import annotations

import os
import stat

from ..model import Ino
from ..overlay import Overlay
from ..store.base_view import BaseView
from ..store.four_lists_statements import HAS_NAMES_IN
from ..tree.drift import sample
from ..tree.inode_rows import Row
from .drift_report import Entry, Held, bytes_missing, same_bytes


class Versions:
    """Looks up versions for the entries of a drift report.

    Args:
        overlay: open over the new base.
        old: the base over which the overlay was made; None if the user does not have it.
    """

    def __init__(self, overlay: Overlay, old: BaseView | None) -> None:
        self._ov = overlay
        self._db = overlay.db
        self.old = old

    def count(self) -> int:
        """Return an estimate of the number of entries of the drift report, for a progress bar."""
        return int(self._db.value("SELECT (SELECT count(*) FROM origin) + (SELECT count(*) FROM deleted)"))

    # -- the overlay's version

    def _row(self, entry: Entry) -> Row:
        row = self._ov.inodes.row(Ino(entry.ino))
        assert row is not None, entry
        return row

    def is_directory(self, entry: Entry) -> bool:
        """Return True if the overlay's object is a directory."""
        row = self._ov.inodes.row(Ino(entry.ino))
        return row is None or stat.S_ISDIR(row.mode)

    def is_file(self, entry: Entry) -> bool:
        """Return True if the overlay's object is a regular file."""
        return stat.S_ISREG(self._row(entry).mode)

    def size(self, entry: Entry) -> int:
        """Return the size of the overlay's object, in bytes."""
        return self._row(entry).size

    def missing(self, entry: Entry) -> int:
        """Return how many bytes the overlay's file still has from the version over which it was written."""
        return bytes_missing(self._db, self._row(entry))

    def has_names_in(self, entry: Entry) -> bool:
        """Return True if a directory has a name in ``created`` or ``renamed`` in it."""
        return self._db.value(HAS_NAMES_IN, (entry.ino,)) is not None

    def read(self, entry: Entry) -> bytes:
        """Return all bytes of the overlay's file, which must need none of the base (``missing`` is 0)."""
        return self._ov.content.read(self._row(entry), None, 0, self.size(entry))

    def ours(self, entry: Entry) -> bytes | None:
        """Return all bytes of the overlay's file, or None if some are in an old base that the user does not have."""
        row, content = self._row(entry), self._ov.content
        if not bytes_missing(self._db, row):
            return content.read(row, entry.base, 0, row.size)
        fd = self.below(entry)
        if fd is None:
            return None
        data = bytearray(os.pread(fd, min(row.bound or 0, row.size), 0).ljust(row.size, b"\0"))
        for extent in self._ov.stored.extents.of(row.ino, 0, row.size):
            # no base path is needed, as an extent covers all of the range
            data[extent.start : extent.end] = content.read(row, None, extent.start, extent.end - extent.start)
        return bytes(data)

    def is_copy(self, ino: Ino, path: bytes, st: os.stat_result) -> bool:
        """Return True if an object is a created file with the same bytes as a file of the new base.

        Args:
            ino: the object.
            path: the base file (base terms).
            st: the base file's attributes.
        """
        row = self._ov.inodes.row(ino)
        if row is None or not stat.S_ISREG(row.mode) or row.size != st.st_size:
            return False
        if not self._ov.inodes.numbers.is_created(ino):
            return False
        return same_bytes(self._ov.content, row, self._ov.base.file(path, st))

    # -- the old version

    def below(self, entry: Entry) -> int | None:
        """Return a descriptor of the version over which a file was partly written, or None if the old base lacks it.

        The descriptor is valid until the next call.
        """
        row = self._row(entry)
        digest = self._db.value("SELECT digest FROM modified WHERE ino = ?", (entry.ino,))
        return self._old_file(entry.base, row.seen_size, row.seen_mtime, digest)

    def ancestor(self, entry: Entry, limit: int) -> bytes | None:
        """Return the first *limit* bytes of the version from which the overlay's file was made, or None.

        They come from the old base, or from an ancestor that the mount has kept.
        """
        kept = self._ov.inodes.ancestors.of(entry.base)
        if entry.held is Held.REPLACED:
            data = self._in_old_base(entry.base, limit)
            return data if data is not None or kept is None else kept.data
        noted = self._db.row("SELECT base_size, base_mtime, digest FROM modified WHERE ino = ?", (entry.ino,))
        fd = self._old_file(entry.base, *noted) if noted is not None else None
        if fd is not None:
            return os.pread(fd, limit, 0)
        return kept.data if kept is not None and noted is not None and noted[:2] == kept[:2] else None

    def _in_old_base(self, path: bytes, limit: int) -> bytes | None:
        """Return the first *limit* bytes of the file that the old base has at *path*, or None."""
        st = self.old.find(path) if self.old is not None else None
        if self.old is None or st is None or not stat.S_ISREG(st.st_mode):
            return None
        return os.pread(self.old.file(path, st), limit, 0)

    def _old_file(self, path: bytes, size: int | None, mtime: int | None, digest: bytes | None = None) -> int | None:
        """Return a descriptor of the old base's file at *path* if it is the version looked for, else None.

        Args:
            path: the file (base terms).
            size, mtime: of the version, in bytes and ns.
            digest: of samples of the version (tree/drift.py); None if none was taken.
        """
        if self.old is None:
            return None
        st = self.old.find(path)
        if st is None or not stat.S_ISREG(st.st_mode) or (st.st_size, st.st_mtime_ns) != (size, mtime):
            return None
        fd = self.old.file(path, st)
        return fd if digest is None or sample(fd, st.st_size) == digest else None
