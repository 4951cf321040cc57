"""``minifo import``: layers of other systems as a new storage."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator

import click

from ..engine import UsageError
from ..migrations.exchange.entries import Entry, What
from ..migrations.exchange.formats import Format
from ..migrations.exchange.importer import ImportOptions, ImportReport, import_layers, plan_layers
from . import _common
from ._output import json_name, plain
from ._progress import Progress
from ._size import parse_size

_LETTERS = {What.WHITEOUT: "D", What.OPAQUE: "O", What.LINK: "h"}
_TYPES = {
    stat.S_IFDIR: "d",
    stat.S_IFREG: "f",
    stat.S_IFLNK: "l",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFIFO: "p",
    stat.S_IFSOCK: "s",
}


@click.command(
    "import",
    epilog="""\b
SRC is an archive (tar or a layer of OCI; plain, or compressed by gzip, bzip2, xz or zstd), - for one on stdin,
or the upper directory of overlayfs, fuse-overlayfs or unionfs-fuse, not mounted.  Several are layers, the
lowest first.  For mini_fo see minifo meta import.

\b
Examples:
  minifo import --dry-run --base /usr /tmp/usr-layer.tar.gz
  minifo import --base /usr --sto /var/lib/usr-new /tmp/usr-layer.tar.gz
  minifo import --base /etc --sto /var/lib/etc-new --format overlayfs /tmp/etc-upper

\b
--dry-run lists: d directory, f file, l symlink, c b device, p FIFO, s socket, h another name of a file,
D deleted, O a directory that shows nothing of the layers below.""",
)
@click.option("--base", metavar="DIR", required=True, help="The base over which the layers lie.")
@click.option("--sto", metavar="DIR", help="The new storage: an empty directory, or one that does not exist yet.")
@click.option(
    "--format",
    "name",
    type=click.Choice([known.value for known in Format]),
    help="What SRC is.  [default: an archive is oci; a directory what is found in it]",
)
@click.option("--dry-run", "-n", is_flag=True, help="List what is in SRC; change nothing.")
@click.option("--max-size", metavar="SIZE", help="The most bytes that files may have.  [default: the free space]")
@click.option(
    "--max-entries", metavar="N", type=click.IntRange(1), default=10_000_000, help="The most entries.  [default: 10M]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object; with --dry-run one for each entry.")
@click.argument("sources", metavar="SRC...", nargs=-1, required=True, type=click.Path())
def command(
    sources: tuple[str, ...],
    base: str,
    sto: str | None,
    name: str | None,
    dry_run: bool,
    max_size: str | None,
    max_entries: int,
    as_json: bool,
) -> int:
    """Make a storage out of layers of other systems."""
    _common.log_to_stderr("minifo")
    if sto is None and not dry_run:
        raise UsageError("the place of the new storage is not given", "give --sto DIR")
    size = parse_size("--max-size", max_size) if max_size is not None else None
    options = ImportOptions(Format(name) if name is not None else None, max_entries, size, os.geteuid() == 0)
    if dry_run or sto is None:
        _list(plan_layers(list(sources), base, options), as_json=as_json)
        return 0
    progress = Progress(None, sto, quiet=False)
    try:
        report = import_layers(
            list(sources), base, sto, options, lambda done, total: progress("importing", done, max(total, done))
        )
    finally:
        progress.clear()
    _tell(report, sto, as_json=as_json)
    return 0


def _list(entries: Iterator[Entry], *, as_json: bool) -> None:
    for entry in entries:
        letter = _LETTERS.get(entry.what) or _TYPES[stat.S_IFMT(entry.mode)]
        if as_json:
            click.echo(json.dumps({"kind": letter, **json_name("path", entry.place), "size": entry.size}))
        else:
            to = f" -> {plain(entry.target)}" if entry.target else ""
            click.echo(f"{letter} {plain(entry.place)}{to}")


def _tell(report: ImportReport, sto: str, *, as_json: bool) -> None:
    if as_json:
        found = {"formats": report.formats, "finished": report.finished, **json_name("storage", os.fsencode(sto))}
        click.echo(json.dumps({**found, "counts": report.counts}))
        return
    if report.finished:
        click.echo(f"the import to {_common.printable(sto)} that was interrupted at its end is finished")
        return
    total = ", ".join(f"{count:,} {what}" for what, count in report.counts.items())
    click.echo(f"{_common.printable(sto)} is made of {' and '.join(report.formats)}: {total or 'nothing'}")
