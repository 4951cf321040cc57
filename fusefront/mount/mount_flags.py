"""Chooses the mount flags nosuid, nodev and noexec of a new mount.

A user who can write to the base or the storage could create a set-id program or a device there.  So the rules kept
here: the overlay forbids what the file systems of base or storage forbid, and by default set-id programs and devices,
for root's mounts as for those of other users.  An explicit option overrides both.  With ``base=/`` the default is to
allow what base and storage do not forbid, for a root file system is of no use without devices and set-id programs.
"""

from __future__ import annotations

import logging
import os

from ...engine.store.layers import layers_of
from .options import MountOptions

log = logging.getLogger(__name__)

_PAIRS = (("nosuid", "suid", os.ST_NOSUID), ("nodev", "dev", os.ST_NODEV), ("noexec", "exec", os.ST_NOEXEC))
_BY_DEFAULT = frozenset({"nosuid", "nodev"})  # of every FUSE mount: libfuse's mount.c, fusermount3(1)


def words(options: MountOptions) -> set[str]:
    """Return the option words for FUSE: ``nosuid`` or ``suid``, ``nodev`` or ``dev``, and ``noexec`` if that applies.

    Args:
        options: with true paths; call this before the mount may hide them.

    Raises:
        OSError: statvfs(3) of base or storage failed.
    """
    below = {place: os.statvfs(place).f_flag for place in (*layers_of(options.base), options.storage)}
    found = set()
    for forbids, allows, flag in _PAIRS:
        asked = {forbids, allows} & set(options.kernel)
        where = [place for place, flags in below.items() if flags & flag]
        if asked:
            found |= asked
        elif where or (forbids in _BY_DEFAULT and options.base != "/"):
            found.add(forbids)
            if where:
                # a warning for a root directory, for its programs may need set-id bits and devices
                level = logging.WARNING if options.base == "/" else logging.INFO
                log.log(level, "the overlay is %s because %s is; mount with -o rootfs to allow it", forbids, where[0])
        elif forbids in _BY_DEFAULT and os.geteuid() == 0:
            found.add(allows)  # fusermount3 refuses these words to other users
    return found
