"""Writes layers as directories: the upper directory of overlayfs, and those of fuse-overlayfs and unionfs-fuse."""

from __future__ import annotations

import os
import stat

from ...engine import Overlay
from ...engine.model import Attr, Ino
from ...engine.store.base_view import split
from ..copying import copy_out, set_attributes, xattrs_in
from ..effects import Effects
from .changed_tree import Item
from .formats import HIDDEN, OPAQUE, TRUSTED, UNIONFS, USER, WHITEOUT, Format, is_own_xattr

_HIDDEN_MODE = 0o755  # of the directories in which unionfs-fuse has its whiteouts


class DirectoryWriter:
    """Writes one layer below a directory that does not exist yet.

    Args:
        effects: does the system calls.
        overlay: from which content and extended attributes are read.
        top: the directory; it is made.
        layer_format: one of the formats that are directories.
        userxattr: True to mark opaque directories for overlayfs with the option userxattr.
    """

    def __init__(
        self, effects: Effects, overlay: Overlay, top: bytes, layer_format: Format, *, userxattr: bool = False
    ) -> None:
        self._effects = effects
        self._ov = overlay
        self._top = top
        self._format = layer_format
        self._opaque = (USER if userxattr else TRUSTED) + b"opaque"
        self._directories: list[tuple[bytes, Attr, bool]] = []
        self._made: set[bytes] = set()  # directories of whiteouts

    def write(self, item: Item) -> None:
        """Write one item.

        Raises:
            OSError: it cannot be read or written.
        """
        path = self._path(item.place)
        attr = item.attr
        if attr is None:
            self._whiteout(item.place)
        elif item.same is not None:
            self._effects.link(self._path(item.same), path)
        elif stat.S_ISDIR(attr.mode):
            self._effects.mkdir(path)
            self._directories.append((path, attr, item.opaque))
            if item.opaque and self._format is Format.FUSE_OVERLAYFS:
                self._empty_file(path + b"/" + OPAQUE)
            elif item.opaque and self._format is Format.UNIONFS:
                self._whiteout(item.place)
        else:
            copy_out(self._effects, self._ov, attr, path)
            self._dress(path, attr, {})

    def finish(self) -> None:
        """Give all directories their attributes, which come last, because entries change their times."""
        for path, attr, opaque in reversed(self._directories):
            self._dress(path, attr, {self._opaque: b"y"} if opaque and self._format is Format.OVERLAYFS else {})

    def _path(self, place: bytes) -> bytes:
        return self._top + place if place != b"/" else self._top

    def _whiteout(self, place: bytes) -> None:
        directory, name = split(place)
        if self._format is Format.OVERLAYFS:
            self._effects.mknod(self._path(place), stat.S_IFCHR, 0)
        elif self._format is Format.FUSE_OVERLAYFS:
            self._empty_file(self._path(directory).rstrip(b"/") + b"/" + WHITEOUT + name)
        else:
            marks = b"/" + UNIONFS + (directory if directory != b"/" else b"")
            self._make_hidden(marks)
            self._empty_file(self._top + marks + b"/" + name + HIDDEN)

    def _make_hidden(self, marks: bytes) -> None:
        """Make a directory of whiteouts of unionfs-fuse, and those above it."""
        missing = []
        while marks != b"/" and marks not in self._made:
            missing.append(marks)
            marks = split(marks)[0]
        for directory in reversed(missing):
            self._effects.mkdir(self._top + directory)
            self._effects.chmod(self._top + directory, _HIDDEN_MODE)
            self._made.add(directory)

    def _empty_file(self, path: bytes) -> None:
        os.close(self._effects.create(path))

    def _dress(self, path: bytes, attr: Attr, more: dict[bytes, bytes]) -> None:
        xattrs = {
            name: value
            for name, value in xattrs_in(self._ov, Ino(attr.ino)).items()
            if not is_own_xattr(self._format, name)
        }
        set_attributes(self._effects, path, (attr.mode, attr.uid, attr.gid, attr.atime, attr.mtime), xattrs | more)
