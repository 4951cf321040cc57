"""``mount.mini_fo``, ``mount.minifo`` and ``mount.fuse.minifo``: programs that mount(8) runs for these types.

mount(8) defines the arguments: ``mount.TYPE SOURCE TARGET [-sfnvrw] [-N namespace] [-o options] [-t type]``.  Here
``-f`` means fake: do everything except the mount.  SOURCE is ignored, as mini_fo ignored it.
"""

from __future__ import annotations

import importlib
import sys

from ..fusefront.launch import check, is_mounted, launch
from ..fusefront.mount.options import describe, parse, parse_remount
from ..fusefront.mount.remount import remount
from ..fusefront.mount.source import format_source
from . import _common, _helper
from ._format import bring_up

_SYNOPSIS = "SOURCE TARGET [-sfnvrwVh] [-N namespace] [-o options] [-t type]"


def main(arguments: list[str] | None = None) -> int:
    """Mount as mount(8) asks and return the exit code.

    Args:
        arguments: the words after the program's name; None for those of the process.
    """
    return _helper.run(arguments, "sfnvrwN:o:t:", _SYNOPSIS, 2, _mount, notes=describe())


def _mount(program: str, given: _helper.Given, operands: list[str]) -> None:
    flags = dict(given)
    words = {"-r": "ro", "-w": "rw"}
    texts = [value if flag == "-o" else words[flag] for flag, value in given if flag == "-o" or flag in words]
    target = operands[1]
    request = parse_remount(texts, sloppy="-s" in flags)
    options = parse(texts, sloppy="-s" in flags) if request is None else None
    if "-N" in flags:
        # in that namespace our modules may not be visible: load them now
        importlib.import_module("minifo.fusefront.session")
        _helper.enter_mount_namespace(flags["-N"])
    if request is not None:
        if "-f" not in flags:
            remount(request, target)
        return
    assert options is not None
    if is_mounted(options, target):
        # mount(8) cannot see this: it compares the first field of the fstab line with the source that the kernel shows
        print(_common.printable(f"{program}: {target}: already mounted"), file=sys.stderr)
    elif "-f" in flags:
        check(options, target)
    else:
        bring_up(options.storage, read_only=options.read_only)
        launch(options, target)
    if "-v" in flags:
        print(_common.printable(f"{program}: {format_source(options.base, options.storage, options.at)} on {target}"))
