"""The workloads that crash states are made from: what real programs do to a file system, in small.

Each is a function that drives a ``RecordedOverlay``.  Nothing in them is about crashes; the explorer cuts the power for
them, everywhere.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass

from minifo.engine import ROOT, RenameFlags, SetAttr
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE
from tests.crash import checkpoint_workloads
from tests.crash.contents import PUNCH, fill
from tests.crash.recorded_overlay import CALLER, RecordedOverlay


def untar(recorded: RecordedOverlay) -> None:
    """Unpack many small files, with modes, owners and times set afterwards, as tar does."""
    number = 0
    for top in ("pkg", "pkg/bin", "pkg/share"):
        recorded.mkdir(top)
        for _ in range(5):
            number += 1
            path = f"{top}/file{number}"
            ino = recorded.create(path, fill(number, 150 * number), 0o600)
            recorded.setattr(ino, SetAttr(uid=number, gid=2))
            recorded.setattr(ino, SetAttr(mode=0o644 + number % 2))
            recorded.setattr(ino, SetAttr(mtime=10**18 + number))
            if number % 4 == 0:
                recorded.commit()
        recorded.symlink(f"{top}/link", "file1")
    recorded.overlay.mknod(recorded.ino("pkg"), b"null", stat.S_IFCHR | 0o666, 0x0103, CALLER)
    recorded.commit()


def upgrade(recorded: RecordedOverlay) -> None:
    """Upgrade a package: each file is written beside the old one and renamed over it; base files, then created ones."""
    targets = ["a", "dir/c", "dir/sub/d", "old/e", "b"]
    for turn in range(3):
        for number, path in enumerate(targets):
            recorded.replace(path, fill(10 * turn + number, 700 + 900 * number))
            if number == 2:
                recorded.step_commit(before_harden=lambda: recorded.replace("old/f", fill(77, 2000)))
        recorded.commit()
    # the temporary file is still open when it is renamed: its bytes come later
    ino = recorded.create("a.tmp", fill(50, 1000))
    recorded.rename("a.tmp", "a")
    recorded.write(ino, 1000, fill(51, 1500))
    recorded.commit()


def git(recorded: RecordedOverlay) -> None:
    """Commit as git does: objects by temporary name and hard link or rename, then refs by lock file and rename."""
    for path in (".git", ".git/objects", ".git/refs"):
        recorded.mkdir(path)
    for turn in range(4):
        for number in range(3):
            name = f"{turn}{number}"
            directory = f".git/objects/{number}"
            if not recorded.exists(directory):
                recorded.mkdir(directory)
            recorded.create(f"{directory}/tmp_obj", fill(100 + 10 * turn + number, 800), 0o444)
            if number % 2:
                recorded.link(f"{directory}/tmp_obj", f"{directory}/{name}")
                recorded.unlink(f"{directory}/tmp_obj")
            else:
                recorded.rename(f"{directory}/tmp_obj", f"{directory}/{name}")
        if turn % 2:
            recorded.commit()
        recorded.create(".git/index.lock", fill(200 + turn, 1200))
        recorded.rename(".git/index.lock", ".git/index")
        recorded.create(".git/refs/main.lock", fill(300 + turn, 41))
        recorded.rename(".git/refs/main.lock", ".git/refs/main")
        recorded.commit()


def pages(recorded: RecordedOverlay) -> None:
    """Write pages in place as SQLite does: a journal, its sync, the pages, their sync, the journal's removal."""
    size = 512
    db = recorded.create("app.db", fill(1, 16 * size))
    recorded.commit()
    for turn in range(1, 6):
        journal = recorded.create("app.db-journal", b"journal!" + fill(turn, 3 * size))
        recorded.commit()
        for page in (turn, 2 * turn, 3 * turn % 16):
            recorded.write(db, page * size, fill(1000 * turn + page, size))
        recorded.commit()
        if turn % 2:
            recorded.unlink("app.db-journal")
        else:
            recorded.truncate(journal, 0)
            recorded.commit()
            recorded.unlink("app.db-journal")
        if turn == 3:
            recorded.truncate(db, 20 * size)
            recorded.write(db, 18 * size, fill(5000, size))
    recorded.write(db, 100, b"not aligned" * 60)
    recorded.commit()
    recorded.truncate(db, 4 * size)
    recorded.step_commit(before_harden=lambda: recorded.write(db, 4 * size, fill(6000, size)))
    recorded.commit()


def directories(recorded: RecordedOverlay) -> None:
    """Delete and rename directories of base and overlay, and rename them back."""
    recorded.rename("dir", "moved")
    recorded.create("moved/new", fill(1, 600))
    recorded.commit()
    recorded.rename("moved", "dir")
    recorded.unlink("dir/new")
    recorded.commit()
    recorded.rename("dir/sub", "old/sub")
    recorded.rename("old", "dir/deep")
    recorded.step_commit(before_seal=lambda: recorded.replace("dir/deep/e", fill(2, 900)))
    recorded.remove_tree("dir/deep")
    recorded.commit()
    recorded.mkdir("dir/deep")
    recorded.create("dir/deep/e", fill(3, 300))
    recorded.mkdir("old")
    recorded.create("old/e", fill(4, 300))
    recorded.commit()
    recorded.rename("dir/deep", "old", RenameFlags.EXCHANGE)
    recorded.rename("a", "b", RenameFlags.EXCHANGE)
    recorded.commit()
    recorded.rename("a", "b", RenameFlags.EXCHANGE)
    recorded.rename("dir", "x")
    recorded.rename("x", "dir")
    recorded.remove_tree("dir")
    recorded.commit()


def copy_up(recorded: RecordedOverlay) -> None:
    """Write into base files: whole copies of small ones, extents of a large one, attributes alone."""
    small, large = recorded.ino("a"), recorded.ino("large")
    recorded.setattr(large, SetAttr(mode=0o600))
    recorded.write(large, 5000, fill(1, 3000))
    recorded.write(small, 100, fill(2, 1000))
    recorded.commit()
    recorded.write(large, 6000, fill(3, 5000))
    recorded.write(large, 60_000, fill(4, 1000))
    recorded.commit()
    recorded.write(large, 40_000, fill(5, 1500))
    recorded.step_commit(
        before_seal=lambda: recorded.write(large, 41_000, fill(6, 1000)),
        before_harden=lambda: recorded.write(large, 20_000, fill(7, 700)),
        before_finish=lambda: recorded.write(large, 21_000, fill(8, 700)),
    )
    recorded.commit()
    # cut ranges off and write there and elsewhere, before the cut is durable
    recorded.truncate(large, 30_000)
    recorded.write(large, 33_000, fill(12, 900))
    recorded.write(large, 40_500, fill(13, 1500))
    recorded.step_commit(before_harden=lambda: recorded.write(large, 60_300, fill(14, 600)))
    recorded.commit()
    recorded.truncate(large, 50_000)
    recorded.commit()
    recorded.truncate(large, 70_000)
    recorded.write(large, 66_000, fill(9, 800))
    recorded.commit()
    recorded.truncate(large, 0)
    recorded.write(large, 0, fill(10, 900))
    recorded.commit()
    recorded.write(recorded.ino("dir/link"), 0, fill(11, 1300))
    recorded.setattr(recorded.ino("dir/c"), SetAttr(uid=5))
    recorded.commit()


def open_files(recorded: RecordedOverlay) -> None:
    """Unlink files that are still open, write to them, close them before and after commits; leave one open."""
    first = recorded.create("first", fill(1, 2000))
    second = recorded.create("second", fill(2, 2000))
    recorded.commit()
    recorded.unlink("first", keep=True)
    recorded.write(first, 500, fill(3, 2000))
    recorded.commit()
    third = recorded.create("third", fill(4, 700))
    recorded.unlink("third", keep=True)
    recorded.write(third, 700, fill(5, 700))
    recorded.commit()
    recorded.forget(third)
    recorded.unlink("second", keep=True)
    recorded.step_commit(before_harden=lambda: recorded.forget(first))
    recorded.forget(second)
    recorded.commit()
    base = recorded.unlink("a", keep=True)
    recorded.write(base, 0, fill(6, 900))
    recorded.commit()
    recorded.create("a", fill(7, 900))
    recorded.commit()
    recorded.create("fourth", fill(8, 400))
    recorded.unlink("fourth")
    recorded.create("fifth", fill(9, 400))
    recorded.commit()
    recorded.rename("fifth", "a")
    recorded.step_commit(before_finish=lambda: recorded.create("sixth", fill(10, 100)))
    recorded.unlink("sixth", keep=True)
    recorded.commit()


def unnamed(recorded: RecordedOverlay) -> None:
    """Make files without a name (O_TMPFILE), name them before and after commits, or never; name one over another."""
    early = recorded.unnamed(fill(1, 2000))
    recorded.name(early, "early")
    recorded.commit()
    late = recorded.unnamed(fill(2, 2000))
    never = recorded.unnamed(fill(3, 100))
    recorded.commit()
    recorded.write(late, 1500, fill(4, 1500))
    recorded.step_commit(before_harden=lambda: recorded.name(late, "dir/late"))
    recorded.forget(never)
    recorded.commit()
    again = recorded.unnamed(fill(5, 150))
    recorded.name(again, "tmp")
    recorded.rename("tmp", "early")
    recorded.kill()
    left = recorded.unnamed(fill(6, 2500))
    recorded.step_commit(before_finish=lambda: recorded.write(left, 0, fill(7, 3000)))
    recorded.name(left, "left")
    recorded.commit()
    recorded.unlink("left")
    recorded.unlink("dir/late")
    recorded.unnamed(fill(8, 900))
    recorded.commit()
    recorded.close()
    recorded.open()
    assert not recorded.overlay.db.rows("SELECT 1 FROM orphan")


def links(recorded: RecordedOverlay) -> None:
    """Hard links of base and created files, written through one name and removed by another."""
    recorded.create("one", fill(1, 1500))
    recorded.link("one", "two")
    recorded.commit()
    recorded.write(recorded.ino("two"), 1000, fill(2, 1500))
    recorded.unlink("one")
    recorded.link("two", "dir/three")
    recorded.commit()
    recorded.write(recorded.ino("b"), 0, fill(3, 600))
    recorded.commit()
    recorded.unlink("b")
    recorded.link("dir/link", "b2")
    recorded.rename("dir/link", "b")
    recorded.commit()
    recorded.unlink("b")
    recorded.unlink("b2")
    recorded.unlink("two")
    recorded.step_commit(before_harden=lambda: recorded.unlink("dir/three"))
    recorded.commit()


def shrink_grow(recorded: RecordedOverlay) -> None:
    """Shrink and grow files across commits: bytes cut off must stay until the cut is durable, and never come back."""
    created = recorded.create("log", fill(1, 6000))
    base = recorded.ino("dir/c")
    recorded.commit()
    for turn, ino in enumerate((created, base)):
        recorded.truncate(ino, 3000)
        recorded.truncate(ino, 5000)
        recorded.commit()
        recorded.write(ino, 4000, fill(10 + turn, 2500))
        recorded.commit()
        recorded.truncate(ino, 1000)
        recorded.step_commit(before_harden=lambda ino=ino: recorded.write(ino, 1000, fill(20, 1000)))
        recorded.commit()
        recorded.truncate(ino, 0)
        recorded.write(ino, 0, fill(30 + turn, 2000))
        recorded.step_commit(
            before_seal=lambda ino=ino: recorded.truncate(ino, 700),
            before_harden=lambda ino=ino: recorded.truncate(ino, 4000),
            before_finish=lambda ino=ino: recorded.write(ino, 900, fill(40, 600)),
        )
        recorded.commit()
    recorded.truncate(created, 100)
    recorded.commit()
    recorded.write(created, 50, fill(50, 2000))
    recorded.commit()


def ranges(recorded: RecordedOverlay) -> None:
    """Punch, zero, reserve and copy ranges across commits: bytes must stay until that is durable, and not come back."""
    own, large, tiny = (
        recorded.create("own", fill(1, 40_000)),
        recorded.ino("large"),
        recorded.create("tiny", fill(2, 150)),
    )
    recorded.write(large, 8192, fill(3, 12_288))
    recorded.commit()
    # punched, and written again in part before that is durable; in the file's own object, in extents, over the base
    recorded.fallocate(own, PUNCH, 4096, 16_384)
    recorded.write(own, 8192, fill(4, 1000))
    recorded.fallocate(large, PUNCH, 10_000, 30_000)
    recorded.write(large, 12_288, fill(5, 700))
    recorded.fallocate(tiny, PUNCH, 20, 50)
    recorded.step_commit(
        before_seal=lambda: recorded.fallocate(own, PUNCH, 24_576, 4096),
        before_harden=lambda: recorded.write(own, 12_288, fill(6, 3000)),
        before_finish=lambda: recorded.fallocate(own, PUNCH, 28_672, 8192),
    )
    recorded.commit()
    recorded.fallocate(own, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 36_000, 9000)
    recorded.fallocate(large, FALLOC_FL_ZERO_RANGE, 100_000, 60_000)
    recorded.step_commit(before_harden=lambda: recorded.write(large, 104_000, fill(7, 900)))
    recorded.commit()
    recorded.fallocate(own, 0, 30_000, 30_000)
    recorded.write(own, 59_000, fill(8, 3000))
    recorded.copy(large, 50_000, own, 4096, 5000)
    recorded.step_commit(before_harden=lambda: recorded.fallocate(own, PUNCH, 4096, 8192))
    recorded.truncate(own, 9000)
    recorded.fallocate(own, PUNCH, 0, 4096)
    recorded.commit()
    recorded.truncate(own, 30_000)
    recorded.write(own, 2000, fill(9, 1000))
    recorded.commit()
    # all of it: the object goes
    recorded.fallocate(own, PUNCH, 0, 30_000)
    recorded.write(own, 5000, fill(10, 900))
    recorded.step_commit(before_harden=lambda: recorded.fallocate(large, PUNCH, 0, 160_000))
    recorded.commit()


def ranges_killed(recorded: RecordedOverlay) -> None:
    """Holes that a killed daemon left, in its redo log or in a commit whose blocks were not given back."""
    own, large = recorded.create("own", fill(1, 30_000)), recorded.ino("large")
    recorded.commit()
    recorded.fallocate(own, PUNCH, 4096, 8192)
    recorded.fallocate(large, PUNCH, 50_000, 20_000)
    recorded.write(own, 8192, fill(2, 600))
    recorded.kill()
    recorded.write(own, 5000, fill(3, 600))
    recorded.write(recorded.ino("large"), 60_000, fill(4, 600))
    recorded.commit()
    recorded.fallocate(own, PUNCH, 16_384, 8192)
    commits = recorded.overlay.commits
    commits.presync(commits.pending())
    commits.seal()
    recorded.kill()
    recorded.write(own, 20_000, fill(5, 600))
    recorded.fallocate(own, PUNCH, 0, 30_000)
    recorded.kill()
    recorded.write(own, 10_000, fill(6, 600))
    recorded.commit()


def xattrs(recorded: RecordedOverlay) -> None:
    """Extended attributes of base and created objects, also of a directory."""
    ino = recorded.create("file", fill(1, 100))
    for turn in range(4):
        for target in (ino, recorded.ino("a"), recorded.ino("dir")):
            recorded.recorder.note("op", "setxattr")
            recorded.overlay.setxattr(target, b"user.turn", fill(turn, 30 + 400 * turn))
        recorded.commit()
    recorded.overlay.removexattr(ino, b"user.turn")
    recorded.overlay.removexattr(recorded.ino("dir"), b"user.turn")
    recorded.commit()


def checkpoints(recorded: RecordedOverlay) -> None:
    """A write-ahead log that is moved into the database and begun anew, again and again, beside overwritten files."""
    recorded.mkdir("many")
    for turn in range(14):
        recorded.create(f"many/{turn}", fill(turn, 300))
        if turn > 3:
            recorded.unlink(f"many/{turn - 3}")
        recorded.replace("many/same", fill(100 + turn, 500))
        if turn % 5 == 4:
            recorded.step_commit(before_harden=lambda turn=turn: recorded.create(f"many/late{turn}", fill(turn, 50)))
        else:
            recorded.commit()
        if turn == 7:
            recorded.close()
            recorded.open()


def remounts(recorded: RecordedOverlay) -> None:
    """Mount, change, unmount: the log is removed and made again, and numbers go on where they stopped."""
    for turn in range(4):
        recorded.create(f"r{turn}", fill(turn, 900))
        if turn % 2:
            recorded.commit()
        recorded.replace("a", fill(10 + turn, 500))
        kept = recorded.create("kept", fill(20 + turn, 300))
        recorded.unlink("kept", keep=True)
        if turn:
            recorded.unlink(f"r{turn - 1}")
        recorded.close()
        recorded.open()
        assert not recorded.overlay.db.rows("SELECT 1 FROM orphan WHERE ino = ?", (kept,))


def kills(recorded: RecordedOverlay) -> None:
    """The daemon is killed at bad moments and mounted again, before the power goes."""
    # nothing committed yet: content directories are new, and then empty
    recorded.create("before", fill(0, 900))
    recorded.unlink("before")
    recorded.kill()
    recorded.create("first", fill(1, 900))
    recorded.commit()
    recorded.create("uncommitted", fill(1, 900))
    recorded.kill()
    recorded.replace("first", fill(2, 900))
    recorded.create("second", fill(3, 900))
    recorded.truncate(recorded.ino("second"), 300)
    recorded.kill()
    recorded.replace("second", fill(4, 500))
    recorded.commit()
    # between the commit of rows and the sync of the log
    recorded.unlink("first")
    recorded.write(recorded.ino("second"), 200, fill(5, 800))
    commits = recorded.overlay.commits
    commits.presync(commits.pending())
    commits.seal()
    recorded.kill()
    recorded.create("third", fill(6, 400))
    recorded.commit()
    # the same, where the next mount has nothing to tidy up
    recorded.mkdir("directory")
    recorded.write(recorded.ino("third"), 200, fill(6, 700))
    commits = recorded.overlay.commits
    commits.presync(commits.pending())
    commits.seal()
    recorded.kill()
    # after the sync, before the garbage is gone
    recorded.unlink("second")
    recorded.truncate(recorded.ino("third"), 0)
    commits = recorded.overlay.commits
    commits.seal()
    commits.harden()
    recorded.kill()
    recorded.create("fourth", fill(7, 400))
    recorded.unlink("third", keep=True)
    recorded.commit()
    recorded.kill()
    recorded.create("fifth", fill(8, 400))
    recorded.commit()


def mixed(recorded: RecordedOverlay) -> None:
    """A bit of everything in one long running transaction, with few commits."""
    for turn in range(3):
        recorded.mkdir(f"d{turn}")
        ino = recorded.create(f"d{turn}/f", fill(turn, 1200))
        recorded.write(recorded.ino("large"), 9000 * turn, fill(turn, 600))
        recorded.rename(f"d{turn}/f", f"d{turn}/g")
        recorded.link(f"d{turn}/g", f"h{turn}")
        recorded.truncate(ino, 400)
        recorded.replace("dir/c", fill(40 + turn, 800))
        if turn:
            recorded.remove_tree(f"d{turn - 1}")
        recorded.step_commit(
            before_seal=lambda turn=turn: recorded.create(f"s{turn}", fill(turn, 90)),
            before_harden=lambda turn=turn: recorded.unlink(f"s{turn}"),
        )
    recorded.rename("old", "older")
    recorded.create("older/n", fill(9, 100))
    recorded.unlink("older/e")
    recorded.commit()
    assert recorded.overlay.lookup(ROOT, b"old") is None


def much_renamed(recorded: RecordedOverlay) -> None:
    """Give many base objects rows of every kind."""
    recorded.rename("dir", "elsewhere")
    recorded.replace("old/e", fill(1, 300))
    recorded.write(recorded.ino("a"), 10, fill(2, 100))
    recorded.unlink("b")
    recorded.rename("old/f", "elsewhere/sub/g")
    recorded.setattr(recorded.ino("large"), SetAttr(uid=7))
    recorded.overlay.setxattr(recorded.ino("old"), b"user.x", b"y")
    recorded.commit()
    recorded.create("lost", fill(3, 100))


def another_base(recorded: RecordedOverlay) -> None:
    """After the base was replaced by one with other inode numbers: the first mount, and a little work."""
    recorded.replace("a", fill(1, 500))
    recorded.rename("elsewhere", "dir")
    recorded.commit()


@dataclass(frozen=True)
class Workload:
    """A workload and what it runs on.

    Attributes:
        run: the workload.
        packed: True on storage whose files cannot have holes.
        wal_limit: pages of the log above which it is checkpointed.
        small_max: bytes of a file that are kept in a row: few, as the files here are small.
        redo: True where the daemon keeps a redo log.
        killed_at_birth: True where the daemon is killed while it makes the storage, and mounted again.
        before: a workload whose outcome this one finds, on a base that was replaced meanwhile.
        every: the tests cut the power at every such point only, as looking at all checkpoints of a disk takes time.
    """

    run: Callable[[RecordedOverlay], None]
    packed: bool = False
    wal_limit: int = 1000
    small_max: int = 200
    redo: bool = False
    killed_at_birth: bool = False
    before: Callable[[RecordedOverlay], None] | None = None
    every: int = 1


WORKLOADS: dict[str, Workload] = {
    "untar": Workload(untar),
    "upgrade": Workload(upgrade),
    "upgrade_rows": Workload(upgrade, small_max=2048),
    "git": Workload(git),
    "pages": Workload(pages),
    "directories": Workload(directories),
    "copy_up": Workload(copy_up),
    "copy_up_packed": Workload(copy_up, packed=True),
    "open_files": Workload(open_files),
    "unnamed": Workload(unnamed),
    "unnamed_redo": Workload(unnamed, redo=True),
    "links": Workload(links),
    "shrink_grow": Workload(shrink_grow),
    "shrink_grow_rows": Workload(shrink_grow, small_max=2048),
    "shrink_grow_packed": Workload(shrink_grow, packed=True),
    "ranges": Workload(ranges),
    "ranges_packed": Workload(ranges, packed=True),
    "ranges_killed": Workload(ranges_killed),
    "ranges_killed_redo": Workload(ranges_killed, redo=True),
    "xattrs": Workload(xattrs),
    "checkpoints": Workload(checkpoints, wal_limit=12),
    "remounts": Workload(remounts),
    "kills": Workload(kills, killed_at_birth=True),
    "kills_redo": Workload(kills, redo=True),
    "another_base": Workload(another_base, before=much_renamed),
    "points_brief": Workload(checkpoint_workloads.brief, every=5),
    "points_frozen": Workload(checkpoint_workloads.frozen, every=5),
    "points_frozen_packed": Workload(checkpoint_workloads.frozen, packed=True, every=5),
    "points_back": Workload(checkpoint_workloads.back_and_forth, every=5),
    "points_deleted": Workload(checkpoint_workloads.deleted, every=5),
    "points_pruned": Workload(checkpoint_workloads.pruned, wal_limit=60, every=5),
    "points_reset": Workload(checkpoint_workloads.reset, redo=True, every=5),
    "points_reverted": Workload(checkpoint_workloads.reverted, redo=True, every=5),
    "points_vacuumed": Workload(checkpoint_workloads.vacuumed, redo=True, every=5),
    "points_transacted": Workload(checkpoint_workloads.transacted, redo=True, every=5),
    "points_killed": Workload(checkpoint_workloads.killed, redo=True, every=5),
    "points_digests": Workload(checkpoint_workloads.digested, redo=True, every=5),
    "points_cloned": Workload(checkpoint_workloads.cloned, every=8),
    "points_base": Workload(checkpoint_workloads.another_base, before=checkpoint_workloads.much_kept, every=5),
    "mixed": Workload(mixed, wal_limit=20),
}
