"""Commits and what follows a crash: what is lost, what is swept, and what may be deleted only when."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from lab import NOTHING, Lab

from minifo.engine import Overlay
from minifo.engine.store.content_objects import ROOM

BIG = b"x" * 10_000  # above what is kept in a row


def power_cut(lab: Lab) -> None:
    """Go on with what storage holds at this moment, as a machine that lost power would."""
    copy = Path(f"{lab.sto}.cut")
    shutil.copytree(lab.sto, copy, ignore=shutil.ignore_patterns("*-shm"))
    lab.kill()
    shutil.rmtree(lab.sto)
    copy.rename(lab.sto)


def test_uncommitted_changes_vanish_wholly(lab: Lab) -> None:
    """After a crash everything is as the last commit had it: names, attributes, bytes, objects."""
    lab.put("d/f", BIG)
    lab.put("gone", BIG)
    lab.create("kept", BIG)
    lab.ov.commit()
    committed = lab.lists(), lab.names(), lab.objects()
    lab.write("d/f", b"new")
    lab.unlink("gone")
    lab.rename("d", "e")
    lab.create("e/new", BIG)
    lab.set("kept", mode=0, size=3)
    lab.unlink("kept")
    power_cut(lab)
    assert (lab.lists(), lab.names(), lab.objects()) == committed
    assert lab.read("kept") == lab.read("gone") == lab.read("d/f") == BIG


def test_nothing_was_ever_committed(lab: Lab) -> None:
    """A crash before the first commit leaves an empty overlay and no object."""
    lab.create("f", BIG)
    power_cut(lab)
    assert lab.lists() == NOTHING
    assert lab.objects() == {}


def test_closed_is_committed(lab: Lab) -> None:
    """Closing commits."""
    lab.create("f", BIG)
    lab.reopen()
    assert lab.read("f") == BIG


def test_sweep_takes_uncommitted_objects_only(lab: Lab) -> None:
    """At the next mount the objects that no commit names are gone, the others are there."""
    lab.create("old", BIG)
    lab.ov.commit()
    committed = lab.objects()
    for index in range(5):
        lab.create(f"new{index}", BIG)
    assert len(lab.objects()) == len(committed) + 5
    power_cut(lab)
    lab.open()
    assert lab.objects() == committed


def test_object_ids_are_not_used_twice(lab: Lab) -> None:
    """Ids of swept objects are not handed out again."""
    lab.create("a", BIG)
    lab.ov.commit()
    lab.create("b", BIG)
    swept = set(lab.objects())
    power_cut(lab)
    lab.create("c", BIG)
    lab.ov.commit()
    lab.create("d", BIG)
    assert len(set(lab.objects()) & swept) == 1  # a's


def test_many_crashes_reserve_no_more(lab: Lab) -> None:
    """The range that a mount has to look through stays small, however often there was a crash."""
    for index in range(6):
        lab.create(f"f{index}", BIG)
        lab.ov.commit()
        lab.create("lost", BIG)
        power_cut(lab)
        lab.open()
        assert lab.ov.objects.limit - lab.ov.objects.next_object <= 4 * ROOM
    assert lab.ov.objects.limit <= 7 * 4 * ROOM


def test_orphans_go_at_the_next_mount(lab: Lab) -> None:
    """A file unlinked but open is whole until it is let go; a remount lets go of all."""
    lab.put("base", BIG)
    made = lab.create("made", BIG)
    base = lab.ino("base")
    lab.write("base", b"B")
    for name in ("made", "base"):
        lab.ov.unlink(*lab.split(name))
    assert lab.ov.read(made, 0, 5) == b"xxxxx"
    assert lab.ov.read(base, 0, 5) == b"Bxxxx"
    lab.ov.write(made, 0, b"M")
    lab.ov.commit()
    power_cut(lab)
    lab.open()
    assert lab.rows("orphan") == 0
    lab.ov.commit()
    assert lab.objects() == {}
    assert lab.lists().deleted == {"base"}


def test_dropped_objects_wait_for_the_commit(lab: Lab) -> None:
    """An object that a commit has named is deleted after the commit that drops it, not before."""
    lab.create("f", BIG)
    lab.ov.commit()
    before = lab.objects()
    lab.unlink("f")
    assert lab.objects() == before
    commits = lab.ov.commits
    sealed = commits.seal()
    assert lab.objects() == before
    commits.harden()
    assert lab.objects() == before
    commits.finish(sealed)
    assert lab.objects() == {}


def test_dropped_object_that_no_commit_named(lab: Lab) -> None:
    """One that was never committed goes at once."""
    lab.create("f", BIG)
    lab.unlink("f")
    assert lab.objects() == {}


def test_garbage_rows_do_not_stay(lab: Lab) -> None:
    """Rows of garbage go with the next commit, at the latest when the overlay is closed."""
    lab.create("f", BIG)
    lab.ov.commit()
    lab.unlink("f")
    lab.ov.commit()
    lab.reopen()
    assert lab.rows("garbage") == 0


def test_shrink_is_trimmed_after_the_commit(lab: Lab) -> None:
    """The bytes beyond a shrink are still there until the commit that drops them is durable."""
    lab.create("f", BIG)
    lab.ov.commit()
    (name,) = lab.objects()
    lab.set("f", size=100)
    lab.set("f", size=5000)
    assert lab.read("f") == BIG[:100] + bytes(4900)
    assert lab.objects() == {name: 10_000}
    commits = lab.ov.commits
    sealed = commits.seal()
    commits.harden()
    assert lab.objects() == {name: 10_000}
    commits.finish(sealed)
    assert lab.objects() == {name: 100}
    assert lab.read("f") == BIG[:100] + bytes(4900)


def test_shrink_that_is_not_committed(lab: Lab) -> None:
    """After a crash a file that was cut, and written again, has all its bytes."""
    lab.create("f", BIG)
    lab.ov.commit()
    lab.set("f", size=100)
    lab.write("f", b"y" * 50, 5000)
    power_cut(lab)
    assert lab.read("f") == BIG


def test_bytes_that_were_never_committed_do_not_come_back(lab: Lab) -> None:
    """What a crash left beyond the end of an object reads as zeros when the file grows over it."""
    for name in ("grown", "written"):
        lab.create(name, BIG)
    lab.ov.commit()
    for name in ("grown", "written"):
        lab.write(name, b"secret" * 1000, 10_000)
    power_cut(lab)
    lab.set("grown", size=12_000)
    lab.write("written", b"y", 11_999)
    assert lab.read("grown") == BIG + bytes(2000)
    assert lab.read("written") == BIG + bytes(1999) + b"y"


def test_range_written_again_is_not_trimmed(lab: Lab) -> None:
    """A trim of a shrink is dropped for what was written beyond it before the commit was done."""
    lab.create("f", BIG)
    lab.ov.commit()
    lab.set("f", size=100)
    commits = lab.ov.commits
    sealed = commits.seal()
    lab.write("f", b"y" * 50, 5000)
    commits.harden()
    commits.finish(sealed)
    expected = BIG[:100] + bytes(4900) + b"y" * 50
    assert lab.read("f") == expected
    lab.reopen()
    assert lab.read("f") == expected


def test_truncation_to_nothing_takes_a_new_object(lab: Lab) -> None:
    """Cutting a committed file to 0 and writing it anew leaves the committed object alone."""
    lab.create("f", BIG)
    lab.ov.commit()
    (old,) = lab.objects()
    lab.set("f", size=0)
    lab.write("f", b"y" * 9000)
    assert lab.objects()[old] == 10_000
    power_cut(lab)
    assert lab.read("f") == BIG


def test_commit_without_changes_writes_nothing(lab: Lab) -> None:
    """Nothing dirty: no commit, no byte, no wear."""
    lab.create("f", BIG)
    lab.ov.commit()
    count = lab.ov.commits.count
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in lab.sto.glob("**/*")}
    lab.names()
    lab.read("f")
    lab.ov.commit()
    assert lab.ov.commits.count == count
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in lab.sto.glob("**/*")} == before


def test_read_only_after_a_crash(lab: Lab) -> None:
    """A read-only mount shows the last commit, from the log, and sweeps nothing."""
    lab.create("f", BIG)
    lab.ov.commit()
    lab.create("lost", BIG)
    power_cut(lab)
    before = lab.objects()
    lab.open(read_only=True)
    assert lab.names() == ["f"]
    assert lab.read("f") == BIG
    assert lab.objects() == before


def test_kill_with_a_redo_log(lab: Lab, tmp_path: Path) -> None:
    """With a redo log a killed process loses nothing that was done."""
    redo = tmp_path / "redo"
    redo.mkdir()
    lab.put("d/f", BIG)
    lab.open(redo_directory=str(redo))
    lab.rename("d/f", "g")
    ino = lab.create("new", BIG)
    lab.ov.commit()
    lab.write("new", b"N")
    lab.create("newer", BIG)
    lists, names = lab.lists(), lab.names()
    lab.kill()
    lab.open(redo_directory=str(redo))
    assert (lab.lists(), lab.names()) == (lists, names)
    assert lab.ino("new") == ino
    assert lab.read("new") == b"N" + BIG[1:]
    assert lab.read("newer") == BIG
    lab.close()
    assert list(redo.iterdir()) == []


def test_redo_log_of_another_copy_is_ignored(lab: Lab, tmp_path: Path) -> None:
    """A copy of a storage does not replay the log of the original."""
    redo = tmp_path / "redo"
    redo.mkdir()
    lab.open(redo_directory=str(redo))
    lab.create("f", BIG)
    lab.ov.commit()
    lab.create("lost", BIG)
    power_cut(lab)
    lab.open(redo_directory=str(redo))
    assert lab.names() == ["f"]


def test_failed_commit_turns_read_only(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a sync fails nothing more is changed, and the next mount shows the last commit."""
    lab.create("f", BIG)
    lab.ov.commit()
    lab.create("g", BIG)

    def broken(number: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(Exception, match="the overlay is read-only now"):
        lab.ov.commit()
    monkeypatch.undo()
    with pytest.raises(OSError, match="Read-only"):
        lab.create("h")
    assert lab.names() == ["f", "g"]
    lab.kill()
    lab.open()
    assert lab.names() == ["f"]


def test_numbers_survive(lab: Lab) -> None:
    """Inode numbers stay through copy-up, rename, commit, remount and crash."""
    lab.put("d/f", BIG)
    made = lab.create("made", BIG)
    numbers = {"d": lab.ino("d"), "d/f": lab.ino("d/f"), "made": made}
    lab.write("d/f", b"new")
    lab.rename("d", "e")
    lab.ov.commit()
    power_cut(lab)
    assert {"d": lab.ino("e"), "d/f": lab.ino("e/f"), "made": lab.ino("made")} == numbers
    lab.reopen()
    assert {"d": lab.ino("e"), "d/f": lab.ino("e/f"), "made": lab.ino("made")} == numbers
    assert lab.create("more") not in numbers.values()


def test_two_overlays_at_once(lab: Lab, tmp_path: Path) -> None:
    """One base may carry several overlays."""
    lab.put("f", BIG)
    (tmp_path / "sto2").mkdir()
    other = Overlay.open(str(lab.base), str(tmp_path / "sto2"))
    lab.write("f", b"one")
    attr = other.lookup(other.getattr(1).ino, b"f")  # type: ignore[arg-type]
    assert attr is not None
    assert other.read(attr.ino, 0, 3) == b"xxx"  # type: ignore[arg-type]
    other.close()
