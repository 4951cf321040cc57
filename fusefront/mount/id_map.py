"""Owners as a mount shows them, where they have other numbers than in base and storage.

The rules are those of fuse-overlayfs (fuse-overlayfs(1), "dynamic UID and GID mapping"): ranges of numbers are shown as
others, or all as one.  What a caller creates whose number no range has is owned by
the overflow number: podman makes a few names in a container as root of the machine, and gives them away then.  Where
fuse-overlayfs stores that number also for chown(2) to such an owner, the call is refused here, as the kernel refuses it
on idmapped mounts (mount_setattr(2)): the owner would be lost.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from ...engine import Attr
from ...engine.errors import FsError

_OVERFLOW = 65534  # stands for a number that no range has (/proc/sys/kernel/overflowuid)


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

    def of_caller(self, number: int) -> int:
        """Return the number that is stored for what a caller creates."""
        stored = self._stored(number)
        return _OVERFLOW if stored is None else stored

    def given(self, number: int) -> int:
        """Return the number that is stored for a new owner.

        Raises:
            FsError: EINVAL if no range has it.
        """
        stored = self._stored(number)
        if stored is None:
            raise FsError(errno.EINVAL, f"no range of uidmapping= or gidmapping= has {number}")
        return stored

    def _stored(self, number: int) -> int | None:
        for stored, shown, count in self.ranges:
            if shown <= number < shown + count:
                return stored + number - shown
        return None if self.ranges else number


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
