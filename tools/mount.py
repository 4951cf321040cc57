"""``minifo mount``: mount an overlay, in the background or with -f in the foreground."""

from __future__ import annotations

import click

from minifo.engine.errors import MinifoError
from minifo.tools import _common


@click.command(
    "mount",
    epilog="""\b
Options for -o, separated by commas:
  base=DIR, lowerdir=DIR   the directory to overlay
  sto=DIR, upperdir=DIR    the directory that receives every change
  ro                       no changes
  commit=SECONDS           longest time until a change is durable (default 1)
  sync                     every change is durable at once
  noatime nodev nosuid noexec dirsync
                           as for every mount; as root, dev and suid are on by default
  allow_other, noallow_other
                           whether other users may enter (default: yes for root's mounts)
  plain                    do without the hook into libfuse (slower)
  debug                    log everything
Write a comma in a path as \\, and a backslash as \\\\.

\b
Examples:
  mkdir -p /var/lib/etc-changes /mnt/etc
  minifo mount --base /etc --sto /var/lib/etc-changes /mnt/etc
  minifo mount -o base=/etc,sto=/var/lib/etc-changes,ro /mnt/etc
  minifo mount --base /srv/www --sto /var/lib/www /srv/www     # over the base itself
  minifo mount -f -v --base /etc --sto /tmp/changes /mnt/etc   # watch it work""",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground until unmounted (Ctrl-C unmounts).")
@click.option("-v", "--verbose", is_flag=True, help="Log everything, like -o debug.")
@click.option(
    "-o", "--options", "texts", multiple=True, metavar="OPTIONS", help="Mount options, see below; repeatable."
)
@click.option("--base", metavar="DIR", help="The directory to overlay; never written.")
@click.option("--sto", metavar="DIR", help="The directory that receives every change; empty at first.")
@click.argument("mountpoint", metavar="MNT")
def command(
    foreground: bool, verbose: bool, texts: tuple[str, ...], base: str | None, sto: str | None, mountpoint: str
) -> int:
    """Mount an overlay at MNT, an existing directory.

    Returns when the mount answers; a daemon serves it until it is unmounted.
    """
    from minifo.fusefront.launch import launch
    from minifo.fusefront.options import parse

    _common.log_to_stderr("minifo", verbose=verbose)
    try:
        options = parse([*texts, "debug"] if verbose else texts, base=base, storage=sto)
        launch(options, mountpoint, foreground=foreground)
    except (MinifoError, OSError) as exc:
        return _common.fail("minifo", exc, _common.MOUNT_FAILED)
    return 0
