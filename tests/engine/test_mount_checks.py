"""Overlay.open: which bases and storages it refuses, with which message, and that it changes nothing on disk then."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from minifo.engine import Corrupt, NewerFormat, NotMinifo, Overlay, StateError, StorageBusy, UsageError
from minifo.engine.store.storage import LEGACY_META
from tests.shared import file_trees
from tests.shared.overlay_sandbox import OverlaySandbox

_HOLDER = """
import sys
from minifo.engine import Overlay
ov = Overlay.open(sys.argv[1], sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
ov.close()
"""


def picture(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Return names, attributes and bytes of all objects beneath a directory, without changing access times."""
    return file_trees.fingerprint(top, atimes=False)


def refused(kind: type[StateError], base: Path, storage: Path, *words: str, read_only: bool = False) -> StateError:
    """Open an overlay; expect an error of one line with these words, and no change on disk; return the error."""
    top = base.parent
    before = picture(top)
    with pytest.raises(kind) as caught:
        Overlay.open(str(base), str(storage), read_only=read_only)
    assert type(caught.value) is kind
    told = str(caught.value)
    assert "\n" not in told
    for word in words:
        assert word in told
    assert picture(top) == before
    return caught.value


def test_base_missing(sandbox: OverlaySandbox) -> None:
    """The error names a base that does not exist."""
    sandbox.base.rmdir()
    refused(StateError, sandbox.base, sandbox.sto, "base", str(sandbox.base), "does not exist")


def test_base_is_a_file(sandbox: OverlaySandbox) -> None:
    """The error names a base that is a file."""
    sandbox.base.rmdir()
    sandbox.base.touch()
    refused(StateError, sandbox.base, sandbox.sto, str(sandbox.base), "not a directory")


def test_storage_missing(sandbox: OverlaySandbox) -> None:
    """A storage that does not exist is not made; the error says how to make it."""
    sandbox.sto.rmdir()
    refused(StateError, sandbox.base, sandbox.sto, "storage", "does not exist", f"mkdir {sandbox.sto}")


def test_storage_is_a_file(sandbox: OverlaySandbox) -> None:
    """The error names a storage that is a file."""
    sandbox.sto.rmdir()
    sandbox.sto.touch()
    refused(StateError, sandbox.base, sandbox.sto, str(sandbox.sto), "not a directory")


def test_foreign_files(sandbox: OverlaySandbox) -> None:
    """A directory with foreign files is refused as storage, and stays unchanged."""
    (sandbox.sto / "letters").mkdir()
    (sandbox.sto / "letters" / "to mother").write_text("Dear")
    refused(NotMinifo, sandbox.base, sandbox.sto, "foreign", "letters")


@pytest.mark.parametrize("place", ["", "some/where"])
def test_legacy_storage(sandbox: OverlaySandbox, place: str) -> None:
    """For a mini_fo storage, also one with its META file deep inside, the error names the importer."""
    (sandbox.sto / "etc").mkdir()
    (sandbox.sto / place).mkdir(parents=True, exist_ok=True)
    (sandbox.sto / place / LEGACY_META).write_text("D 6 passwd\n")
    refused(NotMinifo, sandbox.base, sandbox.sto, "mini_fo", "minifo meta import")


def test_lost_and_found_is_no_foreign_file(sandbox: OverlaySandbox) -> None:
    """A new file system, with its lost+found, is accepted as an empty storage."""
    (sandbox.sto / "lost+found").mkdir()
    sandbox.create("f")
    assert sandbox.names() == ["f"]


def test_base_inside_storage(sandbox: OverlaySandbox) -> None:
    """A base inside the storage is refused, because it would change while it is mounted."""
    inner = sandbox.sto / "a" / "base"
    inner.mkdir(parents=True)
    before = picture(sandbox.sto)
    with pytest.raises(UsageError, match="inside storage"):
        Overlay.open(str(inner), str(sandbox.sto))
    with pytest.raises(UsageError, match="inside storage"):
        Overlay.open(str(sandbox.sto), str(sandbox.sto))
    assert picture(sandbox.sto) == before


def test_busy(sandbox: OverlaySandbox) -> None:
    """A second writer and a reader are refused while a writer is open; the error has its pid."""
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, sandbox.base, sandbox.sto], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdin is not None
    assert first.stdout is not None
    with first:
        assert first.stdout.readline() == b"ready\n"
        for read_only in (False, True):
            error = refused(StorageBusy, sandbox.base, sandbox.sto, "in use", str(first.pid), read_only=read_only)
            assert isinstance(error, StorageBusy)
            assert error.pid == first.pid
        first.stdin.close()
    sandbox.create("f")


def test_lock_dies_with_its_holder(sandbox: OverlaySandbox) -> None:
    """The lock of a killed process is free; the pid that it left in the file is ignored."""
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, sandbox.base, sandbox.sto], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout is not None
    with first:
        assert first.stdout.readline() == b"ready\n"
        first.kill()
    sandbox.create("f")


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as con:
        con.execute("CREATE TABLE t (x)")
        con.execute("INSERT INTO t VALUES (1)")
    con.close()


def _foreign_wal(path: Path) -> None:
    con = sqlite3.connect(path)
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("CREATE TABLE t (x)")
    con.close()


def _garbage(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


@pytest.mark.parametrize("make", [_foreign, _foreign_wal, _garbage], ids=lambda make: make.__name__)
@pytest.mark.parametrize("read_only", [False, True])
def test_foreign_database(sandbox: OverlaySandbox, make: Callable[[Path], None], read_only: bool) -> None:
    """A minifo.db that is not minifo's is refused, and stays unchanged to the byte."""
    make(sandbox.sto / "minifo.db")
    refused(NotMinifo, sandbox.base, sandbox.sto, "minifo.db", read_only=read_only)


def test_newer_database(sandbox: OverlaySandbox) -> None:
    """A database of a newer version is refused, and stays unchanged."""
    sandbox.create("f")
    sandbox.close()
    con = apsw.Connection(str(sandbox.sto / "minifo.db"))
    con.execute("PRAGMA user_version=99").fetchall()
    con.close()
    refused(NewerFormat, sandbox.base, sandbox.sto, "99", "newer minifo")


@pytest.mark.parametrize("version", [0, -1, 10_000])
def test_impossible_format(sandbox: OverlaySandbox, version: int) -> None:
    """A format number that no version can have is reported as damage."""
    sandbox.create("f")
    sandbox.close()
    con = apsw.Connection(str(sandbox.sto / "minifo.db"))
    con.execute(f"PRAGMA user_version={version}").fetchall()
    con.close()
    refused(Corrupt, sandbox.base, sandbox.sto, "impossible format number", "minifo-fsck")


def refused_as_damaged(sandbox: OverlaySandbox) -> None:
    """Open; expect an error that names minifo-fsck, and no changed file except the lock."""
    before = {path.name: path.read_bytes() for path in sandbox.sto.iterdir() if path.is_file() and path.name != "lock"}
    with pytest.raises(Corrupt, match=r"damaged.*minifo-fsck"):
        sandbox.open()
    after = {path.name: path.read_bytes() for path in sandbox.sto.iterdir() if path.is_file() and path.name != "lock"}
    assert after == before


def test_corrupt_database(sandbox: OverlaySandbox) -> None:
    """A damaged database is reported with a hint to minifo-fsck, and is not replaced by an empty one."""
    for index in range(200):
        sandbox.create(f"f{index}")
    sandbox.close()
    database = sandbox.sto / "minifo.db"
    data = database.read_bytes()
    database.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    refused_as_damaged(sandbox)


def test_truncated_database(sandbox: OverlaySandbox) -> None:
    """A truncated database is reported as damage, not taken for an empty storage."""
    sandbox.create("f")
    sandbox.close()
    os.truncate(sandbox.sto / "minifo.db", 4096)
    refused_as_damaged(sandbox)


def test_empty_database_file(sandbox: OverlaySandbox) -> None:
    """An empty minifo.db is reported as damage; no overlay is made in it."""
    (sandbox.sto / "minifo.db").touch()
    refused(NotMinifo, sandbox.base, sandbox.sto)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "sql",
    [
        """CREATE TABLE "inode"" LIMIT 0; VACUUM INTO '{made}'; --" (x)""",
        "CREATE TABLE guest (x)",
        "CREATE VIEW seen AS SELECT * FROM inode",
        "CREATE INDEX quick ON created (ino)",
        "CREATE TRIGGER t AFTER UPDATE ON inode BEGIN DELETE FROM created; END",
        "DROP TABLE garbage",
    ],
)
def test_foreign_schema(sandbox: OverlaySandbox, sql: str, read_only: bool) -> None:
    """A schema that differs from schema.sql in one letter is refused before a name in it is used or a trigger runs."""
    sandbox.create("f")
    sandbox.close()
    con = apsw.Connection(str(sandbox.sto / "minifo.db"))
    con.execute(sql.format(made=sandbox.sto.parent / "made"))
    con.close()
    with pytest.raises(Corrupt, match=r"tables are not minifo's.*minifo-fsck"):
        sandbox.open(read_only=read_only)
    assert not (sandbox.sto.parent / "made").exists()


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("UPDATE inode SET mode = 0 WHERE ino = 1", "inode 1: its row is damaged"),
        ("UPDATE inode SET mode = 33188 WHERE ino = 1", "its root is not a directory"),
        ("UPDATE origin SET path = x'00' WHERE ino = 1", "inode 1: its path in the base is damaged"),
    ],
)
def test_root_that_cannot_be_used(sandbox: OverlaySandbox, sql: str, reason: str) -> None:
    """It is refused, for nothing could be done with such a mount; minifo-fsck makes it usable again."""
    sandbox.create("f")
    sandbox.close()
    file_trees.change_rows(str(sandbox.sto / "minifo.db"), {}, [sql])
    for read_only in (True, False):
        with pytest.raises(Corrupt, match=f"{reason}.*minifo-fsck"):
            sandbox.open(read_only=read_only)
    repair = [Path(sys.executable).parent / "minifo-fsck", "-y", sandbox.sto]
    done = subprocess.run(repair, capture_output=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert sandbox.names() in (["f"], ["lost+found"])


# -- a database that is gone


def _use(sandbox: OverlaySandbox) -> None:
    sandbox.put("f")
    sandbox.write("f", b"x" * 50_000)
    sandbox.close()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("left", ["content", "minifo.names", "minifo.db-wal"])
def test_lost_database(sandbox: OverlaySandbox, left: str, read_only: bool) -> None:
    """A storage that has lost its database is reported with a hint to minifo-fsck; nothing in it is deleted or made."""
    _use(sandbox)
    for path in list(sandbox.sto.iterdir()):
        if path.name == "minifo.db" or (path.name != left and path.name in ("content", "minifo.names")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left == "minifo.db-wal":
        (sandbox.sto / left).write_bytes(b"log")
    refused(
        Corrupt, sandbox.base, sandbox.sto, "lost its database", left, f"minifo-fsck {sandbox.sto}", read_only=read_only
    )


def test_first_format_that_was_cut_short(sandbox: OverlaySandbox) -> None:
    """The next mount makes the overlay if the first one was interrupted: half a database, a lock, empty directories."""
    for name in ("minifo.db.new", "lock", "reserve", "minifo.names.new"):
        (sandbox.sto / name).write_bytes(b"half")
    (sandbox.sto / "content" / "0").mkdir(parents=True)
    (sandbox.sto / "minifo.db-wal").touch()
    sandbox.create("f")
    assert sandbox.names() == ["f"]


# -- read-only


def test_read_only_needs_an_overlay(sandbox: OverlaySandbox) -> None:
    """An empty storage is refused for a read-only mount, and no overlay is made in it."""
    refused(NotMinifo, sandbox.base, sandbox.sto, "no overlay yet", read_only=True)


def test_read_only_changes_nothing(sandbox: OverlaySandbox) -> None:
    """A read-only overlay shows everything, refuses every change with EROFS, and leaves no byte different."""
    sandbox.put("f")
    sandbox.put("gone")
    sandbox.write("f", b"x" * 5000)
    sandbox.create("d")
    sandbox.unlink("gone")
    sandbox.close()
    names = ["content", "lock", "minifo.db"]
    before = {path: path.read_bytes() for path in sandbox.sto.glob("**/*") if path.is_file()}
    sandbox.open(read_only=True)
    assert sandbox.names() == ["d", "f"]
    assert sandbox.read("f") == b"x" * 5000
    for action in (
        lambda: sandbox.create("new"),
        lambda: sandbox.unlink("f"),
        lambda: sandbox.rename("f", "g"),
        lambda: sandbox.write("f", b"y"),
        lambda: sandbox.set("f", mode=0),
        lambda: sandbox.ov.setxattr(sandbox.ino("f"), b"user.x", b"y"),
    ):
        with pytest.raises(OSError, match="Read-only"):
            action()
    sandbox.ov.forget([sandbox.ino("f")])
    sandbox.ov.commit()
    sandbox.close()
    assert {path: path.read_bytes() for path in before} == before
    assert [name for name in sorted(os.listdir(sandbox.sto)) if name in names] == names


def test_two_readers(sandbox: OverlaySandbox) -> None:
    """Several readers may open a storage at once; a writer is refused meanwhile."""
    sandbox.create("f")
    sandbox.close()
    one, two = (Overlay.open(str(sandbox.base), str(sandbox.sto), read_only=True) for _ in range(2))
    with pytest.raises(StorageBusy):
        sandbox.open()
    one.close()
    two.close()
    sandbox.open()


# -- what is made


def test_format_after_an_interrupted_one(sandbox: OverlaySandbox) -> None:
    """The files that a power cut during the first mount leaves are not taken for foreign ones."""
    (sandbox.sto / "minifo.db.new").write_bytes(b"half")
    (sandbox.sto / "lock").touch()
    sandbox.create("f")
    assert sandbox.reopen().check() == []
    assert sandbox.names() == ["f"]


def test_storage_hidden_inside_base(sandbox: OverlaySandbox) -> None:
    """A storage inside the base is hidden from every listing and look-up."""
    sandbox.put("d/f")
    sandbox.sto = sandbox.base / "d" / "sto"
    sandbox.sto.mkdir()
    assert sandbox.names("d") == ["f"]
    assert sandbox.find("d/sto") is None
    sandbox.mkdir("d/sto")
    assert sandbox.names("d") == ["f", "sto"]
    sandbox.reopen()
    assert sandbox.names("d/sto") == []
    sandbox.rmdir("d/sto")
    assert sandbox.lists().deleted == set()
