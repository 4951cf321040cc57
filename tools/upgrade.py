"""``minifo upgrade``: bring a storage of an earlier minifo up to the format of this one."""

from __future__ import annotations

import json

import click

from ..migrations.schema.upgrade import upgrade
from . import _common


@click.command(
    "upgrade",
    epilog="""\b
Mounting does the same by itself; for many storages at once see minifo migrate.
To go back to the earlier minifo, put the copy that was kept in minifo.db's place:
what was changed since is lost.

\b
Examples:
  minifo upgrade /var/lib/etc-changes --dry-run
  minifo upgrade /var/lib/etc-changes""",
)
@click.option("--dry-run", "-n", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@click.argument("storage", metavar="STO")
def command(storage: str, dry_run: bool, as_json: bool) -> int:
    """Bring the storage STO, not mounted, up to the format of this minifo.

    It is one transaction: after a power cut it was done or not. A copy of the database from before stays beside it.
    """
    done = upgrade(storage, dry_run=dry_run)
    if as_json:
        click.echo(json.dumps(done._asdict()))
    elif done.before == done.after:
        click.echo(_common.printable(f"{storage}: format {done.after} already"))
    else:
        verb = "would be upgraded" if dry_run else "upgraded"
        kept = f"; the copy of before is {done.backup}" if done.backup else ""
        click.echo(_common.printable(f"{storage}: {verb} from format {done.before} to {done.after}{kept}"))
    return 0
