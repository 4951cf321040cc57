"""Schema versions: bringing a storage database up to the version the engine opens.

A step is a file ``NNNN_what.sql`` in this package; it takes a database of version N-1 to version N.  Each step runs in
one transaction together with its record, which is the database's ``user_version``: after a crash it was either made or
not, and the next run goes on from there.  Before the first step a copy of the database is kept beside it.

A step's SQL holds no BEGIN or COMMIT.  What a newer minifo has written is refused, never touched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

import apsw

from ...engine.errors import Corrupt, NewerFormat, NotMinifo, StateError
from ...engine.store.database import DB_NAME
from ...engine.store.database_file import APPLICATION_ID, SCHEMA_VERSION, connect, schema_of, strange_objects
from ..effects import DOORS, Doors

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_STEP_FILE = re.compile(r"(\d{4})_\w+\.sql")


class Upgrade(NamedTuple):
    """What an upgrade did or would do: the versions before and after, and the copy that was kept."""

    before: int
    after: int
    backup: str | None


def shipped_steps() -> dict[int, str]:
    """The steps of this package: their SQL by the version they lead to."""
    found = {}
    for file in resources.files("minifo.migrations.schema").iterdir():
        match = _STEP_FILE.fullmatch(file.name)
        if match is not None:
            found[int(match[1])] = file.read_text("utf-8")
    return found


def upgrade(
    storage: str,
    *,
    steps: Mapping[int, str] | None = None,
    target: int = SCHEMA_VERSION,
    dry_run: bool = False,
    doors: Doors = DOORS,
) -> Upgrade:
    """Bring a storage's database to a version.

    Args:
        storage: the storage directory, not mounted.
        steps: SQL by the version it leads to; None for the shipped ones.
        target: the version to reach.
        dry_run: say what would be done only.
        doors: the ways to the disk.

    Raises:
        NotMinifo, NewerFormat, Corrupt: the database is not one that can be upgraded; it was not touched.
        StorageBusy: it is mounted.
        StateError: a step is missing, or failed and was rolled back.
    """
    steps = shipped_steps() if steps is None else steps
    store = doors.storage(storage)
    try:
        if not store.is_formatted:
            raise NotMinifo(f"storage {storage} holds no overlay", "check the path")
        store.lock(exclusive=True)
        return _upgrade(doors, store.database, steps, target, dry_run)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Corrupt(f"{store.database} is damaged ({error})", f"run: minifo-fsck {storage}") from error
    except apsw.Error as error:
        raise StateError(
            f"{store.database} cannot be read or written ({error})", f"run: minifo-fsck {storage}"
        ) from error
    finally:
        store.close()


def _upgrade(doors: Doors, path: str, steps: Mapping[int, str], target: int, dry_run: bool) -> Upgrade:
    con = connect(path, read_only=dry_run, vfs=doors.vfs)
    try:
        if not dry_run:
            con.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()  # where storage cannot share memory, too
        before = _version(con, path)
        if before > target:
            raise NewerFormat(f"{path} has format {before}, this minifo knows up to {target}", "install a newer minifo")
        missing = [number for number in range(before + 1, target + 1) if number not in steps]
        if missing:
            raise StateError(f"no step leads {path} to format {missing[0]}", "install a minifo between the two")
        _check_plain(con, path)
        if dry_run or before == target:
            return Upgrade(before, target, None)
        backup = _keep(doors, con, path, before)
        con.execute("PRAGMA synchronous=FULL").fetchall()
        for number in range(before + 1, target + 1):
            _take(con, path, number, steps[number])
        return Upgrade(before, target, backup)
    finally:
        con.close()


def _version(con: apsw.Connection, path: str) -> int:
    if con.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise NotMinifo(f"{path} is not a minifo database", "check the path")
    (version,) = con.execute("PRAGMA user_version").fetchone() or (0,)
    return int(version)


def _check_plain(con: apsw.Connection, path: str) -> None:
    """Refuse a database with anything in it that would run, or whose name would, when a step is made.

    Earlier formats had tables and indexes only, as this one has.
    """
    for kind, name, _, sql in schema_of(con):
        virtual = (sql or "").upper().startswith("CREATE VIRTUAL")
        if kind not in ("table", "index") or virtual or not _PLAIN_NAME.fullmatch(name):
            raise Corrupt(f"{path} is damaged (its {kind} {name!r:.100} is not ours)", "it cannot be upgraded")


def _keep(doors: Doors, con: apsw.Connection, path: str, version: int) -> str:
    """Keep a copy of the database, whole and durable, under the name of its version."""
    backup = f"{path}.bak-v{version}"
    fresh = f"{backup}.new"
    if os.path.exists(fresh):
        doors.effects.unlink(fresh)
    con.execute("VACUUM INTO ?", (fresh,)).fetchall()
    doors.effects.sync(fresh)
    doors.effects.rename(fresh, backup)
    doors.effects.sync(os.path.dirname(path))
    return backup


def _take(con: apsw.Connection, path: str, number: int, sql: str) -> None:
    con.execute("BEGIN IMMEDIATE")
    try:
        con.execute(sql).fetchall()
        if not con.in_transaction:
            raise StateError(f"step {number} ended its own transaction", "this is an error in minifo, please report it")
        con.execute(f"PRAGMA user_version={number}")
        if number == SCHEMA_VERSION and (strange := strange_objects(con)):
            raise Corrupt(
                f"{path} is damaged: step {number} does not lead to our tables ({', '.join(strange)!r:.200})",
                "it was rolled back, and cannot be upgraded",
            )
        con.execute("COMMIT")
    except apsw.Error as error:
        if con.in_transaction:
            con.execute("ROLLBACK")
        raise StateError(
            f"step {number} failed on {path} and was rolled back ({error})",
            f"a copy from before is beside it: {DB_NAME}.bak-v*",
        ) from error
