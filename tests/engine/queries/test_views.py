"""The views for SQL: what they hold, and that a statement reaches nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from minifo.engine import StateError
from minifo.engine.queries.views import VERSION, VIEWS, Views
from tests.shared.overlay_sandbox import OverlaySandbox

#: The columns of version 1: columns may be added at the end, nothing else may change without a new version.
COLUMNS = {
    "v_overlay": "key value",
    "v_changes": "change also path old_path directory ino",
    "v_objects": "ino type mode uid gid links size atime mtime ctime stored",
    "v_storage": "path bytes",
    "v_drift": "standing path base_path held became shows ino",
}

ENDLESS = "WITH RECURSIVE r(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"


@pytest.fixture
def views(sandbox: OverlaySandbox) -> Iterator[Views]:
    """The views of an overlay with a few changes."""
    for name in ("kept", "gone", "moved", "written"):
        sandbox.put(name)
    sandbox.unlink("gone")
    sandbox.rename("moved", "new-name")
    sandbox.write("written", b"else", 4)
    sandbox.create("new", b"12345")
    sandbox.create(os.fsdecode(b"\xff"))
    found = Views(sandbox.ov, 60)
    yield found
    found.close()


def answer(views: Views, statement: str) -> list[tuple[Any, ...]]:
    """All rows."""
    return list(views.run(statement)[1])


def test_columns(views: Views) -> None:
    """They are those of the version that the views say they have."""
    assert VERSION == 1
    assert list(VIEWS) == list(COLUMNS)
    for view, columns in COLUMNS.items():
        assert views.run(f"SELECT * FROM {view}")[0][: len(columns.split())] == columns.split()
    assert answer(views, "SELECT value FROM v_overlay WHERE key = 'views'") == [(VERSION,)]


def test_answers(views: Views, sandbox: OverlaySandbox) -> None:
    """They say what the verbs say; a name that is not UTF-8 is a BLOB."""
    rows = answer(views, "SELECT change, path, old_path FROM v_changes ORDER BY typeof(path), path")
    assert rows == [
        ("A", b"/\xff", None),
        ("D", "/gone", None),
        ("A", "/new", None),
        ("R", "/new-name", "/moved"),
        ("M", "/written", None),
    ]
    assert answer(views, "SELECT * FROM v_storage WHERE path = '/new'") == [("/new", 5)]
    ino = sandbox.ino("new")
    found = answer(views, f"SELECT type, mode, links, size, stored FROM v_objects WHERE ino = {ino}")
    assert found == [("file", 0o644, 1, 5, 5)]
    assert answer(views, "SELECT standing, count(*) FROM v_drift GROUP BY 1") == [("unchanged", 4)]
    counts = dict(answer(views, "SELECT key, value FROM v_overlay"))
    assert (counts["uuid"], counts["created"], counts["deleted"]) == (sandbox.ov.uuid, 2, 2)


def test_joins(views: Views) -> None:
    """Views are tables like others, by themselves or as a copy that is made once."""
    statement = (
        "WITH c AS MATERIALIZED (SELECT * FROM v_changes) SELECT c.path, o.size, json_object('n', o.stored)"
        " FROM c JOIN v_objects o USING (ino) WHERE c.path LIKE '/new' ORDER BY row_number() OVER ()"
    )
    assert answer(views, statement) == [("/new", 5, '{"n":5}')]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM created",
        "SELECT * FROM main.inode",
        "INSERT INTO v_changes VALUES (1, 2, 3, 4, 5, 6)",
        "DELETE FROM v_changes",
        "CREATE TABLE t (x)",
        "CREATE TEMP TABLE t (x)",
        "CREATE TEMP VIEW t AS SELECT 1",
        "CREATE VIRTUAL TABLE t USING fts5(x)",
        "DROP TABLE v_changes",
        "ALTER TABLE v_changes RENAME TO t",
        "ATTACH '{outside}' AS other",
        "VACUUM INTO '{outside}'",
        "PRAGMA database_list",
        "PRAGMA writable_schema = ON",
        "SELECT * FROM pragma_database_list",
        "SELECT * FROM pragma_function_list",
        "SELECT * FROM dbstat",
        "SELECT * FROM sqlite_dbpage",
        "SELECT load_extension('{outside}')",
        "SELECT zeroblob(100)",
        "SELECT randomblob(100)",
        "SELECT fts5_source_id()",
        "SELECT sqlite_compileoption_get(1)",
        "BEGIN",
        "SAVEPOINT s",
        "ANALYZE",
        "nonsense",
        "SELECT 1; ATTACH '{outside}' AS other",
        "SELECT '" + "x" * (1 << 20) + "'",
        "SELECT replace(printf('%1000000d', 1), ' ', 'xx')",
        " UNION ALL ".join(["SELECT 1"] * 60),
    ],
)
def test_refused(views: Views, tmp_path: Path, statement: str) -> None:
    """Everything but reading the views, and functions that only compute; nothing comes to be outside."""
    outside = tmp_path / "outside"
    with pytest.raises(StateError):
        answer(views, statement.replace("{outside}", str(outside)))
    assert not outside.exists()
    assert answer(views, "SELECT count(*) FROM v_changes") == [(5,)]


def test_endless_statement_ends(sandbox: OverlaySandbox) -> None:
    """When its time is up; the next one has its own."""
    views = Views(sandbox.ov, 0.05)
    for _ in range(2):
        with pytest.raises(StateError, match=r"longer than 0\.05 seconds"):
            answer(views, ENDLESS)
    assert answer(views, "SELECT 1") == [(1,)]
    views.close()


def test_every_allowed_function_exists(views: Views) -> None:
    """A misspelt one would be refused for ever; which SQLite knows, it says itself."""
    con = apsw.Connection(":memory:")
    known = {name for (name,) in con.execute("SELECT name FROM pragma_function_list")}
    con.close()
    from minifo.engine.queries.views import ALLOWED

    new = {"if", "percentile", "median", "concat", "concat_ws", "string_agg", "octet_length", "timediff", "unhex"}
    assert {name for name in ALLOWED if name not in known} <= new  # those of newer versions of SQLite
