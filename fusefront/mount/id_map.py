"""Owners as a mount shows them, where they have other numbers than in base and storage.

The rules are those of fuse-overlayfs (fuse-overlayfs(1), "dynamic UID and GID mapping"): ranges of numbers are shown as
others, or all as one.  Where fuse-overlayfs stores the overflow number for an owner that no range has, the call is
refused here, as idmapped mounts of the kernel refuse it (mount_setattr(2)): the owner would be lost.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from ...engine import Attr
from ...engine.errors import FsError

_OVERFLOW = 65534  # shown for a number that no range has (/proc/sys/kernel/overflowuid)


class Ids(NamedTuple):
    """How the numbers of users, or of groups, are shown.

    Attributes:
        ranges: the first number in base and storage, what it is shown as, and how many follow it.
        squash: the one number that is shown for all; None for none.
    """

    ranges: tuple[tuple[int, int, int], ...] = ()
    squash: int | None = None

    def shown(self, number: int) -> int:
        """Return the number that a number of base or storage is shown as."""
        if self.squash is not None:
            return self.squash
        for stored, shown, count in self.ranges:
            if stored <= number < stored + count:
                return shown + number - stored
        return _OVERFLOW if self.ranges else number

    def stored(self, number: int) -> int:
        """Return the number that a number of a caller is stored as.

        Raises:
            FsError: EINVAL if no range has it.
        """
        for stored, shown, count in self.ranges:
            if shown <= number < shown + count:
                return stored + number - shown
        if self.ranges:
            raise FsError(errno.EINVAL, f"no range of uidmapping= or gidmapping= has {number}")
        return number


class IdMap(NamedTuple):
    """How the owners of a mount are shown.

    Attributes:
        users, groups: how their numbers are.
    """

    users: Ids
    groups: Ids

    def shown(self, attr: Attr) -> Attr:
        """Return attributes with their owner as it is shown."""
        return attr._replace(uid=self.users.shown(attr.uid), gid=self.groups.shown(attr.gid))
