"""What a layer of another system says, one entry after the other; and which of that is impossible."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

from ...engine.errors import StateError
from ...engine.model import FILE_MAX, SYMLINK_MAX, XATTR_MAX, XATTR_NAME_MAX, is_known_xattr
from ...engine.store.base_view import join
from ...engine.tree.row_checks import is_name

_TIME_MAX = (1 << 63) - 1  # ns
_ID_MAX = 0xFFFF_FFFE  # the one beyond means: leave it as it is (chown(2))


class What(Enum):
    """What an entry is about."""

    OBJECT = "object"
    LINK = "link"  # another name of a file
    WHITEOUT = "whiteout"
    OPAQUE = "opaque"  # a directory shows nothing of the layers below


class Entry(NamedTuple):
    """One entry.

    Attributes:
        what: see there; of the last two only *place* counts.
        place: the path in the merged tree.
        mode, uid, gid, rdev, size: as in stat(2).
        atime, mtime: ns since the epoch.
        target: of a symlink; of a LINK the place of the file.
        xattrs: its extended attributes.
        pieces: yields the bytes of a file with their offsets, in order; what is left out are zeros.
        stored: how many bytes the layer has of it: the size without holes.
        opaque: of a directory: it shows nothing of the layers below.
        redirect: of a directory: the base directory that shows in it (base terms).
    """

    what: What
    place: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    size: int = 0
    atime: int = 0
    mtime: int = 0
    target: bytes = b""
    xattrs: Mapping[bytes, bytes] = MappingProxyType({})
    pieces: Callable[[], Iterator[tuple[int, bytes]]] | None = None
    stored: int = 0
    opaque: bool = False
    redirect: bytes | None = None


def impossible(source: str, name: bytes, why: str) -> StateError:
    """Return the error for an entry that no honest layer has.

    Args:
        source: the layer.
        name: as the layer has it.
        why: what is wrong.
    """
    return StateError(f"{source} has an entry {os.fsdecode(name)[:200]!r} {why}", "nothing was imported")


def place_of(source: str, name: bytes) -> bytes:
    """Return the place that a name in an archive means.

    Raises:
        StateError: it leads elsewhere, or no file system can have it.
    """
    if name.startswith(b"/"):
        raise impossible(source, name, "with an absolute name")
    place = b"/"
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            raise impossible(source, name, "that leads out of it")
        if not is_name(part):
            raise impossible(source, name, "with a name that no file system takes")
        place = join(place, part)
    return place


def checked(source: str, entry: Entry) -> Entry:
    """Return an entry as an overlay can have it: times that are out of range are the nearest.

    Raises:
        StateError: its attributes are impossible.
    """
    if not (0 <= entry.uid <= _ID_MAX and 0 <= entry.gid <= _ID_MAX):
        raise impossible(source, entry.place, f"with the impossible owner {entry.uid}:{entry.gid}")
    if not 0 <= entry.size <= FILE_MAX:
        raise impossible(source, entry.place, f"with the impossible size {entry.size}")
    if entry.what is What.OBJECT and (len(entry.target) > SYMLINK_MAX or b"\0" in entry.target):
        raise impossible(source, entry.place, "that is an impossible symbolic link")
    for name, value in entry.xattrs.items():
        if len(name) > XATTR_NAME_MAX or len(value) > XATTR_MAX or b"\0" in name:
            raise impossible(source, entry.place, "with an impossible extended attribute")
    atime, mtime = (max(-_TIME_MAX, min(time, _TIME_MAX)) for time in (entry.atime, entry.mtime))
    return entry._replace(atime=atime, mtime=mtime)


def known_xattrs(xattrs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return those extended attributes that an overlay can have."""
    return {name: value for name, value in xattrs.items() if is_known_xattr(name)}
