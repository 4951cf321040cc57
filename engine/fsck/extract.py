"""Rescue: what an overlay holds, written out as plain files, even where it cannot be repaired.

Everything that was created, modified or renamed is written to its merged path below a directory of the user's; what
cannot be reached goes to ``lost+found`` there.  Reads rows and content objects only, and the base where it is known;
never writes to storage.  Nothing that a damaged or a hostile database says leads out of the directory: all that is made
there goes through a door of its own (store/confined_dir.py).
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import StateError
from ..store.base_view import BaseView
from ..store.confined_dir import ConfinedDir
from ..store.database import Database
from ..store.syscalls import data_ranges
from ..tree.extents import HOLE
from ..tree.path_resolver import PathResolver
from .checks import Progress
from .object_inventory import ObjectInventory

_STEP = 1 << 20
_COLUMNS = "ino, mode, uid, gid, rdev, size, atime, mtime, object, bound, mapped, target"


class Extracted(NamedTuple):
    """What came out: how many objects were written, and the paths of those that are not whole, with the reason."""

    written: int
    damaged: list[tuple[bytes, str]]


class Extraction:
    """Writes one overlay out.

    Args:
        db: its tables; only read.
        shelf: its content objects.
        base: the base, where it is known; without it what only the base holds is not written.
        harmless: leave out devices, and what makes programs privileged: set-id bits, capabilities.
    """

    def __init__(self, db: Database, shelf: ObjectInventory, base: BaseView | None, *, harmless: bool = False) -> None:
        self._db = db
        self._shelf = shelf
        self._base = base
        self._harmless = harmless
        self._places = PathResolver(db)

    def run(self, target: str, progress: Progress = lambda what, done, total: None) -> Extracted:
        """Write everything to *target*, a directory that is empty or not there.

        Raises:
            StateError: it cannot be used.
        """
        try:
            os.makedirs(target, exist_ok=True)
            self._door = ConfinedDir(os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise StateError(f"{target} cannot be used ({error.strerror})", "name an empty directory") from error
        try:
            if self._door.names("."):
                raise StateError(f"{target} is not empty", "name an empty directory")
            return self._run(progress)
        finally:
            self._door.close()

    def _run(self, progress: Progress) -> Extracted:
        names = self._db.rows("SELECT ino, parent, name FROM created UNION ALL SELECT ino, parent, name FROM renamed")
        placed: dict[int, list[bytes]] = {}
        for ino, parent, name in names:
            holder = self._places.reached(parent)
            if holder is not None:
                placed.setdefault(ino, []).append(holder.rstrip(b"/") + b"/" + name)
        damaged: list[tuple[bytes, str]] = []
        written = 0
        later: list[tuple[str, tuple[int, int]]] = []
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM inode ORDER BY ino")
        for index, values in enumerate(rows):
            row = dict(zip(_COLUMNS.split(", "), values, strict=True))
            row["mode"] &= 0xFFFF  # what is beyond is damage
            where = placed.get(row["ino"]) or [self._places.reached(row["ino"]) or b"/lost+found/#%d" % row["ino"]]
            path = _below(where[0])
            try:
                lack = self._write(path, row)
                for other in map(_below, where[1:]):
                    self._door.make_directories(other.rpartition("/")[0])
                    self._door.link(path, other)
                self._dress(path, row)
            except (OSError, OverflowError, ValueError) as error:
                lack = str(error)
            if stat.S_ISDIR(row["mode"]):
                later.append((path, (row["atime"], row["mtime"])))
            written += not lack
            if lack:
                damaged.append((where[0], lack))
            progress("writing files", index + 1, len(rows))
        self._unclaimed(damaged)
        for path, times in reversed(later):
            with suppress(OSError, OverflowError):  # its time is the least of it
                self._door.utime(path, *times)
        return Extracted(written, damaged)

    def _write(self, path: str, row: dict[str, Any]) -> str:
        """Write one object; what it lacks, or an empty string."""
        mode = row["mode"]
        if stat.S_ISDIR(mode):
            self._door.make_directories(path)
            return ""
        self._door.make_directories(path.rpartition("/")[0])
        base = self._places.origins.get(row["ino"])
        if stat.S_ISLNK(mode):
            target = row["target"]
            if target is None and base is not None and self._base is not None:
                target = self._base.readlink(base)
            if target is None:
                return "its target is not known"
            self._door.symlink(target, path)
        elif stat.S_ISREG(mode):
            return self._write_file(path, row, base)
        else:
            if self._harmless and stat.S_IFMT(mode) in (stat.S_IFCHR, stat.S_IFBLK):
                return "it is a device, and the storage is not trusted"
            self._door.mknod(path, mode, row["rdev"])
        return ""

    def _write_file(self, path: str, row: dict[str, Any], base: bytes | None) -> str:
        lack = ""
        fd = self._door.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.ftruncate(fd, max(0, row["size"]))
            end = row["size"] if row["bound"] is None else min(row["bound"], row["size"])
            try:
                if row["object"] == 0:
                    data = self._db.value("SELECT data FROM small WHERE ino = ?", (row["ino"],))
                    if data is None:
                        lack = "its bytes are gone"
                    else:
                        os.pwrite(fd, data[: row["size"]], 0)
                elif row["object"] is not None:
                    self._copy(fd, row["object"], 0, 0, end)
                elif base is not None and end > 0:
                    lack = self._copy_base(fd, base, end)
            except OSError as error:
                lack = f"its content cannot be read: {error.strerror}"
            sql = 'SELECT start, "end", object, at FROM extent WHERE ino = ? ORDER BY start'
            for start, stop, number, at in self._db.rows(sql, (row["ino"],)):
                stop = min(stop, row["size"])
                _clear(fd, start, stop)  # of what the backing has there
                try:
                    if number != HOLE:
                        self._copy(fd, number, at, start, stop - start)
                except OSError as error:
                    lack = f"bytes from {start} to {stop} cannot be read: {error.strerror}"
        finally:
            os.close(fd)
        return lack

    def _copy(self, fd: int, number: int, at: int, start: int, size: int) -> None:
        size = min(size, self._shelf.size(number) - at)
        done = 0
        while done < size:
            data = self._shelf.read(number, at + done, min(_STEP, size - done))
            if not data:
                return
            if data.strip(b"\0"):
                os.pwrite(fd, data, start + done)
            done += len(data)

    def _copy_base(self, fd: int, base: bytes, size: int) -> str:
        if self._base is None:
            return "its bytes are in the base; name it with --base"
        source = self._base.file(base)
        done = 0
        while done < size and (data := os.pread(source, min(_STEP, size - done), done)):
            os.pwrite(fd, data, done)
            done += len(data)
        return ""

    def _dress(self, path: str, row: dict[str, Any]) -> None:
        """Give a file its attributes, as far as the caller may."""
        if os.geteuid() == 0:
            self._door.chown(path, row["uid"], row["gid"])
        mode = stat.S_IMODE(row["mode"])
        if self._harmless and not stat.S_ISDIR(row["mode"]):
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
        if not stat.S_ISLNK(row["mode"]):
            self._door.chmod(path, mode)
        for name, value in self._db.rows("SELECT name, value FROM xattr WHERE ino = ?", (row["ino"],)):
            if self._harmless and not name.startswith((b"user.", b"system.posix_acl_")):
                continue
            with suppress(OSError, ValueError):  # the file system there, or the caller's rights, do not allow this one
                self._door.setxattr(path, name, value)
        self._door.utime(path, row["atime"], row["mtime"])

    def _unclaimed(self, damaged: list[tuple[bytes, str]]) -> None:
        """Content nobody names, by its object's id."""
        sql = (
            "SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent UNION SELECT object FROM garbage"
        )
        named = {number for (number,) in self._db.rows(sql)}
        for number in sorted(self._shelf.sizes.keys() - named):
            name = b"/lost+found/object-%d" % number
            path = _below(name)
            try:
                self._door.make_directories(path.rpartition("/")[0])
                fd = self._door.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                try:
                    os.ftruncate(fd, self._shelf.sizes[number])
                    self._copy(fd, number, 0, 0, self._shelf.sizes[number])
                finally:
                    os.close(fd)
            except OSError as error:
                damaged.append((name, str(error)))


def _clear(fd: int, start: int, end: int) -> None:
    """Let a range of a file read as zeros."""
    for first, stop in data_ranges(fd, start, end):
        for at in range(first, stop, _STEP):
            os.pwrite(fd, bytes(min(_STEP, stop - at)), at)


def _below(path: bytes) -> str:
    """*path* as a name beneath the directory, whatever a damaged database made of it; the root is ``.``."""
    parts = [part.replace(b"\0", b"_")[:255] for part in path.split(b"/") if part]
    return os.fsdecode(b"/".join(b"_" + part if part in (b".", b"..") else part for part in parts)) or "."
