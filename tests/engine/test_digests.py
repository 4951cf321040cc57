"""Digests of frozen objects while an overlay is open: which are recorded, and when they go."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from minifo.engine import Overlay, digests
from minifo.engine.clone import clone_overlay
from minifo.engine.errors import FsError
from minifo.engine.store.object_paths import object_name
from tests.shared.digests import record_digests, recorded, wrong_digests
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = os.urandom(300_000)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """An empty base, and a storage with three files."""
    found = OverlaySandbox(tmp_path)
    for name in ("a", "b", "c"):
        found.create(name, name.encode() + BIG)
    found.ov.commit()
    yield found
    found.close()


def object_of(sandbox: OverlaySandbox, path: str) -> int:
    """The object with a file's bytes."""
    return int(sandbox.ov.db.value("SELECT object FROM inode WHERE ino = ?", (sandbox.ino(path),)))


def test_without_a_checkpoint_there_is_nothing_to_do(sandbox: OverlaySandbox) -> None:
    """Nothing is frozen, so nothing is read and nothing written."""
    assert not sandbox.ov.digests.is_behind
    record_digests(sandbox.ov)
    assert not sandbox.ov.commits.is_needed
    assert recorded(sandbox.ov) == {}


def test_frozen_objects_get_digests_once(sandbox: OverlaySandbox) -> None:
    """All of a directory in one operation; later ones when the next checkpoint freezes them."""
    ov = sandbox.ov
    ov.checkpoints.create("one")
    assert ov.digests.is_behind
    before = ov.operations
    record_digests(ov, step=100_000)
    assert ov.operations == before + 1
    assert set(recorded(ov)) == {object_of(sandbox, name) for name in "abc"}
    assert wrong_digests(ov) == []
    assert not ov.digests.is_behind
    sandbox.create("d", BIG)
    assert not ov.digests.is_behind
    ov.checkpoints.create("two")
    record_digests(ov)
    assert object_of(sandbox, "d") in recorded(ov)
    sandbox.reopen()
    before = sandbox.ov.operations
    record_digests(sandbox.ov)
    assert sandbox.ov.operations == before
    assert len(recorded(sandbox.ov)) == 4
    assert sandbox.ov.check() == []


def test_it_goes_when_its_object_ceases_to_be_frozen(sandbox: OverlaySandbox) -> None:
    """In the transaction that deletes the checkpoint; so a kill brings back both, or none."""
    ov = sandbox.ov
    ov.checkpoints.create("one")
    sandbox.create("d", BIG)
    ov.checkpoints.create("two")
    record_digests(ov)
    ov.commit()
    assert len(recorded(ov)) == 4
    ov.checkpoints.delete(["two"])
    assert set(recorded(ov)) == {object_of(sandbox, name) for name in "abc"}
    sandbox.write("d", b"in place", 1000)
    ov.commit()
    ov.checkpoints.create("three")
    record_digests(ov)
    assert wrong_digests(ov) == []
    ov.checkpoints.delete(["one", "three"])
    assert recorded(ov) == {}
    assert ov.check() == []


def test_what_is_deleted_but_not_durable_stays_frozen(sandbox: OverlaySandbox) -> None:
    """A power cut brings the checkpoint back, with its digests and the bytes that it had."""
    ov = sandbox.ov
    points = ov.checkpoints
    points.create("one")
    record_digests(ov)
    ov.commit()
    with points._operation():  # as ``delete`` does it; the commit after it is postponed
        points._drop(points.find("one"))
    assert recorded(ov) == {}
    assert ov.objects.is_frozen(object_of(sandbox, "a"))
    sandbox.write("a", b"not in place")
    sandbox.kill()
    assert len(recorded(sandbox.ov)) == 3
    assert wrong_digests(sandbox.ov) == []
    sandbox.ov.checkpoints.rollback("one")
    assert sandbox.read("a") == b"a" + BIG
    sandbox.ov.checkpoints.delete([point.name for point in sandbox.ov.checkpoints.all()])
    assert not sandbox.ov.objects.is_frozen(object_of(sandbox, "a"))


def test_it_goes_with_garbage(sandbox: OverlaySandbox) -> None:
    """But not while a checkpoint needs the object."""
    ov = sandbox.ov
    ov.checkpoints.create("one")
    number = object_of(sandbox, "a")
    record_digests(ov)
    sandbox.unlink("a")
    ov.commit()
    assert number in recorded(ov)
    ov.checkpoints.create("two")
    ov.checkpoints.delete(["one"])
    assert number not in recorded(ov)
    assert not (sandbox.sto / object_name(number)).exists()
    assert len(recorded(ov)) == 2


def test_what_was_read_before_a_thaw_does_not_count(sandbox: OverlaySandbox) -> None:
    """The object was written and frozen again while it was being read: the digest would be of neither state."""
    ov = sandbox.ov
    ov.checkpoints.create("one")
    batch = ov.digests.begin()
    while not batch.is_done:
        batch.advance(1 << 30)
    ov.checkpoints.delete(["one"])
    sandbox.write("a", b"in place", 100)
    ov.checkpoints.create("again")
    ov.digests.record(batch)
    assert recorded(ov) == {}
    assert ov.digests.is_behind
    record_digests(ov)
    assert len(recorded(ov)) == 3
    assert wrong_digests(ov) == []


def test_what_became_garbage_while_it_was_read_is_left_out(sandbox: OverlaySandbox) -> None:
    """Its file is gone when the batch is recorded."""
    ov = sandbox.ov
    sandbox.create("d", BIG)
    ov.checkpoints.create("one")
    gone = object_of(sandbox, "a")
    sandbox.unlink("a")
    ov.checkpoints.create("two")
    batch = ov.digests.begin()
    while not batch.is_done:
        batch.advance(1 << 30)
    assert gone in batch.found
    ov.checkpoints.delete(["one"])
    sandbox.write("b", b"!")
    ov.commit()
    ov.digests.record(batch)
    assert gone not in recorded(ov)
    assert wrong_digests(ov) == []


def test_a_batch_ends_after_so_many_bytes(sandbox: OverlaySandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one begins with the next object."""
    monkeypatch.setattr(digests, "_BATCH", 100_000)
    ov = sandbox.ov
    ov.checkpoints.create("one")
    before = ov.operations
    record_digests(ov)
    assert ov.operations == before + 3
    assert len(recorded(ov)) == 3


def test_directories_go_one_by_one(sandbox: OverlaySandbox) -> None:
    """However many ids between them no object has."""
    ov = sandbox.ov
    ov.objects.limit = 1 << 50
    ov.objects.next_object = (1 << 40) + 7
    sandbox.create("far", BIG)
    ov.checkpoints.create("one")
    before = ov.operations
    record_digests(ov)
    assert ov.operations == before + 2
    assert set(recorded(ov)) == {object_of(sandbox, name) for name in ("a", "b", "c", "far")}


def test_what_is_thawed_and_frozen_again_gets_another(sandbox: OverlaySandbox) -> None:
    """Also if nobody was idle between the two."""
    ov = sandbox.ov
    ov.checkpoints.create("one")
    sandbox.create("d", BIG)
    ov.checkpoints.create("two")
    record_digests(ov)
    ov.checkpoints.delete(["two"])
    sandbox.write("d", b"in place", 1000)
    sandbox.create("e", BIG)
    ov.checkpoints.create("three")
    record_digests(ov)
    assert set(recorded(ov)) == {object_of(sandbox, name) for name in "abcde"}
    assert wrong_digests(ov) == []


@pytest.mark.logs("cannot be read .*; run minifo-fsck --verify-data")
def test_an_object_that_cannot_be_read_is_told_and_left_out(sandbox: OverlaySandbox) -> None:
    """All others get theirs; one that is missing is left to reads and to fsck."""
    ov = sandbox.ov
    ov.checkpoints.create("one")
    for name in "ab":
        path = sandbox.sto / object_name(object_of(sandbox, name))
        path.unlink()
        if name == "a":
            path.mkdir()
    record_digests(ov)
    assert set(recorded(ov)) == {object_of(sandbox, "c")}


def test_on_a_full_storage_nothing_is_read(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """There is no room to record it."""
    sandbox.ov.checkpoints.create("one")
    sandbox.reopen(max_size=200_000)
    assert sandbox.ov.digests.is_behind
    with pytest.raises(FsError) as raised:
        sandbox.ov.digests.begin()
    assert raised.value.errno == errno.ENOSPC


def test_a_read_only_overlay_records_nothing(sandbox: OverlaySandbox) -> None:
    """Nor one that shows a checkpoint."""
    sandbox.ov.checkpoints.create("one")
    for options in ({"read_only": True}, {"at": "one"}):
        sandbox.reopen(**options)
        assert not sandbox.ov.digests.is_behind


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_killed_after_recording_and_deleting(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """The replay of the redo log records them, and drops them, as the daemon did."""
    redo = tmp_path / "redo"
    redo.mkdir()
    sandbox.reopen(redo_directory=str(redo))
    sandbox.ov.checkpoints.create("one")
    sandbox.create("d", BIG)
    sandbox.ov.checkpoints.create("two")
    record_digests(sandbox.ov)
    expected = recorded(sandbox.ov)
    assert len(expected) == 4
    sandbox.kill()
    sandbox.open(redo_directory=str(redo))
    assert recorded(sandbox.ov) == expected
    assert sandbox.ov.check() == []


def test_a_clone_begins_without_digests(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """No checkpoint freezes its objects; those that it shares get digests in either storage when one does."""
    ov = sandbox.ov
    ov.checkpoints.create("one")
    record_digests(ov)
    clone_overlay(ov, None, str(tmp_path / "clone"))
    assert len(recorded(ov)) == 3
    sandbox.close()
    clone = Overlay.open(str(sandbox.base), str(tmp_path / "clone"))
    try:
        assert recorded(clone) == {}
        assert clone.check() == []
        clone.checkpoints.create("mine")
        record_digests(clone)
        assert recorded(clone) == recorded(sandbox.ov)
    finally:
        clone.close()
