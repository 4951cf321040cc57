"""Commits, and recovery after a crash: what is lost, what the next mount deletes, and when objects are deleted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from minifo.engine import Overlay
from minifo.engine.store.object_paths import ID_BLOCK
from tests.shared.overlay_sandbox import NOTHING, OverlaySandbox

BIG = b"x" * 10_000  # above what is kept in a row


def power_cut(sandbox: OverlaySandbox) -> None:
    """Replace the storage by its present state on disk and open the overlay again, as after a power cut."""
    copy = Path(f"{sandbox.sto}.cut")
    shutil.copytree(sandbox.sto, copy, ignore=shutil.ignore_patterns("*-shm"))
    sandbox.kill()
    shutil.rmtree(sandbox.sto)
    copy.rename(sandbox.sto)


def test_uncommitted_changes_vanish_wholly(sandbox: OverlaySandbox) -> None:
    """After a crash names, attributes, bytes and content objects are those of the last commit."""
    sandbox.put("d/f", BIG)
    sandbox.put("gone", BIG)
    sandbox.create("kept", BIG)
    sandbox.ov.commit()
    committed = sandbox.lists(), sandbox.names(), sandbox.objects()
    sandbox.write("d/f", b"new")
    sandbox.unlink("gone")
    sandbox.rename("d", "e")
    sandbox.create("e/new", BIG)
    sandbox.set("kept", mode=0, size=3)
    sandbox.unlink("kept")
    power_cut(sandbox)
    assert (sandbox.lists(), sandbox.names(), sandbox.objects()) == committed
    assert sandbox.read("kept") == sandbox.read("gone") == sandbox.read("d/f") == BIG


def test_nothing_was_ever_committed(sandbox: OverlaySandbox) -> None:
    """A crash before the first commit leaves an empty overlay and no object."""
    sandbox.create("f", BIG)
    power_cut(sandbox)
    assert sandbox.lists() == NOTHING
    assert sandbox.objects() == {}


def test_closed_is_committed(sandbox: OverlaySandbox) -> None:
    """Closing an overlay commits."""
    sandbox.create("f", BIG)
    sandbox.reopen()
    assert sandbox.read("f") == BIG


def test_sweep_takes_uncommitted_objects_only(sandbox: OverlaySandbox) -> None:
    """The next mount deletes the content objects that no commit uses, and keeps the others."""
    sandbox.create("old", BIG)
    sandbox.ov.commit()
    committed = sandbox.objects()
    for index in range(5):
        sandbox.create(f"new{index}", BIG)
    assert len(sandbox.objects()) == len(committed) + 5
    power_cut(sandbox)
    sandbox.open()
    assert sandbox.objects() == committed


def test_object_ids_are_not_used_twice(sandbox: OverlaySandbox) -> None:
    """Ids of objects that a mount has deleted are not used again."""
    sandbox.create("a", BIG)
    sandbox.ov.commit()
    sandbox.create("b", BIG)
    swept = set(sandbox.objects())
    power_cut(sandbox)
    sandbox.create("c", BIG)
    sandbox.ov.commit()
    sandbox.create("d", BIG)
    assert len(set(sandbox.objects()) & swept) == 1  # a's


def test_many_crashes_reserve_no_more(sandbox: OverlaySandbox) -> None:
    """The range of ids that a mount must search stays small after many crashes."""
    for index in range(6):
        sandbox.create(f"f{index}", BIG)
        sandbox.ov.commit()
        sandbox.create("lost", BIG)
        power_cut(sandbox)
        sandbox.open()
        assert sandbox.ov.objects.limit - sandbox.ov.objects.next_object <= 4 * ID_BLOCK
    assert sandbox.ov.objects.limit <= 7 * 4 * ID_BLOCK


def test_orphans_go_at_the_next_mount(sandbox: OverlaySandbox) -> None:
    """A file that is unlinked but open keeps its content until the kernel forgets it; a remount deletes all of them."""
    sandbox.put("base", BIG)
    made = sandbox.create("made", BIG)
    base = sandbox.ino("base")
    sandbox.write("base", b"B")
    for name in ("made", "base"):
        sandbox.ov.unlink(*sandbox.split(name))
    assert sandbox.ov.read(made, 0, 5) == b"xxxxx"
    assert sandbox.ov.read(base, 0, 5) == b"Bxxxx"
    sandbox.ov.write(made, 0, b"M")
    sandbox.ov.commit()
    power_cut(sandbox)
    sandbox.open()
    assert sandbox.rows("orphan") == 0
    sandbox.ov.commit()
    assert sandbox.objects() == {}
    assert sandbox.lists().deleted == {"base"}


def test_dropped_objects_wait_for_the_commit(sandbox: OverlaySandbox) -> None:
    """An object that a commit uses is deleted only after the next commit that no longer uses it."""
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    before = sandbox.objects()
    sandbox.unlink("f")
    assert sandbox.objects() == before
    commits = sandbox.ov.commits
    sealed = commits.seal()
    assert sandbox.objects() == before
    commits.harden()
    assert sandbox.objects() == before
    commits.finish(sealed)
    assert sandbox.objects() == {}


def test_dropped_object_that_no_commit_named(sandbox: OverlaySandbox) -> None:
    """An object that no commit uses is deleted at once."""
    sandbox.create("f", BIG)
    sandbox.unlink("f")
    assert sandbox.objects() == {}


def test_garbage_rows_do_not_stay(sandbox: OverlaySandbox) -> None:
    """Rows of garbage are deleted by the next commit, at the latest when the overlay is closed."""
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    sandbox.unlink("f")
    sandbox.ov.commit()
    sandbox.reopen()
    assert sandbox.rows("garbage") == 0


def test_shrink_is_trimmed_after_the_commit(sandbox: OverlaySandbox) -> None:
    """The bytes that a shrink cuts off stay on disk until the commit of the shrink is durable."""
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    (name,) = sandbox.objects()
    sandbox.set("f", size=100)
    sandbox.set("f", size=5000)
    assert sandbox.read("f") == BIG[:100] + bytes(4900)
    assert sandbox.objects() == {name: 10_000}
    commits = sandbox.ov.commits
    sealed = commits.seal()
    commits.harden()
    assert sandbox.objects() == {name: 10_000}
    commits.finish(sealed)
    assert sandbox.objects() == {name: 100}
    assert sandbox.read("f") == BIG[:100] + bytes(4900)


def test_shrink_that_is_not_committed(sandbox: OverlaySandbox) -> None:
    """After a crash a file whose shrink was not committed has all its bytes."""
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    sandbox.set("f", size=100)
    sandbox.write("f", b"y" * 50, 5000)
    power_cut(sandbox)
    assert sandbox.read("f") == BIG


def test_bytes_that_were_never_committed_do_not_come_back(sandbox: OverlaySandbox) -> None:
    """Bytes that a crash has left beyond the committed end of a file read as zeros when the file grows."""
    for name in ("grown", "written"):
        sandbox.create(name, BIG)
    sandbox.ov.commit()
    for name in ("grown", "written"):
        sandbox.write(name, b"secret" * 1000, 10_000)
    power_cut(sandbox)
    sandbox.set("grown", size=12_000)
    sandbox.write("written", b"y", 11_999)
    assert sandbox.read("grown") == BIG + bytes(2000)
    assert sandbox.read("written") == BIG + bytes(1999) + b"y"


def test_range_written_again_is_not_trimmed(sandbox: OverlaySandbox) -> None:
    """Bytes written beyond a shrink before its commit has finished are not trimmed."""
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    sandbox.set("f", size=100)
    commits = sandbox.ov.commits
    sealed = commits.seal()
    sandbox.write("f", b"y" * 50, 5000)
    commits.harden()
    commits.finish(sealed)
    expected = BIG[:100] + bytes(4900) + b"y" * 50
    assert sandbox.read("f") == expected
    sandbox.reopen()
    assert sandbox.read("f") == expected


def test_truncation_to_nothing_takes_a_new_object(sandbox: OverlaySandbox) -> None:
    """Truncating a committed file to 0 and writing to it leaves the committed object unchanged."""
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    (old,) = sandbox.objects()
    sandbox.set("f", size=0)
    sandbox.write("f", b"y" * 9000)
    assert sandbox.objects()[old] == 10_000
    power_cut(sandbox)
    assert sandbox.read("f") == BIG


def test_commit_without_changes_writes_nothing(sandbox: OverlaySandbox) -> None:
    """A commit without changes writes no byte."""
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    count = sandbox.ov.commits.count
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sandbox.sto.glob("**/*")}
    sandbox.names()
    sandbox.read("f")
    sandbox.ov.commit()
    assert sandbox.ov.commits.count == count
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sandbox.sto.glob("**/*")} == before


def test_read_only_after_a_crash(sandbox: OverlaySandbox) -> None:
    """A read-only mount shows the last commit, also from the write-ahead log, and deletes nothing."""
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    sandbox.create("lost", BIG)
    power_cut(sandbox)
    before = sandbox.objects()
    sandbox.open(read_only=True)
    assert sandbox.names() == ["f"]
    assert sandbox.read("f") == BIG
    assert sandbox.objects() == before


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_kill_with_a_redo_log(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """With a redo log a killed process loses no acknowledged operation."""
    redo = tmp_path / "redo"
    redo.mkdir()
    sandbox.put("d/f", BIG)
    sandbox.open(redo_directory=str(redo))
    sandbox.rename("d/f", "g")
    ino = sandbox.create("new", BIG)
    sandbox.ov.commit()
    sandbox.write("new", b"N")
    sandbox.create("newer", BIG)
    lists, names = sandbox.lists(), sandbox.names()
    sandbox.kill()
    sandbox.open(redo_directory=str(redo))
    assert (sandbox.lists(), sandbox.names()) == (lists, names)
    assert sandbox.ino("new") == ino
    assert sandbox.read("new") == b"N" + BIG[1:]
    assert sandbox.read("newer") == BIG
    sandbox.close()
    assert list(redo.iterdir()) == []


def test_redo_log_of_another_copy_is_ignored(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """A copy of a storage does not replay the log of the original."""
    redo = tmp_path / "redo"
    redo.mkdir()
    sandbox.open(redo_directory=str(redo))
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    sandbox.create("lost", BIG)
    power_cut(sandbox)
    sandbox.open(redo_directory=str(redo))
    assert sandbox.names() == ["f"]


def test_failed_commit_turns_read_only(sandbox: OverlaySandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed sync the overlay is read-only, and the next mount shows the last commit."""
    sandbox.create("f", BIG)
    sandbox.ov.commit()
    sandbox.create("g", BIG)

    def broken(number: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(Exception, match="the overlay is read-only now"):
        sandbox.ov.commit()
    monkeypatch.undo()
    with pytest.raises(OSError, match="Read-only"):
        sandbox.create("h")
    assert sandbox.names() == ["f", "g"]
    sandbox.kill()
    sandbox.open()
    assert sandbox.names() == ["f"]


def test_numbers_survive(sandbox: OverlaySandbox) -> None:
    """An object keeps its inode number through copy-up, rename, commit, remount and crash."""
    sandbox.put("d/f", BIG)
    made = sandbox.create("made", BIG)
    numbers = {"d": sandbox.ino("d"), "d/f": sandbox.ino("d/f"), "made": made}
    sandbox.write("d/f", b"new")
    sandbox.rename("d", "e")
    sandbox.ov.commit()
    power_cut(sandbox)
    assert {"d": sandbox.ino("e"), "d/f": sandbox.ino("e/f"), "made": sandbox.ino("made")} == numbers
    sandbox.reopen()
    assert {"d": sandbox.ino("e"), "d/f": sandbox.ino("e/f"), "made": sandbox.ino("made")} == numbers
    assert sandbox.create("more") not in numbers.values()


def test_two_overlays_at_once(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """One base may carry several overlays."""
    sandbox.put("f", BIG)
    (tmp_path / "sto2").mkdir()
    other = Overlay.open(str(sandbox.base), str(tmp_path / "sto2"))
    sandbox.write("f", b"one")
    attr = other.lookup(other.getattr(1).ino, b"f")  # type: ignore[arg-type]
    assert attr is not None
    assert other.read(attr.ino, 0, 3) == b"xxx"  # type: ignore[arg-type]
    other.close()
