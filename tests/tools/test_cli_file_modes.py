"""What tools make in a storage is for its owner only, whatever the umask: rows hold what modes of files would hide."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from minifo.engine import ROOT, Overlay, Process
from minifo.tools.cli import main


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Nothing but the tools' own care hides a file."""
    before = os.umask(0)
    yield
    os.umask(before)


def readable(storage: Path) -> list[str]:
    """What of a storage others than its owner may read or write."""
    paths = [storage / "minifo.db", *storage.rglob("*")]
    open_to_all = [path for path in paths if stat.S_IMODE(path.lstat().st_mode) & 0o077]
    return [str(path.relative_to(storage)) for path in open_to_all]


def test_storage_made_by_the_engine(tmp_path: Path) -> None:
    """A database, its log and what else is there while it is open, and afterwards."""
    base, storage = tmp_path / "base", tmp_path / "sto"
    base.mkdir()
    storage.mkdir(0o700)
    overlay = Overlay.open(str(base), str(storage))
    made = overlay.mknod(ROOT, b"file", 0o100644, 0, Process(0, 0, 0))
    overlay.write(made.ino, 0, b"x" * 100_000)
    overlay.commit()
    assert readable(storage) == []
    overlay.close()
    assert readable(storage) == []


def test_storage_made_by_an_import(tmp_path: Path) -> None:
    """A storage made of a mini_fo one."""
    old, base, storage = tmp_path / "old", tmp_path / "base", tmp_path / "sto"
    for path in (old, base):
        path.mkdir()
    (old / "file").write_text("old")
    assert main(["meta", "import", str(old), "--base", str(base), "--sto", str(storage)]) == 0
    assert readable(storage) == []


def test_copy_made_by_a_repair(tmp_path: Path) -> None:
    """The copy of a database that is kept before a repair, and the repaired one."""
    base, storage = tmp_path / "base", tmp_path / "sto"
    base.mkdir()
    storage.mkdir(0o700)
    overlay = Overlay.open(str(base), str(storage))
    overlay.mknod(ROOT, b"file", 0o100644, 0, Process(0, 0, 0))
    overlay.close()
    connection = apsw.Connection(str(storage / "minifo.db"))
    connection.execute("UPDATE inode SET nlink = 7 WHERE ino != 1")
    connection.close()
    assert main(["fsck", "-y", str(storage)]) == 1
    assert any(path.name.startswith("minifo.db.bak-") for path in storage.iterdir())
    assert readable(storage) == []
