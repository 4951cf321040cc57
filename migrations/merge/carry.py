"""What a merge keeps of an overlay: the journal of changes, in the database of the empty overlay that follows.

The new database is made beside the old one and takes its place and its name, ``merge.db``, at once.  So a merge that
was cut short anywhere has one database, which it goes on with: an empty one is the new one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator

import apsw

from ...engine.errors import Corrupt
from ...engine.mount_checks import first_facts, open_base
from ...engine.store.database_file import connect, format_database, strange_objects
from ...engine.store.storage import MERGING, MERGING_NEW
from ...engine.tree.journal_entries import COLUMNS, IDS_END, this_process
from ..effects import DiskAccess

log = logging.getLogger(__name__)

_HOLDS_SOMETHING = (
    "SELECT 1 FROM created UNION ALL SELECT 1 FROM deleted UNION ALL SELECT 1 FROM renamed"
    " UNION ALL SELECT 1 FROM modified LIMIT 1"
)


def carry_journal(disk: DiskAccess, storage: str, base: str) -> bool:
    """Replace the database of a merged overlay by that of an empty one with the same journal, and an entry ``merge``.

    A journal that cannot be read is lost, which is logged: the merge itself does not depend on it.

    Args:
        disk: reads and writes the disk.
        storage: the storage directory.
        base: the base, with the changes in it.

    Returns:
        Whether there is one with a journal now; else the old database is as it was.
    """
    old, new = os.path.join(storage, MERGING), os.path.join(storage, MERGING_NEW)
    con: apsw.Connection | None = None
    try:
        con = connect(old, read_only=True, immutable=True, vfs=disk.vfs)
        if strange_objects(con):
            raise Corrupt(f"{old} is damaged", "")
        (last,) = con.execute("SELECT max(id) FROM journal").fetchone() or (None,)
        if last is None:
            return False
        if con.execute(_HOLDS_SOMETHING).fetchone() is not None:
            _make(disk, new, base, _entries(con, last))
            disk.effects.rename(new, old)
            disk.effects.sync(storage)
        return True
    except (apsw.Error, Corrupt, UnicodeDecodeError) as error:
        log.warning("the journal of changes in %s does not go on: %s", storage, error)
        return False
    finally:
        if con is not None:
            con.close()


def _entries(con: apsw.Connection, last: int) -> Iterator[tuple[object, ...]]:
    yield from con.execute(f"SELECT {COLUMNS} FROM journal ORDER BY id")
    yield min(last + 1, IDS_END), time.time_ns(), "merge", b"/", None, *this_process()


def _make(disk: DiskAccess, path: str, base: str, entries: Iterator[tuple[object, ...]]) -> None:
    if os.path.exists(path):
        disk.effects.unlink(path)
    os.close(disk.effects.create(path))  # SQLite would make it readable for others
    view = open_base(base, True)
    try:
        format_database(path, first_facts(view), disk.vfs, entries)
    finally:
        view.close()
