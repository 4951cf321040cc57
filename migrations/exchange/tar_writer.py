"""Writes layers as tar archives: OCI layers with whiteouts, or plain archives.

Names, bytes, owners and modes are as tar(5) has them; extended attributes and times in ns are in extended headers of
pax(1).  The same items make the same bytes.
"""

from __future__ import annotations

import stat
import tarfile
from typing import BinaryIO

from ...engine import Overlay
from ...engine.model import Attr, Ino
from ...engine.store.base_view import join, split
from ..copying import xattrs_in
from .changed_tree import Item
from .formats import OPAQUE, WHITEOUT, XATTR, Format, is_own_xattr

_TYPES = {
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
}
_SECONDS_MAX = 0o77777777777  # of a time in the header itself; others are in the extended header alone


class TarWriter:
    """Writes one archive.

    Args:
        overlay: from which content and extended attributes are read.
        out: takes the bytes, in order.
        layer_format: OCI or TAR.
    """

    def __init__(self, overlay: Overlay, out: BinaryIO, layer_format: Format) -> None:
        self._ov = overlay
        self._format = layer_format
        # it asks where it is, which a pipe cannot tell
        self._tar = tarfile.TarFile(fileobj=_Counted(out), mode="w", format=tarfile.PAX_FORMAT, encoding="utf-8")  # type: ignore[arg-type]

    def write(self, item: Item) -> None:
        """Write one item.

        Raises:
            OSError: it cannot be read or written.
        """
        directory, name = split(item.place)
        if item.attr is None:
            if self._format is Format.OCI:
                self._mark(join(directory, WHITEOUT + name))
            return
        self._object(item, item.attr)
        if item.opaque and self._format is Format.OCI:
            self._mark(join(item.place, OPAQUE))

    def finish(self) -> None:
        """Write the end of the archive."""
        self._tar.close()

    def _mark(self, place: bytes) -> None:
        self._add(tarfile.TarInfo(_name(place)))

    def _object(self, item: Item, attr: Attr) -> None:
        info = tarfile.TarInfo(_name(item.place))
        headers: dict[str, str] = {}
        info.pax_headers = headers
        info.mode, info.uid, info.gid = stat.S_IMODE(attr.mode), attr.uid, attr.gid
        seconds, ns = divmod(attr.mtime, 10**9)
        info.mtime = min(max(seconds, 0), _SECONDS_MAX)
        if ns or info.mtime != seconds:
            headers["mtime"] = _decimal(attr.mtime)
        if item.same is not None:
            info.type, info.linkname = tarfile.LNKTYPE, _name(item.same)
            self._add(info)
            return
        ino = Ino(attr.ino)
        info.type = _TYPES[stat.S_IFMT(attr.mode)]
        for key, value in sorted(xattrs_in(self._ov, ino).items()):
            if not is_own_xattr(self._format, key):
                headers[_text(XATTR + key)] = _text(value)
        if stat.S_ISLNK(attr.mode):
            info.linkname = _text(self._ov.readlink(ino))
        elif stat.S_ISCHR(attr.mode) or stat.S_ISBLK(attr.mode):
            info.devmajor, info.devminor = attr.rdev >> 8 & 0xFFF, attr.rdev & 0xFF | attr.rdev >> 12 & 0xFFF00
        elif stat.S_ISREG(attr.mode):
            info.size = attr.size
            self._add(info, _Content(self._ov, ino, attr.size))
            return
        self._add(info)

    def _add(self, info: tarfile.TarInfo, content: _Content | None = None) -> None:
        self._tar.addfile(info, content)  # type: ignore[arg-type]  # it needs read() alone
        self._tar.members.clear()  # type: ignore[attr-defined]  # it keeps all that it wrote


class _Counted:
    """A stream that knows how much was written to it."""

    mode = "wb"

    def __init__(self, out: BinaryIO) -> None:
        self._out, self._at = out, 0

    def write(self, data: bytes) -> None:
        """Write all of *data*."""
        self._out.write(data)
        self._at += len(data)

    def tell(self) -> int:
        """Return the count of bytes so far."""
        return self._at


class _Content:
    """The bytes of a file in an overlay, in order."""

    def __init__(self, overlay: Overlay, ino: Ino, size: int) -> None:
        self._ov, self._ino = overlay, ino
        self._at, self._size = 0, size

    def read(self, count: int) -> bytes:
        """Return as many bytes as there are, up to *count*."""
        data = self._ov.read(self._ino, self._at, min(count, self._size - self._at))
        self._at += len(data)
        return data


def _name(place: bytes) -> str:
    """The name of a place in an archive: relative, so that it can be extracted anywhere."""
    return _text(place[1:]) if place != b"/" else "./"


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _decimal(time: int) -> str:
    """A time in ns as seconds in decimal, with a sign before all of it (pax(1))."""
    seconds, ns = divmod(abs(time), 10**9)
    return f"{'-' if time < 0 else ''}{seconds}.{ns:09}"
