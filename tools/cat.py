"""``minifo cat --base``: the base's version of a file that an overlay has changed, moved or deleted."""

from __future__ import annotations

import errno
import os
import stat
import sys

import click

from ..engine import StateError
from ..engine.queries import objects
from . import _common
from ._complete import paths
from ._output import plain
from ._path import located

_STEP = 1 << 20  # bytes copied at once


@click.command(
    "cat",
    epilog="""\b
Examples:
  minifo cat --base /mnt/etc/hosts                       # as it was before it was changed here
  minifo cat --base /mnt/etc/hosts | diff - /mnt/etc/hosts""",
)
@click.option(
    "--base", "of_base", is_flag=True, required=True, help="The base's version (PATH itself is the overlay's)."
)
@click.option("--sto", metavar="DIR", help="A storage directory; PATH is then from the root of its overlay.")
@click.argument("path", metavar="PATH", shell_complete=paths)
def command(path: str, of_base: bool, sto: str | None) -> int:
    """Write the base's version of the file PATH to stdout."""
    _common.log_to_stderr("minifo")
    with located(path, sto, None) as (overlay, place):
        under = objects.base_path(overlay, place)
        st = overlay.base.find(under) if under is not None else None
        if under is None or st is None:
            raise StateError(f"the base has nothing at {plain(place)}", "minifo which shows where it comes from")
        if not stat.S_ISREG(st.st_mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(st.st_mode) else errno.EINVAL, "no regular file", plain(under))
        fd = overlay.base.file(under, st)
        at = 0
        while data := os.pread(fd, _STEP, at):
            sys.stdout.buffer.write(data)
            at += len(data)
    return 0
