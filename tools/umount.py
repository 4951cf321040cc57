"""``minifo umount``: unmount an overlay and wait for its last commit."""

from __future__ import annotations

import click

from ..engine.errors import MinifoError
from . import _common
from ._complete import targets


@click.command(
    "umount",
    epilog="""\b
Examples:
  minifo umount /mnt/etc
  minifo umount -l /mnt/etc     # even if processes use it
  minifo umount --timeout 60 /mnt/etc
  fuser -vm /mnt/etc            # list the processes that use it""",
)
@click.option(
    "-l",
    "--lazy",
    is_flag=True,
    help="Detach the mount now even if it is busy; the daemon ends when the last file is closed.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="The longest time to wait for the last commit (default: no limit).",
)
@click.argument("mountpoint", metavar="MNT", shell_complete=targets)
def command(lazy: bool, timeout: float | None, mountpoint: str) -> int:
    """Unmount the overlay at MNT.

    The command returns when every change is durable and the storage is free for the next mount; with -l it returns at
    once. If the daemon has died, the dead mount is removed. If changes are not durable, or other processes keep the
    mount alive, the command says so and exits with 32.
    """
    from ..fusefront.mount.unmount import unmount

    _common.log_to_stderr("minifo")
    try:
        unmount(mountpoint, lazy=lazy, timeout=timeout)
    except (MinifoError, OSError) as exc:
        return _common.fail("minifo", exc, _common.MOUNT_FAILED)
    return 0
