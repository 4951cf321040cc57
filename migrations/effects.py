"""Everything migrations do to a directory tree, one method for one system call, as ``Storage`` is for the engine's own.

So a recorder or a fault injector can stand in for all that reaches a disk: ``Doors`` names the three ways there are.
Paths are absolute, as text or bytes; symlinks are not followed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import apsw

from minifo.engine import Overlay
from minifo.engine.dbfile import connect, strange_objects
from minifo.engine.errors import Corrupt
from minifo.engine.recovery import BaseCheck
from minifo.engine.redo import memory_directory
from minifo.engine.sound import examine
from minifo.engine.storage import Storage, write_all
from minifo.engine.syscalls import syncfs

Path = str | bytes


class Effects:
    """Effects on trees: as the system calls of their names, with their errors."""

    # -- entries

    def mkdir(self, path: Path) -> None:
        """Make a directory."""
        os.mkdir(path, 0o700)

    def create(self, path: Path) -> int:
        """Make a new file and return a descriptor for writing."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def symlink(self, target: bytes, path: Path) -> None:
        """Make a symlink."""
        os.symlink(target, path)

    def mknod(self, path: Path, mode: int, device: int) -> None:
        """Make a device node, a FIFO or a socket."""
        os.mknod(path, mode, device)

    def link(self, path: Path, new: Path) -> None:
        """Give a file one more name."""
        os.link(path, new, follow_symlinks=False)

    def rename(self, path: Path, new: Path) -> None:
        """Rename, over what has the new name."""
        os.rename(path, new)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory."""
        os.rmdir(path)

    # -- bytes

    def open(self, path: Path) -> int:
        """Open a file that exists for writing."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        """Write all of *data* at *offset*."""
        write_all(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Cut or extend a file to *size* bytes."""
        os.ftruncate(fd, size)

    # -- attributes

    def chown(self, path: Path, uid: int, gid: int) -> None:
        """Set owner and group."""
        os.chown(path, uid, gid, follow_symlinks=False)

    def chmod(self, path: Path, mode: int) -> None:
        """Set the mode of what is no symlink."""
        os.chmod(path, mode)

    def utime(self, path: Path, atime: int, mtime: int) -> None:
        """Set both times, in ns."""
        os.utime(path, ns=(atime, mtime), follow_symlinks=False)

    def setxattr(self, path: Path, name: bytes, value: bytes) -> None:
        """Set an extended attribute."""
        os.setxattr(path, name, value, follow_symlinks=False)

    def removexattr(self, path: Path, name: bytes) -> None:
        """Remove an extended attribute."""
        os.removexattr(path, name, follow_symlinks=False)

    # -- durability

    def sync(self, path: Path) -> None:
        """Make durable the bytes and attributes of a file, or the entries and attributes of a directory."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self, path: Path) -> None:
        """Make durable everything in the file system of a directory."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        finally:
            os.close(fd)

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
        for entry in list(os.scandir(top)):
            if entry.is_dir(follow_symlinks=False):
                self.remove_tree(entry.path)
            else:
                self.unlink(entry.path)
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
        redo_directory: str | None = None,
        base_check: BaseCheck = BaseCheck.WARN,
        finished: bool = True,
    ) -> Overlay:
        """Open an overlay (see ``Overlay.open``), every row of which is sound: what it says is written elsewhere.

        Args:
            base, storage, read_only, redo_directory, base_check: as there.
            finished: False for one that is still being made.

        Raises:
            Corrupt: there is one that is not.
        """
        if read_only:
            redo_directory = memory_directory()  # to say that it is not all there is
        overlay = Overlay.open(
            base,
            storage,
            read_only=read_only,
            storage_io=self.storage,
            vfs=self.vfs,
            redo_directory=redo_directory,
            base_check=base_check,
        )
        try:
            examine(overlay.db, overlay.storage.database, finished=finished)
        except BaseException:
            overlay.close()
            raise
        return overlay

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

        Raises:
            StateError: it cannot be opened, or its redo log cannot be replayed.
        """
        self.overlay(base, storage, redo_directory=memory_directory(), base_check=base_check).close()


DOORS = Doors()
