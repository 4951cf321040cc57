"""``minifo fsck``: another name of the program ``minifo-fsck`` (tools/fsck_helper.py)."""

from __future__ import annotations

import click

from . import fsck_helper


@click.command(
    "fsck",
    context_settings={"ignore_unknown_options": True},
    add_help_option=True,
    epilog="""\b
'minifo-fsck --help' explains all options. The most important ones:
  -n                only check, change nothing
  -p, -a            make safe repairs only
  -y                make all repairs
  -f                check every page of the database
  -v                show notes and explain every problem
  -C                show progress
  --base DIR        also compare the storage with its base
  --verify-data     read all content, and compare it with its digests
  --json            print one JSON document
  --rescue DIR      extract the content of the overlay to DIR as plain files

\b
Examples:
  minifo fsck -n /var/lib/usr-changes
  minifo fsck -y --base /usr /var/lib/usr-changes
  minifo fsck --rescue /mnt/stick/rescued /var/lib/usr-changes""",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[OPTIONS] STO")
def command(arguments: tuple[str, ...]) -> int:
    """Check the storage of an overlay and repair it.

    The exit code is the sum of: 0 no problem, 1 problems were repaired, 4 problems are left, 8 the check failed,
    16 wrong arguments, 32 interrupted.
    """
    return fsck_helper.run("minifo fsck", list(arguments))
