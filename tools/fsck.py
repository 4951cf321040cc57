"""``minifo fsck``: check an overlay's storage and repair it; the same as ``minifo-fsck``."""

from __future__ import annotations

import click

from . import fsck_helper


@click.command(
    "fsck",
    context_settings={"ignore_unknown_options": True},
    add_help_option=True,
    epilog="""\b
Options are those of minifo-fsck, see 'minifo-fsck --help':
  -n, -p, -a, -y    change nothing; safe repairs; all repairs
  -f -v -C          thorough check; say more; progress
  --base DIR        compare with the base as well
  --verify-data     read every byte
  --json            print one JSON document
  --rescue DIR      write what there is out as plain files

\b
Examples:
  minifo fsck -n /var/lib/usr-changes
  minifo fsck -y --base /usr /var/lib/usr-changes
  minifo fsck --rescue /mnt/stick/rescued /var/lib/usr-changes""",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS] STO")
def command(arguments: tuple[str, ...]) -> int:
    """Check the storage of an overlay and repair it.

    Exit code, the sum of: 0 clean, 1 repaired, 4 something is left, 8 it could not be checked, 16 wrong arguments.
    """
    return fsck_helper.run("minifo fsck", list(arguments))
