"""Single faults in the verbs of checkpoints: every step of storage I/O fails once, with EIO and with ENOSPC.

The verb is done, or it is not, and says which; what was acknowledged before stays, and what checkpoints hold, too.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator

import pytest

from minifo.engine import ROOT, Ino, Overlay, SetAttr, StateError, checkpoints
from minifo.engine.errors import CommitPostponed, NotDurable
from minifo.engine.reset import reset
from minifo.engine.revert_to import revert_paths
from minifo.engine.store.object_paths import object_name
from minifo.fusefront.control.patterns import Choice
from tests.crash.contents import PUNCH, fill
from tests.crash.io_fault_injector import Injector
from tests.crash.recorded_overlay import CALLER, Seen, Tree, make_base, seen, tree_of
from tests.shared.digests import record_digests, wrong_digests

pytestmark = pytest.mark.logs(
    "operations of a killed daemon were replayed",
    "storage .* failed \\(.*\\); the overlay is read-only now",
    "the reserve is given up until there is room",
    "is committed by itself until there is room",
    "cannot be deleted now",
    "cannot be read \\(.*\\); run minifo-fsck --verify-data",
    "cannot be read: (Input/output error|Stale file handle)",
    "does not follow the last commit; kept as",
    "content did not arrive",
    "old checkpoints stay",
    "the journal is damaged \\(.*injected.*is not noted",
    always=False,
)

CODES = pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
_NOW = 1_900_000_000 * 10**9  # ns: the time of what is pending, and of a verb
_MOST = 400  # steps: far more than any verb takes

#: Each with what it adds to the names of checkpoints, what it takes away, and the checkpoint whose tree shows then.
VERBS: dict[str, tuple[Callable[[Overlay], object], set[str], set[str], str | None]] = {
    "create": (lambda o: o.checkpoints.create("new"), {"new"}, set(), None),
    "delete": (lambda o: o.checkpoints.delete(["one"]), set(), {"one"}, None),
    "rollback": (lambda o: o.checkpoints.rollback("one"), {"before-rollback-2"}, {"before-rollback"}, "one"),
    "reset": (lambda o: reset(o, Choice(["gone"])), {"before-reset"}, {"before-rollback"}, "reset"),
    "revert": (lambda o: revert_paths(o, [b"/"], to="one"), {"before-revert"}, {"before-rollback"}, "revert"),
    "undo": (lambda o: o.checkpoints.undo(), {"before-undo"}, set(), "before-rollback"),
    "digest": (lambda o: _digest(o), set(), set(), None),
}
#: A rollback and an undo take the same steps, so each fails every other one of them; others take most of these:
#: first, distance.
_STEPS = {"rollback": (0, 2), "undo": (1, 2), "reset": (0, 3), "revert": (1, 3)}
_KEPT = {"undo": 2}  # automatic checkpoints that are kept, so that a rollback prunes one


def _digest(overlay: Overlay) -> None:
    try:
        record_digests(overlay)
    except OSError as error:
        raise StateError(str(error), "") from error


class Ground:
    """A storage with checkpoints to start from, each time anew."""

    def __init__(self) -> None:
        root = "/dev/shm" if os.path.isdir("/dev/shm") else None
        self.scratch = tempfile.mkdtemp(prefix="minifo-faults-", dir=root)
        self.base = make_base(os.path.join(self.scratch, "base"))
        self.template = os.path.join(self.scratch, "template")
        self.injector = Injector()
        for name in ("template", "redo"):
            os.mkdir(os.path.join(self.scratch, name))
        overlay = Overlay.open(self.base, self.template)
        change(overlay, 1)
        overlay.checkpoints.create("one")
        change(overlay, 2)
        overlay.checkpoints.rollback("one")
        change(overlay, 3)
        overlay.close()
        self.committed = self.look(self.template)
        self.shown = {point.name: self.at(self.template, point.name) for point in self.committed.points}
        self.left_by = {verb: self._left_by(verb) for verb in ("reset", "revert")}

    def _left_by(self, verb: str) -> Tree:
        """What a verb leaves of the template with what is pending before it."""
        overlay = Overlay.open(self.base, self.copy(), clone=False, clock=lambda: _NOW)
        _pending(overlay)
        VERBS[verb][0](overlay)
        try:
            return seen(overlay).tree
        finally:
            overlay.close()

    def open(self, storage: str, *, aside: bool = False) -> Overlay:
        """Mount, with steps counted and a redo log kept."""
        return Overlay.open(
            self.base,
            storage,
            storage_io=self.injector.storage,
            vfs=self.injector.vfs,
            redo_directory=os.path.join(self.scratch, "redo"),
            redo_aside=aside,
            clock=lambda: _NOW,
            clone=False,
        )

    def copy(self) -> str:
        """A fresh copy of the storage."""
        path = tempfile.mkdtemp(dir=self.scratch)
        shutil.copytree(self.template, path, dirs_exist_ok=True)
        return path

    def look(self, storage: str) -> Seen:
        """What a storage shows."""
        overlay = Overlay.open(self.base, storage, read_only=True, clone=False)
        try:
            return seen(overlay)
        finally:
            overlay.close()

    def at(self, storage: str, name: str) -> Tree:
        """What a checkpoint holds."""
        overlay = Overlay.open(self.base, storage, at=name, clone=False)
        try:
            return tree_of(overlay)
        finally:
            overlay.close()


@pytest.fixture(scope="module")
def ground(figures: list[str]) -> Iterator[Ground]:
    """See the class."""
    made = Ground()
    yield made
    figures.append(f"{made.injector.count} steps of storage I/O were failed in verbs of checkpoints, one at a time")
    made.injector.close()
    shutil.rmtree(made.scratch)


def _ino(overlay: Overlay, name: bytes) -> Ino:
    attr = overlay.lookup(ROOT, name)
    if attr is None:
        attr = overlay.mknod(ROOT, name, 0o644, 0, CALLER)
    return Ino(attr.ino)


def change(overlay: Overlay, turn: int) -> None:
    """Change something of every kind, also what is frozen."""
    overlay.write(_ino(overlay, b"big"), 100 * turn, fill(turn, 5000))
    overlay.write(_ino(overlay, b"small"), 0, fill(turn, 50))
    overlay.write(_ino(overlay, b"large"), 5000 * turn, fill(turn, 2000))
    overlay.setattr(_ino(overlay, b"big"), SetAttr(size=6000 - 1000 * turn))
    overlay.fallocate(_ino(overlay, b"large"), PUNCH, 4096 * turn, 4096)
    gone = _ino(overlay, b"gone")
    if turn > 1:  # what the checkpoint before still needs
        overlay.unlink(ROOT, b"gone")
        overlay.forget([gone])
        gone = _ino(overlay, b"gone")
    overlay.write(gone, 0, fill(turn, 3000))
    overlay.unlink(ROOT, b"b" if turn == 1 else b"small")
    overlay.commit()


def _pending(overlay: Overlay) -> None:
    """What was acknowledged, but not committed, before the verb."""
    overlay.write(_ino(overlay, b"pending"), 0, fill(20, 2500))
    overlay.write(_ino(overlay, b"small"), 0, fill(21, 100))
    overlay.unlink(ROOT, b"a")


def _no_trace(overlay: Overlay) -> None:
    """Every object in storage is named by a row, of today or of history."""
    named = {
        object_name(number)
        for table in ("inode", "extent", "garbage", "was_inode", "was_extent")
        for (number,) in overlay.db.rows(f"SELECT object FROM {table}")
        if number
    }
    there = set()
    for block in overlay.storage.names("content"):
        there |= {f"content/{block}/{name}" for name in overlay.storage.names(f"content/{block}")}
    named |= {object_name(number) for number in overlay.objects.undeleted}
    assert there == named - {object_name(number) for number in overlay.objects.swept}


def _close(overlay: Overlay) -> None:
    try:
        overlay.close()
    except (StateError, OSError):
        assert overlay.db.read_only


@CODES
@pytest.mark.parametrize("name", VERBS)
def test_a_verb_is_done_or_not(ground: Ground, name: str, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever step fails: the verb is done and says so, or there is no trace of it; and nothing else is lost."""
    monkeypatch.setattr(checkpoints, "KEPT", _KEPT.get(name, 1))
    call, added, removed, back = VERBS[name]
    first, distance = _STEPS.get(name, (0, 1))
    for number in range(first, _MOST, distance):
        storage = ground.copy()
        overlay = ground.open(storage)
        _pending(overlay)
        before = seen(overlay)
        names = {point.name for point in before.points}
        after = before.tree if back is None else ground.left_by.get(back) or ground.shown[back]
        done = (after, names - removed | added)
        unpruned = (done[0], names | added) if back is not None else done  # pruning may fail by itself
        overlay.inodes._rows.clear()
        overlay.objects._fds.clear()
        overlay.db._con.release_memory()
        ground.injector.arm(number, code)
        error: StateError | None = None
        try:
            call(overlay)
        except StateError as caught:
            error = caught
        ground.injector.disarm()
        step = f"step {number}, {ground.injector.failed}"
        if error is None or isinstance(error, NotDurable):
            expected = [done, unpruned]
        elif overlay.db.read_only:
            # the commit with it may have arrived all the same
            expected = [(before.tree, names), done, unpruned]
        else:
            assert code == errno.ENOSPC or not isinstance(error, CommitPostponed), step
            assert seen(overlay) == before, step
            assert overlay.check() == [], step
            call(overlay)  # the fault is over
            expected = [done]
        if error is not None:
            assert "\n" not in str(error)
        if not overlay.db.read_only:
            assert _state(overlay) in expected, step
        _close(overlay)
        if (
            ground.injector.failed is not None
            and ground.injector.failed.startswith("sync content/")
            and error is not None
        ):
            with pytest.raises(StateError, match="content did not arrive"):
                ground.open(storage)
            overlay = ground.open(storage, aside=True)
            expected = [(ground.committed.tree, names)]
        else:
            overlay = ground.open(storage)
        now = _state(overlay)
        assert now in expected, f"{step}: {error}"
        assert overlay.check() == [], step
        assert wrong_digests(overlay) == [], step
        overlay.commit()
        _no_trace(overlay)
        overlay.close()
        for point in now[1] & ground.shown.keys() if error is not None else ():
            assert ground.at(storage, point) == ground.shown[point], f"{step}: checkpoint {point}"
        for point in now[1] & added:
            assert ground.at(storage, point) == before.tree, f"{step}: checkpoint {point}"
        shutil.rmtree(storage)
        if ground.injector.failed is None:
            assert error is None
            break
    else:
        pytest.fail("more steps than can be")


def _state(overlay: Overlay) -> tuple[Tree, set[str]]:
    found = seen(overlay)
    return found.tree, {point.name for point in found.points}
