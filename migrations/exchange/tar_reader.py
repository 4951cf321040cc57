"""Reads tar archives and OCI layers, in one pass, from a file or a pipe.

An archive may come from anywhere.  Its names are checked, its headers may not be longer than ``_HEADERS_MAX``, because
they are kept in memory, and it must have an end.
"""

from __future__ import annotations

import math
import stat
import tarfile
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import BinaryIO

from ...engine.errors import StateError
from ...engine.store.base_view import join, split
from .compression import DAMAGES
from .entries import Entry, What, checked, impossible, place_of
from .formats import OPAQUE, WHITEOUT, XATTR, Format

_HEADERS_MAX = 16 << 20  # bytes of the headers of one entry: names, extended attributes, the list of a sparse file
_PIECE = 64 << 10  # bytes
_PADDING_MAX = 64 << 20  # bytes after the end; programs write up to 10 KiB
_TYPES = {
    tarfile.DIRTYPE: stat.S_IFDIR,
    tarfile.REGTYPE: stat.S_IFREG,
    tarfile.AREGTYPE: stat.S_IFREG,
    tarfile.CONTTYPE: stat.S_IFREG,
    tarfile.GNUTYPE_SPARSE: stat.S_IFREG,
    tarfile.SYMTYPE: stat.S_IFLNK,
    tarfile.LNKTYPE: stat.S_IFREG,
    tarfile.CHRTYPE: stat.S_IFCHR,
    tarfile.BLKTYPE: stat.S_IFBLK,
    tarfile.FIFOTYPE: stat.S_IFIFO,
}
_LABEL = b"V"  # of a volume of GNU tar
_OF_AUFS = WHITEOUT + WHITEOUT  # begins the names of files that aufs has kept for itself


def damaged(source: str, why: str) -> StateError:
    """Return the error for an archive that is not as it was written."""
    return StateError(f"{source} is damaged or cut short ({why})", "nothing was imported; fetch it again")


class TarReader:
    """Reads one archive.

    Args:
        stream: its bytes, not compressed any more.
        source: its name, for messages.
        layer_format: OCI or TAR.
    """

    def __init__(self, stream: BinaryIO, source: str, layer_format: Format) -> None:
        self._stream = _Forward(stream, source)
        self._source = source
        self._format = layer_format

    def entries(self) -> Iterator[Entry]:
        """Yield all entries; the bytes of one can be read until the next one is asked for.

        Raises:
            StateError: the archive is damaged, cut short, or says what is impossible.
            OSError: it cannot be read.
        """
        try:
            tar = tarfile.TarFile(fileobj=self._stream, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
            while (info := self._next(tar)) is not None:
                if info.type == _LABEL:
                    continue
                entry = self._entry(info)
                if entry is not None:
                    yield checked(self._source, entry)
        except tarfile.TarError as error:
            raise self._damaged(str(error)) from error
        if self._stream.last.strip(b"\0") or not self._stream.last:
            raise self._damaged("it has no end")
        padding = 0
        while data := self._stream.read(_PIECE):  # to the end of the compressed stream, where its checksum is
            padding += len(data)
            if padding > _PADDING_MAX:
                raise self._damaged("it goes on after its end")

    def _next(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        self._stream.left = _HEADERS_MAX
        try:
            info = tar.next()
        except ValueError as error:  # of numbers in extended headers, which tarfile takes as they are
            raise self._damaged(f"header: {error}") from error
        self._stream.left = None
        tar.members.clear()  # type: ignore[attr-defined]  # it keeps all that it read
        return info

    def _damaged(self, why: str) -> StateError:
        return damaged(self._source, why)

    def _entry(self, info: tarfile.TarInfo) -> Entry | None:
        raw = info.name.encode("utf-8", "surrogateescape")
        place = place_of(self._source, raw)
        above, name = split(place)
        if self._format is Format.OCI and name.startswith(WHITEOUT):
            if name == OPAQUE:
                return Entry(What.OPAQUE, above)
            if name.startswith(_OF_AUFS):
                return None
            hidden = name.removeprefix(WHITEOUT)
            if hidden in (b"", b"."):
                raise impossible(self._source, raw, "that is a whiteout of no name")
            return Entry(What.WHITEOUT, place_of(self._source, join(above, hidden)[1:]))
        kind = _TYPES.get(info.type)
        if kind is None:
            raise impossible(self._source, raw, f"of the unknown type {info.type!r}")
        linkname = info.linkname.encode("utf-8", "surrogateescape")
        if info.type == tarfile.LNKTYPE:
            return Entry(What.LINK, place, target=place_of(self._source, linkname))
        if place == b"/" and kind != stat.S_IFDIR:
            raise impossible(self._source, raw, "without a name")
        seconds = int(info.mtime) if math.isfinite(info.mtime) else 0
        mtime = _time(info.pax_headers.get("mtime"), seconds * 10**9)
        has_bytes = kind == stat.S_IFREG
        parts = self._parts(info) if has_bytes else []
        return Entry(
            What.OBJECT,
            place,
            mode=kind | info.mode & 0o7777,
            uid=info.uid,
            gid=info.gid,
            rdev=_device(info) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0,
            size=info.size if has_bytes else 0,
            atime=_time(info.pax_headers.get("atime"), mtime),
            mtime=mtime,
            target=linkname if kind == stat.S_IFLNK else b"",
            xattrs=_xattrs(info),
            pieces=lambda: self._pieces(info.offset_data, parts),
            stored=sum(size for _, size in parts),
        )

    def _parts(self, info: tarfile.TarInfo) -> list[tuple[int, int]]:
        """Return offset and size of the parts of a file that are in the archive, one after the other."""
        sparse: list[tuple[int, int]] | None = getattr(info, "sparse", None)
        if sparse is None:
            return [(0, info.size)]
        parts = [(offset, size) for offset, size in sparse if size]  # GNU tar ends its list with an empty one
        end = 0
        for offset, size in parts:
            if offset < end or size < 0 or offset + size > info.size:
                raise impossible(self._source, info.name.encode("utf-8", "surrogateescape"), "with impossible holes")
            end = offset + size
        return parts

    def _pieces(self, start: int, parts: list[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
        self._stream.seek(start)
        for offset, size in parts:
            for at in range(offset, offset + size, _PIECE):
                wanted = min(_PIECE, offset + size - at)
                data = self._stream.read(wanted)
                if len(data) < wanted:
                    raise self._damaged("a file in it has no end")
                if data.count(0) != len(data):
                    yield at, data


class _Forward:
    """A stream that tarfile reads as a file, though it can only go forward.

    Attributes:
        left: how many bytes may be read until the next entry is there; None: any number.
        last: what was read last.
    """

    mode, name = "rb", None

    def __init__(self, stream: BinaryIO, source: str) -> None:
        self._stream, self._source, self._at = stream, source, 0
        self.left: int | None = None
        self.last = b""

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._at

    def seek(self, at: int) -> int:
        """Go forward, to a count of bytes."""
        left, self.left = self.left, None
        while self._at < at and self.read(min(1 << 20, at - self._at)):
            pass  # at the end of the stream the next read finds nothing
        self.left = left
        return self._at

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer at the end of the stream.

        Raises:
            StateError: the headers are too long, or the compressed stream is damaged.
        """
        if self.left is not None:
            if size > self.left:
                raise StateError(
                    f"{self._source} has an entry with over {_HEADERS_MAX >> 20} MiB of headers", "nothing was imported"
                )
            self.left -= size
        try:
            self.last = self._stream.read(size)
        except DAMAGES as error:
            raise damaged(self._source, str(error)) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise damaged(self._source, str(error)) from error
        self._at += len(self.last)
        return self.last


def _time(text: str | None, otherwise: int) -> int:
    """A time of an extended header in ns (pax(1)); *otherwise* if there is none, or it is none."""
    try:
        return int(Decimal(text).scaleb(9)) if text is not None and len(text) < 40 else otherwise
    except (InvalidOperation, ValueError, OverflowError):
        return otherwise


def _device(info: tarfile.TarInfo) -> int:
    """The number of a device; major and minor as the kernel packs them (makedev(3))."""
    major, minor = info.devmajor, info.devminor
    return (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12 | (major & ~0xFFF) << 32


def _xattrs(info: tarfile.TarInfo) -> dict[bytes, bytes]:
    encoded = ((key.encode("utf-8", "surrogateescape"), value) for key, value in info.pax_headers.items())
    return {
        key.removeprefix(XATTR): value.encode("utf-8", "surrogateescape")
        for key, value in encoded
        if key.startswith(XATTR)
    }
