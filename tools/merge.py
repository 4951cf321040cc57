"""``minifo merge``: apply the changes in a storage to its base (the successor of mini_fo-merge)."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial

import click

from ..engine.errors import UsageError
from ..engine.store.storage import Storage
from ..migrations.effects import DISK_ACCESS
from ..migrations.merge.apply import merge
from ._output import plain


@click.command(
    "merge",
    epilog="""\b
Examples:
  minifo merge /var/lib/etc-changes --base /etc             # print the plan
  minifo merge /var/lib/etc-changes --base /etc --apply
Letters: A added, D deleted, M content changed, m attributes changed, R renamed.

\b
Unmount the overlay first. The base must be writable, and no other overlay may be mounted over it. To finish a merge
that was interrupted, run the same command again.""",
)
@click.option("--base", metavar="DIR", required=True, help="The base of the overlay.")
@click.option("--apply", is_flag=True, help="Change the base; without this option the plan is only printed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; bytes that are not UTF-8 as \\udcXX.")
@click.option(
    "--untrusted-sto", "untrusted", is_flag=True, help="Print the plan of a storage that other users may change."
)
@click.argument("storage", metavar="STO")
def command(storage: str, base: str, apply: bool, as_json: bool, untrusted: bool) -> int:
    """Apply the changes in STO to the base, then empty STO.

    After that the base itself has what the mount showed: names, contents, owners, modes, times and hard links.
    """
    if apply and untrusted:
        raise UsageError(
            "--apply does not go with --untrusted-sto", "make the storage yours (chown, chmod go-w), then merge it"
        )
    disk = DISK_ACCESS._replace(storage=partial(Storage, untrusted=True)) if untrusted else DISK_ACCESS
    line = _Line()
    try:
        report = merge(storage, base, apply=apply, progress=line.show, disk=disk)
    finally:
        line.end()
    if as_json:
        changes = [
            {"change": c.letter, "path": os.fsdecode(c.path), "from": os.fsdecode(c.old) if c.old is not None else None}
            for c in report.changes
        ]
        click.echo(json.dumps({"applied": report.applied, "resumed": report.resumed, "changes": changes}))
        return 0
    for change in report.changes:
        source = f"  (from {plain(change.old)})" if change.old is not None else ""
        click.echo(f"{change.letter} {plain(change.path)}{source}")
    if report.resumed:
        click.echo("the interrupted merge is finished")
    elif not report.changes:
        click.echo("nothing to merge")
    else:
        click.echo(f"{'merged' if report.applied else 'would merge'}: {len(report.changes)} changes")
    return 0


class _Line:
    """Shows the progress of the merge on one line of the terminal; shows nothing if stderr is not a terminal."""

    def __init__(self) -> None:
        self._shows = sys.stderr.isatty()
        self._next = 0.0

    def show(self, what: str, done: int, total: int) -> None:
        if self._shows and time.monotonic() >= self._next:
            print(f"\r\033[K{what} {100 * done // max(total, 1):3} %", end="", file=sys.stderr, flush=True)
            self._next = time.monotonic() + 0.1

    def end(self) -> None:
        if self._shows:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
