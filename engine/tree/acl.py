"""POSIX access control lists in their xattr form, and the three rules that tie them to permission bits.

The form is the kernel's (uapi linux/posix_acl_xattr.h): a version word, then entries of tag, permissions and id, little
endian.  The rules are those of acl(5): a new object inherits its directory's default ACL (``inherit``), chmod changes
the access ACL (``chmod``), and setting an access ACL changes the mode (``apply``).
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from ..errors import FsError

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")

_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_TAGS = {_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER}


class Entry(NamedTuple):
    """One entry: a tag, permission bits (rwx as 4, 2, 1), and the uid or gid of a named user or group."""

    tag: int
    perm: int
    id: int


def parse(value: bytes) -> list[Entry]:
    """Return the entries of an ACL xattr; an ACL without entries is valid.

    Raises:
        FsError: EINVAL if the bytes are not an ACL; EOPNOTSUPP for another version of the form.
    """
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise FsError(errno.EINVAL, "acl")
    if _HEADER.unpack_from(value)[0] != _VERSION:
        raise FsError(errno.EOPNOTSUPP, "acl")
    entries = [Entry._make(found) for found in _ENTRY.iter_unpack(value[_HEADER.size :])]
    tags = [entry.tag for entry in entries]
    named = _USER in tags or _GROUP in tags
    once = all(tags.count(tag) == 1 for tag in (_USER_OBJ, _GROUP_OBJ, _OTHER)) and tags.count(_MASK) <= 1
    if entries and (
        not once or (named and _MASK not in tags) or set(tags) - _TAGS or any(entry.perm > 7 for entry in entries)
    ):
        raise FsError(errno.EINVAL, "acl")
    return entries


def pack(entries: list[Entry]) -> bytes:
    """Return the xattr form of an ACL."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _is_minimal(entries: list[Entry]) -> bool:
    """Return True if permission bits can express the whole ACL."""
    return all(entry.tag in (_USER_OBJ, _GROUP_OBJ, _OTHER) for entry in entries)


def inherit(default: bytes, mode: int) -> tuple[int, bytes | None]:
    """Return the mode and the access ACL of a new object in a directory with a default ACL.

    Args:
        default: the directory's default ACL.
        mode: the mode that the creating process asks for; its umask is ignored (umask(2)).

    Returns:
        The mode, and the access ACL, or None if the mode expresses all of it.
    """
    entries = parse(default)
    group = _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ
    shifts = {_USER_OBJ: 6, group: 3, _OTHER: 0}
    result = []
    for entry in entries:
        shift = shifts.get(entry.tag)
        if shift is not None:
            entry = entry._replace(perm=entry.perm & (mode >> shift))
            mode &= ~(7 << shift) | entry.perm << shift
        result.append(entry)
    return mode, None if _is_minimal(result) else pack(result)


def chmod(access: bytes, mode: int) -> bytes:
    """Return the access ACL after a chmod to *mode*: its group bits go to the mask entry, if there is one (acl(5))."""
    entries = parse(access)
    group = _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ
    shifts = {_USER_OBJ: 6, group: 3, _OTHER: 0}
    return pack(
        [entry._replace(perm=mode >> shifts[entry.tag] & 7) if entry.tag in shifts else entry for entry in entries]
    )


def apply(access: bytes, mode: int) -> tuple[int, bytes | None]:
    """Return the mode after an access ACL is set, and the ACL to store.

    Args:
        access: the access ACL that the caller sets.
        mode: the object's mode before.

    Returns:
        The mode, and the ACL, or None if the mode expresses all of it.
    """
    entries = parse(access)
    if not entries:
        return mode, None
    group = _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ
    shifts = {_USER_OBJ: 6, group: 3, _OTHER: 0}
    for entry in entries:
        shift = shifts.get(entry.tag)
        if shift is not None:
            mode = mode & ~(7 << shift) | entry.perm << shift
    return mode, None if _is_minimal(entries) else access
