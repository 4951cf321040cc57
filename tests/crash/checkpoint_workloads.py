"""Workloads with checkpoints: what is frozen is written, cut, punched and unlinked; and the overlay is brought back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from minifo.engine import Overlay, RenameFlags, SetAttr, checkpoints
from minifo.engine.clone import clone_overlay
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE
from tests.crash.contents import PUNCH, fill
from tests.crash.recorded_checkpoints import RecordedCheckpoints
from tests.crash.recorded_overlay import RecordedOverlay


def brief(recorded: RecordedOverlay) -> None:
    """One checkpoint, one change of every kind, and back."""
    points = RecordedCheckpoints(recorded)
    written, shrunk = recorded.create("written", fill(1, 1500)), recorded.create("shrunk", fill(2, 1800))
    punched, large = recorded.create("punched", fill(3, 9000)), recorded.ino("large")
    recorded.create("gone", fill(4, 600))
    recorded.write(large, 8192, fill(5, 700))
    points.create("one")
    recorded.write(written, 500, fill(6, 300))
    recorded.truncate(shrunk, 700)
    recorded.fallocate(punched, PUNCH, 0, 4096)
    recorded.write(large, 8200, fill(7, 300))
    recorded.unlink("gone")
    recorded.unlink("b")
    recorded.commit()
    points.rollback("one")


def frozen(recorded: RecordedOverlay) -> None:
    """Files of every kind of backing are frozen, and then written, cut, punched, grown, renamed and unlinked."""
    points = RecordedCheckpoints(recorded)
    # one is larger than what is copied when it is thawed, another has holes: what is written becomes extents over it
    big, holes = recorded.create("big", fill(1, 132_000)), recorded.create("holes", fill(2, 24_000))
    row, cut = recorded.create("row", fill(3, 150)), recorded.create("cut", fill(4, 6000))
    large, base = recorded.ino("large"), recorded.ino("dir/c")
    gone = recorded.create("gone", fill(5, 3000))
    recorded.write(large, 8192, fill(6, 9000))
    recorded.write(base, 100, fill(7, 500))
    recorded.fallocate(holes, PUNCH, 4096, 8192)
    recorded.commit()
    recorded.truncate(cut, 2500)  # not trimmed yet, and this hole is not given back yet
    recorded.fallocate(holes, PUNCH, 16_384, 4096)
    points.create("one")
    recorded.write(big, 50_000, fill(10, 1000))
    recorded.write(holes, 8000, fill(11, 2000))
    recorded.write(row, 40, fill(12, 60))
    recorded.write(large, 10_000, fill(13, 1000))
    recorded.step_commit(
        before_seal=lambda: recorded.write(base, 3000, fill(14, 900)),
        before_harden=lambda: recorded.write(cut, 2000, fill(15, 2000)),
        before_finish=lambda: recorded.write(holes, 20_000, fill(16, 700)),
    )
    recorded.truncate(big, 60_000)
    recorded.truncate(large, 12_000)
    recorded.fallocate(holes, PUNCH, 0, 4096)
    recorded.fallocate(base, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 4096)
    points.create("two")
    recorded.truncate(big, 90_000)
    recorded.write(big, 59_500, fill(17, 900))
    recorded.copy(holes, 8000, large, 9000, 1500)
    recorded.rename("holes", "renamed")
    recorded.replace("row", fill(18, 180))
    recorded.unlink("gone", keep=True)
    recorded.unlink("dir/c")
    recorded.step_commit(before_harden=lambda: recorded.write(gone, 500, fill(19, 600)))
    recorded.forget(gone)
    recorded.unlink("large")
    recorded.truncate(holes, 0)
    points.rollback("one")
    recorded.write(recorded.ino("holes"), 6000, fill(20, 500))
    recorded.commit()


def back_and_forth(recorded: RecordedOverlay) -> None:
    """Names of every kind change between checkpoints; there and back, and there again."""
    points = RecordedCheckpoints(recorded)
    recorded.create("new", fill(1, 700))
    held = recorded.create("held", fill(2, 900))
    recorded.link("new", "dir/hard")
    recorded.unlink("held", keep=True)  # open while the checkpoint is made
    points.create("one")
    recorded.forget(held)
    recorded.rename("dir", "moved")
    recorded.write(recorded.ino("new"), 300, fill(3, 900))
    recorded.unlink("new")
    recorded.remove_tree("old")
    recorded.mkdir("old")
    recorded.rename("a", "b", RenameFlags.EXCHANGE)
    recorded.overlay.setxattr(recorded.ino("a"), b"user.x", b"later")
    recorded.setattr(recorded.ino("large"), SetAttr(uid=7))
    later = recorded.create("later", fill(4, 800))
    recorded.unlink("later", keep=True)
    points.rollback("one")
    recorded.write(later, 100, fill(5, 900))  # its rows stayed
    recorded.create("after", fill(6, 500))
    points.undo()
    recorded.forget(later)
    recorded.create("moved/more", fill(7, 400))
    points.redo()
    recorded.replace("a", fill(8, 900))
    recorded.step_commit(before_harden=lambda: recorded.unlink("dir/hard"))
    recorded.close()
    recorded.open()
    points.undo()


def deleted(recorded: RecordedOverlay) -> None:
    """Checkpoints are deleted from the middle and from both ends; others need some of their objects."""
    points = RecordedCheckpoints(recorded)
    for number in range(3):
        recorded.create(f"f{number}", fill(number, 600))
    points.create("one")
    points.create("two")
    recorded.unlink("f0")
    recorded.write(recorded.ino("f2"), 100, fill(11, 700))
    points.delete("two")
    recorded.replace("f1", fill(10, 700))
    points.create("three")
    recorded.unlink("f1")
    recorded.unlink("f2")
    recorded.step_commit(before_harden=lambda: recorded.create("f4", fill(13, 500)))
    points.delete("one")
    points.rename("three", "last")
    recorded.unlink("f4")
    points.rollback("last")
    points.delete("last", points.last)
    recorded.unlink("f1")
    recorded.commit()


def cloned(recorded: RecordedOverlay) -> None:
    """Clones write, cut, punch and unlink what they share with the overlay, which does so too, and goes on alone."""
    points = RecordedCheckpoints(recorded)
    big, medium = recorded.create("big", fill(1, 132_000)), recorded.create("medium", fill(2, 6000))
    large, holes = recorded.ino("large"), recorded.create("holes", fill(3, 24_000))
    gone = recorded.create("gone", fill(4, 3000))
    recorded.write(large, 8192, fill(5, 9000))
    points.create("one")
    recorded.write(medium, 100, fill(6, 700))
    recorded.commit()
    with _clone(recorded) as twin:
        twin.write(big, 50_000, fill(20, 1000))
        twin.write(large, 9000, fill(21, 1000))
        twin.fallocate(holes, PUNCH, 4096, 8192)
        twin.setattr(medium, SetAttr(size=700))
        twin.commits.run()
        recorded.write(big, 50_500, fill(7, 1000))
        recorded.truncate(medium, 2500)
        recorded.fallocate(holes, PUNCH, 8192, 8192)
        recorded.step_commit(
            before_seal=lambda: twin.write(medium, 3, fill(22, 200)),
            before_harden=lambda: recorded.write(large, 10_000, fill(8, 500)),
            before_finish=lambda: twin.commits.run(),
        )
        points.delete("one")
        recorded.unlink("gone")
        recorded.write(holes, 20_000, fill(9, 900))
        recorded.commit()
        twin.write(gone, 10, fill(23, 300))
        twin.setattr(big, SetAttr(size=0))
        twin.commits.run()
    recorded.write(big, 100, fill(10, 900))
    recorded.write(large, 8200, fill(11, 300))
    recorded.commit()


@contextmanager
def _clone(recorded: RecordedOverlay) -> Iterator[Overlay]:
    """A clone, open; what is done to it is not recorded.  At the end it is deleted."""
    storage = recorded.storage + "-clone"
    clone_overlay(recorded.overlay, None, storage)
    twin = Overlay.open(recorded.recording.base, storage)
    try:
        yield twin
    finally:
        twin.close()
        shutil.rmtree(storage)


def pruned(recorded: RecordedOverlay) -> None:
    """More returns than checkpoints of them are kept, one of which is pinned."""
    points = RecordedCheckpoints(recorded)
    recorded.create("a file", fill(0, 400))
    with patch.object(checkpoints, "KEPT", 2):
        points.create("mine")
        for turn in range(4):
            recorded.replace("a file", fill(turn + 1, 250 + 10 * turn))
            points.rollback("mine")
            if turn == 0:
                points.pin(points.last)
    recorded.write(recorded.ino("a file"), 20, fill(99, 300))
    recorded.commit()


def reset(recorded: RecordedOverlay) -> None:
    """All is taken away at once but for some of it, in its place and not; the daemon is killed in the middle of it."""
    points = RecordedCheckpoints(recorded)
    recorded.create("keep", fill(1, 3000))
    recorded.write(recorded.ino("large"), 9000, fill(2, 2000))
    recorded.unlink("b")
    points.reset("keep")
    recorded.write(recorded.ino("large"), 7000, fill(2, 2000))
    recorded.rename("dir", "moved")
    recorded.create("moved/keep", fill(3, 120))
    recorded.write(recorded.ino("moved/c"), 100, fill(4, 500))
    recorded.unlink("a")
    recorded.create("held", fill(5, 700))
    recorded.unlink("held", keep=True)
    points.create("one")
    recorded.write(recorded.ino("keep"), 500, fill(6, 900))
    points.reset("keep", "/moved/c", "/a", kill_at=1)
    points.reset("keep", "/moved/c", "/a")
    recorded.write(recorded.ino("keep"), 700, fill(7, 900))
    recorded.write(recorded.ino("moved/c"), 200, fill(8, 300))
    points.reset()
    recorded.create("after", fill(9, 400))
    points.undo()
    points.undo()
    points.delete("one", points.last)
    recorded.write(recorded.ino("large"), 9500, fill(10, 300))
    recorded.commit()


def reverted(recorded: RecordedOverlay) -> None:
    """Single paths go back to a checkpoint and to the base; the daemon is killed in the middle of it."""
    points = RecordedCheckpoints(recorded)
    recorded.create("own", fill(1, 3000))
    recorded.rename("dir", "moved")
    recorded.unlink("b")
    recorded.write(recorded.ino("large"), 9000, fill(2, 2000))
    points.create("one")
    recorded.write(recorded.ino("own"), 500, fill(3, 900))
    recorded.write(recorded.ino("large"), 7000, fill(4, 900))
    recorded.rename("moved/c", "elsewhere")
    recorded.create("moved/more", fill(5, 300))
    recorded.unlink("a")
    points.revert("/moved", "/own", to="one", kill_at=1)
    points.revert("/moved", "/own", "/a", to="one")
    recorded.write(recorded.ino("own"), 700, fill(6, 900))
    points.revert("/b", "/large")
    recorded.unlink("own")
    points.revert("/", to="one")
    recorded.write(recorded.ino("own"), 100, fill(7, 200))
    points.undo()
    points.undo()
    points.delete("one", points.last)
    recorded.write(recorded.ino("large"), 9500, fill(8, 300))
    recorded.commit()


def vacuumed(recorded: RecordedOverlay) -> None:
    """Copies that are as in the base, files in pieces and content of nobody go; the daemon is killed meanwhile."""
    points = RecordedCheckpoints(recorded)
    base = {name: _base_bytes(recorded, name) for name in ("a", "dir/c", "large")}
    own = recorded.create("own", fill(1, 24_000))
    points.create("one")
    for offset in range(0, 24_000, 6000):
        recorded.write(own, offset, fill(2 + offset, 6000))
    for name, data in base.items():
        recorded.write(recorded.ino(name), 100, data[100:900])
    points.delete("one")
    points.vacuum(kill_at=0)
    recorded.write(recorded.ino("a"), 300, fill(10, 300))
    points.vacuum()
    recorded.write(own, 7000, fill(11, 900))
    points.create("two")
    recorded.write(recorded.ino("a"), 300, base["a"][300:600])
    recorded.step_commit(before_harden=lambda: recorded.write(recorded.ino("dir/c"), 0, base["dir/c"][:50]))
    recorded.write(own, 100, fill(12, 300))
    points.vacuum()
    recorded.kill()
    points.vacuum()
    points.rollback("two")
    points.delete("two", points.last)
    recorded.write(recorded.ino("large"), 9500, fill(13, 300))
    recorded.commit()


def _base_bytes(recorded: RecordedOverlay, name: str) -> bytes:
    with open(os.path.join(recorded.recording.base, name), "rb") as file:
        return file.read()


def transacted(recorded: RecordedOverlay) -> None:
    """A transaction that is kept, one whose daemon is killed, and one that is taken back, each with commits in it."""
    points = RecordedCheckpoints(recorded)
    kept, large = recorded.create("kept", fill(1, 1500)), recorded.ino("large")
    points.begin()
    recorded.write(kept, 400, fill(2, 300))
    recorded.write(large, 8192, fill(3, 900))
    recorded.rename("dir", "moved")
    recorded.commit()
    recorded.create("made", fill(4, 9000))
    recorded.truncate(kept, 700)
    recorded.unlink("a")
    points.commit()
    recorded.create("between", fill(5, 300))
    points.begin()
    recorded.write(kept, 100, fill(6, 200))
    recorded.unlink("made")
    recorded.commit()
    recorded.replace("b", fill(7, 2000))
    recorded.kill()
    points.count_mount(kill_at=1)
    points.count_mount()
    points.begin()
    recorded.write(large, 8200, fill(8, 300))
    recorded.remove_tree("moved")
    recorded.commit()
    points.take_back()
    recorded.create("last", fill(9, 500))
    points.undo()
    points.begin()
    points.commit()


def killed(recorded: RecordedOverlay) -> None:
    """The daemon is killed in the middle of verbs, and between them; the next one knows what is frozen."""
    points = RecordedCheckpoints(recorded)
    own = recorded.create("own", fill(1, 3000))
    recorded.write(recorded.ino("large"), 9000, fill(2, 2000))
    points.create("early", kill_at=0)
    recorded.write(own, 1000, fill(3, 900))
    recorded.unlink("a")
    recorded.kill()
    recorded.write(own, 500, fill(4, 700))
    recorded.write(recorded.ino("large"), 10_000, fill(5, 600))
    recorded.truncate(own, 2000)
    points.create("second")
    recorded.close()
    recorded.open()
    recorded.write(own, 1800, fill(7, 900))
    points.rollback("early", kill_at=1)
    recorded.create("third", fill(9, 300))
    recorded.write(recorded.ino("own"), 2500, fill(10, 900))
    recorded.kill()
    points.undo(kill_at=1)
    # between the commit of rows and the sync of the log
    recorded.unlink("own")
    recorded.overlay.commits.seal()
    recorded.kill()
    points.delete("second", kill_at=0)
    recorded.create("fourth", fill(11, 300))
    points.delete("early")


def digested(recorded: RecordedOverlay) -> None:
    """Digests are recorded, and their objects are thawed, written in place, frozen again and deleted."""
    points = RecordedCheckpoints(recorded)
    own = recorded.create("own", fill(1, 3000))
    recorded.create("gone", fill(2, 2500))
    points.create("one")
    later = recorded.create("later", fill(3, 5000))
    points.create("two")
    points.digest()
    recorded.commit()
    recorded.write(own, 1000, fill(4, 500))
    recorded.unlink("gone")
    points.delete("two")
    recorded.write(later, 700, fill(5, 900))  # in place
    recorded.step_commit(before_harden=lambda: recorded.write(later, 2000, fill(6, 600)))
    recorded.truncate(later, 4000)
    points.create("three")
    points.digest()
    recorded.step_commit(before_seal=lambda: recorded.create("more", fill(7, 2500)))
    points.delete("one")
    points.digest()
    recorded.kill()
    points.delete("three", kill_at=1)
    recorded.write(later, 100, fill(8, 900))
    recorded.commit()
    points.create("four")
    points.digest()
    recorded.commit()
    points.delete("four")
    recorded.write(recorded.ino("more"), 200, fill(9, 300))
    recorded.commit()


def much_kept(recorded: RecordedOverlay) -> None:
    """Checkpoints whose history names base objects in every table."""
    points = RecordedCheckpoints(recorded)
    recorded.rename("dir", "elsewhere")
    recorded.write(recorded.ino("a"), 10, fill(1, 100))
    recorded.unlink("b")
    points.create("one")
    recorded.rename("elsewhere", "dir")
    recorded.rename("old/f", "dir/sub/g")
    recorded.write(recorded.ino("large"), 5000, fill(2, 600))
    recorded.setattr(recorded.ino("a"), SetAttr(uid=7))
    recorded.overlay.setxattr(recorded.ino("old"), b"user.x", b"y")
    points.create("two")
    recorded.replace("old/e", fill(3, 300))
    recorded.rename("large", "dir/large")
    recorded.commit()
    recorded.create("lost", fill(4, 100))


def another_base(recorded: RecordedOverlay) -> None:
    """After the base was replaced by one with other inode numbers: history has been renumbered, and is used."""
    points = RecordedCheckpoints(recorded)
    recorded.write(recorded.ino("dir/large"), 5100, fill(10, 500))
    points.rollback("one")
    recorded.replace("a", fill(11, 400))
    recorded.commit()
    points.undo()
