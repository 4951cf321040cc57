"""The authorizer refuses SQL that reaches beyond the database; a journal that names another file is refused."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import apsw
import pytest

from minifo.engine import ROOT, Overlay, Process
from minifo.engine.errors import Corrupt, FsError

_MAGIC = bytes.fromhex("d9d505f920a163d7")  # of a rollback journal, sqlite.org/fileformat2


def _make(top: Path) -> tuple[str, str]:
    base, storage = str(top / "base"), str(top / "sto")
    os.mkdir(base)
    os.mkdir(storage)
    overlay = Overlay.open(base, storage)
    overlay.mkdir(ROOT, b"made", 0o755, Process())
    overlay.close()
    return base, storage


@pytest.mark.parametrize(
    "sql",
    [
        "ATTACH '{top}/planted' AS other",
        "DETACH main",
        "PRAGMA temp_store_directory='{top}'",
        "PRAGMA writable_schema=ON",
        "PRAGMA journal_mode=DELETE",
        "CREATE TABLE planted (x)",
        "CREATE TEMP TABLE planted (x)",
        "CREATE VIEW planted AS SELECT 1",
        "CREATE TRIGGER planted AFTER INSERT ON created BEGIN SELECT 1; END",
        "DROP TABLE created",
        "DROP INDEX strange",
        "ALTER TABLE created RENAME TO other",
        "VACUUM INTO '{top}/planted'",
        "SELECT load_extension('{top}/planted')",
        "SELECT randomblob(1000000000)",
        "SELECT zeroblob(1000000000)",
        "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n",
        "CREATE VIRTUAL TABLE planted USING fts5(x)",
        "ANALYZE",
    ],
)
def test_a_connection_does_what_an_overlay_needs_and_no_more(tmp_path: Path, sql: str) -> None:
    """SQLite refuses each statement when it is prepared, in a writable and in a read-only overlay."""
    base, storage = _make(tmp_path)
    for read_only in (False, True):
        overlay = Overlay.open(base, storage, read_only=read_only)
        try:
            with pytest.raises(FsError):
                overlay.db.rows(sql.format(top=tmp_path))
            assert overlay.lookup(ROOT, b"made") is not None
        finally:
            overlay.close()
    assert sorted(os.listdir(tmp_path)) == ["base", "sto"]


def test_a_trigger_that_comes_later_writes_nothing(tmp_path: Path) -> None:
    """A trigger that another process adds while the database is open writes nothing."""
    base, storage = _make(tmp_path)
    overlay = Overlay.open(base, storage)
    try:
        other = apsw.Connection(os.path.join(storage, "minifo.db"))
        other.execute("CREATE TRIGGER planted AFTER INSERT ON created BEGIN DELETE FROM inode; END")
        other.close()
        with pytest.raises(FsError):
            overlay.mkdir(ROOT, b"another", 0o755, Process())
        assert overlay.lookup(ROOT, b"made") is not None
    finally:
        overlay.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_journal_that_names_another_file_is_refused(tmp_path: Path, read_only: bool) -> None:
    """A rollback journal that names another file is refused; SQLite 3.40 would delete that file."""
    base, storage = _make(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("precious\n")
    name = os.fsencode(victim)
    head = (_MAGIC + struct.pack(">IIIII", 0, 0, 16, 512, 4096)).ljust(512, b"\0")
    tail = struct.pack(">I", (1 << 30) // 4096 + 1) + name + struct.pack(">II", len(name), sum(name)) + _MAGIC
    Path(storage, "minifo.db-journal").write_bytes(head + tail)
    with pytest.raises(Corrupt, match="journal"):
        Overlay.open(base, storage, read_only=read_only)
    assert victim.read_text() == "precious\n"
    assert os.path.exists(os.path.join(storage, "minifo.db-journal"))
