"""Every connection to a database refuses what leads elsewhere, before SQLite opens it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from minifo.engine import Overlay
from minifo.engine.errors import Corrupt
from minifo.engine.store.database_file import connect
from minifo.migrations.effects import DISK_ACCESS

_KINDS: dict[str, Callable[[Path, Path], None]] = {
    "a symlink": lambda path, other: path.symlink_to(other),
    "2 names": lambda path, other: os.link(other, path),
    "a FIFO": lambda path, other: os.mkfifo(path),
    "a directory": lambda path, other: path.mkdir(),
}


def _make(top: Path) -> tuple[Path, Path]:
    for name in ("base", "sto"):
        (top / name).mkdir()
    Overlay.open(str(top / "base"), str(top / "sto")).close()
    other = top / "other"
    other.write_bytes((top / "sto" / "minifo.db").read_bytes())
    return top / "sto" / "minifo.db", other


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize("kind", _KINDS)
def test_what_leads_elsewhere_is_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    """It is neither followed nor waited for, and the error names it."""
    database, other = _make(tmp_path)
    place = Path(f"{database}{suffix}")
    place.unlink(missing_ok=True)
    _KINDS[kind](place, other)
    before = sorted(os.listdir(tmp_path))
    for read_only in (True, False):
        with pytest.raises(Corrupt, match=f"{place.name} .*{kind}"):
            connect(str(database), read_only=read_only)
    with pytest.raises(Corrupt, match=f"{place.name} .*{kind}"):
        DISK_ACCESS.fact(str(database), "uuid")
    assert sorted(os.listdir(tmp_path)) == before


def test_a_plain_database_is_opened(tmp_path: Path) -> None:
    """The same ways are open to what is as it should be."""
    database, _ = _make(tmp_path)
    connect(str(database), read_only=True).close()
    assert len(str(DISK_ACCESS.fact(str(database), "uuid"))) == 36


def test_a_backup_that_cannot_be_made_harms_no_mount(tmp_path: Path) -> None:
    """Nothing depends on the metadata backup, so what was put beside the database does not end a commit."""
    database, other = _make(tmp_path)
    overlay = Overlay.open(str(tmp_path / "base"), str(tmp_path / "sto"))
    try:
        (tmp_path / "sto" / "minifo.names").unlink()
        Path(f"{database}-journal").symlink_to(other)
        overlay.commits.backup.write(in_thread=True)
        assert not (tmp_path / "sto" / "minifo.names").exists()
    finally:
        Path(f"{database}-journal").unlink()
        overlay.close()
