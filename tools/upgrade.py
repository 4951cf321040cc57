"""``minifo upgrade``: convert a storage that an earlier minifo has written to the format of this one."""

from __future__ import annotations

import json

import click

from ..migrations.schema.upgrade import upgrade
from . import _common


@click.command(
    "upgrade",
    epilog="""\b
A mount upgrades its storage by itself; for many storages at once see minifo migrate.
To go back to the earlier minifo, replace minifo.db with the copy of the old database:
changes made after the upgrade are lost.

\b
Examples:
  minifo upgrade /var/lib/etc-changes --dry-run
  minifo upgrade /var/lib/etc-changes""",
)
@click.option("--dry-run", "-n", is_flag=True, help="Print what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.argument("storage", metavar="STO")
def command(storage: str, dry_run: bool, as_json: bool) -> int:
    """Upgrade the storage STO to the format of this minifo.

    It must not be mounted. The upgrade is one transaction: after a power cut it is either done or not. A copy of the
    old database stays beside the new one.
    """
    done = upgrade(storage, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(done._asdict()))
    elif done.before == done.after:
        click.echo(_common.printable(f"{storage}: format {done.after} already"))
    else:
        verb = "would be upgraded" if dry_run else "upgraded"
        kept = f"; the old database is kept as {done.backup}" if done.backup else ""
        click.echo(_common.printable(f"{storage}: {verb} from format {done.before} to {done.after}{kept}"))
    return 0
