"""Storage I/O: the one module through which the engine touches files in the storage directory (the database aside).

It knows the layout (``minifo.db``, ``content/``, ``lock``), takes the writer's lock, and offers the few primitives the
content objects need, so that a recorder or a fault injector can stand in for the class.  All of it goes through one
door (store/confined_dir.py).
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import struct
import time
from typing import NamedTuple

from ..errors import SHORT, Corrupt, NotMinifo, Shortage, StateError, StorageBusy
from .confined_dir import ConfinedDir, check_layout, check_trust
from .database import DB_NAME
from .database_file import format_database
from .syscall_numbers import iow
from .syscalls import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate, syncfs

LEGACY_META = "META_dAfFgHE39ktF3HD2sr"  # mini_fo's list files; never decoded here
MERGING = "merge.db"  # the database while the base takes over what it says
IMPORTING = ".minifo-import"  # where a database is built from a mini_fo storage
RESTORING = ".minifo-restore"  # what is about to make way for a mini_fo storage
_UNFINISHED = {MERGING: ("a merge", "merge --apply"), IMPORTING: ("an import", "meta import")}
_UNFINISHED |= {RESTORING: ("the way back of an import", "meta restore")}
_FILES = {DB_NAME, DB_NAME + "-wal", DB_NAME + "-shm", DB_NAME + ".new"}
_FILES |= {"lock", "reserve", "minifo.names", "minifo.names.new"}
_DIRECTORIES = {"content", "checkpoints"}
# what migrations that were cut short go on from
_JOURNALS = {MERGING, "merge-journal", "merge-phase", "merge-journal.new", "merge-phase.new"}
_WORKS = {IMPORTING, RESTORING, "mini_fo-backup"}
_OURS = {*_FILES, *_DIRECTORIES, "control"}
_BACKUP = DB_NAME + ".bak-"  # what minifo-fsck copies before it repairs
_HOLDINGS = ("minifo.names", DB_NAME + "-wal", "content", "checkpoints")  # what only an overlay that was used has
_HARMLESS = {"lost+found"}  # what mkfs leaves on a fresh file system
_CLONE_RANGE = "=qQQQ"  # struct file_clone_range
FICLONE = iow(0x94, 9, struct.calcsize("i"))  # ioctl_ficlone(2)
FICLONERANGE = iow(0x94, 13, struct.calcsize(_CLONE_RANGE))
_UNKNOWN = 1 << 42  # bytes that are there where nobody tells
_NO_FILE = (errno.ELOOP, errno.ENXIO, errno.EMLINK, errno.EISDIR)  # what the door says of what is none
_LOCK_PATIENCE = 0.3  # seconds
_FETCH_MOST = 2 << 30  # bytes of a database that are copied into memory
_LEGACY_SEARCH = 10_000  # directories looked at before we stop looking for a META file


class Room(NamedTuple):
    """Bytes of the file system that storage lies on."""

    total: int
    free: int  # with what is kept for root
    available: int
    is_known: bool


def _flock(fd: int, *, exclusive: bool) -> None:
    """Take the lock, giving way to those who hold it for a moment only.

    These are whoever asks whether it is free, and a child that another thread has forked and that has not yet closed
    what it inherited (flock(2): the lock is the open file's, not the process's).
    """
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            return fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _tell_shortage(error: OSError, name: str) -> None:
    """Tell a shortage from what the storage itself answers, which is final."""
    if error.errno in SHORT:
        raise Shortage(error.errno, name) from error


def _what(error: OSError) -> str:
    return "is a symlink, not a file" if error.errno == errno.ELOOP else str(error.strerror)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of *data* at *offset*, in as many calls as it takes (pwrite(2) may write less).

    Raises:
        OSError: a part may have been written.
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
        untrusted: take it although others may write to it; it must only be read then.

    Raises:
        StateError: it is missing, not a directory, cannot be entered, or others may write to it.
        Corrupt: one of its files or directories is something else.
    """

    has_holes: bool | None = None  # whether files here can have holes; None until somebody has tried

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
        self._door = ConfinedDir(self._fd)
        self._lock: int | None = None
        try:
            if not untrusted:
                check_trust(self.path, self._fd)
            files, directories = _JOURNALS, _WORKS
            if any(self._door.find(name) is not None for name in (DB_NAME, MERGING)):
                files, directories = files | _FILES, directories | _DIRECTORIES
            check_layout(self._door, self.path, files, directories, trusted=not untrusted)
        except BaseException:
            self._door.close()
            raise

    # -- life cycle

    @property
    def database(self) -> str:
        """Path of the database."""
        return os.path.join(self.path, DB_NAME)

    @property
    def identity(self) -> tuple[int, int]:
        """(st_dev, st_ino) of the directory."""
        st = os.fstat(self._fd)
        return st.st_dev, st.st_ino

    def database_bytes(self) -> int:
        """Bytes the database and its log take."""
        return self.stat(DB_NAME).st_size + self.log_bytes()

    def log_bytes(self) -> int:
        """Bytes allocated to the database's log."""
        try:
            return self.stat(DB_NAME + "-wal").st_blocks * 512
        except FileNotFoundError:
            return 0

    @property
    def is_formatted(self) -> bool:
        """True when there is a database."""
        return self.exists(DB_NAME)

    def check_empty(self) -> None:
        """Refuse to make a new overlay where there was one, or beside anything that is not ours (P8: never wiped).

        What a first format leaves that was cut short is no overlay yet: the lock, half a database, empty directories.

        Raises:
            Corrupt: the database is gone, but not what it named.
            NotMinifo: with the first foreign name, or the way to import a legacy mini_fo storage.
        """
        names = {name for name in os.listdir(self._fd) if not name.startswith(_BACKUP)}
        foreign = sorted(names - _OURS - _HARMLESS)
        if not foreign:
            left = next((name for name in _HOLDINGS if name in names and self._holds_anything(name)), None)
            if left is not None:
                raise Corrupt(
                    f"storage {self.path} has lost its database ({DB_NAME}), but not {left}",
                    f"put {DB_NAME} back, or rebuild it: minifo-fsck {self.path}",
                )
            return
        for name, (what, command) in _UNFINISHED.items():
            if name in foreign:
                raise StateError(f"{what} of storage {self.path} was cut short", f"finish it: minifo {command}")
        for count, (directory, _, files, _) in enumerate(os.fwalk(".", dir_fd=self._fd)):
            if LEGACY_META in files:
                place = os.path.normpath(os.path.join(self.path, directory, LEGACY_META))
                raise NotMinifo(
                    f"storage {self.path} is a mini_fo storage ({place})",
                    f"bring it over with: minifo meta import {self.path} --base BASE --sto NEW",
                )
            if count >= _LEGACY_SEARCH:
                break
        raise NotMinifo(
            f"storage {self.path} holds foreign files ({foreign[0]!r})", "give an empty directory, nothing was changed"
        )

    def _holds_anything(self, name: str) -> bool:
        """True for a file with bytes, and for a directory with a file in it."""
        st = self.stat(name)
        if not stat.S_ISDIR(st.st_mode):
            return st.st_size > 0
        return any(files for _, _, files, _ in os.fwalk(name, dir_fd=self._fd))

    def format(self, facts: dict[str, int | str | bytes], vfs: str | None = None) -> None:
        """Make an empty overlay here.  A power cut leaves none or a whole one.

        Args:
            facts: first rows of the table ``overlay``.
            vfs: as for ``db.connect``.
        """
        fresh = DB_NAME + ".new"
        if self.exists(fresh):
            self.unlink(fresh)
        # made by us, for SQLite would let others read it; its log and the log's index get the mode of the database
        os.close(self.create(fresh))
        format_database(os.path.join(self.path, fresh), facts, vfs)
        self.rename(fresh, DB_NAME)
        self.sync_dir(".")

    def lock(self, *, exclusive: bool) -> None:
        """Take the storage for writing, or for reading beside other readers.  The lock dies with its holder (P7).

        Raises:
            StorageBusy: somebody else holds it.
            StateError: storage cannot be written, or others may write to it.
            Corrupt: the lock is no file.
        """
        if exclusive and not self.is_trusted:
            check_trust(self.path, self._fd)
        try:
            if not self.is_trusted:
                raise PermissionError  # nothing is made in it
            fd = self._door.open("lock", os.O_RDWR | os.O_CREAT)
        except OSError as error:
            if error.errno in _NO_FILE:
                raise Corrupt(f"the lock of storage {self.path} {_what(error)}", "put a file in its place") from error
            if exclusive:
                raise StateError(
                    f"storage {self.path} cannot be written ({error.strerror})", "mount with -o ro"
                ) from error
            try:
                fd = self._door.open("lock", os.O_RDONLY)
            except OSError:
                return  # a medium nobody can write: there can be no writer to be kept out
        try:
            _flock(fd, exclusive=exclusive)
        except OSError as error:
            text = os.pread(fd, 32, 0).split(b"\n")[0]
            os.close(fd)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise StateError(f"storage {self.path} cannot be locked ({error.strerror})") from error
            pid = int(text) if text.isdigit() else 0
            holder = f"process {pid}" if pid else "another process"
            raise StorageBusy(f"storage {self.path} is in use by {holder}", "unmount it first", pid) from error
        if exclusive:
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self._lock = fd

    def close(self) -> None:
        """Release the lock and the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        self._door.close()

    def fetch(self, name: str, copy: str) -> None:
        """Copy a file to a path elsewhere, a place of our own; none where there is none.

        Raises:
            StateError: it is larger than what memory is kept for.
        """
        try:
            fd = self.open(name, write=False)
        except FileNotFoundError:
            return
        try:
            if os.fstat(fd).st_size > _FETCH_MOST:
                raise StateError(f"{os.path.join(self.path, name)} is too large to be copied", "copy the storage away")
            with open(copy, "wb") as target, open(fd, "rb", closefd=False) as source:
                shutil.copyfileobj(source, target, 1 << 20)
        finally:
            os.close(fd)

    # -- primitives; names are relative to the storage directory

    def exists(self, name: str) -> bool:
        """True if there is such a name."""
        return self._door.find(name) is not None

    def mkdir(self, name: str) -> None:
        """Make a directory."""
        self._door.mkdir(name)

    def create(self, name: str) -> int:
        """Make a new file and return a descriptor for reading and writing."""
        return self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def open(self, name: str, *, write: bool) -> int:
        """Open an existing file."""
        return self._open(name, os.O_RDWR if write else os.O_RDONLY)

    def _open(self, name: str, flags: int) -> int:
        """Open or make a file."""
        try:
            return self._door.open(name, flags)
        except OSError as error:
            _tell_shortage(error, name)
            raise

    def _open_aside(self, name: str, flags: int) -> int:
        """Open a file or a directory, in any thread."""
        try:
            return self._door.open_aside(name, flags)
        except OSError as error:
            _tell_shortage(error, name)
            raise

    def stat(self, name: str) -> os.stat_result:
        """Attributes of a file."""
        return self._door.stat(name)

    def write(self, fd: int, data: bytes | memoryview, offset: int) -> None:
        """Write all of *data* at *offset*.

        Raises:
            OSError: ENOSPC and its kin; a part may have been written.
        """
        write_all(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Cut or extend a file to *size* bytes."""
        os.ftruncate(fd, size)

    def clone(self, fd: int, source: int) -> None:
        """Make a new file share all bytes of the file *source* (ioctl_ficlone(2)).

        Raises:
            OSError: the file systems cannot; nothing was changed.
        """
        fcntl.ioctl(fd, FICLONE, source)

    def clone_range(self, fd: int, source: int, at: int, size: int, offset: int) -> None:
        """Let *size* bytes of a file from *offset* on share the blocks of *source* at *at* (ioctl_ficlonerange(2)).

        Raises:
            OSError: EINVAL where these ranges cannot, others where the file systems cannot; nothing was changed.
        """
        fcntl.ioctl(fd, FICLONERANGE, struct.pack(_CLONE_RANGE, source, at, size, offset))

    def sync_fd(self, fd: int) -> None:
        """Make an open file's bytes and size durable.  May run in a worker thread."""
        os.fdatasync(fd)

    def allocate(self, fd: int, size: int, offset: int = 0) -> None:
        """Allocate blocks for *size* bytes of a file from *offset* on; its size stays.

        Raises:
            OSError: ENOSPC; EOPNOTSUPP where the file system cannot.
        """
        fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, size)

    def punch(self, fd: int, size: int, offset: int) -> None:
        """Give back the blocks of *size* bytes of a file from *offset* on: they read as zeros, and its size stays.

        Raises:
            OSError: EOPNOTSUPP where the file system cannot.
        """
        fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, size)

    def sync_file(self, name: str) -> None:
        """Make a file's bytes and size durable.  May run in a worker thread."""
        fd = self._open_aside(name, os.O_RDONLY)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def sync_dir(self, name: str) -> None:
        """Make a directory's entries durable."""
        fd = self._open_aside(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self) -> None:
        """Make everything in the file system durable at once: cheaper than many single files."""
        syncfs(self._fd)

    def rename(self, name: str, new_name: str) -> None:
        """Rename a file, over what has the new name."""
        self._door.rename(name, new_name)

    def unlink(self, name: str) -> None:
        """Delete a file."""
        self._door.unlink(name)

    def names(self, name: str) -> list[str]:
        """The names in a directory; none if it does not exist."""
        try:
            fd = self._open_aside(name, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return []
        try:
            return os.listdir(fd)
        finally:
            os.close(fd)

    def statvfs(self) -> os.statvfs_result:
        """Figures of the file system storage lies on."""
        return os.statvfs(self._fd)

    def room(self) -> Room:
        """What these figures say of room; where they say nothing there is taken to be plenty.

        Some FUSE and network file systems, and ramfs, have 0 blocks.
        """
        figures = self.statvfs()
        block = figures.f_frsize or figures.f_bsize or 1
        if not figures.f_blocks:
            return Room(_UNKNOWN, _UNKNOWN, _UNKNOWN, False)
        return Room(figures.f_blocks * block, figures.f_bfree * block, figures.f_bavail * block, True)
