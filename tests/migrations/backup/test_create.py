"""Backups: archives and directories, whole and incremental; what other programs can do with them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest

from minifo.engine import StateError, UsageError
from minifo.engine.errors import Corrupt
from minifo.engine.queries.at_rest import open_writable
from minifo.migrations.exchange.compression import Compression
from tests.migrations.backup.backup_sandbox import BackupSandbox


@pytest.fixture
def sandbox(memory_dir: Path) -> BackupSandbox:
    """An overlay with a past."""
    return BackupSandbox(memory_dir)


@pytest.mark.parametrize("compression", list(Compression))
def test_what_is_restored_is_as_before(sandbox: BackupSandbox, compression: Compression) -> None:
    """All that shows, the checkpoints, the holes; and it can be changed, and goes back."""
    backup = sandbox.backup("backup", compression=compression)
    expected = sandbox.mine()
    result = sandbox.restore("new-storage", backup)
    assert result.objects == sandbox.report.objects == sandbox.report.written
    assert sandbox.shown("new-storage") == expected
    for at in (None, "earlier"):
        assert sandbox.digest("new-storage", at) == sandbox.digest("sto", at)
    with contextlib.closing(open_writable(str(sandbox.top / "new-storage"))) as overlay:
        assert [checkpoint.name for checkpoint in overlay.checkpoints.all()] == ["earlier"]
        overlay.checkpoints.rollback("earlier")
        assert overlay.check() == []
    assert sandbox.digest("new-storage") == sandbox.digest("sto", "earlier")
    blocks = [sum(p.stat().st_blocks for p in (sandbox.top / d / "content").rglob("*")) for d in ("sto", "new-storage")]
    assert blocks[1] <= blocks[0] + 8


def test_a_directory(sandbox: BackupSandbox) -> None:
    """The next one shares what has not changed, and both stay as they are."""
    first = sandbox.backup("first", is_directory=True)
    expected = sandbox.mine()
    sandbox.write("file-3", b"third")
    second = sandbox.backup("second", is_directory=True, since=str(first))
    shared = {path.relative_to(first) for path in (first / "content").glob("*/*") if path.stat().st_nlink > 1}
    assert 3 < len(shared) < sandbox.report.objects
    later = sandbox.mine()
    sandbox.restore("one", first)
    sandbox.restore("two", second)
    assert (sandbox.shown("one"), sandbox.shown("two")) == (expected, later)


def test_tar_unpacks_a_storage(sandbox: BackupSandbox) -> None:
    """With holes, without minifo."""
    backup = sandbox.backup("backup.tar")
    out = sandbox.top / "unpacked"
    out.mkdir()
    subprocess.run(["tar", "-xf", backup, "-C", out], check=True)
    for name in ("backup.json", "digests.json"):
        os.unlink(out / name)
    assert sandbox.shown("unpacked") == sandbox.mine()


def test_incremental(sandbox: BackupSandbox) -> None:
    """Each has what came since; a file that was written in its place is in it, whatever its number."""
    sandbox.ov.checkpoints.delete(["earlier"])
    backups = [sandbox.backup("0", compression=Compression.GZIP)]
    states = [sandbox.mine()]
    counts = []
    for number in range(1, 5):
        sandbox.write(f"file-{number if number != 2 else 0}", b"in its place", 1000)
        if number == 3:
            sandbox.unlink("file-6")
            sandbox.ov.commit()
        backups.append(sandbox.backup(str(number), since=str(backups[-1])))
        counts.append(sandbox.report.written)
        states.append(sandbox.mine())
    assert counts == [1, 1, 1, 1]
    for number, state in enumerate(states):
        sandbox.restore(f"restored-{number}", *backups[: number + 1])
        assert sandbox.shown(f"restored-{number}") == state
    assert backups[4].stat().st_size < backups[1].stat().st_size + 60_000
    for wrong in (backups[1:2], [backups[0], backups[2]], [backups[0], backups[0]], [backups[1], backups[0]]):
        with pytest.raises(UsageError):
            sandbox.restore("wrong", *wrong)
        assert not (sandbox.top / "wrong").exists()


def test_an_archive_builds_on_a_directory(sandbox: BackupSandbox) -> None:
    """And the other way round."""
    first = sandbox.backup("first", is_directory=True)
    sandbox.write("file-5", b"5")
    second = sandbox.backup("second", since=str(first))
    assert sandbox.report.written == 1
    third = sandbox.backup("third", is_directory=True, since=str(second))
    sandbox.restore("restored", first, second)
    sandbox.restore("restored-too", third)
    assert sandbox.shown("restored") == sandbox.shown("restored-too") == sandbox.mine()


def test_what_a_backup_cannot_be(sandbox: BackupSandbox) -> None:
    """In the storage, over what is there, built on that of another overlay or on what is none."""
    (sandbox.top / "taken").write_text("mine")
    (sandbox.top / "full").mkdir()
    (sandbox.top / "full" / "x").touch()
    for path, options in (("taken", {}), ("sto/x", {}), ("no/x", {}), ("full", {"is_directory": True})):
        with pytest.raises(UsageError):
            sandbox.backup(path, **options)
    with pytest.raises(UsageError, match="a pipe"):
        sandbox.backup_to("-", is_directory=True)
    home = sandbox.top / "other"
    home.mkdir()
    other = BackupSandbox(home)
    theirs = other.backup("theirs")
    other.close()
    with pytest.raises(StateError, match="of another storage"):
        sandbox.backup("mine", since=str(theirs))
    with pytest.raises(StateError, match="damaged"):
        sandbox.backup("mine", since=str(sandbox.top / "taken"))
    assert not (sandbox.top / "mine").exists()
    assert (sandbox.top / "taken").read_text() == "mine"


@pytest.mark.logs("is missing", always=False)
def test_a_storage_that_lacks_content(sandbox: BackupSandbox) -> None:
    """It is told, and no backup is left that seems to be one."""
    sandbox.close()
    next((sandbox.sto / "content").glob("*/*")).unlink()
    with pytest.raises(Corrupt, match="is missing"):
        sandbox.backup("backup")
    assert not list(sandbox.top.glob("backup*"))


def test_no_space_leaves_nothing(sandbox: BackupSandbox) -> None:
    """Of a destination that is full: an archive, a directory."""
    small = sandbox.top / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", small], check=True)
    try:
        for options in ({}, {"is_directory": True}):
            with pytest.raises(StateError, match="No space left"):
                sandbox.backup("small/out", **options)
            assert os.listdir(small) == []
        backup = sandbox.backup("backup")
        with pytest.raises(StateError, match=r"brings more than|No space left"):
            sandbox.restore("small/new", backup)
        assert os.listdir(small) == []
    finally:
        subprocess.run(["umount", small], check=True)
