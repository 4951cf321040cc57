"""``mount.mini_fo`` and its siblings: what mount(8) calls for ``mount -t mini_fo`` and for fstab.

mount(8) fixes the protocol: ``mount.TYPE SOURCE TARGET [-sfnvrw] [-N namespace] [-o options] [-t type]``.  Here ``-f``
means fake: everything but the mount itself.  SOURCE means nothing, as it did for mini_fo.
"""

from __future__ import annotations

import importlib

from minifo.fusefront.launch import check, launch
from minifo.fusefront.options import format_source, parse
from minifo.tools import _common, _helper

_SYNOPSIS = "SOURCE TARGET [-sfnvrwVh] [-N namespace] [-o options] [-t type]"


def main(arguments: list[str] | None = None) -> int:
    """Mount as mount(8) asks; *arguments* are those after the program's name.  Returns the exit code."""
    return _helper.run(arguments, "sfnvrwN:o:t:", _SYNOPSIS, 2, _mount)


def _mount(program: str, given: _helper.Given, places: list[str]) -> None:
    flags = dict(given)
    words = {"-r": "ro", "-w": "rw"}
    texts = [value if flag == "-o" else words[flag] for flag, value in given if flag == "-o" or flag in words]
    options = parse(texts, sloppy="-s" in flags)
    if "-N" in flags:
        # The program may be out of reach in there, so all of it is loaded first.
        importlib.import_module("minifo.fusefront.session")
        _helper.enter_mount_namespace(flags["-N"])
    target = places[1]
    if "-f" in flags:
        check(options, target)
    else:
        launch(options, target)
    if "-v" in flags:
        print(_common.printable(f"{program}: {format_source(options.base, options.storage)} on {target}"))
