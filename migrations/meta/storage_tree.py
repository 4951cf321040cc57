"""A mini_fo storage tree that is only read: its objects, and the records of its META files.

mini_fo showed a storage object at the path that it has in storage.  So a *place* is both a path in the merged view and
a path in the storage tree (absolute, ``/`` for the root).  All reading goes through ``BaseView``, so not even an access
time of the source changes.

For every decision that the reader makes, and for everything that it leaves out, it adds a ``Note``.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from ...engine.errors import StateError
from ...engine.store.base_view import BaseView, join
from ...engine.tree.path_resolver import is_base_path
from ...engine.tree.row_checks import is_name
from ..copying import stat_or_none
from . import codec
from .codec import META_NAME, Record, Redirect, Whiteout

META_MAX = 8 << 20  # bytes of one META file, which is read at once: 30,000 of the longest names, a million short ones


class Note(NamedTuple):
    """A message for the user about one place in the storage: a decision of the import, or something it left out.

    Attributes:
        kind: a stable word: skipped, reading, superseded, impossible, hides-nothing, d-over-r, broken, unlisted, twice,
            clash, meta-name.
        place: the object or directory that the note concerns.
        detail: what was found and what was done, in a sentence.
        file: the META file, if the note concerns a line of one; else None.
        line: the number of that line, from 1.
        raw: the bytes of that line without the line feed.
    """

    kind: str
    place: bytes
    detail: str
    file: bytes | None = None
    line: int | None = None
    raw: bytes | None = None


class DirectoryMeta(NamedTuple):
    """The content of one directory's META file, after a decision how to read each line.

    Attributes:
        hidden: the names of D lines.
        moved: for each R line the old path (base terms) by the new name.
        records: all records in file order.
    """

    hidden: frozenset[bytes]
    moved: dict[bytes, bytes]
    records: list[Record]


_NOTHING = DirectoryMeta(frozenset(), {}, [])


def is_directory(st: os.stat_result | None) -> bool:
    """Return whether *st* are the attributes of a directory; False for None."""
    return st is not None and stat.S_ISDIR(st.st_mode)


class LegacyTree:
    """One mini_fo storage tree over its base.

    Args:
        base: the base that mini_fo was mounted with.
        storage: the storage directory of that mount.
        meta_name: the name of META files.
        ignore: names in the root of storage that do not belong to mini_fo.

    Attributes:
        notes: messages for the user; more are added while the tree is read.
    """

    def __init__(
        self,
        base: BaseView,
        storage: BaseView,
        *,
        meta_name: bytes = META_NAME,
        ignore: frozenset[bytes] = frozenset(),
    ) -> None:
        self.base = base
        self.storage = storage
        self.meta_name = meta_name
        self.notes: list[Note] = []
        self._ignore = ignore
        self._metas: dict[bytes, DirectoryMeta] = {}

    def names(self, place: bytes) -> list[bytes]:
        """Return the names in a storage directory, sorted, without the META file."""
        hidden = {self.meta_name} | (self._ignore if place == b"/" else frozenset())
        return sorted(name for name in self.storage.names(place) if name not in hidden)

    def stat(self, place: bytes) -> os.stat_result | None:
        """Return the attributes of the storage object at a place, or None if storage has no such object."""
        return stat_or_none(self.storage, place)

    def base_stat(self, path: bytes) -> os.stat_result | None:
        """Return the attributes of the base object at a path (base terms), or None if the base has no such object."""
        return stat_or_none(self.base, path) if is_base_path(path) else None

    # -- META

    def meta(self, place: bytes) -> DirectoryMeta:
        """Return the content of a directory's META file; empty if there is no such directory or file."""
        found = self._metas.get(place)
        if found is None:
            found = self._metas[place] = self._read(place)
        return found

    def _read(self, place: bytes) -> DirectoryMeta:
        """Read the META file of a directory, decide how to read each line, and add notes."""
        path = join(place, self.meta_name)
        st = self.stat(path)
        if st is None:
            return _NOTHING
        if not stat.S_ISREG(st.st_mode):
            self.notes.append(Note("skipped", place, "an object that is not a file has the name of a META file", path))
            return _NOTHING
        fd = self.storage.file(path)
        size = os.fstat(fd).st_size
        if size > META_MAX:
            raise StateError(
                f"META file {os.fsdecode(path)} has {size} bytes: mini_fo cannot have written that",
                "inspect it, then shorten it or move it away",
            )
        meta = codec.parse(os.pread(fd, size, 0))
        for skipped in meta.skipped:
            if skipped.raw:  # no note for a blank line
                self.notes.append(Note("skipped", place, skipped.reason, path, skipped.line, skipped.raw))
        records: list[Record] = []
        seen: dict[bytes, int] = {}
        for record, line in zip(meta.records, meta.lines, strict=True):
            about = (path, line, codec.emit([record])[:-1])
            if isinstance(record, Whiteout):
                records.append(record)
                if not is_name(record.name):
                    self.notes.append(Note("impossible", place, "no object can have this name", *about))
                continue
            chosen = self._reading(place, record)
            if chosen != record:
                detail = f"read as {os.fsdecode(chosen.old)!r} renamed to {os.fsdecode(chosen.new)!r}"
                self.notes.append(Note("reading", join(place, chosen.new), detail, *about))
            if not is_name(chosen.new) or not is_base_path(chosen.old):
                self.notes.append(Note("impossible", place, "no directory can have been renamed like this", *about))
            if chosen.new in seen:
                detail = f"line {line} for the same name counts instead"
                self.notes.append(Note("superseded", join(place, chosen.new), detail, path, seen[chosen.new]))
            seen[chosen.new] = line
            records.append(chosen)
        hidden = frozenset(r.name for r in records if isinstance(r, Whiteout) and is_name(r.name))
        moved = {r.new: r.old for r in records if isinstance(r, Redirect) and is_name(r.new)}
        return DirectoryMeta(hidden, moved, records)

    def _reading(self, place: bytes, record: Redirect) -> Redirect:
        """Return the reading of an R line that fits base and storage best; the kernel module's if none fits.

        A reading fits if the base has its old path as a directory, and fits better if storage has its new name as one.
        """
        possible = [r for r in record.readings() if is_directory(self.base_stat(r.old)) and is_name(r.new)]
        best = [r for r in possible if is_directory(self.stat(join(place, r.new)))]
        return (best or possible or [record])[0]
