"""A base object has the base's bytes and attributes again: for a rebase that restores it, and for a revert."""

from __future__ import annotations

import os
import stat

from ..store.database import Database
from ..store.four_lists_statements import DROP_MODIFIED, DROP_XATTRS
from .inode_rows import Row
from .inodes import Inodes
from .stored_bytes import StoredBytes


def restore_base_values(
    db: Database, inodes: Inodes, stored: StoredBytes, row: Row, st: os.stat_result, *, ctime: int, is_needed: bool
) -> None:
    """Discard the bytes and attributes that the overlay holds of a base object.  Call it inside an operation.

    Args:
        db: the overlay's database.
        inodes: rows.
        stored: the bytes of files in storage.
        row: the object's row.
        st: what the base has of the object.
        ctime: the time of its last change, in ns, if the row stays.
        is_needed: True to keep a row, for the names that the overlay gives the object; else nothing of it stays.
    """
    is_file = stat.S_ISREG(row.mode)
    if is_file:
        stored.release(row)
    if not is_needed:
        inodes.discard(row.ino)
        return
    db.change(DROP_XATTRS, (row.ino,))
    db.change(DROP_MODIFIED, (row.ino,))
    attributes = (st.st_mode, row.nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size)
    times = (st.st_atime_ns, st.st_mtime_ns, ctime)
    seen = (st.st_nlink, st.st_size, st.st_mtime_ns)
    inodes.save(Row(row.ino, *attributes, *times, None, st.st_size if is_file else None, 0, 0, *seen))
