"""Owners of base objects in a user namespace, which has no numbers for most users (user_namespaces(7)).

There the kernel shows an owner without a number as the overflow uid, and refuses every write to such an object.  In an
overlay it may be written where its mode allows it: /tmp, for example.  So it is shown as this process's own, with the
rights that its mode gives to this process now: those of the group, or those of others.
"""

from __future__ import annotations

import os
import stat

_IDS = 1 << 32


class Owners:
    """Shows objects of foreign owners as this process's own.

    Args:
        uid, gid: those of this process.
        overflow_uid, overflow_gid: the numbers that stand for foreign users and groups; None if there are none.
    """

    def __init__(self, uid: int, gid: int, overflow_uid: int | None, overflow_gid: int | None) -> None:
        self._uid = uid
        self._gid = gid
        self._overflow_uid = overflow_uid
        self._overflow_gid = overflow_gid

    def shown(self, st: os.stat_result) -> os.stat_result:
        """Return the attributes of an object as the overlay shows them."""
        foreign_uid, foreign_gid = st.st_uid == self._overflow_uid, st.st_gid == self._overflow_gid
        if not (foreign_uid or foreign_gid):
            return st
        mode = st.st_mode
        if foreign_uid:
            rights = mode >> 3 & 7 if st.st_gid == self._gid else mode & 7
            mode = mode & ~(stat.S_ISUID | stat.S_ISGID | 0o700) | rights << 6
        uid = self._uid if foreign_uid else st.st_uid
        gid = self._gid if foreign_gid else st.st_gid
        more = {
            "st_atime_ns": st.st_atime_ns,
            "st_mtime_ns": st.st_mtime_ns,
            "st_ctime_ns": st.st_ctime_ns,
            "st_blksize": st.st_blksize,
            "st_blocks": st.st_blocks,
            "st_rdev": st.st_rdev,
        }
        return os.stat_result((mode, st.st_ino, st.st_dev, st.st_nlink, uid, gid, st.st_size, *st[7:10]), more)


def owners_here() -> Owners | None:
    """Return how owners are shown in the user namespace of this process; None where every user has a number."""
    try:
        uid, gid = _foreign("uid"), _foreign("gid")
    except OSError:
        return None  # no /proc, as early at boot
    return None if uid is None and gid is None else Owners(os.geteuid(), os.getegid(), uid, gid)


def _foreign(kind: str) -> int | None:
    """Return the number that stands for foreign users (``uid``) or groups (``gid``), or None if there are none.

    Raises:
        OSError: /proc cannot be read.
    """
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    if sum(count for _, _, count in ranges) >= _IDS - 1:
        return None
    with open(f"/proc/sys/kernel/overflow{kind}", encoding="ascii") as file:
        overflow = int(file.read())
    # an object of the user whose number that is looks alike
    own = os.geteuid() if kind == "uid" else os.getegid()
    return None if overflow == own else overflow
