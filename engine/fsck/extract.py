"""Extraction: writes the content of an overlay to plain files, even if the overlay cannot be repaired.

Every created, modified or renamed object is written to its merged path below a directory that the user names; an object
that cannot be reached goes to ``lost+found`` in that directory.  The extraction reads rows, content objects and, if it
is known, the base; it never writes to storage.  All output goes through a ``ConfinedDir`` (store/confined_dir.py), so
no path of a damaged or hostile database leads out of the directory.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Any, NamedTuple

from ..errors import StateError
from ..model import NAME_MAX, XATTR_ACLS
from ..store.base_view import BaseView
from ..store.confined_dir import ConfinedDir
from ..store.database import Database
from ..store.four_lists_statements import ALL_NAMES
from ..store.syscalls import data_ranges
from ..tree.extents import HOLE
from ..tree.path_resolver import PathResolver
from .checks import Progress
from .object_inventory import ObjectInventory

_CHUNK = 1 << 20
_COLUMNS = "ino, mode, uid, gid, rdev, size, atime, mtime, object, bound, mapped, target"


class Extracted(NamedTuple):
    """The result of an extraction.

    Attributes:
        written: the number of objects that were extracted completely.
        damaged: the merged paths of the other objects, each with what is missing or went wrong.
    """

    written: int
    damaged: list[tuple[bytes, str]]


class Extraction:
    """Extracts one overlay.

    Args:
        db: the overlay's tables; they are only read.
        inventory: the overlay's content objects.
        base: the base; None if it is not known: then bytes and symlink targets that only the base has are missing.
        harmless: True to leave out devices and everything that makes programs privileged (set-id bits, capabilities).
    """

    def __init__(
        self, db: Database, inventory: ObjectInventory, base: BaseView | None, *, harmless: bool = False
    ) -> None:
        self._db = db
        self._inventory = inventory
        self._base = base
        self._harmless = harmless
        self._paths = PathResolver(db)

    def run(self, target: str, progress: Progress = lambda what, done, total: None) -> Extracted:
        """Write all objects below the directory *target*, which must be empty or not exist.

        Raises:
            StateError: *target* is not empty, or cannot be made or opened.
        """
        try:
            os.makedirs(target, exist_ok=True)
            self._target = ConfinedDir(os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise StateError(f"{target} cannot be used ({error.strerror})", "give an empty directory") from error
        try:
            if self._target.names("."):
                raise StateError(f"{target} is not empty", "give an empty directory")
            return self._run(progress)
        finally:
            self._target.close()

    def _run(self, progress: Progress) -> Extracted:
        """Write all objects below the opened target."""
        names = self._db.rows(ALL_NAMES)
        paths_of: dict[int, list[bytes]] = {}
        for ino, parent, name in names:
            directory = self._paths.reached(parent)
            if directory is not None:
                paths_of.setdefault(ino, []).append(directory.rstrip(b"/") + b"/" + name)
        damaged: list[tuple[bytes, str]] = []
        written = 0
        directory_times: list[tuple[str, tuple[int, int]]] = []
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM inode ORDER BY ino")
        for index, values in enumerate(rows):
            row = dict(zip(_COLUMNS.split(", "), values, strict=True))
            row["mode"] &= 0xFFFF  # damage may set higher bits, at which the functions of stat fail
            merged = paths_of.get(row["ino"]) or [self._paths.reached(row["ino"]) or b"/lost+found/#%d" % row["ino"]]
            path = _safe_name(merged[0])
            try:
                missing = self._write(path, row)
                for other in map(_safe_name, merged[1:]):
                    self._target.make_directories(other.rpartition("/")[0])
                    self._target.link(path, other)
                self._set_attributes(path, row)
            except (OSError, OverflowError, ValueError) as error:
                missing = str(error)
            if stat.S_ISDIR(row["mode"]):
                directory_times.append((path, (row["atime"], row["mtime"])))
            written += not missing
            if missing:
                damaged.append((merged[0], missing))
            progress("writing files", index + 1, len(rows))
        self._extract_unowned_objects(damaged)
        for path, times in reversed(directory_times):
            with suppress(OSError, OverflowError):  # a directory with wrong times still counts as extracted
                self._target.utime(path, *times)
        return Extracted(written, damaged)

    def _write(self, path: str, row: dict[str, Any]) -> str:
        """Write one object below the target; return what is missing of it, or an empty string."""
        mode = row["mode"]
        if stat.S_ISDIR(mode):
            self._target.make_directories(path)
            return ""
        self._target.make_directories(path.rpartition("/")[0])
        base = self._paths.origins.get(row["ino"])
        if stat.S_ISLNK(mode):
            target = row["target"]
            if target is None and base is not None and self._base is not None:
                target = self._base.readlink(base)
            if target is None:
                return "the symlink's target is not known"
            self._target.symlink(target, path)
        elif stat.S_ISREG(mode):
            return self._write_file(path, row, base)
        else:
            if self._harmless and stat.S_IFMT(mode) in (stat.S_IFCHR, stat.S_IFBLK):
                return "devices of an untrusted storage are not extracted"
            self._target.mknod(path, mode, row["rdev"])
        return ""

    def _write_file(self, path: str, row: dict[str, Any], base: bytes | None) -> str:
        """Write a regular file; return what is missing of it, or an empty string."""
        missing = ""
        fd = self._target.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.ftruncate(fd, max(0, row["size"]))
            end = row["size"] if row["bound"] is None else min(row["bound"], row["size"])
            try:
                if row["object"] == 0:
                    data = self._db.value("SELECT data FROM small WHERE ino = ?", (row["ino"],))
                    if data is None:
                        missing = "its bytes are lost"
                    else:
                        os.pwrite(fd, data[: row["size"]], 0)
                elif row["object"] is not None:
                    self._copy(fd, row["object"], 0, 0, end)
                elif base is not None and end > 0:
                    missing = self._copy_base(fd, base, end)
            except OSError as error:
                missing = f"its content cannot be read: {error.strerror}"
            sql = 'SELECT start, "end", object, at FROM extent WHERE ino = ? ORDER BY start'
            for start, stop, number, at in self._db.rows(sql, (row["ino"],)):
                stop = min(stop, row["size"])
                _zero_range(fd, start, stop)  # the extent replaces the bytes of the backing
                try:
                    if number != HOLE:
                        self._copy(fd, number, at, start, stop - start)
                except OSError as error:
                    missing = f"bytes from {start} to {stop} cannot be read: {error.strerror}"
        finally:
            os.close(fd)
        return missing

    def _copy(self, fd: int, number: int, at: int, start: int, size: int) -> None:
        end = min(at + size, self._inventory.size(number))
        for offset, data in self._inventory.pieces(number, at, end):
            os.pwrite(fd, data, start + offset - at)

    def _copy_base(self, fd: int, base: bytes, size: int) -> str:
        if self._base is None:
            return "its bytes are in the base; give the base with --base"
        source = self._base.file(base)
        done = 0
        while done < size and (data := os.pread(source, min(_CHUNK, size - done), done)):
            os.pwrite(fd, data, done)
            done += len(data)
        return ""

    def _set_attributes(self, path: str, row: dict[str, Any]) -> None:
        """Set owner, mode, extended attributes and times of an extracted object, as far as the user may."""
        if os.geteuid() == 0:
            self._target.chown(path, row["uid"], row["gid"])
        mode = stat.S_IMODE(row["mode"])
        if self._harmless and not stat.S_ISDIR(row["mode"]):
            mode &= ~(stat.S_ISUID | stat.S_ISGID)
        if not stat.S_ISLNK(row["mode"]):
            self._target.chmod(path, mode)
        for name, value in self._db.rows("SELECT name, value FROM xattr WHERE ino = ?", (row["ino"],)):
            if self._harmless and not name.startswith(b"user.") and name not in XATTR_ACLS:
                continue
            with suppress(OSError, ValueError):  # the target's file system or the user's rights may not allow it
                self._target.setxattr(path, name, value)
        self._target.utime(path, row["atime"], row["mtime"])

    def _extract_unowned_objects(self, damaged: list[tuple[bytes, str]]) -> None:
        """Write each content object that no row refers to as ``lost+found/object-ID``; add failures to *damaged*.

        Those that checkpoints name are not lost, and so are not written.
        """
        sql = (
            "SELECT object FROM inode WHERE object > 0 UNION SELECT object FROM extent UNION SELECT object FROM garbage"
            " UNION SELECT object FROM was_inode UNION SELECT object FROM was_extent"
        )
        named = {number for (number,) in self._db.rows(sql)}
        for number in sorted(self._inventory.sizes.keys() - named):
            name = b"/lost+found/object-%d" % number
            path = _safe_name(name)
            try:
                self._target.make_directories(path.rpartition("/")[0])
                fd = self._target.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                try:
                    os.ftruncate(fd, self._inventory.sizes[number])
                    self._copy(fd, number, 0, 0, self._inventory.sizes[number])
                finally:
                    os.close(fd)
            except OSError as error:
                damaged.append((name, str(error)))


def _zero_range(fd: int, start: int, end: int) -> None:
    """Overwrite the data in the range from *start* to *end* of a file with zeros; holes stay holes."""
    for first, stop in data_ranges(fd, start, end):
        for at in range(first, stop, _CHUNK):
            os.pwrite(fd, bytes(min(_CHUNK, stop - at)), at)


def _safe_name(path: bytes) -> str:
    """Return a merged path as a valid relative path below the target, even if it is damaged; ``.`` for the root."""
    parts = [part.replace(b"\0", b"_")[:NAME_MAX] for part in path.split(b"/") if part]
    return os.fsdecode(b"/".join(b"_" + part if part in (b".", b"..") else part for part in parts)) or "."
