"""The upgrade of a storage database to the version that the engine opens.

A step is a file ``NNNN_what.sql`` in this package: it converts a database of version N-1 to version N.  Each step runs
in one transaction that also sets the database's ``user_version`` to N.  So after a crash the step is either done or
not, and the next run continues with the first step that is not.  Before the first step the database is copied to a file
beside it.

The SQL of a step contains no BEGIN or COMMIT.  A database that a newer minifo has written is refused and not changed.
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
from ..effects import DISK_ACCESS, DiskAccess

_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_STEP_FILE = re.compile(r"(\d{4})_\w+\.sql")


class Upgrade(NamedTuple):
    """The result of an upgrade: the versions before and after it, and the path of the copy (None if none was made)."""

    before: int
    after: int
    backup: str | None


def shipped_steps() -> dict[int, str]:
    """Return the SQL of each step in this package, by the version that the step leads to."""
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
    disk: DiskAccess = DISK_ACCESS,
) -> Upgrade:
    """Upgrade the database of a storage to the version *target*.

    Args:
        storage: the storage directory; it must not be mounted.
        steps: the SQL of each step by the version that it leads to; None for the steps of this package.
        target: the version to reach.
        dry_run: True to return what would be done and change nothing.
        disk: reads and writes the disk (see ``DiskAccess``).

    Raises:
        NotMinifo: the storage holds no database of minifo.
        NewerFormat: a newer minifo has written it.
        Corrupt: the database is damaged; it was not changed.
        StorageBusy: the storage is mounted.
        StateError: a step is missing, or failed and was rolled back.
    """
    steps = shipped_steps() if steps is None else steps
    store = disk.storage(storage)
    try:
        if not store.is_formatted:
            raise NotMinifo(f"storage {storage} holds no overlay", "check the path")
        store.lock(exclusive=True)
        return _upgrade(disk, store.database, steps, target, dry_run)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Corrupt(f"{store.database} is damaged ({error})", f"run: minifo-fsck {storage}") from error
    except apsw.Error as error:
        raise StateError(
            f"{store.database} cannot be read or written ({error})", f"run: minifo-fsck {storage}"
        ) from error
    finally:
        store.close()


def _upgrade(disk: DiskAccess, path: str, steps: Mapping[int, str], target: int, dry_run: bool) -> Upgrade:
    con = connect(path, read_only=dry_run, vfs=disk.vfs)
    try:
        if not dry_run:
            # exclusive locking works also in a file system without shared memory maps
            con.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
        before = _version(con, path)
        if before > target:
            raise NewerFormat(f"{path} has format {before}, this minifo knows up to {target}", "install a newer minifo")
        missing = [number for number in range(before + 1, target + 1) if number not in steps]
        if missing:
            raise StateError(
                f"this minifo cannot upgrade {path} from format {missing[0] - 1} to {missing[0]}",
                "upgrade it with an earlier version of minifo first",
            )
        _check_plain(con, path)
        if dry_run or before == target:
            return Upgrade(before, target, None)
        backup = _copy_database(disk, con, path, before)
        con.execute("PRAGMA synchronous=FULL").fetchall()
        for number in range(before + 1, target + 1):
            _run_step(con, path, number, steps[number])
        return Upgrade(before, target, backup)
    finally:
        con.close()


def _version(con: apsw.Connection, path: str) -> int:
    if con.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
        raise NotMinifo(f"{path} is not a minifo database", "check the path")
    (version,) = con.execute("PRAGMA user_version").fetchone() or (0,)
    return int(version)


def _check_plain(con: apsw.Connection, path: str) -> None:
    """Refuse a database with triggers, views or other code, or with names that are SQL: a step would run them.

    All formats of minifo have tables and indexes only.

    Raises:
        Corrupt: the database has such an object.
    """
    for kind, name, _, sql in schema_of(con):
        virtual = (sql or "").upper().startswith("CREATE VIRTUAL")
        if kind not in ("table", "index") or virtual or not _PLAIN_NAME.fullmatch(name):
            raise Corrupt(
                f"{path} is damaged (its {kind} {name!r:.100} is not one of minifo's)", "it cannot be upgraded"
            )


def _copy_database(disk: DiskAccess, con: apsw.Connection, path: str, version: int) -> str:
    """Make a complete and durable copy of the database beside it, and return the copy's path.

    Only the owner can read the copy, like the database itself.
    """
    backup = f"{path}.bak-v{version}"
    temporary = f"{backup}.new"
    if os.path.lexists(temporary):
        disk.effects.unlink(temporary)
    # made here: SQLite would make the file that a symlink names, and one that everybody may read
    os.close(disk.effects.create(temporary))
    con.execute("VACUUM INTO ?", (temporary,)).fetchall()
    disk.effects.sync(temporary)
    disk.effects.rename(temporary, backup)
    disk.effects.sync(os.path.dirname(path))
    return backup


def _run_step(con: apsw.Connection, path: str, number: int, sql: str) -> None:
    """Run one step in a transaction that also sets the version.

    Raises:
        StateError: the step failed and was rolled back.
        Corrupt: the step does not lead to the tables of this minifo; it was rolled back.
    """
    con.execute("BEGIN IMMEDIATE")
    try:
        con.execute(sql).fetchall()
        if not con.in_transaction:
            raise StateError(
                f"step {number} of the upgrade of {path} ended its own transaction",
                "this is an error in minifo, please report it",
            )
        con.execute(f"PRAGMA user_version={number}")
        if number == SCHEMA_VERSION and (strange := strange_objects(con)):
            raise Corrupt(
                f"{path} is damaged: step {number} does not lead to minifo's tables ({', '.join(strange)!r:.200})",
                "the step was rolled back; this database cannot be upgraded",
            )
        con.execute("COMMIT")
    except apsw.Error as error:
        if con.in_transaction:
            con.execute("ROLLBACK")
        raise StateError(
            f"step {number} failed on {path} and was rolled back ({error})",
            f"a copy of the old database is kept beside it: {DB_NAME}.bak-v*",
        ) from error
