"""``minifo export``: what an overlay changed, in a format of another system."""

from __future__ import annotations

import json
import sys

import click

from ..engine import UsageError
from ..migrations.exchange.compression import Compression, by_name
from ..migrations.exchange.exporter import ExportOptions, ExportReport, export_layer
from ..migrations.exchange.formats import Format
from . import _common
from ._complete import targets
from ._held import opened_held
from ._listing import AT
from ._output import json_name, plain
from ._progress import Progress


@click.command(
    "export",
    epilog="""\b
Formats:
  oci             an archive: a layer of a container image, with whiteouts
  tar             an archive of the files that were added or changed, or with --tree of all
  overlayfs       a directory: upperdir= of the kernel's overlayfs
  fuse-overlayfs  a directory: upperdir= of fuse-overlayfs
  unionfs         a directory: the writable branch of unionfs-fuse
  For mini_fo see minifo meta export.

\b
Examples:
  minifo export /mnt/usr --format oci -o /tmp/usr-layer.tar.gz
  minifo export /mnt/etc --format tar --tree -o - | tar -tf -
  minifo export --at night /mnt/etc --format overlayfs -o /tmp/etc-upper
  minifo export /var/lib/usr-changes --format unionfs -o /tmp/usr-branch --json

\b
Of a mounted overlay it is the state of one moment, while programs go on. What a format cannot express is listed,
and then nothing is written, unless --lossy is given.  minifo import reads all these formats.""",
)
@click.option(
    "--format", "name", type=click.Choice([known.value for known in Format]), required=True, help="What to write."
)
@click.option("-o", "--output", metavar="OUT", required=True, help="The file or directory to write; - is stdout.")
@click.option("--tree", "whole", is_flag=True, help="All that the overlay shows, and not the changes alone.")
@click.option(
    "--compress",
    type=click.Choice([known.value for known in Compression]),
    help="Compress an archive.  [default: as the end of OUT says: .gz, .tgz, .zst]",
)
@click.option("--userxattr", is_flag=True, help="overlayfs: for a mount with -o userxattr, which needs no root.")
@click.option("--lossy", is_flag=True, help="Write even if the format cannot express everything.")
@click.option("--force", is_flag=True, help="Replace OUT if it is a file that exists.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object; to stderr where OUT is stdout.")
@click.option("--base", metavar="DIR", help="The base, where it is not the one of the last mount.")
@AT
@click.argument("target", default=".", shell_complete=targets)
def command(
    target: str,
    name: str,
    output: str,
    whole: bool,
    compress: str | None,
    userxattr: bool,
    lossy: bool,
    force: bool,
    as_json: bool,
    base: str | None,
    at: str | None,
) -> int:
    """Write what the overlay TARGET changed, for other systems."""
    _common.log_to_stderr("minifo")
    layer_format = Format(name)
    if output == "-" and layer_format.is_archive and sys.stdout.isatty():
        raise UsageError("an archive is not for a terminal", "give -o FILE, or a pipe")
    compression = Compression(compress) if compress is not None else by_name(output)
    if not layer_format.is_archive and compress is None:
        compression = Compression.NONE  # a directory may have any name
    options = ExportOptions(layer_format, whole, compression, userxattr, lossy, force)
    progress = Progress(None, output, quiet=False)
    try:
        with opened_held(target, base, at=at) as overlay:
            report = export_layer(overlay, output, options, progress)
    finally:
        progress.clear()
    _tell(report, output, as_json=as_json)
    if not report.written:
        raise UsageError(
            f"the format {layer_format} cannot express {report.lost} things; nothing was written",
            "give --lossy to export without them",
        )
    return 0


def _tell(report: ExportReport, output: str, *, as_json: bool) -> None:
    to_stderr = output == "-"
    if as_json:
        found = {
            "written": report.written,
            "objects": report.objects,
            "whiteouts": report.whiteouts,
            "lost": report.lost,
            "losses": [
                {"kind": loss.kind, **json_name("path", loss.place), "detail": loss.detail} for loss in report.losses
            ],
        }
        click.echo(json.dumps(found), err=to_stderr)
        return
    for loss in report.losses:
        click.echo(f"{loss.kind}: {plain(loss.place)}: {_common.printable(loss.detail)}", err=True)
    if report.lost > len(report.losses):
        click.echo(f"and {report.lost - len(report.losses):,} more", err=True)
    if report.written:
        text = f"{report.objects:,} objects and {report.whiteouts:,} whiteouts are in {_common.printable(output)}"
        click.echo(text if not to_stderr else text.replace(" are in -", " were written"), err=to_stderr)
