"""``minifo merge``: apply the changes in a storage to its base (the successor of mini_fo-merge)."""

from __future__ import annotations

import json
import os
from functools import partial

import click

from ..engine.errors import StateError, StorageBusy, UsageError
from ..engine.store.storage import Storage
from ..fusefront.control.client import listens
from ..migrations.effects import DISK_ACCESS
from ..migrations.merge.apply import MergeReport, merge
from ..migrations.merge.hazards import Hazards
from ._common import printable
from ._output import plain
from ._progress import Progress
from ._size import size


@click.command(
    "merge",
    epilog="""\b
Examples:
  minifo merge /var/lib/etc-changes --base /etc             # print the plan
  minifo merge /var/lib/etc-changes --base /etc --apply
Letters: A added, D deleted, M content changed, m attributes changed, R renamed.

\b
Unmount the overlay first: its kernel keeps what it knows of the base, so a base must not change below a mount. The
base must be writable, and no other overlay may be mounted over it. To finish a merge that was interrupted, run the
same command again.
A merge cannot be taken back: what the base had is overwritten or deleted. Copy the base before, if you may want it.
Checkpoints are of the base as it was, and go: those that you made only with --drop-checkpoints.""",
)
@click.option("--base", metavar="DIR", required=True, help="The base of the overlay.")
@click.option("--apply", is_flag=True, help="Change the base; without this option the plan is only printed.")
@click.option("-n", "--dry-run", is_flag=True, help="Print the plan only; this is the default.")
@click.option(
    "--drift",
    type=click.Choice(["refuse", "overwrite"]),
    default="refuse",
    help="Where the base was changed since: refuse (default), or overwrite it.",
)
@click.option("--drop-checkpoints", is_flag=True, help="Lose the checkpoints of the overlay.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; bytes that are not UTF-8 as \\udcXX.")
@click.option(
    "--untrusted-sto", "untrusted", is_flag=True, help="Print the plan of a storage that other users may change."
)
@click.argument("storage", metavar="STO")
def command(
    storage: str,
    base: str,
    apply: bool,
    dry_run: bool,
    drift: str,
    drop_checkpoints: bool,
    as_json: bool,
    untrusted: bool,
) -> int:
    """Apply the changes in STO to the base, then empty STO.

    After that the base itself has what the mount showed: names, contents, owners, modes, times and hard links.
    """
    if apply and untrusted:
        raise UsageError(
            "--apply does not go with --untrusted-sto", "make the storage yours (chown, chmod go-w), then merge it"
        )
    if apply and dry_run:
        raise UsageError("--apply does not go with --dry-run", "leave one of them out")
    disk = DISK_ACCESS._replace(storage=partial(Storage, untrusted=True)) if untrusted else DISK_ACCESS
    progress = Progress(None, storage, quiet=False)
    try:
        report = merge(
            storage,
            base,
            apply=apply,
            overwrite=drift == "overwrite",
            drop_checkpoints=drop_checkpoints,
            progress=progress,
            disk=disk,
        )
    except StorageBusy as error:
        if listens(os.path.realpath(storage)):
            raise StateError(
                f"{storage} is mounted, and a base must not change below a mount", "unmount it first: minifo umount"
            ) from error
        raise
    finally:
        progress.clear()
    if as_json:
        _write_json(report)
    else:
        _write(report)
    return 0


def _write_json(report: MergeReport) -> None:
    changes = [
        {
            "change": c.letter,
            "path": os.fsdecode(c.path),
            "from": os.fsdecode(c.old) if c.old is not None else None,
            "size": c.size,
        }
        for c in report.changes
    ]
    known = {"applied": report.applied, "resumed": report.resumed, "changes": changes}
    if report.found is not None:
        drifted = [os.fsdecode(path) for path in report.found.drifted]
        known |= {"drifted": drifted, "checkpoints": report.found.checkpoints, "trial": report.found.trial}
    click.echo(json.dumps(known))


def _write(report: MergeReport) -> None:
    for change in report.changes:
        source = f"  (from {plain(change.old)})" if change.old is not None else ""
        click.echo(f"{change.letter} {plain(change.path)}{source}")
    if report.resumed:
        click.echo("the interrupted merge is finished")
    elif not report.changes:
        click.echo("nothing to merge")
    else:
        written = sum(change.size for change in report.changes)
        how_much = f", {size(written)}" if written else ""
        click.echo(f"{'merged' if report.applied else 'would merge'}: {len(report.changes)} changes{how_much}")
    if report.found is not None:
        _warn(report.found)


def _warn(found: Hazards) -> None:
    """Say what a merge would lose or overwrite."""
    for path in found.drifted:
        click.echo(f"! {plain(path)}: the base was changed since (minifo rebase, or --drift overwrite)")
    for name in found.checkpoints:
        click.echo(f"! checkpoint {printable(name)} would be lost (--drop-checkpoints)")
    if found.automatic:
        click.echo(f"! what minifo undo goes back to would be lost: {found.automatic} checkpoints")
    if found.trial:
        click.echo("! a trial or a transaction has not ended (minifo confirm, or minifo trial abandon)")
