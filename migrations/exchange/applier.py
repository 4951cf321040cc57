"""Applies the entries of layers to an overlay, by the operations of the engine.

Names are rows: nothing is written through a symbolic link, and nothing outside of the storage.  A whiteout, and an
opaque directory, hide what the layers below have, not what their own layer has.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from ...engine import Overlay, Process, SetAttr
from ...engine.bulk_import import BulkImport
from ...engine.errors import StateError
from ...engine.model import ROOT, Attr, Ino
from ...engine.queries.four_lists import FourLists
from ...engine.store.base_view import join, split
from ..copying import xattrs_in
from .entries import Entry, What, impossible, known_xattrs

_COMMIT_ENTRIES = 2000
_COMMIT_BYTES = 64 << 20
_SET_ID = stat.S_ISUID | stat.S_ISGID
_ASIDE = b".minifo-aside-%d"


class Limits(NamedTuple):
    """What layers may bring.

    Attributes:
        entries: objects and whiteouts, with directories that are made on the way.
        size: bytes in all files, without holes.
        privileged: True to keep devices and set-id bits.
    """

    entries: int
    size: int
    privileged: bool


class Applier:
    """Applies layers to one overlay.

    Args:
        overlay: a new one, open for writing.
        bulk: its steps.
        limits: what the layers may bring.

    Attributes:
        counts: how many there were of each sort.
    """

    def __init__(self, overlay: Overlay, bulk: BulkImport, limits: Limits) -> None:
        self._ov = overlay
        self._lists = FourLists(overlay)
        self._bulk = bulk
        self._limits = limits
        self._directories: dict[bytes, Ino] = {b"/": ROOT}
        self._touched: set[bytes] = set()  # places that this layer has made, and the directories above them
        self._times: dict[Ino, tuple[int, int]] = {}  # of directories; set at the end, for entries change them
        self._aside: dict[bytes, bytes] = {}  # base directories that wait for their new place, by name
        self._source = ""
        self._since = self._bytes = self._size = self._entries = 0
        self.counts: Counter[str] = Counter()

    def begin(self, source: str, redirects: list[tuple[bytes, bytes]]) -> None:
        """Begin a layer.

        Args:
            source: its name, for messages.
            redirects: places, and the base directory that shows in each.
        """
        self._source = source
        self._touched = {b"/"}
        # the deepest first: those above them are still where the base has them
        for number, (_, path) in enumerate(sorted(redirects, key=lambda found: found[1], reverse=True)):
            above, name = split(path)
            with self._step():
                aside = _ASIDE % number
                self._ov.rename(self._directory(above), name, ROOT, aside)
                self._aside[path] = aside
            self._directories = {b"/": ROOT}

    def apply(self, entry: Entry) -> None:
        """Apply one entry.

        Raises:
            StateError: it cannot be, or there is more than the limits allow.
            OSError: ENOSPC.
        """
        self._count_one(entry.place)
        if entry.what is What.WHITEOUT:
            self.counts["whiteouts"] += 1
            self._whiteout(entry.place)
        elif entry.what is What.OPAQUE:
            self._opaque(entry.place)
        elif entry.what is What.LINK:
            self.counts["objects"] += 1
            self._link(entry)
        elif stat.S_ISDIR(entry.mode):
            self.counts["objects"] += 1
            self._make_directory(entry)
        else:
            self._make(entry)

    def finish(self) -> None:
        """Give directories their times, after the last layer, and commit.

        Raises:
            StateError: the commit failed.
        """
        for ino, (atime, mtime) in self._times.items():
            attr = self._ov.getattr(ino)
            if attr.mtime == mtime:
                continue
            with self._step():
                if self._lists.origin(ino) is None or self._ov.is_unchanged(ino):
                    self._ov.setattr(ino, SetAttr(atime=atime, mtime=mtime))
                else:  # what changed is in it
                    self._bulk.set_times(ino, mtime, attr.ctime)
        self._bulk.commit()

    @contextmanager
    def _step(self) -> Iterator[None]:
        if self._since >= _COMMIT_ENTRIES or self._bytes >= _COMMIT_BYTES:
            self._bulk.commit()
            self._since = self._bytes = 0
        self._since += 1
        with self._bulk.step():
            yield

    def _count_one(self, place: bytes) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise impossible(self._source, place, f"after {self._limits.entries:,} others: see --max-entries")

    # -- names

    def _directory(self, place: bytes) -> Ino:
        """Return the number of a directory; if it is not there, it is made."""
        missing = []
        while place not in self._directories:
            missing.append(place)
            place = split(place)[0]
        ino = self._directories[place]
        for below in reversed(missing):
            found = self._ov.lookup(ino, split(below)[1])
            if found is None:
                self._count_one(below)
                found = self._ov.mkdir(ino, split(below)[1], 0o755, Process())
            elif not stat.S_ISDIR(found.mode):
                what = "a symbolic link" if stat.S_ISLNK(found.mode) else "no directory"
                raise impossible(self._source, below, f"that is {what}, and others below it: an import follows no link")
            ino = self._directories[below] = Ino(found.ino)
        return ino

    def _find(self, place: bytes) -> Attr | None:
        return self._ov.find(place)

    def _touch(self, place: bytes) -> None:
        while place not in self._touched:
            self._touched.add(place)
            place = split(place)[0]

    def _remove(self, place: bytes, attr: Attr) -> None:
        """Remove what shows at a place, with all that is in it."""
        above, name = split(place)
        parent = self._directory(above)
        if not stat.S_ISDIR(attr.mode):
            self._ov.unlink(parent, name)
            self._ov.forget([Ino(attr.ino)])
            return
        waiting, found = [(parent, name, Ino(attr.ino))], []
        while waiting:  # from the top down
            found.append(waiting.pop())
            directory = found[-1][2]
            for entry in list(self._ov.readdir(directory)):
                if entry.name in (b".", b".."):
                    continue
                if stat.S_ISDIR(entry.attr.mode):
                    waiting.append((directory, entry.name, Ino(entry.attr.ino)))
                else:
                    self._ov.unlink(directory, entry.name)
                    self._ov.forget([Ino(entry.attr.ino)])
        for directory, last, ino in reversed(found):
            self._ov.rmdir(directory, last)
            self._ov.forget([ino])
            self._times.pop(ino, None)
        gone = place + b"/"
        self._directories = {path: ino for path, ino in self._directories.items() if not (path + b"/").startswith(gone)}

    def _whiteout(self, place: bytes) -> None:
        attr = self._find(place)
        if attr is None:
            return
        with self._step():
            if place not in self._touched:
                self._remove(place, attr)
            elif stat.S_ISDIR(attr.mode):
                self._hide_below(place, Ino(attr.ino))

    def _opaque(self, place: bytes) -> None:
        with self._step():
            ino = self._directory(place)
            self._touch(place)
            names = (entry.name for entry in self._ov.readdir(ino))
            if place == b"/" or any(join(place, name) in self._touched for name in names):
                self._hide_below(place, ino)
            else:
                self._empty(place, ino)

    def _empty(self, place: bytes, ino: Ino) -> None:
        """Put an empty directory with the same attributes in the place of a directory."""
        attr, xattrs = self._ov.getattr(ino), xattrs_in(self._ov, ino)
        atime, mtime = self._times.get(ino, (attr.atime, attr.mtime))
        self._remove(place, attr)
        above, name = split(place)
        made = self._ov.mkdir(self._directory(above), name, 0o700, Process())
        self._directories[place] = Ino(made.ino)
        same = Entry(What.OBJECT, place, attr.mode, attr.uid, attr.gid, 0, 0, atime, mtime, b"", xattrs)
        self._dress(Ino(made.ino), made, same)

    def _hide_below(self, place: bytes, ino: Ino) -> None:
        """Remove from a directory what the layers below have."""
        waiting = [(place, ino)]
        while waiting:
            directory, number = waiting.pop()
            for entry in list(self._ov.readdir(number)):
                path = join(directory, entry.name)
                if entry.name in (b".", b".."):
                    continue
                if path not in self._touched:
                    self._remove(path, entry.attr)
                elif stat.S_ISDIR(entry.attr.mode):
                    waiting.append((path, Ino(entry.attr.ino)))

    # -- objects

    def _make_directory(self, entry: Entry) -> None:
        place = entry.place
        with self._step():
            if place == b"/":
                self._dress(ROOT, self._ov.getattr(ROOT), entry)
                return
            above, name = split(place)
            parent = self._directory(above)
            attr = self._ov.lookup(parent, name)
            is_kept = place in self._touched or not (entry.opaque or entry.redirect is not None)
            if attr is not None and not (is_kept and stat.S_ISDIR(attr.mode)):
                self._remove(place, attr)
                attr = None
            if attr is None and entry.redirect is not None:
                self._ov.rename(ROOT, self._aside.pop(entry.redirect), parent, name)
                attr = self._ov.lookup(parent, name)
            if attr is None:
                attr = self._ov.mkdir(parent, name, 0o700, Process())
            self._directories[place] = Ino(attr.ino)
            self._touch(place)
            self._dress(Ino(attr.ino), attr, entry)

    def _make(self, entry: Entry) -> None:
        is_device = stat.S_ISCHR(entry.mode) or stat.S_ISBLK(entry.mode)
        if is_device and not self._limits.privileged:
            self.counts["devices left out"] += 1
            return
        self.counts["devices"] += is_device
        self.counts["objects"] += 1
        self._size += entry.stored
        if self._size > self._limits.size:
            raise StateError(
                f"{self._source} brings more than {self._limits.size:,} bytes, with {os.fsdecode(entry.place)!r}",
                "free space in storage, or see --max-size",
            )
        above, name = split(entry.place)
        with self._step():
            parent = self._directory(above)
            self._clear(parent, entry.place)
            if stat.S_ISLNK(entry.mode):
                attr = self._ov.symlink(parent, name, entry.target, Process())
            else:
                attr = self._ov.mknod(parent, name, stat.S_IFMT(entry.mode) | 0o600, entry.rdev, Process())
            ino = Ino(attr.ino)
            if stat.S_ISREG(entry.mode):
                self._bytes += fill(self._ov, ino, entry)
            self._touch(entry.place)
            self._dress(ino, attr, entry)

    def _link(self, entry: Entry) -> None:
        attr = self._find(entry.target)
        if attr is None or stat.S_ISDIR(attr.mode):
            raise impossible(self._source, entry.place, f"that is a link to {os.fsdecode(entry.target)!r}, no file")
        above, name = split(entry.place)
        with self._step():
            parent = self._directory(above)
            there = self._ov.lookup(parent, name)
            if there is None or there.ino != attr.ino:
                self._clear(parent, entry.place)
                self._ov.link(Ino(attr.ino), parent, name)
            self._touch(entry.place)

    def _clear(self, parent: Ino, place: bytes) -> None:
        attr = self._ov.lookup(parent, split(place)[1])
        if attr is not None:
            self._remove(place, attr)

    def _dress(self, ino: Ino, attr: Attr, entry: Entry) -> None:
        """Give an object the attributes of an entry."""
        mode = stat.S_IMODE(entry.mode)
        if mode & _SET_ID and not stat.S_ISDIR(entry.mode):
            self.counts["set-id files" if self._limits.privileged else "set-id bits left out"] += 1
            if not self._limits.privileged:
                mode &= ~_SET_ID
        xattrs = known_xattrs(entry.xattrs)
        self.counts["extended attributes left out"] += len(entry.xattrs) - len(xattrs)
        set_xattrs(self._ov, ino, xattrs)
        if stat.S_ISDIR(entry.mode):
            self._times[ino] = (entry.atime, entry.mtime)
            if (stat.S_IMODE(attr.mode), attr.uid, attr.gid) == (mode, entry.uid, entry.gid):
                return
        if (attr.uid, attr.gid) != (entry.uid, entry.gid):
            self._ov.setattr(ino, SetAttr(uid=entry.uid, gid=entry.gid))  # which clears set-id bits (chown(2))
        change = SetAttr(atime=entry.atime, mtime=entry.mtime)
        if not stat.S_ISLNK(entry.mode):
            change.mode = mode
        self._ov.setattr(ino, change)


def fill(overlay: Overlay, ino: Ino, entry: Entry) -> int:
    """Give an empty file the bytes of an entry, with holes where they are zeros; return how many were written.

    Raises:
        StateError: the layer is damaged.
        OSError: ENOSPC.
    """
    if not entry.size:
        return 0
    assert entry.pieces is not None
    end = written = 0
    for at, data in entry.pieces():
        overlay.write(ino, at, data, times=False)
        end = at + len(data)
        written += len(data)
    if end != entry.size:
        overlay.setattr(ino, SetAttr(size=entry.size))
    return written


def set_xattrs(overlay: Overlay, ino: Ino, xattrs: Mapping[bytes, bytes]) -> None:
    """Give an object exactly these extended attributes."""
    had = xattrs_in(overlay, ino)
    for name in had.keys() - xattrs.keys():
        overlay.removexattr(ino, name)
    for name, value in xattrs.items():
        if had.get(name) != value:
            overlay.setxattr(ino, name, value)
