"""``minifo backup``: an overlay with its checkpoints as an archive or a directory, also while it is in use."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import click

from ..engine.errors import StorageBusy, UsageError
from ..fusefront.control.client import ControlClient, listens
from . import _common
from ._complete import targets
from ._held import held
from ._listing import AT
from ._on_overlay import BASE, JSON
from ._progress import Progress
from ._size import size
from ._target import place_of

if TYPE_CHECKING:
    from ..engine.store.database import Database
    from ..engine.store.storage import Storage
    from ..migrations.backup.create import BackupReport


@click.command(
    "backup",
    epilog="""\b
Examples:
  minifo backup -o /tmp/etc.tar.gz /mnt/etc                                  # mounted or not
  minifo backup -o /tmp/etc-2.tar.gz --since /tmp/etc.tar.gz /mnt/etc        # what came since
  minifo backup -o /tmp/etc-today/ /mnt/etc                                  # a directory
  minifo backup -o - /mnt/etc | minifo restore --sto /var/lib/etc-copied -

\b
It is the state of one moment, with all checkpoints; --at is the state of one checkpoint alone. minifo restore makes
a storage of it, and compares all with digests.
With --since an archive has only what the earlier one has not, and a directory shares that by hard links.""",
)
@click.option("-o", "--output", metavar="OUT", required=True, help="The file to write; DIR/ is a directory, - stdout.")
@click.option("--since", metavar="EARLIER", help="An earlier backup, to build on.")
@click.option(
    "--compress",
    type=click.Choice(["none", "gzip", "zstd"]),
    help="Compress an archive.  [default: as the end of OUT says: .gz, .tgz, .zst]",
)
@click.option("--force", is_flag=True, help="Replace OUT if it is a file that exists.")
@JSON
@BASE
@AT
@click.argument("target", default=".", shell_complete=targets)
def command(
    target: str,
    output: str,
    since: str | None,
    compress: str | None,
    force: bool,
    as_json: bool,
    base: str | None,
    at: str | None,
) -> int:
    """Write a backup of the overlay TARGET."""
    _common.log_to_stderr("minifo")
    if output == "-" and sys.stdout.isatty():
        raise UsageError("an archive is not for a terminal", "give -o FILE, or a pipe")
    from ..migrations.backup.create import BackupOptions, create_backup
    from ..migrations.exchange.compression import Compression, by_name

    is_directory = output.endswith("/") or os.path.isdir(output)
    compression = Compression(compress) if compress is not None else by_name(output)
    options = BackupOptions(is_directory, compression, since, force)
    progress = Progress(None, output, quiet=False)
    try:
        with _state(target, base, at) as (source, state):
            report = create_backup(
                source, state, output, options, lambda done, total: progress("backing up", done, total)
            )
    finally:
        progress.clear()
    _tell(report, output, as_json=as_json)
    return 0


def _tell(report: BackupReport, output: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(report._asdict()), err=output == "-")
        return
    where = "were written" if output == "-" else f"are in {_common.printable(output)}"
    earlier = f", {report.objects - report.written:,} are as before" if report.written < report.objects else ""
    click.echo(f"{report.written:,} content files ({size(report.size)}) {where}{earlier}", err=output == "-")


@contextmanager
def _state(target: str, base: str | None, at: str | None) -> Iterator[tuple[Storage, Database]]:
    """Yield the storage that TARGET means, and a state of it; nothing that it needs changes meanwhile."""
    from ..engine.clone import state_beside, state_now
    from ..engine.queries.at_rest import open_at_rest, open_writable

    place = place_of(target)
    name = place.at if at is None else at
    if name is not None:
        with state_beside(place.storage, name) as found:
            yield found
        return
    if listens(place.storage):
        with (
            ControlClient(place.storage, timeout=None) as client,
            held(client) as checkpoint,
            state_beside(place.storage, checkpoint, past=True) as found,
        ):
            yield found
        return
    try:
        overlay = open_writable(place.storage, base)  # with what a killed daemon has left
    except StorageBusy:
        overlay = open_at_rest(place.storage, base)  # beside a mount that is read-only
    with closing(overlay), state_now(overlay) as found:
        yield found
