"""Storages as earlier versions of minifo wrote them."""

from __future__ import annotations

from pathlib import Path

import apsw

from minifo.engine.store.database_file import APPLICATION_ID


def write_as_format(storage: Path, number: int) -> None:
    """Put the rows of a storage, which nobody holds, into a database of an earlier format."""
    new = storage / "minifo.db"
    old = new.rename(storage.with_name("later.db"))
    con = apsw.Connection(str(new))
    con.execute(Path(__file__).with_name(f"schema_{number}.sql").read_text())
    con.execute(f"PRAGMA application_id={APPLICATION_ID}")
    con.execute(f"PRAGMA user_version={number}")
    con.execute("ATTACH ? AS later", (str(old),))
    for (table,) in con.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'").fetchall():
        columns = ", ".join(f'"{row[1]}"' for row in con.execute(f"PRAGMA main.table_info({table})"))
        con.execute(f"INSERT INTO main.{table} SELECT {columns} FROM later.{table}")
    con.close()
