"""The files of an open overlay for the Python API: by paths, with the words of ``os`` and ``pathlib``.

It is on top of the facade (engine/overlay.py).  A symbolic link is never followed, neither at the end of a path nor on
the way, for its target may lie outside of the overlay.  Permissions are not checked: who may write to the storage may
change everything that the overlay shows.

A change that has returned survives the death of the process, because the redo log has it (store/redo_log.py); where
there is no memory directory for that log, each change is committed.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .api_values import Path, as_os_errors, place_of, stat_result
from .errors import FsError, NotDurable, StateError, UsageError
from .model import ROOT, Attr, Ino, Process, SetAttr
from .overlay import Overlay
from .store.base_view import split
from .store.content_objects import IDS_PER_OPERATION
from .store.memory_directory import LOG_MAX

log = logging.getLogger(__name__)

_KNOWN = 20_000  # objects in memory after which all are dropped: no call needs those of another
_FILES_MIN, _FILES = 2_000, 10_000  # content objects that a transaction can make: at least, and if few are left


class Files:
    """What shows in one open overlay.

    Args:
        overlay: it belongs to this object.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._open: Overlay | None = overlay
        self._in_transaction = False
        self._failed: BaseException | None = None  # what a change in the running transaction has raised
        self._nameless: list[Ino] = []  # objects that lost a name in the running operation
        self._me = Process(os.geteuid(), os.getegid(), 0)

    @property
    def _ov(self) -> Overlay:
        if self._open is None:
            raise UsageError("the overlay is closed", "open it again: minifo.open()")
        return self._open

    # -- looking

    def exists(self, path: Path) -> bool:
        """Return whether something shows at a path; a symbolic link does, wherever it leads."""
        with self._call(path):
            return self._ov.find(place_of(path)) is not None

    def stat(self, path: Path) -> os.stat_result:
        """Return the attributes of what shows at a path, as os.lstat does; ``st_dev`` is 0.

        Raises:
            FileNotFoundError: nothing shows there.
        """
        with self._call(path):
            return stat_result(self._attr(path))

    def listdir(self, path: Path = "/") -> list[str]:
        """Return the names in a directory, sorted.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no such directory.
        """
        with self._call(path):
            entries = self._ov.readdir(self._directory(place_of(path)))
            return sorted(os.fsdecode(entry.name) for entry in entries if entry.name not in (b".", b".."))

    def read_bytes(self, path: Path, offset: int = 0, size: int | None = None) -> bytes:
        """Return the bytes of a file.

        Args:
            path: the file.
            offset: where to begin, in bytes.
            size: how many bytes at most; None for all to its end.

        Raises:
            FileNotFoundError, IsADirectoryError: there is no such file.
            OSError: ELOOP for a symbolic link; EINVAL for another special file, or a negative number.
        """
        with self._call(path):
            attr = self._file(path)
            if offset < 0 or (size is not None and size < 0):
                raise FsError(errno.EINVAL)
            rest = max(0, attr.size - offset)
            return self._ov.read(Ino(attr.ino), offset, rest if size is None else min(size, rest))

    def readlink(self, path: Path) -> str:
        """Return the target of a symbolic link.

        Raises:
            FileNotFoundError: nothing shows there.
            OSError: EINVAL if it is no symbolic link.
        """
        with self._call(path):
            return os.fsdecode(self._ov.readlink(Ino(self._attr(path).ino)))

    def getxattr(self, path: Path, name: str | bytes) -> bytes:
        """Return the value of an extended attribute; its name has the namespace (``user.x``).

        Raises:
            FileNotFoundError: nothing shows there.
            OSError: ENODATA if it has no such attribute.
        """
        with self._call(path):
            return self._ov.getxattr(Ino(self._attr(path).ino), os.fsencode(name))

    def listxattr(self, path: Path) -> list[str]:
        """Return the names of the extended attributes, sorted.

        Raises:
            FileNotFoundError: nothing shows there.
        """
        with self._call(path):
            return sorted(os.fsdecode(name) for name in self._ov.listxattr(Ino(self._attr(path).ino)))

    # -- changing

    def write_bytes(self, path: Path, data: bytes | bytearray | memoryview, *, mode: int = 0o644) -> None:
        """Give a file these bytes, all at once; make it if there is none.

        Args:
            path: the file; its directory must be there.
            data: all bytes that it is to have.
            mode: permission bits of a file that is made; the umask does not count.

        Raises:
            FileNotFoundError, NotADirectoryError: the directory is not there.
            IsADirectoryError: it is a directory.
            OSError: ELOOP for a symbolic link, EINVAL for another special file; ENOSPC, EROFS and so on.
        """
        with self._call(path):
            parent, name = self._place(path)
            if self._ov.lookup(parent, name) is not None:
                self._file(path)

            def write() -> None:
                found = self._ov.lookup(parent, name)
                if found is None:
                    found = self._ov.mknod(parent, name, stat.S_IFREG | stat.S_IMODE(mode), 0, self._me)
                else:
                    self._ov.setattr(Ino(found.ino), SetAttr(size=0))
                self._ov.write(Ino(found.ino), 0, bytes(data))

            self._change(write, is_one=False)

    def mkdir(self, path: Path, mode: int = 0o755, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a directory.

        Args:
            path: where.
            mode: its permission bits; the umask does not count.
            parents: make the directories above it too, with 0o755, all or none.
            exist_ok: do nothing if it is there.

        Raises:
            FileExistsError: something is there.
            FileNotFoundError, NotADirectoryError: the directory above is not there.
        """
        with self._call(path):
            place = place_of(path)
            attr = self._ov.find(place)
            if attr is not None:
                if exist_ok and stat.S_ISDIR(attr.mode):
                    return
                raise FsError(errno.EEXIST)
            above, missing = split(place)[0], [place]
            while parents and self._ov.find(above) is None:
                missing.append(above)
                above = split(above)[0]
            self._directory(above)

            def make() -> None:
                for directory in reversed(missing):
                    parent, name = split(directory)
                    self._ov.mkdir(
                        self._directory(parent), name, stat.S_IMODE(mode) if directory == place else 0o755, self._me
                    )

            self._change(make, is_one=False)

    def symlink(self, target: Path, path: Path) -> None:
        """Make a symbolic link at *path* to *target*, which may be any text.

        Raises:
            FileExistsError: something is at the path.
            FileNotFoundError, NotADirectoryError: the directory is not there.
        """
        with self._call(path):
            parent, name = self._free(path)
            self._change(lambda: self._ov.symlink(parent, name, os.fsencode(target), self._me))

    def link(self, target: Path, path: Path) -> None:
        """Make *path* another name of the object at *target*, which is no directory.

        Raises:
            FileExistsError: something is at the path.
            FileNotFoundError, NotADirectoryError: the target or the directory is not there.
            PermissionError: the target is a directory.
        """
        with self._call(target, path):
            attr = self._attr(target)
            if stat.S_ISDIR(attr.mode):
                raise FsError(errno.EPERM)
            parent, name = self._free(path)
            self._change(lambda: self._ov.link(Ino(attr.ino), parent, name))

    def remove(self, path: Path) -> None:
        """Remove a name of anything but a directory.

        Raises:
            FileNotFoundError, IsADirectoryError: there is no such file.
        """
        with self._call(path):
            attr = self._attr(path)
            if stat.S_ISDIR(attr.mode):
                raise FsError(errno.EISDIR)
            parent, name = self._place(path)
            self._change(lambda: self._unlink(parent, name, attr))

    def rmdir(self, path: Path) -> None:
        """Remove an empty directory.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no such directory.
            OSError: ENOTEMPTY; EBUSY for the root.
        """
        with self._call(path):
            ino = self._directory(place_of(path))
            parent, name = self._place(path)
            if any(entry.name not in (b".", b"..") for entry in self._ov.readdir(ino)):
                raise FsError(errno.ENOTEMPTY)
            self._change(lambda: self._rmdir(parent, name, ino))

    def rmtree(self, path: Path) -> None:
        """Remove a directory with all that is in it, all or nothing.

        Raises:
            FileNotFoundError, NotADirectoryError: there is no such directory.
            OSError: EBUSY for the root; ``reset`` takes away all that the overlay holds.
        """
        with self._call(path):
            top = self._directory(place_of(path))
            parent, name = self._place(path)

            def remove() -> None:
                waiting, found = [(parent, name, top)], []
                while waiting:  # from the top down
                    found.append(waiting.pop())
                    directory = found[-1][2]
                    for entry in list(self._ov.readdir(directory)):
                        if entry.name in (b".", b".."):
                            continue
                        if stat.S_ISDIR(entry.attr.mode):
                            waiting.append((directory, entry.name, Ino(entry.attr.ino)))
                        else:
                            self._unlink(directory, entry.name, entry.attr)
                for above, last, ino in reversed(found):
                    self._rmdir(above, last, ino)

            self._change(remove, is_one=False)

    def rename(self, old: Path, new: Path) -> None:
        """Give what is at *old* the path *new*; what was there is replaced, as by os.rename.

        Raises:
            FileNotFoundError, NotADirectoryError: nothing is at the old path, or the directory of the new one is not.
            IsADirectoryError, NotADirectoryError: one is a directory, and the other is not.
            OSError: ENOTEMPTY, EINVAL (into itself), EBUSY (the root).
        """
        with self._call(old, new):
            source = self._attr(old)
            parent, name = self._place(old)
            new_parent, new_name = self._place(new)
            replaced = self._ov.lookup(new_parent, new_name)
            if replaced is not None and stat.S_ISDIR(replaced.mode) != stat.S_ISDIR(source.mode):
                raise FsError(errno.EISDIR if stat.S_ISDIR(replaced.mode) else errno.ENOTDIR)

            def rename() -> None:
                self._ov.rename(parent, name, new_parent, new_name)
                if replaced is not None and replaced.ino != source.ino:
                    self._nameless.append(Ino(replaced.ino))

            self._change(rename)

    def chmod(self, path: Path, mode: int) -> None:
        """Change permission bits.

        Raises:
            FileNotFoundError: nothing shows there.
            OSError: EOPNOTSUPP for a symbolic link, which has none.
        """
        with self._call(path):
            attr = self._attr(path)
            if stat.S_ISLNK(attr.mode):
                raise FsError(errno.EOPNOTSUPP)
            self._set(attr, SetAttr(mode=stat.S_IMODE(mode)))

    def chown(self, path: Path, uid: int = -1, gid: int = -1) -> None:
        """Change owner and group, of a symbolic link itself too; -1 leaves one as it is.

        Raises:
            FileNotFoundError: nothing shows there.
        """
        with self._call(path):
            change = SetAttr(uid=uid if uid != -1 else None, gid=gid if gid != -1 else None)
            self._set(self._attr(path), change)

    def utime(self, path: Path, *, ns: tuple[int, int]) -> None:
        """Set the times of access and of modification, each in ns since the epoch; of a symbolic link itself too.

        Raises:
            FileNotFoundError: nothing shows there.
        """
        with self._call(path):
            self._set(self._attr(path), SetAttr(atime=ns[0], mtime=ns[1]))

    def setxattr(self, path: Path, name: str | bytes, value: bytes) -> None:
        """Set an extended attribute; its name has the namespace (``user.x``).

        Raises:
            FileNotFoundError: nothing shows there.
            OSError: EOPNOTSUPP for other namespaces, ERANGE for a long name, and others of setxattr(2).
        """
        with self._call(path):
            ino = Ino(self._attr(path).ino)
            self._change(lambda: self._ov.setxattr(ino, os.fsencode(name), value))

    def removexattr(self, path: Path, name: str | bytes) -> None:
        """Remove an extended attribute.

        Raises:
            FileNotFoundError: nothing shows there.
            OSError: ENODATA if it has no such attribute.
        """
        with self._call(path):
            ino = Ino(self._attr(path).ino)
            self._ov.getxattr(ino, os.fsencode(name))
            self._change(lambda: self._ov.removexattr(ino, os.fsencode(name)))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes of a block one: if it raises, or the process dies, there is none of them.

        A change that fails in the middle (no space, I/O) ends the transaction: even if the block catches the error, its
        end raises it again.  Errors that are seen before anything is done, such as FileNotFoundError, can be caught.
        There may be 1,000 files in it, at least, that are written and have more than 2 KiB.

        Raises:
            UsageError: it is inside another one.
            OSError: EROFS if the overlay is read-only.
        """
        self._refuse_in_transaction("begin another transaction")
        if self._ov.objects.free_ids() < _FILES_MIN and not self._ov.db.read_only:
            self._ov.reserve(_FILES)
        with as_os_errors(), self._in_one():
            self._in_transaction = True
            try:
                yield
                if self._failed is not None:
                    raise self._failed
            finally:
                self._in_transaction, self._failed = False, None
        self._settle()

    # -- helpers

    @contextmanager
    def _call(self, path: Path | None = None, other: Path | None = None) -> Iterator[None]:
        """The frame of each public call, given the paths as the caller named them."""
        with as_os_errors(path, other):
            if self._ov.known > _KNOWN and not self._in_transaction:
                self._ov.forget([node.ino for node in list(self._ov.inodes.nodes()) if node.ino != ROOT])
            yield

    def _refuse_in_transaction(self, what: str) -> None:
        if self._in_transaction:
            raise UsageError(f"a transaction is running, so the overlay cannot {what}", "leave its block first")

    @contextmanager
    def _in_one(self) -> Iterator[None]:
        """One operation of the facade; what it leaves without a name is forgotten afterwards."""
        try:
            with self._ov.transaction():
                yield
            self._forget_nameless()
        finally:
            self._nameless.clear()

    def _forget_nameless(self) -> None:
        gone, self._nameless = self._nameless, []
        try:
            self._ov.forget(gone)
        except OSError as error:  # the change itself is made
            log.warning("what was removed takes space until the overlay is opened again: %s", error)

    def _change(self, work: Callable[[], object], *, is_one: bool = True) -> None:
        """Make a change.

        Args:
            work: calls the facade.
            is_one: True if it calls it once, False if the calls must become one operation.
        """
        if self._in_transaction:
            try:
                work()
            except BaseException as error:
                self._failed = self._failed or error
                raise
            return
        if is_one:
            work()
            self._forget_nameless()
        else:
            if self._ov.objects.free_ids() < 2 * IDS_PER_OPERATION:
                self._ov.commit()
            try:
                with self._in_one():
                    work()
            except FsError as error:
                if error.errno != errno.ENOSPC or not self._ov.durability.is_needed:
                    raise
                self._ov.commit()  # which frees what was deleted
                with self._in_one():
                    work()
        self._settle()

    def _settle(self) -> None:
        """Commit where the redo log cannot save what was done, or has become long.

        Raises:
            NotDurable: the commit was postponed or failed.
        """
        durability = self._ov.durability
        if durability.volatile or not durability.keeps_redo or durability.redo_size > LOG_MAX:
            try:
                self._ov.commit()
            except StateError as error:
                raise NotDurable("the change is made", error) from error

    def _set(self, attr: Attr, change: SetAttr) -> None:
        self._change(lambda: self._ov.setattr(Ino(attr.ino), change))

    def _unlink(self, parent: Ino, name: bytes, attr: Attr) -> None:
        self._ov.unlink(parent, name)
        self._nameless.append(Ino(attr.ino))

    def _rmdir(self, parent: Ino, name: bytes, ino: Ino) -> None:
        self._ov.rmdir(parent, name)
        self._nameless.append(ino)

    def _attr(self, path: Path) -> Attr:
        return self._at(place_of(path))

    def _at(self, place: bytes) -> Attr:
        found = self._ov.find(place)
        if found is not None:
            return found
        while (place := split(place)[0]) != b"/":
            above = self._ov.find(place)
            if above is not None:
                raise FsError(errno.ENOENT if stat.S_ISDIR(above.mode) else errno.ENOTDIR)
        raise FsError(errno.ENOENT)

    def _directory(self, place: bytes) -> Ino:
        attr = self._at(place)
        if not stat.S_ISDIR(attr.mode):
            raise FsError(errno.ENOTDIR)
        return Ino(attr.ino)

    def _file(self, path: Path) -> Attr:
        attr = self._attr(path)
        if not stat.S_ISREG(attr.mode):
            codes = {stat.S_IFDIR: errno.EISDIR, stat.S_IFLNK: errno.ELOOP}
            raise FsError(codes.get(stat.S_IFMT(attr.mode), errno.EINVAL))
        return attr

    def _place(self, path: Path) -> tuple[Ino, bytes]:
        """Return the directory that a path is in, and its name there."""
        place = place_of(path)
        if place == b"/":
            raise FsError(errno.EBUSY)
        above, name = split(place)
        return self._directory(above), name

    def _free(self, path: Path) -> tuple[Ino, bytes]:
        """Return the directory and the name of a path at which nothing shows."""
        if self._ov.find(place_of(path)) is not None:
            raise FsError(errno.EEXIST)
        return self._place(path)
