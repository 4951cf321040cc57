"""``minifo restore``: a storage of a backup."""

from __future__ import annotations

import json
import os

import click

from . import _common
from ._on_overlay import JSON
from ._output import json_name
from ._progress import Progress
from ._size import parse_size, size


@click.command(
    "restore",
    epilog="""\b
BACKUP is an archive or a directory of minifo backup; - is one on stdin. Of backups that build on each other give
all, the first one first.

\b
Examples:
  minifo restore --sto /var/lib/etc-restored /tmp/etc.tar.gz
  minifo restore --sto /var/lib/etc-restored-2 /tmp/etc.tar.gz /tmp/etc-2.tar.gz

\b
All is compared with digests before there is a storage. If it is cut short, give it again. Then mount it:
minifo mount --base BASE --sto NEW MNT""",
)
@click.option("--sto", metavar="NEW", required=True, help="The new storage: an empty directory, or it is made.")
@click.option("--max-size", metavar="SIZE", help="The most bytes that it may take.  [default: the free space]")
@JSON
@click.argument("backups", metavar="BACKUP...", nargs=-1, required=True, type=click.Path())
def command(backups: tuple[str, ...], sto: str, max_size: str | None, as_json: bool) -> int:
    """Make a storage of backups."""
    _common.log_to_stderr("minifo")
    from ..migrations.backup.restore import restore_backup

    most = parse_size("--max-size", max_size) if max_size is not None else None
    progress = Progress(None, sto, quiet=False)
    total = sum(os.stat(name).st_size for name in backups if os.path.isfile(name))
    try:
        done = restore_backup(
            list(backups),
            sto,
            max_size=most,
            progress=lambda name, count: progress("restoring", count, max(total, count)),
        )
    finally:
        progress.clear()
    base = done.header.base if done.header is not None else None
    if as_json:
        told = {"objects": done.objects, "size": done.size, "base": base, "finished": done.header is None}
        click.echo(json.dumps({**json_name("storage", os.fsencode(sto)), **told}))
    elif base is None:
        click.echo(f"the restore of {_common.printable(sto)} that was interrupted at its end is finished")
    else:
        what = f"{done.objects:,} content files, {size(done.size)}"
        click.echo(f"{_common.printable(sto)} is restored ({what}); its base was {_common.printable(base)}")
    return 0
