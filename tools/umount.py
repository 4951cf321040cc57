"""``minifo umount``: end a mount and wait for its last commit."""

from __future__ import annotations

import click

from ..engine.errors import MinifoError
from . import _common


@click.command(
    "umount",
    epilog="""\b
Examples:
  minifo umount /mnt/etc
  minifo umount -l /mnt/etc     # although files are open
  minifo umount --timeout 60 /mnt/etc
  fuser -vm /mnt/etc            # who keeps it busy""",
)
@click.option("-l", "--lazy", is_flag=True, help="Detach now even if it is busy; it ends when the last file is closed.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Longest wait for the last commit (default: as long as it takes).",
)
@click.argument("mountpoint", metavar="MNT")
def command(lazy: bool, timeout: float | None, mountpoint: str) -> int:
    """Unmount the overlay at MNT.

    Returns when every change is durable and the storage is free for the next mount; with -l at once. A mount whose
    daemon has died is cleared. If something is not durable, or other processes keep the mount alive, it says so and
    ends with 32.
    """
    from ..fusefront.mount.unmount import unmount

    _common.log_to_stderr("minifo")
    try:
        unmount(mountpoint, lazy=lazy, timeout=timeout)
    except (MinifoError, OSError) as exc:
        return _common.fail("minifo", exc, _common.MOUNT_FAILED)
    return 0
