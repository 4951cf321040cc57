"""POSIX access control lists in their xattr form, and the three rules that tie them to permission bits.

The form is the kernel's (uapi linux/posix_acl_xattr.h): a version word, then entries of tag, permissions and id, little
endian.  The rules are those of acl(5) as the kernel's file systems keep them: a default ACL is inherited, chmod changes
the ACL, setting an ACL changes the mode.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

from ..errors import FsError

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_VERSION = 2
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")

_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_TAGS = {_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER}


class Entry(NamedTuple):
    """One entry: a tag, permission bits (rwx as 4, 2, 1) and the uid or gid of a named one."""

    tag: int
    perm: int
    id: int


def parse(value: bytes) -> list[Entry]:
    """The entries of an ACL xattr.

    Raises:
        FsError: EINVAL where the bytes are not an ACL; EOPNOTSUPP for another version.
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
    """The xattr form of an ACL."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def _is_minimal(entries: list[Entry]) -> bool:
    """True where the permission bits alone say the same."""
    return all(entry.tag in (_USER_OBJ, _GROUP_OBJ, _OTHER) for entry in entries)


def inherit(default: bytes, mode: int) -> tuple[int, bytes | None]:
    """What a new object gets from its directory's default ACL.

    Args:
        default: the directory's default ACL.
        mode: the mode the creating process asks for; its umask does not count (umask(2)).

    Returns:
        The object's mode and its access ACL, None where the mode says it all.
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
    """The access ACL after a chmod to *mode*: the group bits are the mask's, where there is one."""
    entries = parse(access)
    group = _MASK if any(entry.tag == _MASK for entry in entries) else _GROUP_OBJ
    shifts = {_USER_OBJ: 6, group: 3, _OTHER: 0}
    return pack(
        [entry._replace(perm=mode >> shifts[entry.tag] & 7) if entry.tag in shifts else entry for entry in entries]
    )


def apply(access: bytes, mode: int) -> tuple[int, bytes | None]:
    """The mode after an access ACL is set, and the ACL to keep: None where the mode says it all."""
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
