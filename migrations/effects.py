"""Everything that migrations write to a directory tree: one method for one system call.

A test can replace the class ``Effects`` by a recorder or a fault injector; ``DiskAccess`` bundles it with the two other
ways in which a migration writes to a disk.

Paths are absolute, as text or bytes.  A migration resolves the directories that the user has named once (realpath(3));
below them no symlink is followed (engine/store/confined_dir.py).
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import apsw

from ..engine import Overlay
from ..engine.errors import Corrupt
from ..engine.recovery import BaseCheck
from ..engine.store.authorizer import authorize
from ..engine.store.confined_dir import open_above, open_file
from ..engine.store.database_file import connect, strange_objects
from ..engine.store.memory_directory import memory_directory
from ..engine.store.storage import Storage, write_all
from ..engine.store.syscalls import syncfs

Path = str | bytes


@contextmanager
def _at(path: Path) -> Iterator[tuple[int, bytes]]:
    """Open the directory that contains *path*; yield its descriptor and the last component of the path."""
    plain = os.fsencode(path).rstrip(b"/")
    fd, name = open_above(plain) if plain else (os.open("/", os.O_PATH | os.O_CLOEXEC), b".")
    try:
        yield fd, name
    finally:
        os.close(fd)


@contextmanager
def _pinned(fd: int, name: bytes) -> Iterator[str]:
    """Open an entry of the directory *fd* that is not a symlink; yield a path to it that cannot change its meaning.

    chmod(2) needs such a path: it would follow a symlink that another process puts in the place of the entry.

    Raises:
        OSError: ELOOP if the entry is a symlink.
    """
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        if stat.S_ISLNK(os.fstat(found).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        yield f"/proc/self/fd/{found}"
    finally:
        os.close(found)


_JOURNAL_MAX = 256 << 20  # bytes of a journal


def read_json(path: str) -> Any:
    """Return the JSON value in a file of a storage, such as a journal.

    A storage may come from an untrusted source, so every part of the value must be checked before use.

    Raises:
        Corrupt: the file is not a regular file, or not JSON.
    """
    try:
        fd = open_file(path)
        with open(fd, "rb") as file:
            return json.loads(file.read(_JOURNAL_MAX))
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"{path} is damaged ({error})", "inspect it by hand; nothing was changed") from error


class Effects:
    """Changes of directory trees.  Each method does what the system call of its name does, and raises its errors."""

    # -- entries

    def mkdir(self, path: Path) -> None:
        """Make a directory with the mode 0700."""
        with _at(path) as (fd, name):
            os.mkdir(name, 0o700, dir_fd=fd)

    def create(self, path: Path) -> int:
        """Make a new file with the mode 0600, and return a descriptor for writing."""
        with _at(path) as (fd, name):
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)

    def symlink(self, target: bytes, path: Path) -> None:
        """Make a symlink at *path*."""
        with _at(path) as (fd, name):
            os.symlink(target, name, dir_fd=fd)

    def mknod(self, path: Path, mode: int, device: int) -> None:
        """Make a device node, a FIFO or a socket."""
        with _at(path) as (fd, name):
            os.mknod(name, mode, device, dir_fd=fd)

    def link(self, path: Path, new: Path) -> None:
        """Give the file at *path* the additional name *new*; a symlink is not followed."""
        with _at(path) as (fd, name), _at(new) as (new_fd, new_name):
            os.link(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd, follow_symlinks=False)

    def rename(self, path: Path, new: Path) -> None:
        """Rename *path* to *new*, replacing the object that has that name."""
        with _at(path) as (fd, name), _at(new) as (new_fd, new_name):
            os.rename(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd)

    def unlink(self, path: Path) -> None:
        """Remove the name of an object that is not a directory."""
        with _at(path) as (fd, name):
            os.unlink(name, dir_fd=fd)

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        with _at(path) as (fd, name):
            os.rmdir(name, dir_fd=fd)

    # -- bytes

    def open(self, path: Path) -> int:
        """Open an existing regular file for writing.

        Raises:
            OSError: EINVAL if it is not a regular file.
        """
        with _at(path) as (fd, name):
            if not stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", path)
            return os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of *data* at *offset*."""
        write_all(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Cut or extend a file to *size* bytes."""
        os.ftruncate(fd, size)

    # -- attributes

    def chown(self, path: Path, uid: int, gid: int) -> None:
        """Set owner and group; of a symlink those of the link itself."""
        with _at(path) as (fd, name):
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)

    def chmod(self, path: Path, mode: int) -> None:
        """Set the mode of an object that is not a symlink."""
        with _at(path) as (fd, name), _pinned(fd, name) as pinned:
            os.chmod(pinned, mode)

    def utime(self, path: Path, atime: int, mtime: int) -> None:
        """Set the times of access and modification, in ns since the epoch."""
        with _at(path) as (fd, name):
            os.utime(name, ns=(atime, mtime), dir_fd=fd, follow_symlinks=False)

    def setxattr(self, path: Path, name: bytes, value: bytes) -> None:
        """Set an extended attribute."""
        with _at(path) as (fd, last):
            os.setxattr(b"/proc/self/fd/%d/%b" % (fd, last), name, value, follow_symlinks=False)

    def removexattr(self, path: Path, name: bytes) -> None:
        """Remove an extended attribute."""
        with _at(path) as (fd, last):
            os.removexattr(b"/proc/self/fd/%d/%b" % (fd, last), name, follow_symlinks=False)

    # -- durability

    def sync(self, path: Path) -> None:
        """Make the content and attributes of a file durable, or the entries and attributes of a directory."""
        fd = self._open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self, path: Path) -> None:
        """Make everything in the file system that contains a directory durable (syncfs(2))."""
        fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            syncfs(fd)
        finally:
            os.close(fd)

    @staticmethod
    def _open(path: Path, flags: int) -> int:
        flags |= os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with _at(path) as (fd, name):
            return os.open(name, flags, dir_fd=fd)

    # -- composed of the methods above

    def write_durably(self, path: str, text: str) -> None:
        """Replace the content of a small file durably: a power cut leaves the old or the new content, never a part."""
        temporary = path + ".new"
        if os.path.lexists(temporary):
            self.unlink(temporary)
        fd = self.create(temporary)
        try:
            self.write(fd, text.encode(), 0)
        finally:
            os.close(fd)
        self.sync(temporary)
        self.rename(temporary, path)
        self.sync(os.path.dirname(path))

    def make_directories(self, path: str) -> None:
        """Make a directory, and those above it that do not exist, durably."""
        missing = []
        while not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(os.path.abspath(path))
        for below in reversed(missing):
            self.mkdir(below)
            self.sync(os.path.dirname(os.path.abspath(below)))

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and everything in it, at any depth."""
        waiting = [(os.fsencode(path), False)]
        while waiting:
            top, is_empty = waiting.pop()
            if is_empty:
                self.rmdir(top)
                continue
            waiting.append((top, True))
            fd = self._open(top, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with os.scandir(fd) as entries:
                    found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
            finally:
                os.close(fd)
            for name, is_directory in found:
                below = top + b"/" + name
                if is_directory:
                    waiting.append((below, False))
                else:
                    self.unlink(below)


class DiskAccess(NamedTuple):
    """The three ways in which a migration reads and writes a disk; tests replace them by recorders and fault injectors.

    Attributes:
        effects: changes directory trees.
        storage: opens a storage by its path.
        vfs: the name of the SQLite VFS for databases; None for SQLite's default.
    """

    effects: Effects = Effects()
    storage: Callable[[str], Storage] = Storage
    vfs: str | None = None

    def overlay(
        self,
        base: str,
        storage: str,
        *,
        read_only: bool = False,
        base_check: BaseCheck = BaseCheck.WARN,
        finished: bool = True,
    ) -> Overlay:
        """Open an overlay and check every row, because a migration writes what rows say to other places.

        Args:
            base: the base directory.
            storage: the storage directory.
            read_only: True to change nothing in storage.
            base_check: what to do if this is not the base of the last mount (see ``Overlay.open``).
            finished: False if the overlay is still being built and may lack rows.

        Raises:
            Corrupt: a row is damaged.
            StateError: the overlay cannot be opened (see ``Overlay.open``).
        """
        # a reader must know of a redo log: the log holds operations that the database does not show yet
        redo = memory_directory() if read_only else None
        overlay = self._open(base, storage, base_check, redo, read_only=read_only)
        try:
            overlay.examine_rows(finished=finished)
        except BaseException:
            overlay.close()
            raise
        return overlay

    def _open(
        self, base: str, storage: str, base_check: BaseCheck, redo: str | None, *, read_only: bool = False
    ) -> Overlay:
        return Overlay.open(
            base,
            storage,
            read_only=read_only,
            storage_io=self.storage,
            vfs=self.vfs,
            redo_directory=redo,
            base_check=base_check,
        )

    def fact(self, database: str, key: str) -> int | str | bytes | None:
        """Return the value of a key in the table ``overlay``, or None if the table lacks it.

        Args:
            database: the path of a database that no process has open.
            key: the key.

        Raises:
            Corrupt: the database cannot be read, leads elsewhere, or its tables are not those of minifo.
        """
        # immutable unless there is a write-ahead log, so that SQLite makes no files beside the database
        con: apsw.Connection | None = None
        try:
            con = connect(database, read_only=True, immutable=not os.path.lexists(database + "-wal"), vfs=self.vfs)
            if strange_objects(con):
                raise Corrupt(f"{database} is damaged", f"run: minifo-fsck {os.path.dirname(database)}")
            con.authorizer = authorize
            row = con.execute("SELECT value FROM overlay WHERE key = ?", (key,)).fetchone()
        except (apsw.Error, UnicodeDecodeError) as error:
            raise Corrupt(
                f"{database} cannot be read ({error})", f"run: minifo-fsck {os.path.dirname(database)}"
            ) from error
        finally:
            if con is not None:
                con.close()
        found: int | str | bytes | None = row[0] if row is not None else None
        return found

    def fold_log(self, database: str) -> None:
        """Checkpoint the write-ahead log into the database file, so that the file can be moved without the log."""
        con = connect(database, read_only=False, vfs=self.vfs)
        try:
            # exclusive locking works also in a file system without shared memory maps
            con.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
            con.execute("PRAGMA synchronous=FULL").fetchall()
            con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            con.close()

    def finish_killed(self, base: str, storage: str, base_check: BaseCheck = BaseCheck.WARN) -> None:
        """Replay the redo log of a killed daemon and commit it; call this before opening an overlay for writing.

        ``overlay`` opens a storage for writing without its redo log.  This method does not check the rows; ``overlay``
        does.

        Raises:
            StateError: the overlay cannot be opened, or its redo log cannot be replayed.
        """
        self._open(base, storage, base_check, memory_directory()).close()


DISK_ACCESS = DiskAccess()
