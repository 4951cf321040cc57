"""A storage of an earlier format, as an earlier minifo wrote it, is mounted by this one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from minifo.engine.errors import OlderFormat
from minifo.engine.store.database_file import SCHEMA_VERSION, schema
from minifo.tools import cli
from tests.shared.old_formats import write_as_format
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = b"x" * 200_000


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """An empty base and an empty storage."""
    found = OverlaySandbox(tmp_path)
    yield found
    found.close()


def fill(sandbox: OverlaySandbox) -> None:
    """Changes of every kind."""
    for name in ("d/part", "d/whole", "d/moved", "d/mode", "d/gone", "cut"):
        sandbox.put(name, BIG)
    sandbox.write("d/part", b"ours", 4096)
    sandbox.set("d/whole", size=0)
    sandbox.write("d/whole", b"ours")
    sandbox.rename("d/moved", "moved")
    sandbox.set("d/mode", mode=0o600)
    sandbox.unlink("d/gone")
    sandbox.set("cut", size=1000)
    sandbox.create("d/new", b"new")


def look(sandbox: OverlaySandbox) -> dict[str, object]:
    """What shows."""
    names = [*sandbox.names(), *(f"d/{name}" for name in sandbox.names("d"))]
    return {name: (sandbox.attr(name)[1:], sandbox.read(name)) for name in names if name != "d"}


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_earlier_formats_are_upgraded(sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str], number: int) -> None:
    """Everything shows as before, and changes go on; a copy from before is kept."""
    fill(sandbox)
    seen = look(sandbox)
    sandbox.close()
    write_as_format(sandbox.sto, number)
    with pytest.raises(OlderFormat, match=f"has format {number}") as raised:
        sandbox.open()
    assert f"minifo upgrade {sandbox.sto}" in raised.value.hint
    assert cli.main(["upgrade", str(sandbox.sto), "--dry-run"]) == 0
    assert f"would be upgraded from format {number}" in capsys.readouterr().out
    assert cli.main(["upgrade", str(sandbox.sto), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["before"], said["after"]) == (number, SCHEMA_VERSION)
    assert Path(said["backup"]).stat().st_mode & 0o777 == 0o600  # it holds what only the owner may read
    assert cli.main(["upgrade", str(sandbox.sto)]) == 0
    assert "already" in capsys.readouterr().out
    assert look(sandbox) == seen
    assert sandbox.ov.check() == []
    sandbox.write("d/part", b"more", 100_000)
    sandbox.set("d/mode", uid=3)
    sandbox.reopen()
    assert sandbox.read("d/part")[100_000:100_004] == b"more"
    assert sandbox.attr("d/mode").uid == 3
    sandbox.close()
    assert cli.main(["fsck", "-n", "--base", str(sandbox.base), str(sandbox.sto)]) == 0


@pytest.mark.parametrize("number", range(1, SCHEMA_VERSION))
def test_upgraded_tables_are_those_of_the_schema(sandbox: OverlaySandbox, number: int) -> None:
    """To the letter, so that nobody need know how a storage began."""
    fill(sandbox)
    sandbox.close()
    write_as_format(sandbox.sto, number)
    assert cli.main(["upgrade", str(sandbox.sto)]) == 0
    sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' ORDER BY 1"
    upgraded = apsw.Connection(str(sandbox.sto / "minifo.db")).execute(sql).fetchall()
    con = apsw.Connection(":memory:")
    con.execute(schema())
    assert upgraded == con.execute(sql).fetchall()


@pytest.mark.parametrize(
    ("sql", "reached"),
    [
        ("CREATE TRIGGER planted AFTER UPDATE ON inode BEGIN DELETE FROM created; END", 1),
        ("CREATE VIEW planted AS SELECT 1", 1),
        ('CREATE TABLE "x""; DROP TABLE created; --" (y)', 1),
        ("CREATE TABLE planted (y)", SCHEMA_VERSION - 1),
        ("DROP TABLE garbage", SCHEMA_VERSION - 1),
    ],
)
def test_a_foreign_schema_is_not_upgraded(
    sandbox: OverlaySandbox, capsys: pytest.CaptureFixture[str], sql: str, reached: int
) -> None:
    """A step is SQL: what others have put beside our tables would run with it, or stay.

    What cannot run is seen at the last step, which is undone.
    """
    fill(sandbox)
    sandbox.close()
    write_as_format(sandbox.sto, 1)
    database = Path(sandbox.sto) / "minifo.db"
    con = apsw.Connection(str(database))
    con.execute(sql)
    con.close()
    assert cli.main(["upgrade", str(sandbox.sto)]) == 2
    assert "is damaged" in capsys.readouterr().err
    con = apsw.Connection(str(database))
    assert con.execute("PRAGMA user_version").fetchone() == (reached,)
    con.close()
