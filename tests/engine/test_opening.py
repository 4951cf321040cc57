"""Overlay.open: what it refuses, what it says then, and that nothing on disk has changed."""

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
import support
from lab import Lab

from minifo.engine import Corrupt, NewerFormat, NotMinifo, Overlay, StateError, StorageBusy, UsageError
from minifo.engine.store.storage import LEGACY_META

_HOLDER = """
import sys
from minifo.engine import Overlay
ov = Overlay.open(sys.argv[1], sys.argv[2])
print("ready", flush=True)
sys.stdin.read()
ov.close()
"""


def picture(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything there is under a directory; to look at it is no change."""
    return support.fingerprint(top, atimes=False)


def refused(kind: type[StateError], base: Path, storage: Path, *words: str, read_only: bool = False) -> StateError:
    """Open, expect a refusal that says these words in one line, and that nothing has changed."""
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


def test_base_missing(lab: Lab) -> None:
    """A base that does not exist is named."""
    lab.base.rmdir()
    refused(StateError, lab.base, lab.sto, "base", str(lab.base), "does not exist")


def test_base_is_a_file(lab: Lab) -> None:
    """A base that is a file is named."""
    lab.base.rmdir()
    lab.base.touch()
    refused(StateError, lab.base, lab.sto, str(lab.base), "not a directory")


def test_storage_missing(lab: Lab) -> None:
    """A storage that does not exist is not made; the message says how."""
    lab.sto.rmdir()
    refused(StateError, lab.base, lab.sto, "storage", "does not exist", f"mkdir {lab.sto}")


def test_storage_is_a_file(lab: Lab) -> None:
    """A storage that is a file is named."""
    lab.sto.rmdir()
    lab.sto.touch()
    refused(StateError, lab.base, lab.sto, str(lab.sto), "not a directory")


def test_foreign_files(lab: Lab) -> None:
    """A directory with somebody's files is no storage, and stays as it is."""
    (lab.sto / "letters").mkdir()
    (lab.sto / "letters" / "to mother").write_text("Dear")
    refused(NotMinifo, lab.base, lab.sto, "foreign", "letters")


@pytest.mark.parametrize("place", ["", "some/where"])
def test_legacy_storage(lab: Lab, place: str) -> None:
    """A mini_fo storage, even with its list file deep inside, is sent to the importer."""
    (lab.sto / "etc").mkdir()
    (lab.sto / place).mkdir(parents=True, exist_ok=True)
    (lab.sto / place / LEGACY_META).write_text("D 6 passwd\n")
    refused(NotMinifo, lab.base, lab.sto, "mini_fo", "minifo meta import")


def test_lost_and_found_is_no_foreign_file(lab: Lab) -> None:
    """A fresh file system is an empty storage."""
    (lab.sto / "lost+found").mkdir()
    lab.create("f")
    assert lab.names() == ["f"]


def test_base_inside_storage(lab: Lab) -> None:
    """A base below the storage would show what changes under it."""
    inner = lab.sto / "a" / "base"
    inner.mkdir(parents=True)
    before = picture(lab.sto)
    with pytest.raises(UsageError, match="inside storage"):
        Overlay.open(str(inner), str(lab.sto))
    with pytest.raises(UsageError, match="inside storage"):
        Overlay.open(str(lab.sto), str(lab.sto))
    assert picture(lab.sto) == before


def test_busy(lab: Lab) -> None:
    """A second writer is refused with the pid of the first, and a reader too."""
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, lab.base, lab.sto], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdin is not None
    assert first.stdout is not None
    with first:
        assert first.stdout.readline() == b"ready\n"
        for read_only in (False, True):
            error = refused(StorageBusy, lab.base, lab.sto, "in use", str(first.pid), read_only=read_only)
            assert isinstance(error, StorageBusy)
            assert error.pid == first.pid
        first.stdin.close()
    lab.create("f")


def test_lock_dies_with_its_holder(lab: Lab) -> None:
    """A killed holder leaves no lock, only a pid nobody minds."""
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, lab.base, lab.sto], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert first.stdout is not None
    with first:
        assert first.stdout.readline() == b"ready\n"
        first.kill()
    lab.create("f")


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
def test_foreign_database(lab: Lab, make: Callable[[Path], None], read_only: bool) -> None:
    """A minifo.db that is none of ours is left alone, to the byte."""
    make(lab.sto / "minifo.db")
    refused(NotMinifo, lab.base, lab.sto, "minifo.db", read_only=read_only)


def test_newer_database(lab: Lab) -> None:
    """A database of a newer version is left alone."""
    lab.create("f")
    lab.close()
    con = apsw.Connection(str(lab.sto / "minifo.db"))
    con.execute("PRAGMA user_version=99").fetchall()
    con.close()
    refused(NewerFormat, lab.base, lab.sto, "99", "newer minifo")


@pytest.mark.parametrize("version", [0, -1, 10_000])
def test_impossible_format(lab: Lab, version: int) -> None:
    """A format number that no version has is damage."""
    lab.create("f")
    lab.close()
    con = apsw.Connection(str(lab.sto / "minifo.db"))
    con.execute(f"PRAGMA user_version={version}").fetchall()
    con.close()
    refused(Corrupt, lab.base, lab.sto, "impossible format number", "minifo-fsck")


def refused_as_damaged(lab: Lab) -> None:
    """Open, expect the way to fsck, and every file to be as it was but for the lock (the storage is ours)."""
    before = {path.name: path.read_bytes() for path in lab.sto.iterdir() if path.is_file() and path.name != "lock"}
    with pytest.raises(Corrupt, match=r"damaged.*minifo-fsck"):
        lab.open()
    after = {path.name: path.read_bytes() for path in lab.sto.iterdir() if path.is_file() and path.name != "lock"}
    assert after == before


def test_corrupt_database(lab: Lab) -> None:
    """A damaged database is reported with the way to fsck, and never made anew."""
    for index in range(200):
        lab.create(f"f{index}")
    lab.close()
    database = lab.sto / "minifo.db"
    data = database.read_bytes()
    database.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    refused_as_damaged(lab)


def test_truncated_database(lab: Lab) -> None:
    """A database cut short is damage as well, not an empty storage."""
    lab.create("f")
    lab.close()
    os.truncate(lab.sto / "minifo.db", 4096)
    refused_as_damaged(lab)


def test_empty_database_file(lab: Lab) -> None:
    """An empty minifo.db is not taken for an invitation."""
    (lab.sto / "minifo.db").touch()
    refused(NotMinifo, lab.base, lab.sto)


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
def test_foreign_schema(lab: Lab, sql: str, read_only: bool) -> None:
    """A schema that differs from schema.sql in one letter is refused before a name in it is used or a trigger runs."""
    lab.create("f")
    lab.close()
    con = apsw.Connection(str(lab.sto / "minifo.db"))
    con.execute(sql.format(made=lab.sto.parent / "made"))
    con.close()
    with pytest.raises(Corrupt, match=r"tables are not minifo's.*minifo-fsck"):
        lab.open(read_only=read_only)
    assert not (lab.sto.parent / "made").exists()


# -- a database that is gone


def _use(lab: Lab) -> None:
    lab.put("f")
    lab.write("f", b"x" * 50_000)
    lab.close()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("left", ["content", "minifo.names", "minifo.db-wal"])
def test_lost_database(lab: Lab, left: str, read_only: bool) -> None:
    """What a database named is never taken for a new storage: nothing is deleted or made, and fsck is named."""
    _use(lab)
    for path in list(lab.sto.iterdir()):
        if path.name == "minifo.db" or (path.name != left and path.name in ("content", "minifo.names")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left == "minifo.db-wal":
        (lab.sto / left).write_bytes(b"log")
    refused(Corrupt, lab.base, lab.sto, "lost its database", left, f"minifo-fsck {lab.sto}", read_only=read_only)


def test_first_format_that_was_cut_short(lab: Lab) -> None:
    """Half a database, the lock and empty directories are no overlay: the next mount makes it."""
    for name in ("minifo.db.new", "lock", "reserve", "minifo.names.new"):
        (lab.sto / name).write_bytes(b"half")
    (lab.sto / "content" / "0").mkdir(parents=True)
    (lab.sto / "minifo.db-wal").touch()
    lab.create("f")
    assert lab.names() == ["f"]


# -- read-only


def test_read_only_needs_an_overlay(lab: Lab) -> None:
    """An empty directory mounted read-only is not formatted."""
    refused(NotMinifo, lab.base, lab.sto, "no overlay yet", read_only=True)


def test_read_only_changes_nothing(lab: Lab) -> None:
    """A read-only overlay shows everything, refuses every change with EROFS, and leaves no byte different."""
    lab.put("f")
    lab.put("gone")
    lab.write("f", b"x" * 5000)
    lab.create("d")
    lab.unlink("gone")
    lab.close()
    names = ["content", "lock", "minifo.db"]
    before = {path: path.read_bytes() for path in lab.sto.glob("**/*") if path.is_file()}
    lab.open(read_only=True)
    assert lab.names() == ["d", "f"]
    assert lab.read("f") == b"x" * 5000
    for action in (
        lambda: lab.create("new"),
        lambda: lab.unlink("f"),
        lambda: lab.rename("f", "g"),
        lambda: lab.write("f", b"y"),
        lambda: lab.set("f", mode=0),
        lambda: lab.ov.setxattr(lab.ino("f"), b"user.x", b"y"),
    ):
        with pytest.raises(OSError, match="Read-only"):
            action()
    lab.ov.forget([lab.ino("f")])
    lab.ov.commit()
    lab.close()
    assert {path: path.read_bytes() for path in before} == before
    assert [name for name in sorted(os.listdir(lab.sto)) if name in names] == names


def test_two_readers(lab: Lab) -> None:
    """Any number may read side by side, and a writer is refused meanwhile."""
    lab.create("f")
    lab.close()
    one, two = (Overlay.open(str(lab.base), str(lab.sto), read_only=True) for _ in range(2))
    with pytest.raises(StorageBusy):
        lab.open()
    one.close()
    two.close()
    lab.open()


# -- what is made


def test_format_after_an_interrupted_one(lab: Lab) -> None:
    """What a power cut during the first mount left behind is no foreign file."""
    (lab.sto / "minifo.db.new").write_bytes(b"half")
    (lab.sto / "lock").touch()
    lab.create("f")
    assert lab.reopen().check() == []
    assert lab.names() == ["f"]


def test_storage_hidden_inside_base(lab: Lab) -> None:
    """A storage that lies inside the base is not shown, under no name."""
    lab.put("d/f")
    lab.sto = lab.base / "d" / "sto"
    lab.sto.mkdir()
    assert lab.names("d") == ["f"]
    assert lab.find("d/sto") is None
    lab.mkdir("d/sto")
    assert lab.names("d") == ["f", "sto"]
    lab.reopen()
    assert lab.names("d/sto") == []
    lab.rmdir("d/sto")
    assert lab.lists().deleted == set()
