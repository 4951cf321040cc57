"""``umount.fuse.minifo`` and its siblings: what umount(8) calls for a mount of ours.

umount(8) fixes the protocol: ``umount.TYPE TARGET [-flnrv] [-N namespace] [-t type]``.  Returns when the last commit is
durable.  With ``-r`` a mount that is busy takes no more changes, if nobody has a file of it open for writing.  ``-f``
asks for nothing more: force would throw away what the kernel has not yet handed to the daemon.
"""

from __future__ import annotations

import sys

from ..fusefront.mount.options import Remount
from ..fusefront.mount.remount import remount
from ..fusefront.mount.unmount import MountBusy, unmount
from . import _common, _helper

_SYNOPSIS = "TARGET [-flnrvVh] [-N namespace] [-t type]"


def main(arguments: list[str] | None = None) -> int:
    """Unmount as umount(8) asks; *arguments* are those after the program's name.  Returns the exit code."""
    return _helper.run(arguments, "flnrvN:t:", _SYNOPSIS, 1, _unmount)


def _unmount(program: str, given: _helper.Given, places: list[str]) -> None:
    flags = dict(given)
    if "-N" in flags:
        _helper.enter_mount_namespace(flags["-N"])
    try:
        unmount(places[0], lazy="-l" in flags)
    except MountBusy:
        if "-r" not in flags:
            raise
        remount(Remount(read_only=True, words=("ro",), base=None, storage=None), places[0])
        print(_common.printable(f"{program}: {places[0]} is busy: remounted read-only"), file=sys.stderr)
        return
    if "-v" in flags:
        print(_common.printable(f"{program}: {places[0]} unmounted"))
