"""Damage to everything at once: the time of a repair grows with the number of files, not with its square."""

from __future__ import annotations

import os
import time

import apsw
import pytest

from minifo.engine import ROOT, Ino, Overlay
from minifo.engine.fsck.session import FsckSession
from tests.fsck.sample_storage import CALLER, wrong

_FEW, _MANY = 1000, 8000
_SLACK = 3  # times what growing in proportion would take


@pytest.fixture(scope="module")
def storages(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """A storage of a few files, and one of many."""
    found = {}
    for count in (_FEW, _MANY):
        top = tmp_path_factory.mktemp(f"many{count}")
        base, found[count] = str(top / "base"), str(top / "sto")
        os.mkdir(base)
        os.mkdir(found[count])
        overlay = Overlay.open(base, found[count], clone=False)
        holder = Ino(overlay.mkdir(ROOT, b"d", 0o755, CALLER).ino)
        for number in range(count):
            attr = overlay.mknod(holder, b"file%d" % number, 0o100644, 0, CALLER)
            overlay.write(Ino(attr.ino), 0, b"bytes")
        overlay.close()
    return found


def _repair(storage: str, damage: str) -> float:
    con = apsw.Connection(os.path.join(storage, "minifo.db"))
    con.execute(damage)
    con.close()
    began = time.process_time()
    with FsckSession(storage, write=True) as examination:
        _, left = examination.repair(examination.check(), lambda finding: True)
    took = time.process_time() - began
    assert wrong(left) == []
    return took


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE inode SET nlink = 7 WHERE (mode & 61440) = 32768",
        "DELETE FROM created WHERE parent <> 1",
        "DELETE FROM inode WHERE (mode & 61440) = 16384 AND ino > 1",
        "DELETE FROM inode WHERE (mode & 61440) = 32768",
    ],
    ids=["links", "names", "directories", "inodes"],
)
def test_repairing_everything_takes_time_in_proportion(damage: str, storages: dict[int, str]) -> None:
    """Eight times the files, about eight times the time."""
    bound = _repair(storages[_FEW], damage) * _SLACK * _MANY / _FEW
    # processor time, too, grows where many share a processor: once within the bound is enough
    assert any(_repair(storages[_MANY], damage) < bound for _ in range(3))
