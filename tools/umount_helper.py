"""``umount.mini_fo``, ``umount.minifo`` and ``umount.fuse.minifo``: programs that umount(8) runs for these types.

umount(8) defines the arguments: ``umount.TYPE TARGET [-flnrv] [-N namespace] [-t type]``.  The program returns when the
last commit is durable.  With ``-r`` a busy mount is remounted read-only, unless a process has a file open for writing.
``-f`` is accepted and ignored: a forced unmount would discard the data that the kernel has not yet sent to the daemon.
"""

from __future__ import annotations

import sys

from ..fusefront.mount.options import Remount
from ..fusefront.mount.remount import remount
from ..fusefront.mount.unmount import MountBusy, unmount
from . import _common, _helper

_SYNOPSIS = "TARGET [-flnrvVh] [-N namespace] [-t type]"


def main(arguments: list[str] | None = None) -> int:
    """Unmount as umount(8) asks and return the exit code.

    Args:
        arguments: the words after the program's name; None for those of the process.
    """
    return _helper.run(arguments, "flnrvN:t:", _SYNOPSIS, 1, _unmount)


def _unmount(program: str, given: _helper.Given, operands: list[str]) -> None:
    flags = dict(given)
    target = operands[0]
    if "-N" in flags:
        _helper.enter_mount_namespace(flags["-N"])
    try:
        unmount(target, lazy="-l" in flags)
    except MountBusy:
        if "-r" not in flags:
            raise
        remount(Remount(read_only=True, words=("ro",), base=None, storage=None), target)
        print(_common.printable(f"{program}: {target} is busy: remounted read-only"), file=sys.stderr)
        return
    if "-v" in flags:
        print(_common.printable(f"{program}: {target} unmounted"))
