"""The formats of layers: their names, what marks a whiteout and an opaque directory, and what they cannot express.

Sources: Documentation/filesystems/overlayfs.rst in Linux; the image specification of OCI, layer.md; fuse-overlayfs(1);
unionfs(8) of unionfs-fuse.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from ...engine.model import Attr
from ...engine.store.base_view import split

_NOTED = 1000  # losses that are kept; all are counted

WHITEOUT = b".wh."  # begins the name of a whiteout in OCI layers and in those of fuse-overlayfs
OPAQUE = b".wh..wh..opq"  # a file in an opaque directory
HIDDEN = b"_HIDDEN~"  # ends the name of a whiteout of unionfs-fuse
UNIONFS = b".unionfs-fuse"  # the directory in the root in which it has them
XATTR = b"SCHILY.xattr."  # begins the keys of extended attributes in the extended headers of archives
TRUSTED, USER = b"trusted.overlay.", b"user.overlay."  # the attributes of overlayfs, and those of its option userxattr
FUSE_OVERLAYFS = b"user.fuseoverlayfs."  # the attributes of fuse-overlayfs


class Format(StrEnum):
    """What a layer is written as."""

    OCI = "oci"
    TAR = "tar"
    OVERLAYFS = "overlayfs"
    FUSE_OVERLAYFS = "fuse-overlayfs"
    UNIONFS = "unionfs"

    @property
    def is_archive(self) -> bool:
        """Whether it is one file, and not a directory."""
        return self in (Format.OCI, Format.TAR)


class Loss(NamedTuple):
    """Something that a format cannot express.

    Attributes:
        kind: a stable word: deleted, name, socket, device, xattr, hard-link.
        place: the path.
        detail: what becomes of it.
    """

    kind: str
    place: bytes
    detail: str


@dataclass
class Losses:
    """What a layer cannot carry, as the report of a command that writes one.

    Attributes:
        lost: how many things the format cannot express.
        losses: the first of them.
        written: False if nothing was written because of losses.
    """

    lost: int = 0
    losses: list[Loss] = field(default_factory=list)
    written: bool = False

    def lose(self, loss: Loss) -> None:
        """Note something that the format cannot express."""
        self.lost += 1
        if len(self.losses) < _NOTED:
            self.losses.append(loss)


def whiteout_of_overlayfs(mode: int, rdev: int) -> bool:
    """Return whether attributes are those of a whiteout of overlayfs: a character device with the number 0."""
    return stat.S_ISCHR(mode) and rdev == 0


def is_own_xattr(layer_format: Format, name: bytes) -> bool:
    """Return whether an extended attribute has a meaning of its own in a layer of a format, or no place there."""
    if layer_format.is_archive:
        return b"=" in name  # ends the key in an extended header (pax(1))
    if layer_format is Format.UNIONFS:
        return False
    own = (TRUSTED, USER, FUSE_OVERLAYFS) if layer_format is Format.FUSE_OVERLAYFS else (TRUSTED, USER)
    return name.startswith(own)


def why_lost(layer_format: Format, place: bytes, attr: Attr | None) -> Loss | None:
    """Return why a format cannot have an item; None if it can."""
    name = split(place)[1]
    if layer_format in (Format.OCI, Format.FUSE_OVERLAYFS) and name.startswith(WHITEOUT):
        return Loss("name", place, "in this format the name means that another one is deleted; it is left out")
    if layer_format is Format.UNIONFS and (name.endswith(HIDDEN) or place == b"/" + UNIONFS):
        return Loss("name", place, "in this format the name means that another one is deleted; it is left out")
    if attr is None:
        return Loss("deleted", place, "an archive of files cannot say so") if layer_format is Format.TAR else None
    if layer_format.is_archive and stat.S_ISSOCK(attr.mode):
        return Loss("socket", place, "archives have no sockets; it is left out")
    whiteouts = layer_format in (Format.OVERLAYFS, Format.FUSE_OVERLAYFS)
    if whiteouts and whiteout_of_overlayfs(attr.mode, attr.rdev):
        return Loss("device", place, "in this format such a device means that the name is deleted; it is left out")
    return None
