"""``minifo mount``: mount an overlay, in the background or with -f in the foreground."""

from __future__ import annotations

import click

from ..engine.errors import MinifoError
from ..fusefront.mount.options import describe
from . import _common
from ._complete import mount_options
from ._format import bring_up


@click.command(
    "mount",
    epilog=f"""\b
{describe()}

\b
Examples:
  mkdir -p /var/lib/etc-changes /mnt/etc
  minifo mount --base /etc --sto /var/lib/etc-changes /mnt/etc
  minifo mount -o base=/etc,sto=/var/lib/etc-changes,ro /mnt/etc
  minifo mount --base /srv/www --sto /var/lib/www /srv/www     # over the base itself
  minifo mount -f -v --base /etc --sto /tmp/changes /mnt/etc   # see the log
  minifo mount --replace-dead --base /etc --sto /var/lib/etc-changes /mnt/etc  # after a kill -9 of its daemon
  minifo mount -o remount,ro /mnt/etc                          # commit all changes and refuse new ones""",
)
@click.option("-f", "--foreground", is_flag=True, help="Stay in the foreground until unmounted (Ctrl-C unmounts).")
@click.option("-v", "--verbose", is_flag=True, help="Log everything, as with -o debug.")
@click.option(
    "-o",
    "--options",
    "texts",
    multiple=True,
    metavar="OPTIONS",
    shell_complete=mount_options,
    help="Mount options, see below; repeatable.",
)
@click.option("--replace-dead", is_flag=True, help="First clear an overlay at MNT whose daemon has ended.")
@click.option("--base", metavar="DIR", help="The directory to overlay; it is never written.")
@click.option("--sto", metavar="DIR", help="The storage: a directory, empty at first, that receives every change.")
@click.argument("mountpoint", metavar="MNT")
def command(
    foreground: bool,
    verbose: bool,
    texts: tuple[str, ...],
    replace_dead: bool,
    base: str | None,
    sto: str | None,
    mountpoint: str,
) -> int:
    """Mount an overlay at MNT, an existing directory.

    The command returns when the mount is ready. A daemon in the background serves the mount until it is unmounted.
    """
    from ..fusefront.launch import launch
    from ..fusefront.mount.options import parse, parse_remount
    from ..fusefront.mount.remount import remount
    from ..fusefront.mount.unmount import clear_dead

    _common.log_to_stderr("minifo", verbose=verbose)
    try:
        request = parse_remount(texts, base=base, storage=sto)
        if request is not None:
            remount(request, mountpoint)
            return 0
        options = parse([*texts, "debug"] if verbose else texts, base=base, storage=sto)
        if replace_dead:
            clear_dead(mountpoint)
        bring_up(options.storage, read_only=options.read_only)
        launch(options, mountpoint, foreground=foreground)
    except (MinifoError, OSError) as exc:
        return _common.fail("minifo", exc, _common.MOUNT_FAILED)
    return 0
