"""``minifo cat``: the version of a file that the base has, or that an overlay had at a checkpoint."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable

import click

from ..engine import Ino, Overlay, StateError, UsageError
from ..engine.queries import objects
from . import _common
from ._complete import paths
from ._listing import AT
from ._output import plain
from ._path import located

_STEP = 1 << 20  # bytes copied at once


@click.command(
    "cat",
    epilog="""\b
Examples:
  minifo cat --base /mnt/etc/hosts                       # as it was before it was changed here
  minifo cat --at night /mnt/etc/hosts                   # as it was at a checkpoint
  minifo cat --base /mnt/etc/hosts | diff - /mnt/etc/hosts""",
)
@click.option("--base", "of_base", is_flag=True, help="The base's version (PATH itself is the overlay's).")
@AT
@click.option("--sto", metavar="DIR", help="A storage directory; PATH is then from the root of its overlay.")
@click.argument("path", metavar="PATH", shell_complete=paths)
def command(path: str, of_base: bool, at: str | None, sto: str | None) -> int:
    """Write another version of the file PATH to stdout."""
    if of_base == (at is not None):
        raise UsageError("one version is needed", "give --base, or --at CHECKPOINT")
    _common.log_to_stderr("minifo")
    with located(path, sto, None, at=at) as (overlay, place):
        if at is not None:
            _write_shown(overlay, place, at)
            return 0
        under = objects.base_path(overlay, place)
        st = overlay.base.find(under) if under is not None else None
        if under is None or st is None:
            raise StateError(f"the base has nothing at {plain(place)}", "minifo which shows where it comes from")
        if not stat.S_ISREG(st.st_mode):
            raise OSError(errno.EISDIR if stat.S_ISDIR(st.st_mode) else errno.EINVAL, "no regular file", plain(under))
        fd = overlay.base.file(under, st)
        _write(lambda offset: os.pread(fd, _STEP, offset))
    return 0


def _write_shown(overlay: Overlay, place: bytes, at: str) -> None:
    attr = overlay.find(place)
    if attr is None:
        raise StateError(f"at {at} there was nothing at {plain(place)}", "minifo diff --at shows what there was")
    if not stat.S_ISREG(attr.mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(attr.mode) else errno.EINVAL, "no regular file", plain(place))
    ino, size = Ino(attr.ino), attr.size
    _write(lambda offset: overlay.read(ino, offset, _STEP) if offset < size else b"")


def _write(read: Callable[[int], bytes]) -> None:
    offset = 0
    while data := read(offset):
        sys.stdout.buffer.write(data)
        offset += len(data)
