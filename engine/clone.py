"""Clones: a new storage that holds a state of an overlay, and shares the bytes of its content objects.

Rows are copied, for there are few bytes in them.  Of content objects the blocks are shared where the file system can do
that (reflink), else the whole files, by hard links, and only what can do neither is copied.  An object with several
names is frozen in every storage that has it (store/object_files.py); when the others have deleted it, it is the last
one's again.

A power cut leaves a clone or none.  The database has the name ``clone.db`` until all is durable; a directory with that
is no storage, and the next attempt removes what is in it.  Every object is marked before it gets another name, durably,
because without that mark an object with several names is refused (store/confined_dir.py).
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple

from .checkpoint_values import CLONE, Checkpoint
from .checkpoints import Checkpoints
from .errors import SHORT, Corrupt, FsError, NotDurable, StateError, UsageError
from .model import OBJECTS_END
from .open_overlay import hold_checkpoint
from .overlay import Overlay
from .store.database import DB_NAME, Database
from .store.database_file import open_database
from .store.history import TABLES, History
from .store.object_digests import drop_stale
from .store.object_paths import object_directory, object_name, object_number
from .store.storage import CLONING, Storage
from .store.syscalls import data_ranges
from .trial import FACTS

log = logging.getLogger(__name__)

_STEP = 1 << 20  # bytes
_LEFT = 60 * 10**9  # ns after which nobody uses a checkpoint that nobody holds
_NEEDED = (
    "SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent WHERE object > 0"
    " UNION SELECT object FROM was_inode WHERE object > 0 UNION SELECT object FROM was_extent WHERE object > 0"
)
_EMPTIED = ("checkpoint", "object_digest", "garbage", "journal", *(f"was_{name}" for name in TABLES))
_NOT_CLONED = (*FACTS, "imported")  # facts that are about the storage, not about the state
# errnos of link(2) after which no other object is linked either; ENOENT: there is no such object, and the copy says so
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOENT, errno.EOPNOTSUPP, errno.ENOSYS)


class Cloned(NamedTuple):
    """What a clone is made of.

    Attributes:
        uuid: its identity.
        reflinked, linked, copied: content objects of which the blocks are shared, that are shared, that were copied.
        copied_bytes: bytes of those that were copied.
    """

    uuid: str
    reflinked: int
    linked: int
    copied: int
    copied_bytes: int


def checkpoint_for_clone(checkpoints: Checkpoints) -> Checkpoint:
    """Make a checkpoint for ``clone_beside``, which the caller deletes then.

    One that was left by a caller who was killed is deleted now.

    Raises:
        StateError: storage is full, or failed.
    """
    before = time.time_ns() - _LEFT
    left = {found.id for found in checkpoints.all() if found.cause == CLONE and found.time < before}
    if left:
        checkpoints.prune(left)  # but for those that are in use
    return checkpoints.create(checkpoints.free_name("for-clone"), "while it is cloned", cause=CLONE)


def clone_overlay(
    overlay: Overlay, name: str | None, path: str, tick: Callable[[int, int], object] = lambda done, total: None
) -> Cloned:
    """Clone an open overlay as it is, or a checkpoint of it.  Nothing may change it meanwhile.

    Args:
        overlay: open for writing.
        name: of the checkpoint; None for what it shows.
        path, tick: as for ``clone``, which see for what is raised; StateError also if there is no such checkpoint.
    """
    number = None if name is None else overlay.checkpoints.find(name).id
    overlay.commit()
    with closing(state_of(overlay.db, number)) as state:
        overlay.objects.share()
        return clone(overlay.storage, state, path, tick=tick)


def clone_beside(
    storage: str, name: str, path: str, tick: Callable[[int, int], object] = lambda done, total: None
) -> Cloned:
    """Clone a checkpoint of an overlay on which a daemon works.

    Args:
        storage: the storage directory.
        name: the checkpoint's; it is not deleted meanwhile.
        path, tick: as for ``clone``, which see for what is raised; StateError also if there is no such checkpoint.
    """
    with state_beside(storage, name) as (source, state):
        return clone(source, state, path, tick=tick)


@contextmanager
def state_beside(storage: str, name: str, *, past: bool = False) -> Iterator[tuple[Storage, Database]]:
    """Yield a storage on which a daemon works, and a checkpoint of it as ``state_of`` has it.

    Nothing that this state needs is deleted, or written, until the block ends.

    Args:
        storage: the storage directory.
        name: the checkpoint's.
        past: as for ``state_of``, which see for what is raised.
    """
    with closing(Storage(storage)) as source:
        with closing(open_database(source.database, read_only=True)) as db:
            state = state_of(db, hold_checkpoint(db, source, name), past=past)
        with closing(state):
            if past:
                for (number,) in state.rows("SELECT id FROM checkpoint"):
                    source.hold(number)
            yield source, state


@contextmanager
def state_now(overlay: Overlay) -> Iterator[tuple[Storage, Database]]:
    """Yield the storage of an open overlay, and its present state as ``state_of`` has it, with the past.

    Nothing may change it meanwhile.

    Raises:
        StateError: the commit failed.
        Corrupt: the database is damaged.
    """
    if not overlay.db.read_only:
        overlay.commit()
    with closing(state_of(overlay.db, past=True)) as state:
        yield overlay.storage, state


def state_of(db: Database, checkpoint: int | None = None, *, past: bool = False) -> Database:
    """Return a copy in memory of a state of an overlay, as the database of a new one.

    Args:
        db: the overlay's database.
        checkpoint: id of a checkpoint; None for the state as it is.
        past: True to keep other checkpoints and the journal, which a new overlay has not.

    Raises:
        StateError: there is no such checkpoint.
        Corrupt: the database is damaged.
    """
    import uuid  # imported here, because only a clone needs it

    try:
        copy = db.copied()
        try:
            with copy.operation():
                if checkpoint is not None:
                    if copy.value("SELECT 1 FROM checkpoint WHERE id = ?", (checkpoint,)) is None:
                        raise StateError("the checkpoint was deleted meanwhile", "choose another one")
                    History(copy).restore(checkpoint, 0, 0)
                    if past:
                        History(copy).forget(checkpoint)
                for table in ("garbage",) if past else _EMPTIED:
                    copy.change_unlogged(f"DELETE FROM {table}")
                drop_stale(copy)
                for key in () if past else _NOT_CLONED:
                    copy.change_unlogged("DELETE FROM overlay WHERE key = ?", (key,))
                facts: dict[str, str | int] = {
                    "uuid": str(uuid.uuid4()),
                    "commit_token": int.from_bytes(os.urandom(6), "big"),
                }
                for key, value in facts.items():
                    copy.change_unlogged("UPDATE overlay SET value = ? WHERE key = ?", (value, key))
            copy.commit()
        except BaseException:
            copy.close()
            raise
    except FsError as error:
        raise Corrupt(
            f"the database cannot be copied ({error.filename or error.strerror})", "run minifo-fsck"
        ) from error
    return copy


def clone(
    source: Storage,
    state: Database,
    path: str,
    *,
    storage_io: Callable[[str], Storage] = Storage,
    tick: Callable[[int, int], object] = lambda done, total: None,
) -> Cloned:
    """Make a storage that holds a state of an overlay.  Nothing may write into the objects of that state meanwhile.

    Args:
        source: the storage of the overlay.
        state: from ``state_of``.
        path: the directory; an empty one, or it is made.
        storage_io: the class to use in place of Storage (in tests).
        tick: called with the number of objects that are done, and of all.

    Raises:
        StateError: it cannot be made; nothing is left of it.
        UsageError: the path leads into the source, or above it.
        NotDurable: it is made, but a power cut may take it away.
    """
    numbers = needed(state, source)
    is_made = _make_directory(source, path)
    try:
        new = storage_io(path)
        try:
            _check_usable(new)  # before the lock is made, so that a foreign directory stays as it is
            new.lock(exclusive=True)
            _clear(new)
            _check_usable(new)
            return _fill(source, state, new, numbers, tick)
        finally:
            new.close()
    except BaseException as error:
        if is_made and not any(os.path.lexists(os.path.join(path, name)) for name in (DB_NAME, CLONING)):
            shutil.rmtree(path, ignore_errors=True)  # the lock, and empty directories
        if isinstance(error, OSError):
            hint = "check the free space and the permissions there"
            raise StateError(f"the clone {path} was not made ({error.strerror or error})", hint) from error
        raise


def needed(state: Database, source: Storage) -> list[int]:
    """Return the content objects that a state needs, sorted.

    Raises:
        Corrupt: the database has impossible numbers.
    """
    try:
        numbers = [number for (number,) in state.rows(_NEEDED)]
    except FsError as error:
        raise Corrupt(f"storage {source.path} is damaged ({error.filename})", _fsck(source)) from error
    for number in numbers:
        if not (type(number) is int and number < OBJECTS_END):
            raise Corrupt(f"storage {source.path} has {number!r:.40} as a content object", _fsck(source))
    return sorted(numbers)


def _fsck(source: Storage) -> str:
    return f"run: minifo-fsck {source.path}"


def _make_directory(source: Storage, path: str) -> bool:
    """Make the directory of a clone; return False if it is there."""
    place = os.path.realpath(path)
    if os.path.commonpath((place, source.path)) in (place, source.path):
        raise UsageError(f"{path} and storage {source.path} lie in each other", "choose another directory")
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return False
    except OSError as error:
        raise StateError(f"storage {path} cannot be made ({error.strerror})", "choose another directory") from error
    return True


def _check_usable(new: Storage) -> None:
    if new.is_formatted:
        raise StateError(f"storage {new.path} holds an overlay already", "choose an empty directory, or a new one")
    if not new.exists(CLONING):
        new.check_empty()


def _clear(new: Storage) -> None:
    """Remove what a clone that was not finished has left, the sign of it last."""
    if not new.exists(CLONING):
        return
    for block in new.names("content"):
        directory = f"content/{block}"
        for name in new.names(directory):
            if object_number(directory, name) is not None:
                new.unlink(f"{directory}/{name}")
        new.sync_dir(directory)
    new.unlink(CLONING)
    new.sync_dir(".")


def _fill(
    source: Storage, state: Database, new: Storage, numbers: list[int], tick: Callable[[int, int], object]
) -> Cloned:
    """Make the clone in an empty directory; if that fails, it is empty again."""
    try:
        os.close(new.create(CLONING))
        new.sync_dir(".")  # before there is anything else
        made = _Objects(source, new)
        made.share(numbers, tick)
        fd = new.open(CLONING, write=True)
        try:
            new.write(fd, state.image(), 0)
            new.sync_fd(fd)
        finally:
            os.close(fd)
        if numbers:
            new.sync_all()
        new.rename(CLONING, DB_NAME)
    except BaseException:
        with suppress(OSError):  # what cannot be removed is known by clone.db
            _clear(new)
        raise
    try:
        new.sync_dir(".")
        _sync(os.path.dirname(new.path))
    except OSError as error:
        failure = StateError(f"storage failed ({error.strerror})", "run: sync")
        raise NotDurable(f"the clone {new.path} is made", failure) from error
    return Cloned(
        str(state.value("SELECT value FROM overlay WHERE key = 'uuid'")),
        made.reflinked,
        made.linked,
        made.copied,
        made.copied_bytes,
    )


def _sync(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Objects:
    """The content objects of a clone.

    Args:
        source: the storage to share them with.
        new: that of the clone.

    Attributes:
        reflinked, linked, copied, copied_bytes: as in Cloned.
    """

    def __init__(self, source: Storage, new: Storage) -> None:
        self._source = source
        self._new = new
        self.reflinked = self.linked = self.copied = self.copied_bytes = 0
        self._can_reflink = True
        self._can_link = source.identity[0] == new.identity[0]

    def share(self, numbers: list[int], tick: Callable[[int, int], object]) -> None:
        """Share objects, or copy them.

        Raises:
            OSError: there is no space, or a file system failed.
            Corrupt: an object is missing in the source, or is no object.
        """
        self._make_directories(numbers)
        total = len(numbers)
        while self._can_reflink and self.reflinked < total:
            self._reflink(numbers[self.reflinked])
            tick(self.reflinked, total)
        left = numbers[self.reflinked :]
        offered = [self._offer(number) if self._can_link else None for number in left]
        if any(inode is not None for inode in offered):
            self._source.sync_all()  # each mark must be durable before there is a second name
        for count, (number, inode) in enumerate(zip(left, offered, strict=True), self.reflinked + 1):
            if inode is None or not self._link(number, inode):
                self._copy(number)
            tick(count, total)

    def _make_directories(self, numbers: Iterable[int]) -> None:
        for directory in ["content", *dict.fromkeys(object_directory(number) for number in numbers)]:
            if not self._new.exists(directory):
                self._new.mkdir(directory)

    def _open(self, number: int) -> int:
        name = object_name(number)
        try:
            return self._source.open_object(name, write=False)
        except OSError as error:
            if error.errno in SHORT:
                raise
            reason = "is missing" if error.errno == errno.ENOENT else f"cannot be used ({error.strerror})"
            raise Corrupt(f"{self._source.path}/{name} {reason}", _fsck(self._source)) from error

    def _reflink(self, number: int) -> None:
        """Let an object of the clone share all blocks of one; note it where the file systems cannot do that."""
        source = self._open(number)
        try:
            target = self._new.create(object_name(number))
            try:
                self._new.clone(target, source)
                self.reflinked += 1
            except OSError as error:
                log.debug("blocks cannot be shared: %s", error)
                self._can_reflink = False
                self._new.unlink(object_name(number))
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _offer(self, number: int) -> int | None:
        fd = self._open(number)
        try:
            return self._source.offer(fd)
        finally:
            os.close(fd)

    def _link(self, number: int, inode: int) -> bool:
        """Share an object by a hard link; return False if that cannot be."""
        if not self._can_link:
            return False
        try:
            self._new.link(self._source, object_name(number), inode)
        except OSError as error:
            if error.errno not in (errno.EMLINK, *_NO_LINKS):
                raise
            log.debug("no hard link: %s", error)
            self._can_link = error.errno == errno.EMLINK  # this one has all the names that it can have
            return False
        self.linked += 1
        return True

    def _copy(self, number: int) -> None:
        source = self._open(number)
        try:
            target = self._new.create(object_name(number))
            try:
                self._copy_bytes(source, target)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _copy_bytes(self, source: int, target: int) -> None:
        """Copy a file; holes stay holes."""
        size = os.fstat(source).st_size
        for start, end in data_ranges(source, 0, size):
            for at in range(start, end, _STEP):
                self._new.write(target, os.pread(source, min(_STEP, end - at), at), at)
        self._new.truncate(target, size)
        self.copied += 1
        self.copied_bytes += os.fstat(target).st_blocks * 512
