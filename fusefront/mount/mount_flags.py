"""What programs and devices in a mount may do: the words nosuid, nodev and noexec, and their contraries.

Whoever could put a file into base or storage could make it a set-id program or a device.  So the rule kept here: what
the file systems below forbid, the overlay forbids too, and root's mounts forbid set-id programs and devices to begin
with, as everybody's do.  Only a word that was given says otherwise, or ``base=/`` where nothing below forbids it, for a
root file system is of no use without its devices and set-id programs.
"""

from __future__ import annotations

import logging
import os

from .options import MountOptions

log = logging.getLogger(__name__)

_PAIRS = (("nosuid", "suid", os.ST_NOSUID), ("nodev", "dev", os.ST_NODEV), ("noexec", "exec", os.ST_NOEXEC))
_BY_DEFAULT = frozenset({"nosuid", "nodev"})  # of every FUSE mount: libfuse's mount.c, fusermount3(1)


def words(options: MountOptions) -> set[str]:
    """One word of each pair for a mount that is about to be made; of ``exec``, which is the default, none.

    Args:
        options: with true paths, and nothing mounted over them yet.

    Raises:
        OSError: base or storage cannot be asked (statvfs(3)).
    """
    below = {place: os.statvfs(place).f_flag for place in (options.base, options.storage)}
    found = set()
    for forbids, allows, flag in _PAIRS:
        asked = {forbids, allows} & set(options.kernel)
        where = [place for place, flags in below.items() if flags & flag]
        if asked:
            found |= asked
        elif where or (forbids in _BY_DEFAULT and options.base != "/"):
            found.add(forbids)
            if where:
                # of a root directory nobody expects it
                level = logging.WARNING if options.base == "/" else logging.INFO
                log.log(level, "the overlay is %s because %s is; -o rootfs has it otherwise", forbids, where[0])
        elif forbids in _BY_DEFAULT and os.geteuid() == 0:
            found.add(allows)  # fusermount3 refuses these words to others
    return found
