"""Storage I/O: the only module that touches files in the storage directory, except the database's own files.

It knows the layout (``minifo.db``, ``content/``, ``lock``), takes the lock, and offers the few primitives that content
objects need, so that tests can put a recorder or a fault injector in place of the class.  It reaches the files through
``ConfinedDir`` (store/confined_dir.py).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import stat
import struct
from collections.abc import Callable
from typing import NamedTuple

from ..errors import SHORT, Corrupt, NotMinifo, Shortage, StateError, StorageBusy
from . import writer_lock
from .confined_dir import ConfinedDir, check_layout, check_trust, mark_shared
from .database import DB_NAME
from .database_file import format_database
from .syscall_numbers import iow
from .syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate, syncfs
from .writer_lock import LOCK

log = logging.getLogger(__name__)

LEGACY_META = "META_dAfFgHE39ktF3HD2sr"  # name of mini_fo's list files; migrations/meta decodes them
MERGING = "merge.db"  # the database has this name while a merge applies it to the base
MERGING_NEW = MERGING + ".new"  # what follows it, until it is complete
IMPORTING = ".minifo-import"  # directory in which an import builds a storage
CLONING = "clone.db"  # the database of a clone has this name until all its objects are there
RESTORING = ".minifo-restore"  # directory for the files that a restored mini_fo storage replaces
_UNFINISHED = {MERGING: ("a merge", "merge --apply"), IMPORTING: ("an import", "meta import, or minifo import")}
_UNFINISHED |= {RESTORING: ("the undoing of an import", "meta restore")}
_FILES = {DB_NAME, DB_NAME + "-wal", DB_NAME + "-shm", DB_NAME + "-journal", DB_NAME + ".new"}
_FILES |= {LOCK, "reserve", "minifo.names", "minifo.names.new"}
_DIRECTORIES = {"content", "checkpoints"}
# files and directories from which an interrupted migration continues
_JOURNALS = {
    CLONING,
    MERGING,
    MERGING_NEW,
    MERGING + "-journal",
    "merge-journal",
    "merge-phase",
    "merge-journal.new",
    "merge-phase.new",
}
_WORK_DIRECTORIES = {IMPORTING, RESTORING, "mini_fo-backup"}
_OURS = {*_FILES, *_DIRECTORIES, "control"}
_BACKUP = DB_NAME + ".bak-"  # prefix of the copies that minifo-fsck makes before it repairs
_SIGNS_OF_USE = ("minifo.names", DB_NAME + "-wal", "content", "checkpoints")  # empty or missing before the first change
_HARMLESS = {"lost+found"}  # mkfs makes it in a new file system
_CLONE_RANGE = "=qQQQ"  # struct file_clone_range
FICLONE = iow(0x94, 9, struct.calcsize("i"))  # ioctl_ficlone(2)
FICLONERANGE = iow(0x94, 13, struct.calcsize(_CLONE_RANGE))
_ASSUMED_SPACE = 1 << 42  # bytes, where the file system does not report its size
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.EMLINK, errno.EISDIR)  # ConfinedDir's answers for what is not a plain file
_FETCH_MAX = 2 << 30  # bytes of a database that may be copied into memory
_LEGACY_SEARCH_MAX = 10_000  # directories that are searched for a META file


class Space(NamedTuple):
    """Space on the file system that storage is on, in bytes."""

    total: int
    free: int  # with the blocks that are reserved for root
    available: int
    is_known: bool  # False: the file system does not report it, and the other figures are assumed


def _or_shortage(call: Callable[[], int], name: str) -> int:
    """Return the result of *call*; raise Shortage if descriptors or memory ran out: which passes, unlike others."""
    try:
        return call()
    except OSError as error:
        if error.errno in SHORT:
            raise Shortage(error.errno, name) from error
        raise


def _reason(error: OSError) -> str:
    return "is a symlink, not a file" if error.errno == errno.ELOOP else str(error.strerror)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of *data* at *offset* in bytes, with as many calls as it takes: pwrite(2) may write less.

    Raises:
        OSError: part of the data may have been written.
    """
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view = view[done:]
        offset += done


class Storage:
    """The storage directory.

    Args:
        path: the directory.
        untrusted: accept it although other users may write to it; then it must only be read.

    Raises:
        StateError: it does not exist, is not a directory, cannot be opened, or other users may write to it.
        Corrupt: one of minifo's files or directories in it is of another type.
    """

    has_holes: bool | None = None  # whether files here can have holes; None until content objects have tried it
    is_beside: bool = False  # whether a daemon may change it while it is read

    def __init__(self, path: str, *, untrusted: bool = False) -> None:
        self.path = os.path.realpath(path)
        self.is_trusted = not untrusted
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise StateError(f"storage {path} does not exist", f"create it: mkdir {path}") from error
        except NotADirectoryError as error:
            raise StateError(f"storage {path} is not a directory", "give an empty directory") from error
        except OSError as error:
            raise StateError(f"storage {path} cannot be opened ({error.strerror})", "check its permissions") from error
        self._dir = ConfinedDir(self._fd)
        self._lock: int | None = None
        try:
            if not untrusted:
                check_trust(self.path, self._fd)
            files, directories = _JOURNALS, _WORK_DIRECTORIES
            if any(self._dir.find(name) is not None for name in (DB_NAME, MERGING)):
                files, directories = files | _FILES, directories | _DIRECTORIES
            check_layout(self._dir, self.path, files, directories, trusted=not untrusted)
        except BaseException:
            self._dir.close()
            raise

    # -- life cycle

    @property
    def database(self) -> str:
        """The path of the database."""
        return os.path.join(self.path, DB_NAME)

    @property
    def identity(self) -> tuple[int, int]:
        """The storage directory's (st_dev, st_ino)."""
        st = os.fstat(self._fd)
        return st.st_dev, st.st_ino

    def database_bytes(self) -> int:
        """Return the bytes that the database and its write-ahead log take."""
        return self.stat(DB_NAME).st_size + self.log_bytes()

    def log_bytes(self) -> int:
        """Return the bytes that are allocated to the database's write-ahead log."""
        try:
            return self.stat(DB_NAME + "-wal").st_blocks * 512
        except FileNotFoundError:
            return 0

    @property
    def is_formatted(self) -> bool:
        """Whether the storage has a database."""
        return self.exists(DB_NAME)

    def check_empty(self) -> None:
        """Check that a new overlay may be made here: there was none, and no foreign files (P8: never wiped).

        It accepts the remains of an interrupted first ``format``: the lock, an unfinished database, empty directories.

        Raises:
            Corrupt: the database is missing, but files of an overlay that was in use are there.
            StateError: a merge, an import or a clone was interrupted.
            NotMinifo: there are foreign files; if they are a legacy mini_fo storage, the hint says how to import it.
        """
        self.check_cloned()
        names = {name for name in os.listdir(self._fd) if not name.startswith(_BACKUP)}
        foreign = sorted(names - _OURS - _HARMLESS)
        if not foreign:
            left = next((name for name in _SIGNS_OF_USE if name in names and self._is_filled(name)), None)
            if left is not None:
                raise Corrupt(
                    f"storage {self.path} has lost its database ({DB_NAME}), but still has {left}",
                    f"put {DB_NAME} back, or rebuild it: minifo-fsck {self.path}",
                )
            return
        for name, (what, command) in _UNFINISHED.items():
            if name in foreign:
                raise StateError(f"{what} of storage {self.path} was cut short", f"finish it: minifo {command}")
        for count, (directory, _, files, _) in enumerate(os.fwalk(".", dir_fd=self._fd)):
            if LEGACY_META in files:
                meta = os.path.normpath(os.path.join(self.path, directory, LEGACY_META))
                raise NotMinifo(
                    f"storage {self.path} is a mini_fo storage ({meta})",
                    f"import it: minifo meta import {self.path} --base BASE --sto NEW",
                )
            if count >= _LEGACY_SEARCH_MAX:
                break
        raise NotMinifo(
            f"storage {self.path} holds foreign files ({foreign[0]!r})", "nothing was changed; give an empty directory"
        )

    def check_cloned(self) -> None:
        """Refuse a clone that was cut short, because it has not all its objects.

        Raises:
            StateError: this is one.
        """
        if not self.is_formatted and self.exists(CLONING):
            raise StateError(
                f"storage {self.path} is a clone that was cut short", f"make it again: minifo clone STO {self.path}"
            )

    def _is_filled(self, name: str) -> bool:
        """Return whether *name* is a file that is not empty, or a directory with a file at any depth."""
        st = self.stat(name)
        if not stat.S_ISDIR(st.st_mode):
            return st.st_size > 0
        return any(files for _, _, files, _ in os.fwalk(name, dir_fd=self._fd))

    def format(self, facts: dict[str, int | str | bytes], vfs: str | None = None) -> None:
        """Make an empty overlay here.  After a power cut there is either no database or a complete one.

        Args:
            facts: the first rows of the table ``overlay``: key and value.
            vfs: name of the SQLite VFS to use; None for SQLite's own.
        """
        new = DB_NAME + ".new"
        if self.exists(new):
            self.unlink(new)
        # Created here because SQLite would make it readable for others; -wal and -shm get the mode of the database.
        os.close(self.create(new))
        format_database(os.path.join(self.path, new), facts, vfs)
        self.rename(new, DB_NAME)
        self.sync_dir(".")

    def lock(self, *, exclusive: bool) -> None:
        """Lock the storage, until ``close`` or the end of the process (P7).

        Args:
            exclusive: for a writer; else shared, beside other readers.

        Raises:
            StorageBusy: another process holds it; its pid is in the error, where that is a writer.
            StateError: storage cannot be written, or other users may write to it.
            Corrupt: the lock is not a regular file.
        """
        if exclusive and not self.is_trusted:
            check_trust(self.path, self._fd)
        try:
            if not self.is_trusted:
                raise PermissionError  # an untrusted storage is only read: do not create the lock
            fd = self._dir.open(LOCK, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise Corrupt(f"the lock of storage {self.path} {_reason(error)}", "put a file in its place") from error
            if exclusive:
                raise StateError(
                    f"storage {self.path} cannot be written ({error.strerror})", "mount with -o ro"
                ) from error
            try:
                fd = self._dir.open(LOCK, os.O_RDONLY)
            except OSError:
                return  # a read-only medium without a lock: no process can write to it
        try:
            writer_lock.take(fd, exclusive=exclusive)
        except OSError as error:
            pid = writer_lock.noted_pid(fd)
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise StateError(f"storage {self.path} cannot be locked ({error.strerror})") from error
            holder = f"process {pid}" if pid else "another process"
            raise StorageBusy(f"storage {self.path} is in use by {holder}", "unmount it first", pid) from error
        if exclusive:
            writer_lock.note_pid(fd)
        self._lock = fd

    def hold(self, checkpoint: int) -> None:
        """Keep a checkpoint, given by its id, from being deleted until ``close``; a writer may work beside this one.

        Raises:
            StateError: the checkpoint is being deleted.
        """
        try:
            self._lock = self._lock if self._lock is not None else self._dir.open(LOCK, os.O_RDONLY)
        except OSError as error:
            log.info("%s has no lock to hold (%s)", self.path, error)
            return  # a read-only medium: no process can write to it
        try:
            writer_lock.hold(self._lock, checkpoint)
        except OSError as error:
            raise StateError(f"the checkpoint in storage {self.path} cannot be held ({error.strerror})") from error

    def has_writer(self) -> bool:
        """Return whether a process holds the writer's lock."""
        try:
            fd = self._dir.open(LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return writer_lock.lock_holder(fd) is not None
        finally:
            os.close(fd)

    def is_held(self, checkpoint: int) -> bool:
        """Return whether another process shows a checkpoint, given by its id; False where there is no lock to hold."""
        return self._lock is not None and writer_lock.is_held(self._lock, checkpoint)

    def close(self) -> None:
        """Release the lock and close the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._dir.close()

    def copy_out(self, name: str, copy: str) -> None:
        """Copy a file of the storage to a path outside it; do nothing if the file does not exist.

        Args:
            name: the file.
            copy: path of the copy, in a directory that only this user may write to, usually in memory.

        Raises:
            StateError: the file has more than _FETCH_MAX bytes.
        """
        try:
            fd = self.open(name, write=False)
        except FileNotFoundError:
            return
        try:
            if os.fstat(fd).st_size > _FETCH_MAX:
                raise StateError(
                    f"{self.path}/{name} is too large to be copied into memory (over {_FETCH_MAX >> 30} GiB)",
                    "copy the whole storage to a disk (cp -a), and use the copy",
                )
            with open(copy, "wb") as target, open(fd, "rb", closefd=False) as source:
                shutil.copyfileobj(source, target, 1 << 20)
        finally:
            os.close(fd)

    # -- primitives; a "name" is a path relative to the storage directory

    def exists(self, name: str) -> bool:
        """Return whether *name* exists, as an object of any type."""
        return self._dir.find(name) is not None

    def mkdir(self, name: str) -> None:
        """Make a directory."""
        self._dir.mkdir(name)

    def create(self, name: str) -> int:
        """Make a new file, and return a descriptor for reading and writing."""
        return self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open(self, name: str, *, write: bool) -> int:
        """Open an existing file for reading, or for reading and writing; return a descriptor."""
        return self._open(name, os.O_RDWR if write else os.O_RDONLY)

    def open_object(self, name: str, *, write: bool) -> int:
        """Open a content object for reading and, with *write*, for writing, unless other storages share it.

        Returns:
            A descriptor.
        """
        return _or_shortage(lambda: self._dir.open_object(name, write=write), name)

    def offer(self, fd: int) -> int | None:
        """Mark a content object, so that another storage may share it by a hard link.

        Make that durable before the link: without the mark an object with several names is refused.

        Returns:
            Its inode number; None if it cannot be shared.
        """
        st = os.fstat(fd)
        return st.st_ino if self._dir.is_sharable(st) and mark_shared(fd) else None

    def link(self, source: Storage, name: str, inode: int) -> None:
        """Share a content object of another storage by a hard link.

        Args:
            source: the other storage.
            name: the object in both.
            inode: what ``source.offer`` returned for it.

        Raises:
            OSError: EMLINK if it has too many names; EXDEV, EPERM and others where there can be no link; ESTALE if
                another file has its name now.
        """
        if self._dir.link_from(source._dir, name).st_ino != inode:
            self._dir.unlink(name)
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), name)

    def open_object_in_thread(self, name: str) -> int:
        """Open a content object for reading, and return a descriptor.  May run in a worker thread."""
        return self._open_object_in_thread(name)

    def _open_object_in_thread(self, name: str) -> int:
        return _or_shortage(lambda: self._dir.open_object_in_thread(name), name)

    def _open(self, name: str, flags: int) -> int:
        """Open or create a file; raise Shortage if descriptors or memory ran out."""
        return _or_shortage(lambda: self._dir.open(name, flags), name)

    def _open_in_thread(self, name: str, flags: int) -> int:
        """Open a file or a directory, in any thread; raise Shortage if descriptors or memory ran out."""
        return _or_shortage(lambda: self._dir.open_in_thread(name, flags), name)

    def stat(self, name: str) -> os.stat_result:
        """Return the attributes of *name*, of a symlink itself."""
        return self._dir.stat(name)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of *data* at *offset*, in bytes.

        Raises:
            OSError: ENOSPC, EDQUOT, EFBIG, EIO; part of the data may have been written.
        """
        write_all(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Shorten or extend a file to *size* bytes."""
        os.ftruncate(fd, size)

    def clone(self, fd: int, source: int) -> None:
        """Make an empty file share all blocks of the file *source* (ioctl_ficlone(2)).

        Raises:
            OSError: the file systems do not support it, or are different ones; nothing was changed.
        """
        fcntl.ioctl(fd, FICLONE, source)

    def clone_range(self, fd: int, source: int, at: int, size: int, offset: int) -> None:
        """Make *size* bytes of a file at *offset* share the blocks of *source* at *at* (ioctl_ficlonerange(2)).

        Raises:
            OSError: EINVAL if the ranges are not aligned to blocks; another errno if the file systems do not support
                it, or are different ones; nothing was changed.
        """
        fcntl.ioctl(fd, FICLONERANGE, struct.pack(_CLONE_RANGE, source, at, size, offset))

    def sync_fd(self, fd: int) -> None:
        """Make an open file's bytes and size durable (fdatasync(2)).  May run in a worker thread."""
        os.fdatasync(fd)

    def allocate(self, fd: int, size: int, offset: int = 0) -> None:
        """Allocate blocks for *size* bytes of a file from *offset* on, without changing the file's size.

        Raises:
            OSError: ENOSPC; EOPNOTSUPP if the file system does not support it.
        """
        fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, size)

    def punch(self, fd: int, size: int, offset: int) -> None:
        """Deallocate *size* bytes of a file from *offset* on; they read as zeros, and the file's size stays.

        Raises:
            OSError: EOPNOTSUPP if the file system does not support it.
        """
        fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, size)

    def sync_file(self, name: str) -> None:
        """Make a content object's bytes and size durable; it may be shared meanwhile.  May run in a worker thread."""
        fd = self._open_object_in_thread(name)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def sync_dir(self, name: str) -> None:
        """Make a directory's entries durable.  May run in a worker thread."""
        fd = self._open_in_thread(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self) -> None:
        """Make everything on storage's file system durable (syncfs(2)): cheaper than syncing many files one by one."""
        syncfs(self._fd)

    def rename(self, name: str, new_name: str) -> None:
        """Rename a file, replacing what has the new name (rename(2))."""
        self._dir.rename(name, new_name)

    def unlink(self, name: str) -> None:
        """Delete a file."""
        self._dir.unlink(name)

    def names(self, name: str) -> list[str]:
        """Return the names in a directory; none if it does not exist."""
        try:
            fd = self._open_in_thread(name, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return []
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def statvfs(self) -> os.statvfs_result:
        """Return the kernel's figures of the file system that storage is on (statvfs(3))."""
        return os.statvfs(self._fd)

    def space(self) -> Space:
        """Return the space on storage's file system; a large assumed one if the file system reports none.

        Some FUSE and network file systems, and ramfs, report 0 blocks.
        """
        figures = self.statvfs()
        block = figures.f_frsize or figures.f_bsize or 1
        if not figures.f_blocks:
            return Space(_ASSUMED_SPACE, _ASSUMED_SPACE, _ASSUMED_SPACE, False)
        return Space(figures.f_blocks * block, figures.f_bfree * block, figures.f_bavail * block, True)
