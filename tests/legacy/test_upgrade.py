"""A storage of format 1, as an earlier minifo wrote it, is mounted by this one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from formats import write_as_format_1
from lab import Lab

from minifo.engine.errors import OlderFormat
from minifo.engine.store.database_file import SCHEMA_VERSION, schema
from minifo.tools import cli

BIG = b"x" * 200_000


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """An empty base and an empty storage."""
    found = Lab(tmp_path)
    yield found
    found.close()


def fill(lab: Lab) -> None:
    """Changes of every kind."""
    for name in ("d/part", "d/whole", "d/moved", "d/mode", "d/gone", "cut"):
        lab.put(name, BIG)
    lab.write("d/part", b"ours", 4096)
    lab.set("d/whole", size=0)
    lab.write("d/whole", b"ours")
    lab.rename("d/moved", "moved")
    lab.set("d/mode", mode=0o600)
    lab.unlink("d/gone")
    lab.set("cut", size=1000)
    lab.create("d/new", b"new")


def look(lab: Lab) -> dict[str, object]:
    """What shows."""
    names = [*lab.names(), *(f"d/{name}" for name in lab.names("d"))]
    return {name: (lab.attr(name)[1:], lab.read(name)) for name in names if name != "d"}


def test_format_1_is_upgraded(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything shows as before, and changes go on; a copy from before is kept."""
    fill(lab)
    seen = look(lab)
    lab.close()
    write_as_format_1(lab.sto)
    with pytest.raises(OlderFormat, match="has format 1") as raised:
        lab.open()
    assert f"minifo upgrade {lab.sto}" in raised.value.hint
    assert cli.main(["upgrade", str(lab.sto), "--dry-run"]) == 0
    assert "would be upgraded from format 1" in capsys.readouterr().out
    assert cli.main(["upgrade", str(lab.sto), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["before"], said["after"]) == (1, SCHEMA_VERSION)
    assert Path(said["backup"]).exists()
    assert cli.main(["upgrade", str(lab.sto)]) == 0
    assert "already" in capsys.readouterr().out
    assert look(lab) == seen
    assert lab.ov.check() == []
    lab.write("d/part", b"more", 100_000)
    lab.set("d/mode", uid=3)
    lab.reopen()
    assert lab.read("d/part")[100_000:100_004] == b"more"
    assert lab.attr("d/mode").uid == 3
    lab.close()
    assert cli.main(["fsck", "-n", "--base", str(lab.base), str(lab.sto)]) == 0


def test_upgraded_tables_are_those_of_the_schema(lab: Lab) -> None:
    """To the letter, so that nobody need know how a storage began."""
    fill(lab)
    lab.close()
    write_as_format_1(lab.sto)
    assert cli.main(["upgrade", str(lab.sto)]) == 0
    sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY 1"
    upgraded = apsw.Connection(str(lab.sto / "minifo.db")).execute(sql).fetchall()
    con = apsw.Connection(":memory:")
    con.execute(schema())
    assert upgraded == con.execute(sql).fetchall()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER planted AFTER UPDATE ON inode BEGIN DELETE FROM created; END",
        "CREATE VIEW planted AS SELECT 1",
        'CREATE TABLE "x""; DROP TABLE created; --" (y)',
        "CREATE TABLE planted (y)",
        "DROP TABLE garbage",
    ],
)
def test_a_foreign_schema_is_not_upgraded(lab: Lab, capsys: pytest.CaptureFixture[str], sql: str) -> None:
    """A step is SQL: what others have put beside our tables would run with it, or stay."""
    fill(lab)
    lab.close()
    write_as_format_1(lab.sto)
    database = Path(lab.sto) / "minifo.db"
    con = apsw.Connection(str(database))
    con.execute(sql)
    con.close()
    assert cli.main(["upgrade", str(lab.sto)]) == 2
    assert "is damaged" in capsys.readouterr().err
    con = apsw.Connection(str(database))
    assert con.execute("PRAGMA user_version").fetchone() == (1,)
    con.close()
