"""Everything migrations do to a directory tree, one method for one system call, as ``Storage`` is for the engine's own.

So a recorder or a fault injector can stand in for all that reaches a disk: ``Doors`` names the three ways there are.
Paths are absolute, as text or bytes, and free of symlinks from the root down: who starts a migration resolves what the
user has named, once, and whatever is met below it leads nowhere else (engine/store/confined_dir.py).
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
from ..engine.store.confined_dir import open_above, open_file
from ..engine.store.database_file import connect, strange_objects
from ..engine.store.redo_log import memory_directory
from ..engine.store.storage import Storage, write_all
from ..engine.store.syscalls import syncfs

Path = str | bytes


@contextmanager
def _at(path: Path) -> Iterator[tuple[int, bytes]]:
    """The directory that a path lies in, and its name there."""
    plain = os.fsencode(path).rstrip(b"/")
    fd, name = open_above(plain) if plain else (os.open("/", os.O_PATH | os.O_CLOEXEC), b".")
    try:
        yield fd, name
    finally:
        os.close(fd)


@contextmanager
def _held(fd: int, name: bytes) -> Iterator[str]:
    """A path that leads to what has a name just now, which is no symlink: fchmodat(2) would follow one."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        if stat.S_ISLNK(os.fstat(found).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        yield f"/proc/self/fd/{found}"
    finally:
        os.close(found)


_READ_MOST = 256 << 20  # bytes of a journal


def read_json(path: str) -> Any:
    """What a journal in a storage says; whoever reads it must look at each value.

    Raises:
        Corrupt: it is no regular file, or no JSON.
    """
    try:
        fd = open_file(path)
        with open(fd, "rb") as file:
            return json.loads(file.read(_READ_MOST))
    except (OSError, ValueError, RecursionError) as error:
        raise Corrupt(f"{path} is damaged ({error})", "look at it by hand; nothing was changed") from error


class Effects:
    """Effects on trees: as the system calls of their names, with their errors."""

    # -- entries

    def mkdir(self, path: Path) -> None:
        """Make a directory."""
        with _at(path) as (fd, name):
            os.mkdir(name, 0o700, dir_fd=fd)

    def create(self, path: Path) -> int:
        """Make a new file and return a descriptor for writing."""
        with _at(path) as (fd, name):
            return os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=fd)

    def symlink(self, target: bytes, path: Path) -> None:
        """Make a symlink."""
        with _at(path) as (fd, name):
            os.symlink(target, name, dir_fd=fd)

    def mknod(self, path: Path, mode: int, device: int) -> None:
        """Make a device node, a FIFO or a socket."""
        with _at(path) as (fd, name):
            os.mknod(name, mode, device, dir_fd=fd)

    def link(self, path: Path, new: Path) -> None:
        """Give a file one more name."""
        with _at(path) as (fd, name), _at(new) as (new_fd, new_name):
            os.link(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd, follow_symlinks=False)

    def rename(self, path: Path, new: Path) -> None:
        """Rename, over what has the new name."""
        with _at(path) as (fd, name), _at(new) as (new_fd, new_name):
            os.rename(name, new_name, src_dir_fd=fd, dst_dir_fd=new_fd)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        with _at(path) as (fd, name):
            os.unlink(name, dir_fd=fd)

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        with _at(path) as (fd, name):
            os.rmdir(name, dir_fd=fd)

    # -- bytes

    def open(self, path: Path) -> int:
        """Open a regular file that exists for writing."""
        with _at(path) as (fd, name):
            if not stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                raise OSError(errno.EINVAL, "not a file", path)
            return os.open(name, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=fd)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of *data* at *offset*."""
        write_all(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Cut or extend a file to *size* bytes."""
        os.ftruncate(fd, size)

    # -- attributes

    def chown(self, path: Path, uid: int, gid: int) -> None:
        """Set owner and group."""
        with _at(path) as (fd, name):
            os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)

    def chmod(self, path: Path, mode: int) -> None:
        """Set the mode of what is no symlink."""
        with _at(path) as (fd, name), _held(fd, name) as held:
            os.chmod(held, mode)

    def utime(self, path: Path, atime: int, mtime: int) -> None:
        """Set both times, in ns."""
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
        """Make durable the bytes and attributes of a file, or the entries and attributes of a directory."""
        fd = self._open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self, path: Path) -> None:
        """Make durable everything in the file system of a directory."""
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

    # -- composed of these

    def write_durably(self, path: str, text: str) -> None:
        """Write a small file: after a power cut there is all of it or what was there before."""
        fresh = path + ".new"
        if os.path.lexists(fresh):
            self.unlink(fresh)
        fd = self.create(fresh)
        try:
            self.write(fd, text.encode(), 0)
        finally:
            os.close(fd)
        self.sync(fresh)
        self.rename(fresh, path)
        self.sync(os.path.dirname(path))

    def make_directories(self, path: str) -> None:
        """Make a directory and those above it, durably, where there are none."""
        if not os.path.isdir(path):
            above = os.path.dirname(os.path.abspath(path))
            self.make_directories(above)
            self.mkdir(path)
            self.sync(above)

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and all in it."""
        top = os.fsencode(path)
        fd = self._open(top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(fd) as entries:
                found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
        finally:
            os.close(fd)
        for name, is_directory in found:
            below = top + b"/" + name
            if is_directory:
                self.remove_tree(below)
            else:
                self.unlink(below)
        self.rmdir(top)


class Doors(NamedTuple):
    """The ways to a disk, for recorders and fault injectors to stand in.

    Attributes:
        effects: on trees.
        storage: a storage by its path.
        vfs: name of the SQLite VFS to go through; None for the system's own.
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
        """Open an overlay (see ``Overlay.open``), every row of which is sound: what it says is written elsewhere.

        Args:
            base, storage, read_only, base_check: as there.
            finished: False for one that is still being made.

        Raises:
            Corrupt: there is one that is not.
        """
        # who only looks is told of a redo log, for then that is not all there is
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
        """One row of the table ``overlay`` of a database that nobody has open, or None.

        Raises:
            Corrupt: it cannot be read, or is not one of ours.
        """
        # immutable, so that nothing is made beside it, where there is no log
        con: apsw.Connection | None = None
        try:
            con = connect(database, read_only=True, immutable=not os.path.exists(database + "-wal"), vfs=self.vfs)
            if strange_objects(con):
                raise Corrupt(f"{database} is damaged", f"run: minifo-fsck {os.path.dirname(database)}")
            row = con.execute("SELECT value FROM overlay WHERE key = ?", (key,)).fetchone()
        except (apsw.Error, UnicodeDecodeError) as error:
            raise Corrupt(f"{database} cannot be read ({error})", "see what is there") from error
        finally:
            if con is not None:
                con.close()
        found: int | str | bytes | None = row[0] if row is not None else None
        return found

    def fold_log(self, database: str) -> None:
        """Bring everything into the database file, so that it can be moved alone."""
        con = connect(database, read_only=False, vfs=self.vfs)
        try:
            # exclusive: where storage cannot share memory, too
            con.execute("PRAGMA locking_mode=EXCLUSIVE").fetchall()
            con.execute("PRAGMA synchronous=FULL").fetchall()
            con.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            con.close()

    def finish_killed(self, base: str, storage: str, base_check: BaseCheck = BaseCheck.WARN) -> None:
        """Let what a killed daemon had acknowledged become durable, before an overlay is opened without a redo log.

        What rows say is not looked at: that is for ``overlay``, which follows.

        Raises:
            StateError: it cannot be opened, or its redo log cannot be replayed.
        """
        self._open(base, storage, base_check, memory_directory()).close()


DOORS = Doors()
