"""Promise P6, step by step: every step of storage I/O of every operation fails once, with EIO and with ENOSPC.

The caller gets the errno, the operation leaves no trace, what was acknowledged before stays, and when the fault is over
everything goes on.  Where SQLite itself rolls back more than the operation, or a sync or commit fails, the overlay is
read-only, and the next mount has everything that was acknowledged: the redo log kept it.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from minifo.engine import ROOT, Ino, Overlay, SetAttr, StateError
from minifo.engine.errors import CommitPostponed
from minifo.engine.store.object_paths import object_name
from minifo.engine.store.storage import Storage
from minifo.engine.store.syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from tests.crash.contents import fill
from tests.crash.io_fault_injector import Injector
from tests.crash.recorded_overlay import CALLER, Entry, Tree, make_base, tree_of

pytestmark = pytest.mark.logs(
    "operations of a killed daemon were replayed",
    "storage .* failed \\(.*\\); the overlay is read-only now",
    "is committed by itself until there is room",
    "the reserve is given up until there is room",
    "keeps blocks it does not need",
    "cannot be deleted now",
    "cannot be read: (Input/output error|Stale file handle)",  # a listing goes on without what a failed step had told
    "cannot be replayed: storage failed, and content did not arrive",
    "does not follow the last commit; kept as",  # a commit that failed, but had arrived
    always=False,
)

CODES = pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
WARM = pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_MOST = 400  # steps: far more than any operation takes


@dataclass
class Ground:
    """A storage to start from, each time anew, and an overlay on a copy of it."""

    base: str
    template: str
    scratch: str
    injector: Injector = field(default_factory=Injector)

    def copy(self) -> str:
        """A fresh copy of the storage."""
        path = tempfile.mkdtemp(dir=self.scratch)
        shutil.copytree(self.template, path, dirs_exist_ok=True)
        return path

    def open(self, storage: str, **options: Any) -> Overlay:
        """Mount it, with steps counted and a redo log kept."""
        redo = os.path.join(self.scratch, "redo")
        os.makedirs(redo, exist_ok=True)
        return Overlay.open(
            self.base,
            storage,
            storage_io=self.injector.storage,
            vfs=self.injector.vfs,
            redo_directory=redo,
            clone=False,
            **options,
        )


@pytest.fixture(scope="module")
def ground(figures: list[str]) -> Iterator[Ground]:
    """A storage that holds something of every kind, all of it committed."""
    root = "/dev/shm" if os.path.isdir("/dev/shm") else None
    scratch = tempfile.mkdtemp(prefix="minifo-faults-", dir=root)
    base = make_base(os.path.join(scratch, "base"))
    template = os.path.join(scratch, "template")
    os.mkdir(template)
    overlay = Overlay.open(base, template, redo_directory=None)
    for number in range(3):
        _create(overlay, b"file%d" % number, fill(number, 1500))
    _create(overlay, b"big", fill(4, 5000))
    overlay.mkdir(ROOT, b"directory", 0o755, CALLER)
    overlay.write(_ino(overlay, b"large"), 5000, fill(5, 2000))
    overlay.close()
    ground = Ground(base, template, scratch)
    yield ground
    figures.append(f"{ground.injector.count} steps of storage I/O were failed, one at a time")
    ground.injector.close()
    shutil.rmtree(scratch)


def _ino(overlay: Overlay, name: bytes) -> Ino:
    attr = overlay.lookup(ROOT, name)
    assert attr is not None
    return Ino(attr.ino)


def _create(overlay: Overlay, name: bytes, content: bytes) -> Ino:
    ino = Ino(overlay.mknod(ROOT, name, 0o644, 0, CALLER).ino)
    overlay.write(ino, 0, content)
    return ino


def _drop(overlay: Overlay, name: bytes) -> None:
    ino = _ino(overlay, name)
    overlay.unlink(ROOT, name)
    overlay.forget([ino])


def _new_object(overlay: Overlay) -> tuple[Ino, int, bytes]:
    overlay.objects.next_object = max(overlay.objects.next_object, 1024)
    return _ino(overlay, b"empty"), 0, fill(1, 3000)


# One call each: a second one is an operation of its own.
OPERATIONS: dict[str, Callable[[Overlay], object]] = {
    "mknod": lambda o: o.mknod(ROOT, b"new", 0o644, 0, CALLER),
    "mkdir": lambda o: o.mkdir(ROOT, b"new", 0o755, CALLER),
    "symlink": lambda o: o.symlink(ROOT, b"new", b"target", CALLER),
    "link": lambda o: o.link(_ino(o, b"file0"), ROOT, b"new"),
    "link of base": lambda o: o.link(_ino(o, b"a"), ROOT, b"new"),
    "unlink": lambda o: o.unlink(ROOT, b"file0"),
    "unlink of base": lambda o: o.unlink(ROOT, b"a"),
    "rmdir": lambda o: o.rmdir(ROOT, b"directory"),
    "rename": lambda o: o.rename(ROOT, b"file0", ROOT, b"new"),
    "rename over": lambda o: o.rename(ROOT, b"file0", ROOT, b"pending"),
    "rename of base": lambda o: o.rename(ROOT, b"dir", ROOT, b"new"),
    "chmod": lambda o: o.setattr(_ino(o, b"file0"), SetAttr(mode=0o600)),
    "chown of base": lambda o: o.setattr(_ino(o, b"a"), SetAttr(uid=7)),
    "truncate": lambda o: o.setattr(_ino(o, b"file0"), SetAttr(size=100)),
    "truncate to nothing": lambda o: o.setattr(_ino(o, b"file0"), SetAttr(size=0)),
    "truncate of base": lambda o: o.setattr(_ino(o, b"large"), SetAttr(size=6000)),
    "first write": lambda o: o.write(_ino(o, b"empty"), 0, fill(1, 3000)),
    "write": lambda o: o.write(_ino(o, b"pending"), 400, fill(1, 3000)),
    "write in place": lambda o: o.write(_ino(o, b"big"), 400, fill(1, 3000)),
    "write in a new directory": lambda o: o.write(*_new_object(o)),
    "write after shrink": lambda o: o.write(_ino(o, b"shrunk"), 2000, fill(1, 3000)),
    "copy-up": lambda o: o.write(_ino(o, b"a"), 100, fill(1, 500)),
    "extent": lambda o: o.write(_ino(o, b"large"), 100_000, fill(1, 5000)),
    "punch": lambda o: o.ranges.fallocate(_ino(o, b"big"), PUNCH, 0, 4096),
    "punch of all": lambda o: o.ranges.fallocate(_ino(o, b"big"), PUNCH, 0, 5000),
    "punch of base": lambda o: o.ranges.fallocate(_ino(o, b"large"), PUNCH, 4096, 8192),
    "zero": lambda o: o.ranges.fallocate(_ino(o, b"big"), FALLOC_FL_ZERO_RANGE, 1000, 8000),
    "reserve": lambda o: o.ranges.fallocate(_ino(o, b"empty"), 0, 0, 50_000),
    "copy": lambda o: o.ranges.copy(_ino(o, b"large"), 0, _ino(o, b"empty"), 0, 8000),
    "setxattr": lambda o: o.setxattr(_ino(o, b"file0"), b"user.x", b"y" * 500),
    "setxattr of base": lambda o: o.setxattr(_ino(o, b"a"), b"user.x", b"y"),
    "forget": lambda o: o.forget([Ino(o.db.value("SELECT min(ino) FROM orphan"))]),
}
READS: dict[str, Callable[[Overlay], object]] = {
    "lookup": lambda o: o.lookup(ROOT, b"file0"),
    "read": lambda o: o.read(_ino(o, b"file0"), 0, 2000),
    "readdir": lambda o: list(o.readdir(ROOT)),
    "listxattr": lambda o: o.listxattr(_ino(o, b"file0")),
}


def _pending(overlay: Overlay) -> None:
    """What was acknowledged, but not committed, before the operation under test."""
    overlay.mknod(ROOT, b"empty", 0o644, 0, CALLER)
    _create(overlay, b"pending", fill(20, 900))
    overlay.setattr(_create(overlay, b"shrunk", fill(21, 3000)), SetAttr(size=1000))
    overlay.rename(ROOT, b"old", ROOT, b"older")
    overlay.unlink(ROOT, b"file2")


def _prepare(ground: Ground, storage: str, warm: bool) -> Overlay:
    """An overlay with acknowledged, uncommitted operations: many, or one and nothing else in any cache."""
    overlay = ground.open(storage)
    _pending(overlay)
    if not warm:
        overlay.close()
        overlay = ground.open(storage)
        overlay.unlink(ROOT, b"file1")
    return overlay


def _forget_caches(overlay: Overlay) -> None:
    """Let rows and pages be read from storage again, so that reading can fail."""
    overlay.inodes._rows.clear()
    overlay.objects._fds.clear()
    overlay.db._con.release_memory()


def _no_trace(overlay: Overlay) -> None:
    """Every object in storage is named by a row: the failed operation left none."""
    sql = (
        "SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent WHERE object > 0"
        " UNION SELECT object FROM garbage"
    )
    named = {object_name(number) for (number,) in overlay.db.rows(sql)}
    there = set()
    for block in overlay.storage.names("content"):
        there |= {f"content/{block}/{name}" for name in overlay.storage.names(f"content/{block}")}
    known = named | {object_name(number) for number in overlay.objects.undeleted}
    assert there == known - {object_name(number) for number in overlay.objects.swept}


def _old_or_new(old: Entry, now: Entry) -> Entry:
    new = old.content[:400] + fill(1, 3000)
    if all(byte in (a, b) for byte, a, b in zip(now.content, old.content, new, strict=False)):
        return now._replace(content=old.content)
    return now


def _remount(ground: Ground, overlay: Overlay, storage: str) -> tuple[Tree, Overlay]:
    _close(overlay)
    overlay = ground.open(storage)
    return tree_of(overlay), overlay


def _close(overlay: Overlay) -> None:
    try:
        overlay.close()
    except (StateError, OSError):
        assert overlay.db.read_only


@CODES
@WARM
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_fails_without_a_trace(ground: Ground, name: str, warm: bool, code: int) -> None:
    """Whichever step of an operation fails, its caller gets the errno and nobody sees that it was tried."""
    for number in range(_MOST):
        storage = ground.copy()
        overlay = _prepare(ground, storage, warm)
        before = tree_of(overlay)
        _forget_caches(overlay)
        ground.injector.arm(number, code)
        error: OSError | None = None
        try:
            OPERATIONS[name](overlay)
        except OSError as caught:
            error = caught
        ground.injector.disarm()
        step = ground.injector.failed
        if step is None:
            assert error is None
            overlay.close()
            break
        if error is not None:
            assert error.errno == code, f"step {number}, {step}: {error!r}"
            if overlay.db.read_only:
                # SQLite rolled back more than the operation: what was acknowledged comes back with the next mount
                after, overlay = _remount(ground, overlay, storage)
                assert after.keys() == (before.keys()), f"step {number}, {step}"
                assert after == before, f"step {number}, {step}"
            else:
                after = tree_of(overlay)
                if step.startswith("write"):
                    # a part of what it overwrites in place is written: bytes old or new, and nothing else
                    for path in (b"/big", b"/pending"):
                        after[path] = _old_or_new(before[path], after[path])
                assert after == before, f"step {number}, {step}"
                _no_trace(overlay)
            assert overlay.check() == []
            OPERATIONS[name](overlay)  # the fault is over
        expected = tree_of(overlay)
        overlay.commit()
        _no_trace(overlay)
        after, overlay = _remount(ground, overlay, storage)
        assert after == expected, f"step {number}, {step}"
        assert overlay.check() == []
        overlay.close()
        shutil.rmtree(storage)
    else:
        pytest.fail("more steps than can be")


@CODES
@WARM
@pytest.mark.parametrize("name", READS)
def test_a_reader_gets_the_errno(ground: Ground, name: str, warm: bool, code: int) -> None:
    """A step of reading fails with its errno, and what is shown afterwards is what was there."""
    for number in range(_MOST):
        storage = ground.copy()
        overlay = _prepare(ground, storage, warm)
        before = tree_of(overlay)
        _forget_caches(overlay)
        ground.injector.arm(number, code)
        error: OSError | None = None
        try:
            READS[name](overlay)
        except OSError as caught:
            error = caught
        ground.injector.disarm()
        step = ground.injector.failed
        if error is not None:
            assert error.errno == code, f"step {number}, {step}: {error!r}"
        if overlay.db.read_only:
            after, overlay = _remount(ground, overlay, storage)
        else:
            after = tree_of(overlay)
        assert after == before, f"step {number}, {step}"
        overlay.close()
        shutil.rmtree(storage)
        if step is None:
            break


def _commit(overlay: Overlay) -> None:
    overlay.commits.run()


def _stepwise(overlay: Overlay) -> None:
    commits = overlay.commits
    commits.presync(commits.pending())
    sealed = commits.seal()
    commits.harden()
    commits.finish(sealed)


def _checkpoint(overlay: Overlay) -> None:
    overlay.commits.wal_limit = 0
    overlay.commits.run()


COMMITS = {"commit": _commit, "steps": _stepwise, "checkpoint": _checkpoint}


@CODES
@pytest.mark.parametrize("name", COMMITS)
def test_a_failed_commit_stops_writing_and_loses_nothing(ground: Ground, name: str, code: int) -> None:
    """Whichever step of a commit fails, the overlay says so and is read-only; the next mount has all of it.

    But where it was the sync of content: nobody knows what arrived.  Then the next mount says so, and changes nothing.
    """
    for number in range(_MOST):
        storage = ground.copy()
        overlay = ground.open(storage)
        committed = tree_of(overlay)
        _pending(overlay)
        _drop(overlay, b"file1")
        before = tree_of(overlay)
        ground.injector.arm(number, code)
        failed = postponed = False
        said = ""
        try:
            COMMITS[name](overlay)
        except CommitPostponed:
            postponed = True
        except StateError as caught:
            failed = True
            said = str(caught)
        ground.injector.disarm()
        step = ground.injector.failed
        assert tree_of(overlay) == before or overlay.db.read_only, f"step {number}, {step}"
        if failed:
            assert "\n" not in said
            assert overlay.db.read_only
            with pytest.raises(OSError, match=os.strerror(errno.EROFS)):
                overlay.mknod(ROOT, b"refused", 0o644, 0, CALLER)
        elif postponed:
            assert code == errno.ENOSPC
            overlay.commit()
        if failed and step is not None and step.startswith("sync content/"):
            _close(overlay)
            for _ in range(2):
                with pytest.raises(StateError, match="content did not arrive"):
                    ground.open(storage)
            overlay = ground.open(storage, redo_aside=True)
            before = committed
            assert tree_of(overlay) == committed
        after, overlay = _remount(ground, overlay, storage)
        assert after == before, f"step {number}, {step}"
        assert overlay.check() == []
        overlay.commit()
        _no_trace(overlay)
        overlay.close()
        shutil.rmtree(storage)
        if step is None:
            break
    else:
        pytest.fail("more steps than can be")


@CODES
def test_a_failed_mount_changes_nothing(ground: Ground, code: int) -> None:
    """Whichever step of a mount fails, it fails with one line, and the next one shows everything."""
    storage = ground.copy()
    overlay = ground.open(storage)
    _drop(overlay, b"file1")
    overlay.unlink(ROOT, b"file0")
    commits = overlay.commits
    commits.presync(commits.pending())
    commits.seal()
    expected = tree_of(overlay)
    _pending(overlay)
    # what is there now, were the daemon killed: the redo log is of another inode than the copy's database, and ignored
    crashed = os.path.join(ground.scratch, "crashed")
    shutil.copytree(storage, crashed, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*-shm"))
    overlay.close()
    said = ""
    for number in range(_MOST):
        path = tempfile.mkdtemp(dir=ground.scratch)
        shutil.copytree(crashed, path, dirs_exist_ok=True)
        ground.injector.arm(number, code)
        try:
            overlay = ground.open(path)
        except StateError as caught:
            said = str(caught)
            ground.injector.disarm()
            overlay = ground.open(path)
        ground.injector.disarm()
        step = ground.injector.failed
        assert "\n" not in said
        assert tree_of(overlay) == expected, f"step {number}, {step}"
        assert overlay.check() == []
        overlay.commit()
        _no_trace(overlay)
        overlay.close()
        shutil.rmtree(path)
        if step is None:
            break
    else:
        pytest.fail("more steps than can be")


def test_every_step_can_fail(ground: Ground) -> None:
    """Every method of Storage that does I/O is a step that the injector knows."""
    storage = ground.injector.storage(ground.template)
    counted = {name for kind in type(storage).__mro__[:1] for name in vars(kind)}
    storage.close()
    public = {name for name in vars(Storage) if not name.startswith("_")}
    # composed of steps; or before there is anything to lose; or what cannot fail
    assert public - counted == {
        "format",
        "database_bytes",
        "log_bytes",
        "database",
        "identity",
        "is_beside",
        "hold",
        "is_held",
        "has_writer",
        "is_formatted",
        "has_holes",
        "space",
        "copy_out",
        "check_cloned",
        "check_empty",
        "lock",
        "close",
    }
