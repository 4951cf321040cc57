"""``minifo sync``: make all changes in mounted overlays durable."""

from __future__ import annotations

import click

from ..engine.errors import MinifoError
from . import _common
from ._complete import targets


@click.command(
    "sync",
    epilog="""\b
Examples:
  minifo sync /mnt/etc    # before the device is switched off
  minifo sync             # every mounted overlay""",
)
@click.argument("paths", metavar="[PATH]...", nargs=-1, shell_complete=targets)
def command(paths: tuple[str, ...]) -> int:
    """Make all changes so far in mounted overlays durable.

    It returns when they are. PATH is a mount point or any path below one; without PATH every mounted overlay is synced.
    Before Linux 7.3 sync(1) does not ask the daemon of an overlay to commit: it returns when file contents are written
    back to the daemon, and a power cut may still lose names.
    """
    from ..fusefront.control.sync import sync_overlay
    from ..fusefront.mount.mount_table import minifo_mounts

    code = 0
    for path in paths or dict.fromkeys(entry.mountpoint for entry in minifo_mounts()):
        try:
            sync_overlay(path)
        except (MinifoError, OSError) as exc:
            code = _common.fail("minifo", exc, _common.SYSTEM)
    return code
