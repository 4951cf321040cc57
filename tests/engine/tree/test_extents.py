"""Files with very many extents: no request handles them one by one, and long work is done in slices."""

from __future__ import annotations

from typing import Any

import pytest

from minifo.engine import Ino, SetAttr
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from tests.model.compared_trees import DenseStorage
from tests.shared.overlay_sandbox import OverlaySandbox

PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
BLOCK = 4096
MANY = 50_000


def scattered(sandbox: OverlaySandbox, count: int = MANY) -> Ino:
    """Make a base file with an extent for every second block, by rows written into the database; return its number."""
    with open(sandbox.put("f", b""), "wb") as file:
        file.truncate(2 * BLOCK * count)
    sandbox.write("f", b"x" * BLOCK)
    ino = sandbox.ino("f")
    number = sandbox.ov.db.value("SELECT object FROM extent")
    sandbox.close()
    _fill(sandbox, ino, number, count)
    sandbox.open()
    assert sandbox.ov.check() == []
    return sandbox.ino("f")


def _fill(sandbox: OverlaySandbox, ino: Ino, number: int, count: int) -> None:
    import apsw

    with open(sandbox.sto / f"content/{number >> 10:x}/{number & 1023:x}", "r+b") as file:
        file.truncate(2 * BLOCK * count)
    connection = apsw.Connection(str(sandbox.sto / "minifo.db"))
    with connection:
        rows = ((ino, at, at + BLOCK, number, at) for at in range(2 * BLOCK, 2 * BLOCK * count, 2 * BLOCK))
        connection.executemany("INSERT INTO extent VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()


def rows(sandbox: OverlaySandbox) -> int:
    """Return the count of extents."""
    return int(sandbox.ov.db.value("SELECT count(*) FROM extent"))


def steps(sandbox: OverlaySandbox) -> list[str]:
    """Return a list that collects the statements that change rows from now on."""
    made: list[str] = []
    change = sandbox.ov.db.change

    def noting(sql: str, values: Any) -> int:
        made.append(sql)
        return change(sql, values)

    sandbox.ov.db.change = noting  # type: ignore[method-assign]
    return made


def test_blocks_are_an_upper_bound(sandbox: OverlaySandbox) -> None:
    """st_blocks is exact for few extents; for many it is an upper bound, as if the file had no holes."""
    ino = scattered(sandbox)
    assert sandbox.attr("f").blocks == 2 * MANY * BLOCK // 512
    sandbox.ov.setattr(ino, SetAttr(size=2 * BLOCK * 1000))
    assert sandbox.attr("f").blocks == 1000 * BLOCK // 512


@pytest.mark.parametrize("way", ["punch", "shrink"])
def test_a_range_is_taken_out_by_few_statements(sandbox: OverlaySandbox, way: str) -> None:
    """Removing a range of many extents takes a few statements, and shortens the extents at its ends."""
    ino = scattered(sandbox)
    made = steps(sandbox)
    first, last = 1000 * 2 * BLOCK + 100, 41_000 * 2 * BLOCK + 100
    if way == "punch":
        sandbox.ov.ranges.fallocate(ino, PUNCH, first, last - first)
        assert rows(sandbox) == MANY - 39_999  # those at both ends are cut; there is nothing in the base to hide
    else:
        sandbox.ov.setattr(ino, SetAttr(size=first))
        assert rows(sandbox) == 1001
    assert len(made) < 12
    assert sandbox.ov.check() == []
    sandbox.reopen()
    assert sandbox.ov.read(ino, first - 200, 400) == (b"\0" * 400)[: 400 if way == "punch" else 200]
    assert sandbox.ov.check() == []


def test_an_orphan_goes_in_turns(sandbox: OverlaySandbox) -> None:
    """An orphan with many extents is deleted in slices, and stays an orphan until the last one."""
    scattered(sandbox)
    sandbox.unlink("f")
    left = [rows(sandbox)]
    while not sandbox.ov.reap_more():
        left.append(rows(sandbox))
        assert sandbox.ov.db.value("SELECT count(*) FROM orphan") == 1
        assert sandbox.ov.check() == []
        sandbox.ov.commit()
    assert left == [30_000, 10_000]
    assert (rows(sandbox), sandbox.ov.db.value("SELECT count(*) FROM orphan")) == (0, 0)
    sandbox.ov.commit()
    assert sandbox.objects() == {}
    sandbox.reopen()
    assert (sandbox.find("f"), sandbox.ov.check()) == (None, [])


def test_an_orphan_that_is_half_gone(sandbox: OverlaySandbox) -> None:
    """The rest of a partly deleted orphan is deleted by the next mount after a crash, and by close."""
    scattered(sandbox)
    sandbox.unlink("f")
    sandbox.ov.commit()
    sandbox.kill()
    sandbox.open()
    assert (rows(sandbox), sandbox.find("f"), sandbox.ov.check()) == (0, None, [])
    sandbox.ov.commit()
    assert sandbox.objects() == {}

    sandbox.put("g", b"")
    with open(sandbox.base / "g", "wb") as file:
        file.truncate(2 * BLOCK * MANY)
    sandbox.write("g", b"x" * BLOCK)
    ino, number = sandbox.ino("g"), sandbox.ov.db.value("SELECT object FROM extent")
    sandbox.close()
    _fill(sandbox, ino, number, MANY)
    sandbox.open()
    sandbox.unlink("g")
    sandbox.reopen()
    assert (rows(sandbox), sandbox.objects(), sandbox.ov.check()) == (0, {}, [])


@pytest.mark.parametrize("options", [{}, {"storage_io": DenseStorage}], ids=["holes", "dense"])
def test_blocks_are_given_back_in_turns(sandbox: OverlaySandbox, options: dict[str, Any]) -> None:
    """A commit punches holes for a limited time and later calls punch the rest; no visible byte is lost."""
    sandbox.open(**options)
    data = bytes(range(1, 251)) * 64 * 64
    sandbox.create("f", data)
    sandbox.ov.commit()
    for start in range(0, len(data) - 4 * BLOCK, 4 * BLOCK):
        sandbox.ov.ranges.fallocate(sandbox.ino("f"), PUNCH, start, BLOCK)
    held = sum(map(len, sandbox.ov.objects.holes.values()))
    commits = sandbox.ov.commits
    sealed = commits.seal()
    commits.harden()
    commits.finish(sealed, 0)
    assert sum(map(len, sandbox.ov.objects.holes.values())) == held > 50
    sandbox.write("f", b"!" * 100, 0)
    turns = 0
    while not commits.punch_holes(1e-4):
        turns += 1
    assert turns > 0
    assert sandbox.ov.objects.holes == {}
    expected = bytearray(data)
    for start in range(0, len(data) - 4 * BLOCK, 4 * BLOCK):
        expected[start : start + BLOCK] = bytes(BLOCK)
    expected[:100] = b"!" * 100
    assert sandbox.read("f") == bytes(expected)
    sandbox.reopen()
    assert sandbox.read("f") == bytes(expected)
