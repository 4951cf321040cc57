"""``minifo sync``: make everything done in an overlay durable."""

from __future__ import annotations

import click

from ..engine.errors import MinifoError
from . import _common


@click.command(
    "sync",
    epilog="""\b
Examples:
  minifo sync /mnt/etc    # before the power goes
  minifo sync             # every overlay that is mounted""",
)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
def command(paths: tuple[str, ...]) -> int:
    """Return when everything done so far in the overlays at PATH is durable.

    PATH is a mount point, or anything in it; without one, all overlays are meant. sync(1) does not reach the daemon of
    an overlay before Linux 7.3: it returns when files are written back, and names may still be lost by a power cut.
    """
    from ..fusefront.mount.mount_table import minifo_mounts
    from ..fusefront.mount.sync import settle

    code = 0
    for path in paths or dict.fromkeys(entry.mountpoint for entry in minifo_mounts()):
        try:
            settle(path)
        except (MinifoError, OSError) as exc:
            code = _common.fail("minifo", exc, _common.SYSTEM)
    return code
