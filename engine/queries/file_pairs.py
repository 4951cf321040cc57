"""Files that an overlay changed, each in two versions: what the base has at a path, and what the merged tree shows.

Rows say where something was done; what it came to is found by looking at both trees at each of these paths.  So the
pairs are right in whatever way a tree became what it is: two names that were swapped are two changed files.  A file
that moved to a name that was free, and left a free one, is one pair with two paths.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..model import Attr, Ino
from ..overlay import Overlay
from .changes import Change, Kind
from .walk import shown_below

_STEP = 1 << 20  # bytes compared at a time


class Version(NamedTuple):
    """One side of a pair: an object that is not a directory.

    Attributes:
        path: in base terms, or in the merged tree.
        mode: st_mode.
        size: bytes; of a symlink those of its target.
        rdev: device number of a device node.
        ino: number in the overlay; 0 for the base's version.
    """

    path: bytes
    mode: int
    size: int
    rdev: int
    ino: int


class FilePair(NamedTuple):
    """A file in two versions, of which one may be missing.

    Attributes:
        before: the base's.
        after: the merged tree's.
    """

    before: Version | None
    after: Version | None

    @property
    def path(self) -> bytes:
        """Where it shows; of what is gone: where the base has it."""
        found = self.after or self.before
        assert found is not None
        return found.path

    @property
    def old(self) -> bytes | None:
        """Where the base has it; None of what is new."""
        return self.before.path if self.before is not None else None


class FilePairs:
    """The pairs of an overlay, and their bytes.

    Args:
        overlay: nothing of its rows may change meanwhile.
    """

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay

    def of(self, found: Iterable[Change]) -> Iterator[FilePair]:
        """Yield the pairs of changes: first those that only the base has, then the others, each sorted by path.

        A pair may turn out to be the same twice.

        Args:
            found: the changes, those in directories that are new or gone among them.

        Raises:
            OSError: base or storage cannot be read.
        """
        found = list(found)
        paths = {change.path for change in found}
        moves = {change.path: change.old for change in found if change.old is not None}
        ends = {change.path for change in found if change.kind in (Kind.ADDED, Kind.RENAMED)}
        for change in found:
            if change.kind is Kind.RENAMED and change.is_dir and change.old is not None:
                moves.update(self._below(change.path, change.old, ends))
        paths.update(moves)
        paths.update(moves.values())
        sources = self._renamed(moves)
        gone, others = [], []
        for path in sorted(path for path in paths - set(sources.values()) if path.startswith(b"/")):
            after = self._shown(path)
            before = self._in_base(sources.get(path, path))
            if after is not None:
                others.append(path)
            elif before is not None:
                gone.append(path)
        yield from (FilePair(self._in_base(path), None) for path in gone)
        for path in others:
            yield FilePair(self._in_base(sources.get(path, path)), self._shown(path))

    def _below(self, path: bytes, base: bytes, ends: set[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Yield the path and the base path of each name in a renamed directory, but of what came from elsewhere."""
        for below, attr in shown_below(self._ov, path, ends):
            if not stat.S_ISDIR(attr.mode):
                yield below, base + below[len(path) :]

    def _renamed(self, moves: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Return those moves that leave a free name and lead to one that was free, by their new path."""
        sources: dict[bytes, bytes] = {}
        taken: set[bytes] = set()
        for path, old in sorted(moves.items()):
            if path == old or old in taken or not path.startswith(b"/"):  # damage cuts paths off
                continue
            before, after = self._in_base(old), self._shown(path)
            if (
                before is not None
                and after is not None
                and stat.S_IFMT(before.mode) == stat.S_IFMT(after.mode)
                and self._ov.find(old) is None
                and self._ov.base.find(path) is None
            ):
                taken.add(old)
                sources[path] = old
        return sources

    def _in_base(self, path: bytes) -> Version | None:
        st = self._ov.base.find(path)
        if st is None or stat.S_ISDIR(st.st_mode):
            return None
        return Version(path, st.st_mode, st.st_size, st.st_rdev, 0)

    def _shown(self, path: bytes) -> Version | None:
        attr: Attr | None = self._ov.find(path)
        if attr is None or stat.S_ISDIR(attr.mode):
            return None
        return Version(path, attr.mode, attr.size, attr.rdev, attr.ino)

    # -- bytes

    def same(self, before: Version, after: Version) -> bool:
        """Return whether the two versions of a regular file or a symlink have the same bytes; memory is bounded.

        Raises:
            OSError: they cannot be read.
        """
        if stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode) or before.size != after.size:
            return False
        if stat.S_ISREG(after.mode):
            row, path = self._ov.inodes.row(Ino(after.ino)), self._ov.inodes.node(Ino(after.ino)).path
            if path == before.path and (row is None or not row.is_own):
                return True
        return all(self.read(before, at, _STEP) == self.read(after, at, _STEP) for at in range(0, before.size, _STEP))

    def read(self, version: Version, offset: int, size: int) -> bytes:
        """Return bytes of a regular file, or of a symlink's target.

        Args:
            version: one side of a pair.
            offset, size: in bytes; less are returned at the end.

        Raises:
            OSError: they cannot be read.
        """
        if stat.S_ISLNK(version.mode):
            ov = self._ov
            target = ov.readlink(Ino(version.ino)) if version.ino else ov.base.readlink(version.path)
            return target[offset : offset + size]
        if version.ino:
            return self._ov.read(Ino(version.ino), offset, size)
        return os.pread(self._ov.base.file(version.path), size, offset)
