"""Reads upper directories of overlayfs and fuse-overlayfs, and branches of unionfs-fuse.

The directory is only read, as a base is (engine/store/base_view.py): no link in it is followed, and not even its access
times change.  It must not be mounted meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

from ...engine.errors import FsError, StateError
from ...engine.store.base_view import BaseView, join, split
from ...engine.store.syscalls import data_ranges
from ...engine.tree.path_resolver import is_base_path
from ...engine.tree.row_checks import is_name
from ..copying import pieces, stat_or_none
from .entries import Entry, What, checked, impossible
from .formats import FUSE_OVERLAYFS, HIDDEN, OPAQUE, TRUSTED, UNIONFS, USER, WHITEOUT, Format, whiteout_of_overlayfs

_OVERRIDES = (FUSE_OVERLAYFS + b"override_stat", b"user.containers.override_stat")  # owners that are not the file's


class DirectoryReader:
    """Reads one directory.

    Args:
        view: the directory.
        base: the base below it, from which the bytes of files come that have only attributes here (metacopy).
        source: its name, for messages.
        layer_format: one of the formats that are directories.
    """

    def __init__(self, view: BaseView, base: BaseView, source: str, layer_format: Format) -> None:
        self._view = view
        self._base = base
        self._source = source
        self._format = layer_format
        self._links: dict[tuple[int, int], bytes] = {}

    def entries(self) -> Iterator[Entry]:
        """Yield all entries: whiteouts of unionfs-fuse first, then each directory before what is in it.

        Raises:
            StateError: it says what cannot be, or what minifo does not read.
            OSError: it cannot be read.
        """
        self._links.clear()
        if self._format is Format.UNIONFS:
            yield from self._hidden()
        # places, each with the base directory that shows there
        waiting: list[tuple[bytes, bytes | None]] = [(b"/", b"/")]
        while waiting:
            place, lower = waiting.pop()
            entry = self._directory(place, lower)
            yield checked(self._source, entry)
            shows = entry.redirect or (None if entry.opaque else lower)
            below = []
            for name in sorted(self._view.names(place)):
                path = join(place, name)
                st = self._view.stat(path)
                if self._format is Format.UNIONFS and path == b"/" + UNIONFS:
                    continue
                if stat.S_ISDIR(st.st_mode):
                    below.append((path, join(shows, name) if shows is not None else None))
                    continue
                found = self._file(path, st, shows)
                if found is not None:
                    yield checked(self._source, found)
            waiting += reversed(below)

    # -- directories

    def _directory(self, place: bytes, lower: bytes | None) -> Entry:
        xattrs, marks = self._xattrs(place)
        opaque = marks.get(b"opaque") == b"y"
        if self._format is Format.FUSE_OVERLAYFS:
            opaque = opaque or stat_or_none(self._view, join(place, OPAQUE)) is not None
        redirect = None
        if b"redirect" in marks and not opaque:
            redirect = self._redirect(place, marks[b"redirect"], lower)
            under = stat_or_none(self._base, redirect)
            if under is None or not stat.S_ISDIR(under.st_mode):
                redirect, opaque = None, True  # overlayfs shows what is in the upper directory alone
        entry = self._object(place, self._view.stat(place), xattrs)
        return entry._replace(opaque=opaque and place != b"/", redirect=redirect)

    def _redirect(self, place: bytes, value: bytes, lower: bytes | None) -> bytes:
        """Return the path in the base that a redirect means: from the root, or a name beside the lower directory."""
        if value.startswith(b"/"):
            path = value
        elif lower is not None and is_name(value):
            path = join(split(lower)[0], value)
        else:
            raise impossible(self._source, place, "with an impossible redirect")
        if not is_base_path(path) or path == b"/":
            raise impossible(self._source, place, "with an impossible redirect")
        return path

    def redirects(self) -> list[tuple[bytes, bytes]]:
        """Return place and base directory of each directory that shows another one of the base.

        Raises:
            StateError: one base directory would show at two places.
        """
        found = [(entry.place, entry.redirect) for entry in self.entries() if entry.redirect is not None]
        seen = set()
        for place, path in found:
            if path in seen:
                raise impossible(self._source, place, "that shows a directory of the base for the second time")
            seen.add(path)
        return found

    # -- what is in them

    def _file(self, place: bytes, st: os.stat_result, lower: bytes | None) -> Entry | None:
        above, name = split(place)
        if self._format is not Format.UNIONFS and whiteout_of_overlayfs(st.st_mode, st.st_rdev):
            return Entry(What.WHITEOUT, place)
        if self._format is Format.FUSE_OVERLAYFS and name.startswith(WHITEOUT):
            if name == OPAQUE:
                return None
            if not is_name(name.removeprefix(WHITEOUT)):
                raise impossible(self._source, place, "with an impossible name")
            return Entry(What.WHITEOUT, join(above, name.removeprefix(WHITEOUT)))
        xattrs, marks = self._xattrs(place)
        if b"whiteout" in marks and stat.S_ISREG(st.st_mode) and not st.st_size:
            return Entry(What.WHITEOUT, place)
        if st.st_nlink > 1:
            first = self._links.setdefault((st.st_dev, st.st_ino), place)
            if first != place:
                return Entry(What.LINK, place, target=first)
        entry = self._object(place, st, xattrs)
        if not stat.S_ISREG(st.st_mode):
            return entry
        if b"metacopy" in marks:
            return self._metacopy(entry, marks.get(b"redirect"), lower)
        return self._with_bytes(entry, lambda: self._view.file(place, st))

    def _metacopy(self, entry: Entry, redirect: bytes | None, lower: bytes | None) -> Entry:
        """Return a file whose bytes are those of a base file."""
        path = join(lower, split(entry.place)[1]) if lower is not None else None
        if redirect is not None:
            path = self._redirect(entry.place, redirect, path)
        under = stat_or_none(self._base, path) if path is not None else None
        if path is None or under is None or not stat.S_ISREG(under.st_mode) or under.st_size != entry.size:
            raise impossible(self._source, entry.place, "that has no bytes (metacopy), and the base has not its bytes")
        found = path
        return self._with_bytes(entry, lambda: self._base.file(found, under))

    @staticmethod
    def _with_bytes(entry: Entry, opened: Callable[[], int]) -> Entry:
        ranges = list(data_ranges(opened(), 0, entry.size))

        def read() -> Iterator[tuple[int, bytes]]:
            return pieces(ranges, lambda at, count: os.pread(opened(), count, at))

        return entry._replace(pieces=read, stored=sum(end - start for start, end in ranges))

    def _object(self, place: bytes, st: os.stat_result, xattrs: dict[bytes, bytes]) -> Entry:
        is_device = stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode)
        return Entry(
            What.OBJECT,
            place,
            mode=st.st_mode,
            uid=st.st_uid,
            gid=st.st_gid,
            rdev=st.st_rdev if is_device else 0,
            size=st.st_size if stat.S_ISREG(st.st_mode) else 0,
            atime=st.st_atime_ns,
            mtime=st.st_mtime_ns,
            target=self._view.readlink(place) if stat.S_ISLNK(st.st_mode) else b"",
            xattrs=xattrs,
        )

    def _xattrs(self, place: bytes) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """Return the extended attributes that a user has set, and the marks of the other system by their last names."""
        xattrs: dict[bytes, bytes] = {}
        marks: dict[bytes, bytes] = {}
        for name in self._view.listxattr(place):
            value = self._view.getxattr(place, name)
            if self._format is not Format.UNIONFS and name.startswith((TRUSTED, USER)):
                marks[name.split(b".", 2)[2]] = value
            elif self._format is Format.FUSE_OVERLAYFS and name in _OVERRIDES:
                raise StateError(
                    f"{self._source} has owners in extended attributes (xattr_permissions)",
                    "minifo does not read them; mount it with fuse-overlayfs, and import a tar of the mount",
                )
            elif self._format is Format.FUSE_OVERLAYFS and name.startswith(FUSE_OVERLAYFS):
                marks[name.removeprefix(FUSE_OVERLAYFS)] = value
            else:
                xattrs[name] = value
        return xattrs, marks

    # -- unionfs-fuse

    def _hidden(self) -> Iterator[Entry]:
        """Yield the whiteouts of unionfs-fuse, those of a directory before those in it."""
        top = b"/" + UNIONFS
        if stat_or_none(self._view, top) is None:
            return
        waiting = [top]
        while waiting:
            directory = waiting.pop()
            for name in sorted(self._view.names(directory)):
                path = join(directory, name)
                hidden = name.removesuffix(HIDDEN)
                if hidden != name and is_name(hidden):
                    yield Entry(What.WHITEOUT, join(directory[len(top) :] or b"/", hidden))
                elif stat.S_ISDIR(self._view.stat(path).st_mode):
                    waiting.append(path)


def format_of(view: BaseView) -> Format:
    """Return which system a directory is from, by what is in it; overlayfs if nothing tells.

    Raises:
        OSError: it cannot be read.
    """
    if stat_or_none(view, b"/" + UNIONFS) is not None:
        return Format.UNIONFS
    waiting = [b"/"]
    while waiting:
        directory = waiting.pop()
        for name, is_dir in view.listing(directory).items():
            if name.startswith(WHITEOUT):
                return Format.FUSE_OVERLAYFS
            if is_dir:
                try:
                    names = view.listxattr(join(directory, name))
                except FsError:
                    names = []
                if any(found.startswith(FUSE_OVERLAYFS) for found in names):
                    return Format.FUSE_OVERLAYFS
                waiting.append(join(directory, name))
    return Format.OVERLAYFS
