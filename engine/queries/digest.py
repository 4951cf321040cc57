"""The digest of what an overlay changed: one hash of every difference between its base and the merged tree.

Two overlays have the same digest if the same paths differ from the base and show the same there, whatever operations
led to it and on whatever machine.  What a path shows is its *record*: type, permission bits, owner and group; of a file
its size and bytes; of a symlink its target; of a device its number; and the extended attributes.  Times, inode numbers
and link counts are not part of it: they differ between machines that did the same.

A record is hashed with BLAKE2b (RFC 7693), every field behind its length in 8 bytes, so that no two lists of fields
give the same bytes.  Of a file's bytes only blocks that are not all zeros count, each with its number: a hole and
written zeros are the same, and holes of any size cost nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from ..errors import FsError
from ..model import ROOT, Attr, Ino
from ..overlay import Overlay
from ..store.base_view import split
from ..store.syscalls import data_ranges
from .changes import Kind, changes
from .walk import base_below, shown_below

BLOCK = 64 << 10  # bytes
SIZE = 32  # bytes of a digest
_ABSENT = b"\0" * SIZE
_DIRECTORIES = 256  # directories whose numbers are kept

Read = Callable[[int, int], bytes]  # offset, size


class Difference(NamedTuple):
    """A path at which base and merged tree differ.

    Attributes:
        path: in the merged tree.
        digest: the digest of what shows there; zeros where nothing shows.
    """

    path: bytes
    digest: bytes


def digest(differences: Iterable[Difference]) -> bytes:
    """Return the digest of an overlay.

    Args:
        differences: all there are, in the order of ``differences``.
    """
    whole = blake2b(digest_size=SIZE)
    for path, of_path in differences:
        whole.update(_field(path) + of_path)
    return whole.digest()


def differences(overlay: Overlay) -> Iterator[Difference]:
    """Yield the differences between an overlay's base and its merged tree, sorted by path.

    Args:
        overlay: nothing of it may change meanwhile.

    Raises:
        OSError: base or storage cannot be read.
    """
    shown, base = _Shown(overlay), _Base(overlay)
    for path in sorted(_candidates(overlay)):
        here, there = shown.record(path), base.record(path)
        if here != there:
            yield Difference(path, here or _ABSENT)


def _candidates(overlay: Overlay) -> set[bytes]:
    """Every path that may differ."""
    found: set[bytes] = set()
    for change in changes(overlay, recursive=True):
        found.add(change.path)
        if change.kind is Kind.RENAMED and change.old is not None:
            found.add(change.old)
            if change.is_dir:
                found.update(path for path, _ in shown_below(overlay, change.path))
                found.update(path for path, _ in base_below(overlay, change.old))
    return found


class _Shown:
    """The records of what the merged tree shows."""

    def __init__(self, overlay: Overlay) -> None:
        self._ov = overlay
        self._directory = lru_cache(_DIRECTORIES)(self._find_directory)

    def _find_directory(self, path: bytes) -> Ino | None:
        attr = self._ov.find(path)
        return Ino(attr.ino) if attr is not None and stat.S_ISDIR(attr.mode) else None

    def _attr(self, path: bytes) -> Attr | None:
        if path == b"/":
            return self._ov.getattr(ROOT)
        above, name = split(path)
        directory = self._directory(above)
        return self._ov.lookup(directory, name) if directory is not None else None

    def record(self, path: bytes) -> bytes | None:
        """The digest of what shows at a path; None if nothing does."""
        ov, attr = self._ov, self._attr(path)
        if attr is None:
            return None
        ino = Ino(attr.ino)
        what = b""
        if stat.S_ISREG(attr.mode):
            ranges = ov.data_ranges(ino, 0, attr.size)
            what = bytes_digest(attr.size, ranges, lambda offset, size: ov.read(ino, offset, size))
        elif stat.S_ISLNK(attr.mode):
            what = ov.readlink(ino)
        xattrs = {name: ov.getxattr(ino, name) for name in ov.listxattr(ino)}
        return _record(attr.mode, attr.uid, attr.gid, attr.rdev, what, xattrs)


class _Base:
    """The records of what the base has."""

    def __init__(self, overlay: Overlay) -> None:
        self._base = overlay.base

    def record(self, path: bytes) -> bytes | None:
        """The digest of what the base has at a path; None if it has nothing there."""
        base, st = self._base, self._base.find(path)
        if st is None:
            return None
        what = b""
        if stat.S_ISREG(st.st_mode):
            fd = base.file(path, st)
            what = bytes_digest(
                st.st_size, data_ranges(fd, 0, st.st_size), lambda offset, size: os.pread(fd, size, offset)
            )
        elif stat.S_ISLNK(st.st_mode):
            what = base.readlink(path)
        try:
            xattrs = {name: base.getxattr(path, name) for name in base.listxattr(path)}
        except FsError:
            xattrs = {}  # the base's file system has none
        return _record(st.st_mode, st.st_uid, st.st_gid, st.st_rdev, what, xattrs)


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(8, "big") + value


def _record(mode: int, uid: int, gid: int, rdev: int, what: bytes, xattrs: dict[bytes, bytes]) -> bytes:
    """The digest of a record.

    Args:
        mode, uid, gid, rdev: as in stat(2).
        what: of a file the digest of its bytes; of a symlink its target; else empty.
        xattrs: values by name.
    """
    device = rdev if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else 0
    numbers = b"".join(number.to_bytes(8, "big") for number in (mode, uid, gid, device))
    pairs = [part for name in sorted(xattrs) for part in (name, xattrs[name])]
    return blake2b(b"".join(map(_field, (numbers, what, *pairs))), digest_size=SIZE).digest()


def bytes_digest(size: int, ranges: Iterator[tuple[int, int]], read: Read) -> bytes:
    """Return the digest of a file's bytes.

    Args:
        size: of the file.
        ranges: the parts (first, end) of it that are no holes.
        read: reads at an offset as many bytes as there are, up to a size.
    """
    found = blake2b(_field(size.to_bytes(8, "big")), digest_size=SIZE)
    done = 0  # blocks
    for start, end in ranges:
        for number in range(max(done, start // BLOCK), -(-end // BLOCK)):
            data = read(number * BLOCK, min(BLOCK, size - number * BLOCK))
            if data.strip(b"\0"):
                found.update(_field(number.to_bytes(8, "big")) + data)
            done = number + 1
    return found.digest()
