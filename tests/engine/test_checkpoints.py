"""Checkpoints of an overlay that is not mounted: what they keep, what they cost, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from minifo.engine import Ino, Overlay
from minifo.engine.checkpoints import KEPT, NOTE_MAX
from minifo.engine.errors import StateError
from minifo.engine.recovery import BaseCheck
from minifo.engine.revert_to import revert_paths
from minifo.engine.store import history
from tests.shared.overlay_sandbox import OverlaySandbox

BIG = b"x" * 300_000
LARGE = os.urandom(400_000)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[OverlaySandbox]:
    """A base with some files, and an empty storage."""
    found = OverlaySandbox(tmp_path)
    found.put("f")
    found.put("d/large", LARGE)
    found.put("d/small", b"small")
    yield found
    found.close()


def objects(sandbox: OverlaySandbox) -> dict[str, bytes]:
    """The content objects on disk, with their bytes."""
    return {str(path): path.read_bytes() for path in sorted((sandbox.sto / "content").glob("*/*"))}


def kept_rows(sandbox: OverlaySandbox) -> int:
    """How many rows the history has."""
    return sum(sandbox.rows(f"was_{name}") for name in history.TABLES)


# -- what costs nothing


def test_without_a_checkpoint_nothing_is_kept(sandbox: OverlaySandbox) -> None:
    """There are no triggers, and no rows of history."""
    sandbox.create("new", BIG)
    sandbox.write("d/large", b"ours", 5000)
    sandbox.rename("f", "g")
    triggers = "SELECT count(*) FROM temp.sqlite_schema"
    assert sandbox.ov.db.value(triggers) == 0
    assert kept_rows(sandbox) == 0
    sandbox.ov.checkpoints.create("one")
    assert sandbox.ov.db.value(triggers) > 0
    sandbox.write("new", b"again")
    assert kept_rows(sandbox) > 0
    sandbox.ov.checkpoints.delete(["one"])
    assert sandbox.ov.db.value(triggers) == 0
    assert kept_rows(sandbox) == 0


def test_a_row_is_kept_once_for_each_checkpoint(sandbox: OverlaySandbox) -> None:
    """However often it changes: so history grows with what differs, not with how busy the overlay is."""
    sandbox.create("new", b"1")
    sandbox.ov.checkpoints.create("one")
    for turn in range(50):
        sandbox.write("new", b"%d" % turn)
        sandbox.set("new", mode=0o600 + turn % 8)
    assert sandbox.rows("was_inode") == 1
    assert sandbox.rows("was_small") == 1
    sandbox.ov.checkpoints.create("two")
    sandbox.write("new", b"later")
    assert sandbox.rows("was_inode") == 2


# -- frozen objects


def test_frozen_objects_are_never_written(sandbox: OverlaySandbox) -> None:
    """Writes, cuts, holes and reservations leave the bytes of a checkpoint alone."""
    sandbox.create("new", BIG)
    sandbox.write("d/large", b"ours", 8192)
    sandbox.ov.commit()
    sandbox.ov.checkpoints.create("one")
    before = objects(sandbox)
    ov = sandbox.ov
    for name in ("new", "d/large"):
        ino = sandbox.ino(name)
        sandbox.write(name, b"later", 8192)
        sandbox.write(name, b"far", 500_000)
        ov.fallocate(ino, 0x3, 4096, 4096)
        ov.fallocate(ino, 0x10, 20_000, 10_000)
        ov.fallocate(ino, 0, 600_000, 1000)
        ov.copy(ino, 0, ino, 700_000, 5000)
        sandbox.set(name, size=100_000)
        sandbox.set(name, size=200_000)
        ov.commit()
        sandbox.set(name, size=0)
        ov.commit()
    after = objects(sandbox)
    assert {name: after.get(name) for name in before} == before
    ov.checkpoints.rollback("one")
    assert sandbox.read("new") == BIG
    assert sandbox.read("d/large") == LARGE[:8192] + b"ours" + LARGE[8196:]


def test_a_write_to_a_frozen_object_is_refused(sandbox: OverlaySandbox) -> None:
    """The last line of defence: the store itself refuses it."""
    sandbox.create("new", BIG)
    sandbox.ov.checkpoints.create("one")
    store = sandbox.ov.objects
    number = sandbox.ov.db.value("SELECT object FROM inode WHERE object > 0")
    for change in (
        lambda: store.write(number, b"x", 0),
        lambda: store.truncate(number, 0),
        lambda: store.punch(number, 4096, 0),
        lambda: store.allocate(number, 4096, 0),
        lambda: store.clone_range(number, 0, 0, 4096, 0),
    ):
        with pytest.raises(OSError, match="belongs to a checkpoint"):
            change()


def test_one_byte_into_a_large_frozen_file_costs_one_block(sandbox: OverlaySandbox) -> None:
    """As one into a large base file does."""
    data = os.urandom(8 << 20)
    sandbox.create("huge", data)
    sandbox.ov.checkpoints.create("one")
    before = sandbox.allocated()
    sandbox.write("huge", b"!", 4 << 20)
    sandbox.ov.commit()
    assert sandbox.allocated() - before <= 64 << 10
    assert sandbox.read("huge") == data[: 4 << 20] + b"!" + data[(4 << 20) + 1 :]


def test_objects_go_when_nothing_needs_them(sandbox: OverlaySandbox) -> None:
    """Those of a deleted checkpoint, but not those that another one or the overlay itself needs."""
    sandbox.create("a", BIG)
    sandbox.create("b", BIG)
    sandbox.ov.checkpoints.create("one")
    sandbox.unlink("a")
    sandbox.ov.checkpoints.create("two")
    sandbox.set("b", size=0)
    sandbox.create("c", BIG)
    sandbox.ov.commit()
    assert len(objects(sandbox)) == 3
    sandbox.ov.checkpoints.delete(["one"])  # a goes; b is needed by two
    assert len(objects(sandbox)) == 2
    sandbox.ov.checkpoints.delete(["two"])
    assert len(objects(sandbox)) == 1
    assert sandbox.read("c") == BIG
    sandbox.reopen()
    assert len(objects(sandbox)) == 1


def test_a_deleted_checkpoint_hands_over(sandbox: OverlaySandbox) -> None:
    """What it kept is kept for the one before."""
    sandbox.create("a", b"first")
    sandbox.ov.checkpoints.create("one")
    sandbox.ov.checkpoints.create("two")
    sandbox.write("a", b"SECOND")
    sandbox.ov.checkpoints.create("three")
    sandbox.unlink("a")
    sandbox.ov.checkpoints.delete(["two"])
    sandbox.ov.checkpoints.rollback("one")
    assert sandbox.read("a") == b"first"
    sandbox.ov.checkpoints.rollback("three")
    assert sandbox.read("a") == b"SECOND"


# -- going back


def test_rollback_undo_redo(sandbox: OverlaySandbox) -> None:
    """There and back, with a checkpoint of each state that is left."""
    points = sandbox.ov.checkpoints
    sandbox.create("a", b"1")
    points.create("one", "the first", pinned=True)
    sandbox.unlink("f")
    sandbox.rename("d", "e")
    lists = sandbox.lists()
    restored = points.rollback("one")
    assert (restored.to.name, restored.left.name, restored.left.cause) == ("one", "before-rollback", "rollback")
    assert sandbox.names() == ["a", "d", "f"]
    assert sandbox.read("d/large") == LARGE
    points.undo()
    assert sandbox.lists() == lists
    assert sandbox.names("e") == ["large", "small"]
    points.redo()
    assert sandbox.names() == ["a", "d", "f"]
    with pytest.raises(StateError, match="nothing to redo"):
        points.redo()
    points.undo()
    points.rollback("one")
    with pytest.raises(StateError, match="nothing to redo"):
        points.redo()  # another command came after the undo
    assert sandbox.ov.check() == []


def test_what_was_left_by_undo_is_not_lost(sandbox: OverlaySandbox) -> None:
    """Changes between a command and its undo are in a checkpoint."""
    points = sandbox.ov.checkpoints
    points.create("one")
    sandbox.create("a", b"1")
    points.rollback("one")
    sandbox.create("b", b"2")
    left = points.undo().left
    assert sandbox.names() == ["a", "d", "f"]
    points.rollback(left.name)
    assert sandbox.names() == ["b", "d", "f"]


def test_automatic_checkpoints_are_bounded(sandbox: OverlaySandbox) -> None:
    """The oldest go; those of users, and pinned ones, stay."""
    points = sandbox.ov.checkpoints
    points.create("mine")
    pinned = points.rollback("mine").left.name
    points.pin(pinned, pinned=True)
    for _ in range(KEPT + 3):
        points.rollback("mine")
    found = points.all()
    assert [point.name for point in found if point.cause is None] == ["mine"]
    assert len([point for point in found if point.cause and not point.pinned]) == KEPT
    assert pinned in [point.name for point in found]


def test_an_unlinked_file_in_use_stays(sandbox: OverlaySandbox) -> None:
    """A program's temporary file, made after the checkpoint, is not taken away from it."""
    ov = sandbox.ov
    ov.checkpoints.create("one")
    ino = sandbox.create("temporary", BIG)
    ov.add_lookup(ino)
    ov.unlink(*sandbox.split("temporary"))
    sandbox.create("other")
    ov.checkpoints.rollback("one")
    assert sandbox.names() == ["d", "f"]
    assert ov.read(ino, 0, 5) == BIG[:5]
    ov.write(ino, 0, b"still")
    assert ov.read(ino, 0, 5) == b"still"
    ov.subtract_lookups([(ino, 1)])
    ov.commit()
    assert ov.check() == []


def test_a_changed_file_in_use_is_stale_until_it_is_looked_up(sandbox: OverlaySandbox) -> None:
    """What the kernel holds of it belongs to the file as it was; another one is not touched."""
    ov = sandbox.ov
    changed, same = sandbox.create("changed", b"1"), sandbox.create("same", b"2")
    ov.checkpoints.create("one")
    for ino in (changed, same):
        ov.add_lookup(ino)
    sandbox.write("changed", b"x")
    ov.checkpoints.rollback("one")
    with pytest.raises(OSError, match="Stale"):
        ov.write(changed, 0, b"old page")
    assert ov.read(same, 0, 1) == b"2"
    assert dict(ov.generations) == {changed: 1}
    ov.add_lookup(changed)  # the reply to a look-up
    assert ov.read(changed, 0, 1) == b"1"


@pytest.mark.logs("operations of a killed daemon were replayed")
def test_killed_after_a_rollback(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """The replay of the redo log keeps history as the daemon did."""
    (tmp_path / "redo").mkdir()
    sandbox.open(redo_directory=str(tmp_path / "redo"))
    sandbox.create("a", b"1")
    sandbox.ov.checkpoints.create("one")
    sandbox.write("a", b"2")
    sandbox.create("b", BIG)
    sandbox.kill()
    sandbox.open(redo_directory=str(tmp_path / "redo"))
    assert sandbox.read("a") == b"2"
    sandbox.ov.checkpoints.rollback("one")
    sandbox.create("c")
    sandbox.kill()
    sandbox.open(redo_directory=str(tmp_path / "redo"))
    assert sandbox.names() == ["a", "c", "d", "f"]
    assert sandbox.read("a") == b"1"
    sandbox.ov.checkpoints.undo()
    assert sandbox.read("b") == BIG
    assert sandbox.ov.check() == []


def test_a_return_knows_how_much_log_it_takes(sandbox: OverlaySandbox) -> None:
    """Its few statements change many rows: the space for their commit is known before it is made."""
    ov = sandbox.ov
    for number in range(1500):
        sandbox.create("n" * 200 + str(number))
    point = ov.checkpoints.create("one")
    for number in range(1500):
        sandbox.unlink("n" * 200 + str(number))
    ov.checkpoints.create("left")
    ov.db.restart_log()
    with ov.db.operation():
        ov.history.restore(point.id, point.next_ino, point.next_ino)
    most = ov.db.commit_bytes()
    ov.db.commit()
    assert 250 * 4120 < ov.db.wal_pages * 4120 <= most


# -- showing one


def test_a_checkpoint_is_shown_beside_a_writer(sandbox: OverlaySandbox) -> None:
    """As it was, whatever the writer does; it is not deleted meanwhile."""
    sandbox.create("a", BIG)
    sandbox.ov.checkpoints.create("one")
    sandbox.write("a", b"later")
    sandbox.unlink("f")
    shown = Overlay.open(str(sandbox.base), str(sandbox.sto), at="one")
    try:
        for _ in range(2):
            found = shown.find(b"/a")
            assert found is not None
            assert shown.read(found.ino, 0, len(BIG)) == BIG
            assert shown.find(b"/f") is not None
            assert shown.db.read_only
            sandbox.set("a", size=0)
            sandbox.ov.commit()
        with pytest.raises(StateError, match=r"one is mounted \(-o at=\)"):
            sandbox.ov.checkpoints.delete(["one"])
    finally:
        shown.close()
    sandbox.ov.checkpoints.delete(["one"])
    with pytest.raises(StateError, match="has no checkpoint 'one'"):
        Overlay.open(str(sandbox.base), str(sandbox.sto), at="one")


# -- another base


@pytest.mark.logs("is not the one of the last mount", always=False)
def test_checkpoints_follow_a_replaced_base(sandbox: OverlaySandbox, tmp_path: Path) -> None:
    """Files of a new base have other numbers; rows of checkpoints get them, too."""
    sandbox.write("f", b"ours")
    sandbox.ov.checkpoints.create("one")
    sandbox.write("d/small", b"SMALL")
    sandbox.rename("d", "e")
    sandbox.close()
    sandbox.base.rename(tmp_path / "old")
    sandbox.base.mkdir()
    (sandbox.base / "first").write_text("so that numbers move")
    sandbox.put("d/small", b"small")
    sandbox.put("d/large", LARGE)
    sandbox.put("f")
    sandbox.base_check = BaseCheck.IGNORE
    assert sandbox.names() == ["e", "f", "first"]
    sandbox.ov.checkpoints.rollback("one")
    assert sandbox.names() == ["d", "f", "first"]
    assert sandbox.read("d/small") == b"small"
    assert sandbox.read("f") == b"ours"
    sandbox.ov.checkpoints.undo()
    assert sandbox.read("e/small") == b"SMALL"
    assert sandbox.ov.check() == []


# -- bad input


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-o", "a/b", "a b", "a,b", "a@b", "\udcff", "x" * 65, "a\n", "é", "a\0b", "'; DROP--"]
)
def test_hostile_names(sandbox: OverlaySandbox, name: str) -> None:
    """A name becomes a mount option and a word on command lines."""
    sandbox.ov.checkpoints.create("good")
    with pytest.raises(StateError, match="cannot be the name"):
        sandbox.ov.checkpoints.create(name)
    with pytest.raises(StateError, match="cannot be the name"):
        sandbox.ov.checkpoints.rename("good", name)
    assert [point.name for point in sandbox.ov.checkpoints.all()] == ["good"]


def test_what_is_refused(sandbox: OverlaySandbox) -> None:
    """Names that are taken or unknown, a note that is too long; nothing changes."""
    points = sandbox.ov.checkpoints
    points.create("one")
    points.create("two")
    for call in (
        lambda: points.create("one"),
        lambda: points.rename("one", "two"),
        lambda: points.create("three", "n" * (NOTE_MAX + 1)),
        lambda: points.delete(["one", "none"]),
        lambda: points.rollback("none"),
        lambda: points.pin("none", pinned=True),
        points.undo,
        points.redo,
    ):
        with pytest.raises(StateError):
            call()
    assert [point.name for point in points.all()] == ["one", "two"]
    points.rename("one", "one")
    points.rename("one", "three")
    assert [point.name for point in points.all()] == ["three", "two"]


def test_names_of_the_time_differ(sandbox: OverlaySandbox) -> None:
    """Two in one second have two names."""
    names = {sandbox.ov.checkpoints.create().name for _ in range(3)}
    assert len(names) == 3


# -- single paths


def test_revert_in_a_very_deep_tree(sandbox: OverlaySandbox) -> None:
    """Deeper than the interpreter's stack."""
    ino = sandbox.mkdir("deep")
    for _ in range(1500):
        ino = Ino(sandbox.ov.mkdir(ino, b"d", 0o755, sandbox.me).ino)
    sandbox.unlink("f")
    done = revert_paths(sandbox.ov, [b"/"])
    assert len(done.actions) == 1502
    assert sandbox.names() == ["d", "f"]
    sandbox.reopen()
    assert sandbox.rows("inode") == 0
    sandbox.ov.checkpoints.undo()
    assert sandbox.names() == ["d", "deep"]
    assert sandbox.ov.check() == []


def test_reverts_that_are_refused(sandbox: OverlaySandbox) -> None:
    """What is nowhere, and what cannot be reached; all or nothing."""
    sandbox.write("f", b"ours")
    sandbox.ov.rename(*sandbox.split("d"), *sandbox.split("e"))
    for path in (b"/nothing", b"/d/small", b"/f/below"):
        with pytest.raises(StateError):
            revert_paths(sandbox.ov, [b"/f", path])
    assert sandbox.read("f") == b"ours"
    assert sandbox.ov.checkpoints.all() == []
    assert revert_paths(sandbox.ov, [b"/e/small"]).restored is None


@pytest.mark.parametrize("clock", [None, lambda: 1_800_000_000 * 10**9], ids=["clock", "stopped clock"])
def test_revert_to_a_checkpoint(sandbox: OverlaySandbox, clock: Callable[[], int] | None) -> None:
    """A path is as it was then, wherever its objects are now, and all else stays; times need not tell what changed."""
    sandbox.reopen(clock=clock)
    sandbox.write("f", b"then")
    sandbox.mkdir("new")
    sandbox.create("new/file")
    sandbox.write("new/file", b"then")
    sandbox.ov.rename(*sandbox.split("d"), *sandbox.split("e"))
    sandbox.ov.checkpoints.create("good")
    sandbox.write("f", b"now!")
    sandbox.unlink("new/file")
    sandbox.rmdir("new")
    sandbox.ov.rename(*sandbox.split("e/small"), *sandbox.split("moved"))
    sandbox.create("later")
    sandbox.write("later", b"later")
    done = revert_paths(sandbox.ov, [b"/e", b"/new", b"/f"], to="good")
    assert sorted((action.what, action.path, action.other) for action in done.actions) == [
        ("moved back", b"/moved", b"/e/small"),
        ("restored", b"/f", None),
        ("shown again", b"/new", None),
        ("shown again", b"/new/file", None),
    ]
    assert (sandbox.read("f"), sandbox.read("new/file"), sandbox.read("later")) == (b"then", b"then", b"later")
    assert sandbox.names() == ["e", "f", "later", "new"]
    assert sandbox.ov.check() == []
    sandbox.reopen()
    sandbox.ov.checkpoints.undo()
    assert sandbox.names() == ["e", "f", "later", "moved"]
    assert sandbox.read("f") == b"now!"


def test_reverts_to_a_checkpoint_that_are_refused(sandbox: OverlaySandbox) -> None:
    """No such checkpoint, nothing there, or below a directory that is another one: the next step is told."""
    sandbox.ov.checkpoints.create("good")
    sandbox.ov.rename(*sandbox.split("d"), *sandbox.split("e"))
    sandbox.mkdir("d")
    for path, to, what in (
        (b"/d", "bad", "there is no checkpoint 'bad'"),
        (b"/nothing", "good", "neither the overlay nor checkpoint good has /nothing"),
        (b"/d/small", "good", "/d is not the directory that was there at checkpoint good"),
        (b"/e/small", "good", "/e is not the directory that was there at checkpoint good"),
    ):
        with pytest.raises(StateError, match=what):
            revert_paths(sandbox.ov, [path], to=to)
    assert [checkpoint.name for checkpoint in sandbox.ov.checkpoints.all()] == ["good"]
    assert [action.what for action in revert_paths(sandbox.ov, [b"/d"], to="good").actions] == ["removed", "moved back"]


def test_revert_of_a_removed_directory_with_files_in_use(sandbox: OverlaySandbox) -> None:
    """A file in it that a program holds open, and that has two names, is the base's again, not one without names."""
    for to in (None, "good"):
        sandbox.ov.checkpoints.create("good")
        os.link(sandbox.base / "d/small", sandbox.base / "d/second") if to is None else None
        for path in ("d/small", "d/second"):
            sandbox.ov.add_lookup(sandbox.ino(path))
        sandbox.ov.add_lookup(sandbox.ino("d"))
        for entry in sorted(os.listdir(sandbox.base / "d")):
            sandbox.unlink(f"d/{entry}")
        sandbox.rmdir("d")
        revert_paths(sandbox.ov, [b"/d"], to=to)
        assert sandbox.ov.check() == []
        assert sandbox.read("d/small") == (sandbox.base / "d/small").read_bytes()
        sandbox.ov.checkpoints.delete([checkpoint.name for checkpoint in sandbox.ov.checkpoints.all()])
