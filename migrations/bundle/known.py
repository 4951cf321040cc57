"""What a path has in one state of an overlay, as a bundle says it: enough to tell whether another state has the same.

Times, inode numbers and link counts do not count: they differ between machines that did the same.  Nor do extended
attributes that a layer cannot carry.
"""

from __future__ import annotations

import stat
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from ...engine import Overlay
from ...engine.model import FILE_MAX, ROOT, Attr, Ino
from ...engine.queries.digest import bytes_digest
from ...engine.store.base_view import split
from ..copying import xattrs_in
from ..exchange.formats import Format, is_own_xattr

TYPES = {
    "d": stat.S_IFDIR,
    "f": stat.S_IFREG,
    "l": stat.S_IFLNK,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
}
WORDS = {
    "d": "a directory",
    "f": "a file",
    "l": "a symbolic link",
    "c": "a character device",
    "b": "a block device",
    "p": "a FIFO",
    "s": "a socket",
}
_LETTERS = {mode: letter for letter, mode in TYPES.items()}
_DIRECTORIES = 256  # directories whose numbers are kept
_DIGEST = 32  # bytes
_NUMBER_MAX = (1 << 32) - 1


class Known(NamedTuple):
    """What a path has.

    Attributes:
        type: a letter of ``TYPES``.
        mode: permission bits; 0o777 of a symlink.
        uid, gid: owner and group.
        size: bytes of a file; else 0.
        rdev: number of a device; else 0.
        digest: of the bytes of a file, or of the target of a symlink, in hexadecimal; else empty.
        xattrs: digest of all extended attributes; empty where there are none.
    """

    type: str
    mode: int
    uid: int
    gid: int
    size: int = 0
    rdev: int = 0
    digest: str = ""
    xattrs: str = ""

    def told(self) -> dict[str, Any]:
        """Return it as JSON, without what is 0 or empty."""
        found = {key: value for key, value in self._asdict().items() if value or key in ("type", "mode", "uid", "gid")}
        return {**found, "mode": f"{self.mode:04o}"}

    @classmethod
    def of(cls, told: dict[str, Any]) -> Known:
        """Return what JSON says.

        Raises:
            ValueError, TypeError, KeyError: it is none of ``told``.
        """
        if set(told) - set(cls._fields):
            raise ValueError(f"unknown members {sorted(set(told) - set(cls._fields))}")
        found = cls(**{**told, "mode": int(told["mode"], 8)})
        numbers = ((found.mode, 0o7777), (found.uid, _NUMBER_MAX - 1), (found.gid, _NUMBER_MAX - 1))
        for value, most in (*numbers, (found.size, FILE_MAX), (found.rdev, _NUMBER_MAX)):
            if type(value) is not int or not 0 <= value <= most:
                raise ValueError(f"{value!r:.40} is impossible")
        for text in (found.digest, found.xattrs):
            if text and len(bytes.fromhex(text)) != _DIGEST:
                raise ValueError(f"{text!r:.40} is no digest")
        if found.type not in TYPES or bool(found.digest) != (found.type in "fl"):
            raise ValueError(f"{found.type!r:.40} with such a digest is impossible")
        return found

    def other_than(self, wanted: Known) -> list[str]:
        """Return in words how it differs from what is wanted: each what it is, and what was expected."""
        if self.type != wanted.type:
            return [f"is {WORDS[self.type]}, expected {WORDS[wanted.type]}"]
        found = []
        if self.size != wanted.size:
            found.append(f"has {self.size:,} bytes, expected {wanted.size:,}")
        elif self.digest != wanted.digest:
            found.append("has other bytes than expected" if self.type == "f" else "has another target than expected")
        if self.rdev != wanted.rdev:
            found.append("has another device number than expected")
        if self.mode != wanted.mode:
            found.append(f"has mode {self.mode:04o}, expected {wanted.mode:04o}")
        if (self.uid, self.gid) != (wanted.uid, wanted.gid):
            found.append(f"belongs to {self.uid}:{self.gid}, expected {wanted.uid}:{wanted.gid}")
        if self.xattrs != wanted.xattrs:
            found.append("has other extended attributes than expected")
        return found


class KnownState:
    """What the paths of one state of an overlay have.

    Args:
        overlay: nothing of it may change meanwhile.
    """

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self._directory = lru_cache(_DIRECTORIES)(self._find_directory)

    def _find_directory(self, path: bytes) -> Ino | None:
        attr = self.overlay.find(path)
        return Ino(attr.ino) if attr is not None and stat.S_ISDIR(attr.mode) else None

    def attr(self, path: bytes) -> Attr | None:
        """Return the attributes of what shows at a path; None if nothing does."""
        if path == b"/":
            return self.overlay.getattr(ROOT)
        above, name = split(path)
        directory = self._directory(above)
        return self.overlay.lookup(directory, name) if directory is not None else None

    def names(self, path: bytes) -> list[bytes]:
        """Return the names in a directory; none if there is no directory at the path."""
        directory = self._directory(path)
        entries = self.overlay.readdir(directory) if directory is not None else ()
        return [entry.name for entry in entries if entry.name not in (b".", b"..")]

    def known(self, path: bytes) -> Known | None:
        """Return what a path has; None if nothing shows there.

        Raises:
            OSError: base or storage cannot be read.
        """
        attr = self.attr(path)
        return self._known(attr) if attr is not None else None

    def _known(self, attr: Attr) -> Known:
        ov, ino, letter = self.overlay, Ino(attr.ino), letter_of(attr.mode)
        digest, size = "", 0
        if letter == "f":
            size = attr.size
            ranges = ov.data_ranges(ino, 0, size)
            digest = bytes_digest(size, ranges, lambda offset, count: ov.read(ino, offset, count)).hex()
        elif letter == "l":
            digest = blake2b(ov.readlink(ino), digest_size=_DIGEST).hexdigest()
        xattrs = {name: value for name, value in xattrs_in(ov, ino).items() if not is_own_xattr(Format.OCI, name)}
        mode = 0o777 if letter == "l" else stat.S_IMODE(attr.mode)
        rdev = attr.rdev if letter in "cb" else 0
        return Known(letter, mode, attr.uid, attr.gid, size, rdev, digest, _digest_of(xattrs) if xattrs else "")


def letter_of(mode: int) -> str:
    """Return the letter of ``TYPES`` for st_mode."""
    return _LETTERS[stat.S_IFMT(mode)]


def _digest_of(xattrs: dict[bytes, bytes]) -> str:
    """Return the digest of extended attributes: names and values in order, each behind its length in 8 bytes."""
    whole = blake2b(digest_size=_DIGEST)
    for part in (part for name in sorted(xattrs) for part in (name, xattrs[name])):
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()
