"""Drift: how rows are read when the base is not the one that they were made over.

The base never changes while it is mounted, but between two mounts it may be replaced, wholly or in part.  So each row
of a base object is compared with the base when it is first read:

* What the overlay does not override *follows* the base: size and mtime of a file whose bytes are the base's, all
  attributes of an object that was only renamed or linked, and the base's share of a link count.
* A file with bytes of its own keeps them.  If the bytes that it still has from the base now belong to another version,
  reading them fails with EIO (``same_version``): the overlay never shows a mixture of two versions.
* An object that the base no longer has, or has as another type, is *gone*.  tree/merged_view.py shows it if the overlay
  holds enough of it; otherwise its rows are kept and not shown, and count again when the old base is back.

Rows refer to base objects by the base's inode numbers, and another base uses these numbers for other objects:
``ino_of`` tells the two apart.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from hashlib import blake2b

from ..errors import FsError
from ..model import DIRECTORY_SIZE, ROOT, Ino
from ..store.base_view import BaseView, directory_stat, join, split
from ..store.database import Database
from .inode_rows import Row
from .nodes import Numbers
from .row_checks import is_id, is_origin_path

log = logging.getLogger(__name__)

_CACHED_MAX = 10_000  # the numbers in origin are kept in memory if they are no more than this; else each is a query
_RELINKED = 1 << 40  # added to seen_links when a base has another link count than the base before
_SAMPLES = 16  # blocks of a file in its digest
_BLOCK = 4096  # bytes
_UNKNOWN_MODE = 0o700  # of a gone directory whose mode and owner were not noted: root alone may enter
_PIECE = 64  # rows in one query


def sample(fd: int, size: int) -> bytes:
    """Return a digest of a file's size and of 16 blocks spread evenly over it, from the first to the last.

    Args:
        fd: the file.
        size: its size, in bytes.
    """
    digest = blake2b(b"%d" % size, digest_size=16)
    last = max(0, size - _BLOCK)
    for offset in sorted({last * index // (_SAMPLES - 1) for index in range(_SAMPLES)}):
        digest.update(os.pread(fd, _BLOCK, offset))
    return digest.digest()


class Drift:
    """Compares the rows of base objects with the base.

    Args:
        db: the overlay's database; only read.
        base: the base view.
        numbers: gives base objects their inode numbers.

    Attributes:
        gone: numbers of the base objects that this base lacks or has as another type; only those that have been read.
        superseded: by base path, the number of a gone object in whose place the merged view shows the object that this
            base has at the path.
        followed: numbers of the objects whose row in memory follows the base while the row in the database does not.
    """

    def __init__(self, db: Database, base: BaseView, numbers: Numbers) -> None:
        self._db = db
        self._base = base
        self._numbers = numbers
        self.gone: set[int] = set()
        self.superseded: dict[bytes, Ino] = {}
        self.followed: set[int] = set()
        self._unreadable: set[int] = set()
        self._versions: dict[int, bool] = {}
        self._cached: set[int] | None = None  # the numbers in origin as the mount found them; None: too many

    def cache_numbers(self) -> None:
        """Cache the numbers in ``origin``; call it once a mount has matched them with the base."""
        if self._db.value("SELECT count(*) FROM (SELECT 1 FROM origin LIMIT ?)", (_CACHED_MAX + 1,)) <= _CACHED_MAX:
            self._cached = {ino for (ino,) in self._db.rows("SELECT ino FROM origin")}

    # -- numbers

    def ino_of(self, st: os.stat_result, directory: bytes, name: bytes) -> Ino:
        """Return the inode number of a base object; if rows use its number for another object, a reserved number.

        Args:
            st: its attributes.
            directory, name: where it was found (base terms).
        """
        ino = self._numbers.of(st)
        if self._cached is not None and ino not in self._cached:
            return ino
        return self._checked(ino, st, join(directory, name) if name else directory)

    def _checked(self, ino: Ino, st: os.stat_result, path: bytes) -> Ino:
        """Return *ino*, or a reserved number if the rows of *ino* are about another object than the one at *path*."""
        sql = "SELECT path, coalesce(mode, ?) & 61440 FROM origin LEFT JOIN inode USING (ino) WHERE ino = ?"
        noted = self._db.row(sql, (stat.S_IFDIR, ino))
        if noted is None:
            return ino
        origin, mode = noted
        if stat.S_IFMT(st.st_mode) == mode:
            if origin == path:
                return ino
            if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
                other = self._base.find(origin) if is_origin_path(origin) else None
                if other is not None and (other.st_dev, other.st_ino) == (st.st_dev, st.st_ino):
                    return ino  # another link of the same file
        return self._numbers.displace(st, self._is_free)

    def _is_free(self, ino: int) -> bool:
        return self._db.value("SELECT 1 FROM origin WHERE ino = ?", (ino,)) is None

    # -- rows

    def follow(self, row: Row, path: bytes, st: os.stat_result | None, *, modified: bool) -> Row:
        """Return a row of a base object with this base's values where it follows the base; note a gone object.

        Args:
            row: the row as the database has it.
            path: its base object (base terms).
            st: that object's attributes in this base, if the caller has just read them, else None.
            modified: True if it has a row in ``modified``.
        """
        if st is None:
            try:
                st = self._base.find(path)
            except OSError as error:
                self.warn_of_unreadable(row.ino, path, error)
                return row  # what the overlay holds of it can be used
        if st is None or stat.S_IFMT(st.st_mode) != stat.S_IFMT(row.mode):
            self.gone.add(row.ino)
            return row
        if (
            st.st_nlink == row.seen_links
            and st.st_mtime_ns == row.seen_mtime
            and st.st_size == row.seen_size
            and (st.st_mode, st.st_uid, st.st_gid) == (row.mode, row.uid, row.gid)
        ):
            return row
        current = self._with_base_values(row, path, st, modified)
        if current != row:
            self.followed.add(row.ino)
        return current

    def warn_of_unreadable(self, ino: int, path: bytes, error: OSError) -> None:
        """Log once that a base object cannot be read.

        Args:
            ino, path: the object, and its path (base terms).
            error: why not.
        """
        if ino not in self._unreadable:
            self._unreadable.add(ino)
            shown = os.fsdecode(path)
            log.warning(
                "%s cannot be read in the base: %s", shown, error.strerror, extra={"path": shown, "error": error}
            )

    def _with_base_values(self, row: Row, path: bytes, st: os.stat_result, modified: bool) -> Row:
        is_dir = stat.S_ISDIR(row.mode)
        if row.seen_links is None:
            row = row._replace(seen_links=st.st_nlink)
        elif row.seen_links % _RELINKED != st.st_nlink:
            row = row._replace(seen_links=_RELINKED + st.st_nlink, nlink=self._links(row, path, st, is_dir))
        if not is_dir and not row.is_own and (row.seen_size, row.seen_mtime) != (st.st_size, st.st_mtime_ns):
            bound = st.st_size if stat.S_ISREG(row.mode) else None
            # an mtime that a program has set stays
            mtime = st.st_mtime_ns if row.mtime == row.seen_mtime else row.mtime
            row = row._replace(
                size=st.st_size, bound=bound, mtime=mtime, seen_size=st.st_size, seen_mtime=st.st_mtime_ns
            )
        if (row.mode, row.uid, row.gid, row.rdev) != (st.st_mode, st.st_uid, st.st_gid, st.st_rdev):
            row = row._replace(rdev=st.st_rdev)
            if not modified:
                row = row._replace(mode=st.st_mode, uid=st.st_uid, gid=st.st_gid)
        return row

    def _links(self, row: Row, path: bytes, st: os.stat_result, is_dir: bool) -> int:
        """Return the link count of an object whose count in the base has changed."""
        seen = (row.seen_links or 0) % _RELINKED
        if row.nlink == 0 or (is_dir and min(row.nlink, seen, st.st_nlink) < 2):
            return row.nlink
        if is_dir:
            return max(2, row.nlink + st.st_nlink - seen)
        known = self.known_links(row.ino, path)
        # an estimate: only of the base name in origin do the tables tell whether it is hidden or renamed
        return max(1, known if st.st_nlink == 1 else max(known, row.nlink + st.st_nlink - seen))

    @staticmethod
    def may_be_miscounted(row: Row) -> bool:
        """Return True if an object ever had several links in a base.

        When the base is replaced, nothing tells which of these links came and which went.
        """
        return row.seen_links is not None and row.seen_links > 1

    def known_links(self, ino: int, path: bytes) -> int:
        """Return how many names surely lead to an object: its overlay names, and its path in ``origin`` if that shows.

        Args:
            ino: the object.
            path: its path in ``origin``.
        """
        names = "SELECT (SELECT count(*) FROM created WHERE ino = ?1) + (SELECT count(*) FROM renamed WHERE ino = ?1)"
        return int(self._db.value(names, (ino,))) + self.is_shown(path)

    def is_shown(self, path: bytes) -> bool:
        """Return True if no whiteout hides a base path or a directory above it, unless that directory was renamed."""
        return self.hidden_at(path) is None

    def hidden_at(self, path: bytes) -> bytes | None:
        """Return which whiteout hides a base path: its own path or that of a directory above; None if the path shows.

        What is in a renamed directory shows there.
        """
        hidden = "SELECT 1 FROM deleted JOIN origin ON origin.ino = parent WHERE path = ? AND name = ?"
        renamed = "SELECT 1 FROM renamed JOIN origin USING (ino) WHERE path = ?"
        above = path
        while above != b"/":
            if self._db.value(hidden, split(above)) is not None:
                is_elsewhere = above != path and self._db.value(renamed, (above,)) is not None
                return None if is_elsewhere else above
            above = split(above)[0]
        return None

    def same_version(self, row: Row, path: bytes) -> bool:
        """Return True if the base still has the version of a file over which the file was written.

        Versions are compared by size and mtime, and by the digest of samples if the row in ``modified`` has one.  The
        result is kept as long as the overlay is open; the first False is logged.

        Args:
            row: the row of a file with bytes of its own.
            path: its base file (base terms).
        """
        same = self._versions.get(row.ino)
        if same is None:
            same = self._versions[row.ino] = self.is_version(row, path)
            if not same:
                log.warning(
                    "%s was replaced in the base after a part of it was written here: reading the other parts fails"
                    " until the old base is back; to choose what the file shall be, run: minifo rebase",
                    os.fsdecode(path),
                )
        return same

    def base_fd(self, row: Row, path: bytes) -> int:
        """Return a descriptor of the base file that backs a file; it is valid until the next call.

        Raises:
            OSError: EIO if the file was written over another version of the base file than the base has now.
        """
        if self.is_lost(row, path):
            raise FsError(errno.EIO, f"read inode {row.ino}: the base has another version")
        return self._base.file(path)

    def is_lost(self, row: Row, path: bytes) -> bool:
        """Return True if a file needs bytes of a version of its base file that the base no longer has."""
        return row.object is None and row.is_own and not self.same_version(row, path)

    def is_version(self, row: Row, path: bytes) -> bool:
        """Compare the base file at *path*, as it is now, with the version over which the file was written.

        Unlike ``same_version`` it keeps and logs nothing.

        Returns:
            True if they have the same size and mtime, and the same digest of samples if one was taken.
        """
        st = self._base.find(path)
        if st is None or (st.st_size, st.st_mtime_ns) != (row.seen_size, row.seen_mtime):
            return False
        digest = self._db.value("SELECT digest FROM modified WHERE ino = ?", (row.ino,))
        return digest is None or digest == sample(self._base.file(path, st), st.st_size)

    # -- gone objects

    def gone_directory(self, ino: int) -> os.stat_result | None:
        """Return the attributes of a gone directory without a row in ``inode``; None if *ino* is not in ``origin``."""
        noted = self._db.row("SELECT dir_mode, dir_uid, dir_gid FROM origin WHERE ino = ?", (ino,))
        if noted is None:
            return None
        mode, uid, gid = noted if all(is_id(value) for value in noted) else (_UNKNOWN_MODE, 0, 0)
        return directory_stat(ino, stat.S_IMODE(mode), uid, gid, DIRECTORY_SIZE)

    def origins_in(self, path: bytes) -> dict[bytes, Ino]:
        """Return the objects of ``origin`` directly in a base directory: their names and inode numbers.

        Args:
            path: the directory (base terms).
        """
        prefix = join(path, b"")
        children: dict[bytes, Ino] = {}
        start, end = prefix, prefix[:-1] + b"0"  # "0" comes after "/"
        sql = "SELECT path, ino FROM origin WHERE path >= ? AND path < ? ORDER BY path LIMIT ?"
        while rows := self._db.rows(sql, (start, end, _PIECE)):
            for origin, ino in rows:
                name, below, _ = origin[len(prefix) :].partition(b"/")
                if below:
                    start = prefix + name + b"0"  # past all paths in that subdirectory
                    break
                start = origin + b"\0"
                if name and ino != ROOT:
                    children[name] = Ino(ino)
        return children

    def shows_alone(self, row: Row | None) -> bool:
        """Return True if the rows of a gone object suffice to show it.

        They do for a file with bytes of its own, and for a directory with content = 1 in ``modified``.  A directory
        with entries that show is shown too; that is for the caller to check.
        """
        if row is None:
            return False
        if stat.S_ISDIR(row.mode):
            return self._db.value("SELECT 1 FROM modified WHERE ino = ? AND content = 1", (row.ino,)) is not None
        return row.is_own
