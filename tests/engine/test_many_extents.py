"""A file of very many extents: no request touches them one by one, and what may take long is done in turns."""

from __future__ import annotations

from typing import Any

import pytest
from lab import Lab
from twins import DenseStorage

from minifo.engine import Ino, SetAttr
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE

PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
BLOCK = 4096
MANY = 50_000


def scattered(lab: Lab, count: int = MANY) -> Ino:
    """A base file of which every second block was written, by rows put into the database."""
    with open(lab.put("f", b""), "wb") as file:
        file.truncate(2 * BLOCK * count)
    lab.write("f", b"x" * BLOCK)
    ino = lab.ino("f")
    number = lab.ov.db.value("SELECT object FROM extent")
    lab.close()
    _fill(lab, ino, number, count)
    lab.open()
    assert lab.ov.check() == []
    return lab.ino("f")


def _fill(lab: Lab, ino: Ino, number: int, count: int) -> None:
    import apsw

    with open(lab.sto / f"content/{number >> 10:x}/{number & 1023:x}", "r+b") as file:
        file.truncate(2 * BLOCK * count)
    connection = apsw.Connection(str(lab.sto / "minifo.db"))
    with connection:
        rows = ((ino, at, at + BLOCK, number, at) for at in range(2 * BLOCK, 2 * BLOCK * count, 2 * BLOCK))
        connection.executemany("INSERT INTO extent VALUES (?, ?, ?, ?, ?)", rows)
    connection.close()


def rows(lab: Lab) -> int:
    """How many extents there are."""
    return int(lab.ov.db.value("SELECT count(*) FROM extent"))


def steps(lab: Lab) -> list[str]:
    """The statements that change rows, from now on."""
    made: list[str] = []
    change = lab.ov.db.change

    def noting(sql: str, values: Any) -> int:
        made.append(sql)
        return change(sql, values)

    lab.ov.db.change = noting  # type: ignore[method-assign]
    return made


def test_blocks_are_an_upper_bound(lab: Lab) -> None:
    """They are counted while there are few extents; of more it is said that there is no hole."""
    ino = scattered(lab)
    assert lab.attr("f").blocks == 2 * MANY * BLOCK // 512
    lab.ov.setattr(ino, SetAttr(size=2 * BLOCK * 1000))
    assert lab.attr("f").blocks == 1000 * BLOCK // 512


@pytest.mark.parametrize("way", ["punch", "shrink"])
def test_a_range_is_taken_out_by_few_statements(lab: Lab, way: str) -> None:
    """However many extents lie in it; those at its ends are cut."""
    ino = scattered(lab)
    made = steps(lab)
    first, last = 1000 * 2 * BLOCK + 100, 41_000 * 2 * BLOCK + 100
    if way == "punch":
        lab.ov.ranges.fallocate(ino, PUNCH, first, last - first)
        assert rows(lab) == MANY - 39_999  # those at both ends are cut; there is nothing in the base to hide
    else:
        lab.ov.setattr(ino, SetAttr(size=first))
        assert rows(lab) == 1001
    assert len(made) < 12
    assert lab.ov.check() == []
    lab.reopen()
    assert lab.ov.read(ino, first - 200, 400) == (b"\0" * 400)[: 400 if way == "punch" else 200]
    assert lab.ov.check() == []


def test_an_orphan_goes_in_turns(lab: Lab) -> None:
    """A file without a name is deleted slice by slice; it is an orphan as long as any of it is there."""
    scattered(lab)
    lab.unlink("f")
    left = [rows(lab)]
    while not lab.ov.reap_more():
        left.append(rows(lab))
        assert lab.ov.db.value("SELECT count(*) FROM orphan") == 1
        assert lab.ov.check() == []
        lab.ov.commit()
    assert left == [30_000, 10_000]
    assert (rows(lab), lab.ov.db.value("SELECT count(*) FROM orphan")) == (0, 0)
    lab.ov.commit()
    assert lab.objects() == {}
    lab.reopen()
    assert (lab.find("f"), lab.ov.check()) == (None, [])


def test_an_orphan_that_is_half_gone(lab: Lab) -> None:
    """After a crash between two slices the next mount deletes the rest; and so does an end in peace."""
    scattered(lab)
    lab.unlink("f")
    lab.ov.commit()
    lab.kill()
    lab.open()
    assert (rows(lab), lab.find("f"), lab.ov.check()) == (0, None, [])
    lab.ov.commit()
    assert lab.objects() == {}

    lab.put("g", b"")
    with open(lab.base / "g", "wb") as file:
        file.truncate(2 * BLOCK * MANY)
    lab.write("g", b"x" * BLOCK)
    ino, number = lab.ino("g"), lab.ov.db.value("SELECT object FROM extent")
    lab.close()
    _fill(lab, ino, number, MANY)
    lab.open()
    lab.unlink("g")
    lab.reopen()
    assert (rows(lab), lab.objects(), lab.ov.check()) == (0, {}, [])


@pytest.mark.parametrize("options", [{}, {"storage_io": DenseStorage}], ids=["holes", "dense"])
def test_blocks_are_given_back_in_turns(lab: Lab, options: dict[str, Any]) -> None:
    """A commit gives back what there is time for; the rest comes later, and nothing that is shown is lost."""
    lab.open(**options)
    data = bytes(range(1, 251)) * 64 * 64
    lab.create("f", data)
    lab.ov.commit()
    for start in range(0, len(data) - 4 * BLOCK, 4 * BLOCK):
        lab.ov.ranges.fallocate(lab.ino("f"), PUNCH, start, BLOCK)
    held = sum(map(len, lab.ov.objects.holes.values()))
    commits = lab.ov.commits
    sealed = commits.seal()
    commits.harden()
    commits.finish(sealed, 0)
    assert sum(map(len, lab.ov.objects.holes.values())) == held > 50
    lab.write("f", b"!" * 100, 0)
    turns = 0
    while not commits.give_back(1e-4):
        turns += 1
    assert turns > 0
    assert lab.ov.objects.holes == {}
    expected = bytearray(data)
    for start in range(0, len(data) - 4 * BLOCK, 4 * BLOCK):
        expected[start : start + BLOCK] = bytes(BLOCK)
    expected[:100] = b"!" * 100
    assert lab.read("f") == bytes(expected)
    lab.reopen()
    assert lab.read("f") == bytes(expected)
