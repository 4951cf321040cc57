"""The workloads that crash states are made from: what real programs do to a file system, in small.

Each is a function that drives a ``World``.  Nothing in them is about crashes; the explorer cuts the power for them,
everywhere.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass

from world import CALLER, World

from minifo.engine import ROOT, RenameFlags, SetAttr
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE

PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


def fill(seed: int, size: int) -> bytes:
    """Bytes that are the same for a seed, differ in every block between seeds, and have no block of zeros."""
    return b"".join(b"%06d.%06d|" % (seed, block) for block in range(size // 14 + 1))[:size]


def untar(world: World) -> None:
    """Unpack many small files, with modes, owners and times set afterwards, as tar does."""
    number = 0
    for top in ("pkg", "pkg/bin", "pkg/share"):
        world.mkdir(top)
        for _ in range(5):
            number += 1
            path = f"{top}/file{number}"
            ino = world.create(path, fill(number, 150 * number), 0o600)
            world.setattr(ino, SetAttr(uid=number, gid=2))
            world.setattr(ino, SetAttr(mode=0o644 + number % 2))
            world.setattr(ino, SetAttr(mtime=10**18 + number))
            if number % 4 == 0:
                world.commit()
        world.symlink(f"{top}/link", "file1")
    world.overlay.mknod(world.ino("pkg"), b"null", stat.S_IFCHR | 0o666, 0x0103, CALLER)
    world.commit()


def upgrade(world: World) -> None:
    """Upgrade a package: each file is written beside the old one and renamed over it; base files, then created ones."""
    targets = ["a", "dir/c", "dir/sub/d", "old/e", "b"]
    for turn in range(3):
        for number, path in enumerate(targets):
            world.replace(path, fill(10 * turn + number, 700 + 900 * number))
            if number == 2:
                world.step_commit(before_harden=lambda: world.replace("old/f", fill(77, 2000)))
        world.commit()
    # the temporary file is still open when it is renamed: its bytes come later
    ino = world.create("a.tmp", fill(50, 1000))
    world.rename("a.tmp", "a")
    world.write(ino, 1000, fill(51, 1500))
    world.commit()


def git(world: World) -> None:
    """Commit as git does: objects by temporary name and hard link or rename, then refs by lock file and rename."""
    for path in (".git", ".git/objects", ".git/refs"):
        world.mkdir(path)
    for turn in range(4):
        for number in range(3):
            name = f"{turn}{number}"
            directory = f".git/objects/{number}"
            if not world.exists(directory):
                world.mkdir(directory)
            world.create(f"{directory}/tmp_obj", fill(100 + 10 * turn + number, 800), 0o444)
            if number % 2:
                world.link(f"{directory}/tmp_obj", f"{directory}/{name}")
                world.unlink(f"{directory}/tmp_obj")
            else:
                world.rename(f"{directory}/tmp_obj", f"{directory}/{name}")
        if turn % 2:
            world.commit()
        world.create(".git/index.lock", fill(200 + turn, 1200))
        world.rename(".git/index.lock", ".git/index")
        world.create(".git/refs/main.lock", fill(300 + turn, 41))
        world.rename(".git/refs/main.lock", ".git/refs/main")
        world.commit()


def pages(world: World) -> None:
    """Write pages in place as SQLite does: a journal, its sync, the pages, their sync, the journal's removal."""
    size = 512
    db = world.create("app.db", fill(1, 16 * size))
    world.commit()
    for turn in range(1, 6):
        journal = world.create("app.db-journal", b"journal!" + fill(turn, 3 * size))
        world.commit()
        for page in (turn, 2 * turn, 3 * turn % 16):
            world.write(db, page * size, fill(1000 * turn + page, size))
        world.commit()
        if turn % 2:
            world.unlink("app.db-journal")
        else:
            world.truncate(journal, 0)
            world.commit()
            world.unlink("app.db-journal")
        if turn == 3:
            world.truncate(db, 20 * size)
            world.write(db, 18 * size, fill(5000, size))
    world.write(db, 100, b"not aligned" * 60)
    world.commit()
    world.truncate(db, 4 * size)
    world.step_commit(before_harden=lambda: world.write(db, 4 * size, fill(6000, size)))
    world.commit()


def directories(world: World) -> None:
    """Delete and rename directories of base and overlay, and rename them back."""
    world.rename("dir", "moved")
    world.create("moved/new", fill(1, 600))
    world.commit()
    world.rename("moved", "dir")
    world.unlink("dir/new")
    world.commit()
    world.rename("dir/sub", "old/sub")
    world.rename("old", "dir/deep")
    world.step_commit(before_seal=lambda: world.replace("dir/deep/e", fill(2, 900)))
    world.remove_tree("dir/deep")
    world.commit()
    world.mkdir("dir/deep")
    world.create("dir/deep/e", fill(3, 300))
    world.mkdir("old")
    world.create("old/e", fill(4, 300))
    world.commit()
    world.rename("dir/deep", "old", RenameFlags.EXCHANGE)
    world.rename("a", "b", RenameFlags.EXCHANGE)
    world.commit()
    world.rename("a", "b", RenameFlags.EXCHANGE)
    world.rename("dir", "x")
    world.rename("x", "dir")
    world.remove_tree("dir")
    world.commit()


def copy_up(world: World) -> None:
    """Write into base files: whole copies of small ones, extents of a large one, attributes alone."""
    small, large = world.ino("a"), world.ino("large")
    world.setattr(large, SetAttr(mode=0o600))
    world.write(large, 5000, fill(1, 3000))
    world.write(small, 100, fill(2, 1000))
    world.commit()
    world.write(large, 6000, fill(3, 5000))
    world.write(large, 60_000, fill(4, 1000))
    world.commit()
    world.write(large, 40_000, fill(5, 1500))
    world.step_commit(
        before_seal=lambda: world.write(large, 41_000, fill(6, 1000)),
        before_harden=lambda: world.write(large, 20_000, fill(7, 700)),
        before_finish=lambda: world.write(large, 21_000, fill(8, 700)),
    )
    world.commit()
    # cut ranges off and write there and elsewhere, before the cut is durable
    world.truncate(large, 30_000)
    world.write(large, 33_000, fill(12, 900))
    world.write(large, 40_500, fill(13, 1500))
    world.step_commit(before_harden=lambda: world.write(large, 60_300, fill(14, 600)))
    world.commit()
    world.truncate(large, 50_000)
    world.commit()
    world.truncate(large, 70_000)
    world.write(large, 66_000, fill(9, 800))
    world.commit()
    world.truncate(large, 0)
    world.write(large, 0, fill(10, 900))
    world.commit()
    world.write(world.ino("dir/link"), 0, fill(11, 1300))
    world.setattr(world.ino("dir/c"), SetAttr(uid=5))
    world.commit()


def open_files(world: World) -> None:
    """Unlink files that are still open, write to them, close them before and after commits; leave one open."""
    first = world.create("first", fill(1, 2000))
    second = world.create("second", fill(2, 2000))
    world.commit()
    world.unlink("first", keep=True)
    world.write(first, 500, fill(3, 2000))
    world.commit()
    third = world.create("third", fill(4, 700))
    world.unlink("third", keep=True)
    world.write(third, 700, fill(5, 700))
    world.commit()
    world.forget(third)
    world.unlink("second", keep=True)
    world.step_commit(before_harden=lambda: world.forget(first))
    world.forget(second)
    world.commit()
    base = world.unlink("a", keep=True)
    world.write(base, 0, fill(6, 900))
    world.commit()
    world.create("a", fill(7, 900))
    world.commit()
    world.create("fourth", fill(8, 400))
    world.unlink("fourth")
    world.create("fifth", fill(9, 400))
    world.commit()
    world.rename("fifth", "a")
    world.step_commit(before_finish=lambda: world.create("sixth", fill(10, 100)))
    world.unlink("sixth", keep=True)
    world.commit()


def unnamed(world: World) -> None:
    """Make files without a name (O_TMPFILE), name them before and after commits, or never; name one over another."""
    early = world.unnamed(fill(1, 2000))
    world.name(early, "early")
    world.commit()
    late = world.unnamed(fill(2, 2000))
    never = world.unnamed(fill(3, 100))
    world.commit()
    world.write(late, 1500, fill(4, 1500))
    world.step_commit(before_harden=lambda: world.name(late, "dir/late"))
    world.forget(never)
    world.commit()
    again = world.unnamed(fill(5, 150))
    world.name(again, "tmp")
    world.rename("tmp", "early")
    world.kill()
    left = world.unnamed(fill(6, 2500))
    world.step_commit(before_finish=lambda: world.write(left, 0, fill(7, 3000)))
    world.name(left, "left")
    world.commit()
    world.unlink("left")
    world.unlink("dir/late")
    world.unnamed(fill(8, 900))
    world.commit()
    world.close()
    world.open()
    assert not world.overlay.db.rows("SELECT 1 FROM orphan")


def links(world: World) -> None:
    """Hard links of base and created files, written through one name and removed by another."""
    world.create("one", fill(1, 1500))
    world.link("one", "two")
    world.commit()
    world.write(world.ino("two"), 1000, fill(2, 1500))
    world.unlink("one")
    world.link("two", "dir/three")
    world.commit()
    world.write(world.ino("b"), 0, fill(3, 600))
    world.commit()
    world.unlink("b")
    world.link("dir/link", "b2")
    world.rename("dir/link", "b")
    world.commit()
    world.unlink("b")
    world.unlink("b2")
    world.unlink("two")
    world.step_commit(before_harden=lambda: world.unlink("dir/three"))
    world.commit()


def shrink_grow(world: World) -> None:
    """Shrink and grow files across commits: bytes cut off must stay until the cut is durable, and never come back."""
    created = world.create("log", fill(1, 6000))
    base = world.ino("dir/c")
    world.commit()
    for turn, ino in enumerate((created, base)):
        world.truncate(ino, 3000)
        world.truncate(ino, 5000)
        world.commit()
        world.write(ino, 4000, fill(10 + turn, 2500))
        world.commit()
        world.truncate(ino, 1000)
        world.step_commit(before_harden=lambda ino=ino: world.write(ino, 1000, fill(20, 1000)))
        world.commit()
        world.truncate(ino, 0)
        world.write(ino, 0, fill(30 + turn, 2000))
        world.step_commit(
            before_seal=lambda ino=ino: world.truncate(ino, 700),
            before_harden=lambda ino=ino: world.truncate(ino, 4000),
            before_finish=lambda ino=ino: world.write(ino, 900, fill(40, 600)),
        )
        world.commit()
    world.truncate(created, 100)
    world.commit()
    world.write(created, 50, fill(50, 2000))
    world.commit()


def ranges(world: World) -> None:
    """Punch, zero, reserve and copy ranges across commits: bytes must stay until that is durable, and not come back."""
    own, large, tiny = world.create("own", fill(1, 40_000)), world.ino("large"), world.create("tiny", fill(2, 150))
    world.write(large, 8192, fill(3, 12_288))
    world.commit()
    # punched, and written again in part before that is durable; in the file's own object, in extents, over the base
    world.fallocate(own, PUNCH, 4096, 16_384)
    world.write(own, 8192, fill(4, 1000))
    world.fallocate(large, PUNCH, 10_000, 30_000)
    world.write(large, 12_288, fill(5, 700))
    world.fallocate(tiny, PUNCH, 20, 50)
    world.step_commit(
        before_seal=lambda: world.fallocate(own, PUNCH, 24_576, 4096),
        before_harden=lambda: world.write(own, 12_288, fill(6, 3000)),
        before_finish=lambda: world.fallocate(own, PUNCH, 28_672, 8192),
    )
    world.commit()
    world.fallocate(own, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 36_000, 9000)
    world.fallocate(large, FALLOC_FL_ZERO_RANGE, 100_000, 60_000)
    world.step_commit(before_harden=lambda: world.write(large, 104_000, fill(7, 900)))
    world.commit()
    world.fallocate(own, 0, 30_000, 30_000)
    world.write(own, 59_000, fill(8, 3000))
    world.copy(large, 50_000, own, 4096, 5000)
    world.step_commit(before_harden=lambda: world.fallocate(own, PUNCH, 4096, 8192))
    world.truncate(own, 9000)
    world.fallocate(own, PUNCH, 0, 4096)
    world.commit()
    world.truncate(own, 30_000)
    world.write(own, 2000, fill(9, 1000))
    world.commit()
    # all of it: the object goes
    world.fallocate(own, PUNCH, 0, 30_000)
    world.write(own, 5000, fill(10, 900))
    world.step_commit(before_harden=lambda: world.fallocate(large, PUNCH, 0, 160_000))
    world.commit()


def ranges_killed(world: World) -> None:
    """Holes that a killed daemon left, in its redo log or in a commit whose blocks were not given back."""
    own, large = world.create("own", fill(1, 30_000)), world.ino("large")
    world.commit()
    world.fallocate(own, PUNCH, 4096, 8192)
    world.fallocate(large, PUNCH, 50_000, 20_000)
    world.write(own, 8192, fill(2, 600))
    world.kill()
    world.write(own, 5000, fill(3, 600))
    world.write(world.ino("large"), 60_000, fill(4, 600))
    world.commit()
    world.fallocate(own, PUNCH, 16_384, 8192)
    commits = world.overlay.commits
    commits.presync(commits.pending())
    commits.seal()
    world.kill()
    world.write(own, 20_000, fill(5, 600))
    world.fallocate(own, PUNCH, 0, 30_000)
    world.kill()
    world.write(own, 10_000, fill(6, 600))
    world.commit()


def xattrs(world: World) -> None:
    """Extended attributes of base and created objects, also of a directory."""
    ino = world.create("file", fill(1, 100))
    for turn in range(4):
        for target in (ino, world.ino("a"), world.ino("dir")):
            world.recorder.note("op", "setxattr")
            world.overlay.setxattr(target, b"user.turn", fill(turn, 30 + 400 * turn))
        world.commit()
    world.overlay.removexattr(ino, b"user.turn")
    world.overlay.removexattr(world.ino("dir"), b"user.turn")
    world.commit()


def checkpoints(world: World) -> None:
    """A write-ahead log that is moved into the database and begun anew, again and again, beside overwritten files."""
    world.mkdir("many")
    for turn in range(14):
        world.create(f"many/{turn}", fill(turn, 300))
        if turn > 3:
            world.unlink(f"many/{turn - 3}")
        world.replace("many/same", fill(100 + turn, 500))
        if turn % 5 == 4:
            world.step_commit(before_harden=lambda turn=turn: world.create(f"many/late{turn}", fill(turn, 50)))
        else:
            world.commit()
        if turn == 7:
            world.close()
            world.open()


def remounts(world: World) -> None:
    """Mount, change, unmount: the log is removed and made again, and numbers go on where they stopped."""
    for turn in range(4):
        world.create(f"r{turn}", fill(turn, 900))
        if turn % 2:
            world.commit()
        world.replace("a", fill(10 + turn, 500))
        kept = world.create("kept", fill(20 + turn, 300))
        world.unlink("kept", keep=True)
        if turn:
            world.unlink(f"r{turn - 1}")
        world.close()
        world.open()
        assert not world.overlay.db.rows("SELECT 1 FROM orphan WHERE ino = ?", (kept,))


def kills(world: World) -> None:
    """The daemon is killed at bad moments and mounted again, before the power goes."""
    # nothing committed yet: content directories are new, and then empty
    world.create("before", fill(0, 900))
    world.unlink("before")
    world.kill()
    world.create("first", fill(1, 900))
    world.commit()
    world.create("uncommitted", fill(1, 900))
    world.kill()
    world.replace("first", fill(2, 900))
    world.create("second", fill(3, 900))
    world.truncate(world.ino("second"), 300)
    world.kill()
    world.replace("second", fill(4, 500))
    world.commit()
    # between the commit of rows and the sync of the log
    world.unlink("first")
    world.write(world.ino("second"), 200, fill(5, 800))
    commits = world.overlay.commits
    commits.presync(commits.pending())
    commits.seal()
    world.kill()
    world.create("third", fill(6, 400))
    world.commit()
    # the same, where the next mount has nothing to tidy up
    world.mkdir("directory")
    world.write(world.ino("third"), 200, fill(6, 700))
    commits = world.overlay.commits
    commits.presync(commits.pending())
    commits.seal()
    world.kill()
    # after the sync, before the garbage is gone
    world.unlink("second")
    world.truncate(world.ino("third"), 0)
    commits = world.overlay.commits
    commits.seal()
    commits.harden()
    world.kill()
    world.create("fourth", fill(7, 400))
    world.unlink("third", keep=True)
    world.commit()
    world.kill()
    world.create("fifth", fill(8, 400))
    world.commit()


def mixed(world: World) -> None:
    """A bit of everything in one long running transaction, with few commits."""
    for turn in range(3):
        world.mkdir(f"d{turn}")
        ino = world.create(f"d{turn}/f", fill(turn, 1200))
        world.write(world.ino("large"), 9000 * turn, fill(turn, 600))
        world.rename(f"d{turn}/f", f"d{turn}/g")
        world.link(f"d{turn}/g", f"h{turn}")
        world.truncate(ino, 400)
        world.replace("dir/c", fill(40 + turn, 800))
        if turn:
            world.remove_tree(f"d{turn - 1}")
        world.step_commit(
            before_seal=lambda turn=turn: world.create(f"s{turn}", fill(turn, 90)),
            before_harden=lambda turn=turn: world.unlink(f"s{turn}"),
        )
    world.rename("old", "older")
    world.create("older/n", fill(9, 100))
    world.unlink("older/e")
    world.commit()
    assert world.overlay.lookup(ROOT, b"old") is None


def much_renamed(world: World) -> None:
    """Give many base objects rows of every kind."""
    world.rename("dir", "elsewhere")
    world.replace("old/e", fill(1, 300))
    world.write(world.ino("a"), 10, fill(2, 100))
    world.unlink("b")
    world.rename("old/f", "elsewhere/sub/g")
    world.setattr(world.ino("large"), SetAttr(uid=7))
    world.overlay.setxattr(world.ino("old"), b"user.x", b"y")
    world.commit()
    world.create("lost", fill(3, 100))


def another_base(world: World) -> None:
    """After the base was replaced by one with other inode numbers: the first mount, and a little work."""
    world.replace("a", fill(1, 500))
    world.rename("elsewhere", "dir")
    world.commit()


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
    """

    run: Callable[[World], None]
    packed: bool = False
    wal_limit: int = 1000
    small_max: int = 200
    redo: bool = False
    killed_at_birth: bool = False
    before: Callable[[World], None] | None = None


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
    "mixed": Workload(mixed, wal_limit=20),
}
