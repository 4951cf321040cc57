"""Storages as earlier versions of minifo wrote them."""

from __future__ import annotations

from pathlib import Path

import apsw

from minifo.engine.store.database_file import APPLICATION_ID

_SCHEMA_1 = Path(__file__).with_name("schema_1.sql")


def write_as_format_1(storage: Path) -> None:
    """Put the rows of a storage, which nobody holds, into a database of format 1."""
    new = storage / "minifo.db"
    old = new.rename(storage.with_name("later.db"))
    con = apsw.Connection(str(new))
    con.execute(_SCHEMA_1.read_text())
    con.execute(f"PRAGMA application_id={APPLICATION_ID}")
    con.execute("PRAGMA user_version=1")
    con.execute("ATTACH ? AS later", (str(old),))
    for (table,) in con.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'").fetchall():
        columns = ", ".join(f'"{row[1]}"' for row in con.execute(f"PRAGMA main.table_info({table})"))
        con.execute(f"INSERT INTO main.{table} SELECT {columns} FROM later.{table}")
    con.close()
