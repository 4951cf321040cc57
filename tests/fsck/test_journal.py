"""The journal and minifo-fsck: a rebuild keeps the entries that it can read, and drops what is none."""

from __future__ import annotations

import apsw
import pytest

from tests.fsck.sample_storage import SampleStorage, wrong

_GOOD = [
    (3, 5, "create", b"/a", None, 0, 7, b"sh"),
    (4, 6, "rename", b"/b\n\x1b", b"/a", None, None, None),
    (5, 7, "write", b"end/of/a/path", None, 1000, None, b""),
]
_VALUES = {
    "a path as text": "4, 5, 'create', '/a', NULL, 0, 7, NULL",
    "a time as text": "4, 'now', 'create', x'2f', NULL, 0, 7, NULL",
    "a number as operation": "4, 5, 6, x'2f', NULL, 0, 7, NULL",
    "no path": "4, 5, 'create', NULL, NULL, 0, 7, NULL",
    "a fraction as uid": "4, 5, 'create', x'2f', NULL, 0.5, 7, NULL",
}


def entries(sample: SampleStorage) -> list[tuple[object, ...]]:
    """All rows of the journal."""
    con = apsw.Connection(sample.database)
    try:
        return con.execute("SELECT * FROM journal").fetchall()
    finally:
        con.close()


def put(sample: SampleStorage, rows: list[tuple[object, ...]]) -> None:
    """Add entries."""
    con = apsw.Connection(sample.database)
    con.executemany("INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)  # type: ignore[arg-type]
    con.close()


def test_a_rebuild_keeps_entries(sample: SampleStorage) -> None:
    """Those of a damaged database are read like all its rows."""
    put(sample, list(_GOOD))
    sample.sql("UPDATE overlay SET value = CAST(x'ff30' AS TEXT) WHERE key = 'uuid'")
    assert set(wrong(sample.examine())) == {"E102"}
    left, rebuilt = sample.repair()
    assert (wrong(left), rebuilt is None) == ([], False)
    assert entries(sample) == _GOOD
    assert sample.look() == sample.healthy


@pytest.mark.parametrize("values", _VALUES.values(), ids=_VALUES.keys())
def test_values_of_wrong_types(sample: SampleStorage, values: str) -> None:
    """SQLite does not check types when it reads: a mount works, the entry is left out, and a repair drops it."""
    put(sample, [_GOOD[0], _GOOD[2]])
    con = apsw.Connection(sample.database)
    con.execute("PRAGMA writable_schema = ON")
    sql = con.execute("SELECT sql FROM sqlite_schema WHERE name = 'journal'").fetchall()[0][0]
    change = "UPDATE sqlite_schema SET sql = ? WHERE name = 'journal'"
    con.execute(change, (str(sql).replace(" STRICT", "").replace(" NOT NULL", "         "),))
    con.close()
    sample.sql(f"INSERT INTO journal VALUES ({values})")
    con = apsw.Connection(sample.database)
    con.execute("PRAGMA writable_schema = ON")
    con.execute(change, (sql,))
    con.close()
    overlay = sample.open()
    found = overlay.journal.read(*overlay.journal.bounds())
    overlay.close()
    assert ([entry.id for entry in found.entries], found.impossible) == ([3, 5], 1)
    assert set(wrong(sample.examine())) <= {"E102", "E211"}
    left, _ = sample.repair()
    assert wrong(left) == []
    assert entries(sample) == [_GOOD[0], _GOOD[2]]
    assert sample.look() == sample.healthy
