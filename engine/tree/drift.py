"""Drift: what rows mean over a base that is not the one they were made over.

The base never changes while it is mounted, but between two mounts it may be replaced, wholly or in part.  So each row
of a base object is compared with the base when it is first read:

* What the overlay does not override *follows* the base: size and times of a file whose bytes are the base's, all
  attributes of what was only renamed or linked, the base's share of a link count.
* A file with bytes of its own keeps them.  Where the rest of its bytes are those of another version by now, reading
  them fails (``same_version``): a mixture of two versions is never shown.
* What the base does not have any more, or has as another kind of object, is *gone*.  tree/merged_view.py shows it where
  the overlay holds enough of it to stand by itself, and leaves the rows of all else alone: they serve again when that
  base is back.

Inode numbers are the base's, and another base uses them for other objects: ``number`` tells the two apart.
"""

from __future__ import annotations

import logging
import os
import stat
from hashlib import blake2b

from ..model import ROOT, Ino
from ..store.base_view import BaseView, directory_stat, join, split
from ..store.database import Database
from .inode_rows import Row
from .nodes import Numbers
from .row_checks import is_id, is_place

log = logging.getLogger(__name__)

_KNOWN_MAX = 10_000  # numbers of origins that are kept in memory; of more each one is asked for
_RELINKED = 1 << 40  # added to seen_links once a base had another count than the one before
_SAMPLES = 16  # blocks of a file that its digest is taken of
_BLOCK = 4096  # bytes
_GHOST_MODE = 0o700  # of a directory of which no more is known: it shows nobody more than before
_AT_A_TIME = 64


def sample(fd: int, size: int) -> bytes:
    """A digest of blocks that lie evenly in a file, the first and the last among them.

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
    """What became of the base objects that the overlay has rows of.

    Args:
        db: the overlay's database; only read.
        base: the base view.
        numbers: how base objects are numbered.

    Attributes:
        gone: base objects, among those that were looked at, that this base lacks or has as another kind of object.
        superseded: places in the base (base terms) where this base's own object shows, instead of one of those, whose
            number this is.
        followed: inodes whose rows in memory follow the base, but not yet in the database.
    """

    def __init__(self, db: Database, base: BaseView, numbers: Numbers) -> None:
        self._db = db
        self._base = base
        self._numbers = numbers
        self.gone: set[int] = set()
        self.superseded: dict[bytes, Ino] = {}
        self.followed: set[int] = set()
        self._versions: dict[int, bool] = {}
        self._known: set[int] | None = None

    def learn(self) -> None:
        """Note which numbers base objects went by at earlier mounts; called once their numbers are settled."""
        if self._db.value("SELECT count(*) FROM (SELECT 1 FROM origin LIMIT ?)", (_KNOWN_MAX + 1,)) <= _KNOWN_MAX:
            self._known = {ino for (ino,) in self._db.rows("SELECT ino FROM origin")}

    # -- numbers

    def number(self, st: os.stat_result, directory: bytes, name: bytes) -> Ino:
        """The inode number of a base object: its own, unless that stands for another object.

        Args:
            st: its attributes.
            directory, name: where it was found (base terms).
        """
        ino = self._numbers.of(st)
        if self._known is not None and ino not in self._known:
            return ino
        return self._identified(ino, st, join(directory, name) if name else directory)

    def _identified(self, ino: Ino, st: os.stat_result, path: bytes) -> Ino:
        sql = "SELECT path, coalesce(mode, ?) & 61440 FROM origin LEFT JOIN inode USING (ino) WHERE ino = ?"
        found = self._db.row(sql, (stat.S_IFDIR, ino))
        if found is None:
            return ino
        origin, mode = found
        if stat.S_IFMT(st.st_mode) == mode:
            if origin == path:
                return ino
            if st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode):
                other = self._base.find(origin) if is_place(origin) else None
                if other is not None and (other.st_dev, other.st_ino) == (st.st_dev, st.st_ino):
                    return ino  # another link of that very file
        return self._numbers.displace(st, self._is_free)

    def _is_free(self, ino: int) -> bool:
        return self._db.value("SELECT 1 FROM origin WHERE ino = ?", (ino,)) is None

    # -- rows

    def meet(self, row: Row, path: bytes, st: os.stat_result | None, *, modified: bool) -> Row:
        """A row as it counts over this base.

        Args:
            row: as the database has it.
            path: the base object it stands for (base terms).
            st: what the base says of that object, where it has just been asked; None where it has not.
            modified: True for what is on the list of modified ones.
        """
        if st is None:
            st = self._base.find(path)
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
        followed = self._follow(row, path, st, modified)
        if followed != row:
            self.followed.add(row.ino)
        return followed

    def _follow(self, row: Row, path: bytes, st: os.stat_result, modified: bool) -> Row:
        is_dir = stat.S_ISDIR(row.mode)
        if row.seen_links is None:
            row = row._replace(seen_links=st.st_nlink)
        elif row.seen_links % _RELINKED != st.st_nlink:
            row = row._replace(seen_links=_RELINKED + st.st_nlink, nlink=self._links(row, path, st, is_dir))
        if not is_dir and not row.is_own and (row.seen_size, row.seen_mtime) != (st.st_size, st.st_mtime_ns):
            bound = st.st_size if stat.S_ISREG(row.mode) else None
            # an mtime that somebody set stays
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
        """The link count of an object whose count in the base is another one now."""
        seen = (row.seen_links or 0) % _RELINKED
        if row.nlink == 0 or (is_dir and min(row.nlink, seen, st.st_nlink) < 2):
            return row.nlink
        if is_dir:
            return max(2, row.nlink + st.st_nlink - seen)
        known = self.known_links(row.ino, path)
        # which of the names in the base were hidden or renamed is known of one only
        return max(1, known if st.st_nlink == 1 else max(known, row.nlink + st.st_nlink - seen))

    @staticmethod
    def may_be_miscounted(row: Row) -> bool:
        """True for an object that ever had several links in a base: which ones came and went, no base tells."""
        return row.seen_links is not None and row.seen_links > 1

    def known_links(self, ino: int, path: bytes) -> int:
        """How many names surely lead to an object: those in the overlay, and its place in the base if that shows."""
        names = "SELECT (SELECT count(*) FROM created WHERE ino = ?1) + (SELECT count(*) FROM renamed WHERE ino = ?1)"
        return int(self._db.value(names, (ino,))) + self._is_shown(path)

    def _is_shown(self, path: bytes) -> bool:
        """True where a place in the base is neither hidden nor in a directory that was removed."""
        hidden = "SELECT 1 FROM deleted JOIN origin ON origin.ino = parent WHERE path = ? AND name = ?"
        renamed = "SELECT 1 FROM renamed JOIN origin USING (ino) WHERE path = ?"
        at = path
        while at != b"/":
            if self._db.value(hidden, split(at)) is not None:
                return at != path and self._db.value(renamed, (at,)) is not None
            at = split(at)[0]
        return True

    def same_version(self, row: Row, path: bytes) -> bool:
        """True where the bytes that a file has from the base are those of the version that it was written over.

        A version is told by size and mtime, and by samples of its bytes where they were taken.

        Args:
            row: of a file with bytes of its own.
            path: its base file (base terms).
        """
        same = self._versions.get(row.ino)
        if same is None:
            same = self._versions[row.ino] = self.is_version(row, path)
            if not same:
                log.warning(
                    "%s was replaced in the base after a part of it was written here; its other bytes are lost until"
                    " that version is back or minifo rebase has settled it",
                    os.fsdecode(path),
                )
        return same

    def is_version(self, row: Row, path: bytes) -> bool:
        """The same as ``same_version``, of the base as it is now and without a word in the log."""
        st = self._base.find(path)
        if st is None or (st.st_size, st.st_mtime_ns) != (row.seen_size, row.seen_mtime):
            return False
        digest = self._db.value("SELECT digest FROM modified WHERE ino = ?", (row.ino,))
        return digest is None or digest == sample(self._base.file(path, st), st.st_size)

    # -- what is gone

    def ghost(self, ino: int) -> os.stat_result | None:
        """The attributes of a directory that is gone from the base and has no row; None for any other number."""
        found = self._db.row("SELECT dir_mode, dir_uid, dir_gid FROM origin WHERE ino = ?", (ino,))
        if found is None:
            return None
        mode, uid, gid = found if all(is_id(value) for value in found) else (_GHOST_MODE, 0, 0)
        return directory_stat(ino, stat.S_IMODE(mode), uid, gid, _BLOCK)

    def origins_in(self, path: bytes) -> dict[bytes, Ino]:
        """The names in a base directory whose objects have overlay state, and their numbers.

        Args:
            path: the directory (base terms).
        """
        prefix = join(path, b"")
        found: dict[bytes, Ino] = {}
        start, end = prefix, prefix[:-1] + b"0"  # "0" comes after "/"
        sql = "SELECT path, ino FROM origin WHERE path >= ? AND path < ? ORDER BY path LIMIT ?"
        while rows := self._db.rows(sql, (start, end, _AT_A_TIME)):
            for place, ino in rows:
                name, below, _ = place[len(prefix) :].partition(b"/")
                if below:
                    start = prefix + name + b"0"  # past all that is in that directory
                    break
                start = place + b"\0"
                if name and ino != ROOT:
                    found[name] = Ino(ino)
        return found

    def stands(self, row: Row | None) -> bool:
        """True where what the overlay holds of an object that is gone is enough to show it, what is in it aside."""
        if row is None:
            return False
        if stat.S_ISDIR(row.mode):
            return self._db.value("SELECT 1 FROM modified WHERE ino = ? AND content = 1", (row.ino,)) is not None
        return row.is_own
