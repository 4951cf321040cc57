"""A mini_fo storage tree, read without changing it: its objects, and what its META files say.

mini_fo showed a storage object at the very path it has in storage, so a *place* is both a path in the merged view and a
path in the storage tree (absolute, ``/`` for the root).  Reading goes through the same confined, noatime view as the
engine's base, so not even an access time of the source changes.

Whatever the reader had to decide or to leave out is a ``Note``, and nothing is decided without one.
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

META_MAX = 8 << 20  # bytes of one file, which is read at once: 30,000 of the longest names, or a million short ones


class Note(NamedTuple):
    """Something a person may want to know about one place.

    Attributes:
        kind: a stable word: skipped, reading, superseded, impossible, hides-nothing, d-over-r, broken, unlisted, twice,
            clash, meta-name.
        place: the object or directory it concerns.
        detail: what was found and what was done, in a sentence.
        file: the META file the line is in, if it is about a line.
        line: its number, from 1.
        raw: its bytes without the line feed.
    """

    kind: str
    place: bytes
    detail: str
    file: bytes | None = None
    line: int | None = None
    raw: bytes | None = None


class DirectoryMeta(NamedTuple):
    """What the META file of one directory says, with the reading of each line decided."""

    hidden: frozenset[bytes]
    moved: dict[bytes, bytes]  # new name: old path in base terms
    records: list[Record]


_NOTHING = DirectoryMeta(frozenset(), {}, [])


def is_directory(st: os.stat_result | None) -> bool:
    """True for the attributes of a directory."""
    return st is not None and stat.S_ISDIR(st.st_mode)


class LegacyTree:
    """One mini_fo storage tree over its base.

    Args:
        base: the base mini_fo was mounted with.
        storage: its storage directory.
        meta_name: the name META files have, where mini_fo was built with another one.
        ignore: names in the root of storage that are not mini_fo's.
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
        """The names in a storage directory, sorted, META aside."""
        hidden = {self.meta_name} | (self._ignore if place == b"/" else frozenset())
        return sorted(name for name in self.storage.names(place) if name not in hidden)

    def stat(self, place: bytes) -> os.stat_result | None:
        """The attributes of the storage object at a place, or None."""
        return stat_or_none(self.storage, place)

    def base_stat(self, path: bytes) -> os.stat_result | None:
        """The attributes of the base object at a path in base terms, or None."""
        return stat_or_none(self.base, path) if is_base_path(path) else None

    # -- META

    def meta(self, place: bytes) -> DirectoryMeta:
        """What is said about the names in a directory; nothing where storage has no such directory."""
        found = self._metas.get(place)
        if found is None:
            found = self._metas[place] = self._read(place)
        return found

    def _read(self, place: bytes) -> DirectoryMeta:
        path = join(place, self.meta_name)
        st = self.stat(path)
        if st is None:
            return _NOTHING
        if not stat.S_ISREG(st.st_mode):
            self.notes.append(Note("skipped", place, "what has the name of a META file is no file", path))
            return _NOTHING
        fd = self.storage.file(path)
        size = os.fstat(fd).st_size
        if size > META_MAX:
            raise StateError(
                f"META file {os.fsdecode(path)} has {size} bytes: no mini_fo wrote that",
                "look at it, and cut it or move it away",
            )
        meta = codec.parse(os.pread(fd, size, 0))
        for skipped in meta.skipped:
            if skipped.raw:  # a blank line says nothing
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
        """The reading of an R line that fits base and storage; the kernel's own where none does."""
        readings = [r for r in record.readings() if is_directory(self.base_stat(r.old)) and is_name(r.new)]
        beside = [r for r in readings if is_directory(self.stat(join(place, r.new)))]
        return (beside or readings or [record])[0]
